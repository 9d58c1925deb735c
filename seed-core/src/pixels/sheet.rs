//! Sheets: images side by side on white, to look at.

use image::imageops::replace;
use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::{Filter, resize};

/// How an image fills its cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Whole pixels: what is there and nothing else.
    Nearest,
    /// Smooth.
    #[default]
    Bicubic,
}

/// Sizes of a sheet, in pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Width and height of a cell; an image is scaled to touch its sides and keeps its proportions.
    pub cell: u32,
    /// White around the sheet and between cells; half as much within a pair.
    pub margin: u32,
    /// Cells, or pairs of cells, in a row of the sheet.
    pub columns: usize,
    /// How an image fills its cell.
    pub scaling: Scaling,
}

impl Default for Layout {
    fn default() -> Self {
        Self { cell: 256, margin: 16, columns: 1, scaling: Scaling::default() }
    }
}

/// Pairs of an original and its reconstruction, `layout.columns` pairs in a row.
pub fn side_by_side(pairs: &[(RgbImage, RgbImage)], layout: &Layout) -> RgbImage {
    let groups: Vec<Vec<&RgbImage>> = pairs.iter().map(|(original, again)| vec![original, again]).collect();
    arrange(&groups, layout)
}

/// Images in reading order, `layout.columns` in a row.
pub fn grid(images: &[RgbImage], layout: &Layout) -> RgbImage {
    let groups: Vec<Vec<&RgbImage>> = images.iter().map(|image| vec![image]).collect();
    arrange(&groups, layout)
}

/// Groups of equal length, each a cell or several cells close together.
fn arrange(groups: &[Vec<&RgbImage>], layout: &Layout) -> RgbImage {
    let Layout { cell, margin, scaling, .. } = *layout;
    let cell = cell.max(1);
    let columns = layout.columns.clamp(1, groups.len().max(1));
    let rows = groups.len().div_ceil(columns);
    let cells = groups.first().map_or(0, Vec::len) as u32;
    let step = cell + margin / 2;
    let group_width = (cells * step).saturating_sub(margin / 2);
    let width = margin + columns as u32 * (group_width + margin);
    let height = margin + rows as u32 * (cell + margin);
    let mut sheet = RgbImage::from_pixel(width.max(1), height.max(1), Rgb([255; 3]));
    for (i, group) in groups.iter().enumerate() {
        let left = margin + (i % columns) as u32 * (group_width + margin);
        let top = margin + (i / columns) as u32 * (cell + margin);
        for (j, image) in group.iter().enumerate() {
            let fitted = fit(image, cell, scaling);
            let x = left + j as u32 * step + (cell - fitted.width()) / 2;
            let y = top + (cell - fitted.height()) / 2;
            replace(&mut sheet, &fitted, x.into(), y.into());
        }
    }
    sheet
}

/// The image with its longer side as long as a cell; an empty image stays empty.
fn fit(image: &RgbImage, cell: u32, scaling: Scaling) -> RgbImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height);
    if width.min(height) == 0 {
        return RgbImage::new(0, 0);
    }
    let side = |length: u32| ((u64::from(length) * u64::from(cell) + u64::from(longer) / 2) / u64::from(longer)).max(1);
    let (to_width, to_height) = (side(width) as u32, side(height) as u32);
    match scaling {
        Scaling::Bicubic => resize(image, to_width, to_height, Filter::Bicubic),
        Scaling::Nearest => RgbImage::from_fn(to_width, to_height, |x, y| {
            let source =
                |at: u32, from: u32, to: u32| ((2 * u64::from(at) + 1) * u64::from(from) / (2 * u64::from(to))) as u32;
            *image.get_pixel(source(x, width, to_width), source(y, height, to_height))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: u32, height: u32, level: u8) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([level; 3]))
    }

    #[test]
    fn pairs_lie_side_by_side_on_white() {
        let pairs = vec![
            (plain(2, 2, 10), plain(4, 4, 20)),
            (plain(2, 1, 30), plain(1, 1, 40)),
            (plain(9, 9, 50), plain(3, 3, 60)),
        ];
        let layout = Layout { cell: 8, margin: 4, columns: 2, scaling: Scaling::Nearest };
        let sheet = side_by_side(&pairs, &layout);
        assert_eq!(sheet.dimensions(), (4 + 2 * (8 + 2 + 8 + 4), 4 + 2 * (8 + 4)));
        let at = |x, y| sheet.get_pixel(x, y).0[0];
        assert_eq!([at(0, 0), at(4, 4), at(11, 11), at(12, 4), at(14, 4)], [255, 10, 10, 255, 20]);
        assert_eq!([at(26, 4), at(26, 6), at(26, 9), at(26, 10), at(36, 4)], [255, 30, 30, 255, 40]);
        assert_eq!([at(4, 16), at(14, 16), at(26, 16)], [50, 60, 255]);
    }

    #[test]
    fn any_number_and_size_of_images_makes_a_sheet() {
        for scaling in [Scaling::Nearest, Scaling::Bicubic] {
            let layout = Layout { columns: 0, scaling, ..Layout::default() };
            assert_eq!(grid(&[], &layout).dimensions(), (32, 16));
            let sheet = grid(&[plain(1, 1, 7), plain(1000, 1, 7), plain(1, 3, 7), RgbImage::new(0, 0)], &layout);
            assert_eq!(sheet.dimensions(), (16 + 256 + 16, 16 + 4 * (256 + 16)));
            assert_eq!(sheet.get_pixel(16, 16).0, [7; 3]);
        }
    }
}
