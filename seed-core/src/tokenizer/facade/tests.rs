//! The facade over the golden network and decoder, and over a random model with a caption side.

use super::*;
use crate::{
    scenes::{self, Scene, Split},
    tokenizer::{DecodeDefaults, FORMAT, SeedConfig},
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");

fn config(contrast: Option<ContrastConfig>) -> BundleConfig {
    BundleConfig {
        format: FORMAT,
        name: "test".to_owned(),
        provenance: "random".to_owned(),
        preprocess: Preset::Seed,
        decode: DecodeDefaults { steps: 3, guidance: 2.0 },
        weights: None,
        model: Files::folder(format!("{GOLDEN}/seed2-mlp")).json::<SeedConfig>("config.json").unwrap(),
        contrast,
    }
}

fn words(embed_dim: usize) -> ContrastConfig {
    let words = scenes::words().into_iter().map(str::to_owned).collect();
    ContrastConfig { embed_dim, text_width: 16, text_depth: 1, text_heads: 2, context: 64, local: false, words }
}

/// A random model with a caption side, without a decoder.
fn captioned() -> (tempfile::TempDir, Box<dyn SeedTokenizer>) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Some(words(24)));
    let device = Default::default();
    let network = config.model.init::<burn_flex::Flex>(&device);
    let contrast = words(24).init(config.model.vit_features(), config.model.qformer_width, &device);
    config.save(folder.path(), &network, Some(&contrast), crate::checkpoint::DType::F32).unwrap();
    let model = Model::Folder(folder.path().to_owned());
    let tokenizer = open(&model, Device::Cpu, DType::F32, None).unwrap();
    (folder, tokenizer)
}

/// The golden network and decoder as one bundle.
fn golden() -> (tempfile::TempDir, Box<dyn SeedTokenizer>) {
    let folder = tempfile::tempdir().unwrap();
    let json = serde_json::to_vec(&config(None)).unwrap();
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    std::fs::copy(format!("{GOLDEN}/seed2-mlp/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    copy_folder(format!("{GOLDEN}/unclip").as_ref(), &folder.path().join(DECODER));
    let tokenizer = open(&Model::Folder(folder.path().to_owned()), Device::Cpu, DType::F32, None).unwrap();
    (folder, tokenizer)
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn images(count: u64) -> Vec<RgbImage> {
    (0..count).map(|index| Scene::sample(3, index, Split::Train).render(64)).collect()
}

const FAST: DecodeOptions =
    DecodeOptions { steps: 2, guidance: 4.0, seed: 5, scheduler: None, size: None, keep_first: None };

#[test]
fn splitting_a_batch_changes_no_code() {
    let (_folder, tokenizer) = golden();
    let images = images(ENCODE_AT_ONCE as u64 + 3);
    let together = tokenizer.encode(&images).unwrap();
    let alone: Vec<Codes> = images.iter().map(|i| tokenizer.encode(std::slice::from_ref(i)).unwrap()).collect();
    assert!(together.rows().eq(alone.iter().flat_map(Codes::rows)));
    let pixels: Vec<Vec<f32>> = images.iter().map(|image| tokenizer.preprocessor().apply(image)).collect();
    assert_eq!(tokenizer.encode_pixels(&pixels).unwrap(), together);
    assert_eq!(tokenizer.encode(&[]).unwrap().batch(), 0);
    let error = tokenizer.encode_pixels(&[vec![0.0; 5]]).unwrap_err().to_string();
    assert!(error.contains("3 * 56 * 56"), "{error}");
}

/// Largest difference between batches, in levels of 255: products of one row and of several round differently.
const BATCH_TOLERANCE: u8 = 1;

#[test]
fn an_image_depends_on_its_codes_and_not_on_its_place_or_batch() {
    let (_folder, tokenizer) = golden();
    let codes = tokenizer.encode(&images(3)).unwrap();
    let together = tokenizer.decode(&codes, &FAST).unwrap();
    let mut seen = Vec::new();
    let mut watch = |finished, all| {
        seen.push((finished, all));
        ControlFlow::Continue(())
    };
    let last = tokenizer.decode_with(&codes.slice(2..3), None, &FAST, &mut watch).unwrap();
    let levels = together[2].as_raw().iter().zip(last[0].as_raw());
    let difference = levels.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(difference <= BATCH_TOLERANCE, "differs by {difference} levels");
    assert_eq!(seen.last(), Some(&(3, 3)));
    assert_eq!(tokenizer.decode_options(), DecodeOptions { steps: 3, guidance: 2.0, ..DecodeOptions::default() });
    assert_eq!(tokenizer.decoded_size().unwrap(), Some(together[0].width() as usize));
    let negative =
        tokenizer.decode_with(&codes, Some(&codes.slice(0..1)), &FAST, &mut |_, _| ControlFlow::Continue(()));
    assert!(negative.unwrap() != together);
}

#[test]
fn decoding_can_be_stopped_and_refuses_what_does_not_fit() {
    let (_folder, tokenizer) = golden();
    let codes = tokenizer.encode(&images(3)).unwrap();
    let stopped = tokenizer.decode_with(&codes, None, &FAST, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let foreign = Codes::from_rows([[4000u16; 32]], 32, 8192).unwrap();
    assert!(matches!(tokenizer.decode(&foreign, &FAST), Err(Error::CodeOutOfRange { code: 4000, .. })));
    let short = Codes::from_rows([[4u16; 16]], 16, 256).unwrap();
    assert!(matches!(tokenizer.decode(&short, &FAST), Err(Error::CodeCount { found: 16, expected: 32, .. })));
    let two = codes.slice(0..2);
    let error = tokenizer.decode_with(&codes, Some(&two), &FAST, &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(error, Err(Error::Argument { name: "negative", .. })));
}

/// On the CPU only weights are rounded: those of a file in half precision are rounded already. With bfloat16 the values that they
/// are multiplied with may be rounded too, where the processor has instructions for it.
#[test]
fn a_model_stored_in_half_precision_loses_nothing_in_memory() {
    /// Share of the codes of random weights, whose embeddings lie between many rows, that rounding changes at most.
    const NEAR_TIES: f64 = 0.05;
    let folder = tempfile::tempdir().unwrap();
    let config = config(None);
    let network = config.model.init::<burn_flex::Flex>(&Default::default());
    let (images, model) = (images(9), Model::Folder(folder.path().to_owned()));
    for dtype in [DType::F16, DType::BF16] {
        config.save(folder.path(), &network, None, dtype).unwrap();
        let pixels = |tokenizer: &dyn SeedTokenizer| tokenizer.preprocessor().apply(&images[0]);
        let encode = |dtype: DType| {
            let tokenizer = open(&model, Device::Cpu, dtype, None).unwrap();
            assert_eq!(tokenizer.provenance().unwrap().dtype, dtype.to_string());
            let margins = tokenizer.encode_pixels_with_margins(&[pixels(tokenizer.as_ref())]).unwrap().1;
            (tokenizer.encode(&images).unwrap(), margins)
        };
        let ((codes, margins), (want, want_margins)) = (encode(dtype), encode(DType::F32));
        if dtype == DType::F16 {
            assert_eq!((&codes, margins), (&want, want_margins));
        }
        let pairs = codes.as_slice().iter().zip(want.as_slice());
        let differing = pairs.filter(|(code, want)| code != want).count();
        assert!(differing as f64 <= NEAR_TIES * want.as_slice().len() as f64, "{dtype}: {differing} codes differ");
    }
}

/// Of the built-in model, whose codes mean something: a fifth of what was measured over 2,000 scenes may be bad luck.
#[test]
fn few_codes_change_in_fewer_bits() {
    let images: Vec<_> = (0..48).map(|i| Scene::sample(5, i, Split::HeldOut).render(64)).collect();
    let open = |dtype| open(&Model::Bundled, Device::Cpu, dtype, None).unwrap();
    let want = open(DType::F32).encode(&images).unwrap();
    for (dtype, same) in [(DType::BF16, 0.985), (DType::Int8, 0.94)] {
        let tokenizer = open(dtype);
        assert_eq!(tokenizer.provenance().unwrap().dtype, dtype.to_string());
        let found = tokenizer.encode(&images).unwrap();
        let pairs = found.as_slice().iter().zip(want.as_slice());
        let equal = pairs.filter(|(code, want)| code == want).count();
        let share = equal as f64 / want.as_slice().len() as f64;
        assert!(share >= same, "{dtype}: {share}");
        for count in [1, 7] {
            let part = tokenizer.encode(&images[..count]).unwrap();
            assert_eq!(part, found.slice(0..count), "{dtype}, a batch of {count}");
        }
    }
}

/// Codes after the kept ones have no say, those before have; the mean of the rows is what stands for them.
#[test]
fn a_prefix_says_what_its_codes_say() {
    let device = Default::default();
    let network = config(None).model.init::<burn_flex::Flex>(&device);
    let codes = |last: i64| {
        let values: Vec<i64> = (0..31).map(|i| i % 7).chain([last]).collect();
        Tensor::<burn_flex::Flex, 2, Int>::from_data(TensorData::new(values, [1, 32]), &device)
    };
    let generate = |last: i64, kept: usize| network.generation_of_first(codes(last), kept).into_data();
    assert_eq!(generate(1, 32), network.generation(codes(1)).into_data());
    assert_eq!(generate(1, 31), generate(2, 31));
    assert_ne!(generate(1, 32), generate(2, 32));
    assert_ne!(generate(1, 31), generate(1, 30));
}

#[test]
fn embeddings_share_a_space_and_have_unit_length() {
    let (_folder, tokenizer) = captioned();
    let images = images(ENCODE_AT_ONCE as u64 + 1);
    let captions: Vec<String> =
        (0..images.len() as u64).map(|index| Scene::sample(3, index, Split::Train).caption()).collect();
    let codes = tokenizer.encode(&images).unwrap();
    for embeddings in [
        tokenizer.image_embeddings(&images).unwrap(),
        tokenizer.causal_embeddings(&images).unwrap(),
        tokenizer.code_embeddings(&codes).unwrap(),
        tokenizer.caption_embeddings(&captions).unwrap(),
    ] {
        assert_eq!((embeddings.dim, embeddings.rows().len()), (24, images.len()));
        for row in embeddings.rows() {
            let length: f32 = row.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-4, "{length}"); // 24 float32 roundings
        }
    }
    // A prefix is what all images that share it have in common.
    let last_changed = codes.rows().map(|row| {
        let last = row[row.len() - 1];
        row[..row.len() - 1].iter().copied().chain([u16::from(last == 0)]).collect::<Vec<_>>()
    });
    let changed = Codes::from_rows(last_changed, codes.tokens(), codes.codebook_size()).unwrap();
    let of_first = |codes: &Codes, kept: usize| tokenizer.code_embeddings_of_first(codes, kept).unwrap();
    let all = codes.tokens();
    assert_eq!(of_first(&codes, all), tokenizer.code_embeddings(&codes).unwrap());
    assert_eq!(of_first(&codes, all - 1), of_first(&changed, all - 1));
    assert_ne!(of_first(&codes, all), of_first(&changed, all));
    for kept in [0, all + 1] {
        let error = tokenizer.code_embeddings_of_first(&codes, kept);
        assert!(matches!(error, Err(Error::Argument { name: "keep_first", .. })), "{kept}");
    }
    let error = tokenizer.caption_embeddings(&["a xylophone".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("xylophone"), "{error}");
}

#[test]
fn absent_parts_are_named() {
    let (_folder, tokenizer) = captioned();
    let codes = tokenizer.encode(&images(1)).unwrap();
    let error = tokenizer.decode(&codes, &FAST).unwrap_err().to_string();
    assert!(error.contains("diffusion decoder") && error.contains("decoder/"), "{error}");
    assert_eq!(tokenizer.decoded_size().unwrap(), None);
    assert_eq!(tokenizer.parts().unwrap().len(), 5);
    let (_folder, tokenizer) = golden();
    assert!(matches!(tokenizer.image_embeddings(&images(1)), Err(Error::MissingPart { part: "caption side", .. })));
    let parts = tokenizer.parts().unwrap();
    assert!(parts.len() == 6 && parts.iter().all(|part| part.parameters > 0), "{parts:?}");
}

/// Relative to the largest value; the same arithmetic as the reference's, summed in another order.
const FEATURE_TOLERANCE: f32 = 1e-5;

#[test]
fn features_are_those_of_the_reference() {
    let (_folder, tokenizer) = golden();
    let cases = Files::folder(format!("{GOLDEN}/seed2-mlp")).weights("cases.safetensors").unwrap();
    let pixels = cases.floats("pixels").unwrap();
    let images: Vec<Vec<f32>> = pixels.chunks(pixels.len() / 6).map(<[f32]>::to_vec).collect();
    let close = |found: &Features, name: &str, shape: [usize; 3]| {
        assert_eq!(found.shape, shape);
        let expected = cases.floats(name).unwrap();
        let size = expected.iter().fold(0.0f32, |size, value| size.max(value.abs()));
        let difference = found.values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!(found.values.len(), expected.len());
        assert!(difference <= FEATURE_TOLERANCE * size, "{name} differs by {difference} where values reach {size}");
    };
    close(&tokenizer.causal_features(&images).unwrap(), "causal", [6, 32, 48]);
    let codes = tokenizer.encode_pixels(&images).unwrap();
    close(&tokenizer.generation_features(&codes).unwrap(), "generation", [6, 1, 64]);
    assert_eq!(tokenizer.causal_features(&[]).unwrap().shape, [0, 32, 48]);
    let foreign = Codes::from_rows([[8000u16; 32]], 32, 8192).unwrap();
    assert!(matches!(tokenizer.generation_features(&foreign), Err(Error::CodeOutOfRange { .. })));
}
