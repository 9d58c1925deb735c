//! Arrays of pixels -> RGB, without holding a call's images twice.
//!
//! What Python holds may change as soon as the interpreter is free, so it is taken before. Copying images that are larger than
//! what the network reads would cost more than anything else does besides the network, and as much memory as they have: those
//! are resized where they lie, which has to be done anyway, a pile at a time. Between two piles other threads have their turn.

use std::sync::OnceLock;

use numpy::{PyArrayDyn, PyArrayMethods as _, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use seed_core::pixels::{Preprocessor, RgbBuffer, RgbImage};

use crate::{
    call::refuse_forks,
    errors::{argument, raise},
    images::Input,
};

/// Bytes of arrays that are resized between two turns of other threads: some ten milliseconds of work.
const PILE: usize = 32 << 20;
/// How many times as many pixels as the network reads an array must have to be resized where it lies.
const LARGE: usize = 2;

/// An array of pixels that is still Python's: height x width, or height x width x 1, 3 or 4; grey, RGB, or RGB with an alpha that
/// is dropped.
pub(crate) struct Lying<'py> {
    array: PyReadonlyArrayDyn<'py, u8>,
    width: u32,
    height: u32,
    channels: usize,
}

impl<'py> Lying<'py> {
    /// Refuses what is no image; `index` names it.
    pub(crate) fn new(array: &Bound<'py, PyUntypedArray>, index: usize) -> PyResult<Self> {
        let shape = array.shape();
        let fail = |reason: &str| {
            let value = format!("an array of {} {shape:?} at {index}", array.dtype());
            argument(array.py(), "image", value, reason)
        };
        let Ok(bytes) = array.cast::<PyArrayDyn<u8>>() else {
            return Err(fail(
                "pixels are uint8, from 0 to 255, height x width x 3; what is normalised already goes to encode_pixels",
            ));
        };
        let (height, width, channels) = match *shape {
            [height, width] => (height, width, 1),
            [height, width, channels @ (1 | 3 | 4)] => (height, width, channels),
            [1 | 3 | 4, _, _] => {
                return Err(fail(
                    "channels are last, height x width x 3; call permute(1, 2, 0) or numpy.moveaxis(x, 0, -1)",
                ));
            }
            _ => return Err(fail("an image is height x width x 3")),
        };
        match (u32::try_from(width), u32::try_from(height)) {
            (Ok(width @ 1..), Ok(height @ 1..)) => Ok(Self { array: bytes.readonly(), width, height, channels }),
            _ => Err(fail("it has no pixels")),
        }
    }

    /// The image where it lies, if it lies there as RGB, row after row.
    fn in_place(&self) -> Option<RgbBuffer<&[u8]>> {
        let bytes = self.array.as_slice().ok().filter(|_| self.channels == 3 && self.array.is_c_contiguous())?;
        RgbBuffer::from_raw(self.width, self.height, bytes)
    }

    /// A copy.
    fn copy(&self) -> RgbImage {
        // A view with strides, and an array in Fortran's order, are read in the order of their axes.
        let owned: Vec<u8> = match self.array.as_slice() {
            Ok(bytes) if self.array.is_c_contiguous() => bytes.to_vec(),
            _ => self.array.as_array().iter().copied().collect(),
        };
        let pixels = match self.channels {
            1 => owned.iter().flat_map(|&level| [level; 3]).collect(),
            3 => owned,
            _ => owned.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        };
        RgbImage::from_raw(self.width, self.height, pixels).expect("as many bytes as the array's shape says")
    }
}

/// Images in the order in which they are given, some of which still lie in Python's memory.
pub(crate) struct Pile<'py, 'p> {
    py: Python<'py>,
    preprocessor: Option<&'p Preprocessor>,
    /// Nothing in the place of one that lies.
    taken: Vec<Option<Input>>,
    lying: Vec<(usize, Lying<'py>)>,
    bytes: usize,
}

impl<'py, 'p> Pile<'py, 'p> {
    pub(crate) fn new(py: Python<'py>, preprocessor: Option<&'p Preprocessor>) -> Self {
        Self { py, preprocessor, taken: Vec::new(), lying: Vec::new(), bytes: 0 }
    }

    /// An image that is taken already.
    pub(crate) fn add(&mut self, input: Input) {
        self.taken.push(Some(input));
    }

    /// An array, which is copied, or put aside to be resized.
    pub(crate) fn lay(&mut self, lying: Lying<'py>) -> PyResult<()> {
        let area = lying.width as usize * lying.height as usize;
        let is_large = self.preprocessor.is_some_and(|to| area > LARGE * (to.size * to.size) as usize);
        if !is_large || lying.in_place().is_none() {
            self.taken.push(Some(Input::Rgb(lying.copy())));
            return Ok(());
        }
        self.bytes += lying.array.len();
        self.lying.push((self.taken.len(), lying));
        self.taken.push(None);
        if self.bytes >= PILE {
            self.shrink()?;
            self.py.check_signals()?;
            self.py.detach(|| ());
        }
        Ok(())
    }

    /// All images.
    pub(crate) fn take(mut self) -> PyResult<Vec<Input>> {
        self.shrink()?;
        Ok(self.taken.into_iter().map(|input| input.expect("nothing lies any more")).collect())
    }

    /// Resizes what lies.
    fn shrink(&mut self) -> PyResult<()> {
        let (lying, Some(to)) = (std::mem::take(&mut self.lying), self.preprocessor) else { return Ok(()) };
        self.bytes = 0;
        if lying.is_empty() {
            return Ok(());
        }
        let images: Vec<_> = lying.iter().filter_map(|(place, lying)| Some((*place, lying.in_place()?))).collect();
        let resize = |(place, image): &(usize, RgbBuffer<&[u8]>)| (*place, Input::Rgb(to.resize(image)));
        let resized: Vec<_> = pool(self.py)?.install(|| images.par_iter().map(resize).collect());
        for (place, input) in resized {
            self.taken[place] = Some(input);
        }
        Ok(())
    }
}

/// Threads for what is done while the interpreter is held. Those of the networks may be busy for seconds.
fn pool(py: Python<'_>) -> PyResult<&'static ThreadPool> {
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    refuse_forks(py)?;
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let threads = rayon::current_num_threads();
    let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("seed_tokenizer take {i}"));
    let pool = builder.build();
    let pool = pool.map_err(|error| raise(py, "InternalError", &format!("cannot start a thread: {error}")))?;
    Ok(POOL.get_or_init(|| pool))
}
