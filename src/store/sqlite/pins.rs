//! Which points of the past others still look at: what pruning must spare.
//!
//! Beside lineages, tags and views these are merge bases. A merge's source is one as long as two lines that are kept
//! have it in common and nothing later: a branch that was merged and dropped is then nobody's base any more, however
//! often that is done.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use crate::store::{BranchRow, MergeRow};
use crate::types::{BranchId, Seq};

/// Points at which each branch is looked at by others.
pub(super) type Pins = FxHashMap<BranchId, Vec<Seq>>;

/// How branches hang together.
pub(super) struct Lines<'r> {
    branches: &'r BTreeMap<BranchId, BranchRow>,
    merges: &'r [MergeRow],
}

/// Something that hands the lines above a point down to it, or takes them up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Joint {
    /// A line ends here.
    Head,
    /// A branch begins here.
    Fork(BranchId),
    /// Here a merge took from.
    Source(usize),
    /// Here a merge wrote to.
    Target(usize),
}

impl<'r> Lines<'r> {
    pub(super) fn new(branches: &'r BTreeMap<BranchId, BranchRow>, merges: &'r [MergeRow]) -> Lines<'r> {
        Lines { branches, merges }
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

    /// The point itself: before its fork a branch is its parent.
    fn place(&self, mut branch: BranchId, at: Seq) -> (Reverse<Seq>, BranchId) {
        while let Some((parent, base)) = self.parent(branch) {
            if at > base {
                break;
            }
            branch = parent;
        }
        (Reverse(at), branch)
    }

    /// Pins the bases that a merge of any two of these lines may need: of their heads as of `before`, which whatever
    /// is forked or merged later has in it, and of all that was merged since.
    ///
    /// It goes back in time once, and knows at each point which lines have it in them. A point is a base of two lines
    /// where no single later point has all the lines that it has. This finds every base, and may find more.
    pub(super) fn pin_bases(&self, pins: &mut Pins, heads: impl Iterator<Item = (BranchId, Seq)>, before: Seq) {
        let recent = self.merges.iter().filter(|row| row.seq > before).map(|row| (row.source, row.source_seq));
        for (source, upto) in recent.clone() {
            self.pin(pins, source, upto);
        }
        let mut points = BTreeMap::<_, BTreeSet<Joint>>::new();
        for (branch, at) in heads.chain(recent) {
            points.entry(self.place(branch, at.min(before))).or_default().insert(Joint::Head);
        }
        for branch in self.branches.keys() {
            if let Some((parent, base)) = self.parent(*branch) {
                points.entry(self.place(parent, base)).or_default().insert(Joint::Fork(*branch));
            }
        }
        for (n, row) in self.merges.iter().enumerate() {
            points.entry(self.place(row.source, row.source_seq)).or_default().insert(Joint::Source(n));
            points.entry(self.place(row.target, row.seq)).or_default().insert(Joint::Target(n));
        }
        let (mut known, mut taken) = (FxHashMap::default(), FxHashMap::default());
        let mut numbers = 0..;
        for ((Reverse(at), branch), joints) in points {
            let mut lines: FixedBitSet = known.remove(&branch).unwrap_or_default();
            let mut most = lines.count_ones(..);
            for joint in &joints {
                let later = match joint {
                    Joint::Head => {
                        lines.extend(numbers.next());
                        None
                    }
                    Joint::Fork(child) => known.remove(child),
                    Joint::Source(merge) => taken.remove(merge),
                    Joint::Target(_) => None,
                };
                if let Some(later) = later {
                    most = most.max(later.count_ones(..));
                    lines.union_with(&later);
                }
            }
            let count = lines.count_ones(..);
            if count > 1 && count > most {
                self.pin(pins, branch, at);
                // Where two lines have several bases, these are merged first, and have bases of their own.
                lines.extend(numbers.next());
            }
            for joint in &joints {
                if let Joint::Target(merge) = joint {
                    taken.insert(*merge, lines.clone());
                }
            }
            known.insert(branch, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    /// A branch: number, parent, base.
    type Fork = (u64, u64, u64);
    /// A merge: target, its event, source, up to which event.
    type Merge = (u64, u64, u64, u64);

    /// Branches as (number, parent, base), 0 without one.
    fn branches(rows: &[Fork]) -> BTreeMap<BranchId, BranchRow> {
        let row = |(id, parent, base): &Fork| BranchRow {
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

    fn merges(rows: &[Merge]) -> Vec<MergeRow> {
        let row = |(target, seq, source, upto): &Merge| MergeRow {
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

    /// A history of `steps` at random: branches come and go, and merge, at most `width` at a time.
    fn history(steps: u64, width: u64, random: &mut impl FnMut(u64) -> u64) -> (Vec<Fork>, Vec<Merge>, Vec<u64>) {
        let (mut rows, mut merged, mut live) = (vec![(1, 0, 0)], Vec::new(), vec![1]);
        for seq in (1..=steps).map(|n| n * 10) {
            let n = live.len() as u64;
            let (one, other) = (live[random(n) as usize], live[random(n) as usize]);
            match random(4) {
                0 if n < width => {
                    let id = rows.len() as u64 + 1;
                    rows.push((id, one, seq - random(8)));
                    live.push(id);
                }
                1 if one != 1 => live.retain(|id| *id != one),
                _ if one != other => merged.push((one, seq, other, seq - 1 - random(5))),
                _ => {}
            }
        }
        (rows, merged, live)
    }

    /// What every pair of lines has in common and nothing later in common has in it, and the bases of these.
    fn bases(lines: &Lines<'_>, points: BTreeSet<(BranchId, Seq)>) -> BTreeSet<(BranchId, Seq)> {
        let reach = |(branch, at): (BranchId, Seq)| {
            let (mut reach, mut work) = (BTreeMap::new(), vec![(branch, at)]);
            while let Some((branch, at)) = work.pop() {
                let (Reverse(at), branch) = lines.place(branch, at);
                if reach.get(&branch).is_some_and(|known| *known >= at) {
                    continue;
                }
                reach.insert(branch, at);
                work.extend(lines.parent(branch));
                let inside = lines.merges.iter().filter(|row| row.target == branch && row.seq <= at);
                work.extend(inside.map(|row| (row.source, row.source_seq)));
            }
            reach
        };
        let (mut work, mut found) = (vec![points], BTreeSet::new());
        while let Some(points) = work.pop() {
            let reached: Vec<_> = points.iter().map(|point| reach(*point)).collect();
            for (n, one) in reached.iter().enumerate() {
                for other in &reached[n + 1..] {
                    let common: Vec<(BranchId, Seq)> =
                        one.iter().filter_map(|(b, at)| Some((*b, *at.min(other.get(b)?)))).collect();
                    let inside = |inner: &(BranchId, Seq), outer: &(BranchId, Seq)| {
                        inner != outer && reach(*outer).get(&inner.0).is_some_and(|upto| *upto >= inner.1)
                    };
                    let bases: BTreeSet<_> =
                        common.iter().filter(|p| !common.iter().any(|other| inside(p, other))).copied().collect();
                    found.extend(&bases);
                    if bases.len() > 1 {
                        work.push(bases);
                    }
                }
            }
        }
        found
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]
        #[test]
        fn every_base_of_two_lines_is_pinned(numbers in proptest::collection::vec(0..u64::MAX, 200), before in 0..600u64) {
            let mut numbers = numbers.into_iter().cycle();
            let (rows, merged, live) = history(50, 5, &mut |below| numbers.next().unwrap_or_default() % below);
            let (rows, merged) = (branches(&rows), merges(&merged));
            let lines = Lines::new(&rows, &merged);
            let heads = live.iter().map(|id| (BranchId(*id), Seq::MAX));
            let recent = merged.iter().filter(|row| row.seq.0 > before).map(|row| (row.source, row.source_seq));
            let points = heads.clone().chain(recent).map(|(b, at)| (b, at.min(Seq(before)))).collect();
            let mut pins = Pins::default();
            lines.pin_bases(&mut pins, heads.clone(), Seq(before));
            for (branch, at) in heads {
                lines.pin(&mut pins, branch, at);
            }
            for (branch, at) in bases(&lines, points) {
                proptest::prop_assert!(at.0 == before || pins.get(&branch).is_some_and(|at_all| at_all.contains(&at)), "{branch:?} {at:?}");
            }
        }
    }

    #[test]
    fn the_number_of_pins_does_not_grow_with_what_was_merged_and_dropped() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (rows, merged, live) = history(20_000, 8, &mut random);
        assert!(merged.len() > 5000);
        let found = pinned(&branches(&rows), &merges(&merged), &live, 190_000);
        let old = found.iter().filter(|(_, at)| *at < 180_000).count();
        assert!(old < 100, "{old} of {} pins, {} merges", found.len(), merged.len());
    }
}
