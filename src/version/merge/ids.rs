//! Which inodes of three states are one thing: by number, as successors (saved by renaming over),
//! and as aliases (added on both sides and merged).

use std::collections::{BTreeMap, BTreeSet};

use super::super::conflict::Triple;
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

/// Numbers that stand for one thing.
#[derive(Clone, Debug, Default)]
struct Classes {
    canon: BTreeMap<Ino, Ino>,
    members: BTreeMap<Ino, BTreeSet<Ino>>,
}

impl Classes {
    fn canon(&self, ino: Ino) -> Ino {
        self.canon.get(&ino).copied().unwrap_or(ino)
    }

    /// Lets `other` be the same as `first`, whose name for the pair is kept.
    fn join(&mut self, first: Ino, other: Ino) {
        let (first, other) = (self.canon(first), self.canon(other));
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

/// Successors on one side: inode there, and the thing that it stands for.
#[derive(Clone, Debug, Default)]
struct Successors {
    of: BTreeMap<Ino, Ino>,
    now: BTreeMap<Ino, Ino>,
}

/// The three states of a merge, seen as one set of things.
pub(crate) struct Things<'t> {
    pub base: &'t State<'t>,
    pub ours: &'t State<'t>,
    pub theirs: &'t State<'t>,
    /// What theirs changed since the base.
    pub delta: Delta,
    classes: Classes,
    ours_successors: Successors,
    theirs_successors: Successors,
}

impl<'t> Things<'t> {
    /// Works out what corresponds to what. `aliases` are those of earlier merges.
    pub fn new(
        base: &'t State<'t>,
        ours: &'t State<'t>,
        theirs: &'t State<'t>,
        aliases: &[(Ino, Ino)],
    ) -> Result<Things<'t>> {
        let mut classes = Classes::default();
        for (of_theirs, of_ours) in aliases {
            classes.join(*of_ours, *of_theirs);
        }
        let delta = Delta::between(base, theirs)?;
        let mine = Delta::between(base, ours)?;
        let mut things = Things {
            base,
            ours,
            theirs,
            delta,
            classes,
            ours_successors: Successors::default(),
            theirs_successors: Successors::default(),
        };
        things.ours_successors = things.successors(&mine, ours)?;
        things.theirs_successors = things.successors(&things.delta, theirs)?;
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

    /// The thing that an inode of a state stands for.
    pub fn thing(&self, which: Which, ino: Ino) -> Ino {
        let successors = match which {
            Which::Base => None,
            Which::Ours => Some(&self.ours_successors),
            Which::Theirs => Some(&self.theirs_successors),
        };
        successors.and_then(|s| s.of.get(&ino).copied()).unwrap_or_else(|| self.classes.canon(ino))
    }

    /// The inode that is a thing in a state; `None` where the state lacks it.
    pub fn actual(&self, which: Which, thing: Ino) -> Result<Option<Ino>> {
        let successors = match which {
            Which::Base => None,
            Which::Ours => Some(&self.ours_successors),
            Which::Theirs => Some(&self.theirs_successors),
        };
        if let Some(ino) = successors.and_then(|s| s.now.get(&thing)) {
            return Ok(Some(*ino));
        }
        self.member(self.state(which), thing)
    }

    fn member(&self, state: &State<'_>, thing: Ino) -> Result<Option<Ino>> {
        if state.inode(thing)?.is_some() {
            return Ok(Some(thing));
        }
        for ino in self.classes.members.get(&thing).into_iter().flatten() {
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
        Ok(names.into_iter().map(|(parent, name)| (self.thing(which, parent), name)).collect())
    }

    /// A thing in all three states.
    pub fn triple(&self, thing: Ino) -> Result<Triple> {
        Ok(Triple {
            base: self.actual(Which::Base, thing)?,
            ours: self.actual(Which::Ours, thing)?,
            theirs: self.actual(Which::Theirs, thing)?,
        })
    }

    /// All pairs of numbers (theirs, ours) that stand for one thing, to be kept with the merge.
    pub fn aliases(&self) -> Result<Vec<(Ino, Ino)>> {
        let mut pairs: Vec<(Ino, Ino)> = self.classes.canon.iter().map(|(ino, canon)| (*ino, *canon)).collect();
        for (ino, thing) in self.theirs_successors.of.iter().chain(&self.ours_successors.of) {
            pairs.push((*ino, *thing));
        }
        pairs.sort_unstable();
        pairs.dedup();
        Ok(pairs)
    }

    /// How deep a thing is in a state; things that are not there come first.
    pub fn depth(&self, which: Which, thing: Ino) -> Result<usize> {
        let Some(ino) = self.actual(which, thing)? else { return Ok(0) };
        let path = self.state(which).path(ino)?;
        Ok(path.map_or(0, |path| path.iter().filter(|b| **b == b'/').count()))
    }

    /// Whether the base lacks the thing that an inode stands for.
    fn is_new(&self, ino: Ino) -> Result<bool> {
        Ok(self.member(self.base, self.classes.canon(ino))?.is_none())
    }

    fn successors(&self, delta: &Delta, state: &State<'_>) -> Result<Successors> {
        let mut found = Successors::default();
        let mut note = |ino: Ino, thing: Ino| {
            if !found.of.contains_key(&ino) && !found.now.contains_key(&thing) {
                found.of.insert(ino, thing);
                found.now.insert(thing, ino);
            }
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
                let thing = self.classes.canon(ino_before);
                if self.member(self.base, thing)?.is_some() {
                    if self.member(state, thing)?.is_none() {
                        note(*ino, thing);
                    }
                    break;
                }
                let versions = state.txn.versions(&state.lineage, ino_before)?;
                previous = versions.into_iter().rev().find_map(|version| version.row).and_then(|row| row.predecessor);
            }
        }
        // Then those that stand at the same name.
        for (old, new) in delta.entries.values() {
            let (Some((old, old_kind)), Some((new, kind))) = (old, new) else { continue };
            if old == new || old_kind != kind || *kind == Kind::Dir || !self.is_new(*new)? {
                continue;
            }
            let thing = self.classes.canon(*old);
            if self.member(self.base, thing)?.is_some() && self.member(state, thing)?.is_none() {
                note(*new, thing);
            }
        }
        Ok(found)
    }

    /// Joins what is new on both sides at one name: directories, and equal files.
    fn join_additions(&mut self) -> Result<()> {
        let mut added = Vec::new();
        for (ino, change) in &self.delta.inodes {
            let thing = self.thing(Which::Theirs, *ino);
            if change.after.is_some() && self.actual(Which::Base, thing)?.is_none() {
                added.push((self.depth(Which::Theirs, thing)?, *ino));
            }
        }
        added.sort_unstable();
        for (_, ino) in added {
            for (parent, name) in self.theirs.names(ino)? {
                let Some(dir) = self.actual(Which::Ours, self.thing(Which::Theirs, parent))? else { continue };
                let Some((mine, kind)) = self.ours.entry(dir, &name)? else { continue };
                let thing = self.thing(Which::Ours, mine);
                if thing == self.thing(Which::Theirs, ino) || self.actual(Which::Base, thing)?.is_some() {
                    continue;
                }
                let (Some(x), Some(y)) = (self.ours.inode(mine)?, self.theirs.inode(ino)?) else { continue };
                let same = x.kind == y.kind
                    && (kind == Kind::Dir || same_content((self.ours, mine, &x), (self.theirs, ino, &y))?);
                if same {
                    self.classes.join(mine, ino);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_numbers_share_the_first_ones_name() {
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
}
