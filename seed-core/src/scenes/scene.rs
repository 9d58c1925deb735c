//! What a scene can be, and which one belongs to a seed and an index: `(seed, index, split) -> Scene`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// An attribute: its values, in canonical order, and the words that captions use for them.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = concat!("In captions: \"", $text, "\".")] $value,)+
        }

        impl $name {
            /// Every value, in canonical order.
            pub const ALL: [$name; [$($text),+].len()] = [$($name::$value),+];

            /// How captions say it.
            pub const fn text(self) -> &'static str {
                match self { $($name::$value => $text,)+ }
            }
        }
    };
}

attribute! {
    /// Outline of an object.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle", Diamond = "diamond", Cross = "cross", Ring = "ring" }
}
attribute! {
    /// Colour of an object.
    Colour {
        Red = "red", Green = "green", Blue = "blue", Yellow = "yellow",
        Purple = "purple", Orange = "orange", White = "white", Black = "black",
    }
}
attribute! {
    /// Size of an object.
    Size { Small = "small", Large = "large" }
}
attribute! {
    /// Surface of an object: its colour alone, or with a second shade of it.
    Texture { Plain = "plain", Striped = "striped", Dotted = "dotted" }
}
attribute! {
    /// Place of an object on the 3 x 3 grid, in reading order.
    Cell {
        TopLeft = "in the top left", Top = "at the top", TopRight = "in the top right",
        Left = "on the left", Centre = "in the centre", Right = "on the right",
        BottomLeft = "in the bottom left", Bottom = "at the bottom", BottomRight = "in the bottom right",
    }
}
attribute! {
    /// Colour of a background; none is close to an object's colour.
    Shade { Grey = "grey", Pink = "pink", Teal = "teal", Brown = "brown", Navy = "navy", Tan = "tan" }
}
attribute! {
    /// Kind of a background: one colour, or that colour from light at the top to dark at the bottom.
    Backdrop { Flat = "flat", Gradient = "gradient" }
}

impl Cell {
    /// Column (0 is left) and row (0 is the top).
    pub const fn column_row(self) -> (u8, u8) {
        (self as u8 % 3, self as u8 / 3)
    }
}

/// Which part of the world a scene belongs to; a scene belongs to exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Seven of eight scenes.
    Train,
    /// One of eight scenes.
    HeldOut,
}

/// Offset of an object from the middle of its cell, in units of 1/256 of the image's side: the only part of a scene
/// that its caption leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Jitter {
    /// To the right, from `-Jitter::MAX` to `Jitter::MAX`.
    pub x: i8,
    /// Downwards, from `-Jitter::MAX` to `Jitter::MAX`.
    pub y: i8,
}

impl Jitter {
    /// Largest offset: about 1.6 % of the side, the most that keeps large objects of neighbouring cells apart.
    pub const MAX: i8 = 4;
}

/// One object. The order of the fields is the canonical order of the objects of a scene: the cell comes late, so that
/// the first object of a caption may lie anywhere and all four relations occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Object {
    /// Its outline.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its surface.
    pub texture: Texture,
    /// Its size.
    pub size: Size,
    /// Its place.
    pub cell: Cell,
    /// Its offset within the place.
    pub jitter: Jitter,
}

/// What lies behind the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Background {
    /// Its colour.
    pub shade: Shade,
    /// Its kind.
    pub backdrop: Backdrop,
}

/// One to three objects in different cells, on a background.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scene {
    /// In canonical order.
    objects: Vec<Object>,
    background: Background,
}

impl Scene {
    /// Most objects that a scene can hold.
    pub const MAX_OBJECTS: usize = 3;

    /// Number of scenes with different captions: two dozen thousand million.
    pub const COUNT: u64 = {
        let looks = (Shape::ALL.len() * Colour::ALL.len() * Texture::ALL.len() * Size::ALL.len()) as u64;
        let cells = Cell::ALL.len() as u64;
        let placements = [cells, cells * (cells - 1) / 2, cells * (cells - 1) * (cells - 2) / 6];
        let backgrounds = (Shade::ALL.len() * Backdrop::ALL.len()) as u64;
        let objects = placements[0] * looks + placements[1] * looks * looks + placements[2] * looks * looks * looks;
        objects * backgrounds
    };

    /// The scene of these objects, which may come in any order.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are one to three objects, in different cells, with offsets within [`Jitter::MAX`].
    pub fn new(objects: Vec<Object>, background: Background) -> Result<Self> {
        if objects.is_empty() || objects.len() > Self::MAX_OBJECTS {
            let reason = format!("a scene holds 1 to {} objects", Self::MAX_OBJECTS);
            return Err(Error::Argument { name: "objects", value: objects.len().to_string(), reason });
        }
        for (i, object) in objects.iter().enumerate() {
            if objects[..i].iter().any(|other| other.cell == object.cell) {
                let reason = "the objects of a scene must lie in different cells".to_owned();
                return Err(Error::Argument { name: "cell", value: object.cell.text().to_owned(), reason });
            }
            let range = -Jitter::MAX..=Jitter::MAX;
            if !range.contains(&object.jitter.x) || !range.contains(&object.jitter.y) {
                let reason = format!("both offsets must be {} to {}", -Jitter::MAX, Jitter::MAX);
                return Err(Error::Argument { name: "jitter", value: format!("{:?}", object.jitter), reason });
            }
        }
        Ok(Self::in_order(objects, background))
    }

    /// The scene number `index` of `split` in the world of `seed`: the same on every platform, and as fast for a large
    /// index as for a small one. Scenes of few objects may come again at another index.
    pub fn sample(seed: u64, index: u64, split: Split) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        loop {
            let scene = Self::draw(&mut rng);
            if scene.split() == split {
                return scene;
            }
        }
    }

    /// A scene that differs from this one in exactly one attribute: colour, shape, size, texture or cell of one object,
    /// or colour or kind of the background. Of an object it is the shape in seven cases of fifteen, because shapes are learned last.
    /// It may belong to the other split.
    pub fn variant(&self, rng: &mut impl Rng) -> Self {
        const PER_OBJECT: usize = 5;
        const SHAPE: usize = 0;
        let Self { mut objects, mut background } = self.clone();
        let slot = below(rng, PER_OBJECT * objects.len() + 2);
        if let Some(object) = objects.get_mut(slot / PER_OBJECT) {
            let attribute = if below(rng, 3) == 0 { SHAPE } else { slot % PER_OBJECT };
            match attribute {
                SHAPE => object.shape = pick_except(rng, &Shape::ALL, &[object.shape]),
                1 => object.colour = pick_except(rng, &Colour::ALL, &[object.colour]),
                2 => object.texture = pick_except(rng, &Texture::ALL, &[object.texture]),
                3 => object.size = pick_except(rng, &Size::ALL, &[object.size]),
                _ => {
                    let taken: Vec<Cell> = self.objects.iter().map(|object| object.cell).collect();
                    object.cell = pick_except(rng, &Cell::ALL, &taken);
                }
            }
        } else if slot == PER_OBJECT * objects.len() {
            background.shade = pick_except(rng, &Shade::ALL, &[background.shade]);
        } else {
            background.backdrop = pick_except(rng, &Backdrop::ALL, &[background.backdrop]);
        }
        Self::in_order(objects, background)
    }

    /// The split, which the caption alone decides.
    pub fn split(&self) -> Split {
        const HELD_OUT_OF: u64 = 8;
        match scramble(fnv1a(self.caption().as_bytes())) % HELD_OUT_OF {
            0 => Split::HeldOut,
            _ => Split::Train,
        }
    }

    /// The objects, in the order of the caption.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The background.
    pub fn background(&self) -> Background {
        self.background
    }

    fn in_order(mut objects: Vec<Object>, background: Background) -> Self {
        objects.sort_unstable();
        Self { objects, background }
    }

    /// Any scene: half of them have two objects, a quarter one, a quarter three.
    fn draw(rng: &mut impl Rng) -> Self {
        let count = pick(rng, &[1, 2, 2, 3]);
        let mut objects = Vec::with_capacity(count);
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let cell = pick_except(rng, &Cell::ALL, &taken);
            taken.push(cell);
            objects.push(Object {
                shape: pick(rng, &Shape::ALL),
                colour: pick(rng, &Colour::ALL),
                texture: pick(rng, &Texture::ALL),
                size: pick(rng, &Size::ALL),
                cell,
                jitter: Jitter { x: offset(rng), y: offset(rng) },
            });
        }
        let background = Background { shade: pick(rng, &Shade::ALL), backdrop: pick(rng, &Backdrop::ALL) };
        Self::in_order(objects, background)
    }
}

/// FNV-1a, 64 bits. Source: Fowler, Noll, Vo, "The FNV Non-Cryptographic Hash Algorithm", IETF draft.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Makes every bit depend on every bit; the low bits of [`fnv1a`] alone see only the low bits of each byte.
/// Source: Appleby, MurmurHash3, `fmix64`.
fn scramble(mut hash: u64) -> u64 {
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// A number below `bound`, from one word of the generator. Written out: `rand` may change what its ranges draw.
fn below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u64::from(rng.next_u32()) * bound as u64) >> 32) as usize
}

fn offset(rng: &mut impl Rng) -> i8 {
    below(rng, 2 * Jitter::MAX as usize + 1) as i8 - Jitter::MAX
}

fn pick<T: Copy>(rng: &mut impl Rng, values: &[T]) -> T {
    values[below(rng, values.len())]
}

/// One of `values` that is none of `except`, which holds fewer.
fn pick_except<T: Copy + PartialEq>(rng: &mut impl Rng, values: &[T], except: &[T]) -> T {
    loop {
        let value = pick(rng, values);
        if !except.contains(&value) {
            return value;
        }
    }
}
