//! `seed inspect` and `seed scenes`.

use std::fs;

use seed_core::scenes::{Scene, Split};
use serde_json::{Value, json};

use crate::world::{World, done, fails, program, text};

#[test]
fn inspect_counts_every_weight_and_tests_itself() {
    let world = World::new();
    let output = text(&done(program().arg("inspect").arg(world.bundle())).stdout);
    for line in ["golden", "random weights for tests", "56 x 56 pixels", "32 an image, 256 codes", "128 x 128", "cpu"] {
        assert!(output.contains(line), "{line}: {output}");
    }
    assert!(output.ends_with("self-test             passed\n"), "{output}");
    let json = done(program().args(["inspect", "--json"]).arg(world.bundle())).stdout;
    let facts: Value = serde_json::from_slice(&json).unwrap();
    let parts: u64 = facts["parts"].as_array().unwrap().iter().map(|part| part["parameters"].as_u64().unwrap()).sum();
    assert_eq!(facts["parameters"], parts);
    assert_eq!(facts["memory_bytes"], 4 * parts);
    let json = done(program().args(["inspect", "--json", "--dtype", "f16"]).arg(world.bundle())).stdout;
    let half: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(half["parameters"], parts);
    let bytes = half["memory_bytes"].as_u64().unwrap();
    assert!(bytes > 2 * parts && bytes < 3 * parts, "layers in half precision, the rest not: {bytes} of {parts}");
    assert_eq!(facts["sizes"]["codebook_size"], 256);
    assert_eq!(facts["decoder"]["image_size"], 128);
    assert_eq!(facts["self_test"], "passed");
    // The same by --model, and without a decoder.
    fs::remove_dir_all(world.path("bundle/decoder")).unwrap();
    let json = done(world.seed("inspect").arg("--json")).stdout;
    let facts: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(facts["decoder"], Value::Null);
}

#[test]
fn inspect_lists_a_file_of_weights() {
    let world = World::new();
    let path = world.path("bundle/model.safetensors");
    let output = text(&done(program().arg("inspect").arg(&path)).stdout);
    assert!(output.contains("quantize.embedding.weight") && output.contains("F32   [256, 32]"), "{output}");
    let facts: Value = serde_json::from_slice(&done(world.seed("inspect").arg("--json")).stdout).unwrap();
    let listed: Value = serde_json::from_slice(&done(program().args(["inspect", "--json"]).arg(&path)).stdout).unwrap();
    assert_eq!(listed["sha256"], facts["weights_sha256"]);
    assert!(output.ends_with(&format!("SHA-256 {}\n", listed["sha256"].as_str().unwrap())));
    let elements: u64 = listed["tensors"].as_array().unwrap().iter().map(elements).sum();
    assert_eq!(listed["elements"], elements);

    // What `torch.save` wrote, with what is no weight.
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/seed2-mlp/seed_quantizer.pt");
    let output = text(&done(program().args(["inspect", golden])).stdout);
    assert!(output.contains("quantize.embedding.weight"), "{output}");
    fs::write(world.path("no.pt"), "no").unwrap();
    fails(program().arg("inspect").arg(world.path("no.pt")), 1, &["no.pt"]);
}

fn elements(tensor: &Value) -> u64 {
    tensor["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product()
}

#[test]
fn inspect_notices_changed_weights() {
    let world = World::new();
    let path = world.path("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let facts: Value = serde_json::from_slice(&done(world.seed("inspect").arg("--json")).stdout).unwrap();
    config["weights"] = json!({ "sha256": facts["weights_sha256"], "dtype": "f32", "version": "0.1.0" });
    fs::write(&path, config.to_string()).unwrap();
    done(&mut world.seed("inspect"));
    config["weights"]["sha256"] = Value::from("0".repeat(64));
    fs::write(&path, config.to_string()).unwrap();
    fails(&mut world.seed("inspect"), 1, &["model.safetensors", "SHA-256", "changed or damaged"]);
}

#[test]
fn scenes_follow_from_the_seed() {
    let world = World::new();
    let scenes = |out: &str, options: &[&str]| {
        done(program().current_dir(world.path("")).args(["scenes", "--count", "4", "--out", out]).args(options));
        let read = |name: &str| fs::read(world.path(out).join(name)).unwrap();
        let images: Vec<Vec<u8>> = (0..4).map(|index| read(&format!("00000{index}.png"))).collect();
        (images, text(&read("metadata.jsonl")))
    };
    let first = scenes("a", &["--seed", "5"]);
    assert_eq!(first, scenes("b", &["--seed", "5"]));
    assert_eq!(first, scenes("a", &["--seed", "5"]), "a whole folder stays as it is");
    assert_ne!(first, scenes("c", &["--seed", "6"]));
    let held_out = scenes("d", &["--seed", "5", "--held-out", "--size", "32"]);
    assert!(held_out.1.contains(&Scene::sample(5, 3, Split::HeldOut).caption()), "{}", held_out.1);
    assert!(first.1.contains(&Scene::sample(5, 3, Split::Train).caption()), "{}", first.1);
}

#[test]
fn scenes_refuse_what_cannot_be_written() {
    let world = World::new();
    let scenes = |arguments: &[&str], words: &[&str]| {
        drop(fails(program().current_dir(world.path("")).arg("scenes").args(arguments), 1, words));
    };
    scenes(&["--count", "0", "--out", "a"], &["count = 0"]);
    scenes(&["--count", "1", "--size", "4", "--out", "a"], &["size = 4", "16"]);
    scenes(&["--count", "1", "--out", "bundle"], &["bundle already holds", "empty folder"]);
}
