//! `seed train` on images with captions of one's own.

use std::fs;

use serde_json::Value;

use crate::world::{World, done, fails, program, text};

impl World {
    /// Forty images with captions in the folder `scenes`, and the least recipe on what `data` names, two steps a stage.
    fn pairs(&self, data: &str) {
        self.recipe(2);
        let recipe = fs::read_to_string(self.path("least.toml")).unwrap().replace("steps = 1\n", "steps = 2\n");
        fs::write(self.path("least.toml"), format!("{recipe}\n[data]\nkind = \"pairs\"\n{data}\n")).unwrap();
        if !self.path("scenes").exists() {
            let mut seed = program();
            seed.current_dir(self.path("")).args(["scenes", "--count", "40", "--seed", "5", "--size", "24"]);
            done(seed.args(["--out", "scenes"]));
        }
    }
}

#[test]
fn a_folder_of_images_with_captions_becomes_a_model() {
    let world = World::new();
    world.pairs("inputs = [\"scenes\"]\nshuffle = 8\nworkers = 1");
    fs::write(world.path("scenes/000003.png"), "no image").unwrap();
    let output = done(world.train().arg("--json"));
    let (said, lines) = (text(&output.stderr), text(&output.stdout));
    let reports: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let stages: Vec<&str> = reports.iter().map(|report| report["stage"].as_str().unwrap()).collect();
    let want = ["vision", "stage1", "stage2", "vae", "decoder"].map(|stage| [stage; 2]);
    assert_eq!(stages, want.concat());
    assert!(reports.iter().all(|report| report["loss"].as_f64().is_some_and(f64::is_finite)));
    // Ten batches and what the stages measure have seen every image of the forty.
    assert!(said.contains("cannot be used: 1, see runs/least/failures.jsonl"), "{said}");
    let failures = fs::read_to_string(world.path("runs/least/failures.jsonl")).unwrap();
    let failure: Value = serde_json::from_str(&failures).unwrap();
    assert_eq!((&failure["key"], &failure["why"]), (&"000003.png".into(), &"failed".into()));
    let codes = done(program().args(["encode", "--model"]).arg(world.path("runs/least/bundle")).args(world.images(2)));
    assert_eq!(text(&codes.stdout).lines().count(), 2);
    // Threads are no part of the run, images are.
    world.pairs("inputs = [\"scenes\"]\nshuffle = 8\nworkers = 2");
    assert_eq!(text(&done(world.train().arg("--resume")).stdout), "runs/least/bundle\n");
    fs::remove_file(world.path("scenes/000039.png")).unwrap();
    fs::remove_file(world.path("scenes/metadata.jsonl")).unwrap();
    fs::write(world.path("scenes/metadata.csv"), "file_name,text\n000001.png,a red square\n").unwrap();
    fails(world.train().arg("--resume"), 1, &["runs/least", "other settings", "the data scenes"]);
}

#[test]
fn stage_1_reads_captions_by_a_given_vocabulary() {
    let world = World::new();
    let vocabulary = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wordpiece/vocab.txt");
    world.pairs(&format!(
        "inputs = [\"scenes\"]\nvalidation = [\"images\"]\ntokenizer = {vocabulary:?}\n[alignment]\nembed_dim = 8\n[codebook]"
    ));
    let recipe = fs::read_to_string(world.path("least.toml")).unwrap();
    fs::write(world.path("least.toml"), recipe.replace("[stage1]\n", "[stage1]\nvalidate_every = 1\nvalidation = 6\n"))
        .unwrap();
    // Words that scenes do not have, in what stage 1 is validated on.
    world.images(4);
    let rows = (0..4).map(|number| format!("{number:02}.png,\"A photo of {number} Cats, unplayable\"\n"));
    fs::write(world.path("images/metadata.csv"), format!("file_name,text\n{}", rows.collect::<String>())).unwrap();
    let output = done(world.train().args(["--until", "stage1", "--json"]));
    let reports: Vec<Value> = text(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = reports.last().unwrap();
    assert_eq!((&last["stage"], &last["step"]), (&"stage1".into(), &2.into()));
    assert!(last["metrics"]["validation_loss"].as_f64().is_some_and(f64::is_finite), "{last}");
    world.pairs("inputs = [\"scenes\"]\ntokenizer = \"scenes/metadata.jsonl\"\n[alignment]\nembed_dim = 8\n[codebook]");
    fails(world.train().args(["--out", "other", "--until", "stage1"]), 1, &["metadata.jsonl", "[CLS]"]);
}

#[test]
fn data_that_cannot_be_learned_from_are_named() {
    let world = World::new();
    world.pairs("inputs = [\"nowhere/{00..03}.tar\"]");
    fails(&mut world.train(), 1, &["nowhere/00.tar", "no such file"]);
    world.pairs("inputs = [\"scenes\"]\nworkers = 0");
    fails(&mut world.train(), 1, &["least.toml", "workers"]);
    world.pairs("inputs = [\"images\"]");
    world.images(4);
    fails(&mut world.train(), 1, &["images", "holds no captions", "caption_column"]);
    // Without a vocabulary, captions are made of the words of scenes.
    fs::write(world.path("images/metadata.csv"), "file_name,text\n00.png,a xylophone\n").unwrap();
    fails(&mut world.train(), 1, &["xylophone"]);
}
