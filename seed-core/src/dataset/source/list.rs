//! Lists of paths: lines of text, or CSV with a column of paths.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use csv::{ByteRecord, Position, StringRecord};

use super::{
    CAPTION, CAPTIONS, Each, ShardInput, Source, SourceOptions, delimited, files, fingerprint,
    records::{BYTE_ORDER_MARK, RecordFile},
    unreadable,
};
use crate::{
    dataset::sample::{Column, Layout, Piece, Sample, Schema, Skipped, Value},
    error::{Error, Result},
};

/// Names under which the path is looked for, in this order.
pub(super) const PATHS: [&str; 7] = ["path", "file_name", "filename", "image_path", "filepath", "image", "file"];

/// Lists and the paths in them.
#[derive(Debug)]
pub(super) struct List {
    schema: Schema,
    shards: Vec<ShardInput>,
    /// Which part of which list each shard is.
    parts: Vec<Part>,
    shard_size: usize,
}

#[derive(Debug)]
enum Part {
    /// A shard of a file of lines.
    Lines { file: std::sync::Arc<RecordFile>, shard: usize, root: PathBuf },
    /// From standard input.
    Memory { lines: Vec<Vec<u8>>, first: usize, root: PathBuf },
    /// Rows of a CSV file from a position on.
    Csv { file: PathBuf, from: Position, columns: std::sync::Arc<CsvColumns>, root: PathBuf },
}

/// Where in a row of CSV the parts of a sample are.
#[derive(Debug)]
struct CsvColumns {
    /// Of the header.
    count: usize,
    path: usize,
    /// One for each column of the schema.
    values: Vec<(usize, Column)>,
}

impl List {
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let schema = Schema { layout: Layout::One, columns: Vec::new() };
        let mut list = Self { schema, shards: Vec::new(), parts: Vec::new(), shard_size: options.shard_size };
        for path in paths {
            match path.as_os_str() == "-" {
                true => list.add_standard_input(options)?,
                false if files::ends_in(&path.to_string_lossy(), &["csv", "tsv"]) => list.add_csv(path, options)?,
                false => list.add_lines(path, options)?,
            }
        }
        Ok(list)
    }

    fn add_lines(&mut self, path: &Path, options: &SourceOptions) -> Result<()> {
        let file = std::sync::Arc::new(RecordFile::lines(path, self.shard_size)?);
        let root = files::root_of(path, options.root.as_deref());
        for (shard, input) in file.shard_inputs().into_iter().enumerate() {
            self.shards.push(input);
            self.parts.push(Part::Lines { file: file.clone(), shard, root: root.clone() });
        }
        Ok(())
    }

    fn add_standard_input(&mut self, options: &SourceOptions) -> Result<()> {
        let mut text = Vec::new();
        let fail = |source| Error::Read { path: "standard input".into(), source };
        std::io::stdin().lock().read_to_end(&mut text).map_err(fail)?;
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        let lines: Vec<&[u8]> =
            text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
        for (i, lines) in lines.chunks(self.shard_size).enumerate() {
            let first = i * self.shard_size;
            self.shards.push(ShardInput {
                name: format!("standard input [{first}..{}]", first + lines.len()),
                samples: Some(lines.len() as u64),
                fingerprint: fingerprint(lines.iter().copied()),
            });
            let lines = lines.iter().map(|&line| line.to_owned()).collect();
            self.parts.push(Part::Memory { lines, first, root: options.root.clone().unwrap_or_default() });
        }
        match self.shards.is_empty() {
            true => Err(Error::Input { name: "standard input".to_owned(), reason: "it holds no paths".to_owned() }),
            false => Ok(()),
        }
    }

    fn add_csv(&mut self, path: &Path, options: &SourceOptions) -> Result<()> {
        let mut reader = delimited::reader(path)?;
        let headers = reader.headers().map_err(|error| unreadable(path, error))?.clone();
        let find = |name: &str| headers.iter().position(|header| header == name);
        let position = match &options.image_column {
            Some(name) => find(name),
            None => PATHS.iter().find_map(|name| find(name)),
        };
        let Some(position) = position else {
            let known = headers.iter().collect::<Vec<_>>().join(", ");
            let reason = format!("none of its columns ({known}) is known to hold paths; name one with --image-column");
            return Err(unreadable(path, reason));
        };
        let mut values = Vec::new();
        let caption = match &options.caption_column {
            Some(name) => Some(find(name).ok_or_else(|| unreadable(path, format!("it has no column {name:?}")))?),
            None => CAPTIONS.iter().find_map(|name| find(name)),
        };
        values.extend(caption.map(|index| (index, Column::text(CAPTION))));
        for column in &options.columns {
            let missing = || unreadable(path, format!("it has no column {:?}", column.name));
            values.push((find(&column.name).ok_or_else(missing)?, column.clone()));
        }
        let columns: Vec<Column> = values.iter().map(|(_, column)| column.clone()).collect();
        if !self.shards.is_empty() && columns != self.schema.columns {
            return Err(unreadable(path, "its columns differ from those of the lists before it"));
        }
        self.schema.columns = columns;
        let columns = std::sync::Arc::new(CsvColumns { count: headers.len(), path: position, values });
        let root = files::root_of(path, options.root.as_deref());
        let mut record = ByteRecord::new();
        let (mut rows, mut last_row) = (0, Position::new());
        loop {
            let from = reader.position().clone();
            if !reader.read_byte_record(&mut record).map_err(|error| unreadable(path, error))? {
                break;
            }
            if rows % self.shard_size == 0 {
                let parts = [path.as_os_str().as_encoded_bytes(), &from.byte().to_le_bytes()];
                let name = format!("{} [{rows}..]", path.display());
                self.shards.push(ShardInput { name, samples: Some(0), fingerprint: fingerprint(parts) });
                let part =
                    Part::Csv { file: path.into(), from: from.clone(), columns: columns.clone(), root: root.clone() };
                self.parts.push(part);
            }
            rows += 1;
            last_row = from;
            let last = self.shards.last_mut().expect("the first row begins a shard");
            last.samples = last.samples.map(|samples| samples + 1);
        }
        match rows {
            0 => Err(unreadable(path, "it holds no rows")),
            _ => delimited::check_end(path, &last_row),
        }
    }
}

impl Source for List {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        let values = vec![Value::Missing; self.schema.columns.len()];
        // `place` says where a line is that is no text.
        let plain = |root: &Path, line: Result<Vec<u8>, String>, place: &dyn Fn() -> String| {
            let not_text = |_| "the line is not UTF-8 text".to_owned();
            match line.and_then(|line| String::from_utf8(line).map_err(not_text)) {
                Ok(line) => {
                    let pieces = vec![Piece::Image(files::image_at(root, &line))];
                    Ok(Sample { key: line, pieces, values: values.clone() })
                }
                Err(reason) => Err(Skipped::failed(place(), reason)),
            }
        };
        match &self.parts[shard] {
            Part::Lines { file, shard, root } => file.read(*shard, |number, line| {
                each(plain(root, line, &|| format!("{}#{number}", file.path().display())))
            }),
            Part::Memory { lines, first, root } => {
                for (i, line) in lines.iter().enumerate() {
                    let place = || format!("standard input#{}", first + i);
                    if each(plain(root, Ok(line.clone()), &place)).is_break() {
                        break;
                    }
                }
                Ok(())
            }
            Part::Csv { file, from, columns, root } => {
                let count = self.shards[shard].samples.unwrap_or(0);
                read_csv(file, from, columns, root, count, each)
            }
        }
    }
}

fn read_csv(path: &Path, from: &Position, columns: &CsvColumns, root: &Path, count: u64, each: Each<'_>) -> Result<()> {
    let mut reader = delimited::reader(path)?;
    reader.headers().map_err(|error| unreadable(path, error))?; // before the seek: the first record read is none of them
    reader.seek(from.clone()).map_err(|error| unreadable(path, error))?;
    for number in 0..count {
        let mut record = StringRecord::new();
        let line = format!("{}:{}", path.display(), reader.position().line());
        let item = match reader.read_record(&mut record) {
            Ok(true) => csv_sample(&record, columns, root).map_err(|reason| Skipped::failed(&line, reason)),
            Ok(false) => Err(Skipped::failed(format!("{line}#{number}"), "the file became shorter while it was read")),
            Err(error) => Err(Skipped::failed(&line, error)),
        };
        if each(item).is_break() {
            break;
        }
    }
    Ok(())
}

fn csv_sample(record: &StringRecord, columns: &CsvColumns, root: &Path) -> Result<Sample, String> {
    delimited::check_length(record.len(), columns.count)?;
    let path = record.get(columns.path).unwrap_or_default();
    if path.is_empty() {
        return Err("it names no image".to_owned());
    }
    let value = |(index, column): &(usize, Column)| {
        let text = record.get(*index).unwrap_or_default();
        Value::from_text(text, column.kind).map_err(|reason| format!("column {} {reason}", column.name))
    };
    let values = columns.values.iter().map(value).collect::<Result<_, _>>()?;
    Ok(Sample { key: path.to_owned(), pieces: vec![Piece::Image(files::image_at(root, path))], values })
}
