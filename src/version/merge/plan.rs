//! The three-way merge itself: what theirs changed since the base, carried over to ours.

use std::collections::{BTreeMap, BTreeSet};

use super::super::changeset::{Changeset, Fault, Source};
use super::super::conflict::{Conflict, ConflictKind, Resolution, Side};
use super::super::delta::InodeDelta;
use super::super::error::{ErrorKind, Result, VersionError};
use super::super::state::{Place, State, same_attrs, same_content};
use super::super::text;
use super::super::txn::side_of;
use super::ids::{Things, Which};
use crate::store::InodeRow;
use crate::types::{Ino, Kind, Timestamp};

/// The largest file in bytes that is merged by lines.
const TEXT_MAX: usize = 16 << 20;
/// How often the tree's rules are checked and mended before a merge gives up.
const ROUNDS: usize = 1000;

/// Who wins where both changed one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Ours,
    Theirs,
    /// For virtual bases: as it was before either changed it.
    Base,
}

impl From<Side> for Take {
    fn from(side: Side) -> Take {
        match side {
            Side::Ours => Take::Ours,
            Side::Theirs => Take::Theirs,
        }
    }
}

/// How a merge is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanOptions {
    pub text: bool,
    pub take: Option<Take>,
    pub now: Timestamp,
}

/// A merge that was worked out.
pub(crate) struct Plan<'t> {
    pub changes: Changeset<'t>,
    /// All conflicts; those that a strategy decided are resolved.
    pub conflicts: Vec<Conflict>,
    pub aliases: Vec<(Ino, Ino)>,
    /// Whether theirs changed anything since the base.
    pub any: bool,
}

/// Works out a merge of `theirs` into `ours`.
pub(crate) fn plan<'t>(
    base: &'t State<'t>,
    ours: &'t State<'t>,
    theirs: &'t State<'t>,
    known: &[(Ino, Ino)],
    options: PlanOptions,
) -> Result<Plan<'t>> {
    let things = Things::new(base, ours, theirs, known)?;
    // What was only written again, as a merge the other way round does, is nothing to merge.
    let differs = |c: &InodeDelta| c.content || c.attrs || c.before.is_none() || c.after.is_none();
    let any = !things.delta.entries.is_empty() || things.delta.inodes.values().any(differs);
    let mut merger = Merger {
        things,
        changes: Changeset::new(ours, options.now),
        options,
        conflicts: Vec::new(),
        blocked: BTreeSet::new(),
        brought: BTreeSet::new(),
        away: Vec::new(),
        here: Vec::new(),
    };
    merger.decide()?;
    merger.place()?;
    merger.mend()?;
    merger.settle()?;
    if let Some(fault) = merger.changes.faults()?.first() {
        let what = format!("the merge would break the tree: {fault:?}");
        return Err(VersionError::new(ErrorKind::State, what));
    }
    let aliases = merger.things.aliases();
    Ok(Plan { changes: merger.changes, conflicts: merger.conflicts, aliases, any })
}

struct Merger<'t> {
    things: Things<'t>,
    changes: Changeset<'t>,
    options: PlanOptions,
    conflicts: Vec<Conflict>,
    /// Things of theirs that are not brought over because of a conflict.
    blocked: BTreeSet<Ino>,
    /// Things that only theirs has and that are brought over.
    brought: BTreeSet<Ino>,
    /// Names that things lose, and names that they get (directories as things).
    away: Vec<(Ino, Place)>,
    here: Vec<(Ino, Place)>,
}

/// One side's version: state, inode and row.
type Version<'a, 't> = (&'t State<'t>, Ino, &'a InodeRow);

impl<'t> Merger<'t> {
    fn version(&self, which: Which, thing: Ino) -> Result<Option<(Ino, std::sync::Arc<InodeRow>)>> {
        let Some(ino) = self.things.actual(which, thing)? else { return Ok(None) };
        Ok(self.things.state(which).inode(ino)?.map(|row| (ino, row)))
    }

    /// Goes through everything that theirs touched.
    fn decide(&mut self) -> Result<()> {
        let mut touched = BTreeSet::new();
        for (old, new) in self.things.delta.entries.values() {
            for (ino, _) in [old, new].into_iter().flatten() {
                touched.insert(self.things.thing(*ino)?);
            }
        }
        for ino in self.things.delta.inodes.keys() {
            touched.insert(self.things.thing(*ino)?);
        }
        for thing in touched {
            let base = self.version(Which::Base, thing)?;
            let ours = self.version(Which::Ours, thing)?;
            let theirs = self.version(Which::Theirs, thing)?;
            match (base, ours, theirs) {
                (_, None, None) | (None, Some(_), None) => {}
                (None, None, Some(_)) => {
                    self.brought.insert(thing);
                    self.arrive(thing, self.things.names(Which::Theirs, thing)?);
                }
                (None, Some((a, x)), Some((b, y))) => self.added_twice(thing, (a, &x), (b, &y))?,
                (Some((o, w)), Some((a, x)), None) => self.removed_by_theirs(thing, (o, &w), (a, &x))?,
                (Some((o, w)), None, Some((b, y))) => self.removed_by_ours(thing, (o, &w), (b, &y))?,
                (Some((o, w)), Some((a, x)), Some((b, y))) => {
                    let (base, ours, theirs) =
                        ((self.things.base, o, &*w), (self.things.ours, a, &*x), (self.things.theirs, b, &*y));
                    let changed = self.changed(base, ours)? || self.changed(base, theirs)?;
                    self.names(thing, changed)?;
                    self.content(thing, base, ours, theirs)?;
                    self.attributes(thing, base, ours, theirs)?;
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, thing: Ino, names: BTreeSet<Place>) {
        self.here.extend(names.into_iter().map(|place| (thing, place)));
    }

    /// Something that both have and the base has not: the same inode, or an alias.
    fn added_twice(&mut self, thing: Ino, (a, x): (Ino, &InodeRow), (b, y): (Ino, &InodeRow)) -> Result<()> {
        let (ours, theirs) = ((self.things.ours, a, x), (self.things.theirs, b, y));
        if x.kind != y.kind {
            return self.conflict(ConflictKind::Type, &[thing]);
        }
        if x.kind != Kind::Dir {
            if !same_content(ours, theirs)? {
                self.conflict(ConflictKind::AddAdd, &[thing])?;
            } else if !same_attrs(ours, theirs)? {
                self.conflict(ConflictKind::Attributes, &[thing])?;
            }
            let mine = self.things.names(Which::Ours, thing)?;
            let names = self.things.names(Which::Theirs, thing)?.difference(&mine).cloned().collect();
            self.arrive(thing, names);
        }
        Ok(())
    }

    fn changed(&self, base: Version<'_, 't>, now: Version<'_, 't>) -> Result<bool> {
        Ok(base.2.kind != Kind::Dir && !same_content(base, now)? || !same_attrs(base, now)?)
    }

    /// A modify/delete is a change of type where the remover put something else there.
    fn removal_kind(&self, thing: Ino, remover: Which) -> Result<ConflictKind> {
        let Some((_, row)) = self.version(Which::Base, thing)? else { return Ok(ConflictKind::ModifyDelete) };
        for (parent, name) in self.things.names(Which::Base, thing)? {
            if let Some(dir) = self.things.actual(remover, parent)?
                && let Some((_, kind)) = self.things.state(remover).entry(dir, &name)?
                && kind != row.kind
            {
                return Ok(ConflictKind::Type);
            }
        }
        Ok(ConflictKind::ModifyDelete)
    }

    fn removed_by_theirs(&mut self, thing: Ino, (o, w): (Ino, &InodeRow), (a, x): (Ino, &InodeRow)) -> Result<()> {
        let names = self.things.names(Which::Ours, thing)?;
        if self.changed((self.things.base, o, w), (self.things.ours, a, x))? {
            let kind = self.removal_kind(thing, Which::Theirs)?;
            self.conflict(kind, &[thing])
        } else if names != self.things.names(Which::Base, thing)? {
            self.conflict(ConflictKind::RenameDelete, &[thing])
        } else {
            self.away.extend(names.into_iter().map(|place| (thing, place)));
            Ok(())
        }
    }

    fn removed_by_ours(&mut self, thing: Ino, (o, w): (Ino, &InodeRow), (b, y): (Ino, &InodeRow)) -> Result<()> {
        let moved = self.things.names(Which::Theirs, thing)? != self.things.names(Which::Base, thing)?;
        let kind = if self.changed((self.things.base, o, w), (self.things.theirs, b, y))? {
            self.removal_kind(thing, Which::Ours)?
        } else if moved {
            ConflictKind::RenameDelete
        } else {
            return Ok(());
        };
        self.blocked.insert(thing);
        self.conflict(kind, &[thing])
    }

    /// Brings theirs' names over, or tells why not. What was changed keeps one.
    fn names(&mut self, thing: Ino, changed: bool) -> Result<()> {
        let ours = self.things.names(Which::Ours, thing)?;
        let merged = match self.things.merged_names(thing)? {
            Ok(merged) => merged,
            Err(kind) => return self.conflict(kind, &[thing]),
        };
        if merged == ours {
            return Ok(());
        }
        if changed && merged.is_empty() {
            return self.conflict(ConflictKind::ModifyDelete, &[thing]);
        }
        self.away.extend(ours.difference(&merged).map(|place| (thing, place.clone())));
        self.arrive(thing, merged.difference(&ours).cloned().collect());
        Ok(())
    }

    fn content(
        &mut self,
        thing: Ino,
        base: Version<'_, 't>,
        ours: Version<'_, 't>,
        theirs: Version<'_, 't>,
    ) -> Result<()> {
        if base.2.kind == Kind::Dir || same_content(base, theirs)? || same_content(ours, theirs)? {
            return Ok(());
        }
        if same_content(base, ours)? {
            return self.changes.content(ours.1, Source::State(theirs.0, theirs.1));
        }
        if self.options.text && base.2.kind == Kind::File {
            let read = |(state, ino, row): Version<'_, 't>| state.read(ino, row, TEXT_MAX);
            if let (Some(base), Some(ours_text), Some(theirs)) = (read(base)?, read(ours)?, read(theirs)?)
                && let Some(merged) = text::merge(&base, &ours_text, &theirs)
            {
                return self.changes.content(ours.1, Source::Bytes(merged));
            }
        }
        self.conflict(ConflictKind::Content, &[thing])
    }

    fn attributes(
        &mut self,
        thing: Ino,
        base: Version<'_, 't>,
        ours: Version<'_, 't>,
        theirs: Version<'_, 't>,
    ) -> Result<()> {
        if same_attrs(base, theirs)? || same_attrs(ours, theirs)? {
            return Ok(());
        }
        if same_attrs(base, ours)? {
            self.changes.attrs(ours.1, theirs.0, theirs.1);
            return Ok(());
        }
        self.conflict(ConflictKind::Attributes, &[thing])
    }

    /// The inode that a thing has in the result.
    fn result(&self, thing: Ino) -> Result<Option<Ino>> {
        if let Some(ino) = self.things.actual(Which::Ours, thing)? {
            return Ok(Some(ino));
        }
        if self.brought.contains(&thing) && !self.blocked.contains(&thing) {
            return self.things.actual(Which::Theirs, thing);
        }
        Ok(None)
    }

    /// Puts names where they belong: first what goes, then what comes, from the root down.
    fn place(&mut self) -> Result<()> {
        for (_, (parent, name)) in std::mem::take(&mut self.away) {
            if let Some(dir) = self.things.actual(Which::Ours, parent)? {
                self.changes.set(&(dir, name), None)?;
            }
        }
        let mut here = Vec::new();
        for (thing, place) in std::mem::take(&mut self.here) {
            here.push((self.things.depth(Which::Theirs, place.0)?, place, thing));
        }
        here.sort_unstable();
        for (_, (parent, name), thing) in here {
            if self.blocked.contains(&parent) && self.things.actual(Which::Ours, parent)?.is_none() {
                self.give_up(thing)?;
                // A removed directory is in conflict because of what theirs put into it.
                self.involve(parent, thing)?;
                continue;
            }
            let Some(dir) = self.result(parent)? else {
                self.conflict(ConflictKind::ModifyDelete, &[parent, thing])?;
                self.blocked.insert(parent);
                self.give_up(thing)?;
                continue;
            };
            let place = (dir, name);
            let Some(ino) = self.result(thing)? else { continue };
            let Some(kind) = self.kind(thing)? else { continue };
            if let Some(occupant) = self.changes.entry(&place)?.filter(|(other, _)| *other != ino) {
                self.collision(thing, kind, occupant)?;
                self.give_up(thing)?;
                continue;
            }
            if self.brought.contains(&thing) {
                self.changes.bring(ino, self.things.theirs, ino)?;
            }
            self.changes.set(&place, Some((ino, kind)))?;
        }
        Ok(())
    }

    fn kind(&self, thing: Ino) -> Result<Option<Kind>> {
        for which in [Which::Theirs, Which::Ours] {
            if let Some((_, row)) = self.version(which, thing)? {
                return Ok(Some(row.kind));
            }
        }
        Ok(None)
    }

    /// Leaves a thing as ours has it, or out.
    fn give_up(&mut self, thing: Ino) -> Result<()> {
        match self.things.actual(Which::Ours, thing)? {
            Some(ino) => self.put_back(ino),
            None => {
                self.blocked.insert(thing);
                Ok(())
            }
        }
    }

    /// Gives an inode of ours the names that it has there.
    fn put_back(&mut self, ino: Ino) -> Result<()> {
        let Some(row) = self.things.ours.inode(ino)? else { return Ok(()) };
        let names: BTreeSet<Place> = self.things.ours.names(ino)?.into_iter().collect();
        for place in self.changes.names(ino)?.difference(&names) {
            self.changes.set(place, None)?;
        }
        for place in names {
            let occupant = self.changes.entry(&place)?.filter(|(other, _)| *other != ino);
            self.changes.set(&place, Some((ino, row.kind)))?;
            if let Some((other, kind)) = occupant {
                // Something of theirs has come there meanwhile: it goes back too, or stays out.
                let thing = self.things.thing(other)?;
                self.collision(thing, kind, (ino, row.kind))?;
                self.give_up(thing)?;
            }
        }
        Ok(())
    }

    /// Two different things claim one name.
    fn collision(&mut self, thing: Ino, kind: Kind, (other, other_kind): (Ino, Kind)) -> Result<()> {
        let other = self.things.thing(other)?;
        let is_new = |thing| -> Result<bool> { Ok(self.things.actual(Which::Base, thing)?.is_none()) };
        let conflict = if (kind == Kind::Dir) != (other_kind == Kind::Dir) {
            ConflictKind::DirectoryFile
        } else if !is_new(thing)? && !is_new(other)? {
            ConflictKind::RenameRename
        } else {
            ConflictKind::AddAdd
        };
        // What stands there may be in conflict already, as something that theirs replaced.
        if let Some(known) = self.conflict_of(other) {
            let triple = self.things.triple(thing)?;
            if let Some(conflict) = self.conflicts.get_mut(known) {
                conflict.ids.push(triple);
                if conflict.theirs.is_none() {
                    conflict.theirs = side_of(self.things.theirs, triple.theirs)?;
                }
            }
            return Ok(());
        }
        self.conflict(conflict, &[other, thing])
    }

    /// The conflict about where a thing of ours is, or whether.
    fn conflict_of(&self, thing: Ino) -> Option<usize> {
        let ours = self.things.actual(Which::Ours, thing).ok().flatten()?;
        let about = |conflict: &Conflict| {
            !matches!(conflict.kind, ConflictKind::Content | ConflictKind::Attributes)
                && conflict.ids.iter().any(|triple| triple.ours == Some(ours))
        };
        self.conflicts.iter().position(about)
    }

    /// Adds a thing to the conflict that its directory is in.
    fn involve(&mut self, parent: Ino, thing: Ino) -> Result<()> {
        let (parent, child) = (self.things.triple(parent)?, self.things.triple(thing)?);
        for conflict in &mut self.conflicts {
            if conflict.ids.contains(&parent) && child.ours.is_some() && !conflict.ids.contains(&child) {
                conflict.ids.push(child);
            }
        }
        Ok(())
    }

    fn conflict(&mut self, kind: ConflictKind, things: &[Ino]) -> Result<()> {
        let mut conflict = Conflict {
            kind,
            path: Default::default(),
            base: None,
            ours: None,
            theirs: None,
            ids: Vec::new(),
            resolved: None,
        };
        for thing in things {
            let triple = self.things.triple(*thing)?;
            let pick = |side: &mut Option<_>, state: &State<'_>, ino: Option<Ino>| -> Result<()> {
                if side.is_none() {
                    *side = side_of(state, ino)?;
                }
                Ok(())
            };
            pick(&mut conflict.base, self.things.base, triple.base)?;
            pick(&mut conflict.ours, self.things.ours, triple.ours)?;
            pick(&mut conflict.theirs, self.things.theirs, triple.theirs)?;
            conflict.ids.push(triple);
        }
        let shown = [&conflict.ours, &conflict.theirs, &conflict.base].into_iter().flatten().next();
        conflict.path = shown.map(|side| side.path.clone()).unwrap_or_default();
        let known = |other: &Conflict| other.kind == kind && other.ids.first() == conflict.ids.first();
        if !self.conflicts.iter().any(known) {
            self.conflicts.push(conflict);
        }
        Ok(())
    }

    /// Finds what would break the tree's rules, leaves it as ours has it, and tells.
    fn mend(&mut self) -> Result<()> {
        let mut quiet: BTreeSet<Ino> = BTreeSet::new();
        for _ in 0..ROUNDS {
            let faults = self.changes.faults()?;
            if faults.is_empty() {
                break;
            }
            for fault in faults {
                match fault {
                    Fault::NotEmpty(dir) => {
                        let children: Vec<Ino> = self.changes.list(dir)?.into_values().map(|(ino, _)| ino).collect();
                        if !children.iter().any(|child| quiet.contains(child)) {
                            self.conflict(ConflictKind::ModifyDelete, &[self.things.thing(dir)?])?;
                        }
                        quiet.insert(dir);
                        self.put_back(dir)?;
                    }
                    Fault::Cycle(dir) | Fault::TwoNames(dir) => {
                        self.conflict(ConflictKind::DirectoryCycle, &[self.things.thing(dir)?])?;
                        self.put_back(dir)?;
                    }
                    Fault::Orphan(place) | Fault::Dangling(place) => self.orphan(&place, &mut quiet)?,
                }
            }
        }
        for conflict in &self.conflicts {
            quiet.extend(conflict.ids.iter().filter_map(|triple| triple.ours));
        }
        Ok(())
    }

    /// An entry whose directory is gone: the directory stays if it is ours, else the entry goes.
    fn orphan(&mut self, place: &Place, quiet: &mut BTreeSet<Ino>) -> Result<()> {
        if self.things.ours.alive(place.0)? && !self.changes.alive(place.0)? {
            if !quiet.contains(&place.0) {
                self.conflict(ConflictKind::ModifyDelete, &[self.things.thing(place.0)?])?;
            }
            quiet.insert(place.0);
            return self.put_back(place.0);
        }
        if let Some((ino, _)) = self.changes.entry(place)? {
            self.changes.set(place, None)?;
            if self.things.ours.alive(ino)? {
                self.put_back(ino)?;
            }
            self.conflict(ConflictKind::ModifyDelete, &[self.things.thing(ino)?])?;
        }
        Ok(())
    }

    /// Lets a strategy decide the conflicts.
    fn settle(&mut self) -> Result<()> {
        let Some(take) = self.options.take else { return Ok(()) };
        let which = match take {
            Take::Ours => Which::Ours,
            Take::Theirs => Which::Theirs,
            Take::Base => Which::Base,
        };
        let mut decided: Vec<Conflict> = Vec::new();
        // Deciding one may bring others about: they are decided alike, once; then the tree's rules have the last word.
        while !self.conflicts.is_empty() {
            for mut conflict in std::mem::take(&mut self.conflicts) {
                if which != Which::Ours {
                    super::take::take(&mut self.changes, &self.things, which, &conflict)?;
                }
                conflict.resolved = Some(if which == Which::Theirs { Resolution::Theirs } else { Resolution::Ours });
                decided.push(conflict);
            }
            self.mend()?;
            let new = |c: &Conflict| !decided.iter().any(|known| known.kind == c.kind && known.ids == c.ids);
            self.conflicts.retain(new);
        }
        self.conflicts = decided;
        Ok(())
    }
}

/// Counts conflicts by path, for tests and messages.
pub(crate) fn unresolved(conflicts: &[Conflict]) -> Vec<Conflict> {
    let mut by_path: BTreeMap<(Vec<u8>, ConflictKind), Conflict> = BTreeMap::new();
    for conflict in conflicts.iter().filter(|conflict| conflict.resolved.is_none()) {
        by_path.insert((conflict.path.0.clone(), conflict.kind), conflict.clone());
    }
    by_path.into_values().collect()
}
