//! Ids so far -> ids that may come next, as a mask over logits: an image has exactly as many codes as it must have.
//!
//! What may come follows from the last ids alone, so there is nothing to keep between steps, and beams may be reordered.

use super::{Reply, Template};
use crate::error::{Error, Result};

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Any id but a code or an end mark.
    Text,
    /// The begin mark.
    Begin,
    /// A code.
    Code,
    /// The end mark.
    End,
    /// An id that ends the reply.
    Stop,
}

/// Holds a reply to a [`Template`].
#[derive(Clone, Debug)]
pub struct Constraint {
    template: Template,
    reply: Reply,
    stop: Vec<u32>,
}

impl Constraint {
    /// A reply that is `reply`, and that ends with one of the ids `stop`.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id of `stop` that is a token of images, and for a reply of one image that nothing could end.
    pub fn new(template: Template, reply: Reply, stop: Vec<u32>) -> Result<Self> {
        let fail =
            |value: String, reason: &str| Err(Error::Argument { name: "stop", value, reason: reason.to_owned() });
        if let Some(&id) = stop.iter().find(|&&id| template.is_token(id)) {
            return fail(id.to_string(), "it is a token of images");
        }
        if reply == Reply::Image && stop.is_empty() {
            return fail("[]".to_owned(), "a reply of one image needs an id that ends it, such as 2 for LLaMA");
        }
        Ok(Self { template, reply, stop })
    }

    /// What may come after a prompt and the reply so far. An image may have begun in the prompt.
    pub fn next(&self, prompt: &[u32], reply: &[u32]) -> Next {
        let config = self.template.config();
        let mut before = reply.iter().rev().chain(prompt.iter().rev());
        let codes = before.by_ref().take(config.tokens + 1).take_while(|&&id| self.template.code(id).is_some()).count();
        let last = reply.iter().rev().chain(prompt.iter().rev()).nth(codes);
        let inside = last == Some(&config.begin_id);
        match self.reply {
            _ if inside && codes < config.tokens => Next::Code,
            _ if inside && codes == config.tokens => Next::End,
            Reply::Interleaved => Next::Text,
            Reply::Image if reply.contains(&config.end_id) => Next::Stop,
            Reply::Image => Next::Begin,
        }
    }

    /// Whether `id` may come.
    pub fn allows(&self, next: Next, id: u32) -> bool {
        let config = self.template.config();
        match next {
            Next::Text => self.template.code(id).is_none() && id != config.end_id,
            Next::Begin => id == config.begin_id,
            Next::Code => self.template.code(id).is_some(),
            Next::End => id == config.end_id,
            Next::Stop => self.stop.contains(&id),
        }
    }

    /// Which ids of a vocabulary of `vocabulary` ids may come.
    ///
    /// # Errors
    /// [`Error::Argument`] for a vocabulary without the tokens of images.
    pub fn mask(&self, next: Next, vocabulary: usize) -> Result<Vec<bool>> {
        self.check(vocabulary)?;
        Ok((0..vocabulary as u32).map(|id| self.allows(next, id)).collect())
    }

    /// Sets the logits of ids that may not come to minus infinity.
    ///
    /// # Errors
    /// As [`Constraint::mask`].
    pub fn apply(&self, next: Next, logits: &mut [f32]) -> Result<()> {
        self.check(logits.len())?;
        for (id, logit) in (0..).zip(logits) {
            if !self.allows(next, id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn check(&self, vocabulary: usize) -> Result<()> {
        let last = self.stop.iter().copied().chain([self.template.last_id()]).max().unwrap_or_default();
        let fail = |reason| Err(Error::Argument { name: "vocabulary", value: vocabulary.to_string(), reason });
        match vocabulary as u64 {
            ids if ids > i32::MAX as u64 => fail("ids must fit into 31 bits".to_owned()),
            ids if ids <= u64::from(last) => fail(format!(
                "the largest id of the template is {last}; the model's embeddings need {} rows",
                u64::from(last) + 1
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
