//! The rules of periods: which row decides, along a lineage, and what a change does to the rows.

use crate::store::{Period, Result, StoreError};
use crate::types::{BranchId, Lineage, Segment, Seq};

/// The point at which a segment is read: the present is just before infinity, so that one test
/// (`from <= cut < to`) serves it too.
pub(super) fn cut(segment: &Segment) -> Seq {
    segment.cut.min(Seq(Seq::MAX.0 - 1))
}

/// Tells whether a period contains a point.
pub(super) fn contains(period: &Period, at: Seq) -> bool {
    period.from <= at && at < period.to
}

/// How a seek for the newest row of a key is to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seek {
    /// On exactly this branch, `valid_from <= cut`.
    Exact,
    /// `(branch, valid_from) <= (this branch, cut)`: skips branches that do not hold the key.
    Below,
}

fn descends(lineage: &Lineage) -> bool {
    lineage.0.windows(2).all(|pair| matches!(pair, [a, b] if a.branch > b.branch))
}

/// Finds the row that decides a key; `None` where the key is absent.
///
/// A child's number is greater than its parent's, so the branches of a lineage descend, and one
/// seek below (branch, cut) finds the next branch that holds the key at all. Where a lineage does
/// not descend, each segment is asked.
pub(super) fn decide<T>(
    lineage: &Lineage,
    mut seek: impl FnMut(Seek, BranchId, Seq) -> Result<Option<(Period, Option<T>)>>,
) -> Result<Option<T>> {
    let segments = &lineage.0;
    if segments.len() < 2 || !descends(lineage) {
        for segment in segments.iter() {
            let at = cut(segment);
            if let Some((period, row)) = seek(Seek::Exact, segment.branch, at)? {
                return Ok(if contains(&period, at) { row } else { None });
            }
        }
        return Ok(None);
    }
    let mut rest = segments.iter().peekable();
    while let Some(segment) = rest.peek() {
        let (branch, at) = (segment.branch, cut(segment));
        let Some((period, row)) = seek(Seek::Below, branch, at)? else { return Ok(None) };
        if (period.branch, period.from) > (branch, at) {
            return Err(StoreError::Corrupt(format!("a row of branch {} is out of order", period.branch)));
        }
        while rest.next_if(|segment| segment.branch > period.branch).is_some() {}
        if let Some(segment) = rest.peek()
            && segment.branch == period.branch
            && period.from <= cut(segment)
        {
            return Ok(if contains(&period, cut(segment)) { row } else { None });
        }
    }
    Ok(None)
}

/// A lineage indexed by branch, for scans that meet rows of any branch.
pub(super) struct Cuts {
    /// (branch, rank in the lineage, cut), sorted.
    segments: Vec<(BranchId, usize, Seq)>,
}

impl Cuts {
    pub(super) fn new(lineage: &Lineage) -> Cuts {
        let mut segments: Vec<_> =
            lineage.0.iter().enumerate().map(|(rank, segment)| (segment.branch, rank, cut(segment))).collect();
        segments.sort_unstable();
        Cuts { segments }
    }

    fn of(&self, branch: BranchId) -> impl Iterator<Item = &(BranchId, usize, Seq)> {
        let start = self.segments.partition_point(|(other, ..)| *other < branch);
        self.segments.iter().skip(start).take_while(move |(other, ..)| *other == branch)
    }

    /// Tells whether a row begins within the lineage.
    pub(super) fn holds(&self, period: &Period) -> bool {
        self.of(period.branch).any(|(_, _, cut)| period.from <= *cut)
    }

    /// Tells whether a row's period contains the cut of a segment of its branch.
    pub(super) fn shows(&self, period: &Period) -> bool {
        self.of(period.branch).any(|(_, _, cut)| contains(period, *cut))
    }
}

/// Collects the rows of one key, in any order, and keeps the one that decides.
pub(super) struct Decider<T> {
    best: Option<(usize, Period, Seq, T)>,
}

impl<T> Decider<T> {
    pub(super) fn new() -> Decider<T> {
        Decider { best: None }
    }

    /// Takes a row into account.
    pub(super) fn offer(&mut self, cuts: &Cuts, period: Period, row: T) {
        let mut place = None;
        for (_, rank, cut) in cuts.of(period.branch) {
            if period.from <= *cut && place.is_none_or(|(best, _)| *rank < best) {
                place = Some((*rank, *cut));
            }
        }
        let Some((rank, cut)) = place else { return };
        let better = match &self.best {
            None => true,
            Some((best, other, ..)) => rank < *best || (rank == *best && period.from > other.from),
        };
        if better {
            self.best = Some((rank, period, cut, row));
        }
    }

    /// Returns the deciding row where its period contains the cut.
    pub(super) fn finish(self) -> Option<T> {
        self.best.and_then(|(_, period, cut, row)| contains(&period, cut).then_some(row))
    }
}

/// What a change does to the rows of its key on its branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: what is to end is not there.
    Nothing,
    /// A row begins.
    Begin,
    /// The present row, which begins at this point, ends.
    Close(Seq),
    /// The present row, which begins at this point, ends, and another begins.
    CloseAndBegin(Seq),
    /// The present row begins at the same point and is replaced.
    Replace,
    /// The present row begins at the same point and goes without a trace.
    Remove,
}

/// Decides what a change at `at` does, given the newest row of the key on the branch, (from, to).
///
/// On a branch with a parent every end is a tombstone that begins, so that from its first touch on
/// a key's periods have no gap there; on the first branch an end only closes.
pub(super) fn change(newest: Option<(Seq, Seq)>, at: Seq, gone: bool, has_parent: bool) -> Result<Change> {
    let begins = !gone || has_parent;
    Ok(match newest {
        Some((from, Seq::MAX)) if from < at => {
            if begins {
                Change::CloseAndBegin(from)
            } else {
                Change::Close(from)
            }
        }
        Some((from, Seq::MAX)) if from == at => {
            if begins {
                Change::Replace
            } else {
                Change::Remove
            }
        }
        Some((_, to)) if to <= at => {
            if begins {
                Change::Begin
            } else {
                Change::Nothing
            }
        }
        None => {
            if begins {
                Change::Begin
            } else {
                Change::Nothing
            }
        }
        Some((from, to)) => {
            return Err(StoreError::Conflict(format!("a change at e{at} under a row of [e{from}, e{to})")));
        }
    })
}
