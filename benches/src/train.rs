//! One optimizer step of stage 1, of stage 2 and of the UNet at the sizes of the bundled model's recipe: forward, backward, AdamW.
//! Made of the public parts, as a program that trains them on its own data would make it; `python/train.py` does the same.

use std::path::Path;

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    optim::{AdamWConfig, GradientsParams, Optimizer},
    tensor::{Distribution, Tensor, activation::log_softmax},
};
use burn_flex::Flex;
use seed_core::{tokenizer::SeedNetwork, train::Recipe};

use crate::measure::Row;

/// Recipe of the bundled model, relative to this crate.
const RECIPE: &str = "../weights/recipes/scenes-tiny.toml";

type Training = Autodiff<Flex>;

pub(crate) fn run(repeats: u32) -> seed_core::Result<Vec<Row>> {
    let recipe = Recipe::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(RECIPE))?;
    Ok(vec![stage1(&recipe, repeats)?, stage2(&recipe, repeats)?, unet(&recipe, repeats)?])
}

/// The causal Q-Former by contrast of its last embedding with captions, behind a vision transformer that is fixed.
fn stage1(recipe: &Recipe, repeats: u32) -> seed_core::Result<Row> {
    let (config, plan) = (&recipe.model, has(&recipe.stage1));
    let network: SeedNetwork<Training> = config.init(&Default::default());
    let (fixed, mut causal) = (network.valid(), network.causal);
    let pixels = normal::<Flex, 4>([plan.batch, 3, config.image_size, config.image_size]);
    let captions = normal::<Training, 2>([plan.batch, config.qformer_width]);
    let diagonal = Tensor::<Training, 2>::eye(plan.batch, &Default::default());
    let mut optimizer = AdamWConfig::new().init();
    Row::step(format!("train stage 1, {}", recipe.name), plan.batch, repeats, || {
        let features = Tensor::from_inner(fixed.features(pixels.clone()));
        let last = causal.forward_causal(features).narrow(1, config.num_queries - 1, 1).squeeze_dim::<2>(1);
        let similarities = last.matmul(captions.clone().transpose()); // [batch, batch]
        let loss = (log_softmax(similarities, 1) * diagonal.clone()).sum().neg() / plan.batch as f64;
        let gradients = GradientsParams::from_grads(loss.backward(), &causal);
        causal = optimizer.step(plan.learning_rate, causal.clone(), gradients);
        Ok(())
    })
}

/// Codebook, detokenizer and causal Q-Former by their three losses.
fn stage2(recipe: &Recipe, repeats: u32) -> seed_core::Result<Row> {
    let (config, plan) = (&recipe.model, has(&recipe.stage2));
    let mut network: SeedNetwork<Training> = config.init(&Default::default());
    let fixed = network.valid();
    let pixels = normal::<Flex, 4>([plan.batch, 3, config.image_size, config.image_size]);
    let settled = normal::<Training, 3>([plan.batch, config.num_queries, config.qformer_width]);
    let target = normal::<Training, 3>([plan.batch, 1, config.generation_dim]);
    let mut optimizer = AdamWConfig::new().init();
    let error = |x: Tensor<Training, 3>, y: Tensor<Training, 3>| (x - y).square().mean();
    Row::step(format!("train stage 2, {}", recipe.name), plan.batch, repeats, || {
        let features = Tensor::from_inner(fixed.features(pixels.clone()));
        let z = network.quantizer.latents(network.causal.forward_causal(features));
        let rows = network.quantizer.rows(network.quantizer.nearest(z.clone().detach()));
        let quantize = error(z.clone(), rows.clone().detach()) * 0.25 + error(rows.clone(), z.clone().detach());
        let states = network.quantizer.states(z.clone() + (rows - z).detach());
        let semantic = network.detokenizer.semantic(states.clone()).expect("the recipe has a semantic branch");
        let generation = network.detokenizer.generation(states);
        let loss = quantize * 5.0 + error(semantic, settled.clone()) * 2.0 + error(generation, target.clone()) * 2.0;
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        network = optimizer.step(plan.learning_rate, network.clone(), gradients);
        Ok(())
    })
}

fn unet(recipe: &Recipe, repeats: u32) -> seed_core::Result<Row> {
    let plan = has(&recipe.decoder);
    let (config, batch) = (has(&recipe.diffusion).unet(&recipe.model), plan.batch);
    let device = Default::default();
    let latents = normal::<Training, 4>([batch, config.in_channels, config.sample_size, config.sample_size]);
    let target = normal(latents.dims());
    let labels = normal::<Training, 2>([batch, 2 * recipe.model.generation_dim]);
    let context = Tensor::<Training, 3>::zeros([batch, 1, config.cross_attention_dim], &device);
    let timesteps: Vec<f32> = (0..batch).map(|image| (image * 999 / batch) as f32).collect();
    let mut unet = config.init::<Training>(&device);
    let mut optimizer = AdamWConfig::new().init();
    Row::step(format!("train the UNet, {}", recipe.name), batch, repeats, || {
        let got = unet.forward(latents.clone(), &timesteps, context.clone(), Some(labels.clone()));
        let loss = (got - target.clone()).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &unet);
        unet = optimizer.step(plan.learning_rate, unet.clone(), gradients);
        Ok(())
    })
}

/// What the bundled model's recipe has.
fn has<T>(part: &Option<T>) -> &T {
    part.as_ref().expect("the bundled model's recipe trains every stage")
}

fn normal<B: burn::tensor::backend::Backend, const D: usize>(shape: [usize; D]) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}
