//! Steps 2 to 4: normalized pixels -> codes.

use seed_core::SeedTokenizer;

use crate::measure::Row;

pub(crate) fn run(tokenizer: &dyn SeedTokenizer, repeats: u32) -> seed_core::Result<Vec<Row>> {
    let preprocessor = tokenizer.preprocessor();
    let pixels: Vec<Vec<f32>> = crate::scenes(tokenizer, 32).iter().map(|image| preprocessor.apply(image)).collect();
    let name = &tokenizer.config().name;
    let row = |batch: usize| {
        Row::images(format!("encode, {name}"), batch, repeats, || tokenizer.encode_pixels(&pixels[..batch]).map(drop))
    };
    [1, 8, 32].into_iter().map(row).collect()
}
