//! Where a model's files come from: a folder, or the program itself.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::Weights;
use crate::error::{Error, Result};

/// A tree of files, read by relative names with `/` between folders.
#[derive(Clone)]
pub enum Files {
    /// A folder on disk. It need not exist: reading from it then says so.
    Folder(PathBuf),
    /// Files in the program's memory: relative name and content. [`Files::embedded`] makes it from a constant.
    Embedded(Cow<'static, [(&'static str, &'static [u8])]>),
}

impl Files {
    /// The files of a folder.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::Folder(path.into())
    }

    /// Files that the program carries: `(name, content)`, where a name may hold folders (`decoder/unet/config.json`).
    pub const fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self::Embedded(Cow::Borrowed(files))
    }

    /// The files of the folder `name`. A folder that does not exist is an empty one.
    pub fn sub(&self, name: &str) -> Files {
        match self {
            Self::Folder(path) => Self::Folder(path.join(name)),
            Self::Embedded(files) => {
                let inside = |&(file, bytes): &(&'static str, &'static [u8])| {
                    Some((file.strip_prefix(name)?.strip_prefix('/')?, bytes))
                };
                Self::Embedded(files.iter().filter_map(inside).collect())
            }
        }
    }

    /// Whether the file `name` is there.
    pub fn exists(&self, name: &str) -> bool {
        match self {
            Self::Folder(path) => path.join(name).is_file(),
            Self::Embedded(_) => self.find(name).is_some(),
        }
    }

    /// The content of the file `name`.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn bytes(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        match self {
            Self::Folder(path) => {
                let path = path.join(name);
                std::fs::read(&path).map(Cow::Owned).map_err(|source| Error::Read { path, source })
            }
            Self::Embedded(_) => Ok(Cow::Borrowed(self.required(name)?)),
        }
    }

    /// The SHA-256 of the file `name`, in hexadecimal digits. Reads it once, in pieces.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn sha256(&self, name: &str) -> Result<String> {
        let mut hash = Sha256::new();
        match self {
            Self::Folder(path) => {
                let path = path.join(name);
                let copied = File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hash));
                copied.map_err(|source| Error::Read { path, source })?;
            }
            Self::Embedded(_) => hash.update(self.required(name)?),
        }
        Ok(hexadecimal(&hash.finalize()))
    }

    /// The JSON file `name`. `T` decides how strict that is; ours deny unknown fields.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Config`] with the field and its place in the file.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.bytes(name)?)
            .map_err(|e| Error::Config { file: self.describe(name), reason: e.to_string() })
    }

    /// The weight file `name`, of any format of [`Weights::open`]; its tensors are read when asked for.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::WeightFile`] for a file that is broken or cut off; [`Error::PickleRefused`].
    pub fn weights(&self, name: &str) -> Result<Weights> {
        match self {
            Self::Folder(path) => Weights::open(&path.join(name)),
            Self::Embedded(_) => Weights::embedded(self.required(name)?, &self.describe(name)),
        }
    }

    /// The file `name` as messages call it.
    pub fn describe(&self, name: &str) -> String {
        match self {
            Self::Folder(path) => path.join(name).display().to_string(),
            Self::Embedded(_) => format!("{name} (built in)"),
        }
    }

    fn find(&self, name: &str) -> Option<&'static [u8]> {
        match self {
            Self::Folder(_) => None,
            Self::Embedded(files) => files.iter().find(|(file, _)| *file == name).map(|&(_, bytes)| bytes),
        }
    }

    fn required(&self, name: &str) -> Result<&'static [u8]> {
        let missing = || Error::Read { path: self.describe(name).into(), source: std::io::ErrorKind::NotFound.into() };
        self.find(name).ok_or_else(missing)
    }
}

/// A digest as it is written.
pub(super) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Files {
    /// Names only: the content of embedded files is megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::Embedded(files) => f.write_str("Embedded").and_then(|()| {
                let mut list = f.debug_list();
                list.entries(files.iter().map(|(name, _)| name)).finish()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Sizes {
        width: usize,
    }

    const TREE: &[(&str, &[u8])] =
        &[("config.json", br#"{"width": 3}"#), ("unet/config.json", br#"{"widht": 3}"#), ("unetwork", b"")];

    fn both() -> (tempfile::TempDir, [Files; 2]) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("unet")).unwrap();
        for (name, bytes) in TREE {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let files = [Files::folder(folder.path()), Files::embedded(TREE)];
        (folder, files)
    }

    #[test]
    fn folder_and_embedded_behave_alike() {
        let (_folder, both) = both();
        for files in both {
            assert_eq!(files.json::<Sizes>("config.json").unwrap().width, 3);
            assert!(files.exists("unet/config.json") && !files.exists("unet") && !files.exists("absent"));
            let unet = files.sub("unet");
            assert!(unet.exists("config.json") && !unet.exists("unet/config.json") && !unet.exists("work"), "{unet:?}");
            assert_eq!(unet.bytes("config.json").unwrap().as_ref(), TREE[1].1);
            assert!(!files.sub("none").exists("config.json"));
        }
    }

    #[test]
    fn json_errors_name_file_and_field() {
        let (_folder, both) = both();
        for files in both {
            let error = files.sub("unet").json::<Sizes>("config.json").unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Config { .. }) && text.contains("config.json"), "{text}");
            assert!(text.contains("unknown field `widht`") && text.contains("`width`"), "{text}");
        }
    }

    #[test]
    fn missing_files_are_read_errors() {
        let (_folder, both) = both();
        for files in both {
            assert!(matches!(files.bytes("absent"), Err(Error::Read { .. })));
            assert!(matches!(files.json::<Sizes>("absent"), Err(Error::Read { .. })));
            let text = files.weights("absent").unwrap_err().to_string();
            assert!(text.contains("absent"), "{text}");
        }
    }
}
