//! NVIDIA's GPUs.
//!
//! The backend loads the driver and the compiler of its kernels when it first needs them, reads CUDA's headers, and
//! panics where one is missing, so all three are looked for here first.

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_cubecl::{kernel::matmul::init_matmul_output, tensor::CubeTensor};
use burn_cuda::CudaDevice;
use cubecl::cuda::{CudaRuntime, install};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems},
        launch::{Strategy, launch_ref},
    },
    std::InputBinding,
};
use cudarc::driver::result;

use super::Listed;
use crate::nn::SeedBackend;

/// float32, 32-bit integers.
pub(super) use burn_cuda::Cuda;

/// burn multiplies float32 in TF32, which keeps ten bits, where the GPU can. Here float32 is float32: codes are to be those of
/// other machines.
impl SeedBackend for Cuda {
    fn product<const D: usize>(lhs: Tensor<Self, D>, rhs: Tensor<Self, D>) -> Tensor<Self, D> {
        if [lhs.dtype(), rhs.dtype()] != [DType::F32; 2] {
            return lhs.matmul(rhs);
        }
        let [lhs, rhs] = [lhs, rhs].map(|x| x.into_primitive().tensor());
        Tensor::from_primitive(TensorPrimitive::Float(multiply(lhs, rhs)))
    }

    fn product_and_bias<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        if x.dtype() != DType::F32 {
            return burn::tensor::module::linear(x, weight, bias);
        }
        let (mut dims, [inner, columns]) = (x.dims(), weight.dims());
        let rows = dims[..D - 1].iter().product();
        dims[D - 1] = columns;
        let y = Self::product(x.reshape([rows, inner]), weight).reshape(dims);
        match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }
}

/// A product of float32 matrices by multiply-adds in float32, which no unit for matrices has.
fn multiply(lhs: CubeTensor<CudaRuntime>, rhs: CubeTensor<CudaRuntime>) -> CubeTensor<CudaRuntime> {
    let out = init_matmul_output(&lhs, &rhs, DType::F32);
    let launch = |strategy: &Strategy| {
        let element = DType::F32.into();
        let mut elements = MatmulElems::from_globals(&MatmulGlobalElems { lhs: element, rhs: element, out: element });
        let [lhs, rhs] = [&lhs, &rhs].map(|x| InputBinding::new(x.clone().binding(), element));
        launch_ref(strategy, &out.client, lhs, rhs, out.clone().binding(), &mut elements)
    };
    // The second is for shapes that the tiles of the first do not fit.
    launch(&Strategy::SimpleUnit(Default::default()))
        .or_else(|_| launch(&Strategy::Naive))
        .expect("the plainest kernel takes any shape");
    out
}

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
