//! How a command ended: exit codes and messages.

use std::{fmt::Write as _, io};

use anyhow::Error;

/// How a command ended, apart from errors that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is done.
    Done,
    /// Nothing could be done, and everything that failed has been reported.
    Failed,
    /// Some of it could not be done, and that has been reported.
    SomeFailed,
    /// The user asked to stop; what was finished is kept.
    Interrupted,
}

impl Outcome {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::SomeFailed => 3,
            Self::Interrupted => 130,
        }
    }
}

/// What of many images is done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) done: usize,
    pub(crate) failed: usize,
}

impl Tally {
    /// How a command over `total` images ended, with a word about it where the exit code alone leaves questions.
    pub(crate) fn outcome(self, total: usize) -> Outcome {
        let Self { done, failed } = self;
        match () {
            () if done + failed < total => {
                eprintln!("interrupted: {done} of {total} images are done");
                Outcome::Interrupted
            }
            () if failed == 0 => Outcome::Done,
            () if done == 0 => {
                if failed > 1 {
                    eprintln!("error: all {failed} images failed");
                }
                Outcome::Failed
            }
            () => {
                eprintln!("{failed} of {total} images failed; the other {done} are done");
                Outcome::SomeFailed
            }
        }
    }
}

/// Prints an error with what caused it.
pub(crate) fn report(error: &Error) {
    eprintln!("error: {}", chain(error));
}

/// An error and its causes, leaving out those that the message before already tells.
fn chain(error: &Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if last.is_empty() {
            text.push_str(&cause);
        } else if !last.contains(&cause) {
            let _ = write!(text, "\n  caused by: {cause}");
        }
        last = cause;
    }
    text
}

/// Whether whoever read the output went away.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let source = io::Error::other("disk on fire");
        let error = Error::new(seed_core::Error::Read { path: "a.png".into(), source }).context("the world ended");
        assert_eq!(chain(&error), "the world ended\n  caused by: cannot read a.png: disk on fire");
    }

    #[test]
    fn one_failure_among_many_is_not_failure() {
        assert_eq!(Tally { done: 99, failed: 1 }.outcome(100), Outcome::SomeFailed);
        assert_eq!(Tally { done: 0, failed: 3 }.outcome(3), Outcome::Failed);
        assert_eq!(Tally { done: 3, failed: 0 }.outcome(3), Outcome::Done);
        assert_eq!(Tally { done: 2, failed: 1 }.outcome(9), Outcome::Interrupted);
    }
}
