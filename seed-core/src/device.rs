//! Where a model computes. The only place that knows which backends a build has.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
pub(crate) mod every_backend;
#[cfg(feature = "wgpu")]
mod wgpu;

use std::{fmt, str::FromStr};

use burn_flex::Flex;

use crate::{
    error::{Error, Result},
    nn::SeedBackend,
};

/// The device that a model runs on. Every build knows all of them by name; what it cannot run on is an error when it is
/// asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// All cores of this machine, through burn's Flex backend.
    #[default]
    Cpu,
    /// An NVIDIA GPU through CUDA, by the driver's number. Needs the feature `cuda`.
    Cuda(usize),
    /// A GPU through Vulkan or Metal, counted from the fastest kind to the slowest: of its own, integrated, virtual,
    /// software. Needs the feature `wgpu`.
    Wgpu(usize),
}

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The device.
    pub device: Device,
    /// What its driver calls it; of the CPU, the architecture.
    pub name: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.device, self.name)
    }
}

/// Devices of one backend, each with its name, or why there is none and what to do.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
type Listed<D> = Result<Vec<(D, String)>, String>;

impl Device {
    /// The devices of this machine that this build can compute on. Looking for them loads the drivers.
    pub fn found() -> Vec<Found> {
        #[allow(unused_mut, reason = "not with every set of features")]
        let mut found = vec![Found { device: Self::Cpu, name: std::env::consts::ARCH.to_owned() }];
        #[cfg(feature = "cuda")]
        found.extend(numbered(Self::Cuda, &cuda::list()));
        #[cfg(feature = "wgpu")]
        found.extend(numbered(Self::Wgpu, &wgpu::list()));
        found
    }

    /// The features that would add devices to this build.
    pub fn features_left_out() -> Vec<&'static str> {
        let features = [("cuda", cfg!(feature = "cuda")), ("wgpu", cfg!(feature = "wgpu"))];
        features.into_iter().filter(|(_, is_built)| !is_built).map(|(name, _)| name).collect()
    }

    /// Holds when a model can run here.
    ///
    /// # Errors
    /// [`Error::Device`] when this build or this machine does not have the device.
    pub fn check(self) -> Result<()> {
        struct Nothing;
        impl OnBackend for Nothing {
            type Output = ();

            fn run<B: SeedBackend>(self, _: B::Device) {}
        }
        self.run(Nothing)
    }

    /// Runs `task` on the backend of this device.
    ///
    /// # Errors
    /// As [`check`](Self::check), before the task has begun.
    pub(crate) fn run<T: OnBackend>(self, task: T) -> Result<T::Output> {
        match self {
            Self::Cpu => Ok(on_cpu(task)),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Ok(task.run::<cuda::Cuda>(self.choose(index, cuda::list())?)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(self.left_out("cuda")),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(index) => Ok(task.run::<wgpu::Wgpu>(self.choose(index, wgpu::list())?)),
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu(_) => Err(self.left_out("wgpu")),
        }
    }

    /// As [`run`](Self::run), on several devices of one kind.
    ///
    /// # Errors
    /// As [`run`](Self::run); for none, and for devices of different kinds.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "training alone is spread over devices"))]
    pub(crate) fn run_on_all<T: OnBackend>(devices: &[Self], task: T) -> Result<T::Output> {
        let names = || devices.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        let fail = |reason: &str| Error::Device { device: names(), reason: reason.to_owned() };
        let first = devices.first().ok_or_else(|| fail("one at least is needed"))?;
        if devices.iter().any(|device| std::mem::discriminant(device) != std::mem::discriminant(first)) {
            return Err(fail("what is computed together is computed on devices of one kind"));
        }
        match first {
            Self::Cpu => Ok(task.run_on_all::<Flex>(vec![Default::default(); devices.len()])),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => {
                let choose = |device: &Self| match device {
                    Self::Cuda(index) => device.choose(*index, cuda::list()),
                    _ => Err(fail("devices are of one kind")),
                };
                Ok(task.run_on_all::<cuda::Cuda>(devices.iter().map(choose).collect::<Result<_>>()?))
            }
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(first.left_out("cuda")),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(_) => {
                let choose = |device: &Self| match device {
                    Self::Wgpu(index) => device.choose(*index, wgpu::list()),
                    _ => Err(fail("devices are of one kind")),
                };
                Ok(task.run_on_all::<wgpu::Wgpu>(devices.iter().map(choose).collect::<Result<_>>()?))
            }
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu(_) => Err(first.left_out("wgpu")),
        }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn choose<D>(self, index: usize, listed: Listed<D>) -> Result<D> {
        let fail = |reason| Error::Device { device: self.to_string(), reason };
        let mut listed = listed.map_err(fail)?;
        if index < listed.len() {
            return Ok(listed.swap_remove(index).0);
        }
        let names = listed.iter().enumerate().map(|(index, (_, name))| format!("{index} is {name}"));
        Err(fail(format!("this machine has {} such: {}", listed.len(), names.collect::<Vec<_>>().join(", "))))
    }

    #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
    fn left_out(self, feature: &str) -> Error {
        let reason = format!(
            "this build is without it; build one that has it, with the feature {feature} (cargo install --path seed-cli --features {feature}), or compute on cpu"
        );
        Error::Device { device: self.to_string(), reason }
    }
}

/// Runs `task` where every build can: for work on files and shapes, which no other device does faster.
pub(crate) fn on_cpu<T: OnBackend>(task: T) -> T::Output {
    task.run::<Flex>(Default::default())
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn numbered<D>(device: fn(usize) -> Device, listed: &Listed<D>) -> Vec<Found> {
    let listed = listed.iter().flatten().enumerate();
    listed.map(|(index, (_, name))| Found { device: device(index), name: name.clone() }).collect()
}

/// Work that any backend can do; [`Device::run`] chooses which.
pub(crate) trait OnBackend {
    /// What the work results in.
    type Output;

    /// Does the work on the backend `B`.
    fn run<B: SeedBackend>(self, device: B::Device) -> Self::Output;

    /// Does the work on several devices of the backend `B`, where it can be spread; otherwise on the first.
    fn run_on_all<B: SeedBackend>(self, devices: Vec<B::Device>) -> Self::Output
    where
        Self: Sized,
    {
        self.run::<B>(devices.into_iter().next().unwrap_or_default())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, index.parse().ok()),
            None => (text, Some(0)),
        };
        match (kind, index) {
            ("cpu", _) if text == "cpu" => Ok(Self::Cpu),
            ("cuda", Some(index)) => Ok(Self::Cuda(index)),
            ("wgpu", Some(index)) => Ok(Self::Wgpu(index)),
            _ => Err(Error::Device {
                device: text.to_owned(),
                reason: "devices are cpu, cuda and wgpu, or cuda:1, wgpu:1 and so on if there are several".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_says_what_there_is() {
        for text in ["tpu", "cpu:0", "cuda:", "cuda:-1", "wgpu:x", "wgpu:0:0", ""] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains("cpu, cuda and wgpu"), "{text}: {error}");
        }
    }

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3), Device::Wgpu(0), Device::Wgpu(12)] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        assert_eq!("wgpu".parse::<Device>().unwrap(), Device::Wgpu(0));
    }

    #[test]
    fn what_is_found_can_be_used_and_what_is_not_is_an_error() {
        let found = Device::found();
        assert_eq!(found[0].device, Device::Cpu);
        for Found { device, .. } in &found {
            device.check().unwrap();
        }
        for device in [Device::Cuda(99), Device::Wgpu(99)] {
            let error = device.check().unwrap_err();
            assert!(matches!(&error, Error::Device { device: name, .. } if *name == device.to_string()), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_left_out_says_how_to_build_it() {
        for feature in Device::features_left_out() {
            let error = feature.parse::<Device>().unwrap().check().unwrap_err().to_string();
            assert!(error.contains(&format!("--features {feature}")), "{error}");
        }
    }
}
