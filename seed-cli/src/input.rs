//! Images given as arguments: files, folders and standard input; read ahead of the network, in order.

use std::{
    collections::VecDeque,
    io::Read as _,
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use rayon::prelude::*;
use seed_core::pixels::{self, Limits, RgbImage};

use crate::{
    interrupt,
    outcome::{Tally, report},
    progress::Progress,
};

/// Batches that wait for the network: one ready, while the next is being read.
const BATCHES_AHEAD: usize = 1;

/// One image to read, or why there is none.
pub(crate) struct Input {
    source: Source,
}

enum Source {
    File(PathBuf),
    StandardInput,
    Nothing(anyhow::Error),
}

/// An image that was read, and its path as output calls it.
pub(crate) struct Loaded<T> {
    pub(crate) path: String,
    pub(crate) image: T,
}

impl Input {
    /// The file, when it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => Some(path),
            _ => None,
        }
    }

    fn load(self, limits: &Limits) -> anyhow::Result<Loaded<RgbImage>> {
        match self.source {
            Source::File(path) => {
                let image = pixels::open(&path, limits)?;
                Ok(Loaded { path: path.to_string_lossy().into_owned(), image })
            }
            Source::StandardInput => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
                let image = pixels::decode(&bytes, "standard input", limits)?;
                Ok(Loaded { path: "-".to_owned(), image })
            }
            Source::Nothing(error) => Err(error),
        }
    }
}

/// The images that arguments stand for. What is wrong with one of them becomes an input that fails.
pub(crate) fn expand(arguments: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    if arguments.iter().filter(|path| is_stdin(path)).count() > 1 {
        bail!("- stands for one image on standard input and can be given once");
    }
    let mut inputs = Vec::new();
    for path in arguments {
        let sources = match std::fs::metadata(path) {
            _ if is_stdin(path) => vec![Source::StandardInput],
            Ok(metadata) if metadata.is_dir() => walk(path),
            Ok(_) => vec![Source::File(path.clone())],
            Err(error) => {
                let way_out = "give image files, folders of images, or - for standard input";
                vec![Source::Nothing(anyhow!("cannot read {}: {error}; {way_out}", path.display()))]
            }
        };
        inputs.extend(sources.into_iter().map(|source| Input { source }));
    }
    Ok(inputs)
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Images in a folder and the folders in it, sorted by path, those of formats that are refused too, so that they are told of. Hidden
/// files are left out and links to folders not followed, so a walk ends.
fn walk(folder: &Path) -> Vec<Source> {
    let (mut files, mut failures) = (Vec::new(), Vec::new());
    let mut folders = VecDeque::from([folder.to_owned()]);
    while let Some(folder) = folders.pop_front() {
        match std::fs::read_dir(&folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
            Ok(entries) => {
                for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
                    let path = entry.path();
                    match entry.file_type() {
                        Ok(kind) if kind.is_dir() => folders.push_back(path),
                        // A link to nothing fails when it is read.
                        _ if pixels::is_image_name(&path) && path.metadata().map_or(true, |of| of.is_file()) => {
                            files.push(path)
                        }
                        _ => {}
                    }
                }
            }
            Err(error) => {
                failures.push(Source::Nothing(anyhow!("cannot read the folder {}: {error}", folder.display())))
            }
        }
    }
    if files.is_empty() && failures.is_empty() {
        let kinds = pixels::ENDINGS.join(", ");
        failures
            .push(Source::Nothing(anyhow!("{} holds no images; files ending in {kinds} are read", folder.display())));
    }
    files.sort();
    files.into_iter().map(Source::File).chain(failures).collect()
}

/// Reads images in batches of at most `size`, `prepare`s them on all cores, and hands them to `consume` in order, while
/// the next batch is being read. Images that fail are reported and counted; the rest goes on.
///
/// Stops after the batch at hand when the user asks to.
///
/// # Errors
/// Those of `consume`.
pub(crate) fn batches<T: Send>(
    inputs: Vec<Input>,
    size: usize,
    limits: &Limits,
    progress: &Progress,
    prepare: impl Fn(RgbImage) -> T + Sync,
    mut consume: impl FnMut(Vec<Loaded<T>>, &mut Tally) -> anyhow::Result<()>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    let prepare = &prepare;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut inputs = inputs.into_iter().peekable();
            while inputs.peek().is_some() {
                let batch: Vec<Input> = inputs.by_ref().take(size).collect();
                let load = |input: Input| {
                    let Loaded { path, image } = input.load(limits)?;
                    Ok(Loaded { path, image: prepare(image) })
                };
                let loaded: Vec<anyhow::Result<Loaded<T>>> = batch.into_par_iter().map(load).collect();
                if sender.send(loaded).is_err() {
                    return; // the consumer has stopped
                }
            }
        });
        // Moved in here, so that leaving drops it and the reader stops too.
        for loaded in receiver {
            let mut batch = Vec::with_capacity(loaded.len());
            for result in loaded {
                match result {
                    Ok(image) => batch.push(image),
                    Err(error) => {
                        progress.suspend(|| report(&error));
                        progress.advance(1);
                        tally.failed += 1;
                    }
                }
            }
            if !batch.is_empty() {
                consume(batch, &mut tally)?;
            }
            if interrupt::requested() {
                break;
            }
        }
        Ok(tally)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_sorted_and_hold_images_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/.hidden")).unwrap();
        for name in ["c.PNG", "a.jpeg", "b/z.tif", "notes.txt", ".x.png", "b/.hidden/y.png", "b.gif"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let inputs = expand(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = inputs.iter().map(|i| i.file().unwrap().strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(names, ["a.jpeg", "b/z.tif", "b.gif", "c.PNG"].map(Path::new));
    }

    #[test]
    fn what_cannot_be_read_in_a_folder_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("photo.heic"), b"\0\0\0\x18ftypheic").unwrap();
        std::os::unix::fs::symlink("nowhere.png", folder.path().join("link.png")).unwrap();
        let inputs = expand(&[folder.path().to_owned()]).unwrap();
        let reasons: Vec<String> =
            inputs.into_iter().map(|input| input.load(&Limits::default()).err().unwrap().to_string()).collect();
        assert!(reasons[0].contains("link.png") && reasons[1].contains("it is HEIF"), "{reasons:?}");
        assert_eq!(reasons.len(), 2);
    }

    #[test]
    fn nothing_to_read_is_a_failure_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        for (path, what) in
            [(folder.path().to_owned(), "holds no images"), (folder.path().join("x.png"), "x.png: No such")]
        {
            let mut inputs = expand(&[path]).unwrap();
            let error = inputs.remove(0).load(&Limits::default()).err().unwrap().to_string();
            assert!(inputs.is_empty() && error.contains(what), "{error}");
        }
        assert!(expand(&["-".into(), "-".into()]).is_err());
    }
}
