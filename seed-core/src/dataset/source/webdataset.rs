//! WebDataset: tars in which consecutive members of one key make a sample. The key is the path up to the first dot of
//! its last part, the rest of the name is the field. img2dataset's tars are of this kind.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use super::{CAPTION, Each, ShardInput, Source, SourceOptions, files, fingerprint, records::head};
use crate::{
    dataset::sample::{Column, Image, Kind, Layout, Piece, Sample, Schema, Skipped, Value},
    error::{Error, Result},
    pixels,
};

/// Fields that captions are in, in this order.
const CAPTION_FIELDS: [&str; 3] = ["txt", "caption", "text"];
/// Largest member that is read: above it a tar is damaged or no dataset of images.
const LARGEST_MEMBER: u64 = 2 << 30;

/// Tars, each of which is a shard.
#[derive(Debug)]
pub(super) struct WebDataset {
    schema: Schema,
    shards: Vec<ShardInput>,
    paths: Vec<PathBuf>,
    image: Option<String>,
    caption: Option<String>,
    key: Option<String>,
    columns: Vec<Column>,
    /// Tars of img2dataset that were not fetched to the end.
    unfinished: Vec<bool>,
}

impl WebDataset {
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let stats = |path: &Path| {
            let stem = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!("{}_stats.json", stem.split('.').next().unwrap_or_default()))
        };
        let from_img2dataset = paths.iter().any(|path| stats(path).is_file());
        let input = |path: &PathBuf| {
            let size = std::fs::metadata(path).map_err(|source| Error::Read { path: path.clone(), source })?.len();
            let name = path.display().to_string();
            let parts = [name.as_bytes(), &size.to_le_bytes()];
            Ok(ShardInput { samples: None, fingerprint: fingerprint(parts), name })
        };
        Ok(Self {
            schema: Schema {
                layout: Layout::One,
                columns: [Column::text(CAPTION)].into_iter().chain(options.columns.iter().cloned()).collect(),
            },
            shards: paths.iter().map(input).collect::<Result<_>>()?,
            image: options.image_column.clone(),
            caption: options.caption_column.clone(),
            key: options.key_column.clone(),
            columns: options.columns.clone(),
            unfinished: paths.iter().map(|path| from_img2dataset && !stats(path).is_file()).collect(),
            paths: paths.to_vec(),
        })
    }

    /// What the members of one key make.
    fn sample(&self, group: Group) -> Result<Sample, Skipped> {
        let Group { key, mut fields, link } = group;
        let fail = |reason: String| Err(Skipped::failed(&key, reason));
        if let Some(name) = link {
            return fail(format!(
                "its member {name} is a link to another file; pack the archive with tar's --dereference and --hard-dereference"
            ));
        }
        let images: Vec<usize> = (0..fields.len()).filter(|&i| self.is_image(&fields[i].0)).collect();
        let image = match images[..] {
            [image] => image,
            [] => {
                let names = fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                return fail(format!("it holds no image, only {names}"));
            }
            _ => {
                let names = images.iter().map(|&i| fields[i].0.as_str()).collect::<Vec<_>>().join(", ");
                return fail(format!("it holds {} images ({names}); choose one with --image-column", images.len()));
            }
        };
        let bytes = std::mem::take(&mut fields[image].1);
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, bytes)| bytes.as_slice());
        let json: serde_json::Value = match field("json").map(serde_json::from_slice) {
            None => serde_json::Value::Null,
            Some(Ok(json)) => json,
            Some(Err(error)) => return fail(format!("its field json cannot be read: {error}")),
        };
        let text = |name: &str| match field(name).map(std::str::from_utf8) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim_end().to_owned())),
            Some(Err(_)) => Err(Skipped::failed(&key, format!("its field {name} is not UTF-8 text; convert it"))),
        };
        let caption = match &self.caption {
            Some(name) => text(&name.to_ascii_lowercase())?.or_else(|| json.get(name).and_then(as_text)),
            None => {
                let name = CAPTION_FIELDS.into_iter().find(|name| field(name).is_some());
                let of_json = || ["caption", "text"].iter().find_map(|name| json.get(name).and_then(as_text));
                name.map_or(Ok(None), text)?.or_else(of_json)
            }
        };
        let mut values = vec![caption.map_or(Value::Missing, Value::Text)];
        for column in &self.columns {
            let value = match json.get(&column.name) {
                Some(value) => Value::from_json(value, column.kind),
                None => text(&column.name.to_ascii_lowercase())?
                    .map_or(Ok(Value::Missing), |text| Value::from_text(&text, column.kind)),
            };
            match value {
                Ok(value) => values.push(value),
                Err(reason) => return fail(format!("its field {} {reason}", column.name)),
            }
        }
        let named = self.key.as_ref().and_then(|name| json.get(name)).and_then(as_text);
        Ok(Sample { key: named.unwrap_or(key), pieces: vec![Piece::Image(Image::Bytes(bytes))], values })
    }

    fn is_image(&self, field: &str) -> bool {
        match &self.image {
            Some(names) => names.split(';').any(|name| name.eq_ignore_ascii_case(field)),
            None => {
                pixels::ENDINGS.contains(&field.rsplit('.').next().unwrap_or_default().to_ascii_lowercase().as_str())
            }
        }
    }
}

fn as_text(json: &serde_json::Value) -> Option<String> {
    match Value::from_json(json, Kind::Text) {
        Ok(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// Members of one key.
#[derive(Debug, Default)]
struct Group {
    key: String,
    fields: Vec<(String, Vec<u8>)>,
    /// The name of a member that is a link, whose content lies elsewhere.
    link: Option<String>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.link.is_none()
    }

    fn add(&mut self, field: String, content: Content) {
        match content {
            Content::Bytes(bytes) => self.fields.push((field, bytes)),
            Content::Link(name) => self.link = Some(name),
        }
    }
}

impl Source for WebDataset {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        let path = &self.paths[shard];
        let broken = |reason: &dyn std::fmt::Display| {
            let reason = format!("the rest of the archive cannot be read: {reason}; fetch it again");
            Skipped::failed(path.display().to_string(), reason)
        };
        if self.unfinished[shard] {
            let reason = "img2dataset did not finish it (its _stats.json is missing); run img2dataset again";
            let _ = each(Err(Skipped::failed(path.display().to_string(), reason)));
            return Ok(());
        }
        let mut archive = match open_tar(path) {
            Ok(reader) => tar::Archive::new(Tail { reader, zeros: 0 }),
            Err(error) => {
                let _ = each(Err(broken(&error)));
                return Ok(());
            }
        };
        let mut group = Group::default();
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => {
                let _ = each(Err(broken(&error)));
                return Ok(());
            }
        };
        for entry in entries {
            let member = entry.and_then(read_member);
            if let Ok(Some(member)) = &member
                && member.key != group.key
                && !group.is_empty()
                && each(self.sample(std::mem::take(&mut group))).is_break()
            {
                return Ok(());
            }
            let added = match member {
                Ok(None) => continue,
                Ok(Some(member)) => {
                    group.key = member.key;
                    member.content.map(|content| group.add(member.field, content))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = added {
                if group.key.is_empty() || !each(Err(broken_off(&group.key))).is_break() {
                    let _ = each(Err(broken(&error)));
                }
                return Ok(());
            }
        }
        let whole = archive.into_inner().zeros >= END_MARK;
        if !group.is_empty() {
            let last = if whole { self.sample(group) } else { Err(broken_off(&group.key)) };
            if each(last).is_break() {
                return Ok(());
            }
        }
        if !whole {
            let _ = each(Err(broken(&"it ends without the mark that ends every tar")));
        }
        Ok(())
    }
}

/// A sample whose last members may be lost.
fn broken_off(key: &str) -> Skipped {
    Skipped::failed(key, "the archive breaks off within it or after it, so that members of it may be missing")
}

/// Zeros that a tar ends with, at least.
const END_MARK: usize = 512;

/// Counts the zeros at the end of what was read: a tar that is cut off between two members has none, and looks whole
/// otherwise.
struct Tail<R> {
    reader: R,
    zeros: usize,
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let zeros = buffer[..count].iter().rev().take_while(|&&byte| byte == 0).count();
        self.zeros = if zeros == count { self.zeros + count } else { zeros };
        Ok(count)
    }
}

/// A file of a tar.
struct Member {
    key: String,
    field: String,
    /// Its content, or why that cannot be read.
    content: std::io::Result<Content>,
}

enum Content {
    Bytes(Vec<u8>),
    /// None, because it is a link of this name.
    Link(String),
}

/// The member of an entry; nothing for one that is no file or is not meant for us.
fn read_member(mut entry: tar::Entry<'_, impl Read>) -> std::io::Result<Option<Member>> {
    let kind = entry.header().entry_type();
    let is_link = kind.is_hard_link() || kind.is_symlink();
    if !(is_link || kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()) {
        return Ok(None); // folders and the like
    }
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let (folder, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(folder, name)| (folder, name));
    let is_meta = name.starts_with("__") && name.ends_with("__") || name.starts_with('.');
    let Some((stem, field)) = name.split_once('.').filter(|_| !is_meta) else { return Ok(None) };
    let key = if folder.is_empty() { stem.to_owned() } else { format!("{folder}/{stem}") };
    let field = field.to_ascii_lowercase(); // as the webdataset package has it
    let mut read = || {
        if is_link {
            return Ok(Content::Link(path.clone()));
        }
        let size = entry.size();
        if size > LARGEST_MEMBER {
            return Err(std::io::Error::other(format!("the member {path} claims {size} bytes")));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        match bytes.len() as u64 == size {
            true => Ok(Content::Bytes(bytes)),
            false => Err(std::io::Error::other(format!("the member {path} has {} of {size} bytes", bytes.len()))),
        }
    };
    let content = read();
    Ok(Some(Member { key, field, content }))
}

/// A tar's bytes, uncompressed by what the file begins with.
fn open_tar(path: &Path) -> Result<Box<dyn Read>> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let magic = head(path, 4)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path).map_err(fail)?);
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(fail)?),
        _ => Box::new(file),
    })
}

/// Whether the file is a tar, or is compressed and called one.
pub(super) fn is_tar(path: &Path, head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar".as_slice())
        || files::ends_in(&path.to_string_lossy(), &["tar", "tar.gz", "tgz", "tar.zst"])
}
