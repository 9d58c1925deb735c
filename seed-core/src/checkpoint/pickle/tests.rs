//! Files that PyTorch wrote, against the same tensors as safetensors.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::Dtype;

use crate::checkpoint::Weights;
use crate::error::Error;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn open(name: &str) -> Weights {
    Weights::open(&golden(name)).unwrap()
}

fn bytes(name: &str) -> &'static [u8] {
    std::fs::read(golden(name)).unwrap().leak()
}

/// Opens bytes as a mapped file is opened, and reads every tensor.
fn read_all(bytes: &'static [u8]) -> Result<Weights, Error> {
    let weights = Weights::embedded(bytes, "test")?;
    for key in weights.keys() {
        let stored = weights.get(key).unwrap();
        assert_eq!(stored.bytes().len(), stored.shape.iter().product::<usize>() * stored.dtype.bitsize() / 8);
    }
    Ok(weights)
}

fn skipped(weights: &Weights) -> Vec<String> {
    weights.skipped().iter().map(ToString::to_string).collect()
}

/// Every key of `name` must be in `folder/model.safetensors`, with `prefix` before it, or in `absent` (as a prefix).
fn check_model(folder: &str, name: &str, prefix: &str, absent: &[&str]) -> usize {
    let (found, model) = (open(&format!("{folder}/{name}")), open(&format!("{folder}/model.safetensors")));
    let mut compared = 0;
    for key in found.keys() {
        match model.get(&format!("{prefix}{key}")) {
            Some(expected) => {
                assert_eq!(found.get(key).unwrap().shape, expected.shape, "{key}");
                let expected = model.floats(&format!("{prefix}{key}")).unwrap();
                assert_eq!(found.floats(key).unwrap(), expected, "{folder}/{name}: {key}");
                compared += 1;
            }
            None => assert!(absent.iter().any(|absent| key.starts_with(absent)), "{folder}/{name}: {key}"),
        }
    }
    compared
}

#[test]
fn released_checkpoints_hold_the_models_tensors() {
    let vit = open("seed2-mlp/eva_vit_g.pth");
    assert_eq!((vit.keys().len(), vit.get("cls_token").unwrap().dtype), (56, Dtype::F16));
    // The file has a block more than the model uses.
    assert_eq!(check_model("seed2-mlp", "eva_vit_g.pth", "visual_encoder.", &["blocks.3."]), 43);
    let position_ids = ["Qformer.bert.embeddings.position_ids"];
    assert_eq!(check_model("seed2-mlp", "seed_quantizer.pt", "", &position_ids), 153);
    let positions = open("seed2-mlp/seed_quantizer.pt").integers(position_ids[0]).unwrap();
    assert_eq!(positions, (0..512).collect::<Vec<_>>());
    // What the others hold is checked by the networks that they make.
    assert_eq!(open("seed2-qformer/seed_quantizer.pt").keys().len(), 238);
    assert_eq!(open("seed1/seed_tokenizer.pth").keys().len(), 81);
    assert_eq!(open("seed1/causal_qformer.pth").keys().len(), 132);
    assert_eq!(skipped(&open("seed1/causal_qformer.pth")), ["epoch (int)"]);
}

const CASES: [&str; 14] = [
    "dtypes",
    "views",
    "shapes",
    "attributes",
    "batch_norm",
    "training",
    "state_dict",
    "module",
    "two",
    "protocol-2",
    "protocol-3",
    "protocol-4",
    "protocol-5",
    "python2",
];

#[test]
fn every_case_of_both_formats_is_read() {
    let expected = open("pickle/expected.safetensors");
    let files = std::fs::read_dir(golden("pickle")).unwrap();
    let mut files: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|file| file.ends_with(".pt"));
    assert_eq!(files.len(), 2 * CASES.len() - 1);
    for file in files {
        let case = file.split('.').next().unwrap();
        assert!(CASES.contains(&case), "{case}");
        let found = open(&format!("pickle/{file}"));
        let keys: Vec<&str> = expected.keys().filter_map(|key| key.strip_prefix(case)?.strip_prefix('/')).collect();
        assert!(!keys.is_empty());
        assert_eq!(found.keys().collect::<Vec<_>>(), keys, "{file}");
        for key in keys {
            let (found, expected) = (found.get(key).unwrap(), expected.get(&format!("{case}/{key}")).unwrap());
            assert_eq!((found.dtype, found.shape), (expected.dtype, expected.shape), "{file}: {key}");
            assert_eq!(found.bytes(), expected.bytes(), "{file}: {key}");
        }
    }
}

#[test]
fn only_views_out_of_order_are_copied() {
    let views = open("pickle/views.zip.pt");
    let copied = |key: &str| matches!(views.get(key).unwrap().bytes(), Cow::Owned(_));
    let copies: Vec<&str> = views.keys().filter(|key| copied(key)).collect();
    let expected = [
        "channels_last",
        "column_of_one",
        "columns",
        "expanded",
        "half",
        "overlapping",
        "permuted",
        "steps",
        "transposed",
    ];
    assert_eq!(copies, expected);

    let shapes = open("pickle/shapes.zip.pt");
    let address = |key: &str| shapes.get(key).unwrap().bytes().as_ptr();
    assert_eq!(address("tied_a"), address("tied_b"));
}

#[test]
fn entries_that_are_no_weights_are_listed() {
    for file in ["pickle/training.zip.pt", "pickle/training.legacy.pt"] {
        let expected = [
            "args (argparse.Namespace, 1 tensor)",
            "best (numpy scalar)",
            "big (int)",
            "bytes (bytes)",
            "defaults (dict)",
            "epoch (int)",
            "loose (tensor)",
            "loss (float)",
            "names (list)",
            "none (dict)",
            "optimizer (dict, 12 tensors)",
            "random (numpy.ndarray)",
            "seen (set)",
            "shape (tuple)",
            "steps (int)",
        ];
        assert_eq!(skipped(&open(file)), expected, "{file}");
    }
    assert_eq!(skipped(&open("pickle/state_dict.zip.pt")), ["epoch (int)"]);
    assert!(open("pickle/two.zip.pt").skipped().is_empty() && open("pickle/batch_norm.zip.pt").skipped().is_empty());
}

#[test]
fn names_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("pickle/module.legacy.pt", "a.safetensors"),
        ("pickle/module.zip.pt", "b.json"),
        ("pickle/expected.safetensors", "c.pth"),
    ] {
        std::fs::copy(golden(from), folder.path().join(to)).unwrap();
        let renamed = Weights::open(&folder.path().join(to)).unwrap();
        assert_eq!(renamed.keys().collect::<Vec<_>>(), open(from).keys().collect::<Vec<_>>());
    }
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    for file in ["pickle/training.zip.pt", "pickle/training.legacy.pt", "pickle/protocol-4.legacy.pt"] {
        let whole = bytes(file);
        read_all(whole).unwrap();
        for length in 0..whole.len() {
            let error = read_all(&whole[..length]).unwrap_err();
            assert!(matches!(error, Error::WeightFile { .. }), "{file} cut to {length}: {error}");
        }
    }
}

proptest! {
    /// Whatever becomes of a file, it is read or refused, without a panic.
    #[test]
    fn files_with_wrong_bytes_never_panic(
        file in prop::sample::select(vec!["training", "views", "dtypes", "protocol-4"]),
        zip in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes(&format!("pickle/{file}.{}.pt", if zip { "zip" } else { "legacy" })).to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read_all(bytes.leak());
    }

    #[test]
    fn pickles_of_any_opcodes_never_panic(
        opcodes in prop::collection::vec(prop_oneof![
            prop::sample::select(b".NJKMGXUC(01)t]ae}suqrhjcQRb\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x93\x94\x81".to_vec()),
            0u8..8,
        ], 0..200),
    ) {
        let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02";
        let _ = read_all([magic.as_slice(), &opcodes, b".]."].concat().leak());
    }
}
