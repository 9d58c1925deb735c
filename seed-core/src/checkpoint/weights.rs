//! A checkpoint's tensors by key: its structure parsed and checked, its values left where they are until asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{AllocationProperty, Bytes};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};
use sha2::{Digest as _, Sha256};

use super::DType;
use super::convert::Lost;
use super::format::Format;
use super::shards::{self, Shards};
use super::{convert, files, pickle};
use crate::error::{Error, Result};

/// The tensors of a checkpoint: its files mapped, so that opening it costs its structure only, or embedded in the program.
#[derive(Debug)]
pub struct Weights {
    name: String,
    files: Vec<Content>,
    tensors: BTreeMap<String, Place>,
    skipped: Vec<Skipped>,
}

/// The bytes of a file.
#[derive(Debug)]
pub(super) enum Content {
    Mapped(Arc<Mmap>),
    Embedded(&'static [u8]),
}

/// Where a tensor is. Whoever makes one has checked it against the file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Index of the file.
    pub(super) file: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements; `None` where rows follow each other, last dimension fastest.
    pub(super) strides: Option<Vec<usize>>,
    /// From the tensor's first element to its last one, in the file.
    pub(super) bytes: Range<usize>,
}

/// A tensor as the file holds it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape in the file's layout.
    pub shape: &'a [usize],
    strides: Option<&'a [usize]>,
    data: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Little-endian elements, last dimension fastest, in no particular alignment: borrowed from the file, unless it holds
    /// the tensor as a view in another order (PyTorch saves transposed tensors so), which is put in order.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        match self.strides {
            None => Cow::Borrowed(self.data),
            Some(strides) => Cow::Owned(convert::gather(self.data, self.dtype.bitsize() / 8, self.shape, strides)),
        }
    }
}

/// An entry of a checkpoint that is no weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is: the keys that lead to it, joined by dots.
    pub key: String,
    /// What it is, as Python calls it: `int`, `dict`, `argparse.Namespace`, ...
    pub kind: &'static str,
    /// How many tensors it holds, or is; one that several entries share counts for the first of them.
    pub tensors: usize,
}

impl fmt::Display for Skipped {
    /// `optimizer (dict, 12 tensors)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.tensors) {
            ("tensor", _) | (_, 0) => write!(f, "{} ({})", self.key, self.kind),
            (kind, 1) => write!(f, "{} ({kind}, 1 tensor)", self.key),
            (kind, count) => write!(f, "{} ({kind}, {count} tensors)", self.key),
        }
    }
}

impl Weights {
    /// Opens a checkpoint, by what the file holds, whatever its name is:
    ///
    /// - a safetensors file;
    /// - a file of `torch.save`, new (zip) or legacy (before PyTorch 1.6), which is read without running its pickle: one
    ///   that uses more than the written list of names that plain checkpoints use is refused;
    /// - `*.safetensors.index.json`, or a folder with one such file: the shards that it names.
    ///
    /// In a file of `torch.save`, nested dictionaries become keys joined by dots: `{"a": {"b": tensor}}` is `a.b`. If just
    /// one of `model`, `state_dict` and `module` at the top is a dictionary, that one is the state dict: its keys stand
    /// without the wrapper's, and everything beside it is skipped. Entries that are no tensors, dictionaries with keys
    /// other than text and integers, and empty ones are skipped too, and [`Weights::skipped`] lists them. Attributes
    /// (`_metadata`) are no entries.
    ///
    /// # Errors
    /// [`Error::Read`], also for a folder without an index or with several; [`Error::PickleRefused`];
    /// [`Error::WeightFile`] for a file that is broken, cut off, big-endian, of another format, or holds a key twice.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open(&shards::index_of(path)?);
        }
        let name = path.display().to_string();
        let content = Content::map(path)?;
        match Format::of(content.bytes()) {
            Ok(Format::Index) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                let Shards { files, tensors, skipped } = shards::read(content.bytes(), folder, &name)?;
                Ok(Self { name, files, tensors, skipped })
            }
            _ => Self::new(content, name),
        }
    }

    /// Takes bytes of the program, of any format of [`Weights::open`] but an index; messages call them `name`.
    ///
    /// # Errors
    /// [`Error::PickleRefused`]; [`Error::WeightFile`] for bytes that are no checkpoint.
    pub fn embedded(bytes: &'static [u8], name: &str) -> Result<Self> {
        Self::new(Content::Embedded(bytes), name.to_owned())
    }

    fn new(content: Content, name: String) -> Result<Self> {
        let bytes = content.bytes();
        let fail = |reason: String| Error::WeightFile { file: name.clone(), reason };
        let (tensors, skipped) = match Format::of(bytes).map_err(fail)? {
            Format::Safetensors => (read_safetensors(bytes, 0).map_err(fail)?.into_iter().collect(), Vec::new()),
            Format::TorchZip => pickle::read_zip(bytes, &name)?,
            Format::TorchLegacy => pickle::read_legacy(bytes, &name)?,
            Format::Index => return Err(fail("it is an index of shards, which only files can have".into())),
        };
        Ok(Self { name, files: vec![content], tensors, skipped })
    }

    /// The same file with those of its tensors that `keep` names; the others are left out as if they were not there. Whoever
    /// leaves out says so to the user.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|key, _| keep(key));
        self
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file as messages call it.
    pub fn describe(&self) -> &str {
        &self.name
    }

    /// The entries that are no weights (epochs, configurations, the state of an optimizer), sorted by key. A safetensors
    /// file has none; of shards, these are the tensors that the index does not name.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The SHA-256 of the file, in hexadecimal digits; of shards, one after another in the order of their names.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(file.bytes());
        }
        files::hexadecimal(&hash.finalize())
    }

    /// The tensor of a key, as it is stored; its bytes are read when asked for.
    pub fn get(&self, key: &str) -> Option<Stored<'_>> {
        let place = self.tensors.get(key)?;
        let data = &self.files[place.file].bytes()[place.bytes.clone()];
        Some(Stored { dtype: place.dtype, shape: &place.shape, strides: place.strides.as_deref(), data })
    }

    /// The values of a float32, float16 or bfloat16 tensor, in the file's layout. The file's pages are given back, so that
    /// a model that is being loaded is in memory once.
    ///
    /// # Errors
    /// [`Error::TensorKeys`] for an absent key, [`Error::TensorValue`] for any other dtype.
    pub fn floats(&self, key: &str) -> Result<Vec<f32>> {
        let stored = self.required(key)?;
        let values =
            convert::floats(stored.dtype, &stored.bytes()).ok_or_else(|| self.wrong_dtype(key, stored.dtype))?;
        if let Some(place) = self.tensors.get(key) {
            self.files[place.file].release(&place.bytes);
        }
        Ok(values)
    }

    /// The elements of a tensor as `dtype` (bfloat16 for 8 bits) in the file's layout, and how many of them `dtype` cannot hold.
    /// What the file holds as `dtype` is not copied: the map itself stays.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub(super) fn elements(&self, key: &str, dtype: DType) -> Result<(Bytes, Lost)> {
        let stored = self.required(key)?;
        let place = &self.tensors[key];
        let unknown = || self.wrong_dtype(key, stored.dtype);
        if dtype.is_stored_as(stored.dtype)
            && stored.strides.is_none()
            && let Some(shared) = self.files[place.file].shared(&place.bytes, stored.dtype.bitsize() / 8)
        {
            let not_finite = convert::count_not_finite_in(stored.dtype, stored.data).ok_or_else(unknown)?;
            return Ok((shared, Lost { not_finite, beyond: 0 }));
        }
        let bytes = stored.bytes();
        let found = match dtype {
            DType::F32 => convert::floats(stored.dtype, &bytes).map(|values| {
                let lost = Lost { not_finite: convert::count_not_finite(&values), beyond: 0 };
                (Bytes::from_elems(values), lost)
            }),
            _ => convert::halves(stored.dtype, &bytes, dtype).map(|(halves, lost)| (Bytes::from_elems(halves), lost)),
        };
        self.files[place.file].release(&place.bytes);
        found.ok_or_else(unknown)
    }

    /// The values of an int64 tensor, in the file's layout.
    ///
    /// # Errors
    /// [`Error::TensorKeys`] for an absent key, [`Error::TensorValue`] for any other dtype.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>> {
        let stored = self.required(key)?;
        if stored.dtype != Dtype::I64 {
            let reason = format!("has dtype {:?} where I64 is needed", stored.dtype);
            return Err(Error::TensorValue { file: self.name.clone(), key: key.into(), reason });
        }
        Ok(stored.bytes().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect())
    }

    /// What is wrong with a tensor that is not of floats.
    pub(super) fn wrong_dtype(&self, key: &str, dtype: Dtype) -> Error {
        let reason = format!("has dtype {dtype:?}; weights are F32, F16 or BF16");
        Error::TensorValue { file: self.name.clone(), key: key.into(), reason }
    }

    fn required(&self, key: &str) -> Result<Stored<'_>> {
        let missing = || Error::TensorKeys { file: self.name.clone(), missing: vec![key.into()], unused: Vec::new() };
        self.get(key).ok_or_else(missing)
    }
}

/// The tensors of a safetensors file, as places in the file of number `file`.
pub(super) fn read_safetensors(bytes: &[u8], file: usize) -> Result<Vec<(String, Place)>, String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let start = header + size_of::<u64>();
    if metadata.data_len() > bytes.len() - start {
        return Err("its tensors reach beyond its end".into());
    }
    let place = |(key, info): (String, &TensorInfo)| {
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        (key, Place { file, dtype: info.dtype, shape: info.shape.clone(), strides: None, bytes })
    };
    Ok(metadata.tensors().into_iter().map(place).collect())
}

impl Content {
    /// Maps a file.
    pub(super) fn map(path: &Path) -> Result<Self> {
        let fail = |source| Error::Read { path: path.into(), source };
        let file = File::open(path).map_err(fail)?;
        // SAFETY: the map is private to this process and only read. Another process that shortens or rewrites the file in
        // place could still pull pages away; this crate never does (files are replaced by a rename, which leaves the
        // mapped one whole), and for others it is the documented price of not copying gigabytes.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(Self::Mapped(Arc::new(map)))
    }

    /// A range of the file without a copy, if it can be read in place as elements of `size` bytes.
    fn shared(&self, range: &Range<usize>, size: usize) -> Option<Bytes> {
        struct Whole(Arc<Mmap>);
        impl AsRef<[u8]> for Whole {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let is_aligned = self.bytes()[range.clone()].as_ptr().addr().is_multiple_of(size);
        if !is_aligned || cfg!(target_endian = "big") {
            return None;
        }
        let whole = match self {
            Self::Mapped(map) => bytes::Bytes::from_owner(Whole(map.clone())),
            Self::Embedded(bytes) => bytes::Bytes::from_static(bytes),
        };
        Some(Bytes::from_shared(whole.slice(range.clone()), AllocationProperty::Other))
    }

    /// Tells the system that the whole pages of a range are not needed for now.
    #[cfg(unix)]
    fn release(&self, range: &Range<usize>) {
        /// A multiple of every page size in use.
        const PAGES: usize = 1 << 16;
        let (start, end) = (range.start.next_multiple_of(PAGES), range.end / PAGES * PAGES);
        if let Self::Mapped(map) = self
            && start < end
        {
            // SAFETY: the map is of a file and only read, so that pages that are given back are read from the file again by
            // whoever looks at them; no content changes. The range lies within the map, as every place does.
            #[allow(unsafe_code)]
            let released = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            drop(released); // memory is only kept longer
        }
    }

    #[cfg(not(unix))]
    fn release(&self, _: &Range<usize>) {}

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/seed2-mlp");

    fn golden(name: &str) -> Weights {
        Weights::open(&Path::new(GOLDEN).join(name)).unwrap()
    }

    #[test]
    fn golden_keys_shapes_and_values() {
        let model = golden("model.safetensors");
        assert!(model.keys().any(|key| key == "Qformer.bert.encoder.layer.0.attention.self.query.weight"));
        assert!(model.keys().is_sorted());
        let patch = model.get("visual_encoder.patch_embed.proj.weight").unwrap();
        assert_eq!(patch.shape, [32, 3, 14, 14]);
        assert_eq!(model.floats("visual_encoder.cls_token").unwrap().len(), 32);

        let cases = golden("cases.safetensors");
        assert_eq!(cases.get("codes").unwrap().shape, [6, 32]);
        let codes = cases.integers("codes").unwrap();
        assert!(codes.len() == 6 * 32 && codes.iter().all(|code| (0..256).contains(code)));
        assert!(matches!(cases.floats("codes"), Err(Error::TensorValue { .. })));
        assert!(matches!(cases.integers("pixels"), Err(Error::TensorValue { .. })));
        assert!(matches!(cases.floats("absent"), Err(Error::TensorKeys { .. })));
    }

    #[test]
    fn files_cut_off_anywhere_are_refused() {
        let bytes: &'static [u8] = std::fs::read(Path::new(GOLDEN).join("cases.safetensors")).unwrap().leak();
        for length in (0..bytes.len()).step_by(7) {
            let error = Weights::embedded(&bytes[..length], "cut").unwrap_err();
            assert!(matches!(error, Error::WeightFile { .. }), "{length}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.safetensors");
        for length in [0, 7, 8, 100, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let text = Weights::open(&path).unwrap_err().to_string();
            assert!(text.contains("cut.safetensors"), "{text}");
        }
    }

    #[test]
    fn missing_files_and_folders_are_read_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Weights::open(&folder.path().join("absent")), Err(Error::Read { .. })));
        assert!(matches!(Weights::open(folder.path()), Err(Error::Read { .. })));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in ".{0,120}", tail in 0usize..20) {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(bytes.len() + tail, 0);
            let _ = Weights::embedded(bytes.leak(), "random");
        }
    }
}
