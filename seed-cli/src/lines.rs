//! Lines of codes: what `encode` writes and `decode` reads.
//!
//! | form | example |
//! |---|---|
//! | path, tab, codes with spaces | `cat.jpg\t17 801 ...` |
//! | JSON | `{"path": "cat.jpg", "codes": [17, 801, ...], "tokenizer": {...}}`, with `"margins"` if asked for |
//! | path, tab, text of a language model | `cat.jpg\t<img><img_00017><img_00801>...</img>` |
//! | codes or text alone, reading only | `17 801 ...` |

use anyhow::{Context as _, bail};
use seed_core::{Codes, Error, codes, llm::Template, tokenizer::SeedConfig};
use serde_json::{Value, json};

/// How lines are written.
pub(crate) enum Form {
    Codes,
    /// As a language model reads them.
    Text(Template),
    /// JSON, with what made the codes.
    Json(Value),
}

/// One image's line, without its end. Margins, one a code, are for JSON.
///
/// # Errors
/// For a path with a line break outside of JSON.
pub(crate) fn write(path: &str, row: &[u16], form: &Form, margins: Option<&[f32]>) -> anyhow::Result<String> {
    let text = match form {
        Form::Json(provenance) => {
            let mut line = json!({ "path": path, "codes": row, "tokenizer": provenance });
            if let Some(margins) = margins {
                line["margins"] = json!(margins);
            }
            return Ok(line.to_string());
        }
        Form::Codes => codes::to_text(row),
        Form::Text(template) => {
            let config = template.config();
            template.codes_to_text(&Codes::from_rows([row], config.tokens, config.codebook_size)?)?
        }
    };
    if path.contains(['\n', '\r']) {
        bail!("{path:?} has a line break in its name, which a line of text cannot hold; use --json");
    }
    Ok(format!("{path}\t{text}"))
}

/// How the model `config` describes writes images into text: as SEED-LLaMA does. The ids do not matter here.
pub(crate) fn template(config: &SeedConfig) -> seed_core::Result<Template> {
    Template::for_codebook(config.codebook_size, config.num_queries, 0)
}

/// One image's codes and where they came from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) path: Option<String>,
    pub(crate) row: Vec<u64>,
    /// Hash of the weights that made them, where the line says so.
    pub(crate) weights: Option<String>,
}

/// Reads one line, whatever its form.
pub(crate) fn read(line: &str, template: &Template) -> anyhow::Result<Line> {
    // A path may begin like JSON, but codes never end like it.
    if line.trim_start().starts_with('{') && line.trim_end().ends_with('}') {
        return read_json(line, template);
    }
    // The last tab: a path may hold others.
    let (path, text) = match line.rsplit_once('\t') {
        Some((path, text)) => (Some(path), text),
        None => (None, line),
    };
    Ok(Line { path: path.map(str::to_owned), row: read_row(text, template)?, weights: None })
}

/// Codes as numbers, or as a language model writes them.
fn read_row(text: &str, template: &Template) -> anyhow::Result<Vec<u64>> {
    let text = text.trim();
    if !text.starts_with(&template.config().begin) {
        return Ok(codes::from_text(text)?);
    }
    let codes = template.text_to_codes(text)?;
    match codes.batch() {
        1 => Ok(codes.as_slice().iter().map(|&code| code.into()).collect()),
        images => bail!("it holds {images} images; give each a line of its own"),
    }
}

fn read_json(line: &str, template: &Template) -> anyhow::Result<Line> {
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
        Value::String(text) => read_row(text, template)?,
        _ => bail!("it has no \"codes\"; a line is what `seed encode --json` writes"),
    };
    let weights = object["tokenizer"]["weights"].as_str().map(str::to_owned);
    Ok(Line { path, row, weights })
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

    /// Three codes an image, of all that fit into 16 bits.
    fn template() -> Template {
        Template::for_codebook(1 << 16, 3, 0).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for path in ["a b.png", "tab\there.png", "{odd}.png", "<img>.png", "ümläut\"quote.png", ""] {
            for (form, weights) in [
                (Form::Codes, None),
                (Form::Text(template()), None),
                (Form::Json(Value::Null), None),
                (Form::Json(json!({"weights": "5eed"})), Some("5eed".to_owned())),
            ] {
                let line = write(path, &[0, 7, 65535], &form, Some(&[0.5])).unwrap();
                let expected = Line { path: Some(path.to_owned()), row: vec![0, 7, 65535], weights };
                assert_eq!(read(&line, &template()).unwrap(), expected);
            }
        }
        assert!(write("a\nb", &[1], &Form::Codes, None).unwrap_err().to_string().contains("--json"));
        let json = write("a\nb", &[1], &Form::Json(Value::Null), Some(&[0.5])).unwrap();
        assert!(json.contains("\"margins\":[0.5]"));
    }

    #[test]
    fn bare_codes_and_extra_fields_are_read() {
        let is = |line: &str, row: &[u64]| {
            assert_eq!(read(line, &template()).unwrap(), Line { path: None, row: row.to_vec(), weights: None });
        };
        is("1, 2 3\r", &[1, 2, 3]);
        is(r#"{"codes": "4 5", "margins": [0.5]}"#, &[4, 5]);
        is("<img><img_00001><img_00002><img_00003></img>\r", &[1, 2, 3]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, what) in [
            ("cat.png\t1 x", "\"x\" is not a code"),
            ("cat.png 1 2", "\"cat.png\" is not a code"),
            ("cat.png\t<img><img_00001></img>", "it has 1 codes where 3 are needed"),
            ("<img><img_00001><img_00002><img_70000></img>", "code 70000 at position 2"),
            ("<img><img_00001><img_00002><img_00003></img>!", "\"!\" stands outside"),
            ("{\"codes\": [1, -2]}", "-2 is not a code"),
            ("{\"codes\": [1.5]}", "1.5 is not a code"),
            ("{\"path\": 3, \"codes\": []}", "\"path\" is 3"),
            ("{\"tokens\": [1]}", "no \"codes\""),
            ("{\"codes\": [1}", "not valid JSON"),
        ] {
            let error = format!("{:#}", read(line, &template()).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
        let block = "<img><img_00001><img_00002><img_00003></img>";
        let error = read(&block.repeat(2), &template()).unwrap_err().to_string();
        assert!(error.contains("it holds 2 images"), "{error}");
    }
}
