//! NVIDIA's GPUs.
//!
//! The backend loads the driver and the compiler of its kernels when it first needs them, reads CUDA's headers, and
//! panics where one is missing, so all three are looked for here first.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_cubecl::{kernel::matmul::init_matmul_output, tensor::CubeTensor};
use burn_cuda::CudaDevice;
use cubecl::cuda::{CudaRuntime, install};
use cubek::{
    matmul::{
        components::tile::TileMatmulKind,
        definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError},
        launch::{Strategy, launch_ref},
        routines::{BlueprintStrategy, double_buffering::DoubleBufferingArgs, simple::SimpleArgs},
    },
    std::InputBinding,
};
use cudarc::driver::result;

use super::Listed;
use crate::nn::SeedBackend;

/// float32, 32-bit integers.
pub(super) use burn_cuda::Cuda;

/// burn multiplies float32 in TF32, which keeps ten bits, where the GPU can. Here float32 is float32: codes are to be those of
/// other machines. Layers of half precision are products with sums in float32, which is what they give.
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
        let (mut dims, [inner, columns]) = (x.dims(), weight.dims());
        let rows = dims[..D - 1].iter().product();
        dims[D - 1] = columns;
        let [x, weight] = [x.reshape([rows, inner]), weight].map(|x| x.into_primitive().tensor());
        let y = Tensor::<Self, 2>::from_primitive(TensorPrimitive::Float(multiply(x, weight))).reshape(dims);
        match bias {
            Some(bias) => y + bias.cast(DType::F32).unsqueeze(),
            None => y,
        }
    }
}

/// The product of two matrices of one type, in float32 as its sums are.
fn multiply(lhs: CubeTensor<CudaRuntime>, rhs: CubeTensor<CudaRuntime>) -> CubeTensor<CudaRuntime> {
    let out = init_matmul_output(&lhs, &rhs, DType::F32);
    let strategies: &[Strategy] = if lhs.dtype == DType::F32 { &*SINGLE } else { &*HALF };
    let launch = |strategy: &Strategy| -> Result<(), MatmulSetupError> {
        let element = lhs.dtype.into();
        let mut elements =
            MatmulElems::from_globals(&MatmulGlobalElems { lhs: element, rhs: element, out: DType::F32.into() });
        let [lhs, rhs] = [&lhs, &rhs].map(|x| InputBinding::new(x.clone().binding(), element));
        launch_ref(strategy, &out.client, lhs, rhs, out.clone().binding(), &mut elements)
    };
    let key =
        (lhs.device.clone(), lhs.dtype, [&lhs, &rhs].map(|x| (x.meta.shape().to_vec(), x.meta.strides().to_vec())));
    let known = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
    let chosen = known.unwrap_or_else(|| {
        // A kernel that a GPU refuses to launch is told of when the queue is flushed; what is told now is not of this product.
        out.client.flush().expect("the GPU has done what came before");
        let runs = |strategy: &&Strategy| launch(strategy).is_ok() && out.client.flush().is_ok();
        let chosen =
            strategies.iter().position(|strategy| runs(&strategy)).expect("the plainest kernel takes any shape");
        CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, chosen);
        chosen
    });
    if known.is_some() {
        launch(&strategies[chosen]).expect("the kernel has run with these shapes before");
    }
    out
}

/// Device, type, shapes and strides of a product.
type Product = (CudaDevice, DType, [(Vec<usize>, Vec<usize>); 2]);

/// Which of the strategies for its type a product is computed by: the first that the GPU runs.
static CHOSEN: LazyLock<Mutex<HashMap<Product, usize>>> = LazyLock::new(Mutex::default);

/// Multiply-adds in float32, which no unit for matrices has. The second is for shapes that the tiles of the first do not fit.
static SINGLE: LazyLock<[Strategy; 2]> = LazyLock::new(|| [Strategy::SimpleUnit(Default::default()), Strategy::Naive]);

/// By the units for matrices, fastest first: on an H100 230, 200 and 140 TFLOP/s for SEED-2's layers, in which burn's own choice
/// makes 33. The first two need a GPU that copies tiles by itself (Hopper), and rows that begin at multiples of 16 bytes.
static HALF: LazyLock<[Strategy; 5]> = LazyLock::new(|| {
    let tile_matmul = TileMatmulKind::Mma;
    let double = DoubleBufferingArgs { specialized: false, tile_matmul };
    [
        Strategy::DoubleTmaMma(BlueprintStrategy::Inferred(double)),
        Strategy::SimpleTmaMma(BlueprintStrategy::Inferred(SimpleArgs { multi_rows: false, tile_matmul })),
        Strategy::SimpleCyclicMma(BlueprintStrategy::Inferred(SimpleArgs { multi_rows: true, tile_matmul })),
        Strategy::Auto,
        Strategy::Naive,
    ]
});

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
