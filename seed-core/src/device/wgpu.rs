//! What wgpu finds: Vulkan on Linux and Windows, Metal on macOS.
//!
//! The backend panics where there is no adapter, so adapters are counted here first. It knows them by kind and by place
//! among those of the kind; adapters of a kind that their driver does not tell, and software drivers besides the first,
//! have no name there and are left out.

use burn_wgpu::{
    WgpuDevice,
    graphics::{AutoGraphicsApi, GraphicsApi as _},
};
use cubecl::future::block_on;
use wgpu::{Adapter, DeviceDescriptor, DeviceType, Instance, InstanceDescriptor};

use super::Listed;
use crate::nn::SeedBackend;

/// float32, 32-bit integers.
pub(super) use burn_wgpu::Wgpu;

impl SeedBackend for Wgpu {}

/// The adapters that can be computed on, the fastest kind first.
pub(super) fn list() -> Listed<WgpuDevice> {
    let backend = AutoGraphicsApi::backend();
    let instance = Instance::new(InstanceDescriptor {
        backends: backend.into(),
        ..InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = block_on(instance.enumerate_adapters(backend.into()));
    adapters.sort_by_key(|adapter| SPEED.iter().position(|kind| *kind == adapter.get_info().device_type)); // stable
    let (mut listed, mut refused) = (Vec::new(), Vec::new());
    for (index, adapter) in adapters.iter().enumerate() {
        let (kind, name) = (adapter.get_info().device_type, adapter.get_info().name);
        let place = adapters[..index].iter().filter(|other| other.get_info().device_type == kind).count();
        let device = match kind {
            DeviceType::DiscreteGpu => WgpuDevice::DiscreteGpu(place),
            DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(place),
            DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(place),
            DeviceType::Cpu if place == 0 => WgpuDevice::Cpu,
            DeviceType::Cpu | DeviceType::Other => continue,
        };
        match start(adapter) {
            Ok(()) => listed.push((device, name)),
            Err(reason) => refused.push(format!("{name} cannot be used: {reason}")),
        }
    }
    match (listed.is_empty(), refused.is_empty()) {
        (false, _) => Ok(listed),
        (true, false) => Err(format!("{}; update its driver, or compute on cpu", refused.join("; "))),
        (true, true) => Err(format!(
            "no {backend:?} driver shows a device; install one (on Debian, mesa-vulkan-drivers and libvulkan1 also bring one that computes in software), or compute on cpu"
        )),
    }
}

/// Kinds of adapters, from the fastest.
const SPEED: [DeviceType; 5] =
    [DeviceType::DiscreteGpu, DeviceType::IntegratedGpu, DeviceType::VirtualGpu, DeviceType::Cpu, DeviceType::Other];

/// Opens an adapter as the backend will, all its limits asked for, and closes it again.
fn start(adapter: &Adapter) -> Result<(), String> {
    let descriptor = DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    block_on(adapter.request_device(&descriptor)).map(drop).map_err(|error| error.to_string())
}
