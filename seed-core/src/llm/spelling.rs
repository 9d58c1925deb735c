//! The text of a code: a number between a beginning and an end, `<img_{:05}>`.

use super::Mode;
use crate::error::{Error, Result};

/// Digits of the longest number that is read.
const MOST_DIGITS: usize = 10;

/// How a code is spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spelling {
    pub(super) prefix: String,
    pub(super) suffix: String,
    /// Digits that the number is filled up to with zeros, at least 1.
    pub(super) width: usize,
}

/// What a text begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Not what was looked for, whatever follows.
    None,
    /// Perhaps; it depends on what follows.
    Partial,
    /// A code: its number, its length in bytes, and whether it is spelled as the template says.
    Code { number: u64, len: usize, exact: bool },
}

impl Spelling {
    /// Reads a text with a place for the number: `{}`, `{:05}` or, as Python has it, `{:05d}`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a text with no such place or several, and for one in which the number would have no end.
    pub(super) fn parse(format: &str) -> Result<Self> {
        let fail = |reason: &str| {
            Err(Error::Argument { name: "token", value: format!("{format:?}"), reason: reason.to_owned() })
        };
        const ONE_PLACE: &str =
            "it needs one place for the number: {}, or {:05} for five digits, as in \"<img_{:05}>\"";
        let Some((prefix, rest)) = format.split_once('{') else { return fail(ONE_PLACE) };
        let Some((place, suffix)) = rest.split_once('}') else { return fail(ONE_PLACE) };
        let digits = place.strip_prefix(":0").map(|digits| digits.strip_suffix('d').unwrap_or(digits));
        let width = match (place, digits.map(str::parse)) {
            ("", _) => 1,
            (_, Some(Ok(width))) if (1..=MOST_DIGITS).contains(&width) => width,
            _ => return fail("the place for the number is {}, or {:0N} with N from 1 to 10"),
        };
        if [prefix, suffix].iter().any(|text| text.contains(['{', '}'])) {
            return fail(ONE_PLACE);
        }
        if prefix.is_empty() || suffix.is_empty() || suffix.starts_with(|letter: char| letter.is_ascii_digit()) {
            return fail("something must stand before the number, and something that is no digit after it");
        }
        Ok(Self { prefix: prefix.to_owned(), suffix: suffix.to_owned(), width })
    }

    /// The text of a code.
    pub(super) fn write(&self, number: u64) -> String {
        format!("{}{number:0width$}{}", self.prefix, self.suffix, width = self.width)
    }

    /// Looks for a code at the beginning of `text`. Strictly, a number of fewer or more zeros than the template's makes no
    /// code.
    pub(super) fn find(&self, text: &str, mode: Mode) -> Match {
        let Some(rest) = text.strip_prefix(self.prefix.as_str()) else { return partial(&self.prefix, text) };
        let count = rest.bytes().take(MOST_DIGITS + 1).take_while(u8::is_ascii_digit).count();
        let (digits, rest) = rest.split_at(count);
        if count > MOST_DIGITS || (count == 0 && !rest.is_empty()) {
            return Match::None;
        }
        if !rest.starts_with(self.suffix.as_str()) {
            return partial(&self.suffix, rest);
        }
        let exact = count == self.width || (count > self.width && !digits.starts_with('0'));
        match digits.parse() {
            Ok(number) if exact || mode == Mode::Lenient => {
                Match::Code { number, len: self.prefix.len() + count + self.suffix.len(), exact }
            }
            _ => Match::None,
        }
    }
}

/// Whether `text` may become `mark` when more of it comes.
pub(super) fn partial(mark: &str, text: &str) -> Match {
    if text.len() < mark.len() && mark.starts_with(text) { Match::Partial } else { Match::None }
}
