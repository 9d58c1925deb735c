//! The table `[codebook]` of a recipe: what stage 2 learns by.

use serde::{Deserialize, Serialize};

/// What stage 2 learns by: the losses of the codebook and the detokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coding {
    /// Weight of the quantisation. Official: 5.
    #[serde(default = "five")]
    pub quantize: f64,
    /// Weight of the rebuilt causal embeddings. Official: 2.
    #[serde(default = "two")]
    pub semantic: f64,
    /// Weight of the generation embedding. Official: 0.5.
    #[serde(default = "half")]
    pub generation: f64,
    /// Factor of the smaller term of the quantisation. Official: 0.25.
    #[serde(default = "quarter")]
    pub beta: f64,
    /// Whether `beta` is on the term that moves the rows towards the latents, rather than on the one that moves the latents
    /// towards the rows, as van den Oord et al. have it. Official: true.
    #[serde(default = "yes")]
    pub legacy_beta: bool,
    /// Where the rows begin. Official: "uniform", in +-1 / codes.
    #[serde(default)]
    pub init: Rows,
    /// Steps between two restarts of rows that nobody chooses, at latents of held-in images. 0 for none. Official: 0.
    #[serde(default)]
    pub restart_every: usize,
    /// Images whose latents decide which rows are chosen, and that rows begin at.
    #[serde(default = "images")]
    pub restart_images: usize,
    /// The step after which rows are left alone to settle, as a share of all steps.
    #[serde(default = "most")]
    pub restart_until: f64,
    /// How slowly rows follow the mean of their latents, instead of learning by their gradient (0.99 is common). Left out, they
    /// learn. Official: left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_decay: Option<f64>,
    /// Whether latents and rows are compared on the unit sphere (arXiv 2110.04627). Official: false.
    #[serde(default)]
    pub unit_length: bool,
    /// Whether the Q-Former goes on learning; what the semantic branch rebuilds stays what stage 1 made. Official: false.
    #[serde(default)]
    pub train_qformer: bool,
}

/// Where the rows of a codebook begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// Drawn uniformly in +-1 / codes.
    #[default]
    Uniform,
    /// At latents of images.
    Latents,
}

fn five() -> f64 {
    5.0
}

fn two() -> f64 {
    2.0
}

fn half() -> f64 {
    0.5
}

fn quarter() -> f64 {
    0.25
}

fn yes() -> bool {
    true
}

fn images() -> usize {
    256
}

fn most() -> f64 {
    0.8
}

impl Coding {
    /// What makes the values impossible, in words.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        let weights = [
            ("quantize", self.quantize),
            ("semantic", self.semantic),
            ("generation", self.generation),
            ("beta", self.beta),
        ];
        if let Some((name, weight)) = weights.into_iter().find(|(_, weight)| !weight.is_finite() || *weight < 0.0) {
            return Err(format!("codebook.{name} = {weight} must not be below 0"));
        }
        if !(0.0..=1.0).contains(&self.restart_until) || self.restart_images == 0 {
            return Err("codebook.restart_until must lie between 0 and 1, and restart_images not be 0".to_owned());
        }
        if let Some(decay) = self.mean_decay
            && !(decay > 0.0 && decay < 1.0)
        {
            return Err(format!("codebook.mean_decay = {decay} must lie between 0 and 1"));
        }
        if self.mean_decay.is_some() && self.unit_length {
            return Err(
                "codebook.mean_decay and unit_length exclude each other: means of points of the unit sphere lie \
                        within it"
                    .to_owned(),
            );
        }
        if self.mean_decay.is_some() && self.restart_every > 0 {
            return Err(
                "codebook.mean_decay and restart_every exclude each other: a row that restarts would go back to \
                        its mean"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_out_is_official() {
        let official: Coding = toml::from_str("").unwrap();
        assert_eq!(official.check(), Ok(()));
        assert_eq!([official.quantize, official.semantic, official.generation, official.beta], [5.0, 2.0, 0.5, 0.25]);
        assert!(official.legacy_beta && !official.unit_length && !official.train_qformer);
        assert_eq!((official.init, official.restart_every, official.mean_decay), (Rows::Uniform, 0, None));
    }

    #[test]
    fn impossible_values_are_named() {
        for (text, word) in [
            ("quantize = -1.0", "quantize"),
            ("beta = nan", "beta"),
            ("restart_until = 1.5", "restart_until"),
            ("restart_images = 0", "restart_images"),
            ("mean_decay = 1.0", "mean_decay"),
            ("mean_decay = 0.9\nunit_length = true", "unit_length"),
            ("mean_decay = 0.9\nrestart_every = 10", "restart_every"),
        ] {
            let options: Coding = toml::from_str(text).unwrap();
            assert!(options.check().unwrap_err().contains(word), "{text}");
        }
        assert!(toml::from_str::<Coding>("restart = 3").is_err());
    }
}
