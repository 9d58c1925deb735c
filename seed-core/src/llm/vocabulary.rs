//! A tokenizer in the files of Hugging Face -> the same with the tokens of images.
//!
//! | file | what is added |
//! |---|---|
//! | `tokenizer.json` | the tokens: codes plain, marks special; neither normalized, single words nor stripped |
//! | `tokenizer_config.json`, if it is there | the same, marks among the additional special tokens, a chat template |
//! | `special_tokens_map.json` | marks among the additional special tokens |
//! | `added_tokens.json` | names and ids of all tokens beyond the model's own |
//! | `chat_template.jinja` | a chat template, if one is asked for |
//!
//! Whatever else is in these files stays letter by letter. Codes are not special, so that text with them keeps them when special
//! tokens are left out.
//!
//! `tokenizers` gives an added token the next free id, whatever the file says: ids must follow those that are there without a
//! gap, and a template that does not fit is refused.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Prompt, Template,
    json::{Object, append},
    template::Token,
};
use crate::{
    atomic,
    error::{Error, Result},
};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
const CHAT: &str = "chat_template.jinja";

/// What slow tokenizers read, which take the added tokens from [`ADDED`].
const COPIED: [&str; 5] = ["tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt"];

/// Where the lists of special tokens have the marks: by the name of older and of newer versions of `transformers`.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What became of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extended {
    /// Tokens that were added.
    pub added: usize,
    /// Tokens that were there already, as they should be.
    pub present: usize,
    /// Ids of the tokenizer now: rows that the model's embeddings need.
    pub vocabulary: usize,
    /// Names of the files that were written.
    pub files: Vec<String>,
}

/// Writes the tokenizer of `folder`, with the tokens of `template`, to the folder `out`. Done twice it adds nothing.
///
/// # Errors
/// [`Error::Vocabulary`] for files that are no tokenizer's, and for tokens that are there otherwise or would not get their ids;
/// [`Error::Read`] and [`Error::Write`].
pub fn extend_tokenizer(folder: &Path, out: &Path, template: &Template, chat: Option<Prompt>) -> Result<Extended> {
    let path = folder.join(TOKENIZER);
    let fail = |reason: String| Error::Vocabulary { path: path.clone(), reason };
    if !path.is_file() {
        return Err(fail(
            "there is none; give the folder of a fast tokenizer, as AutoTokenizer's save_pretrained writes it"
                .to_owned(),
        ));
    }
    std::fs::create_dir_all(out).map_err(|source| Error::Write { path: out.to_owned(), source })?;
    if same(folder, out) {
        return Err(fail("the result must go to another folder, so that this one stays as it is".to_owned()));
    }
    let text = read(&path)?;
    let object = Object::read(&text).map_err(fail)?;
    let mut vocabulary = Vocabulary::read(&text).map_err(fail)?;
    let missing = vocabulary.missing(template).map_err(fail)?;
    let items: Vec<String> = missing.iter().map(entry).collect();
    let added = append(object.get("added_tokens").filter(|list| *list != "null").unwrap_or("[]"), &items, "    ");
    vocabulary.add(&missing);

    let chat = chat.map(|chat| chat.chat_template(template));
    let mut files = vec![(ADDED, vocabulary.added_tokens())];
    if let Some(chat) = &chat {
        files.push((CHAT, chat.clone()));
    }
    let path_of = |name: &str| folder.join(name);
    let special = if path_of(SPECIAL).is_file() { read(&path_of(SPECIAL))? } else { "{}".to_owned() };
    let wrong = |name: &str, reason| Error::Vocabulary { path: path_of(name), reason };
    files.push((SPECIAL, with_marks(&special, template, LISTS[0]).map_err(|reason| wrong(SPECIAL, reason))?));
    if path_of(CONFIG).is_file() {
        let config = configured(&read(&path_of(CONFIG))?, template, chat.as_deref());
        files.push((CONFIG, config.map_err(|reason| wrong(CONFIG, reason))?));
    }
    // Last: whoever finds it finds everything.
    files.push((TOKENIZER, object.with("added_tokens", &added)));

    let mut names = Vec::new();
    for name in COPIED.into_iter().filter(|name| path_of(name).is_file()) {
        let bytes = std::fs::read(path_of(name)).map_err(|source| Error::Read { path: path_of(name), source })?;
        atomic::write(&out.join(name), &bytes)?;
        names.push(name.to_owned());
    }
    for (name, text) in files {
        atomic::write(&out.join(name), text.as_bytes())?;
        names.push(name.to_owned());
    }
    let present = template.vocabulary().len() - missing.len();
    Ok(Extended { added: missing.len(), present, vocabulary: vocabulary.next as usize, files: names })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Whether two folders are one.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A token as `tokenizer.json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl AddedToken {
    fn of(token: &Token) -> Self {
        let (id, content, special) = (token.id, token.text.clone(), token.is_mark);
        Self { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }
}

/// What a tokenizer knows.
struct Vocabulary {
    /// Ids of the model's own tokens.
    own: HashMap<String, u32>,
    added: HashMap<String, AddedToken>,
    /// The id that the next added token gets.
    next: u32,
}

impl Vocabulary {
    fn read(text: &str) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            added_tokens: Option<Vec<AddedToken>>,
            model: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            vocab: Value,
        }
        let file: File = serde_json::from_str(text).map_err(|error| format!("it is not a tokenizer's: {error}"))?;
        let own: HashMap<String, u32> = match file.model.vocab {
            Value::Object(vocab) => {
                let id = |(text, id): (String, Value)| Some((text, u32::try_from(id.as_u64()?).ok()?));
                vocab.into_iter().map(id).collect::<Option<_>>().ok_or("an id in its vocabulary is no number")?
            }
            // Unigram: pairs of text and score, in the order of ids.
            Value::Array(vocab) => {
                let text = |(id, pair): (u32, Value)| Some((pair.get(0)?.as_str()?.to_owned(), id));
                (0..)
                    .zip(vocab)
                    .map(text)
                    .collect::<Option<_>>()
                    .ok_or("its vocabulary is no list of texts and scores")?
            }
            _ => return Err("its model has no vocabulary".to_owned()),
        };
        let size = u32::try_from(own.len()).map_err(|error| error.to_string())?;
        if let Some(&last) = own.values().max().filter(|&&last| last >= size) {
            return Err(format!(
                "its model has {size} tokens and the id {last}: ids of tokens that are added would not be where they should"
            ));
        }
        let added: HashMap<String, AddedToken> =
            file.added_tokens.unwrap_or_default().into_iter().map(|token| (token.content.clone(), token)).collect();
        let next = added.values().map(|token| token.id.saturating_add(1)).max().unwrap_or_default().max(size);
        Ok(Self { own, added, next })
    }

    /// The tokens of `template` that are not there, which get their ids when they are added in this order.
    fn missing(&self, template: &Template) -> std::result::Result<Vec<Token>, String> {
        let mut next = self.next;
        let mut missing = Vec::new();
        for token in template.vocabulary() {
            let Token { id, text, .. } = &token;
            if self.own.contains_key(text) {
                return Err(format!("{text:?} is a token of its model; spell the template otherwise"));
            }
            if let Some(found) = self.added.get(text) {
                let wanted = AddedToken::of(&token);
                if *found != wanted {
                    return Err(format!("{text:?} is there already, otherwise: {found:?} where {wanted:?} is needed"));
                }
                continue;
            }
            if *id < next {
                let holder = self.text_of(*id).map_or(String::new(), |text| format!(" by {text:?}"));
                return Err(format!(
                    "id {id}, for {text:?}, is taken{holder}; its free ids begin at {}: take a template with that offset",
                    self.next
                ));
            }
            if *id > next {
                return Err(format!(
                    "{text:?} cannot have id {id}: the next free id is {next}, and ids without a token between are not possible; \
                     take a template whose ids follow from {next} on"
                ));
            }
            next += 1;
            missing.push(token);
        }
        Ok(missing)
    }

    fn text_of(&self, id: u32) -> Option<&str> {
        let own = self.own.iter().find(|(_, own)| **own == id).map(|(text, _)| text.as_str());
        own.or_else(|| self.added.values().find(|token| token.id == id).map(|token| token.content.as_str()))
    }

    fn add(&mut self, tokens: &[Token]) {
        for token in tokens {
            self.next = self.next.max(token.id + 1);
            self.added.insert(token.text.clone(), AddedToken::of(token));
        }
    }

    /// The text of [`ADDED`].
    fn added_tokens(&self) -> String {
        let beyond = self.added.values().filter(|token| token.id as usize >= self.own.len());
        let tokens: BTreeMap<&str, u32> = beyond.map(|token| (token.content.as_str(), token.id)).collect();
        pretty(&tokens)
    }
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("texts and numbers are JSON") + "\n"
}

/// A token in the layout of `tokenizer.json`.
fn entry(token: &Token) -> String {
    let (id, content) = (token.id, Value::from(token.text.as_str()));
    let flags = ["single_word", "lstrip", "rstrip", "normalized"].map(|flag| format!("      \"{flag}\": false,\n"));
    format!(
        "{{\n      \"id\": {id},\n      \"content\": {content},\n{}      \"special\": {}\n    }}",
        flags.concat(),
        token.is_mark
    )
}

/// An object whose list of further special tokens, of whatever name it has or else of `name`, has the marks.
fn with_marks(text: &str, template: &Template, name: &str) -> std::result::Result<String, String> {
    let object = Object::read(text)?;
    let is_list = |name: &&str| object.get(name).is_some_and(|list| list.starts_with('['));
    let name = LISTS.into_iter().find(is_list).unwrap_or(name);
    let list = object.get(name).filter(|list| list.starts_with('[')).unwrap_or("[]");
    let there: Vec<Value> = serde_json::from_str(list).map_err(|error| error.to_string())?;
    let config = template.config();
    let is_missing = |mark: &&String| {
        let is_it = |item: &Value| item.as_str().or(item["content"].as_str()) == Some(mark.as_str());
        !there.iter().any(is_it)
    };
    let marks = [&config.begin, &config.end].into_iter().filter(is_missing);
    let items: Vec<String> = marks.map(|mark| Value::from(mark.as_str()).to_string()).collect();
    if items.is_empty() { Ok(text.to_owned()) } else { Ok(object.with(name, &append(list, &items, "    "))) }
}

/// The text of `tokenizer_config.json`, with everything that belongs there.
fn configured(text: &str, template: &Template, chat: Option<&str>) -> std::result::Result<String, String> {
    let object = Object::read(text)?;
    let list = object.get("added_tokens_decoder").filter(|list| list.starts_with('{')).unwrap_or("{}");
    let there: BTreeMap<String, Value> = serde_json::from_str(list).map_err(|error| error.to_string())?;
    let mut items = Vec::new();
    for token in template.vocabulary() {
        let id = token.id.to_string();
        match there.get(&id).map(|found| &found["content"]) {
            Some(found) if found.as_str() == Some(&token.text) => {}
            Some(found) => return Err(format!("its id {id} is {found}, where {:?} is needed", token.text)),
            None => {
                let flags = json!({
                    "content": token.text, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                    "special": token.is_mark,
                });
                items.push(format!("\"{id}\": {flags}"));
            }
        }
    }
    let mut text = object.with("added_tokens_decoder", &append(list, &items, "    "));
    text = with_marks(&text, template, LISTS[0])?;
    if let Some(chat) = chat {
        text = Object::read(&text)?.with("chat_template", &Value::from(chat).to_string());
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
