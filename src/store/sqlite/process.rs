//! Process entities.

use std::ops::Range;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params};

use super::codec;
use crate::store::{ProcessKey, ProcessRow, Result};
use crate::types::ProcId;

const COLUMNS: &str = "id, boot_id, host, pid, ppid, start_ticks, parent, uid, gid, comm, exe, argv, cwd, session, \
     tty, cgroup, started, ended, exit_status, label, complete";

fn read_row(row: &Row<'_>) -> Result<ProcessRow> {
    Ok(ProcessRow {
        id: codec::process(row, 0)?,
        boot_id: row.get(1)?,
        host: row.get(2)?,
        pid: codec::small(row, 3)?,
        ppid: codec::small(row, 4)?,
        start_ticks: codec::uint(row, 5)?,
        parent: codec::opt_uint(row, 6)?.map(ProcId),
        uid: codec::small(row, 7)?,
        gid: codec::small(row, 8)?,
        comm: row.get(9)?,
        exe: codec::opt_bytes(row, 10)?,
        argv: codec::opt_bytes(row, 11)?,
        cwd: codec::opt_bytes(row, 12)?,
        session: codec::small(row, 13)?,
        tty: codec::small(row, 14)?,
        cgroup: codec::opt_bytes(row, 15)?,
        started: codec::time(row, 16)?,
        ended: codec::opt_time(row, 17)?,
        exit_status: row.get(18)?,
        label: row.get(19)?,
        complete: row.get(20)?,
    })
}

pub(super) fn find(conn: &Connection, id: ProcId) -> Result<Option<ProcessRow>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM process WHERE id=?1"))?;
    let mut rows = statement.query([codec::int(id.0)])?;
    rows.next()?.map(read_row).transpose()
}

pub(super) fn list(conn: &Connection, range: Range<ProcId>) -> Result<Vec<ProcessRow>> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM process WHERE id>=?1 AND id<?2 ORDER BY id"))?;
    let end = i64::try_from(range.end.0).unwrap_or(i64::MAX);
    let mut rows = statement.query((codec::int(range.start.0), end))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_row(row)?);
    }
    Ok(found)
}

pub(super) fn find_by(conn: &Connection, key: &ProcessKey) -> Result<Vec<ProcessRow>> {
    let (column, value) = match key {
        ProcessKey::Comm(comm) => ("comm", Value::Blob(comm.clone())),
        ProcessKey::Label(label) => ("label", Value::Text(label.clone())),
        ProcessKey::Parent(parent) => ("parent", Value::Integer(codec::int(parent.0))),
    };
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM process WHERE {column}=?1 ORDER BY id"))?;
    let mut rows = statement.query([value])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_row(row)?);
    }
    Ok(found)
}

pub(super) fn put(conn: &Connection, row: &ProcessRow) -> Result<()> {
    conn.prepare_cached(&format!(
        "REPLACE INTO process ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,\
         ?20,?21)"
    ))?
    .execute(params![
        codec::int(row.id.0),
        row.boot_id,
        row.host,
        row.pid,
        row.ppid,
        codec::int(row.start_ticks),
        row.parent.map(|id| codec::int(id.0)),
        row.uid,
        row.gid,
        row.comm,
        row.exe,
        row.argv,
        row.cwd,
        row.session,
        row.tty,
        row.cgroup,
        row.started.0,
        row.ended.map(|time| time.0),
        row.exit_status,
        row.label,
        row.complete,
    ])?;
    Ok(())
}
