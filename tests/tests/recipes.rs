//! The recipes of the repository are recipes, and the official ones hold the official values.

use std::path::Path;

use seed_core::{
    tokenizer::SeedConfig,
    train::{Decay, Recipe, Schedule, Stage},
};

fn recipe(name: &str) -> Recipe {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/recipes");
    Recipe::read(&folder.join(name)).unwrap()
}

#[test]
fn every_recipe_is_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/recipes");
    let mut stages = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let recipe = recipe(&name);
        assert_eq!(format!("{}.toml", recipe.name), name);
        if recipe.plans().len() == 1 {
            stages.extend(recipe.plans().into_iter().map(|(stage, _)| stage));
        }
    }
    assert_eq!(stages.into_iter().collect::<Vec<_>>(), Stage::ALL, "every stage has a recipe of its own");
}

#[test]
fn official_recipes_hold_the_official_values() {
    let (stage1, stage2) = (recipe("seed2-stage1.toml"), recipe("seed2-stage2.toml"));
    let plan = stage1.plan(Stage::Stage1).unwrap();
    assert_eq!((plan.learning_rate, plan.first_rate, plan.last_rate), (3e-5, Some(3e-7), Some(3e-6)));
    assert_eq!((plan.warmup, plan.epoch, plan.steps / plan.epoch), (2000, 5000, 10));
    assert_eq!((plan.weight_decay, plan.decay, plan.schedule), (0.05, Decay::Matrices, Schedule::Epoch));
    let alignment = stage1.alignment.as_ref().unwrap();
    assert_eq!((alignment.embed_dim, alignment.temperature, alignment.label_smoothing), (256, 0.07, 0.1));
    let plan = stage2.plan(Stage::Stage2).unwrap();
    assert_eq!((plan.learning_rate, plan.first_rate, plan.last_rate), (1e-4, Some(1e-6), Some(1e-5)));
    assert_eq!((plan.warmup, plan.epoch, plan.steps / plan.epoch), (2000, 5000, 500));
    let coding = stage2.codebook.as_ref().unwrap();
    assert_eq!([coding.quantize, coding.semantic, coding.generation, coding.beta], [5.0, 2.0, 0.5, 0.25]);
    // Sizes of the released models, but for the head that the training code builds.
    let released = SeedConfig::seed_2();
    for recipe in [&stage1, &stage2] {
        assert_eq!(SeedConfig { head: released.head, ..recipe.model.clone() }, released, "{}", recipe.name);
    }
    assert_eq!(recipe("seed1-stage2.toml").model, SeedConfig::seed_1());
}

/// Every key that a recipe can have is on the page about them.
#[test]
fn every_key_is_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/recipes.md")).unwrap();
    let everything = r#"
        name = "all"
        seed = 1
        [from]
        bundle = "a"
        vit = "a"
        qformer = "a"
        teacher = "a"
        [data]
        kind = "scenes"
        [alignment]
        vocabulary = 3
        [codebook]
        mean_decay = 0.9
    "#;
    let whole = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/recipes/scenes-tiny.toml"));
    let whole = whole.unwrap().replace("name = \"scenes-tiny\"\nseed = 7\n", everything);
    let plan = "[vision]\nfirst_rate = 1e-9\nlast_rate = 1e-9\nclip_norm = 1.0\n";
    let recipe = Recipe::parse(&whole.replace("[vision]\n", plan), "all").unwrap();
    let value = toml::Value::try_from(&recipe).unwrap();
    let mut keys = Vec::new();
    for (name, table) in value.as_table().unwrap() {
        keys.push(name.clone());
        if name != "model" && name != "data" {
            keys.extend(table.as_table().into_iter().flatten().map(|(key, _)| key.clone()));
        }
    }
    assert!(keys.len() > 60, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")) || page.contains(&format!("`[{key}]`")), "{key} is not documented");
    }
}
