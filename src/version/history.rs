//! Looking back: the log, the versions of a path, one event or transaction, and who wrote which line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bytes::PathBytes;
use super::diff::{self, Change};
use super::error::{ErrorKind, Result, VersionError, show as show_bytes};
use super::point::{self, Point};
use super::refs::{self, RefContext};
use super::state::{State, components, snapshot};
use super::{text, txn};
use crate::engine::Engine;
use crate::store::{CHUNK_SIZE, Content, EventFilter, EventRow, InodeRow, Period, ReadTxn, TxnKind, TxnRow, TxnState};
use crate::types::{BranchId, Ino, Kind, Lineage, Op, ProcId, Segment, Seq, Timestamp, TxnId, View};

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The event, and the point just after it.
    pub seq: Seq,
    /// When.
    pub time: Timestamp,
    /// On which branch.
    pub branch: BranchId,
    /// That branch's name, where it has one.
    pub branch_name: Option<PathBytes>,
    /// In which transaction.
    pub txn: Option<TxnId>,
    /// What was done.
    pub op: Op,
    /// To which inode.
    pub ino: Option<Ino>,
    /// The path as it was.
    pub path: Option<PathBytes>,
    /// The second path.
    pub path2: Option<PathBytes>,
    /// First byte that changed.
    pub offset: Option<u64>,
    /// Number of bytes that changed.
    pub length: Option<u64>,
    /// The old value.
    pub old: Option<PathBytes>,
    /// The new value.
    pub new: Option<PathBytes>,
    /// 0, or the errno of what failed.
    pub result: i32,
    /// Who.
    pub uid: u32,
    /// Who.
    pub gid: u32,
    /// By which process id.
    pub pid: u32,
    /// By which process.
    pub process: ProcId,
    /// Its program, as the kernel names it.
    pub program: Option<PathBytes>,
}

/// What `stone log` is asked for; everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// At this path or below it; events inside committed transactions are shown too.
    pub path: Option<PathBytes>,
    /// Not before this instant.
    pub since: Option<Timestamp>,
    /// Before this instant.
    pub until: Option<Timestamp>,
    /// After this event.
    pub after: Option<Seq>,
    /// By this user.
    pub uid: Option<u32>,
    /// By this pid.
    pub pid: Option<u32>,
    /// By this process.
    pub process: Option<ProcId>,
    /// By this program.
    pub program: Option<PathBytes>,
    /// In this transaction.
    pub txn: Option<TxnId>,
    /// One of these operations; empty means all.
    pub ops: Vec<Op>,
    /// On every branch, not only the view's lineage.
    pub all_branches: bool,
    /// Oldest first.
    pub ascending: bool,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Turns rows of the record into results, remembering names.
struct Namer<'e, 't> {
    engine: &'e Engine,
    txn: &'t dyn ReadTxn,
    branches: BTreeMap<BranchId, Option<PathBytes>>,
    programs: BTreeMap<ProcId, Option<PathBytes>>,
}

impl<'e, 't> Namer<'e, 't> {
    fn new(engine: &'e Engine, txn: &'t dyn ReadTxn) -> Namer<'e, 't> {
        Namer { engine, txn, branches: BTreeMap::new(), programs: BTreeMap::new() }
    }

    fn branch(&mut self, id: BranchId) -> Option<PathBytes> {
        let engine = self.engine;
        let name = || engine.branch(id).and_then(|row| row.name).map(PathBytes);
        self.branches.entry(id).or_insert_with(name).clone()
    }

    fn program(&mut self, id: ProcId) -> Result<Option<PathBytes>> {
        if let Some(known) = self.programs.get(&id) {
            return Ok(known.clone());
        }
        let found = if id == ProcId::default() { None } else { self.txn.process(id)? };
        let program = found.map(|row| PathBytes(row.comm)).filter(|comm| !comm.0.is_empty());
        self.programs.insert(id, program.clone());
        Ok(program)
    }

    fn entry(&mut self, row: EventRow) -> Result<LogEntry> {
        Ok(LogEntry {
            branch_name: self.branch(row.branch),
            program: self.program(row.process)?,
            seq: row.seq,
            time: row.time,
            branch: row.branch,
            txn: row.txn,
            op: row.op,
            ino: row.ino,
            path: row.path.map(PathBytes::from),
            path2: row.path2.map(PathBytes::from),
            offset: row.offset,
            length: row.length,
            old: row.old.map(PathBytes),
            new: row.new.map(PathBytes),
            result: row.result,
            uid: row.uid,
            gid: row.gid,
            pid: row.pid,
            process: row.process,
        })
    }
}

/// The branches of the transactions that were committed within a lineage: what was done inside of them
/// is part of its history.
pub fn committed_within(engine: &Engine, lineage: &[Segment]) -> Vec<Segment> {
    let cuts: BTreeMap<BranchId, Seq> = lineage.iter().map(|segment| (segment.branch, segment.cut)).collect();
    engine
        .transactions()
        .into_iter()
        .filter(|row| row.state == TxnState::Committed)
        .filter(|row| cuts.get(&row.target).is_some_and(|cut| row.ended.is_some_and(|ended| ended <= *cut)))
        .filter(|row| !cuts.contains_key(&row.branch))
        .map(|row| Segment { branch: row.branch, cut: Seq::MAX })
        .collect()
}

/// Builds the store's filter for a log of a view.
///
/// # Errors
/// Where the view's branch does not exist.
pub fn log_filter(engine: &Engine, view: View, options: &LogOptions) -> Result<EventFilter> {
    let mut lineage = Vec::new();
    if !options.all_branches {
        lineage.extend(engine.lineage(view)?.0.iter().copied());
        if let Some(id) = options.txn {
            lineage = vec![Segment { branch: txn::find(engine, id)?.branch, cut: Seq::MAX }];
        } else if options.path.is_some() {
            lineage.extend(committed_within(engine, &lineage));
        }
    }
    Ok(EventFilter {
        lineage,
        after: options.after,
        upto: None,
        since: options.since,
        until: options.until,
        path: options.path.as_ref().map(|path| path.0.clone()),
        path_exact: false,
        path_any_case: false,
        ino: None,
        uid: options.uid,
        pid: options.pid,
        process: options.process,
        program: options.program.as_ref().map(|program| program.0.clone()),
        txn: None,
        ops: options.ops.clone(),
        failed: false,
        descending: !options.ascending,
        limit: options.limit,
    })
}

/// Lists events of a view's history, newest first (unless told otherwise).
///
/// # Errors
/// Those of the store.
pub fn log(engine: &Engine, view: View, options: &LogOptions) -> Result<Vec<LogEntry>> {
    engine.seal(None)?;
    let filter = log_filter(engine, view, options)?;
    let txn = snapshot(engine)?;
    let mut namer = Namer::new(engine, &*txn);
    txn.events(&filter)?.into_iter().map(|row| namer.entry(row)).collect()
}

/// A distinct version of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathVersion {
    /// The event it holds from.
    pub seq: Seq,
    /// When that was.
    pub time: Timestamp,
    /// The event that ended it; `None` for what is there now.
    pub until: Option<Seq>,
    /// Its inode.
    pub ino: Ino,
    /// Its type.
    pub kind: Kind,
    /// Its path then.
    pub path: Option<PathBytes>,
    /// Whether it was removed at this event, rather than given this form.
    pub removed: bool,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub owner: u32,
    /// What was done.
    pub op: Option<Op>,
    /// In which transaction.
    pub txn: Option<TxnId>,
    /// By which user.
    pub uid: u32,
    /// By which process id.
    pub pid: u32,
    /// By which process.
    pub process: ProcId,
    /// By which program.
    pub program: Option<PathBytes>,
}

/// A stretch of time in which something held, as a lineage sees it.
#[derive(Clone, Debug)]
struct Stretch<T> {
    from: Seq,
    to: Seq,
    value: T,
}

/// Puts the periods of several branches' rows behind each other: a row holds until the next one,
/// or until it was ended where the lineage saw that.
fn timeline<T>(lineage: &Lineage, rows: Vec<(Period, Option<T>)>) -> Vec<Stretch<T>> {
    let cut = |branch| lineage.0.iter().find(|s| s.branch == branch).map_or(Seq::ZERO, |s| s.cut);
    let mut rows: Vec<(Period, Option<T>)> =
        rows.into_iter().filter(|(period, _)| period.from <= cut(period.branch)).collect();
    rows.sort_by_key(|(period, _)| period.from);
    let starts: Vec<Seq> = rows.iter().map(|(period, _)| period.from).collect();
    let own_cut = lineage.own().cut;
    let mut stretches = Vec::new();
    for (index, (period, value)) in rows.into_iter().enumerate() {
        let next = starts.get(index + 1).copied().unwrap_or(Seq::MAX);
        let ended = if period.to <= cut(period.branch) { period.to } else { Seq::MAX };
        let to = next.min(ended);
        let to = if to > own_cut { Seq::MAX } else { to };
        if let Some(value) = value.filter(|_| period.from < to) {
            stretches.push(Stretch { from: period.from, to, value });
        }
    }
    stretches
}

/// Lists the distinct versions of a path, newest first, also of one that is gone. A present file is
/// followed back to the names it had before.
///
/// # Errors
/// [`ErrorKind::NotFound`] where the path never was.
pub fn history(engine: &Engine, view: View, path: &[u8]) -> Result<Vec<PathVersion>> {
    engine.seal(Some(view.branch))?;
    let txn = snapshot(engine)?;
    let mut versions = versions(engine, &*txn, view, path)?;
    versions.reverse();
    Ok(versions.into_iter().map(|(version, _)| version).collect())
}

/// The versions of a path, oldest first, with their rows.
fn versions(
    engine: &Engine,
    txn: &dyn ReadTxn,
    view: View,
    path: &[u8],
) -> Result<Vec<(PathVersion, Option<InodeRow>)>> {
    let lineage = engine.lineage(view)?;
    let mut named = vec![Stretch { from: Seq::ZERO, to: Seq::MAX, value: Ino::ROOT }];
    for name in components(path)? {
        let mut below = Vec::new();
        for dir in named {
            let rows = txn.entry_versions(&lineage, dir.value, name.as_bytes())?;
            for found in timeline(&lineage, rows.into_iter().map(|row| (row.period, row.ino)).collect()) {
                let (from, to) = (found.from.max(dir.from), found.to.min(dir.to));
                if from < to {
                    below.push(Stretch { from, to, value: found.value });
                }
            }
        }
        below.sort_by_key(|stretch| stretch.from);
        named = below;
    }
    if named.is_empty() {
        return Err(VersionError::new(ErrorKind::NotFound, format!("{:?} never was a path here", show_bytes(path))));
    }
    let mut namer = Namer::new(engine, txn);
    let mut found = Vec::new();
    let last = named.len() - 1;
    for (index, name) in named.iter().enumerate() {
        let rows = txn.versions(&lineage, name.value)?;
        let rows = rows.into_iter().map(|v| (v.period, v.row.filter(|row| row.nlink > 0))).collect();
        // A present file is followed back, unless it was saved over another: that one's versions are there.
        let replaces = index.checked_sub(1).and_then(|i| named.get(i)).is_some_and(|before| before.to == name.from);
        let follows = index == last && name.to == Seq::MAX && !replaces;
        let mut previous: Option<InodeRow> = None;
        for version in timeline(&lineage, rows) {
            let inside = version.from < name.to && version.to > name.from;
            if !(inside || follows && version.from < name.from) {
                continue;
            }
            let same = previous.as_ref().is_some_and(|old| is_same_version(old, &version.value));
            previous = Some(version.value.clone());
            if !same {
                let from = if follows { version.from } else { version.from.max(name.from) };
                let until = Some(version.to.min(name.to)).filter(|to| *to != Seq::MAX);
                let row = version.value;
                let at = describe(engine, txn, &mut namer, view, from, name.value, &row, until)?;
                found.push((at, Some(row)));
            }
        }
        let next = named.get(index + 1).map_or(Seq::MAX, |next| next.from);
        if name.to < next
            && let Some((_, Some(row))) = found.last()
        {
            let row = row.clone();
            let gone = describe(engine, txn, &mut namer, view, name.to, name.value, &row, None)?;
            found.push((PathVersion { removed: true, path: Some(PathBytes::from(path)), ..gone }, None));
        }
    }
    Ok(found)
}

fn is_same_version(old: &InodeRow, new: &InodeRow) -> bool {
    let derived = old.kind == Kind::Dir && old.mtime != new.mtime;
    old.content_seq == new.content_seq && old.attr_seq == new.attr_seq && !derived
}

#[allow(clippy::too_many_arguments)]
fn describe(
    engine: &Engine,
    txn: &dyn ReadTxn,
    namer: &mut Namer<'_, '_>,
    view: View,
    from: Seq,
    ino: Ino,
    row: &InodeRow,
    until: Option<Seq>,
) -> Result<PathVersion> {
    let event = txn.event(from)?;
    let then = State::new(engine, txn, View::as_of(view.branch, from))?;
    // What a commit made visible was done by somebody inside of the transaction.
    let committed =
        event.as_ref().filter(|event| matches!(event.op, Op::Commit | Op::Merge)).and_then(|event| event.txn);
    let inner = match committed {
        Some(id) => {
            let last = EventFilter { ino: Some(ino), txn: Some(id), descending: true, ..EventFilter::default() };
            txn.events(&EventFilter { limit: Some(1), ..last })?.pop()
        }
        None => None,
    };
    let deed = inner.as_ref().or(event.as_ref());
    let process = deed.map_or(row.process, |deed| deed.process);
    Ok(PathVersion {
        seq: from,
        time: event.as_ref().map(|event| event.time).unwrap_or(row.ctime),
        until,
        ino,
        kind: row.kind,
        path: then.path(ino)?.map(PathBytes::from),
        removed: false,
        size: row.size,
        perm: row.perm,
        owner: row.uid,
        op: deed.map(|deed| deed.op),
        txn: event.as_ref().and_then(|event| event.txn),
        uid: deed.map_or(row.uid, |deed| deed.uid),
        pid: deed.map_or(0, |deed| deed.pid),
        process,
        program: namer.program(process)?,
    })
}

/// A transaction, for listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnInfo {
    /// Its number.
    pub id: TxnId,
    /// Its hidden branch.
    pub branch: BranchId,
    /// The branch that it changes.
    pub target: BranchId,
    /// That branch's name, where it has one.
    pub target_name: Option<PathBytes>,
    /// The snapshot that it began with.
    pub base: Seq,
    /// What opened it.
    pub kind: TxnKind,
    /// How far it got.
    pub state: TxnState,
    /// The transaction around it.
    pub outer: Option<TxnId>,
    /// Who opened it.
    pub uid: u32,
    /// When it was opened.
    pub begun: Timestamp,
    /// The event that ended it.
    pub ended: Option<Seq>,
    /// When it ended.
    pub ended_time: Option<Timestamp>,
    /// What it is for.
    pub message: String,
    /// Who acts in it.
    pub label: String,
}

impl TxnInfo {
    /// Describes a row.
    pub fn of(engine: &Engine, row: &TxnRow) -> TxnInfo {
        TxnInfo {
            id: row.id,
            branch: row.branch,
            target: row.target,
            target_name: engine.branch(row.target).and_then(|branch| branch.name).map(PathBytes),
            base: row.base,
            kind: row.kind,
            state: row.state,
            outer: row.outer,
            uid: row.uid,
            begun: row.begun_time,
            ended: row.ended,
            ended_time: row.ended_time,
            message: row.message.clone(),
            label: row.label.clone(),
        }
    }
}

/// One event or transaction, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The event; for a transaction the one that ended it.
    pub event: Option<LogEntry>,
    /// The transaction, where it is one.
    pub txn: Option<TxnInfo>,
    /// The events inside the transaction, oldest first.
    pub inner: Vec<LogEntry>,
    /// What it changed.
    pub changes: Vec<Change>,
    /// The branch and the points just before and just after it (the text changes are between these).
    pub before: (BranchId, Seq),
    /// See `before`.
    pub after: (BranchId, Seq),
}

impl Shown {
    /// The states before and after, for [`diff::text_diff`].
    pub fn views(&self) -> (View, View) {
        (View::as_of(self.before.0, self.before.1), View::as_of(self.after.0, self.after.1))
    }
}

/// Shows a point: an event, or a transaction.
///
/// # Errors
/// Those of [`refs::resolve`].
pub fn show(engine: &Engine, text: &[u8], context: &RefContext) -> Result<Shown> {
    engine.seal(None)?;
    if let Ok(Some(Point::Txn(id) | Point::BeforeTxn(id))) = point::parse(text) {
        return show_txn(engine, &txn::find(engine, id)?);
    }
    let seq = match point::parse(text) {
        Ok(Some(Point::Event(seq))) => seq,
        _ => match refs::resolve(engine, text, context)?.at {
            crate::types::At::AsOf(seq) => seq,
            crate::types::At::Live => engine.point().0,
        },
    };
    let txn = snapshot(engine)?;
    let Some(row) = txn.event(seq)? else {
        return Err(VersionError::new(ErrorKind::NotFound, format!("no event e{seq}")));
    };
    if matches!(row.op, Op::Commit | Op::Merge)
        && let Some(committed) = engine.transactions().into_iter().find(|txn| txn.ended == Some(seq))
    {
        return show_txn(engine, &committed);
    }
    let branch = row.branch;
    let event = Namer::new(engine, &*txn).entry(row)?;
    let before = (branch, Seq(seq.0.saturating_sub(1)));
    let changes = diff::diff(engine, View::as_of(before.0, before.1), View::as_of(branch, seq), None)?;
    Ok(Shown { event: Some(event), txn: None, inner: Vec::new(), changes, before, after: (branch, seq) })
}

fn show_txn(engine: &Engine, row: &TxnRow) -> Result<Shown> {
    let (before, after) = match (row.state, row.ended) {
        (TxnState::Committed, Some(seq)) => ((row.target, Seq(seq.0.saturating_sub(1))), (row.target, seq)),
        _ => ((row.target, row.base), (row.branch, engine.point().0)),
    };
    let changes = diff::diff(engine, View::as_of(before.0, before.1), View::as_of(after.0, after.1), None)?;
    let txn = snapshot(engine)?;
    let mut namer = Namer::new(engine, &*txn);
    let event = row.ended.map(|seq| txn.event(seq)).transpose()?.flatten();
    let event = event.map(|event| namer.entry(event)).transpose()?;
    let lineage = vec![Segment { branch: row.branch, cut: Seq::MAX }];
    let inner = txn.events(&EventFilter { lineage, ..EventFilter::default() })?;
    let inner = inner.into_iter().map(|row| namer.entry(row)).collect::<Result<Vec<_>>>()?;
    Ok(Shown { event, txn: Some(TxnInfo::of(engine, row)), inner, changes, before, after })
}

/// Who introduced the lines of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// The versions that lines come from.
    pub versions: Vec<PathVersion>,
    /// Each line with the index of its version; none of what is no text.
    pub lines: Vec<(usize, PathBytes)>,
    /// Of what is no text, or too large to compare: stretches of bytes (first and number) with the
    /// index of the version that wrote them last. They begin and end where chunks do.
    pub regions: Vec<(usize, u64, u64)>,
}

/// The largest file in bytes, and the most versions, that are compared line by line.
const BLAME_MAX: (usize, usize) = (16 << 20, 2000);

/// Says for each line of a text file, or each region of another one, which version introduced it.
///
/// # Errors
/// [`ErrorKind::NotFound`] where no file is there.
pub fn blame(engine: &Engine, view: View, path: &[u8]) -> Result<Blame> {
    engine.seal(Some(view.branch))?;
    let txn = snapshot(engine)?;
    let state = State::new(engine, &*txn, view)?;
    let Some((ino, Kind::File)) = state.resolve(path)? else {
        return Err(VersionError::new(ErrorKind::NotFound, format!("no file {:?}", show_bytes(path))));
    };
    let mut rows: Vec<(PathVersion, InodeRow)> = Vec::new();
    for (version, row) in versions(engine, &*txn, view, path)? {
        let Some(row) = row.filter(|row| row.kind == Kind::File) else { continue };
        if rows.last().is_none_or(|(_, last)| last.content_seq != row.content_seq) {
            rows.push((version, row));
        }
    }
    if rows.last().is_none_or(|(version, _)| version.ino != ino) {
        let what = format!("{:?} is not there in this state", show_bytes(path));
        return Err(VersionError::new(ErrorKind::NotFound, what));
    }
    let newest = match rows.last() {
        Some((_, row)) => state.read(ino, row, BLAME_MAX.0)?,
        None => None,
    };
    if newest.is_none_or(|bytes| text::is_binary(&bytes)) {
        return regions(engine, &*txn, view, ino, rows);
    }
    let skipped = rows.len().saturating_sub(BLAME_MAX.1);
    let mut kept = Vec::new();
    let (mut old, mut origins): (Vec<u8>, Vec<usize>) = (Vec::new(), Vec::new());
    for (version, row) in rows.into_iter().skip(skipped) {
        let then = State::new(engine, &*txn, View::as_of(view.branch, version.seq))?;
        // What was no text, or too large to compare, tells nothing of lines.
        let bytes = then.read(version.ino, &row, BLAME_MAX.0)?.filter(|bytes| !text::is_binary(bytes));
        let Some(bytes) = bytes else {
            old.clear();
            origins.clear();
            kept.push(version);
            continue;
        };
        origins = text::annotate(&text::lines(&old), &origins, &text::lines(&bytes), &kept.len());
        kept.push(version);
        old = bytes;
    }
    let lines = origins.into_iter().zip(text::lines(&old)).map(|(at, line)| (at, PathBytes::from(line))).collect();
    Ok(Blame { versions: kept, lines, regions: Vec::new() })
}

/// Says which version wrote each chunk of a file last.
fn regions(
    engine: &Engine,
    txn: &dyn ReadTxn,
    view: View,
    ino: Ino,
    rows: Vec<(PathVersion, InodeRow)>,
) -> Result<Blame> {
    const CHUNK: u64 = CHUNK_SIZE as u64;
    let Some((_, row)) = rows.last() else { return Ok(Blame::default()) };
    let (size, newest) = (row.size, rows.len() - 1);
    let mut regions: Vec<(usize, u64, u64)> = Vec::new();
    if let Content::Inline(_) = row.content {
        regions.push((newest, 0, size));
    } else {
        let lineage = engine.lineage(view)?;
        for extent in txn.extents(&lineage, ino, row.data_from, 0..size.div_ceil(CHUNK))? {
            // The last version of this inode that began no later than the chunk.
            let wrote = rows.iter().rposition(|(version, _)| version.ino == ino && version.seq <= extent.valid_from);
            let (first, wrote) = (extent.index * CHUNK, wrote.unwrap_or(newest));
            let length = CHUNK.min(size.saturating_sub(first));
            match regions.last_mut() {
                Some((version, begin, so_far)) if *version == wrote && *begin + *so_far == first => *so_far += length,
                Some(_) | None => regions.push((wrote, first, length)),
            }
        }
    }
    Ok(Blame { versions: rows.into_iter().map(|(version, _)| version).collect(), lines: Vec::new(), regions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_sees_a_parents_row_end_only_before_its_fork() {
        let lineage = Lineage(
            [Segment { branch: BranchId(2), cut: Seq::MAX }, Segment { branch: BranchId(1), cut: Seq(10) }].into(),
        );
        let period = |branch, from, to| Period { branch: BranchId(branch), from: Seq(from), to: Seq(to) };
        let rows = vec![
            (period(1, 3, 5), Some('a')),
            (period(1, 7, 12), Some('b')),
            (period(1, 12, 99), Some('x')),
            (period(2, 20, 30), Some('c')),
            (period(2, 30, Seq::MAX.0), None),
        ];
        let seen: Vec<_> = timeline(&lineage, rows).into_iter().map(|s| (s.value, s.from.0, s.to.0)).collect();
        assert_eq!(seen, [('a', 3, 5), ('b', 7, 20), ('c', 20, 30)]);
    }
}
