//! Decides a conflict for one side: what it is about becomes as that side has it, content, attributes or names.

use std::collections::{BTreeMap, BTreeSet};

use super::super::changeset::{Changeset, Source};
use super::super::conflict::{Conflict, ConflictKind, Triple};
use super::super::error::Result;
use super::super::state::{Place, same_attrs, same_content};
use super::ids::{Things, Which};
use crate::types::{Ino, Kind};

/// Makes what a conflict is about as one side has it, on top of `changes`.
pub(crate) fn take<'t>(
    changes: &mut Changeset<'t>,
    things: &Things<'t>,
    which: Which,
    conflict: &Conflict,
) -> Result<()> {
    let mut taker = Taker { changes, things, which };
    let alone = conflict.ids.len() == 1;
    let mut sorted = Vec::new();
    for triple in &conflict.ids {
        let Some(thing) = taker.thing(triple)? else { continue };
        let both = triple.ours.is_some() && triple.theirs.is_some();
        let twice = both && triple.base.is_none();
        let whole = !both || which == Which::Base;
        let (content, attributes, names) = match conflict.kind {
            ConflictKind::Content => (true, false, false),
            ConflictKind::Attributes => (false, true, false),
            ConflictKind::AddAdd => (twice || whole, twice || whole, !(alone && twice)),
            ConflictKind::ModifyDelete
            | ConflictKind::RenameDelete
            | ConflictKind::RenameRename
            | ConflictKind::DirectoryFile
            | ConflictKind::Type
            | ConflictKind::DirectoryCycle
            | ConflictKind::Entry
            | ConflictKind::NotEmpty
            | ConflictKind::Removed
            | ConflictKind::Read => (whole, whole, true),
        };
        if names {
            sorted.push((things.depth(which, thing)?, thing, content, attributes));
        } else {
            taker.versions(thing, content, attributes)?;
        }
    }
    sorted.sort_unstable();
    let places = taker.places(sorted.iter().map(|(_, thing, ..)| *thing))?;
    let mut removed = Vec::new();
    for (_, thing, ..) in &sorted {
        removed.extend(taker.unlink(*thing)?);
    }
    for ((_, thing, content, attributes), places) in sorted.into_iter().zip(places) {
        taker.put(thing, places)?;
        taker.versions(thing, content, attributes)?;
    }
    // Of directories that the side lacks, what is left goes too; what was moved out of them stays.
    for dir in removed {
        taker.clear(dir)?;
    }
    Ok(())
}

struct Taker<'c, 't> {
    changes: &'c mut Changeset<'t>,
    things: &'c Things<'t>,
    which: Which,
}

impl<'t> Taker<'_, 't> {
    fn thing(&self, triple: &Triple) -> Result<Option<Ino>> {
        triple.ours.or(triple.theirs).or(triple.base).map(|ino| self.things.thing(ino)).transpose()
    }

    /// The inode that a thing has in the result: ours where that is alive, else one that was brought.
    fn present(&self, thing: Ino) -> Result<Option<Ino>> {
        for which in [Which::Ours, Which::Theirs, Which::Base] {
            if let Some(ino) = self.things.actual(which, thing)?
                && self.changes.alive(ino)?
            {
                return Ok(Some(ino));
            }
        }
        Ok(None)
    }

    /// Takes a thing's names away; returns it if it is a directory that the side lacks.
    fn unlink(&mut self, thing: Ino) -> Result<Option<Ino>> {
        let Some(ino) = self.present(thing)? else { return Ok(None) };
        let gone = self.things.actual(self.which, thing)?.is_none();
        let mut is_dir = false;
        for place in self.changes.names(ino)? {
            is_dir |= self.changes.entry(&place)?.is_some_and(|(_, kind)| kind == Kind::Dir);
            self.changes.set(&place, None)?;
        }
        Ok((gone && is_dir).then_some(ino))
    }

    /// Where things go: as the side has them. For theirs, a name that only another thing of the conflict stands in the
    /// way of is no reason to lose what ours made of the thing's other names.
    fn places(&self, things: impl Iterator<Item = Ino>) -> Result<Vec<BTreeSet<Place>>> {
        let mut found = Vec::new();
        let mut claims: BTreeMap<Place, usize> = BTreeMap::new();
        for thing in things {
            let side = self.things.names(self.which, thing)?;
            let both = self.things.actual(Which::Ours, thing)?.is_some() && !side.is_empty();
            let merged = match self.which {
                Which::Theirs if both => self.things.merged_names(thing)?.ok().filter(|names| !names.is_empty()),
                Which::Base | Which::Ours | Which::Theirs => None,
            };
            for place in merged.as_ref().unwrap_or(&side) {
                *claims.entry(place.clone()).or_default() += 1;
            }
            found.push((side, merged));
        }
        let contested = |place: &Place| claims.get(place).is_some_and(|count| *count > 1);
        let choose = |(side, merged): (BTreeSet<Place>, Option<BTreeSet<Place>>)| match merged {
            Some(merged) if !merged.iter().any(|place| contested(place) && !side.contains(place)) => merged,
            Some(_) | None => side,
        };
        Ok(found.into_iter().map(choose).collect())
    }

    fn clear(&mut self, dir: Ino) -> Result<()> {
        for name in self.changes.list(dir)?.into_keys() {
            self.changes.remove_tree(&(dir, name))?;
        }
        Ok(())
    }

    /// Gives a thing that both sides have the content and the attributes that one side has.
    fn versions(&mut self, thing: Ino, content: bool, attributes: bool) -> Result<()> {
        let state = self.things.state(self.which);
        let Some(from) = self.things.actual(self.which, thing)? else { return Ok(()) };
        let (Some(ino), Some(row)) = (self.present(thing)?, state.inode(from)?) else { return Ok(()) };
        let Some(head) = self.changes.head.inode(ino)? else { return Ok(()) };
        if content && row.kind != Kind::Dir && !same_content((state, from, &row), (self.changes.head, ino, &head))? {
            self.changes.content(ino, Source::State(state, from))?;
        }
        if attributes && !same_attrs((state, from, &row), (self.changes.head, ino, &head))? {
            self.changes.attrs(ino, state, from);
        }
        Ok(())
    }

    /// Puts a thing where it belongs; as the side has it where the receiver lacks it.
    fn put(&mut self, thing: Ino, places: BTreeSet<Place>) -> Result<()> {
        let Some(from) = self.things.actual(self.which, thing)? else { return Ok(()) };
        let kept = match self.things.actual(Which::Ours, thing)? {
            Some(ino) => self.changes.head.inode(ino)?.is_some().then_some(ino),
            None => None,
        };
        let ino = kept.unwrap_or(from);
        let state = self.things.state(self.which);
        let Some(row) = state.inode(from)? else { return Ok(()) };
        // What an earlier decision brought is not written again.
        if kept.is_none() && self.changes.head.inode(ino)?.is_none() {
            self.changes.bring(ino, state, from)?;
        }
        for (parent, name) in places {
            if let Some(dir) = self.directory(parent)? {
                self.occupy(&(dir, name), ino, row.kind)?;
            }
        }
        if row.kind == Kind::Dir && kept.is_none() {
            self.children(from, ino)?;
        }
        Ok(())
    }

    /// Puts an inode at a place, clearing it first.
    fn occupy(&mut self, place: &Place, ino: Ino, kind: Kind) -> Result<()> {
        if self.changes.entry(place)?.is_some_and(|(other, _)| other != ino) {
            self.changes.remove_tree(place)?;
        }
        self.changes.set(place, Some((ino, kind)))
    }

    /// The directory that stands for a thing in the result; brought back, with its own, where it is gone.
    fn directory(&mut self, thing: Ino) -> Result<Option<Ino>> {
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = thing;
        let state = self.things.state(self.which);
        let mut above = loop {
            if let Some(ino) = self.present(at)? {
                break ino;
            }
            let Some(from) = self.things.actual(self.which, at)? else { return Ok(None) };
            let Some((parent, name)) = state.names(from)?.into_iter().next() else { return Ok(None) };
            if !seen.insert(at) {
                return Ok(None);
            }
            chain.push((from, name));
            at = self.things.thing(parent)?;
        };
        for (from, name) in chain.into_iter().rev() {
            self.changes.bring(from, state, from)?;
            self.occupy(&(above, name), from, Kind::Dir)?;
            above = from;
        }
        Ok(Some(above))
    }

    /// Brings what a directory has on the side and what is nowhere else in the result.
    fn children(&mut self, from: Ino, dir: Ino) -> Result<()> {
        let state = self.things.state(self.which);
        for entry in state.entries(from)? {
            let thing = self.things.thing(entry.ino)?;
            let in_base = self.things.actual(Which::Base, thing)?.is_some();
            let removed_by_ours = in_base && self.things.actual(Which::Ours, thing)?.is_none();
            if removed_by_ours && self.which == Which::Theirs || self.present(thing)?.is_some() {
                continue; // ours removed it, and theirs did not mind; or it is elsewhere by now
            }
            self.changes.bring(entry.ino, state, entry.ino)?;
            self.changes.set(&(dir, entry.name), Some((entry.ino, entry.kind)))?;
            if entry.kind == Kind::Dir {
                self.children(entry.ino, entry.ino)?;
            }
        }
        Ok(())
    }
}
