//! Where a model computes. The only place that knows which backends a build has.

use std::{fmt, str::FromStr};

use burn_flex::Flex;

use crate::{
    error::{Error, Result},
    nn::SeedBackend,
};

/// The device that a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// All cores of this machine, through burn's Flex backend.
    #[default]
    Cpu,
}

impl Device {
    /// The devices that this build can address, as they are written on the command line.
    pub fn available() -> &'static [&'static str] {
        &["cpu"]
    }

    /// Runs `task` on the backend of this device.
    pub(crate) fn run<T: OnBackend>(self, task: T) -> T::Output {
        match self {
            Self::Cpu => task.run::<Flex>(Default::default()),
        }
    }
}

/// Work that any backend can do; [`Device::run`] chooses which.
pub(crate) trait OnBackend {
    /// What the work results in.
    type Output;

    /// Does the work on the backend `B`.
    fn run<B: SeedBackend>(self, device: B::Device) -> Self::Output;
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::Device {
                device: text.to_owned(),
                reason: format!("this build runs on {}", Self::available().join(", ")),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_says_what_there_is() {
        assert!("cuda:0".parse::<Device>().unwrap_err().to_string().contains("this build runs on cpu"));
        assert_eq!(Device::Cpu.to_string().parse::<Device>().unwrap(), Device::Cpu);
    }
}
