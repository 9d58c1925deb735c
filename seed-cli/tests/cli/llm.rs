//! What language models take: `seed encode --text`, `seed vocab`, `seed grammar`.

use std::fs;

use serde_json::{Value, json};

use crate::world::{World, done, fails, feed, program, text};

/// A tokenizer of three tokens.
const TOKENIZER: &str = r#"{"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}}}"#;

#[test]
fn text_of_a_language_model_is_decoded_as_codes_are() {
    let world = World::new();
    let paths = world.images(2);
    let codes = world.encode(&paths);
    let written = text(&done(world.seed("encode").arg("--text").args(&paths)).stdout);
    for (line, codes) in written.lines().zip(codes.lines()) {
        let (path, row) = codes.split_once('\t').unwrap();
        let tokens: String = row.split(' ').map(|code| format!("<img_{code:0>5}>")).collect();
        assert_eq!(line, format!("{path}\t<img>{tokens}</img>"));
    }
    assert_eq!(written.lines().count(), 2);
    for (lines, out) in [(&written, "from-text"), (&codes, "from-codes")] {
        assert_eq!(feed(world.seed("decode").args(["--out", out]), lines.as_bytes()).status.code(), Some(0));
    }
    for name in ["00.png", "01.png"] {
        let read = |folder: &str| fs::read(world.path(folder).join(name)).unwrap();
        assert!(read("from-text") == read("from-codes"), "{name}");
    }
    let broken = written.replacen("</img>", "", 1);
    fs::write(world.path("broken.txt"), broken).unwrap();
    let words = ["broken.txt, line 1", "it has no end mark", "after 32 of 32 codes"];
    fails(world.seed("decode").args(["broken.txt", "--out", "out"]), 1, &words);
    fails(world.seed("encode").args(["--text", "--json"]).args(&paths), 2, &["cannot be used with"]);
}

#[test]
fn a_tokenizer_gets_the_tokens_of_images() {
    let world = World::new();
    fs::create_dir(world.path("tokenizer")).unwrap();
    fs::write(world.path("tokenizer/tokenizer.json"), TOKENIZER).unwrap();
    let vocab = |options: &[&str]| {
        let mut command = world.seed("vocab");
        command.args(options);
        command
    };
    let output = done(&mut vocab(&["tokenizer", "--out", "more", "--chat", "seed-llama-8b"]));
    assert_eq!(
        text(&output.stdout),
        "258 tokens added, 0 were there\ncodes    ids 3 to 258\n<img>    id 259\n</img>   id 260\n261 rows of embeddings\n"
    );
    let tokenizer: Value = serde_json::from_slice(&fs::read(world.path("more/tokenizer.json")).unwrap()).unwrap();
    assert_eq!(tokenizer["added_tokens"][255]["content"], "<img_00255>");
    assert!(fs::read_to_string(world.path("more/chat_template.jinja")).unwrap().contains("USER: "));

    // The ids that are there are found.
    let output = done(&mut vocab(&["more", "--out", "again", "--json"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["result"]["added"], &report["result"]["present"]), (&json!(0), &json!(258)));
    assert_eq!(report["template"]["offset"], 3);

    let taken = vocab(&["tokenizer", "--out", "no", "--offset", "2"]).output().unwrap();
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains("is taken by \"c\"; its free ids begin at 3"), "{}", text(&taken.stderr));
    fails(&mut vocab(&["images", "--out", "no"]), 1, &["tokenizer.json", "there is none"]);
    fails(&mut vocab(&["tokenizer", "--out", "no", "--token", "<img>"]), 1, &["one place for the number"]);
    fails(&mut vocab(&["tokenizer", "--out", "no", "--chat", "vicuna"]), 2, &["seed-llama-8b and seed-llama-14b"]);
}

#[test]
fn grammars_are_of_the_model_or_of_seed_llama() {
    let world = World::new();
    let lark = text(&done(world.seed("grammar").args(["llguidance", "--reply", "image"])).stdout);
    assert_eq!(lark, "start: image\nimage: <[32256]> <[32000-32255]>{32} <[32257]>\n");
    let lark = text(&done(program().args(["grammar", "llguidance", "--seed-llama"])).stdout);
    assert!(lark.contains("image: <[40192]> <[32000-40191]>{32} <[40193]>"), "{lark}");
    let gbnf = text(&done(program().args(["grammar", "gbnf", "--seed-llama", "--token", "[{}]"])).stdout);
    assert!(gbnf.contains("image ::= \"<img>\" code{32} \"</img>\"\ncode ::= \"[\" number \"]\""), "{gbnf}");
    fails(program().args(["grammar", "gbnf", "--reply", "song"]), 2, &["replies are image"]);
    fails(program().args(["grammar", "gbnf", "--begin-id", "32000"]), 1, &["begin_id = 32000 is not possible"]);
}
