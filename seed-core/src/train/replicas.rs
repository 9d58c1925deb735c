//! What a stage holds fixed, once on every device.

use burn::module::Module;

use super::run::TrainBackend;

/// A module on each of some devices.
pub(super) struct Replicas<A: TrainBackend, M> {
    all: Vec<(A::Device, M)>,
}

impl<A: TrainBackend, M: Module<A::InnerBackend>> Replicas<A, M> {
    /// Copies to every device that `module` is not on yet.
    pub(super) fn new(module: M, devices: &[A::Device]) -> Self {
        let mut all: Vec<(A::Device, M)> = Vec::new();
        for device in devices {
            if all.iter().all(|(known, _)| known != device) {
                all.push((device.clone(), module.clone().to_device(device)));
            }
        }
        Self { all }
    }

    /// The one on a device.
    pub(super) fn on(&self, device: &A::Device) -> &M {
        let found = self.all.iter().find(|(known, _)| known == device);
        &found.expect("parts are computed on the devices that a stage was given").1
    }
}
