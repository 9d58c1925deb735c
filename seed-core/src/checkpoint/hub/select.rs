//! Which files of a repository are worth fetching: those that SEED reads.

/// The files that are wanted of a repository.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Top-level files, and folders with a `/` in the end; all when empty.
    pub parts: &'a [&'a str],
    /// Weights of this variant, such as `fp16`, where there are such; the others elsewhere.
    pub variant: Option<&'a str>,
}

/// Variants that diffusers' and transformers' files come in, as the part of the name before the ending says.
const VARIANTS: [&str; 7] = ["fp16", "bf16", "fp32", "fp8", "non_ema", "no_ema", "ema_only"];

/// Weights that are read as they are.
const SAFETENSORS: &str = "safetensors";

/// Weights that must be converted, and that are worth fetching only where there are no others.
const PICKLES: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// Parts of a diffusion model that have weights.
const WITH_WEIGHTS: [&str; 4] = ["image_normalizer/", "text_encoder/", "unet/", "vae/"];

/// The file that says that a repository is a folder of diffusers' parts.
pub(super) const DIFFUSERS: &str = "model_index.json";

impl Selection<'_> {
    /// Those of `files` that are wanted, in their order. Configurations and texts; safetensors; where a folder has none,
    /// other PyTorch files. Beside the parts of a diffusion model, whole models in one file are left out.
    pub fn choose(&self, files: &[String]) -> Vec<String> {
        let is_diffusers = files.iter().any(|file| file == DIFFUSERS);
        let listed = |file: &&String| {
            let part = |part: &&str| if part.ends_with('/') { file.starts_with(part) } else { file.as_str() == *part };
            self.parts.is_empty() || self.parts.iter().any(part)
        };
        let wanted = |file: &&String| {
            let (folder, _) = split(file);
            let same_folder = || files.iter().filter(|other| split(other).0 == folder && is_weights(other));
            match ending(file) {
                "json" | "txt" if is_weights(file) => self.is_of_variant(file, same_folder()),
                "json" | "txt" => true,
                _ if !is_weights(file) || (is_diffusers && folder.is_empty()) => false,
                SAFETENSORS => self.is_of_variant(file, same_folder()),
                _ => {
                    !same_folder().any(|other| ending(other) == SAFETENSORS) && self.is_of_variant(file, same_folder())
                }
            }
        };
        files.iter().filter(listed).filter(wanted).cloned().collect()
    }

    /// What `chosen` lacks to be of use at all.
    pub(super) fn lack(&self, chosen: &[String]) -> Option<String> {
        match self.variant {
            _ if chosen.is_empty() => Some("that SEED reads".to_owned()),
            Some(wanted) if !chosen.iter().any(|file| variant(file) == Some(wanted)) => {
                Some(format!("of the variant {wanted}"))
            }
            _ => None,
        }
    }

    /// The first part that is named here and in `model_index.json` and that `chosen` lacks.
    pub(super) fn missing_part(&self, chosen: &[String], model_index: Option<&[u8]>) -> Option<String> {
        if chosen.is_empty() {
            return Some("every file".to_owned());
        }
        let index = || serde_json::from_slice::<serde_json::Value>(model_index?).ok();
        let index = index().unwrap_or_default();
        self.parts.iter().find_map(|part| {
            let mut own = chosen.iter().filter(|file| file.starts_with(part));
            match part.strip_suffix('/') {
                None => own.next().is_none().then(|| (*part).to_owned()),
                // A part that a model does without is not listed, or as [null, null].
                Some(name) if index[name][0].is_null() => None,
                Some(_) if WITH_WEIGHTS.contains(part) => {
                    (!own.any(|file| is_weights(file))).then(|| format!("the weights in {part}"))
                }
                Some(_) => own.next().is_none().then(|| format!("the folder {part}")),
            }
        })
    }

    /// Whether weights are of the variant that is wanted, or of none where their folder lacks that.
    fn is_of_variant<'f>(&self, file: &str, mut same_folder: impl Iterator<Item = &'f String>) -> bool {
        match (variant(file), self.variant) {
            (None, None) => true,
            (Some(own), Some(wanted)) => own == wanted,
            (Some(_), None) => false,
            (None, Some(wanted)) => !same_folder.any(|other| {
                variant(other) == Some(wanted) && (ending(other) == SAFETENSORS) == (ending(file) == SAFETENSORS)
            }),
        }
    }
}

/// Folder and name.
pub(super) fn split(file: &str) -> (&str, &str) {
    file.rsplit_once('/').unwrap_or(("", file))
}

fn ending(file: &str) -> &str {
    split(file).1.rsplit_once('.').map_or("", |(_, ending)| ending)
}

/// Whether a file holds weights, or lists the files that do (`model.safetensors.index.json`).
pub(super) fn is_weights(file: &str) -> bool {
    let is = |ending: &str| ending == SAFETENSORS || PICKLES.contains(&ending);
    is(ending(file)) || (ending(file) == "json" && split(file).1.split('.').any(is))
}

/// The variant in a name: `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`.
fn variant(file: &str) -> Option<&str> {
    let mut parts = split(file).1.split('.').skip(1);
    parts.find_map(|part| {
        let part = part.split_once('-').map_or(part, |(variant, _)| variant);
        VARIANTS.contains(&part).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(selection: &Selection<'_>, files: &[&str]) -> Vec<String> {
        selection.choose(&files.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    const UNCLIP: [&str; 19] = [
        ".gitattributes",
        "README.md",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "image_normalizer/diffusion_pytorch_model.bin",
        "model_index.json",
        "sd21-unclip-h.ckpt",
        "sd21-unclip-h.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.onnx",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_flax_model.msgpack",
        "unet/diffusion_pytorch_model.fp16.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/notes.pdf",
    ];

    #[test]
    fn what_seed_reads_is_chosen() {
        let parts = &["model_index.json", "image_normalizer/", "text_encoder/", "tokenizer/", "unet/"];
        let common = ["image_normalizer/diffusion_pytorch_model.bin", "model_index.json"];
        let plain = ["text_encoder/model.safetensors", "tokenizer/merges.txt", "unet/config.json"];
        let plain = [&common[..], &plain, &["unet/diffusion_pytorch_model.safetensors"]].concat();
        assert_eq!(chosen(&Selection { parts, variant: None }, &UNCLIP), plain);
        let half = ["text_encoder/model.fp16.safetensors", "tokenizer/merges.txt", "unet/config.json"];
        let half = [&common[..], &half, &["unet/diffusion_pytorch_model.fp16.safetensors"]].concat();
        assert_eq!(chosen(&Selection { parts, variant: Some("fp16") }, &UNCLIP), half);
        let all = chosen(&Selection::default(), &UNCLIP);
        assert!(all.contains(&"image_encoder/model.safetensors".to_owned()));
        assert!(!all.iter().any(|file| file.starts_with("sd21") || file.ends_with(".md")), "{all:?}");
    }

    #[test]
    fn pickles_are_for_want_of_better() {
        assert_eq!(chosen(&Selection::default(), &["a.pt", "b.bin", "c.h5", "d.msgpack"]), ["a.pt", "b.bin"]);
        assert_eq!(chosen(&Selection::default(), &["a.pt", "x/a.safetensors"]), ["a.pt", "x/a.safetensors"]);
        assert_eq!(chosen(&Selection::default(), &["a.pt", "a.safetensors"]), ["a.safetensors"]);
        let pieces = ["m-00001-of-00002.safetensors", "m.safetensors.index.json"];
        let halves = ["m.fp16-00001-of-00002.safetensors", "m.safetensors.index.fp16.json"];
        let both = [pieces, halves].concat();
        assert_eq!(chosen(&Selection::default(), &both), pieces);
        assert_eq!(chosen(&Selection { variant: Some("fp16"), ..Selection::default() }, &both), halves);
    }
}
