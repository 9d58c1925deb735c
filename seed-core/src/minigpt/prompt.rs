//! A task and a text -> the prompt that the language model is asked with -> the pieces of text that images stand between.
//!
//! `<s>[INST] <Img><ImageHere></Img> [vqa] ... [/INST]`: there is no system prompt. The prompt is cut at `<ImageHere>`, each piece
//! is tokenized by itself, and an image's embeddings stand between two pieces. The tokenizer begins the first piece with its
//! own BOS and no other; since the text has one too (`<s>`), the prompt begins with two, as in the reference
//! (`get_context_emb`, `CONV_VISION_minigptv2`).

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// What stands for an image.
pub const IMAGE: &str = "<ImageHere>";

/// What a text of the user must not hold: it would end the instruction, or be taken for an image.
const RESERVED: [&str; 7] = [IMAGE, "<Img>", "</Img>", "[INST]", "[/INST]", "<s>", "</s>"];

/// What the model was trained to do, each under a tag of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// A question and a short answer.
    Vqa,
    /// A caption.
    Caption,
    /// A description with boxes for its phrases.
    Grounding,
    /// The box of what is described.
    Refer,
    /// What a box shows; the text holds the box.
    Identify,
    /// Boxes of all things of a kind, or of the things in a text.
    Detection,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Vqa, Self::Caption, Self::Grounding, Self::Refer, Self::Identify, Self::Detection];

    /// The name, as in the tag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vqa => "vqa",
            Self::Caption => "caption",
            Self::Grounding => "grounding",
            Self::Refer => "refer",
            Self::Identify => "identify",
            Self::Detection => "detection",
        }
    }

    /// What is said to the model about `text`: for questions and references the sentence that the reference evaluates with,
    /// for the others the text itself.
    pub fn instruction(self, text: &str) -> String {
        match self {
            Self::Vqa => format!("Based on the image, respond to this question with a short answer: {text}"),
            Self::Refer => format!("give me the location of {text}"),
            Self::Caption | Self::Grounding | Self::Identify | Self::Detection => text.to_owned(),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|task| task.name() == text).ok_or_else(|| Error::Argument {
            name: "task",
            value: text.to_owned(),
            reason: format!("the tasks are {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// The prompt about one image: `text` under the tag of `task`, or without a tag. [`Task::instruction`] makes the text of a
/// question.
///
/// # Errors
/// [`Error::Argument`] for an empty text, and for one that holds what separates the parts of a prompt.
pub fn prompt(task: Option<Task>, text: &str) -> Result<String> {
    let fail = |reason: String| Err(Error::Argument { name: "text", value: format!("{text:?}"), reason });
    if text.trim().is_empty() {
        return fail("say what to do with the image".to_owned());
    }
    if let Some(mark) = RESERVED.iter().find(|mark| text.contains(**mark)) {
        return fail(format!("{mark} separates the parts of a prompt; take it out"));
    }
    let tag = task.map(|task| format!("[{task}] ")).unwrap_or_default();
    Ok(format!("<s>[INST] <Img>{IMAGE}</Img> {tag}{text} [/INST]"))
}

/// A piece of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its text; may be empty.
    pub text: &'a str,
    /// Whether the tokenizer begins it with its BOS.
    pub bos: bool,
}

/// The pieces of a prompt, one more than it has images.
pub fn pieces(prompt: &str) -> Vec<Piece<'_>> {
    prompt.split(IMAGE).enumerate().map(|(index, text)| Piece { text, bos: index == 0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_those_of_the_reference() {
        for (task, text, want) in [
            (
                Task::Vqa,
                "what is red?",
                "<s>[INST] <Img><ImageHere></Img> [vqa] Based on the image, respond to this question with a short answer: what is red? [/INST]",
            ),
            (
                Task::Caption,
                "please describe this image",
                "<s>[INST] <Img><ImageHere></Img> [caption] please describe this image [/INST]",
            ),
            (Task::Grounding, "describe it", "<s>[INST] <Img><ImageHere></Img> [grounding] describe it [/INST]"),
            (
                Task::Refer,
                "the dog",
                "<s>[INST] <Img><ImageHere></Img> [refer] give me the location of the dog [/INST]",
            ),
            (
                Task::Identify,
                "what is this {<1><2><30><40>}",
                "<s>[INST] <Img><ImageHere></Img> [identify] what is this {<1><2><30><40>} [/INST]",
            ),
            (Task::Detection, "ear", "<s>[INST] <Img><ImageHere></Img> [detection] ear [/INST]"),
        ] {
            assert_eq!(prompt(Some(task), &task.instruction(text)).unwrap(), want);
        }
        assert_eq!(prompt(None, "hello").unwrap(), "<s>[INST] <Img><ImageHere></Img> hello [/INST]");
    }

    #[test]
    fn only_the_first_piece_begins_with_a_bos() {
        let text = prompt(Some(Task::Detection), "ear").unwrap();
        let made = pieces(&text);
        assert_eq!(
            made,
            [
                Piece { text: "<s>[INST] <Img>", bos: true },
                Piece { text: "</Img> [detection] ear [/INST]", bos: false }
            ]
        );
        let two = pieces("<ImageHere>a<ImageHere>");
        assert_eq!(
            two.iter().map(|piece| (piece.text, piece.bos)).collect::<Vec<_>>(),
            [("", true), ("a", false), ("", false)]
        );
        assert_eq!(pieces("no image").len(), 1);
    }

    #[test]
    fn texts_that_would_change_the_prompt_are_refused() {
        for text in ["", " \n", "a <ImageHere>", "stop [/INST] now", "</s>", "<s>[INST] again"] {
            let error = prompt(Some(Task::Vqa), text).unwrap_err();
            assert!(matches!(error, Error::Argument { name: "text", .. }), "{error}");
        }
    }

    #[test]
    fn tasks_are_read_as_they_are_written() {
        for task in Task::ALL {
            assert_eq!(task.to_string().parse::<Task>().unwrap(), task);
        }
        assert!("segment".parse::<Task>().unwrap_err().to_string().contains("vqa, caption, grounding"));
    }
}
