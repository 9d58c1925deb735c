//! Pairs out of files: the same batches from anywhere on, whatever the threads; what is broken is recorded once.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    super::{Batch, Data, DataOptions, PairOptions, Pictures as _, Sequence},
    AHEAD, Inputs, Pairs,
    record::Record,
};
use crate::{
    dataset::{Column, Image, Layout, Piece, Sample, Schema, ShardInput, Source, Value},
    error::{Error, Result},
    pixels::{self, Filter, RgbImage},
    train::Recipe,
};

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Pixels of the images that are learned from.
const SIDE: usize = 8;

/// An image that says which it is: its blue and green.
fn picture(number: usize) -> RgbImage {
    RgbImage::from_fn(24, 18, |x, y| image::Rgb([(9 * x + y) as u8, 5 * (number / 50) as u8, 5 * (number % 50) as u8]))
}

/// A folder for a dataset and for runs on it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Images in a folder with their captions beside; `broken` are no images, `silent` have no caption.
    fn folder(&self, count: usize, broken: &[usize], silent: &[usize]) -> PairOptions {
        let folder = self.path("images");
        fs::create_dir_all(&folder).unwrap();
        for number in 0..count {
            let bytes = if broken.contains(&number) { b"no image".to_vec() } else { pixels::to_png(&picture(number)) };
            fs::write(folder.join(format!("{number:04}.png")), bytes).unwrap();
            if !silent.contains(&number) {
                fs::write(folder.join(format!("{number:04}.txt")), format!("number {number}\n")).unwrap();
            }
        }
        options(&folder, 16)
    }

    /// Tars as img2dataset makes them, of unequal lengths; the broken are cut off, the silent have an empty text.
    fn tars(&self, count: usize, broken: &[usize], silent: &[usize]) -> PairOptions {
        let ends = [0, count / 2, count / 2 + 1, count];
        for (shard, ends) in ends.windows(2).enumerate() {
            let mut tar = tar::Builder::new(fs::File::create(self.path(&format!("{shard:05}.tar"))).unwrap());
            let mut add = |name: String, bytes: &[u8]| {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, name, bytes).unwrap();
            };
            for number in ends[0]..ends[1] {
                let bytes = pixels::to_png(&picture(number));
                let bytes = if broken.contains(&number) { &bytes[..40] } else { &bytes };
                add(format!("{number:04}.png"), bytes);
                let text = if silent.contains(&number) { String::new() } else { format!("number {number}") };
                add(format!("{number:04}.txt"), text.as_bytes());
            }
            tar.finish().unwrap();
        }
        options(&self.path("{00000..00002}.tar"), 16)
    }

    /// A parquet file in row groups of 10, as Hugging Face writes images; the silent have no caption.
    fn parquet(&self, count: usize, broken: &[usize], silent: &[usize]) -> PairOptions {
        use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
        let bytes = (0..count).map(|number| match broken.contains(&number) {
            true => Some(b"GIF89a".to_vec()),
            false => Some(pixels::to_png(&picture(number))),
        });
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter(bytes));
        let text = (0..count).map(|number| (!silent.contains(&number)).then(|| format!("number {number}")));
        let text: ArrayRef = Arc::new(StringArray::from_iter(text));
        let key: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|number| format!("{number:04}"))));
        let batch = RecordBatch::try_from_iter([("key", key), ("image", bytes), ("caption", text)]).unwrap();
        let file = fs::File::create(self.path("images.parquet")).unwrap();
        let properties = parquet::file::properties::WriterProperties::builder().set_max_row_group_size(10).build();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        options(&self.path("images.parquet"), 16)
    }

    fn open(&self, run: &str, options: &PairOptions, workers: usize) -> Result<Pairs<'static>> {
        let folder = self.path(run);
        fs::create_dir_all(&folder).unwrap();
        Pairs::open(&PairOptions { workers: Some(workers), ..options.clone() }, 7, SIDE, &folder, &RUNNING)
    }

    /// Keys of the failure record, sorted, with their reasons.
    fn failures(&self, run: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.path(run).join("failures.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<crate::dataset::Skipped>(line).unwrap());
        let mut lines: Vec<(String, String)> = lines.map(|skipped| (skipped.key, skipped.reason)).collect();
        lines.sort();
        lines
    }
}

fn options(input: &Path, shuffle: usize) -> PairOptions {
    let inputs = vec![input.display().to_string()];
    let text = format!("kind = \"pairs\"\ninputs = {inputs:?}\nshuffle = {shuffle}\n");
    match toml::from_str(&text).unwrap() {
        DataOptions::Pairs(options) => options,
        DataOptions::Scenes {} => unreachable!("the kind is pairs"),
    }
}

/// Keys, captions and pixels.
type Content = (Vec<String>, Vec<String>, Vec<RgbImage>);

fn content(batch: Batch) -> Content {
    let images = batch.images(SIDE);
    (batch.keys, batch.captions, images)
}

/// Batches of `size` from the step `from` to before `to`.
fn batches(data: &Pairs<'_>, [from, to]: [usize; 2], size: usize) -> Vec<Content> {
    (from..to).map(|step| content(data.batch(Sequence::Contrast, step * size, size).unwrap())).collect()
}

type Writer = fn(&Place, usize, &[usize], &[usize]) -> PairOptions;
const FORMATS: [(&str, Writer); 3] = [("folder", Place::folder), ("tars", Place::tars), ("parquet", Place::parquet)];

#[test]
fn a_resumed_run_gets_the_batches_of_an_undisturbed_one() {
    for (format, write) in FORMATS {
        let place = Place::new();
        let options = write(&place, 53, &[4, 5, 31], &[17]);
        // 52 samples an epoch: 16 batches of 7 are more than two epochs, and no epoch ends with a batch.
        let want = batches(&place.open("whole", &options, 1).unwrap(), [0, 16], 7);
        for workers in [1, 2, 4] {
            let run = format!("apart{workers}");
            for begin in [0, 3, 8, 9, 15] {
                // A process for each sitting; the first that goes on knows how long an epoch is from the record, or finds out.
                let got = batches(&place.open(&run, &options, workers).unwrap(), [begin, 16], 7);
                assert!(got == want[begin..], "{format}, {workers} workers, from step {begin} on");
            }
            // Without any record, from the middle of the third epoch on.
            let got = batches(&place.open(&format!("new{workers}"), &options, workers).unwrap(), [15, 16], 7);
            assert!(got == want[15..], "{format}, {workers} workers, a new record");
        }
        // The caption belongs to the image.
        for (keys, captions, images) in &want {
            for ((key, caption), image) in keys.iter().zip(captions).zip(images) {
                let number: usize = key[..4].parse().unwrap();
                assert_eq!(*caption, format!("number {number}"), "{format}");
                let [_, high, low] = image.get_pixel(3, 3).0;
                assert_eq!((high, low), (5 * (number / 50) as u8, 5 * (number % 50) as u8), "{format} {key}");
            }
        }
    }
}

#[test]
fn an_epoch_shows_every_good_image_and_the_next_in_another_order() {
    for (format, write) in FORMATS {
        let place = Place::new();
        let options = write(&place, 40, &[3], &[]);
        let data = place.open("run", &options, 2).unwrap();
        // 40 positions an epoch: 39 good ones, and one more in the place of the broken one.
        let keys = |first| data.batch(Sequence::Contrast, first, 39).unwrap().keys;
        let (one, two) = (keys(0), keys(40));
        let set = |keys: &[String]| keys.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!((set(&one).len(), set(&two).len()), (39, 39), "{format}");
        assert!(set(&one) == set(&two) && one != two, "{format}");
        let sorted: Vec<String> = set(&one).into_iter().collect();
        assert!(one != sorted && two != sorted, "{format}: the order of the files is not that of an epoch");
        let other = Pairs::open(&options, 8, SIDE, &place.path("run"), &RUNNING).unwrap();
        assert!(other.batch(Sequence::Contrast, 0, 39).unwrap().keys != one, "{format}: another seed, the same order");
    }
}

#[test]
fn augmentation_changes_an_image_from_epoch_to_epoch_and_can_be_left_out() {
    let place = Place::new();
    let options = place.folder(5, &[], &[]);
    let images = |data: &Pairs<'_>, sequence, first| {
        let (keys, _, images) = content(data.batch(sequence, first, 5).unwrap());
        let mut both: Vec<_> = keys.into_iter().zip(images).collect();
        both.sort_by(|a, b| a.0.cmp(&b.0));
        both
    };
    let data = place.open("run", &options, 2).unwrap();
    assert!(images(&data, Sequence::Contrast, 0) != images(&data, Sequence::Contrast, 5));
    let plain: Vec<_> = (0..5)
        .map(|number| {
            let image = pixels::resize(&picture(number), SIDE as u32, SIDE as u32, Filter::Bicubic);
            (format!("{number:04}.png"), image)
        })
        .collect();
    // What is measured on is not augmented.
    assert_eq!(images(&data, Sequence::Pool, 0), plain);
    let whole = PairOptions { crop: [1.0, 1.0], flip: false, ..options };
    assert_eq!(images(&place.open("run", &whole, 2).unwrap(), Sequence::Contrast, 0), plain);
}

#[test]
fn what_is_broken_is_recorded_once_and_replaced() {
    for (format, write) in FORMATS {
        let place = Place::new();
        let options = write(&place, 20, &[2, 11], &[6]);
        for _ in 0..2 {
            let data = place.open("run", &options, 3).unwrap();
            for step in 0..12 {
                let batch = data.batch(Sequence::Contrast, 5 * step, 5).unwrap();
                assert_eq!(batch.len(), 5, "{format}");
                let bad = batch.keys.iter().any(|key| ["0002", "0011", "0006"].contains(&&key[..4]));
                assert!(!bad, "{format}: {:?}", batch.keys);
            }
        }
        let failures = place.failures("run");
        let keys: Vec<&str> = failures.iter().map(|(key, _)| &key[..4]).collect();
        assert_eq!(keys, ["0002", "0006", "0011"], "{format}");
        assert!(failures[1].1.contains("no caption"), "{format}: {}", failures[1].1);
        assert!(failures[0].1.contains("cannot be decoded"), "{format}: {}", failures[0].1);
    }
}

#[test]
fn sequences_that_are_drawn_by_turns_do_not_disturb_each_other() {
    let place = Place::new();
    let options = place.tars(30, &[], &[]);
    let data = place.open("run", &options, 2).unwrap();
    let alone = batches(&place.open("alone", &options, 2).unwrap(), [0, 8], 6);
    for (step, want) in alone.iter().enumerate() {
        assert!(content(data.batch(Sequence::Contrast, 6 * step, 6).unwrap()) == *want, "step {step}");
        let rows = data.batch(Sequence::Rows, 4 * step, 4).unwrap();
        assert!(rows.keys != want.0[..4], "another order than that of the steps");
    }
    // A stage that begins again from the first position, with batches of its own.
    let again = data.batch(Sequence::Contrast, 0, 12).unwrap();
    assert_eq!(again.keys, [&alone[0].0[..], &alone[1].0].concat());
}

#[test]
fn data_that_nothing_can_be_learned_from_say_why() {
    let place = Place::new();
    let say = |options: &PairOptions, words: &[&str]| {
        let data = place.open("run", options, 2);
        let error = data.and_then(|data| data.batch(Sequence::Contrast, 0, 4)).map(|batch| batch.keys).unwrap_err();
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{word}: {error}"));
        fs::remove_dir_all(place.path("run")).unwrap();
    };
    let all: Vec<usize> = (0..6).collect();
    let tars = place.tars(6, &[], &all);
    say(&tars, &["{00000..00002}.tar", "is an image with a caption", "0000", "no caption", "failures.jsonl"]);
    let parquet = place.parquet(6, &all, &[]);
    say(&parquet, &["images.parquet", "whole epoch", "cannot be decoded", "failures.jsonl"]);
    let folder = place.folder(6, &[], &all);
    say(&folder, &["images", "holds no captions", "caption_column"]);
    say(&PairOptions { inputs: vec!["/nowhere/*.tar".to_owned()], ..folder.clone() }, &["/nowhere/*.tar"]);
    say(&PairOptions { format: Some("tar".to_owned()), ..folder }, &["tar", "webdataset"]);
}

#[test]
fn what_is_validated_on_is_named_apart() {
    let place = Place::new();
    let learned = place.folder(8, &[], &[]);
    let data = place.open("run", &learned, 2).unwrap();
    let error = data.batch(Sequence::HeldOut, 0, 4).map(|batch| batch.keys).unwrap_err();
    assert!(error.to_string().contains("validation"), "{error}");
    let held_out = place.parquet(6, &[], &[]);
    let options = PairOptions { validation: held_out.inputs, ..learned };
    let data = place.open("both", &options, 2).unwrap();
    let keys = |sequence, first, count| data.batch(sequence, first, count).unwrap().keys;
    let learned = keys(Sequence::Contrast, 0, 8);
    assert!(learned.iter().all(|key| key.ends_with(".png")), "{learned:?}");
    for _ in 0..2 {
        let validated: Vec<String> = (0..6).step_by(3).flat_map(|first| keys(Sequence::HeldOut, first, 3)).collect();
        let all: BTreeSet<String> = validated.into_iter().collect();
        assert!(all.iter().cloned().eq((0..6).map(|number| format!("{number:04}"))), "{all:?}");
        assert_eq!(keys(Sequence::Contrast, 0, 8), learned);
    }
}

#[test]
fn other_data_are_another_run() {
    let place = Place::new();
    let options = place.folder(6, &[], &[]);
    for _ in 0..2 {
        assert_eq!(place.open("run", &options, 1).unwrap().augmented(0, 2).unwrap().len(), 2);
    }
    place.folder(7, &[], &[]);
    let error = place.open("run", &options, 1).err().unwrap();
    assert!(matches!(error, Error::OtherRun { .. }) && error.to_string().contains("images"), "{error}");
}

/// Shards of fifty images, which may be read from the moment on that `go` says so.
struct Gate {
    schema: Schema,
    shards: Vec<ShardInput>,
    go: AtomicBool,
    /// Samples and shards that were read.
    read: AtomicUsize,
    opened: AtomicUsize,
}

impl Gate {
    fn new(go: bool) -> Arc<Self> {
        let shard = |shard| ShardInput { name: format!("gate {shard}"), samples: None, fingerprint: String::new() };
        let schema = Schema { layout: Layout::One, columns: vec![Column::text("caption")] };
        let (shards, none) = ((0..20).map(shard).collect(), || AtomicUsize::new(0));
        Arc::new(Self { schema, shards, go: AtomicBool::new(go), read: none(), opened: none() })
    }

    /// Of it, four at a time.
    fn pairs<'a>(self: &Arc<Self>, place: &Place, stop: &'a AtomicBool) -> Pairs<'a> {
        let record = Arc::new(Record::open(&place.path(""), "data.json", "gate".to_owned(), &self.shards).unwrap());
        let learned = Inputs { source: self.clone(), caption: 0, record };
        let options = PairOptions { shuffle: 10, ..PairOptions::new(vec!["gate".to_owned()]) };
        let (loaders, held_out) = (Mutex::default(), None);
        Pairs { learned, held_out, options, seed: 7, image_size: SIDE, workers: 2, stop, loaders }
    }
}

impl Source for Gate {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: crate::dataset::source::Each<'_>) -> Result<()> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        while !self.go.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let bytes = pixels::to_png(&picture(1));
        for number in 0..50 {
            self.read.fetch_add(1, Ordering::Relaxed);
            let pieces = vec![Piece::Image(Image::Bytes(bytes.clone()))];
            let sample =
                Sample { key: format!("{shard}-{number}"), pieces, values: vec![Value::Text("one".to_owned())] };
            if each(Ok(sample)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[test]
fn a_wait_for_the_first_images_can_be_ended() {
    let (place, gate, stop) = (Place::new(), Gate::new(false), AtomicBool::new(true));
    let pairs = gate.pairs(&place, &stop);
    let mut loader = pairs.start(Sequence::Contrast, &pairs.learned, 0, 4);
    assert!(matches!(loader.batch(0, 4, &stop), Err(Error::Interrupted)));
    gate.go.store(true, Ordering::Relaxed);
    stop.store(false, Ordering::Relaxed);
    assert_eq!(loader.batch(0, 4, &stop).unwrap().len(), 4);
    // What has begun is not given up for a stop: there are steps that it would lose.
    stop.store(true, Ordering::Relaxed);
    assert_eq!(loader.batch(4, 40, &stop).unwrap().len(), 40);
}

#[test]
fn a_place_is_found_without_reading_all_that_lies_before_it() {
    let (place, gate) = (Place::new(), Gate::new(true));
    let keys = |pairs: &Pairs<'_>, first| -> Vec<String> {
        pairs.augmented(first, 10).unwrap().into_iter().map(|pair| pair.key).collect()
    };
    let undisturbed = gate.pairs(&place, &RUNNING);
    let want: Vec<Vec<String>> = (0..230).map(|step| keys(&undisturbed, 10 * step)).collect();
    drop(undisturbed);
    for step in [1, 25, 95, 99, 100, 101, 197, 229] {
        gate.opened.store(0, Ordering::Relaxed);
        let resumed = gate.pairs(&place, &RUNNING);
        assert_eq!(keys(&resumed, 10 * step), want[step], "step {step}");
        // Ten samples in the buffer are of ten shards at the most; as many are ahead as fit into one.
        let opened = gate.opened.load(Ordering::Relaxed);
        assert!(opened <= 13, "{opened} shards were read for step {step}");
    }
    let text = fs::read_to_string(place.path("data.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(known["samples"], serde_json::json!(vec![50; 20]));
    // A shard that lost samples is named before anything is learned from others in their place.
    fs::write(place.path("data.json"), text.replace("50", "51")).unwrap();
    let error = gate.pairs(&place, &RUNNING).augmented(700, 10).map(drop).unwrap_err().to_string();
    assert!(error.contains("gate") && error.contains("51") && error.contains("data.json"), "{error}");
}

#[test]
fn reading_does_not_run_away() {
    let (place, gate) = (Place::new(), Gate::new(true));
    let pairs = gate.pairs(&place, &RUNNING);
    assert_eq!(pairs.augmented(0, 4).unwrap().len(), 4);
    std::thread::sleep(Duration::from_millis(300));
    // Those given out, those on their way, the buffer, and the one in hand.
    let bound = 4 + AHEAD * 4 + 10 + 1;
    let read = gate.read.load(Ordering::Relaxed);
    assert!(read <= bound, "{read} samples were read for 4");
    assert_eq!(pairs.augmented(4, 400).unwrap().len(), 400);
}

#[test]
fn a_recipe_names_its_data() {
    let text = include_str!("../../../../../weights/recipes/scenes-tiny.toml");
    let recipe = |data: &str| Recipe::parse(&format!("{text}\n[data]\n{data}"), "own.toml");
    assert_eq!(Recipe::parse(text, "own.toml").unwrap().data, DataOptions::Scenes {});
    assert_eq!(recipe("kind = \"scenes\"").unwrap().data, DataOptions::Scenes {});
    let wrong = [
        ("kind = \"pairs\"\ninputs = []", "data.inputs"),
        ("kind = \"pairs\"\ninputs = [\"-\"]", "standard input"),
        ("kind = \"pairs\"\ninputs = [\"a\"]\nshuffle = 0", "shuffle"),
        ("kind = \"pairs\"\ninputs = [\"a\"]\ncrop = [0.8, 0.5]", "data.crop"),
        ("kind = \"pairs\"\ninputs = [\"a\"]\ncaption_tokens = 2", "caption_tokens"),
        ("kind = \"pairs\"\ninputs = [\"a\"]\nflips = true", "flips"),
        ("kind = \"scenes\"\ninputs = [\"a\"]", "inputs"),
        ("kind = \"films\"", "films"),
    ];
    for (data, word) in wrong {
        let error = recipe(data).unwrap_err().to_string();
        assert!(error.contains("own.toml") && error.contains(word), "{word}: {error}");
    }
    // A run may go on with more threads: they are not part of what it claims.
    let workers = |workers| recipe(&format!("kind = \"pairs\"\ninputs = [\"a\"]\nworkers = {workers}")).unwrap();
    let json = |recipe: &Recipe| serde_json::to_value(recipe).unwrap();
    assert_eq!(json(&workers(1)), json(&workers(2)));
    assert!(json(&Recipe::parse(text, "own.toml").unwrap()).get("data").is_none());
    let place = Place::new();
    let opened = Data::open(&workers(1), &place.path(""), &RUNNING);
    assert!(opened.err().unwrap().to_string().starts_with("a cannot be used"));
}
