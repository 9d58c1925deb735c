//! One safetensors file: its header parsed and checked, its tensors left where they are until asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};

use super::convert;
use crate::error::{Error, Result};

/// A safetensors file in memory: mapped, so that opening it costs its header only, or embedded in the program.
#[derive(Debug)]
pub struct Weights {
    name: String,
    content: Content,
    tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors begin.
    start: usize,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

/// A tensor as the file holds it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape in the file's layout.
    pub shape: &'a [usize],
    /// Little-endian elements, rows last, in no particular alignment.
    pub bytes: &'a [u8],
}

impl Weights {
    /// Maps a file.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::WeightFile`] for a file that is broken or cut off.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |source| Error::Read { path: path.into(), source };
        let file = File::open(path).map_err(fail)?;
        // SAFETY: the map is private to this process and only read. Another process that shortens or rewrites the file in
        // place could still pull pages away; this crate never does (files are replaced by a rename, which leaves the
        // mapped one whole), and for others it is the documented price of not copying gigabytes.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Self::new(Content::Mapped(map), path.display().to_string())
    }

    /// Takes bytes of the program; messages call them `name`.
    ///
    /// # Errors
    /// [`Error::WeightFile`] for bytes that are no safetensors file.
    pub fn embedded(bytes: &'static [u8], name: &str) -> Result<Self> {
        Self::new(Content::Embedded(bytes), name.to_owned())
    }

    fn new(content: Content, name: String) -> Result<Self> {
        let bytes = content.bytes();
        let fail = |reason: String| Error::WeightFile { file: name.clone(), reason };
        if bytes.is_empty() {
            return Err(fail("it is empty".into()));
        }
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
        let start = header + size_of::<u64>();
        if metadata.data_len() > bytes.len() - start {
            return Err(fail("its tensors reach beyond its end".into()));
        }
        let tensors = metadata.tensors().into_iter().map(|(key, info)| (key, info.clone())).collect();
        Ok(Self { name, content, tensors, start })
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file as messages call it.
    pub fn describe(&self) -> &str {
        &self.name
    }

    /// The tensor of a key, as it is stored.
    pub fn get(&self, key: &str) -> Option<Stored<'_>> {
        let info = self.tensors.get(key)?;
        let bytes = &self.content.bytes()[self.start..][info.data_offsets.0..info.data_offsets.1];
        Some(Stored { dtype: info.dtype, shape: &info.shape, bytes })
    }

    /// The values of a float32, float16 or bfloat16 tensor, in the file's layout.
    ///
    /// # Errors
    /// [`Error::TensorKeys`] for an absent key, [`Error::TensorValue`] for any other dtype.
    pub fn floats(&self, key: &str) -> Result<Vec<f32>> {
        let stored = self.required(key)?;
        convert::floats(stored.dtype, stored.bytes).ok_or_else(|| self.wrong_dtype(key, stored.dtype))
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
        Ok(stored.bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect())
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

impl Content {
    fn bytes(&self) -> &[u8] {
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
