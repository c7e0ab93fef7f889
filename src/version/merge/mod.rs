//! Merging one branch into another: three-way, by identity, with what earlier merges have settled.

mod base;
mod ids;
mod plan;
mod take;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::base::{Graph, Point};
use self::ids::{Things, Which};
use self::plan::{Plan, PlanOptions, Take};
use super::changeset::{Changeset, Source};
use super::conflict::{Conflict, Detail, MergeDetail, Resolution, Side, StateRef};
use super::diff::{self, Summary};
use super::error::{ErrorKind, Result, VersionError, show};
use super::state::{State, snapshot};
use super::txn::{self, apply_at, draft};
use crate::engine::{Engine, EventDraft, FsError};
use crate::store::{MergeRow, Mutation, ReadTxn, TxnKind, TxnRow, TxnState};
use crate::types::{At, BranchId, Caller, Ino, Kind, Op, Seq, Timestamp, TxnId, View};

/// How often a merge is tried beside running writers before it holds them for a moment.
const ATTEMPTS: u32 = 2;

/// What a merge did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum MergeOutcome {
    /// Everything of the source is in the target already.
    UpToDate,
    /// The result is visible.
    Merged {
        /// The transaction that it is recorded as.
        txn: TxnId,
        /// The merge event.
        seq: Seq,
        /// What it changed on the target.
        summary: Summary,
        /// Conflicts that the strategy decided.
        decided: Vec<Conflict>,
    },
    /// The result waits in a transaction for its conflicts to be resolved.
    Conflicted {
        /// The transaction.
        txn: TxnId,
        /// Its conflicts.
        conflicts: Vec<Conflict>,
    },
}

/// How a merge is made.
#[derive(Clone, Debug, Default)]
pub struct MergeOptions {
    /// Who wins where both changed one thing.
    pub strategy: Option<Side>,
    /// Whether changes to different lines of one text file are merged.
    pub text: bool,
    /// What it is for.
    pub message: String,
}

/// Merges a view's branch, at its point, into another branch.
///
/// # Errors
/// [`ErrorKind::Usage`] for a branch with itself; those of the store.
pub fn merge(
    engine: &Engine,
    source: View,
    target: BranchId,
    options: &MergeOptions,
    caller: &Caller,
) -> Result<MergeOutcome> {
    if source.branch == target && source.at == At::Live {
        return Err(VersionError::new(ErrorKind::Usage, "a branch cannot be merged into itself"));
    }
    let aliases = known_aliases(engine)?;
    for attempt in 1.. {
        let hold = (attempt > ATTEMPTS).then(|| engine.hold(target));
        engine.seal(Some(source.branch))?;
        let point = engine.seal(Some(target))?;
        let theirs_at = match source.at {
            At::Live => point,
            At::AsOf(seq) => seq,
        };
        let theirs = View::as_of(source.branch, theirs_at);
        let base = merge_base(engine, (target, point), (source.branch, theirs_at), &aliases, caller, 0)?;
        let txn = snapshot(engine)?;
        let states = States::open(engine, &*txn, base, View::as_of(target, point), theirs)?;
        let head = State::new(engine, &*txn, View::live(target))?;
        let take = options.strategy.map(Take::from);
        let plan_options = PlanOptions { text: options.text, take, now: engine.point().1 };
        let plan = plan::plan(&states.base, &head, &states.theirs, &aliases, plan_options)?;
        if !plan.any {
            return Ok(MergeOutcome::UpToDate);
        }
        let detail = Detail {
            conflicts: plan.conflicts.clone(),
            merge: Some(MergeDetail {
                base: state_ref(base, point),
                ours: StateRef { branch: target, seq: point },
                theirs: StateRef { branch: source.branch, seq: theirs_at },
                // Each merge keeps what it found itself.
                aliases: plan.aliases.iter().filter(|pair| aliases.binary_search(pair).is_err()).copied().collect(),
            }),
            undo: None,
            reads: None,
        };
        if !plan::unresolved(&plan.conflicts).is_empty() {
            let txn = wait(engine, target, point, plan, detail, options, caller)?;
            let conflicts = conflicts(engine, txn)?;
            return Ok(MergeOutcome::Conflicted { txn, conflicts });
        }
        let mut mutations = plan.changes.mutations()?;
        let hidden = engine.hidden_branch(target, point, caller);
        let row = TxnRow {
            state: TxnState::Committed,
            ..new_row(engine, hidden.id, target, point, &detail, options, caller)
        };
        let id = row.id;
        mutations.push(Mutation::Branch(Box::new(hidden)));
        mutations.push(Mutation::Merge(MergeRow {
            target,
            seq: Seq::MAX,
            source: source.branch,
            source_seq: theirs_at,
        }));
        mutations.push(Mutation::Txn(Box::new(row)));
        match apply_at(engine, target, mutations, merge_draft(engine, id, source.branch), point, caller) {
            Ok(seq) => {
                let before = View::as_of(target, Seq(seq.0.saturating_sub(1)));
                let changes = diff::diff(engine, before, View::as_of(target, seq), None)?;
                let decided = detail.conflicts;
                return Ok(MergeOutcome::Merged { txn: id, seq, summary: Summary::of(&changes), decided });
            }
            Err(FsError::WouldBlock) => drop(hold),
            Err(error) => return Err(error.into()),
        }
    }
    Err(VersionError::new(ErrorKind::State, "the merge could not be committed"))
}

fn merge_draft(engine: &Engine, id: TxnId, source: BranchId) -> EventDraft {
    let name = engine.branch(source).and_then(|row| row.name).unwrap_or_default();
    EventDraft { old: Some(name), ..draft(Op::Merge, id) }
}

fn state_ref(view: View, now: Seq) -> StateRef {
    let seq = match view.at {
        At::Live => now,
        At::AsOf(seq) => seq,
    };
    StateRef { branch: view.branch, seq }
}

fn view_of(state: StateRef) -> View {
    View::as_of(state.branch, state.seq)
}

/// The three states of a merge.
struct States<'t> {
    base: State<'t>,
    ours: State<'t>,
    theirs: State<'t>,
}

impl<'t> States<'t> {
    fn open(engine: &Engine, txn: &'t dyn ReadTxn, base: View, ours: View, theirs: View) -> Result<States<'t>> {
        Ok(States {
            base: State::new(engine, txn, base)?,
            ours: State::new(engine, txn, ours)?,
            theirs: State::new(engine, txn, theirs)?,
        })
    }
}

fn new_row(
    engine: &Engine,
    branch: BranchId,
    target: BranchId,
    base: Seq,
    detail: &Detail,
    options: &MergeOptions,
    caller: &Caller,
) -> TxnRow {
    let outer = txn::open_ones(engine).into_iter().find(|row| row.branch == target);
    TxnRow {
        id: engine.next_txn(),
        branch,
        target,
        base,
        kind: TxnKind::Merge,
        state: TxnState::Open,
        serializable: false,
        outer: outer.map(|row| row.id),
        uid: caller.uid,
        begun: Seq::ZERO,
        begun_time: Timestamp::default(),
        ended: None,
        ended_time: None,
        message: options.message.clone(),
        label: String::new(),
        detail: detail.print(),
    }
}

/// Keeps a merge with conflicts in a transaction of its own.
fn wait(
    engine: &Engine,
    target: BranchId,
    point: Seq,
    plan: Plan<'_>,
    detail: Detail,
    options: &MergeOptions,
    caller: &Caller,
) -> Result<TxnId> {
    let hidden = engine.fork(None, View::as_of(target, point), caller)?;
    let row =
        TxnRow { state: TxnState::Conflicted, ..new_row(engine, hidden.id, target, point, &detail, options, caller) };
    let id = row.id;
    let draft = EventDraft { new: Some(format!("T{id} conflict").into_bytes()), ..draft(Op::Merge, id) };
    // The transaction and what it holds come in one step: half of a merge must never be there to be committed.
    let mut mutations = plan.changes.mutations()?;
    mutations.push(Mutation::Txn(Box::new(row)));
    engine.apply(hidden.id, mutations, draft.clone(), &mut |_| Ok(()), caller)?;
    engine.record(target, draft, Vec::new(), caller)?;
    Ok(id)
}

/// What earlier merges found to be one thing.
fn known_aliases(engine: &Engine) -> Result<Vec<(Ino, Ino)>> {
    let mut aliases = Vec::new();
    for row in engine.transactions() {
        if row.kind == TxnKind::Merge && row.state == TxnState::Committed {
            aliases.extend(Detail::of(&row)?.merge.map(|merge| merge.aliases).unwrap_or_default());
        }
    }
    aliases.sort_unstable();
    aliases.dedup();
    Ok(aliases)
}

/// How deep merges of merge bases go before the first base is taken as it is.
const DEPTH_MAX: usize = 16;

/// Finds the state to merge against; several bases are merged into a virtual one on a hidden branch.
fn merge_base(
    engine: &Engine,
    ours: Point,
    theirs: Point,
    aliases: &[(Ino, Ino)],
    caller: &Caller,
    depth: usize,
) -> Result<View> {
    let branches = engine.branches();
    let mut merges = Vec::new();
    {
        let txn = snapshot(engine)?;
        for branch in &branches {
            merges.extend(txn.merges(branch.id)?);
        }
    }
    let bases = Graph::new(&branches, &merges).bases(ours, theirs);
    let mut bases = bases.into_iter();
    let Some((branch, seq)) = bases.next() else {
        return Err(VersionError::new(ErrorKind::State, "the two branches have nothing in common"));
    };
    let first = View::as_of(branch, seq);
    let rest: Vec<Point> = bases.collect();
    if rest.is_empty() || depth >= DEPTH_MAX {
        return Ok(first);
    }
    // Only a branch of its own can hold a tree that never was.
    let virtual_base = engine.fork(None, first, caller)?;
    for point in rest {
        let below = merge_base(engine, (branch, seq), point, aliases, caller, depth + 1)?;
        let txn = snapshot(engine)?;
        let states = States::open(engine, &*txn, below, View::live(virtual_base.id), View::as_of(point.0, point.1))?;
        let options = PlanOptions { text: true, take: Some(Take::Base), now: engine.point().1 };
        let plan = plan::plan(&states.base, &states.ours, &states.theirs, aliases, options)?;
        let mutations = plan.changes.mutations()?;
        let draft = EventDraft { op: Op::Merge, txn: None, old: None, new: Some(b"virtual base".to_vec()) };
        engine.apply(virtual_base.id, mutations, draft, &mut |_| Ok(()), caller)?;
    }
    let point = engine.point().0;
    engine.flush(point)?;
    Ok(View::as_of(virtual_base.id, point))
}

/// What a transaction has of its target.
pub(crate) struct Taken {
    /// The points that it has seen: that of its begin and, after each merge inside that brought a later one, that.
    pub points: Vec<Seq>,
    /// The events of those merges on its hidden branch.
    pub events: BTreeSet<Seq>,
}

impl Taken {
    /// Looks for merges inside of a transaction by which its target's later changes came, directly or through others.
    pub fn of(engine: &Engine, txn: &dyn ReadTxn, row: &TxnRow) -> Result<Taken> {
        let mut taken = Taken { points: vec![row.base], events: BTreeSet::new() };
        let inside: BTreeSet<Seq> = txn.merges(row.branch)?.iter().map(|merge| merge.seq).collect();
        if inside.is_empty() {
            return Ok(taken);
        }
        let branches = engine.branches();
        let mut merges = Vec::new();
        for branch in &branches {
            merges.extend(txn.merges(branch.id)?);
        }
        let graph = Graph::new(&branches, &merges);
        for event in inside {
            let upto = graph.reach((row.branch, event)).get(&row.target).copied().unwrap_or_default();
            if upto > taken.base() {
                taken.points.push(upto);
                taken.events.insert(event);
            }
        }
        Ok(taken)
    }

    /// The last of the points: against it, the transaction's own changes are told from its target's.
    pub fn base(&self) -> Seq {
        self.points.last().copied().unwrap_or_default()
    }
}

/// Merges a transaction's changes with what its target has since become.
pub(crate) fn rebase<'t>(
    base: &'t State<'t>,
    head: &'t State<'t>,
    hidden: &'t State<'t>,
    strategy: Option<Side>,
    now: Timestamp,
) -> Result<(Changeset<'t>, Vec<Conflict>)> {
    let options = PlanOptions { text: false, take: strategy.map(Take::from), now };
    let plan = plan::plan(base, head, hidden, &[], options)?;
    Ok((plan.changes, plan::unresolved(&plan.conflicts)))
}

/// Lists the conflicts of a transaction, resolved ones too.
///
/// # Errors
/// Where there is no such transaction.
pub fn conflicts(engine: &Engine, id: TxnId) -> Result<Vec<Conflict>> {
    Ok(Detail::of(&txn::find(engine, id)?)?.conflicts)
}

/// The three views that a merge's conflicts show: base, ours, theirs.
///
/// # Errors
/// [`ErrorKind::State`] for a transaction that is no merge.
pub fn conflict_views(engine: &Engine, id: TxnId) -> Result<[View; 3]> {
    let merge = Detail::of(&txn::find(engine, id)?)?.merge.ok_or_else(|| not_a_merge(id))?;
    Ok([view_of(merge.base), view_of(merge.ours), view_of(merge.theirs)])
}

fn not_a_merge(id: TxnId) -> VersionError {
    VersionError::new(ErrorKind::State, format!("transaction T{id} is no merge: nothing to resolve"))
        .hint("'stone commit --rebase' merges with what others changed, 'stone rollback' gives up")
}

/// What a conflict is resolved with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolve {
    /// As the receiving branch has it.
    Ours,
    /// As the merged branch has it.
    Theirs,
    /// A file with these bytes.
    File(Vec<u8>),
}

/// Resolves the conflicts of a merge at a path (any of their paths). Returns all conflicts as they are now.
///
/// # Errors
/// [`ErrorKind::NotFound`] where no conflict has that path, [`ErrorKind::State`] for what is no merge.
pub fn resolve(engine: &Engine, id: TxnId, path: &[u8], how: &Resolve, caller: &Caller) -> Result<Vec<Conflict>> {
    let row = txn::find_open(engine, id, caller)?;
    let mut detail = Detail::of(&row)?;
    let merge = detail.merge.clone().ok_or_else(|| not_a_merge(id))?;
    engine.seal(Some(row.branch))?;
    let txn = snapshot(engine)?;
    let states = States::open(engine, &*txn, view_of(merge.base), view_of(merge.ours), view_of(merge.theirs))?;
    let hidden = State::new(engine, &*txn, txn::view(&row))?;
    let aliases = known_aliases(engine)?;
    let things = Things::new(&states.base, &states.ours, &states.theirs, &aliases)?;
    let mut changes = Changeset::new(&hidden, engine.point().1);
    let mut found = false;
    for conflict in detail.conflicts.iter_mut().filter(|conflict| conflict.is_at(path)) {
        found = true;
        let resolution = match how {
            Resolve::Ours => {
                // The result began as ours, but may have been changed by hand since.
                take::take(&mut changes, &things, Which::Ours, conflict)?;
                Resolution::Ours
            }
            Resolve::Theirs => {
                take::take(&mut changes, &things, Which::Theirs, conflict)?;
                Resolution::Theirs
            }
            Resolve::File(bytes) => {
                put_file(&mut changes, &things, conflict, bytes)?;
                Resolution::File
            }
        };
        conflict.resolved = Some(resolution);
    }
    if !found {
        return Err(VersionError::new(ErrorKind::NotFound, format!("no conflict at {:?}", show(path)))
            .hint("'stone conflicts' lists them"));
    }
    if let Some(fault) = changes.faults()?.first() {
        let what = format!("resolving {:?} this way would break the tree: {fault:?}", show(path));
        return Err(VersionError::new(ErrorKind::Conflict, what).hint("resolve the conflicts around it first"));
    }
    let conflicts = detail.conflicts.clone();
    // The result and that it is decided come in one step: what says that it waits must be as it was.
    let mut mutations = changes.mutations()?;
    let hidden = row.branch;
    mutations.push(Mutation::Txn(Box::new(TxnRow { detail: detail.print(), ..row })));
    let new = Some(format!("T{id} resolve").into_bytes());
    engine.apply(hidden, mutations, EventDraft { new, ..draft(Op::Merge, id) }, &mut |_| Ok(()), caller)?;
    Ok(conflicts)
}

/// Gives what is in conflict the bytes of a file.
fn put_file<'t>(changes: &mut Changeset<'t>, things: &Things<'t>, conflict: &Conflict, bytes: &[u8]) -> Result<()> {
    for triple in &conflict.ids {
        for ino in [triple.ours, triple.theirs, triple.base].into_iter().flatten() {
            if changes.alive(ino)? {
                return put_bytes(changes, ino, bytes);
            }
        }
    }
    // Removed on the receiving side: the other side's file comes back, with these bytes.
    let side = if conflict.theirs.is_some() { Which::Theirs } else { Which::Base };
    take::take(changes, things, side, conflict)?;
    for ino in conflict.ids.iter().flat_map(|triple| [triple.theirs, triple.base]).flatten() {
        if changes.alive(ino)? {
            return put_bytes(changes, ino, bytes);
        }
    }
    Err(VersionError::new(ErrorKind::State, "there is no file to put the content into"))
}

fn put_bytes(changes: &mut Changeset<'_>, ino: Ino, bytes: &[u8]) -> Result<()> {
    if changes.kind(ino)? == Some(Kind::File) {
        return changes.content(ino, Source::Bytes(bytes.to_vec()));
    }
    Err(VersionError::new(ErrorKind::State, "what is in conflict there is no regular file")
        .hint("resolve it with --ours or --theirs"))
}

/// Whether everything that a branch changed is in another undropped branch.
///
/// # Errors
/// Those of the store.
pub(crate) fn is_merged(engine: &Engine, branch: BranchId) -> Result<bool> {
    engine.seal(Some(branch))?;
    let branches = engine.branches();
    let txn = snapshot(engine)?;
    let mut merges = Vec::new();
    for row in &branches {
        merges.extend(txn.merges(row.id)?);
    }
    let graph = Graph::new(&branches, &merges);
    let mut merged = Seq::ZERO;
    for row in branches.iter().filter(|row| row.id != branch && row.dropped.is_none() && row.name.is_some()) {
        let reach = graph.reach((row.id, Seq::MAX));
        merged = merged.max(reach.get(&branch).copied().unwrap_or_default());
    }
    Ok(super::delta::keys(&*txn, &[super::delta::Stretch { branch, after: merged, upto: Seq::MAX }])?.is_empty())
}
