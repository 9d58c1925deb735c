//! The element types of weights, in files and in memory.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Element type of the weights of linear layers and convolutions. In memory everything else is float32 in any case: biases,
/// norms, embeddings, the codebook, and the activations between the layers. On the CPU products are summed in float32 too; a GPU
/// multiplies in the type of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// float32.
    #[default]
    F32,
    /// float16: 11 bits of precision, up to 65504.
    F16,
    /// bfloat16: 8 bits of precision, float32's range.
    BF16,
    /// 8-bit whole numbers with a scale for each output, in memory and on the CPU alone: of those layers that a model names, which
    /// round their activations to 8 bits too, with a scale for each token. The others are bfloat16.
    Int8,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Int8];

    /// Holds when a file can be of this type.
    ///
    /// # Errors
    /// [`Error::Argument`] for those that are in memory alone.
    pub fn check_for_files(self) -> Result<()> {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => Ok(()),
            Self::Int8 => Err(Error::Argument {
                name: "dtype",
                value: self.to_string(),
                reason: "weights are turned into it when they are loaded; files hold f32, f16 or bf16".to_owned(),
            }),
        }
    }

    /// Whether a file of type `stored` holds elements as memory does.
    pub(super) fn is_stored_as(self, stored: safetensors::Dtype) -> bool {
        match self {
            Self::F32 => stored == safetensors::Dtype::F32,
            Self::F16 => stored == safetensors::Dtype::F16,
            Self::BF16 | Self::Int8 => stored == safetensors::Dtype::BF16,
        }
    }

    /// The type of layers that are not in 8 bits where others are.
    pub(crate) fn beside(self) -> Self {
        if self == Self::Int8 { Self::BF16 } else { self }
    }

    /// As burn calls that of [`beside`](Self::beside).
    pub(crate) fn element(self) -> burn::tensor::DType {
        match self {
            Self::F32 => burn::tensor::DType::F32,
            Self::F16 => burn::tensor::DType::F16,
            Self::BF16 | Self::Int8 => burn::tensor::DType::BF16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == text).ok_or_else(|| Error::Argument {
            name: "dtype",
            value: text.to_owned(),
            reason: "the dtypes are f32, f16, bf16 and int8".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert!(DType::ALL.into_iter().all(|dtype| dtype.to_string().parse::<DType>().unwrap() == dtype));
        assert!("f64".parse::<DType>().unwrap_err().to_string().contains("bf16"));
    }
}
