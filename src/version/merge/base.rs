//! Merge bases: the best common points of two histories, counting earlier merges. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::store::{BranchRow, MergeRow};
use crate::types::{BranchId, Seq};

/// A point of a branch.
pub(crate) type Point = (BranchId, Seq);

/// How branches hang together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    forks: BTreeMap<BranchId, Point>,
    merges: BTreeMap<BranchId, Vec<(Seq, Point)>>,
}

impl Graph {
    /// Builds it from rows.
    pub fn new(branches: &[BranchRow], merges: &[MergeRow]) -> Graph {
        let mut graph = Graph::default();
        for row in branches {
            if let Some(parent) = row.parent {
                graph.forks.insert(row.id, (parent, row.base));
            }
        }
        for row in merges {
            graph.merges.entry(row.target).or_default().push((row.seq, (row.source, row.source_seq)));
        }
        graph
    }

    /// Everything that a point has in it: per branch, up to which event.
    pub fn reach(&self, point: Point) -> BTreeMap<BranchId, Seq> {
        let mut reach: BTreeMap<BranchId, Seq> = BTreeMap::new();
        let mut work = vec![point];
        while let Some((branch, seq)) = work.pop() {
            if let Some((parent, base)) = self.forks.get(&branch) {
                work.push((*parent, seq.min(*base)));
                if seq <= *base {
                    continue; // before its fork a branch is its parent
                }
            }
            if reach.get(&branch).is_some_and(|known| *known >= seq) {
                continue;
            }
            reach.insert(branch, seq);
            for (at, source) in self.merges.get(&branch).into_iter().flatten() {
                if *at <= seq {
                    work.push(*source);
                }
            }
        }
        reach
    }

    /// The common points that no other common point has in it; more than one after criss-cross merges.
    pub fn bases(&self, a: Point, b: Point) -> Vec<Point> {
        let (left, right) = (self.reach(a), self.reach(b));
        let mut common: Vec<Point> =
            left.iter().filter_map(|(branch, seq)| right.get(branch).map(|other| (*branch, *seq.min(other)))).collect();
        // What has another in it is later.
        common.sort_unstable_by_key(|(branch, seq)| (Reverse(*seq), *branch));
        let (mut inside, mut bases) = (BTreeMap::<BranchId, Seq>::new(), Vec::new());
        for point in common {
            if inside.get(&point.0).is_some_and(|upto| *upto >= point.1) {
                continue;
            }
            bases.push(point);
            for (branch, seq) in self.reach(point) {
                let upto = inside.entry(branch).or_insert(seq);
                *upto = seq.max(*upto);
            }
        }
        bases.sort_unstable();
        bases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(forks: &[(u64, u64, u64)], merges: &[(u64, u64, u64, u64)]) -> Graph {
        let mut graph = Graph::default();
        for (branch, parent, base) in forks {
            graph.forks.insert(BranchId(*branch), (BranchId(*parent), Seq(*base)));
        }
        for (target, at, source, seq) in merges {
            graph.merges.entry(BranchId(*target)).or_default().push((Seq(*at), (BranchId(*source), Seq(*seq))));
        }
        graph
    }

    fn bases(graph: &Graph, a: (u64, u64), b: (u64, u64)) -> Vec<(u64, u64)> {
        let point = |(branch, seq)| (BranchId(branch), Seq(seq));
        graph.bases(point(a), point(b)).into_iter().map(|(branch, seq)| (branch.0, seq.0)).collect()
    }

    #[test]
    fn a_branch_and_its_parent_meet_at_the_fork() {
        assert_eq!(bases(&graph(&[(2, 1, 10)], &[]), (1, 50), (2, 60)), [(1, 10)]);
        assert_eq!(bases(&graph(&[(2, 1, 10)], &[]), (1, 5), (2, 60)), [(1, 5)]);
    }

    #[test]
    fn siblings_meet_at_the_earlier_fork() {
        assert_eq!(bases(&graph(&[(2, 1, 10), (3, 1, 20)], &[]), (2, 50), (3, 60)), [(1, 10)]);
        assert_eq!(bases(&graph(&[(2, 1, 10), (3, 2, 20)], &[]), (1, 50), (3, 60)), [(1, 10)]);
    }

    #[test]
    fn a_merge_moves_the_base_forward() {
        let merged = graph(&[(2, 1, 10)], &[(1, 70, 2, 60)]);
        assert_eq!(bases(&merged, (1, 80), (2, 90)), [(2, 60)]);
        assert_eq!(bases(&merged, (2, 90), (1, 80)), [(2, 60)]);
        assert_eq!(bases(&merged, (1, 65), (2, 90)), [(1, 10)], "before the merge it does not count");
    }

    #[test]
    fn criss_cross_merges_have_two_bases() {
        let crossed = graph(&[(2, 1, 10)], &[(1, 70, 2, 60), (2, 75, 1, 55)]);
        assert_eq!(bases(&crossed, (1, 80), (2, 90)), [(1, 55), (2, 60)]);
    }

    #[test]
    fn what_was_merged_into_both_through_others_is_no_base() {
        let merged = graph(&[(2, 1, 10), (3, 1, 20), (4, 1, 100)], &[(3, 40, 2, 30), (1, 60, 3, 50)]);
        assert_eq!(bases(&merged, (1, 150), (4, 150)), [(1, 100)]);
        let both = graph(&[(2, 1, 10), (3, 1, 20), (4, 1, 30)], &[(3, 50, 2, 40), (4, 60, 2, 45)]);
        assert_eq!(bases(&both, (3, 70), (4, 70)), [(1, 20), (2, 40)]);
    }

    #[test]
    fn a_point_before_a_fork_is_the_parents() {
        let reach = graph(&[(2, 1, 10)], &[]).reach((BranchId(2), Seq(7)));
        assert_eq!(reach.into_iter().collect::<Vec<_>>(), [(BranchId(1), Seq(7))]);
    }
}
