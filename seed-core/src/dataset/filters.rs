//! What users leave out of a dataset.

use serde::{Deserialize, Serialize};

use super::{Schema, Value};
use crate::error::{Error, Result};

/// What an input must be to become a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filters {
    /// Least width and height, in pixels.
    pub min_side: Option<u32>,
    /// Most that the longer side is of the shorter.
    pub max_aspect: Option<f64>,
    /// Least value of a column, such as the similarity of image and caption.
    pub min_value: Option<(String, f64)>,
}

impl Filters {
    /// Holds when the samples have what is asked for.
    pub(super) fn check(&self, schema: &Schema) -> Result<()> {
        if let Some(aspect) = self.max_aspect.filter(|aspect| aspect.is_nan() || *aspect < 1.0) {
            let reason = "it is the longer side divided by the shorter, 1 or more".to_owned();
            return Err(Error::Argument { name: "aspect", value: aspect.to_string(), reason });
        }
        match &self.min_value {
            Some((name, _)) if !schema.columns.iter().any(|column| column.name == *name) => {
                let known = schema.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
                let reason = format!("the columns that travel along are: {known}; add it with --columns");
                Err(Error::Argument { name: "similarity column", value: name.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Whether the values are let through; the reason if not.
    pub(super) fn admit_values(&self, schema: &Schema, values: &[Value]) -> Result<(), String> {
        let Some((name, least)) = &self.min_value else { return Ok(()) };
        let column = schema.columns.iter().position(|column| column.name == *name);
        match column.and_then(|column| values[column].as_number()) {
            Some(value) if value >= *least => Ok(()),
            Some(value) => Err(format!("{name} is {value}, below {least}")),
            None => Err(format!("{name} is missing, where at least {least} is asked for")),
        }
    }

    /// Whether an image of this size is let through; the reason if not.
    pub(super) fn admit_size(&self, width: u32, height: u32) -> Result<(), String> {
        let (short, long) = (width.min(height), width.max(height));
        if let Some(least) = self.min_side.filter(|&least| short < least) {
            return Err(format!("it is {width} x {height} pixels, a side is below {least}"));
        }
        match self.max_aspect.filter(|most| f64::from(long) > most * f64::from(short)) {
            Some(most) => Err(format!("it is {width} x {height} pixels, longer than {most} to 1")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_at_the_limits_pass() {
        let filters = Filters { min_side: Some(10), max_aspect: Some(2.0), min_value: None };
        assert!(filters.admit_size(10, 20).is_ok() && filters.admit_size(20, 10).is_ok());
        assert!(filters.admit_size(9, 9).unwrap_err().contains("below 10"));
        assert!(filters.admit_size(10, 21).unwrap_err().contains("2 to 1"));
    }
}
