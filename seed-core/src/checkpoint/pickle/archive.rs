//! A zip archive as `torch.save` writes it (since PyTorch 1.6): where its entries lie in the file.
//!
//! | entry | holds |
//! |---|---|
//! | `ROOT/data.pkl` | the pickle |
//! | `ROOT/data/KEY` | the bytes of a storage |
//! | `ROOT/byteorder` | `little` or `big`; absent before PyTorch 2.1 |
//!
//! Follows `caffe2/serialize/inline_container.cc`. All entries that count are stored as they are; a compressed one is an
//! error, since PyTorch never writes it. The central directory decides, zip64 included; the checksum of the pickle is
//! checked, those of the storages are not, because that would read every byte of the file.

use std::collections::HashMap;
use std::ops::Range;

use rawzip::{CompressionMethod, ZipArchive};

/// Most entries of an archive.
const ENTRIES: u64 = 1 << 20;

/// Longest pickle, in bytes; that of a checkpoint of a thousand tensors is 150 kB.
const PICKLE: usize = 64 << 20;

/// The entries of an archive that count.
#[derive(Debug)]
pub(super) struct Archive {
    /// The name of the pickle's entry.
    pub(super) pickle_name: String,
    /// Where the pickle is in the file.
    pub(super) pickle: Range<usize>,
    /// Where each storage is in the file, by key.
    pub(super) storages: HashMap<String, Range<usize>>,
}

impl Archive {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let zip = ZipArchive::from_slice(bytes).map_err(|e| format!("its zip directory cannot be read: {e}"))?;
        let entries = entries(&zip)?;
        let mut pickles = entries.keys().filter_map(|name| Some((name, name.strip_suffix("/data.pkl")?)));
        let (Some((pickle_name, root)), None) = (pickles.next(), pickles.next()) else {
            return Err("it is a zip archive without one data.pkl in one folder, so not made by torch.save".into());
        };
        let of_root = |name: &str| entries.get(&format!("{root}/{name}"));
        if of_root("constants.pkl").is_some() {
            return Err(
                "it is a TorchScript program; save its state dict (torch.save(model.state_dict(), path))".into()
            );
        }
        if let Some(entry) = of_root("byteorder") {
            match &bytes[entry.plain("byteorder")?] {
                b"little" => {}
                b"big" => return Err("its numbers are big-endian; save it again on a little-endian machine".into()),
                _ => return Err("its byteorder entry is neither little nor big".into()),
            }
        }
        let pickle_entry = &entries[pickle_name];
        let pickle = pickle_entry.plain(pickle_name)?;
        if pickle.len() > PICKLE {
            return Err(format!("its pickle has {} bytes, more than {PICKLE}", pickle.len()));
        }
        if rawzip::crc32(&bytes[pickle.clone()]) != pickle_entry.checksum {
            return Err(format!("the checksum of {pickle_name} is wrong"));
        }
        let folder = format!("{root}/data/");
        let storages = entries.iter().filter_map(|(name, entry)| Some((name, name.strip_prefix(&folder)?, entry)));
        let storages = storages.map(|(name, key, entry)| Ok((key.to_owned(), entry.plain(name)?)));
        Ok(Self { pickle_name: pickle_name.clone(), pickle, storages: storages.collect::<Result<_, String>>()? })
    }
}

struct Entry {
    range: Range<usize>,
    checksum: u32,
    /// Why the bytes of the range are not what the entry holds.
    obstacle: Option<&'static str>,
}

impl Entry {
    /// Where the entry's content is, if that is the content itself.
    fn plain(&self, name: &str) -> Result<Range<usize>, String> {
        match self.obstacle {
            None => Ok(self.range.clone()),
            Some(obstacle) => Err(format!("its entry {name} is {obstacle}, which torch.save never does")),
        }
    }
}

fn entries(zip: &rawzip::ZipSliceArchive<&[u8]>) -> Result<HashMap<String, Entry>, String> {
    let fail = |error: rawzip::Error| format!("its zip directory is broken: {error}");
    let mut entries = HashMap::new();
    let mut found = 0;
    let mut records = zip.entries();
    while let Some(record) = records.next_entry().map_err(fail)? {
        found += 1;
        if found > ENTRIES {
            return Err(format!("it has more than {ENTRIES} entries"));
        }
        let Ok(name) = std::str::from_utf8(record.file_path().as_bytes()) else { continue };
        let (start, end) = zip.get_entry(record.wayfinder()).map_err(fail)?.compressed_data_range();
        let obstacle = if record.flags().is_encrypted() {
            Some("encrypted")
        } else if record.compression_method() != CompressionMethod::STORE {
            Some("compressed")
        } else if record.uncompressed_size_hint() != end - start {
            Some("of two sizes")
        } else {
            None
        };
        // In memory, so the offsets fit.
        let entry = Entry { range: start as usize..end as usize, checksum: record.crc32(), obstacle };
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err(format!("it holds {name} twice"));
        }
    }
    match found == zip.entries_hint() {
        true => Ok(entries),
        false => Err(format!("its zip directory lists {found} entries of {}", zip.entries_hint())),
    }
}
