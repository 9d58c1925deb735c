//! What travels from a source to a sink: samples of images and texts, and the rows that they become.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How many images a sample holds, and whether texts stand between them. The same for all samples of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Exactly one image.
    One,
    /// Any number of images, in order.
    Several,
    /// Images and texts in reading order, as in a document.
    Interleaved,
}

/// Type of a column's values; every value may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Text, or anything else as JSON.
    Text,
    /// Whole numbers of 64 bits.
    Integer,
    /// Numbers of 64 bits.
    Float,
    /// True or false.
    Boolean,
}

/// A column that travels along: a caption or metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in source and sink.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}

impl Column {
    /// A column of text.
    pub fn text(name: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Text }
    }
}

/// `NAME` or `NAME:TYPE`.
impl std::str::FromStr for Column {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, kind) = text.rsplit_once(':').unwrap_or((text, "text"));
        let kind = match kind {
            "text" => Kind::Text,
            "int" => Kind::Integer,
            "float" => Kind::Float,
            "bool" => Kind::Boolean,
            _ => {
                let reason = "a column is NAME or NAME:TYPE, the types are text, int, float and bool".to_owned();
                return Err(Error::Argument { name: "column", value: text.to_owned(), reason });
            }
        };
        Ok(Self { name: name.to_owned(), kind })
    }
}

/// One value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// There is none.
    Missing,
    /// Of [`Kind::Text`].
    Text(String),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Float`].
    Float(f64),
    /// Of [`Kind::Boolean`].
    Boolean(bool),
}

impl Value {
    /// A value of JSON as one of a column of type `kind`.
    ///
    /// # Errors
    /// What it is instead.
    pub fn from_json(json: &serde_json::Value, kind: Kind) -> Result<Self, String> {
        use serde_json::Value as Json;
        let wrong = |wanted: &str| Err(format!("is {json}, not {wanted}"));
        Ok(match (kind, json) {
            (_, Json::Null) => Self::Missing,
            (Kind::Text, Json::String(text)) => Self::Text(text.clone()),
            (Kind::Text, other) => Self::Text(other.to_string()),
            (Kind::Integer, number) => match number.as_i64() {
                Some(number) => Self::Integer(number),
                None => return wrong("a whole number"),
            },
            (Kind::Float, number) => match number.as_f64() {
                Some(number) => Self::Float(number),
                None => return wrong("a number"),
            },
            (Kind::Boolean, value) => match value.as_bool() {
                Some(value) => Self::Boolean(value),
                None => return wrong("true or false"),
            },
        })
    }

    /// A text, as CSV files hold it, as a value of type `kind`; empty is missing.
    ///
    /// # Errors
    /// What it is instead.
    pub fn from_text(text: &str, kind: Kind) -> Result<Self, String> {
        let wrong = |wanted: &str| format!("is {text:?}, not {wanted}");
        Ok(match kind {
            _ if text.is_empty() => Self::Missing,
            Kind::Text => Self::Text(text.to_owned()),
            Kind::Integer => Self::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
            Kind::Float => Self::Float(text.parse().map_err(|_| wrong("a number"))?),
            Kind::Boolean => Self::Boolean(text.to_lowercase().parse().map_err(|_| wrong("true or false"))?),
        })
    }

    /// As JSON; a number that JSON cannot say is null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Missing => serde_json::Value::Null,
            Self::Text(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Boolean(value) => (*value).into(),
        }
    }

    /// As a number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            Self::Missing | Self::Boolean(_) => None,
        }
    }
}

/// What the samples of a source look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Images of a sample.
    pub layout: Layout,
    /// What travels along, in order.
    pub columns: Vec<Column>,
}

/// Where the bytes of an image are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file, which is read when the image is decoded.
    File(PathBuf),
    /// Nowhere, for this reason.
    Missing(String),
}

/// A part of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<I> {
    /// An image, or its codes.
    Image(I),
    /// A text beside images.
    Text(String),
}

/// One sample as a source gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Tells it from others of the source.
    pub key: String,
    /// Its images and texts, as the schema's layout allows.
    pub pieces: Vec<Piece<Image>>,
    /// Values of the schema's columns.
    pub values: Vec<Value>,
}

/// One sample as a sink gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// As the sample's.
    pub key: String,
    /// The codes of its images, and its texts.
    pub pieces: Vec<Piece<Vec<u16>>>,
    /// As the sample's.
    pub values: Vec<Value>,
}

impl Row {
    /// The codes of each image.
    pub fn codes(&self) -> impl Iterator<Item = &[u16]> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Image(codes) => Some(codes.as_slice()),
            Piece::Text(_) => None,
        })
    }
}

/// Why an input is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It could not be read.
    Failed,
    /// The user's filters leave it out.
    Filtered,
}

/// A line of the failure record: an input that is no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its key, or what is known of it.
    pub key: String,
    /// Whether it failed or was left out.
    pub why: Why,
    /// The reason in words.
    pub reason: String,
}

impl Skipped {
    /// A failure.
    pub fn failed(key: impl Into<String>, reason: impl ToString) -> Self {
        Self { key: key.into(), why: Why::Failed, reason: reason.to_string() }
    }
}
