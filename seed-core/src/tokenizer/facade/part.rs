//! How large the parts of a model are.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};

/// A part of a model and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the part is.
    pub name: &'static str,
    /// Number of its weights.
    pub parameters: usize,
    /// Bytes that they take in memory.
    pub bytes: u64,
}

impl Part {
    /// Counts a module's weights.
    pub(super) fn of<B: Backend>(name: &'static str, module: &impl Module<B>) -> Self {
        Self { name, parameters: 0, bytes: 0 }.and(module)
    }

    /// Adds those of another module.
    pub(super) fn and<B: Backend>(mut self, module: &impl Module<B>) -> Self {
        module.visit(&mut self);
        self
    }
}

impl<B: Backend> ModuleVisitor<B> for Part {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let weights = param.val();
        let count = weights.shape().num_elements();
        self.parameters += count;
        self.bytes += (count * weights.dtype().size()) as u64;
    }
}
