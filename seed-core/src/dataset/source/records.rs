//! Records of JSON one by one, without reading the file as a whole: a line each, or the elements of one array.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value as Json;

use super::{Each, ShardInput, SourceOptions, files, fingerprint, unreadable};
use crate::{
    dataset::sample::{Column, Kind, Sample, Skipped, Value},
    error::{Error, Result},
};

/// A file of records, and where its shards begin.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    in_array: bool,
    /// Offset of each shard's first record, and how many records it has.
    shards: Vec<(u64, usize)>,
    bytes: u64,
}

impl RecordFile {
    /// Finds the shards of `per_shard` lines, of any text.
    pub(super) fn lines(path: &Path, per_shard: usize) -> Result<Self> {
        Self::scan(path, Records::resume(path, 0, false)?, per_shard, |_| {})
    }

    /// Finds the shards of `per_shard` records of JSON; `visit` sees each record that is whole.
    pub(super) fn json(path: &Path, per_shard: usize, visit: impl FnMut(&[u8])) -> Result<Self> {
        Self::scan(path, Records::open(path)?, per_shard, visit)
    }

    fn scan(path: &Path, mut reader: Records, per_shard: usize, mut visit: impl FnMut(&[u8])) -> Result<Self> {
        let in_array = reader.in_array;
        let mut shards: Vec<(u64, usize)> = Vec::new();
        while let Some(found) = reader.next().map_err(|source| Error::Read { path: path.to_owned(), source })? {
            match shards.last_mut() {
                Some((_, count)) if *count < per_shard => *count += 1,
                _ => shards.push((found.offset, 1)),
            }
            if let Ok(record) = found.record {
                visit(&record);
            }
        }
        if shards.is_empty() {
            return Err(unreadable(path, "it holds no records"));
        }
        Ok(Self { path: path.to_owned(), in_array, shards, bytes: reader.offset })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn shard_inputs(&self) -> Vec<ShardInput> {
        let name = self.path.display().to_string();
        let mut first = 0;
        let input = |&(offset, count): &(u64, usize)| {
            let range = [first, first + count];
            first += count;
            let numbers = [offset, count as u64, self.bytes].map(u64::to_le_bytes);
            let parts = [name.as_bytes()].into_iter().chain(numbers.iter().map(|bytes| bytes.as_slice()));
            ShardInput {
                fingerprint: fingerprint(parts),
                name: format!("{name} [{}..{}]", range[0], range[1]),
                samples: Some(count as u64),
            }
        };
        self.shards.iter().map(input).collect()
    }

    /// Calls `each` with the number of every record of a shard, and the record or what is wrong with it.
    pub(super) fn read(
        &self,
        shard: usize,
        mut each: impl FnMut(usize, Result<Vec<u8>, String>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (offset, count) = self.shards[shard];
        let first: usize = self.shards[..shard].iter().map(|(_, count)| count).sum();
        let mut reader = Records::resume(&self.path, offset, self.in_array)?;
        for number in first..first + count {
            let found = match reader.next() {
                Ok(Some(found)) => found.record,
                Ok(None) => Err(format!("{} became shorter while it was read", self.path.display())),
                Err(error) => Err(format!("cannot read {}: {error}", self.path.display())),
            };
            if each(number, found).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The shards of some files of JSON records.
#[derive(Debug)]
pub(super) struct RecordShards(Vec<(Arc<RecordFile>, usize, PathBuf)>);

impl RecordShards {
    /// Finds the shards; `visit` sees each record that is one.
    pub(super) fn open(
        paths: &[PathBuf],
        options: &SourceOptions,
        mut visit: impl FnMut(&Json),
    ) -> Result<(Vec<ShardInput>, Self)> {
        let (mut inputs, mut parts) = (Vec::new(), Vec::new());
        for path in paths {
            let file = Arc::new(RecordFile::json(path, options.shard_size, |record| {
                if let Ok(record) = serde_json::from_slice(record) {
                    visit(&record);
                }
            })?);
            let root = files::root_of(path, options.root.as_deref());
            parts.extend((0..file.shards.len()).map(|shard| (file.clone(), shard, root.clone())));
            inputs.extend(file.shard_inputs());
        }
        Ok((inputs, Self(parts)))
    }

    /// Reads a shard: `sample` makes an item of a record, a key by its number in the file, and the folder that relative paths
    /// start from.
    pub(super) fn read(
        &self,
        shard: usize,
        each: Each<'_>,
        sample: impl Fn(&Json, String, &Path) -> Result<Sample, Skipped>,
    ) -> Result<()> {
        let (file, shard, root) = &self.0[shard];
        file.read(*shard, |number, record| {
            let number = format!("{}#{number}", file.path.display());
            let parse = |bytes: Vec<u8>| {
                serde_json::from_slice(&bytes).map_err(|error| format!("it is no record of JSON: {error}"))
            };
            each(match record.and_then(parse) {
                Ok(record) => sample(&record, number, root),
                Err(reason) => Err(Skipped::failed(number, reason)),
            })
        })
    }
}

/// A record's key as the field that was found says it, or else `number`.
pub(super) fn key_of(found: Option<&Json>, number: String) -> String {
    match found.map(|key| Value::from_json(key, Kind::Text)) {
        Some(Ok(Value::Text(key))) => key,
        _ => number,
    }
}

/// The fields of a record that travel along.
pub(super) fn values_of(record: &Json, columns: &[Column]) -> Result<Vec<Value>, String> {
    let value = |column: &Column| {
        let json = record.get(&column.name).unwrap_or(&Json::Null);
        Value::from_json(json, column.kind).map_err(|reason| format!("its field {} {reason}", column.name))
    };
    columns.iter().map(value).collect()
}

struct Found {
    offset: u64,
    record: Result<Vec<u8>, String>,
}

/// What some editors put before UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

struct Records {
    reader: BufReader<File>,
    offset: u64,
    in_array: bool,
    /// Whether the end of the array has been found, or of the file before it.
    ended: bool,
}

impl Records {
    fn open(path: &Path) -> Result<Self> {
        let mut records = Self::resume(path, 0, false)?;
        let fail = |source| Error::Read { path: path.to_owned(), source };
        records.skip(|byte| byte.is_ascii_whitespace()).map_err(fail)?;
        if records.peek().map_err(fail)? == Some(b'[') {
            records.in_array = true;
            records.consume(1);
        }
        Ok(records)
    }

    fn resume(path: &Path, offset: u64, in_array: bool) -> Result<Self> {
        let fail = |source| Error::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(fail)?;
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let mut records = Self { reader: BufReader::with_capacity(1 << 16, file), offset, in_array, ended: false };
        if offset == 0 && records.reader.fill_buf().map_err(fail)?.starts_with(BYTE_ORDER_MARK) {
            records.consume(BYTE_ORDER_MARK.len());
        }
        Ok(records)
    }

    fn next(&mut self) -> std::io::Result<Option<Found>> {
        match self.in_array {
            true => self.next_element(),
            false => self.next_line(),
        }
    }

    fn next_line(&mut self) -> std::io::Result<Option<Found>> {
        self.skip(|byte| byte.is_ascii_whitespace())?;
        let offset = self.offset;
        let mut line = Vec::new();
        self.offset += self.reader.read_until(b'\n', &mut line)? as u64;
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        Ok((!line.is_empty()).then_some(Found { offset, record: Ok(line) }))
    }

    /// The element at hand. What is wrong with the end of the array counts as an element more: a file that breaks off between two
    /// elements has lost some as well.
    fn next_element(&mut self) -> std::io::Result<Option<Found>> {
        if self.ended {
            return Ok(None);
        }
        self.skip(|byte| byte.is_ascii_whitespace() || byte == b',')?;
        let offset = self.offset;
        let (mut element, mut depth, mut in_text, mut escaped) = (Vec::new(), 0usize, false, false);
        loop {
            let Some(byte) = self.peek()? else {
                self.ended = true;
                let reason = "the file ends in the middle of the array; fetch it again".to_owned();
                return Ok(Some(Found { offset, record: Err(reason) }));
            };
            if in_text {
                in_text = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b'"' => in_text = true,
                    b'{' | b'[' => depth += 1,
                    b']' if depth == 0 && element.is_empty() => return self.end(offset),
                    b']' | b',' if depth == 0 => return Ok(Some(Found { offset, record: Ok(element) })),
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            element.push(byte);
            self.consume(1);
        }
    }

    /// The end of the array, whose bracket is at `offset`; what follows it is an element that cannot be read.
    fn end(&mut self, offset: u64) -> std::io::Result<Option<Found>> {
        self.ended = true;
        self.consume(1);
        self.skip(|byte| byte.is_ascii_whitespace())?;
        let reason = "more follows the end of the array; give one array a file, or a record a line".to_owned();
        Ok(self.peek()?.is_some().then_some(Found { offset, record: Err(reason) }))
    }

    fn skip(&mut self, of: impl Fn(u8) -> bool) -> std::io::Result<()> {
        while self.peek()?.is_some_and(&of) {
            self.consume(1);
        }
        Ok(())
    }

    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.offset += count as u64;
    }
}

/// The first record of a file, for finding out what the file is; none when it has none.
pub(super) fn first(path: &Path) -> Option<serde_json::Map<String, Json>> {
    let record = Records::open(path).ok()?.next().ok()??.record.ok()?;
    serde_json::from_slice(&record).ok()
}

/// The first bytes of a file, at most `count`.
pub(super) fn head(path: &Path, count: u64) -> Result<Vec<u8>> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(count).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_all(file: &RecordFile) -> Vec<(usize, Result<Json, String>)> {
        let mut found = Vec::new();
        for shard in 0..file.shards.len() {
            file.read(shard, |number, record| {
                let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(|error| error.to_string());
                found.push((number, record.and_then(parse)));
                ControlFlow::Continue(())
            })
            .unwrap();
        }
        found
    }

    proptest! {
        /// Arrays and lines hold the same records, whatever stands in their texts and wherever shards begin.
        #[test]
        fn arrays_and_lines_are_read_alike(texts in prop::collection::vec(any::<String>(), 1..20), size in 1usize..7) {
            let records: Vec<Json> =
                texts.iter().map(|text| json!({"id": text, "list": [1, {"deep": format!("]}},{text}")}]})).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("records");
            let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
            let array = serde_json::to_string_pretty(&records).unwrap();
            for text in [lines, array] {
                std::fs::write(&path, text).unwrap();
                let mut visited = 0;
                let file = RecordFile::json(&path, size, |_| visited += 1).unwrap();
                prop_assert_eq!((visited, file.shards.len()), (records.len(), records.len().div_ceil(size)));
                let found = read_all(&file);
                prop_assert!(found.iter().enumerate().all(|(i, (number, _))| i == *number));
                let found: Vec<Json> = found.into_iter().map(|(_, record)| record.unwrap()).collect();
                prop_assert_eq!(&found, &records);
            }
        }
    }

    #[test]
    fn an_array_that_breaks_off_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        std::fs::write(&path, r#"[{"id": 1}, {"id": 2}, {"id""#).unwrap();
        let file = RecordFile::json(&path, 2, |_| {}).unwrap();
        let found = read_all(&file);
        assert_eq!(found.len(), 3);
        assert!(found[2].1.as_ref().unwrap_err().contains("ends in the middle"), "{found:?}");
    }

    #[test]
    fn what_is_lost_at_the_end_of_an_array_is_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        for (text, records, reason) in [
            (r#"[{"id": 1}, {"id": 2},"#, 2, "ends in the middle"),
            ("[{\"id\": 1}\n,\n", 1, "ends in the middle"),
            (r#"[{"id": 1}][{"id": 2}]"#, 1, "more follows"),
            ("[{\"id\": 1}, {\"id\": 2}]\n{\"id\": 3}\n", 2, "more follows"),
            (r#"[{"id": 1}, {"id": 2}, ]"#, 2, ""),
            ("[{\"id\": 1}] \n", 1, ""),
        ] {
            std::fs::write(&path, text).unwrap();
            for size in 1..4 {
                let found = read_all(&RecordFile::json(&path, size, |_| {}).unwrap());
                let (whole, broken): (Vec<_>, Vec<_>) =
                    found.into_iter().map(|(_, record)| record).partition(Result::is_ok);
                assert_eq!((whole.len(), broken.len()), (records, usize::from(!reason.is_empty())), "{text}");
                assert!(broken.iter().all(|record| record.as_ref().unwrap_err().contains(reason)), "{broken:?}");
            }
        }
    }
}
