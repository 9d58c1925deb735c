//! Numbers -> charts as SVG, a picture that HTML holds as text.

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    drawing::DrawingAreaErrorKind,
    prelude::{BLACK, Circle, IntoDrawingArea as _, PathElement, RGBColor, Rectangle, SVGBackend, TRANSPARENT, WHITE},
    style::Color as _,
};

/// Width and height of a chart in pixels.
const SIZE: (u32, u32) = (620, 300);
/// Most points of a line; more are replaced by the means of neighbours.
const MOST_POINTS: usize = 400;
/// Lines with fewer points show each of them.
const MARKED: usize = 40;
/// Colours that are told apart without red and green (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// How an axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By factors of this; values that are not positive have no place on it.
    Log(f64),
}

impl Scale {
    fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Self::Linear => value,
            Self::Log(base) if value > 0.0 => value.log(base),
            Self::Log(_) => return None,
        };
        place.is_finite().then_some(place)
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Linear => short(place),
            Self::Log(base) => short(base.powf(place)),
        }
    }
}

/// A few digits of a number.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    match () {
        () if magnitude == 0.0 => "0".to_owned(),
        () if !(1e-3..1e6).contains(&magnitude) => format!("{value:.1e}"),
        () => {
            let digits = (3 - magnitude.log10().floor() as i32).clamp(0, 5) as usize;
            let text = format!("{value:.digits$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    }
}

/// A line of a chart.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) name: String,
    /// Places on the axes, from left to right. Those that have no place are left out.
    pub(super) points: Vec<(f64, f64)>,
}

/// What is said on a chart's edges, and how its axes are divided.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Axes<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) x_scale: Scale,
    pub(super) y_scale: Scale,
    /// The vertical axis begins at 0.
    pub(super) from_zero: bool,
}

/// What is drawn over the axes.
enum Mark<'a> {
    Line { name: &'a str, points: Vec<(f64, f64)>, colour: RGBColor },
    Bar([(f64, f64); 2]),
}

/// Lines over common axes.
pub(super) fn lines(axes: &Axes<'_>, series: &[Series]) -> String {
    let place = |&(x, y): &(f64, f64)| Some((axes.x_scale.place(x)?, axes.y_scale.place(y)?));
    let lines = series.iter().zip(COLOURS.iter().cycle()).map(|(line, &colour)| {
        let points = thin(line.points.iter().filter_map(place).collect());
        Mark::Line { name: &line.name, points, colour }
    });
    draw(axes, None, &lines.collect::<Vec<_>>())
}

/// One bar a value, the first at `first`, each `width` wide.
pub(super) fn bars(axes: &Axes<'_>, first: f64, width: f64, values: &[f64]) -> String {
    let bars = values.iter().enumerate().filter(|(_, value)| value.is_finite()).map(|(i, &value)| {
        let left = first + width * i as f64;
        Mark::Bar([(left + 0.08 * width, 0.0), (left + 0.92 * width, value)])
    });
    let xs = (first, first + width * values.len().max(1) as f64);
    draw(axes, Some(xs), &bars.collect::<Vec<_>>())
}

/// Axes with marks over them; across from `xs`, or from the first mark to the last.
fn draw(axes: &Axes<'_>, xs: Option<(f64, f64)>, marks: &[Mark<'_>]) -> String {
    let places = || {
        marks.iter().flat_map(|mark| match mark {
            Mark::Line { points, .. } => points.as_slice(),
            Mark::Bar(corners) => corners.as_slice(),
        })
    };
    let (left, right) = xs.unwrap_or_else(|| span(places().map(|(x, _)| *x)));
    let (bottom, top) = span(places().map(|(_, y)| *y));
    let bottom = if axes.from_zero { bottom.min(0.0) } else { bottom };
    let mut svg = String::new();
    let mut render = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut builder = ChartBuilder::on(&area);
        builder.caption(axes.title, ("sans-serif", 15)).margin(8).x_label_area_size(38).y_label_area_size(64);
        let mut chart = builder.build_cartesian_2d(left..right, bottom..top + 0.05 * (top - bottom))?;
        let (x_label, y_label) = (|x: &f64| axes.x_scale.label(*x), |y: &f64| axes.y_scale.label(*y));
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(axes.x).y_desc(axes.y).light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1));
        mesh.x_label_formatter(&x_label).y_label_formatter(&y_label).x_labels(8).y_labels(6).draw()?;
        for mark in marks {
            match mark {
                Mark::Line { name, points, colour } => {
                    let style = colour.stroke_width(2);
                    let drawn = chart.draw_series([PathElement::new(points.clone(), style)])?;
                    drawn.label(*name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
                    if points.len() < MARKED {
                        chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, colour.filled())))?;
                    }
                }
                Mark::Bar(corners) => {
                    chart.draw_series([Rectangle::new(*corners, COLOURS[0].filled())])?;
                }
            }
        }
        let lines = marks.iter().filter(|mark| matches!(mark, Mark::Line { .. })).count();
        if lines > 1 {
            let mut labels = chart.configure_series_labels();
            labels.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.8));
            labels.border_style(TRANSPARENT).draw()?;
        }
        area.present()
    };
    render().expect("a text takes every drawing");
    svg
}

/// The least and the greatest value, somewhat apart even when they are equal or there are none.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match high - low {
        apart if apart > 1e-9 * high.abs().max(low.abs()) => (low, high),
        _ if low.is_finite() => {
            let around = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low - around, low + around)
        }
        _ => (0.0, 1.0),
    }
}

/// At most [`MOST_POINTS`] points: means of equally many neighbours.
fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points;
    }
    let mean = |part: &[(f64, f64)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / part.len() as f64, y / part.len() as f64)
    };
    points.chunks(points.len().div_ceil(MOST_POINTS)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.to_owned(), points }
    }

    #[test]
    fn texts_are_escaped_and_values_labelled() {
        let axes = Axes { title: "a < b & \"c\"", x: "step", y: "loss", ..Axes::default() };
        let svg = lines(&axes, &[line("one", vec![(0.0, 1.0), (10.0, 3.0)]), line("<two>", vec![(0.0, 2.0)])]);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("a < b") && !svg.contains("<two>"), "{svg}");
        assert!(svg.contains("a &lt; b &amp; ") && svg.contains("&lt;two&gt;") && svg.contains("loss"), "{svg}");
    }

    #[test]
    fn axes_by_factors_show_the_values_themselves() {
        let axes = Axes { x_scale: Scale::Log(2.0), y_scale: Scale::Log(10.0), ..Axes::default() };
        let points = (0..6).map(|i| (f64::from(1 << i), 10f64.powi(-i))).collect();
        let svg = lines(&axes, &[line("", points)]);
        for label in ["1", "32", "1.0e-5"] {
            assert!(svg.contains(&format!("\n{label}\n")), "{label} in {svg}");
        }
        assert_eq!((Scale::Log(10.0).place(0.0), Scale::Linear.place(f64::NAN)), (None, None));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 1.0, 0.25, 12.5, 1234.5678, 0.0001, -3e7].map(short);
        assert_eq!(texts, ["0", "1", "0.25", "12.5", "1235", "1.0e-4", "-3.0e7"]);
    }

    #[test]
    fn nothing_equal_and_infinite_values_are_drawn_too() {
        let axes = Axes::default();
        for points in [vec![], vec![(1.0, 2.0)], vec![(0.0, 0.0); 3], vec![(0.0, f64::INFINITY), (1.0, f64::NAN)]] {
            assert!(lines(&axes, &[line("a", points)]).contains("</svg>"));
        }
        assert!(bars(&axes, 0.0, 1.0, &[]).contains("</svg>"));
        let counted = |values: &[f64]| bars(&axes, 0.0, 1.0, values).matches("fill=\"#0072B2\"").count();
        assert_eq!((counted(&[1.0, 2.0, 3.0]), counted(&[1.0, f64::NAN])), (3, 1));
    }

    #[test]
    fn long_lines_are_thinned_to_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thinned = thin(points.clone());
        assert_eq!((thinned.len(), thinned[0]), (334, (1.0, 1.0 / 3.0)));
        assert_eq!(thin(points[..9].to_vec()), points[..9]);
    }
}
