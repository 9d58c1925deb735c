//! A conversation -> the text that SEED-LLaMA was tuned on.
//!
//! Source: the official inference scripts (one question) and demonstration (several turns). `{}` is what a turn says, images
//! included, as the text of a [`Template`]:
//!
//! | | a question | an answer, in later turns | the reply begins after |
//! |---|---|---|---|
//! | 8B | `USER: {}`, line feed | `ASSISTANT: {}`, line feed | `ASSISTANT:` |
//! | 14B | `[INST] {} [/INST]`, line feed | `{}`, line feed | |

use std::{fmt, str::FromStr};

use super::Template;
use crate::error::{Error, Result};

/// How a model wants to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// SEED-LLaMA 8B, on Vicuna.
    SeedLlama8b,
    /// SEED-LLaMA 14B, on LLaMA 2 Chat.
    SeedLlama14b,
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SeedLlama8b => "seed-llama-8b",
            Self::SeedLlama14b => "seed-llama-14b",
        })
    }
}

impl FromStr for Prompt {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = [Self::SeedLlama8b, Self::SeedLlama14b].into_iter().find(|prompt| prompt.to_string() == name);
        known.ok_or_else(|| Error::Argument {
            name: "prompt",
            value: name.to_owned(),
            reason: "prompts are seed-llama-8b and seed-llama-14b".to_owned(),
        })
    }
}

impl Prompt {
    /// One question, from the beginning mark of a text (`<s>`) to where the reply begins.
    pub fn ask(self, question: &str) -> String {
        self.render("", &[question])
    }

    /// A conversation that began with a question: the turns alternate. After a question comes where the reply begins. An empty
    /// `system` is none.
    pub fn render(self, system: &str, turns: &[&str]) -> String {
        let mut text = "<s>".to_owned();
        match self {
            _ if system.is_empty() => {}
            Self::SeedLlama8b => text += &format!("{system}\n"),
            Self::SeedLlama14b => text += &format!("<<SYS>>\n{system}\n<</SYS>>\n\n"),
        }
        for (number, turn) in turns.iter().enumerate() {
            match (self, number % 2) {
                (Self::SeedLlama8b, 0) => text += &format!("USER: {turn}\n"),
                (Self::SeedLlama8b, _) => text += &format!("ASSISTANT: {turn}\n"),
                (Self::SeedLlama14b, 0) => text += &format!("[INST] {turn} [/INST]\n"),
                (Self::SeedLlama14b, _) => text += &format!("{turn}\n"),
            }
        }
        if self == Self::SeedLlama8b && turns.len() % 2 == 1 {
            text += "ASSISTANT:";
        }
        text
    }

    /// The same as a chat template of `transformers`, in Jinja. Messages have the roles system, user and assistant; what they
    /// say is a text, or a list of `{"type": "text", "text": ...}` and `{"type": "image", "codes": [...]}`.
    pub fn chat_template(self, template: &Template) -> String {
        let (config, spelling) = (template.config(), template.spelling());
        let (begin, end) = (jinja(&config.begin), jinja(&config.end));
        let (prefix, suffix, width) = (jinja(&spelling.prefix), jinja(&spelling.suffix), spelling.width);
        let (system, user, assistant, reply) = match self {
            Self::SeedLlama8b => (
                "say(message['content']) + '\\n'",
                "'USER: ' + say(message['content']) + '\\n'",
                "'ASSISTANT: ' + say(message['content']) + '\\n'",
                "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}\n",
            ),
            Self::SeedLlama14b => (
                "'<<SYS>>\\n' + say(message['content']) + '\\n<</SYS>>\\n\\n'",
                "'[INST] ' + say(message['content']) + ' [/INST]\\n'",
                "say(message['content']) + '\\n'",
                "",
            ),
        };
        format!(
            "{{%- macro say(content) %}}
{{%- if content is string %}}{{{{- content }}}}
{{%- else %}}
{{%- for part in content %}}
{{%- if part['type'] == 'text' %}}{{{{- part['text'] }}}}
{{%- elif part['type'] == 'image' %}}{{{{- {begin} }}}}
{{%- for code in part['codes'] %}}{{{{- {prefix} + ('%0{width}d' | format(code)) + {suffix} }}}}{{%- endfor %}}
{{{{- {end} }}}}
{{%- else %}}{{{{- raise_exception('parts are text and image, not ' + part['type']) }}}}
{{%- endif %}}
{{%- endfor %}}
{{%- endif %}}
{{%- endmacro %}}
{{{{- bos_token }}}}
{{%- for message in messages %}}
{{%- if message['role'] == 'user' %}}{{{{- {user} }}}}
{{%- elif message['role'] == 'assistant' %}}{{{{- {assistant} }}}}
{{%- elif message['role'] == 'system' and loop.first %}}{{{{- {system} }}}}
{{%- else %}}{{{{- raise_exception('roles are system, first of all, user and assistant, not ' + message['role']) }}}}
{{%- endif %}}
{{%- endfor %}}
{reply}"
        )
    }
}

/// A text as a literal of Jinja.
fn jinja(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_those_of_the_official_scripts() {
        let question = "<img>...</img>What is this animal?";
        assert_eq!(Prompt::SeedLlama8b.ask(question), "<s>USER: <img>...</img>What is this animal?\nASSISTANT:");
        assert_eq!(Prompt::SeedLlama14b.ask(question), "<s>[INST] <img>...</img>What is this animal? [/INST]\n");
    }

    #[test]
    fn turns_alternate() {
        let turns = ["Who?", "A dog.", "Draw it."];
        assert_eq!(
            Prompt::SeedLlama8b.render("Be kind.", &turns),
            "<s>Be kind.\nUSER: Who?\nASSISTANT: A dog.\nUSER: Draw it.\nASSISTANT:"
        );
        assert_eq!(
            Prompt::SeedLlama14b.render("Be kind.", &turns),
            "<s><<SYS>>\nBe kind.\n<</SYS>>\n\n[INST] Who? [/INST]\nA dog.\n[INST] Draw it. [/INST]\n"
        );
        assert_eq!(Prompt::SeedLlama8b.render("", &turns[..2]), "<s>USER: Who?\nASSISTANT: A dog.\n");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for prompt in [Prompt::SeedLlama8b, Prompt::SeedLlama14b] {
            assert_eq!(prompt.to_string().parse::<Prompt>().unwrap(), prompt);
        }
        assert!("vicuna".parse::<Prompt>().unwrap_err().to_string().contains("seed-llama-8b and"));
    }
}
