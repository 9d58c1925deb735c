//! Stage 2 as released: codebook and detokenizer on a fixed stage 1 (arXiv 2310.01218, section 3.2; reference
//! implementation AILab-CVC/SEED, `blip2_qformer_codebook_all_image.py`).
//!
//! Three losses: quantisation; cosine of the rebuilt causal embeddings; squared error of the generation embedding against
//! a teacher's. Differences from the reference: no dropout in the fixed Q-Former.

use burn::{
    module::Module,
    tensor::{Int, Tensor, backend::Backend},
};

use crate::{
    checkpoint::KeyTable, detokenizer::Detokenizer, nn::SeedBackend, quantizer::Quantizer, tokenizer::SeedConfig,
    tokenizer::SeedNetwork,
};

use super::objective::{cosine_loss, quantization, squared_error};

/// What stage 2 trains.
#[derive(Module, Debug)]
pub(super) struct Coder<B: Backend> {
    /// Step 4.
    pub(super) quantizer: Quantizer<B>,
    /// Step 5.
    pub(super) detokenizer: Detokenizer<B>,
}

/// The losses of a batch before they are weighted, and its codes `[batch, queries]`.
pub(super) struct Losses<B: Backend> {
    pub(super) quantize: Tensor<B, 1>,
    /// Nothing for a model without a semantic branch, as SEED-1.
    pub(super) semantic: Option<Tensor<B, 1>>,
    pub(super) generation: Tensor<B, 1>,
    pub(super) codes: Tensor<B, 2, Int>,
}

impl<B: Backend> Coder<B> {
    /// Keys of the released checkpoints.
    pub(super) const KEYS: KeyTable = SeedNetwork::<B>::KEYS;

    /// A randomly initialised model.
    pub(super) fn new(seed: &SeedConfig, device: &B::Device) -> Self {
        Self { quantizer: seed.quantizer().init(device), detokenizer: seed.detokenizer().init(device) }
    }
}

impl<B: SeedBackend> Coder<B> {
    /// Causal embeddings `[batch, queries, width]` and the teacher's embedding `[batch, tokens, generation_dim]` -> losses.
    pub(super) fn losses(&self, causal: Tensor<B, 3>, target: Tensor<B, 3>, beta: f64, legacy: bool) -> Losses<B> {
        let z = self.quantizer.latents(causal.clone()); // [batch, queries, dim]
        let codes = self.quantizer.nearest(z.clone().detach());
        let rows = self.quantizer.rows(codes.clone());
        let quantize = quantization(z.clone(), rows.clone(), beta, legacy);
        let straight_through = z.clone() + (rows - z).detach();
        let states = self.quantizer.states(straight_through); // [batch, queries, width]
        let semantic = self.detokenizer.semantic(states.clone()).map(|rebuilt| cosine_loss(rebuilt, causal));
        let generation = squared_error(self.detokenizer.generation(states), target);
        Losses { quantize, semantic, generation, codes }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn_flex::Flex;

    use super::*;
    use crate::train::golden::Golden;

    type A = Autodiff<Flex>;

    #[test]
    fn three_steps_equal_the_reference() {
        let golden = Golden::open();
        let model = Coder::<A>::new(&golden.config, &Default::default());
        let model = golden.load(model, "stage2.safetensors", &Coder::<A>::KEYS);
        let mut codes = Vec::new();
        let step = |model: &Coder<A>| {
            let target = golden.tensor::<A, 2>("clip_embedding").unsqueeze_dim(1);
            let losses = model.losses(golden.tensor("causal"), target, 0.25, true);
            codes.push(losses.codes.into_data().iter::<i64>().collect::<Vec<_>>());
            let quantize = losses.quantize * 5.0;
            let semantic = losses.semantic.expect("this model has the branch") * 2.0;
            let generation = losses.generation * 0.5;
            let loss = quantize.clone() + semantic.clone() + generation.clone();
            vec![("loss", loss), ("quantize", quantize), ("semantic", semantic), ("generation", generation)]
        };
        golden.three_steps("stage2", 1e-3, model, &Coder::<A>::KEYS, step);
        for (index, codes) in codes.into_iter().enumerate() {
            assert_eq!(codes, golden.cases.integers(&format!("stage2.step{index}.codes")).unwrap(), "step {index}");
        }
    }
}
