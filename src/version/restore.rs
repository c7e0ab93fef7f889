//! Bringing a path, a tree or a whole branch back to what it was, as a new transaction.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::changeset::{Changeset, Source};
use super::conflict::Detail;
use super::delta::{self, Delta};
use super::diff::Summary;
use super::error::{ErrorKind, Result, VersionError, show};
use super::state::{Found, Place, State, components, same_attrs, same_content, snapshot};
use super::txn::{self, Whole};
use crate::engine::{Engine, FsError};
use crate::store::TxnKind;
use crate::types::{BranchId, Caller, Ino, Kind, Name, Seq, TxnId, View};

/// How often a restore is tried beside running writers before it holds them for a moment.
const ATTEMPTS: u32 = 2;

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RestoreOutcome {
    /// It is as it was.
    Restored {
        /// The transaction that did it.
        txn: TxnId,
        /// Its event.
        seq: Seq,
        /// What changed by it.
        summary: Summary,
    },
    /// It was so already.
    Unchanged,
}

/// Brings a path of a branch back to a state, times and modes included; a directory with all that
/// is below it, and without what was not there then.
///
/// # Errors
/// [`ErrorKind::NotFound`] where nothing was at the path then.
pub fn restore(
    engine: &Engine,
    branch: BranchId,
    path: &[u8],
    at: View,
    message: &str,
    caller: &Caller,
) -> Result<RestoreOutcome> {
    let names = components(path)?;
    apply(engine, branch, at, message, caller, &mut |restorer| restorer.path(path, &names))
}

/// Brings a whole branch back to a state.
///
/// # Errors
/// Those of the store.
pub fn rollback_to(
    engine: &Engine,
    branch: BranchId,
    at: View,
    message: &str,
    caller: &Caller,
) -> Result<RestoreOutcome> {
    apply(engine, branch, at, message, caller, &mut |restorer| restorer.everything())
}

fn apply(
    engine: &Engine,
    branch: BranchId,
    at: View,
    message: &str,
    caller: &Caller,
    work: &mut dyn FnMut(&mut Restorer<'_, '_>) -> Result<()>,
) -> Result<RestoreOutcome> {
    super::diff::seal(engine, &[at])?;
    for attempt in 1.. {
        let hold = (attempt > ATTEMPTS).then(|| engine.hold(branch));
        let point = engine.seal(Some(branch))?;
        let txn = snapshot(engine)?;
        let head = State::new(engine, &*txn, View::live(branch))?;
        let then = State::new(engine, &*txn, at)?;
        let keys = delta::keys(&*txn, &delta::stretches(&head.lineage, &then.lineage))?;
        let delta = Delta::of_keys(&head, &then, &keys)?;
        let touched = keys.inodes.into_iter().chain(delta.inodes.keys().copied()).collect();
        let mut restorer = Restorer {
            engine,
            head: &head,
            then: &then,
            changes: Changeset::new(&head, engine.point().1),
            delta,
            touched,
            marked: BTreeSet::new(),
            copies: BTreeMap::new(),
            detached: BTreeSet::new(),
            top: None,
        };
        work(&mut restorer)?;
        if let Some(fault) = restorer.changes.faults()?.first() {
            return Err(VersionError::new(ErrorKind::State, format!("the result would break the tree: {fault:?}")));
        }
        let mutations = restorer.changes.mutations()?;
        if mutations.is_empty() {
            return Ok(RestoreOutcome::Unchanged);
        }
        let detail = Detail::default();
        let whole = Whole { kind: TxnKind::Restore, target: branch, point, message: message.to_owned(), detail };
        match txn::apply_whole(engine, whole, mutations, caller) {
            Ok((txn, seq)) => {
                let summary = txn::summary_of(engine, branch, seq)?;
                return Ok(RestoreOutcome::Restored { txn, seq, summary });
            }
            Err(FsError::WouldBlock) => drop(hold),
            Err(error) => return Err(error.into()),
        }
    }
    Err(VersionError::new(ErrorKind::State, "the restore could not be committed"))
}

struct Restorer<'e, 't> {
    engine: &'e Engine,
    head: &'t State<'t>,
    then: &'t State<'t>,
    changes: Changeset<'t>,
    /// From the present to what it shall be.
    delta: Delta,
    /// Inodes of which anything may differ, times too.
    touched: BTreeSet<Ino>,
    /// Directories that hold, at any depth, something that differs.
    marked: BTreeSet<Ino>,
    /// New numbers for inodes that live on elsewhere.
    copies: BTreeMap<Ino, Ino>,
    /// Inodes whose name inside the restored tree went.
    detached: BTreeSet<Ino>,
    /// The directory that is restored with all that is below it.
    top: Option<Ino>,
}

impl Restorer<'_, '_> {
    fn everything(&mut self) -> Result<()> {
        for ino in std::mem::take(&mut self.touched) {
            self.as_then(ino, ino)?;
        }
        let entries: Vec<(Place, Option<Found>)> =
            self.delta.entries.iter().map(|(place, (_, new))| (place.clone(), *new)).collect();
        for (place, found) in entries {
            self.changes.set(&place, found)?;
            self.dir_times(place.0, place.0)?;
        }
        Ok(())
    }

    fn path(&mut self, path: &[u8], names: &[Name]) -> Result<()> {
        let Some(found) = self.then.resolve(path)? else {
            let what = format!("nothing was at {:?} then", show(path));
            return Err(VersionError::new(ErrorKind::NotFound, what).hint("'stone history PATH' lists its versions"));
        };
        self.mark()?;
        let Some((name, dirs)) = names.split_last() else {
            self.top = Some(Ino::ROOT);
            self.as_then(Ino::ROOT, Ino::ROOT)?;
            self.detach(Ino::ROOT, Ino::ROOT)?;
            self.attach(Ino::ROOT, Ino::ROOT)?;
            return self.sweep();
        };
        // The directories above come back where they are gone, without what else was in them.
        let (mut dir, mut then_dir) = (Ino::ROOT, Ino::ROOT);
        for name in dirs {
            let Some((was, Kind::Dir)) = self.then.entry(then_dir, name)? else { return Ok(()) };
            dir = match self.changes.entry(&(dir, name.clone()))? {
                Some((ino, Kind::Dir)) => ino,
                Some(_) => {
                    let what = format!("{:?} is a file now, in the way of {:?}", show(name.as_bytes()), show(path));
                    return Err(VersionError::new(ErrorKind::Exists, what));
                }
                None => self.put(&(dir, name.clone()), (was, Kind::Dir))?,
            };
            then_dir = was;
        }
        let place = (dir, name.clone());
        self.top = match self.changes.entry(&place)? {
            Some((ino, Kind::Dir)) if found.1 == Kind::Dir => Some(ino),
            _ => None,
        };
        self.detach_at(&place, Some(found))?;
        self.attach_at(&place, found)?;
        self.sweep()
    }

    /// Finds the directories above everything that differs, on both sides.
    fn mark(&mut self) -> Result<()> {
        let mut work: Vec<Ino> = self.delta.entries.keys().map(|(parent, _)| *parent).collect();
        work.extend(self.delta.inodes.keys());
        for ino in &self.touched {
            if let (Some(now), Some(then)) = (self.head.inode(*ino)?, self.then.inode(*ino)?)
                && (now.atime, now.mtime) != (then.atime, then.mtime)
            {
                work.push(*ino);
            }
        }
        while let Some(ino) = work.pop() {
            if self.marked.insert(ino) {
                for state in [self.head, self.then] {
                    work.extend(state.names(ino)?.into_iter().map(|(parent, _)| parent));
                }
            }
        }
        Ok(())
    }

    /// Takes away the names that a place and what is below it had not then.
    fn detach_at(&mut self, place: &Place, then: Option<Found>) -> Result<()> {
        let Some((ino, kind)) = self.changes.entry(place)? else { return Ok(()) };
        match then {
            Some((was, Kind::Dir)) if kind == Kind::Dir => self.detach(ino, was),
            Some((was, _)) if was == ino => Ok(()),
            _ => {
                self.detached.insert(ino);
                self.changes.set(place, None)
            }
        }
    }

    fn detach(&mut self, dir: Ino, was: Ino) -> Result<()> {
        if dir == was && !self.marked.contains(&dir) {
            return Ok(());
        }
        for name in self.changes.list(dir)?.into_keys() {
            let then = self.then.entry(was, &name)?;
            self.detach_at(&(dir, name), then)?;
        }
        Ok(())
    }

    /// Puts back what a place had, and what was below it.
    fn attach_at(&mut self, place: &Place, (was, kind): Found) -> Result<()> {
        let ino = match self.changes.entry(place)? {
            Some((ino, Kind::Dir)) if kind == Kind::Dir => {
                self.as_then(ino, was)?;
                ino
            }
            Some((ino, _)) if ino == was => {
                self.as_then(ino, was)?;
                ino
            }
            _ => {
                let ino = self.put(place, (was, kind))?;
                if kind == Kind::Dir {
                    self.detach(ino, was)?; // it comes from elsewhere, with what it has there
                }
                ino
            }
        };
        if kind == Kind::Dir { self.attach(ino, was) } else { Ok(()) }
    }

    fn attach(&mut self, dir: Ino, was: Ino) -> Result<()> {
        if dir == was && !self.marked.contains(&dir) {
            return Ok(());
        }
        for entry in self.then.entries(was)? {
            self.attach_at(&(dir, entry.name), (entry.ino, entry.kind))?;
        }
        self.dir_times(dir, was)
    }

    /// Gives a place an inode of then: itself where it is nowhere else now, else a copy.
    fn put(&mut self, place: &Place, (was, kind): Found) -> Result<Ino> {
        let ino = match self.copies.get(&was) {
            Some(copy) => *copy,
            None if self.changes.is_reachable(was)? && self.changes.names(was)? != [place.clone()].into() => {
                if self.then_names_are_inside(was)? {
                    was
                } else {
                    let copy = self.engine.next_ino();
                    self.copies.insert(was, copy);
                    copy
                }
            }
            None => was,
        };
        if ino == was && self.head.inode(ino)?.is_some() {
            self.as_then(ino, was)?;
        } else {
            self.changes.bring(ino, self.then, was)?;
        }
        self.changes.set(place, Some((ino, kind)))?;
        Ok(ino)
    }

    /// Whether a file keeps a name in what is restored, so that it is restored in place with all of its hard links
    /// there, or has no name but those that it had then.
    fn then_names_are_inside(&self, ino: Ino) -> Result<bool> {
        if self.then.inode(ino)?.is_none_or(|row| row.kind == Kind::Dir) {
            return Ok(false);
        }
        let (then, now) = (self.then.names(ino)?, self.changes.names(ino)?);
        for place in &now {
            if self.is_inside(place.0)? {
                return Ok(true);
            }
        }
        for place in now {
            // What is below a directory that went goes with it.
            if !then.contains(&place) && self.changes.is_reachable(place.0)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a directory is the one that is restored, or below it.
    fn is_inside(&self, dir: Ino) -> Result<bool> {
        let mut at = dir;
        let mut seen = BTreeSet::new();
        while self.top.is_some() && seen.insert(at) {
            if Some(at) == self.top {
                return Ok(true);
            }
            match self.changes.names(at)?.first() {
                Some((parent, _)) => at = *parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Gives an inode the content, attributes and times that another had.
    fn as_then(&mut self, ino: Ino, was: Ino) -> Result<()> {
        let (Some(now), Some(row)) = (self.head.inode(ino)?, self.then.inode(was)?) else {
            if self.then.inode(was)?.is_some() {
                self.changes.bring(ino, self.then, was)?;
            }
            return Ok(());
        };
        if row.kind != Kind::Dir && !same_content((self.head, ino, &now), (self.then, was, &row))? {
            self.changes.content(ino, Source::State(self.then, was))?;
        }
        if !same_attrs((self.head, ino, &now), (self.then, was, &row))? {
            self.changes.attrs(ino, self.then, was);
        }
        let back = |then, now| (then != now).then_some(then);
        let (atime, mtime) = (back(row.atime, now.atime), back(row.mtime, now.mtime));
        if atime.is_some() || mtime.is_some() {
            self.changes.times(ino, atime, mtime);
        }
        Ok(())
    }

    fn dir_times(&mut self, dir: Ino, was: Ino) -> Result<()> {
        if let Some(row) = self.then.inode(was)? {
            self.changes.dir_times(dir, row.mtime, self.changes.now);
        }
        Ok(())
    }

    /// Removes what is left below directories that lost their name.
    fn sweep(&mut self) -> Result<()> {
        for ino in std::mem::take(&mut self.detached) {
            let is_dir = self.head.inode(ino)?.is_some_and(|row| row.kind == Kind::Dir);
            if is_dir && !self.changes.alive(ino)? {
                for name in self.changes.list(ino)?.into_keys() {
                    self.changes.remove_tree(&(ino, name))?;
                }
            }
        }
        Ok(())
    }
}
