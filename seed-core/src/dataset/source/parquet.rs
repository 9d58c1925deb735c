//! Parquet with an image a row: Hugging Face's `Image` columns (bytes and path), columns of bytes, columns of paths.

use std::{
    fs::File,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use arrow_array::{Array, ArrayRef, RecordBatch, StructArray, cast::AsArray};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder},
};

use super::{
    CAPTION, CAPTIONS, Each, KEYS, ShardInput, Source, SourceOptions, files, fingerprint, list::PATHS, unreadable,
};
use crate::{
    dataset::sample::{Column, Image, Kind, Layout, Piece, Sample, Schema, Skipped, Value},
    error::{Error, Result},
};

/// Rows that are read at a time; images of a batch are in memory together.
const ROWS_AT_ONCE: usize = 64;
/// Names under which an image is looked for first, in this order.
const IMAGES: [&str; 6] = ["image", "img", "jpg", "png", "webp", "bytes"];

/// Row groups of one file that make a shard.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    pub(super) path: PathBuf,
    /// Number of the first row.
    first: u64,
    groups: Vec<(usize, u64)>,
}

/// Divides files into shards of whole row groups, of at least `shard_size` rows where a file has as many.
pub(super) fn divide(
    paths: &[PathBuf],
    shard_size: usize,
    mut check: impl FnMut(&Path, &SchemaRef) -> Result<()>,
) -> Result<(Vec<ShardInput>, Vec<Groups>)> {
    let (mut inputs, mut parts) = (Vec::new(), Vec::new());
    for path in paths {
        let metadata = metadata(path)?;
        check(path, metadata.schema())?;
        let rows: Vec<u64> = metadata.metadata().row_groups().iter().map(|group| group.num_rows() as u64).collect();
        let mut first = 0;
        let mut groups = Vec::new();
        for (i, &count) in rows.iter().enumerate() {
            groups.push((i, count));
            let size: u64 = groups.iter().map(|(_, count)| count).sum();
            if size >= shard_size as u64 || i + 1 == rows.len() {
                let name = format!("{} [{first}..{}]", path.display(), first + size);
                let offsets = metadata.metadata().row_group(i).compressed_size().to_le_bytes();
                let parts_of_name = [name.as_bytes(), &offsets];
                inputs.push(ShardInput { fingerprint: fingerprint(parts_of_name), samples: Some(size), name });
                parts.push(Groups { path: path.clone(), first, groups: std::mem::take(&mut groups) });
                first += size;
            }
        }
    }
    Ok((inputs, parts))
}

fn metadata(path: &Path) -> Result<ArrowReaderMetadata> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    ArrowReaderMetadata::load(&file, Default::default()).map_err(|error| unreadable(path, error))
}

/// The columns of a file.
pub(super) fn schema_of(path: &Path) -> Result<SchemaRef> {
    Ok(metadata(path)?.schema().clone())
}

impl Groups {
    /// Reads the columns `names`: `sample` makes the item of a row, from its batch, its place in it, a key by its number in the
    /// file, and the folder that relative paths start from. A damaged page takes every row of its group from there on.
    pub(super) fn read(
        &self,
        names: &[String],
        root: Option<&Path>,
        each: Each<'_>,
        sample: impl Fn(&RecordBatch, usize, String, &Path) -> Result<Sample, Skipped>,
    ) {
        let root = files::root_of(&self.path, root);
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let numbered = |row: u64| format!("{stem}-{row:09}");
        let mut first = self.first;
        for &(group, count) in &self.groups {
            let mut done = 0;
            let outcome = self.read_group(group, names, |batch| {
                for row in 0..batch.num_rows() {
                    let item = sample(batch, row, numbered(first + done), &root);
                    done += 1;
                    if each(item).is_break() {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            });
            match outcome {
                Ok(ControlFlow::Break(())) => return,
                Ok(ControlFlow::Continue(())) if done == count => {}
                outcome => {
                    let reason = outcome.err().unwrap_or_else(|| format!("it has {done} of {count} rows"));
                    for row in first + done..first + count {
                        let reason = format!("row group {group} cannot be read: {reason}");
                        if each(Err(Skipped::failed(numbered(row), reason))).is_break() {
                            return;
                        }
                    }
                }
            }
            first += count;
        }
    }

    /// The decoder asserts what damaged bytes break: a panic in it is a damaged page like any other.
    fn read_group(
        &self,
        group: usize,
        names: &[String],
        mut rows: impl FnMut(&RecordBatch) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, String> {
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        let caught = |work: &mut dyn FnMut() -> Result<Option<RecordBatch>, String>| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err("its bytes are damaged".to_owned()))
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
        let builder = builder.with_row_groups(vec![group]).with_projection(mask).with_batch_size(ROWS_AT_ONCE);
        let mut reader = builder.build().map_err(|error| error.to_string())?;
        while let Some(batch) = caught(&mut || reader.next().transpose().map_err(|error| error.to_string()))? {
            if rows(&batch).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Files with an image a row.
#[derive(Debug)]
pub(super) struct ParquetImages {
    schema: Schema,
    shards: Vec<ShardInput>,
    groups: Vec<Groups>,
    image: String,
    key: Option<String>,
    caption: Option<String>,
    root: Option<PathBuf>,
}

/// The column of images or paths in a file, or why there is none.
pub(super) fn image_column(schema: &SchemaRef, wanted: Option<&str>) -> Result<String, String> {
    let holds_images = |kind: &DataType| match kind {
        DataType::Struct(fields) => fields.iter().any(|field| field.name() == "bytes" || field.name() == "path"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        _ => false,
    };
    if let Some(name) = wanted {
        let field = schema.field_with_name(name).map_err(|_| format!("it has no column {name:?}"))?;
        return match holds_images(field.data_type()) || kind_of(field.data_type()) == Some(Kind::Text) {
            true => Ok(name.to_owned()),
            false => Err(format!("its column {name:?} is {}, neither images nor paths", field.data_type())),
        };
    }
    let images: Vec<&str> =
        schema.fields().iter().filter(|f| holds_images(f.data_type())).map(|field| field.name().as_str()).collect();
    if let Some(name) = IMAGES.iter().find(|name| images.contains(name)) {
        return Ok((*name).to_owned());
    }
    match images[..] {
        [one] => return Ok(one.to_owned()),
        [] => {}
        _ => return Err(format!("its columns {} may hold images; choose one with --image-column", images.join(", "))),
    }
    let is_text = |name: &&&str| schema.field_with_name(name).is_ok_and(|f| kind_of(f.data_type()) == Some(Kind::Text));
    PATHS.iter().find(is_text).map(|name| (*name).to_owned()).ok_or_else(|| {
        let known = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        format!("none of its columns ({known}) holds images or is known to hold paths; name one with --image-column")
    })
}

/// Kind of the columns that travel along.
pub(super) fn kind_of(kind: &DataType) -> Option<Kind> {
    Some(match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Boolean => Kind::Boolean,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => Kind::Float,
        kind if kind.is_integer() => Kind::Integer,
        DataType::Dictionary(_, values) => return kind_of(values),
        _ => return None,
    })
}

impl ParquetImages {
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let schema = schema_of(&paths[0])?;
        let fail = |reason: String| unreadable(&paths[0], reason);
        let image = image_column(&schema, options.image_column.as_deref()).map_err(fail)?;
        let is_value = |name: &str| schema.field_with_name(name).is_ok_and(|f| kind_of(f.data_type()).is_some());
        let named = |wanted: &Option<String>, known: &[&str]| match wanted {
            Some(name) if !is_value(name) => Err(fail(format!("it has no column {name:?} of text or numbers"))),
            Some(name) => Ok(Some(name.clone())),
            None => Ok(known.iter().find(|name| is_value(name)).map(|name| (*name).to_owned())),
        };
        let key = named(&options.key_column, &KEYS)?;
        let caption = named(&options.caption_column, &CAPTIONS)?;
        let mut columns: Vec<Column> = caption.iter().map(|_| Column::text(CAPTION)).collect();
        for column in &options.columns {
            let found = schema.field_with_name(&column.name).ok().and_then(|field| kind_of(field.data_type()));
            let missing = || fail(format!("it has no column {:?} of text, numbers or booleans", column.name));
            let kind = found.ok_or_else(missing)?;
            // A type that was asked for by name wins over the file's where it can hold it.
            let kind = if column.kind == Kind::Text { kind } else { column.kind };
            columns.push(Column { name: column.name.clone(), kind });
        }
        let used: Vec<&String> = [Some(&image), key.as_ref(), caption.as_ref()]
            .into_iter()
            .flatten()
            .chain(options.columns.iter().map(|c| &c.name))
            .collect();
        let (shards, groups) = divide(paths, options.shard_size, |path, other| {
            let differs = used.iter().find(|name| match (schema.field_with_name(name), other.field_with_name(name)) {
                (Ok(one), Ok(two)) => one.data_type() != two.data_type(),
                _ => true,
            });
            match differs {
                Some(name) => {
                    Err(unreadable(path, format!("its column {name:?} is not as that of {}", paths[0].display())))
                }
                None => Ok(()),
            }
        })?;
        let schema = Schema { layout: Layout::One, columns };
        Ok(Self { schema, shards, groups, image, key, caption, root: options.root.clone() })
    }

    /// Names of the columns behind those of the schema, in order.
    fn value_columns(&self) -> impl Iterator<Item = (&str, Kind)> {
        let caption = self.caption.iter().map(|name| (name.as_str(), Kind::Text));
        let others = self.schema.columns.iter().skip(usize::from(self.caption.is_some()));
        caption.chain(others.map(|column| (column.name.as_str(), column.kind)))
    }
}

impl Source for ParquetImages {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        let mut names: Vec<String> = vec![self.image.clone()];
        names.extend(self.key.clone());
        names.extend(self.value_columns().map(|(name, _)| name.to_owned()));
        let sample = |batch: &RecordBatch, row: usize, number: String, root: &Path| {
            let key = key_at(batch, self.key.as_deref(), row, number);
            let value = |(name, kind)| {
                let value = value_at(column(batch, name), row, kind);
                value.map_err(|reason| Skipped::failed(&key, format!("column {name} {reason}")))
            };
            let values = self.value_columns().map(value).collect::<Result<_, _>>()?;
            let pieces = vec![Piece::Image(image_of(column(batch, &self.image), row, root))];
            Ok(Sample { key, pieces, values })
        };
        self.groups[shard].read(&names, self.root.as_deref(), each, sample);
        Ok(())
    }
}

/// A column that was asked for.
pub(super) fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).expect("reading a group gives the columns that were asked for")
}

/// What the column `name` says of a row, or else `number`.
pub(super) fn key_at(batch: &RecordBatch, name: Option<&str>, row: usize, number: String) -> String {
    match name.map(|name| value_at(column(batch, name), row, Kind::Text)) {
        Some(Ok(Value::Text(key))) => key,
        _ => number,
    }
}

/// The image in a row of a column of structs, bytes or paths.
pub(super) fn image_of(column: &dyn Array, row: usize, root: &Path) -> Image {
    let missing = || Image::Missing("the image is null".to_owned());
    if column.is_null(row) {
        return missing();
    }
    if let Some(parts) = column.as_any().downcast_ref::<StructArray>() {
        let part = |name| parts.column_by_name(name).filter(|part: &&ArrayRef| !part.is_null(row));
        return match (part("bytes"), part("path")) {
            (Some(bytes), _) => image_of(bytes, row, root),
            (None, Some(path)) => image_of(path, row, root),
            (None, None) => missing(),
        };
    }
    match column.data_type() {
        DataType::Binary => Image::Bytes(column.as_binary::<i32>().value(row).to_vec()),
        DataType::LargeBinary => Image::Bytes(column.as_binary::<i64>().value(row).to_vec()),
        DataType::BinaryView => Image::Bytes(column.as_binary_view().value(row).to_vec()),
        _ => match value_at(column, row, Kind::Text) {
            Ok(Value::Text(path)) => files::image_at(root, &path),
            _ => missing(),
        },
    }
}

/// The value in a row of a column of text, numbers or booleans.
pub(super) fn value_at(column: &dyn Array, row: usize, kind: Kind) -> Result<Value, String> {
    use arrow_array::types::*;
    macro_rules! number {
        ($($data:ident: $array:ident as $value:ident),+ $(,)?) => {
            match column.data_type() {
                $(DataType::$data => {
                    let number = column.as_primitive::<$array>().value(row);
                    Value::$value(number.try_into().map_err(|_| format!("is {number}, beyond 64 bits"))?)
                })+
                other => return Err(format!("is of type {other}")),
            }
        };
    }
    if column.is_null(row) {
        return Ok(Value::Missing);
    }
    let value = match column.data_type() {
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::LargeUtf8 => Value::Text(column.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Value::Text(column.as_string_view().value(row).to_owned()),
        DataType::Boolean => Value::Boolean(column.as_boolean().value(row)),
        DataType::Dictionary(_, _) => {
            let dictionary = column.as_any_dictionary();
            return value_at(dictionary.values(), dictionary.normalized_keys()[row], kind);
        }
        DataType::Float16 => Value::Float(column.as_primitive::<Float16Type>().value(row).to_f64()),
        DataType::Float32 => Value::Float(f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        _ => number!(
            Int8: Int8Type as Integer, Int16: Int16Type as Integer, Int32: Int32Type as Integer, Int64: Int64Type as Integer,
            UInt8: UInt8Type as Integer, UInt16: UInt16Type as Integer, UInt32: UInt32Type as Integer,
            UInt64: UInt64Type as Integer,
        ),
    };
    match (kind, value) {
        (Kind::Text, Value::Text(text)) => Ok(Value::Text(text)),
        (Kind::Text, other) => Ok(Value::Text(other.to_json().to_string())),
        (kind, value) => Value::from_json(&value.to_json(), kind),
    }
}
