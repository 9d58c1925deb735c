//! Boxes in text: `<p>a dog</p> {<10><20><55><80>}<delim>{<60><1><99><40>}` <-> phrases with boxes.
//!
//! ```text
//! text    = { anything else | group }
//! group   = [ "<p>" phrase "</p>" ] box { "<delim>" box }
//! box     = "{" "<" x1 ">" "<" y1 ">" "<" x2 ">" "<" y2 ">" "}"
//! ```
//! Coordinates are whole numbers from 0 to 100, in hundredths of the image's width and height, truncated. Between the
//! signs there may be spaces, as language models like to write them; the reference's evaluation takes them out.
//!
//! Difference: the reference takes any four numbers for a box (`re.findall(r"-?\d+", ...)` in its demo) and passes over what
//! it cannot read. Here what begins like a group and is none is an error with its place, or is listed as skipped.

use std::{fmt, ops::Range};

use crate::error::{Error, Result};

/// Parts that width and height are divided into.
pub const SCALE: u8 = 100;

const OPEN: &str = "<p>";
const CLOSE: &str = "</p>";
const DELIMITER: &str = "<delim>";

/// A box in hundredths of the image's width and height: left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GridBox([u8; 4]);

impl GridBox {
    /// A box from its left, top, right and bottom.
    ///
    /// # Errors
    /// [`Error::Argument`] for a coordinate above 100, and a right or bottom before its left or top.
    pub fn new(coordinates: [u8; 4]) -> Result<Self> {
        match check(coordinates.map(u64::from)) {
            Ok(made) => Ok(made),
            Err(reason) => Err(Error::Argument { name: "box", value: format!("{coordinates:?}"), reason }),
        }
    }

    /// A box from pixels of an image of `width` x `height`: divided, multiplied by 100 and truncated, in this order and in
    /// float64, as the reference does.
    ///
    /// # Errors
    /// [`Error::Argument`] for a box that reaches out of the image or is turned around, and for an image without pixels.
    pub fn from_pixels(pixels: [f64; 4], width: u32, height: u32) -> Result<Self> {
        let fail = |reason: &str| {
            let reason =
                format!("{reason}; a box is left, top, right, bottom in pixels of the image, {width} x {height}");
            Err(Error::Argument { name: "box", value: format!("{pixels:?}"), reason })
        };
        let sides = [width, height, width, height].map(f64::from);
        if pixels.iter().zip(sides).any(|(value, side)| !(0.0..=side).contains(value) || side == 0.0) {
            return fail("it reaches out of the image");
        }
        if pixels[2] < pixels[0] || pixels[3] < pixels[1] {
            return fail("its right or bottom is before its left or top");
        }
        Ok(Self(std::array::from_fn(|i| (pixels[i] / sides[i] * f64::from(SCALE)) as u8)))
    }

    /// Left, top, right and bottom, each from 0 to 100.
    pub fn coordinates(self) -> [u8; 4] {
        self.0
    }

    /// Left, top, right and bottom in pixels of an image of `width` x `height`.
    pub fn to_pixels(self, width: u32, height: u32) -> [f64; 4] {
        let sides = [width, height, width, height].map(f64::from);
        std::array::from_fn(|i| f64::from(self.0[i]) / f64::from(SCALE) * sides[i])
    }
}

/// A box of these coordinates, or what is wrong with them.
fn check(coordinates: [u64; 4]) -> Result<GridBox, String> {
    if let Some(value) = coordinates.iter().find(|&&value| value > u64::from(SCALE)) {
        return Err(format!("the coordinate {value} is outside 0 to {SCALE}"));
    }
    let [left, top, right, bottom] = coordinates;
    if right < left || bottom < top {
        return Err("its right or bottom is before its left or top".to_owned());
    }
    Ok(GridBox(coordinates.map(|value| value as u8)))
}

impl fmt::Display for GridBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [left, top, right, bottom] = self.0;
        write!(f, "{{<{left}><{top}><{right}><{bottom}>}}")
    }
}

/// Boxes, and the phrase that they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounded {
    phrase: Option<String>,
    boxes: Vec<GridBox>,
}

impl Grounded {
    /// Boxes of a phrase, or without one.
    ///
    /// # Errors
    /// [`Error::Argument`] without boxes, and for a phrase that is empty or holds `<p>` or `</p>`.
    pub fn new(phrase: Option<&str>, boxes: Vec<GridBox>) -> Result<Self> {
        let fail = |name, value: &str, reason: &str| {
            Err(Error::Argument { name, value: format!("{value:?}"), reason: reason.to_owned() })
        };
        if boxes.is_empty() {
            return fail("boxes", "", "a phrase has at least one box");
        }
        match phrase {
            Some("") => fail("phrase", "", "a phrase has a text"),
            Some(phrase) if phrase.contains(OPEN) || phrase.contains(CLOSE) => {
                fail("phrase", phrase, "<p> and </p> stand around phrases and not in them")
            }
            phrase => Ok(Self { phrase: phrase.map(str::to_owned), boxes }),
        }
    }

    /// The phrase.
    pub fn phrase(&self) -> Option<&str> {
        self.phrase.as_deref()
    }

    /// Its boxes, at least one.
    pub fn boxes(&self) -> &[GridBox] {
        &self.boxes
    }
}

impl fmt::Display for Grounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(phrase) = &self.phrase {
            write!(f, "{OPEN}{phrase}{CLOSE} ")?;
        }
        for (index, one) in self.boxes.iter().enumerate() {
            write!(f, "{}{one}", if index == 0 { "" } else { DELIMITER })?;
        }
        Ok(())
    }
}

/// The text of several groups, with a space between them.
pub fn format(groups: &[Grounded]) -> String {
    groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// The groups of a text, in its order; what else it says is left out.
///
/// # Errors
/// [`Error::BoxText`] with the place of the first group that is malformed.
pub fn parse(text: &str) -> Result<Vec<Grounded>> {
    let Parsed { groups, skipped } = parse_lenient(text);
    match skipped.into_iter().next() {
        None => Ok(groups),
        Some(Skipped { range, reason }) => {
            let at = text[..range.start].chars().count();
            Err(Error::BoxText { at, text: text[range].chars().take(40).collect(), reason })
        }
    }
}

/// What a text holds, and what in it begins like a group and is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The groups that are well formed. One that has boxes of both kinds keeps those that are.
    pub groups: Vec<Grounded>,
    /// The rest, in the order of the text.
    pub skipped: Vec<Skipped>,
}

/// A malformed part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is, in bytes.
    pub range: Range<usize>,
    /// What is wrong with it.
    pub reason: String,
}

/// As [`parse`], of a text that may be malformed: language models break off, and miscount.
pub fn parse_lenient(text: &str) -> Parsed {
    let mut reader = Reader { text, at: 0, parsed: Parsed::default() };
    while let Some(step) = text[reader.at..].find(['<', '{']) {
        reader.at += step;
        reader.group();
    }
    reader.parsed
}

/// Reads from a place on.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    parsed: Parsed,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Goes behind `sign`, if that is next.
    fn take(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Whether a box begins here: a brace and an angle bracket. Other braces are text.
    fn at_box(&self) -> bool {
        self.rest().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('<'))
    }

    /// Lists what reaches from `start` to here as malformed.
    fn skip(&mut self, start: usize, reason: impl Into<String>) {
        self.parsed.skipped.push(Skipped { range: start..self.at, reason: reason.into() });
    }

    /// Reads the group that begins here, or goes on by a sign.
    fn group(&mut self) {
        let start = self.at;
        if self.at_box() {
            let boxes = self.boxes();
            self.keep(None, boxes);
        } else if self.take(OPEN) {
            self.phrase(start);
        } else if self.take(CLOSE) {
            self.skip(start, "</p> without a <p> before it");
        } else if self.take(DELIMITER) {
            self.skip(start, "<delim> without a box before it");
        } else {
            self.at += 1; // a sign of the text
        }
    }

    /// Reads on after the `<p>` at `start`.
    fn phrase(&mut self, start: usize) {
        let rest = self.rest();
        let end = rest.find(CLOSE).filter(|&end| !rest[..end].contains(OPEN));
        let Some(end) = end else {
            return self.skip(start, "<p> without a </p> after it");
        };
        let phrase = &rest[..end];
        self.at += end + CLOSE.len();
        if phrase.is_empty() {
            return self.skip(start, "a phrase without a text");
        }
        let behind = self.at;
        self.skip_spaces();
        if !self.at_box() {
            self.at = behind;
            return self.skip(start, "a phrase without a box after it");
        }
        let boxes = self.boxes();
        self.keep(Some(phrase), boxes);
    }

    fn keep(&mut self, phrase: Option<&str>, boxes: Vec<GridBox>) {
        if !boxes.is_empty() {
            self.parsed.groups.push(Grounded { phrase: phrase.map(str::to_owned), boxes });
        }
    }

    /// Reads the boxes that begin here, and returns those that are well formed.
    fn boxes(&mut self) -> Vec<GridBox> {
        let mut boxes = Vec::new();
        loop {
            let start = self.at;
            match self.one() {
                Ok(one) => boxes.push(one),
                Err(reason) => self.skip(start, reason),
            }
            let behind = self.at;
            self.skip_spaces();
            let delimiter = self.at;
            if !self.take(DELIMITER) {
                self.at = behind;
                return boxes;
            }
            let after = self.at;
            self.skip_spaces();
            if !self.at_box() {
                self.at = after;
                self.skip(delimiter, "<delim> without a box after it");
                return boxes;
            }
        }
    }

    /// Reads the box that begins here, or goes to where it ends and says what is wrong with it.
    fn one(&mut self) -> Result<GridBox, String> {
        let inside = &self.rest()[1..];
        let end = inside.find('}').unwrap_or(inside.len());
        let next = ["{", OPEN, CLOSE, DELIMITER].iter().filter_map(|sign| inside.find(sign)).min();
        if let Some(next) = next.filter(|&next| next < end) {
            self.at += 1 + next;
            return Err("the box is not closed by }".to_owned());
        }
        if end == inside.len() {
            self.at = self.text.len();
            return Err("the text ends before the box does".to_owned());
        }
        self.at += 1 + end + 1;
        let mut coordinates = Vec::new();
        let mut rest = inside[..end].trim_start();
        while !rest.is_empty() {
            let (value, behind) = rest
                .strip_prefix('<')
                .and_then(|rest| rest.split_once('>'))
                .ok_or("a coordinate is a whole number between < and >")?;
            let value = value.trim();
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse::<u64>().ok().filter(|_| is_number);
            coordinates
                .push(number.ok_or_else(|| format!("the coordinate {value:?} is no whole number from 0 to {SCALE}"))?);
            rest = behind.trim_start();
        }
        let count = coordinates.len();
        check(coordinates.try_into().map_err(|_| format!("a box has 4 coordinates and this one {count}"))?)
    }
}

#[cfg(test)]
mod tests;
