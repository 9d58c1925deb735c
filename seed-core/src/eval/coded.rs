//! Images -> their codes and how clearly each was chosen, and a page that shows the codebook.

use std::{collections::BTreeMap, ops::ControlFlow};

use image::RgbImage;
use rayon::prelude::*;

use super::{
    CodeUsage,
    chart::{Axes, Series, bars, lines},
    code_usage,
    page::{escape, heading, page, paragraph, picture, table},
    usage::Margins,
};
use crate::{
    codes::Codes,
    error::{Error, Result},
    pixels::{Filter, resize},
    tokenizer::SeedTokenizer,
};

/// Images that are encoded at a time.
const BATCH: usize = 32;
/// Codes of which a page shows images, and images of each.
const SHOWN: usize = 32;
const EXAMPLES: usize = 8;
/// Longer side of an example in the page, and its width on the screen, in pixels.
const THUMBNAIL: u32 = 64;
const ON_SCREEN: u32 = 72;
/// Bars of a histogram.
const BARS: usize = 30;

/// Codes of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Coded {
    /// The codes.
    pub codes: Codes,
    /// Squared distances of each latent to its code, `[images * tokens]`.
    pub nearest: Vec<f32>,
    /// Squared distances of each latent to the runner-up, `[images * tokens]`.
    pub second: Vec<f32>,
}

impl Coded {
    /// Encodes images. `progress` is called with the finished and all images.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn new(
        seed: &dyn SeedTokenizer,
        images: &[RgbImage],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let (mut done, all) = (0, images.len());
        let model = &seed.config().model;
        let (mut rows, mut nearest, mut second) = (Vec::new(), Vec::new(), Vec::new());
        for images in images.chunks(BATCH) {
            let pixels: Vec<Vec<f32>> = images.par_iter().map(|image| seed.preprocessor().apply(image)).collect();
            let (codes, [to_nearest, to_second]) = seed.encode_pixels_with_distances(&pixels)?;
            rows.extend_from_slice(codes.as_slice());
            nearest.extend(to_nearest);
            second.extend(to_second);
            done += images.len();
            if progress(done, all).is_break() {
                return Err(Error::Interrupted);
            }
        }
        let codes = Codes::from_rows(rows.chunks(model.num_queries), model.num_queries, model.codebook_size)?;
        Ok(Self { codes, nearest, second })
    }

    /// How the codebook is used, and how clearly.
    pub fn usage(&self) -> CodeUsage {
        CodeUsage { margins: Some(Margins::new([&self.nearest, &self.second])), ..code_usage(&self.codes) }
    }

    /// The images that hold each of the `count` most used codes nearest, the most used first: `(code, uses, examples)`, each
    /// example an image's number, a position in it and the squared distance there. An image is an example of a code once.
    fn examples(&self, count: usize) -> Vec<(u16, usize, Vec<Example>)> {
        let tokens = self.codes.tokens().max(1);
        let mut held: BTreeMap<u16, Vec<Example>> = BTreeMap::new();
        for (i, (&code, &distance)) in self.codes.as_slice().iter().zip(&self.nearest).enumerate() {
            let (image, position) = (i / tokens, i % tokens);
            held.entry(code).or_default().push(Example { image, position, distance });
        }
        let mut held: Vec<(u16, Vec<Example>)> = held.into_iter().collect();
        held.sort_by_key(|(code, uses)| (std::cmp::Reverse(uses.len()), *code));
        let nearest = |(code, mut uses): (u16, Vec<Example>)| {
            let all = uses.len();
            uses.sort_by(|a, b| a.distance.total_cmp(&b.distance));
            let mut seen = std::collections::BTreeSet::new();
            uses.retain(|example| seen.insert(example.image));
            uses.truncate(EXAMPLES);
            (code, all, uses)
        };
        held.into_iter().take(count).map(nearest).collect()
    }

    /// The codebook as one HTML file: how often codes are used, how much each position says, how clearly codes were chosen,
    /// and the images that are nearest to the most used ones. `images` are those that were encoded.
    pub fn page(&self, title: &str, images: &[RgbImage]) -> String {
        let usage = self.usage();
        let examples = self.examples(SHOWN).into_iter().map(|(code, uses, examples)| {
            let pictures = examples.iter().filter_map(|example| {
                let hint = format!(
                    "image {}, token {}, squared distance {:.3e}",
                    example.image, example.position, example.distance
                );
                images.get(example.image).map(|image| picture(&thumbnail(image), ON_SCREEN, &hint))
            });
            let pictures: String = pictures.collect();
            format!("<tr><td>{code}</td><td>{uses}</td><td style=\"text-align:left\">{pictures}</td></tr>")
        });
        let examples: String = examples.collect();
        let head =
            ["code", "uses", "images that hold it nearest, once each"].map(|text| format!("<th>{}</th>", escape(text)));
        page(
            title,
            &[
                summary(&usage),
                heading("Usage"),
                self.usage_charts(),
                heading("Positions"),
                positions(&usage),
                heading("Margins"),
                paragraph(
                    "How much larger the squared distance of a latent to the runner-up is than to its code. Small ones are codes that rounding can change.",
                ),
                self.margin_parts(&usage),
                heading(&format!("The {} most used codes", SHOWN.min(usage.used))),
                format!("<table><tr>{}</tr>{examples}</table>", head.concat()),
            ],
        )
    }

    fn usage_charts(&self) -> String {
        let mut counts = vec![0usize; self.codes.codebook_size()];
        self.codes.as_slice().iter().for_each(|&code| counts[usize::from(code)] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let points = counts.iter().enumerate().map(|(rank, &count)| ((rank + 1) as f64, count as f64)).collect();
        let axes = Axes {
            title: "Uses of each code",
            x: "codes, the most used first",
            y: "uses",
            from_zero: true,
            ..Axes::default()
        };
        let ranks = lines(&axes, &[Series { name: String::new(), points }]);
        let values: Vec<f64> = counts.iter().map(|&count| count as f64).collect();
        let axes = Axes { title: "Codes by number of uses", x: "uses", y: "codes", ..Axes::default() };
        ranks + &histogram(&axes, &values, counts.first().copied().unwrap_or(0) as f64)
    }

    fn margin_parts(&self, usage: &CodeUsage) -> String {
        let Some(margins) = &usage.margins else { return String::new() };
        let values: Vec<f64> = self.nearest.iter().zip(&self.second).map(|(a, b)| f64::from(b - a)).collect();
        let most = margins.quantiles.last().map_or(0.0, |quantile| quantile.value);
        let axes = Axes {
            title: "Codes by margin, up to the last share of the table",
            x: "margin",
            y: "codes",
            ..Axes::default()
        };
        let rows = margins
            .quantiles
            .iter()
            .map(|q| [format!("{:.0} % lie below", 100.0 * q.share), format!("{:.4e}", q.value)]);
        let mean = [
            ["mean".to_owned(), format!("{:.4e}", margins.mean)],
            ["mean squared distance to the code".to_owned(), format!("{:.4e}", margins.distance)],
        ];
        table(&["", "margin"], rows.chain(mean)) + &histogram(&axes, &values, most)
    }
}

/// An image that holds a code, where, and the squared distance there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Example {
    image: usize,
    position: usize,
    distance: f32,
}

fn summary(usage: &CodeUsage) -> String {
    let head = ["images", "codebook", "used", "usage", "perplexity", "different codes an image"];
    table(
        &head,
        [[
            usage.images.to_string(),
            usage.codebook_size.to_string(),
            usage.used.to_string(),
            format!("{:.1} %", 100.0 * usage.usage),
            format!("{:.1}", usage.perplexity),
            format!("{:.1}", usage.distinct_per_image),
        ]],
    )
}

fn positions(usage: &CodeUsage) -> String {
    let most = (usage.images.min(usage.codebook_size).max(1) as f64).log2();
    let axes = Axes {
        title: "Entropy of the codes at each position",
        x: "position",
        y: "bits",
        from_zero: true,
        ..Axes::default()
    };
    let text = format!(
        "With {} images and {} codes a position has {most:.2} bits at most.",
        usage.images, usage.codebook_size
    );
    paragraph(&text) + &bars(&axes, -0.5, 1.0, &usage.position_bits)
}

/// Counts of `values` from 0 to `most` in equal parts.
fn histogram(axes: &Axes<'_>, values: &[f64], most: f64) -> String {
    let whole = most.fract() == 0.0 && most < BARS as f64; // numbers of uses: one bar for each
    let (parts, width) = if whole { (most as usize + 1, 1.0) } else { (BARS, most / BARS as f64) };
    let mut counts = vec![0.0; parts];
    for &value in values {
        let part = (value / width.max(f64::MIN_POSITIVE)) as usize;
        if let Some(count) = counts.get_mut(if value == most { part.min(parts - 1) } else { part }) {
            *count += 1.0;
        }
    }
    bars(axes, if whole { -0.5 } else { 0.0 }, if width > 0.0 { width } else { 1.0 }, &counts)
}

/// A small form of an image.
fn thumbnail(image: &RgbImage) -> RgbImage {
    let longer = image.width().max(image.height());
    if longer <= THUMBNAIL {
        return image.clone();
    }
    let side = |side: u32| (side * THUMBNAIL / longer).max(1);
    resize(image, side(image.width()), side(image.height()), Filter::Bicubic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded() -> Coded {
        let codes = Codes::from_rows([[5u16, 5, 1], [5, 2, 1], [3, 5, 3]], 3, 8).unwrap();
        let nearest = vec![0.5, 0.1, 0.3, 0.2, 0.0, 0.1, 0.0, 0.05, 0.0];
        let second = nearest.iter().map(|distance| distance + 1.0).collect();
        Coded { codes, nearest, second }
    }

    #[test]
    fn examples_are_the_nearest_images_of_the_most_used_codes() {
        let examples = coded().examples(2);
        let (code, uses, images) = &examples[0];
        assert_eq!((*code, *uses), (5, 4));
        let order: Vec<(usize, usize)> = images.iter().map(|example| (example.image, example.position)).collect();
        assert_eq!(order, [(2, 1), (0, 1), (1, 0)], "nearest first, each image once, where it is nearest");
        assert_eq!((examples.len(), examples[1].0, examples[1].1), (2, 1, 2), "the lower code on a tie");
    }

    #[test]
    fn a_page_holds_everything() {
        let images: Vec<RgbImage> = (0..3).map(|i| RgbImage::from_pixel(200, 100, image::Rgb([i; 3]))).collect();
        let page = coded().page("codes of <images>", &images);
        assert!(page.contains("codes of &lt;images&gt;") && !page.contains("<script") && !page.contains("src=\"http"));
        assert_eq!(page.matches("<svg").count(), 4, "usage by rank and by number, positions, margins");
        // Codes 5, 1, 2 and 3 have 3, 2, 1 and 1 images.
        assert_eq!(page.matches("<img").count(), 7);
        assert!(page.contains("image 2, token 1, squared distance 5.000e-2"));
    }

    #[test]
    fn margins_are_part_of_the_usage() {
        let usage = coded().usage();
        let margins = usage.margins.as_ref().unwrap();
        assert!((margins.mean - 1.0).abs() < 1e-6 && usage.used == 4, "{usage:?}");
    }

    #[test]
    fn thumbnails_keep_their_proportions() {
        assert_eq!(thumbnail(&RgbImage::new(640, 320)).dimensions(), (64, 32));
        assert_eq!(thumbnail(&RgbImage::new(1, 4000)).dimensions(), (1, 64));
        assert_eq!(thumbnail(&RgbImage::new(20, 10)).dimensions(), (20, 10));
    }
}
