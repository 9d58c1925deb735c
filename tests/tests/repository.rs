//! The repository holds what it says: short files, and a README that names nothing that is not there.

use seed_tests::{read, root, rust_files};

/// Longest file that is read in one sitting.
const MOST_LINES: usize = 600;

#[test]
fn no_file_is_too_long() {
    let folders = ["seed-core", "seed-cli", "seed-py", "weights", "benches", "tests", "examples"];
    let files: Vec<String> = folders.into_iter().flat_map(rust_files).collect();
    assert!(files.len() > 50, "only {} files were found", files.len());
    for file in files {
        let lines = read(&file).lines().count();
        assert!(lines <= MOST_LINES, "{file} has {lines} lines; it is probably two files, the most is {MOST_LINES}");
    }
}

/// Lines of the README's shell blocks, without comments and continuation.
fn commands() -> Vec<String> {
    let readme = read("README.md");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.trim_start_matches("$ ").to_owned());
    lines.filter(|line| ["make ", "cargo ", "seed "].iter().any(|program| line.starts_with(program))).collect()
}

#[test]
fn the_readmes_commands_exist() {
    let makefile = read("Makefile");
    let commands = commands();
    for needed in ["cargo run --release -- reconstruct examples/*.png --out out", "make test"] {
        assert!(commands.iter().any(|command| command == needed), "the README lacks `{needed}`");
    }
    assert!(makefile.contains("\tcargo run --release -- reconstruct examples/*.png --out out\n"), "make demo differs");
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["make", target, ..] => {
                assert!(makefile.contains(&format!("\n{target}:")), "`{command}`: the Makefile has no such target");
            }
            ["seed", subcommand, ..] | ["cargo", "run", "--release", "--", subcommand, ..] => {
                let file = root().join(format!("seed-cli/src/{subcommand}.rs"));
                assert!(file.is_file(), "`{command}`: seed has no such subcommand");
            }
            _ => {}
        }
        for word in words.iter().filter(|word| word.contains('/') && !word.starts_with("out") && !word.contains('*')) {
            let is_made = word.starts_with("runs/") || word.starts_with("scenes");
            assert!(is_made || root().join(word).exists(), "`{command}`: there is no {word}");
        }
    }
}

#[test]
fn there_are_examples() {
    let files = std::fs::read_dir(root().join("examples")).expect("the folder of example images");
    let images = files.filter(|file| file.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "png")));
    assert!(images.count() >= 4);
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benches/README.md", "docs/see-and-draw.md"] {
        let folder = root().join(document).parent().expect("a file has a folder").to_owned();
        for rest in read(document).split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                assert!(folder.join(target).exists(), "{document} links to {target}, which is not there");
            }
        }
    }
}
