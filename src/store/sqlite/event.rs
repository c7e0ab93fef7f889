//! Events of the record, and the directory paths that they share.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::codec;
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

/// The conditions of a filter but for branches and limits, as SQL.
struct Conditions {
    sql: Vec<String>,
    values: Vec<Value>,
    index: &'static str,
    after: i64,
    upto: i64,
}

impl Conditions {
    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
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
        let mut this = Conditions { sql: Vec::new(), values: Vec::new(), index: "", after, upto };
        if let Some(ino) = filter.ino {
            let ino = this.bind(codec::int(ino.0));
            this.sql.push(format!("(e.ino={ino} OR e.ino2={ino})"));
            this.index = "ino";
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
            let process = this.bind(codec::int(process.0));
            this.sql.push(format!("e.process={process}"));
            this.index = "process";
        }
        if let Some(program) = &filter.program {
            let comm = this.bind(program.get(..15).unwrap_or(program).to_vec());
            let suffix = [b"/", program.as_slice()].concat();
            let length = this.bind(-(suffix.len() as i64));
            let suffix = this.bind(suffix);
            let processes = format!("(SELECT id FROM process WHERE comm={comm} OR substr(exe, {length})={suffix})");
            let seqs = vec![format!("SELECT seq FROM event WHERE process IN {processes}")];
            this.any_of(conn, seqs, format!("+e.process IN {processes}"))?;
        }
        if let Some(txn) = filter.txn {
            let txn = this.bind(codec::int(txn.0));
            this.sql.push(format!("e.txn={txn}"));
            // Its events are those of its hidden branch, and the ones that opened and ended it.
            let row = format!("FROM txn WHERE id={txn}");
            this.sql.push(format!(
                "e.seq IN (SELECT seq FROM event WHERE branch=(SELECT branch {row}) \
                 UNION ALL SELECT begun {row} UNION ALL SELECT ended {row})"
            ));
            this.index = "txn";
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

    /// Chooses events at a path and, unless `exact`, below it.
    fn path(&mut self, conn: &Connection, path: &[u8], exact: bool) -> Result<()> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let mut seqs = Vec::new();
        let mut any = Vec::new();
        if !exact {
            let below = self.bind([path, b"/"].concat());
            let end = self.bind([path, b"0"].concat());
            let whole = self.bind(path.to_vec());
            let dirs = format!("(SELECT id FROM path WHERE path={whole} OR (path>={below} AND path<{end}))");
            for dir in ["dir", "dir2"] {
                seqs.push(format!("SELECT seq FROM event WHERE {dir} IN {dirs}"));
                any.push(format!("+e.{dir} IN {dirs}"));
            }
        }
        if let Some((dir, leaf)) = split(if path.is_empty() { b"/" } else { path }) {
            let dir = self.bind(dir.to_vec());
            let leaf = self.bind(leaf.to_vec());
            let dir = format!("(SELECT id FROM path WHERE path={dir})");
            for (column, name) in [("dir", "coalesce(leaf, name)"), ("dir2", "coalesce(leaf2, name2)")] {
                seqs.push(format!("SELECT seq FROM event WHERE {column}={dir} AND {name}={leaf}"));
            }
            any.push(format!("(+e.dir={dir} AND coalesce(e.leaf, e.name)={leaf})"));
            any.push(format!("(+e.dir2={dir} AND coalesce(e.leaf2, e.name2)={leaf})"));
        }
        self.any_of(conn, seqs, any.join(" OR "))
    }

    /// Chooses events below a path whose ASCII letters may have any case.
    fn below_any_case(&mut self, conn: &Connection, path: &[u8]) -> Result<()> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let length = self.bind(i64::try_from(path.len()).unwrap_or(i64::MAX));
        let path = self.bind(path.to_vec());
        let dirs = format!(
            "(SELECT id FROM path WHERE lower(CAST(substr(path, 1, {length}) AS TEXT))=lower(CAST({path} AS TEXT)) \
             AND (length(path)={length} OR substr(path, {length}+1, 1)=x'2f'))"
        );
        let seqs = vec![format!("SELECT seq FROM event WHERE dir IN {dirs}")];
        self.any_of(conn, seqs, format!("+e.dir IN {dirs}"))
    }

    /// Chooses the events of some queries: by their numbers where these are few, else by `test` on
    /// each event in order, which finds the first ones soon.
    fn any_of(&mut self, conn: &Connection, mut seqs: Vec<String>, test: String) -> Result<()> {
        const FEW: i64 = 20_000;
        let (after, upto) = (self.bind(self.after), self.bind(self.upto));
        for query in &mut seqs {
            query.push_str(&format!(" AND seq>{after} AND seq<={upto}"));
        }
        let seqs = seqs.join(" UNION ALL ");
        let mut count = conn.prepare_cached(&format!("SELECT count(*) FROM (SELECT 1 FROM ({seqs}) LIMIT {FEW})"))?;
        // Values that later conditions bind are not used here.
        let used = count.parameter_count();
        let values = self.values.get(..used).unwrap_or_default();
        let found: i64 = count.query_row(params_from_iter(values), |row| row.get(0))?;
        if found < FEW {
            self.sql.push(format!("e.seq IN ({seqs})"));
            self.index = "seq";
        } else {
            self.sql.push(format!("({test})"));
        }
        Ok(())
    }
}

pub(super) fn list(conn: &Connection, filter: &EventFilter) -> Result<Vec<EventRow>> {
    let conditions = Conditions::of(conn, filter)?;
    let mut found = Vec::new();
    if filter.lineage.is_empty() {
        list_branch(conn, filter, &conditions, None, &mut found)?;
        return Ok(found);
    }
    if filter.lineage.len() > SEGMENTS_MAX {
        list_scanning(conn, filter, &conditions, &mut found)?;
        return Ok(found);
    }
    // Each segment in the order of its own index, then merged.
    for segment in &filter.lineage {
        list_branch(conn, filter, &conditions, Some((segment.branch, segment.cut)), &mut found)?;
    }
    found.sort_by_key(|event| event.seq);
    found.dedup_by_key(|event| event.seq);
    if filter.descending {
        found.reverse();
    }
    found.truncate(filter.limit.unwrap_or(usize::MAX));
    Ok(found)
}

/// With more branches than this, all events are read in order and those of others left out.
const SEGMENTS_MAX: usize = 16;

fn list_scanning(
    conn: &Connection,
    filter: &EventFilter,
    conditions: &Conditions,
    found: &mut Vec<EventRow>,
) -> Result<()> {
    let mut cuts: HashMap<i64, i64> = HashMap::new();
    for segment in &filter.lineage {
        let cut = cuts.entry(codec::int(segment.branch.0)).or_insert(0);
        *cut = codec::int(segment.cut.0).max(*cut);
    }
    let unlimited = EventFilter { limit: None, ..filter.clone() };
    let (sql, values) = statement(&unlimited, conditions, None);
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let limit = filter.limit.unwrap_or(usize::MAX);
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let (seq, branch): (i64, i64) = (row.get(0)?, row.get(3)?);
        if cuts.get(&branch).is_some_and(|cut| seq <= *cut) {
            found.push(read_row(row)?);
        }
    }
    Ok(())
}

fn list_branch(
    conn: &Connection,
    filter: &EventFilter,
    conditions: &Conditions,
    segment: Option<(BranchId, Seq)>,
    found: &mut Vec<EventRow>,
) -> Result<()> {
    let (sql, values) = statement(filter, conditions, segment);
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        found.push(read_row(row)?);
    }
    Ok(())
}

/// The query of a filter, on one branch or on all.
fn statement(filter: &EventFilter, conditions: &Conditions, segment: Option<(BranchId, Seq)>) -> (String, Vec<Value>) {
    let mut upto = conditions.upto;
    let mut values = conditions.values.clone();
    let mut bind = |value: i64| {
        values.push(Value::Integer(value));
        format!("?{}", values.len())
    };
    let mut sql = format!("SELECT {COLUMNS} FROM event e {JOINS} WHERE ");
    if let Some((branch, cut)) = segment {
        upto = upto.min(codec::int(cut.0));
        // The plus keeps the planner from an index that is worse than the one for inodes.
        let plus = if conditions.index.is_empty() { "" } else { "+" };
        sql.push_str(&format!("{plus}e.branch={} AND ", bind(codec::int(branch.0))));
    }
    sql.push_str(&format!("e.seq>{} AND e.seq<={}", bind(conditions.after), bind(upto)));
    for condition in &conditions.sql {
        sql.push_str(" AND ");
        sql.push_str(condition);
    }
    sql.push_str(if filter.descending { " ORDER BY e.seq DESC" } else { " ORDER BY e.seq" });
    if let Some(limit) = filter.limit {
        sql.push_str(&format!(" LIMIT {}", bind(i64::try_from(limit).unwrap_or(i64::MAX))));
    }
    (sql, values)
}

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
        let found: Option<i64> =
            conn.prepare_cached("SELECT id FROM path WHERE path=?1")?.query_row([path], |row| row.get(0)).optional()?;
        let id = match found {
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

pub(super) fn put(conn: &Connection, paths: &mut Paths, event: &EventRow) -> Result<()> {
    let (dir, leaf) = paths.encode(conn, event.path.as_deref(), event.name.as_deref())?;
    let (dir2, leaf2) = paths.encode(conn, event.path2.as_deref(), event.name2.as_deref())?;
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
