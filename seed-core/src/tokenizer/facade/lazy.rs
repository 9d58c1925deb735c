//! A value that is made when it is first needed.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::Result;

/// A part that is read when it is first needed, once. A failure is not kept: the next call tries again.
#[derive(Debug)]
pub(super) struct Lazy<T> {
    value: OnceLock<T>,
    loading: Mutex<()>,
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self { value: OnceLock::new(), loading: Mutex::new(()) }
    }
}

impl<T> Lazy<T> {
    pub(super) fn get(&self, load: impl FnOnce() -> Result<T>) -> Result<&T> {
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner); // it guards no data
        match self.value.get() {
            Some(value) => Ok(value),
            None => {
                let value = load()?;
                Ok(self.value.get_or_init(|| value))
            }
        }
    }
}
