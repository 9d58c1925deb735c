//! What the user named -> a source: braces and globs, and what the files hold.

use std::path::{Path, PathBuf};

use super::{
    Source, SourceFormat, SourceOptions,
    documents::{Documents, holds_documents},
    files,
    folder::Folder,
    list::List,
    llava::{CONVERSATIONS, Llava},
    mmc4::{FIELDS, Mmc4},
    parquet::{ParquetImages, image_column, kind_of, schema_of},
    records,
    webdataset::{WebDataset, is_tar},
};
use crate::{
    error::{Error, Result},
    pixels,
};

/// Most names that braces may stand for.
const MOST_NAMES: usize = 10_000_000;

/// Opens what `inputs` name: files and folders, globs (`data/*.tar`), brace lists (`{00000..00999}.tar`), and `-` for
/// paths on standard input.
///
/// # Errors
/// [`Error::Input`] for a name that stands for nothing, for a file of no known format, and for inputs of two formats;
/// [`Error::Read`].
pub fn open(inputs: &[String], options: &SourceOptions) -> Result<Box<dyn Source>> {
    if options.shard_size == 0 {
        let reason = "a shard holds at least one sample".to_owned();
        return Err(Error::Argument { name: "shard size", value: "0".to_owned(), reason });
    }
    let mut paths = Vec::new();
    for input in inputs {
        paths.extend(expand(input)?);
    }
    let mut format = options.format;
    let mut files = Vec::new();
    for path in &paths {
        let (found, these) = gather(path, options.format)?;
        if let Some(format) = format.filter(|&format| format != found) {
            let reason =
                format!("it is {}, and what comes before it is {}; run them apart", found.name(), format.name());
            return Err(Error::Input { name: path.display().to_string(), reason });
        }
        format = Some(found);
        files.extend(these);
    }
    let format =
        format.ok_or_else(|| Error::Input { name: "nothing".to_owned(), reason: "name an input".to_owned() })?;
    Ok(match format {
        SourceFormat::Folder => Box::new(Folder::open(&files, options)?),
        SourceFormat::List => match files.iter().all(|file| files::ends_in(&file.to_string_lossy(), &["parquet"])) {
            true => Box::new(ParquetImages::open(&files, options)?),
            false => Box::new(List::open(&files, options)?),
        },
        SourceFormat::WebDataset => Box::new(WebDataset::open(&files, options)?),
        SourceFormat::Parquet => Box::new(ParquetImages::open(&files, options)?),
        SourceFormat::Llava => Box::new(Llava::open(&files, options)?),
        SourceFormat::Obelics => Box::new(Documents::open(&files, options)?),
        SourceFormat::Mmc4 => Box::new(Mmc4::open(&files, options)?),
    })
}

/// The paths that a name stands for, in order.
fn expand(input: &str) -> Result<Vec<PathBuf>> {
    let nothing = |reason: String| Error::Input { name: input.to_owned(), reason };
    if input == "-" || Path::new(input).exists() {
        return Ok(vec![input.into()]);
    }
    let mut paths = Vec::new();
    for name in braces(input).map_err(nothing)? {
        if !name.contains(['*', '?', '[']) || Path::new(&name).exists() {
            paths.push(PathBuf::from(name));
            continue;
        }
        let before = paths.len();
        for path in glob::glob(&name).map_err(|error| nothing(format!("it is no glob: {error}")))? {
            paths.push(path.map_err(|error| Error::Read { path: error.path().to_owned(), source: error.into() })?);
        }
        if paths.len() == before {
            return Err(nothing("no file has such a name".to_owned()));
        }
    }
    match paths.iter().find(|path| !path.exists()) {
        Some(path) => {
            let reason =
                "there is no such file or folder; give images, folders, tars, parquet, JSON or lists".to_owned();
            Err(Error::Input { name: path.display().to_string(), reason })
        }
        None => Ok(paths),
    }
}

/// `a{1..3}b{x,y}` -> `a1bx`, `a1by`, `a2bx` ...; numbers keep the width of the first.
fn braces(text: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = text.split_once('{') else { return Ok(vec![text.to_owned()]) };
    let Some((inside, after)) = rest.split_once('}') else { return Ok(vec![text.to_owned()]) };
    let choices: Vec<String> = match inside.split_once("..") {
        Some((first, last)) => {
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{{{inside}}} is no range of numbers"));
            let (from, to) = (number(first)?, number(last)?);
            if from > to || to - from >= MOST_NAMES as u64 {
                return Err(format!("{{{inside}}} stands for no names, or for more than {MOST_NAMES}"));
            }
            (from..=to).map(|number| format!("{number:0width$}", width = first.len())).collect()
        }
        None => inside.split(',').map(str::to_owned).collect(),
    };
    let rests = braces(after)?;
    Ok(choices.iter().flat_map(|choice| rests.iter().map(move |rest| format!("{before}{choice}{rest}"))).collect())
}

/// Format of a path, and the files or folders that it contributes.
fn gather(path: &Path, wanted: Option<SourceFormat>) -> Result<(SourceFormat, Vec<PathBuf>)> {
    if path.as_os_str() == "-" {
        return Ok((wanted.unwrap_or(SourceFormat::List), vec![path.to_owned()]));
    }
    if !path.is_dir() {
        return Ok((wanted.map_or_else(|| recognise(path), Ok)?, vec![path.to_owned()]));
    }
    if wanted == Some(SourceFormat::Folder) {
        return Ok((SourceFormat::Folder, vec![path.to_owned()]));
    }
    let all = files::walk(path)?;
    let ending = |endings: &[&str]| -> Vec<PathBuf> {
        all.iter().filter(|file| files::ends_in(&file.to_string_lossy(), endings)).cloned().collect()
    };
    let tars = ending(&["tar", "tar.gz", "tgz", "tar.zst"]);
    let records = ending(&["json", "jsonl"]);
    let tables = ending(&["parquet"]);
    let holds_images = all.iter().any(|file| pixels::is_image_name(file));
    let of = |format: SourceFormat, files: Vec<PathBuf>| match files.is_empty() {
        false => Ok((format, files)),
        true => {
            let reason = format!("it holds no files of the format {}", format.name());
            Err(Error::Input { name: path.display().to_string(), reason })
        }
    };
    match wanted {
        Some(format @ SourceFormat::WebDataset) => of(format, tars),
        Some(format @ (SourceFormat::Parquet | SourceFormat::Obelics)) => of(format, tables),
        Some(format @ (SourceFormat::Llava | SourceFormat::Mmc4)) => of(format, records),
        Some(format) => of(format, ending(&["txt", "csv", "tsv", "parquet"])),
        None if holds_images && !(tars.is_empty() && tables.is_empty()) => {
            let reason =
                "it holds images, and tars or parquet files too; say which with --source, or name them".to_owned();
            Err(Error::Input { name: path.display().to_string(), reason })
        }
        None if holds_images => Ok((SourceFormat::Folder, vec![path.to_owned()])),
        None if !tars.is_empty() => Ok((SourceFormat::WebDataset, tars)),
        None if !tables.is_empty() => Ok((recognise(&tables[0])?, tables)),
        None if !records.is_empty() => Ok((recognise(&records[0])?, records)),
        None => {
            let reason = "it holds no images, tars, parquet or JSON files".to_owned();
            Err(Error::Input { name: path.display().to_string(), reason })
        }
    }
}

/// Format of a file, by what it holds.
fn recognise(path: &Path) -> Result<SourceFormat> {
    let head = records::head(path, 512)?;
    let fail = |reason: String| Err(Error::Input { name: path.display().to_string(), reason });
    let text = head.iter().position(|byte| !byte.is_ascii_whitespace()).map(|start| &head[start..]);
    match head[..] {
        [] => fail("it is empty".to_owned()),
        [b'P', b'A', b'R', b'1', ..] => {
            let schema = schema_of(path)?;
            if holds_documents(&schema) {
                return Ok(SourceFormat::Obelics);
            }
            match image_column(&schema, None) {
                Ok(name) => {
                    let is_path = schema.field_with_name(&name).is_ok_and(|f| kind_of(f.data_type()).is_some());
                    Ok(if is_path { SourceFormat::List } else { SourceFormat::Parquet })
                }
                // Which column it is may be said by an option.
                Err(_) => Ok(SourceFormat::Parquet),
            }
        }
        _ if is_tar(path, &head) => Ok(SourceFormat::WebDataset),
        _ if files::ends_in(&path.to_string_lossy(), &pixels::ENDINGS) => Ok(SourceFormat::Folder),
        _ if matches!(text, Some([b'{' | b'[', ..]))
            && !files::ends_in(&path.to_string_lossy(), &["txt", "csv", "tsv"]) =>
        {
            let Some(record) = records::first(path) else { return fail("its first record is no JSON".to_owned()) };
            match () {
                () if FIELDS.iter().any(|field| record.contains_key(*field)) => Ok(SourceFormat::Mmc4),
                () if record.contains_key(CONVERSATIONS) || record.contains_key("image") => Ok(SourceFormat::Llava),
                () => fail(format!(
                    "its records hold {}; LLaVA's have image and conversations, MMC4's text_list and image_info",
                    record.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                )),
            }
        }
        _ if std::str::from_utf8(&head).is_ok() || head.len() == 512 && !head.contains(&0) => Ok(SourceFormat::List),
        _ => fail("it is no image, tar, parquet, JSON or list of paths; name its format with --source".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_keep_the_width_of_numbers() {
        assert_eq!(braces("a{08..10}.tar").unwrap(), ["a08.tar", "a09.tar", "a10.tar"]);
        assert_eq!(braces("{a,b}/{1..2}").unwrap(), ["a/1", "a/2", "b/1", "b/2"]);
        assert_eq!(braces("plain").unwrap(), ["plain"]);
        assert_eq!(braces("open{1..2").unwrap(), ["open{1..2"]);
        assert!(braces("{3..1}").is_err());
        assert!(braces("{0..99999999}").is_err());
    }

    #[test]
    fn what_is_not_there_is_named() {
        for input in ["/nowhere/at/all", "/nowhere/*.tar", "/nowhere/{0..2}.tar"] {
            let error = open(&[input.to_owned()], &SourceOptions::default()).err().unwrap().to_string();
            assert!(error.contains("/nowhere/"), "{error}");
        }
    }
}
