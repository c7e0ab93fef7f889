//! Which points of the past others still look at: what pruning must spare.
//!
//! Beside lineages, tags and views these are merge bases. A merge's source is one as long as two lines that are kept
//! have it in common and nothing later: a branch that was merged and dropped is then nobody's base any more, however
//! often that is done.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::store::{BranchRow, MergeRow};
use crate::types::{BranchId, Segment, Seq};

/// More lines than are compared with each other; past this, every merge's source is spared.
const LINES_MAX: usize = 200;

/// Points at which each branch is looked at by others.
pub(super) type Pins = FxHashMap<BranchId, Vec<Seq>>;

/// Up to where a point has each branch in it.
type Reach = BTreeMap<BranchId, Seq>;

/// How branches hang together.
pub(super) struct Lines<'r> {
    branches: &'r BTreeMap<BranchId, BranchRow>,
    merges: &'r [MergeRow],
    into: BTreeMap<BranchId, Vec<&'r MergeRow>>,
}

impl<'r> Lines<'r> {
    pub(super) fn new(branches: &'r BTreeMap<BranchId, BranchRow>, merges: &'r [MergeRow]) -> Lines<'r> {
        let mut into: BTreeMap<BranchId, Vec<&MergeRow>> = BTreeMap::new();
        for row in merges {
            into.entry(row.target).or_default().push(row);
        }
        Lines { branches, merges, into }
    }

    fn parent(&self, branch: BranchId) -> Option<(BranchId, Seq)> {
        let row = self.branches.get(&branch)?;
        row.parent.filter(|parent| *parent < branch).map(|parent| (parent, row.base))
    }

    /// Pins every segment of a view's lineage; the present needs no pin, its rows are open.
    pub(super) fn pin(&self, pins: &mut Pins, branch: BranchId, at: Seq) {
        let (mut branch, mut cut) = (branch, at);
        loop {
            if cut != Seq::MAX {
                pins.entry(branch).or_default().push(cut);
            }
            let Some((parent, base)) = self.parent(branch) else { return };
            cut = cut.min(base);
            branch = parent;
        }
    }

    /// What a point has in it, as a merge sees it.
    fn reach(&self, branch: BranchId, at: Seq) -> Reach {
        let mut reach = Reach::new();
        let mut work = vec![(branch, at)];
        while let Some((branch, at)) = work.pop() {
            if let Some((parent, base)) = self.parent(branch) {
                work.push((parent, at.min(base)));
                if at <= base {
                    continue; // before its fork a branch is its parent
                }
            }
            if reach.get(&branch).is_some_and(|known| *known >= at) {
                continue;
            }
            reach.insert(branch, at);
            let merged = self.into.get(&branch).into_iter().flatten().filter(|row| row.seq <= at);
            work.extend(merged.map(|row| (row.source, row.source_seq)));
        }
        reach
    }

    /// Pins the bases that a merge of any two of these lines may need: of their heads as of `before`, which whatever
    /// is forked or merged later has in it, and of all that was merged since.
    pub(super) fn pin_bases(&self, pins: &mut Pins, heads: impl Iterator<Item = (BranchId, Seq)>, before: Seq) {
        let recent = self.merges.iter().filter(|row| row.seq > before);
        let mut lines: Vec<(BranchId, Seq)> = heads
            .chain(recent.clone().map(|row| (row.source, row.source_seq)))
            .map(|(b, at)| (b, at.min(before)))
            .collect();
        lines.sort_unstable();
        lines.dedup();
        if lines.len() > LINES_MAX {
            for row in self.merges {
                self.pin(pins, row.source, row.source_seq);
            }
            return;
        }
        for row in recent {
            self.pin(pins, row.source, row.source_seq);
        }
        let reached: Vec<Reach> = lines.iter().map(|(branch, at)| self.reach(*branch, *at)).collect();
        for (n, one) in reached.iter().enumerate() {
            for other in reached.iter().skip(n + 1) {
                self.pin_common(pins, one, other);
            }
        }
    }

    /// Pins what two points have in common and nothing later in common has in it.
    fn pin_common(&self, pins: &mut Pins, one: &Reach, other: &Reach) {
        let mut common: Vec<Segment> = one
            .iter()
            .filter_map(|(branch, at)| Some(Segment { branch: *branch, cut: *at.min(other.get(branch)?) }))
            .collect();
        // What has another in it is later.
        common.sort_unstable_by_key(|point| std::cmp::Reverse((point.cut, point.branch)));
        let (mut covered, mut bases) = (Reach::new(), 0);
        for point in &common {
            if covered.get(&point.branch).is_some_and(|upto| *upto >= point.cut) {
                continue;
            }
            bases += 1;
            self.pin(pins, point.branch, point.cut);
            for (branch, at) in self.reach(point.branch, point.cut) {
                let upto = covered.entry(branch).or_insert(at);
                *upto = at.max(*upto);
            }
        }
        if bases > 1 {
            // A base of several is made by merging them, which has bases of its own.
            let shared = |row: &&MergeRow| {
                [one, other].iter().all(|reach| reach.get(&row.source).is_some_and(|upto| *upto >= row.source_seq))
            };
            for row in self.merges.iter().filter(shared) {
                self.pin(pins, row.source, row.source_seq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    /// Branches as (number, parent, base), 0 without one.
    fn branches(rows: &[(u64, u64, u64)]) -> BTreeMap<BranchId, BranchRow> {
        let row = |(id, parent, base): &(u64, u64, u64)| BranchRow {
            id: BranchId(*id),
            name: None,
            parent: (*parent != 0).then_some(BranchId(*parent)),
            base: Seq(*base),
            created: Seq(*base),
            created_time: Timestamp(0),
            dropped: None,
            uid: 0,
        };
        rows.iter().map(|given| (BranchId(given.0), row(given))).collect()
    }

    fn merges(rows: &[(u64, u64, u64, u64)]) -> Vec<MergeRow> {
        let row = |(target, seq, source, upto): &(u64, u64, u64, u64)| MergeRow {
            target: BranchId(*target),
            seq: Seq(*seq),
            source: BranchId(*source),
            source_seq: Seq(*upto),
        };
        rows.iter().map(row).collect()
    }

    fn pinned(
        branches: &BTreeMap<BranchId, BranchRow>,
        merges: &[MergeRow],
        heads: &[u64],
        before: u64,
    ) -> Vec<(u64, u64)> {
        let mut pins = Pins::default();
        let heads = heads.iter().map(|id| (BranchId(*id), Seq::MAX));
        Lines::new(branches, merges).pin_bases(&mut pins, heads, Seq(before));
        let mut found: Vec<(u64, u64)> =
            pins.iter().flat_map(|(branch, cuts)| cuts.iter().map(|cut| (branch.0, cut.0))).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn a_branch_that_was_merged_and_dropped_is_nobodys_base() {
        let rows = branches(&[(1, 0, 0), (2, 1, 10), (3, 1, 30)]);
        let merged = merges(&[(1, 20, 2, 15), (1, 40, 3, 35)]);
        assert_eq!(pinned(&rows, &merged, &[1], 50), []);
        // Merged a moment ago, it may still be the base of what is forked from before.
        assert_eq!(pinned(&rows, &merged, &[1], 36), [(1, 30), (3, 35)]);
    }

    #[test]
    fn the_last_merge_of_two_lines_is_their_base_and_earlier_ones_are_not() {
        let rows = branches(&[(1, 0, 0), (2, 1, 10)]);
        let merged = merges(&[(1, 20, 2, 15), (1, 40, 2, 35)]);
        assert_eq!(pinned(&rows, &merged, &[1, 2], 50), [(1, 10), (2, 35)]);
    }

    #[test]
    fn two_lines_that_merged_a_third_have_it_as_a_base_though_it_is_dropped() {
        let rows = branches(&[(1, 0, 0), (2, 1, 10), (3, 1, 10)]);
        let merged = merges(&[(1, 20, 3, 15), (2, 21, 3, 15)]);
        assert_eq!(pinned(&rows, &merged, &[1, 2], 50), [(1, 10), (3, 15)]);
    }

    #[test]
    fn criss_cross_merges_keep_all_bases_and_theirs() {
        let rows = branches(&[(1, 0, 0), (2, 1, 10)]);
        let merged = merges(&[(1, 15, 2, 13), (1, 20, 2, 18), (2, 21, 1, 19)]);
        assert_eq!(pinned(&rows, &merged, &[1, 2], 50), [(1, 10), (1, 19), (2, 13), (2, 18)]);
    }
}
