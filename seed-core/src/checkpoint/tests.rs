//! Round trips and every refusal, on a small module with all kinds of layers.

use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{DType as Element, Int, Tensor, backend::Backend};
use burn_flex::Flex;
use proptest::prelude::*;
use safetensors::Dtype as OnDisk;

use super::*;
use crate::error::Error;

#[derive(Module, Debug)]
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    self_: Linear<B>,
}

#[derive(Module, Debug)]
enum Head<B: Backend> {
    Plain(Linear<B>),
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    patch: Conv2d<B>,
    group: GroupNorm<B>,
    blocks: Vec<Block<B>>,
    head: Option<Linear<B>>,
    choice: Head<B>,
    absent: Option<Linear<B>>,
    words: Embedding<B>,
    token: Param<Tensor<B, 3>>,
}

const TABLE: KeyTable =
    KeyTable { renames: &[("blocks", "vit.layers"), (".self_", ".self")], ignored: &["temp", "*.position_ids"] };

const KEYS: [&str; 17] = [
    "choice.bias",
    "choice.weight",
    "group.bias",
    "group.weight",
    "head.bias",
    "head.weight",
    "patch.bias",
    "patch.weight",
    "token",
    "vit.layers.0.norm1.bias",
    "vit.layers.0.norm1.weight",
    "vit.layers.0.self.bias",
    "vit.layers.0.self.weight",
    "vit.layers.1.norm1.bias",
    "vit.layers.1.norm1.weight",
    "vit.layers.1.self.bias",
    "vit.layers.1.self.weight",
];

fn net<B: Backend>(head: usize) -> Net<B> {
    let device = B::Device::default();
    let block = || Block { norm1: LayerNormConfig::new(6).init(&device), self_: LinearConfig::new(6, 6).init(&device) };
    Net {
        patch: Conv2dConfig::new([3, 4], [2, 5]).init(&device),
        group: GroupNormConfig::new(2, 4).init(&device),
        blocks: vec![block(), block()],
        head: Some(LinearConfig::new(6, head).init(&device)),
        choice: Head::Plain(LinearConfig::new(2, 1).init(&device)),
        absent: None,
        words: EmbeddingConfig::new(9, 6).init(&device),
        token: Param::from_data([[[0.5f32, -3.0, 1.0e-3]]], &device),
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.safetensors")
    }

    /// Writes tensors as they are.
    fn write(&self, tensors: &[(&str, OnDisk, Vec<usize>, Vec<u8>)]) -> Weights {
        let views = tensors.iter().map(|(key, dtype, shape, bytes)| {
            (*key, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &self.path()).unwrap();
        Weights::open(&self.path()).unwrap()
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn linear() -> Linear<Flex> {
    LinearConfig::new(3, 2).init(&Default::default())
}

fn tensors(weight: &[f32]) -> Vec<(&'static str, OnDisk, Vec<usize>, Vec<u8>)> {
    vec![("weight", OnDisk::F32, vec![2, 3], bytes(weight)), ("bias", OnDisk::F32, vec![2], bytes(&[7.0, 8.0]))]
}

const SIX: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

#[test]
fn round_trip_in_every_dtype() {
    let folder = Folder::new();
    let model = net::<Flex>(5);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        save(&model, &folder.path(), &TABLE, dtype).unwrap();
        let weights = Weights::open(&folder.path()).unwrap();
        let keys: Vec<&str> = weights.keys().collect();
        assert_eq!(keys, [&KEYS[..], &["words.weight"]].concat());
        for (key, shape) in [
            ("head.weight", vec![5, 6]),
            ("choice.weight", vec![1, 2]),
            ("words.weight", vec![9, 6]),
            ("patch.weight", vec![4, 3, 2, 5]),
            ("token", vec![1, 1, 3]),
        ] {
            assert_eq!(weights.get(key).unwrap().shape, shape, "{key}");
        }

        let loaded = load(net::<Flex>(5), &weights, &TABLE).unwrap();
        let pairs = [
            (head(&model), head(&loaded)),
            (model.patch.weight.val().reshape([4, -1]), loaded.patch.weight.val().reshape([4, -1])),
            (model.words.weight.val(), loaded.words.weight.val()),
            (model.blocks[1].self_.weight.val(), loaded.blocks[1].self_.weight.val()),
        ];
        for (before, after) in pairs {
            assert_eq!(after.dtype(), Element::F32);
            // By `half`, to the nearest: casts of this backend are not always.
            let (before, after) = (before.to_data(), after.to_data());
            let rounded = before.iter::<f32>().map(|value| match dtype {
                DType::F32 => value,
                DType::F16 => half::f16::from_f32(value).to_f32(),
                DType::BF16 | DType::Int8 => half::bf16::from_f32(value).to_f32(),
            });
            assert_eq!(after.iter::<f32>().collect::<Vec<_>>(), rounded.collect::<Vec<_>>());
        }
    }
}

fn head(net: &Net<Flex>) -> Tensor<Flex, 2> {
    net.head.as_ref().unwrap().weight.val()
}

#[test]
fn linear_weights_are_turned_and_lead_to_the_same_product() {
    let loaded = load(linear(), &Folder::new().write(&tensors(&SIX)), &KeyTable::EXACT).unwrap();
    assert_eq!(loaded.weight.val().to_data().to_vec::<f32>().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let y = loaded.forward(Tensor::<Flex, 2>::from_floats([[1.0, 10.0, 100.0]], &Default::default()));
    assert_eq!(y.to_data().to_vec::<f32>().unwrap(), [328.0, 662.0]);
}

#[test]
fn saving_is_a_function_of_the_weights_and_readable_by_others() {
    let folder = Folder::new();
    let model = net::<Flex>(5);
    save(&model, &folder.path(), &TABLE, DType::BF16).unwrap();
    let first = std::fs::read(folder.path()).unwrap();
    save(&model, &folder.path(), &TABLE, DType::BF16).unwrap();
    assert_eq!(first, std::fs::read(folder.path()).unwrap());
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&first).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert!(metadata.offset_keys().is_sorted());
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1, "nothing is left beside the file");
}

#[test]
fn all_missing_and_unused_keys_are_named_at_once() {
    let folder = Folder::new();
    let scalar = || (OnDisk::F32, vec![], bytes(&[1.0]));
    let with_key = |key| (key, scalar().0, scalar().1, scalar().2);
    let keys = ["stray.b", "stray.a", "temp", "x.position_ids", "token", "patch.bias"];
    let weights = folder.write(&keys.map(with_key));
    match load(net::<Flex>(5), &weights, &TABLE).unwrap_err() {
        Error::TensorKeys { file, missing, unused } => {
            assert!(file.ends_with("model.safetensors"));
            assert_eq!(missing.len(), KEYS.len() + 1 - 2);
            assert_eq!(unused, ["stray.a", "stray.b"]);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn shapes_are_reported_in_the_file_layout() {
    let folder = Folder::new();
    save(&net::<Flex>(5), &folder.path(), &TABLE, DType::F16).unwrap();
    match load(net::<Flex>(8), &Weights::open(&folder.path()).unwrap(), &TABLE).unwrap_err() {
        Error::TensorShape { key, expected, found, .. } if key == "head.weight" => {
            assert_eq!((expected, found), (vec![8, 6], vec![5, 6]));
        }
        Error::TensorShape { key, expected, found, .. } => {
            assert_eq!((key.as_str(), expected, found), ("head.bias", vec![8], vec![5]));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_scalar_fits_one_value() {
    #[derive(Module, Debug)]
    struct Temperature<B: Backend> {
        temp: Param<Tensor<B, 1>>,
    }
    let weights = Folder::new().write(&[("temp", OnDisk::F32, vec![], bytes(&[0.07]))]);
    let model = Temperature::<Flex> { temp: Param::from_data([1.0f32], &Default::default()) };
    let loaded = load(model, &weights, &KeyTable::EXACT).unwrap();
    assert_eq!(loaded.temp.val().to_data().to_vec::<f32>().unwrap(), [0.07]);
}

#[test]
fn values_and_dtypes_that_weights_cannot_have() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let weights = Folder::new().write(&tensors(&[1.0, 2.0, 3.0, 4.0, 5.0, bad]));
        let text = load(linear(), &weights, &KeyTable::EXACT).unwrap_err().to_string();
        assert!(text.contains("tensor weight holds 1 values of 6 that are not finite"), "{text}");
    }
    for dtype in [OnDisk::I32, OnDisk::U32] {
        let mut wrong = tensors(&SIX);
        wrong[0].1 = dtype;
        let error = load(linear(), &Folder::new().write(&wrong), &KeyTable::EXACT).unwrap_err();
        assert!(matches!(&error, Error::TensorValue { key, .. } if key == "weight"), "{error}");
    }
}

#[test]
fn the_weights_of_layers_alone_are_halved_in_memory() {
    let folder = Folder::new();
    let model = net::<Flex>(5);
    save(&model, &folder.path(), &TABLE, DType::F32).unwrap();
    let weights = Weights::open(&folder.path()).unwrap();
    for (dtype, element) in [(DType::F16, Element::F16), (DType::BF16, Element::BF16)] {
        let loaded = load_as(net::<Flex>(5), &weights, &TABLE, dtype).unwrap();
        let (layer, patch) = (loaded.blocks[1].self_.weight.val(), loaded.patch.weight.val());
        assert_eq!((layer.dtype(), patch.dtype()), (element, element));
        // By `half`, to the nearest: casts of this backend are not always.
        let wide = model.blocks[1].self_.weight.val().into_data();
        let rounded = wide.iter::<f32>().map(|value| match dtype {
            DType::F16 => half::f16::from_f32(value).to_f32(),
            _ => half::bf16::from_f32(value).to_f32(),
        });
        assert_eq!(layer.into_data().iter::<f32>().collect::<Vec<_>>(), rounded.collect::<Vec<_>>());
        assert_eq!(loaded.words.weight.val().dtype(), Element::F32);
        assert_eq!(loaded.blocks[1].self_.bias.as_ref().unwrap().val().dtype(), Element::F32);
        assert_eq!(loaded.blocks[1].norm1.gamma.val().dtype(), Element::F32);
    }
    let mut model = linear();
    model.weight = Param::from_data([[1.0, 2.0], [1.0e6, 3.0], [4.0, 5.0]], &Default::default());
    save(&model, &folder.path(), &KeyTable::EXACT, DType::F32).unwrap();
    let weights = Weights::open(&folder.path()).unwrap();
    let text = load_as(linear(), &weights, &KeyTable::EXACT, DType::F16).unwrap_err().to_string();
    assert!(text.contains("tensor weight") && text.contains("1 values of 6 beyond the range of f16"), "{text}");
    load_as(linear(), &weights, &KeyTable::EXACT, DType::BF16).unwrap();
}

/// What a file holds in the dtype that is asked for is read in its map, which outlives the file's name and is never written to;
/// where elements lie askew it is copied.
#[test]
fn layers_read_the_map_of_their_file() {
    let folder = Folder::new();
    let (model, other) = (net::<Flex>(5), net::<Flex>(5));
    for (dtype, element) in [(DType::F32, Element::F32), (DType::F16, Element::F16), (DType::BF16, Element::BF16)] {
        save(&model, &folder.path(), &TABLE, dtype).unwrap();
        let file = std::fs::read(folder.path()).unwrap();
        let weights = Weights::open(&folder.path()).unwrap();
        let loaded = load_as(net::<Flex>(5), &weights, &TABLE, dtype).unwrap();
        drop(weights);
        let changed = head(&loaded).add_scalar(1.0).to_data();
        assert_eq!((head(&loaded).dtype(), changed.dtype), (element, element));
        assert_eq!(std::fs::read(folder.path()).unwrap(), file, "the file is as it was");
        save(&other, &folder.path(), &TABLE, dtype).unwrap();
        save(&loaded.clone(), &folder.path(), &TABLE, dtype).unwrap_or_else(|error| {
            assert!(dtype != DType::F32 && error.to_string().contains("another dtype"), "{error}");
        });
        for askew in 0..4 {
            let bytes: &'static [u8] = [&vec![0; askew][..], &file].concat().leak();
            let again = Weights::embedded(&bytes[askew..], "askew").unwrap();
            let again = load_as(net::<Flex>(5), &again, &TABLE, dtype).unwrap();
            assert_eq!(head(&again).into_data(), head(&loaded).into_data());
            assert_eq!(again.patch.weight.val().into_data(), loaded.patch.weight.val().into_data());
        }
    }
}

/// A layer in 8 bits is within half a step of its values; it cannot be saved, and no file is of 8 bits.
#[test]
fn layers_in_eight_bits_are_in_memory_alone() {
    let folder = Folder::new();
    let model = net::<Flex>(5);
    save(&model, &folder.path(), &TABLE, DType::F32).unwrap();
    let weights = Weights::open(&folder.path()).unwrap();
    let dtype = |key: &str| if key.starts_with("head") { DType::Int8 } else { DType::F16 };
    let loaded = load_each(net::<Flex>(5), &weights, &TABLE, &dtype).unwrap();
    let element = head(&loaded).dtype();
    assert!(matches!(element, Element::QFloat(_)), "{element:?}");
    assert_eq!(head(&loaded).dims(), head(&model).dims());
    assert_eq!(loaded.blocks[1].self_.weight.val().dtype(), Element::F16);
    let text = save(&loaded, &folder.path(), &TABLE, DType::F32).unwrap_err().to_string();
    assert!(text.contains("head.weight") && text.contains("another dtype"), "{text}");
    let text = save(&model, &folder.path(), &TABLE, DType::Int8).unwrap_err().to_string();
    assert!(text.contains("int8") && text.contains("f32, f16 or bf16"), "{text}");
    let loaded = load_as(net::<Flex>(5), &weights, &TABLE, DType::Int8).unwrap();
    assert_eq!(head(&loaded).dtype(), Element::BF16, "nobody said which layers");
}

#[test]
fn what_cannot_be_saved_leaves_the_old_file() {
    let folder = Folder::new();
    std::fs::write(folder.path(), "old").unwrap();
    for (value, dtype, reason) in [
        (f32::NAN, DType::F32, "not finite"),
        (1.0e6, DType::F16, "beyond the range of f16"),
        (f32::MAX, DType::BF16, "beyond the range of bf16"),
    ] {
        let mut model = linear();
        model.bias = Some(Param::from_data([1.0, value], &Default::default()));
        let text = save(&model, &folder.path(), &KeyTable::EXACT, dtype).unwrap_err().to_string();
        assert!(text.contains("tensor bias") && text.contains(reason), "{text}");
    }
    assert_eq!(std::fs::read(folder.path()).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1, "nothing is left beside the file");
    let nowhere = folder.0.path().join("no/such/model.safetensors");
    assert!(matches!(save(&linear(), &nowhere, &KeyTable::EXACT, DType::F32), Err(Error::Write { .. })));
    let clash = KeyTable { renames: &[("weight", "bias")], ignored: &[] };
    let text = save(&linear(), &folder.path(), &clash, DType::F32).unwrap_err().to_string();
    assert!(text.contains("bias is the key of two parameters"), "{text}");
}

#[test]
fn files_are_replaced_whole() {
    let folder = Folder::new();
    for content in ["first", "second, longer", ""] {
        crate::atomic::write(&folder.path(), content.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path()).unwrap(), content);
    }
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1, "nothing is left beside the file");
    assert!(matches!(crate::atomic::write(&folder.path().join("x"), b""), Err(Error::Write { .. })));
}

#[test]
fn integer_parameters_are_refused_both_ways() {
    #[derive(Module, Debug)]
    struct Positions<B: Backend> {
        ids: Param<Tensor<B, 1, Int>>,
    }
    let ids = Tensor::<Flex, 1, Int>::from_ints([1, 2], &Default::default());
    let model = Positions { ids: Param::initialized(burn::module::ParamId::new(), ids) };
    let folder = Folder::new();
    let text = save(&model, &folder.path(), &KeyTable::EXACT, DType::F32).unwrap_err().to_string();
    assert!(text.contains("tensor ids"), "{text}");
    let text = load(model, &folder.write(&[]), &KeyTable::EXACT).unwrap_err().to_string();
    assert!(text.contains("tensor ids"), "{text}");
}

#[test]
fn identity_and_gradients_are_kept() {
    let folder = Folder::new();
    let weights = folder.write(&tensors(&SIX));
    let touched = linear();
    let _ = touched.weight.val();
    for (model, frozen) in [(linear(), false), (touched, false), (linear().no_grad(), true)] {
        let id = model.weight.id;
        let loaded = load(model, &weights, &KeyTable::EXACT).unwrap();
        assert_eq!(loaded.weight.id, id);
        #[cfg(not(feature = "train"))]
        let _ = frozen;
        #[cfg(feature = "train")]
        {
            type Training = burn::backend::Autodiff<Flex>;
            let model = LinearConfig::new(3, 2).init::<Training>(&Default::default());
            let model = if frozen { model.no_grad() } else { model };
            let loaded = load(model, &weights, &KeyTable::EXACT).unwrap();
            assert_eq!(loaded.weight.val().is_require_grad(), !frozen);
        }
    }
}

#[test]
fn a_lazy_module_is_not_initialized_to_be_loaded() {
    let device = Default::default();
    let weight = Param::<Tensor<Flex, 2>>::uninitialized(
        burn::module::ParamId::new(),
        |_, _| panic!("initialized"),
        device,
        true,
        [3, 2].into(),
    );
    let model = Linear { weight, bias: linear().bias };
    load(model, &Folder::new().write(&tensors(&SIX)), &KeyTable::EXACT).unwrap();
}

fn open_and_load(path: &Path) -> crate::Result<Linear<Flex>> {
    load(linear(), &Weights::open(path)?, &KeyTable::EXACT)
}

proptest! {
    #[test]
    fn any_damage_loads_or_is_refused(at in 0usize..200, byte in any::<u8>(), length in 0usize..260) {
        let folder = Folder::new();
        drop(folder.write(&tensors(&SIX)));
        let mut bytes = std::fs::read(folder.path()).unwrap();
        let (at, length) = (at.min(bytes.len() - 1), length.min(bytes.len()));
        bytes[at] = byte;
        let path = folder.0.path().join("damaged.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let _ = open_and_load(&path);
        std::fs::write(&path, &bytes[..length]).unwrap();
        let loaded = open_and_load(&path);
        prop_assert!(length == bytes.len() || loaded.is_err());
    }
}
