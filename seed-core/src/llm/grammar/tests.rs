use proptest::prelude::*;

use super::*;
use crate::llm::TemplateConfig;

#[test]
fn seed_llamas_grammars() {
    let template = Template::seed_llama();
    assert_eq!(llguidance(&template, Reply::Image), "start: image\nimage: <[40192]> <[32000-40191]>{32} <[40193]>\n");
    assert_eq!(
        llguidance(&template, Reply::Interleaved),
        "start: TEXT? (image TEXT?)*\n\
         image: <[40192]> <[32000-40191]>{32} <[40193]>\n\
         TEXT: /(?s:.+)/ & ~/(?s:.*(<img>|<\\/img>|<img\\_).*)/\n"
    );
    assert_eq!(
        gbnf(&template, Reply::Image),
        "root ::= image\n\
         image ::= \"<img>\" code{32} \"</img>\"\n\
         code ::= \"<img_\" number \">\"\n\
         number ::= \"0\" [0-7] [0-9]{3} | \"08\" \"0\" [0-9]{2} | \"081\" [0-8] [0-9] | \"0819\" [0-1]\n"
    );
}

/// Whether a sequence of `"literal"`, `[a-b]` and `[a-b]{n}` is all of `text`.
fn matches(alternative: &str, text: &str) -> bool {
    let mut rest = text;
    for part in alternative.split(' ') {
        if let Some(literal) = part.strip_prefix('"') {
            match rest.strip_prefix(literal.trim_end_matches('"')) {
                Some(after) => rest = after,
                None => return false,
            }
            continue;
        }
        let letters: Vec<char> = part.chars().collect();
        let times = part.split_once('{').map_or(1, |(_, times)| times.trim_end_matches('}').parse().unwrap());
        for _ in 0..times {
            match rest.chars().next() {
                Some(letter) if (letters[1]..=letters[3]).contains(&letter) => rest = &rest[1..],
                _ => return false,
            }
        }
    }
    rest.is_empty()
}

/// The letters of a class, each as [`in_class`] writes it: `\xFC` is one letter, not an `x`, an `F` and a `C` too.
fn letters_of(class: &str) -> Vec<&str> {
    let mut rest = class;
    let mut letters = Vec::new();
    while let Some(first) = rest.chars().next() {
        let len = match rest.as_bytes() {
            [b'\\', b'x', ..] => 4,
            [b'\\', b'u', ..] => 6,
            [b'\\', b'U', ..] => 10,
            _ => first.len_utf8(),
        };
        let (letter, others) = rest.split_at(len);
        letters.push(letter);
        rest = others;
    }
    letters
}

/// Whether rules that [`text_rules`] made take `text`.
fn takes(rules: &str, text: &str) -> bool {
    let rules: Vec<&str> = rules.lines().collect();
    let mut state = 0;
    for letter in text.chars() {
        let next = rules[state].split(" | ").skip(1).find_map(|way| {
            let (class, next) = way.rsplit_once("] text")?;
            let class = class.trim_start_matches('[');
            let (class, is_without) = (class.trim_start_matches('^'), class.starts_with('^'));
            let is_in = letters_of(class).contains(&in_class(letter).as_str());
            (is_in != is_without).then(|| next.parse().unwrap())
        });
        match next {
            Some(next) => state = next,
            None => return false,
        }
    }
    true
}

proptest! {
    #[test]
    fn numbers_are_those_below_the_codebook(last in 0u64..70_000, width in 1usize..7, other in 0u64..2_000_000) {
        let alternatives = numbers(last, width);
        let count = |number: u64, width: usize| {
            alternatives.iter().filter(|way| matches(way, &format!("{number:0width$}"))).count()
        };
        for number in [0, 1, last / 2, last.saturating_sub(1), last] {
            prop_assert_eq!(count(number, width), 1, "{} of {:?}", number, alternatives);
        }
        for number in [last + 1, last + 2, last * 10 + 10, last + other + 1] {
            prop_assert_eq!(count(number, width), 0, "{} of {:?}", number, alternatives);
        }
        if other <= last {
            prop_assert_eq!(count(other, width), 1);
            prop_assert_eq!(count(other, width.max(other.to_string().len()) + 1), 0, "one zero too many");
        }
    }

    // `C`, `F` and `x` occur in the way in which a class writes `ü`.
    #[test]
    fn text_holds_no_mark(text in "(<im|g|>|_|/|<|</|i|<img|ü|a|[CFx]|.){0,12}") {
        for [begin, end, token] in [["<img>", "</img>", "<img_{:05}>"], ["aaba", "ab/", "ü<{}>"]] {
            let config = TemplateConfig {
                begin: begin.to_owned(), end: end.to_owned(), token: token.to_owned(), ..TemplateConfig::seed_llama()
            };
            let template = Template::new(config).unwrap();
            let marks = marks(&template);
            let is_free = !marks.iter().any(|mark| text.contains(mark));
            prop_assert_eq!(takes(&text_rules(&marks), &text), is_free, "{:?} with {:?}", text, marks);
        }
    }
}
