//! Tests that every backend of the build must pass.

/// Makes a test of each function, which is generic over the backend: on the CPU, and in the modules `cuda` and `wgpu` on
/// the first device of these, where the build has them.
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        mod flex {
            $(#[test] fn $test() { super::$test::<burn_flex::Flex>(); })*
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $(#[test] fn $test() { super::$test::<burn_cuda::Cuda>(); })*
        }
        #[cfg(feature = "wgpu")]
        mod wgpu {
            $(#[test] fn $test() { super::$test::<burn_wgpu::Wgpu>(); })*
        }
    };
}
pub(crate) use on_every_backend;
