//! `seed encode`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
};

use seed_core::codes;
use serde_json::Value;
use sha2::Digest as _;

use crate::world::{World, done, ends, fails, feed, interrupt, program, scene, text};

#[test]
fn a_line_is_path_tab_codes() {
    let world = World::new();
    let paths = world.images(3);
    let images: Vec<_> = (0..3).map(scene).collect();
    let expected = world.tokenizer().encode(&images).unwrap();
    let lines: Vec<String> = paths
        .iter()
        .zip(expected.rows())
        .map(|(path, row)| format!("{}\t{}\n", path.display(), codes::to_text(row)))
        .collect();
    assert_eq!(world.encode(&paths), lines.concat());
    // The order is the caller's.
    let turned: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    assert_eq!(world.encode(&turned), lines.iter().rev().map(String::as_str).collect::<String>());
}

#[test]
fn json_lines_hold_the_same() {
    let world = World::new();
    let paths = world.images(2);
    let plain = world.encode(&paths);
    let output = done(world.seed("encode").arg("--json").args(&paths));
    for (json, line) in text(&output.stdout).lines().zip(plain.lines()) {
        let object: Value = serde_json::from_str(json).unwrap();
        let row: Vec<String> = object["codes"].as_array().unwrap().iter().map(Value::to_string).collect();
        assert_eq!(format!("{}\t{}", object["path"].as_str().unwrap(), row.join(" ")), line);
    }
    assert_eq!(text(&output.stdout).lines().count(), 2);
}

#[test]
fn json_lines_say_what_made_them() {
    let world = World::new();
    let paths = world.images(2);
    let lines = |options: &[&str]| -> Vec<Value> {
        let output = done(world.seed("encode").arg("--json").args(options).args(&paths));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let plain = lines(&[]);
    let made = &plain[0]["tokenizer"];
    assert_eq!((&made["model"], &made["preprocess"]), (&Value::from("golden"), &Value::from("seed")));
    assert_eq!((&made["device"], &made["dtype"]), (&Value::from("cpu"), &Value::from("f32")));
    assert_eq!(made["version"], env!("CARGO_PKG_VERSION"));
    let bytes = fs::read(world.path("bundle/model.safetensors")).unwrap();
    let hash: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(made["weights"], hash);
    assert_eq!(lines(&["--preprocess", "seed-scripts"])[0]["tokenizer"]["preprocess"], "seed-scripts");

    assert!(plain[0].get("margins").is_none());
    for (line, plain) in lines(&["--margins"]).iter().zip(&plain) {
        assert_eq!(line["codes"], plain["codes"]);
        let margins: Vec<f64> = line["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
        assert!(margins.len() == 32 && margins.iter().all(|&margin| margin >= 0.0), "{margins:?}");
        assert!(margins.iter().any(|&margin| margin > 0.0));
    }
    fails(world.seed("encode").arg("--margins").args(&paths), 2, &["--json"]);
}

#[test]
fn half_precision_is_recorded_and_rounds_weights_alone() {
    let world = World::new();
    let paths = world.images(3);
    let lines = |model: &[&str], dtype: &str| -> Vec<Value> {
        let output = done(program().args(["encode", "--json", "--margins", "--dtype", dtype]).args(model).args(&paths));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // The built-in weights are float16 already.
    for (half, full) in lines(&[], "f16").iter().zip(lines(&[], "f32")) {
        assert_eq!(half["tokenizer"]["dtype"], "f16");
        assert_eq!((&half["codes"], &half["margins"]), (&full["codes"], &full["margins"]));
    }
    let bundle = world.bundle();
    let golden = ["--model", bundle.to_str().unwrap()];
    assert_ne!(lines(&golden, "bf16")[0]["margins"], lines(&golden, "f32")[0]["margins"]);
    done(world.seed("reconstruct").args(&paths).args(["--dtype", "f16", "--out", "out"]));
    fails(world.seed("encode").args(["--dtype", "f64"]).args(&paths), 2, &["dtype", "f64", "f32, f16, bf16 and int8"]);
}

#[test]
fn pixels_of_another_size_are_refused() {
    let world = World::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    let encode = |file: &str, words: &[&str]| {
        fails(world.seed("encode").args(["--pixels", &format!("{golden}/{file}")]), 1, words);
    };
    encode("seed2-mlp/model.safetensors", &["no tensor \"pixels\""]);
    encode("seed2-mlp/config.json", &["config.json"]);
    encode("absent.safetensors", &["absent.safetensors"]);
}

#[test]
fn an_image_comes_from_standard_input() {
    let world = World::new();
    let paths = world.images(1);
    let output = feed(world.seed("encode").arg("-"), &fs::read(&paths[0]).unwrap());
    let named = world.encode(&paths);
    assert_eq!(text(&output.stdout), format!("-\t{}", named.split_once('\t').unwrap().1));
}

#[test]
fn a_folder_is_its_images_sorted() {
    let world = World::new();
    let paths = world.images(5);
    fs::create_dir(world.path("images/more")).unwrap();
    fs::rename(&paths[0], world.path("images/more/zero.PNG")).unwrap();
    fs::write(world.path("images/notes.txt"), "no image").unwrap();
    let output = text(&done(world.seed("encode").arg("images")).stdout);
    let names: Vec<&str> = output.lines().map(|line| line.split_once('\t').unwrap().0).collect();
    assert_eq!(names, ["01.png", "02.png", "03.png", "04.png", "more/zero.PNG"].map(|name| format!("images/{name}")));
}

#[test]
fn batches_and_threads_change_no_code() {
    let world = World::new();
    let paths = world.images(9);
    let expected = world.encode(&paths);
    for (batch, threads) in [("1", "1"), ("1", "2"), ("3", "1"), ("3", "2"), ("8", "1"), ("8", "2"), ("100", "3")] {
        let output = done(world.seed("encode").args(["--batch-size", batch, "--threads", threads]).args(&paths));
        assert_eq!(text(&output.stdout), expected, "batch {batch}, {threads} threads");
    }
}

#[test]
fn presets_differ_and_the_bundle_says_which_is_meant() {
    let world = World::new();
    let paths = world.images(2);
    let preset = |name: &str| text(&done(world.seed("encode").args(["--preprocess", name]).args(&paths)).stdout);
    assert_eq!(preset("seed"), world.encode(&paths));
    let scripts = preset("seed-scripts");
    assert_ne!(scripts, preset("seed"));
    let config = fs::read_to_string(world.path("bundle/config.json")).unwrap();
    fs::write(world.path("bundle/config.json"), config.replace(r#""seed""#, r#""seed-scripts""#)).unwrap();
    assert_eq!(world.encode(&paths), scripts);
}

#[test]
fn one_bad_image_among_a_hundred_is_named_and_left_out() {
    let world = World::new();
    let paths = world.images(100);
    fs::write(&paths[41], "not an image").unwrap();
    let output = fails(world.seed("encode").arg("images"), 3, &["41.png", "not an image", "1 of 100 images failed"]);
    let stdout = text(&output.stdout);
    let names: Vec<&str> = stdout.lines().map(|line| line.split_once('\t').unwrap().0).collect();
    let expected: Vec<String> = (0..100).filter(|i| *i != 41).map(|i| format!("images/{i:02}.png")).collect();
    assert_eq!(names, expected);
}

#[test]
fn images_that_cannot_be_read_are_named_with_the_way_out() {
    let world = World::new();
    let encode = |path: &str, words: &[&str]| drop(fails(world.seed("encode").arg(path), 1, words));
    encode("nothing.png", &["nothing.png", "No such file", "give image files"]);
    fs::write(world.path("text.png"), "hello").unwrap();
    encode("text.png", &["text.png", "not an image", "PNG, JPEG"]);
    fs::write(world.path("empty.jpg"), "").unwrap();
    encode("empty.jpg", &["empty.jpg", "empty"]);
    fs::create_dir(world.path("void")).unwrap();
    encode("void", &["void holds no images", "png, jpg"]);
    let whole = fs::read(&world.images(1)[0]).unwrap();
    fs::write(world.path("half.png"), &whole[..whole.len() / 2]).unwrap();
    encode("half.png", &["half.png", "cut off"]);
    // All of several.
    fails(
        world.seed("encode").args(["text.png", "nothing.png"]),
        1,
        &["text.png", "nothing.png", "all 2 images failed"],
    );
}

#[test]
fn a_huge_image_is_refused_from_its_header() {
    let world = World::new();
    fs::write(world.path("huge.png"), png_header(60_000, 60_000)).unwrap();
    fails(world.seed("encode").arg("huge.png"), 1, &["huge.png", "60000 x 60000", "--max-pixels"]);
    // The limit is the user's to set.
    let paths = world.images(1);
    fails(world.seed("encode").args(["--max-pixels", "5183"]).args(&paths), 1, &["72 x 72", "5183"]);
    done(world.seed("encode").args(["--max-pixels", "5184"]).args(&paths));
}

#[test]
fn wrong_usage_ends_with_2() {
    let world = World::new();
    fails(&mut world.seed("encode"), 2, &["IMAGE"]);
    fails(world.seed("encode").args(["--device", "tpu", "x"]), 2, &["tpu", "cpu, cuda and wgpu"]);
    fails(world.seed("encode").args(["--preprocess", "clip", "x"]), 2, &["clip", "seed-scripts"]);
    fails(world.seed("encode").args(["--batch-size", "0", "x"]), 2, &["at least 1"]);
    fails(&mut program(), 2, &["Usage"]);
    fails(world.seed("encode").args(["-", "-"]), 1, &["once"]);
    assert!(text(&done(program().arg("--version")).stdout).starts_with("seed "));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    let paths = world.images(60);
    let mut child = world
        .seed("encode")
        .args(["--batch-size", "1"])
        .args(&paths)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap(); // and then drops it
    let output = child.wait_with_output().unwrap();
    assert!(first.contains("00.png"), "{first}");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn an_interrupt_ends_after_the_batch_at_hand() {
    let world = World::new();
    let paths = world.images(8);
    let many: Vec<&PathBuf> = paths.iter().cycle().take(20_000).collect();
    let mut child = world
        .seed("encode")
        .args(["--batch-size", "2"])
        .args(many)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    interrupt(&child);
    let rest = lines.map(Result::unwrap).collect::<Vec<_>>();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!((rest.len() + 1) % 2, 0, "whole batches");
    let said = format!("interrupted: {} of 20000 images are done", rest.len() + 1);
    assert!(text(&output.stderr).contains(&said), "{}", text(&output.stderr));
    assert!(rest.iter().all(|line| line.split(' ').count() == 32));
}

#[test]
fn quiet_is_quiet_and_verbose_says_more() {
    let world = World::new();
    let paths = world.images(1);
    let verbose = done(world.seed("encode").arg("-v").args(&paths));
    assert!(text(&verbose.stderr).contains("1 images encoded in"), "{}", text(&verbose.stderr));
    assert!(done(world.seed("encode").args(&paths)).stderr.is_empty());
    ends(world.seed("encode").args(["-q", "-v"]).args(&paths), 2);
}

/// A PNG of that size as far as its header.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(&header);
    file.extend(crc32(&header).to_be_bytes());
    file.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}
