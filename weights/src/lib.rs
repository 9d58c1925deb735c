//! The bundled model as bytes: trained by this workspace's own recipe, see `MODEL_CARD.md` beside it.

macro_rules! files {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../", $folder, "/", $name)))),+]
    };
}

/// Files of the bundle "scenes-tiny": relative name and content.
pub static SCENES_TINY: &[(&str, &[u8])] = files!("scenes-tiny":
    "config.json",
    "model.safetensors",
    "contrast.safetensors",
    "decoder/model_index.json",
    "decoder/empty_prompt.safetensors",
    "decoder/image_normalizer/config.json",
    "decoder/image_normalizer/diffusion_pytorch_model.safetensors",
    "decoder/image_noising_scheduler/scheduler_config.json",
    "decoder/scheduler/scheduler_config.json",
    "decoder/unet/config.json",
    "decoder/unet/diffusion_pytorch_model.safetensors",
    "decoder/vae/config.json",
    "decoder/vae/diffusion_pytorch_model.safetensors",
);
