//! Where files lie: as Python's `huggingface_hub` lays them out, and what is found there without a network.

use std::{fs, path::Path};

use seed_core::{
    Error,
    checkpoint::hub::{Check, Selection},
};

use crate::{
    client::{fetch, fetch_folder, fetch_with, says, settings},
    fake_hub::{COMMIT, FakeHub, git, large, sha256},
    server::Reply,
};

const PARTS: Selection<'_> = Selection { parts: &["model_index.json", "scheduler/", "unet/"], variant: None };
const INDEX: &[u8] = br#"{"_class_name": "X", "scheduler": ["diffusers", "PNDM"], "unet": ["diffusers", "UNet"]}"#;

fn decoder() -> FakeHub {
    let large = large();
    FakeHub::new(&[
        ("README.md", b"hello"),
        ("model_index.json", INDEX),
        ("safety_checker/model.safetensors", &large),
        ("scheduler/scheduler_config.json", b"{\"a\": 1}"),
        ("unet/config.json", b"{}"),
        ("unet/diffusion_pytorch_model.bin", b"pickle"),
        ("unet/diffusion_pytorch_model.fp16.safetensors", b"half"),
        ("unet/diffusion_pytorch_model.safetensors", &large),
    ])
}

#[cfg(unix)]
#[test]
fn files_are_links_to_blobs() {
    let world = decoder();
    let fetched = fetch(&world, "unet/diffusion_pytorch_model.safetensors").unwrap();
    let path = world.path(format!("snapshots/{COMMIT}/unet/diffusion_pytorch_model.safetensors"));
    assert_eq!((&fetched.path, fetched.commit.as_str()), (&path, COMMIT));
    assert_eq!(fetched.folder, world.path(format!("snapshots/{COMMIT}")));
    let target = format!("../../../blobs/{}", sha256(&large()));
    assert_eq!(fs::read_link(&path).unwrap(), Path::new(&target));
    assert!(fs::read(&path).unwrap() == large());
    assert_eq!(fs::read_to_string(world.path("refs/main")).unwrap(), COMMIT);
    fetch(&world, "model_index.json").unwrap();
    let path = world.path(format!("snapshots/{COMMIT}/model_index.json"));
    assert_eq!(fs::read_link(path).unwrap(), Path::new(&format!("../../blobs/{}", git(INDEX))));
}

#[test]
fn where_links_are_impossible_files_are_copies() {
    let world = decoder();
    let mut settings = settings(&world);
    settings.symlinks = false;
    let path = fetch_with(settings, "unet/config.json").0.unwrap().path;
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(&path).unwrap(), b"{}");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

/// Lays out what Python leaves after fetching `file`.
#[cfg(unix)]
fn as_python_does(world: &FakeHub, file: &str, key: &str, bytes: &[u8]) {
    let path = world.path(format!("snapshots/{COMMIT}/{file}"));
    for folder in [world.path("blobs"), world.path("refs"), path.parent().unwrap().into()] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(world.path("blobs").join(key), bytes).unwrap();
    let up = "../".repeat(2 + file.matches('/').count());
    std::os::unix::fs::symlink(format!("{up}blobs/{key}"), path).unwrap();
    fs::write(world.path("refs/main"), COMMIT).unwrap();
}

#[cfg(unix)]
#[test]
fn what_python_fetched_is_found() {
    let world = decoder();
    let file = "unet/diffusion_pytorch_model.safetensors";
    as_python_does(&world, file, &sha256(&large()), &large());
    let fetched = fetch(&world, file).unwrap();
    assert_eq!((fetched.check, fetched.bytes), (Check::OnDisk, 1_600_000));
    assert!(world.store.log().is_empty() && world.hub.gets().is_empty());
    // Without a network, not even the hub is asked.
    let before = world.hub.log().len();
    let mut offline = settings(&world);
    offline.offline = true;
    assert_eq!(fetch_with(offline.clone(), file).0.unwrap().path, fetched.path);
    let error = fetch_with(offline, "unet/config.json").0.unwrap_err();
    assert!(matches!(error, Error::NotCached { .. }), "{error:?}");
    says(&error, &["unet/config.json of owner/model at main", world.cache().to_str().unwrap(), "--local-files-only"]);
    assert_eq!(world.hub.log().len(), before);
    // A blob that is there needs only a link.
    fs::remove_file(&fetched.path).unwrap();
    fetch(&world, file).unwrap();
    assert!(world.store.log().is_empty() && fetched.path.exists());
    // A blob that was cut short is not the file.
    fs::write(world.path("blobs").join(sha256(&large())), b"short").unwrap();
    assert_eq!(fetch(&world, file).unwrap().bytes, 1_600_000);
    // A link whose blob is gone is nothing.
    fs::remove_file(world.path("blobs").join(sha256(&large()))).unwrap();
    assert_eq!(fetch(&world, file).unwrap().check, Check::Sha256);
}

#[test]
fn a_folder_is_what_is_read_of_it() {
    let world = decoder();
    let names = |files: Vec<seed_core::checkpoint::hub::Fetched>| -> Vec<String> {
        files.into_iter().map(|fetched| fetched.file).collect()
    };
    let fetched = fetch_folder(settings(&world), &PARTS).unwrap();
    let checks = fetched.iter().map(|fetched| fetched.check).collect::<Vec<_>>();
    assert_eq!(checks, [Check::Git, Check::Git, Check::Git, Check::Sha256]);
    let expected = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(names(fetched), expected);
    assert_eq!(fs::read_to_string(world.path("refs/main")).unwrap(), COMMIT);
    // The second time, the list of files is all that is asked for.
    let before = world.hub.log().len();
    assert_eq!(names(fetch_folder(settings(&world), &PARTS).unwrap()), expected);
    assert_eq!(world.hub.log().len(), before + 1);
    // Without a network, the snapshot is the list.
    let mut offline = settings(&world);
    offline.offline = true;
    assert_eq!(names(fetch_folder(offline.clone(), &PARTS).unwrap()), expected);
    assert_eq!(world.hub.log().len(), before + 1);
    fs::remove_file(world.path(format!("snapshots/{COMMIT}/{}", expected[3]))).unwrap();
    says(&fetch_folder(offline.clone(), &PARTS).unwrap_err(), &["the weights in unet/ of owner/model"]);
    fs::remove_file(world.path(format!("snapshots/{COMMIT}/{}", expected[1]))).unwrap();
    says(&fetch_folder(offline.clone(), &PARTS).unwrap_err(), &["the folder scheduler/"]);
    fs::remove_dir_all(world.path("refs")).unwrap();
    says(&fetch_folder(offline, &PARTS).unwrap_err(), &["a snapshot of owner/model at main"]);
}

#[test]
fn variants_are_chosen_or_missed() {
    let world = decoder();
    let half = Selection { variant: Some("fp16"), ..PARTS };
    let fetched = fetch_folder(settings(&world), &half).unwrap();
    assert_eq!(fetched[3].file, "unet/diffusion_pytorch_model.fp16.safetensors");
    let other = Selection { variant: Some("bf16"), ..PARTS };
    let error = fetch_folder(settings(&world), &other).unwrap_err();
    says(&error, &["variant bf16", "owner/model"]);
    let none = Selection { parts: &["absent/"], variant: None };
    says(&fetch_folder(settings(&world), &none).unwrap_err(), &["that SEED reads"]);
}

#[test]
fn names_do_not_leave_the_cache() {
    for name in ["../../evil.json", "/etc/evil.json", "a\\\\b.json", "a/../../b.json", "a\\u0000b.json"] {
        let list = move |_: &crate::server::Request, reply: Reply| {
            let names = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"{name}\"}}]}}");
            reply.body(names.as_bytes())
        };
        let world = FakeHub::tweaked(&[], list, |_, reply| reply);
        let error = fetch_folder(settings(&world), &Selection::default()).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{name}: {error:?}");
        assert!(!world.cache().exists());
    }
    let world = decoder();
    for name in ["../config.json", "/config.json", "", "a\\b", "a\0b"] {
        assert!(matches!(fetch(&world, name).unwrap_err(), Error::Argument { name: "file", .. }), "{name:?}");
    }
    // Nor do a hub's own words.
    for (header, word) in [("X-Repo-Commit", "../../x"), ("ETag", "\"../x\""), ("ETag", "\"\"")] {
        let other = move |_: &crate::server::Request, reply: Reply| reply.header(header, word);
        let world = FakeHub::tweaked(&[("a.json", b"{}")], other, |_, reply| reply);
        let error = fetch(&world, "a.json").unwrap_err();
        assert!(matches!(error, Error::NotAHub { .. }), "{header}: {error:?}");
        assert!(!world.cache().exists());
    }
}
