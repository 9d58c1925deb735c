use super::*;

/// A tokenizer of five tokens, in the layout of `tokenizers`, with a number that must not change.
const SMALL: &str = r#"{
  "version": "1.0",
  "truncation": null,
  "added_tokens": [
    {
      "id": 0,
      "content": "<s>",
      "single_word": false,
      "lstrip": false,
      "rstrip": false,
      "normalized": false,
      "special": true
    }
  ],
  "normalizer": null,
  "model": {
    "type": "WordLevel",
    "vocab": {"<s>": 0, "a": 1, "b": 2, "c": 3, "<unk>": 4},
    "dropout": 0.10000000000000000001,
    "unk_token": "<unk>"
  }
}"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| std::fs::write(folder.0.path().join(name), text).unwrap());
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }
}

fn template(offset: u32) -> Template {
    Template::for_codebook(3, 2, offset).unwrap()
}

#[test]
fn tokens_are_added_and_nothing_else_changes() {
    let config = "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": \"<s>\"}";
    let from = Folder::new(&[(TOKENIZER, SMALL), (CONFIG, config), ("tokenizer.model", "..."), ("weights.bin", "no")]);
    let out = Folder::new(&[]);
    let extended = extend_tokenizer(from.path(), out.path(), &template(5), Some(Prompt::SeedLlama8b)).unwrap();
    assert_eq!((extended.added, extended.present, extended.vocabulary), (5, 0, 10));
    let text = out.read(TOKENIZER);
    let (before, after) = SMALL.split_once("true\n    }\n  ]").unwrap();
    assert!(text.starts_with(before) && text.ends_with(after), "{text}");
    let tokens = &out.json(TOKENIZER)["added_tokens"];
    let expected = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special})
    };
    assert_eq!(tokens[1], expected(5, "<img_00000>", false));
    assert_eq!(tokens[3], expected(7, "<img_00002>", false));
    assert_eq!((&tokens[4], &tokens[5]), (&expected(8, "<img>", true), &expected(9, "</img>", true)));
    assert_eq!(out.json(ADDED), json!({"<img_00000>": 5, "<img_00001>": 6, "<img_00002>": 7, "<img>": 8, "</img>": 9}));
    assert_eq!(out.json(SPECIAL), json!({"additional_special_tokens": ["<img>", "</img>"]}));
    let config = out.read(CONFIG);
    assert!(config.contains("1000000000000000019884624838656"), "{config}");
    let config = out.json(CONFIG);
    assert_eq!(config["added_tokens_decoder"]["9"]["special"], true);
    assert_eq!(config["additional_special_tokens"], json!(["<img>", "</img>"]));
    assert_eq!(config["chat_template"], out.read(CHAT));
    assert!(!out.path().join("weights.bin").exists());
    let mut files: Vec<String> =
        std::fs::read_dir(out.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut named = extended.files;
    named.sort();
    assert_eq!(files, named);
}

#[test]
fn a_second_time_adds_nothing() {
    let special = "{\"bos_token\": \"<s>\", \"additional_special_tokens\": [{\"content\": \"<img>\"}]}";
    let from = Folder::new(&[(TOKENIZER, SMALL), (CONFIG, "{}"), (SPECIAL, special)]);
    let (once, twice) = (Folder::new(&[]), Folder::new(&[]));
    extend_tokenizer(from.path(), once.path(), &template(5), Some(Prompt::SeedLlama14b)).unwrap();
    let marks = json!([{"content": "<img>"}, "</img>"]);
    assert_eq!(once.json(SPECIAL), json!({"bos_token": "<s>", "additional_special_tokens": marks}));
    let again = extend_tokenizer(once.path(), twice.path(), &template(5), Some(Prompt::SeedLlama14b)).unwrap();
    assert_eq!((again.added, again.present, again.vocabulary), (0, 5, 10));
    for name in [TOKENIZER, CONFIG, SPECIAL, ADDED, CHAT] {
        assert_eq!(once.read(name), twice.read(name), "{name}");
    }
}

#[test]
fn ids_must_follow_without_a_gap() {
    let from = Folder::new(&[(TOKENIZER, SMALL)]);
    let out = Folder::new(&[]);
    let fail = |template: &Template| extend_tokenizer(from.path(), out.path(), template, None).unwrap_err().to_string();
    let taken = fail(&template(4));
    assert!(taken.contains("id 4, for \"<img_00000>\", is taken by \"<unk>\"; its free ids begin at 5"), "{taken}");
    let gap = fail(&template(6));
    assert!(gap.contains("\"<img_00000>\" cannot have id 6: the next free id is 5"), "{gap}");
    let scattered = super::super::TemplateConfig { end_id: 10, ..template(5).config().clone() };
    let gap = fail(&Template::new(scattered).unwrap());
    assert!(gap.contains("\"</img>\" cannot have id 10: the next free id is 9"), "{gap}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn tokens_that_are_there_otherwise_are_refused() {
    let out = Folder::new(&[]);
    let fail = |tokenizer: &str| {
        let from = Folder::new(&[(TOKENIZER, tokenizer)]);
        extend_tokenizer(from.path(), out.path(), &template(5), None).unwrap_err().to_string()
    };
    let with = |token: Value| SMALL.replace("[\n    {", &format!("[\n    {token}, {{"));
    let special = fail(&with(json!({"id": 5, "content": "<img_00000>", "special": true})));
    assert!(special.contains("\"<img_00000>\" is there already, otherwise"), "{special}");
    let elsewhere = fail(&with(json!({"id": 5, "content": "<img>", "special": true})));
    assert!(elsewhere.contains("id 5, for \"<img_00000>\", is taken by \"<img>\""), "{elsewhere}");
    let own = fail(&SMALL.replace("\"c\": 3", "\"<img>\": 3"));
    assert!(own.contains("\"<img>\" is a token of its model"), "{own}");
    let hole = fail(&SMALL.replace("\"c\": 3", "\"c\": 7"));
    assert!(hole.contains("5 tokens and the id 7"), "{hole}");
}

#[test]
fn files_that_are_no_tokenizers_are_refused() {
    let out = Folder::new(&[]);
    let fail = |files: &[(&str, &str)]| {
        extend_tokenizer(Folder::new(files).path(), out.path(), &template(5), None).unwrap_err().to_string()
    };
    assert!(fail(&[]).contains("tokenizer.json cannot take the tokens of images: there is none"));
    assert!(fail(&[(TOKENIZER, "{")]).contains("no valid JSON"));
    assert!(fail(&[(TOKENIZER, "{}")]).contains("missing field `model`"));
    assert!(fail(&[(TOKENIZER, SMALL), (CONFIG, "[]")]).contains("tokenizer_config.json cannot take"));
    let other = "{\"added_tokens_decoder\": {\"5\": {\"content\": \"x\"}}}";
    assert!(fail(&[(TOKENIZER, SMALL), (CONFIG, other)]).contains("its id 5 is \"x\""));
    let from = Folder::new(&[(TOKENIZER, SMALL)]);
    let error = extend_tokenizer(from.path(), from.path(), &template(5), None).unwrap_err().to_string();
    assert!(error.contains("another folder"), "{error}");
    assert_eq!(from.read(TOKENIZER), SMALL);
}

#[test]
fn unigram_vocabularies_are_lists() {
    let unigram = SMALL.replace(
        "{\"<s>\": 0, \"a\": 1, \"b\": 2, \"c\": 3, \"<unk>\": 4}",
        "[[\"<s>\", 0.0], [\"a\", -1.5], [\"<unk>\", -2.1]]",
    );
    let from = Folder::new(&[(TOKENIZER, &unigram)]);
    let out = Folder::new(&[]);
    assert_eq!(extend_tokenizer(from.path(), out.path(), &template(3), None).unwrap().vocabulary, 8);
    assert!(out.read(TOKENIZER).contains("[\"a\", -1.5]"));
}
