//! The first image file directory: tags and their numbers.

use super::super::bytes::Bytes;
use super::super::decode::Fault;

/// Tag numbers.
pub(super) mod tag {
    pub(in super::super) const WIDTH: u16 = 256;
    pub(in super::super) const HEIGHT: u16 = 257;
    pub(in super::super) const BITS: u16 = 258;
    pub(in super::super) const COMPRESSION: u16 = 259;
    pub(in super::super) const PHOTOMETRIC: u16 = 262;
    pub(in super::super) const FILL_ORDER: u16 = 266;
    pub(in super::super) const STRIP_OFFSETS: u16 = 273;
    pub(in super::super) const ORIENTATION: u16 = 274;
    pub(in super::super) const SAMPLES: u16 = 277;
    pub(in super::super) const ROWS_PER_STRIP: u16 = 278;
    pub(in super::super) const STRIP_SIZES: u16 = 279;
    pub(in super::super) const PLANAR: u16 = 284;
    pub(in super::super) const PREDICTOR: u16 = 317;
    pub(in super::super) const PALETTE: u16 = 320;
    pub(in super::super) const TILE_WIDTH: u16 = 322;
    pub(in super::super) const TILE_HEIGHT: u16 = 323;
    pub(in super::super) const TILE_OFFSETS: u16 = 324;
    pub(in super::super) const TILE_SIZES: u16 = 325;
    pub(in super::super) const EXTRA_SAMPLES: u16 = 338;
    pub(in super::super) const SAMPLE_FORMAT: u16 = 339;
    pub(in super::super) const JPEG_TABLES: u16 = 347;
}

pub(super) struct Directory<'a> {
    pub(super) file: &'a [u8],
    pub(super) big_endian: bool,
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    tag: u16,
    /// Bytes of one number; 0 for types that are not integers.
    size: usize,
    data: &'a [u8],
}

/// Numbers in the byte order of the file.
struct Reader<'a> {
    bytes: Bytes<'a>,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn at(file: &'a [u8], place: u64, big_endian: bool) -> Self {
        let at = usize::try_from(place).unwrap_or(usize::MAX);
        Self { bytes: Bytes { all: file, at }, big_endian }
    }

    fn number(&mut self, size: usize) -> Result<u64, Fault> {
        Ok(number(self.bytes.take(size)?, self.big_endian))
    }
}

fn number(bytes: &[u8], big_endian: bool) -> u64 {
    let join = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
    match big_endian {
        true => bytes.iter().fold(0, join),
        false => bytes.iter().rev().fold(0, join),
    }
}

impl<'a> Directory<'a> {
    pub(super) fn first(file: &'a [u8]) -> Result<Self, Fault> {
        let big_endian = file.first() == Some(&b'M');
        let mut header = Reader::at(file, 2, big_endian);
        let big = header.number(2)? == 43;
        // BigTIFF has wider counts and places, and says how wide before the first place.
        let (count_size, place_size) = if big { (8, 8) } else { (2, 4) };
        if big {
            header.number(4)?;
        }
        let place = header.number(place_size)?;
        let mut reader = Reader::at(file, place, big_endian);
        let count = reader.number(count_size)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let (tag, kind) = (reader.number(2)? as u16, reader.number(2)?);
            let count = reader.number(place_size)?;
            let value = reader.bytes.take(place_size)?;
            let size = match kind {
                1 | 7 => 1,
                3 => 2,
                4 | 13 => 4,
                16 | 18 => 8,
                _ => 0,
            };
            let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(size)).ok_or(Fault::Cut)?;
            let data = match length <= place_size {
                true => &value[..length],
                // Tags that are not needed may lie anywhere.
                false => Reader::at(file, number(value, big_endian), big_endian).bytes.take(length).unwrap_or_default(),
            };
            entries.push(Entry { tag, size, data });
        }
        Ok(Self { file, big_endian, entries })
    }

    /// The bytes of a tag.
    pub(super) fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.data)
    }

    /// The numbers of a tag; none where the tag is missing.
    pub(super) fn numbers(&self, tag: u16) -> Result<Vec<u64>, Fault> {
        let Some(entry) = self.entries.iter().find(|entry| entry.tag == tag) else { return Ok(Vec::new()) };
        if entry.size == 0 || entry.data.is_empty() {
            return Err(Fault::Broken(format!("the TIFF tag {tag} holds no numbers, or lies outside of the file")));
        }
        Ok(entry.data.chunks_exact(entry.size).map(|bytes| number(bytes, self.big_endian)).collect())
    }

    /// The first number of a tag.
    pub(super) fn number(&self, tag: u16) -> Result<Option<u64>, Fault> {
        Ok(self.numbers(tag)?.first().copied())
    }

    /// A number of 32 bits that must be there.
    pub(super) fn required(&self, tag: u16, what: &str) -> Result<u32, Fault> {
        let value = self.number(tag)?.ok_or_else(|| Fault::Broken(format!("the TIFF file has no {what}")))?;
        u32::try_from(value).map_err(|_| Fault::Broken(format!("the TIFF {what} {value} is not possible")))
    }
}
