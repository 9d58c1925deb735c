//! What MiniGPT-v2's checkpoint changes in the language model: LoRA of its queries and values, to be merged by whoever runs it.
//!
//! Of a weight `W` `[out, in]` and LoRA's `A` `[r, in]` and `B` `[out, r]`, the merged weight is `W + alpha / r * B A`. The released
//! model has r = 64, which the shapes say, and alpha = 16, which no file says.
//!
//! Keys are `llama_model.base_model.model.model.layers.N.self_attn.{q,v}_proj.lora_{A,B}.weight`, as peft wrote when the model
//! was trained, or with `.default` before `.weight`, as it writes today.

use std::{collections::BTreeMap, path::Path};

use rayon::prelude::*;

use crate::{
    checkpoint::Weights,
    error::{Error, Result},
};

/// Beginnings of the front end's own keys.
pub(super) const PROJ: &str = "llama_proj.";
pub(super) const NORM: &str = "ln_vision.";

/// Where the layers are in the checkpoint.
const LAYERS: &str = "llama_model.base_model.model.model.layers.";

/// A linear layer of attention that LoRA changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// `q_proj`.
    Query,
    /// `v_proj`.
    Value,
}

impl Projection {
    /// The layer's name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Value => "v_proj",
        }
    }
}

/// One pair of matrices, by its place and sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Layer of the language model, from 0.
    pub layer: usize,
    /// Which of the layer's weights it changes.
    pub projection: Projection,
    /// Rows of `A` and columns of `B`.
    pub rank: usize,
    /// Features that the layer takes.
    pub input: usize,
    /// Features that it gives.
    pub output: usize,
    keys: [String; 2],
}

impl Adapter {
    /// The weight that it changes, as transformers' `LlamaForCausalLM` calls it.
    pub fn target(&self) -> String {
        format!("model.layers.{}.self_attn.{}.weight", self.layer, self.projection.name())
    }
}

/// The two matrices of an [`Adapter`], row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// `[rank, input]`
    pub a: Vec<f32>,
    /// `[output, rank]`
    pub b: Vec<f32>,
    /// Sizes: rank, input, output.
    pub shape: [usize; 3],
}

impl LoraPair {
    /// Adds `alpha / rank * B A` to a weight `[output, input]`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a weight of another size.
    pub fn merge_into(&self, weight: &mut [f32], alpha: f32) -> Result<()> {
        let [rank, input, output] = self.shape;
        if weight.len() != input * output {
            let reason = format!("LoRA of this layer changes a weight of {output} x {input} values");
            return Err(Error::Argument { name: "weight", value: format!("{} values", weight.len()), reason });
        }
        let scale = alpha / rank as f32;
        weight.par_chunks_mut(input).zip(self.b.par_chunks(rank)).for_each(|(row, b)| {
            let mut change = vec![0.0; input];
            for (a, b) in self.a.chunks(input).zip(b) {
                change.iter_mut().zip(a).for_each(|(sum, a)| *sum += a * b);
            }
            row.iter_mut().zip(change).for_each(|(weight, change)| *weight += scale * change);
        });
        Ok(())
    }
}

/// All of a checkpoint's LoRA, by layer and projection. The matrices are read when they are asked for.
#[derive(Debug)]
pub struct Adapters {
    weights: Weights,
    list: Vec<Adapter>,
}

impl Adapters {
    /// Those of MiniGPT-v2's checkpoint.
    ///
    /// # Errors
    /// Reading; [`Error::TensorKeys`] for a key that is neither LoRA's nor the front end's, and for a matrix without its partner;
    /// [`Error::WeightFile`] for a matrix that is there in both styles, or is none; [`Error::TensorShape`] for two that cannot be
    /// multiplied.
    pub fn open(path: &Path) -> Result<Self> {
        let weights = Weights::open(path)?;
        Ok(Self { list: list(&weights)?, weights })
    }

    /// The pairs in the order of their layers, queries before values.
    pub fn list(&self) -> &[Adapter] {
        &self.list
    }

    /// The matrices of one of these.
    ///
    /// # Errors
    /// [`Error::TensorValue`] for values that are no floats or not finite; [`Error::TensorKeys`] for an adapter of another file.
    pub fn read(&self, adapter: &Adapter) -> Result<LoraPair> {
        let read = |key: &String| {
            let values = self.weights.floats(key)?;
            let bad = values.iter().filter(|value| !value.is_finite()).count();
            if bad > 0 {
                let reason = format!("holds {bad} values of {} that are not finite", values.len());
                return Err(Error::TensorValue { file: self.weights.describe().to_owned(), key: key.clone(), reason });
            }
            Ok(values)
        };
        let [a, b] = &adapter.keys;
        Ok(LoraPair { a: read(a)?, b: read(b)?, shape: [adapter.rank, adapter.input, adapter.output] })
    }
}

/// Whether a key is of LoRA.
pub(super) fn is_lora(key: &str) -> bool {
    parse(key).is_some()
}

/// The pairs of a checkpoint in which every key is LoRA's or begins with [`PROJ`] or [`NORM`].
pub(super) fn list(weights: &Weights) -> Result<Vec<Adapter>> {
    let file = || weights.describe().to_owned();
    let mut found: BTreeMap<(usize, Projection), [Option<&str>; 2]> = BTreeMap::new();
    let mut unused = Vec::new();
    for key in weights.keys().filter(|key| !key.starts_with(PROJ) && !key.starts_with(NORM)) {
        let Some((layer, projection, side)) = parse(key) else {
            unused.push(key.to_owned());
            continue;
        };
        if let Some(twice) = found.entry((layer, projection)).or_default()[side].replace(key) {
            return Err(Error::WeightFile { file: file(), reason: format!("{twice} and {key} are the same matrix") });
        }
    }
    let partners = found.values().filter_map(|pair| match *pair {
        [Some(a), None] => Some(a.replace("lora_A", "lora_B")),
        [None, Some(b)] => Some(b.replace("lora_B", "lora_A")),
        _ => None,
    });
    let missing: Vec<String> = partners.collect();
    if !missing.is_empty() || !unused.is_empty() {
        return Err(Error::TensorKeys { file: file(), missing, unused });
    }
    let pairs = found.into_iter().filter_map(|(place, [a, b])| Some((place, [a?, b?])));
    pairs.map(|((layer, projection), keys)| adapter(weights, layer, projection, keys)).collect()
}

/// Layer, projection, and 0 for `A` or 1 for `B`, of a key of either style.
fn parse(key: &str) -> Option<(usize, Projection, usize)> {
    let (layer, rest) = key.strip_prefix(LAYERS)?.split_once('.')?;
    let (projection, rest) = rest.strip_prefix("self_attn.")?.split_once('.')?;
    let projection = [Projection::Query, Projection::Value].into_iter().find(|known| known.name() == projection)?;
    let side = match rest.strip_suffix(".weight")? {
        "lora_A" | "lora_A.default" => 0,
        "lora_B" | "lora_B.default" => 1,
        _ => return None,
    };
    Some((layer.parse().ok()?, projection, side))
}

fn adapter(weights: &Weights, layer: usize, projection: Projection, keys: [&str; 2]) -> Result<Adapter> {
    let file = || weights.describe().to_owned();
    let shapes = keys.map(|key| weights.get(key).map(|stored| stored.shape).unwrap_or_default());
    let [&[rank @ (1..), input @ (1..)], &[output @ (1..), columns @ (1..)]] = shapes else {
        let reason = format!("{} and {} are {:?} and {:?}, not two matrices", keys[0], keys[1], shapes[0], shapes[1]);
        return Err(Error::WeightFile { file: file(), reason });
    };
    if columns != rank {
        let (key, expected, found) = (keys[1].to_owned(), vec![output, rank], vec![output, columns]);
        return Err(Error::TensorShape { file: file(), key, expected, found });
    }
    Ok(Adapter { layer, projection, rank, input, output, keys: keys.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::{Dtype, serialize_to_file, tensor::TensorView};

    use super::*;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/minigpt").join(name)
    }

    /// Both styles of keys hold the same pairs, and merging them gives what PyTorch computes.
    #[test]
    fn both_styles_are_read_and_merged_as_pytorch_does() {
        const TOLERANCE: f32 = 1e-5; // float32 sums of four products
        let cases = Weights::open(&golden("cases.safetensors")).unwrap();
        let want = cases.floats("q_proj_merged").unwrap();
        for (file, style) in [("minigptv2.pth", "lora_A.weight"), ("minigptv2-default.pth", "lora_A.default.weight")] {
            let adapters = Adapters::open(&golden(file)).unwrap();
            let places: Vec<_> = adapters.list().iter().map(|pair| (pair.layer, pair.projection.name())).collect();
            assert_eq!(places, [(0, "q_proj"), (0, "v_proj"), (1, "q_proj"), (1, "v_proj")], "{file}");
            let second = &adapters.list()[2];
            assert!(second.keys[0].ends_with(style), "{}", second.keys[0]);
            assert_eq!(second.target(), "model.layers.1.self_attn.q_proj.weight");
            let pair = adapters.read(second).unwrap();
            assert_eq!((pair.shape, pair.a.len(), pair.b.len()), ([4, 32, 32], 128, 128));
            let mut weight = cases.floats("q_proj").unwrap();
            pair.merge_into(&mut weight, 16.0).unwrap();
            let difference = weight.iter().zip(&want).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(difference <= TOLERANCE * want.iter().fold(0.0_f32, |most, w| most.max(w.abs())), "{difference}");
            assert!(pair.merge_into(&mut weight[1..], 16.0).unwrap_err().to_string().contains("32 x 32"));
        }
    }

    /// A rectangular weight: `B A` is not `(B A)^T`.
    #[test]
    fn a_merge_is_the_product_scaled() {
        let pair = LoraPair { a: vec![1.0, 2.0, 3.0], b: vec![10.0, 20.0], shape: [1, 3, 2] };
        let mut weight = vec![0.5; 6];
        pair.merge_into(&mut weight, 2.0).unwrap();
        assert_eq!(weight, [20.5, 40.5, 60.5, 40.5, 80.5, 120.5]);
    }

    /// A key, with `@` for where the layers are, and a shape.
    type Tensor = (&'static str, &'static [usize]);

    /// A checkpoint with tensors of zeros.
    fn checkpoint(tensors: &[Tensor]) -> Result<Vec<Adapter>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let bytes = vec![0; 4096];
        let view = |shape: &[usize]| {
            let length = 4 * shape.iter().product::<usize>();
            TensorView::new(Dtype::F32, shape.to_vec(), &bytes[..length]).unwrap()
        };
        let views: HashMap<String, _> =
            tensors.iter().map(|(key, shape)| (key.replace('@', LAYERS), view(shape))).collect();
        serialize_to_file(views, None, &path).unwrap();
        list(&Weights::open(&path).unwrap())
    }

    #[test]
    fn nothing_is_dropped_in_silence() {
        const A: Tensor = ("@0.self_attn.q_proj.lora_A.weight", &[2, 8]);
        const B: Tensor = ("@0.self_attn.q_proj.lora_B.weight", &[6, 2]);
        let whole = checkpoint(&[A, B, ("llama_proj.weight", &[3, 4])]).unwrap();
        assert_eq!((whole.len(), whole[0].rank, whole[0].input, whole[0].output), (1, 2, 8, 6));
        let refused: [(&[Tensor], &str); 8] = [
            (&[A], "it lacks llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"),
            (&[B], "q_proj.lora_A.weight"),
            (&[A, B, ("@0.self_attn.k_proj.lora_A.weight", &[2, 8])], "no place for"),
            (&[A, B, ("@0.mlp.up_proj.lora_A.weight", &[2, 8])], "mlp.up_proj"),
            (&[A, B, ("visual_encoder.cls_token", &[1])], "visual_encoder.cls_token"),
            (&[A, B, ("@0.self_attn.q_proj.lora_A.default.weight", &[2, 8])], "are the same matrix"),
            (&[A, ("@0.self_attn.q_proj.lora_B.weight", &[6, 3])], "[6, 3], the model needs [6, 2]"),
            (&[A, ("@0.self_attn.q_proj.lora_B.weight", &[6])], "not two matrices"),
        ];
        for (tensors, words) in refused {
            let text = checkpoint(tensors).unwrap_err().to_string();
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
    }
}
