//! `seed fetch`, from a hub on this machine.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

use crate::{
    fake_hub::{COMMIT, FakeHub, large, sha256},
    server::{Manner, Reply, Request},
    world::{done, ends, fails, interrupt, program, text, wait_for},
};

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

fn decoder() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"hello".to_vec()),
        ("model_index.json", br#"{"unet": ["diffusers", "UNet"]}"#.to_vec()),
        ("safety_checker/config.json", b"{}".to_vec()),
        ("unet/config.json", b"{}".to_vec()),
        (WEIGHTS, large()),
    ]
}

fn hub(
    tweak: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    tweak_store: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> FakeHub {
    let files = decoder();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    FakeHub::tweaked(&files, tweak, tweak_store)
}

fn same(_: &Request, reply: Reply) -> Reply {
    reply
}

/// `seed fetch` with this hub, and nothing of the environment's.
fn fetch(hub: &FakeHub, arguments: &[&str]) -> Command {
    let mut seed = program();
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name.starts_with("HF_") || name.starts_with("HUGGING") || name.contains("OFFLINE"))
    {
        seed.env_remove(name);
    }
    seed.env("HF_ENDPOINT", hub.hub.url()).env("HF_HOME", hub.folder.path().join("home"));
    seed.arg("fetch").args(arguments).arg("--cache-dir").arg(hub.cache());
    seed
}

#[test]
fn paths_are_printed_and_the_licence_is_told() {
    let hub = hub(same, same);
    let output = done(&mut fetch(&hub, &["owner/model"]));
    let snapshot = hub.path(format!("snapshots/{COMMIT}"));
    let names = ["model_index.json", "safety_checker/config.json", "unet/config.json", WEIGHTS];
    let paths: String = names.iter().map(|name| format!("{}\n", snapshot.join(name).display())).collect();
    assert_eq!(text(&output.stdout), paths);
    let said = text(&output.stderr);
    assert!(said.contains("licence of owner/model: the model card says mit"), "{said}");
    // One file; quiet; without a network.
    let offline = ["owner/model", WEIGHTS, "--local-files-only", "--quiet"];
    let output = done(&mut fetch(&hub, &offline));
    assert_eq!(text(&output.stdout), format!("{}\n", snapshot.join(WEIGHTS).display()));
    assert!(output.stderr.is_empty());
    let words = ["README.md of owner/model at main", "--local-files-only"];
    fails(&mut fetch(&hub, &["owner/model", "README.md", "--local-files-only"]), 1, &words);
    let mut command = fetch(&hub, &["owner/model", "--revision", "other"]);
    fails(command.env("HF_HUB_OFFLINE", "1"), 1, &["a snapshot of owner/model at other"]);
}

#[test]
fn named_models_are_fetched_from_a_mirror() {
    let hub = hub(same, same);
    let arguments = ["decoder", "--repo", "owner/model", "--json"];
    let output = done(&mut fetch(&hub, &arguments));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["name"], "decoder");
    assert_eq!((object["repo"].as_str(), object["commit"].as_str()), (Some("owner/model"), Some(COMMIT)));
    assert_eq!(object["folder"], hub.path(format!("snapshots/{COMMIT}")).display().to_string());
    let files: Vec<_> = object["files"].as_array().unwrap().iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["model_index.json", "unet/config.json", WEIGHTS]);
    assert_eq!((&object["files"][2]["check"], &object["files"][1]["check"]), (&"sha256".into(), &"git hash".into()));
    assert!(text(&output.stderr).contains("Open RAIL++-M"));
    let words = ["no file of the variant fp16", "owner/model"];
    fails(&mut fetch(&hub, &["decoder", "--repo", "owner/model", "--variant", "fp16"]), 1, &words);
    let words = ["research-only", "no file causal_qformer.pth in owner/model"];
    fails(&mut fetch(&hub, &["seed-1", "--repo", "owner/model"]), 1, &words);
    let words = ["BSD-3-Clause", "seed_quantizer.pt of AILab-CVC/seed-tokenizer-2 at main"];
    fails(&mut fetch(&hub, &["seed-2", "--local-files-only"]), 1, &words);
    let words = ["storage.googleapis.com", "eva_vit_g.pth"];
    fails(&mut fetch(&hub, &["seed-2", "eva_vit_g.pth", "--local-files-only"]), 1, &words);
    ends(&mut fetch(&hub, &["seed-3"]), 2);
    fails(&mut fetch(&hub, &["a/b", "--repo", "c/d"]), 1, &["--repo"]);
    fails(&mut fetch(&hub, &["a/b/c"]), 1, &["OWNER/NAME"]);
    fails(&mut fetch(&hub, &["owner/model", "../x"]), 1, &["file = ../x"]);
}

#[test]
fn a_token_is_asked_for_and_taken() {
    let guard = |request: &Request, reply: Reply| match request.header("Authorization") {
        Some("Bearer hf_secret") => reply,
        _ => Reply::new(401),
    };
    let hub = hub(guard, same);
    let file = ["owner/model", "model_index.json"];
    fails(&mut fetch(&hub, &file), 1, &["asks for a token", "/settings/tokens", "HF_TOKEN"]);
    fails(fetch(&hub, &file).env("HF_TOKEN", "hf_other"), 1, &["refuses the token"]);
    done(fetch(&hub, &file).env("HF_TOKEN", "hf_secret"));
    fs::remove_dir_all(hub.cache()).unwrap();
    done(&mut fetch(&hub, &["owner/model", WEIGHTS, "--token", "hf_secret"]));
    assert!(hub.store.log().iter().all(|request| request.header("Authorization").is_none()));
}

#[test]
fn two_programs_fetch_once() {
    let hub = hub(same, same);
    let children: Vec<Child> = (0..2)
        .map(|_| fetch(&hub, &["owner/model", WEIGHTS]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(fs::read(text(&output.stdout).trim_end()).unwrap() == large());
    }
    assert_eq!(hub.store.gets().len(), 1);
}

#[test]
fn what_was_stopped_goes_on() {
    for end in [interrupt as fn(&Child), kill] {
        let slow = Arc::new(AtomicBool::new(true));
        let stalls = Arc::clone(&slow);
        let stall = move |request: &Request, reply: Reply| match (stalls.load(Ordering::SeqCst), request.from()) {
            (true, None) => reply.manner(Manner::Stall(1_000_000)),
            (true, Some(_)) => reply.manner(Manner::Stall(0)),
            (false, _) => reply,
        };
        let hub = hub(same, stall);
        let mut command = fetch(&hub, &["owner/model", WEIGHTS]);
        // An interrupt is seen when the silence ends.
        let child = command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1").stderr(Stdio::piped()).spawn().unwrap();
        let partial = hub.path("blobs").join(format!("{}.incomplete", sha256(&large())));
        wait_for("a part", || fs::metadata(&partial).is_ok_and(|part| part.len() >= 1_000_000));
        end(&child);
        let output = child.wait_with_output().unwrap();
        if let Some(code) = output.status.code() {
            let said = text(&output.stderr);
            assert!(code == 130 && said.contains("the same command goes on"), "{code}: {said}");
        }
        slow.store(false, Ordering::SeqCst);
        done(&mut fetch(&hub, &["owner/model", WEIGHTS]));
        assert_eq!(hub.store.gets().last().unwrap().from(), Some(1_000_000));
    }
}

/// Leaves a program no time to put anything in order.
fn kill(child: &Child) {
    assert!(Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap().success());
}
