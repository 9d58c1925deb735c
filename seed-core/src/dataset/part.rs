//! One process of several: which shards are its own.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Variables by which launchers tell a process its number and how many there are.
const VARIABLES: [[&str; 2]; 2] = [["SLURM_PROCID", "SLURM_NTASKS"], ["RANK", "WORLD_SIZE"]];

/// Part `index` of `of`: the shards whose number leaves the remainder `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 0.
    pub index: usize,
    /// Number of parts.
    pub of: usize,
}

impl Default for Part {
    /// All of it.
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Part {
    /// Whether shard `shard` belongs to this part.
    pub fn holds(self, shard: usize) -> bool {
        shard % self.of == self.index
    }

    /// What the environment says: `SLURM_PROCID` of `SLURM_NTASKS`, or `RANK` of `WORLD_SIZE`; nothing where it says nothing.
    ///
    /// # Errors
    /// [`Error::Argument`] for numbers that are none, or where the two disagree.
    pub fn from_environment() -> Result<Option<Self>> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut found = None;
        for [index, of] in VARIABLES {
            let (Some(index), Some(of)) = (get(index), get(of)) else { continue };
            let part = format!("{index}/{of}").parse()?;
            match found {
                None => found = Some(part),
                Some(other) if other == part => {}
                Some(_) => {
                    let reason = "SLURM_PROCID/SLURM_NTASKS and RANK/WORLD_SIZE disagree; say which with --shard I/N";
                    return Err(Error::Argument {
                        name: "shard",
                        value: format!("{index}/{of}"),
                        reason: reason.to_owned(),
                    });
                }
            }
        }
        Ok(found)
    }
}

/// `I/N`.
impl std::str::FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => {
                let reason = "a part is I/N with I from 0 to N - 1, such as 0/8".to_owned();
                Err(Error::Argument { name: "shard", value: text.to_owned(), reason })
            }
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for shard in 0..100 {
            let holders = (0..7).filter(|&index| Part { index, of: 7 }.holds(shard)).count();
            assert_eq!(holders, 1);
        }
    }

    #[test]
    fn launchers_are_understood() {
        let with = |pairs: &'static [(&str, &str)]| {
            Part::from_variables(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(with(&[("RANK", "2")]).unwrap(), None);
        assert_eq!(with(&[("RANK", "2"), ("WORLD_SIZE", "4")]).unwrap(), Some(Part { index: 2, of: 4 }));
        assert_eq!(with(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "9")]).unwrap(), Some(Part { index: 0, of: 9 }));
        let both = &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "9"), ("RANK", "1"), ("WORLD_SIZE", "9")];
        assert!(with(both).is_err());
        assert!(with(&[("RANK", "4"), ("WORLD_SIZE", "4")]).is_err());
    }
}
