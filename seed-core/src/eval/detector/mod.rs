//! Pixels of a scene -> the objects in it, and how many attributes of the true ones they have: a judge of reconstructions
//! that is no neural network and has seen no training data.
//!
//! Analysis by synthesis. What lies behind is a line of colours from top to bottom, fitted to the pixels that agree on one
//! (`background`). Cells do not overlap, so each is explained on its own: every look of an object, at every place around
//! the middle of the cell, sharp and blurred, is drawn over that background (`templates`), and the one with the least
//! squared distance from the pixels is what is there, if it explains most of what it would add. Two things make it fair
//! to pictures that were drawn softly: a blurred object is compared with blurred looks, and an object's colour may be off by
//! a constant, at a price that grows with the square of that. How far is the only number here that was chosen by looking
//! at reconstructions, of other scenes than those that are measured.
//!
//! It knows what scenes are (see [`scenes`](crate::scenes)): their shapes, inks, sizes, cells, and that they hold three objects
//! at most. It does not know the scene.

mod background;
mod score;
mod templates;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use image::RgbImage;

pub use score::{Attributes, score};

use crate::{
    pixels::{Filter, resize},
    scenes::{Background, Cell, Colour, Scene, Shape, Size, Texture, inks},
};
use background::Line;
use templates::{MASKS, SIDE, Template, WINDOW, corner, templates};

/// Price of a wrong colour: the squared difference counts as that of so many pixels.
const PALETTE: f32 = 60.0;
/// Share of what an object would add to the background that it must explain at least.
const EXPLAINED: f32 = 0.4;

/// An object that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its outline.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its surface.
    pub texture: Texture,
    /// Its size.
    pub size: Size,
    /// The cell that it lies in.
    pub cell: Cell,
    /// Its middle, in sides from the left and from the top.
    pub at: (f32, f32),
    /// Share of what it adds to the background that the pixels show: 1 when they are equal.
    pub explained: f32,
}

/// What was found in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Detected {
    /// The objects, at most as many as a scene can hold, the clearest first.
    pub objects: Vec<Found>,
    /// The background that is nearest.
    pub background: Background,
}

/// Finds the objects of a picture of any size; it is looked at as a square of 64 x 64 pixels.
pub fn detect(image: &RgbImage) -> Detected {
    // On one thread: a worker that waited here for others could be given a picture that waits for it.
    static TEMPLATES: LazyLock<Vec<(Cell, Vec<Template>)>> =
        LazyLock::new(|| Cell::ALL.into_iter().map(|cell| (cell, templates(cell))).collect());
    let image = resize(image, SIDE as u32, SIDE as u32, Filter::Bicubic);
    let pixels: Vec<[f32; 3]> = image.pixels().map(|pixel| pixel.0.map(f32::from)).collect();
    let (line, background) = background::fit(&pixels);
    let found = TEMPLATES.iter().filter_map(|(cell, templates)| {
        explain(&Around::new(*cell, &pixels, &line), templates).map(|best| (best, *cell))
    });
    let mut found: Vec<(Explanation<'_>, Cell)> = found.collect();
    found.sort_by(|(a, _), (b, _)| b.gain.total_cmp(&a.gain));
    found.truncate(Scene::MAX_OBJECTS);
    let objects = found.into_iter().map(|(best, cell)| best.found(cell)).collect();
    Detected { objects, background }
}

/// The window around a cell.
struct Around {
    /// Pixels less the background, `[3, WINDOW, WINDOW]`.
    rest: [Vec<f32>; 3],
    /// The background in the middle of the window, and its change a row.
    middle: [f32; 3],
    slope: [f32; 3],
}

impl Around {
    fn new(cell: Cell, pixels: &[[f32; 3]], line: &Line) -> Self {
        let (left, top) = corner(cell);
        let rest = [0, 1, 2].map(|channel| {
            let places = (top..top + WINDOW).flat_map(|y| (left..left + WINDOW).map(move |x| (y, x)));
            let behind = |row| line.at(background::sides_below_middle(row))[channel];
            places.map(|(y, x)| pixels[y * SIDE + x][channel] - behind(y)).collect()
        });
        let middle = line.at((top as f32 + WINDOW as f32 / 2.0) / SIDE as f32 - 0.5);
        Self { rest, middle, slope: line.slope.map(|slope| slope / SIDE as f32) }
    }

    fn drawn(&self, colour: Colour) -> Drawn {
        let (ink, second_ink) = inks(colour);
        [0, 1, 2].map(|i| {
            let over = |ink: [u8; 3]| f32::from(ink[i]) - self.middle[i];
            [over(ink), over(second_ink), -self.slope[i]]
        })
    }

    /// Products of the pixels with the masks of `template`, by channel.
    fn shown(&self, template: &Template) -> Drawn {
        let pixels = template.pixels.clone();
        self.rest
            .each_ref()
            .map(|rest| template.masks.each_ref().map(|mask| dot(&mask[pixels.clone()], &rest[pixels.clone()])))
    }
}

/// A look and how well it explains a window.
#[derive(Clone, Copy)]
struct Explanation<'a> {
    template: &'a Template,
    colour: Colour,
    /// What the squared distance of the pixels from the background falls by when the object is drawn over it.
    gain: f32,
    /// The squared distance of the object from the background.
    energy: f32,
}

impl Explanation<'_> {
    fn found(&self, cell: Cell) -> Found {
        let Template { shape, texture, size, at, .. } = *self.template;
        Found { shape, colour: self.colour, texture, size, cell, at, explained: self.gain / self.energy }
    }
}

/// What a window's three masks are drawn with, by channel, for one colour: less the background, as the masks' table says.
type Drawn = [[f32; MASKS]; 3];

/// The look and colour that explain most, if any explains enough.
fn explain<'a>(around: &Around, templates: &'a [Template]) -> Option<Explanation<'a>> {
    let drawn = Colour::ALL.map(|colour| (colour, around.drawn(colour)));
    // No object lowers the squared distance by more than all of it: most windows are empty, and hold too little for any.
    let all: f32 = around.rest.iter().map(|rest| dot(rest, rest)).sum();
    let explanations = templates.iter().flat_map(|template| {
        let possible = drawn.iter().map(|(colour, drawn)| (*colour, drawn, energy(template, drawn)));
        let mut possible = possible.filter(|(.., energy)| EXPLAINED * energy <= all).peekable();
        let shown = possible.peek().map(|_| around.shown(template)).unwrap_or_default();
        possible.map(move |(colour, drawn, energy)| {
            let gain = gain(template, drawn, &shown);
            Explanation { template, colour, gain, energy }
        })
    });
    let best = explanations.max_by(|a, b| a.gain.total_cmp(&b.gain))?;
    (best.gain >= EXPLAINED * best.energy).then_some(best)
}

/// The squared distance from the background of an object that is drawn over it: `c.G.c`, with the masks' products `G`
/// and what they are drawn with `c`.
fn energy(template: &Template, drawn: &Drawn) -> f32 {
    drawn.iter().map(|drawn| times(&template.products, drawn).iter().zip(drawn).map(|(g, c)| g * c).sum::<f32>()).sum()
}

/// What the squared distance of the pixels falls by when an object is drawn over the background: `2 c.D - c.G.c` with `D`,
/// the pixels' products with the masks. A constant added to both inks, at the price [`PALETTE`], lowers it further, by
/// `(u.(D - G c))^2 / (u.G.u + PALETTE)` with `u = (1, 1, 0)`.
fn gain(template: &Template, drawn: &Drawn, shown: &Drawn) -> f32 {
    let products = &template.products;
    let both = products[0][0] + 2.0 * products[0][1] + products[1][1];
    let channel = |(drawn, shown): (&[f32; MASKS], &[f32; MASKS])| {
        let with = times(products, drawn);
        let terms = drawn.iter().zip(shown).zip(with).map(|((c, d), g)| c * (2.0 * d - g));
        let off = shown[0] - with[0] + shown[1] - with[1];
        terms.sum::<f32>() + off * off / (both + PALETTE)
    };
    drawn.iter().zip(shown).map(channel).sum()
}

fn times(matrix: &[[f32; MASKS]; MASKS], vector: &[f32; MASKS]) -> [f32; MASKS] {
    matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
}

/// Inner product, in an order of additions that the compiler can do side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
