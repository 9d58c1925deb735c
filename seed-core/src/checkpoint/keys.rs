//! From a parameter's path in a burn module to its key in a checkpoint.

/// How a model's module paths become checkpoint keys, and what a file may carry besides.
///
/// A path is the field names from the root, joined by dots; elements of a `Vec` count from 0, an `Option` adds nothing,
/// neither does an enum's variant, and `gamma` and `beta` of normalization layers are already `weight` and `bias`:
/// `blocks.0.norm1.weight`.
///
/// ```
/// use seed_core::checkpoint::KeyTable;
///
/// const TABLE: KeyTable = KeyTable {
///     renames: &[
///         ("qformer", "Qformer.bert"),  // a prefix, of whole segments; the first that fits is taken
///         (".self_", ".self"),          // a leading dot: segments anywhere (`self` is no Rust name)
///     ],
///     ignored: &["Qformer.cls.*"],
/// };
/// assert_eq!(TABLE.key("qformer.layer.0.self_.query.weight"), "Qformer.bert.layer.0.self.query.weight");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyTable {
    /// Replacements, path to key. Entries of two kinds:
    ///
    /// - **Prefix** (`"qformer"`): replaces the start of the path. Of all prefixes only the first that fits is taken; an
    ///   empty one fits every path. An empty replacement drops the prefix.
    /// - **Segments** (`".self_"`, a leading dot): replaces those segments wherever they stand, the first place included.
    ///   All such entries are applied in order, after the prefix.
    ///
    /// Both fit whole segments only: `block` does not fit `blocks.0`.
    pub renames: &'static [(&'static str, &'static str)],
    /// Keys that a file may carry without the model having a place for them: exact, or with one `*` for any text.
    pub ignored: &'static [&'static str],
}

impl KeyTable {
    /// Paths are keys, and a file carries nothing besides.
    pub const EXACT: Self = Self { renames: &[], ignored: &[] };

    /// The checkpoint key of a module path.
    pub fn key(&self, path: &str) -> String {
        let prefixes = self.renames.iter().filter(|(from, _)| !from.starts_with('.'));
        let mut key =
            prefixes.filter_map(|(from, to)| replace_prefix(path, from, to)).next().unwrap_or_else(|| path.to_owned());
        for (from, to) in self.renames.iter().filter(|(from, _)| from.starts_with('.')) {
            key = replace_segments(&key, from, to);
        }
        key
    }

    /// Whether a file may carry `key` without the model having a place for it.
    pub fn ignores(&self, key: &str) -> bool {
        self.ignored.iter().any(|pattern| match pattern.split_once('*') {
            None => *pattern == key,
            Some((start, end)) => key.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        })
    }
}

/// `path` with its leading segments `from` replaced, if it has them.
fn replace_prefix(path: &str, from: &str, to: &str) -> Option<String> {
    let rest = path.strip_prefix(from)?;
    let rest = match rest.strip_prefix('.') {
        Some(rest) => rest,
        None if from.is_empty() || rest.is_empty() => rest,
        None => return None,
    };
    let parts = [to, rest];
    Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("."))
}

/// `path` with every run of whole segments `from` (with its leading dot) replaced.
fn replace_segments(path: &str, from: &str, to: &str) -> String {
    let dotted = format!(".{path}");
    let mut rest = dotted.as_str();
    let mut out = String::with_capacity(dotted.len() + to.len());
    while let Some(at) = rest.find(from) {
        let after = &rest[at + from.len()..];
        let whole = after.is_empty() || after.starts_with('.');
        out.push_str(&rest[..at]);
        out.push_str(if whole { to } else { from });
        rest = after;
    }
    out.push_str(rest);
    out.strip_prefix('.').map(str::to_owned).unwrap_or(out)
}

/// Where a walk through a module stands. burn announces each field with the type that owns it.
#[derive(Debug, Default)]
pub(super) struct Place {
    segments: Vec<String>,
    owners: Vec<String>,
}

/// A parameter's place in a file.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: String,
    /// The file holds the matrix with rows and columns exchanged.
    pub(super) transposed: bool,
    /// It is the weight of a linear layer or a convolution.
    pub(super) layer_weight: bool,
}

impl Place {
    pub(super) fn enter(&mut self, name: &str, owner: &str) {
        self.owners.push(owner.to_owned());
        if !is_variant(owner) {
            self.segments.push(name.strip_prefix("r#").unwrap_or(name).to_owned());
        }
    }

    pub(super) fn exit(&mut self, owner: &str) {
        self.owners.pop();
        if !is_variant(owner) {
            self.segments.pop();
        }
    }

    /// The slot of the parameter at this place.
    pub(super) fn slot(&self, table: &KeyTable) -> Slot {
        let owner = self.owners.last().and_then(|owner| owner.strip_prefix("Struct:")).unwrap_or_default();
        let field = self.segments.last().map(String::as_str).unwrap_or_default();
        let norm = matches!(owner, "LayerNorm" | "GroupNorm" | "BatchNorm" | "InstanceNorm" | "RmsNorm");
        let name = match field {
            "gamma" if norm => "weight",
            "beta" if norm => "bias",
            other => other,
        };
        let mut path = self.segments[..self.segments.len().saturating_sub(1)].join(".");
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        let weight = field == "weight";
        Slot {
            key: table.key(&path),
            transposed: weight && owner == "Linear",
            layer_weight: weight && matches!(owner, "Linear" | "Conv2d"),
        }
    }
}

impl Slot {
    /// The shape in the file of a parameter that is `dims` in burn.
    pub(super) fn shape_in_file(&self, dims: &[usize]) -> Vec<usize> {
        let mut shape = dims.to_vec();
        if self.transposed {
            shape.reverse();
        }
        shape
    }
}

fn is_variant(owner: &str) -> bool {
    owner.starts_with("Enum:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames() {
        let table = KeyTable {
            renames: &[
                ("block", "wrong"),
                ("vit.head", "head"),
                ("vit", "visual_encoder"),
                ("inner", ""),
                ("codes", "q.embedding.weight"),
                (".self_", ".self"),
                (".to_out", ".to_out.0"),
            ],
            ignored: &[],
        };
        for (path, key) in [
            ("blocks.0.weight", "blocks.0.weight"),
            ("vit.head.bias", "head.bias"),
            ("vit.headless.bias", "visual_encoder.headless.bias"),
            ("inner.a.b", "a.b"),
            ("codes", "q.embedding.weight"),
            ("self_.self_.my_self_.self_x.self_", "self.self.my_self_.self_x.self"),
            ("vit.self_.to_out.weight", "visual_encoder.self.to_out.0.weight"),
        ] {
            assert_eq!(table.key(path), key);
        }
        let everything = KeyTable { renames: &[("", "root")], ignored: &[] };
        assert_eq!(everything.key("a.b"), "root.a.b");
        assert_eq!(KeyTable::EXACT.key("a.b"), "a.b");
    }

    #[test]
    fn ignored_patterns() {
        let table = KeyTable { renames: &[], ignored: &["temp", "cls.*", "*.position_ids", "a*a"] };
        for key in ["temp", "cls.x", "cls.", "b.position_ids", "aa", "aba"] {
            assert!(table.ignores(key), "{key}");
        }
        for key in ["temp2", "xtemp", "cls", "position_ids", "a", ""] {
            assert!(!table.ignores(key), "{key}");
        }
    }
}
