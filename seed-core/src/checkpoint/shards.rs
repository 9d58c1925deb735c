//! Safetensors in several files: `*.safetensors.index.json` says which file holds which tensor.
//!
//! `{"metadata": {...}, "weight_map": {"key": "model-00001-of-00002.safetensors", ...}}`, as `transformers` and `diffusers`
//! write it (`save_pretrained`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::format::Format;
use super::weights::{Content, Place, Skipped, read_safetensors};
use crate::error::{Error, Result};

/// How the names of index files end.
const SUFFIX: &str = ".safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: Pairs,
}

/// A JSON object of texts, with keys as often as it has them: a map would hide a key that stands twice.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of keys and file names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// What the shards of an index hold.
pub(super) struct Shards {
    pub(super) files: Vec<Content>,
    /// The tensors that the index names.
    pub(super) tensors: BTreeMap<String, Place>,
    /// The tensors that it does not name.
    pub(super) skipped: Vec<Skipped>,
}

/// The one index in a folder.
///
/// # Errors
/// [`Error::Read`] if there is none, or several.
pub(super) fn index_of(folder: &Path) -> Result<PathBuf> {
    let fail = |source| Error::Read { path: folder.into(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            found.push(entry.path());
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(fail(std::io::Error::other(format!("it is a folder without a *{SUFFIX}; name the weight file")))),
        count => Err(fail(std::io::Error::other(format!("it is a folder with {count} *{SUFFIX}; name one of them")))),
    }
}

/// Maps all shards of an index, `json`, in `folder`; messages call the index `name`.
///
/// # Errors
/// [`Error::Read`] for a missing shard; [`Error::WeightFile`] for an index that is broken, names a file outside of its
/// folder, or names a key that the shard does not hold.
pub(super) fn read(json: &[u8], folder: &Path, name: &str) -> Result<Shards> {
    let fail = |reason: String| Error::WeightFile { file: name.to_owned(), reason };
    let index: Index = serde_json::from_slice(json)
        .map_err(|e| fail(format!("it is JSON, but no index of safetensors shards: {e}")))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, file) in &index.weight_map.0 {
        let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
        if file.is_empty() || file.contains(['\\', '\0']) || !inside {
            return Err(fail(format!("it names the file {file:?}, which is not inside its folder")));
        }
        shards.entry(file).or_default().push(key);
    }
    let (mut files, mut tensors, mut skipped) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (file, keys) in shards {
        let path = folder.join(file);
        let content = Content::map(&path)?;
        let wrong = |reason| Error::WeightFile { file: path.display().to_string(), reason };
        if Format::of(content.bytes()).map_err(wrong)? != Format::Safetensors {
            return Err(wrong("a shard must be a safetensors file".into()));
        }
        let places = read_safetensors(content.bytes(), files.len()).map_err(wrong)?;
        let mut places: HashMap<String, Place> = places.into_iter().collect();
        for key in keys {
            let missing = || match tensors.contains_key(key) {
                true => fail(format!("it names the key {key} twice")),
                false => fail(format!("it says that {file} holds {key}, which it does not")),
            };
            let place = places.remove(key).ok_or_else(missing)?;
            if tensors.insert(key.to_owned(), place).is_some() {
                return Err(fail(format!("it names the key {key} twice")));
            }
        }
        skipped.extend(places.into_keys().map(|key| Skipped { key, kind: "tensor", tensors: 1 }));
        files.push(content);
    }
    skipped.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Shards { files, tensors, skipped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Weights;

    #[test]
    fn shards_are_read_by_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let shard = |keys: &[(&str, f32)]| {
            let values: Vec<[u8; 4]> = keys.iter().map(|(_, value)| value.to_le_bytes()).collect();
            let view = |value| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], value).unwrap();
            let views = keys.iter().zip(&values).map(|((key, _), value)| (*key, view(value.as_slice())));
            safetensors::serialize(views, None).unwrap()
        };
        write("one.safetensors", &shard(&[("a", 1.), ("b", 2.)]));
        write("two.safetensors", &shard(&[("c", 3.), ("b", 4.)]));
        let index = folder.path().join("model.safetensors.index.json");
        let read = |map: &str, path: &Path| {
            let metadata = r#"{"metadata": {"total_size": 16}, "weight_map": {"#;
            std::fs::write(&index, format!("{metadata}{map}}}}}")).unwrap();
            Weights::open(path)
        };
        for path in [folder.path(), &index] {
            let weights =
                read(r#""a": "one.safetensors", "c": "two.safetensors", "b": "two.safetensors""#, path).unwrap();
            assert_eq!(weights.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
            let values = ["a", "b", "c"].map(|key| weights.floats(key).unwrap()[0]);
            assert_eq!(values, [1., 4., 3.]);
            assert_eq!(weights.skipped().iter().map(ToString::to_string).collect::<Vec<_>>(), ["b (tensor)"]);
        }
        for (map, needed) in [
            (r#""a": "two.safetensors""#, "two.safetensors holds a, which it does not"),
            (r#""b": "one.safetensors", "b": "two.safetensors""#, "the key b twice"),
            (r#""b": "one.safetensors", "b": "one.safetensors""#, "the key b twice"),
            (r#""a": "../one.safetensors""#, "not inside its folder"),
            (r#""a": "/one.safetensors""#, "not inside its folder"),
            (r#""a": "sub/../../one.safetensors""#, "not inside its folder"),
            (r#""a": "..\\one.safetensors""#, "not inside its folder"),
            (r#""a": """#, "not inside its folder"),
            (r#""a": "model.safetensors.index.json""#, "a shard must be a safetensors file"),
            (r#""a": 3"#, "no index of safetensors shards"),
        ] {
            let error = read(map, &index).unwrap_err();
            assert!(matches!(&error, Error::WeightFile { .. }) && error.to_string().contains(needed), "{error}");
        }
        assert!(matches!(read(r#""a": "absent.safetensors""#, &index), Err(Error::Read { .. })));
        write("empty.safetensors.index.json", b"{}");
        let several = Weights::open(folder.path()).unwrap_err().to_string();
        assert!(several.contains("2 *.safetensors.index.json"), "{several}");
        let none = Weights::open(&folder.path().join("empty.safetensors.index.json")).unwrap_err().to_string();
        assert!(none.contains("weight_map"), "{none}");
        let index = Weights::embedded(b"{\"weight_map\": {}}", "embedded").unwrap_err().to_string();
        assert!(index.contains("only files"), "{index}");
    }
}
