//! Folder of a training run -> its curves, as one HTML file.
//!
//! A run's stages write a line of JSON a step to `metrics.jsonl` in folders of their own. What is there is shown, whether the
//! run is finished, was interrupted, or goes on: the last line may be half written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    chart::{Axes, Scale, Series, lines},
    page::{heading, page, paragraph, table},
};
use crate::error::{Error, Result};

/// File of a stage's reports.
const METRICS: &str = "metrics.jsonl";
/// Stages in the order of training; others follow by name.
const ORDER: [&str; 5] = ["vision", "stage1", "stage2", "vae", "decoder"];
/// What the name of a metric of images that are not trained on begins with; the rest is what it is compared with.
const VALIDATION: &str = "validation_";
/// A curve whose values differ by more than this factor gets an axis by factors of ten.
const WIDE: f64 = 50.0;

/// A line of a stage's reports. Numbers that are none are null in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    step: usize,
    steps: usize,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    images_per_second: Option<f64>,
    metrics: BTreeMap<String, Option<f64>>,
}

/// What a stage reported.
struct Stage {
    name: String,
    lines: Vec<Line>,
    /// Lines that are no reports, other than a last one that is not whole.
    broken: usize,
}

/// The curves of the run in `folder`: loss, rates and whatever else its stages measured.
///
/// # Errors
/// [`Error::Input`] for a folder that holds no reports, [`Error::Read`].
pub fn training_report(folder: &Path) -> Result<String> {
    let stages = read(folder)?;
    let mut parts = vec![table(&["stage", "steps", "last loss", "images/s", "remarks"], stages.iter().map(summary))];
    for stage in &stages {
        parts.push(heading(&format!("Stage {}", stage.name)));
        match stage.lines.is_empty() {
            true => parts.push(paragraph("No step has been reported.")),
            false => parts.push(charts(stage)),
        }
    }
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    Ok(page(&format!("Training run {name}"), &parts))
}

/// The stages that have reported anything.
fn read(folder: &Path) -> Result<Vec<Stage>> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    let own = folder.join(METRICS);
    if own.is_file() {
        files.push((folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), own));
    }
    for entry in std::fs::read_dir(folder).map_err(fail(folder))? {
        let entry = entry.map_err(fail(folder))?;
        let file = entry.path().join(METRICS);
        if file.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), file));
        }
    }
    if files.is_empty() {
        let reason = format!("it holds no {METRICS}, in itself or in the folder of a stage; name the folder of a run");
        return Err(Error::Input { name: folder.display().to_string(), reason });
    }
    let place = |name: &str| ORDER.iter().position(|stage| *stage == name).unwrap_or(ORDER.len());
    files.sort_by(|(a, _), (b, _)| (place(a), a).cmp(&(place(b), b)));
    let stage = |(name, file): (String, PathBuf)| {
        let bytes = std::fs::read(&file).map_err(fail(&file))?;
        Ok(parse(name, &String::from_utf8_lossy(&bytes)))
    };
    files.into_iter().map(stage).collect()
}

fn parse(name: String, text: &str) -> Stage {
    let mut stage = Stage { name, lines: Vec::new(), broken: 0 };
    for line in text.split_inclusive('\n') {
        match serde_json::from_str::<Line>(line) {
            Ok(line) => stage.lines.push(line),
            Err(_) if line.trim().is_empty() || !line.ends_with('\n') => {} // the last one, which is being written
            Err(_) => stage.broken += 1,
        }
    }
    stage
}

fn summary(stage: &Stage) -> [String; 5] {
    let last = stage.lines.last();
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let remarks = match (stage.broken, last) {
        (0, Some(line)) if line.step < line.steps => "not finished".to_owned(),
        (0, _) => String::new(),
        (broken, _) => format!("{broken} lines are no reports and were left out"),
    };
    [
        stage.name.clone(),
        last.map_or("0".to_owned(), |line| format!("{} of {}", line.step, line.steps)),
        number(last.and_then(|line| line.loss), 4),
        number(last.and_then(|line| line.images_per_second), 1),
        remarks,
    ]
}

/// One chart for each thing that was measured, with that of held-out images in the same one.
fn charts(stage: &Stage) -> String {
    let mut curves: BTreeMap<String, Vec<Series>> = BTreeMap::new();
    let mut add = |name: &str, of: &dyn Fn(&Line) -> Option<f64>| {
        let points = stage.lines.iter().filter_map(|line| Some((line.step as f64, of(line)?)));
        let points: Vec<(f64, f64)> = points.collect();
        if !points.is_empty() {
            let (chart, series) = match name.strip_prefix(VALIDATION) {
                Some(rest) => (rest, "held out"),
                None => (name, "training"),
            };
            let series = Series { name: series.to_owned(), points };
            curves.entry(chart.to_owned()).or_default().push(series);
        }
    };
    add("loss", &|line| line.loss);
    add("learning_rate", &|line| line.learning_rate);
    add("images_per_second", &|line| line.images_per_second);
    let names: std::collections::BTreeSet<&String> = stage.lines.iter().flat_map(|line| line.metrics.keys()).collect();
    for name in names {
        add(name, &|line| line.metrics.get(name).copied().flatten());
    }
    let first = ["loss", "learning_rate", "images_per_second"];
    let leading =
        first.into_iter().filter_map(|name| Some((name.to_owned(), curves.remove(name)?))).collect::<Vec<_>>();
    leading.into_iter().chain(curves).map(|(name, series)| chart(&name, &series)).collect()
}

fn chart(name: &str, series: &[Series]) -> String {
    let values = || series.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
    let (low, high) = values().fold((f64::INFINITY, 0.0f64), |(low, high), y| (low.min(y), high.max(y)));
    let y_scale = if low > 0.0 && high / low > WIDE { Scale::Log(10.0) } else { Scale::Linear };
    let title = name.replace('_', " ");
    let axes = Axes { title: &title, x: "step", y: "", y_scale, ..Axes::default() };
    lines(&axes, series)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize, more: &str) -> String {
        format!(
            "{{\"stage\":\"vision\",\"step\":{step},\"steps\":100,\"loss\":{},\"learning_rate\":0.001,\"images_per_second\":64.5,\"metrics\":{{{more}}}}}\n",
            10.0 / step as f64
        )
    }

    fn write(folder: &Path, stage: &str, text: &str) {
        std::fs::create_dir_all(folder.join(stage)).unwrap();
        std::fs::write(folder.join(stage).join(METRICS), text).unwrap();
    }

    #[test]
    fn every_stage_and_metric_has_its_curve() {
        let run = tempfile::tempdir().unwrap();
        let lines = |more: &str| (1..=50).map(|step| line(step, more)).collect::<String>();
        write(run.path(), "stage2", &lines("\"codebook_usage\":0.5,\"validation_loss\":3.5,\"<b>\":1"));
        write(run.path(), "vision", &lines("\"gradient_norm\":2.0"));
        write(run.path(), "another", "");
        std::fs::create_dir(run.path().join("bundle")).unwrap();
        let page = training_report(run.path()).unwrap();
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
        assert!(place("Stage vision") < place("Stage stage2") && place("Stage stage2") < place("Stage another"));
        assert_eq!(page.matches("<svg").count(), 4 + 5, "loss, rate, speed and what else, by stage");
        for text in ["codebook usage", "gradient norm", "held out", "&lt;b&gt;", "50 of 100", "not finished", "No step"]
        {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<b>") && !page.contains("<script"));
    }

    #[test]
    fn a_half_written_line_is_left_out_and_a_broken_one_counted() {
        let text = line(1, "") + "not json\n" + &line(2, "\"x\":null") + &line(3, "")[..40];
        let stage = parse("vision".to_owned(), &text);
        assert_eq!((stage.lines.len(), stage.broken), (2, 1));
        assert!(summary(&stage)[4].starts_with("1 lines"));
        let whole = parse("vision".to_owned(), line(100, "").trim_end());
        assert_eq!((whole.lines.len(), &summary(&whole)[4][..]), (1, ""), "a last line without its end may be whole");
    }

    #[test]
    fn a_folder_without_reports_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = training_report(folder.path()).unwrap_err().to_string();
        assert!(error.contains(METRICS) && error.contains("folder of a run"), "{error}");
        assert!(matches!(training_report(&folder.path().join("none")), Err(Error::Read { .. })));
    }
}
