//! Properties of the world: determinism, splits, captions, variants, pictures, folders.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::caption::{MAX_WORDS, Relation};
use super::render::{inks, radius, shade_ends};
use super::scene::fnv1a;
use super::*;
use crate::error::Error;
use crate::pixels;

const SAMPLES: u64 = 20_000;

fn plain_words(caption: &str) -> Vec<String> {
    caption.split(' ').map(|word| word.replace(',', "")).collect()
}

fn lone(shape: Shape, colour: Colour, texture: Texture, size: Size, cell: Cell) -> Scene {
    let object = Object { shape, colour, texture, size, cell, jitter: Jitter::default() };
    let background = Background { shade: Shade::Grey, backdrop: Backdrop::Flat };
    Scene::new(vec![object], background).unwrap()
}

#[test]
fn scenes_are_the_same_for_ever() {
    let first = "a large yellow striped cross in the bottom left, below a small purple striped ring at the top, on a flat tan background";
    let middle = "a small white dotted triangle on the right, right of a large green plain diamond in the centre, on a grey gradient";
    let last = "a small blue striped circle at the top, above a large white plain square in the bottom left, on a flat grey background";
    let golden = [
        (0, 0, Split::Train, first, 0x1d2b_ef1a_4a04_69c2),
        (7, 123_456, Split::HeldOut, middle, 0x646f_b51a_e81b_97ac),
        (u64::MAX, u64::MAX, Split::Train, last, 0xee95_4c7b_4c37_30e7),
    ];
    for (seed, index, split, caption, hash) in golden {
        let scene = Scene::sample(seed, index, split);
        assert_eq!(scene.caption(), caption);
        let drawn = fnv1a(scene.render(64).as_raw());
        assert_eq!(drawn, hash, "{caption:?} is drawn as {drawn:#x}");
    }
}

#[test]
fn splits_never_overlap_and_captions_rarely_repeat() {
    let captions = |split| -> HashSet<String> {
        let scenes = (0..SAMPLES).map(|index| Scene::sample(3, index, split));
        scenes.inspect(|scene| assert_eq!(scene.split(), split)).map(|scene| scene.caption()).collect()
    };
    let (train, held_out) = (captions(Split::Train), captions(Split::HeldOut));
    assert!(train.is_disjoint(&held_out));
    // A quarter has one object, of which there are few: 31104 in all, an eighth of them held out.
    assert!(train.len() > 19_000, "{} of {SAMPLES} differ", train.len());
    assert!(held_out.len() > 17_000, "{} of {SAMPLES} differ", held_out.len());
    const { assert!(Scene::COUNT > 10_000_000) };
}

#[test]
fn one_of_eight_is_held_out_for_every_look() {
    let mut counts: HashMap<(Shape, Colour), (u32, u32)> = HashMap::new();
    for shape in Shape::ALL {
        for colour in Colour::ALL {
            for (texture, size, cell) in Texture::ALL
                .iter()
                .flat_map(|&texture| Size::ALL.iter().map(move |&size| (texture, size)))
                .flat_map(|(texture, size)| Cell::ALL.iter().map(move |&cell| (texture, size, cell)))
            {
                let (held_out, all) = counts.entry((shape, colour)).or_default();
                *all += 1;
                *held_out += u32::from(lone(shape, colour, texture, size, cell).split() == Split::HeldOut);
            }
        }
    }
    let total: u32 = counts.values().map(|(held_out, _)| held_out).sum();
    assert!((280..370).contains(&total), "{total} of 2592");
    for (look, (held_out, all)) in counts {
        assert!((1..=16).contains(&held_out), "{look:?}: {held_out} of {all}");
    }
}

#[test]
fn captions_use_the_words_and_only_them() {
    let words = words();
    assert!(words.windows(2).all(|pair| pair[0] < pair[1]), "sorted and unique");
    let mut used = BTreeSet::new();
    for index in 0..SAMPLES {
        let caption = Scene::sample(11, index, Split::Train).caption();
        let spoken = plain_words(&caption);
        assert!(spoken.len() <= MAX_WORDS && MAX_WORDS <= 44, "{caption}");
        used.extend(spoken);
    }
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), words);
}

#[test]
fn captions_tell_everything_but_the_jitter() {
    let mut seen: HashMap<String, (Vec<Object>, Background)> = HashMap::new();
    for index in 0..SAMPLES {
        let scene = Scene::sample(5, index, Split::HeldOut);
        let objects = scene.objects().iter().map(|object| Object { jitter: Jitter::default(), ..*object }).collect();
        let shown = (objects, scene.background());
        assert_eq!(seen.entry(scene.caption()).or_insert_with(|| shown.clone()), &shown);
    }
    assert!(seen.len() < SAMPLES as usize, "no caption came twice: nothing was tested");
}

#[test]
fn relations_are_true() {
    let mut said = HashSet::new();
    for index in 0..SAMPLES {
        let scene = Scene::sample(2, index, Split::Train);
        let [first, second, ..] = scene.objects() else { continue };
        let ((column, row), (other_column, other_row)) = (first.cell.column_row(), second.cell.column_row());
        let caption = scene.caption();
        let (relation, truth) = match caption {
            ref c if c.contains(", left of a") => ("left", column < other_column),
            ref c if c.contains(", right of a") => ("right", column > other_column),
            ref c if c.contains(", above a") => ("above", row < other_row),
            ref c if c.contains(", below a") => ("below", row > other_row),
            _ => panic!("no relation in {caption:?}"),
        };
        assert!(truth, "{caption}");
        said.insert(relation);
    }
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(Relation::between(Cell::TopLeft, Cell::Centre), Relation::LeftOf, "horizontal on a tie");
    assert_eq!(Relation::between(Cell::BottomLeft, Cell::Top), Relation::Below);
}

/// Attributes in which two scenes differ, objects taken in the given order.
fn differences(a: &[Object], b: &[Object]) -> usize {
    let one = |a: &Object, b: &Object| {
        usize::from(a.shape != b.shape)
            + usize::from(a.colour != b.colour)
            + usize::from(a.texture != b.texture)
            + usize::from(a.size != b.size)
            + usize::from(a.cell != b.cell)
            + usize::from(a.jitter != b.jitter)
    };
    a.iter().zip(b).map(|(a, b)| one(a, b)).sum()
}

#[test]
fn variants_differ_in_exactly_one_attribute() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for index in 0..SAMPLES {
        let scene = Scene::sample(4, index, Split::Train);
        let variant = scene.variant(&mut rng);
        assert_eq!(scene.objects().len(), variant.objects().len());
        // The changed object may have moved in the canonical order.
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let in_order = |order: [usize; 3]| -> Vec<Object> {
            order.iter().filter_map(|&i| variant.objects().get(i).copied()).collect()
        };
        let fewest = orders.into_iter().map(|order| differences(scene.objects(), &in_order(order))).min();
        let (before, after) = (scene.background(), variant.background());
        let behind = usize::from(before.shade != after.shade) + usize::from(before.backdrop != after.backdrop);
        assert_eq!(fewest.unwrap() + behind, 1, "{:?} and {:?}", scene.caption(), variant.caption());
        assert_ne!(scene.caption(), variant.caption());
        assert_ne!(scene.render(64), variant.render(64));
        assert_eq!(Scene::new(variant.objects().to_vec(), after).unwrap(), variant);
    }
}

#[test]
fn impossible_scenes_are_refused() {
    let scene = lone(Shape::Ring, Colour::Red, Texture::Plain, Size::Small, Cell::Top);
    let (object, background) = (scene.objects()[0], scene.background());
    assert!(Scene::new(vec![], background).is_err());
    assert!(Scene::new(vec![object; 2], background).is_err(), "the same cell twice");
    let four = Cell::ALL[..4].iter().map(|&cell| Object { cell, ..object }).collect();
    assert!(Scene::new(four, background).is_err());
    let jitter = Jitter { x: 0, y: Jitter::MAX + 1 };
    assert!(Scene::new(vec![Object { jitter, ..object }], background).is_err());
}

#[test]
fn every_object_stands_out_from_every_background() {
    // Just below the closest pair, which still reads at 64 pixels: black on the bottom of a navy gradient.
    const APART: i32 = 80;
    for colour in Colour::ALL {
        for shade in Shade::ALL {
            let (top, bottom) = shade_ends(shade);
            for behind in [top, bottom] {
                let square = |(a, b): (u8, u8)| (i32::from(a) - i32::from(b)).pow(2);
                let distance: i32 = inks(colour).0.into_iter().zip(behind).map(square).sum();
                assert!(distance >= APART * APART, "{colour:?} on {shade:?}: {}", distance.isqrt());
            }
        }
    }
}

#[test]
fn large_neighbours_do_not_touch() {
    assert!(2.0 * radius(Size::Large) + 2.0 * f32::from(Jitter::MAX) / 256.0 < 1.0 / 3.0);
}

/// Mean absolute difference of channels that a shrunk and a small picture may have: textures and edges fall on other
/// samples.
const SCALE_TOLERANCE: f64 = 1.5;

#[test]
fn pictures_are_the_same_at_every_size() {
    for index in 0..20 {
        let scene = Scene::sample(9, index, Split::Train);
        let (small, large) = (scene.render(64), scene.render(256));
        let mut error = 0.0;
        for (x, y, pixel) in small.enumerate_pixels() {
            for channel in 0..3 {
                let block = (0..16).map(|i| u32::from(large[(4 * x + i % 4, 4 * y + i / 4)][channel])).sum::<u32>();
                error += (f64::from(block) / 16.0 - f64::from(pixel[channel])).abs();
            }
        }
        let mean = error / small.as_raw().len() as f64;
        assert!(mean < SCALE_TOLERANCE, "{mean} for {:?}", scene.caption());
    }
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_folder_holds_pictures_and_captions() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("made/on/the/way");
    let mut finished = Vec::new();
    write_folder(&dir, 3, 8, Split::HeldOut, 64, |done| {
        finished.push(done);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(finished, [1, 2, 3]);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "three pictures and the captions");
    let lines = std::fs::read_to_string(dir.join(CAPTIONS)).unwrap();
    assert_eq!(lines.lines().count(), 3);
    for (index, line) in lines.lines().enumerate() {
        let line: HashMap<String, String> = serde_json::from_str(line).unwrap();
        let scene = Scene::sample(8, index as u64, Split::HeldOut);
        assert_eq!(line.len(), 2);
        assert_eq!(line["file_name"], format!("00000{index}.png"));
        assert_eq!(line["text"], scene.caption());
        let picture = pixels::open(&dir.join(&line["file_name"]), &pixels::Limits::default()).unwrap();
        assert_eq!(picture, scene.render(64));
    }
}

#[test]
fn a_folder_is_completed_but_never_mixed() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let write = |seed| write_folder(dir, 4, seed, Split::Train, 32, go_on);
    let stop = write_folder(dir, 4, 1, Split::Train, 32, |done| match done {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stop, Err(Error::Interrupted)));
    assert!(!dir.join(CAPTIONS).exists(), "captions mark a whole folder");
    std::fs::write(dir.join("000002.png.partial"), b"broken off").unwrap();

    assert!(matches!(write(2), Err(Error::FolderInUse { .. })), "pictures of another seed");
    assert!(!dir.join("000003.png").exists(), "refused before anything is written");
    write(1).unwrap();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 5);
    write(1).unwrap();
    assert!(matches!(write_folder(dir, 3, 1, Split::Train, 32, go_on), Err(Error::FolderInUse { .. })));

    std::fs::write(dir.join("notes.txt"), b"mine").unwrap();
    assert!(matches!(write(1), Err(Error::FolderInUse { name, .. }) if name == "notes.txt"));
}

#[test]
fn impossible_folders_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("none");
    assert!(matches!(write_folder(&dir, 0, 1, Split::Train, 64, go_on), Err(Error::Argument { name: "count", .. })));
    assert!(matches!(write_folder(&dir, 1, 1, Split::Train, 0, go_on), Err(Error::Argument { name: "size", .. })));
    assert!(!dir.exists());
}
