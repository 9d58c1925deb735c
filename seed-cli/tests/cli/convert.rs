//! `seed convert`: files in the layout of the released ones become bundles.

use std::{fs, path::Path, process::Command};

use seed_core::checkpoint::Weights;
use serde_json::Value;

use crate::world::{World, done, fails, program, text};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");

/// The files of a golden model, as options of the command.
fn files(case: &str) -> Vec<String> {
    let options: &[(&str, &str)] = match case {
        "seed1" => &[("--quantizer", "seed_tokenizer.pth"), ("--qformer", "causal_qformer.pth")],
        _ => &[("--quantizer", "seed_quantizer.pt"), ("--vit", "eva_vit_g.pth")],
    };
    options.iter().flat_map(|(option, file)| [(*option).to_owned(), format!("{GOLDEN}/{case}/{file}")]).collect()
}

fn convert(world: &World, case: &str, out: &str) -> Command {
    let mut seed = program();
    seed.current_dir(world.path("")).arg("convert").args(files(case)).args(["--out", out]);
    seed.args(["--config", &format!("{GOLDEN}/{case}/config.json")]);
    seed
}

/// The codes that the reference makes of the golden pixels.
fn expected(case: &str) -> Vec<i64> {
    Weights::open(Path::new(&format!("{GOLDEN}/{case}/cases.safetensors"))).unwrap().integers("codes").unwrap()
}

fn encoded(world: &World, case: &str, bundle: &str) -> Vec<i64> {
    let cases = format!("{GOLDEN}/{case}/cases.safetensors");
    let arguments = ["encode", "--pixels", &cases, "--json", "--model", bundle];
    let output = text(&done(program().current_dir(world.path("")).args(arguments)).stdout);
    let codes = |line: &str| -> Vec<i64> {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["tokenizer"]["dtype"], "f32");
        line["codes"].as_array().unwrap().iter().map(|code| code.as_i64().unwrap()).collect()
    };
    output.lines().flat_map(codes).collect()
}

#[test]
fn every_head_encodes_to_the_references_codes() {
    let world = World::new();
    for case in ["seed2-mlp", "seed2-qformer", "seed1"] {
        done(convert(&world, case, case).args(["--dtype", "f32"]));
        assert_eq!(encoded(&world, case, case), expected(case), "{case}");
    }
}

#[test]
fn every_key_is_accounted_for() {
    let world = World::new();
    let report: Value =
        serde_json::from_slice(&done(convert(&world, "seed2-mlp", "bundle-2").arg("--json")).stdout).unwrap();
    assert_eq!(report["model"]["vit_depth"], 3);
    let keys = |file: usize| {
        let paths = files("seed2-mlp");
        let weights = Weights::open(Path::new(&paths[2 * file + 1])).unwrap();
        weights.keys().map(str::to_owned).collect::<Vec<_>>()
    };
    for file in 0..2 {
        let account = &report["files"][file];
        let used = account["used"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned());
        let ignored = account["ignored"].as_object().unwrap().keys().cloned();
        let mut all: Vec<String> = used.chain(ignored).collect();
        all.sort_unstable();
        assert_eq!(all, keys(file));
    }
    let ignored = &report["files"][1]["ignored"];
    assert!(ignored["blocks.3.norm1.weight"].as_str().unwrap().contains("after the last"), "{ignored}");
    assert!(report["files"][0]["ignored"]["Qformer.bert.embeddings.position_ids"].is_string());

    let table = text(&done(&mut convert(&world, "seed1", "bundle-1")).stdout);
    assert!(table.contains("not a weight: epoch (int)") && table.contains("head Text"), "{table}");
    let stored: Value = serde_json::from_slice(&fs::read(world.path("bundle-1/conversion.json")).unwrap()).unwrap();
    assert_eq!(stored["model"]["head"], "text");
}

#[test]
fn decoders_come_along() {
    let world = World::new();
    for (case, decoder, steps) in [("seed2-mlp", "unclip", 20), ("seed1", "sd1", 50)] {
        let out = format!("with-{decoder}");
        done(convert(&world, case, &out).args(["--decoder", &format!("{GOLDEN}/{decoder}")]));
        assert!(!world.path(&out).join("decoder/text_encoder").exists(), "the empty prompt is computed once");
        let codes = ["0"; 32].join(" ");
        fs::write(world.path("codes.txt"), format!("{codes}\n")).unwrap();
        let arguments = ["decode", "codes.txt", "--steps", "1", "--out", "images", "--model", &out];
        done(program().current_dir(world.path("")).args(arguments));
        let facts = done(program().current_dir(world.path("")).args(["inspect", "--json", &out])).stdout;
        let facts: Value = serde_json::from_slice(&facts).unwrap();
        assert_eq!(facts["decoder"]["steps"], steps, "{case}");
    }
    let other = format!("{GOLDEN}/unclip");
    fails(convert(&world, "seed1", "mixed").args(["--decoder", &other]), 1, &["do not belong together"]);
    assert!(!world.path("mixed/config.json").exists(), "a bundle that failed is none");
}

#[test]
fn another_image_size_interpolates_positions() {
    let world = World::new();
    let table = text(&done(convert(&world, "seed2-mlp", "large").args(["--image-size", "84"])).stdout);
    assert!(table.contains("interpolated from 56 to 84"), "{table}");
    let images = world.images(1);
    done(program().current_dir(world.path("")).args(["encode", "--model", "large"]).args(&images));
    fails(convert(&world, "seed2-mlp", "odd").args(["--image-size", "60"]), 1, &["image_size = 60", "patch_size"]);
}

#[test]
fn shards_in_a_folder_are_one_file() {
    let world = World::new();
    let (folder, model) = (world.path("sharded"), format!("{GOLDEN}/seed2-mlp/model.safetensors"));
    fs::create_dir(&folder).unwrap();
    fs::copy(&model, folder.join("part.safetensors")).unwrap();
    let weights = Weights::open(Path::new(&model)).unwrap();
    let map: serde_json::Map<String, Value> =
        weights.keys().map(|key| (key.to_owned(), Value::from("part.safetensors"))).collect();
    fs::write(folder.join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string())
        .unwrap();
    let config = format!("{GOLDEN}/seed2-mlp/config.json");
    let arguments = ["convert", "--quantizer", "sharded", "--config", &config, "--dtype", "f32", "--out", "whole"];
    let report = done(program().current_dir(world.path("")).args(arguments).arg("--json")).stdout;
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["files"][0]["sha256"], weights.sha256());
    assert_eq!(encoded(&world, "seed2-mlp", "whole"), expected("seed2-mlp"));
}

#[test]
fn a_decoder_of_another_model_does_not_stay() {
    let world = World::new();
    let unclip = format!("{GOLDEN}/unclip");
    done(convert(&world, "seed2-mlp", "twice").args(["--decoder", &unclip]));
    fails(&mut convert(&world, "seed2-qformer", "twice"), 1, &["twice already holds decoder", "empty folder"]);
    // A bundle that could not be made anew is not the old one with parts of the new one.
    fails(convert(&world, "seed1", "twice").args(["--decoder", &unclip]), 1, &["do not belong together"]);
    assert!(!world.path("twice/config.json").exists());
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::new();
    let refused = |arguments: &[String], words: &[&str]| {
        let mut seed = program();
        fails(seed.current_dir(world.path("")).arg("convert").args(arguments).args(["--out", "out"]), 1, words);
        assert!(!world.path("out/config.json").exists());
    };
    let with = |mut arguments: Vec<String>, case: &str| {
        arguments.extend(["--config".to_owned(), format!("{GOLDEN}/{case}/config.json")]);
        arguments
    };
    let quantizer = |case: &str| files(case)[..2].to_vec();
    // Head counts of a tiny model cannot be seen.
    refused(&files("seed2-mlp"), &["vit_heads", "sizes"]);
    // The other head's configuration.
    refused(&with(files("seed2-mlp"), "seed2-qformer"), &["head", "mlp", "qformer"]);
    // Parts of two models.
    let mixed = [quantizer("seed2-mlp"), files("seed1")[2..].to_vec()].concat();
    refused(&with(mixed, "seed2-mlp"), &["and so has"]);
    // Half a model.
    refused(&with(quantizer("seed2-mlp"), "seed2-mlp"), &["visual_encoder"]);
    refused(&with(vec!["--quantizer".into(), "absent.pt".into()], "seed2-mlp"), &["absent.pt"]);
    // A type that is in memory alone.
    let eight = [with(files("seed2-mlp"), "seed2-mlp"), vec!["--dtype".into(), "int8".into()]].concat();
    refused(&eight, &["int8", "f32, f16 or bf16"]);
    // A file that breaks off.
    let bytes = fs::read(format!("{GOLDEN}/seed2-mlp/seed_quantizer.pt")).unwrap();
    fs::write(world.path("cut.pt"), &bytes[..bytes.len() / 2]).unwrap();
    refused(&with(vec!["--quantizer".into(), "cut.pt".into()], "seed2-mlp"), &["cut.pt"]);
}
