//! One optimizer step of the bundled model's UNet: forward, backward, AdamW. Made of the public parts, as a program that
//! trains the UNet on its own data would make it.

use std::path::Path;

use burn::{
    backend::Autodiff,
    optim::{AdamWConfig, GradientsParams, Optimizer},
    tensor::{Distribution, Tensor},
};
use burn_flex::Flex;
use seed_core::train::Recipe;

use crate::measure::Row;

/// Recipe of the bundled model, relative to this crate.
const RECIPE: &str = "../weights/recipes/scenes-tiny.toml";

type Training = Autodiff<Flex>;

pub(crate) fn run(repeats: u32) -> seed_core::Result<Vec<Row>> {
    let recipe = Recipe::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(RECIPE))?;
    let (Some(sizes), Some(plan)) = (&recipe.diffusion, &recipe.decoder) else {
        unreachable!("the bundled model's recipe trains a decoder");
    };
    let (config, batch) = (sizes.unet(&recipe.model), plan.batch);
    let device = Default::default();
    let random = |shape| Tensor::<Training, 4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let latents = random([batch, config.in_channels, config.sample_size, config.sample_size]);
    let target = random(latents.dims());
    let labels = random([batch, 2 * recipe.model.generation_dim, 1, 1]).flatten::<2>(1, 3);
    let context = Tensor::<Training, 3>::zeros([batch, 1, config.cross_attention_dim], &device);
    let timesteps: Vec<f32> = (0..batch).map(|image| (image * 999 / batch) as f32).collect();
    let mut unet = config.init::<Training>(&device);
    let mut optimizer = AdamWConfig::new().init();
    let row = Row::step(format!("train the UNet, {}", recipe.name), batch, repeats, || {
        let got = unet.forward(latents.clone(), &timesteps, context.clone(), Some(labels.clone()));
        let loss = (got - target.clone()).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &unet);
        unet = optimizer.step(plan.learning_rate, unet.clone(), gradients);
        seed_core::Result::Ok(())
    })?;
    Ok(vec![row])
}
