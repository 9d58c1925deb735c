//! Names of the images that are written: after the image that they were made from, each once.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Gives out paths in a folder.
pub(crate) struct Names {
    folder: PathBuf,
    /// Without the ending and in lower case: some file systems know no other.
    taken: HashSet<String>,
    /// The number that was given last to a stem, so that a thousand images of one name take a thousand tries.
    numbers: HashMap<String, usize>,
    /// Files that must stay as they are.
    sources: HashSet<PathBuf>,
}

impl Names {
    /// Names in `folder`, which is made if need be. No name is one of `reserved`, and no path one of `sources`: an image
    /// never overwrites one that it, or another, was made from.
    pub(crate) fn new<'a>(
        folder: &Path,
        reserved: &[&str],
        sources: impl Iterator<Item = &'a Path>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| {
            format!("cannot make the folder {}; choose one that can be written with --out", folder.display())
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            taken: reserved.iter().map(|&name| name.to_owned()).collect(),
            numbers: HashMap::new(),
            sources: sources.filter_map(|path| path.canonicalize().ok()).collect(),
        })
    }

    /// The path for the image `index`, made from `path`: after its stem, or its index when it has none. A number follows
    /// where that is taken.
    pub(crate) fn next(&mut self, path: Option<&str>, index: usize) -> PathBuf {
        let stem = path.filter(|&path| path != "-").and_then(|path| Path::new(path).file_stem()?.to_str());
        let base = stem.map_or_else(|| format!("{index:06}"), str::to_owned);
        let number = self.numbers.entry(base.clone()).or_default();
        loop {
            *number += 1;
            let name = if *number == 1 { base.clone() } else { format!("{base}-{number}") };
            let candidate = self.folder.join(format!("{name}.png"));
            let is_source = || candidate.canonicalize().is_ok_and(|path| self.sources.contains(&path));
            if !self.taken.contains(&name.to_lowercase()) && !is_source() {
                self.taken.insert(name.to_lowercase());
                return candidate;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice_and_no_source_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("dog.png");
        std::fs::write(&source, "").unwrap();
        let mut names = Names::new(folder.path(), &["sheet"], [source.as_path()].into_iter()).unwrap();
        let given =
            [Some("a/cat.jpg"), Some("b/Cat.png"), Some("cat-2.gif"), Some("dog.png"), Some("sheet.bmp"), Some("-")];
        let given = given.into_iter().chain([None, Some(".."), Some("")]).enumerate();
        let given: Vec<String> = given
            .map(|(index, path)| names.next(path, index).file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        let expected = ["cat", "Cat-2", "cat-2-2", "dog-2", "sheet-2", "000005", "000006", "000007", "000008"];
        assert_eq!(given, expected.map(|name| format!("{name}.png")));
    }

    #[test]
    fn many_images_of_one_name_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = Names::new(folder.path(), &[], std::iter::empty()).unwrap();
        let given: HashSet<PathBuf> = (0..1000).map(|index| names.next(Some("x/0.png"), index)).collect();
        assert_eq!(given.len(), 1000);
        assert!(given.contains(&folder.path().join("0-1000.png")));
    }
}
