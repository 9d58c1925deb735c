//! Three AdamW steps of either stage by the reference network in PyTorch, see `tests/golden/training/make.py`.

use std::collections::BTreeMap;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    optim::GradientsParams,
    tensor::{Tensor, TensorData, backend::Backend},
};
use burn_flex::Flex;

use crate::{
    checkpoint::{self, DType, Files, KeyTable, Weights},
    tokenizer::SeedConfig,
};

use super::{
    optim::{Decay, Optimizer},
    run::scalar,
};

type A = Autodiff<Flex>;

/// Largest difference of a loss, relative to it: roundings of float32 sums.
const LOSS: f64 = 2e-6;
/// Largest difference of a gradient's element, relative to the largest of its tensor.
const GRADIENT: f32 = 2e-5;
/// Largest difference of an element's way in three steps, in steps of the learning rate. Adam divides a gradient by its own
/// size, so that what is rounding in a gradient near zero is a part of a step here.
const WAY: f32 = 0.02;

/// The case.
pub(super) struct Golden {
    files: Files,
    /// Sizes of the network.
    pub(super) config: SeedConfig,
    /// Inputs and expected values.
    pub(super) cases: Weights,
    sizes: BTreeMap<String, usize>,
}

impl Golden {
    pub(super) fn open() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/training");
        let files = Files::folder(folder);
        let mut config: serde_json::Map<String, serde_json::Value> = files.json("config.json").unwrap();
        let sizes = ["text_vocab", "embed_dim"].map(|name| {
            let size = config.remove(name).unwrap().as_u64().unwrap() as usize;
            (name.to_owned(), size)
        });
        let config = serde_json::from_value(config.into()).unwrap();
        Self { cases: files.weights("cases.safetensors").unwrap(), files, config, sizes: sizes.into() }
    }

    /// A size that is not the tokenizer's.
    pub(super) fn size(&self, name: &str) -> usize {
        self.sizes[name]
    }

    pub(super) fn tensor<B: Backend, const D: usize>(&self, name: &str) -> Tensor<B, D> {
        let shape = self.cases.get(name).unwrap().shape.to_vec();
        Tensor::from_data(TensorData::new(self.cases.floats(name).unwrap(), shape), &Default::default())
    }

    pub(super) fn load<M: Module<A>>(&self, model: M, file: &str, table: &KeyTable) -> M {
        checkpoint::load(model, &self.files.weights(file).unwrap(), table).unwrap()
    }

    /// Takes three steps and compares: the losses before each, the first step's gradients, the weights in the end. `step`
    /// gives losses by name, the first of which is the one to learn from.
    pub(super) fn three_steps<M: AutodiffModule<A>>(
        &self,
        stage: &str,
        rate: f64,
        mut model: M,
        table: &KeyTable,
        mut step: impl FnMut(&M) -> Vec<(&'static str, Tensor<A, 1>)>,
    ) {
        let before = values(&model, table);
        let mut optimizer = Optimizer::<A, M>::new(0.05, Decay::Matrices, None);
        for index in 0..3 {
            let losses = step(&model);
            for (name, loss) in &losses {
                let (got, want) = (scalar(loss.clone()), self.cases.floats(&format!("{stage}.step{index}.{name}")));
                let want = f64::from(want.unwrap()[0]);
                println!("{stage} step {index} {name}: {got} for {want}");
                assert!((got - want).abs() <= LOSS * want.abs(), "{stage} step {index} {name}: {got} for {want}");
            }
            let loss = losses.into_iter().next().unwrap().1;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            if index == 0 {
                self.compare_gradients(stage, &model, &gradients, table);
            }
            let length = optimizer.length(&model, &gradients);
            model = optimizer.step(rate, model, gradients, length);
        }
        let after = values(&model, table);
        let watched = self.cases.keys().filter_map(|key| key.strip_prefix(&format!("{stage}.after.")));
        let mut count = 0;
        for key in watched {
            let want = self.cases.floats(&format!("{stage}.after.{key}")).unwrap();
            let moved = before[key].iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let difference = after[key].iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{stage} {key} after: {difference:e}, moved {moved:e}");
            assert!(moved > 0.5 * rate as f32, "{stage} {key} was to move");
            assert!(difference <= WAY * rate as f32, "{stage} {key} differs by {difference}");
            count += 1;
        }
        assert!(count >= 7, "{stage}: {count} weights are compared");
    }

    fn compare_gradients<M: AutodiffModule<A>>(
        &self,
        stage: &str,
        model: &M,
        gradients: &GradientsParams,
        table: &KeyTable,
    ) {
        // The gradients as the weights of a model, so that they have keys.
        let found = values(&gradients_of(model, gradients), table);
        let prefix = format!("{stage}.grad.");
        for key in self.cases.keys().filter_map(|key| key.strip_prefix(&prefix)) {
            let want = self.cases.floats(&format!("{prefix}{key}")).unwrap();
            let size = want.iter().fold(0.0f32, |size, value| size.max(value.abs()));
            let difference = found[key].iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{stage} {key} gradient: {:e}", difference / size);
            assert!(size > 0.0, "{stage} {key} has a gradient");
            assert!(difference <= GRADIENT * size, "{stage} {key}: gradient differs by {difference} of {size}");
        }
    }
}

/// The model with each parameter's gradient in its place, and zeros where there is none.
fn gradients_of<M: AutodiffModule<A>>(model: &M, gradients: &GradientsParams) -> M {
    struct Put<'a>(&'a GradientsParams);
    impl burn::module::ModuleMapper<A> for Put<'_> {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<A, D>>,
        ) -> burn::module::Param<Tensor<A, D>> {
            let gradient = self.0.get::<Flex, D>(param.id).map(Tensor::from_inner);
            let value = gradient.unwrap_or_else(|| param.val().detach().zeros_like());
            burn::module::Param::initialized(param.id, value)
        }
    }
    model.clone().map(&mut Put(gradients))
}

/// Parameters by key, as files hold them.
fn values<M: Module<A>>(model: &M, table: &KeyTable) -> BTreeMap<String, Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::save(model, &folder.path().join("model.safetensors"), table, DType::F32).unwrap();
    let weights = Files::folder(folder.path().to_owned()).weights("model.safetensors").unwrap();
    weights.keys().map(|key| (key.to_owned(), weights.floats(key).unwrap())).collect()
}
