//! Pickles of plain values, protocol 2: what Python's `pickle.loads` gives back as dicts, lists, numbers and strings.

use serde_json::Value;

/// A sample as the official reader expects it: `{"image_ids": [...], "text": ..., "metadata": {...}}`.
pub(super) fn sample(image_ids: &[u16], text: &str, metadata: &[(&str, Value)]) -> Vec<u8> {
    let mut out = PREFIX.to_vec();
    for &id in image_ids {
        integer(i64::from(id), &mut out);
    }
    out.push(b'e'); // APPENDS
    string("text", &mut out);
    string(text, &mut out);
    string("metadata", &mut out);
    out.extend(b"}(");
    for (name, value) in metadata {
        string(name, &mut out);
        self::value(value, &mut out);
    }
    out.extend(b"uu."); // SETITEMS twice, STOP
    out
}

/// PROTO 2, EMPTY_DICT, MARK, "image_ids", EMPTY_LIST, MARK.
const PREFIX: &[u8] = b"\x80\x02}(X\x09\0\0\0image_ids](";

/// The image ids in what [`sample`] wrote.
pub(super) fn image_ids(pickle: &[u8]) -> Option<Vec<u64>> {
    let mut rest = pickle.strip_prefix(PREFIX)?;
    let mut ids = Vec::new();
    loop {
        rest = match rest {
            [b'e', ..] => return pickle.ends_with(b"uu.").then_some(ids),
            [b'K', id, rest @ ..] => {
                ids.push(u64::from(*id));
                rest
            }
            [b'M', low, high, rest @ ..] => {
                ids.push(u64::from(u16::from_le_bytes([*low, *high])));
                rest
            }
            _ => return None,
        }
    }
}

fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(value) => out.push(if *value { 0x88 } else { 0x89 }),
        Value::Number(number) => match number.as_i64() {
            Some(number) => integer(number, out),
            None => {
                out.push(b'G'); // BINFLOAT, big-endian
                out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        },
        Value::String(text) => string(text, out),
        // Columns hold nothing else; as JSON nothing would be lost.
        Value::Array(_) | Value::Object(_) => string(&value.to_string(), out),
    }
}

fn integer(number: i64, out: &mut Vec<u8>) {
    if let Ok(byte) = u8::try_from(number) {
        out.extend([b'K', byte]); // BININT1
    } else if let Ok(short) = u16::try_from(number) {
        out.push(b'M'); // BININT2
        out.extend(short.to_le_bytes());
    } else if let Ok(int) = i32::try_from(number) {
        out.push(b'J'); // BININT
        out.extend(int.to_le_bytes());
    } else {
        out.extend([0x8a, 8]); // LONG1 of eight bytes
        out.extend(number.to_le_bytes());
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'X'); // BINUNICODE
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_come_back(ids in prop::collection::vec(any::<u16>(), 0..40), text: String) {
            let pickle = sample(&ids, &text, &[("key", text.as_str().into()), ("n", (-1).into()), ("x", 0.5.into())]);
            let found: Vec<u64> = image_ids(&pickle).unwrap();
            prop_assert!(found.iter().copied().eq(ids.iter().map(|&id| u64::from(id))));
            prop_assert!(image_ids(&pickle[..pickle.len() - 1]).is_none());
        }
    }

    /// `pickle.loads` of CPython 3.11 gives `{'image_ids': [0, 255, 256, 8191], 'text': 'é', 'metadata': {'n': -1}}`.
    #[test]
    fn bytes_are_those_that_python_reads() {
        let expected = b"\x80\x02}(X\x09\0\0\0image_ids](K\x00K\xffM\x00\x01M\xff\x1feX\x04\0\0\0textX\x02\0\0\0\xc3\xa9X\x08\0\0\0metadata}(X\x01\0\0\0nJ\xff\xff\xff\xffuu.";
        assert_eq!(sample(&[0, 255, 256, 8191], "\u{e9}", &[("n", (-1).into())]), expected);
    }
}
