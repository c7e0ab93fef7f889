//! Extents: which chunk stands at which index of a file.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Row};

use super::codec;
use super::temporal::{self, Change, Cuts, Decider, Seek};
use crate::store::{ExtentRow, Period, Result, StoredRow};
use crate::types::{BranchId, ChunkId, Ino, Lineage, Seq};

pub(super) const EXACT: &str = "SELECT branch, valid_from, valid_to, chunk FROM extent \
     WHERE ino=?1 AND idx=?2 AND branch=?3 AND valid_from<=?4 ORDER BY valid_from DESC LIMIT 1";

pub(super) const BELOW: &str = "SELECT branch, valid_from, valid_to, chunk FROM extent \
     WHERE ino=?1 AND idx=?2 AND (branch, valid_from)<=(?3, ?4) ORDER BY branch DESC, valid_from DESC LIMIT 1";

pub(super) const LIST: &str = "SELECT branch, valid_from, valid_to, chunk, idx FROM extent \
     WHERE ino=?1 AND idx>=?2 AND idx<?3 ORDER BY idx, branch, valid_from";

/// Rows of one index that a listing reads before it seeks the deciding one instead.
const SCAN_MAX: usize = 8;

type Place = (ChunkId, Seq);

fn read_row(row: &Row<'_>) -> Result<(Period, Option<Place>)> {
    let period = Period { branch: codec::branch(row, 0)?, from: codec::seq(row, 1)?, to: codec::seq(row, 2)? };
    let chunk = codec::opt_uint(row, 3)?.map(|id| (ChunkId(id), period.from));
    Ok((period, chunk))
}

fn resolve(conn: &Connection, lineage: &Lineage, ino: Ino, index: u64) -> Result<Option<Place>> {
    temporal::decide(lineage, |seek, branch, cut| {
        let sql = match seek {
            Seek::Exact => EXACT,
            Seek::Below => BELOW,
        };
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows =
            statement.query((codec::int(ino.0), codec::int(index), codec::int(branch.0), codec::int(cut.0)))?;
        rows.next()?.map(read_row).transpose()
    })
}

pub(super) fn list(
    conn: &Connection,
    lineage: &Lineage,
    ino: Ino,
    data_from: Seq,
    range: Range<u64>,
) -> Result<Vec<ExtentRow>> {
    let cuts = Cuts::new(lineage);
    let mut found = Vec::new();
    let mut start = range.start;
    // Each round scans until an index has so many rows that seeking is cheaper, and goes on after it.
    while let Some(crowded) = list_round(conn, &cuts, ino, start..range.end, &mut found)? {
        if let Some((chunk, valid_from)) = resolve(conn, lineage, ino, crowded)? {
            found.push(ExtentRow { index: crowded, chunk, valid_from });
        }
        start = crowded + 1;
    }
    found.retain(|extent| extent.valid_from >= data_from);
    Ok(found)
}

fn list_round(
    conn: &Connection,
    cuts: &Cuts,
    ino: Ino,
    range: Range<u64>,
    found: &mut Vec<ExtentRow>,
) -> Result<Option<u64>> {
    struct Current {
        index: u64,
        rows: usize,
        decider: Decider<Option<Place>>,
    }
    fn finish(current: Option<Current>, found: &mut Vec<ExtentRow>) {
        if let Some(current) = current
            && let Some(Some((chunk, valid_from))) = current.decider.finish()
        {
            found.push(ExtentRow { index: current.index, chunk, valid_from });
        }
    }
    let end = i64::try_from(range.end).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(LIST)?;
    let mut rows = statement.query((codec::int(ino.0), codec::int(range.start), end))?;
    let mut current: Option<Current> = None;
    while let Some(row) = rows.next()? {
        let index = codec::uint(row, 4)?;
        if current.as_ref().is_some_and(|current| current.index != index) {
            finish(current.take(), found);
        }
        let extent = current.get_or_insert_with(|| Current { index, rows: 0, decider: Decider::new() });
        extent.rows += 1;
        if extent.rows > SCAN_MAX {
            return Ok(Some(index));
        }
        let (period, place) = read_row(row)?;
        extent.decider.offer(cuts, period, place);
    }
    finish(current, found);
    Ok(None)
}

/// Finds the chunk that an index shows now, whatever the file's `data_from` says.
pub(super) fn present(conn: &Connection, lineage: &Lineage, ino: Ino, index: u64) -> Result<Option<ChunkId>> {
    Ok(resolve(conn, lineage, ino, index)?.map(|(chunk, _)| chunk))
}

/// Applies a change of one index.
pub(super) fn put(
    conn: &Connection,
    branch: BranchId,
    at: Seq,
    ino: Ino,
    index: u64,
    chunk: Option<ChunkId>,
    has_parent: bool,
) -> Result<()> {
    let key = |from: Seq| (codec::int(ino.0), codec::int(index), codec::int(branch.0), codec::int(from.0));
    let newest = conn
        .prepare_cached(
            "SELECT valid_from, valid_to FROM extent WHERE ino=?1 AND idx=?2 AND branch=?3 \
             ORDER BY valid_from DESC LIMIT 1",
        )?
        .query_row((codec::int(ino.0), codec::int(index), codec::int(branch.0)), |row| {
            Ok((Seq(row.get::<_, i64>(0)? as u64), Seq(row.get::<_, i64>(1)? as u64)))
        })
        .optional()?;
    let close = |from: Seq| -> Result<()> {
        let (ino, index, branch, from) = key(from);
        conn.prepare_cached("UPDATE extent SET valid_to=?5 WHERE ino=?1 AND idx=?2 AND branch=?3 AND valid_from=?4")?
            .execute((ino, index, branch, from, codec::int(at.0)))?;
        Ok(())
    };
    let begin = || -> Result<()> {
        let (ino, index, branch, from) = key(at);
        conn.prepare_cached(
            "REPLACE INTO extent (ino, idx, branch, valid_from, valid_to, chunk) \
             VALUES (?1, ?2, ?3, ?4, 9223372036854775807, ?5)",
        )?
        .execute((ino, index, branch, from, chunk.map(|id| codec::int(id.0))))?;
        Ok(())
    };
    match temporal::change(newest, at, chunk.is_none(), has_parent)? {
        Change::Nothing => {}
        Change::Begin | Change::Replace => begin()?,
        Change::Close(from) => close(from)?,
        Change::CloseAndBegin(from) => {
            close(from)?;
            begin()?;
        }
        Change::Remove => {
            conn.prepare_cached("DELETE FROM extent WHERE ino=?1 AND idx=?2 AND branch=?3 AND valid_from=?4")?
                .execute(key(at))?;
        }
    }
    Ok(())
}

/// Turns every index from one on into a hole, inherited ones too.
pub(super) fn put_from(
    conn: &Connection,
    lineage: &Lineage,
    branch: BranchId,
    at: Seq,
    ino: Ino,
    index: u64,
    has_parent: bool,
) -> Result<()> {
    for extent in list(conn, lineage, ino, Seq::ZERO, index..u64::MAX)? {
        put(conn, branch, at, ino, extent.index, None, has_parent)?;
    }
    Ok(())
}

/// Visits every row, by file, index, branch and `valid_from`.
pub(super) fn scan(conn: &Connection, visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare(
        "SELECT branch, valid_from, valid_to, chunk, idx, ino FROM extent ORDER BY ino, idx, branch, valid_from",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (period, place) = read_row(row)?;
        visit(StoredRow::Extent(period, codec::ino(row, 5)?, codec::uint(row, 4)?, place.map(|(id, _)| id)))?;
    }
    Ok(())
}
