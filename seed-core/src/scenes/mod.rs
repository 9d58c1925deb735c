//! Procedural captioned images: training data, test data and demo that need no download.
//!
//! A [`Scene`] holds one to three [`Object`]s in different cells of a 3 x 3 grid, on a [`Background`]. It knows its
//! caption, which states every attribute exactly once, and draws itself at any size:
//!
//! ```
//! use seed_core::scenes::{Scene, Split};
//!
//! let scene = Scene::sample(7, 0, Split::Train);
//! println!("{}", scene.caption());
//! assert_eq!(scene.render(64).dimensions(), (64, 64));
//! ```
//!
//! | file | in | out |
//! |---|---|---|
//! | `scene` | seed, index, split | [`Scene`], and a [`Scene::variant`] that differs in one attribute |
//! | `caption` | scene | caption, made of [`words`] only |
//! | `render` | scene, size | pixels |
//! | `folder` | count, seed, split, size | PNG files and their captions |
//!
//! Everything is a function of its arguments: the same seed and index give the same caption and the same bytes on every
//! platform. Objects are held in a canonical order, so that scenes with the same caption show the same picture up to a
//! small jitter of the positions, and scenes with different captions show different pictures. The [`Split`] is a hash of
//! the caption: no held-out picture can be trained on, whatever the seeds.

mod caption;
mod folder;
mod render;
mod scene;

pub use caption::words;
pub use folder::{CAPTIONS, write_folder};
pub(crate) use render::{SAMPLES, centre, cover, inks, shade_ends};
pub use scene::{Backdrop, Background, Cell, Colour, Jitter, Object, Scene, Shade, Shape, Size, Split, Texture};

#[cfg(test)]
mod tests;
