//! Parquet: `key`, `codes` as `fixed_size_list<uint16>[tokens]`, then the columns; and the features that Hugging Face's
//! `datasets` reads from the schema's metadata.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    UInt16Array, cast::AsArray, types::UInt16Type,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, FieldRef, Schema as ArrowSchema};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::json;

use super::{Files, ReadBack, Shape, Sink, damaged, read_error, write_error};
use crate::{
    dataset::sample::{Column, Kind, Layout, Piece, Row, Value},
    error::{Error, Result},
};

/// Rows that are turned into columns at a time.
const ROWS_AT_ONCE: usize = 1024;

pub(super) struct Parquet;

impl Files for Parquet {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        vec![format!("{shard:05}.parquet").into()]
    }

    fn check(&self, _: &Shape) -> Result<()> {
        Ok(())
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Rows::create(&paths[0], shape, true)?))
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        let path = &paths[0];
        for batch in batches(path)? {
            let batch = batch?;
            let fail = |name: &str| damaged(path, format!("it has no column {name:?} as this program writes it"));
            let column = |name: &str| batch.column_by_name(name).ok_or_else(|| fail(name));
            let keys = column("key")?.as_string_opt::<i32>().ok_or_else(|| fail("key"))?;
            let codes = column("codes")?;
            for row in 0..batch.num_rows() {
                let of = match shape.schema.layout {
                    Layout::One => codes.as_fixed_size_list_opt().map(|list| vec![codes_at(list, row)]),
                    _ => codes.as_list_opt::<i32>().and_then(|lists| {
                        let list = lists.value(row);
                        let list = list.as_fixed_size_list_opt()?;
                        Some((0..list.len()).filter(|&i| list.is_valid(i)).map(|i| codes_at(list, i)).collect())
                    }),
                };
                each(keys.value(row), &of.ok_or_else(|| fail("codes"))?)?;
            }
        }
        Ok(())
    }
}

fn codes_at(list: &FixedSizeListArray, row: usize) -> Vec<u64> {
    let values = list.value(row);
    values
        .as_primitive_opt::<UInt16Type>()
        .map_or(Vec::new(), |codes| codes.values().iter().map(|&c| c.into()).collect())
}

fn batches(path: &Path) -> Result<impl Iterator<Item = Result<RecordBatch>> + '_> {
    let file = File::open(path).map_err(read_error(path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
    let reader = reader.map_err(|error| damaged(path, error))?;
    Ok(reader.map(move |batch| batch.map_err(|error| damaged(path, error))))
}

/// The column `key` of a file.
pub(super) fn keys(path: &Path) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for batch in batches(path)? {
        let batch = batch?;
        let column = batch.column_by_name("key").and_then(|column| column.as_string_opt::<i32>());
        let column = column.ok_or_else(|| damaged(path, "it has no column \"key\" of text"))?;
        keys.extend((0..column.len()).map(|row| column.value(row).to_owned()));
    }
    Ok(keys)
}

/// Writes rows, with or without their codes.
pub(super) struct Rows {
    path: PathBuf,
    shape: Shape,
    with_codes: bool,
    schema: Arc<ArrowSchema>,
    writer: ArrowWriter<File>,
    waiting: Vec<Row>,
}

impl Rows {
    pub(super) fn create(path: &Path, shape: &Shape, with_codes: bool) -> Result<Self> {
        let schema = Arc::new(arrow_schema(shape, with_codes));
        let file = File::create(path).map_err(write_error(path))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(true)
            .build();
        let writer =
            ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_owned(), shape: shape.clone(), with_codes, schema, writer, waiting: Vec::new() })
    }

    pub(super) fn write(&mut self, row: &Row) -> Result<()> {
        self.waiting.push(row.clone());
        if self.waiting.len() == ROWS_AT_ONCE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.key)))];
        if self.with_codes {
            columns.extend(piece_columns(&rows, &self.shape));
        }
        for (i, column) in self.shape.schema.columns.iter().enumerate() {
            columns.push(value_column(&rows, i, column.kind));
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns).expect("columns are made to the schema");
        self.writer.write(&batch).map_err(|error| failed(&self.path, error))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        if !self.waiting.is_empty() {
            self.flush()?;
        }
        self.writer.close().map(drop).map_err(|error| failed(&self.path, error))
    }
}

impl Sink for Rows {
    fn write(&mut self, row: &Row) -> Result<()> {
        Rows::write(self, row)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Rows::finish(*self)
    }
}

fn failed(path: &Path, error: parquet::errors::ParquetError) -> Error {
    let source = match error {
        parquet::errors::ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => *error,
            Err(error) => std::io::Error::other(error.to_string()),
        },
        error => std::io::Error::other(error.to_string()),
    };
    Error::Write { path: path.to_owned(), source }
}

fn arrow_schema(shape: &Shape, with_codes: bool) -> ArrowSchema {
    let mut fields = vec![Field::new("key", DataType::Utf8, false)];
    let mut features = vec![("key".to_owned(), value_feature("string"))];
    if with_codes {
        let one = json!({"feature": value_feature("uint16"), "length": shape.tokens, "_type": "Sequence"});
        let several = json!({"feature": one.clone(), "_type": "Sequence"});
        match shape.schema.layout {
            Layout::One => {
                fields.push(Field::new("codes", codes_type(shape), false));
                features.push(("codes".to_owned(), one));
            }
            layout => {
                if layout == Layout::Interleaved {
                    fields.push(Field::new("texts", DataType::List(text_item()), false));
                    let texts = json!({"feature": value_feature("string"), "_type": "Sequence"});
                    features.push(("texts".to_owned(), texts));
                }
                fields.push(Field::new("codes", DataType::List(codes_item(shape)), false));
                features.push(("codes".to_owned(), several));
            }
        }
    }
    for Column { name, kind } in &shape.schema.columns {
        let (data, feature) = match kind {
            Kind::Text => (DataType::Utf8, "string"),
            Kind::Integer => (DataType::Int64, "int64"),
            Kind::Float => (DataType::Float64, "float64"),
            Kind::Boolean => (DataType::Boolean, "bool"),
        };
        fields.push(Field::new(name, data, true));
        features.push((name.clone(), value_feature(feature)));
    }
    // By hand, because the order of features is that of the columns.
    let features: Vec<String> = features.iter().map(|(name, json)| format!("{}: {json}", json!(name))).collect();
    let metadata = format!("{{\"info\": {{\"features\": {{{}}}}}}}", features.join(", "));
    ArrowSchema::new_with_metadata(fields, HashMap::from([("huggingface".to_owned(), metadata)]))
}

fn value_feature(kind: &str) -> serde_json::Value {
    json!({"dtype": kind, "_type": "Value"})
}

fn code_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::UInt16, true))
}

fn codes_type(shape: &Shape) -> DataType {
    DataType::FixedSizeList(code_item(), shape.tokens as i32)
}

fn codes_item(shape: &Shape) -> FieldRef {
    Arc::new(Field::new("item", codes_type(shape), true))
}

fn text_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Utf8, true))
}

/// `codes`, with `texts` before it for documents.
fn piece_columns(rows: &[Row], shape: &Shape) -> Vec<ArrayRef> {
    if shape.schema.layout == Layout::One {
        let codes = rows.iter().flat_map(Row::codes).flatten().copied();
        let codes = FixedSizeListArray::new(
            code_item(),
            shape.tokens as i32,
            Arc::new(UInt16Array::from_iter_values(codes)),
            None,
        );
        return vec![Arc::new(codes)];
    }
    let interleaved = shape.schema.layout == Layout::Interleaved;
    let pieces = || rows.iter().flat_map(|row| &row.pieces);
    let offsets = || OffsetBuffer::from_lengths(rows.iter().map(|row| row.pieces.len()));
    let mut columns: Vec<ArrayRef> = Vec::new();
    if interleaved {
        let texts: StringArray = pieces()
            .map(|piece| match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Image(_) => None,
            })
            .collect();
        columns.push(Arc::new(ListArray::new(text_item(), offsets(), Arc::new(texts), None)));
    }
    let mut codes = Vec::new();
    let mut there = Vec::new();
    for piece in pieces() {
        match piece {
            Piece::Image(image) => codes.extend_from_slice(image),
            Piece::Text(_) => codes.resize(codes.len() + shape.tokens, 0),
        }
        there.push(matches!(piece, Piece::Image(_)));
    }
    let nulls = interleaved.then(|| NullBuffer::from(there));
    let codes = FixedSizeListArray::new(code_item(), shape.tokens as i32, Arc::new(UInt16Array::from(codes)), nulls);
    columns.push(Arc::new(ListArray::new(codes_item(shape), offsets(), Arc::new(codes), None)));
    columns
}

fn value_column(rows: &[Row], column: usize, kind: Kind) -> ArrayRef {
    let values = rows.iter().map(|row| &row.values[column]);
    macro_rules! collect {
        ($array:ty, $value:ident) => {
            Arc::new(
                values
                    .map(|value| match value {
                        Value::$value(value) => Some(value.clone()),
                        _ => None,
                    })
                    .collect::<$array>(),
            )
        };
    }
    match kind {
        Kind::Text => collect!(StringArray, Text),
        Kind::Integer => collect!(Int64Array, Integer),
        Kind::Float => collect!(Float64Array, Float),
        Kind::Boolean => collect!(BooleanArray, Boolean),
    }
}
