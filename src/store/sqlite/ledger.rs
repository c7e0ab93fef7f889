//! Counters, settings and the chain of digests.

use rusqlite::{Connection, OptionalExtension, params};

use super::codec;
use crate::store::{Counters, DigestRow, Result, StoreError};

/// Far from the end of what a row can hold, so that no number given out ever reaches it.
const COUNTER_MAX: u64 = 1 << 62;

pub(super) fn counters(conn: &Connection) -> Result<Counters> {
    let mut statement = conn
        .prepare_cached("SELECT seq, time, next_ino, next_branch, next_txn, next_process FROM counters WHERE id=1")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Err(StoreError::Corrupt("the counters are missing".to_string())) };
    let counters = Counters {
        seq: codec::seq(row, 0)?,
        time: codec::time(row, 1)?,
        next_ino: codec::ino(row, 2)?,
        next_branch: codec::branch(row, 3)?,
        next_txn: codec::txn(row, 4)?,
        next_process: codec::process(row, 5)?,
    };
    let Counters { seq, next_ino, next_branch, next_txn, next_process, .. } = counters;
    if [seq.0, next_ino.0, next_branch.0, next_txn.0, next_process.0].into_iter().any(|number| number > COUNTER_MAX) {
        return Err(StoreError::Corrupt("the counters are beyond what any database reaches".to_string()));
    }
    Ok(counters)
}

pub(super) fn put_counters(conn: &Connection, counters: &Counters) -> Result<()> {
    conn.prepare_cached(
        "REPLACE INTO counters (id, seq, time, next_ino, next_branch, next_txn, next_process) \
         VALUES (1,?1,?2,?3,?4,?5,?6)",
    )?
    .execute(params![
        codec::int(counters.seq.0),
        counters.time.0,
        codec::int(counters.next_ino.0),
        codec::int(counters.next_branch.0),
        codec::int(counters.next_txn.0),
        codec::int(counters.next_process.0),
    ])?;
    Ok(())
}

pub(super) fn setting(conn: &Connection, key: &str) -> Result<Option<Vec<u8>>> {
    Ok(conn.prepare_cached("SELECT value FROM setting WHERE key=?1")?.query_row([key], |row| row.get(0)).optional()?)
}

pub(super) fn put_setting(conn: &Connection, key: &str, value: Option<&[u8]>) -> Result<()> {
    match value {
        Some(value) => {
            conn.prepare_cached("REPLACE INTO setting (key, value) VALUES (?1, ?2)")?.execute((key, value))?
        }
        None => conn.prepare_cached("DELETE FROM setting WHERE key=?1")?.execute([key])?,
    };
    Ok(())
}

pub(super) fn digests(conn: &Connection, from: u64) -> Result<Vec<DigestRow>> {
    let mut statement = conn.prepare_cached(
        "SELECT number, seq, digest, records FROM digest WHERE number>=?1 ORDER BY number LIMIT 1000",
    )?;
    let mut rows = statement.query([codec::int(from)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let number = codec::uint(row, 0)?;
        if number > COUNTER_MAX {
            return Err(StoreError::Corrupt(format!("digest {number}: no chain is that long")));
        }
        found.push(DigestRow { number, seq: codec::seq(row, 1)?, digest: codec::hash(row, 2)?, records: row.get(3)? });
    }
    Ok(found)
}

pub(super) fn put_digest(conn: &Connection, row: &DigestRow) -> Result<()> {
    conn.prepare_cached("REPLACE INTO digest (number, seq, digest, records) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![codec::int(row.number), codec::int(row.seq.0), row.digest, row.records])?;
    Ok(())
}
