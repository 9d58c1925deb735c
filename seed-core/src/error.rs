//! Everything that can go wrong, as one typed enum. Each message names the thing, the reason and the way out.

use std::path::PathBuf;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the facts as fields.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}; check that the folder exists, is writable and has space", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A folder to write to that holds something else than what would be written.
    #[error("{} already holds {name}, which does not belong to what would be written; choose an empty folder", path.display())]
    FolderInUse {
        /// The folder.
        path: PathBuf,
        /// The first file or folder found in it that does not belong.
        name: String,
    },
    /// Bytes that no image decoder recognises or that break off.
    #[error("{name} cannot be decoded: {reason}")]
    Image {
        /// Path or description of the image.
        name: String,
        /// What the decoder found, and what would be accepted.
        reason: String,
    },
    /// An image refused before memory is taken for its pixels.
    #[error(
        "{name} is {width} x {height} pixels, above the limit of {limit} pixels; shrink it or raise the limit (--max-pixels)"
    )]
    ImageTooLarge {
        /// Path or description of the image.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Largest number of pixels allowed.
        limit: u64,
    },
    /// A code that is no row of the codebook.
    #[error("code {code} at position {position} of image {image} is outside the codebook of {codebook_size} rows; codes must be 0 to {}; were they made by another model?", codebook_size - 1)]
    CodeOutOfRange {
        /// Index of the image in the batch.
        image: usize,
        /// Index of the code in the image.
        position: usize,
        /// The offending value.
        code: u64,
        /// Rows of the codebook.
        codebook_size: usize,
    },
    /// An image's codes are not exactly as many as the model makes.
    #[error("image {image} has {found} codes where {expected} are needed")]
    CodeCount {
        /// Index of the image in the batch.
        image: usize,
        /// Number of codes given.
        found: usize,
        /// Number of codes that the model makes.
        expected: usize,
    },
    /// Text that does not hold codes.
    #[error("cannot read codes from {text:?}: {reason}")]
    CodesText {
        /// The text, shortened.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that is not a model bundle, or lacks a part.
    #[error("{} is not a usable model bundle: {reason}", path.display())]
    Bundle {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong, and the way out.
        reason: String,
    },
    /// A configuration file with a missing, unknown or unsupported field.
    #[error("{file}: {reason}")]
    Config {
        /// The configuration file.
        file: String,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// A weight file that is broken, cut off, or of no format that is read.
    #[error("{file} is not a valid weight file: {reason}; fetch or convert it again")]
    WeightFile {
        /// The weight file.
        file: String,
        /// What the parser found.
        reason: String,
    },
    /// A pickle that asks for more than plain checkpoints do, so that loading it in Python could run code.
    #[error(
        "{file} is refused: byte {offset} of its pickle asks for {what}, which plain checkpoints do not use and which could run code when it is loaded; get the weights as safetensors, or save the state dict alone (torch.save(model.state_dict(), path))"
    )]
    PickleRefused {
        /// The weight file, with the archive's entry in parentheses if it is an archive.
        file: String,
        /// Where the opcode is, in bytes from the start of the file or of the archive's entry.
        offset: usize,
        /// The opcode or name.
        what: String,
    },
    /// A weight file that does not hold exactly the tensors of the model.
    #[error("{file} does not fit the model: {}", mismatch_summary(missing, unused))]
    TensorKeys {
        /// The weight file.
        file: String,
        /// Keys that the model needs and the file lacks.
        missing: Vec<String>,
        /// Keys that the file holds and the model has no place for.
        unused: Vec<String>,
    },
    /// A tensor of another shape than the model's.
    #[error(
        "{file}: tensor {key} has shape {found:?}, the model needs {expected:?}; the configuration and the weights belong to different models"
    )]
    TensorShape {
        /// The weight file.
        file: String,
        /// The tensor's key.
        key: String,
        /// Shape that the model needs, in the file's layout.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor of a dtype that weights cannot have, or with values that are not finite.
    #[error("{file}: tensor {key} {reason}")]
    TensorValue {
        /// The weight file.
        file: String,
        /// The tensor's key.
        key: String,
        /// What is wrong with its values.
        reason: String,
    },
    /// An argument outside of what an operation accepts.
    #[error("{name} = {value} is not possible: {reason}")]
    Argument {
        /// The argument.
        name: &'static str,
        /// The value given.
        value: String,
        /// What would be accepted.
        reason: String,
    },
    /// A device that this build or this machine does not have.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why, and what is available.
        reason: String,
    },
    /// A model without the part that the operation needs.
    #[error("this model has no {part}: {reason}")]
    MissingPart {
        /// The part, such as "diffusion decoder".
        part: &'static str,
        /// What it is needed for, and how to get it.
        reason: String,
    },
    /// Training met a value that is not finite.
    #[error(
        "training diverged at step {step} of stage {stage}: the loss is {loss}; lower the learning rate and resume from the last checkpoint"
    )]
    Diverged {
        /// The stage.
        stage: &'static str,
        /// The step, from 0.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// The caller asked to stop.
    #[error("interrupted; what was finished is kept")]
    Interrupted,
}

/// At most three keys of each kind: a wrong file misses hundreds.
fn mismatch_summary(missing: &[String], unused: &[String]) -> String {
    let list = |what: &str, keys: &[String]| {
        let shown = keys.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = keys.len().saturating_sub(3);
        match more {
            0 => format!("{what} {shown}"),
            _ => format!("{what} {shown} and {more} more"),
        }
    };
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(list("it lacks", missing));
    }
    if !unused.is_empty() {
        parts.push(list("the model has no place for", unused));
    }
    parts.join("; ")
}
