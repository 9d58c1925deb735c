//! A recipe's text and values that are set besides -> a recipe; unknown keys name the nearest that is known.

use serde::de::DeserializeOwned;

/// Reads TOML with some of its keys set to other values.
///
/// # Errors
/// What is wrong, with the line where it is in the text.
pub(super) fn parse<T: DeserializeOwned>(text: &str, set: &[(String, String)]) -> Result<T, String> {
    if set.is_empty() {
        return toml::from_str(text).map_err(|error| with_hint(error.to_string()));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    for (key, value) in set {
        put(&mut table, key, literal(value)).map_err(|reason| format!("{key} = {value}: {reason}"))?;
    }
    table.try_into().map_err(|error: toml::de::Error| {
        let keys: Vec<&str> = set.iter().map(|(key, _)| key.as_str()).collect();
        with_hint(format!("{}; set besides the file: {}", error.to_string().trim(), keys.join(", ")))
    })
}

/// A value as TOML writes it; what is none is text, so that paths and names need no quotes.
fn literal(text: &str) -> toml::Value {
    let table: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn put(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    match key.split_once('.') {
        _ if key.is_empty() => Err("the key is empty; keys are written as in stage1.steps".to_owned()),
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match inner {
                toml::Value::Table(inner) => put(inner, rest, value),
                _ => Err(format!("{first} is a value, not a table")),
            }
        }
    }
}

/// The message, with the known name that an unknown one is nearest to. serde writes "unknown field `x`, expected one of `a`,
/// `b`".
fn with_hint(message: String) -> String {
    let Some(at) = message.find("unknown field `").or_else(|| message.find("unknown variant `")) else {
        return message;
    };
    let mut names = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message };
    match names.min_by_key(|name| distance(unknown, name)) {
        Some(nearest) => format!("{}; did you mean {nearest}?", message.trim_end()),
        None => message,
    }
}

/// Letters to insert, delete or replace between two names.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        stage: Inner,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        steps: usize,
        #[serde(default)]
        rates: Vec<f64>,
        #[serde(default)]
        file: Option<String>,
    }

    const TEXT: &str = "name = \"a\"\n[stage]\nsteps = 3\n";

    fn set(pairs: &[(&str, &str)]) -> Result<Outer, String> {
        parse(TEXT, &pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_set_as_they_are_written_in_a_file() {
        let inner = |steps, rates, file| Inner { steps, rates, file };
        assert_eq!(set(&[]).unwrap().stage, inner(3, vec![], None));
        let all =
            [("stage.steps", "5"), ("stage.rates", "[1e-3, 2.0]"), ("stage.file", "/a b/c.pth"), ("name", "\"b\"")];
        let expected = inner(5, vec![1e-3, 2.0], Some("/a b/c.pth".to_owned()));
        assert_eq!(set(&all).unwrap(), Outer { name: "b".to_owned(), stage: expected });
        assert_eq!(set(&[("name", "x = 3")]).unwrap().name, "x = 3");
        assert_eq!(set(&[("name", "1\nstage = 2")]).unwrap().name, "1\nstage = 2", "no second key");
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (key, nearest) in
            [("stage.step", "steps"), ("stage.rate", "rates"), ("stages.steps", "stage"), ("nam", "name")]
        {
            let error = set(&[(key, "3")]).unwrap_err();
            assert!(error.contains(&format!("did you mean {nearest}?")) && error.contains(key), "{error}");
        }
        let error = parse::<Outer>("name = \"a\"\n[stage]\nstesp = 3\n", &[]).unwrap_err();
        assert!(error.contains("line 3") && error.contains("did you mean steps?"), "{error}");
        assert!(set(&[("name.x", "3")]).unwrap_err().contains("name is a value"));
        assert!(set(&[("", "3")]).unwrap_err().contains("empty"));
        assert!(set(&[("stage.steps", "many")]).unwrap_err().contains("invalid type"));
    }

    #[test]
    fn distances_count_letters() {
        for (a, b, count) in [("", "", 0), ("abc", "", 3), ("abc", "abc", 0), ("stesp", "steps", 2), ("a", "b", 1)] {
            assert_eq!(distance(a, b), count, "{a} {b}");
            assert_eq!(distance(b, a), count, "{b} {a}");
        }
    }
}
