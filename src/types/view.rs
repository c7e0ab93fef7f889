//! Views: which state of which branch an operation works on.

use std::sync::Arc;

use super::{BranchId, Seq};

/// When: the growing end of a branch, or a fixed point of its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// The present; the only writable kind.
    Live,
    /// The state just after this event.
    AsOf(Seq),
}

/// A tree that can be looked at: a branch (transactions are hidden branches) at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which line of history.
    pub branch: BranchId,
    /// Which point of it.
    pub at: At,
}

impl View {
    /// The present of a branch.
    pub fn live(branch: BranchId) -> View {
        View { branch, at: At::Live }
    }

    /// A branch's state just after an event.
    pub fn as_of(branch: BranchId, seq: Seq) -> View {
        View { branch, at: At::AsOf(seq) }
    }
}

/// One branch's part in a lineage: its rows count up to `cut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The branch whose rows are read.
    pub branch: BranchId,
    /// The last event that is visible; [`Seq::MAX`] for the present.
    pub cut: Seq,
}

/// The branches that make up a view, from the view's own branch to the root branch.
///
/// Cuts never grow along it: each ancestor is seen as of the smallest fork point passed so far.
/// A key is decided by the first segment that has a row for it with `valid_from <= cut`: by the row
/// with the greatest such `valid_from`; a row that was closed at or before the cut, or a tombstone,
/// means that the key is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage(pub Arc<[Segment]>);

impl Lineage {
    /// Returns the view's own segment.
    pub fn own(&self) -> Segment {
        self.0.first().copied().unwrap_or(Segment { branch: BranchId::MAIN, cut: Seq::ZERO })
    }
}
