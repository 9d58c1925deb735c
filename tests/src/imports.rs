//! What a Rust file imports: the paths of its `use` lines and of its expressions, and its features.
//!
//! Reads tokens, not syntax: comments and texts are no imports, groups and inline modules are followed, and what is built
//! for tests alone (`#[cfg(test)]`) is left out. Macros that make paths are not seen.

use std::collections::BTreeSet;

/// A path that a file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Import {
    /// Of the same crate, from its root: `crate::nn::gelu` is `["nn", "gelu"]`.
    Internal(Vec<String>),
    /// Of another crate, whose name comes first.
    External(Vec<String>),
}

/// What a file says about others.
#[derive(Debug, Default)]
pub struct Reading {
    /// All paths that it names.
    pub imports: BTreeSet<Import>,
    /// Names of the features that its `cfg`s ask for.
    pub features: BTreeSet<String>,
    /// Modules in files of their own that are built for tests alone.
    pub test_modules: BTreeSet<String>,
}

/// Reads a file of the module `module` (empty for the crate's root). `crates` are the names of the other crates: other
/// bare paths are of the module itself.
pub fn read(source: &str, module: &[&str], crates: &BTreeSet<String>) -> Reading {
    let tokens = tokens(source);
    let declared = tokens.windows(2).filter_map(|pair| match pair {
        [Token::Ident("mod"), Token::Ident(name)] => Some(*name),
        _ => None,
    });
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        module: module.iter().map(|&part| part.to_owned()).collect(),
        inline: Vec::new(),
        depth: 0,
        declared: declared.collect(),
        crates,
        reading: Reading::default(),
    };
    reader.run();
    reader.reading
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Ident(&'a str),
    Text(&'a str),
    /// `::`
    Separator,
    Other(char),
}

/// Splits a source into tokens, without comments, lifetimes, characters and numbers' dots.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some((text, length)) = text(rest) {
            tokens.push(Token::Text(text));
            length
        } else if first == '\'' {
            character(rest)
        } else if word > 0 {
            tokens.push(Token::Ident(&rest[..word]));
            word
        } else if rest.starts_with("::") {
            tokens.push(Token::Separator);
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Other(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of a block comment, which may hold others.
fn block_comment(source: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < source.len() {
        let rest = &source[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    source.len()
}

/// A text that `source` begins with, plain or raw, of characters, bytes or C: its content and the length of the whole.
fn text(source: &str) -> Option<(&str, usize)> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|&prefix| {
        source.strip_prefix(prefix).is_some_and(|rest| {
            let hashes = rest.len() - rest.trim_start_matches('#').len();
            rest[hashes..].starts_with('"') && (hashes == 0 || prefix.ends_with('r'))
        })
    })?;
    let rest = &source[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let start = prefix.len() + hashes + 1;
    let body = &source[start..];
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end).unwrap_or(body.len());
        return Some((&body[..length], (start + length + end.len()).min(source.len())));
    }
    let mut escaped = false;
    let length = body.find(|c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let length = length.unwrap_or(body.len());
    Some((&body[..length], (start + length + 1).min(source.len())))
}

/// The length of a character (`'x'`, `'\''`) or of a lifetime's quote.
fn character(source: &str) -> usize {
    let mut characters = source.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => source[3.min(source.len())..].find('\'').map_or(1, |end| end + 4),
        _ => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
    }
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    /// Module of the file.
    module: Vec<String>,
    /// Inline modules that are open, each with the depth of braces that it stands in.
    inline: Vec<(String, usize)>,
    depth: usize,
    /// Modules that the file declares: a bare path that begins with one is no other crate's.
    declared: BTreeSet<&'a str>,
    crates: &'a BTreeSet<String>,
    reading: Reading,
}

impl<'a> Reader<'a> {
    fn peek(&self, ahead: usize) -> Option<Token<'a>> {
        self.tokens.get(self.at + ahead).copied()
    }

    fn run(&mut self) {
        while let Some(token) = self.peek(0) {
            match (token, self.peek(1)) {
                (Token::Other('#'), Some(Token::Other('[' | '!'))) => self.attribute(),
                (Token::Ident("use"), _) => {
                    self.at += 1;
                    self.tree(&mut Vec::new());
                }
                (Token::Ident("mod"), Some(Token::Ident(name))) => {
                    if self.peek(2) == Some(Token::Other('{')) {
                        self.inline.push((name.to_owned(), self.depth));
                    }
                    self.at += 2;
                }
                (Token::Ident(_), Some(Token::Separator)) | (Token::Separator, Some(Token::Ident(_))) => self.path(),
                (Token::Other('{'), _) => {
                    self.depth += 1;
                    self.at += 1;
                }
                (Token::Other('}'), _) => {
                    self.depth = self.depth.saturating_sub(1);
                    self.inline.retain(|&(_, depth)| depth < self.depth);
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
    }

    /// An attribute. What stands under `#[cfg(test)]` is skipped.
    fn attribute(&mut self) {
        let start = self.at;
        self.at += 1;
        if self.peek(0) == Some(Token::Other('!')) {
            self.at += 1;
        }
        self.skip_group();
        let inside = &self.tokens[start..self.at];
        let has = |word: &str| inside.contains(&Token::Ident(word));
        if !(has("cfg") || has("cfg_attr")) {
            return;
        }
        if has("cfg") && has("test") && !has("not") && !has("any") {
            return self.skip_item();
        }
        for parts in inside.windows(3) {
            if let [Token::Ident("feature"), Token::Other('='), Token::Text(name)] = parts {
                self.reading.features.insert((*name).to_owned());
            }
        }
    }

    /// Skips a group of brackets and all that is in it.
    fn skip_group(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.peek(0) {
            self.at += 1;
            match token {
                Token::Other('(' | '[' | '{') => depth += 1,
                Token::Other(')' | ']' | '}') => depth -= 1,
                _ => continue,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips an item: up to its `;`, or its braces.
    fn skip_item(&mut self) {
        while let Some(token) = self.peek(0) {
            match (token, self.peek(1), self.peek(2)) {
                (Token::Ident("mod"), Some(Token::Ident(name)), Some(Token::Other(';'))) => {
                    self.reading.test_modules.insert(name.to_owned());
                    self.at += 3;
                    return;
                }
                (Token::Other('{'), ..) => return self.skip_group(),
                (Token::Other('(' | '['), ..) => self.skip_group(),
                (Token::Other(';'), ..) => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
    }

    /// What follows `use`, or a part of it, after `prefix`.
    fn tree(&mut self, prefix: &mut Vec<&'a str>) {
        let length = prefix.len();
        while let Some(token) = self.peek(0) {
            match token {
                Token::Ident("as") => self.at += 2,
                Token::Ident(name) => {
                    prefix.push(name);
                    self.at += 1;
                }
                Token::Separator => {
                    if prefix.is_empty() {
                        prefix.push("::");
                    }
                    self.at += 1;
                }
                Token::Other('*') => {
                    prefix.push("*");
                    self.at += 1;
                }
                Token::Other('{') => {
                    self.at += 1;
                    while self.peek(0).is_some_and(|token| token != Token::Other('}')) {
                        self.tree(prefix);
                        if self.peek(0) == Some(Token::Other(',')) {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    prefix.truncate(length);
                    return;
                }
                _ => break,
            }
        }
        self.add(prefix, true);
        prefix.truncate(length);
    }

    /// A path in an expression, a type or a pattern.
    fn path(&mut self) {
        let mut parts = Vec::new();
        // What follows a `>` belongs to it, as in `<T as Trait>::new`.
        let follows = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)) == Some(&Token::Other('>'));
        let absolute = self.peek(0) == Some(Token::Separator);
        if absolute {
            self.at += 1;
            parts.push("::");
        }
        while let Some(Token::Ident(name)) = self.peek(0) {
            parts.push(name);
            self.at += 1;
            match (self.peek(0), self.peek(1)) {
                (Some(Token::Separator), Some(Token::Ident(_))) => self.at += 1,
                (Some(Token::Separator), _) => {
                    self.at += 1;
                    break;
                }
                _ => break,
            }
        }
        if !(absolute && follows) {
            self.add(&parts, false);
        }
    }

    /// Notes a path. In an expression, one that begins with neither a keyword nor a crate is a type's or a module's in
    /// scope, which a `use` line brought there.
    fn add(&mut self, parts: &[&str], is_use: bool) {
        let parts = match parts {
            [rest @ .., _, "self"] => &parts[..=rest.len()],
            _ => parts,
        };
        let own = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
        let here = self.module.iter().chain(self.inline.iter().map(|(name, _)| name));
        let mut path: Vec<String> = here.cloned().collect();
        let import = match parts {
            [] => return,
            ["::", rest @ ..] => Import::External(own(rest)),
            ["crate", rest @ ..] => Import::Internal(own(rest)),
            ["self", rest @ ..] => {
                path.extend(own(rest));
                Import::Internal(path)
            }
            ["super", ..] => {
                let ups = parts.iter().take_while(|&&part| part == "super").count();
                path.truncate(path.len().saturating_sub(ups));
                path.extend(own(&parts[ups..]));
                Import::Internal(path)
            }
            [first, ..] if self.crates.contains(*first) && !self.declared.contains(first) => {
                Import::External(own(parts))
            }
            [first, ..] if is_use || self.declared.contains(first) => {
                path.extend(own(parts));
                Import::Internal(path)
            }
            _ => return,
        };
        self.reading.imports.insert(import);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crates() -> BTreeSet<String> {
        ["std", "burn", "png"].map(str::to_owned).into()
    }

    fn paths(source: &str, module: &[&str]) -> Vec<String> {
        let imports = read(source, module, &crates()).imports.into_iter();
        imports
            .map(|import| match import {
                Import::Internal(path) => format!("crate::{}", path.join("::")),
                Import::External(path) => path.join("::"),
            })
            .collect()
    }

    #[test]
    fn groups_are_followed() {
        let source = "use crate::{error::{Error, Result}, nn::*, nn::{self}};\npub(crate) use burn::tensor as t;";
        let expected = ["crate::error::Error", "crate::error::Result", "crate::nn", "crate::nn::*", "burn::tensor"];
        assert_eq!(paths(source, &[]), expected);
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(paths("use super::{x, super::y};", &["a", "b"]), ["crate::a::x", "crate::y"]);
        assert_eq!(paths("mod m { use super::x; } use super::z;", &["a", "b"]), ["crate::a::b::x", "crate::a::z"]);
        let source = "mod png; use png::x; use ::png::y; use self::w;";
        assert_eq!(paths(source, &["a"]), ["crate::a::png::x", "crate::a::w", "png::y"]);
    }

    #[test]
    fn expressions_are_read() {
        let source = "fn f<'a>(x: &'a burn::Tensor) -> Vec<u8> { crate::pixels::open::<u8>('\\'', 'b'); <T as B>::new(); \
                      Vec::new(); x.iter::<f32>() }";
        assert_eq!(paths(source, &[]), ["crate::pixels::open", "burn::Tensor"]);
    }

    #[test]
    fn comments_texts_and_tests_are_no_imports() {
        let source = r###"
            // use crate::a;
            /* use crate::b; /* nested */ use crate::c; */
            const T: &str = "use crate::d; \" use crate::e;";
            const R: &str = r#"use crate::f; ""#;
            #[cfg(test)]
            mod tests { use crate::g; fn f() { crate::h::i(); } }
            #[cfg(all(test, feature = "train"))]
            mod golden;
            #[cfg(feature = "cuda")]
            use crate::j;
        "###;
        let reading = read(source, &[], &crates());
        assert_eq!(reading.imports.into_iter().collect::<Vec<_>>(), [Import::Internal(vec!["j".to_owned()])]);
        assert_eq!(reading.features.into_iter().collect::<Vec<_>>(), ["cuda"]);
        assert_eq!(reading.test_modules.into_iter().collect::<Vec<_>>(), ["golden"]);
    }
}
