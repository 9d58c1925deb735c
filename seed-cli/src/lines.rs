//! Lines of codes: what `encode` writes and `decode` reads.
//!
//! | form | example |
//! |---|---|
//! | path, tab, codes with spaces | `cat.jpg\t17 801 ...` |
//! | JSON | `{"path": "cat.jpg", "codes": [17, 801, ...], "tokenizer": {...}}`, with `"margins"` if asked for |
//! | codes alone, reading only | `17 801 ...` |

use anyhow::{Context as _, bail};
use seed_core::{Codes, Error, codes};
use serde_json::{Value, json};

/// What a line of JSON says besides path and codes.
pub(crate) struct Details<'a> {
    pub(crate) provenance: &'a Value,
    /// One a code.
    pub(crate) margins: Option<&'a [f32]>,
}

/// One image's line, without its end: JSON if there are details.
///
/// # Errors
/// For a path with a line break outside of JSON.
pub(crate) fn write(path: &str, row: &[u16], details: Option<Details<'_>>) -> anyhow::Result<String> {
    if let Some(details) = details {
        let mut line = json!({ "path": path, "codes": row, "tokenizer": details.provenance });
        if let Some(margins) = details.margins {
            line["margins"] = json!(margins);
        }
        return Ok(line.to_string());
    }
    if path.contains(['\n', '\r']) {
        bail!("{path:?} has a line break in its name, which a line of text cannot hold; use --json");
    }
    Ok(format!("{path}\t{}", codes::to_text(row)))
}

/// One image's codes and where they came from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) path: Option<String>,
    pub(crate) row: Vec<u64>,
}

/// Reads one line, whatever its form.
pub(crate) fn read(line: &str) -> anyhow::Result<Line> {
    // A path may begin like JSON, but codes never end like it.
    if line.trim_start().starts_with('{') && line.trim_end().ends_with('}') {
        return read_json(line);
    }
    // The last tab: a path may hold others.
    let (path, text) = match line.rsplit_once('\t') {
        Some((path, text)) => (Some(path), text),
        None => (None, line),
    };
    Ok(Line { path: path.map(str::to_owned), row: codes::from_text(text)? })
}

fn read_json(line: &str) -> anyhow::Result<Line> {
    let object: Value = serde_json::from_str(line).context("it is not valid JSON")?;
    let path = match &object["path"] {
        Value::Null => None,
        Value::String(path) => Some(path.clone()),
        other => bail!("\"path\" is {other} where a text is needed"),
    };
    let row = match &object["codes"] {
        Value::Array(row) => {
            let number = |code: &Value| code.as_u64().with_context(|| format!("{code} is not a code"));
            row.iter().map(number).collect::<anyhow::Result<_>>()?
        }
        Value::String(text) => codes::from_text(text)?,
        _ => bail!("it has no \"codes\"; a line is what `seed encode --json` writes"),
    };
    Ok(Line { path, row })
}

/// Holds when a model with `tokens` codes an image and `codebook_size` rows could have made `row`.
pub(crate) fn check(row: &[u64], tokens: usize, codebook_size: usize) -> anyhow::Result<()> {
    match Codes::from_rows([row], tokens, codebook_size) {
        Ok(_) => Ok(()),
        // In words of a line rather than of a batch.
        Err(Error::CodeCount { found, expected, .. }) => {
            bail!("it has {found} codes where {expected} are needed; a line is what `seed encode` writes for one image")
        }
        Err(Error::CodeOutOfRange { position, code, codebook_size, .. }) => bail!(
            "code {code} at position {position} is outside the codebook of {codebook_size} rows; codes must be 0 to {}; \
             were they made by another model (--model)?",
            codebook_size - 1
        ),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> Details<'static> {
        Details { provenance: &Value::Null, margins: Some(&[0.5]) }
    }

    #[test]
    fn what_is_written_is_read() {
        for path in ["a b.png", "tab\there.png", "{odd}.png", "ümläut\"quote.png", ""] {
            for as_json in [false, true] {
                let line = write(path, &[0, 7, 65535], as_json.then(details)).unwrap();
                assert_eq!(read(&line).unwrap(), Line { path: Some(path.to_owned()), row: vec![0, 7, 65535] });
            }
        }
        assert!(write("a\nb", &[1], None).unwrap_err().to_string().contains("--json"));
        assert!(write("a\nb", &[1], Some(details())).unwrap().contains("\"margins\":[0.5]"));
    }

    #[test]
    fn bare_codes_and_extra_fields_are_read() {
        assert_eq!(read("1, 2 3\r").unwrap(), Line { path: None, row: vec![1, 2, 3] });
        let json = r#"{"codes": "4 5", "margins": [0.5]}"#;
        assert_eq!(read(json).unwrap(), Line { path: None, row: vec![4, 5] });
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, what) in [
            ("cat.png\t1 x", "\"x\" is not a code"),
            ("cat.png 1 2", "\"cat.png\" is not a code"),
            ("{\"codes\": [1, -2]}", "-2 is not a code"),
            ("{\"codes\": [1.5]}", "1.5 is not a code"),
            ("{\"path\": 3, \"codes\": []}", "\"path\" is 3"),
            ("{\"tokens\": [1]}", "no \"codes\""),
            ("{\"codes\": [1}", "not valid JSON"),
        ] {
            let error = format!("{:#}", read(line).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
