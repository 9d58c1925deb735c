//! `seed`: images to tokens and back, from the command line.
use std::sync::atomic::{AtomicBool, Ordering};
static STOP: AtomicBool = AtomicBool::new(false);
fn main() -> anyhow::Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;
    let args: Vec<String> = std::env::args().collect();
    let recipe = seed_core::train::Recipe::read(args[1].as_ref())?;
    let mut report = |r: &seed_core::train::StepReport| {
        if r.step % 10 == 0 || r.step < 5 {
            println!(
                "{} {}/{} loss {:.4} lr {:.2e} {:.1} img/s {:?}",
                r.stage, r.step, r.steps, r.loss, r.learning_rate, r.images_per_second, r.metrics
            );
        }
    };
    let mut session = seed_core::train::Session { folder: args[2].clone().into(), stop: &STOP, report: &mut report };
    type A = burn::backend::Autodiff<burn_flex::Flex>;
    seed_core::train::train::<A>(&recipe, &mut session, &Default::default())?;
    Ok(())
}
