//! Steps 2 to 5 as one module: pixels -> codes -> generation embedding.

use burn::{
    module::Module,
    tensor::{Int, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{DType, KeyTable},
    detokenizer::{Detokenizer, DetokenizerConfig, Head},
    error::{Error, Result},
    eva_vit::{EvaVit, EvaVitConfig},
    nn::{LayerNorm, LayerNormConfig, SeedBackend},
    qformer::{QFormer, QFormerConfig},
    quantizer::{Quantizer, QuantizerConfig},
};

/// Sizes of a tokenizer, as `config.json` of a bundle holds them. Names as in the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each field is the size that its name says; the module docs of steps 2 to 5 explain them
pub struct SeedConfig {
    pub image_size: usize,
    pub patch_size: usize,
    pub vit_width: usize,
    pub vit_depth: usize,
    pub vit_heads: usize,
    pub vit_mlp: usize,
    pub qformer_width: usize,
    pub qformer_depth: usize,
    pub qformer_heads: usize,
    pub qformer_mlp: usize,
    pub cross_attention_every: usize,
    pub num_queries: usize,
    pub codebook_size: usize,
    pub codebook_dim: usize,
    pub decoder_depth: usize,
    pub decoder_heads: usize,
    pub head: Head,
    pub generation_dim: usize,
    pub reverse_queries: usize,
    pub reverse_depth: usize,
    pub recon_semantic: bool,
}

impl SeedConfig {
    /// The released SEED-2 model.
    pub fn seed_2() -> Self {
        Self {
            image_size: 224,
            patch_size: 14,
            vit_width: 1408,
            vit_depth: 39,
            vit_heads: 16,
            vit_mlp: 6144,
            qformer_width: 768,
            qformer_depth: 12,
            qformer_heads: 12,
            qformer_mlp: 3072,
            cross_attention_every: 2,
            num_queries: 32,
            codebook_size: 8192,
            codebook_dim: 32,
            decoder_depth: 4,
            decoder_heads: 12,
            head: Head::Mlp,
            generation_dim: 1024,
            reverse_queries: 1,
            reverse_depth: 12,
            recon_semantic: true,
        }
    }

    /// The released SEED-1 model.
    pub fn seed_1() -> Self {
        Self {
            head: Head::Text,
            generation_dim: 768,
            reverse_queries: 77,
            reverse_depth: 4,
            recon_semantic: false,
            ..Self::seed_2()
        }
    }

    /// Tokens of the generation embedding.
    pub fn generation_tokens(&self) -> usize {
        match self.head {
            Head::Mlp | Head::Linear => 1,
            Head::Qformer | Head::Text => self.reverse_queries,
        }
    }

    /// Holds when a decoder that takes embeddings of `taken` tokens and features takes this model's. `file` names it.
    ///
    /// # Errors
    /// [`Error::Config`] with both shapes.
    pub(super) fn check_decoder(&self, taken: [usize; 2], file: String) -> Result<()> {
        let made = [self.generation_tokens(), self.generation_dim];
        if made != taken {
            let reason = format!(
                "this decoder takes embeddings of {taken:?} tokens and features and the model makes {made:?}; they do not belong together"
            );
            return Err(Error::Config { file, reason });
        }
        Ok(())
    }

    /// Tokens and features of what the vision transformer makes of an image, `[1 + patches, width]`.
    pub fn vit_features(&self) -> [usize; 2] {
        [1 + self.vit().patches(), self.vit_width]
    }

    /// Refuses sizes that no model can have, so that building one cannot fail.
    ///
    /// # Errors
    /// [`Error::Config`] naming `file` and the field.
    pub fn validate(&self, file: &str) -> Result<()> {
        let fail = |reason: String| Err(Error::Config { file: file.to_owned(), reason });
        for (name, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("vit_width", self.vit_width),
            ("vit_heads", self.vit_heads),
            ("qformer_width", self.qformer_width),
            ("qformer_heads", self.qformer_heads),
            ("cross_attention_every", self.cross_attention_every),
            ("num_queries", self.num_queries),
            ("codebook_size", self.codebook_size),
            ("codebook_dim", self.codebook_dim),
            ("decoder_heads", self.decoder_heads),
            ("generation_dim", self.generation_dim),
        ] {
            if value == 0 {
                return fail(format!("{name} is 0"));
            }
        }
        for (of, value, by, divisor) in [
            ("image_size", self.image_size, "patch_size", self.patch_size),
            ("vit_width", self.vit_width, "vit_heads", self.vit_heads),
            ("qformer_width", self.qformer_width, "qformer_heads", self.qformer_heads),
            ("qformer_width", self.qformer_width, "decoder_heads", self.decoder_heads),
        ] {
            if value % divisor != 0 {
                return fail(format!("{of} = {value} is no multiple of {by} = {divisor}"));
            }
        }
        if self.codebook_size > 1 << 16 {
            return fail(format!(
                "codebook_size = {} exceeds 65536, the most that a u16 code can name",
                self.codebook_size
            ));
        }
        if self.head == Head::Qformer && self.reverse_queries != 1 {
            let found = self.reverse_queries;
            return fail(format!("reverse_queries = {found} where the head \"qformer\" makes one embedding"));
        }
        if matches!(self.head, Head::Qformer | Head::Text) && self.reverse_queries * self.reverse_depth == 0 {
            return fail("reverse_queries and reverse_depth must not be 0 with this head".to_owned());
        }
        Ok(())
    }

    /// Sizes of step 2.
    pub fn vit(&self) -> EvaVitConfig {
        EvaVitConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            width: self.vit_width,
            depth: self.vit_depth,
            heads: self.vit_heads,
            hidden: self.vit_mlp,
        }
    }

    /// Sizes of step 3.
    pub fn qformer(&self) -> QFormerConfig {
        QFormerConfig {
            width: self.qformer_width,
            depth: self.qformer_depth,
            heads: self.qformer_heads,
            hidden: self.qformer_mlp,
            source_width: self.vit_width,
            cross_attention_every: self.cross_attention_every,
            queries: self.num_queries,
        }
    }

    /// Sizes of step 4.
    pub fn quantizer(&self) -> QuantizerConfig {
        QuantizerConfig { width: self.qformer_width, codes: self.codebook_size, dim: self.codebook_dim }
    }

    /// Sizes of step 5.
    pub fn detokenizer(&self) -> DetokenizerConfig {
        DetokenizerConfig {
            width: self.qformer_width,
            depth: self.decoder_depth,
            heads: self.decoder_heads,
            queries: self.num_queries,
            generation_dim: self.generation_dim,
            head: self.head,
            reverse: QFormerConfig {
                source_width: self.qformer_width,
                depth: self.reverse_depth,
                queries: self.reverse_queries,
                ..self.qformer()
            },
            semantic: self.recon_semantic,
        }
    }

    /// A randomly initialised model.
    pub fn init<B: Backend>(&self, device: &B::Device) -> SeedNetwork<B> {
        SeedNetwork {
            visual_encoder: self.vit().init(device),
            ln_vision: LayerNormConfig::new(self.vit_width).with_epsilon(1e-5).init(device),
            causal: self.qformer().init(device),
            quantizer: self.quantizer().init(device),
            detokenizer: self.detokenizer().init(device),
        }
    }
}

/// Steps 2 to 5.
///
/// Codes may be cut: of the codes after the first `kept` of an image nothing is known, and the mean of the codebook's rows
/// stands for each of them, which is nearer to no code than to any other.
#[derive(Module, Debug)]
pub struct SeedNetwork<B: Backend> {
    /// Step 2.
    pub visual_encoder: EvaVit<B>,
    /// Norm between steps 2 and 3.
    pub ln_vision: LayerNorm<B>,
    /// Step 3.
    pub causal: QFormer<B>,
    /// Step 4.
    pub quantizer: Quantizer<B>,
    /// Step 5.
    pub detokenizer: Detokenizer<B>,
}

impl<B: SeedBackend> SeedNetwork<B> {
    /// Normalized pixels `[batch, 3, size, size]` -> normed patch features `[batch, 1 + patches, vit_width]`.
    pub fn features(&self, pixels: Tensor<B, 4>) -> Tensor<B, 3> {
        self.ln_vision.forward(self.visual_encoder.forward(pixels))
    }

    /// Normalized pixels -> causal embeddings `[batch, queries, qformer_width]`.
    pub fn causal_embeddings(&self, pixels: Tensor<B, 4>) -> Tensor<B, 3> {
        self.causal.forward_causal(self.features(pixels))
    }

    /// Normalized pixels -> codes `[batch, queries]`.
    pub fn encode(&self, pixels: Tensor<B, 4>) -> Tensor<B, 2, Int> {
        self.quantizer.nearest(self.quantizer.latents(self.causal_embeddings(pixels)))
    }

    /// Codes `[batch, queries]` -> generation embedding `[batch, generation_tokens, generation_dim]`.
    pub fn generation(&self, codes: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let [_, queries] = codes.dims();
        self.generation_of_first(codes, queries)
    }

    /// As [`generation`](Self::generation), from the first `kept` codes of each image.
    pub fn generation_of_first(&self, codes: Tensor<B, 2, Int>, kept: usize) -> Tensor<B, 3> {
        self.detokenizer.generation(self.states_of_first(codes, kept))
    }

    /// Codes -> reconstructed causal embeddings `[batch, queries, qformer_width]`; nothing for a model without a semantic
    /// branch.
    pub fn semantic(&self, codes: Tensor<B, 2, Int>) -> Option<Tensor<B, 3>> {
        let [_, queries] = codes.dims();
        self.semantic_of_first(codes, queries)
    }

    /// As [`semantic`](Self::semantic), from the first `kept` codes of each image.
    pub fn semantic_of_first(&self, codes: Tensor<B, 2, Int>, kept: usize) -> Option<Tensor<B, 3>> {
        self.detokenizer.semantic(self.states_of_first(codes, kept))
    }

    /// Decoder states `[batch, queries, qformer_width]` of the first `kept` codes of each image; the mean of the codebook stands
    /// for the others.
    fn states_of_first(&self, codes: Tensor<B, 2, Int>, kept: usize) -> Tensor<B, 3> {
        let rows = self.quantizer.rows(codes);
        let [batch, queries, dim] = rows.dims();
        if kept >= queries {
            return self.quantizer.states(rows);
        }
        let mean = self.quantizer.embedding.weight.val().mean_dim(0).unsqueeze::<3>(); // [1, 1, dim]
        let unknown = mean.expand([batch, queries - kept, dim]);
        self.quantizer.states(Tensor::cat(vec![rows.narrow(1, 0, kept), unknown], 1))
    }
}

impl<B: Backend> SeedNetwork<B> {
    /// Keys of the released checkpoints (with the ViT under `visual_encoder.`), and of bundles.
    pub const KEYS: KeyTable = KeyTable {
        renames: &[
            ("causal.query_tokens", "query_tokens"),
            ("causal.bert", "Qformer.bert"),
            ("quantizer.encode_in", "encode_task_layer.0"),
            ("quantizer.encode_out", "encode_task_layer.2"),
            ("quantizer.embedding", "quantize.embedding"),
            ("quantizer.decode_in", "decode_task_layer.0"),
            ("quantizer.decode_out", "decode_task_layer.2"),
            ("detokenizer.semantic.pos_embed", "pos_embed"),
            ("detokenizer.semantic.blocks", "blocks"),
            ("detokenizer.head.image.pos_embed", "pos_embed_image"),
            ("detokenizer.head.image.blocks", "blocks_image"),
            ("detokenizer.head.text.pos_embed", "pos_embed_text"),
            ("detokenizer.head.text.blocks", "blocks_text"),
            ("detokenizer.head.down1", "image_down.0"),
            ("detokenizer.head.down2", "image_down.2"),
            ("detokenizer.head.down3", "image_down.4"),
            ("detokenizer.head.proj", "distill_image_proj"),
            ("detokenizer.head.reverse.query_tokens", "reverse_tokens"),
            ("detokenizer.head.reverse.bert", "Reverse_Qformer.bert"),
            ("detokenizer.head.text_proj", "distill_text_proj"),
            (".self_", ".self"),
            (".layer_norm", ".LayerNorm"),
        ],
        ignored: &["Qformer.bert.embeddings.position_ids"],
    };

    /// In what the weight of a layer, by its key, is kept when the model is loaded in `dtype`. Of [`DType::Int8`] are the blocks of
    /// the vision transformer, 86 % of SEED-2's weights and 97 % of what encoding multiplies. In [`DType::BF16`] the queries'
    /// attention to the image stays float32, 2 % of the weights: of its layers those whose rounding changes most codes. In either, so
    /// do the layers around the codebook, a thousandth: what they round decides between two codes at once. All others are bfloat16.
    pub fn dtype_of(key: &str, dtype: DType) -> DType {
        match dtype {
            DType::Int8 if key.starts_with("visual_encoder.blocks.") => dtype,
            DType::Int8 | DType::BF16 if key.contains("_task_layer.") => DType::F32,
            DType::BF16 if key.starts_with("Qformer.") && key.contains(".crossattention.") => DType::F32,
            _ => dtype.beside(),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Golden values of the reference network: every intermediate, from its own input and from the pixels.

    use burn::tensor::{ElementConversion, TensorData};
    use burn_flex::Flex;

    use super::*;
    use crate::{
        checkpoint::{self, Files, Weights},
        device::every_backend::on_every_backend,
        tokenizer::{ConvertOptions, convert},
    };

    /// Largest difference allowed, relative to the largest value: a few float32 roundings of sums of about 100 terms.
    const TOLERANCE: f32 = 1e-5;

    fn golden<B: SeedBackend>(case: &str) -> (Files, SeedNetwork<B>) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case);
        let files = Files::folder(folder);
        let config: SeedConfig = files.json("config.json").unwrap();
        config.validate("config.json").unwrap();
        let bundle = tempfile::tempdir().unwrap();
        let weights = official(&files, &config, bundle.path()).weights("model.safetensors").unwrap();
        let network = checkpoint::load(config.init(&Default::default()), &weights, &SeedNetwork::<B>::KEYS).unwrap();
        (files, network)
    }

    /// Weights of a case: its own, or what converting its files in the official layout makes.
    fn official(files: &Files, config: &SeedConfig, bundle: &std::path::Path) -> Files {
        if files.exists("model.safetensors") {
            return files.clone();
        }
        let existing = |name: &str| files.exists(name).then(|| files.describe(name).into());
        let options = ConvertOptions {
            name: "golden".to_owned(),
            quantizer: existing("seed_quantizer.pt").or(existing("seed_tokenizer.pth")).unwrap(),
            vit: existing("eva_vit_g.pth"),
            qformer: existing("causal_qformer.pth"),
            decoder: None,
            config: Some(config.clone()),
            image_size: None,
            dtype: DType::F32,
        };
        convert(&options, bundle).unwrap();
        Files::folder(bundle)
    }

    fn case<B: SeedBackend, const D: usize>(cases: &Weights, name: &str) -> Tensor<B, D> {
        let shape = cases.get(name).unwrap().shape.to_vec();
        Tensor::from_data(TensorData::new(cases.floats(name).unwrap(), shape), &Default::default())
    }

    fn close<B: SeedBackend, const D: usize>(name: &str, got: Tensor<B, D>, want: Tensor<B, D>) {
        assert_eq!(got.dims(), want.dims(), "{name}");
        let size: f32 = want.clone().abs().max().into_scalar().elem();
        let difference: f32 = (got - want).abs().max().into_scalar().elem();
        println!("{name}: {:e}", difference / size);
        assert!(difference <= TOLERANCE * size, "{name} differs by {difference} where values reach {size}");
    }

    on_every_backend!(seed2_mlp, seed2_qformer, seed1);

    fn seed2_mlp<B: SeedBackend>() {
        every_intermediate_equals_the_reference::<B>("seed2-mlp");
    }

    fn seed2_qformer<B: SeedBackend>() {
        every_intermediate_equals_the_reference::<B>("seed2-qformer");
    }

    fn seed1<B: SeedBackend>() {
        every_intermediate_equals_the_reference::<B>("seed1");
    }

    fn every_intermediate_equals_the_reference<B: SeedBackend>(name: &str) {
        let (files, network) = golden::<B>(name);
        let cases = files.weights("cases.safetensors").unwrap();
        let case3 = |name: &str| case::<B, 3>(&cases, name);
        let pixels = case::<B, 4>(&cases, "pixels");
        close("vit", network.visual_encoder.forward(pixels.clone()), case3("vit"));
        close("vision", network.features(pixels.clone()), case3("vision"));
        close("causal", network.causal.forward_causal(case3("vision")), case3("causal"));
        close("latent", network.quantizer.latents(case3("causal")), case3("latent"));
        let codes = TensorData::new(cases.integers("codes").unwrap(), [6, 32]);
        let codes = Tensor::<B, 2, Int>::from_data(codes, &Default::default());
        let equal = |name: &str, got: Tensor<B, 2, Int>| {
            let (got, want) = (got.into_data().convert::<i64>(), codes.to_data().convert::<i64>());
            assert_eq!(got, want, "{name}");
        };
        equal("codes of the golden latents", network.quantizer.nearest(case3("latent")));
        equal("codes of the pixels", network.encode(pixels));
        let states = network.quantizer.states(network.quantizer.rows(codes.clone()));
        close("states", states.clone(), case3("states"));
        match network.detokenizer.semantic(states) {
            Some(semantic) => close("semantic", semantic, case3("semantic")),
            None => assert!(cases.get("semantic").is_none(), "{name}"),
        }
        let generation = match cases.get("generation").unwrap().shape.len() {
            2 => case::<B, 2>(&cases, "generation").unsqueeze_dim(1),
            _ => case3("generation"),
        };
        close("generation", network.generation(codes), generation);
    }

    /// Latents to the bit, not only codes: a near tie could not flip either.
    #[test]
    fn batch_size_and_threads_change_nothing() {
        let (files, network) = golden::<Flex>("seed2-mlp");
        let cases = files.weights("cases.safetensors").unwrap();
        let six = case::<Flex, 4>(&cases, "pixels");
        let pixels = Tensor::cat(vec![six.clone(), six.flip([3])], 0); // 12 images
        let run = |batch: usize, threads: usize| -> Vec<TensorData> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let latents = |x| network.quantizer.latents(network.causal_embeddings(x));
            pool.install(|| {
                let parts = (0..12).step_by(batch).map(|i| pixels.clone().narrow(0, i, batch.min(12 - i)));
                let all = parts.map(latents).collect();
                Tensor::cat(all, 0).iter_dim(0).map(Tensor::into_data).collect()
            })
        };
        let want = run(12, 2);
        for (batch, threads) in [(1, 1), (1, 2), (3, 1), (3, 2), (8, 1), (8, 2)] {
            assert_eq!(run(batch, threads), want, "batch {batch}, {threads} threads");
        }
    }
}
