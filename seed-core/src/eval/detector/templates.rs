//! Looks of one object -> what they add to a background, as three masks over the pixels around a cell.
//!
//! | symbol | meaning |
//! |---|---|
//! | `a1`, `a2` | share of a pixel that the object's first and second ink cover |
//! | `bg + g t` | background `t` rows below the middle of the window |
//!
//! The object drawn over it is `bg + g t + a1 (ink1 - bg) + a2 (ink2 - bg) - (a1 + a2) t g`: linear in the masks `a1`, `a2` and
//! `(a1 + a2) t`, so that its squared distance from pixels needs the products of the masks with the pixels, which all
//! colours share, and with each other, which are known before. A softly drawn object is one whose masks are blurred.

use crate::scenes::{Cell, Colour, Jitter, Object, SAMPLES, Shape, Size, Texture, centre, cover};

/// Width and height of the pictures that are looked at.
pub(super) const SIDE: usize = 64;
/// Width and height of the window around a cell.
pub(super) const WINDOW: usize = 22;
/// Furthest that an object is looked for from the middle of its cell, in pixels along each axis.
const REACH: isize = 2;
/// Standard deviations of the blurs that objects are looked for with, in pixels.
const BLURS: [f32; 3] = [0.0, 1.0, 2.0];
/// Masks of a template.
pub(super) const MASKS: usize = 3;

/// One look at one place.
pub(super) struct Template {
    pub(super) shape: Shape,
    pub(super) texture: Texture,
    pub(super) size: Size,
    /// Middle of the object, in sides from the left and from the top.
    pub(super) at: (f32, f32),
    /// Pixels of the window, in whole rows, outside of which the masks are 0.
    pub(super) pixels: std::ops::Range<usize>,
    /// The masks, each `[WINDOW, WINDOW]`.
    pub(super) masks: [Vec<f32>; MASKS],
    /// Products of the masks with each other, summed over the window.
    pub(super) products: [[f32; MASKS]; MASKS],
}

/// Upper left corner of the window around a cell, in pixels.
pub(super) fn corner(cell: Cell) -> (usize, usize) {
    let (column, row) = cell.column_row();
    let along = |cell: u8| usize::from(cell) * (SIDE - WINDOW) / 2;
    (along(column), along(row))
}

/// Every look of an object in `cell`, apart from its colour, at every place within reach.
pub(super) fn templates(cell: Cell) -> Vec<Template> {
    let mut all = Vec::new();
    for shape in Shape::ALL {
        for texture in Texture::ALL {
            for size in Size::ALL {
                let jitter = Jitter::default();
                let object = Object { shape, colour: Colour::Red, texture, size, cell, jitter }; // any colour: masks have none
                let sharp = masks(&object);
                for blur in BLURS {
                    let blurred = sharp.each_ref().map(|mask| smooth(mask, blur));
                    for (dx, dy) in (-REACH..=REACH).flat_map(|y| (-REACH..=REACH).map(move |x| (x, y))) {
                        all.push(Template::new(&object, &blurred, (dx, dy)));
                    }
                }
            }
        }
    }
    all
}

/// Covered shares of every pixel of a picture by first and second ink, each `[SIDE, SIDE]`.
fn masks(object: &Object) -> [Vec<f32>; 2] {
    let mut masks = [vec![0.0; SIDE * SIDE], vec![0.0; SIDE * SIDE]];
    cover(object, SIDE as u32, |column, row, first, second| {
        let pixel = row as usize * SIDE + column as usize;
        for (mask, count) in masks.iter_mut().zip([first, second]) {
            mask[pixel] = count as f32 / SAMPLES as f32;
        }
    });
    masks
}

/// A Gaussian blur of a `[SIDE, SIDE]` mask; beyond the picture there is nothing.
fn smooth(mask: &[f32], sigma: f32) -> Vec<f32> {
    if sigma == 0.0 {
        return mask.to_vec();
    }
    let reach = (3.0 * sigma).ceil() as isize;
    let weights: Vec<f32> = (-reach..=reach).map(|x| (-0.5 * (x as f32 / sigma).powi(2)).exp()).collect();
    let total: f32 = weights.iter().sum();
    let along = |mask: &[f32], step: (isize, isize)| -> Vec<f32> {
        let value = |x: isize, y: isize| {
            let inside = (0..SIDE as isize).contains(&x) && (0..SIDE as isize).contains(&y);
            if inside { mask[y as usize * SIDE + x as usize] } else { 0.0 }
        };
        let blurred = |x: isize, y: isize| {
            let terms = weights.iter().zip(-reach..=reach).map(|(w, by)| w * value(x + by * step.0, y + by * step.1));
            terms.sum::<f32>() / total
        };
        (0..SIDE as isize).flat_map(|y| (0..SIDE as isize).map(move |x| (x, y))).map(|(x, y)| blurred(x, y)).collect()
    };
    along(&along(mask, (1, 0)), (0, 1))
}

impl Template {
    fn new(object: &Object, shares: &[Vec<f32>; 2], (dx, dy): (isize, isize)) -> Self {
        let (left, top) = corner(object.cell);
        let window = |mask: &[f32]| -> Vec<f32> {
            let mut window = vec![0.0; WINDOW * WINDOW];
            for (y, x) in (0..WINDOW).flat_map(|y| (0..WINDOW).map(move |x| (y, x))) {
                let (row, column) = ((top + y) as isize - dy, (left + x) as isize - dx);
                if (0..SIDE as isize).contains(&row) && (0..SIDE as isize).contains(&column) {
                    window[y * WINDOW + x] = mask[row as usize * SIDE + column as usize];
                }
            }
            window
        };
        let (a1, a2) = (window(&shares[0]), window(&shares[1]));
        let covered = a1.iter().zip(&a2).map(|(a, b)| a + b);
        let sloped = covered.enumerate().map(|(i, a)| a * rows_below_middle(i / WINDOW)).collect();
        let masks = [a1, a2, sloped];
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        let (x, y) = centre(object);
        let touched = |row: &usize| masks.iter().any(|m| m[row * WINDOW..(row + 1) * WINDOW].iter().any(|&v| v != 0.0));
        let first = (0..WINDOW).find(touched).unwrap_or(0);
        let last = (0..WINDOW).rev().find(touched).map_or(0, |row| row + 1);
        Self {
            shape: object.shape,
            texture: object.texture,
            size: object.size,
            at: (x + dx as f32 / SIDE as f32, y + dy as f32 / SIDE as f32),
            pixels: first * WINDOW..last * WINDOW,
            products: [0, 1, 2].map(|i| [0, 1, 2].map(|j| dot(&masks[i], &masks[j]))),
            masks,
        }
    }
}

/// The symbol `t` of a row of the window.
pub(super) fn rows_below_middle(row: usize) -> f32 {
    row as f32 + 0.5 - WINDOW as f32 / 2.0
}
