//! Which module may import which, read from the sources. The rules are in `seed_tests::law`.

use std::collections::BTreeSet;

use seed_tests::{
    imports,
    law::{Crate, EXCEPTIONS, LAW, check, check_command_line, crate_names},
    read, rust_files,
};

fn seed_core() -> Crate {
    Crate::new(&read("seed-core/Cargo.toml"), &read("seed-core/src/lib.rs"))
}

/// Files of `folder` that are built for more than tests.
fn files(folder: &str) -> Vec<(String, String)> {
    let all: Vec<_> = rust_files(folder).into_iter().map(|file| (read(&file), file)).collect();
    let mut tests = BTreeSet::new();
    for (source, file) in &all {
        let own = file.strip_suffix("/mod.rs").or(file.strip_suffix("/lib.rs")).or(file.strip_suffix(".rs"));
        let names = imports::read(source, &[], &BTreeSet::new()).test_modules;
        tests.extend(names.iter().map(|name| format!("{}/{name}.rs", own.expect("a Rust file"))));
    }
    all.into_iter().filter(|(_, file)| !tests.contains(file)).map(|(source, file)| (file, source)).collect()
}

#[test]
fn the_library_keeps_the_law() {
    let whole = seed_core();
    let mut used = BTreeSet::new();
    let mut broken = Vec::new();
    for (file, source) in files("seed-core/src") {
        let (against, exceptions) = check(&file, &source, &whole);
        broken.extend(against);
        used.extend(exceptions);
    }
    let unused = EXCEPTIONS.iter().enumerate().filter(|(index, _)| !used.contains(index));
    broken.extend(unused.map(|(_, e)| format!("{} no longer imports {}; remove the exception", e.file, e.import)));
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn the_command_line_keeps_the_law() {
    let crates = crate_names(&read("seed-cli/Cargo.toml"));
    let broken: Vec<_> =
        files("seed-cli/src").iter().flat_map(|(file, source)| check_command_line(file, source, &crates)).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn the_python_package_keeps_the_law() {
    let crates = crate_names(&read("seed-py/Cargo.toml"));
    let files = files("seed-py/src");
    assert!(files.len() > 5);
    let broken: Vec<_> = files.iter().flat_map(|(file, source)| check_command_line(file, source, &crates)).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_rule_is_of_a_module_that_exists() {
    let modules: BTreeSet<String> = rust_files("seed-core/src")
        .iter()
        .filter_map(|file| file.strip_prefix("seed-core/src/")?.split('/').next())
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    let ruled: BTreeSet<String> = LAW.iter().map(|rule| rule.module.to_owned()).collect();
    assert_eq!(ruled, modules.into_iter().filter(|name| name != "lib").collect());
}

/// The checker sees what breaks the law, however it is written.
#[test]
fn what_breaks_the_law_is_seen() {
    let whole = seed_core();
    for (file, source, what) in [
        ("qformer.rs", "use crate::pixels::RgbImage;", "module `pixels` (pixels::RgbImage)"),
        ("qformer.rs", "use crate::{error::Result, train};", "module `train`"),
        ("qformer.rs", "use super::diffusion;", "module `diffusion`"),
        ("quantizer.rs", "fn f() { crate::checkpoint::load(1); }", "module `checkpoint`"),
        ("quantizer.rs", "use crate::Codes;", "module `codes`"),
        ("eva_vit.rs", "use std::fs; use ::image::RgbImage;", "crate `image`"),
        ("eva_vit.rs", "type B = burn_flex::Flex;", "crate `burn_flex`"),
        ("codes.rs", "use burn::tensor::Tensor;", "crate `burn`"),
        ("nn/backend.rs", "use burn_wgpu::Wgpu;", "crate `burn_wgpu`"),
        ("train/mod.rs", "use burn_flex::Flex;", "crate `burn_flex`"),
        ("nn/attention.rs", "use crate::qformer::QFormer;", "module `qformer`"),
        ("diffusion/unet.rs", "use crate::checkpoint::KeyTable;", "module `checkpoint`"),
        ("diffusion/vae.rs", "use crate::checkpoint::Files;", "module `checkpoint`"),
        ("diffusion/pipeline.rs", "use crate::tokenizer::SeedNetwork;", "module `tokenizer`"),
        ("checkpoint/load.rs", "use crate::eva_vit::EvaVit;", "module `eva_vit`"),
        ("tokenizer/facade.rs", "use crate::train::Recipe;", "module `train`"),
        ("tokenizer/facade.rs", "#[cfg(feature = \"cuda\")] use crate::nn;", "feature \"cuda\""),
        ("qformer.rs", "#[cfg(feature = \"train\")] use crate::nn;", "feature \"train\""),
        ("packing/mod.rs", "", "which the law does not know"),
    ] {
        let (broken, _) = check(&format!("seed-core/src/{file}"), source, &whole);
        assert_eq!(broken.len(), 1, "{file}: {source}: {broken:?}");
        assert!(broken[0].contains(what), "{file}: {source}: {}", broken[0]);
    }
    let crates = crate_names("[dependencies]\nburn.workspace = true\n");
    let broken = check_command_line("seed-cli/src/main.rs", "type B = burn::backend::Flex;", &crates);
    assert_eq!(broken.len(), 1);
}

/// And it sees nothing in what keeps it.
#[test]
fn what_keeps_the_law_is_let_through() {
    let whole = seed_core();
    for (file, source) in [
        ("qformer.rs", "use burn::module::Module; use crate::{error::{Error, Result}, nn::{gelu, SeedBackend}};"),
        ("qformer.rs", "use crate::Error; // use crate::pixels;"),
        ("qformer.rs", "#[cfg(test)] mod tests { use crate::checkpoint::Files; use burn_flex::Flex; }"),
        ("detokenizer.rs", "use crate::qformer::QFormer;"),
        ("diffusion/unet.rs", "use super::vae::Vae; use crate::diffusion::blocks;"),
        ("device.rs", "#[cfg(feature = \"cuda\")] fn f() {}"),
        ("device/wgpu.rs", "use wgpu::Adapter; use burn_wgpu::Wgpu;"),
        ("nn/backend.rs", "#[cfg(feature = \"train\")] mod autodiff { use super::SeedBackend; }"),
    ] {
        let (broken, _) = check(&format!("seed-core/src/{file}"), source, &whole);
        assert!(broken.is_empty(), "{file}: {broken:?}");
    }
}
