//! A run makes the same model whether it is interrupted or not, and whether it keeps what gradients need or computes it again.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use seed_core::{
    Device, Error,
    train::{self, Recipe, Session, Stage, StepReport},
};

/// The bundled model's recipe with the smallest sizes that keep every part.
fn recipe() -> Recipe {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/recipes/scenes-tiny.toml"));
    let mut recipe = Recipe::parse(&text.unwrap(), "scenes-tiny.toml").unwrap();
    let sizes = &mut recipe.model;
    (sizes.vit_width, sizes.vit_depth, sizes.vit_mlp) = (16, 1, 16);
    (sizes.qformer_width, sizes.qformer_depth, sizes.qformer_mlp, sizes.decoder_depth) = (16, 1, 16, 1);
    (sizes.image_size, sizes.codebook_size, sizes.generation_dim) = (32, 32, 16);
    let text = recipe.contrast.as_mut().unwrap();
    (text.embed_dim, text.width, text.depth) = (16, 16, 1);
    let diffusion = recipe.diffusion.as_mut().unwrap();
    diffusion.vae_channels = vec![4, 8];
    diffusion.unet_channels = vec![32];
    diffusion.pool = 8;
    let plans = [&mut recipe.vision, &mut recipe.stage1, &mut recipe.stage2, &mut recipe.vae, &mut recipe.decoder];
    for plan in plans.into_iter().flatten() {
        (plan.steps, plan.batch, plan.warmup, plan.checkpoint_every) = (4, 4, 1, 100);
    }
    recipe
}

/// Every step's stage, number and loss; stops after `limit` steps.
fn run(
    recipe: &Recipe,
    folder: &Path,
    limit: usize,
) -> (Vec<(&'static str, usize, f64)>, seed_core::Result<std::path::PathBuf>) {
    let (stop, mut steps) = (AtomicBool::new(false), Vec::new());
    let mut report = |report: &StepReport| {
        steps.push((report.stage, report.step, report.loss));
        stop.store(steps.len() >= limit, Ordering::Relaxed);
    };
    let mut session = Session {
        folder: folder.to_owned(),
        tokenizer: None,
        decoder: None,
        until: Stage::Decoder,
        stop: &stop,
        report: &mut report,
    };
    let result = train::run(recipe, &mut session, Device::Cpu);
    (steps, result.map(|bundle| bundle.expect("the last stage makes a bundle")))
}

/// One test, as runs of one process draw their initial weights from one generator.
#[test]
fn interruptions_and_gradient_checkpointing_change_nothing() {
    let [undisturbed, interrupted, checkpointed] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let (want, bundle) = run(&recipe(), undisturbed.path(), usize::MAX);
    let bundle = bundle.unwrap();
    assert_eq!(want.len(), 20, "five stages of four steps");

    let mut got = Vec::new();
    let again = loop {
        // Three steps a sitting: within stages, at their ends and at their beginnings.
        let (steps, result) = run(&recipe(), interrupted.path(), 3);
        got.extend(steps);
        match result {
            Err(Error::Interrupted) => {}
            result => break result.unwrap(),
        }
    };
    assert_eq!(got, want);
    same(&again, &bundle);

    // The autoencoder and the UNet in parts side by side.
    let mut recipe = recipe();
    let plans = [&mut recipe.vision, &mut recipe.stage1, &mut recipe.stage2, &mut recipe.vae, &mut recipe.decoder];
    plans.into_iter().flatten().for_each(|plan| plan.gradient_checkpointing = true);
    let (got, again) = run(&recipe, checkpointed.path(), usize::MAX);
    assert_eq!(got, want);
    same(&again.unwrap(), &bundle);
}

fn same(found: &Path, wanted: &Path) {
    for file in ["model.safetensors", "contrast.safetensors", "decoder/unet/diffusion_pytorch_model.safetensors"] {
        assert!(std::fs::read(found.join(file)).unwrap() == std::fs::read(wanted.join(file)).unwrap(), "{file}");
    }
}
