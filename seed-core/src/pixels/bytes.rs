//! A place in the bytes of a file, for the formats that are parsed here. Reading past the end is [`Fault::Cut`].

use super::decode::Fault;

#[derive(Clone)]
pub(super) struct Bytes<'a> {
    pub(super) all: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// What follows, which may be nothing.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.all.get(self.at..).unwrap_or_default()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let taken = self.rest().get(..count).ok_or(Fault::Cut)?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16_le(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32_le(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }
}

/// The first `count` unsigned samples of a row, packed from the most significant bit; `depth` is 1, 2, 4 or 8.
pub(super) fn samples(row: &[u8], depth: usize, count: usize) -> impl Iterator<Item = u8> + '_ {
    let per_byte = 8 / depth;
    let mask = (0xff_u16 >> (8 - depth)) as u8;
    (0..count).map(move |i| row[i / per_byte] >> (8 - depth - i % per_byte * depth) & mask)
}
