//! Found objects, the true scene -> how many attributes are right.

use std::ops::AddAssign;

use serde::Serialize;

use super::{Detected, Found};
use crate::scenes::{Object, Scene, centre};

/// Attributes that are right, summed over scenes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attributes {
    /// Scenes.
    pub scenes: usize,
    /// Objects of the scenes.
    pub objects: usize,
    /// Objects for which one was found.
    pub found: usize,
    /// Objects that were found and are none of the scenes'.
    pub extra: usize,
    /// Objects whose colour is right.
    pub colour: usize,
    /// Objects whose shape is right.
    pub shape: usize,
    /// Objects whose cell is right.
    pub cell: usize,
    /// Objects whose size is right.
    pub size: usize,
    /// Objects whose texture is right.
    pub texture: usize,
    /// Scenes whose background has the right colour.
    pub shade: usize,
    /// Scenes whose background is of the right kind.
    pub backdrop: usize,
}

impl Attributes {
    /// Share of the objects' colours, shapes and cells that are right.
    pub fn share(&self) -> f64 {
        (self.colour + self.shape + self.cell) as f64 / (3 * self.objects).max(1) as f64
    }
}

impl AddAssign for Attributes {
    fn add_assign(&mut self, other: Self) {
        self.scenes += other.scenes;
        self.objects += other.objects;
        self.found += other.found;
        self.extra += other.extra;
        self.colour += other.colour;
        self.shape += other.shape;
        self.cell += other.cell;
        self.size += other.size;
        self.texture += other.texture;
        self.shade += other.shade;
        self.backdrop += other.backdrop;
    }
}

/// Attributes of `scene` that were `detected`. Each true object is compared with a found one of its own, so that the
/// sum of the distances is as small as can be; what it looks like plays no part in that. All attributes of an object for
/// which none is left are wrong.
pub fn score(detected: &Detected, scene: &Scene) -> Attributes {
    let (_, pairs) = assign(&detected.objects.iter().collect::<Vec<_>>(), scene.objects());
    let mut right = Attributes {
        scenes: 1,
        objects: scene.objects().len(),
        found: pairs.len(),
        extra: detected.objects.len() - pairs.len(),
        shade: usize::from(detected.background.shade == scene.background().shade),
        backdrop: usize::from(detected.background.backdrop == scene.background().backdrop),
        ..Attributes::default()
    };
    for (found, object) in pairs {
        right.colour += usize::from(found.colour == object.colour);
        right.shape += usize::from(found.shape == object.shape);
        right.cell += usize::from(found.cell == object.cell);
        right.size += usize::from(found.size == object.size);
        right.texture += usize::from(found.texture == object.texture);
    }
    right
}

/// A found object and the true one that it stands for.
type Pair<'a> = (&'a Found, &'a Object);

/// As many pairs as there can be, with the least sum of distances, and that sum. At most three of each: all
/// assignments are tried.
fn assign<'a>(found: &[&'a Found], objects: &'a [Object]) -> (f32, Vec<Pair<'a>>) {
    /// More than all distances within a picture together.
    const NO_PAIR: f32 = 10.0;
    let Some((object, others)) = objects.split_first() else { return (0.0, Vec::new()) };
    let (cost, pairs) = assign(found, others);
    let left_out = (cost + NO_PAIR, pairs);
    let taken = found.iter().enumerate().map(|(i, &one)| {
        let rest: Vec<&Found> = found.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, &other)| other).collect();
        let (cost, mut pairs) = assign(&rest, others);
        pairs.push((one, object));
        let (x, y) = centre(object);
        (cost + (one.at.0 - x).hypot(one.at.1 - y), pairs)
    });
    taken.chain([left_out]).min_by(|a, b| a.0.total_cmp(&b.0)).expect("leaving out is always possible")
}
