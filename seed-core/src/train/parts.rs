//! A step whose batch is computed in parts side by side, each on one thread, their gradients added.
//!
//! The parts are a matter of the recipe, not of the machine: their number decides the order of the sums.

use std::ops::Range;

use burn::{
    module::{AutodiffModule, Module, ModuleMapper, Param},
    optim::GradientsAccumulator,
    tensor::{Tensor, backend::Backend},
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Result;

use super::run::{Learned, Output, Plan, TrainBackend};

/// One pool of one thread a part.
pub(super) struct Parts {
    pools: Vec<ThreadPool>,
    ranges: Vec<Range<usize>>,
    batch: usize,
}

impl Parts {
    /// The parts of a plan's batch; with one part, all threads work on it.
    pub(super) fn new(plan: &Plan) -> Self {
        let (parts, batch) = (plan.parts, plan.batch);
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
        let pools = if parts > 1 { (0..parts).map(pool).collect() } else { Vec::new() };
        Self { pools, ranges: (0..parts).map(|part| part * batch / parts..(part + 1) * batch / parts).collect(), batch }
    }

    /// Calls `step` with the images' places in the batch, part by part; the loss and the metrics that it returns are means over
    /// the part, the result's are means over the batch.
    pub(super) fn learn<A, M, F>(&self, model: &M, step: F) -> Result<Learned>
    where
        A: TrainBackend,
        M: AutodiffModule<A> + Send,
        F: Fn(&M, Range<usize>) -> Result<Output<A>> + Sync,
    {
        if self.pools.is_empty() {
            return Ok(step(model, 0..self.batch)?.backward(model));
        }
        let part = |model: M, range: Range<usize>| {
            let share = range.len() as f64 / self.batch as f64;
            let mut output = step(&model, range)?;
            output.loss = output.loss * share;
            output.metrics.iter_mut().for_each(|(_, value)| *value *= share);
            Ok(output.backward(&model))
        };
        let parts: Vec<Result<Learned>> = std::thread::scope(|scope| {
            let (part, started) = (&part, self.pools.iter().zip(&self.ranges));
            let threads: Vec<_> = started
                .map(|(pool, range)| {
                    let (model, range) = (apart(model), range.clone());
                    scope.spawn(move || pool.install(|| part(model, range)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
        });
        let mut sum = GradientsAccumulator::new();
        let mut learned: Option<(f64, Vec<(&'static str, f64)>)> = None;
        for part in parts {
            let part = part?;
            sum.accumulate(model, part.gradients);
            learned = Some(match learned {
                None => (part.loss, part.metrics),
                Some((loss, metrics)) => {
                    let added = metrics.into_iter().zip(part.metrics).map(|((name, a), (_, b))| (name, a + b));
                    (loss + part.loss, added.collect())
                }
            });
        }
        let (loss, metrics) = learned.expect("there is at least one part");
        Ok(Learned { loss, metrics, gradients: sum.grads() })
    }
}

/// The same weights under the same names in a graph of their own: graphs that share a node wait for each other.
fn apart<A: TrainBackend, M: Module<A>>(model: &M) -> M {
    struct Apart;
    impl<B: Backend> ModuleMapper<B> for Apart {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let (id, value) = (param.id, param.val());
            let learns = value.is_require_grad();
            Param::initialized(id, value.detach().set_require_grad(learns))
        }
    }
    model.clone().map(&mut Apart)
}

#[cfg(test)]
mod tests {
    use burn::{
        backend::Autodiff,
        nn::{Linear, LinearConfig},
        tensor::{Distribution, Tolerance},
    };
    use burn_flex::Flex;

    use super::*;
    use crate::train::objective::squared_error;

    type A = Autodiff<Flex>;

    fn plan(parts: usize) -> Plan {
        let (steps, warmup, checkpoint_every) = (1, 0, 1);
        Plan { steps, batch: 7, learning_rate: 1e-3, warmup, weight_decay: 0.0, checkpoint_every, parts }
    }

    #[test]
    fn parts_learn_what_the_whole_batch_does() {
        let device = Default::default();
        let model: Linear<A> = LinearConfig::new(5, 3).init(&device);
        let inputs = Tensor::<A, 2>::random([7, 5], Distribution::Default, &device);
        let learn = |parts: usize| {
            let step = |model: &Linear<A>, part: Range<usize>| {
                let count = part.len() as f64;
                let outputs = model.forward(inputs.clone().slice(part));
                let zeros = outputs.zeros_like();
                Ok(Output { loss: squared_error(outputs, zeros), metrics: vec![("images", count)] })
            };
            Parts::new(&plan(parts)).learn(&model, step).unwrap()
        };
        let mut whole = learn(1);
        let expected = whole.gradients.remove::<Flex, 2>(model.weight.id).unwrap().into_data();
        for parts in [2, 3, 7] {
            let mut learned = learn(parts);
            assert!((learned.loss - whole.loss).abs() < 1e-6, "{parts} parts: {} and {}", learned.loss, whole.loss);
            let gradient = learned.gradients.remove::<Flex, 2>(model.weight.id).unwrap().into_data();
            gradient.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        }
        let [("images", mean)] = learn(2).metrics[..] else { panic!("one metric") };
        assert!((mean - (3.0 * 3.0 + 4.0 * 4.0) / 7.0).abs() < 1e-12, "parts of 3 and 4 images: {mean}");
    }

    #[test]
    fn parts_leave_what_is_fixed_alone() {
        let device = Default::default();
        let model: Linear<A> = LinearConfig::new(5, 3).init(&device);
        let model = Linear { weight: model.weight.no_grad(), bias: model.bias };
        let step = |model: &Linear<A>, part: Range<usize>| {
            let outputs = model.forward(Tensor::<A, 2>::ones([part.len(), 5], &device));
            Ok(Output { loss: outputs.mean(), metrics: Vec::new() })
        };
        let learned = Parts::new(&plan(2)).learn(&model, step).unwrap();
        assert!(learned.gradients.get::<Flex, 2>(model.weight.id).is_none());
        assert!(learned.gradients.get::<Flex, 1>(model.bias.unwrap().id).is_some());
    }
}
