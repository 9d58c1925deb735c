//! OBELICS: parquet with a document a row, as two lists of the same length: at each place either an image or a text.

use std::path::{Path, PathBuf};

use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray};
use arrow_schema::{DataType, SchemaRef};

use super::{
    Each, KEYS, ShardInput, Source, SourceOptions,
    parquet::{Groups, column, divide, image_of, key_at, kind_of, schema_of, value_at},
    unreadable,
};
use crate::{
    dataset::sample::{Column, Kind, Layout, Piece, Sample, Schema, Skipped, Value},
    error::Result,
};

/// Columns that tell that a file holds documents.
const COLUMNS: [&str; 2] = ["images", "texts"];

/// Files with a document a row.
#[derive(Debug)]
pub(super) struct Documents {
    schema: Schema,
    shards: Vec<ShardInput>,
    groups: Vec<Groups>,
    key: Option<String>,
    root: Option<PathBuf>,
}

/// Whether a file holds documents.
pub(super) fn holds_documents(schema: &SchemaRef) -> bool {
    let is_list = |name: &&str| {
        let kind = schema.field_with_name(name).map(|field| field.data_type());
        matches!(kind, Ok(DataType::List(_) | DataType::LargeList(_)))
    };
    COLUMNS.iter().all(is_list)
}

impl Documents {
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let schema = schema_of(&paths[0])?;
        let kind = |name: &str| schema.field_with_name(name).ok().and_then(|field| kind_of(field.data_type()));
        let key = match &options.key_column {
            Some(name) => Some(name.clone()),
            None => KEYS.iter().find(|name| kind(name).is_some()).map(|name| (*name).to_owned()),
        };
        let mut columns = Vec::new();
        for column in &options.columns {
            let missing = || unreadable(&paths[0], format!("it has no column {:?} of text or numbers", column.name));
            columns.push(Column { name: column.name.clone(), kind: kind(&column.name).ok_or_else(missing)? });
        }
        let wanted: Vec<String> = columns.iter().map(|column| column.name.clone()).chain(key.clone()).collect();
        let (shards, groups) = divide(paths, options.shard_size, |path, schema| {
            if !holds_documents(schema) {
                return Err(unreadable(path, "it has no lists \"images\" and \"texts\""));
            }
            match wanted.iter().find(|name| schema.field_with_name(name).is_err()) {
                Some(name) => Err(unreadable(path, format!("it has no column {name:?}"))),
                None => Ok(()),
            }
        })?;
        let schema = Schema { layout: Layout::Interleaved, columns };
        Ok(Self { schema, shards, groups, key, root: options.root.clone() })
    }

    fn sample(&self, batch: &RecordBatch, row: usize, number: String, root: &Path) -> Result<Sample, Skipped> {
        let key = key_at(batch, self.key.as_deref(), row, number);
        let fail = |reason: String| Skipped::failed(&key, reason);
        let [images, texts] = COLUMNS.map(|name| list_at(column(batch, name), row));
        let (images, texts) = images.zip(texts).ok_or_else(|| fail("images or texts are null".to_owned()))?;
        if images.len() != texts.len() {
            return Err(fail(format!("it has {} images and {} texts, not as many", images.len(), texts.len())));
        }
        let mut pieces = Vec::with_capacity(images.len());
        for place in 0..images.len() {
            match (images.is_null(place), value_at(&texts, place, Kind::Text)) {
                (false, Ok(Value::Text(text))) if !text.is_empty() => {
                    return Err(fail(format!("place {place} holds an image and a text, so their order is unknown")));
                }
                (false, _) => pieces.push(Piece::Image(image_of(&images, place, root))),
                (true, Ok(Value::Text(text))) => pieces.push(Piece::Text(text)),
                (true, Ok(_)) => {}
                (true, Err(reason)) => return Err(fail(format!("text {place} {reason}"))),
            }
        }
        let value = |of: &Column| {
            value_at(column(batch, &of.name), row, of.kind)
                .map_err(|reason| fail(format!("column {} {reason}", of.name)))
        };
        let values = self.schema.columns.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Sample { key, pieces, values })
    }
}

fn list_at(column: &ArrayRef, row: usize) -> Option<ArrayRef> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value(row)),
        _ => column.as_list_opt::<i64>().map(|list| list.value(row)),
    }
}

impl Source for Documents {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        let names: Vec<String> = COLUMNS
            .map(str::to_owned)
            .into_iter()
            .chain(self.key.clone())
            .chain(self.schema.columns.iter().map(|column| column.name.clone()))
            .collect();
        let sample = |batch: &RecordBatch, row, number, root: &Path| self.sample(batch, row, number, root);
        self.groups[shard].read(&names, self.root.as_deref(), each, sample);
        Ok(())
    }
}
