//! Forgetting: rows that no state needs any more, their events, and the chunks of neither.
//!
//! What ended by the point goes, unless its period contains a pin of its branch: a point at which
//! some lineage still looks at the branch. Extents and attributes go with their inode
//! (`shown.rs`). It runs in slices between groups; the setting `pruned_before` comes first, so that
//! nobody asks for what is half gone.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use rustc_hash::{FxHashMap, FxHashSet};

use super::pins::{Lines, Pins};
use super::shown::{Part, Shown};
use super::write::Writer;
use super::{SqliteStore, codec, ledger, lines, posting, upkeep};
use crate::store::{BranchRow, Prune, Pruned, Result, StoreError, TxnKind, TxnRow, TxnState, WriteTxn};
use crate::types::{BranchId, ChunkId, Seq};

/// The setting that holds the first event whose state is kept, in decimal.
pub(super) const SETTING: &str = "pruned_before";

/// Rows that one slice looks at.
const SLICE: usize = 5000;

/// The longest that a merge is computed.
const MERGE_NANOS: i64 = 600 * 1_000_000_000;

/// Chunks that one slice removes.
const CHUNKS: usize = 200;

/// More chunks than a disk holds; each costs a bit of memory while chunks are collected.
const CHUNK_MAX: u64 = 1 << 32;

/// Which rows may go.
pub(super) struct Plan {
    pub(super) before: Seq,
    /// Points at which each branch is looked at by others, sorted.
    pins: Pins,
    /// Branches whose present nobody can see any more.
    dead: Vec<BranchId>,
    /// Parent and base of every branch that has one.
    parents: FxHashMap<BranchId, (BranchId, Seq)>,
}

impl Plan {
    fn of(conn: &Connection, request: &Prune) -> Result<Plan> {
        let rows: BTreeMap<BranchId, BranchRow> = lines::branches(conn)?.into_iter().map(|row| (row.id, row)).collect();
        let mut dead: Vec<BranchId> =
            rows.values().filter(|row| row.dropped.is_some_and(|at| at <= request.before)).map(|row| row.id).collect();
        let transactions = lines::transactions(conn)?;
        for txn in &transactions {
            let over = match txn.state {
                TxnState::Committed | TxnState::RolledBack => txn.ended.is_some_and(|at| at <= request.before),
                TxnState::Open | TxnState::Interrupted | TxnState::Conflicted => false,
            };
            if over && rows.get(&txn.branch).is_some_and(|row| row.name.is_none()) {
                dead.push(txn.branch);
            }
        }
        dead.extend(Plan::left_behind(conn, &rows, &transactions, request.before)?);
        dead.sort_unstable();
        let merges = lines::all_merges(conn)?;
        let tags = lines::tags(conn)?;
        let all = Lines::new(&rows, &merges);
        let parents = rows.values().filter_map(|row| Some((row.id, (row.parent?, row.base)))).collect();
        let mut plan = Plan { before: request.before, pins: Pins::default(), dead, parents };
        let present = rows.keys().filter(|id| plan.dead.binary_search(id).is_err()).map(|id| (*id, Seq::MAX));
        let fixed = tags.iter().map(|tag| (tag.branch, tag.seq));
        let views = request.pins.iter().map(|pin| (pin.branch, pin.cut));
        let heads: Vec<(BranchId, Seq)> = present.chain(fixed).chain(views).collect();
        for (branch, at) in &heads {
            all.pin(&mut plan.pins, *branch, *at);
        }
        all.pin_bases(&mut plan.pins, heads.into_iter(), request.before);
        for pins in plan.pins.values_mut() {
            pins.sort_unstable();
            pins.dedup();
        }
        Ok(plan)
    }

    /// Hidden branches of no transaction: virtual bases of merges that are over. While one is open it may show its
    /// base, and one that is being computed has not been begun.
    fn left_behind(
        conn: &Connection,
        branches: &BTreeMap<BranchId, BranchRow>,
        transactions: &[TxnRow],
        before: Seq,
    ) -> Result<Vec<BranchId>> {
        if transactions.iter().any(|txn| txn.kind == TxnKind::Merge && txn.ended.is_none()) {
            return Ok(Vec::new());
        }
        let known: FxHashSet<BranchId> = transactions.iter().map(|txn| txn.branch).collect();
        let limit = ledger::counters(conn)?.time.0.saturating_sub(MERGE_NANOS);
        let over = |row: &&BranchRow| row.created <= before && row.created_time.0 < limit;
        let left = branches
            .values()
            .filter(|row| row.name.is_none() && row.parent.is_some() && !known.contains(&row.id))
            .filter(over);
        Ok(left.map(|row| row.id).collect())
    }

    /// Tells whether a row is needed by no state that is kept.
    pub(super) fn forgets(&self, branch: BranchId, from: Seq, to: Seq) -> bool {
        let ended = to <= self.before || (self.is_dead(branch) && from < self.before);
        let pinned = || {
            self.pins.get(&branch).is_some_and(|pins| {
                let next = pins.partition_point(|pin| *pin < from);
                pins.get(next).is_some_and(|pin| *pin < to)
            })
        };
        ended && !pinned()
    }

    /// Tells whether nobody can see a branch's present any more.
    pub(super) fn is_dead(&self, branch: BranchId) -> bool {
        self.dead.binary_search(&branch).is_ok()
    }

    /// A branch's parent, and the base.
    pub(super) fn parent(&self, branch: BranchId) -> Option<(BranchId, Seq)> {
        self.parents.get(&branch).copied().filter(|(parent, _)| *parent < branch)
    }

    /// The point at which a branch sees one that it came from; `None` where it did not.
    pub(super) fn cut(&self, branch: BranchId, ancestor: BranchId) -> Option<Seq> {
        let (mut at, mut cut) = (branch, Seq::MAX);
        while at > ancestor {
            let (parent, base) = self.parent(at)?;
            cut = cut.min(base);
            at = parent;
        }
        (at == ancestor && at != branch).then_some(cut)
    }
}

/// A temporal table: its key, and how many columns of it come before the branch.
struct Table {
    name: &'static str,
    key: &'static str,
    places: &'static str,
    width: usize,
    owned: Owned,
}

/// Whether rows show only through their inode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owned {
    No,
    /// While the inode is there.
    Attribute,
    /// While the inode is there and its data does not begin later.
    Data,
}

/// Inodes come first: what shows only through one that is forgotten goes too.
const TABLES: [Table; 4] = [
    Table::new("inode", "ino, branch, valid_from", "?1, ?2, ?3", 1, Owned::No),
    Table::new("entry", "parent, name, branch, valid_from", "?1, ?2, ?3, ?4", 2, Owned::No),
    Table::new("xattr", "ino, name, branch, valid_from", "?1, ?2, ?3, ?4", 2, Owned::Attribute),
    Table::new("extent", "ino, idx, branch, valid_from", "?1, ?2, ?3, ?4", 2, Owned::Data),
];

impl Table {
    const fn new(name: &'static str, key: &'static str, places: &'static str, width: usize, owned: Owned) -> Table {
        Table { name, key, places, width, owned }
    }

    /// Looks at some rows after a key; deletes those that may go. Returns how many, and where it stopped.
    fn slice(
        &self,
        conn: &Connection,
        plan: &Plan,
        after: &[Value],
        delete: bool,
    ) -> Result<(u64, Option<Vec<Value>>)> {
        let sql = format!(
            "SELECT {}, valid_to FROM {} WHERE ({})>({}) ORDER BY {} LIMIT {SLICE}",
            self.key, self.name, self.key, self.places, self.key
        );
        let mut going: Vec<Vec<Value>> = Vec::new();
        let (mut seen, mut last) = (0, None);
        let mut shown = Shown::new(conn, plan);
        {
            let mut statement = conn.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(after))?;
            while let Some(row) = rows.next()? {
                seen += 1;
                let columns = self.width + 2;
                let key = (0..columns).map(|column| row.get(column)).collect::<rusqlite::Result<Vec<Value>>>()?;
                let (branch, from) = (codec::branch(row, self.width)?, codec::seq(row, self.width + 1)?);
                let to = codec::seq(row, columns)?;
                let part =
                    |data_from| -> Result<Part> { Ok(Part { ino: codec::ino(row, 0)?, branch, from, to, data_from }) };
                let forgets = match self.owned {
                    Owned::No => plan.forgets(branch, from, to),
                    Owned::Attribute => shown.forgets(part(Seq::MAX)?)?,
                    Owned::Data => shown.forgets(part(from)?)?,
                };
                if forgets {
                    going.push(key.clone());
                }
                last = Some(key);
            }
        }
        if delete {
            let mut statement =
                conn.prepare_cached(&format!("DELETE FROM {} WHERE ({})=({})", self.name, self.key, self.places))?;
            for key in &going {
                statement.execute(params_from_iter(key))?;
            }
        }
        Ok((going.len() as u64, if seen == SLICE { last } else { None }))
    }

    fn start(&self) -> Vec<Value> {
        let mut key = vec![Value::Integer(-1), Value::Integer(0), Value::Integer(0), Value::Integer(0)];
        key.truncate(self.width + 2);
        key
    }
}

/// Which chunks are needed, as bits.
struct Needed {
    highest: u64,
    bits: Vec<u64>,
}

impl Needed {
    fn of(conn: &Connection, gone: Option<&Plan>) -> Result<Needed> {
        let highest: Option<i64> = conn.query_row("SELECT max(id) FROM chunk", [], |row| row.get(0))?;
        let highest = highest.unwrap_or(0).max(0) as u64;
        if highest > CHUNK_MAX {
            return Err(StoreError::Corrupt(format!("chunk {highest}: no database reaches that number")));
        }
        let mut needed = Needed { highest, bits: vec![0; highest as usize / 64 + 1] };
        let mut statement =
            conn.prepare("SELECT chunk, branch, valid_from, valid_to, ino FROM extent WHERE chunk IS NOT NULL")?;
        let mut rows = statement.query([])?;
        let mut shown = gone.map(|plan| Shown::new(conn, plan));
        while let Some(row) = rows.next()? {
            let gone = match &mut shown {
                None => false,
                Some(shown) => {
                    let (from, to) = (codec::seq(row, 2)?, codec::seq(row, 3)?);
                    let (ino, branch) = (codec::ino(row, 4)?, codec::branch(row, 1)?);
                    shown.forgets(Part { ino, branch, from, to, data_from: from })?
                }
            };
            if !gone {
                needed.add(codec::uint(row, 0)?);
            }
        }
        // A base is older than what stands on it, so that going down meets every chain from its end.
        let mut statement = conn.prepare("SELECT id, base FROM chunk WHERE base IS NOT NULL ORDER BY id DESC")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if needed.has(codec::uint(row, 0)?) {
                needed.add(codec::uint(row, 1)?);
            }
        }
        Ok(needed)
    }

    fn add(&mut self, id: u64) {
        if let Some(word) = self.bits.get_mut(id as usize / 64) {
            *word |= 1 << (id % 64);
        }
    }

    fn has(&self, id: u64) -> bool {
        // What came after the look is not ours to remove.
        id > self.highest || self.bits.get(id as usize / 64).is_none_or(|word| word & (1 << (id % 64)) != 0)
    }
}

/// Says what a prune would remove.
fn preview(conn: &Connection, plan: &Plan) -> Result<Pruned> {
    let mut pruned = Pruned { before: plan.before, ..Pruned::default() };
    for table in &TABLES {
        let mut next = Some(table.start());
        while let Some(after) = next {
            let (rows, stopped) = table.slice(conn, plan, &after, false)?;
            pruned.rows += rows;
            next = stopped;
        }
    }
    let events: i64 =
        conn.query_row("SELECT count(*) FROM event WHERE seq<?1", [codec::int(plan.before.0)], |row| row.get(0))?;
    pruned.events = events as u64;
    let needed = Needed::of(conn, Some(plan))?;
    let mut statement = conn.prepare("SELECT id, length(data) FROM chunk")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !needed.has(codec::uint(row, 0)?) {
            pruned.chunks += 1;
            pruned.bytes += codec::uint(row, 1)?;
        }
    }
    Ok(pruned)
}

/// Runs a step in a write transaction of its own.
fn step<T>(store: &SqliteStore, run: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
    let mut write = store.begin_write()?;
    let result = run(write.writer()?)?;
    Box::new(write).commit(false)?;
    Ok(result)
}

/// Forgets what ended before a point.
pub(super) fn prune(store: &SqliteStore, request: &Prune) -> Result<Pruned> {
    let already = {
        let conn = store.reader()?;
        let already = pruned_before(&conn)?;
        store.give_back(conn);
        already
    };
    let request = Prune { before: request.before.max(already), ..request.clone() };
    if request.dry_run {
        let conn = store.reader()?;
        conn.execute_batch("BEGIN")?;
        let pruned = Plan::of(&conn, &request).and_then(|plan| preview(&conn, &plan));
        conn.execute_batch("COMMIT")?;
        store.give_back(conn);
        return pruned;
    }
    let mut pruned = Pruned { before: request.before, ..Pruned::default() };
    step(store, |writer| ledger::put_setting(&writer.conn, SETTING, Some(request.before.0.to_string().as_bytes())))?;
    let mut made: Option<(u64, Plan)> = None;
    for table in &TABLES {
        let mut next = Some(table.start());
        while let Some(after) = next {
            let (rows, stopped) = step(store, |writer| {
                // A branch may have been forked since the last slice.
                let plan = match made.take() {
                    Some((lines, plan)) if lines == writer.lines => plan,
                    _ => Plan::of(&writer.conn, &request)?,
                };
                let (_, plan) = made.insert((writer.lines, plan));
                table.slice(&writer.conn, plan, &after, true)
            })?;
            pruned.rows += rows;
            next = stopped;
        }
    }
    let (mut from, end) = {
        let conn = store.reader()?;
        let first: Option<i64> = conn.query_row("SELECT min(seq) FROM event", [], |row| row.get(0))?;
        let end = ledger::counters(&conn)?.seq.0.saturating_add(1).min(request.before.0);
        store.give_back(conn);
        (first.unwrap_or(0).max(0) as u64, end)
    };
    while from < end {
        let to = end.min(from + SLICE as u64);
        pruned.events += step(store, |writer| {
            let stretch = (codec::int(from), codec::int(to));
            Ok(writer.conn.prepare_cached("DELETE FROM event WHERE seq>=?1 AND seq<?2")?.execute(stretch)? as u64)
        })?;
        from = to;
    }
    step(store, |writer| {
        posting::prune(&writer.conn, codec::int(request.before.0))?;
        Ok(writer.conn.execute("DELETE FROM change WHERE seq<?1", [codec::int(request.before.0)])?)
    })?;
    let (chunks, bytes) = collect(store)?;
    (pruned.chunks, pruned.bytes) = (chunks, bytes);
    Ok(pruned)
}

/// Removes chunks that no extent and no other chunk needs; returns their number and bytes.
fn collect(store: &SqliteStore) -> Result<(u64, u64)> {
    // From here on the writer remembers which stored chunks it gives out again.
    let needed = step(store, |writer| {
        writer.reused = Some(FxHashSet::default());
        Needed::of(&writer.conn, None)
    })?;
    let (mut chunks, mut bytes) = (0, 0);
    let mut run = || -> Result<()> {
        // The highest number stays, so that no number is ever given out again.
        let mut top = needed.highest.saturating_sub(1);
        while top > 0 {
            let (going, next) = step(store, |writer| collect_slice(writer, &needed, top))?;
            chunks += going.len() as u64;
            bytes += going.iter().map(|(_, length)| length).sum::<u64>();
            top = next;
        }
        Ok(())
    };
    let result = run();
    step(store, |writer| {
        writer.reused = None;
        Ok(())
    })?;
    result.map(|()| (chunks, bytes))
}

/// Removes some chunks at and below a number; returns them, and where to go on.
fn collect_slice(writer: &Writer, needed: &Needed, top: u64) -> Result<(Vec<(u64, u64)>, u64)> {
    let conn = &writer.conn;
    let reused = |id: u64| writer.reused.as_ref().is_none_or(|reused| reused.contains(&ChunkId(id)));
    let mut going = Vec::new();
    let mut next = 0;
    {
        let mut statement = conn.prepare_cached("SELECT id, length(data) FROM chunk WHERE id<=?1 ORDER BY id DESC")?;
        let mut rows = statement.query([codec::int(top)])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            let id = codec::uint(row, 0)?;
            if going.len() >= CHUNKS || seen >= SLICE {
                next = id;
                break;
            }
            seen += 1;
            if !needed.has(id) && !reused(id) {
                going.push((id, codec::uint(row, 1)?));
            }
        }
    }
    for (id, _) in &going {
        conn.prepare_cached("DELETE FROM chunk WHERE id=?1")?.execute([codec::int(*id)])?;
    }
    Ok((going, next))
}

/// Returns some free pages to the disk; the bytes that are still free inside the file.
pub(super) fn release(store: &SqliteStore, pages: u32) -> Result<u64> {
    step(store, |writer| {
        {
            let mut statement = writer.conn.prepare_cached(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
        }
        let free: i64 = writer.conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        Ok(free as u64 * upkeep::pragma(&writer.conn, "page_size")?)
    })
}

/// The first event whose state is kept; zero where nothing was pruned.
pub(super) fn pruned_before(conn: &Connection) -> Result<Seq> {
    let text = ledger::setting(conn, SETTING)?;
    let number = text.as_deref().and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse().ok());
    Ok(Seq(number.unwrap_or(0)))
}
