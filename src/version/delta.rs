//! What differs between two states, by identity: entries and inodes, found through the rows that
//! the branches between them wrote, so that it costs what changed and not the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::Result;
use super::state::{Found, Place, State, same_attrs, same_content};
use crate::store::{InodeRow, ReadTxn};
use crate::types::{BranchId, Ino, Kind, Lineage, Name, Seq};

/// The keys whose rows may differ between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Directory entries.
    pub entries: BTreeSet<(Ino, Name)>,
    /// Inodes, for whatever of them was touched.
    pub inodes: BTreeSet<Ino>,
}

impl Keys {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.inodes.is_empty()
    }
}

/// A stretch of one branch's own rows: `(after, upto]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub branch: BranchId,
    pub after: Seq,
    pub upto: Seq,
}

/// Lists the stretches of rows by which two lineages differ.
///
/// A key without a row in any of them resolves to the same row in both: branches that both have
/// count up to the lesser cut in common, all others are of one side alone.
pub(crate) fn stretches(a: &Lineage, b: &Lineage) -> Vec<Stretch> {
    let cut = |lineage: &Lineage, branch| lineage.0.iter().find(|s| s.branch == branch).map_or(Seq::ZERO, |s| s.cut);
    let branches: BTreeSet<BranchId> = a.0.iter().chain(b.0.iter()).map(|s| s.branch).collect();
    branches
        .into_iter()
        .map(|branch| {
            let (x, y) = (cut(a, branch), cut(b, branch));
            Stretch { branch, after: x.min(y), upto: x.max(y) }
        })
        .filter(|stretch| stretch.after < stretch.upto)
        .collect()
}

/// Collects the keys that stretches of rows touch.
pub(crate) fn keys(txn: &dyn ReadTxn, stretches: &[Stretch]) -> Result<Keys> {
    let mut keys = Keys::default();
    for stretch in stretches {
        let touched = txn.touched(stretch.branch, stretch.after, stretch.upto)?;
        keys.entries.extend(touched.entries);
        keys.inodes.extend(touched.inodes);
        keys.inodes.extend(touched.xattrs.into_iter().map(|(ino, _)| ino));
        keys.inodes.extend(touched.extents.into_iter().map(|(ino, _)| ino));
    }
    Ok(keys)
}

/// How one inode differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InodeDelta {
    /// As it was; `None` where it did not exist.
    pub before: Option<Arc<InodeRow>>,
    /// As it is; `None` where it does not exist any more.
    pub after: Option<Arc<InodeRow>>,
    /// Its bytes differ (both exist).
    pub content: bool,
    /// Mode, owner, ACL or xattrs differ (both exist).
    pub attrs: bool,
    /// Its content was written, whether it differs or not.
    pub content_written: bool,
    /// Its attributes or times were set, whether they differ or not.
    pub attrs_written: bool,
}

/// All that differs between two states.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    /// Entries that name something else: before and after.
    pub entries: BTreeMap<Place, (Option<Found>, Option<Found>)>,
    /// Inodes that came, went, or changed in content or attributes.
    pub inodes: BTreeMap<Ino, InodeDelta>,
}

impl Delta {
    /// Compares two states of one snapshot.
    pub fn between(before: &State<'_>, after: &State<'_>) -> Result<Delta> {
        let keys = keys(before.txn, &stretches(&before.lineage, &after.lineage))?;
        Delta::of_keys(before, after, &keys)
    }

    /// Compares two states in some keys.
    pub fn of_keys(before: &State<'_>, after: &State<'_>, keys: &Keys) -> Result<Delta> {
        let mut delta = Delta::default();
        let mut inodes = keys.inodes.clone();
        for place in &keys.entries {
            let (old, new) = (before.entry(place.0, &place.1)?, after.entry(place.0, &place.1)?);
            if old != new {
                inodes.extend([old, new].into_iter().flatten().map(|(ino, _)| ino));
                delta.entries.insert(place.clone(), (old, new));
            }
        }
        for ino in inodes {
            if let Some(change) = inode_delta(before, after, ino)? {
                delta.inodes.insert(ino, change);
            }
        }
        Ok(delta)
    }

    /// What was written at these events counts only where it differs: they brought it from the other state. A file that
    /// has another number here, as its successor there has, but the same names, content and attributes, is the same.
    ///
    /// `begin`: what is older is nobody's writing here.
    pub fn forget_brought(
        &mut self,
        before: &State<'_>,
        after: &State<'_>,
        begin: Seq,
        events: &BTreeSet<Seq>,
    ) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        for (old, new) in self.renumbered(before, after)? {
            self.entries.retain(|_, (found, _)| found.is_none_or(|(ino, _)| ino != old));
            self.inodes.remove(&old);
            self.inodes.remove(&new);
        }
        self.inodes.retain(|_, change| {
            let (Some(_), Some(after)) = (&change.before, &change.after) else { return true };
            let own = |seq: Seq| seq > begin && !events.contains(&seq);
            change.content_written &= change.content || own(after.content_seq);
            change.attrs_written &= change.attrs || own(after.attr_seq);
            change.content || change.attrs || change.content_written || change.attrs_written
        });
        Ok(())
    }

    /// Files that differ in their number only.
    fn renumbered(&self, before: &State<'_>, after: &State<'_>) -> Result<Vec<(Ino, Ino)>> {
        let mut becomes: BTreeMap<Ino, BTreeSet<Option<Ino>>> = BTreeMap::new();
        let mut was = becomes.clone();
        for (old, new) in self.entries.values() {
            let (old, new) = (old.map(|(ino, _)| ino), new.map(|(ino, _)| ino));
            if let Some(old) = old {
                becomes.entry(old).or_default().insert(new);
            }
            if let Some(new) = new {
                was.entry(new).or_default().insert(old);
            }
        }
        let mut pairs = Vec::new();
        for (old, to) in becomes {
            let Some(Some(new)) = to.first().copied().filter(|_| to.len() == 1) else { continue };
            if was.get(&new) != Some(&BTreeSet::from([Some(old)])) {
                continue;
            }
            let (Some(gone), Some(come)) = (self.inodes.get(&old), self.inodes.get(&new)) else { continue };
            let (Some(x), None, None, Some(y)) = (&gone.before, &gone.after, &come.before, &come.after) else {
                continue;
            };
            if x.kind != Kind::Dir
                && same_content((before, old, x), (after, new, y))?
                && same_attrs((before, old, x), (after, new, y))?
            {
                pairs.push((old, new));
            }
        }
        Ok(pairs)
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.inodes.is_empty()
    }
}

/// Compares one inode; `None` where it does not differ (in more than derived values and times).
pub(crate) fn inode_delta(before: &State<'_>, after: &State<'_>, ino: Ino) -> Result<Option<InodeDelta>> {
    let (old, new) = (before.inode(ino)?, after.inode(ino)?);
    let mut delta = InodeDelta {
        before: old.clone(),
        after: new.clone(),
        content: false,
        attrs: false,
        content_written: false,
        attrs_written: false,
    };
    match (&old, &new) {
        (None, None) => return Ok(None),
        (Some(_), None) | (None, Some(_)) => return Ok(Some(delta)),
        (Some(x), Some(y)) => {
            delta.content_written = x.kind != Kind::Dir && x.content_seq != y.content_seq;
            delta.attrs_written = x.attr_seq != y.attr_seq;
            delta.content = x.kind != Kind::Dir && !same_content((before, ino, x), (after, ino, y))?;
            delta.attrs = !same_attrs((before, ino, x), (after, ino, y))?;
        }
    }
    let any = delta.content || delta.attrs || delta.content_written || delta.attrs_written;
    Ok(any.then_some(delta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Segment;

    fn lineage(segments: &[(u64, u64)]) -> Lineage {
        Lineage(segments.iter().map(|(b, c)| Segment { branch: BranchId(*b), cut: Seq(*c) }).collect())
    }

    fn found(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        stretches(&lineage(a), &lineage(b)).iter().map(|s| (s.branch.0, s.after.0, s.upto.0)).collect()
    }

    #[test]
    fn two_points_of_one_branch_differ_by_what_is_between() {
        assert_eq!(found(&[(1, 5)], &[(1, 9)]), [(1, 5, 9)]);
        assert_eq!(found(&[(1, 9)], &[(1, 9)]), []);
    }

    #[test]
    fn a_branch_differs_from_its_parent_by_both_sides_of_the_fork() {
        assert_eq!(found(&[(1, 20)], &[(2, 30), (1, 10)]), [(1, 10, 20), (2, 0, 30)]);
        // Seen before the fork, the child is its parent.
        assert_eq!(found(&[(1, 8)], &[(2, 8), (1, 8)]), [(2, 0, 8)]);
    }

    #[test]
    fn siblings_share_what_their_parent_had_at_the_earlier_fork() {
        let a = [(2, 50), (1, 10)];
        let b = [(3, 60), (1, 25)];
        assert_eq!(found(&a, &b), [(1, 10, 25), (2, 0, 50), (3, 0, 60)]);
    }
}
