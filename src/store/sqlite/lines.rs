//! Lines of history: branches, tags, transactions and merges.

use rusqlite::{Connection, Row, params};

use super::codec;
use crate::store::{BranchRow, MergeRow, Result, StoreError, TagRow, TxnKind, TxnRow, TxnState};
use crate::types::{BranchId, TxnId};

fn collect<T>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

pub(super) fn branches(conn: &Connection) -> Result<Vec<BranchRow>> {
    let sql = "SELECT id, name, parent, base, created, created_time, dropped, uid FROM branch ORDER BY id";
    collect(conn, sql, [], |row| {
        Ok(BranchRow {
            id: codec::branch(row, 0)?,
            name: codec::opt_bytes(row, 1)?,
            parent: codec::opt_uint(row, 2)?.map(BranchId),
            base: codec::seq(row, 3)?,
            created: codec::seq(row, 4)?,
            created_time: codec::time(row, 5)?,
            dropped: codec::opt_uint(row, 6)?.map(crate::types::Seq),
            uid: codec::small(row, 7)?,
        })
    })
}

pub(super) fn put_branch(conn: &Connection, row: &BranchRow) -> Result<()> {
    conn.prepare_cached(
        "REPLACE INTO branch (id, name, parent, base, created, created_time, dropped, uid) \
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
    )?
    .execute(params![
        codec::int(row.id.0),
        row.name,
        row.parent.map(|id| codec::int(id.0)),
        codec::int(row.base.0),
        codec::int(row.created.0),
        row.created_time.0,
        row.dropped.map(|seq| codec::int(seq.0)),
        row.uid,
    ])?;
    Ok(())
}

pub(super) fn tags(conn: &Connection) -> Result<Vec<TagRow>> {
    collect(conn, "SELECT name, branch, seq, time, uid, message FROM tag ORDER BY name", [], |row| {
        Ok(TagRow {
            name: row.get(0)?,
            branch: codec::branch(row, 1)?,
            seq: codec::seq(row, 2)?,
            time: codec::time(row, 3)?,
            uid: codec::small(row, 4)?,
            message: row.get(5)?,
        })
    })
}

pub(super) fn put_tag(conn: &Connection, row: &TagRow) -> Result<()> {
    conn.prepare_cached("REPLACE INTO tag (name, branch, seq, time, uid, message) VALUES (?1,?2,?3,?4,?5,?6)")?
        .execute(params![
            row.name,
            codec::int(row.branch.0),
            codec::int(row.seq.0),
            row.time.0,
            row.uid,
            row.message
        ])?;
    Ok(())
}

pub(super) fn remove_tag(conn: &Connection, name: &[u8]) -> Result<()> {
    conn.prepare_cached("DELETE FROM tag WHERE name=?1")?.execute([name])?;
    Ok(())
}

fn kind_code(kind: TxnKind) -> u8 {
    match kind {
        TxnKind::Begin => 1,
        TxnKind::Run => 2,
        TxnKind::Merge => 3,
        TxnKind::Undo => 4,
        TxnKind::Redo => 5,
        TxnKind::Restore => 6,
    }
}

fn kind_from(code: u8) -> Result<TxnKind> {
    Ok(match code {
        1 => TxnKind::Begin,
        2 => TxnKind::Run,
        3 => TxnKind::Merge,
        4 => TxnKind::Undo,
        5 => TxnKind::Redo,
        6 => TxnKind::Restore,
        _ => return Err(StoreError::Corrupt(format!("transaction of unknown kind {code}"))),
    })
}

fn state_code(state: TxnState) -> u8 {
    match state {
        TxnState::Open => 1,
        TxnState::Interrupted => 2,
        TxnState::Conflicted => 3,
        TxnState::Committed => 4,
        TxnState::RolledBack => 5,
    }
}

fn state_from(code: u8) -> Result<TxnState> {
    Ok(match code {
        1 => TxnState::Open,
        2 => TxnState::Interrupted,
        3 => TxnState::Conflicted,
        4 => TxnState::Committed,
        5 => TxnState::RolledBack,
        _ => return Err(StoreError::Corrupt(format!("transaction of unknown state {code}"))),
    })
}

pub(super) fn transactions(conn: &Connection) -> Result<Vec<TxnRow>> {
    let sql = "SELECT id, branch, target, base, kind, state, serializable, \"outer\", uid, begun, begun_time, ended, \
               ended_time, message, label, detail FROM txn ORDER BY id";
    collect(conn, sql, [], |row| {
        Ok(TxnRow {
            id: codec::txn(row, 0)?,
            branch: codec::branch(row, 1)?,
            target: codec::branch(row, 2)?,
            base: codec::seq(row, 3)?,
            kind: kind_from(row.get(4)?)?,
            state: state_from(row.get(5)?)?,
            serializable: row.get(6)?,
            outer: codec::opt_uint(row, 7)?.map(TxnId),
            uid: codec::small(row, 8)?,
            begun: codec::seq(row, 9)?,
            begun_time: codec::time(row, 10)?,
            ended: codec::opt_uint(row, 11)?.map(crate::types::Seq),
            ended_time: codec::opt_time(row, 12)?,
            message: row.get(13)?,
            label: row.get(14)?,
            detail: row.get(15)?,
        })
    })
}

pub(super) fn put_txn(conn: &Connection, row: &TxnRow) -> Result<()> {
    conn.prepare_cached(
        "REPLACE INTO txn (id, branch, target, base, kind, state, serializable, \"outer\", uid, begun, begun_time, \
         ended, ended_time, message, label, detail) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)",
    )?
    .execute(params![
        codec::int(row.id.0),
        codec::int(row.branch.0),
        codec::int(row.target.0),
        codec::int(row.base.0),
        kind_code(row.kind),
        state_code(row.state),
        row.serializable,
        row.outer.map(|id| codec::int(id.0)),
        row.uid,
        codec::int(row.begun.0),
        row.begun_time.0,
        row.ended.map(|seq| codec::int(seq.0)),
        row.ended_time.map(|time| time.0),
        row.message,
        row.label,
        row.detail,
    ])?;
    Ok(())
}

fn merge(row: &Row<'_>) -> Result<MergeRow> {
    Ok(MergeRow {
        target: codec::branch(row, 0)?,
        seq: codec::seq(row, 1)?,
        source: codec::branch(row, 2)?,
        source_seq: codec::seq(row, 3)?,
    })
}

pub(super) fn merges(conn: &Connection, target: BranchId) -> Result<Vec<MergeRow>> {
    let sql = "SELECT target, seq, source, source_seq FROM merge WHERE target=?1 ORDER BY seq, source";
    collect(conn, sql, [codec::int(target.0)], merge)
}

pub(super) fn all_merges(conn: &Connection) -> Result<Vec<MergeRow>> {
    collect(conn, "SELECT target, seq, source, source_seq FROM merge ORDER BY target, seq, source", [], merge)
}

pub(super) fn put_merge(conn: &Connection, row: &MergeRow) -> Result<()> {
    conn.prepare_cached("REPLACE INTO merge (target, seq, source, source_seq) VALUES (?1,?2,?3,?4)")?.execute((
        codec::int(row.target.0),
        codec::int(row.seq.0),
        codec::int(row.source.0),
        codec::int(row.source_seq.0),
    ))?;
    Ok(())
}
