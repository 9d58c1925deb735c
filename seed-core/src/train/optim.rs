//! AdamW (arXiv 1711.05101) as PyTorch computes it, with its groups of weight decay, and clipping by the norm of all gradients.
//!
//! burn's own AdamW computes `1 - beta^t` in float32, where 1 - 0.999 has four good digits, and knows one decay for all
//! parameters.
//!
//! ```text
//! m <- m + (1 - b1) (g - m)            v <- b2 v + (1 - b2) g^2
//! w <- (1 - rate decay) w - rate / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! ```

use burn::{
    module::{AutodiffModule, ModuleVisitor, Param},
    optim::{GradientsParams, LearningRate, Optimizer as _, SimpleOptimizer, adaptor::OptimizerAdaptor},
    record::Record,
    tensor::{
        DType, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use serde::{Deserialize, Serialize};

use super::run::TrainBackend;

/// How fast the mean of gradients forgets, and that of their squares; both official.
const BETAS: [f64; 2] = [0.9, 0.999];
/// Keeps the step finite; official.
const EPSILON: f64 = 1e-8;

/// Which parameters decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Those of two axes or more: no biases, no norms. Official.
    #[default]
    Matrices,
    /// All.
    All,
}

/// The rule for one parameter.
#[derive(Clone, Debug)]
pub(super) struct AdamW {
    weight_decay: f64,
}

/// What the rule remembers of a parameter.
#[derive(Record, Clone)]
pub(super) struct Moments<B: Backend, const D: usize> {
    steps: usize,
    first: Tensor<B, D>,
    second: Tensor<B, D>,
}

impl<B: Backend> SimpleOptimizer<B> for AdamW {
    type State<const D: usize> = Moments<B, D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        weight: Tensor<B, D>,
        gradient: Tensor<B, D>,
        moments: Option<Moments<B, D>>,
    ) -> (Tensor<B, D>, Option<Moments<B, D>>) {
        let [b1, b2] = BETAS;
        let gradient = gradient.cast(weight.dtype());
        let Moments { steps, first, second } = moments.unwrap_or_else(|| {
            let zeros = weight.zeros_like();
            Moments { steps: 0, first: zeros.clone(), second: zeros }
        });
        let steps = steps + 1;
        let first = first.clone() + (gradient.clone() - first) * (1.0 - b1);
        let second = second * b2 + gradient.powi_scalar(2) * (1.0 - b2);
        let correction = |beta: f64| 1.0 - beta.powi(steps as i32);
        let denominator = second.clone().sqrt() / correction(b2).sqrt() + EPSILON;
        let decayed = if self.weight_decay == 0.0 { weight } else { weight * (1.0 - rate * self.weight_decay) };
        let updated = decayed - first.clone() * (rate / correction(b1)) / denominator;
        (updated, Some(Moments { steps, first, second }))
    }

    fn to_device<const D: usize>(moments: Moments<B, D>, device: &B::Device) -> Moments<B, D> {
        let Moments { steps, first, second } = moments;
        Moments { steps, first: first.to_device(device), second: second.to_device(device) }
    }
}

type Group<A, M> = OptimizerAdaptor<AdamW, M, A>;

/// What an [`Optimizer`] remembers of all parameters.
pub(super) type OptimizerRecord<A, M> =
    (<Group<A, M> as burn::optim::Optimizer<M, A>>::Record, <Group<A, M> as burn::optim::Optimizer<M, A>>::Record);

/// AdamW over a model: parameters that decay, and those that do not.
pub(super) struct Optimizer<A: TrainBackend, M: AutodiffModule<A>> {
    decaying: Group<A, M>,
    plain: Group<A, M>,
    decays: Decay,
    clip_norm: Option<f64>,
}

impl<A: TrainBackend, M: AutodiffModule<A>> Optimizer<A, M> {
    /// With gradients cut to the length `clip_norm`, all taken together, where they are longer.
    pub(super) fn new(weight_decay: f64, decays: Decay, clip_norm: Option<f64>) -> Self {
        let group = |weight_decay| OptimizerAdaptor::from(AdamW { weight_decay });
        Self { decaying: group(weight_decay), plain: group(0.0), decays, clip_norm }
    }

    /// The Euclidean length of all gradients of a model together.
    pub(super) fn length(&self, model: &M, gradients: &GradientsParams) -> f64 {
        struct Squares<'a, B: Backend>(&'a GradientsParams, Vec<Tensor<B, 1>>);
        impl<A: AutodiffBackend> ModuleVisitor<A> for Squares<'_, A::InnerBackend> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
                if let Some(gradient) = self.0.get::<A::InnerBackend, D>(param.id) {
                    self.1.push(gradient.cast(DType::F32).powi_scalar(2).sum());
                }
            }
        }
        let mut squares = Squares::<A::InnerBackend>(gradients, Vec::new());
        model.visit(&mut squares);
        if squares.1.is_empty() {
            return 0.0;
        }
        Tensor::cat(squares.1, 0).into_data().iter::<f64>().sum::<f64>().sqrt()
    }

    /// One step with gradients of that length.
    pub(super) fn step(&mut self, rate: f64, model: M, mut gradients: GradientsParams, length: f64) -> M {
        if let Some(most) = self.clip_norm
            && length > most
        {
            gradients = scaled(&model, gradients, most / (length + 1e-6)); // as torch.nn.utils.clip_grad_norm_
        }
        let plain = self.take_plain(&model, &mut gradients);
        let model = self.decaying.step(rate, model, gradients);
        self.plain.step(rate, model, plain)
    }

    pub(super) fn to_record(&self) -> OptimizerRecord<A, M> {
        (self.decaying.to_record(), self.plain.to_record())
    }

    pub(super) fn load_record(self, (decaying, plain): OptimizerRecord<A, M>) -> Self {
        Self { decaying: self.decaying.load_record(decaying), plain: self.plain.load_record(plain), ..self }
    }

    /// Takes the gradients of what does not decay out of `gradients`.
    fn take_plain(&self, model: &M, gradients: &mut GradientsParams) -> GradientsParams {
        struct Take<'a>(&'a mut GradientsParams, GradientsParams, Vec<String>);
        impl<A: AutodiffBackend> ModuleVisitor<A> for Take<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.2.push(name.to_owned());
            }

            fn exit_module(&mut self, _: &str, _: &str) {
                self.2.pop();
            }

            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
                let bias = self.2.last().is_some_and(|name| name.contains("bias"));
                if (D < 2 || bias)
                    && let Some(gradient) = self.0.remove::<A::InnerBackend, D>(param.id)
                {
                    self.1.register(param.id, gradient);
                }
            }
        }
        if self.decays == Decay::All {
            return GradientsParams::new();
        }
        let mut take = Take(gradients, GradientsParams::new(), Vec::new());
        model.visit(&mut take);
        take.1
    }
}

/// All gradients times `factor`.
fn scaled<A: AutodiffBackend, M: AutodiffModule<A>>(
    model: &M,
    gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    struct Scale(GradientsParams, f64);
    impl<A: AutodiffBackend> ModuleVisitor<A> for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
            if let Some(gradient) = self.0.remove::<A::InnerBackend, D>(param.id) {
                self.0.register(param.id, gradient * self.1);
            }
        }
    }
    let mut scale = Scale(gradients, factor);
    model.visit(&mut scale);
    scale.0
}
