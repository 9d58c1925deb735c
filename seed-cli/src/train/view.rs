//! Reports of training steps -> what is seen of them: on a terminal a bar with the numbers below it, else now and then a
//! line.

use std::{
    collections::VecDeque,
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};

use seed_core::train::StepReport;

use crate::{options::Global, progress::Progress};

/// Steps between two lines of `--verbose`.
const STEPS_A_LINE: usize = 10;
/// Time between two lines where no terminal shows a bar.
const TIME_A_LINE: Duration = Duration::from_secs(15);
/// Losses that the small curve shows, each the mean of equally many steps, and its characters from low to high.
const CURVE: usize = 32;
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The running stage.
pub(super) struct View {
    pub(super) stage: &'static str,
    bar: Progress,
    /// Whether there is no terminal, where lines take the bar's place.
    lines: bool,
    began: Instant,
    /// Steps that were done when the view began.
    before: usize,
    last_line: Option<Instant>,
    losses: Losses,
}

impl View {
    /// Of the stage of `first`, its first report.
    pub(super) fn new(first: &StepReport, global: &Global) -> Self {
        let bar = Progress::with_text_below(first.steps, &format!("steps of stage {}", first.stage), global);
        bar.start_from(first.step);
        Self {
            stage: first.stage,
            bar,
            lines: !global.quiet && !stderr().is_terminal(),
            began: Instant::now(),
            before: first.step,
            last_line: None,
            losses: Losses::new(first.steps),
        }
    }

    /// Shows a report.
    pub(super) fn show(&mut self, report: &StepReport, global: &Global) {
        self.losses.add(report.loss);
        self.bar.set(report.step);
        let state = state(report);
        self.bar.message(format!("{state}\n{}\nloss {}", measured(report), self.losses.curve()));
        let &StepReport { stage, step, steps, .. } = report;
        let due = self.lines && self.last_line.is_none_or(|last| last.elapsed() >= TIME_A_LINE);
        let asked = global.verbose && step.is_multiple_of(STEPS_A_LINE);
        if step == steps || due || asked {
            self.last_line = Some(Instant::now());
            let left = self.left(report).map(|left| format!("  {left} left")).unwrap_or_default();
            let line = format!("stage {stage}  step {step}/{steps}  {state}  {}{left}", measured(report));
            self.bar.suspend(|| global.note(|| line.trim_end().to_owned()));
        }
    }

    /// Writes while the bar is out of the way.
    pub(super) fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        self.bar.suspend(write)
    }

    /// The time that is left, by the speed so far, once there is any.
    fn left(&self, report: &StepReport) -> Option<String> {
        let done = report.step.saturating_sub(self.before);
        if done == 0 || report.step >= report.steps {
            return None;
        }
        let seconds = self.began.elapsed().as_secs_f64() / done as f64 * (report.steps - report.step) as f64;
        Some(duration(seconds as u64))
    }
}

fn state(report: &StepReport) -> String {
    let &StepReport { loss, learning_rate, images_per_second, .. } = report;
    format!("loss {loss:.4}  rate {learning_rate:.1e}  {images_per_second:.0} images/s")
}

/// What the stage measured besides, by name.
fn measured(report: &StepReport) -> String {
    let number = |value: f64| match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    };
    let texts = report.metrics.iter().map(|(name, value)| format!("{} {}", name.replace('_', " "), number(*value)));
    texts.collect::<Vec<_>>().join("  ")
}

/// 3:07 or 2:03:07.
fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Losses of equally many steps each, the last [`CURVE`] of them.
struct Losses {
    steps_each: usize,
    sum: f64,
    count: usize,
    means: VecDeque<f64>,
}

impl Losses {
    fn new(steps: usize) -> Self {
        Self { steps_each: steps.div_ceil(CURVE).max(1), sum: 0.0, count: 0, means: VecDeque::new() }
    }

    fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.count += 1;
        if self.count == self.steps_each {
            self.means.push_back(self.sum / self.count as f64);
            (self.sum, self.count) = (0.0, 0);
            if self.means.len() > CURVE {
                self.means.pop_front();
            }
        }
    }

    /// From the lowest to the highest of the means.
    fn curve(&self) -> String {
        let (low, high) = self.means.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
        let most = (HEIGHTS.len() - 1) as f64;
        let height = |x: &f64| if high > low { ((x - low) / (high - low) * most).round() as usize } else { 0 };
        self.means.iter().map(|x| HEIGHTS[height(x).min(HEIGHTS.len() - 1)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StepReport {
        let metrics =
            [("codebook_usage", 0.9375), ("codebook_perplexity", 807.9), ("gradient_norm", 0.0012), ("zero", 0.0)];
        StepReport {
            stage: "stage2",
            step: 30,
            steps: 100,
            loss: 1.25,
            learning_rate: 3e-4,
            images_per_second: 64.4,
            metrics: metrics.into_iter().collect(),
        }
    }

    #[test]
    fn everything_that_was_measured_is_said() {
        assert_eq!(state(&report()), "loss 1.2500  rate 3.0e-4  64 images/s");
        assert_eq!(measured(&report()), "codebook perplexity 808  codebook usage 0.938  gradient norm 1.2e-3  zero 0");
    }

    #[test]
    fn times_are_read_at_a_glance() {
        assert_eq!([0, 187, 7387].map(duration), ["0:00", "3:07", "2:03:07"]);
    }

    #[test]
    fn the_curve_goes_from_the_lowest_to_the_highest() {
        let mut losses = Losses::new(64);
        for loss in [8.0, 6.0, 0.0, 0.0, 4.0, 3.0, 9.0] {
            losses.add(loss);
        }
        assert_eq!(losses.curve(), "█▁▅", "means 7, 0 and 3.5; the last step waits for another");
        (0..200).for_each(|_| losses.add(1.0));
        assert_eq!(losses.curve(), "▁".repeat(CURVE));
        assert_eq!(Losses::new(10).curve(), "");
    }
}
