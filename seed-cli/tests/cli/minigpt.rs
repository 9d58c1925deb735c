//! `seed minigpt`: embeddings of the golden files, prompts, boxes.

use std::{fs, path::Path, process::Command};

use seed_core::{
    checkpoint::Weights,
    pixels::{self, Limits},
};
use serde_json::Value;

use crate::world::{World, done, ends, fails, feed, program, text};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/minigpt");

fn embed(world: &World, files: &[(&str, &str)]) -> Command {
    let mut seed = program();
    seed.current_dir(world.path("")).args(["minigpt", "embed"]);
    for (option, file) in files {
        seed.args([option, format!("{GOLDEN}/{file}").as_str()]);
    }
    seed
}

const FILES: [(&str, &str); 4] = [
    ("--vit", "eva_vit_g.pth"),
    ("--checkpoint", "minigptv2.pth"),
    ("--ln-vision", "blip2.pth"),
    ("--config", "config.json"),
];

#[test]
fn images_become_the_references_embeddings() {
    let world = World::new();
    let image = format!("{GOLDEN}/image.png");
    let broken = world.path("broken.png");
    fs::write(&broken, "no image").unwrap();
    let mut seed = embed(&world, &FILES);
    seed.args([&image, "broken.png", &image, "--out", "made.safetensors", "--batch-size", "2", "--verbose"]);
    let output = ends(&mut seed, 3);
    assert_eq!(text(&output.stdout), format!("{image}\t0\n{image}\t1\n"));
    let said = text(&output.stderr);
    for words in ["broken.png", "1 of 3 images failed", "8 left out: LoRA", "not a weight: epoch (int)"] {
        assert!(said.contains(words), "{words} is not in: {said}");
    }
    let made = Weights::open(&world.path("made.safetensors")).unwrap();
    assert_eq!(made.keys().collect::<Vec<_>>(), ["embeddings"]);
    assert_eq!(made.get("embeddings").unwrap().shape, [2, 16, 32]);
    let found = made.floats("embeddings").unwrap();
    let want = Weights::open(Path::new(&format!("{GOLDEN}/cases.safetensors"))).unwrap();
    let want = want.floats("image_embeddings").unwrap();
    let size = want.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (found, want) in found.iter().zip(want.iter().cycle()) {
        assert!((found - want).abs() <= 1e-5 * size, "{found} is not {want}");
    }
}

#[test]
fn what_cannot_be_embedded_says_why() {
    let world = World::new();
    let image = format!("{GOLDEN}/image.png");
    fails(embed(&world, &FILES).args([&image, "--out", "none/made.safetensors"]), 1, &["no folder none", "--out"]);
    fails(
        embed(&world, &FILES[..3]).args([&image, "--out", "x"]),
        1,
        &["blip2.pth", "ln_vision.weight", "needs [1408]"],
    );
    let swapped = [("--vit", "minigptv2.pth"), ("--checkpoint", "eva_vit_g.pth"), FILES[3]];
    fails(embed(&world, &swapped).args([&image, "--out", "x"]), 1, &["eva_vit_g.pth", "no place for blocks"]);
    fails(embed(&world, &FILES).args(["absent.png", "--out", "x"]), 1, &["absent.png"]);
    fails(embed(&world, &FILES[..1]).args([&image, "--out", "x"]), 2, &["--checkpoint"]);
    fs::write(world.path("sizes.json"), r#"{"image_size": 32}"#).unwrap();
    let mut seed = embed(&world, &FILES[..3]);
    fails(seed.args(["--config", "sizes.json", &image, "--out", "x"]), 1, &["sizes.json", "patch_size"]);
    assert!(!world.path("x").exists());
}

#[test]
fn prompts() {
    let prompt = |arguments: &[&str]| text(&done(program().args(["minigpt", "prompt"]).args(arguments)).stdout);
    assert_eq!(
        prompt(&["--task", "refer", "the dog"]),
        "<s>[INST] <Img><ImageHere></Img> [refer] give me the location of the dog [/INST]\n"
    );
    assert_eq!(
        prompt(&["--task", "refer", "--verbatim", "where is the dog?"]),
        "<s>[INST] <Img><ImageHere></Img> [refer] where is the dog? [/INST]\n"
    );
    let object: Value = serde_json::from_str(&prompt(&["hello", "--json"])).unwrap();
    assert_eq!(object["prompt"], "<s>[INST] <Img><ImageHere></Img> hello [/INST]");
    assert_eq!(object["pieces"][0]["text"], "<s>[INST] <Img>");
    assert_eq!((&object["pieces"][0]["bos"], &object["pieces"][1]["bos"]), (&Value::Bool(true), &Value::Bool(false)));
    fails(program().args(["minigpt", "prompt", "--task", "segment", "x"]), 2, &["vqa, caption"]);
    fails(program().args(["minigpt", "prompt", "--task", "vqa", ""]), 1, &["say what to do"]);
    fails(program().args(["minigpt", "prompt", "a [/INST]"]), 1, &["[/INST] separates"]);
}

#[test]
fn boxes_are_drawn() {
    let world = World::new();
    let image = world.images(1).remove(0).display().to_string();
    let draw = |answer: &str| {
        let mut seed = program();
        seed.current_dir(world.path("")).args(["minigpt", "draw-boxes", &image, answer, "--out", "drawn.png"]);
        seed
    };
    let answer = "<p>a ball</p> {<25><50><75><100>}<delim>{<0><0><50><50>} {<50><50><60><60>}";
    let lines = "#e69f00\ta ball\t18.00 36.00 54.00 72.00\n#e69f00\ta ball\t0.00 0.00 36.00 36.00\n#56b4e9\t\t36.00 36.00 43.20 43.20\n";
    assert_eq!(text(&done(&mut draw(answer)).stdout), lines);
    let before = pixels::open(image.as_ref(), &Limits::default()).unwrap();
    let drawn = pixels::open(&world.path("drawn.png"), &Limits::default()).unwrap();
    assert_eq!(drawn.dimensions(), before.dimensions());
    assert_eq!((drawn.get_pixel(18, 60).0, drawn.get_pixel(60, 10)), ([0xe6, 0x9f, 0], before.get_pixel(60, 10)));
    assert_eq!(text(&feed(&mut draw("-"), answer.as_bytes()).stdout), lines);

    fs::remove_file(world.path("drawn.png")).unwrap();
    fails(&mut draw("<p>a ball</p> {<25><50><75>}"), 1, &["character 14", "4 coordinates", "--lenient"]);
    fails(&mut draw("a ball"), 1, &["holds no boxes"]);
    let half = "{<25><50><75>} {<1><1><9><9>}";
    let output = done(draw(half).arg("--lenient"));
    assert!(text(&output.stderr).contains("left out \"{<25><50><75>}\""));
    assert_eq!(text(&output.stdout), "#e69f00\t\t0.72 0.72 6.48 6.48\n");
    let mut onto_itself = program();
    fails(onto_itself.args(["minigpt", "draw-boxes", &image, answer, "--out", &image]), 1, &["the image itself"]);
}
