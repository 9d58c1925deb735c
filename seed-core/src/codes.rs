//! Codes: the tokens of a batch of images, `[batch, 32]` of `u16`, validated against the codebook. Plain data, no tensors.

use crate::error::{Error, Result};

/// Codes of a batch of images, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    values: Vec<u16>,
    tokens: usize,
    codebook_size: usize,
}

impl Codes {
    /// Checks and wraps rows of codes.
    ///
    /// # Errors
    /// [`Error::CodeCount`] for a row that does not hold exactly `tokens` codes, [`Error::CodeOutOfRange`] for a code
    /// that is not below `codebook_size`.
    pub fn from_rows<I, R, C>(rows: I, tokens: usize, codebook_size: usize) -> Result<Self>
    where
        I: IntoIterator<Item = R>,
        R: AsRef<[C]>,
        C: Copy + Into<u64>,
    {
        let mut values = Vec::new();
        for (image, row) in rows.into_iter().enumerate() {
            let row = row.as_ref();
            if row.len() != tokens {
                return Err(Error::CodeCount { image, found: row.len(), expected: tokens });
            }
            for (position, &code) in row.iter().enumerate() {
                let code: u64 = code.into();
                match u16::try_from(code) {
                    Ok(value) if usize::from(value) < codebook_size => values.push(value),
                    _ => return Err(Error::CodeOutOfRange { image, position, code, codebook_size }),
                }
            }
        }
        Ok(Self { values, tokens, codebook_size })
    }

    /// Number of images.
    pub fn batch(&self) -> usize {
        self.values.len().checked_div(self.tokens).unwrap_or(0)
    }

    /// Codes of one image; 32 in every released model.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rows of the codebook; every code is below it.
    pub fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    /// The codes of each image in turn.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u16]> {
        self.values.chunks_exact(self.tokens.max(1))
    }

    /// All codes, image after image, `[batch * tokens]`.
    pub fn as_slice(&self) -> &[u16] {
        &self.values
    }

    /// A number for each image that follows from its codes alone, which decoding draws its noise under: FNV-1a (64 bits)
    /// of the codes as little-endian bytes.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = u64> {
        self.rows().map(|row| {
            let bytes = row.iter().flat_map(|code| code.to_le_bytes());
            bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        })
    }

    /// The images `range`, as codes of their own.
    ///
    /// # Panics
    /// When `range` exceeds the batch.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let values = self.values[range.start * self.tokens..range.end * self.tokens].to_vec();
        Self { values, ..*self }
    }
}

/// One image's codes as text: decimal numbers with single spaces.
pub fn to_text(row: &[u16]) -> String {
    let mut text = String::with_capacity(row.len() * 5);
    for (i, code) in row.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(&code.to_string());
    }
    text
}

/// Reads what [`to_text`] writes; any run of spaces or commas separates.
///
/// # Errors
/// [`Error::CodesText`] for anything that is not a non-negative number. Count and range are for [`Codes::from_rows`].
pub fn from_text(text: &str) -> Result<Vec<u64>> {
    let fail = |word: &str| Error::CodesText {
        text: text.chars().take(60).collect(),
        reason: format!("{word:?} is not a code; expected numbers separated by spaces"),
    };
    text.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().map_err(|_| fail(word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_count_and_range_are_named() {
        let short = Codes::from_rows([vec![1u16; 31]], 32, 256).unwrap_err().to_string();
        assert!(short.contains("31 codes where 32"), "{short}");
        let high = Codes::from_rows([vec![256u16; 32]], 32, 256).unwrap_err().to_string();
        assert!(high.contains("code 256 at position 0 of image 0") && high.contains("0 to 255"), "{high}");
        let huge = Codes::from_rows([vec![u64::MAX; 32]], 32, 65536).unwrap_err().to_string();
        assert!(huge.contains("18446744073709551615"), "{huge}");
    }

    #[test]
    fn streams_follow_from_the_codes_alone() {
        let codes = Codes::from_rows([[0u16, 1], [1, 0], [0, 1]], 2, 8).unwrap();
        let streams: Vec<u64> = codes.streams().collect();
        assert_eq!(streams[0], streams[2]);
        assert_ne!(streams[0], streams[1]);
        // FNV-1a of the bytes 0, 0, 1, 0.
        assert_eq!(streams[0], 0x4d22_107f_9dcb_30cc);
    }

    proptest! {
        #[test]
        fn text_round_trips(row in proptest::collection::vec(any::<u16>(), 0..70)) {
            let wide: Vec<u64> = row.iter().map(|&c| u64::from(c)).collect();
            prop_assert_eq!(from_text(&to_text(&row)).unwrap(), wide);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = from_text(&text);
        }
    }
}
