//! Undo and redo: the inverse of what was changed, and of nothing else, as a new transaction.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::changeset::{Changeset, Fault, Source};
use super::conflict::{Conflict, ConflictKind, Detail, UndoDetail};
use super::delta::{Delta, InodeDelta, Stretch, keys};
use super::diff::Summary;
use super::error::{ErrorKind, Result, VersionError};
use super::state::{Place, State, same_attrs, same_content, snapshot};
use super::txn::{self, Whole, side_of};
use crate::engine::{Engine, FsError};
use crate::store::{EventFilter, EventRow, Mutation, ReadTxn, TxnKind, TxnRow, TxnState};
use crate::types::{BranchId, Caller, Ino, Kind, Op, ProcId, Seq, TxnId, View};

/// How often an undo is tried beside running writers before it holds them for a moment.
const ATTEMPTS: u32 = 2;
/// How many events are looked at in one step when searching the newest change.
const PAGE: usize = 1000;

/// What is to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndoTarget {
    /// The newest change of the branch that is not undone yet.
    Newest,
    /// One event.
    Event(Seq),
    /// One transaction.
    Txn(TxnId),
    /// Everything that a process changed on the branch.
    Process(ProcId),
    /// The same, with every process that it started, and those that they started.
    Tree(ProcId),
}

/// What an undo or redo did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum UndoOutcome {
    /// It was taken back (or brought back).
    Done {
        /// The transaction that did it.
        txn: TxnId,
        /// Its event.
        seq: Seq,
        /// The events that were taken back.
        events: Vec<Seq>,
        /// The transaction that was taken back.
        of: Option<TxnId>,
        /// What changed by it.
        summary: Summary,
    },
    /// Others have changed the same things since; nothing was done.
    Refused {
        /// What they changed.
        conflicts: Vec<Conflict>,
    },
}

/// A stretch of events that is taken back as one: `(after, upto]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    after: Seq,
    upto: Seq,
}

/// What an undo works on.
struct Task {
    kind: TxnKind,
    /// Newest first.
    units: Vec<Unit>,
    detail: UndoDetail,
}

/// Takes a change back on a branch, as a new transaction.
///
/// # Errors
/// [`ErrorKind::NotFound`] where there is nothing (left) to undo; those of the store.
pub fn undo(
    engine: &Engine,
    branch: BranchId,
    target: UndoTarget,
    force: bool,
    message: &str,
    caller: &Caller,
) -> Result<UndoOutcome> {
    let mut find = |upto: Option<Seq>| match upto {
        None => task(engine, branch, target).map(Some),
        // Only the newest change is looked for any further.
        Some(_) if target != UndoTarget::Newest => Ok(None),
        Some(upto) => newest(engine, branch, &committed(engine, branch), Some(upto)).map(Some),
    };
    attempt(engine, branch, force, message, caller, &mut find)
}

/// Brings back what the last undo took away.
///
/// # Errors
/// [`ErrorKind::NotFound`] where no undo is left to take back.
pub fn redo(engine: &Engine, branch: BranchId, force: bool, message: &str, caller: &Caller) -> Result<UndoOutcome> {
    attempt(engine, branch, force, message, caller, &mut |upto| match upto {
        None => redo_task(engine, branch).map(Some),
        Some(_) => Ok(None),
    })
}

/// Takes back what `find` finds: first without a limit, then, as long as that has no effect, at or below one, until
/// it finds nothing else.
fn attempt(
    engine: &Engine,
    branch: BranchId,
    force: bool,
    message: &str,
    caller: &Caller,
    find: &mut dyn FnMut(Option<Seq>) -> Result<Option<Task>>,
) -> Result<UndoOutcome> {
    let mut hold = None;
    for attempt in 1.. {
        if attempt > ATTEMPTS && hold.is_none() {
            hold = Some(engine.hold(branch));
        }
        let point = engine.seal(Some(branch))?;
        let txn = snapshot(engine)?;
        let head = State::new(engine, &*txn, View::live(branch))?;
        let Some(mut task) = find(None)? else { break };
        let taken = loop {
            let taken = take_back(engine, &*txn, &head, &task.units, force)?;
            if !taken.conflicts.is_empty() {
                return Ok(UndoOutcome::Refused { conflicts: taken.conflicts });
            }
            if !taken.mutations.is_empty() {
                break taken;
            }
            let oldest = task.units.last().map_or(Seq::ZERO, |unit| unit.after);
            match find(Some(last_rows(&*txn, branch, oldest)?))? {
                Some(older) => task = older,
                None => break taken,
            }
        };
        // An undo that had no effect is redone all the same, or the ones before it could not be.
        if !taken.any && task.kind != TxnKind::Redo {
            let what = match task.detail.events.as_slice() {
                [seq] => format!("e{seq} has no version of its own to take back"),
                _ => "nothing was changed that could be taken back".to_owned(),
            };
            let hint = "changes that followed a creation at once belong to its version; 'stone log' shows it";
            return Err(VersionError::new(ErrorKind::NotFound, what).hint(hint));
        }
        let (events, of) = (task.detail.events.clone(), task.detail.txn);
        let detail = Detail { undo: Some(task.detail), ..Detail::default() };
        let whole = Whole { kind: task.kind, target: branch, point, message: message.to_owned(), detail };
        match txn::apply_whole(engine, whole, taken.mutations, caller) {
            Ok((txn, seq)) => {
                let summary = txn::summary_of(engine, branch, seq)?;
                return Ok(UndoOutcome::Done { txn, seq, events, of, summary });
            }
            Err(FsError::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VersionError::new(ErrorKind::State, "the undo could not be committed"))
}

/// What takes changes back.
struct Taken {
    mutations: Vec<Mutation>,
    conflicts: Vec<Conflict>,
    /// Whether they had changed anything.
    any: bool,
}

/// Finds what takes stretches of events back, newest first.
fn take_back(engine: &Engine, txn: &dyn ReadTxn, head: &State<'_>, units: &[Unit], force: bool) -> Result<Taken> {
    let mut states = Vec::new();
    for unit in units {
        let before = State::new(engine, txn, View::as_of(head.view.branch, unit.after))?;
        let after = State::new(engine, txn, View::as_of(head.view.branch, unit.upto))?;
        states.push((before, after));
    }
    let mut inverse =
        Inverse { changes: Changeset::new(head, engine.point().1), force, conflicts: Vec::new(), any: false };
    for (before, after) in &states {
        inverse.take_back(before, after)?;
    }
    inverse.rules()?;
    let Inverse { changes, conflicts, any, .. } = inverse;
    let mutations = if conflicts.is_empty() { changes.mutations()? } else { Vec::new() };
    Ok(Taken { mutations, conflicts, any })
}

/// The newest point, at or before one, at which a branch has rows of its own: versions that several events share lie
/// at one of them, and there can be any number of the others.
fn last_rows(txn: &dyn ReadTxn, branch: BranchId, upto: Seq) -> Result<Seq> {
    let (mut upto, mut step) = (upto.0, 1);
    while upto > 0 {
        let after = upto.saturating_sub(step);
        let stretch = Stretch { branch, after: Seq(after), upto: Seq(upto) };
        if keys(txn, &[stretch])?.is_empty() {
            (upto, step) = (after, step.saturating_mul(2));
        } else if step == 1 {
            break;
        } else {
            step = 1;
        }
    }
    Ok(Seq(upto))
}

/// Whether an event changed the tree by itself.
fn is_change(op: Op) -> bool {
    match op {
        Op::Create
        | Op::Mkdir
        | Op::Mknod
        | Op::Symlink
        | Op::Link
        | Op::Unlink
        | Op::Rmdir
        | Op::Rename
        | Op::Exchange
        | Op::Write
        | Op::Truncate
        | Op::Fallocate
        | Op::Copy
        | Op::Chmod
        | Op::Chown
        | Op::Utimens
        | Op::Setxattr
        | Op::Removexattr
        | Op::Commit
        | Op::Merge => true,
        Op::Open | Op::Branch | Op::Tag | Op::Switch | Op::Begin | Op::Rollback | Op::Prune => false,
    }
}

fn changes() -> Vec<Op> {
    Op::ALL.iter().copied().filter(|op| is_change(*op)).collect()
}

fn single(seq: Seq) -> Unit {
    Unit { after: Seq(seq.0.saturating_sub(1)), upto: seq }
}

/// Transactions of a branch that are visible, oldest first.
fn committed(engine: &Engine, branch: BranchId) -> Vec<(Seq, TxnRow)> {
    let mut rows: Vec<(Seq, TxnRow)> = engine
        .transactions()
        .into_iter()
        .filter(|row| row.target == branch && row.state == TxnState::Committed)
        .filter_map(|row| row.ended.map(|ended| (ended, row)))
        .collect();
    rows.sort_by_key(|(ended, _)| *ended);
    rows
}

/// The events that are undone at present: each undo adds, each redo takes away.
fn undone(rows: &[(Seq, TxnRow)]) -> Result<BTreeSet<Seq>> {
    let mut undone = BTreeSet::new();
    for (_, row) in rows {
        let Some(detail) = Detail::of(row)?.undo else { continue };
        for seq in detail.events {
            match row.kind {
                TxnKind::Undo => undone.insert(seq),
                TxnKind::Redo => undone.remove(&seq),
                TxnKind::Begin | TxnKind::Run | TxnKind::Merge | TxnKind::Restore => continue,
            };
        }
    }
    Ok(undone)
}

fn task(engine: &Engine, branch: BranchId, target: UndoTarget) -> Result<Task> {
    let rows = committed(engine, branch);
    match target {
        UndoTarget::Newest => newest(engine, branch, &rows, None),
        UndoTarget::Txn(id) => {
            let row = txn::find(engine, id)?;
            let Some((ended, row)) = rows.iter().find(|(_, other)| other.id == row.id) else {
                let what = format!("transaction T{id} changed nothing on this branch");
                return Err(VersionError::new(ErrorKind::State, what));
            };
            of_txn(*ended, row)
        }
        UndoTarget::Event(seq) => {
            let txn = snapshot(engine)?;
            let Some(event) = txn.event(seq)? else {
                return Err(VersionError::new(ErrorKind::NotFound, format!("no event e{seq}")));
            };
            if let Some((ended, row)) = rows.iter().find(|(ended, _)| *ended == seq) {
                return of_txn(*ended, row);
            }
            on_branch(engine, branch, &event)?;
            if !is_change(event.op) || event.result != 0 {
                let what = format!("e{seq} ({}) changed no file", event.op.as_str());
                return Err(VersionError::new(ErrorKind::NotFound, what));
            }
            Ok(Task {
                kind: TxnKind::Undo,
                units: vec![single(seq)],
                detail: UndoDetail { events: vec![seq], txn: None },
            })
        }
        UndoTarget::Process(process) | UndoTarget::Tree(process) => {
            let txn = snapshot(engine)?;
            let actors = match target {
                UndoTarget::Tree(_) => started_by(&*txn, process)?,
                UndoTarget::Process(_) | UndoTarget::Newest | UndoTarget::Txn(_) | UndoTarget::Event(_) => {
                    vec![process]
                }
            };
            let undone = undone(&rows)?;
            let mut events: Vec<Seq> = Vec::new();
            for actor in actors {
                let filter = EventFilter {
                    lineage: engine.lineage(View::live(branch))?.0.to_vec(),
                    process: Some(actor),
                    ops: changes(),
                    descending: true,
                    ..EventFilter::default()
                };
                let theirs = txn.events(&filter)?.into_iter();
                let open = theirs.filter(|e| e.result == 0 && e.txn.is_none() && !undone.contains(&e.seq));
                events.extend(open.map(|event| event.seq));
            }
            events.sort_unstable_by(|a, b| b.cmp(a));
            if events.is_empty() {
                let what = format!("process {process} changed nothing here outside of transactions");
                return Err(VersionError::new(ErrorKind::NotFound, what));
            }
            Ok(Task { kind: TxnKind::Undo, units: runs(&events), detail: UndoDetail { events, txn: None } })
        }
    }
}

/// A process and all that it started. A process is recorded after its parent.
fn started_by(txn: &dyn ReadTxn, first: ProcId) -> Result<Vec<ProcId>> {
    const PAGE: u64 = 10_000;
    let end = txn.counters()?.next_process.0;
    let mut found = BTreeSet::from([first]);
    let (mut next, mut step) = (first.0 + 1, PAGE);
    while next < end {
        let page = txn.processes(ProcId(next)..ProcId(end.min(next.saturating_add(step))))?;
        next = next.saturating_add(step);
        // A gap of numbers is crossed in ever longer steps.
        step = if page.is_empty() { step.saturating_mul(2) } else { PAGE };
        for process in page {
            if process.parent.is_some_and(|parent| found.contains(&parent)) {
                found.insert(process.id);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Joins neighbouring events (newest first) to stretches.
fn runs(events: &[Seq]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for seq in events {
        let unit = single(*seq);
        match units.last_mut() {
            Some(last) if last.after == unit.upto => last.after = unit.after,
            _ => units.push(unit),
        }
    }
    units
}

/// Undoing an undo is a redo.
fn of_txn(ended: Seq, row: &TxnRow) -> Result<Task> {
    let units = vec![single(ended)];
    let detail = Detail::of(row)?.undo;
    Ok(match (row.kind, detail) {
        (TxnKind::Undo, Some(detail)) => Task { kind: TxnKind::Redo, units, detail },
        (TxnKind::Redo, Some(detail)) => Task { kind: TxnKind::Undo, units, detail },
        _ => Task { kind: TxnKind::Undo, units, detail: UndoDetail { events: vec![ended], txn: Some(row.id) } },
    })
}

fn on_branch(engine: &Engine, branch: BranchId, event: &EventRow) -> Result<()> {
    let lineage = engine.lineage(View::live(branch))?;
    if lineage.0.iter().any(|segment| segment.branch == event.branch && event.seq <= segment.cut) {
        return Ok(());
    }
    let what = format!("e{} is no change of this branch", event.seq);
    let error = VersionError::new(ErrorKind::State, what);
    Err(match event.txn {
        Some(txn) => error.hint(format!("it is part of transaction T{txn}: 'stone undo T{txn}'")),
        None => error,
    })
}

/// The newest change of a branch that is not undone; `upto`: at that point or before it.
fn newest(engine: &Engine, branch: BranchId, rows: &[(Seq, TxnRow)], upto: Option<Seq>) -> Result<Task> {
    let undone = undone(rows)?;
    let own = engine.lineage(View::live(branch))?.own();
    let mut filter = EventFilter {
        lineage: vec![own],
        ops: changes(),
        upto,
        descending: true,
        limit: Some(PAGE),
        ..EventFilter::default()
    };
    let txn = snapshot(engine)?;
    loop {
        let page = txn.events(&filter)?;
        for event in &page {
            if event.result != 0 || undone.contains(&event.seq) {
                continue;
            }
            if matches!(event.op, Op::Commit | Op::Merge) {
                match rows.iter().find(|(ended, _)| *ended == event.seq) {
                    Some((_, row)) if matches!(row.kind, TxnKind::Undo | TxnKind::Redo) => continue,
                    Some((ended, row)) => return of_txn(*ended, row),
                    None => continue,
                }
            }
            let detail = UndoDetail { events: vec![event.seq], txn: None };
            return Ok(Task { kind: TxnKind::Undo, units: vec![single(event.seq)], detail });
        }
        match page.last() {
            Some(last) if page.len() == PAGE && last.seq > Seq(1) => filter.upto = Some(Seq(last.seq.0 - 1)),
            _ => return Err(VersionError::new(ErrorKind::NotFound, "there is nothing left to undo on this branch")),
        }
    }
}

fn redo_task(engine: &Engine, branch: BranchId) -> Result<Task> {
    let rows = committed(engine, branch);
    let undone = undone(&rows)?;
    for (ended, row) in rows.iter().rev().filter(|(_, row)| row.kind == TxnKind::Undo) {
        if let Some(detail) = Detail::of(row)?.undo
            && detail.events.iter().all(|seq| undone.contains(seq))
        {
            return Ok(Task { kind: TxnKind::Redo, units: vec![single(*ended)], detail });
        }
    }
    Err(VersionError::new(ErrorKind::NotFound, "there is no undo to take back on this branch"))
}

/// The inverse of changes, gathered newest first.
struct Inverse<'t> {
    changes: Changeset<'t>,
    force: bool,
    conflicts: Vec<Conflict>,
    any: bool,
}

impl<'t> Inverse<'t> {
    fn take_back(&mut self, before: &'t State<'t>, after: &'t State<'t>) -> Result<()> {
        let delta = Delta::between(before, after)?;
        self.any |= !delta.is_empty();
        for (ino, change) in &delta.inodes {
            self.inode(*ino, change, before, after)?;
        }
        for (place, (old, new)) in &delta.entries {
            let now = self.changes.entry(place)?;
            if now == *old {
                continue;
            }
            if now != *new && !self.force {
                self.conflict(ConflictKind::Entry, place, before, after)?;
                continue;
            }
            self.changes.set(place, *old)?;
        }
        Ok(())
    }

    fn inode(&mut self, ino: Ino, change: &InodeDelta, before: &'t State<'t>, after: &'t State<'t>) -> Result<()> {
        match (&change.before, &change.after) {
            (None, None) => Ok(()),
            // What came back by itself meanwhile, by a restore, is left as it is now.
            (Some(_), None) if self.changes.alive(ino)? => Ok(()),
            (Some(_), None) => self.changes.bring(ino, before, ino),
            (None, Some(made)) => {
                // It goes with its names; what was done to it since would go too.
                let (content, content_ino) = self.changes.content_of(ino).unwrap_or((self.changes.head, ino));
                let (attrs, attrs_ino) = self.changes.attrs_of(ino);
                let (Some(x), Some(y)) = (content.inode(content_ino)?, attrs.inode(attrs_ino)?) else { return Ok(()) };
                let same = (made.kind == Kind::Dir || same_content((after, ino, made), (content, content_ino, &x))?)
                    && same_attrs((after, ino, made), (attrs, attrs_ino, &y))?;
                if same || self.force {
                    Ok(())
                } else {
                    self.conflict_on(ConflictKind::ModifyDelete, ino, before, after)
                }
            }
            (Some(old), Some(new)) => {
                let times = change.attrs_written && (old.mtime, old.atime) != (new.mtime, new.atime);
                if !change.content && !change.attrs && !times {
                    return Ok(()); // written again as it was
                }
                if self.changes.head.inode(ino)?.is_none() && !self.changes.alive(ino)? {
                    return if self.force {
                        Ok(())
                    } else {
                        self.conflict_on(ConflictKind::Removed, ino, before, after)
                    };
                }
                if change.content {
                    let now = self.changes.content_of(ino);
                    let row = now.map(|(state, from)| state.inode(from)).transpose()?.flatten();
                    let same = match (now, &row) {
                        (Some((state, from)), Some(row)) => same_content((after, ino, new), (state, from, row))?,
                        _ => false,
                    };
                    if !same && !self.force {
                        return self.conflict_on(ConflictKind::Content, ino, before, after);
                    }
                    self.changes.content(ino, Source::State(before, ino))?;
                }
                if change.attrs || times {
                    let (state, from) = self.changes.attrs_of(ino);
                    let Some(row) = state.inode(from)? else { return Ok(()) };
                    if !same_attrs((after, ino, new), (state, from, &row))? && !self.force {
                        return self.conflict_on(ConflictKind::Attributes, ino, before, after);
                    }
                    self.changes.attrs(ino, before, ino);
                    let back = |old, new| (old != new).then_some(old);
                    self.changes.times(ino, back(old.atime, new.atime), back(old.mtime, new.mtime));
                }
                Ok(())
            }
        }
    }

    /// Breaking the tree's rules is refused, forced or not.
    fn rules(&mut self) -> Result<()> {
        let faults = self.changes.faults()?;
        let head = self.changes.head;
        for fault in faults {
            match fault {
                Fault::NotEmpty(ino) => self.conflict_on(ConflictKind::NotEmpty, ino, head, head)?,
                Fault::Orphan(place) | Fault::Dangling(place) => {
                    self.conflict(ConflictKind::Removed, &place, head, head)?;
                }
                Fault::Cycle(ino) | Fault::TwoNames(ino) => {
                    self.conflict_on(ConflictKind::DirectoryCycle, ino, head, head)?;
                }
            }
        }
        Ok(())
    }

    fn conflict(&mut self, kind: ConflictKind, place: &Place, before: &State<'_>, after: &State<'_>) -> Result<()> {
        let side =
            |state: &State<'_>| -> Result<_> { side_of(state, state.entry(place.0, &place.1)?.map(|(ino, _)| ino)) };
        let (base, ours, theirs) = (side(before)?, side(self.changes.head)?, side(after)?);
        let mut path = None;
        for state in [self.changes.head, before, after] {
            if path.is_none() {
                path = state.path_at(place)?;
            }
        }
        let path = path.map(Into::into).unwrap_or_default();
        self.conflicts.push(Conflict { kind, path, base, ours, theirs, ids: Vec::new(), resolved: None });
        Ok(())
    }

    fn conflict_on(&mut self, kind: ConflictKind, ino: Ino, before: &State<'_>, after: &State<'_>) -> Result<()> {
        let (base, ours, theirs) =
            (side_of(before, Some(ino))?, side_of(self.changes.head, Some(ino))?, side_of(after, Some(ino))?);
        let shown = ours.as_ref().or(theirs.as_ref()).or(base.as_ref());
        let path = shown.map(|side| side.path.clone()).unwrap_or_default();
        self.conflicts.push(Conflict { kind, path, base, ours, theirs, ids: Vec::new(), resolved: None });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_events_are_taken_back_as_one() {
        let unit = |after, upto| Unit { after: Seq(after), upto: Seq(upto) };
        assert_eq!(runs(&[Seq(9), Seq(8), Seq(7), Seq(4), Seq(2)]), [unit(6, 9), unit(3, 4), unit(1, 2)]);
    }
}
