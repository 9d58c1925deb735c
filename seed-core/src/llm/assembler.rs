//! Marks, codes and text in turn -> pieces, whatever they are made of.

use super::{Fault, Mode, Piece, Template};
use crate::error::{Error, Result};

/// What a reply is made of: text or ids.
pub(super) trait Run: Default {
    /// A part of it.
    type Part: ?Sized;
    /// What places are counted in.
    const UNIT: &'static str;
    fn append(&mut self, part: &Self::Part);
    /// A part in a message.
    fn describe(part: &Self::Part, template: &Template) -> String;
    /// The beginning of a part that may stand between an image's tokens, leniently, and the rest.
    fn split_blank(part: &Self::Part) -> (Option<&Self::Part>, Option<&Self::Part>);
}

/// A token of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Begin,
    /// A code, which may be out of range, and whether it is spelled as the template says.
    Code {
        number: u64,
        exact: bool,
    },
    End,
}

/// The next part of a reply.
#[derive(Debug)]
pub(super) struct Event<'a, P: ?Sized> {
    /// Nothing for text.
    pub(super) mark: Option<Mark>,
    pub(super) raw: &'a P,
    /// Where it begins.
    pub(super) at: usize,
}

/// An image that has begun.
#[derive(Clone, Debug)]
struct Block<T> {
    /// All of it so far.
    raw: T,
    codes: Vec<u16>,
    tolerated: usize,
    /// Whether the last part was blank: one place, however many parts it came in.
    blank: bool,
    /// The first thing that was wrong.
    fault: Option<Fault>,
    at: usize,
}

/// Puts a reply together.
#[derive(Clone, Debug)]
pub(super) struct Assembler<T> {
    template: Template,
    mode: Mode,
    /// Whether there may be text outside of images.
    text: bool,
    block: Option<Block<T>>,
    /// Images that have begun.
    images: usize,
    /// The error that ended it: the image, its place and what is wrong.
    ended: Option<(usize, usize, Fault)>,
}

impl<T: Run> Assembler<T> {
    pub(super) fn new(template: Template, mode: Mode, text: bool) -> Self {
        Self { template, mode, text, block: None, images: 0, ended: None }
    }

    pub(super) fn template(&self) -> &Template {
        &self.template
    }

    pub(super) fn reset(&mut self) {
        (self.block, self.images, self.ended) = (None, 0, None);
    }

    pub(super) fn take(&mut self, event: Event<'_, T::Part>, out: &mut Vec<Piece<T>>) -> Result<()> {
        self.go_on()?;
        let Event { mark, raw, at } = event;
        match (mark, self.block.take()) {
            (Some(Mark::Begin), block) => {
                if let Some(block) = block {
                    let then = T::describe(raw, &self.template);
                    self.break_off(block, Some(then), out)?;
                }
                let mut own = T::default();
                own.append(raw);
                self.block = Some(Block { raw: own, codes: Vec::new(), tolerated: 0, blank: false, fault: None, at });
                self.images += 1;
                Ok(())
            }
            (None, None) if self.text => {
                match out.last_mut() {
                    Some(Piece::Text(text)) => text.append(raw),
                    _ => out.push(Piece::Text(own(raw))),
                }
                Ok(())
            }
            (_, None) => self.outside(raw, at, out),
            (Some(Mark::Code { number, exact }), Some(block)) => self.code(block, raw, number, exact),
            (Some(Mark::End), Some(block)) => self.end(block, raw, out),
            (None, Some(block)) => self.text_within(block, raw, at, out),
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Piece<T>>) -> Result<()> {
        self.go_on()?;
        match self.block.take() {
            Some(block) => self.break_off(block, None, out),
            None => Ok(()),
        }
    }

    /// A code within an image.
    fn code(&mut self, mut block: Block<T>, raw: &T::Part, number: u64, exact: bool) -> Result<()> {
        let config = self.template.config();
        let (expected, codebook_size) = (config.tokens, config.codebook_size);
        block.raw.append(raw);
        block.tolerated += usize::from(!exact);
        block.blank = false;
        let fault = match u16::try_from(number) {
            _ if block.fault.is_some() => None,
            _ if block.codes.len() == expected => Some(Fault::TooMany { expected }),
            Ok(code) if usize::from(code) < codebook_size => {
                block.codes.push(code);
                None
            }
            _ => Some(Fault::OutOfRange { position: block.codes.len(), code: number, codebook_size }),
        };
        if let Some(fault) = fault {
            self.refuse(block.at, &fault)?;
            block.fault = Some(fault);
        }
        self.block = Some(block);
        Ok(())
    }

    /// Text within an image.
    fn text_within(&mut self, mut block: Block<T>, raw: &T::Part, at: usize, out: &mut Vec<Piece<T>>) -> Result<()> {
        let (blank, rest) = if self.mode == Mode::Lenient { T::split_blank(raw) } else { (None, Some(raw)) };
        if let Some(blank) = blank {
            block.raw.append(blank);
            block.tolerated += usize::from(!block.blank);
            block.blank = true;
        }
        let Some(raw) = rest else {
            self.block = Some(block);
            return Ok(());
        };
        let then = T::describe(raw, &self.template);
        self.break_off(block, Some(then), out)?;
        self.take(Event { mark: None, raw, at }, out)
    }

    /// An end mark within an image.
    fn end(&mut self, mut block: Block<T>, raw: &T::Part, out: &mut Vec<Piece<T>>) -> Result<()> {
        let (found, expected) = (block.codes.len(), self.template.config().tokens);
        block.raw.append(raw);
        if block.fault.is_none() && found < expected {
            let fault = Fault::TooFew { found, expected };
            self.refuse(block.at, &fault)?;
            block.fault = Some(fault);
        }
        out.push(match block.fault {
            Some(fault) => Piece::Skipped { what: block.raw, fault },
            None => Piece::Image { codes: block.codes, tolerated: block.tolerated },
        });
        Ok(())
    }

    /// Something else than a code or an end mark within an image: the image is over.
    fn break_off(&mut self, block: Block<T>, then: Option<String>, out: &mut Vec<Piece<T>>) -> Result<()> {
        let Block { raw: what, codes, fault, at, .. } = block;
        let fault = match fault {
            Some(fault) => fault,
            None => {
                let fault = Fault::NoEnd { found: codes.len(), expected: self.template.config().tokens, then };
                self.refuse(at, &fault)?;
                fault
            }
        };
        out.push(Piece::Skipped { what, fault });
        Ok(())
    }

    /// What no begin mark stands before.
    fn outside(&mut self, raw: &T::Part, at: usize, out: &mut Vec<Piece<T>>) -> Result<()> {
        let fault = Fault::Outside { found: T::describe(raw, &self.template) };
        self.refuse(at, &fault)?;
        match out.last_mut() {
            Some(Piece::Skipped { what, fault: Fault::Outside { .. } }) => what.append(raw),
            _ => out.push(Piece::Skipped { what: own(raw), fault }),
        }
        Ok(())
    }

    /// Ends everything, strictly.
    fn refuse(&mut self, at: usize, fault: &Fault) -> Result<()> {
        if self.mode == Mode::Strict {
            // What stands outside of images counts as the one that would come next.
            let image = if matches!(fault, Fault::Outside { .. }) { self.images } else { self.images - 1 };
            self.ended = Some((image, at, fault.clone()));
        }
        self.go_on()
    }

    fn go_on(&self) -> Result<()> {
        match &self.ended {
            Some((image, at, fault)) => {
                Err(Error::ImageBlock { image: *image, at: *at, unit: T::UNIT, reason: fault.to_string() })
            }
            None => Ok(()),
        }
    }
}

/// A part as a run of its own.
fn own<T: Run>(part: &T::Part) -> T {
    let mut run = T::default();
    run.append(part);
    run
}
