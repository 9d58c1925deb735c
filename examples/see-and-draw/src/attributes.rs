//! Caption -> what it says, attribute by attribute, and how much of that another description has right.
//!
//! Reads any words: a caption that a model wrote may lack a word, repeat one, or have no sense.

use seed_core::scenes::{Backdrop, Cell, Colour, Shade, Shape, Size, Texture};
use serde::Serialize;

/// Between which two objects a caption may put a relation.
const RELATIONS: [&str; 4] = ["left of", "right of", "above", "below"];

/// What is said of one object; nothing where a word is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) shape: Option<Shape>,
    pub(crate) colour: Option<Colour>,
    pub(crate) texture: Option<Texture>,
    pub(crate) size: Option<Size>,
    pub(crate) place: Option<Cell>,
}

/// What a caption says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) objects: Vec<Object>,
    /// Of the first object to the second.
    pub(crate) relation: Option<&'static str>,
    pub(crate) shade: Option<Shade>,
    pub(crate) backdrop: Option<Backdrop>,
}

impl Description {
    /// Reads a caption: what stands between one "a" and the next is an object, or the background after "on a".
    pub(crate) fn read(caption: &str) -> Self {
        let words: Vec<&str> = caption.split_whitespace().map(|word| word.trim_matches([',', '.'])).collect();
        let mut description = Self::default();
        let mut is_background = false;
        for part in words.split(|word| *word == "a").skip(1) {
            if is_background {
                description.shade = description.shade.or(only(part, &Shade::ALL, Shade::text));
                description.backdrop = description.backdrop.or(only(part, &Backdrop::ALL, Backdrop::text));
            } else {
                let relation = RELATIONS.into_iter().find(|relation| ends_with(part, relation));
                if description.objects.is_empty() {
                    description.relation = relation;
                }
                description.objects.push(Object {
                    shape: only(part, &Shape::ALL, Shape::text),
                    colour: only(part, &Colour::ALL, Colour::text),
                    texture: only(part, &Texture::ALL, Texture::text),
                    size: only(part, &Size::ALL, Size::text),
                    place: only(part, &Cell::ALL, Cell::text),
                });
            }
            is_background = part.last() == Some(&"on");
        }
        description
    }
}

/// The first of `values` whose words stand in `part`. "on the left left of": a place comes before a relation.
fn only<T: Copy>(part: &[&str], values: &[T], text: fn(T) -> &'static str) -> Option<T> {
    let stands = |value: &&T| {
        let words: Vec<&str> = text(**value).split_whitespace().collect();
        part.windows(words.len()).any(|window| window == words)
    };
    values.iter().find(stands).copied()
}

fn ends_with(part: &[&str], relation: &str) -> bool {
    let words: Vec<&str> = relation.split_whitespace().collect();
    part.ends_with(&words)
}

/// The kinds of attributes, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Colour,
    Shape,
    Size,
    Texture,
    Place,
    Relation,
    Shade,
    Backdrop,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Colour,
        Self::Shape,
        Self::Size,
        Self::Texture,
        Self::Place,
        Self::Relation,
        Self::Shade,
        Self::Backdrop,
    ];

    /// Its column in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Texture => "texture",
            Self::Place => "place",
            Self::Relation => "relation",
            Self::Shade => "background",
            Self::Backdrop => "its kind",
        }
    }
}

/// Attributes that were right, of all that the truth has, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally([[u32; 2]; Kind::ALL.len()]);

impl Tally {
    /// Counts an attribute.
    pub(crate) fn add(&mut self, kind: Kind, is_right: bool) {
        let [right, all] = &mut self.0[kind as usize];
        *right += u32::from(is_right);
        *all += 1;
    }

    /// Counts all of another.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *own += other;
        }
    }

    /// The share that was right, of a kind that occurred.
    pub(crate) fn share(&self, kind: Kind) -> Option<f64> {
        share(self.0[kind as usize])
    }

    /// The share of all attributes.
    pub(crate) fn overall(&self) -> Option<f64> {
        let sum = |i| self.0.iter().map(|counts| counts[i]).sum();
        share([sum(0), sum(1)])
    }

    fn right(&self) -> u32 {
        self.0.iter().map(|[right, _]| right).sum()
    }
}

fn share([right, all]: [u32; 2]) -> Option<f64> {
    (all > 0).then(|| f64::from(right) / f64::from(all))
}

/// How much of `truth` stands in `said`. Objects are paired so that most is right; an object without a partner is wrong in
/// every attribute. What `said` has besides costs nothing here: captions end, and an image has room for one object a cell.
pub(crate) fn compare(truth: &Description, said: &Description) -> Tally {
    let mut best: Option<Tally> = None;
    for pairs in pairings(truth.objects.len(), said.objects.len()) {
        let mut tally = Tally::default();
        for (object, partner) in truth.objects.iter().zip(pairs) {
            add_object(&mut tally, object, partner.map(|partner| &said.objects[partner]));
        }
        if best.is_none_or(|best| tally.right() > best.right()) {
            best = Some(tally);
        }
    }
    let mut tally = best.unwrap_or_default();
    if truth.relation.is_some() {
        tally.add(Kind::Relation, said.relation == truth.relation);
    }
    tally.add(Kind::Shade, said.shade == truth.shade);
    tally.add(Kind::Backdrop, said.backdrop == truth.backdrop);
    tally
}

fn add_object(tally: &mut Tally, truth: &Object, said: Option<&Object>) {
    let said = said.copied().unwrap_or_default();
    tally.add(Kind::Colour, said.colour.is_some() && said.colour == truth.colour);
    tally.add(Kind::Shape, said.shape.is_some() && said.shape == truth.shape);
    tally.add(Kind::Size, said.size.is_some() && said.size == truth.size);
    tally.add(Kind::Texture, said.texture.is_some() && said.texture == truth.texture);
    tally.add(Kind::Place, said.place.is_some() && said.place == truth.place);
}

/// Every way to give `count` objects different partners below `partners`, or none where there are too few.
fn pairings(count: usize, partners: usize) -> Vec<Vec<Option<usize>>> {
    let mut ways = vec![Vec::new()];
    for _ in 0..count {
        let longer = ways.into_iter().flat_map(|way: Vec<Option<usize>>| {
            let free: Vec<usize> = (0..partners).filter(|partner| !way.contains(&Some(*partner))).collect();
            let none = (free.is_empty() || count > partners).then_some(None);
            let next: Vec<Option<usize>> = free.into_iter().map(Some).chain(none).collect();
            next.into_iter().map(move |partner| way.iter().copied().chain([partner]).collect())
        });
        ways = longer.collect();
    }
    ways
}

#[cfg(test)]
mod tests {
    use seed_core::scenes::{Scene, Split};

    use super::*;

    #[test]
    fn captions_are_read_back_to_their_scenes() {
        for index in 0..300 {
            let scene = Scene::sample(3, index, Split::HeldOut);
            let read = Description::read(&scene.caption());
            let objects: Vec<Object> = scene
                .objects()
                .iter()
                .map(|object| Object {
                    shape: Some(object.shape),
                    colour: Some(object.colour),
                    texture: Some(object.texture),
                    size: Some(object.size),
                    place: Some(object.cell),
                })
                .collect();
            assert_eq!(read.objects, objects, "{}", scene.caption());
            assert_eq!(
                (read.shade, read.backdrop),
                (Some(scene.background().shade), Some(scene.background().backdrop))
            );
            assert_eq!(read.relation.is_some(), objects.len() > 1);
            assert_eq!(compare(&read, &read).overall(), Some(1.0));
        }
    }

    #[test]
    fn what_is_wrong_or_missing_counts() {
        let truth = Description::read(
            "a small red plain circle on the left, left of a large blue striped ring in the centre, on a flat teal background",
        );
        assert_eq!(truth.relation, Some("left of"));
        // The objects exchanged, one colour wrong, the relation and the background missing.
        let said = Description::read("a large green striped ring in the centre, a small red plain circle on the left");
        let tally = compare(&truth, &said);
        assert_eq!(tally.share(Kind::Colour), Some(0.5));
        assert_eq!(tally.share(Kind::Shape), Some(1.0));
        assert_eq!(tally.share(Kind::Relation), Some(0.0));
        assert_eq!(tally.overall(), Some(9.0 / 13.0));
        // Nothing is said at all.
        assert_eq!(compare(&truth, &Description::read("")).overall(), Some(0.0));
        // One object for two: the one that fits best is its partner.
        let one = Description::read("a large blue striped ring in the centre, on a flat teal background");
        assert_eq!(compare(&truth, &one).share(Kind::Place), Some(0.5));
        assert_eq!(compare(&truth, &one).overall(), Some(7.0 / 13.0));
    }

    #[test]
    fn senseless_captions_are_read() {
        for caption in ["a", "a a a", "on a", "the of left", "a red red blue circle on the", "a on a a teal"] {
            let _ = compare(&Description::read(caption), &Description::read(caption));
        }
    }
}
