//! `seed tokenize` and `seed verify`: every source and format, options, parts of a job.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::{
    dataset::{Data, tree},
    world::{done, ends, fails, feed, text},
};

const FORMATS: [&str; 6] = ["parquet", "jsonl", "seed-tar", "webdataset", "npy", "megatron"];

/// Key and codes of rows, without the ending of the key.
fn by_stem(rows: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let row = |row: &Value| {
        let key = row["key"].as_str().unwrap();
        let stem = key.rsplit('/').next().unwrap().split('.').next().unwrap().to_owned();
        (stem, serde_json::from_value(row["codes"].clone()).unwrap())
    };
    rows.iter().map(row).collect()
}

fn expected(data: &Data) -> BTreeMap<String, Vec<u64>> {
    data.codes().into_iter().map(|(name, codes)| (name.trim_end_matches(".png").to_owned(), codes)).collect()
}

#[test]
fn every_format_holds_every_image_and_verifies() {
    let data = Data::new(25);
    for format in FORMATS {
        done(&mut data.tokenize(&["images", "--format", format, "--shard-size", "10"], format));
        let found = data.verify(format);
        assert_eq!(
            (&found["rows"], &found["shards"], &found["problems"]),
            (&json!(25), &json!(3), &json!(0)),
            "{format}"
        );
    }
    let rows = data.rows("jsonl");
    assert_eq!(by_stem(&rows), expected(&data));
    assert!(rows.iter().all(|row| row["caption"].as_str().unwrap().starts_with("a ")));
}

#[test]
fn a_damaged_output_is_found_out() {
    let data = Data::new(12);
    for format in FORMATS {
        done(&mut data.tokenize(&["images", "--format", format, "--shard-size", "6"], format));
        let name = tree(&data.path(format)).into_keys().find(|name| !name.starts_with("__seed__")).unwrap();
        let path = data.path(format).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        fails(data.seed("verify").arg(format), 1, &["damaged", "tokenize again"]);
        fs::remove_file(&path).unwrap();
        fails(data.seed("verify").arg(format), 1, &["cannot read"]);
    }
    fails(data.seed("verify").arg("images"), 1, &["images", "no output of seed tokenize"]);
}

#[test]
fn lists_of_paths_are_read() {
    let data = Data::new(9);
    let names: Vec<String> = (0..9).map(|i| format!("images/{i:06}.png")).collect();
    fs::write(data.path("list.txt"), names.join("\n")).unwrap();
    let rows: String = names.iter().map(|name| format!("{name},\"a, {name}\",{}\n", name.len())).collect();
    fs::write(data.path("list.csv"), format!("path,caption,length\n{rows}")).unwrap();
    let expected = expected(&data);
    done(&mut data.tokenize(&["list.txt", "--format", "jsonl", "--shard-size", "4"], "text"));
    assert_eq!(by_stem(&data.rows("text")), expected);
    let csv = ["list.csv", "--format", "jsonl", "--shard-size", "4", "--columns", "length:int"];
    done(&mut data.tokenize(&csv, "csv"));
    let rows = data.rows("csv");
    assert_eq!(by_stem(&rows), expected);
    assert_eq!((&rows[8]["caption"], &rows[8]["length"]), (&json!("a, images/000008.png"), &json!(17)));
    let output = feed(&mut data.tokenize(&["-", "--format", "jsonl"], "stdin"), names.join("\n").as_bytes());
    assert!(output.status.success());
    assert_eq!(by_stem(&data.rows("stdin")), expected);
    let latin = [b"images/caf\xe9.png\n".as_slice(), names.join("\r\n").as_bytes()].concat();
    let output = feed(&mut data.tokenize(&["-", "--format", "jsonl"], "latin"), &latin);
    assert_eq!((output.status.code(), by_stem(&data.rows("latin"))), (Some(3), expected.clone()));
    let failure = &data.failures("latin")[0];
    assert!(
        failure["key"] == "standard input#0" && failure["reason"].as_str().unwrap().contains("not UTF-8"),
        "{failure}"
    );
    done(&mut data.tokenize(&["images/*.png", "--format", "jsonl"], "glob"));
    done(&mut data.tokenize(&["images/{000000..000008}.png", "--format", "jsonl"], "braces"));
    assert_eq!(by_stem(&data.rows("glob")), expected);
    assert_eq!(by_stem(&data.rows("braces")), expected);
}

/// A tar of samples: each image with its caption and numbers.
pub(crate) fn write_tar(to: impl std::io::Write, data: &Data, range: std::ops::Range<usize>) {
    let mut tar = tar::Builder::new(to);
    for i in range {
        let image = fs::read(data.path(&format!("images/{i:06}.png"))).unwrap();
        let numbers = json!({"similarity": i as f64 / 10.0, "width": 16}).to_string().into_bytes();
        let members = [("png", image), ("txt", format!("caption {i}").into_bytes()), ("json", numbers)];
        for (field, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{i:06}.{field}"), bytes.as_slice()).unwrap();
        }
    }
    tar.into_inner().unwrap().flush().unwrap();
}

#[test]
fn tars_are_read_however_they_are_compressed() {
    let data = Data::new(12);
    let create = |name: &str| fs::File::create(data.path(name)).unwrap();
    write_tar(create("0.tar"), &data, 0..4);
    let mut gzip = flate2::write::GzEncoder::new(create("1.tar.gz"), flate2::Compression::fast());
    write_tar(&mut gzip, &data, 4..8);
    gzip.finish().unwrap();
    let mut zstd = zstd::stream::Encoder::new(create("2.tar.zst"), 1).unwrap();
    write_tar(&mut zstd, &data, 8..12);
    zstd.finish().unwrap();
    let arguments = ["0.tar", "1.tar.gz", "2.tar.zst", "--format", "jsonl", "--columns", "similarity:float,width:int"];
    done(&mut data.tokenize(&arguments, "out"));
    let rows = data.rows("out");
    assert_eq!(by_stem(&rows), expected(&data));
    assert_eq!(rows[7], {
        let codes = &expected(&data)["000007"];
        json!({"key": "000007", "codes": codes, "caption": "caption 7", "similarity": 0.7, "width": 16})
    });
    // A shard for each tar, and the filters' reasons in the record.
    let filtered = [&arguments[..], &["--min-similarity", "0.5"]].concat();
    done(&mut data.tokenize(&filtered, "filtered"));
    let found = data.verify("filtered");
    assert_eq!((&found["shards"], &found["rows"], &found["filtered"]), (&json!(3), &json!(7), &json!(5)));
    assert_eq!(data.failures("filtered")[0]["reason"], "similarity is 0, below 0.5");
}

#[test]
fn records_of_conversations_and_documents_keep_their_structure() {
    let data = Data::new(4);
    let codes = expected(&data);
    let talk = json!([{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A scene."}]);
    let llava = json!([
        {"id": "one", "image": "000000.png", "conversations": talk},
        {"id": "two", "image": ["000001.png", "000002.png"], "conversations": talk},
        {"id": "none", "conversations": talk},
    ]);
    fs::write(data.path("llava.json"), serde_json::to_string_pretty(&llava).unwrap()).unwrap();
    done(&mut data.tokenize(&["llava.json", "--root", "images", "--format", "jsonl"], "llava"));
    let rows = data.rows("llava");
    assert_eq!(rows[0]["codes"], json!([codes["000000"]]));
    assert_eq!(rows[1]["codes"], json!([codes["000001"], codes["000002"]]));
    assert_eq!((&rows[2]["codes"], &rows[2]["key"]), (&json!([]), &json!("none")));
    assert_eq!(serde_json::from_str::<Value>(rows[2]["conversations"].as_str().unwrap()).unwrap(), talk);
    let several = ["llava.json", "--root", "images", "--format", "npy"];
    fails(&mut data.tokenize(&several, "npy"), 1, &["npy", "one image a sample", "parquet"]);

    let document = json!({
        "url": "https://a.example", "text_list": ["first", "second"],
        "image_info": [{"image_name": "000003.png", "matched_text_index": 1}],
    });
    fs::write(data.path("docs.jsonl"), format!("{document}\n")).unwrap();
    for format in ["jsonl", "parquet", "webdataset"] {
        done(&mut data.tokenize(&["docs.jsonl", "--root", "images", "--format", format], &format!("docs-{format}")));
        assert_eq!(data.verify(&format!("docs-{format}"))["images"], 1);
    }
    let row = &data.rows("docs-jsonl")[0];
    assert_eq!(row["texts"], json!(["first", null, "second"]));
    assert_eq!(row["codes"], json!([null, codes["000003"], null]));
}

#[test]
fn parts_make_the_whole() {
    let data = Data::new(40);
    let arguments = ["images", "--shard-size", "7"];
    done(&mut data.tokenize(&arguments, "whole"));
    for part in ["2/3", "0/3"] {
        done(&mut data.tokenize(&[&arguments[..], &["--shard", part]].concat(), "parts"));
    }
    fails(data.seed("verify").arg("parts"), 3, &["shards not done: 1, 4"]);
    done(data.tokenize(&arguments, "parts").env("SLURM_PROCID", "1").env("SLURM_NTASKS", "3"));
    assert!(tree(&data.path("whole")) == tree(&data.path("parts")));
    // Nor do threads or the batch change a byte.
    done(&mut data.tokenize(&[&arguments[..], &["--threads", "1", "--batch-size", "3"]].concat(), "one"));
    assert!(tree(&data.path("whole")) == tree(&data.path("one")));
    // Nothing is done again.
    let output = done(&mut data.tokenize(&[&arguments[..], &["--json"]].concat(), "parts"));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["statistics"]["shards_before"], &said["statistics"]["rows"]), (&json!(6), &json!(0)));
    let wrong = [&arguments[..], &["--shard", "3/3"]].concat();
    fails(&mut data.tokenize(&wrong, "parts"), 2, &["3/3", "0 to N - 1"]);
}

#[test]
fn other_settings_are_refused_by_name() {
    let data = Data::new(10);
    let arguments = ["images", "--shard-size", "5"];
    done(&mut data.tokenize(&arguments, "out"));
    let with = |more: &[&str], words: &[&str]| {
        let arguments = [&arguments[..], more].concat();
        fails(&mut data.tokenize(&arguments, "out"), 1, words);
    };
    with(&["--preprocess", "seed-scripts"], &["tokenizer.preprocess", "seed-scripts", "begun with other settings"]);
    with(&["--format", "jsonl"], &["format", "parquet", "jsonl"]);
    with(&["--dtype", "f16"], &["tokenizer.dtype", "f16"]);
    with(&["--min-side", "8"], &["filters.min_side"]);
    with(&["--limit", "3"], &["limit"]);
    fails(data.seed("tokenize").args(arguments).args(["--out", "out"]), 1, &["shape.codebook_size", "64"]);
    fs::copy(data.path("images/000000.png"), data.path("images/000000a.png")).unwrap();
    with(&[], &["inputs", "fingerprint"]);
    fs::create_dir(data.path("mine")).unwrap();
    fs::write(data.path("mine/thesis.tex"), "").unwrap();
    fails(&mut data.tokenize(&arguments, "mine"), 1, &["mine", "thesis.tex", "empty folder"]);
}

#[test]
fn a_plan_and_limits() {
    let data = Data::new(20);
    let plan = text(&done(&mut data.tokenize(&["images", "--shard-size", "8", "--dry-run"], "out")).stdout);
    for word in ["random", "parquet in out", "3 of 3", "20", "caption", "images [8..16] -> 00001.parquet"] {
        assert!(plan.contains(word), "{word} is not in {plan}");
    }
    assert!(!data.path("out").exists());
    done(&mut data.tokenize(&["images", "--shard-size", "8", "--limit", "10", "--format", "jsonl"], "out"));
    assert_eq!(data.rows("out").len(), 10);
    // Once more, it goes no further.
    done(&mut data.tokenize(&["images", "--shard-size", "8", "--limit", "10", "--format", "jsonl"], "out"));
    assert_eq!(data.rows("out").len(), 10);
    fails(data.seed("verify").arg("out"), 3, &["shards not done: 2"]);
    done(&mut data.tokenize(&["images", "--min-side", "17", "--format", "jsonl"], "small"));
    let found = data.verify("small");
    assert_eq!((&found["rows"], &found["filtered"]), (&json!(0), &json!(20)));
    ends(&mut data.tokenize(&["nothing-here"], "none"), 1);
}
