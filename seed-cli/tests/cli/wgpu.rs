//! `--device wgpu`, on whatever device there is; one that computes in software will do.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::world::{World, done, fails, program, text};

fn examples() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut images: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "png")).collect();
    images.sort();
    images
}

#[test]
fn codes_are_those_of_the_cpu() {
    let encode = |device: &str| text(&done(program().args(["encode", "--device", device]).args(examples())).stdout);
    let expected = encode("cpu");
    assert_eq!(expected.lines().count(), examples().len());
    assert_eq!(encode("wgpu"), expected);
}

#[test]
fn what_made_the_codes_is_said() {
    let world = World::new();
    let output = done(world.seed("encode").args(["--device", "wgpu", "--json", "--margins"]).args(world.images(1)));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["tokenizer"]["device"], "wgpu:0");
    assert_eq!(line["margins"].as_array().unwrap().len(), 32);
}

#[test]
fn a_number_too_high_says_what_there_is() {
    let world = World::new();
    fails(world.seed("encode").args(["--device", "wgpu:99", "x"]), 1, &["wgpu:99 is not available", "0 is "]);
}

/// As on a machine without a driver.
#[test]
fn no_driver_is_an_error() {
    let world = World::new();
    let mut seed = world.seed("encode");
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        seed.env(variable, "/nowhere.json"); // new and old name
    }
    fails(seed.args(["--device", "wgpu", "x"]), 1, &["wgpu:0 is not available", "mesa-vulkan-drivers"]);
}

#[test]
fn a_model_works() {
    let world = World::new();
    let output = text(&done(world.seed("inspect").args(["--device", "wgpu"])).stdout);
    assert!(output.contains("self-test") && output.contains("passed"), "{output}");
}

#[test]
fn a_recipe_becomes_a_model() {
    let world = World::new();
    world.recipe(1);
    let output = done(world.train().args(["--device", "wgpu"]));
    assert_eq!(text(&output.stdout), "runs/least/bundle\n");
    done(program().arg("inspect").arg(world.path("runs/least/bundle")));
}
