//! The detector on pictures whose objects are known, and on pictures that hold none.

use image::{Rgb, RgbImage};
use rayon::prelude::*;

use super::*;
use crate::scenes::{Jitter, Object, Split};

/// Seed of the scenes; the constants were chosen on others.
const SEED: u64 = 5;

fn scenes(count: u64) -> impl Iterator<Item = Scene> {
    (0..count).map(|index| Scene::sample(SEED, index, Split::HeldOut))
}

/// Sums the scores of pictures `draw`n of scenes.
fn total(count: u64, draw: impl Fn(&Scene) -> RgbImage + Sync) -> Attributes {
    let scenes: Vec<Scene> = scenes(count).collect();
    let scores: Vec<Attributes> = scenes.par_iter().map(|scene| score(&detect(&draw(scene)), scene)).collect();
    scores.into_iter().fold(Attributes::default(), |mut sum, one| {
        sum += one;
        sum
    })
}

#[test]
fn originals_are_read() {
    let right = total(200, |scene| scene.render(64));
    assert!(right.share() >= 0.99, "{right:?}");
    assert!(right.size.min(right.texture) as f64 >= 0.97 * right.objects as f64, "{right:?}");
    assert_eq!((right.scenes, right.found, right.extra), (200, right.objects, 0), "{right:?}");
    assert!(right.shade.min(right.backdrop) >= 198, "{right:?}");
}

#[test]
fn other_sizes_are_read() {
    for side in [48, 96, 256] {
        let right = total(40, |scene| scene.render(side));
        assert!(right.share() >= 0.97, "{side}: {right:?}");
    }
}

#[test]
fn soft_pictures_are_read() {
    let right = total(100, |scene| {
        let shrunk = resize(&scene.render(64), 24, 24, Filter::Bicubic);
        resize(&shrunk, 64, 64, Filter::Bicubic)
    });
    assert!(right.share() >= 0.9, "{right:?}");
}

#[test]
fn another_scene_scores_as_chance() {
    let others: Vec<Scene> = scenes(201).collect();
    let mut right = Attributes::default();
    for pair in others.windows(2) {
        right += score(&detect(&pair[0].render(64)), &pair[1]);
    }
    // Of eight colours, six shapes and nine cells; objects that have no partner count as wrong.
    assert!(right.share() < 0.25, "{right:?}");
    assert!(right.colour * 5 < right.objects && right.shape * 4 < right.objects, "{right:?}");
}

#[test]
fn pictures_without_objects_have_none() {
    let empty = RgbImage::from_pixel(64, 64, Rgb([135, 135, 135]));
    let detected = detect(&empty);
    assert_eq!(detected.objects, []);
    assert_eq!((detected.background.shade.text(), detected.background.backdrop.text()), ("grey", "flat"));
    let scene = Scene::sample(SEED, 0, Split::HeldOut);
    let nothing = score(&detected, &scene);
    assert_eq!((nothing.found, nothing.colour + nothing.shape + nothing.cell), (0, 0));
    assert_eq!(nothing.objects, scene.objects().len());
    // What is no scene at all is no error: whatever is found is compared.
    let noise = RgbImage::from_fn(64, 64, |x, y| Rgb([0, 1, 2].map(|c| (x * 7919 + y * 104_729 + c * 31) as u8)));
    assert!(detect(&noise).objects.len() <= Scene::MAX_OBJECTS);
    assert!(detect(&RgbImage::new(1, 1)).objects.len() <= Scene::MAX_OBJECTS);
}

#[test]
fn objects_are_paired_by_place_alone() {
    let object = |shape, colour, cell| {
        let (texture, size, jitter) = (Texture::Plain, Size::Large, Jitter::default());
        Object { shape, colour, texture, size, cell, jitter }
    };
    let truth =
        [object(Shape::Circle, Colour::Red, Cell::TopLeft), object(Shape::Square, Colour::Blue, Cell::BottomRight)];
    let found = |object: &Object, cell: Cell| {
        let Object { shape, colour, texture, size, .. } = *object;
        let at = crate::scenes::centre(&Object { cell, ..*object });
        Found { shape, colour, texture, size, cell, at, explained: 1.0 }
    };
    let background = Scene::sample(SEED, 0, Split::HeldOut).background();
    let scene = Scene::new(truth.to_vec(), background).unwrap();
    let score = |objects: Vec<Found>| score(&Detected { objects, background }, &scene);

    // The two have exchanged their places: every cell is taken, every look is wrong.
    let swapped = score(vec![found(&truth[0], Cell::BottomRight), found(&truth[1], Cell::TopLeft)]);
    assert_eq!((swapped.cell, swapped.colour, swapped.shape, swapped.size), (2, 0, 0, 2));
    // One is missing, the other has moved.
    let moved = score(vec![found(&truth[1], Cell::Right)]);
    assert_eq!((moved.found, moved.extra, moved.cell, moved.colour, moved.shape), (1, 0, 0, 1, 1));
    // One too many: the one in the right place is taken, wherever it stands in the list.
    let third = found(&object(Shape::Ring, Colour::White, Cell::Top), Cell::Top);
    let more = score(vec![third, found(&truth[0], Cell::TopLeft), found(&truth[1], Cell::BottomRight)]);
    assert_eq!((more.found, more.extra, more.cell, more.colour, more.shape), (2, 1, 2, 2, 2));
    assert_eq!(more.share(), 1.0);
}
