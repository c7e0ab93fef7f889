//! Which inodes of three states are one thing: by number, as successors (saved by renaming over),
//! and as aliases (added on both sides and merged).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::super::conflict::{ConflictKind, Triple};
use super::super::delta::Delta;
use super::super::error::Result;
use super::super::state::{Place, State, same_content};
use crate::types::{Ino, Kind};

/// How far back a chain of successors is followed.
const CHAIN_MAX: usize = 64;

/// One of the three states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Base,
    Ours,
    Theirs,
}

/// Numbers that stand for one thing, under the smallest of them.
#[derive(Clone, Debug, Default)]
struct Classes {
    canon: BTreeMap<Ino, Ino>,
    members: BTreeMap<Ino, BTreeSet<Ino>>,
}

impl Classes {
    fn canon(&self, ino: Ino) -> Ino {
        self.canon.get(&ino).copied().unwrap_or(ino)
    }

    fn join(&mut self, a: Ino, b: Ino) {
        let (a, b) = (self.canon(a), self.canon(b));
        let (first, other) = (a.min(b), a.max(b));
        if first == other {
            return;
        }
        let mut moved = self.members.remove(&other).unwrap_or_default();
        moved.insert(other);
        for ino in &moved {
            self.canon.insert(*ino, first);
        }
        self.members.entry(first).or_default().extend(moved);
    }
}

/// Pairs that earlier merges found. They are looked at where they are asked about: there may be many, and a merge
/// costs what changed.
#[derive(Clone, Debug, Default)]
struct Known {
    pairs: BTreeMap<Ino, BTreeSet<Ino>>,
    seen: BTreeSet<Ino>,
}

impl Known {
    fn new(aliases: &[(Ino, Ino)]) -> Known {
        let mut known = Known::default();
        for (a, b) in aliases {
            known.pairs.entry(*a).or_default().insert(*b);
            known.pairs.entry(*b).or_default().insert(*a);
        }
        known
    }

    /// Takes out all pairs that hang together with a number, the smallest first.
    fn take(&mut self, ino: Ino) -> Vec<(Ino, Ino)> {
        if !self.pairs.contains_key(&ino) || self.seen.contains(&ino) {
            return Vec::new();
        }
        let mut found = BTreeSet::new();
        let mut waiting = vec![ino];
        while let Some(ino) = waiting.pop() {
            if self.seen.insert(ino) {
                for other in self.pairs.get(&ino).into_iter().flatten() {
                    found.insert((ino.min(*other), ino.max(*other)));
                    waiting.push(*other);
                }
            }
        }
        found.into_iter().collect()
    }
}

/// The three states of a merge, seen as one set of things.
pub(crate) struct Things<'t> {
    pub base: &'t State<'t>,
    pub ours: &'t State<'t>,
    pub theirs: &'t State<'t>,
    /// What theirs changed since the base.
    pub delta: Delta,
    known: RefCell<Known>,
    classes: RefCell<Classes>,
}

impl<'t> Things<'t> {
    /// Works out what corresponds to what. `aliases` are those of earlier merges.
    pub fn new(
        base: &'t State<'t>,
        ours: &'t State<'t>,
        theirs: &'t State<'t>,
        aliases: &[(Ino, Ino)],
    ) -> Result<Things<'t>> {
        let delta = Delta::between(base, theirs)?;
        let mine = Delta::between(base, ours)?;
        let known = RefCell::new(Known::new(aliases));
        let things = Things { base, ours, theirs, delta, known, classes: RefCell::default() };
        things.join_successors(&mine, ours)?;
        things.join_successors(&things.delta, theirs)?;
        things.join_additions()?;
        Ok(things)
    }

    pub fn state(&self, which: Which) -> &'t State<'t> {
        match which {
            Which::Base => self.base,
            Which::Ours => self.ours,
            Which::Theirs => self.theirs,
        }
    }

    /// The thing that an inode stands for.
    pub fn thing(&self, ino: Ino) -> Result<Ino> {
        let pairs = self.known.borrow_mut().take(ino);
        for (a, b) in pairs {
            self.join_canons(a, b)?;
        }
        Ok(self.classes.borrow().canon(ino))
    }

    /// Lets two numbers be one thing, unless they are two things in one of the states: what an earlier merge found to
    /// be one may be two by now, as an undo or a restore brings back what was replaced.
    fn join(&self, a: Ino, b: Ino) -> Result<()> {
        self.thing(a)?;
        self.thing(b)?;
        self.join_canons(a, b)
    }

    fn join_canons(&self, a: Ino, b: Ino) -> Result<()> {
        let (a, b) = {
            let classes = self.classes.borrow();
            (classes.canon(a), classes.canon(b))
        };
        for state in [self.base, self.ours, self.theirs] {
            if self.member(state, a)?.is_some() && self.member(state, b)?.is_some() {
                return Ok(());
            }
        }
        self.classes.borrow_mut().join(a, b);
        Ok(())
    }

    /// The inode that is a thing in a state; `None` where the state lacks it.
    pub fn actual(&self, which: Which, thing: Ino) -> Result<Option<Ino>> {
        self.member(self.state(which), thing)
    }

    fn member(&self, state: &State<'_>, thing: Ino) -> Result<Option<Ino>> {
        if state.inode(thing)?.is_some() {
            return Ok(Some(thing));
        }
        for ino in self.classes.borrow().members.get(&thing).into_iter().flatten() {
            if state.inode(*ino)?.is_some() {
                return Ok(Some(*ino));
            }
        }
        Ok(None)
    }

    /// The names of a thing in a state, with things as directories.
    pub fn names(&self, which: Which, thing: Ino) -> Result<BTreeSet<Place>> {
        let Some(ino) = self.actual(which, thing)? else { return Ok(BTreeSet::new()) };
        let names = self.state(which).names(ino)?;
        names.into_iter().map(|(parent, name)| Ok((self.thing(parent)?, name))).collect()
    }

    /// The names that a thing of both sides has when they are merged. Names are sets: what either removed goes, what
    /// either added comes. The kind of conflict where both moved it, and elsewhere.
    pub fn merged_names(&self, thing: Ino) -> Result<std::result::Result<BTreeSet<Place>, ConflictKind>> {
        let base = self.names(Which::Base, thing)?;
        let ours = self.names(Which::Ours, thing)?;
        let theirs = self.names(Which::Theirs, thing)?;
        let gained: BTreeSet<Place> = theirs.difference(&base).cloned().collect();
        let lost: BTreeSet<Place> = base.difference(&theirs).cloned().collect();
        let our_gain: BTreeSet<Place> = ours.difference(&base).cloned().collect();
        if lost.iter().any(|place| !ours.contains(place)) && gained != our_gain {
            let moved = !gained.is_empty() && !our_gain.is_empty();
            return Ok(Err(if moved { ConflictKind::RenameRename } else { ConflictKind::RenameDelete }));
        }
        Ok(Ok(ours.difference(&lost).chain(&gained).cloned().collect()))
    }

    /// A thing in all three states.
    pub fn triple(&self, thing: Ino) -> Result<Triple> {
        Ok(Triple {
            base: self.actual(Which::Base, thing)?,
            ours: self.actual(Which::Ours, thing)?,
            theirs: self.actual(Which::Theirs, thing)?,
        })
    }

    /// All pairs of numbers that stand for one thing, to be kept with the merge.
    pub fn aliases(&self) -> Vec<(Ino, Ino)> {
        let classes = self.classes.borrow();
        let mut pairs: Vec<(Ino, Ino)> = classes.canon.iter().map(|(ino, canon)| (*canon, *ino)).collect();
        pairs.sort_unstable();
        pairs
    }

    /// How deep a thing is in a state; things that are not there come first.
    pub fn depth(&self, which: Which, thing: Ino) -> Result<usize> {
        let Some(ino) = self.actual(which, thing)? else { return Ok(0) };
        let path = self.state(which).path(ino)?;
        Ok(path.map_or(0, |path| path.iter().filter(|b| **b == b'/').count()))
    }

    /// Whether the base lacks the thing that an inode stands for.
    fn is_new(&self, ino: Ino) -> Result<bool> {
        Ok(self.member(self.base, self.thing(ino)?)?.is_none())
    }

    /// Joins what replaced another file on a side, or stands where it stood, with that, unless it is there itself.
    fn join_successors(&self, delta: &Delta, side: &State<'_>) -> Result<()> {
        let succeeds = |ino: Ino, thing: Ino| -> Result<()> {
            if self.member(side, thing)?.is_none() { self.join(thing, ino) } else { Ok(()) }
        };
        // First those that the record tells, by the inode whose name they took.
        for (ino, change) in &delta.inodes {
            let Some(row) = change.after.as_ref().filter(|row| row.kind == Kind::File) else { continue };
            if !self.is_new(*ino)? {
                continue;
            }
            let mut previous = row.predecessor;
            for _ in 0..CHAIN_MAX {
                let Some(ino_before) = previous else { break };
                let thing = self.thing(ino_before)?;
                if self.member(self.base, thing)?.is_some() {
                    succeeds(*ino, thing)?;
                    break;
                }
                let versions = side.txn.versions(&side.lineage, ino_before)?;
                previous = versions.into_iter().rev().find_map(|version| version.row).and_then(|row| row.predecessor);
            }
        }
        // Then those that stand at the same name.
        for ((parent, name), (old, _)) in &delta.entries {
            let (Some((old, old_kind)), Some(dir)) = (old, self.member(side, self.thing(*parent)?)?) else { continue };
            let Some((new, kind)) = side.entry(dir, name)? else { continue };
            if *old != new && *old_kind == kind && kind != Kind::Dir && self.is_new(new)? {
                succeeds(new, self.thing(*old)?)?;
            }
        }
        Ok(())
    }

    /// Joins what is new on both sides at one name: directories, and equal files. From the root down, as what a
    /// directory is decides what its names are.
    fn join_additions(&self) -> Result<()> {
        let mut added = Vec::new();
        for (ino, change) in &self.delta.inodes {
            if change.after.is_some() && self.is_new(*ino)? {
                for (parent, name) in self.theirs.names(*ino)? {
                    let depth = self.depth(Which::Theirs, self.thing(parent)?)?;
                    added.push((depth, parent, name, *ino));
                }
            }
        }
        added.sort_unstable();
        for (_, parent, name, ino) in added {
            let Some(dir) = self.actual(Which::Ours, self.thing(parent)?)? else { continue };
            let Some((mine, kind)) = self.ours.entry(dir, &name)? else { continue };
            if !self.is_new(mine)? || !self.is_new(ino)? {
                continue;
            }
            let (Some(x), Some(y)) = (self.ours.inode(mine)?, self.theirs.inode(ino)?) else { continue };
            let same =
                x.kind == y.kind && (kind == Kind::Dir || same_content((self.ours, mine, &x), (self.theirs, ino, &y))?);
            if same {
                self.join(mine, ino)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_numbers_share_the_smallest_ones_name() {
        let mut classes = Classes::default();
        classes.join(Ino(5), Ino(9));
        classes.join(Ino(9), Ino(12));
        classes.join(Ino(3), Ino(12));
        for ino in [3, 5, 9, 12] {
            assert_eq!(classes.canon(Ino(ino)), Ino(3));
        }
        assert_eq!(classes.canon(Ino(4)), Ino(4));
        assert_eq!(classes.members[&Ino(3)], BTreeSet::from([Ino(5), Ino(9), Ino(12)]));
    }

    #[test]
    fn known_pairs_are_taken_out_once_with_all_that_hang_on_them() {
        let mut known = Known::new(&[(Ino(9), Ino(5)), (Ino(7), Ino(8)), (Ino(9), Ino(2))]);
        assert_eq!(known.take(Ino(4)), []);
        assert_eq!(known.take(Ino(5)), [(Ino(2), Ino(9)), (Ino(5), Ino(9))]);
        assert_eq!(known.take(Ino(9)), []);
        assert_eq!(known.take(Ino(8)), [(Ino(7), Ino(8))]);
    }
}
