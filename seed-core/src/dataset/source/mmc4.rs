//! MMC4: JSONL of documents as a list of texts, and images that each belong before one of the texts.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{
    Each, KEYS, ShardInput, Source, SourceOptions, files,
    records::{RecordShards, key_of, values_of},
};
use crate::{
    dataset::sample::{Layout, Piece, Sample, Schema, Skipped},
    error::Result,
};

/// Fields of a document: its texts and its images.
pub(super) const FIELDS: [&str; 2] = ["text_list", "image_info"];

/// Files of documents.
#[derive(Debug)]
pub(super) struct Mmc4 {
    schema: Schema,
    shards: Vec<ShardInput>,
    records: RecordShards,
    key: Option<String>,
}

impl Mmc4 {
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let (shards, records) = RecordShards::open(paths, options, |_| {})?;
        let schema = Schema { layout: Layout::Interleaved, columns: options.columns.clone() };
        Ok(Self { schema, shards, records, key: options.key_column.clone() })
    }

    fn sample(&self, record: &Json, number: String, root: &Path) -> Result<Sample, Skipped> {
        let named = match &self.key {
            Some(name) => record.get(name),
            None => KEYS.iter().chain(&["url"]).find_map(|name| record.get(name)),
        };
        let key = key_of(named, number);
        let fail = |reason: String| Skipped::failed(&key, reason);
        let list = |name: &str| match record.get(name) {
            Some(Json::Array(list)) => Ok(list.as_slice()),
            _ => Err(fail(format!("it has no list {name:?}"))),
        };
        let (texts, images) = (list(FIELDS[0])?, list(FIELDS[1])?);
        let mut before: Vec<Vec<&str>> = vec![Vec::new(); texts.len()];
        for (i, image) in images.iter().enumerate() {
            let name = image.get("image_name").and_then(Json::as_str);
            let place = image.get("matched_text_index").and_then(Json::as_u64);
            match (name, place.and_then(|place| before.get_mut(place as usize))) {
                (Some(name), Some(images)) => images.push(name),
                (None, _) => return Err(fail(format!("image {i} has no image_name"))),
                (_, None) => return Err(fail(format!("image {i} belongs to none of the {} texts", texts.len()))),
            }
        }
        let mut pieces = Vec::with_capacity(texts.len() + images.len());
        for (text, images) in texts.iter().zip(before) {
            pieces.extend(images.into_iter().map(|name| Piece::Image(files::image_at(root, name))));
            let text = text.as_str().ok_or_else(|| fail(format!("{text} is no text")))?;
            pieces.push(Piece::Text(text.to_owned()));
        }
        let values = values_of(record, &self.schema.columns).map_err(fail)?;
        Ok(Sample { key, pieces, values })
    }
}

impl Source for Mmc4 {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        self.records.read(shard, each, |record, number, root| self.sample(record, number, root))
    }
}
