//! The published models that have a name of their own: where they are, what of them is read, and their licences as far
//! as they are known.

use super::{Repo, Selection, UrlFile};
use crate::error::{Error, Result};

/// A published model.
#[derive(Debug)]
pub struct Known {
    /// The name that it is fetched by.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Its repository on the hub; a mirror may have it under another.
    pub repo: &'static str,
    /// What of the repository is read.
    pub content: Content,
    /// What it needs besides, from elsewhere.
    pub urls: &'static [UrlFile<'static>],
    /// Licences of all of it.
    pub licences: &'static [Licence],
}

/// What of a repository is read.
#[derive(Debug)]
pub enum Content {
    /// These files.
    Files(&'static [&'static str]),
    /// These parts of a diffusion model.
    Parts(&'static [&'static str]),
}

/// A licence, and what it is of.
#[derive(Debug)]
pub struct Licence {
    /// What it is of.
    pub of: &'static str,
    /// What is known of it.
    pub text: &'static str,
}

const SEED_LICENCE: Licence = Licence {
    of: "SEED's weights",
    text: "the model card says Apache-2.0; the code's licence file adds a research-only section",
};

const VIT_LICENCE: Licence =
    Licence { of: "the ViT (EVA ViT-g, as BLIP-2 uses it)", text: "code of LAVIS: BSD-3-Clause; weights of EVA: MIT" };

/// BLIP-2's image encoder, which SEED leaves as it is. Whoever publishes it says neither its size nor its hash.
const VIT: UrlFile<'static> = UrlFile {
    url: "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
    file: "eva_vit_g.pth",
    size: None,
    sha256: None,
};

/// The published models, in the order in which they are worth trying.
pub const KNOWN: &[Known] = &[
    Known {
        name: "seed-2",
        about: "the tokenizer SEED-2, and the ViT that it stands on",
        repo: "AILab-CVC/seed-tokenizer-2",
        content: Content::Files(&["seed_quantizer.pt"]),
        urls: &[VIT],
        licences: &[SEED_LICENCE, VIT_LICENCE],
    },
    Known {
        name: "seed-1",
        about: "the tokenizer SEED-1, and the ViT that it stands on",
        // SEED-1 was released on a file-sharing service, not on the hub; where it is copied to differs.
        repo: "AILab-CVC/SEED",
        content: Content::Files(&["causal_qformer.pth", "seed_tokenizer.pth"]),
        urls: &[VIT],
        licences: &[SEED_LICENCE, VIT_LICENCE],
    },
    Known {
        name: "decoder",
        about: "the diffusion decoder of SEED-2: Stable Diffusion 2.1 unCLIP",
        // The original, stabilityai/stable-diffusion-2-1-unclip, was withdrawn in late 2025.
        repo: "sd2-community/stable-diffusion-2-1-unclip",
        content: Content::Parts(&[
            "model_index.json",
            "image_noising_scheduler/",
            "image_normalizer/",
            "scheduler/",
            "text_encoder/",
            "tokenizer/",
            "unet/",
            "vae/",
        ]),
        urls: &[],
        licences: &[Licence { of: "Stable Diffusion 2.1 unCLIP", text: "CreativeML Open RAIL++-M" }],
    },
    Known {
        name: "decoder-1",
        about: "the diffusion decoder of SEED-1: Stable Diffusion 1.4",
        repo: "CompVis/stable-diffusion-v1-4",
        content: Content::Parts(&["model_index.json", "scheduler/", "text_encoder/", "tokenizer/", "unet/", "vae/"]),
        urls: &[],
        licences: &[Licence { of: "Stable Diffusion 1.4", text: "CreativeML OpenRAIL-M" }],
    },
];

impl Known {
    /// The model of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// Its repository at a revision, or that of a mirror.
    ///
    /// # Errors
    /// [`Error::Argument`]: a name that no repository or revision can have.
    pub fn repo(&self, mirror: Option<&str>, revision: &str) -> Result<Repo> {
        Repo::new(mirror.unwrap_or(self.repo), revision)
    }

    /// The parts that are wanted of a diffusion model, in a variant; nothing for a model of single files.
    ///
    /// # Errors
    /// [`Error::Argument`]: a variant of a model that has none.
    pub fn selection<'a>(&'a self, variant: Option<&'a str>) -> Result<Option<Selection<'a>>> {
        match (&self.content, variant) {
            (Content::Parts(parts), variant) => Ok(Some(Selection { parts, variant })),
            (Content::Files(_), None) => Ok(None),
            (Content::Files(_), Some(variant)) => {
                let reason = format!("{} has one variant alone; leave it out", self.name);
                Err(Error::Argument { name: "variant", value: variant.to_owned(), reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::hub::{MAIN, names::check_path};

    #[test]
    fn all_that_is_known_can_be_asked_for() {
        for known in KNOWN {
            known.repo(None, MAIN).unwrap();
            assert_eq!(Known::find(known.name).unwrap().repo, known.repo);
            assert!(!known.licences.is_empty());
            let (Content::Files(names) | Content::Parts(names)) = known.content;
            names.iter().for_each(|name| check_path("file", name.trim_end_matches('/')).unwrap());
            known.urls.iter().for_each(|url| assert!(url.url.ends_with(url.file)));
        }
        assert!(Known::find("SEED").is_none());
        assert!(Known::find("seed-2").unwrap().selection(Some("fp16")).is_err());
    }
}
