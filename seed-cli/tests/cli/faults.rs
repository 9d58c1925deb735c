//! Model bundles that cannot be used: each command says what is wrong, where, and what to do.

use std::fs;

use crate::world::{World, fails, program};

impl World {
    fn refuses(&self, words: &[&str]) {
        let images = self.images(1);
        fails(self.seed("encode").args(images), 1, words);
    }

    fn edit_config(&self, from: &str, to: &str) {
        let path = self.path("bundle/config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

#[test]
fn no_bundle() {
    let world = World::new();
    fs::remove_file(world.path("bundle/config.json")).unwrap();
    world.refuses(&["bundle", "no config.json", "seed train"]);
    fs::remove_dir_all(world.bundle()).unwrap();
    world.refuses(&["bundle", "no such folder"]);
}

#[test]
fn no_weights() {
    let world = World::new();
    fs::remove_file(world.path("bundle/model.safetensors")).unwrap();
    world.refuses(&["model.safetensors", "No such file"]);
}

#[test]
fn a_weight_file_that_is_cut_off() {
    let world = World::new();
    let path = world.path("bundle/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        world.refuses(&["model.safetensors", "not a valid weight file", "again"]);
    }
}

#[test]
fn weights_of_another_model() {
    let world = World::new();
    world.edit_config("\"codebook_size\":256", "\"codebook_size\":128");
    world.refuses(&["model.safetensors", "quantize.embedding.weight", "[256, 32]", "[128, 32]"]);
    let world = World::new();
    world.edit_config("\"vit_depth\":3", "\"vit_depth\":4");
    world.refuses(&["model.safetensors", "lacks", "visual_encoder.blocks.3"]);
    let world = World::new();
    world.edit_config("\"vit_depth\":3", "\"vit_depth\":2");
    world.refuses(&["model.safetensors", "no place for", "visual_encoder.blocks.2"]);
}

#[test]
fn a_configuration_that_is_wrong() {
    for (from, to, words) in [
        ("\"patch_size\":14", "\"patch_size\":13", &["config.json", "image_size = 56", "patch_size = 13"][..]),
        ("\"patch_size\":14", "\"patch_size\":0", &["config.json", "patch_size is 0"]),
        ("\"patch_size\"", "\"path_size\"", &["config.json", "path_size"]),
        ("\"format\":1", "\"format\":2", &["config.json", "format = 2"]),
        ("{", "[", &["config.json"]),
    ] {
        let world = World::new();
        world.edit_config(from, to);
        world.refuses(words);
    }
}

#[test]
fn a_decoder_that_does_not_fit() {
    let world = World::new();
    let codes = world.encode(&world.images(1));
    fs::write(world.path("codes.txt"), codes).unwrap();
    let refuses = |words: &[&str]| drop(fails(world.seed("decode").args(["codes.txt", "--out", "out"]), 1, words));
    fs::rename(world.path("bundle/decoder/unet"), world.path("unet")).unwrap();
    refuses(&["unet", "config.json"]);
    fs::rename(world.path("unet"), world.path("bundle/decoder/unet")).unwrap();
    let path = world.path("bundle/decoder/vae/config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"latent_channels\": 4", "\"latent_channels\": 8")).unwrap();
    refuses(&["vae"]);
    // Encoding needs no decoder and reads none.
    world.encode(&world.images(1));
}

#[test]
fn inspect_and_reconstruct_refuse_alike() {
    let world = World::new();
    fs::remove_file(world.path("bundle/config.json")).unwrap();
    fails(program().arg("inspect").arg(world.bundle()), 1, &["no config.json"]);
    fails(world.seed("reconstruct").args(["x.png", "--out", "out"]), 1, &["no config.json"]);
    assert!(!world.path("out").exists());
}

#[test]
fn evaluation_needs_captions() {
    let world = World::new();
    let bundle = world.bundle();
    fails(program().args(["eval", "retrieval", "--count", "2", "--model"]).arg(&bundle), 1, &["no caption side"]);
    fails(program().args(["eval", "codes", "--count", "0", "--model"]).arg(&bundle), 2, &["--count"]);
}
