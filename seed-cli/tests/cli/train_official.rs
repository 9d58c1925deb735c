//! `seed train` by the official objectives: one stage a recipe, validation, and runs that are killed.

use std::{collections::BTreeMap, fs, process::Command, process::Stdio};

use seed_core::checkpoint::Weights;
use serde_json::Value;

use crate::{
    train::RECIPE,
    world::{World, done, fails, program, text},
};

/// A run is left alone after so many.
const KILLS: u32 = 8;

/// A stage's plan, with checkpoints and validations often.
fn plan(name: &str, steps: usize, more: &str) -> String {
    format!(
        "[{name}]\nsteps = {steps}\nbatch = 4\nlearning_rate = 1e-3\nwarmup = 1\nweight_decay = 0.05\n\
         checkpoint_every = 3\nvalidate_every = 4\nvalidation = 6\n{more}\n"
    )
}

/// All stages, 1 and 2 by the official objectives, the vision stage as teacher.
fn all() -> String {
    let objectives = "[alignment]\nembed_dim = 8\n[codebook]\nrestart_every = 2\ninit = \"latents\"\n";
    let stages = [
        plan("vision", 9, ""),
        plan("stage1", 12, "parts = 2\nkeep = \"best\""),
        plan("stage2", 12, "parts = 2\nclip_norm = 0.5"),
        plan("vae", 8, ""),
        plan("decoder", 8, ""),
    ];
    format!("{RECIPE}\n{objectives}{}", stages.concat())
}

fn train(world: &World, recipe: &str, out: &str) -> Command {
    let mut seed = program();
    seed.current_dir(world.path("")).args(["train", recipe, "--out", out]);
    seed
}

/// Every report of a run, without the speed: stage and step to loss, rate and metrics.
fn reports(world: &World, run: &str) -> BTreeMap<(String, u64), String> {
    let mut reports = BTreeMap::new();
    for stage in ["vision", "stage1", "stage2", "vae", "decoder"] {
        let lines = fs::read_to_string(world.path(&format!("{run}/{stage}/metrics.jsonl"))).unwrap_or_default();
        for line in lines.lines() {
            let Ok(mut report) = serde_json::from_str::<Value>(line) else { continue }; // cut off by the kill
            report.as_object_mut().unwrap().remove("images_per_second");
            let twice = reports.insert((stage.to_owned(), report["step"].as_u64().unwrap()), report.to_string());
            assert!(twice.is_none(), "{run}/{stage} reports a step twice: {line}");
        }
    }
    reports
}

/// Kills the run again and again, at moments that spread over its length, and lets it go on each time.
#[test]
fn a_run_that_is_killed_goes_on_with_the_losses_of_one_that_was_not() {
    let world = World::new();
    fs::write(world.path("all.toml"), all()).unwrap();
    let begin = std::time::Instant::now();
    done(&mut train(&world, "all.toml", "whole"));
    let length = begin.elapsed();
    let whole = reports(&world, "whole");
    assert_eq!(whole.len(), 9 + 12 + 12 + 8 + 8);

    let (mut kills, mut at_work) = (0, 0);
    loop {
        let mut run = train(&world, "all.toml", "killed");
        let mut child = run.arg("--resume").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if kills < KILLS {
            // Sittings of 15 to 45 % of the whole, so that a run gets on between its kills.
            std::thread::sleep(length.mul_f64(0.15 + 0.1 * f64::from(kills * 7 % 4)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
            }
        }
        let status = child.wait().unwrap();
        if status.code().is_some() {
            assert!(status.success(), "the run failed after {kills} kills");
            break;
        }
        let steps = reports(&world, "killed").len();
        (kills, at_work) = (kills + 1, at_work + usize::from((1..whole.len()).contains(&steps)));
    }
    assert!(at_work >= 2, "{kills} kills, {at_work} of them while it was learning");
    let killed = reports(&world, "killed");
    for (step, report) in &whole {
        assert_eq!(killed.get(step), Some(report), "{step:?}");
    }
    assert_eq!(killed.len(), whole.len());
    for file in ["bundle/model.safetensors", "bundle/decoder/unet/diffusion_pytorch_model.safetensors"] {
        let read = |run: &str| fs::read(world.path(&format!("{run}/{file}"))).unwrap();
        assert!(read("killed") == read("whole"), "{file}");
    }
}

#[test]
fn one_stage_a_recipe_makes_the_model_of_one_recipe() {
    let world = World::new();
    fs::write(world.path("all.toml"), all()).unwrap();
    done(train(&world, "all.toml", "whole").args(["--until", "stage2"]));
    // What stage 1 made is a file with the released keys, which a run of stage 1 alone begins with, and one of stage 2.
    let (sizes, rest) = RECIPE.split_once("[contrast]").unwrap();
    assert!(rest.contains("[diffusion]"));
    let stage1 = format!("{sizes}\n[alignment]\nembed_dim = 8\n{}", plan("stage1", 2, ""));
    fs::write(world.path("stage1.toml"), stage1).unwrap();
    fails(&mut train(&world, "stage1.toml", "none"), 1, &["vision transformer", "[from]", "eva_vit_g.pth"]);
    let set = ["--set", "from.vit=whole/bundle", "--set", "from.qformer=whole/stage1"];
    assert_eq!(text(&done(train(&world, "stage1.toml", "first").args(set)).stdout), "first/stage1\n");
    let account: Value = serde_json::from_slice(&fs::read(world.path("first/stage1/start.json")).unwrap()).unwrap();
    assert_eq!(account[0]["part"], "vision transformer");
    assert!(account[0]["unused"].as_array().unwrap().iter().any(|key| key == "quantize.embedding.weight"));
    assert_eq!(account[1]["part"], "Q-Former");
    assert_eq!(account[1]["unused"].as_array().unwrap().len(), 0, "{}", account[1]);

    let weights = |run: &str| Weights::open(&world.path(&format!("{run}/stage1/model.safetensors"))).unwrap();
    let (before, after) = (weights("whole"), weights("first"));
    assert_eq!(after.get("temp").unwrap().shape, [0usize; 0], "a scalar, as in BLIP-2's file");
    for key in before.keys() {
        // Softmax does not see what is added to all keys.
        let learned = before.floats(key).unwrap() != after.floats(key).unwrap() || key.ends_with("key.bias");
        assert!(learned, "{key} has not learned");
    }

    let stage2 = format!("{sizes}\n[codebook]\nmean_decay = 0.9\n{}", plan("stage2", 3, "precision = \"bf16\""));
    fs::write(world.path("stage2.toml"), stage2).unwrap();
    fails(train(&world, "stage2.toml", "none-2").args(set), 1, &["teacher", "[from]"]);
    let given = [&set[..2], &["--set", "from.qformer=first/stage1", "--set", "from.teacher=whole/bundle"]].concat();
    // The bundle that stage 2 made is no teacher: it has no caption side.
    fails(train(&world, "stage2.toml", "none-3").args(&given), 1, &["caption side"]);
    fs::write(world.path("vision.toml"), format!("{RECIPE}\n{}", ["vision", "stage1", "stage2"].map(scenes).concat()))
        .unwrap();
    done(&mut train(&world, "vision.toml", "teacher"));
    let given = [&set[..2], &["--set", "from.qformer=first/stage1", "--set", "from.teacher=teacher/bundle"]].concat();
    assert_eq!(text(&done(train(&world, "stage2.toml", "second").args(&given)).stdout), "second/bundle\n");
    let images = world.images(2);
    let codes = done(program().args(["encode", "--model"]).arg(world.path("second/bundle")).args(images)).stdout;
    assert_eq!(text(&codes).lines().count(), 2);
    let last = reports(&world, "second").into_iter().next_back().unwrap().1;
    assert!(last.contains("validation_loss") && last.contains("validation_codes"), "{last}");
}

/// A stage by the objective for scenes.
fn scenes(name: &str) -> String {
    plan(name, 1, "").replace("validate_every = 4", "validate_every = 0")
}

#[test]
fn values_can_be_set_besides_the_recipe() {
    let world = World::new();
    fs::write(world.path("all.toml"), all()).unwrap();
    let until = ["--until", "vision"];
    let set = |key_value: &str| {
        let mut seed = train(&world, "all.toml", "set");
        seed.args(until).args(["--set", key_value]);
        seed
    };
    fails(&mut set("vision.step=3"), 1, &["all.toml", "vision.step", "did you mean steps?"]);
    fails(&mut set("vision.steps=few"), 1, &["all.toml", "vision.steps"]);
    fails(&mut set("vision.batch=0"), 1, &["vision", "batch"]);
    fails(&mut set("vision.steps"), 2, &["stage1.steps=1000"]);
    fails(train(&world, "all.toml", "set").args(["--device", "cpu,wgpu"]), 1, &["devices of one kind"]);
    let mut seed = set("vision.steps=3");
    done(seed.args(["--set", "name=other", "--device", "cpu,cpu"]));
    assert_eq!(reports(&world, "set").len(), 3);
}

#[test]
fn a_run_that_diverges_says_what_it_learned_from() {
    let world = World::new();
    fs::write(world.path("all.toml"), all()).unwrap();
    let mut seed = train(&world, "all.toml", "run");
    seed.args(["--until", "vision", "--set", "vision.weight_decay=1e30", "--set", "vision.checkpoint_every=1"]);
    let words = ["diverged at step", "stage vision", "scene ", "and 1 more", "diverged.json", "learning rate"];
    fails(&mut seed, 1, &words);
    let account: Value = serde_json::from_slice(&fs::read(world.path("run/vision/diverged.json")).unwrap()).unwrap();
    assert_eq!(account["keys"].as_array().unwrap().len(), 4);
    let step = account["step"].as_u64().unwrap();
    assert_eq!(account["keys"][0], format!("scene {}", 4 * step));
    assert_eq!(reports(&world, "run").len() as u64, step, "the step is not among those that are done");
    assert!(world.path("run/vision/checkpoint.bin").is_file(), "the last checkpoint is kept");
}
