//! Patches of some output positions, written as a panel.

use std::ops::Range;

use multiversion::multiversion;

use super::super::panels::Panel;
use crate::nn::conv::Sizes;

/// The patches of the columns of a panel. Columns that lie side by side in an output line are copied together.
pub(super) struct Patches<'a> {
    sizes: &'a Sizes,
    /// Columns of the panel.
    width: usize,
    /// Columns that are copied together: a power of two.
    together: usize,
    /// The first of each.
    places: Vec<Place>,
}

/// Where the patch of an output position begins, with the padding: from there on the input is read.
#[derive(Clone, Copy)]
struct Place {
    /// The first value of the image.
    image: usize,
    y: usize,
    x: usize,
}

impl<'a> Patches<'a> {
    /// Of a panel of the columns that `positions` of `images` make, an image after the other.
    pub(super) fn new(sizes: &'a Sizes, images: &Range<usize>, positions: &Range<usize>, panel: &Panel) -> Self {
        let [_, out_width] = sizes.output;
        let mut together = 1;
        while together < LARGEST && out_width.is_multiple_of(2 * together) && panel.columns.is_multiple_of(2 * together)
        {
            together *= 2;
        }
        let place = |column: usize| {
            let position = positions.start + column % positions.len();
            let image = (images.start + column / positions.len()) * sizes.channels[0] * sizes.input[0] * sizes.input[1];
            Place { image, y: position / out_width * sizes.stride, x: position % out_width * sizes.stride }
        };
        let places = (panel.first..panel.first + panel.columns).step_by(together).map(place).collect();
        Self { sizes, width: panel.width, together, places }
    }

    /// Columns of the panel.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Values of a patch for each channel.
    pub(super) fn area(&self) -> usize {
        self.sizes.area()
    }

    /// Writes the values of some channels of `x` as `[channels * k * k, width]`; what is beyond the columns does not matter.
    pub(super) fn write<T: Copy + Default>(&self, x: &[T], channels: Range<usize>, out: &mut [T]) {
        match self.together {
            1 => write_by::<T, 1>(self, x, channels, out),
            2 => write_by::<T, 2>(self, x, channels, out),
            4 => write_by::<T, 4>(self, x, channels, out),
            8 => write_by::<T, 8>(self, x, channels, out),
            16 => write_by::<T, 16>(self, x, channels, out),
            _ => write_by::<T, LARGEST>(self, x, channels, out),
        }
    }
}

/// Most columns that are copied together.
const LARGEST: usize = 32;

/// [`Patches::write`] with `N` columns copied together.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn write_by<T: Copy + Default, const N: usize>(patches: &Patches<'_>, x: &[T], channels: Range<usize>, out: &mut [T]) {
    let Sizes { input: [height, width], kernel, padding, stride, .. } = *patches.sizes;
    for (channel, out) in channels.zip(out.chunks_mut(kernel * kernel * patches.width)) {
        for (i, place) in patches.places.iter().enumerate() {
            let plane = &x[place.image + channel * height * width..][..height * width];
            for offset_y in 0..kernel {
                let y = (place.y + offset_y).wrapping_sub(padding);
                let line = if y < height { &plane[y * width..][..width] } else { &[] };
                for offset_x in 0..kernel {
                    let out = &mut out[(offset_y * kernel + offset_x) * patches.width + i * N..];
                    let Some(out) = out.first_chunk_mut::<N>() else {
                        unreachable!("a panel holds all of its columns")
                    };
                    let x = (place.x + offset_x).wrapping_sub(padding);
                    let inside = if stride == 1 { line.get(x..) } else { None };
                    match inside.and_then(|line| line.first_chunk::<N>()) {
                        Some(values) => *out = *values,
                        None => at_the_edge(line, x, stride, out),
                    }
                }
            }
        }
    }
}

/// Every `stride`-th value of a line from `first` on, which may be before its beginning; zeros outside.
#[inline(always)]
fn at_the_edge<T: Copy + Default, const N: usize>(line: &[T], first: usize, stride: usize, out: &mut [T; N]) {
    if stride > 1 {
        for (i, out) in out.iter_mut().enumerate() {
            *out = line.get(first.wrapping_add(i * stride)).copied().unwrap_or_default();
        }
        return;
    }
    *out = [T::default(); N];
    let before = first.wrapping_neg();
    if before < N {
        let len = line.len().min(N - before);
        out[before..before + len].copy_from_slice(&line[..len]);
    } else if let Some(values) = line.get(first..) {
        let len = values.len().min(N);
        out[..len].copy_from_slice(&values[..len]);
    }
}
