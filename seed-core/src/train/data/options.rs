//! The table `[data]` of a recipe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a run learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(clippy::large_enum_variant)] // there is one a run
pub enum DataOptions {
    /// Procedural scenes; nothing is read.
    Scenes {},
    /// Images with captions out of a dataset.
    Pairs(PairOptions),
}

impl Default for DataOptions {
    fn default() -> Self {
        Self::Scenes {}
    }
}

/// Which images with captions, and what is made of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairOptions {
    /// Files, folders, globs and brace lists, as `seed tokenize` takes them.
    pub inputs: Vec<String>,
    /// The same of images that are never learned from, to validate on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<String>,
    /// Format of the inputs, by the names of `seed tokenize --source`; found by content unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Folder that relative paths in lists and records start from; that of the list unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Column or field of the image; found by its type or name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// Column or field of the caption; found by name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption_column: Option<String>,
    /// Column or field that tells samples apart; found by name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_column: Option<String>,
    /// Undecoded samples among which the next one is drawn. They are in memory, unless they are files of their own.
    #[serde(default = "shuffle")]
    pub shuffle: usize,
    /// Threads that decode; as many as the machine has cores unless given. No image depends on it.
    #[serde(default, skip_serializing)]
    pub workers: Option<usize>,
    /// Least and largest share of an image's area that is seen.
    #[serde(default = "crop")]
    pub crop: [f64; 2],
    /// Whether half of the images are mirrored.
    #[serde(default = "flip")]
    pub flip: bool,
    /// Vocabulary of the captions: `vocab.txt` of a BERT, or `tokenizer.json`. Without one, captions are made of the words of
    /// scenes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Most tokens of a caption, those that begin and end it counted in; longer ones are cut off.
    #[serde(default = "caption_tokens")]
    pub caption_tokens: usize,
}

fn shuffle() -> usize {
    2048
}

fn crop() -> [f64; 2] {
    [0.5, 1.0]
}

fn flip() -> bool {
    true
}

fn caption_tokens() -> usize {
    32
}

impl PairOptions {
    /// Those of the official training, for `inputs`.
    pub fn new(inputs: Vec<String>) -> Self {
        Self {
            inputs,
            validation: Vec::new(),
            format: None,
            root: None,
            image_column: None,
            caption_column: None,
            key_column: None,
            shuffle: shuffle(),
            workers: None,
            crop: crop(),
            flip: flip(),
            tokenizer: None,
            caption_tokens: caption_tokens(),
        }
    }
}

impl DataOptions {
    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Scenes {} => "scenes".to_owned(),
            Self::Pairs(pairs) => pairs.inputs.join(" "),
        }
    }

    /// Refuses values that nothing can be drawn by.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self::Pairs(pairs) = self else { return Ok(()) };
        if pairs.inputs.is_empty() {
            return Err("data.inputs is empty; name folders, tars, parquet files or lists of images".to_owned());
        }
        if pairs.inputs.iter().chain(&pairs.validation).any(|input| input == "-") {
            return Err("data names standard input, which cannot be read again; name files".to_owned());
        }
        if pairs.shuffle == 0 || pairs.workers == Some(0) {
            return Err("data.shuffle and data.workers must not be 0".to_owned());
        }
        let [least, most] = pairs.crop;
        if !(least > 0.0 && least <= most && most <= 1.0) {
            return Err(format!("data.crop = [{least}, {most}] must be shares of the area, the smaller one first"));
        }
        if pairs.caption_tokens < 3 {
            return Err(
                "data.caption_tokens must be at least 3: a token between those that begin and end it".to_owned()
            );
        }
        Ok(())
    }
}
