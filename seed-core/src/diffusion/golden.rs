//! Parity with diffusers 0.20.2 and transformers 4.30.2 on tiny models: `tests/golden/unclip` and `tests/golden/sd1`; a UNet
//! with `resnet_time_scale_shift` with diffusers 0.42.1: `tests/golden/scale-shift`.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{ElementConversion, Tensor, TensorData};
use burn_flex::Flex;

use super::image_encoder::ImageEncoder;
use super::sampler::{Sampler, SamplerConfig};
use super::schedule::NoiseSchedule;
use super::sigmas::FinalSigma;
use super::*;
use crate::checkpoint::{self, Files, Weights};
use crate::device::every_backend::on_every_backend;
use crate::error::Error;
use crate::nn::SeedBackend;

/// One network: sums of up to a thousand float32 products in another order than PyTorch's, through some thirty layers.
const NETWORK: f32 = 5e-5;

/// A run multiplies the network's rounding by the guidance scale, and adds it up over the steps.
const RUN: f32 = 2e-4;

/// An image of a run, in 0 to 1: the latents' differences through the autoencoder.
const IMAGE: f32 = 1e-4;

fn files(case: &str) -> Files {
    Files::folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case))
}

struct Cases(Weights);

impl Cases {
    fn open(case: &str) -> Self {
        Self(files(case).weights("cases.safetensors").unwrap())
    }

    fn floats<B: SeedBackend, const D: usize>(&self, key: &str) -> Tensor<B, D> {
        let shape = self.0.get(key).unwrap_or_else(|| panic!("no {key}")).shape.to_vec();
        Tensor::from_data(TensorData::new(self.0.floats(key).unwrap(), shape), &Default::default())
    }

    fn integers(&self, key: &str) -> Vec<i64> {
        self.0.integers(key).unwrap()
    }
}

/// Largest difference, which must be within `tolerance`.
#[track_caller]
fn assert_close<B: SeedBackend, const D: usize>(
    name: &str,
    found: Tensor<B, D>,
    expected: Tensor<B, D>,
    tolerance: f32,
) {
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let difference: f32 = (found - expected).abs().max().into_scalar().elem();
    println!("{name}: {difference:e}");
    assert!(difference <= tolerance, "{name} differs by {difference:e}, more than {tolerance:e}");
}

fn unclip<B: SeedBackend>() -> (Decoder<B>, Cases) {
    (Decoder::load(&files("unclip"), &Default::default(), checkpoint::DType::F32).unwrap(), Cases::open("unclip"))
}

/// Embeddings of one token.
fn embeddings<B: SeedBackend>(cases: &Cases, key: &str) -> Tensor<B, 3> {
    cases.floats::<B, 2>(key).unsqueeze_dim(1)
}

fn start<B: SeedBackend>(cases: &Cases, negative: bool) -> Start<B> {
    let negative_noise = negative.then(|| cases.floats("negative_noise"));
    Start { latents: cases.floats("latents"), noise: Some(cases.floats("noise")), negative_noise }
}

on_every_backend!(
    empty_prompt,
    image_encoder,
    class_labels,
    networks,
    scale_shift,
    runs,
    negative_embeddings,
    stable_diffusion_1,
);

fn empty_prompt<B: SeedBackend>() {
    let (model, cases) = unclip::<B>();
    let ids = empty_prompt::token_ids(&files("unclip").sub("tokenizer"), 77).unwrap();
    assert_eq!(ids, cases.integers("empty_prompt_ids"));
    assert_close("empty prompt", model.empty_prompt, cases.floats("empty_prompt_embeds"), NETWORK);
}

fn image_encoder<B: SeedBackend>() {
    let (files, cases) = (files("unclip"), Cases::open("unclip"));
    let (config, encoder) = ImageEncoder::<B>::load(&files.sub("image_encoder"), &Default::default()).unwrap();
    assert_eq!(config.projection_dim, 64);
    let found = encoder.forward(cases.floats("pixels"));
    assert_close("image embeddings", found, cases.floats("clip_image_embeds"), NETWORK);
}

fn class_labels<B: SeedBackend>() {
    let (model, cases) = unclip::<B>();
    let Conditioning::ClassVector { image_noise, .. } = &model.conditioning else { panic!("not unCLIP") };
    let found = image_noise.class_labels(cases.floats("image_embeds"), cases.floats("noise"), 0);
    assert_close("class labels", found, cases.floats("class_labels"), NETWORK);
}

fn networks<B: SeedBackend>() {
    let (model, cases) = unclip::<B>();
    let context = cases.floats::<B, 3>("empty_prompt_embeds").repeat_dim(0, 2);
    let labels = Some(cases.floats("class_labels"));
    let found = model.unet.forward(cases.floats("latents"), &[401.0, 401.0], context, labels);
    assert_close("unet", found, cases.floats("unet.t401"), NETWORK);
    assert_close("vae", model.vae.decode(cases.floats("latents")), cases.floats("vae.decode"), NETWORK);
}

fn scale_shift<B: SeedBackend>() {
    let cases = Cases::open("scale-shift");
    let device = Default::default();
    let (_, unet) = super::pipeline::load_unet::<B>(&files("scale-shift"), &device, checkpoint::DType::F32).unwrap();
    let labels = Some(cases.floats("class_labels"));
    let found = unet.forward(cases.floats("sample"), &[401.0, 7.0], cases.floats("context"), labels);
    assert_close("unet", found, cases.floats("output"), NETWORK);
}

fn runs<B: SeedBackend>() {
    let (model, cases) = unclip::<B>();
    for (steps, guidance) in [(5, 10.0), (20, 4.0), (5, 1.0)] {
        let key = format!("steps{steps}.guidance{guidance}");
        let timesteps = cases.integers(&format!("{key}.timesteps"));
        let expected: Tensor<B, 5> = cases.floats(&format!("{key}.latents"));
        let options = DecodeOptions { steps, guidance, ..Default::default() };
        let mut seen = 0;
        let latents = model
            .latents(embeddings(&cases, "image_embeds"), None, start(&cases, false), &options, &mut |step| {
                assert_eq!((step.total, step.timestep as i64), (steps + 1, timesteps[seen]));
                let expected = expected.clone().narrow(0, seen, 1).squeeze_dim::<4>(0);
                seen += 1;
                assert_eq!(step.finished, seen);
                assert_close(&format!("{key} step {seen}"), step.latents.clone(), expected, RUN);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(seen, timesteps.len());
        let expected = cases.floats::<B, 4>(&format!("{key}.image")).permute([0, 3, 1, 2]);
        assert_close(&format!("{key} image"), model.pixels(latents), expected, IMAGE);
    }
}

fn negative_embeddings<B: SeedBackend>() {
    let (model, cases) = unclip::<B>();
    let options = DecodeOptions { steps: 5, guidance: 10.0, ..Default::default() };
    let negative = Some(embeddings(&cases, "negative_image_embeds"));
    let mut observe = |_: super::denoise::Step<'_, B>| ControlFlow::Continue(());
    let found =
        model.latents(embeddings(&cases, "image_embeds"), negative, start(&cases, true), &options, &mut observe);
    assert_close("negative", found.unwrap(), cases.floats("steps5.guidance10.negative.latents"), RUN);
}

/// Stable Diffusion 1: convolution projections, epsilon prediction, quick GELU, no class embedding.
fn stable_diffusion_1<B: SeedBackend>() {
    let (files, cases) = (files("sd1"), Cases::open("sd1"));
    let ids = empty_prompt::token_ids(&files.sub("tokenizer"), 77).unwrap();
    assert_eq!(ids, cases.integers("empty_prompt_ids"));
    let model = Decoder::<B>::load(&files, &Default::default(), checkpoint::DType::F32).unwrap();
    assert_close("empty prompt", model.empty_prompt.clone(), cases.floats("empty_prompt_embeds"), NETWORK);
    assert_eq!(model.embedding_shape(), [77, 64]);
    let (timesteps, expected) = (cases.integers("timesteps"), cases.floats::<B, 5>("step_latents"));
    let mut observe = |step: super::denoise::Step<'_, B>| {
        assert_eq!(step.timestep as i64, timesteps[step.finished - 1]);
        // The pipeline reports nothing after the first of the two calls at the second timestep.
        if let Some(index) = step.finished.checked_sub(2) {
            let expected = expected.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
            assert_close(&format!("step {}", step.finished), step.latents.clone(), expected, RUN);
        }
        ControlFlow::Continue(())
    };
    let start = Start { latents: cases.floats("latents"), noise: None, negative_noise: None };
    let options = DecodeOptions { steps: 10, guidance: 7.5, ..Default::default() };
    let latents = model.latents(cases.floats("prompt_embeds"), None, start, &options, &mut observe).unwrap();
    assert_close("image", model.pixels(latents), cases.floats::<B, 4>("image").permute([0, 3, 1, 2]), IMAGE);

    // Negative embeddings take the empty prompt's place.
    let run = |negative: Option<Tensor<B, 3>>| {
        let options = DecodeOptions { steps: 2, ..options };
        let progress = &mut |_, _| ControlFlow::Continue(());
        model.decode(cases.floats("prompt_embeds"), negative, &[0, 1], &options, progress).unwrap()
    };
    let empty = run(Some(model.empty_prompt.clone().repeat_dim(0, 2)));
    assert_close("the empty prompt as a negative", run(None), empty.clone(), 0.0);
    let other = run(Some(cases.floats::<B, 3>("prompt_embeds").flip([0])));
    assert!((other - empty).abs().max().into_scalar().elem::<f32>() > 0.01, "negative embeddings must matter");
}

/// Euler's steps are DDIM's in another scale, and a caller's choice is what runs.
#[test]
fn schedulers_by_name() {
    let (mut model, cases) = unclip::<Flex>();
    let own = *model.sampler.config();
    // Both lead to timestep 0.
    model.sampler = Sampler::new(&SamplerConfig { final_sigmas_type: Some(FinalSigma::SigmaMin), ..own });
    let latents = |scheduler: Option<SchedulerName>| {
        let options = DecodeOptions { steps: 5, guidance: 4.0, scheduler, ..Default::default() };
        let mut calls = 0;
        let mut observe = |_: super::denoise::Step<'_, Flex>| {
            calls += 1;
            ControlFlow::Continue(())
        };
        let found =
            model.latents(embeddings(&cases, "image_embeds"), None, start(&cases, false), &options, &mut observe);
        (found.unwrap(), calls)
    };
    let differ = |a: &Tensor<Flex, 4>, b: &Tensor<Flex, 4>| (a.clone() - b.clone()).abs().max().into_scalar();
    let [(pndm, twice), (ddim, once), (euler, _), (dpm, _)] = SchedulerName::ALL.map(|name| latents(Some(name)));
    assert_eq!((twice, once), (6, 5));
    assert_close("the decoder's own", latents(None).0, pndm.clone(), 0.0);
    let signal = NoiseSchedule::new(&own.noise).alpha_bar(0).sqrt();
    assert_close("euler", euler * signal, ddim.clone(), RUN);
    for (name, a, b) in [("pndm, ddim", &pndm, &ddim), ("dpm, pndm", &dpm, &pndm), ("dpm, ddim", &dpm, &ddim)] {
        assert!(differ(a, b) > 0.01, "{name}");
    }
}

/// A decoder is saved with the scheduler that it has.
#[test]
fn the_scheduler_is_saved() {
    let (mut model, _) = unclip::<Flex>();
    model.sampler = model.sampler.with_scheduler(SchedulerName::DpmSolver).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), checkpoint::DType::F32).unwrap();
    let loaded =
        Decoder::<Flex>::load(&Files::folder(folder.path()), &Default::default(), checkpoint::DType::F32).unwrap();
    assert_eq!(loaded.sampler.config(), model.sampler.config());
    let index = std::fs::read_to_string(folder.path().join("model_index.json")).unwrap();
    assert!(index.contains("DPMSolverMultistepScheduler"), "{index}");
}

/// An image depends on its embedding, index and seed, not on the batch that it is decoded in.
#[test]
fn batches_do_not_matter() {
    /// Matrix products of another batch size may be summed in another order.
    const ROUNDING: f32 = 1e-4;
    let (model, cases) = unclip::<Flex>();
    let embeddings = embeddings(&cases, "image_embeds");
    let negative = self::embeddings(&cases, "negative_image_embeds");
    let options = DecodeOptions { steps: 2, guidance: 3.0, seed: 5, ..Default::default() };
    let decode = |from: usize, count: usize, indices: &[u64]| {
        let part = |x: &Tensor<Flex, 3>| x.clone().narrow(0, from, count);
        let progress = &mut |_, _| ControlFlow::Continue(());
        model.decode(part(&embeddings), Some(part(&negative)), indices, &options, progress).unwrap()
    };
    let both = decode(0, 2, &[7, 8]);
    assert_eq!(both.dims(), [2, 3, model.image_size(), model.image_size()]);
    assert_close("first", decode(0, 1, &[7]), both.clone().narrow(0, 0, 1), ROUNDING);
    assert_close("second", decode(1, 1, &[8]), both.clone().narrow(0, 1, 1), ROUNDING);
    let other = decode(0, 1, &[8]);
    assert!((other - both.narrow(0, 0, 1)).abs().max().into_scalar() > 0.01, "the index must matter");
}

/// A folder with the embedding of the empty prompt needs neither text encoder nor tokenizer, and old key names of the
/// autoencoder are known.
#[test]
fn stored_empty_prompt_and_old_keys() {
    let (model, cases) = unclip::<Flex>();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/unclip");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::copy(golden.join("model_index.json"), path("model_index.json")).unwrap();
    for part in ["unet", "vae", "scheduler", "image_normalizer", "image_noising_scheduler"] {
        std::fs::create_dir(path(part)).unwrap();
        for file in std::fs::read_dir(golden.join(part)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), path(part).join(file.file_name())).unwrap();
        }
    }
    let load = || Decoder::<Flex>::load(&Files::folder(folder.path()), &Default::default(), checkpoint::DType::F32);
    let error = load().unwrap_err().to_string();
    assert!(error.contains("text_encoder"), "{error}");

    let vae_file = path("vae").join("diffusion_pytorch_model.safetensors");
    checkpoint::save(&model.vae, &vae_file, &vae::OLD_KEYS, checkpoint::DType::F32).unwrap();
    let old = "decoder.mid_block.attentions.0.proj_attn.weight";
    assert!(Weights::open(&vae_file).unwrap().get(old).is_some());
    let store = |width: usize, value: f32| {
        let bytes: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), 77 * width).flatten().collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 77, width], &bytes).unwrap();
        let file = safetensors::serialize([(empty_prompt::KEY, view)], None).unwrap();
        std::fs::write(path(empty_prompt::FILE), file).unwrap();
    };
    store(48, 0.5);
    let loaded = load().unwrap();
    assert_eq!(loaded.empty_prompt.into_data(), TensorData::full([1, 77, 48], 0.5f32));
    let latents = cases.floats::<Flex, 4>("latents");
    assert_close("old keys", loaded.vae.decode(latents.clone()), model.vae.decode(latents), 0.0);

    for (width, value, expected) in [(40, 0.5, "cross_attention_dim"), (48, f32::NAN, "finite")] {
        store(width, value);
        let error = load().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn interruption_and_arguments() {
    let (model, cases) = unclip::<Flex>();
    let embeddings = embeddings(&cases, "image_embeds");
    let decode = |embeddings: Tensor<Flex, 3>, images: &[u64], options: DecodeOptions| {
        model.decode(embeddings, None, images, &options, &mut |finished, _| match finished {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    };
    let short = DecodeOptions { steps: 3, ..Default::default() };
    assert!(matches!(decode(embeddings.clone(), &[0, 1], short), Err(Error::Interrupted)));
    for (name, images, options) in [
        ("images", &[0][..], short),
        ("steps", &[0, 1], DecodeOptions { steps: 0, ..short }),
        ("steps", &[0, 1], DecodeOptions { steps: 1001, ..short }),
        ("guidance", &[0, 1], DecodeOptions { guidance: f64::NAN, ..short }),
    ] {
        let error = decode(embeddings.clone(), images, options).unwrap_err();
        assert!(matches!(error, Error::Argument { name: found, .. } if found == name), "{error}");
    }
    let error = decode(embeddings.narrow(2, 0, 10), &[0, 1], short).unwrap_err();
    assert!(error.to_string().contains("embeddings = [2, 1, 10]"), "{error}");
}
