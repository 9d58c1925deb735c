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
    /// Text in which something begins like a box or its phrase and is none.
    #[error(
        "no boxes can be read from character {at} on, {text:?}: {reason}; a phrase with a box is <p>phrase</p> {{<x1><y1><x2><y2>}}"
    )]
    BoxText {
        /// Where it begins, in characters from 0.
        at: usize,
        /// The text from there on, shortened.
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
    /// A server that cannot be reached, or that breaks off again and again.
    #[error(
        "cannot fetch {url}: {source}; check the network, try a mirror (HF_ENDPOINT, --endpoint) or use what is already on disk (--local-files-only); what was fetched so far is kept, the same call goes on from there"
    )]
    Network {
        /// The address, without its query.
        url: String,
        /// The network's reason.
        source: std::io::Error,
    },
    /// A server that answers with a status that leads nowhere.
    #[error(
        "{url} answered with status {status}{}; try again later, or try a mirror (HF_ENDPOINT, --endpoint)",
        in_brackets(reason)
    )]
    HttpStatus {
        /// The address, without its query.
        url: String,
        /// The status.
        status: u16,
        /// What the server says about it; may be empty.
        reason: String,
    },
    /// An answer that no model hub would give.
    #[error("{url} is not the answer of a model hub: {reason}; check the endpoint (HF_ENDPOINT, --endpoint)")]
    NotAHub {
        /// The address, without its query.
        url: String,
        /// What is missing or wrong in the answer.
        reason: String,
    },
    /// A repository that a hub shows only to those who say who they are.
    #[error("{endpoint} {} {repo}; make a token at {endpoint}/settings/tokens and give it as HF_TOKEN or --token, and check the name: a repository that does not exist looks the same", if *refused { "refuses the token for" } else { "asks for a token for" })]
    NeedsToken {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent.
        refused: bool,
    },
    /// A repository whose licence must be accepted first.
    #[error(
        "{repo} is gated: accept its licence at {page}, then give a token of the same account that may read it as HF_TOKEN or --token"
    )]
    Gated {
        /// The repository.
        repo: String,
        /// The page on which its licence can be accepted.
        page: String,
    },
    /// A repository, revision or file that a hub does not have.
    #[error("{endpoint} has no {what} {name}; check its spelling at {page}")]
    NotOnHub {
        /// "repository", "revision" or "file".
        what: &'static str,
        /// Its name.
        name: String,
        /// The hub.
        endpoint: String,
        /// The page on which to look for it.
        page: String,
    },
    /// A file that is not on disk, where only files on disk may be used.
    #[error(
        "{name} is not in {}, and nothing may be fetched (--local-files-only, HF_HUB_OFFLINE); fetch it once with a network, or choose another folder (--cache-dir, HF_HUB_CACHE)", cache.display()
    )]
    NotCached {
        /// The file, with its repository.
        name: String,
        /// The folder of fetched files.
        cache: PathBuf,
    },
    /// A fetched file that is not the one that was announced.
    #[error(
        "{file} was fetched twice and is damaged: its {what} is {found} where {expected} was announced; it was deleted, try again or try a mirror (HF_ENDPOINT, --endpoint)"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What was compared: "size", "sha256" or "git hash".
        what: &'static str,
        /// The value that was announced.
        expected: String,
        /// The value of what arrived.
        found: String,
    },
    /// An input of a dataset that cannot be used, or an output that is not what was written.
    #[error("{name} cannot be used: {reason}")]
    Input {
        /// The file, folder or name.
        name: String,
        /// Why, and what would be accepted.
        reason: String,
    },
    /// An output folder that was begun in another way.
    #[error(
        "{} was begun with other settings: {what} was {recorded} and is {asked} now; go on with the settings of before, or choose another folder", folder.display()
    )]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        what: String,
        /// As it is recorded.
        recorded: String,
        /// As it was asked for.
        asked: String,
    },
    /// More inputs failed than the user lets pass.
    #[error(
        "more than {limit} inputs failed (--max-errors), the last is {key}: {reason}; shards that are done are kept, the same call goes on from there"
    )]
    TooManyFailures {
        /// Failures that were let pass.
        limit: u64,
        /// The input at which it was too much.
        key: String,
        /// What was wrong with it.
        reason: String,
    },
    /// A shard that another process writes at the moment.
    #[error(
        "shard {shard} of {} is being written by another process; let it finish, or give each process its own part (--shard I/N)", folder.display()
    )]
    Busy {
        /// The output folder.
        folder: PathBuf,
        /// The shard.
        shard: usize,
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

/// ` (text)`, or nothing.
fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
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
