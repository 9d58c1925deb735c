//! Scene, size -> pixels.
//!
//! Edges are smoothed by counting samples in each pixel near an object. Only basic arithmetic, square
//! roots and comparisons of float32 decide a sample and integers mix the colours, so that every platform draws the same bytes.
//!
//! | symbol | meaning |
//! |---|---|
//! | `x`, `y` | offset from the object's centre, in sides of the image |
//! | `u`, `v` | the same in radii of the object: the object lies within -1 to 1 |

use image::{Rgb, RgbImage};

use super::scene::{Backdrop, Colour, Jitter, Object, Scene, Shade, Shape, Size, Texture};

/// Samples along each axis of a pixel.
const GRID: u32 = 4;
/// Samples of a pixel.
pub(crate) const SAMPLES: u32 = GRID * GRID;
/// Width of a light and a dark stripe together, across the stripes' diagonal, in sides (5.3 pixels in a row of 64).
const STRIPES: f32 = 1.0 / 12.0;
/// Distance of neighbouring dots, in sides (4.6 pixels of 64).
const DOTS: f32 = 1.0 / 14.0;
/// Radius of a dot in distances of neighbouring dots.
const DOT_RADIUS: f32 = 0.32;
/// Width of the rim that textures leave, so that the outline reads on every background, in sides (0.6 pixels of 64).
const RIM: f32 = 1.0 / 110.0;

impl Scene {
    /// The picture, `size` x `size` pixels; 64 is enough to tell every attribute.
    pub fn render(&self, size: u32) -> RgbImage {
        let mut image = self.render_background(size);
        for object in self.objects() {
            draw(&mut image, object);
        }
        image
    }

    fn render_background(&self, size: u32) -> RgbImage {
        let mut bytes = Vec::with_capacity(size as usize * size as usize * 3);
        let (top, bottom) = shade_ends(self.background().shade);
        for row in 0..size {
            // The middle of the row, in halves of rows; a flat background is the middle of its gradient.
            let (below, all) = match self.background().backdrop {
                Backdrop::Flat => (1, 2),
                Backdrop::Gradient => (2 * row + 1, 2 * size),
            };
            let colour = mix([(top, all - below), (bottom, below)]);
            for _ in 0..size {
                bytes.extend_from_slice(&colour);
            }
        }
        RgbImage::from_raw(size, size, bytes).expect("size x size pixels were pushed")
    }
}

/// Lightest (top) and darkest (bottom) colour of a background.
pub(crate) const fn shade_ends(shade: Shade) -> ([u8; 3], [u8; 3]) {
    match shade {
        Shade::Grey => ([175, 175, 175], [95, 95, 95]),
        Shade::Pink => ([240, 185, 200], [190, 115, 140]),
        Shade::Teal => ([110, 190, 190], [40, 115, 115]),
        Shade::Brown => ([165, 125, 95], [95, 65, 45]),
        Shade::Navy => ([85, 100, 160], [35, 42, 85]),
        Shade::Tan => ([230, 208, 170], [175, 145, 105]),
    }
}

/// Colour of an object, and the second shade of its stripes and dots.
pub(crate) const fn inks(colour: Colour) -> ([u8; 3], [u8; 3]) {
    match colour {
        Colour::Red => ([225, 25, 30], [115, 0, 10]),
        Colour::Green => ([40, 175, 40], [5, 80, 15]),
        Colour::Blue => ([25, 75, 240], [140, 190, 255]),
        Colour::Yellow => ([252, 222, 30], [165, 130, 0]),
        Colour::Purple => ([145, 40, 190], [225, 165, 250]),
        Colour::Orange => ([250, 135, 10], [155, 65, 0]),
        Colour::White => ([252, 252, 252], [160, 160, 170]),
        Colour::Black => ([10, 10, 10], [105, 105, 105]),
    }
}

/// Distance from the centre of an object to the edge of its bounding square, in sides.
pub(super) const fn radius(size: Size) -> f32 {
    match size {
        Size::Small => 0.095,
        Size::Large => 0.15,
    }
}

/// Centre of an object, in sides from the left and from the top.
pub(crate) fn centre(object: &Object) -> (f32, f32) {
    let (column, row) = object.cell.column_row();
    let Jitter { x, y } = object.jitter;
    let along = |cell: u8, jitter: i8| (2.0 * f32::from(cell) + 1.0) / 6.0 + f32::from(jitter) / 256.0;
    (along(column, x), along(row, y))
}

fn draw(image: &mut RgbImage, object: &Object) {
    let (ink, second_ink) = inks(object.colour);
    cover(object, image.width(), |column, row, first, second| {
        let Rgb(behind) = *image.get_pixel(column, row);
        let parts = [(behind, SAMPLES - first - second), (ink, first), (second_ink, second)];
        image.put_pixel(column, row, Rgb(mix(parts)));
    });
}

/// Calls `each` with column and row of every pixel of a picture `side` pixels wide and high that `object` covers, and how many of
/// its [`SAMPLES`] are of the object's first ink and of its second.
pub(crate) fn cover(object: &Object, side: u32, mut each: impl FnMut(u32, u32, u32, u32)) {
    let radius = radius(object.size);
    let (centre_x, centre_y) = centre(object);
    let step = 1.0 / (side * GRID) as f32;
    let pixels = |middle: f32| {
        let from = ((middle - radius) * side as f32).max(0.0) as u32;
        let to = ((middle + radius) * side as f32).max(0.0) as u32 + 1;
        from..to.min(side)
    };
    for row in pixels(centre_y) {
        for column in pixels(centre_x) {
            let (mut first, mut second) = (0, 0);
            for sample_row in 0..GRID {
                let y = ((row * GRID + sample_row) as f32 + 0.5) * step - centre_y;
                for sample_column in 0..GRID {
                    let x = ((column * GRID + sample_column) as f32 + 0.5) * step - centre_x;
                    let depth = depth(object.shape, x / radius, y / radius) * radius;
                    if depth < 0.0 {
                        continue;
                    }
                    if depth > RIM && takes_second_ink(object, x, y) { second += 1 } else { first += 1 }
                }
            }
            if first + second > 0 {
                each(column, row, first, second);
            }
        }
    }
}

/// Distance from the edge of a shape, in radii: positive inside. Exact near edges, less than the truth near corners.
fn depth(shape: Shape, u: f32, v: f32) -> f32 {
    let (across, along) = (u.abs(), v.abs());
    match shape {
        Shape::Circle => 1.0 - (u * u + v * v).sqrt(),
        Shape::Square => 0.88 - across.max(along),
        // Upright, apex at the top; the sides are steep, with normals of length sqrt(5).
        Shape::Triangle => (0.86 - v).min((v + 1.0 - 2.0 * across) / 5.0_f32.sqrt()),
        Shape::Diamond => (1.0 - across - along) / 2.0_f32.sqrt(),
        Shape::Cross => (0.96 - across.max(along)).min(0.36 - across.min(along)),
        Shape::Ring => 0.27 - ((u * u + v * v).sqrt() - 0.73).abs(),
    }
}

fn takes_second_ink(object: &Object, x: f32, y: f32) -> bool {
    match object.texture {
        Texture::Plain => false,
        Texture::Striped => {
            let phase = (x + y) / STRIPES;
            phase - phase.floor() >= 0.5
        }
        Texture::Dotted => {
            // Dots run along the middle of the narrow shapes, and beside that of the others: few are cut by an edge.
            let start = match object.shape {
                Shape::Cross | Shape::Ring => 0.5,
                Shape::Circle | Shape::Square | Shape::Triangle | Shape::Diamond => 0.0,
            };
            let from_dot = |offset: f32| {
                let phase = offset / DOTS + start;
                phase - phase.floor() - 0.5
            };
            let (x, y) = (from_dot(x), from_dot(y));
            x * x + y * y <= DOT_RADIUS * DOT_RADIUS
        }
    }
}

/// Weighted mean of colours, rounded; the weights are not all 0.
fn mix<const N: usize>(parts: [([u8; 3], u32); N]) -> [u8; 3] {
    let total: u32 = parts.iter().map(|(_, weight)| weight).sum();
    [0, 1, 2].map(|channel| {
        let sum: u32 = parts.iter().map(|(colour, weight)| u32::from(colour[channel]) * weight).sum();
        ((sum + total / 2) / total) as u8
    })
}
