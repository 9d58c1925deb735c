//! What the tests stand on: a tiny model with a decoder, images, and the program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use seed_core::{
    DType, Device, Model, SeedTokenizer,
    pixels::{self, RgbImage},
    scenes::{Scene, Split},
};
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");

/// Longest that anything here may take, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a model bundle in it, for one test.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// The golden network (56 pixels, 256 codes) and the golden decoder (128 pixels) as a bundle.
    pub(crate) fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        let model: Value =
            serde_json::from_slice(&fs::read(format!("{GOLDEN}/seed2-mlp/config.json")).unwrap()).unwrap();
        let config = json!({
            "format": 1,
            "name": "golden",
            "provenance": "random weights for tests",
            "preprocess": "seed",
            "decode": { "steps": 2, "guidance": 3.0 },
            "model": model,
            "contrast": null,
        });
        fs::create_dir(world.bundle()).unwrap();
        fs::write(world.bundle().join("config.json"), config.to_string()).unwrap();
        fs::copy(format!("{GOLDEN}/seed2-mlp/model.safetensors"), world.bundle().join("model.safetensors")).unwrap();
        copy_folder(format!("{GOLDEN}/unclip").as_ref(), &world.bundle().join("decoder"));
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for arguments.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    pub(crate) fn tokenizer(&self) -> Box<dyn SeedTokenizer> {
        seed_core::open(&Model::Folder(self.bundle()), Device::Cpu, DType::F32, None).unwrap()
    }

    /// Writes `count` scenes as `images/00.png` and so on.
    pub(crate) fn images(&self, count: u64) -> Vec<PathBuf> {
        fs::create_dir_all(self.path("images")).unwrap();
        let paths: Vec<PathBuf> = (0..count).map(|index| self.path(&format!("images/{index:02}.png"))).collect();
        for (index, path) in (0..).zip(&paths) {
            pixels::write_png(path, &scene(index)).unwrap();
        }
        paths
    }

    /// A command of the program in this folder, with this model.
    pub(crate) fn seed(&self, command: &str) -> Command {
        let mut seed = program();
        seed.current_dir(self.folder.path()).args([command, "--model", "bundle"]);
        seed
    }

    /// Codes of `paths` as the program prints them.
    pub(crate) fn encode(&self, paths: &[PathBuf]) -> String {
        text(&done(self.seed("encode").args(paths)).stdout)
    }
}

pub(crate) fn scene(index: u64) -> RgbImage {
    Scene::sample(11, index, Split::HeldOut).render(72)
}

pub(crate) fn program() -> Command {
    let mut seed = Command::new(env!("CARGO_BIN_EXE_seed"));
    seed.stdin(Stdio::null());
    seed
}

/// Runs a command that must succeed.
pub(crate) fn done(command: &mut Command) -> Output {
    ends(command, 0)
}

/// Runs a command that must end with `code`.
pub(crate) fn ends(command: &mut Command, code: i32) -> Output {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{}", text(&output.stderr));
    output
}

/// Runs a command that must end with `code` and say every one of `words` on standard error, without a trace of its
/// insides.
pub(crate) fn fails(command: &mut Command, code: i32, words: &[&str]) -> Output {
    let output = ends(command, code);
    let message = text(&output.stderr);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    assert!(!message.contains("panicked") && !message.contains("stack backtrace"), "{message}");
    output
}

/// Feeds `bytes` to a command.
pub(crate) fn feed(command: &mut Command, bytes: &[u8]) -> Output {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(bytes); // it may end before it has read all
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// As Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until `happened`.
pub(crate) fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false if entry.file_name() == "cases.safetensors" => {}
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
