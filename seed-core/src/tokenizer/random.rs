//! Bundles with random weights: models of any size without a download, to measure and to test with.

use std::{collections::BTreeMap, path::Path};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    checkpoint::{DType, Made},
    device::{OnBackend, on_cpu},
    diffusion::Decoder,
    error::Result,
    nn::SeedBackend,
    pixels::Preset,
};

use super::{BundleConfig, DECODER, DecodeDefaults, FORMAT, SeedConfig, convert::keys_and_shapes};

/// Writes a bundle of `config`'s sizes with weights drawn from `seed`. One tensor at a time is in memory.
///
/// Weights are uniform with the variance 1 / fan-in, norms are ones, biases zeros: activations stay in range through every
/// layer, and codes differ from image to image.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for impossible sizes; [`Error::Write`](crate::Error::Write).
pub fn random_bundle(config: &SeedConfig, seed: u64, dtype: DType, folder: &Path) -> Result<()> {
    config.validate("the sizes")?;
    let mut tensors = BTreeMap::new();
    for (stream, (key, shape)) in (0..).zip(keys_and_shapes(config)) {
        let (count, fan_in) = (shape.iter().product::<usize>(), shape[1..].iter().product::<usize>().max(1));
        let is_norm = key.contains("norm") || key.contains("LayerNorm") || key.starts_with("ln_vision");
        let values: Box<dyn Fn() -> Result<Vec<f32>, String>> = match shape.len() {
            1 if is_norm && key.ends_with("weight") => Box::new(move || Ok(vec![1.0; count])),
            1 => Box::new(move || Ok(vec![0.0; count])),
            _ => Box::new(move || Ok(uniform(seed, stream, count, (3.0 / fan_in as f32).sqrt()))),
        };
        tensors.insert(key, Made { shape, values });
    }
    let bundle = BundleConfig {
        format: FORMAT,
        name: "random".to_owned(),
        provenance: format!("random weights, seed {seed}"),
        preprocess: Preset::Seed,
        decode: DecodeDefaults::default(),
        weights: None, // of what is written
        model: config.clone(),
        contrast: None,
    };
    bundle.save_tensors(folder, tensors, dtype)
}

/// Adds SEED-2's decoder with random weights to a bundle, whose generation embedding must have 1024 features.
///
/// # Errors
/// [`Error::Write`](crate::Error::Write).
pub fn random_decoder(dtype: DType, bundle: &Path) -> Result<()> {
    struct Write<'a>(&'a Path, DType);
    impl OnBackend for Write<'_> {
        type Output = Result<()>;

        fn run<B: SeedBackend>(self, device: B::Device) -> Result<()> {
            Decoder::<B>::unclip_768(&device).save(&self.0.join(DECODER), self.1)
        }
    }
    on_cpu(Write(bundle, dtype))
}

/// `count` numbers between `-bound` and `bound`, from a stream of their own.
fn uniform(seed: u64, stream: u64, count: usize, bound: f32) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let unit = 2.0 * bound / u32::MAX as f32;
    (0..count).map(|_| random.next_u32() as f32 * unit - bound).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{
        super::convert::{ConvertOptions, convert},
        *,
    };
    use crate::{
        Model,
        detokenizer::Head,
        scenes::{Scene, Split},
    };

    /// The sizes that a conversion of `weights` finds, with the head counts of `config`.
    fn seen_in(weights: PathBuf, config: &SeedConfig, folder: &Path) -> SeedConfig {
        let options = ConvertOptions {
            name: "again".to_owned(),
            quantizer: weights,
            vit: None,
            qformer: None,
            decoder: None,
            config: Some(config.clone()),
            image_size: None,
            dtype: DType::F32,
        };
        convert(&options, &folder.join("again")).unwrap().model
    }

    #[test]
    fn random_bundles_of_every_head_encode() {
        let tiny = SeedConfig {
            image_size: 28,
            vit_width: 16,
            vit_depth: 1,
            vit_heads: 2,
            vit_mlp: 32,
            qformer_width: 24,
            qformer_depth: 2,
            qformer_heads: 2,
            qformer_mlp: 32,
            codebook_size: 64,
            decoder_depth: 1,
            decoder_heads: 2,
            generation_dim: 8,
            ..SeedConfig::seed_2()
        };
        let folder = tempfile::tempdir().unwrap();
        for (name, head) in
            [("mlp", Head::Mlp), ("qformer", Head::Qformer), ("text", Head::Text), ("linear", Head::Linear)]
        {
            let path = folder.path().join(name);
            let config = SeedConfig { head, reverse_depth: 1, ..tiny.clone() };
            random_bundle(&config, 3, DType::F32, &path).unwrap();
            assert_eq!(seen_in(path.join("model.safetensors"), &config, folder.path()), config, "{name}");
            let seed = crate::open(&Model::Folder(path), crate::Device::Cpu, DType::F32, None).unwrap();
            let images: Vec<_> = (0..4).map(|i| Scene::sample(1, i, Split::Train).render(28)).collect();
            let codes = seed.encode(&images).unwrap();
            assert_eq!((codes.batch(), codes.tokens()), (4, 32));
            assert_ne!(codes.slice(0..1), codes.slice(1..2), "{name}: images must differ");
        }
        // All decoder states of one query are as wide as the reverse Q-Former.
        let path = folder.path().join("one query");
        let config = SeedConfig { head: Head::Qformer, reverse_depth: 1, num_queries: 1, ..tiny };
        random_bundle(&config, 3, DType::F32, &path).unwrap();
        assert_eq!(seen_in(path.join("model.safetensors"), &config, folder.path()), config);
    }
}
