//! Parity of the samplers with diffusers 0.35.2 on whole runs: `tests/golden/schedulers`.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use burn_flex::Flex;
use serde_json::{Map, Value, json};

use super::config;
use super::sampler::{Prediction, Sampler, SamplerConfig, SchedulerName};
use super::schedule::{NoiseSchedule, NoiseScheduleConfig};
use super::spacing::TimestepSpacing;
use crate::checkpoint::{Files, Weights};
use crate::error::{Error, Result};

/// Latents, as a share of the largest number that the run has met: float32 rounding, over 20 steps or 61. Coefficients
/// are made differently on both sides, and PyTorch's betas depend in the last bit on the width of the CPU's vectors.
const RUN: f32 = 4e-6;

/// Timesteps between whole ones: a logarithm in float32, over differences of a hundredth.
const FRACTION: f32 = 1e-4;

struct Golden {
    files: Files,
    tensors: Weights,
}

impl Golden {
    fn open() -> Self {
        let files = Files::folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/schedulers"));
        let tensors = files.weights("cases.safetensors").unwrap();
        Self { files, tensors }
    }

    fn floats<const D: usize>(&self, key: &str) -> Tensor<Flex, D> {
        let shape = self.tensors.get(key).unwrap_or_else(|| panic!("no {key}")).shape.to_vec();
        Tensor::from_data(TensorData::new(self.tensors.floats(key).unwrap(), shape), &Default::default())
    }
}

/// Reads a configuration as a decoder's folder does.
fn read(config: &Value) -> Result<SamplerConfig> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("scheduler_config.json"), config.to_string()).unwrap();
    config::sampler(&Files::folder(folder.path()), "scheduler_config.json")
}

/// The sampler of a case, with its `override` applied as a caller's.
fn sampler(config: &Value) -> Sampler {
    let mut config = config.clone();
    let chosen = config.as_object_mut().unwrap().remove("override");
    let sampler = Sampler::new(&read(&config).unwrap());
    match chosen {
        Some(class) => sampler.with_scheduler(serde_json::from_value(class).unwrap()).unwrap(),
        None => sampler,
    }
}

fn largest(x: Tensor<Flex, 4>) -> f32 {
    x.abs().max().into_scalar()
}

/// The largest number within a step of PNDM: it takes the noise off a sample that is scaled up to its signal's size.
fn inner(sampler: &Sampler, sample: &Tensor<Flex, 4>, timestep: f32) -> f32 {
    let config = sampler.config();
    match config.scheduler {
        SchedulerName::Pndm => {
            largest(sample.clone()) / NoiseSchedule::new(&config.noise).alpha_bar(timestep as usize).sqrt()
        }
        _ => 0.0,
    }
}

/// The network of `make.py`.
fn network(sample: Tensor<Flex, 4>, timestep: f32) -> Tensor<Flex, 4> {
    sample.clone() * 0.7 + (sample * 3.0 + timestep / 100.0).sin() * 0.1
}

#[test]
fn runs() {
    let golden = Golden::open();
    let cases: Vec<Map<String, Value>> = golden.files.json("cases.json").unwrap();
    assert!(cases.len() > 100);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let timesteps = golden.tensors.floats(&format!("{name}.timesteps")).unwrap();
        let sigmas = golden.tensors.floats(&format!("{name}.sigma")).unwrap();
        let expected: Tensor<Flex, 5> = golden.floats(&format!("{name}.latents"));
        let sampler = sampler(&case["config"]);
        let mut call = 0;
        for (steps, sigma) in case["steps"].as_array().unwrap().iter().zip(sigmas) {
            let steps = steps.as_u64().unwrap() as usize;
            let mut run = sampler.run(steps).unwrap();
            let found = run.init_noise_sigma() as f32;
            assert!((found - sigma).abs() <= RUN * sigma, "{name}, {steps} steps: sigma {found} is not {sigma}");
            let mut latents = golden.floats::<4>("latents") * sigma;
            let mut met = largest(latents.clone());
            for timestep in run.timesteps() {
                let place = format!("{name}, {steps} steps, timestep {timestep}");
                let difference = (timestep - timesteps[call]).abs();
                let allowed = if timesteps[call].fract() == 0.0 { 0.0 } else { FRACTION };
                assert!(difference <= allowed, "{place}: it is not {}", timesteps[call]);

                let output = network(run.scale_model_input(latents.clone()), timesteps[call]);
                let inner = inner(&sampler, &latents, timestep);
                latents = run.step(output, latents);
                let expected = expected.clone().narrow(0, call, 1).squeeze_dim::<4>(0);
                met = met.max(largest(expected.clone())).max(inner);
                let difference = largest(latents.clone() - expected) / met;
                assert!(difference <= RUN, "{place}: differs by {difference:e} of {met:e}");
                call += 1;
            }
        }
        assert_eq!(call, timesteps.len(), "{name}");
    }
}

/// A network that predicts the truth leads back to the signal, whatever the sampler, the spacing and the number of steps.
/// Steps of PNDM and DDIM meet each other with leading spacing only.
#[test]
fn the_truth_leads_back() {
    /// Products of up to 100 float32 factors near 1, and what a sigma of 0.03 is worth.
    const ROUNDING: f32 = 3e-4;
    let device = Default::default();
    let tensor = |value: f32| Tensor::<Flex, 4>::full([1, 1, 1, 1], value, &device);
    let (signal, noise) = (tensor(0.7), tensor(-1.3));
    let schedule = NoiseSchedule::new(&NoiseScheduleConfig::stable_diffusion());
    for scheduler in SchedulerName::ALL {
        let spacings = match scheduler {
            SchedulerName::Pndm | SchedulerName::Ddim => &[TimestepSpacing::Leading][..],
            _ => &[TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace],
        };
        for &spacing in spacings {
            for steps in [2, 3, 10, 100] {
                let config = SamplerConfig {
                    timestep_spacing: Some(spacing),
                    set_alpha_to_one: Some(true),
                    ..SamplerConfig::stable_diffusion(Prediction::Epsilon).with_scheduler(scheduler)
                };
                let sampler = Sampler::new(&config);
                let mut run = sampler.run(steps).unwrap();
                let timesteps = run.timesteps();
                let first = schedule.alpha_bar(timesteps[0] as usize);
                let mut x = signal.clone() * first.sqrt() + noise.clone() * (1.0 - first).sqrt();
                if scheduler == SchedulerName::Euler {
                    x = x / first.sqrt();
                }
                for _ in timesteps {
                    x = run.step(noise.clone(), x);
                }
                let found = x.into_scalar();
                assert!((found - 0.7).abs() < ROUNDING, "{scheduler}, {spacing:?}, {steps} steps: {found}");
            }
        }
    }
}

#[test]
fn files_of_diffusers_are_read() {
    let text = r#"{
        "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.35.2", "algorithm_type": "dpmsolver++",
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "dynamic_thresholding_ratio": 0.995,
        "euler_at_final": false, "final_sigmas_type": "sigma_min", "flow_shift": 1.0, "lambda_min_clipped": -Infinity,
        "lower_order_final": true, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "solver_order": 2, "solver_type": "heun",
        "steps_offset": 1, "thresholding": false, "time_shift_type": "exponential", "timestep_spacing": "trailing",
        "trained_betas": null, "use_beta_sigmas": false, "use_dynamic_shifting": false,
        "use_exponential_sigmas": false, "use_flow_sigmas": false, "use_karras_sigmas": true, "use_lu_lambdas": false,
        "variance_type": null
    }"#;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("scheduler_config.json"), text).unwrap();
    let config = config::sampler(&Files::folder(folder.path()), "scheduler_config.json").unwrap();
    assert_eq!(config.noise, NoiseScheduleConfig::stable_diffusion());
    assert_eq!((config.scheduler, config.prediction_type), (SchedulerName::DpmSolver, Prediction::VPrediction));
    assert_eq!((config.use_karras_sigmas, config.timestep_spacing), (Some(true), Some(TimestepSpacing::Trailing)));
    // What is written is read back, and what the file did not say is not written.
    let written = serde_json::to_value(config).unwrap();
    assert_eq!(read(&written).unwrap(), config);
    assert!(written.get("set_alpha_to_one").is_none(), "{written}");
    let pndm = SamplerConfig::stable_diffusion(Prediction::VPrediction);
    let written = serde_json::to_value(pndm).unwrap();
    assert_eq!((&written["_class_name"], &written["steps_offset"]), (&json!("PNDMScheduler"), &json!(1)));
    assert_eq!(read(&written).unwrap(), pndm);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let base = json!({ "_class_name": "PNDMScheduler", "skip_prk_steps": true });
    assert!(read(&base).is_ok());
    let refused = |class: &str, field: &str, value: Value| {
        let mut config = base.clone();
        config["_class_name"] = json!(class);
        config[field] = value;
        let error = read(&config).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(field), "{class}: {error}");
        error.to_string()
    };
    let unknown = refused("LCMScheduler", "_class_name", json!("LCMScheduler"));
    assert!(SchedulerName::ALL.iter().all(|scheduler| unknown.contains(scheduler.class())), "{unknown}");
    for class in SchedulerName::ALL.map(SchedulerName::class) {
        refused(class, "trained_betas", json!([0.1, 0.2]));
        refused(class, "thresholding", json!(true));
        refused(class, "a_new_option", json!(false));
        refused(class, "num_train_timesteps", json!(1));
        refused(class, "beta_end", json!(1.5));
    }
    for (class, field, value) in [
        ("PNDMScheduler", "skip_prk_steps", json!(false)),
        ("PNDMScheduler", "rescale_betas_zero_snr", json!(true)),
        ("DDIMScheduler", "rescale_betas_zero_snr", json!(true)),
        ("DDIMScheduler", "clip_sample_range", json!(0)),
        ("EulerDiscreteScheduler", "interpolation_type", json!("log_linear")),
        ("EulerDiscreteScheduler", "timestep_type", json!("continuous")),
        ("EulerDiscreteScheduler", "sigma_max", json!(14.0)),
        ("DPMSolverMultistepScheduler", "algorithm_type", json!("sde-dpmsolver++")),
        ("DPMSolverMultistepScheduler", "solver_order", json!(3)),
        ("DPMSolverMultistepScheduler", "lambda_min_clipped", json!(-5.1)),
        ("DPMSolverMultistepScheduler", "use_lu_lambdas", json!(true)),
    ] {
        refused(class, field, value);
    }
    // Values without a name of their own are named by what is known instead.
    for (field, value, known) in [
        ("prediction_type", "sample", "v_prediction"),
        ("timestep_spacing", "log", "linspace"),
        ("beta_schedule", "sigmoid", "squaredcos_cap_v2"),
        ("final_sigmas_type", "one", "sigma_min"),
        ("solver_type", "bh2", "midpoint"),
    ] {
        let mut config = base.clone();
        config[field] = json!(value);
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains(value) && error.contains(known), "{error}");
    }
    for missing in ["_class_name", "skip_prk_steps"] {
        let mut config = base.clone();
        config.as_object_mut().unwrap().remove(missing);
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains(missing), "{error}");
    }
}

#[test]
fn impossible_numbers_of_steps_are_refused() {
    for scheduler in SchedulerName::ALL {
        let sampler = Sampler::new(&SamplerConfig::stable_diffusion(Prediction::Epsilon).with_scheduler(scheduler));
        for steps in [0, 1001, usize::MAX] {
            let error = sampler.run::<Flex>(steps).unwrap_err();
            assert!(matches!(error, Error::Argument { name: "steps", .. }), "{scheduler}: {error}");
        }
        assert!(sampler.run::<Flex>(999).is_ok(), "{scheduler}");
    }
    // Two of these 1000 timesteps would be the same.
    let config = SamplerConfig::stable_diffusion(Prediction::Epsilon).with_scheduler(SchedulerName::DpmSolver);
    assert!(Sampler::new(&config).run::<Flex>(1000).is_err());
}

#[test]
fn schedulers_are_known_by_name() {
    for scheduler in SchedulerName::ALL {
        assert_eq!(scheduler.to_string().parse::<SchedulerName>().unwrap(), scheduler);
        assert_eq!(serde_json::to_value(scheduler).unwrap(), json!(scheduler.class()));
    }
    let error = "heun".parse::<SchedulerName>().unwrap_err().to_string();
    assert!(error.contains("heun") && error.contains("pndm, ddim, euler, dpm++2m"), "{error}");
    let config = SamplerConfig {
        rescale_betas_zero_snr: Some(true),
        ..SamplerConfig::stable_diffusion(Prediction::Epsilon).with_scheduler(SchedulerName::Euler)
    };
    let error = Sampler::new(&config).with_scheduler(SchedulerName::Ddim).unwrap_err().to_string();
    assert!(error.contains("scheduler = ddim") && error.contains("rescale_betas_zero_snr"), "{error}");
}
