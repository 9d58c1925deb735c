//! `seed train`.

use std::{fs, process::Command, process::Stdio};

use serde_json::Value;

use crate::world::{World, done, fails, interrupt, program, text, wait_for};

/// Everything as small as it can be.
pub(crate) const RECIPE: &str = r#"
name = "least"
seed = 3

[model]
image_size = 16
patch_size = 8
vit_width = 8
vit_depth = 1
vit_heads = 2
vit_mlp = 8
qformer_width = 8
qformer_depth = 1
qformer_heads = 2
qformer_mlp = 8
cross_attention_every = 1
num_queries = 32
codebook_size = 16
codebook_dim = 4
decoder_depth = 1
decoder_heads = 2
head = "mlp"
generation_dim = 8
reverse_queries = 1
reverse_depth = 1
recon_semantic = true

[contrast]
embed_dim = 8
width = 8
depth = 1
heads = 2
context = 44

[diffusion]
vae_channels = [4, 8]
vae_layers = 1
latent_channels = 4
unet_channels = [8, 8]
unet_layers = 1
head_dim = 4
vae_groups = 2
unet_groups = 2
context = 4
pool = 8
steps = 2
guidance = 2.0
"#;

impl World {
    /// Writes the recipe with `vision` steps of the first stage.
    pub(crate) fn recipe(&self, vision: usize) {
        let plan = |name: &str, steps: usize| {
            format!(
                "[{name}]\nsteps = {steps}\nbatch = 4\nlearning_rate = 1e-3\nwarmup = 1\nweight_decay = 0.0\ncheckpoint_every = 1000000\n"
            )
        };
        let plans = [plan("vision", vision), plan("stage1", 1), plan("stage2", 1), plan("vae", 1), plan("decoder", 1)];
        fs::write(self.path("least.toml"), format!("{RECIPE}\n{}", plans.concat())).unwrap();
    }

    pub(crate) fn train(&self) -> Command {
        let mut seed = program();
        seed.current_dir(self.path("")).args(["train", "least.toml"]);
        seed
    }

    /// Every evaluation runs on `bundle` and says what it measured, in both forms.
    fn evaluates(&self, bundle: &str) {
        let eval = |arguments: &[&str], words: &[&str], pointer: &str| {
            let eval = |more: &[&str]| {
                let mut seed = program();
                seed.arg("eval").args(arguments).arg("--model").arg(self.path(bundle)).args(more);
                text(&done(&mut seed).stdout)
            };
            let table = eval(&[]);
            words.iter().for_each(|word| assert!(table.contains(word), "{word}: {table}"));
            let json: Value = serde_json::from_str(&eval(&["--json"])).unwrap();
            assert_eq!(json["tokenizer"]["model"], "least");
            assert!(json.pointer(pointer).is_some_and(Value::is_number), "{pointer}: {json}");
        };
        eval(&["codes", "--count", "40"], &["40 held-out scenes", "| 16 |", "perplexity"], "/usage");
        eval(
            &["retrieval", "--count", "12"],
            &["12 held-out scenes", "R@10", "| causal code |"],
            "/rows/2/image_to_text/at_1",
        );
        let sampling = ["reconstruction", "--count", "3", "--steps", "1", "--seed", "4"];
        eval(&sampling, &["nearest original", "dB", "1 steps, guidance 2, seed 4"], "/psnr");
        let asked = ["--scheduler", "ddim", "--size", "32", "--keep-first", "5"];
        let words = ["seed 4, scheduler ddim, 32 pixels, the first 5 codes"];
        eval(&[&sampling[..], &asked].concat(), &words, "/keep_first");
    }

    fn reports(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("runs/least/vision/metrics.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[test]
fn a_recipe_becomes_a_model() {
    let world = World::new();
    world.recipe(2);
    let output = text(&done(world.train().arg("--json")).stdout);
    let lines: Vec<&str> = output.lines().collect();
    let (bundle, reports) = lines.split_last().unwrap();
    assert_eq!(*bundle, "runs/least/bundle");
    let stages: Vec<Value> =
        reports.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["stage"].clone()).collect();
    assert_eq!(stages, ["vision", "vision", "stage1", "stage2", "vae", "decoder"]);
    let images = world.images(2);
    let codes = done(program().args(["encode", "--model"]).arg(world.path(bundle)).args(images)).stdout;
    assert_eq!(text(&codes).lines().count(), 2);
    done(program().arg("inspect").arg(world.path(bundle)));
    world.evaluates(bundle);
    // The folder is in use now; nothing in it is touched without being asked.
    fails(&mut world.train(), 1, &["runs/least already holds a run", "--resume", "--out"]);
    assert_eq!(text(&done(world.train().arg("--resume")).stdout), "runs/least/bundle\n");
}

#[test]
fn stages_trained_apart_make_the_same_model() {
    let world = World::new();
    world.recipe(2);
    let train =
        |out: &str, options: &[&str]| text(&done(world.train().args(["--out", out, "--resume"]).args(options)).stdout);
    assert_eq!(train("whole", &[]), "whole/bundle\n");
    assert_eq!(train("apart", &["--until", "vae"]), "apart/vae\n");
    assert!(world.path("apart/vae/scenes.png").is_file(), "what the autoencoder alone makes of scenes");
    assert_eq!(train("apart", &["--until", "vision"]), "apart/vision\n");
    assert_eq!(train("apart", &["--until", "stage2"]), "apart/bundle\n");
    assert!(!world.path("apart/bundle/decoder").exists());
    assert_eq!(train("apart", &[]), "apart/bundle\n");
    for file in ["model.safetensors", "decoder/vae/diffusion_pytorch_model.safetensors", "decoder/unet/config.json"] {
        let read = |run: &str| fs::read(world.path(run).join("bundle").join(file)).unwrap();
        assert!(read("apart") == read("whole"), "{file}");
    }
    fails(world.train().args(["--until", "end"]), 2, &["vision, stage1, stage2, vae, decoder"]);
}

#[test]
fn a_tokenizer_that_is_there_gets_a_decoder() {
    let world = World::new();
    world.recipe(1);
    done(&mut world.train());
    let tokenizer = ["--tokenizer", "runs/least/bundle"];
    let output = text(&done(world.train().args(tokenizer).args(["--out", "again", "--json"])).stdout);
    let stages: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|v| v["stage"].clone())
        .collect();
    assert_eq!(stages, ["vae", "decoder"]);
    for file in ["config.json", "model.safetensors", "contrast.safetensors"] {
        let read = |run: &str| fs::read(world.path(run).join("bundle").join(file)).unwrap();
        assert!(read("again") == read("runs/least"), "{file}");
    }
    done(program().args(["inspect", "--model"]).arg(world.path("again/bundle")));
    // A run belongs to its tokenizer.
    fails(
        world.train().args(["--out", "again", "--resume"]),
        1,
        &["other values or from another model", "recipe.json"],
    );
    done(world.train().args(tokenizer).args(["--out", "again", "--resume"]));
    // Its decoder goes on learning, with the autoencoder that is there.
    let both = [&tokenizer[..], &["--decoder", "again/bundle/decoder"]].concat();
    let output = text(&done(world.train().args(&both).args(["--out", "more", "--json"])).stdout);
    let reports = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let stages: Vec<Value> = reports.map(|report| report["stage"].clone()).collect();
    assert_eq!(stages, ["decoder"]);
    let read = |run: &str, part: &str| {
        let part = format!("{run}/bundle/decoder/{part}/diffusion_pytorch_model.safetensors");
        fs::read(world.path(&part)).unwrap()
    };
    assert!(read("more", "vae") == read("again", "vae"));
    assert!(read("more", "unet") != read("again", "unet"));
    let nowhere = [&tokenizer[..], &["--decoder", "nowhere", "--out", "other"]].concat();
    fails(world.train().args(&nowhere), 1, &["nowhere"]);
    // Another size of codebook.
    let recipe = fs::read_to_string(world.path("least.toml")).unwrap();
    fs::write(world.path("least.toml"), recipe.replace("codebook_size = 16", "codebook_size = 18")).unwrap();
    fails(world.train().args(tokenizer).args(["--out", "other"]), 1, &["config.json", "sizes", "least"]);
    fails(world.train().args(["--tokenizer", "nowhere", "--out", "other"]), 1, &["nowhere", "no such folder"]);
}

#[test]
fn a_batch_is_split_where_its_loss_is_a_mean() {
    let world = World::new();
    world.recipe(1);
    let recipe = fs::read_to_string(world.path("least.toml")).unwrap();
    let write = |stage: &str, parts: usize| {
        let (begin, split) = (format!("[{stage}]\n"), format!("[{stage}]\nparts = {parts}\n"));
        fs::write(world.path("least.toml"), recipe.replace(&begin, &split)).unwrap();
    };
    write("stage1", 2);
    fails(&mut world.train(), 1, &["least.toml", "stage1", "parts = 2"]);
    write("vae", 5);
    fails(&mut world.train(), 1, &["least.toml", "vae", "parts = 5", "batch"]);
    write("vae", 3);
    done(world.train().args(["--until", "vae"]));
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let world = World::new();
    world.recipe(1_000_000);
    let stop_after = |steps: usize, command: &mut Command| {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("training steps", || child.try_wait().unwrap().is_some() || world.reports().len() >= steps);
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let said = stop_after(3, &mut world.train());
    let done = world.reports().len();
    assert!(said.contains(&format!("interrupted after step {done} of 1000000 of stage vision")), "{said}");
    assert!(said.contains("seed train least.toml --out runs/least --resume"), "{said}");
    fails(&mut world.train(), 1, &["already holds a run"]);
    stop_after(done + 3, world.train().arg("--resume"));
    let steps: Vec<u64> = world.reports().iter().map(|report| report["step"].as_u64().unwrap()).collect();
    assert!(steps.iter().copied().eq(1..=steps.len() as u64), "{steps:?}");
}

#[test]
fn a_bad_recipe_is_named() {
    let world = World::new();
    fails(&mut world.train(), 1, &["least.toml", "No such file"]);
    world.recipe(1);
    let text = fs::read_to_string(world.path("least.toml")).unwrap();
    fs::write(world.path("least.toml"), text.replace("vit_depth", "vit_deep")).unwrap();
    fails(&mut world.train(), 1, &["least.toml", "vit_deep"]);
}
