//! Folders of images, however deep: with `metadata.csv` or `metadata.jsonl` in the folder of the images that it
//! describes, or with a text of the same name beside each image.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use csv::Position;

use super::{CAPTION, CAPTIONS, Each, ShardInput, Source, SourceOptions, delimited, files, fingerprint, unreadable};
use crate::{
    dataset::sample::{Column, Image, Layout, Piece, Sample, Schema, Skipped, Value},
    error::Result,
    pixels,
};

/// Files that describe the images of their folder.
const METADATA: [&str; 2] = ["metadata.csv", "metadata.jsonl"];

/// Images of some folders, sorted by path.
#[derive(Debug)]
pub(super) struct Folder {
    schema: Schema,
    shards: Vec<ShardInput>,
    shard_size: usize,
    entries: Vec<Entry>,
    /// Of the images that have any.
    metadata: BTreeMap<PathBuf, Vec<Value>>,
    /// Whether captions are texts beside the images.
    texts_beside: bool,
}

#[derive(Debug)]
struct Entry {
    /// Which of the folders it is in.
    root: usize,
    path: PathBuf,
    key: String,
    /// Named by a metadata file, but not there.
    missing_from: Option<String>,
}

impl Folder {
    /// `paths` are folders, or images by name.
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let (mut entries, mut tables, mut texts) = (Vec::new(), Vec::new(), false);
        for (root, path) in paths.iter().enumerate() {
            if !path.is_dir() {
                let key = files::relative(path, Path::new(""));
                entries.push(Entry { root, path: path.clone(), key, missing_from: None });
                continue;
            }
            for file in files::walk(path)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if pixels::is_image_name(&file) {
                    let key = files::relative(&file, path);
                    entries.push(Entry { root, path: file, key, missing_from: None });
                } else if METADATA.contains(&name.as_str()) {
                    tables.push(file);
                } else if name == "metadata.parquet" {
                    return Err(unreadable(&file, "metadata is read from CSV and JSONL; write it as one of them"));
                } else {
                    texts |= files::ends_in(&name, &["txt"]);
                }
            }
        }
        let texts_beside = texts && tables.is_empty();
        let mut metadata = BTreeMap::new();
        let mut has_captions = texts_beside;
        for table in tables {
            has_captions |= read_table(&table, options, &mut metadata)?;
        }
        let mut columns = Vec::new();
        columns.extend(has_captions.then(|| Column::text(CAPTION)));
        columns.extend(options.columns.iter().cloned());
        let metadata = metadata
            .into_iter()
            .map(|(path, (caption, mut values, table))| {
                if has_captions {
                    values.insert(0, caption);
                }
                (path, (values, table))
            })
            .collect::<BTreeMap<PathBuf, (Vec<Value>, String)>>();
        add_missing(&mut entries, paths, &metadata);
        let metadata = metadata.into_iter().map(|(path, (values, _))| (path, values)).collect();
        let schema = Schema { layout: Layout::One, columns };
        let shards = shard_inputs(paths, &entries, options.shard_size);
        Ok(Self { schema, shards, shard_size: options.shard_size, entries, metadata, texts_beside })
    }
}

/// Images that metadata names and the folders do not hold become inputs that fail.
fn add_missing(entries: &mut Vec<Entry>, roots: &[PathBuf], metadata: &BTreeMap<PathBuf, (Vec<Value>, String)>) {
    let there: std::collections::BTreeSet<&PathBuf> = entries.iter().map(|entry| &entry.path).collect();
    let missing = metadata.iter().filter(|(path, _)| !there.contains(path)).map(|(path, (_, table))| {
        let root = roots.iter().position(|root| path.starts_with(root)).unwrap_or(0);
        let key = files::relative(path, &roots[root]);
        Entry { root, path: path.clone(), key, missing_from: Some(table.clone()) }
    });
    let missing: Vec<Entry> = missing.collect();
    entries.extend(missing);
    entries.sort_by(|a, b| (a.root, &a.path).cmp(&(b.root, &b.path)));
}

fn shard_inputs(paths: &[PathBuf], entries: &[Entry], shard_size: usize) -> Vec<ShardInput> {
    let name = match paths {
        [path] => path.display().to_string(),
        _ => format!("{} and {} more", paths[0].display(), paths.len() - 1),
    };
    let input = |(i, entries): (usize, &[Entry])| ShardInput {
        name: format!("{name} [{}..{}]", i * shard_size, i * shard_size + entries.len()),
        samples: Some(entries.len() as u64),
        fingerprint: fingerprint(entries.iter().map(|entry| entry.key.as_bytes())),
    };
    entries.chunks(shard_size).enumerate().map(input).collect()
}

/// Caption, columns, and the name of the table that says so, of an image.
type Described = BTreeMap<PathBuf, (Value, Vec<Value>, String)>;

/// Reads a metadata file; returns whether it has captions.
fn read_table(table: &Path, options: &SourceOptions, into: &mut Described) -> Result<bool> {
    let folder = table.parent().unwrap_or(Path::new(""));
    let name = table.display().to_string();
    let mut any_caption = false;
    let mut add = |line: u64, field: &dyn Fn(&str) -> serde_json::Value| {
        let fail = |reason: String| unreadable(table, format!("line {line}: {reason}"));
        let file = field("file_name");
        let file = file.as_str().ok_or_else(|| fail("it has no \"file_name\"".to_owned()))?;
        let caption = match &options.caption_column {
            Some(name) => field(name),
            None => CAPTIONS.iter().map(|name| field(name)).find(|value| !value.is_null()).unwrap_or_default(),
        };
        any_caption |= !caption.is_null();
        let value = |column: &Column| {
            let json = field(&column.name);
            let parsed = match &json {
                serde_json::Value::String(text) => Value::from_text(text, column.kind),
                other => Value::from_json(other, column.kind),
            };
            parsed.map_err(|reason| fail(format!("column {} {reason}", column.name)))
        };
        let values = options.columns.iter().map(value).collect::<Result<Vec<_>>>()?;
        let caption = Value::from_json(&caption, crate::dataset::sample::Kind::Text).unwrap_or(Value::Missing);
        match into.insert(folder.join(file), (caption, values, name.clone())) {
            None => Ok(()),
            Some(_) => {
                Err(fail(format!("{file} has been described before; a list (--source list) may name an image twice")))
            }
        }
    };
    if files::ends_in(&name, &["csv"]) {
        let mut reader = delimited::reader(table)?;
        let headers = reader.headers().map_err(|error| unreadable(table, error))?.clone();
        let mut last = Position::new();
        for record in reader.records() {
            let record = record.map_err(|error| unreadable(table, error))?;
            last = record.position().cloned().unwrap_or(last);
            let line = last.line();
            delimited::check_length(record.len(), headers.len())
                .map_err(|reason| unreadable(table, format!("line {line}: {reason}")))?;
            add(line, &|name| {
                let text = headers.iter().position(|header| header == name).and_then(|column| record.get(column));
                text.map_or(serde_json::Value::Null, Into::into)
            })?;
        }
        delimited::check_end(table, &last)?;
    } else {
        let text = std::fs::read_to_string(table).map_err(|error| unreadable(table, error))?;
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let record: serde_json::Value =
                serde_json::from_str(line).map_err(|error| unreadable(table, format!("line {}: {error}", i + 1)))?;
            add(i as u64 + 1, &|name| record.get(name).cloned().unwrap_or_default())?;
        }
    }
    Ok(any_caption)
}

impl Source for Folder {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        let first = shard * self.shard_size;
        let last = (first + self.shard_size).min(self.entries.len());
        for entry in &self.entries[first..last] {
            let item = match &entry.missing_from {
                Some(table) => Err(Skipped::failed(&entry.key, format!("{table} names it, and it is not there"))),
                None => self.sample(entry),
            };
            if each(item).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Folder {
    fn sample(&self, entry: &Entry) -> Result<Sample, Skipped> {
        let mut values = match self.metadata.get(&entry.path) {
            Some(values) => values.clone(),
            None => vec![Value::Missing; self.schema.columns.len()],
        };
        if self.texts_beside {
            let text = entry.path.with_extension("txt");
            match std::fs::read_to_string(&text) {
                Ok(caption) => values[0] = Value::Text(caption.trim_end().to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let reason = format!("its caption {} cannot be read: {error}", text.display());
                    return Err(Skipped::failed(&entry.key, reason));
                }
            }
        }
        Ok(Sample { key: entry.key.clone(), pieces: vec![Piece::Image(Image::File(entry.path.clone()))], values })
    }
}
