//! Phrases with boxes and an image -> the image with rectangles on it, a colour for each phrase.
//!
//! Differences from the reference's demo: colours are Okabe and Ito's, which colour-blind people can tell apart, and phrases
//! are not written on the image; [`colors`] says which is whose.

use crate::pixels::RgbImage;

use super::boxes::{GridBox, Grounded};

/// The colours in turn (Okabe and Ito, 2008): orange, sky blue, bluish green, yellow, blue, vermilion, reddish purple.
const COLORS: [[u8; 3]; 7] =
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/// Lines on an image with sides of `width` and `height` pixels are this wide.
fn thickness(width: u32, height: u32) -> u32 {
    (width.max(height) / 250).max(2)
}

/// The colour of each group: groups of one phrase share one, a group without a phrase has its own.
pub fn colors(groups: &[Grounded]) -> Vec<[u8; 3]> {
    let mut next = 0;
    let mut made: Vec<[u8; 3]> = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let same = |other: &Grounded| group.phrase().is_some() && other.phrase() == group.phrase();
        made.push(match groups[..index].iter().position(same) {
            Some(first) => made[first],
            None => {
                next += 1;
                COLORS[(next - 1) % COLORS.len()]
            }
        });
    }
    made
}

/// The image with the outline of every box, the first group's on top. Lines lie inside of their boxes; what is beyond the
/// image is cut off.
pub fn draw(image: &RgbImage, groups: &[Grounded]) -> RgbImage {
    let mut drawn = image.clone();
    if image.width() == 0 || image.height() == 0 {
        return drawn;
    }
    for (group, color) in groups.iter().zip(colors(groups)).rev() {
        for &one in group.boxes() {
            outline(&mut drawn, one, color);
        }
    }
    drawn
}

fn outline(image: &mut RgbImage, one: GridBox, color: [u8; 3]) {
    let (width, height) = image.dimensions();
    let [left, top, right, bottom] = one.to_pixels(width, height).map(|value| value as u32); // truncated: the pixel it is in
    let (right, bottom) = (right.min(width - 1), bottom.min(height - 1));
    let (left, top) = (left.min(right), top.min(bottom));
    let wide = thickness(width, height);
    let is_line = |x: u32, y: u32| x - left < wide || right - x < wide || y - top < wide || bottom - y < wide;
    for y in top..=bottom {
        for x in left..=right {
            if is_line(x, y) {
                image.get_pixel_mut(x, y).0 = color;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::minigpt::boxes::parse;

    /// The image as letters: of the colour that was drawn, or a dot for the image's own.
    fn letters(image: &RgbImage) -> Vec<String> {
        let letter = |pixel: [u8; 3]| match COLORS.iter().position(|&color| color == pixel) {
            Some(index) => char::from(b'a' + index as u8),
            None => '.',
        };
        image.rows().map(|row| row.map(|pixel| letter(pixel.0)).collect()).collect()
    }

    #[test]
    fn outlines_are_inside_and_the_first_is_on_top() {
        let image = RgbImage::new(10, 10);
        let groups = parse("<p>one</p> {<0><0><50><60>} <p>two</p> {<40><50><100><100>}").unwrap();
        assert_eq!(
            letters(&draw(&image, &groups)),
            [
                "aaaaaa....",
                "aaaaaa....",
                "aa..aa....",
                "aa..aa....",
                "aa..aa....",
                "aaaaaabbbb",
                "aaaaaabbbb",
                "....bb..bb",
                "....bbbbbb",
                "....bbbbbb",
            ]
        );
        assert_eq!(letters(&image), vec![".........."; 10], "the image itself stays");
    }

    #[test]
    fn any_box_fits_any_image() {
        for (width, height) in [(1, 1), (1, 7), (3, 2), (0, 0), (900, 3)] {
            let image = RgbImage::new(width, height);
            for text in ["{<0><0><0><0>}", "{<100><100><100><100>}", "{<0><0><100><100>}", "{<33><66><34><67>}"] {
                let drawn = draw(&image, &parse(text).unwrap());
                assert_eq!(drawn.dimensions(), (width, height));
                assert_eq!(drawn.pixels().any(|pixel| pixel.0 == COLORS[0]), width > 0, "{text} on {width} x {height}");
            }
        }
    }

    #[test]
    fn a_phrase_has_one_colour() {
        let text =
            "<p>x</p> {<0><0><1><1>} {<0><0><1><1>} <p>y</p> {<0><0><1><1>} <p>x</p> {<0><0><1><1>} {<0><0><1><1>}";
        let used = colors(&parse(text).unwrap());
        assert_eq!(used, [COLORS[0], COLORS[1], COLORS[2], COLORS[0], COLORS[3]]);
        let many = colors(&vec![parse("{<0><0><1><1>}").unwrap().remove(0); 9]);
        assert_eq!((many[7], many[8]), (COLORS[0], COLORS[1]));
    }
}
