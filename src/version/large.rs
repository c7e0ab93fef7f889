//! Commits of many changes: written ahead of their event, so that nobody waits for all of them at once.
//!
//! What was decided on the target as it was at one point holds later where others have touched nothing that it
//! depends on. Directories that both changed are worked out anew at the very end, from what they are then.

use rustc_hash::FxHashSet;

use super::error::Result;
use super::readset::ReadSet;
use super::state::{Place, State, snapshot};
use crate::engine::{Engine, EventDraft, FsError};
use crate::store::{InodeRow, Mutation, Touched};
use crate::types::{BranchId, Caller, Ino, Kind, Seq, Timestamp, View};

/// Looks at what others did before their writers are held for the last step.
const ROUNDS: u32 = 2;

/// The rows of a commit, by when they are written.
pub(crate) struct Plan {
    /// Written ahead.
    staged: Vec<Mutation>,
    /// Written with the event.
    rest: Vec<Mutation>,
    /// Directories that were there before: as they were, and as they are to be.
    dirs: Vec<(Ino, InodeRow, Box<InodeRow>)>,
    /// Inodes, entries and directories of entries that are written.
    inodes: FxHashSet<Ino>,
    entries: FxHashSet<Place>,
    parents: FxHashSet<Ino>,
    /// Whether a directory gets another place.
    moves: bool,
}

impl Plan {
    /// Sorts the rows of a commit on top of a head.
    pub fn new(mutations: Vec<Mutation>, head: &State<'_>) -> Result<Plan> {
        let mut plan = Plan {
            staged: Vec::with_capacity(mutations.len()),
            rest: Vec::new(),
            dirs: Vec::new(),
            inodes: FxHashSet::default(),
            entries: FxHashSet::default(),
            parents: FxHashSet::default(),
            moves: false,
        };
        let mut kept: Option<Ino> = None;
        for mutation in mutations {
            match mutation {
                Mutation::Inode { ino, row: Some(row), branch, at } => {
                    if row.kind == Kind::Dir
                        && let Some(old) = head.inode(ino)?
                    {
                        kept = Some(ino);
                        plan.dirs.push((ino, InodeRow::clone(&old), row));
                    } else {
                        plan.inodes.insert(ino);
                        plan.staged.push(Mutation::Inode { ino, row: Some(row), branch, at });
                    }
                }
                Mutation::Inode { ino, row: None, .. } => {
                    plan.inodes.insert(ino);
                    plan.staged.push(mutation);
                }
                Mutation::Entry { parent, ref name, ref row, .. } => {
                    plan.entries.insert((parent, name.clone()));
                    plan.parents.insert(parent);
                    if let Some(row) = row
                        && row.kind == Kind::Dir
                    {
                        plan.moves |= head.inode(row.ino)?.is_some();
                    }
                    plan.staged.push(mutation);
                }
                Mutation::Xattr { ino, .. } if kept == Some(ino) => plan.rest.push(mutation),
                Mutation::Xattr { .. } | Mutation::Extent { .. } | Mutation::ExtentsFrom { .. } => {
                    plan.staged.push(mutation);
                }
                other => plan.rest.push(other),
            }
        }
        Ok(plan)
    }

    /// Whether what others touched meanwhile could make the commit another one.
    fn is_disturbed(&self, touched: &Touched, head: &State<'_>, reads: Option<&ReadSet>) -> Result<bool> {
        let xattrs = touched.xattrs.iter().map(|(ino, _)| ino);
        let extents = touched.extents.iter().map(|(ino, _)| ino);
        for ino in touched.inodes.iter().chain(xattrs).chain(extents) {
            if self.inodes.contains(ino) || (self.parents.contains(ino) && head.inode(*ino)?.is_none()) {
                return Ok(true);
            }
        }
        for place in &touched.entries {
            if self.entries.contains(place) || self.inodes.contains(&place.0) {
                return Ok(true);
            }
            if self.moves && head.entry(place.0, &place.1)?.is_some_and(|(_, kind)| kind == Kind::Dir) {
                return Ok(true);
            }
        }
        Ok(reads.is_some_and(|reads| reads.is_touched(touched)))
    }

    /// The rows of directories on top of what they are now; `None` where one cannot be had.
    fn dirs(&self, head: &State<'_>) -> Result<Option<Vec<Mutation>>> {
        let mut rows = Vec::with_capacity(self.dirs.len());
        for (ino, old, new) in &self.dirs {
            let Some(now) = head.inode(*ino)? else { return Ok(None) };
            let own_attrs = new.attr_seq != old.attr_seq;
            if own_attrs && now.attr_seq != old.attr_seq {
                return Ok(None);
            }
            let mut row = InodeRow::clone(&now);
            if own_attrs {
                (row.perm, row.uid, row.gid, row.attr_seq) = (new.perm, new.uid, new.gid, new.attr_seq);
            }
            let links = i64::from(now.nlink) + i64::from(new.nlink) - i64::from(old.nlink);
            row.nlink = u32::try_from(links).unwrap_or(2).max(2);
            row.atime = if new.atime == old.atime { now.atime } else { new.atime };
            row.mtime = later(old.mtime, new.mtime, now.mtime);
            row.ctime = later(old.ctime, new.ctime, now.ctime);
            row.predecessor = new.predecessor.or(now.predecessor);
            row.process = new.process;
            let branch = head.view.branch;
            rows.push(Mutation::Inode { branch, at: Seq::MAX, ino: *ino, row: Some(Box::new(row)) });
        }
        Ok(Some(rows))
    }

    /// Writes it ahead and makes it visible; `None` where others came in between in a way that needs another look.
    pub fn commit(
        mut self,
        engine: &Engine,
        branch: BranchId,
        point: Seq,
        draft: &EventDraft,
        reads: Option<&ReadSet>,
        caller: &Caller,
    ) -> Result<Option<Seq>> {
        let mut stage = engine.stage(branch, self.staged.len(), caller)?;
        match stage.write(std::mem::take(&mut self.staged)) {
            Ok(()) => {}
            Err(FsError::WouldBlock) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut seen = point;
        for round in 0.. {
            // What came while the rows were written is looked at beside the writers, the little after that is not.
            let hold = (round + 1 >= ROUNDS).then(|| engine.hold(branch));
            let now = engine.seal(Some(branch))?;
            let txn = snapshot(engine)?;
            let head = State::new(engine, &*txn, View::live(branch))?;
            if self.is_disturbed(&txn.touched(branch, seen, now)?, &head, reads)? {
                return Ok(None);
            }
            seen = now;
            if hold.is_none() {
                continue;
            }
            let Some(mut rest) = self.dirs(&head)? else { return Ok(None) };
            rest.extend(self.rest.iter().cloned());
            let mut validate = |last: Seq| if last > now { Err(FsError::WouldBlock) } else { Ok(()) };
            match stage.publish(rest, draft.clone(), &mut validate, caller) {
                Ok(seq) => return Ok(Some(seq)),
                Err(FsError::WouldBlock) if round < 8 * ROUNDS => {}
                Err(FsError::WouldBlock) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// A time of a directory that the commit changed from one value to another and that is a third one now.
fn later(old: Timestamp, new: Timestamp, now: Timestamp) -> Timestamp {
    if new == old {
        now
    } else if now == old {
        new
    } else {
        now.max(new)
    }
}
