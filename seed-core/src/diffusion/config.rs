//! Reading diffusers' and transformers' JSON files: every field is known by name.
//!
//! These files name many options of networks that nobody here needs. Each is on one of three written lists: read into
//! the configuration, without effect on what is computed here, or accepted with the listed values only. Anything else is
//! an error that names the field, because it may change the network. Names that begin with `_` are diffusers' own notes.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::sampler::SamplerConfig;
use crate::checkpoint::{Files, Weights};
use crate::error::{Error, Result};

/// The fields that a kind of file may have.
pub(super) struct Fields {
    /// Read into the configuration.
    read: &'static [&'static str],
    /// Without effect on what is computed here.
    ignored: &'static [&'static str],
    /// Accepted with these values only, given as JSON.
    only: &'static [(&'static str, &'static [&'static str])],
}

pub(super) const UNET: Fields = Fields {
    read: &[
        "sample_size",
        "in_channels",
        "out_channels",
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "attention_head_dim",
        "cross_attention_dim",
        "use_linear_projection",
        "projection_class_embeddings_input_dim",
        "norm_num_groups",
        "norm_eps",
    ],
    ignored: &["addition_embed_type_num_heads", "addition_time_embed_dim", "dropout", "upcast_attention"],
    only: &[
        ("_class_name", &[r#""UNet2DConditionModel""#]),
        ("act_fn", &[r#""silu""#]),
        ("addition_embed_type", &["null"]),
        ("attention_type", &[r#""default""#]),
        ("center_input_sample", &["false"]),
        ("class_embed_type", &["null", r#""projection""#]),
        ("class_embeddings_concat", &["false"]),
        ("conv_in_kernel", &["3"]),
        ("conv_out_kernel", &["3"]),
        ("cross_attention_norm", &["null"]),
        ("downsample_padding", &["1"]),
        ("dual_cross_attention", &["false"]),
        ("encoder_hid_dim", &["null"]),
        ("encoder_hid_dim_type", &["null"]),
        ("flip_sin_to_cos", &["true"]),
        ("freq_shift", &["0"]),
        ("mid_block_only_cross_attention", &["null", "false"]),
        ("mid_block_scale_factor", &["1"]),
        ("mid_block_type", &[r#""UNetMidBlock2DCrossAttn""#]),
        ("num_attention_heads", &["null"]),
        ("num_class_embeds", &["null"]),
        ("only_cross_attention", &["false"]),
        ("resnet_out_scale_factor", &["1"]),
        ("resnet_skip_time_act", &["false"]),
        ("resnet_time_scale_shift", &[r#""default""#, r#""scale_shift""#]),
        ("reverse_transformer_layers_per_block", &["null"]),
        ("time_cond_proj_dim", &["null"]),
        ("time_embedding_act_fn", &["null"]),
        ("time_embedding_dim", &["null"]),
        ("time_embedding_type", &[r#""positional""#]),
        ("timestep_post_act", &["null"]),
        ("transformer_layers_per_block", &["1"]),
    ],
};

pub(super) const VAE: Fields = Fields {
    read: &[
        "in_channels",
        "out_channels",
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "latent_channels",
        "norm_num_groups",
        "scaling_factor",
    ],
    ignored: &["force_upcast", "sample_size"],
    only: &[
        ("_class_name", &[r#""AutoencoderKL""#]),
        ("act_fn", &[r#""silu""#]),
        ("latents_mean", &["null"]),
        ("latents_std", &["null"]),
        ("mid_block_add_attention", &["true"]),
        ("shift_factor", &["null"]),
        ("use_post_quant_conv", &["true"]),
        ("use_quant_conv", &["true"]),
    ],
};

/// Any sampler: a file may hold settings of other classes than its own, which [`SamplerConfig`] keeps.
pub(super) const SAMPLER: Fields = Fields {
    read: &[
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "prediction_type",
        "steps_offset",
        "timestep_spacing",
        "set_alpha_to_one",
        "skip_prk_steps",
        "clip_sample",
        "clip_sample_range",
        "rescale_betas_zero_snr",
        "use_karras_sigmas",
        "final_sigmas_type",
        "solver_order",
        "solver_type",
        "lower_order_final",
        "euler_at_final",
    ],
    ignored: &["dynamic_thresholding_ratio", "flow_shift", "sample_max_value", "time_shift_type"],
    only: &[
        (
            "_class_name",
            &[
                r#""PNDMScheduler""#,
                r#""DDIMScheduler""#,
                r#""EulerDiscreteScheduler""#,
                r#""DPMSolverMultistepScheduler""#,
            ],
        ),
        ("algorithm_type", &[r#""dpmsolver++""#]),
        ("interpolation_type", &[r#""linear""#]),
        ("lambda_min_clipped", &["null"]),
        ("sigma_max", &["null"]),
        ("sigma_min", &["null"]),
        ("thresholding", &["false"]),
        ("timestep_type", &[r#""discrete""#]),
        ("trained_betas", &["null"]),
        ("use_beta_sigmas", &["null", "false"]),
        ("use_dynamic_shifting", &["false"]),
        ("use_exponential_sigmas", &["null", "false"]),
        ("use_flow_sigmas", &["null", "false"]),
        ("use_lu_lambdas", &["null", "false"]),
        ("variance_type", &["null"]),
    ],
};

/// Only the noise that it adds matters here, not its way back.
pub(super) const DDPM: Fields = Fields {
    read: &["num_train_timesteps", "beta_start", "beta_end", "beta_schedule"],
    ignored: &[
        "clip_sample",
        "clip_sample_range",
        "dynamic_thresholding_ratio",
        "prediction_type",
        "sample_max_value",
        "steps_offset",
        "thresholding",
        "timestep_spacing",
        "variance_type",
    ],
    only: &[
        ("_class_name", &[r#""DDPMScheduler""#]),
        ("rescale_betas_zero_snr", &["false"]),
        ("trained_betas", &["null"]),
    ],
};

pub(super) const NORMALIZER: Fields =
    Fields { read: &["embedding_dim"], ignored: &[], only: &[("_class_name", &[r#""StableUnCLIPImageNormalizer""#])] };

pub(super) const TEXT_ENCODER: Fields = Fields {
    read: &[
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "layer_norm_eps",
    ],
    ignored: &[
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "dropout",
        "dtype",
        "eos_token_id",
        "initializer_factor",
        "initializer_range",
        "pad_token_id",
        "projection_dim",
        "torch_dtype",
        "transformers_version",
    ],
    only: &[("hidden_act", &[r#""gelu""#, r#""quick_gelu""#]), ("model_type", &[r#""clip_text_model""#])],
};

pub(super) const IMAGE_ENCODER: Fields = Fields {
    read: &[
        "image_size",
        "patch_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "projection_dim",
        "layer_norm_eps",
    ],
    ignored: &[
        "architectures",
        "attention_dropout",
        "dropout",
        "dtype",
        "initializer_factor",
        "initializer_range",
        "torch_dtype",
        "transformers_version",
    ],
    only: &[
        ("hidden_act", &[r#""gelu""#, r#""quick_gelu""#]),
        ("model_type", &[r#""clip_vision_model""#]),
        ("num_channels", &["3"]),
    ],
};

/// Reads the JSON file `name`, whose fields must all be among `fields`.
///
/// # Errors
/// [`Error::Read`]; [`Error::Config`] with the field and what is wrong with it.
pub(super) fn read<T: DeserializeOwned>(files: &Files, name: &str, fields: &Fields) -> Result<T> {
    parse(&files.bytes(name)?, fields).map_err(|reason| Error::Config { file: files.describe(name), reason })
}

fn parse<T: DeserializeOwned>(text: &[u8], fields: &Fields) -> Result<T, String> {
    let json: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    for (field, value) in &json {
        fields.check(field, value)?;
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Reads and checks a sampler's JSON file `name`.
///
/// # Errors
/// [`Error::Read`]; [`Error::Config`] with the field and what is wrong with it.
pub(super) fn sampler(files: &Files, name: &str) -> Result<SamplerConfig> {
    // Python writes a limit that is not there as -Infinity, which is no JSON.
    let text = String::from_utf8_lossy(&files.bytes(name)?).replace(": -Infinity", ": null");
    parse(text.as_bytes(), &SAMPLER)
        .and_then(|config: SamplerConfig| config.check().map(|()| config))
        .map_err(|reason| Error::Config { file: files.describe(name), reason })
}

impl Fields {
    fn check(&self, field: &str, value: &Value) -> Result<(), String> {
        if let Some((_, allowed)) = self.only.iter().find(|(name, _)| *name == field) {
            return match allowed.iter().any(|text| matches(text, value)) {
                true => Ok(()),
                false => Err(format!("{field} = {value} is not supported, only {}", allowed.join(" or "))),
            };
        }
        match field.starts_with('_') || self.read.contains(&field) || self.ignored.contains(&field) {
            true => Ok(()),
            false => Err(format!("the field {field} = {value} is unknown, and it may change what is computed")),
        }
    }
}

/// Whether `value` is the JSON `text`; whole numbers may be written with a point.
fn matches(text: &str, value: &Value) -> bool {
    match value.as_f64() {
        Some(number) => text.parse() == Ok(number),
        None => serde_json::from_str::<Value>(text).is_ok_and(|allowed| allowed == *value),
    }
}

/// The weights `stem.safetensors`, or the half-precision variant that diffusers puts beside it.
///
/// # Errors
/// [`Error::Read`] and [`Error::WeightFile`].
pub(super) fn weights(files: &Files, stem: &str) -> Result<Weights> {
    let (full, half) = (format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors"));
    let name = if !files.exists(&full) && files.exists(&half) { half } else { full };
    files.weights(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{UNetConfig, VaeConfig};

    fn read_text<T: DeserializeOwned>(text: &str, fields: &Fields) -> Result<T> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        read(&Files::folder(folder.path()), "config.json", fields)
    }

    fn with(config: &impl serde::Serialize, field: &str, value: Value) -> String {
        let mut json = serde_json::to_value(config).unwrap();
        json[field] = value;
        json.to_string()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let unet = UNetConfig::unclip_768();
        assert_eq!(read_text::<UNetConfig>(&serde_json::to_string(&unet).unwrap(), &UNET).unwrap(), unet);
        let vae = VaeConfig::stable_diffusion();
        assert_eq!(read_text::<VaeConfig>(&serde_json::to_string(&vae).unwrap(), &VAE).unwrap(), vae);
    }

    #[test]
    fn fields_without_effect_are_accepted() {
        let unet = UNetConfig::unclip_768();
        for (field, value) in [
            ("upcast_attention", Value::from(true)),
            ("_diffusers_version", Value::from("0.31.0")),
            ("mid_block_only_cross_attention", Value::Null),
            ("resnet_out_scale_factor", Value::from(1.0)),
            ("mid_block_scale_factor", Value::from(1)),
        ] {
            assert_eq!(read_text::<UNetConfig>(&with(&unet, field, value), &UNET).unwrap(), unet, "{field}");
        }
    }

    #[test]
    fn whatever_changes_the_network_is_refused_by_name() {
        let unet = UNetConfig::unclip_768();
        for (field, value) in [
            ("dual_cross_attention", Value::from(true)),
            ("class_embed_type", Value::from("timestep")),
            ("transformer_layers_per_block", Value::from(vec![1, 2])),
            ("conv_in_kernel", Value::from(5)),
            ("a_new_option", Value::from(false)),
            ("_class_name", Value::from("UNet3DConditionModel")),
        ] {
            let error = read_text::<UNetConfig>(&with(&unet, field, value), &UNET).unwrap_err();
            assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn missing_fields_are_named() {
        let error = read_text::<UNetConfig>(r#"{"sample_size": 96}"#, &UNET).unwrap_err();
        assert!(error.to_string().contains("in_channels"), "{error}");
    }
}
