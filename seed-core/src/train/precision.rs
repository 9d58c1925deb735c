//! Mixed precision: the weights of linear layers and convolutions in bfloat16 for the length of a step.
//!
//! The weights that learn stay float32, and so do biases, norms, embeddings, activations between the layers and losses. A
//! device with half-precision units multiplies in bfloat16; the CPU computes with the rounded weights in float32. bfloat16
//! has float32's range, so that the loss needs no scaling (arXiv 1905.12322).

use burn::{
    module::{AutodiffModule, ModuleMapper, Param},
    tensor::{DType, Tensor, backend::Backend},
};

use super::{plan::Precision, run::TrainBackend};

/// The model to compute a step with, where it is not `model` itself: its parameters have the same names, so that gradients
/// for one are gradients for the other.
pub(super) fn of_step<A: TrainBackend, M: AutodiffModule<A>>(precision: Precision, model: &M) -> Option<M> {
    match precision {
        Precision::F32 => None,
        Precision::BF16 => Some(model.clone().map(&mut Round { owners: Vec::new(), path: Vec::new() })),
    }
}

struct Round {
    owners: Vec<String>,
    path: Vec<String>,
}

impl<B: Backend> ModuleMapper<B> for Round {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.path.push(name.to_owned());
        self.owners.push(owner.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.owners.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let of_layer = self.owners.last().is_some_and(|owner| matches!(&**owner, "Struct:Linear" | "Struct:Conv2d"));
        if !of_layer || self.path.last().is_none_or(|name| name != "weight") {
            return param;
        }
        let (id, value) = (param.id, param.val());
        let learns = value.is_require_grad();
        Param::initialized(id, value.cast(DType::BF16).detach().set_require_grad(learns))
    }
}

#[cfg(test)]
mod tests {
    use burn::{backend::Autodiff, optim::GradientsParams, tensor::Distribution};
    use burn_flex::Flex;

    use super::*;
    use crate::{
        nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
        train::optim::{Decay, Optimizer},
    };

    type A = Autodiff<Flex>;

    #[derive(burn::module::Module, Debug)]
    struct Net<B: Backend> {
        first: Linear<B>,
        norm: LayerNorm<B>,
        last: Linear<B>,
    }

    /// Gradients of the rounded weights move the float32 ones, by less than bfloat16 could tell.
    #[test]
    fn small_steps_are_not_lost() {
        let device = Default::default();
        let linear = |input, output| LinearConfig::new(input, output).init(&device);
        let mut model =
            Net::<A> { first: linear(6, 8), norm: LayerNormConfig::new(8).init(&device), last: linear(8, 3) };
        let x = Tensor::<A, 2>::random([4, 6], Distribution::Default, &device);
        let loss = |model: &Net<A>| {
            model.last.forward(model.norm.forward(model.first.forward(x.clone()))).powi_scalar(2).mean()
        };
        let before = model.first.weight.val().into_data();
        let mut optimizer = Optimizer::<A, _>::new(0.0, Decay::All, None);
        let start: f32 = loss(&model).into_scalar();
        for _ in 0..20 {
            let rounded = of_step::<A, _>(Precision::BF16, &model).unwrap();
            assert_eq!(rounded.first.weight.val().dtype(), DType::BF16);
            assert_eq!(rounded.norm.gamma.val().dtype(), DType::F32);
            let gradients = GradientsParams::from_grads(loss(&rounded).backward(), &rounded);
            assert_eq!(gradients.len(), 6, "every parameter has a gradient");
            let length = optimizer.length(&model, &gradients);
            model = optimizer.step(1e-5, model, gradients, length);
        }
        let after = model.first.weight.val();
        assert_eq!(after.dtype(), DType::F32);
        let moved = (after - Tensor::from_data(before, &device)).abs().mean().into_scalar();
        assert!((1e-4..3e-4).contains(&moved), "20 steps of 1e-5, of which bfloat16 would keep none: {moved}");
        assert!(loss(&model).into_scalar() < start);
        assert!(of_step::<A, _>(Precision::F32, &model).is_none());
    }
}
