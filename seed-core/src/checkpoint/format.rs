//! What kind of checkpoint a file is, by its content: names lie, and `.pt`, `.pth`, `.bin` and `.ckpt` say nothing.

use super::pickle;

/// The first bytes that a message repeats.
const SHOWN: usize = 16;

/// The kinds of files that weights come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Safetensors,
    /// The index of safetensors shards: JSON.
    Index,
    /// `torch.save` since PyTorch 1.6.
    TorchZip,
    /// `torch.save` before PyTorch 1.6.
    TorchLegacy,
}

impl Format {
    /// The format of a file's bytes.
    ///
    /// # Errors
    /// What the file is instead, and what is read.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("it is empty".into());
        }
        if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
            return Ok(Self::TorchZip);
        }
        if pickle::begins_like_legacy(bytes) {
            return Ok(Self::TorchLegacy);
        }
        // A safetensors file begins with the length of its JSON header. Read as that, eight characters of JSON text are a
        // length that no file has, so the order of these two cannot confuse them.
        let length = bytes.first_chunk().map_or(u64::MAX, |&length| u64::from_le_bytes(length));
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first == Some(&b'{') && length > bytes.len() as u64 {
            return Ok(Self::Index);
        }
        if bytes.get(8) == Some(&b'{') {
            return Ok(Self::Safetensors);
        }
        Err(explain(bytes))
    }
}

fn explain(bytes: &[u8]) -> String {
    let what = if bytes.starts_with(b"version https://git-lfs") {
        "it is a pointer of Git LFS, not the file that it points to (git lfs pull fetches it)".to_owned()
    } else if bytes.starts_with(&[0x80]) {
        "it is a pickle, but not one of torch.save".to_owned()
    } else {
        let start = &bytes[..bytes.len().min(SHOWN)];
        format!("it is no checkpoint: it begins with \"{}\"", start.escape_ascii())
    };
    format!("{what}; safetensors files and their indexes (*.safetensors.index.json) and files of torch.save are read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        let safetensors = |length: u64, header: &[u8]| [&length.to_le_bytes(), header].concat();
        assert_eq!(Format::of(&safetensors(2, b"{}")), Ok(Format::Safetensors));
        // A header of 123 bytes makes the first byte a brace.
        let header = [b"{}".as_slice(), &[b' '; 121]].concat();
        assert_eq!(Format::of(&safetensors(123, &header)), Ok(Format::Safetensors));
        assert_eq!(Format::of(&safetensors(1 << 40, b"{\"cut")), Ok(Format::Safetensors));
        assert_eq!(Format::of(b"{\"a\":\n  {}}"), Ok(Format::Index));
        assert_eq!(Format::of(b"\n {\"weight_map\": {}}"), Ok(Format::Index));
        assert_eq!(Format::of(b"PK\x03\x04"), Ok(Format::TorchZip));
        assert_eq!(Format::of(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."), Ok(Format::TorchLegacy));
    }

    #[test]
    fn other_files_are_named() {
        let explained = [
            (b"".as_slice(), "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
            (b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.", "a pickle, but not one of torch.save"),
            (b"<!DOCTYPE html><html>", "begins with \"<!DOCTYPE html><\""),
            (b"\x1f\x8b\x08\xff\xff\xff\xff\xff", "begins with \"\\x1f\\x8b\\x08"),
            (b"ab", "begins with \"ab\""),
        ];
        for (bytes, needed) in explained {
            let reason = Format::of(bytes).unwrap_err();
            assert!(reason.contains(needed), "{reason}");
        }
    }
}
