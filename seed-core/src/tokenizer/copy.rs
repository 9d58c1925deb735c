//! A model -> a bundle in another folder, as it is.

use std::path::{Path, PathBuf};

use crate::{
    atomic,
    checkpoint::Files,
    error::{Error, Result},
};

use super::{BundleConfig, CONFIG, DECODER, Model, bundle, convert::REPORT};

/// Copies the files of `model` that belong to a bundle into `folder`, byte for byte; `config.json` last, so that a folder with
/// one is whole. A copy of a bundle onto itself changes nothing.
///
/// # Errors
/// [`Error::Bundle`] and [`Error::Config`] for what is no bundle; [`Error::FolderInUse`] for a folder with a decoder, which the
/// model has not; [`Error::Read`]; [`Error::Write`].
pub fn copy(model: &Model, folder: &Path) -> Result<()> {
    let files = model.files();
    BundleConfig::read(&files)?;
    if let Files::Folder(own) = &files
        && own.canonicalize().ok().is_some_and(|own| folder.canonicalize().is_ok_and(|other| own == other))
    {
        return Ok(());
    }
    let names = names(&files)?;
    let has_decoder = names.iter().any(|name| name.starts_with(&format!("{DECODER}/")));
    if !has_decoder && folder.join(DECODER).exists() {
        return Err(Error::FolderInUse { path: folder.to_owned(), name: DECODER.to_owned() });
    }
    bundle::begin(folder)?;
    for name in names.iter().map(String::as_str).filter(|name| *name != CONFIG).chain([CONFIG]) {
        let path = folder.join(name);
        let parent = path.parent().expect("a file in a folder has a parent");
        std::fs::create_dir_all(parent).map_err(|source| Error::Write { path: parent.to_owned(), source })?;
        match &files {
            Files::Folder(own) => copy_file(&own.join(name), &path)?,
            Files::Embedded(_) => atomic::write(&path, &files.bytes(name)?)?,
        }
    }
    Ok(())
}

/// Copies without holding the file in memory.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let mut read = std::fs::File::open(from).map_err(|source| Error::Read { path: from.to_owned(), source })?;
    atomic::write_with(to, |beside| {
        let fail = |source| Error::Write { path: to.to_owned(), source };
        let mut write = std::fs::File::create(beside).map_err(fail)?;
        std::io::copy(&mut read, &mut write).map(drop).map_err(fail)
    })
}

/// The files of a bundle that are there, with `/` between folders.
fn names(files: &Files) -> Result<Vec<String>> {
    match files {
        Files::Embedded(files) => Ok(files.iter().map(|(name, _)| (*name).to_owned()).collect()),
        Files::Folder(folder) => {
            let top = [CONFIG, bundle::WEIGHTS, bundle::CONTRAST, REPORT].map(str::to_owned);
            let mut names: Vec<String> = top.into_iter().filter(|name| files.exists(name)).collect();
            if folder.join(DECODER).is_dir() {
                below(folder.join(DECODER), DECODER, &mut names)?;
            }
            Ok(names)
        }
    }
}

fn below(folder: PathBuf, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let fail = |source| Error::Read { path: folder.clone(), source };
    for entry in std::fs::read_dir(&folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}/{name}")) else { continue };
        match entry.file_type().map_err(fail)? {
            kind if kind.is_dir() => below(entry.path(), &name, names)?,
            _ if entry.path().is_file() => names.push(name), // links to files too: a hub's cache consists of them
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut names = names(&Files::folder(folder)).unwrap();
        names.sort();
        names.into_iter().map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
    }

    #[test]
    fn a_copy_of_a_copy_is_the_built_in_model_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b/c"].map(|name| folder.path().join(name));
        copy(&Model::Bundled, &first).unwrap();
        copy(&Model::Folder(first.clone()), &second).unwrap();
        let mut expected: Vec<(String, Vec<u8>)> =
            seed_weights::SCENES_TINY.iter().map(|&(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        expected.sort();
        assert_eq!(listing(&first), expected);
        assert_eq!(listing(&second), expected);
        copy(&Model::Folder(first.clone()), &first).unwrap();
        assert_eq!(listing(&first), expected);
    }

    #[test]
    fn a_strangers_decoder_is_not_adopted_and_what_is_no_bundle_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, taken] = ["plain", "taken"].map(|name| folder.path().join(name));
        copy(&Model::Bundled, &plain).unwrap();
        std::fs::remove_dir_all(plain.join(DECODER)).unwrap();
        std::fs::create_dir_all(taken.join(DECODER)).unwrap();
        let error = copy(&Model::Folder(plain), &taken).unwrap_err();
        assert!(matches!(error, Error::FolderInUse { .. }), "{error}");
        assert!(!taken.join(CONFIG).exists());
        let error = copy(&Model::Folder(taken), &folder.path().join("new")).unwrap_err();
        assert!(matches!(error, Error::Bundle { .. }), "{error}");
    }
}
