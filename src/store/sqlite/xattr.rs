//! Extended attributes.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::codec;
use super::temporal::{self, Change, Cuts, Decider};
use crate::store::{Period, Result, StoredRow};
use crate::types::{BranchId, Ino, Lineage, Seq};

pub(super) const LIST: &str = "SELECT branch, valid_from, valid_to, value, name FROM xattr \
     WHERE ino=?1 ORDER BY name, branch, valid_from";

pub(super) fn list(conn: &Connection, lineage: &Lineage, ino: Ino) -> Result<Vec<(Vec<u8>, Arc<[u8]>)>> {
    type Current = (Vec<u8>, Decider<Option<Arc<[u8]>>>);
    fn finish(current: Option<Current>, found: &mut Vec<(Vec<u8>, Arc<[u8]>)>) {
        if let Some((name, decider)) = current
            && let Some(Some(value)) = decider.finish()
        {
            found.push((name, value));
        }
    }
    let cuts = Cuts::new(lineage);
    let mut found = Vec::new();
    let mut statement = conn.prepare_cached(LIST)?;
    let mut rows = statement.query([codec::int(ino.0)])?;
    let mut current: Option<Current> = None;
    while let Some(row) = rows.next()? {
        let name = row.get_ref(4)?.as_blob()?;
        if current.as_ref().is_some_and(|(other, _)| other != name) {
            finish(current.take(), &mut found);
        }
        let (_, decider) = current.get_or_insert_with(|| (name.to_vec(), Decider::new()));
        let period = Period { branch: codec::branch(row, 0)?, from: codec::seq(row, 1)?, to: codec::seq(row, 2)? };
        decider.offer(&cuts, period, codec::opt_shared(row, 3)?);
    }
    finish(current, &mut found);
    Ok(found)
}

/// Applies a change.
pub(super) fn put(
    conn: &Connection,
    branch: BranchId,
    at: Seq,
    ino: Ino,
    name: &[u8],
    value: Option<&[u8]>,
    has_parent: bool,
) -> Result<()> {
    let key = |from: Seq| (codec::int(ino.0), name, codec::int(branch.0), codec::int(from.0));
    let newest = conn
        .prepare_cached(
            "SELECT valid_from, valid_to FROM xattr WHERE ino=?1 AND name=?2 AND branch=?3 \
             ORDER BY valid_from DESC LIMIT 1",
        )?
        .query_row(params![codec::int(ino.0), name, codec::int(branch.0)], |row| {
            Ok((Seq(row.get::<_, i64>(0)? as u64), Seq(row.get::<_, i64>(1)? as u64)))
        })
        .optional()?;
    let close = |from: Seq| -> Result<()> {
        let (ino, name, branch, from) = key(from);
        conn.prepare_cached("UPDATE xattr SET valid_to=?5 WHERE ino=?1 AND name=?2 AND branch=?3 AND valid_from=?4")?
            .execute((ino, name, branch, from, codec::int(at.0)))?;
        Ok(())
    };
    let begin = || -> Result<()> {
        let (ino, name, branch, from) = key(at);
        conn.prepare_cached(
            "REPLACE INTO xattr (ino, name, branch, valid_from, valid_to, value) \
             VALUES (?1, ?2, ?3, ?4, 9223372036854775807, ?5)",
        )?
        .execute((ino, name, branch, from, value))?;
        Ok(())
    };
    match temporal::change(newest, at, value.is_none(), has_parent)? {
        Change::Nothing => {}
        Change::Begin | Change::Replace => begin()?,
        Change::Close(from) => close(from)?,
        Change::CloseAndBegin(from) => {
            close(from)?;
            begin()?;
        }
        Change::Remove => {
            conn.prepare_cached("DELETE FROM xattr WHERE ino=?1 AND name=?2 AND branch=?3 AND valid_from=?4")?
                .execute(key(at))?;
        }
    }
    Ok(())
}

/// Visits every row, by inode, name, branch and `valid_from`.
pub(super) fn scan(conn: &Connection, visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare(
        "SELECT branch, valid_from, valid_to, value, name, ino FROM xattr ORDER BY ino, name, branch, valid_from",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let period = Period { branch: codec::branch(row, 0)?, from: codec::seq(row, 1)?, to: codec::seq(row, 2)? };
        visit(StoredRow::Xattr(period, codec::ino(row, 5)?, row.get(4)?, codec::opt_shared(row, 3)?))?;
    }
    Ok(())
}
