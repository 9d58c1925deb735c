//! A step whose batch is computed in parts: one after the other to save memory, side by side on the cores of the CPU or on
//! several devices, their gradients added.
//!
//! The parts are a matter of the recipe, not of the machine: their number decides the order of the sums, wherever they are
//! computed. A loss that is a mean over images is the mean of the parts' losses. A contrast compares all images of the
//! batch: its parts make their embeddings first, the loss is that of all of them together, and its gradient is taken back
//! through each part (arXiv 2101.06983). Where a part's graph cannot be kept until then, the part is computed twice.

use std::ops::Range;

use burn::{
    module::{AutodiffModule, ModuleVisitor, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Tensor, backend::Backend},
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{
    error::Result,
    nn::{SeedBackend, recomputes, recomputing},
};

use super::{
    plan::Plan,
    run::{Learned, Metrics, Output, TrainBackend, scalar},
};

/// Where parts are computed, one after the other.
struct Lane<A: TrainBackend> {
    device: A::Device,
    /// Its one thread, where lanes share the CPU.
    pool: Option<ThreadPool>,
}

impl<A: TrainBackend> Lane<A> {
    fn work<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// The parts of a plan's batch.
pub(super) struct Parts<A: TrainBackend> {
    lanes: Vec<Lane<A>>,
    ranges: Vec<Range<usize>>,
    batch: usize,
}

/// Embeddings of matching images and captions, both `[batch, dim]`, of unit length.
#[derive(Clone, Debug)]
pub(super) struct Pairs<B: SeedBackend> {
    pub(super) image: Tensor<B, 2>,
    pub(super) text: Tensor<B, 2>,
}

impl<A: TrainBackend> Parts<A> {
    /// On `devices`, the first of which holds the model; a batch has as many parts as there are devices at least. With one
    /// part on the CPU, all threads work on it.
    pub(super) fn new(plan: &Plan, devices: &[A::Device]) -> Self {
        let batch = plan.batch;
        let parts = plan.parts.max(devices.len()).min(batch);
        let side_by_side = A::InnerBackend::PARTS_SIDE_BY_SIDE && parts > 1;
        let threads = if side_by_side { rayon::current_num_threads() } else { 1 };
        let lanes = (0..parts.min(threads.max(devices.len()))).map(|lane| Lane {
            device: devices[lane % devices.len()].clone(),
            pool: side_by_side
                .then(|| ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started")),
        });
        let ranges = (0..parts).map(|part| part * batch / parts..(part + 1) * batch / parts);
        Self { lanes: lanes.collect(), ranges: ranges.collect(), batch }
    }

    /// The device of the model.
    fn main(&self) -> &A::Device {
        &self.lanes[0].device
    }

    /// Calls `work` for every part with a model whose graph is its own, an item, the images' places in the batch and the
    /// device; results in the order of the parts.
    fn each<M, I, T>(
        &self,
        model: &M,
        items: Vec<I>,
        work: impl Fn(M, I, Range<usize>, &A::Device) -> Result<T> + Sync,
    ) -> Result<Vec<T>>
    where
        M: AutodiffModule<A> + Send,
        I: Send,
        T: Send,
    {
        model.visit(&mut Drawn);
        let mut queues: Vec<Vec<(usize, I)>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for (part, item) in items.into_iter().enumerate() {
            queues[part % self.lanes.len()].push((part, item));
        }
        let (work, recomputes) = (&work, recomputes());
        let mut done: Vec<(usize, Result<T>)> = std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(self.lanes.len());
            for (lane, queue) in self.lanes.iter().zip(queues) {
                let model = model.clone();
                threads.push(scope.spawn(move || {
                    let all = move || {
                        let model = model.fork(&lane.device);
                        let mut done = Vec::with_capacity(queue.len());
                        for (part, item) in queue {
                            let own = model.clone().fork(&lane.device); // graphs that share a node wait for each other
                            done.push((part, work(own, item, self.ranges[part].clone(), &lane.device)));
                        }
                        done
                    };
                    lane.work(|| recomputing(recomputes, all))
                }));
            }
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().flat_map(join).collect()
        });
        done.sort_by_key(|(part, _)| *part);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// Calls `step` with the images' places in the batch, part by part; the loss and the metrics that it returns are means over
    /// the part, the result's are means over the batch.
    pub(super) fn learn<M, F>(&self, model: &M, step: F) -> Result<Learned>
    where
        M: AutodiffModule<A> + Send,
        F: Fn(&M, Range<usize>, &A::Device) -> Result<Output<A>> + Sync,
    {
        if self.ranges.len() == 1 {
            return Ok(step(model, 0..self.batch, self.main())?.backward(model));
        }
        let parts = self.each(model, vec![(); self.ranges.len()], |model, (), range, device| {
            let share = range.len() as f64 / self.batch as f64;
            let mut output = step(&model, range, device)?;
            output.loss = output.loss * share;
            output.metrics.iter_mut().for_each(|(_, value)| *value *= share);
            Ok(output.backward(&model))
        })?;
        let mut sum: Option<(f64, Metrics)> = None;
        let mut gradients = Vec::new();
        for Learned { loss, metrics, gradients: of_part } in parts {
            gradients.push(of_part);
            sum = Some(match sum {
                None => (loss, metrics),
                Some((so_far, added)) => {
                    let added = added.into_iter().zip(metrics).map(|((name, a), (_, b))| (name, a + b));
                    (so_far + loss, added.collect())
                }
            });
        }
        let (loss, metrics) = sum.expect("there is at least one part");
        Ok(Learned { loss, metrics, gradients: self.sum(model, gradients) })
    }

    /// As [`learn`](Self::learn), from a contrast: `pairs` makes the embeddings of a part, `loss` compares those of the batch.
    pub(super) fn contrast<M, P, L>(&self, model: &M, pairs: P, loss: L) -> Result<Learned>
    where
        M: AutodiffModule<A> + Send,
        P: Fn(&M, Range<usize>, &A::Device) -> Result<Pairs<A>> + Sync,
        L: FnOnce(&M, Pairs<A>) -> Output<A>,
    {
        if self.ranges.len() == 1 {
            return Ok(loss(model, pairs(model, 0..self.batch, self.main())?).backward(model));
        }
        let keeps = self.ranges.len() <= self.lanes.len();
        let made = self.each(model, vec![(); self.ranges.len()], |model, (), range, device| {
            let pairs = pairs(&model, range, device)?;
            let embeddings = [&pairs.image, &pairs.text].map(|x| x.clone().inner());
            Ok((embeddings, keeps.then_some((model, pairs))))
        })?;
        let (embeddings, kept): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let whole = |side: usize| {
            let parts = embeddings.iter().map(|part| part[side].clone().to_device(self.main())).collect();
            Tensor::<A, 2>::from_inner(Tensor::cat(parts, 0)).require_grad() // [batch, dim]
        };
        let (image, text) = (whole(0), whole(1));
        let Output { loss, metrics } = loss(model, Pairs { image: image.clone(), text: text.clone() });
        let value = scalar(loss.clone());
        let graph = loss.backward();
        let [to_image, to_text] = [image, text].map(|x| x.grad(&graph).unwrap_or_else(|| x.inner().zeros_like()));
        let own = GradientsParams::from_grads(graph, model);
        let parts = self.each(model, kept, |model, kept, range, device| {
            let (model, pairs) = match kept {
                Some(kept) => kept,
                None => {
                    let pairs = pairs(&model, range.clone(), device)?;
                    (model, pairs)
                }
            };
            let back = |made: Tensor<A, 2>, gradient: &Tensor<A::InnerBackend, 2>| {
                let gradient = gradient.clone().narrow(0, range.start, range.len()).to_device(device);
                (made * Tensor::from_inner(gradient)).sum()
            };
            let through = back(pairs.image, &to_image) + back(pairs.text, &to_text);
            Ok(GradientsParams::from_grads(through.backward(), &model))
        })?;
        let gradients = std::iter::once(own).chain(parts).collect();
        Ok(Learned { loss: value, metrics, gradients: self.sum(model, gradients) })
    }

    /// The sum of gradients of models on any of the devices, on the model's.
    fn sum<M: AutodiffModule<A>>(&self, model: &M, gradients: Vec<GradientsParams>) -> GradientsParams {
        let mut sum = GradientsAccumulator::new();
        for gradients in gradients {
            sum.accumulate(model, gradients.to_device::<A, M>(self.main(), model));
        }
        sum.grads()
    }
}

/// Draws initial values that nobody has asked for yet: copies of the model would each draw their own.
struct Drawn;

impl<B: Backend> ModuleVisitor<B> for Drawn {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        param.val();
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        backend::Autodiff,
        module::Module as _,
        nn::{Linear, LinearConfig},
        tensor::{Distribution, Tolerance},
    };
    use burn_flex::Flex;

    use super::*;
    use crate::{
        contrast::unit,
        train::objective::{contrast, squared_error},
    };

    type A = Autodiff<Flex>;

    fn plan(parts: usize) -> Plan {
        let text = "steps = 1\nbatch = 7\nlearning_rate = 1e-3\nwarmup = 0\nweight_decay = 0\ncheckpoint_every = 1";
        Plan { parts, ..toml::from_str(text).unwrap() }
    }

    #[test]
    fn parts_learn_what_the_whole_batch_does() {
        let device = Default::default();
        let model: Linear<A> = LinearConfig::new(5, 3).init(&device);
        let inputs = Tensor::<A, 2>::random([7, 5], Distribution::Default, &device);
        let learn = |parts: usize| {
            let step = |model: &Linear<A>, part: Range<usize>, _: &_| {
                let count = part.len() as f64;
                let outputs = model.forward(inputs.clone().slice(part));
                let zeros = outputs.zeros_like();
                Ok(Output { loss: squared_error(outputs, zeros), metrics: vec![("images", count)] })
            };
            Parts::new(&plan(parts), &[device]).learn(&model, step).unwrap()
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
    fn parts_are_computed_again_for_their_gradients_where_the_batch_would_be() {
        let device = Default::default();
        let model: Linear<A> = LinearConfig::new(5, 3).init(&device);
        for on in [true, false] {
            let step = |model: &Linear<A>, part: Range<usize>, _: &_| {
                assert_eq!(recomputes(), on);
                let outputs = model.forward(Tensor::<A, 2>::ones([part.len(), 5], &device));
                Ok(Output { loss: outputs.mean(), metrics: Vec::new() })
            };
            for parts in [1, 2, 7] {
                recomputing(on, || Parts::new(&plan(parts), &[device]).learn(&model, step)).unwrap();
            }
        }
    }

    #[test]
    fn parts_leave_what_is_fixed_alone() {
        let device = Default::default();
        let model: Linear<A> = LinearConfig::new(5, 3).init(&device);
        let model = Linear { weight: model.weight.no_grad(), bias: model.bias };
        let step = |model: &Linear<A>, part: Range<usize>, _: &_| {
            let outputs = model.forward(Tensor::<A, 2>::ones([part.len(), 5], &device));
            Ok(Output { loss: outputs.mean(), metrics: Vec::new() })
        };
        let learned = Parts::new(&plan(2), &[device]).learn(&model, step).unwrap();
        assert!(learned.gradients.get::<Flex, 2>(model.weight.id).is_none());
        assert!(learned.gradients.get::<Flex, 1>(model.bias.unwrap().id).is_some());
    }

    /// Two towers of one layer, and a scale.
    #[derive(burn::module::Module, Debug)]
    struct Towers<B: Backend> {
        image: Linear<B>,
        text: Linear<B>,
        scale: Param<Tensor<B, 1>>,
    }

    /// The contrast of a batch in parts, on one device and on several, has the gradients of the whole: of the towers, through
    /// every embedding, and of what the loss itself learns.
    #[test]
    fn contrast_in_parts_is_that_of_the_whole_batch() {
        /// A batch in other parts is summed in another order.
        const ROUNDING: f32 = 1e-6;
        let device = Default::default();
        let linear = || LinearConfig::new(5, 3).init(&device);
        let model =
            Towers::<A> { image: linear(), text: linear(), scale: Param::from_tensor(Tensor::ones([1], &device)) };
        let random = || Tensor::<A, 2>::random([7, 5], Distribution::Default, &device);
        let (images, texts) = (random(), random());
        let learn = |parts: usize, devices: usize| {
            let pairs = |model: &Towers<A>, part: Range<usize>, _: &_| {
                let image = model.image.forward(images.clone().slice(part.clone()));
                Ok(Pairs { image: unit(image), text: unit(model.text.forward(texts.clone().slice(part))) })
            };
            let loss = |model: &Towers<A>, pairs: Pairs<A>| {
                let (loss, accuracy) = contrast(pairs.image, pairs.text, model.scale.val(), 0.1);
                Output { loss, metrics: vec![("accuracy", accuracy)] }
            };
            Parts::new(&plan(parts), &vec![device; devices]).contrast(&model, pairs, loss).unwrap()
        };
        let gradients = |learned: &Learned| {
            let weight = |layer: &Linear<A>| learned.gradients.get::<Flex, 2>(layer.weight.id).unwrap().into_data();
            let scale = learned.gradients.get::<Flex, 1>(model.scale.id).unwrap().into_data();
            [weight(&model.image), weight(&model.text), scale]
        };
        let whole = learn(1, 1);
        for (parts, devices) in [(2, 1), (3, 1), (7, 1), (1, 2), (1, 3), (5, 2)] {
            let learned = learn(parts, devices);
            assert!((learned.loss - whole.loss).abs() < 1e-6, "{parts} parts: {} and {}", learned.loss, whole.loss);
            assert_eq!(learned.metrics, whole.metrics);
            for (got, want) in gradients(&learned).iter().zip(&gradients(&whole)) {
                got.assert_approx_eq::<f32>(want, Tolerance::absolute(ROUNDING));
            }
        }
    }

    /// What is learned depends on the number of parts alone, to the bit, not on how many are computed at a time.
    #[test]
    fn several_devices_learn_what_one_does() {
        let device = Default::default();
        let model: Linear<A> = LinearConfig::new(5, 3).init(&device);
        let inputs = Tensor::<A, 2>::random([7, 5], Distribution::Default, &device);
        let learn = |devices: usize| {
            let step = |model: &Linear<A>, part: Range<usize>, _: &_| {
                let loss = model.forward(inputs.clone().slice(part)).powi_scalar(2).mean();
                Ok(Output { loss, metrics: Vec::new() })
            };
            let learned = Parts::new(&plan(3), &vec![device; devices]).learn(&model, step).unwrap();
            (learned.loss, learned.gradients.get::<Flex, 2>(model.weight.id).unwrap().into_data())
        };
        let one = learn(1);
        assert_eq!(learn(2), one);
        assert_eq!(learn(3), one);
    }
}
