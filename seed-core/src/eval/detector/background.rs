//! Pixels -> the background: a colour that changes linearly from row to row, and which of the known ones that is.

use super::templates::SIDE;
use crate::scenes::{Backdrop, Background, Shade, shade_ends};

/// Differences of colours from which on a pixel says nothing about the background.
const OUTLIER: f32 = 40.0;
/// Difference of colours at which a pixel's weight in the fit has fallen to a quarter.
const SCALE: f32 = 12.0;
/// Rounds of weighting and fitting.
const ROUNDS: usize = 8;

/// A background as it is drawn: `middle + slope * t` for `t` in sides below the middle of the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) middle: [f32; 3],
    pub(super) slope: [f32; 3],
}

impl Line {
    /// How a known background is drawn.
    fn of(background: Background) -> Self {
        let (top, bottom) = shade_ends(background.shade);
        let sloped = match background.backdrop {
            Backdrop::Flat => 0.0,
            Backdrop::Gradient => 1.0,
        };
        let ends = |i: usize| (f32::from(top[i]), f32::from(bottom[i]));
        Self {
            middle: [0, 1, 2].map(|i| (ends(i).0 + ends(i).1) / 2.0),
            slope: [0, 1, 2].map(|i| sloped * (ends(i).1 - ends(i).0)),
        }
    }

    /// The colour `t` sides below the middle of the picture.
    pub(super) fn at(&self, t: f32) -> [f32; 3] {
        [0, 1, 2].map(|i| self.middle[i] + self.slope[i] * t)
    }

    /// Mean squared distance of two lines over a picture.
    fn distance(&self, other: &Self) -> f32 {
        let square = |a: &[f32; 3], b: &[f32; 3]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        square(&self.middle, &other.middle) + square(&self.slope, &other.slope) / 12.0
    }
}

/// Every background that a scene can have.
fn known() -> impl Iterator<Item = Background> {
    Shade::ALL.into_iter().flat_map(|shade| Backdrop::ALL.map(|backdrop| Background { shade, backdrop }))
}

/// `t` of a row of the picture, in sides.
pub(super) fn sides_below_middle(row: usize) -> f32 {
    (row as f32 + 0.5) / SIDE as f32 - 0.5
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// The background of `pixels`, `[SIDE, SIDE]`, and the known one that is nearest to it. Objects cover less than a third
/// of a scene: they are outliers of a fit that starts from the known background with the most pixels.
pub(super) fn fit(pixels: &[[f32; 3]]) -> (Line, Background) {
    let place = |i: usize| sides_below_middle(i / SIDE);
    let cost = |background: &Background| -> f32 {
        let line = Line::of(*background);
        let pixels = pixels.iter().enumerate();
        pixels.map(|(i, &pixel)| distance(pixel, line.at(place(i))).min(OUTLIER * OUTLIER)).sum()
    };
    let start = known().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("there are backgrounds");
    let mut line = Line::of(start);
    for _ in 0..ROUNDS {
        line = refit(pixels, &line);
    }
    let apart = |background: &Background| line.distance(&Line::of(*background));
    let nearest = known().min_by(|a, b| apart(a).total_cmp(&apart(b))).expect("there are backgrounds");
    (line, nearest)
}

/// Least squares with the weights of Geman and McClure, for the distances from `line`.
fn refit(pixels: &[[f32; 3]], line: &Line) -> Line {
    let (mut w, mut wt, mut wtt) = (0.0, 0.0, 0.0);
    let (mut wy, mut wty) = ([0.0; 3], [0.0; 3]);
    for (i, &pixel) in pixels.iter().enumerate() {
        let t = sides_below_middle(i / SIDE);
        let weight = (1.0 + distance(pixel, line.at(t)) / (SCALE * SCALE)).powi(-2);
        w += weight;
        wt += weight * t;
        wtt += weight * t * t;
        for channel in 0..3 {
            wy[channel] += weight * pixel[channel];
            wty[channel] += weight * t * pixel[channel];
        }
    }
    let determinant = w * wtt - wt * wt;
    if determinant <= f32::EPSILON * w * w {
        return *line; // no row but one has any weight
    }
    Line {
        middle: [0, 1, 2].map(|i| (wtt * wy[i] - wt * wty[i]) / determinant),
        slope: [0, 1, 2].map(|i| (w * wty[i] - wt * wy[i]) / determinant),
    }
}
