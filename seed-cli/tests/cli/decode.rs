//! `seed decode` and `seed reconstruct`.

use std::{fs, process::Stdio};

use seed_core::{
    DecodeOptions,
    pixels::{self, Limits, RgbImage},
};

use serde_json::Value;

use crate::world::{World, done, ends, fails, feed, interrupt, scene, text, wait_for};

/// Largest difference between batches, in levels of 255: products of one row and of several round differently.
const BATCH_TOLERANCE: u8 = 1;

impl World {
    fn image(&self, name: &str) -> RgbImage {
        pixels::open(&self.path(name), &Limits::default()).unwrap()
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn same(a: &RgbImage, b: &RgbImage) -> bool {
    a.dimensions() == b.dimensions()
        && a.as_raw().iter().zip(b.as_raw()).all(|(a, b)| a.abs_diff(*b) <= BATCH_TOLERANCE)
}

#[test]
fn what_encode_writes_is_decoded_in_every_form() {
    let world = World::new();
    let paths = world.images(3);
    let plain = world.encode(&paths);
    fs::write(world.path("codes.txt"), &plain).unwrap();
    done(world.seed("decode").args(["codes.txt", "--out", "out", "--seed", "7"]));
    assert_eq!(world.files("out"), ["00.png", "01.png", "02.png"]);
    let tokenizer = world.tokenizer();
    let codes = tokenizer.encode(&[scene(0), scene(1), scene(2)]).unwrap();
    // Steps and guidance are the bundle's.
    let options = DecodeOptions { steps: 2, guidance: 3.0, seed: 7, ..Default::default() };
    for (index, image) in tokenizer.decode(&codes, &options).unwrap().iter().enumerate() {
        assert!(same(image, &world.image(&format!("out/0{index}.png"))), "{index}");
    }
    let json = done(world.seed("encode").arg("--json").args(&paths)).stdout;
    let output = feed(world.seed("decode").args(["--out", "json", "--seed", "7"]), &json);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("warning"), "{}", text(&output.stderr));
    // Codes alone, with an empty line between, are named by number.
    let bare: Vec<&str> = plain.lines().map(|line| line.split_once('\t').unwrap().1).collect();
    let output = feed(world.seed("decode").args(["-", "--out", "bare", "--seed", "7"]), bare.join("\r\n\n").as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(world.files("bare"), ["000000.png", "000001.png", "000002.png"]);
    for index in 0..3 {
        let expected = world.image(&format!("out/0{index}.png"));
        assert!(expected == world.image(&format!("json/0{index}.png")));
        assert!(expected == world.image(&format!("bare/00000{index}.png")));
    }
}

#[test]
fn options_change_images_and_batches_do_not() {
    let world = World::new();
    let codes = world.encode(&world.images(3));
    fs::write(world.path("codes.txt"), &codes).unwrap();
    let decode = |name: &str, options: &[&str]| {
        done(world.seed("decode").args(["codes.txt", "--out", name]).args(options));
        world.image(&format!("{name}/02.png"))
    };
    let image = decode("default", &[]);
    assert!(image == decode("again", &["--seed", "0", "--steps", "2", "--guidance", "3"]));
    assert!(same(&image, &decode("alone", &["--batch-size", "1"])));
    let negative = codes.lines().next().unwrap().split_once('\t').unwrap().1;
    let others: [&[&str]; 5] = [
        &["--seed", "1"],
        &["--steps", "3"],
        &["--guidance", "1"],
        &["--negative", negative],
        &["--scheduler", "euler"],
    ];
    for options in others {
        assert!(!same(&image, &decode("other", options)), "{options:?}");
    }
}

#[test]
fn bad_lines_are_named_before_anything_is_decoded() {
    let world = World::new();
    let good = world.encode(&world.images(1)).trim().to_owned();
    let codes = good.split_once('\t').unwrap().1;
    let decode = |line: &str, words: &[&str]| {
        fs::write(world.path("codes.txt"), format!("{good}\n\n{line}\n{good}\n")).unwrap();
        let words = [&["codes.txt, line 3", "1 of 3 lines", "nothing was decoded"], words].concat();
        fails(world.seed("decode").args(["codes.txt", "--out", "out"]), 1, &words);
        assert!(!world.path("out").exists());
    };
    let first = codes.split(' ').next().unwrap();
    decode(&codes.replacen(first, "256", 1), &["code 256 at position 0", "256 rows", "0 to 255", "--model"]);
    decode(&format!("a.png\t{codes} 1"), &["33 codes where 32"]);
    decode("a.png\t1 2 3", &["3 codes where 32"]);
    decode("a.png 1 2 3", &["\"a.png\" is not a code"]);
    decode("a.png\t-1", &["\"-1\" is not a code"]);
    decode("{\"path\": \"a.png\"}", &["no \"codes\""]);
    decode("{\"codes\": [70000]}", &["1 codes where 32"]);
}

#[test]
fn what_cannot_be_decoded_says_why() {
    let world = World::new();
    let codes = world.encode(&world.images(1));
    fs::write(world.path("codes.txt"), &codes).unwrap();
    let decode = |arguments: &[&str], words: &[&str]| {
        drop(fails(world.seed("decode").args(["--out", "out"]).args(arguments), 1, words));
    };
    decode(&["absent.txt"], &["absent.txt", "seed encode"]);
    decode(&["codes.txt", "--steps", "0"], &["steps = 0"]);
    decode(&["codes.txt", "--steps", "5000"], &["steps = 5000"]);
    decode(&["codes.txt", "--guidance", "nan"], &["guidance"]);
    let mut unknown = world.seed("decode");
    fails(
        unknown.args(["codes.txt", "--out", "out", "--scheduler", "heun"]),
        2,
        &["heun", "pndm, ddim, euler, dpm++2m"],
    );
    decode(&["codes.txt", "--negative", "1 2"], &["--negative", "2 codes where 32"]);
    decode(&["codes.txt", "--negative", "a b"], &["--negative", "not a code"]);
    fs::write(world.path("empty.txt"), "\n").unwrap();
    decode(&["empty.txt"], &["empty.txt holds no codes"]);
    fs::write(world.path("binary.txt"), [0xff, 0xfe, 0]).unwrap();
    decode(&["binary.txt"], &["binary.txt"]);
    fails(world.seed("decode").args(["codes.txt", "--out", "codes.txt"]), 1, &["codes.txt", "--out"]);
    ends(world.seed("decode").arg("codes.txt"), 2);
    fs::remove_dir_all(world.path("bundle/decoder")).unwrap();
    decode(&["codes.txt"], &["no diffusion decoder", "decoder/"]);
}

#[test]
fn codes_of_other_weights_are_told_of() {
    let world = World::new();
    let json = text(&done(world.seed("encode").arg("--json").args(world.images(2))).stdout).to_owned();
    let line: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let own = line["tokenizer"]["weights"].as_str().unwrap();
    fs::write(world.path("codes.jsonl"), json.replacen(own, "5eed", 1)).unwrap();
    let said = done(world.seed("decode").args(["codes.jsonl", "--out", "out"])).stderr;
    assert!(
        text(&said).contains("warning: 1 of 2 lines were encoded with other weights") && text(&said).contains("5eed")
    );
    let said = done(world.seed("decode").args(["codes.jsonl", "--out", "out", "--quiet"])).stderr;
    assert_eq!(text(&said), "");
}

#[test]
fn an_image_says_what_made_it() {
    let world = World::new();
    let codes = world.encode(&world.images(1));
    fs::write(world.path("codes.txt"), &codes).unwrap();
    done(world.seed("decode").args(["codes.txt", "--out", "out", "--seed", "9", "--scheduler", "ddim"]));
    let file = fs::File::open(world.path("out/00.png")).unwrap();
    let reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let [chunk] = &reader.info().utf8_text[..] else { panic!("one text") };
    assert_eq!(chunk.keyword, "seed");
    let record: Value = serde_json::from_str(&chunk.get_text().unwrap()).unwrap();
    let row: Vec<String> = record["codes"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(codes.ends_with(&format!("\t{}\n", row.join(" "))), "{codes}");
    assert_eq!((&record["decode"]["seed"], &record["decode"]["scheduler"]), (&Value::from(9), &Value::from("ddim")));
    assert_eq!(record["tokenizer"]["model"], "golden");
    assert_eq!(record["tokenizer"]["weights"].as_str().unwrap().len(), 64);
}

#[test]
fn size_and_prefix_are_as_asked() {
    let world = World::new();
    fs::write(world.path("codes.txt"), world.encode(&world.images(1))).unwrap();
    let decode = |options: &[&str], out: &str| {
        done(world.seed("decode").args(["codes.txt", "--out", out]).args(options));
        world.image(&format!("{out}/00.png"))
    };
    let whole = decode(&[], "whole");
    let own = whole.width().to_string();
    assert!(same(&decode(&["--size", &own, "--keep-first", "32"], "own"), &whole));
    let larger = decode(&["--size", &(2 * whole.width()).to_string()], "larger");
    assert_eq!(larger.dimensions(), (2 * whole.width(), 2 * whole.height()));
    assert!(!same(&decode(&["--keep-first", "3"], "first"), &whole), "the other codes matter");
    let refuses = |options: &[&str], words: &[&str]| {
        fails(world.seed("decode").args(["codes.txt", "--out", "no"]).args(options), 1, words);
    };
    refuses(&["--size", "17"], &["size", "17", "multiple of"]);
    refuses(&["--size", "0"], &["size", "multiple of"]);
    refuses(&["--keep-first", "0"], &["keep_first", "at least 1"]);
    refuses(&["--keep-first", "33"], &["keep_first", "32 codes"]);
}

#[test]
fn names_do_not_collide_and_sources_stay() {
    let world = World::new();
    let paths = world.images(2);
    let before = fs::read(&paths[0]).unwrap();
    let codes = world.encode(&paths);
    let row = codes.lines().next().unwrap().split_once('\t').unwrap().1;
    fs::write(world.path("codes.txt"), format!("{codes}other/01.png\t{row}\n")).unwrap();
    done(world.seed("decode").args(["codes.txt", "--out", "images"]));
    assert_eq!(world.files("images"), ["00-2.png", "00.png", "01-2.png", "01-3.png", "01.png"]);
    assert_eq!(fs::read(&paths[0]).unwrap(), before);
}

#[test]
fn reconstruct_is_both_and_a_sheet() {
    let world = World::new();
    let paths = world.images(3);
    fs::write(world.path("bad.png"), "no").unwrap();
    let mut command = world.seed("reconstruct");
    command.args(&paths).args(["bad.png", "--out", "out", "--batch-size", "2"]);
    let output = fails(&mut command, 3, &["bad.png", "1 of 4 images failed", "sheet.png"]);
    let codes = world.encode(&paths);
    assert_eq!(text(&output.stdout), codes);
    assert_eq!(world.files("out"), ["00.png", "01.png", "02.png", "sheet.png"]);
    fs::write(world.path("codes.txt"), codes).unwrap();
    done(world.seed("decode").args(["codes.txt", "--out", "decoded"]));
    for index in 0..3 {
        assert!(same(&world.image(&format!("out/0{index}.png")), &world.image(&format!("decoded/0{index}.png"))));
    }
    // Two columns of pairs, two rows.
    let sheet = world.image("out/sheet.png");
    assert!(sheet.width() > 4 * 256 && sheet.height() > 2 * 256, "{:?}", sheet.dimensions());
    assert!(sheet.height() < 3 * 256, "{:?}", sheet.dimensions());
}

#[test]
fn an_interrupt_keeps_what_is_decoded() {
    let world = World::new();
    let codes = world.encode(&world.images(1));
    fs::write(world.path("codes.txt"), codes.repeat(5000)).unwrap();
    let child = world
        .seed("decode")
        .args(["codes.txt", "--out", "out", "--batch-size", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("an image", || world.path("out").exists() && !world.files("out").is_empty());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let written = world.files("out").len();
    let said = format!("interrupted: {written} of 5000 images are done");
    assert!(text(&output.stderr).contains(&said), "{written}: {}", text(&output.stderr));
}
