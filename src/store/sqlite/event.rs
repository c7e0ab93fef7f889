//! Events of the record, and the directory paths that they share.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use rustc_hash::FxHashSet;

use super::codec;
use super::posting::{self, By, Posted, Postings, Stretches};
use crate::store::{EventFilter, EventRow, Result, StoreError};
use crate::types::{BranchId, Op, Seq, Timestamp};

const COLUMNS: &str = "e.seq, e.time, e.raw_time, e.branch, e.txn, e.op, e.ino, e.parent, e.name, e.parent2, e.name2, \
     d.path, e.leaf, d2.path, e.leaf2, e.ino2, e.offset, e.length, e.old, e.new, e.result, e.uid, e.gid, e.pid, e.process";

const JOINS: &str = "LEFT JOIN path d ON d.id=e.dir LEFT JOIN path d2 ON d2.id=e.dir2";

pub(super) const AT: &str = "SELECT seq, time FROM event WHERE seq<=?1 ORDER BY seq DESC LIMIT 1";

fn read_row(row: &Row<'_>) -> Result<EventRow> {
    let time = codec::time(row, 1)?;
    let code: u8 = row.get(5)?;
    let name = codec::opt_bytes(row, 8)?;
    let name2 = codec::opt_bytes(row, 10)?;
    let path = join(codec::opt_bytes(row, 11)?, codec::opt_bytes(row, 12)?, name.as_deref());
    let path2 = join(codec::opt_bytes(row, 13)?, codec::opt_bytes(row, 14)?, name2.as_deref());
    Ok(EventRow {
        seq: codec::seq(row, 0)?,
        time,
        raw_time: codec::opt_time(row, 2)?.unwrap_or(time),
        branch: codec::branch(row, 3)?,
        txn: codec::opt_uint(row, 4)?.map(crate::types::TxnId),
        op: Op::from_code(code).ok_or_else(|| StoreError::Corrupt(format!("event of unknown operation {code}")))?,
        ino: codec::opt_ino(row, 6)?,
        parent: codec::opt_ino(row, 7)?,
        name,
        parent2: codec::opt_ino(row, 9)?,
        name2,
        path,
        path2,
        ino2: codec::opt_ino(row, 15)?,
        offset: codec::opt_uint(row, 16)?,
        length: codec::opt_uint(row, 17)?,
        old: codec::opt_bytes(row, 18)?,
        new: codec::opt_bytes(row, 19)?,
        result: row.get(20)?,
        uid: codec::small(row, 21)?,
        gid: codec::small(row, 22)?,
        pid: codec::small(row, 23)?,
        process: codec::process(row, 24)?,
    })
}

/// Splits `/a/b/c` into the directory `/a/b` and the leaf `c`; the root is `""` and `""`.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (dir, leaf) = path.split_at(slash);
    Some((dir, leaf.get(1..).unwrap_or_default()))
}

/// The last name of a path.
fn last(path: &[u8]) -> Option<&[u8]> {
    Some(split(path)?.1)
}

fn join(dir: Option<Vec<u8>>, leaf: Option<Vec<u8>>, name: Option<&[u8]>) -> Option<Arc<[u8]>> {
    let leaf = leaf.as_deref().or(name);
    let Some(mut path) = dir else {
        return leaf.filter(|leaf| leaf.starts_with(b"//")).map(|leaf| Arc::from(leaf.get(2..).unwrap_or_default()));
    };
    path.push(b'/');
    path.extend_from_slice(leaf.unwrap_or_default());
    Some(path.into())
}

pub(super) fn find(conn: &Connection, seq: Seq) -> Result<Option<EventRow>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM event e {JOINS} WHERE e.seq=?1"))?;
    let mut rows = statement.query([codec::int(seq.0)])?;
    rows.next()?.map(read_row).transpose()
}

/// Times grow with numbers, so that halving finds the event without an index on time.
pub(super) fn seq_at(conn: &Connection, at: Timestamp) -> Result<Option<(Seq, Timestamp)>> {
    let mut statement = conn.prepare_cached(AT)?;
    let mut at_or_before = |bound: i64| -> Result<Option<(i64, i64)>> {
        Ok(statement.query_row([bound], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    };
    let Some((mut high, newest)) = at_or_before(i64::MAX)? else { return Ok(None) };
    if newest <= at.0 {
        return Ok(Some((Seq(high as u64), Timestamp(newest))));
    }
    // `high` is too late; everything at and below `low` is known to be early enough or absent.
    let (mut low, mut found) = (0, None);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match at_or_before(middle)? {
            Some((seq, time)) if time <= at.0 => {
                found = Some((Seq(seq as u64), Timestamp(time)));
                low = middle;
            }
            Some((seq, _)) => high = seq,
            None => low = middle,
        }
    }
    Ok(found)
}

/// Which columns follow those of the event, for tests that are not made in SQL.
const DIR: usize = 25;
const DIR2: usize = 26;

/// A test of paths or processes: too large for SQL, which would make its sets anew for every stretch.
enum Check {
    /// In a directory, as a name where there is one; the second path counts too unless `first_only`.
    Path { dirs: FxHashSet<i64>, exact: Option<(Option<i64>, Vec<u8>)>, first_only: bool },
    /// By one of these processes.
    Processes(FxHashSet<i64>),
}

impl Check {
    fn passes(&self, row: &Row<'_>) -> Result<bool> {
        Ok(match self {
            Check::Processes(ids) => ids.contains(&row.get(24)?),
            Check::Path { dirs, exact, first_only } => {
                let is_at = |dir: usize, leaf: usize, name: usize| -> Result<bool> {
                    let Some(dir) = row.get::<_, Option<i64>>(dir)? else { return Ok(false) };
                    if dirs.contains(&dir) {
                        return Ok(true);
                    }
                    let Some((Some(wanted), last)) = exact else { return Ok(false) };
                    if *wanted != dir {
                        return Ok(false);
                    }
                    let leaf = match row.get_ref(leaf)?.as_bytes_or_null()? {
                        Some(leaf) => Some(leaf),
                        None => row.get_ref(name)?.as_bytes_or_null()?,
                    };
                    Ok(leaf.unwrap_or_default() == last)
                };
                is_at(DIR, 12, 8)? || (!first_only && is_at(DIR2, 14, 10)?)
            }
        })
    }
}

/// The conditions of a filter but for branches and limits.
struct Conditions {
    sql: Vec<String>,
    values: Vec<Value>,
    checks: Vec<Check>,
    /// Where the events are that can match; `None`: anywhere.
    within: Option<Stretches>,
    after: i64,
    upto: i64,
}

impl Conditions {
    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }

    fn narrow(&mut self, stretches: Stretches) {
        self.within = Some(match self.within.take() {
            Some(within) => within.and(&stretches),
            None => stretches,
        });
    }

    /// Narrows to the events of some keys.
    fn posted(&mut self, conn: &Connection, by: By, keys: impl IntoIterator<Item = (i64, Option<u32>)>) -> Result<()> {
        let found = posting::find(conn, by, keys, self.after, self.upto)?;
        self.narrow(found);
        Ok(())
    }

    fn of(conn: &Connection, filter: &EventFilter) -> Result<Conditions> {
        let before = |at: Timestamp| -> Result<i64> {
            Ok(seq_at(conn, Timestamp(at.0.saturating_sub(1)))?.map_or(0, |(seq, _)| codec::int(seq.0)))
        };
        let mut after = codec::int(filter.after.unwrap_or(Seq::ZERO).0);
        let mut upto = codec::int(filter.upto.unwrap_or(Seq::MAX).0);
        if let Some(since) = filter.since {
            after = after.max(before(since)?);
        }
        if let Some(until) = filter.until {
            upto = upto.min(before(until)?);
        }
        let (sql, values, checks) = (Vec::new(), Vec::new(), Vec::new());
        let mut this = Conditions { sql, values, checks, within: None, after, upto };
        if let Some(ino) = filter.ino {
            let number = this.bind(codec::int(ino.0));
            this.sql.push(format!("(e.ino={number} OR e.ino2={number})"));
            let (block, place) = posting::inode(codec::int(ino.0));
            this.posted(conn, By::Inode, [(block, Some(place))])?;
        }
        if let Some(path) = filter.path.as_deref().filter(|path| *path != b"/" || filter.path_exact) {
            if filter.path_any_case {
                this.below_any_case(conn, path)?;
            } else {
                this.path(conn, path, filter.path_exact)?;
            }
        }
        if let Some(uid) = filter.uid {
            let uid = this.bind(i64::from(uid));
            this.sql.push(format!("e.uid={uid}"));
        }
        if let Some(pid) = filter.pid {
            let pid = this.bind(i64::from(pid));
            this.sql.push(format!("e.pid={pid}"));
        }
        if let Some(process) = filter.process {
            let id = codec::int(process.0);
            let process = this.bind(id);
            this.sql.push(format!("e.process={process}"));
            this.posted(conn, By::Process, [(id, None)])?;
        }
        if let Some(program) = &filter.program {
            let ids = processes(conn, program)?;
            this.posted(conn, By::Process, ids.iter().map(|id| (*id, None)))?;
            this.checks.push(Check::Processes(ids));
        }
        if let Some(txn) = filter.txn {
            this.txn(conn, codec::int(txn.0))?;
        }
        if filter.failed {
            this.sql.push("e.result<>0".to_owned());
        }
        if !filter.ops.is_empty() {
            let codes: Vec<String> = filter.ops.iter().map(|op| op.code().to_string()).collect();
            this.sql.push(format!("e.op IN ({})", codes.join(",")));
        }
        Ok(this)
    }

    /// Chooses the events of a transaction: those of its hidden branch, and the ones that opened and ended it.
    fn txn(&mut self, conn: &Connection, id: i64) -> Result<()> {
        let number = self.bind(id);
        self.sql.push(format!("e.txn={number}"));
        let mut statement = conn.prepare_cached("SELECT branch, begun, ended FROM txn WHERE id=?1")?;
        let row = statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let Some((branch, begun, ended)): Option<(i64, i64, Option<i64>)> = row else {
            self.narrow(Stretches::single([]));
            return Ok(());
        };
        let inside = posting::find(conn, By::Branch, [(branch, None)], self.after, self.upto)?;
        self.narrow(inside.or(Stretches::single([Some(begun), ended].into_iter().flatten())));
        Ok(())
    }

    /// Chooses events at a path and, unless `exact`, below it.
    fn path(&mut self, conn: &Connection, path: &[u8], exact: bool) -> Result<()> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let mut dirs = FxHashSet::default();
        if !exact {
            let mut statement = conn.prepare_cached("SELECT id FROM path WHERE path=?1 OR (path>=?2 AND path<?3)")?;
            let mut rows = statement.query((path, [path, b"/"].concat(), [path, b"0"].concat()))?;
            while let Some(row) = rows.next()? {
                dirs.insert(row.get(0)?);
            }
        }
        let mut keys: Vec<_> = dirs.iter().map(|dir| (*dir, None)).collect();
        let whole = if path.is_empty() { b"/" } else { path };
        let itself = match split(whole) {
            Some((dir, leaf)) => {
                let dir = path_id(conn, dir)?;
                keys.extend(dir.map(|dir| (dir, Some(posting::leaf(leaf)))));
                Some((dir, leaf.to_vec()))
            }
            None => None,
        };
        self.posted(conn, By::Dir, keys)?;
        self.checks.push(Check::Path { dirs, exact: itself, first_only: false });
        Ok(())
    }

    /// Chooses events below a path whose ASCII letters may have any case.
    fn below_any_case(&mut self, conn: &Connection, path: &[u8]) -> Result<()> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let mut statement = conn.prepare_cached(
            "SELECT id FROM path WHERE lower(CAST(substr(path, 1, ?2) AS TEXT))=lower(CAST(?1 AS TEXT)) \
             AND (length(path)=?2 OR substr(path, ?2+1, 1)=x'2f')",
        )?;
        let mut rows = statement.query((path, i64::try_from(path.len()).unwrap_or(i64::MAX)))?;
        let mut dirs = FxHashSet::default();
        while let Some(row) = rows.next()? {
            dirs.insert(row.get(0)?);
        }
        self.posted(conn, By::Dir, dirs.iter().map(|dir| (*dir, None)))?;
        self.checks.push(Check::Path { dirs, exact: None, first_only: true });
        Ok(())
    }

    /// The stretches to look at, on a branch or on all, in the order asked for.
    fn stretches(
        &self,
        conn: &Connection,
        segment: Option<(BranchId, Seq)>,
        descending: bool,
    ) -> Result<Vec<(i64, i64)>> {
        let upto = segment.map_or(self.upto, |(_, cut)| self.upto.min(codec::int(cut.0)));
        let mut stretches = match (segment, &self.within) {
            (None, None) => vec![(self.after.saturating_add(1), upto)],
            (None, Some(within)) => within.0.clone(),
            (Some((branch, _)), within) => {
                let posted = posting::find(conn, By::Branch, [(codec::int(branch.0), None)], self.after, upto)?;
                within.as_ref().map_or_else(|| posted.clone(), |within| within.and(&posted)).0
            }
        };
        if descending {
            stretches.reverse();
        }
        Ok(stretches)
    }

    /// Reads events in order until `visit` has enough; it gets rows with the columns of an event.
    fn scan(
        &self,
        conn: &Connection,
        segment: Option<(BranchId, Seq)>,
        descending: bool,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut values = self.values.clone();
        let mut sql = format!("SELECT {COLUMNS}, e.dir, e.dir2 FROM event e {JOINS} WHERE ");
        if let Some((branch, _)) = segment {
            values.push(Value::Integer(codec::int(branch.0)));
            sql.push_str(&format!("e.branch=?{} AND ", values.len()));
        }
        let bounds = values.len();
        sql.push_str(&format!("e.seq>=?{} AND e.seq<=?{}", bounds + 1, bounds + 2));
        for condition in &self.sql {
            sql.push_str(" AND ");
            sql.push_str(condition);
        }
        sql.push_str(if descending { " ORDER BY e.seq DESC" } else { " ORDER BY e.seq" });
        let mut statement = conn.prepare_cached(&sql)?;
        for (first, last) in self.stretches(conn, segment, descending)? {
            values.truncate(bounds);
            values.extend([Value::Integer(first), Value::Integer(last)]);
            let mut rows = statement.query(params_from_iter(&values))?;
            while let Some(row) = rows.next()? {
                let mut passes = true;
                for check in &self.checks {
                    passes = passes && check.passes(row)?;
                }
                if passes && !visit(row)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn path_id(conn: &Connection, path: &[u8]) -> Result<Option<i64>> {
    Ok(conn.prepare_cached("SELECT id FROM path WHERE path=?1")?.query_row([path], |row| row.get(0)).optional()?)
}

/// The processes that ran a program.
fn processes(conn: &Connection, program: &[u8]) -> Result<FxHashSet<i64>> {
    let suffix = [b"/", program].concat();
    let length = -(suffix.len() as i64);
    let mut statement = conn.prepare_cached("SELECT id FROM process WHERE comm=?1 OR substr(exe, ?2)=?3")?;
    let mut rows = statement.query((program.get(..15).unwrap_or(program), length, suffix))?;
    let mut ids = FxHashSet::default();
    while let Some(row) = rows.next()? {
        ids.insert(row.get(0)?);
    }
    Ok(ids)
}

pub(super) fn list(conn: &Connection, filter: &EventFilter) -> Result<Vec<EventRow>> {
    let conditions = Conditions::of(conn, filter)?;
    let limit = filter.limit.unwrap_or(usize::MAX);
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let mut cuts: HashMap<i64, i64> = HashMap::new();
    for segment in &filter.lineage {
        let cut = cuts.entry(codec::int(segment.branch.0)).or_insert(0);
        *cut = codec::int(segment.cut.0).max(*cut);
    }
    if cuts.len() <= SEGMENTS_MAX && !cuts.is_empty() {
        // Each branch in its own order, then merged.
        for (branch, cut) in cuts {
            let mut left = limit;
            let segment = Some((BranchId(branch as u64), Seq(cut as u64)));
            conditions.scan(conn, segment, filter.descending, &mut |row| {
                found.push(read_row(row)?);
                left -= 1;
                Ok(left > 0)
            })?;
        }
        found.sort_by_key(|event| event.seq);
        if filter.descending {
            found.reverse();
        }
        found.truncate(limit);
        return Ok(found);
    }
    conditions.scan(conn, None, filter.descending, &mut |row| {
        if !cuts.is_empty() {
            let (seq, branch): (i64, i64) = (row.get(0)?, row.get(3)?);
            if cuts.get(&branch).is_none_or(|cut| seq > *cut) {
                return Ok(true);
            }
        }
        found.push(read_row(row)?);
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// With more branches than this, all events are read in order and those of others left out.
const SEGMENTS_MAX: usize = 16;

/// Numbers of directory paths that the writer knows without asking.
pub(super) struct Paths {
    known: LruCache<Arc<[u8]>, i64, rustc_hash::FxBuildHasher>,
}

impl Paths {
    pub(super) fn new() -> Paths {
        let capacity = NonZeroUsize::new(16 * 1024).unwrap_or(NonZeroUsize::MIN);
        Paths { known: LruCache::with_hasher(capacity, rustc_hash::FxBuildHasher) }
    }

    /// Forgets everything, after numbers were rolled back.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    fn intern(&mut self, conn: &Connection, path: &[u8]) -> Result<i64> {
        if let Some(id) = self.known.get(path) {
            return Ok(*id);
        }
        let id = match path_id(conn, path)? {
            Some(id) => id,
            None => {
                conn.prepare_cached("INSERT INTO path (path) VALUES (?1)")?.execute([path])?;
                conn.last_insert_rowid()
            }
        };
        self.known.put(path.into(), id);
        Ok(id)
    }

    /// Returns what the columns `dir` and `leaf` keep of a path.
    fn encode<'a>(
        &mut self,
        conn: &Connection,
        path: Option<&'a [u8]>,
        name: Option<&[u8]>,
    ) -> Result<(Option<i64>, Option<std::borrow::Cow<'a, [u8]>>)> {
        let Some(path) = path else { return Ok((None, None)) };
        match split(path) {
            Some((dir, leaf)) => {
                let dir = self.intern(conn, dir)?;
                Ok((Some(dir), (name != Some(leaf)).then_some(leaf.into())))
            }
            // No slash in it: kept whole, marked by two of them.
            None => Ok((None, Some([b"//", path].concat().into()))),
        }
    }
}

pub(super) fn put(conn: &Connection, paths: &mut Paths, postings: &mut Postings, event: &EventRow) -> Result<()> {
    let (dir, leaf) = paths.encode(conn, event.path.as_deref(), event.name.as_deref())?;
    let (dir2, leaf2) = paths.encode(conn, event.path2.as_deref(), event.name2.as_deref())?;
    let number = |ino: Option<crate::types::Ino>| ino.map(|ino| codec::int(ino.0));
    postings.add(&Posted {
        seq: codec::int(event.seq.0),
        branch: codec::int(event.branch.0),
        process: codec::int(event.process.0),
        inodes: [number(event.ino), number(event.ino2)],
        paths: [dir.zip(event.path.as_deref().and_then(last)), dir2.zip(event.path2.as_deref().and_then(last))],
    });
    conn.prepare_cached(
        "INSERT INTO event (seq, time, raw_time, branch, txn, op, ino, parent, name, parent2, name2, dir, leaf, dir2, \
         leaf2, ino2, offset, length, old, new, result, uid, gid, pid, process) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,\
         ?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24,?25)",
    )?
    .execute(params![
        codec::int(event.seq.0),
        event.time.0,
        (event.raw_time != event.time).then_some(event.raw_time.0),
        codec::int(event.branch.0),
        event.txn.map(|txn| codec::int(txn.0)),
        event.op.code(),
        event.ino.map(|ino| codec::int(ino.0)),
        event.parent.map(|ino| codec::int(ino.0)),
        event.name,
        event.parent2.map(|ino| codec::int(ino.0)),
        event.name2,
        dir,
        leaf.as_deref(),
        dir2,
        leaf2.as_deref(),
        event.ino2.map(|ino| codec::int(ino.0)),
        event.offset.map(codec::int),
        event.length.map(codec::int),
        event.old,
        event.new,
        event.result,
        event.uid,
        event.gid,
        event.pid,
        codec::int(event.process.0),
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_into_what_joins_again() {
        for path in [&b"/"[..], b"/a", b"/a/b", b"/a//b"] {
            let (dir, leaf) = split(path).unwrap();
            assert_eq!(join(Some(dir.to_vec()), Some(leaf.to_vec()), None).as_deref(), Some(path));
        }
    }
}
