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
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// As burn calls it.
    pub(crate) fn element(self) -> burn::tensor::DType {
        match self {
            Self::F32 => burn::tensor::DType::F32,
            Self::F16 => burn::tensor::DType::F16,
            Self::BF16 => burn::tensor::DType::BF16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
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
            reason: "the dtypes are f32, f16 and bf16".to_owned(),
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
