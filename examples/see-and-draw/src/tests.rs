//! The whole way with a model of a few thousand weights: it learns, goes on after an interruption, and draws whole images.

use std::{collections::BTreeSet, path::Path, sync::atomic::AtomicBool};

use burn_flex::Flex;
use seed_core::{
    Codes, DType, Model,
    scenes::{Scene, Split},
    tokenizer::Tokenizer,
};

use crate::{
    generate::{self, Sampling},
    recipe::Recipe,
    sequence::{END, Order, Sequence, Vocabulary},
    train::{Ended, Run, Stage},
};

/// The committed recipe with the smallest sizes and a few steps.
fn recipe() -> Recipe {
    let mut recipe = Recipe::parse(include_str!("../recipe.toml")).unwrap();
    let sizes = &mut recipe.model;
    (sizes.width, sizes.depth, sizes.heads, sizes.hidden) = (16, 1, 2, 32);
    recipe.lora.rank = 2;
    for plan in [&mut recipe.captions, &mut recipe.images] {
        (plan.steps, plan.batch, plan.warmup, plan.checkpoint_every) = (24, 8, 1, 5);
        plan.learning_rate = 1e-2;
    }
    recipe
}

fn tokenizer() -> Tokenizer<Flex> {
    Tokenizer::load(Model::Bundled.files(), Default::default(), DType::F32, None).unwrap()
}

/// Losses of a stage, from its metrics.
fn losses(folder: &Path, stage: Stage) -> Vec<f64> {
    let lines = std::fs::read_to_string(folder.join(stage.name()).join("metrics.jsonl")).unwrap();
    let loss = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    lines.lines().map(loss).collect()
}

#[test]
fn it_learns_goes_on_after_an_interruption_and_draws_whole_images() {
    let (tokenizer, recipe) = (tokenizer(), recipe());
    let (place, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (never, at_once) = (AtomicBool::new(false), AtomicBool::new(true));
    let run = |folder: &Path, stop| {
        let vocabulary = Vocabulary::new(32, 4096).unwrap();
        Run { recipe: &recipe, vocabulary, folder: folder.to_owned(), tokenizer: &tokenizer, stop }
    };
    let undisturbed = run(place.path(), &never);
    assert!(undisturbed.train(Stage::Images).is_err(), "images come after captions");
    for stage in Stage::ALL {
        assert_eq!(undisturbed.train(stage).unwrap(), Ended::Finished);
    }
    for stage in Stage::ALL {
        let losses = losses(place.path(), stage);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert_eq!(losses.len(), 24);
        assert!(mean(&losses[21..]) < 0.9 * mean(&losses[..3]), "{stage:?}: {losses:?}");
    }

    // One step a sitting.
    let disturbed = run(other.path(), &at_once);
    for stage in [Stage::Captions, Stage::Images] {
        let sittings = std::iter::repeat_with(|| disturbed.train(stage).unwrap());
        assert_eq!(sittings.take_while(|ended| *ended == Ended::Interrupted).count(), 23);
        assert_eq!(losses(other.path(), stage), losses(place.path(), stage));
    }

    let vocabulary = &undisturbed.vocabulary;
    let model = undisturbed.model(Stage::Images).unwrap();
    let scenes = (0..5).map(|index| Scene::sample(1, index, Split::HeldOut).caption());
    let words: Vec<Vec<u32>> = scenes.map(|caption| vocabulary.caption_ids(&caption).unwrap()).collect();
    let sampling = Sampling { temperature: 1.0, top_k: 100 };
    let draw = |seed| generate::images(&model, vocabulary, &words, sampling, seed).unwrap();
    let images = draw(1);
    assert_eq!(images, draw(1));
    assert_ne!(images, draw(2));
    assert_eq!((images.batch(), images.tokens()), (5, 32));
    assert!(images.as_slice().iter().all(|&code| code < 4096));
    let ids = vocabulary.template().codes_to_ids(&images).unwrap();
    for words in generate::captions(&model, vocabulary, &ids.chunks(34).collect::<Vec<_>>()) {
        assert_eq!(vocabulary.text(&words).split_whitespace().count(), words.len(), "a caption holds words alone");
    }

    let mut changed = recipe.clone();
    changed.images.steps += 1;
    let mixed = Run { recipe: &changed, ..run(place.path(), &never) };
    let error = mixed.train(Stage::Images).unwrap_err().to_string();
    assert!(error.contains("another recipe"), "{error}");
}

#[test]
fn words_and_codes_keep_their_positions_in_either_order() {
    let vocabulary = Vocabulary::new(3, 10).unwrap();
    let words = vocabulary.caption_ids("A small red circle, on the left.").unwrap();
    assert_eq!(vocabulary.text(&words), "a small red circle on the left");
    let codes = Codes::from_rows([[9u16, 0, 4]], 3, 10).unwrap();
    let image = vocabulary.template().codes_to_ids(&codes).unwrap();
    let seen = vocabulary.sequence(Order::ImageCaption, &words, &image);
    let drawn = vocabulary.sequence(Order::CaptionImage, &words, &image);
    let pairs = |sequence: &Sequence| {
        let pairs = sequence.ids.iter().copied().zip(sequence.positions.iter().copied());
        pairs.collect::<BTreeSet<_>>()
    };
    assert_eq!(pairs(&seen), pairs(&drawn));
    assert_eq!(seen.ids[1..6], image);
    assert_eq!(seen.positions[1..6], [45, 46, 47, 48, 49]);
    assert_eq!(seen.ids[6..], [&words[..], &[END]].concat());
    assert_eq!(image[2] as usize, vocabulary.text_tokens(), "the code 0 follows the words");
}

#[test]
fn captions_that_cannot_be_read_are_refused() {
    let vocabulary = Vocabulary::new(32, 4096).unwrap();
    let refusal = |caption: &str| vocabulary.caption_ids(caption).unwrap_err().to_string();
    assert!(refusal("a small red cat").contains("\"cat\" is no word"));
    assert!(refusal(" , ").contains("empty"));
    assert!(refusal(&"red ".repeat(45)).contains("45 words"));
}

#[test]
fn recipes_that_cannot_be_trained_are_refused() {
    let text = include_str!("../recipe.toml");
    for (good, bad, reason) in [
        ("heads = 4", "heads = 3", "multiple of heads"),
        ("rank = 32", "rank = 0", "rank"),
        ("top_k = 50", "top_k = 0", "top_k"),
        ("width = 128", "breadth = 128", "breadth"),
    ] {
        let error = Recipe::parse(&text.replace(good, bad)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
