//! Transactions: hidden branches that become visible in one step, or leave no trace but the record.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::changeset::{Changeset, Fault, Source};
use super::conflict::{Conflict, ConflictKind, ConflictSide, Detail, Side};
use super::delta::Delta;
use super::diff::{self, Summary};
use super::error::{ErrorKind, Result, VersionError};
use super::large::Plan;
use super::merge::Taken;
use super::readset::ReadSet;
use super::state::{Place, State, snapshot};
use crate::engine::{Engine, EventDraft, FsError};
use crate::store::{InodeRow, MergeRow, Mutation, TxnKind, TxnRow, TxnState};
use crate::types::{BranchId, Caller, Ino, Kind, Op, Seq, Timestamp, TxnId, View};

/// How often a commit is tried beside running writers before it holds them for a moment.
const ATTEMPTS: u32 = 2;

/// How a transaction is opened.
#[derive(Clone, Debug)]
pub struct BeginOptions {
    /// The branch that it changes: the live one, or an outer transaction's hidden branch.
    pub target: BranchId,
    /// What opens it.
    pub kind: TxnKind,
    /// Whether what it reads is validated too.
    pub serializable: bool,
    /// What it is for.
    pub message: String,
    /// Who acts in it.
    pub label: String,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CommitOutcome {
    /// Everything is visible.
    Committed {
        /// Which transaction.
        txn: TxnId,
        /// The commit event.
        seq: Seq,
        /// What it changed.
        summary: Summary,
    },
    /// Nothing is; the transaction stays open.
    Conflicted {
        /// Which transaction.
        txn: TxnId,
        /// What stands in the way.
        conflicts: Vec<Conflict>,
    },
}

/// How a transaction is committed.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions<'a> {
    /// Replaces the message where given.
    pub message: Option<String>,
    /// Merges with what others did instead of insisting on being first.
    pub rebase: bool,
    /// With `rebase`: who wins where both changed one thing.
    pub strategy: Option<Side>,
    /// What a serializable transaction has read.
    pub reads: Option<&'a ReadSet>,
}

/// Whether a transaction can still change.
pub fn is_open(row: &TxnRow) -> bool {
    match row.state {
        TxnState::Open | TxnState::Interrupted | TxnState::Conflicted => true,
        TxnState::Committed | TxnState::RolledBack => false,
    }
}

/// Finds a transaction.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn find(engine: &Engine, id: TxnId) -> Result<TxnRow> {
    let row = engine.transactions().into_iter().find(|row| row.id == id);
    row.ok_or_else(|| VersionError::new(ErrorKind::NotFound, format!("no transaction T{id}")))
}

/// Finds a transaction that can still change and that the caller may change.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::State`] where it has ended, [`ErrorKind::Permission`].
pub fn find_open(engine: &Engine, id: TxnId, caller: &Caller) -> Result<TxnRow> {
    let row = find(engine, id)?;
    if !is_open(&row) {
        let what = if row.state == TxnState::Committed { "committed" } else { "rolled back" };
        return Err(VersionError::new(ErrorKind::State, format!("transaction T{id} is {what} already")));
    }
    if caller.uid != 0 && caller.uid != row.uid {
        let what = format!("transaction T{id} belongs to user {}", row.uid);
        return Err(VersionError::new(ErrorKind::Permission, what));
    }
    Ok(row)
}

/// Lists the transactions that can still change.
pub fn open_ones(engine: &Engine) -> Vec<TxnRow> {
    engine.transactions().into_iter().filter(is_open).collect()
}

/// The view of a transaction: its private, writable tree.
pub fn view(row: &TxnRow) -> View {
    View::live(row.branch)
}

/// The state of its target against which a transaction's changes are told: that of its begin, or the last that was
/// merged into it since.
///
/// # Errors
/// Those of the store.
pub fn base(engine: &Engine, row: &TxnRow) -> Result<View> {
    let txn = snapshot(engine)?;
    Ok(View::as_of(row.target, Taken::of(engine, &*txn, row)?.base()))
}

/// Opens a transaction on a branch's present state.
///
/// # Errors
/// Those of the engine.
pub fn begin(engine: &Engine, options: &BeginOptions, caller: &Caller) -> Result<TxnRow> {
    let outer = engine.transactions().into_iter().find(|row| row.branch == options.target && is_open(row));
    let hidden = engine.fork(None, View::live(options.target), caller)?;
    let row = TxnRow {
        id: engine.next_txn(),
        branch: hidden.id,
        target: options.target,
        base: hidden.base,
        kind: options.kind,
        state: TxnState::Open,
        serializable: options.serializable,
        outer: outer.map(|row| row.id),
        uid: caller.uid,
        begun: Seq::ZERO,
        begun_time: Timestamp::default(),
        ended: None,
        ended_time: None,
        message: options.message.clone(),
        label: options.label.clone(),
        detail: String::new(),
    };
    let id = row.id;
    engine.update_txn(row, draft(Op::Begin, id), caller)?;
    find(engine, id)
}

pub(crate) fn draft(op: Op, txn: TxnId) -> EventDraft {
    EventDraft { op, txn: Some(txn), old: None, new: Some(format!("T{txn}").into_bytes()) }
}

/// Gives a transaction up, and those inside it.
///
/// # Errors
/// Where it has ended already, or is somebody else's.
pub fn rollback(engine: &Engine, id: TxnId, caller: &Caller) -> Result<TxnRow> {
    let row = find_open(engine, id, caller)?;
    for inner in open_ones(engine).into_iter().filter(|inner| inner.target == row.branch) {
        rollback(engine, inner.id, caller)?;
    }
    engine.update_txn(TxnRow { state: TxnState::RolledBack, ..row }, draft(Op::Rollback, id), caller)?;
    find(engine, id)
}

/// Keeps what a serializable transaction has read so far, for a commit later.
///
/// # Errors
/// Where it has ended already, or is somebody else's.
pub fn keep_reads(engine: &Engine, id: TxnId, reads: &ReadSet, caller: &Caller) -> Result<()> {
    let row = find_open(engine, id, caller)?;
    let mut detail = Detail::of(&row)?;
    detail.reads.get_or_insert_default().extend(reads);
    let mut draft = draft(Op::Begin, id);
    draft.new = Some(format!("T{id} kept").into_bytes());
    engine.update_txn(TxnRow { detail: detail.print(), ..row }, draft, caller)?;
    Ok(())
}

/// Makes a transaction visible on its target in one step, or says what stands in the way.
///
/// # Errors
/// Where it has ended already, is somebody else's, has open transactions or unresolved conflicts of
/// a merge inside; those of the store.
pub fn commit(engine: &Engine, id: TxnId, options: &CommitOptions<'_>, caller: &Caller) -> Result<CommitOutcome> {
    let mut row = find_open(engine, id, caller)?;
    if let Some(inner) = open_ones(engine).into_iter().find(|inner| inner.target == row.branch) {
        let what = format!("transaction T{} is still open inside T{id}", inner.id);
        return Err(VersionError::new(ErrorKind::State, what).hint("commit it or roll it back first"));
    }
    let mut detail = Detail::of(&row)?;
    if detail.merge.is_some() {
        let left: Vec<&Conflict> = detail.conflicts.iter().filter(|c| c.resolved.is_none()).collect();
        if !left.is_empty() {
            let conflicts = left.into_iter().cloned().collect();
            return Ok(CommitOutcome::Conflicted { txn: id, conflicts });
        }
    }
    if let Some(message) = &options.message {
        row.message = message.clone();
    }
    engine.seal(Some(row.branch))?;
    if row.serializable {
        // Also what it had read when a run left it open, or when it was refused.
        let mut reads = detail.reads.take().unwrap_or_default();
        options.reads.iter().for_each(|more| reads.extend(more));
        detail.reads = Some(reads);
    }
    let reads = detail.reads.clone();
    let reads = reads.as_ref();
    let op = if detail.merge.is_some() { Op::Merge } else { Op::Commit };
    let mut alone = false;
    for attempt in 1.. {
        let hold = (attempt > ATTEMPTS).then(|| engine.hold(row.target));
        let point = engine.seal(Some(row.target))?;
        let (mutations, summary, plan) = match attempted(engine, &row, &detail, options, reads, alone)? {
            Attempt::Applicable { mutations, summary, plan } => (mutations, summary, plan.map(|plan| *plan)),
            Attempt::Conflicted(conflicts) => {
                if detail.merge.is_none() {
                    detail.conflicts.clone_from(&conflicts);
                    let row = TxnRow { state: TxnState::Conflicted, detail: detail.print(), ..row };
                    let mut draft = draft(Op::Commit, id);
                    draft.new = Some(format!("T{id} conflict").into_bytes());
                    engine.update_txn(row, draft, caller)?;
                }
                return Ok(CommitOutcome::Conflicted { txn: id, conflicts });
            }
        };
        let done = if let Some(plan) = plan {
            let seq = plan.commit(engine, row.target, point, &draft(op, id), reads, caller)?;
            alone = seq.is_none();
            seq
        } else {
            match apply_at(engine, row.target, mutations, draft(op, id), point, caller) {
                Ok(seq) => Some(seq),
                Err(FsError::WouldBlock) => None,
                Err(error) => return Err(error.into()),
            }
        };
        drop(hold);
        if let Some(seq) = done {
            return Ok(CommitOutcome::Committed { txn: id, seq, summary });
        }
    }
    Err(VersionError::new(ErrorKind::State, format!("transaction T{id} could not be committed")))
}

/// What a commit would come to.
enum Attempt {
    /// These rows, or a plan for many of them.
    Applicable { mutations: Vec<Mutation>, summary: Summary, plan: Option<Box<Plan>> },
    /// Nothing.
    Conflicted(Vec<Conflict>),
}

/// Works a commit out on the target as it is now.
fn attempted(
    engine: &Engine,
    row: &TxnRow,
    detail: &Detail,
    options: &CommitOptions<'_>,
    reads: Option<&ReadSet>,
    alone: bool,
) -> Result<Attempt> {
    let txn = snapshot(engine)?;
    let taken = Taken::of(engine, &*txn, row)?;
    let base = State::new(engine, &*txn, View::as_of(row.target, taken.base()))?;
    let head = State::new(engine, &*txn, View::live(row.target))?;
    let hidden = State::new(engine, &*txn, view(row))?;
    let mut delta = Delta::between(&base, &hidden)?;
    delta.forget_brought(&base, &hidden, row.base, &taken.events)?;
    let summary = Summary::between(&base, &hidden, &delta)?;
    let mut tried = Commit { base: &base, head: &head, hidden: &hidden, conflicts: Vec::new() };
    let (changes, mut conflicts) = if options.rebase {
        super::merge::rebase(&base, &head, &hidden, options.strategy, engine.point().1)?
    } else {
        tried.keys(&delta)?;
        let changes = tried.changes(&delta)?;
        if tried.conflicts.is_empty() {
            tried.rules(&changes)?;
        }
        (changes, tried.conflicts)
    };
    if let Some(reads) = reads {
        // Before a merge inside it has read another state than after it: all of them must still hold.
        for point in &taken.points {
            let seen = State::new(engine, &*txn, View::as_of(row.target, *point))?;
            for conflict in reads.validate(&seen, &head)? {
                if !conflicts.contains(&conflict) {
                    conflicts.push(conflict);
                }
            }
        }
    }
    if !conflicts.is_empty() {
        return Ok(Attempt::Conflicted(conflicts));
    }
    drop(delta);
    let done = TxnRow {
        state: TxnState::Committed,
        detail: Detail { conflicts: Vec::new(), reads: None, ..detail.clone() }.print(),
        ..row.clone()
    };
    let mut mutations = changes.mutations()?;
    drop(changes);
    // What it merges, and what was merged inside, becomes merged into the target: of each branch, up to the last point.
    let mut inside: BTreeMap<BranchId, Seq> = BTreeMap::new();
    let theirs = detail.merge.iter().map(|merge| (merge.theirs.branch, merge.theirs.seq));
    for (source, at) in theirs.chain(txn.merges(row.branch)?.iter().map(|inner| (inner.source, inner.source_seq))) {
        let upto = inside.entry(source).or_insert(at);
        *upto = at.max(*upto);
    }
    inside.remove(&row.target);
    mutations.extend(inside.into_iter().map(|(source, source_seq)| {
        Mutation::Merge(MergeRow { target: row.target, seq: Seq::MAX, source, source_seq })
    }));
    mutations.push(Mutation::Txn(Box::new(done)));
    let plan = if !alone && mutations.len() >= engine.stage_min() {
        Some(Plan::new(std::mem::take(&mut mutations), &head)?)
    } else {
        None
    };
    Ok(Attempt::Applicable { mutations, summary, plan: plan.map(Box::new) })
}

/// Applies rows that were worked out for a branch as it was at a point; `WouldBlock` where it has moved on.
pub(crate) fn apply_at(
    engine: &Engine,
    branch: BranchId,
    mutations: Vec<Mutation>,
    draft: EventDraft,
    point: Seq,
    caller: &Caller,
) -> std::result::Result<Seq, FsError> {
    let mut validate = |last: Seq| if last > point { Err(FsError::WouldBlock) } else { Ok(()) };
    engine.apply(branch, mutations, draft, &mut validate, caller)
}

/// A change set that is a transaction of its own (undo, restore): begun and committed in one event.
pub(crate) struct Whole {
    pub kind: TxnKind,
    pub target: BranchId,
    pub point: Seq,
    pub message: String,
    pub detail: Detail,
}

/// Applies a change set as a transaction; `WouldBlock` where the target has moved on since `point`.
pub(crate) fn apply_whole(
    engine: &Engine,
    whole: Whole,
    mut mutations: Vec<Mutation>,
    caller: &Caller,
) -> std::result::Result<(TxnId, Seq), FsError> {
    let hidden = engine.hidden_branch(whole.target, whole.point, caller);
    let outer = open_ones(engine).into_iter().find(|row| row.branch == whole.target);
    let id = engine.next_txn();
    let branch = hidden.id;
    mutations.push(Mutation::Branch(Box::new(hidden)));
    mutations.push(Mutation::Txn(Box::new(TxnRow {
        id,
        branch,
        target: whole.target,
        base: whole.point,
        kind: whole.kind,
        state: TxnState::Committed,
        serializable: false,
        outer: outer.map(|row| row.id),
        uid: caller.uid,
        begun: Seq::ZERO,
        begun_time: Timestamp::default(),
        ended: None,
        ended_time: None,
        message: whole.message,
        label: String::new(),
        detail: whole.detail.print(),
    })));
    let seq = apply_at(engine, whole.target, mutations, draft(Op::Commit, id), whole.point, caller)?;
    Ok((id, seq))
}

/// Counts what an event changed on a branch.
pub(crate) fn summary_of(engine: &Engine, branch: BranchId, seq: Seq) -> Result<Summary> {
    let before = View::as_of(branch, Seq(seq.0.saturating_sub(1)));
    Ok(Summary::of(&diff::diff(engine, before, View::as_of(branch, seq), None)?))
}

/// One attempt to commit: first committer wins, key by key.
struct Commit<'a, 't> {
    base: &'a State<'t>,
    head: &'a State<'t>,
    hidden: &'a State<'t>,
    conflicts: Vec<Conflict>,
}

impl<'a: 't, 't> Commit<'a, 't> {
    /// Compares every key that the transaction wrote with what the target has there since.
    fn keys(&mut self, delta: &Delta) -> Result<()> {
        for (place, (old, _)) in &delta.entries {
            if self.head.entry(place.0, &place.1)? != *old {
                self.conflict_at(ConflictKind::Entry, place)?;
            }
        }
        for (ino, change) in &delta.inodes {
            let Some(before) = &change.before else { continue };
            let head = self.head.inode(*ino)?;
            let wrote_content = change.content_written || change.after.is_none();
            // A directory has no content: its names are keys of their own, also where it came back.
            let same = |head: &InodeRow| before.kind == Kind::Dir || head.content_seq == before.content_seq;
            let head_content = head.as_ref().is_none_or(|head| !same(head));
            // A content that both removed is gone either way; its names are keys of their own.
            if wrote_content && head_content && !(change.after.is_none() && head.is_none()) {
                self.conflict_on(ConflictKind::Content, *ino)?;
            }
            if change.attrs_written && head.is_some_and(|head| head.attr_seq != before.attr_seq) {
                self.conflict_on(ConflictKind::Attributes, *ino)?;
            }
        }
        Ok(())
    }

    /// Writes the transaction's changes down on top of the target.
    fn changes(&self, delta: &Delta) -> Result<Changeset<'t>> {
        let mut changes = Changeset::new(self.head, Timestamp::default());
        for (ino, change) in &delta.inodes {
            let Some(after) = &change.after else { continue };
            let Some(before) = &change.before else {
                changes.bring(*ino, self.hidden, *ino)?;
                continue;
            };
            let Some(head) = self.head.inode(*ino)? else {
                continue; // removed since: attributes set on it went with it
            };
            if change.content_written {
                changes.content(*ino, Source::State(self.hidden, *ino))?;
            }
            // What a write takes away beside, capabilities and setuid, goes where nobody has set attributes since.
            let beside = change.attrs && head.attr_seq == before.attr_seq;
            if change.attrs_written || beside {
                changes.attrs(*ino, self.hidden, *ino);
                let moved = |old: Timestamp, new: Timestamp| (old != new).then_some(new);
                changes.times(*ino, moved(before.atime, after.atime), moved(before.mtime, after.mtime));
            }
            changes.ctime(*ino, after.ctime);
        }
        let mut parents = BTreeSet::new();
        for (place, (old, new)) in &delta.entries {
            changes.set(place, *new)?;
            parents.insert(place.0);
            for (ino, _) in [old, new].into_iter().flatten() {
                if let Some(row) = self.hidden.inode(*ino)? {
                    changes.ctime(*ino, row.ctime);
                    changes.predecessor(*ino, row.predecessor);
                }
            }
        }
        for dir in parents {
            if let (Some(mine), Some(head)) = (self.hidden.inode(dir)?, self.head.inode(dir)?) {
                changes.dir_times(dir, mine.mtime.max(head.mtime), mine.ctime.max(head.ctime));
            }
        }
        Ok(changes)
    }

    /// Checks the tree's own rules on the result.
    fn rules(&mut self, changes: &Changeset<'_>) -> Result<()> {
        for fault in changes.faults()? {
            match fault {
                Fault::NotEmpty(dir) => self.conflict_on(ConflictKind::NotEmpty, dir)?,
                Fault::Orphan(place) | Fault::Dangling(place) => self.conflict_at(ConflictKind::Removed, &place)?,
                Fault::Cycle(dir) | Fault::TwoNames(dir) => self.conflict_on(ConflictKind::DirectoryCycle, dir)?,
            }
        }
        Ok(())
    }

    fn conflict_at(&mut self, kind: ConflictKind, place: &Place) -> Result<()> {
        let side = |state: &State<'_>| -> Result<Option<ConflictSide>> {
            let found = state.entry(place.0, &place.1)?;
            let path = state.path_at(place)?;
            Ok(found.zip(path).map(|((ino, _), path)| ConflictSide { ino, path: path.into() }))
        };
        let sides = (side(self.base)?, side(self.head)?, side(self.hidden)?);
        let mut path = None;
        for state in [self.hidden, self.head, self.base] {
            if path.is_none() {
                path = state.path_at(place)?;
            }
        }
        self.add(kind, path, sides);
        Ok(())
    }

    fn conflict_on(&mut self, kind: ConflictKind, ino: Ino) -> Result<()> {
        let side = |state: &State<'_>| side_of(state, Some(ino));
        let sides = (side(self.base)?, side(self.head)?, side(self.hidden)?);
        let any = sides.2.as_ref().or(sides.1.as_ref()).or(sides.0.as_ref());
        let path = any.map(|side| side.path.as_bytes().into());
        self.add(kind, path, sides);
        Ok(())
    }

    fn add(
        &mut self,
        kind: ConflictKind,
        path: Option<std::sync::Arc<[u8]>>,
        (base, ours, theirs): (Option<ConflictSide>, Option<ConflictSide>, Option<ConflictSide>),
    ) {
        let path = path.map(Into::into).unwrap_or_default();
        let conflict = Conflict { kind, path, base, ours, theirs, ids: Vec::new(), resolved: None };
        if !self.conflicts.contains(&conflict) {
            self.conflicts.push(conflict);
        }
    }
}

/// An inode as one side of a conflict.
pub(crate) fn side_of(state: &State<'_>, ino: Option<Ino>) -> Result<Option<ConflictSide>> {
    let Some(ino) = ino else { return Ok(None) };
    if state.inode(ino)?.is_none() {
        return Ok(None);
    }
    Ok(state.path(ino)?.map(|path| ConflictSide { ino, path: path.into() }))
}
