//! How long and how fast a stage learns: the plan of a stage, as a recipe holds it.
//!
//! Official values are those of AILab-CVC/SEED, `lavis/projects/blip2/train/pretrain_qformer.yaml` (stage 1) and
//! `pretrain_codebook.yaml` (stage 2). Differences from it: mixed precision is bfloat16, which needs no scaling of the loss,
//! where the reference uses float16.

use serde::{Deserialize, Serialize};

use super::optim::Decay;

/// How long and how fast one stage learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Optimizer steps. Official: 50,000 in stage 1 (10 epochs of 5000), up to 2,500,000 in stage 2 (500 epochs).
    pub steps: usize,
    /// Images a step, over all parts and devices. Official: 64 a device in stage 1, 256 in stage 2.
    pub batch: usize,
    /// Peak learning rate. Official: 3e-5 in stage 1, 1e-4 in stage 2.
    pub learning_rate: f64,
    /// Steps of linear warm-up. Official: 2000.
    pub warmup: usize,
    /// Learning rate of the first step of the warm-up. Left out, the warm-up's steps take equal shares of the peak. Official:
    /// 3e-7 in stage 1, 1e-6 in stage 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_rate: Option<f64>,
    /// Learning rate that the cosine leads to. Left out, a hundredth of the peak. Official: 3e-6 in stage 1, 1e-5 in stage 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rate: Option<f64>,
    /// How the learning rate falls after the warm-up. Official: "epoch".
    #[serde(default)]
    pub schedule: Schedule,
    /// Steps of an epoch, for the schedule "epoch". Official: 5000, whatever the data.
    #[serde(default = "epoch")]
    pub epoch: usize,
    /// AdamW's decoupled weight decay. Official: 0.05.
    pub weight_decay: f32,
    /// What decays. Official: "matrices", everything of two axes or more.
    #[serde(default)]
    pub decay: Decay,
    /// The length that all gradients together are cut to where they are longer. Left out, they are not. Official: left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Element type of the layers' weights while a step is computed; those that learn stay float32. Official: float16 with
    /// scaling of the loss.
    #[serde(default)]
    pub precision: Precision,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Steps between validations on held-out images. Left out or 0, there is none. Official: none.
    #[serde(default)]
    pub validate_every: usize,
    /// Images of a validation.
    #[serde(default = "validation")]
    pub validation: usize,
    /// What of a stage goes on: "last", the weights of the last step, or "best", those of the lowest loss on held-out images.
    /// Official: "last".
    #[serde(default)]
    pub keep: Keep,
    /// Whether what a step computes is kept for its gradients, or computed again when they ask for it: about half the memory
    /// for a tenth to a fifth more time, and the same results to the bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Parts of a batch, computed one after the other on every device, or side by side where a part is a thread; what
    /// is learned is that of the whole batch. Memory falls with their number. Official: 1.
    #[serde(default = "one")]
    pub parts: usize,
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// A cosine from the end of the warm-up to the last step.
    #[default]
    Step,
    /// As the official training: the peak until the end of the first epoch, then a cosine that is taken at the beginning of each
    /// epoch, from the first epoch's beginning on.
    Epoch,
}

/// What of a stage goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The weights of the last step.
    #[default]
    Last,
    /// The weights of the lowest loss on held-out images.
    Best,
}

/// Element type of the layers' weights while a step is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// bfloat16; activations between the layers, losses and everything that learns are float32.
    BF16,
}

fn one() -> usize {
    1
}

fn epoch() -> usize {
    5000
}

fn validation() -> usize {
    256
}

impl Plan {
    /// The learning rate at `step`, from 0.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let peak = self.learning_rate;
        let last = self.last_rate.unwrap_or(peak * 0.01);
        let warm = |step: usize| match self.first_rate {
            Some(first) => first + (peak - first) * step as f64 / self.warmup as f64,
            None => peak * (step + 1) as f64 / self.warmup as f64,
        };
        let cosine = |progress: f64| last + (peak - last) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        match self.schedule {
            Schedule::Step if step < self.warmup => warm(step),
            Schedule::Step => {
                cosine((step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64)
            }
            Schedule::Epoch => {
                let epoch = step / self.epoch;
                match epoch {
                    0 if step < self.warmup => warm(step),
                    0 => peak,
                    _ => cosine(epoch as f64 / self.steps.div_ceil(self.epoch) as f64),
                }
            }
        }
    }

    /// What makes the plan impossible, in words.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        if self.batch == 0 || self.warmup > self.steps || !(self.learning_rate > 0.0 && self.learning_rate < 1.0) {
            return Err(
                "batch must not be 0, warmup not exceed steps, and learning_rate lie between 0 and 1".to_owned()
            );
        }
        if self.parts == 0 || self.parts > self.batch {
            return Err(format!("parts = {} must lie between 1 and the batch, {}", self.parts, self.batch));
        }
        let rates = [("first_rate", self.first_rate), ("last_rate", self.last_rate)];
        for (name, rate) in rates.into_iter().filter_map(|(name, rate)| Some((name, rate?))) {
            if !(0.0..=self.learning_rate).contains(&rate) {
                return Err(format!("{name} = {rate} must lie between 0 and learning_rate = {}", self.learning_rate));
            }
        }
        if self.schedule == Schedule::Epoch && (self.epoch == 0 || self.warmup > self.epoch) {
            let (epoch, warmup) = (self.epoch, self.warmup);
            return Err(format!(
                "epoch = {epoch} must hold the warm-up of {warmup} steps, which the first epoch ends with this schedule"
            ));
        }
        if self.clip_norm.is_some_and(|most| most.is_nan() || most <= 0.0) {
            return Err("clip_norm must be above 0; leave it out for no clipping".to_owned());
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(format!("weight_decay = {} must not be below 0", self.weight_decay));
        }
        if self.keep == Keep::Best && self.validate_every == 0 {
            return Err("keep = \"best\" needs validations: set validate_every".to_owned());
        }
        if self.validate_every > 0 && self.validation == 0 {
            return Err("validation = 0 images, where validate_every asks for validations".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The official plan of stage 1, with epochs of ten steps.
    fn official() -> Plan {
        let text = "steps = 100\nbatch = 64\nlearning_rate = 3e-5\nwarmup = 5\nfirst_rate = 3e-7\nlast_rate = 3e-6\n\
                    schedule = \"epoch\"\nepoch = 10\nweight_decay = 0.05\ncheckpoint_every = 10";
        toml::from_str(text).unwrap()
    }

    fn close(got: f64, want: f64) {
        assert!((got / want - 1.0).abs() < 1e-12, "{got} for {want}");
    }

    /// Values of LAVIS' `LinearWarmupCosineLRScheduler`.
    #[test]
    fn epochs_have_the_official_rates() {
        let plan = official();
        for (step, rate) in [
            (0, 3e-7),
            (2, 3e-7 + (3e-5 - 3e-7) * 0.4),
            (5, 3e-5),
            (9, 3e-5),
            (10, 2.9339262969984572e-5),
            (19, 2.9339262969984572e-5),
            (50, 1.65e-5),
            (99, 3.6607370300154272e-6),
        ] {
            close(plan.learning_rate_at(step), rate);
        }
    }

    #[test]
    fn steps_fall_from_the_warm_up_to_the_last_rate() {
        let plan = Plan { schedule: Schedule::Step, ..official() };
        close(plan.learning_rate_at(5), 3e-5);
        close(plan.learning_rate_at(100), 3e-6);
        let rates: Vec<f64> = (5..=100).map(|step| plan.learning_rate_at(step)).collect();
        assert!(rates.is_sorted_by(|a, b| a > b), "{rates:?}");
        let plain = Plan { first_rate: None, last_rate: None, ..plan };
        close(plain.learning_rate_at(0), 3e-5 / 5.0);
        close(plain.learning_rate_at(4), 3e-5);
        close(plain.learning_rate_at(100), 3e-7);
    }

    #[test]
    fn impossible_plans_are_named() {
        let official = official();
        assert_eq!(official.check(), Ok(()));
        for (plan, word) in [
            (Plan { batch: 0, ..official.clone() }, "batch"),
            (Plan { warmup: 101, ..official.clone() }, "warmup"),
            (Plan { learning_rate: f64::NAN, ..official.clone() }, "learning_rate"),
            (Plan { parts: 65, ..official.clone() }, "parts"),
            (Plan { first_rate: Some(1.0), ..official.clone() }, "first_rate"),
            (Plan { last_rate: Some(-1.0), ..official.clone() }, "last_rate"),
            (Plan { epoch: 4, ..official.clone() }, "epoch"),
            (Plan { clip_norm: Some(0.0), ..official.clone() }, "clip_norm"),
            (Plan { weight_decay: f32::NAN, ..official.clone() }, "weight_decay"),
            (Plan { keep: Keep::Best, ..official.clone() }, "validate_every"),
            (Plan { validate_every: 1, validation: 0, ..official.clone() }, "validation"),
        ] {
            assert!(plan.check().unwrap_err().contains(word), "{word}");
        }
    }
}
