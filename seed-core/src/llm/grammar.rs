//! Template -> grammars for constrained sampling: an image has exactly as many codes as it must have, all in range.
//!
//! | grammar | for | counts |
//! |---|---|---|
//! | Lark, as llguidance reads it | llguidance; vLLM, SGLang, llama.cpp and mistral.rs can be built with it | ids |
//! | GBNF | llama.cpp | letters of the tokens' texts |
//!
//! Text between images is free, but for the marks and the beginnings of codes: those are tokens, and are not to be spelled out.

use std::{collections::VecDeque, fmt::Write as _};

use super::Template;

/// What a model's reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One image and nothing else.
    Image,
    /// Text and images in any order.
    Interleaved,
}

/// The grammar for llguidance, in its form of Lark.
pub fn llguidance(template: &Template, reply: Reply) -> String {
    let config = template.config();
    let codes = template.code_ids();
    let image = format!(
        "image: <[{}]> <[{}-{}]>{{{}}} <[{}]>\n",
        config.begin_id,
        codes.start,
        codes.end - 1,
        config.tokens,
        config.end_id
    );
    match reply {
        Reply::Image => format!("start: image\n{image}"),
        Reply::Interleaved => {
            let marks: Vec<String> = marks(template).iter().map(|mark| escape_regex(mark)).collect();
            let marks = marks.join("|");
            format!("start: TEXT? (image TEXT?)*\n{image}TEXT: /(?s:.+)/ & ~/(?s:.*({marks}).*)/\n")
        }
    }
}

/// The grammar for llama.cpp, in GBNF.
pub fn gbnf(template: &Template, reply: Reply) -> String {
    let config = template.config();
    let spelling = template.spelling();
    let mut grammar = match reply {
        Reply::Image => "root ::= image\n".to_owned(),
        Reply::Interleaved => format!("root ::= text0 (image text0)*\n{}", text_rules(&marks(template))),
    };
    let (begin, end) = (quote(&config.begin), quote(&config.end));
    let (prefix, suffix) = (quote(&spelling.prefix), quote(&spelling.suffix));
    let numbers = numbers(config.codebook_size as u64 - 1, spelling.width).join(" | ");
    let _ = write!(
        grammar,
        "image ::= {begin} code{{{}}} {end}\ncode ::= {prefix} number {suffix}\nnumber ::= {numbers}\n",
        config.tokens
    );
    grammar
}

/// What text must not hold.
fn marks(template: &Template) -> [&str; 3] {
    [&template.config().begin, &template.config().end, &template.spelling().prefix]
}

/// Letters that stand for themselves in no kind of grammar are escaped.
fn escape_regex(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if letter.is_ascii_punctuation() && letter != '<' && letter != '>' {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// A text as a literal of GBNF.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A letter in a class of GBNF.
fn in_class(letter: char) -> String {
    match letter {
        letter if letter.is_ascii_alphanumeric() || "<>/ ".contains(letter) => letter.to_string(),
        letter if u32::from(letter) < 0x100 => format!("\\x{:02X}", u32::from(letter)),
        letter if u32::from(letter) < 0x1_0000 => format!("\\u{:04X}", u32::from(letter)),
        letter => format!("\\U{:08X}", u32::from(letter)),
    }
}

/// Alternatives that together are the numbers from 0 to `last`, filled up with zeros to `width` digits.
fn numbers(last: u64, width: usize) -> Vec<String> {
    let mut alternatives = Vec::new();
    let digits = last.to_string().len();
    for len in width..=digits.max(width) {
        let most = if len < digits { "9".repeat(len) } else { format!("{last:0len$}") };
        // Only the shortest numbers begin with zeros.
        let least = if len == width { b'0' } else { b'1' };
        up_to(&most, least, &mut alternatives);
    }
    alternatives
}

/// Alternatives for the numbers of as many digits as `most`, up to it, with a first digit of at least `least`.
fn up_to(most: &str, least: u8, alternatives: &mut Vec<String>) {
    if most.bytes().all(|digit| digit == b'9') {
        alternatives.push(any_below(least, b'9' + 1, most.len() - 1));
        return;
    }
    for (place, digit) in most.bytes().enumerate() {
        let least = if place == 0 { least } else { b'0' };
        let rest = most.len() - place - 1;
        let end = if rest == 0 { digit + 1 } else { digit };
        if end > least {
            let same = if place == 0 { String::new() } else { format!("\"{}\" ", &most[..place]) };
            alternatives.push(same + &any_below(least, end, rest));
        }
    }
}

/// A digit from `least` to the one before `end`, then any so many.
fn any_below(least: u8, end: u8, rest: usize) -> String {
    let first = match end - 1 {
        last if last == least => format!("\"{}\"", char::from(least)),
        last => format!("[{}-{}]", char::from(least), char::from(last)),
    };
    match rest {
        0 => first,
        1 => format!("{first} [0-9]"),
        _ => format!("{first} [0-9]{{{rest}}}"),
    }
}

/// Rules for any text in which none of `marks` occurs: the automaton of Aho and Corasick (1975), one rule a state. A state is
/// the longest beginning of a mark that the text ends with.
fn text_rules(marks: &[&str]) -> String {
    let mut states: Vec<String> = vec![String::new()];
    let mut queue = VecDeque::from([0]);
    let mut rules = String::new();
    let is_mark = |text: &str| marks.iter().any(|mark| text.ends_with(mark));
    let mut letters: Vec<char> = marks.iter().flat_map(|mark| mark.chars()).collect();
    letters.sort_unstable();
    letters.dedup();
    while let Some(number) = queue.pop_front() {
        let state = states[number].clone();
        let _ = write!(rules, "text{number} ::= \"\"");
        let mut back = Vec::new(); // letters after which nothing of a mark is there
        for &letter in &letters {
            let text = format!("{state}{letter}");
            if is_mark(&text) {
                continue;
            }
            let starts = text.char_indices().map(|(start, _)| &text[start..]);
            match starts.into_iter().find(|end| marks.iter().any(|mark| mark.starts_with(end))) {
                None => back.push(letter),
                Some(end) => {
                    let next = states.iter().position(|state| state == end).unwrap_or_else(|| {
                        states.push(end.to_owned());
                        queue.push_back(states.len() - 1);
                        states.len() - 1
                    });
                    let _ = write!(rules, " | [{}] text{next}", in_class(letter));
                }
            }
        }
        let others: String = letters.iter().filter(|letter| !back.contains(letter)).map(|&l| in_class(l)).collect();
        let _ = writeln!(rules, " | [^{others}] text0");
    }
    rules
}

#[cfg(test)]
mod tests;
