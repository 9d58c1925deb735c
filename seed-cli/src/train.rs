//! `seed train`: a recipe -> a model bundle.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::bail;
use seed_core::{
    Device, Error, Model,
    checkpoint::Files,
    train::{self, GivenDecoder, Recipe, Session, Stage, StepReport},
};

use crate::{
    interrupt,
    options::Global,
    outcome::{Outcome, is_broken_pipe},
    progress::Progress,
};

/// Steps between two lines of `--verbose`.
const STEPS_A_LINE: usize = 10;

/// Train a model by a recipe.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Checkpoints and what was measured at each step are kept in the run's folder. Ctrl-C stops after the step
at hand, with a checkpoint; --resume goes on from there as if nothing had happened. The model bundle is in
the folder `bundle` of the run in the end; its path is printed on standard output.

Examples:
  seed train weights/recipes/scenes-tiny.toml
  seed train weights/recipes/scenes-tiny.toml --resume
  seed train weights/recipes/seed2-stage1.toml --set stage1.batch=512 --device cuda:0,cuda:1
  seed train weights/recipes/scenes-tiny.toml --tokenizer weights/scenes-tiny --out runs/decoder"
)]
pub(crate) struct Args {
    /// Recipe, a TOML file
    recipe: PathBuf,
    /// Folder of the run [default: runs/NAME, after the recipe's name]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stage to end with; those it stands on are trained too, as far as they are not done. The stage vae stands on none, so a
    /// second process can train it beside the others: --until vae --resume
    #[arg(long, value_name = "STAGE", default_value = "decoder", value_parser = parse_stage)]
    until: Stage,
    /// Bundle whose tokenizer is taken as it is, so that only a decoder is trained for it
    #[arg(long, value_name = "BUNDLE")]
    tokenizer: Option<PathBuf>,
    /// Decoder in diffusers' layout (the folder decoder of a bundle) to begin with: its autoencoder is taken as it is, its UNet
    /// goes on learning
    #[arg(long, value_name = "DIR")]
    decoder: Option<PathBuf>,
    /// Autoencoder in diffusers' layout (the folder decoder/vae of a bundle) that is taken as it is
    #[arg(long, value_name = "DIR", conflicts_with = "decoder")]
    autoencoder: Option<PathBuf>,
    /// Another value for a key of the recipe, written as there; a key within a table is TABLE.KEY. Can be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
    /// Go on with a run that was interrupted
    #[arg(long)]
    resume: bool,
    /// Print every step's report on standard output, one JSON object a line
    #[arg(long)]
    json: bool,
    /// Device to compute on: cpu, cuda or wgpu, with a number if there are several (wgpu:1). Several of one kind (cuda:0,cuda:1)
    /// share each batch
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    device: Vec<Device>,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let recipe = Recipe::read_with(&args.recipe, &args.set)?;
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    match (train::has_begun(&folder), args.resume) {
        (true, false) => bail!(
            "{} already holds a run; go on with it with --resume, or choose another folder with --out",
            folder.display()
        ),
        (false, true) => global.note(|| format!("{} holds no run; starting from the first step", folder.display())),
        _ => {}
    }
    let mut watcher = Watcher { args, global, stage: None, last: None, output: Ok(()) };
    let mut report = |step: &StepReport| watcher.step(step);
    let decoder = args.decoder.clone().map(|folder| GivenDecoder::Whole(Files::folder(folder)));
    let autoencoder = args.autoencoder.clone().map(|folder| GivenDecoder::Autoencoder(Files::folder(folder)));
    let mut session = Session {
        folder: folder.clone(),
        tokenizer: args.tokenizer.clone().map(Model::Folder),
        decoder: decoder.or(autoencoder),
        until: args.until,
        stop: &interrupt::STOP,
        report: &mut report,
    };
    let trained = train::run_on(&recipe, &mut session, &args.device);
    watcher.stage = None;
    note_failures(&folder, global);
    match trained {
        Ok(bundle) => {
            watcher.output?;
            let made = bundle.unwrap_or_else(|| folder.join(recipe.last(args.until).name()));
            writeln!(std::io::stdout(), "{}", made.display())?;
            Ok(Outcome::Done)
        }
        Err(Error::Interrupted) => {
            let at = watcher.last.map(|last| format!(" after {last}")).unwrap_or_default();
            let (recipe, out) = (args.recipe.display(), folder.display());
            let given =
                [("tokenizer", &args.tokenizer), ("decoder", &args.decoder), ("autoencoder", &args.autoencoder)];
            let given = given.map(|(name, path)| path.as_ref().map(|path| format!(" --{name} {}", path.display())));
            let set = args.set.iter().map(|(key, value)| format!(" --set '{key}={value}'"));
            let given: String = given.into_iter().flatten().chain(set).collect();
            eprintln!("interrupted{at}; go on with: seed train {recipe} --out {out}{given} --resume");
            Ok(Outcome::Interrupted)
        }
        Err(error) => Err(error.into()),
    }
}

/// Says how many inputs nothing was learned from.
fn note_failures(folder: &Path, global: &Global) {
    let path = folder.join(train::data::FAILURES);
    if let Ok(text) = std::fs::read_to_string(&path) {
        global.note(|| format!("inputs that cannot be used: {}, see {}", text.lines().count(), path.display()));
    }
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err("a key and its value are written as stage1.steps=1000".to_owned()),
    }
}

fn parse_stage(name: &str) -> Result<Stage, String> {
    let known = Stage::ALL.into_iter().find(|stage| stage.name() == name);
    known.ok_or_else(|| format!("the stages are {}", Stage::ALL.map(Stage::name).join(", ")))
}

/// Shows how training goes.
struct Watcher<'a> {
    args: &'a Args,
    global: &'a Global,
    /// Name and bar of the stage that is running.
    stage: Option<(&'static str, Progress)>,
    last: Option<String>,
    /// Whether standard output still takes reports. A reader who has had enough does not end a training run.
    output: anyhow::Result<()>,
}

impl Watcher<'_> {
    fn step(&mut self, report: &StepReport) {
        let &StepReport { stage, step, steps, loss, learning_rate, images_per_second, .. } = report;
        if self.stage.as_ref().is_none_or(|(name, _)| *name != stage) {
            self.stage = None; // clears the bar before
            let bar = Progress::new(steps, &format!("steps of stage {stage}"), self.global);
            bar.start_from(step);
            self.stage = Some((stage, bar));
        }
        let Some((_, bar)) = &self.stage else { return };
        let state = format!("loss {loss:.4}  rate {learning_rate:.1e}  {images_per_second:.0} images/s");
        bar.set(step);
        bar.message(state.clone());
        if self.args.json && self.output.is_ok() {
            self.output = bar.suspend(|| print(report));
            if let Err(error) = &self.output
                && is_broken_pipe(error)
            {
                self.global.note(|| "standard output was closed; reports go on in the run's folder".to_owned());
            }
        }
        self.last = Some(format!("step {step} of {steps} of stage {stage}"));
        let line = || format!("stage {stage}  step {step}/{steps}  {state}");
        match step == steps {
            true => bar.suspend(|| self.global.note(line)),
            false if self.global.verbose && step.is_multiple_of(STEPS_A_LINE) => {
                bar.suspend(|| eprintln!("{}", line()))
            }
            false => {}
        }
    }
}

fn print(report: &StepReport) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(report)?)?;
    Ok(out.flush()?)
}
