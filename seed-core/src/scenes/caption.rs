//! Scene -> caption.
//!
//! "a small red striped circle on the left, below a large blue plain square at the top, and a small white dotted ring in
//! the centre, on a teal gradient": every attribute once, and one relation between the first two objects. Split on
//! spaces and stripped of commas, a caption has at most [`MAX_WORDS`] words, all of them in [`words`].

use std::collections::BTreeSet;

use super::scene::{Backdrop, Background, Cell, Colour, Object, Scene, Shade, Shape, Size, Texture};

/// Most words of a caption: three objects of at most nine, two joints of at most two and one, a background of five.
#[cfg(test)]
pub(super) const MAX_WORDS: usize = 3 * 9 + 2 + 1 + 5;

/// The words that belong to no attribute.
const GRAMMAR: &str = "a and on background";

/// Where the first object of a pair lies, seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    pub(super) const ALL: [Relation; 4] = [Relation::LeftOf, Relation::RightOf, Relation::Above, Relation::Below];

    /// Along the axis of the larger difference; horizontal on a tie.
    pub(super) fn between(first: Cell, second: Cell) -> Self {
        let (column, row) = first.column_row();
        let (other_column, other_row) = second.column_row();
        if column.abs_diff(other_column) >= row.abs_diff(other_row) {
            if column < other_column { Relation::LeftOf } else { Relation::RightOf }
        } else if row < other_row {
            Relation::Above
        } else {
            Relation::Below
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Relation::LeftOf => "left of",
            Relation::RightOf => "right of",
            Relation::Above => "above",
            Relation::Below => "below",
        }
    }
}

impl Scene {
    /// What the scene shows, in words: a function of all but the jitter, and different for different scenes.
    pub fn caption(&self) -> String {
        let mut caption = String::with_capacity(192);
        for (i, object) in self.objects().iter().enumerate() {
            let joint = match i {
                0 => "",
                1 => Relation::between(self.objects()[0].cell, object.cell).text(),
                _ => "and",
            };
            if !joint.is_empty() {
                caption.push_str(", ");
                caption.push_str(joint);
                caption.push(' ');
            }
            push_object(&mut caption, object);
        }
        let Background { shade, backdrop } = self.background();
        let parts = match backdrop {
            Backdrop::Flat => [", on a ", backdrop.text(), " ", shade.text(), " background"],
            Backdrop::Gradient => [", on a ", shade.text(), " ", backdrop.text(), ""],
        };
        caption.extend(parts);
        caption
    }
}

fn push_object(caption: &mut String, object: &Object) {
    let Object { shape, colour, texture, size, cell, jitter: _ } = *object;
    caption.push('a');
    for word in [size.text(), colour.text(), texture.text(), shape.text(), cell.text()] {
        caption.push(' ');
        caption.push_str(word);
    }
}

/// Every word that a caption can contain: lower case, sorted, unique.
pub fn words() -> Vec<&'static str> {
    let texts = std::iter::once(GRAMMAR)
        .chain(Shape::ALL.map(Shape::text))
        .chain(Colour::ALL.map(Colour::text))
        .chain(Texture::ALL.map(Texture::text))
        .chain(Size::ALL.map(Size::text))
        .chain(Cell::ALL.map(Cell::text))
        .chain(Shade::ALL.map(Shade::text))
        .chain(Backdrop::ALL.map(Backdrop::text))
        .chain(Relation::ALL.map(Relation::text));
    let unique: BTreeSet<&'static str> = texts.flat_map(str::split_whitespace).collect();
    unique.into_iter().collect()
}
