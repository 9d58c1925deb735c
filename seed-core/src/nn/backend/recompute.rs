//! How an operation is recorded for its gradient; and gradient checkpointing (arXiv 1604.06174), in which results are not
//! kept for gradients but computed again when one asks for them.
//!
//! burn records an operation as bound by memory, with a way to compute it again from its parents, or as bound by computation,
//! whose result is kept. Its own switch between the two is a part of the backend's type and concerns cheap operations. Here
//! it is one of the thread, and concerns the layers: what stays of a transformer's block are the sums with its residuals.
//! Computed again are the same values, so that gradients do not depend on the switch, to the bit.

use std::{cell::Cell, fmt};

use burn::{
    backend::{
        Autodiff,
        autodiff::{
            NodeId,
            checkpoint::{
                retro_forward::RetroForward,
                state::BackwardStates,
                strategy::{BalancedCheckpointing, CheckpointStrategy},
            },
            ops::{Backward, ComputePropertyDone, OpsKind, OpsPrep},
        },
    },
    tensor::ops::FloatTensor,
};

use super::SeedBackend;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Whether what this thread computes will be computed again for its gradients.
pub(crate) fn recomputes() -> bool {
    ON.get()
}

/// Calls `work`, whose results on this thread will be computed again for their gradients, or are kept.
pub(crate) fn recomputing<T>(on: bool, work: impl FnOnce() -> T) -> T {
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }

    let _before = Before(ON.replace(on));
    work()
}

/// A tensor of the graph: the same whatever burn's switch says.
pub(super) type Node<B> = FloatTensor<Autodiff<B>>;

/// What `compute` makes of `parents`, recorded as `operation`. Its gradient may retrieve the values of `kept`, each once for
/// each time that it is named.
pub(super) fn record<B, C, O, F, const N: usize>(
    operation: O,
    parents: [Node<B>; N],
    kept: &[&Node<B>],
    state: O::State,
    compute: F,
) -> Node<B>
where
    B: SeedBackend,
    C: CheckpointStrategy,
    O: Backward<B, N>,
    F: Fn([FloatTensor<B>; N]) -> FloatTensor<B> + Send + 'static,
{
    let output = compute(parents.each_ref().map(|parent| parent.primitive.clone()));
    let nodes = parents.each_ref().map(|parent| parent.node.clone());
    let learning: Vec<&Node<B>> = parents.iter().filter(|parent| parent.is_tracked()).collect();
    if !recomputes() || learning.is_empty() {
        return finish(operation.prepare::<C>(nodes).compute_bound(), kept, state, output);
    }
    let source = |parent: &Node<B>| match parent.is_tracked() {
        true => Source::Node(parent.node.id),
        false => Source::Value(parent.primitive.clone()),
    };
    let again = Again { parents: parents.each_ref().map(source), compute };
    let prep = operation.prepare::<BalancedCheckpointing>(nodes).memory_bound().retro_forward(again);
    finish(prep.parents(learning), kept, state, output)
}

fn finish<B: SeedBackend, C: CheckpointStrategy, O: Backward<B, N>, const N: usize>(
    prep: OpsPrep<O, B, O::State, C, N, ComputePropertyDone>,
    kept: &[&Node<B>],
    state: O::State,
    output: FloatTensor<B>,
) -> Node<B> {
    match prep.stateful() {
        OpsKind::Tracked(mut prep) => {
            for tensor in kept {
                prep.checkpoint(tensor);
            }
            prep.finish(state, output)
        }
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// Where the value of an operation's parent comes from.
enum Source<P> {
    /// The graph.
    Node(NodeId),
    /// It is no part of the graph.
    Value(P),
}

/// Computes an operation again.
struct Again<P, F, const N: usize> {
    parents: [Source<P>; N],
    compute: F,
}

impl<P, F, const N: usize> fmt::Debug for Again<P, F, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

impl<P, F, const N: usize> RetroForward for Again<P, F, N>
where
    P: Clone + Send + 'static,
    F: Fn([P; N]) -> P + Send + 'static,
{
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let parents = self.parents.each_ref().map(|parent| match parent {
            Source::Node(node) => states.get_state::<P>(node),
            Source::Value(value) => value.clone(),
        });
        states.save(out_node, (self.compute)(parents));
    }
}
