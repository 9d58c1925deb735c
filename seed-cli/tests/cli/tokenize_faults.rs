//! `seed tokenize` among broken inputs, full disks and killed processes: nothing lost, nothing twice, nothing silent.

use std::{
    fs,
    process::{Child, Stdio},
    time::Instant,
};

use serde_json::{Value, json};

use crate::{
    dataset::{Data, tree},
    tokenize::write_tar,
    world::{done, ends, fails, interrupt, wait_for},
};

#[test]
fn bad_images_are_recorded_and_the_others_are_done() {
    let data = Data::new(10);
    let whole = fs::read(data.path("images/000003.png")).unwrap();
    fs::write(data.path("images/000003.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(data.path("images/000004.png"), "no image").unwrap();
    fs::write(data.path("images/000005.png"), bomb()).unwrap();
    fs::remove_file(data.path("images/000006.png")).unwrap(); // metadata.jsonl still names it
    let arguments = ["images", "--format", "jsonl", "--shard-size", "4"];
    fails(&mut data.tokenize(&arguments, "out"), 3, &["6 rows from 10 inputs", "4 failed", "__seed__/failures"]);
    let found = data.verify("out");
    assert_eq!((&found["inputs"], &found["rows"], &found["failed"]), (&json!(10), &json!(6), &json!(4)));
    let failures = data.failures("out");
    let reason = |key: &str| {
        let line = failures.iter().find(|line| line["key"] == key).unwrap_or_else(|| panic!("{key}: {failures:?}"));
        line["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason("000003.png").contains("cut off"), "{failures:?}");
    assert!(reason("000004.png").contains("not an image"));
    assert!(reason("000005.png").contains("60000 x 60000"));
    assert!(reason("000006.png").contains("metadata.jsonl names it"));
    // Mended, the shards with failures are done again, the others not.
    for name in ["000003", "000004", "000005", "000006"] {
        fs::write(data.path(&format!("images/{name}.png")), &whole).unwrap();
    }
    let again = [&arguments[..], &["--retry-failures", "--json"]].concat();
    let said: Value = serde_json::from_slice(&done(&mut data.tokenize(&again, "out")).stdout).unwrap();
    assert_eq!(said["statistics"]["shards_before"], 1);
    let found = data.verify("out");
    assert_eq!((&found["rows"], &found["failed"]), (&json!(10), &json!(0)));
    assert!(data.failures("out").is_empty());
}

#[test]
fn too_many_failures_end_the_run() {
    let data = Data::new(9);
    for i in 3..9 {
        fs::write(data.path(&format!("images/{i:06}.png")), "no image").unwrap();
    }
    let arguments = ["images", "--shard-size", "3", "--max-errors", "2"];
    fails(&mut data.tokenize(&arguments, "out"), 1, &["more than 2 inputs failed", "000005.png", "not an image"]);
    fails(data.seed("verify").arg("out"), 3, &["shards not done: 1, 2"]);
}

/// A PNG that claims 60,000 x 60,000 pixels.
fn bomb() -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    let start = png.len() - 4; // the checksum covers the chunk's name too
    png.extend(60_000u32.to_be_bytes());
    png.extend(60_000u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0]);
    let mut checksum = flate2::Crc::new();
    checksum.update(&png[start..]);
    png.extend(checksum.sum().to_be_bytes());
    png
}

#[test]
fn a_cut_tar_says_what_it_lost() {
    let data = Data::new(6);
    let mut whole = Vec::new();
    write_tar(&mut whole, &data, 0..6);
    // In the middle of a member, within a header, and between two samples: the sample before is only known to be whole when
    // the next one's name was read.
    let mut last = 0;
    let mut offset = 0;
    while offset + 512 <= whole.len() && whole[offset] != 0 {
        if whole[offset..].starts_with(b"000004.png") {
            last = offset;
        }
        let size = u64::from_str_radix(std::str::from_utf8(&whole[offset + 124..offset + 135]).unwrap(), 8).unwrap();
        offset += 512 + (size as usize).next_multiple_of(512);
    }
    for (name, length, rows) in [("member", last + 700, 4), ("header", last + 100, 3), ("between", last, 3)] {
        fs::write(data.path(&format!("{name}.tar")), &whole[..length]).unwrap();
        let tar = format!("{name}.tar");
        ends(&mut data.tokenize(&[&tar, "--format", "jsonl"], name), 3);
        let found = data.verify(name);
        assert_eq!(found["rows"], rows, "{name}");
        let failures = data.failures(name);
        assert!(failures.last().unwrap()["reason"].as_str().unwrap().contains("fetch it again"), "{failures:?}");
    }
}

#[test]
fn links_and_captions_in_other_encodings_fail_alone_in_a_tar() {
    let data = Data::new(3);
    let mut bytes = Vec::new();
    write_tar(&mut bytes, &data, 0..3);
    bytes.truncate(bytes.len() - 1024);
    let mut tar = tar::Builder::new(bytes);
    let header = |size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        header
    };
    let mut link = header(0);
    link.set_entry_type(tar::EntryType::Link);
    tar.append_link(&mut link, "link.png", "000000.png").unwrap();
    let image = fs::read(data.path("images/000000.png")).unwrap();
    tar.append_data(&mut header(image.len()), "latin.png", image.as_slice()).unwrap();
    tar.append_data(&mut header(4), "latin.txt", b"caf\xe9".as_slice()).unwrap();
    tar.append_data(&mut header(image.len()), "last.png", image.as_slice()).unwrap();
    fs::write(data.path("0.tar"), tar.into_inner().unwrap()).unwrap();
    fails(&mut data.tokenize(&["0.tar", "--format", "jsonl"], "out"), 3, &["4 rows from 6 inputs", "2 failed"]);
    let failures: Vec<Value> = data.failures("out");
    let [link, latin] = &failures[..] else { panic!("{failures:?}") };
    assert!(link["key"] == "link" && link["reason"].as_str().unwrap().contains("--hard-dereference"), "{link}");
    assert!(latin["key"] == "latin" && latin["reason"].as_str().unwrap().contains("txt is not UTF-8"), "{latin}");
}

#[test]
fn folders_tell_of_what_is_not_read_in_them() {
    let data = Data::new(3);
    fs::remove_file(data.path("images/metadata.jsonl")).unwrap();
    fs::write(data.path("images/000000.txt"), "a caption\n").unwrap();
    fs::write(data.path("images/000001.txt"), b"caf\xe9").unwrap();
    fs::write(data.path("images/photo.HEIC"), b"\0\0\0\x18ftypheic").unwrap();
    fails(&mut data.tokenize(&["images", "--format", "jsonl"], "out"), 3, &["2 rows from 4 inputs", "2 failed"]);
    let failures = data.failures("out");
    let reason = |i: usize| failures[i]["reason"].as_str().unwrap();
    assert!(reason(0).contains("000001.txt cannot be read") && reason(1).contains("it is HEIF"), "{failures:?}");

    fs::write(data.path("images/metadata.csv"), "file_name,text\n000000.png,one\n000000.png,two\n").unwrap();
    fails(
        &mut data.tokenize(&["images"], "twice"),
        1,
        &["metadata.csv", "line 3", "described before", "--source list"],
    );
}

#[test]
fn rows_of_csv_that_are_not_as_long_as_the_header_fail_and_open_quotes_are_refused() {
    let data = Data::new(4);
    let list = |rows: &str| fs::write(data.path("list.csv"), format!("path,caption\n{rows}")).unwrap();
    list(
        "images/000000.png,a red, large circle\nimages/000001.png\n,none\nimages/000002.png,\"5\"\" wide,\nor 6\"\nimages/000003.png,5\" wide\n",
    );
    let arguments = ["list.csv", "--format", "jsonl"];
    fails(&mut data.tokenize(&arguments, "out"), 3, &["2 rows from 5 inputs", "3 failed"]);
    let failures = data.failures("out");
    let said =
        |i: usize| format!("{} {}", failures[i]["key"].as_str().unwrap(), failures[i]["reason"].as_str().unwrap());
    assert!(
        said(0).contains("list.csv:2 ") && said(0).contains("the row has 3 fields and the header 2"),
        "{failures:?}"
    );
    assert!(said(1).contains("list.csv:3 ") && said(1).contains("1 fields"), "{failures:?}");
    assert!(said(2).contains("list.csv:4 ") && said(2).contains("names no image"), "{failures:?}");
    assert_eq!(data.rows("out")[0]["caption"], "5\" wide,\nor 6");

    list("images/000000.png,one\nimages/000001.png,\"two\nimages/000002.png,three\n");
    fails(&mut data.tokenize(&arguments, "open"), 1, &["list.csv", "line 3 is never closed"]);
    fs::remove_file(data.path("images/metadata.jsonl")).unwrap();
    fs::write(data.path("images/metadata.csv"), "file_name,text\n000000.png,\"one\n000001.png,two\n").unwrap();
    fails(&mut data.tokenize(&["images"], "folder"), 1, &["metadata.csv", "line 2 is never closed"]);
}

#[test]
fn a_damaged_page_of_parquet_costs_its_rows_alone() {
    use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
    use std::sync::Arc;
    let data = Data::new(12);
    let images: Vec<Vec<u8>> = (0..12).map(|i| fs::read(data.path(&format!("images/{i:06}.png"))).unwrap()).collect();
    let columns: [(&str, ArrayRef); 2] = [
        ("image", Arc::new(BinaryArray::from_iter_values(&images))),
        ("id", Arc::new(Int64Array::from_iter_values(0..12))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_size(4)
        .set_dictionary_enabled(false)
        .set_compression(parquet::basic::Compression::UNCOMPRESSED)
        .build();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    fs::write(data.path("whole.parquet"), &bytes).unwrap();
    done(&mut data.tokenize(&["whole.parquet", "--format", "jsonl"], "whole"));
    // The length of the second row group's first image stands before it.
    let image = bytes.windows(images[4].len()).position(|window| window == images[4]).unwrap();
    bytes[image - 4..image].fill(0xff);
    fs::write(data.path("broken.parquet"), &bytes).unwrap();
    ends(&mut data.tokenize(&["broken.parquet", "--format", "jsonl"], "broken"), 3);
    let found = data.verify("broken");
    assert_eq!((&found["inputs"], &found["rows"], &found["failed"]), (&json!(12), &json!(8), &json!(4)));
    let rows = data.rows("whole");
    assert_eq!(data.rows("broken"), [&rows[..4], &rows[8..]].concat());
    // Cut off, it has no metadata: the whole input is refused.
    fs::write(data.path("cut.parquet"), &bytes[..bytes.len() - 20]).unwrap();
    fails(&mut data.tokenize(&["cut.parquet"], "cut"), 1, &["cut.parquet", "cannot be used"]);
}

#[test]
#[cfg(unix)]
fn a_full_disk_ends_the_run_and_loses_nothing() {
    let data = Data::new(60);
    let arguments = ["images", "--shard-size", "20", "--format", "webdataset"];
    done(&mut data.tokenize(&arguments, "expected"));
    // Files cannot grow beyond 8 blocks of 512 or 1024 bytes: the first shard does not fit.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let mut limited = std::process::Command::new("sh");
    let tokenize = data.tokenize(&arguments, "out");
    limited.current_dir(data.path("")).args(["-c", script]).arg(tokenize.get_program()).args(tokenize.get_args());
    fails(&mut limited, 1, &["cannot write", "space"]);
    assert!(tree(&data.path("out")).keys().all(|name| name.starts_with("__seed__")));
    done(&mut data.tokenize(&arguments, "out"));
    assert!(tree(&data.path("out")) == tree(&data.path("expected")));
}

#[test]
fn ctrl_c_finishes_the_shard_at_hand() {
    let data = Data::new(400);
    let arguments = ["images", "--shard-size", "10"];
    done(&mut data.tokenize(&arguments, "expected"));
    let mut child = data.tokenize(&arguments, "out").stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a shard", || data.path("out/__seed__/shards/00000.json").exists());
    interrupt(&child);
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(130 | 0)), "{code:?}"); // 0 when it was done before the signal came
    assert!(!tree(&data.path("out")).keys().any(|name| name.contains(".writing")));
    done(&mut data.tokenize(&arguments, "out"));
    assert!(tree(&data.path("out")) == tree(&data.path("expected")));
}

/// Kills a run at random moments 50 times; what is there in the end is what a run makes that nobody disturbed.
#[test]
fn fifty_kills_change_nothing() {
    const KILLS: usize = 50;
    let data = Data::new(2000);
    fs::write(data.path("images/000777.png"), "no image").unwrap();
    let arguments = ["images", "--shard-size", "20", "--format", "npy"];
    let start = Instant::now();
    ends(&mut data.tokenize(&arguments, "expected"), 3);
    let undisturbed = start.elapsed();
    let start_up = {
        let start = Instant::now();
        done(&mut data.tokenize(&["images", "--dry-run"], "plan"));
        start.elapsed()
    };
    let mut kills = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    while kills < KILLS {
        // Each life is long enough for a few shards at most, so that there is something left to kill.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (random >> 33) as f64 / (1u64 << 31) as f64;
        let life = start_up.mul_f64(0.5) + (undisturbed / (KILLS as u32)).mul_f64(2.0 * share);
        let mut child: Child = data.tokenize(&arguments, "out").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(life);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap(); // SIGKILL
            kills += 1;
        } else if child.wait().unwrap().code() == Some(3) || data.verify("out")["missing"] == json!([]) {
            fs::remove_dir_all(data.path("out")).unwrap(); // it came to the end: begin again
        }
        child.wait().unwrap();
    }
    let mut status = data.tokenize(&arguments, "out").output().unwrap().status.code();
    if status == Some(0) {
        status = Some(3); // the shard with the bad image was done in an earlier life
    }
    assert_eq!(status, Some(3));
    let (out, expected) = (tree(&data.path("out")), tree(&data.path("expected")));
    assert!(
        out.keys().eq(expected.keys()),
        "{:?}",
        out.keys().filter(|key| !expected.contains_key(*key)).collect::<Vec<_>>()
    );
    assert!(out == expected);
    let found = data.verify("out");
    assert_eq!((&found["inputs"], &found["failed"], &found["keys_again"]), (&json!(2000), &json!(1), &json!(0)));
}

/// Memory for 200,000 samples is that for 10,000, but for the list of the inputs.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_dataset() {
    const PER_SHARD: u64 = 100; // bytes of the manifest and the plan, generously
    let data = Data::new(100);
    let peak = |samples: usize| -> u64 {
        let list: String = (0..samples).map(|i| format!("images/{:06}.png\n", i % 100)).collect();
        fs::write(data.path("list.txt"), list).unwrap();
        let out = format!("out{samples}");
        let arguments = ["list.txt", "--shard-size", "1000", "--json", "--quiet"];
        let said: Value = serde_json::from_slice(&done(&mut data.tokenize(&arguments, &out)).stdout).unwrap();
        assert_eq!(said["statistics"]["rows"], samples);
        said["peak_memory_bytes"].as_u64().unwrap()
    };
    let (small, large) = (peak(10_000), peak(200_000));
    let allowed = small + small / 4 + 200 * PER_SHARD;
    assert!(large < allowed, "{large} bytes for 200,000 samples, {small} for 10,000");
}

/// One process at a time writes a shard.
#[test]
fn two_processes_do_not_write_the_same_shard() {
    let data = Data::new(3);
    done(&mut data.tokenize(&["images"], "out"));
    fs::remove_file(data.path("out/__seed__/shards/00000.json")).unwrap();
    let beside = data.path("out/__seed__/.writing-00000");
    fs::create_dir(&beside).unwrap();
    let lock = fs::File::create(beside.join("lock")).unwrap();
    lock.lock().unwrap();
    fails(&mut data.tokenize(&["images"], "out"), 1, &["shard 0", "another process", "--shard I/N"]);
    drop(lock);
    done(&mut data.tokenize(&["images"], "out"));
    assert_eq!(data.verify("out")["rows"], 3);
}
