//! JSON objects that are changed in one place and kept letter by letter everywhere else: numbers, order and layout are their
//! authors'.

use std::ops::Range;

/// An object's text, with where its members are.
#[derive(Debug)]
pub(super) struct Object<'a> {
    text: &'a str,
    /// Name and place of each value.
    members: Vec<(String, Range<usize>)>,
    /// Where the closing brace is.
    end: usize,
}

impl<'a> Object<'a> {
    /// Reads the outermost level.
    ///
    /// # Errors
    /// When `text` is no JSON object.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| format!("no valid JSON: {error}"))?;
        if !value.is_object() {
            return Err("no JSON object".to_owned());
        }
        // From here on it is known to be valid, so that looking for ends is enough.
        let mut at = skip_blank(text, 0) + 1;
        let mut members = Vec::new();
        loop {
            at = skip_blank(text, at);
            match text.as_bytes()[at] {
                b'}' => return Ok(Self { text, members, end: at }),
                b',' => at += 1,
                _ => {
                    let name = at..skip_value(text, at);
                    let colon = skip_blank(text, name.end);
                    let start = skip_blank(text, colon + 1);
                    at = skip_value(text, start);
                    let name = serde_json::from_str(&text[name]).map_err(|error| error.to_string())?;
                    members.push((name, start..at));
                }
            }
        }
    }

    /// The text of a value.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.members.iter().find(|(own, _)| own == name).map(|(_, range)| &self.text[range.clone()])
    }

    /// The object with another value, or with one more.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        if let Some((_, range)) = self.members.iter().find(|(own, _)| own == name) {
            return format!("{}{value}{}", &self.text[..range.start], &self.text[range.end..]);
        }
        let name = serde_json::Value::from(name);
        let (before, after) = self.text.split_at(self.members.last().map_or(self.end, |(_, range)| range.end));
        let comma = if self.members.is_empty() { "" } else { "," };
        let line_feed = if after.contains('\n') { "" } else { "\n" };
        format!("{before}{comma}\n  {name}: {value}{line_feed}{after}")
    }
}

/// The text of an array or object with more items at its end, each on lines of its own that `indent` begins.
pub(super) fn append(container: &str, items: &[String], indent: &str) -> String {
    let (open, rest) = container.split_at(1);
    let (inner, close) = rest.split_at(rest.len() - 1);
    let inner = inner.trim_end();
    if items.is_empty() {
        return container.to_owned();
    }
    let comma = if inner.is_empty() { "" } else { "," };
    let items: Vec<String> = items.iter().map(|item| format!("\n{indent}{item}")).collect();
    let outer = indent.get(2..).unwrap_or_default();
    format!("{open}{inner}{comma}{}\n{outer}{close}", items.join(","))
}

fn skip_blank(text: &str, at: usize) -> usize {
    at + text[at..].len() - text[at..].trim_start().len()
}

/// Where the value ends that begins at `start`.
fn skip_value(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (start, 0usize);
    loop {
        match bytes[at] {
            b'"' => {
                at += 1;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        let is_scalar = !matches!(bytes[start], b'{' | b'[' | b'"');
        let goes_on = is_scalar && bytes.get(at).is_some_and(|byte| !b",]} \t\r\n".contains(byte));
        if depth == 0 && !goes_on {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const TEXT: &str = "{\n  \"a\": [1.50, \"]\\\"}\", {}],\n  \"b\": 1e30,\n  \"\\u0063\": \"x\", \"d\":null\n}\n";

    #[test]
    fn what_is_not_changed_stays_letter_by_letter() {
        let object = Object::read(TEXT).unwrap();
        assert_eq!(object.get("a"), Some("[1.50, \"]\\\"}\", {}]"));
        assert_eq!((object.get("b"), object.get("c"), object.get("e")), (Some("1e30"), Some("\"x\""), None));
        assert_eq!(object.with("b", "[]"), TEXT.replace("1e30", "[]"));
        assert_eq!(object.with("e", "7"), TEXT.replace("null", "null,\n  \"e\": 7"));
        assert_eq!(Object::read("{}").unwrap().with("a\"", "0"), "{\n  \"a\\\"\": 0\n}");
    }

    #[test]
    fn items_come_to_the_end() {
        let items = ["3".to_owned(), "4".to_owned()];
        assert_eq!(append("[1,\n  2\n]", &items, "  "), "[1,\n  2,\n  3,\n  4\n]");
        assert_eq!(append("[ ]", &items[..1], "    "), "[\n    3\n  ]");
        assert_eq!(append("[1]", &[], "  "), "[1]");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "[]", "{", "{\"a\": }", "{} x"] {
            assert!(Object::read(text).is_err(), "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\[\\]{}\",:\\\\ aü]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[\"}a]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_changed_in_one_place(
            members in proptest::collection::hash_map("[\"}:a-c]{0,3}", values(), 0..5), pretty: bool, name in "[\"}:a-c]{0,3}",
        ) {
            let mut value = Value::Object(members.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let object = Object::read(&text).unwrap();
            for (name, value) in value.as_object().unwrap() {
                prop_assert_eq!(&serde_json::from_str::<Value>(object.get(name).unwrap()).unwrap(), value);
            }
            let changed: Value = serde_json::from_str(&object.with(&name, "[7]")).unwrap();
            value[&name] = json!([7]);
            prop_assert_eq!(changed, value);
        }
    }
}
