//! NVIDIA's GPUs.
//!
//! The backend loads the driver and the compiler of its kernels when it first needs them, reads CUDA's headers, and
//! panics where one is missing, so all three are looked for here first.

use burn_cuda::CudaDevice;
use cubecl::cuda::install;
use cudarc::driver::result;

use super::Listed;
use crate::nn::SeedBackend;

/// float32, 32-bit integers.
pub(super) use burn_cuda::Cuda;

impl SeedBackend for Cuda {}

/// The GPUs, in the driver's order.
pub(super) fn list() -> Listed<CudaDevice> {
    // Safe: they load a library and let go of it; a library that harms on loading would do so in the backend too.
    #[allow(unsafe_code)]
    let (driver, compiler) =
        unsafe { (cudarc::driver::sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present()) };
    if !driver {
        return Err("no NVIDIA driver (libcuda) was found; install one, or compute on cpu".to_owned());
    }
    if !compiler {
        return Err(
            "CUDA's compiler NVRTC (libnvrtc) was not found; install the CUDA toolkit, or compute on cpu".to_owned()
        );
    }
    if !install::cuda_path().is_some_and(|path| path.join("include/cuda_runtime.h").is_file()) {
        return Err(
            "CUDA's headers (cuda_runtime.h) were not found; install the CUDA toolkit and name its folder in CUDA_PATH, or compute on cpu"
                .to_owned(),
        );
    }
    let devices = || {
        result::init()?;
        let names =
            (0..result::device::get_count()?).map(|index| result::device::get_name(result::device::get(index)?));
        names.collect::<Result<Vec<String>, _>>()
    };
    let refused = |error: result::DriverError| {
        format!("the NVIDIA driver refuses ({error}); check it with nvidia-smi, or compute on cpu")
    };
    match devices().map_err(refused)? {
        names if names.is_empty() => Err("the NVIDIA driver shows no GPU; compute on cpu".to_owned()),
        names => Ok(names.into_iter().enumerate().map(|(index, name)| (CudaDevice::new(index), name)).collect()),
    }
}
