//! Stage 1 as released: the causal Q-Former by contrast of its last embedding with the text branch's first state
//! (arXiv 2307.08041, section 3.2; reference implementation AILab-CVC/SEED, `blip2_qformer_casual.py`).
//!
//! The vision transformer is fixed, its norm `ln_vision` learns. Differences from the reference: no dropout in the Q-Former;
//! gradients flow through the embeddings of all parts and devices of a batch, where the reference gathers those of other
//! devices without.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};

use crate::{
    checkpoint::KeyTable,
    contrast::unit,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend},
    qformer::{
        QFormer,
        text::{TextBranch, TextConfig},
    },
    tokenizer::SeedConfig,
};

use super::{objective, parts::Pairs};

/// The temperature that training begins with; official.
const TEMPERATURE: f64 = 0.07;

/// What stage 1 trains.
#[derive(Module, Debug)]
pub(super) struct Aligner<B: Backend> {
    /// Norm between steps 2 and 3.
    pub(super) ln_vision: LayerNorm<B>,
    /// Step 3.
    pub(super) causal: QFormer<B>,
    /// The captions' side.
    pub(super) text: TextBranch<B>,
    vision_proj: Linear<B>,
    text_proj: Linear<B>,
    /// Similarities are divided by it. `[1]`, a scalar in files.
    temp: Param<Tensor<B, 1>>,
}

impl<B: Backend> Aligner<B> {
    /// Keys of the released checkpoints of BLIP-2 and of SEED's stage 1, as far as this stage trains them.
    pub(super) const KEYS: KeyTable = KeyTable {
        renames: &[
            ("causal.query_tokens", "query_tokens"),
            ("causal.bert", "Qformer.bert"),
            ("text.embeddings", "Qformer.bert.embeddings"),
            ("text.layer", "Qformer.bert.encoder.layer"),
            (".self_", ".self"),
            (".layer_norm", ".LayerNorm"),
        ],
        ignored: &["Qformer.bert.embeddings.position_ids"],
    };

    /// A randomly initialised model; `embed_dim` is the width of the common space.
    pub(super) fn new(seed: &SeedConfig, text: &TextConfig, embed_dim: usize, device: &B::Device) -> Self {
        let projection = || LinearConfig::new(seed.qformer_width, embed_dim).init(device);
        Self {
            ln_vision: LayerNormConfig::new(seed.vit_width).with_epsilon(1e-5).init(device),
            causal: seed.qformer().init(device),
            text: text.init(&seed.qformer(), device),
            vision_proj: projection(),
            text_proj: projection(),
            temp: Param::from_tensor(Tensor::full([1], TEMPERATURE, device)),
        }
    }
}

impl<B: SeedBackend> Aligner<B> {
    /// Patch features before their norm `[batch, 1 + patches, vit_width]`, token ids and mask `[batch, tokens]` -> pairs.
    pub(super) fn pairs(&self, patches: Tensor<B, 3>, ids: Tensor<B, 2, Int>, mask: Tensor<B, 2>) -> Pairs<B> {
        let causal = self.causal.forward_causal(self.ln_vision.forward(patches)); // [batch, queries, width]
        let text = self.text.forward(&self.causal, ids, mask); // [batch, tokens, width]
        let [batch, queries, width] = causal.dims();
        let last = causal.narrow(1, queries - 1, 1).reshape([batch, width]);
        let first = text.narrow(1, 0, 1).reshape([batch, width]);
        Pairs { image: unit(self.vision_proj.forward(last)), text: unit(self.text_proj.forward(first)) }
    }

    /// The contrast of a whole batch, and the share of images whose own caption is nearest.
    pub(super) fn loss(&self, pairs: Pairs<B>, smoothing: f64) -> (Tensor<B, 1>, f64) {
        objective::contrast(pairs.image, pairs.text, self.temp.val().recip(), smoothing)
    }
}

#[cfg(test)]
mod tests {
    use burn::{backend::Autodiff, tensor::TensorData};
    use burn_flex::Flex;

    use super::*;
    use crate::train::golden::Golden;

    type A = Autodiff<Flex>;

    #[test]
    fn three_steps_equal_the_reference() {
        let golden = Golden::open();
        let device = Default::default();
        let text = TextConfig { vocab: golden.size("text_vocab"), positions: 12 };
        let model = Aligner::<A>::new(&golden.config, &text, golden.size("embed_dim"), &device);
        let model = golden.load(model, "stage1.safetensors", &Aligner::<A>::KEYS);
        let ids = TensorData::new(golden.cases.integers("ids").unwrap(), [6, 12]);
        let mask = TensorData::new(golden.cases.integers("attention_mask").unwrap(), [6, 12]);
        let mask = Tensor::<A, 2, Int>::from_data(mask, &device).float();
        let step = |model: &Aligner<A>| {
            let ids = Tensor::<A, 2, Int>::from_data(ids.clone(), &device);
            let pairs = model.pairs(golden.tensor("patches"), ids, mask.clone());
            vec![("loss", model.loss(pairs, 0.1).0)]
        };
        golden.three_steps("stage1", 3e-4, model, &Aligner::<A>::KEYS, step);
    }
}
