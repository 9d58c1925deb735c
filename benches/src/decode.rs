//! Steps 4 to 6: codes -> images, with the steps and the guidance that the model asks for.

use seed_core::SeedTokenizer;

use crate::measure::Row;

pub(crate) fn run(tokenizer: &dyn SeedTokenizer, repeats: u32) -> seed_core::Result<Vec<Row>> {
    let codes = tokenizer.encode(&crate::scenes(tokenizer, 8))?;
    let options = tokenizer.decode_options();
    let name = format!("decode, {}, {} steps, guidance {}", tokenizer.config().name, options.steps, options.guidance);
    let row = |batch: usize| {
        let codes = codes.slice(0..batch);
        Row::images(name.clone(), batch, repeats, || tokenizer.decode(&codes, &options).map(drop))
    };
    [1, 8].into_iter().map(row).collect()
}
