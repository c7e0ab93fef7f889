//! Numbers and bytes in and out of rows.

use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::store::{Result, StoreError};
use crate::types::{BranchId, Ino, Kind, Name, ProcId, Seq, Timestamp, TxnId};

/// An identifier or unsigned number as SQLite stores it.
pub(super) fn int(value: u64) -> i64 {
    value as i64
}

fn unsigned(value: i64) -> Result<u64> {
    // SQLite would order it below, and the program above all others: a search that goes by both never ends.
    u64::try_from(value).map_err(|_| StoreError::Corrupt(format!("a negative number where none can be ({value})")))
}

/// Reads an unsigned number.
pub(super) fn uint(row: &Row<'_>, column: usize) -> Result<u64> {
    unsigned(row.get::<_, i64>(column)?)
}

/// Reads an unsigned number that may be missing.
pub(super) fn opt_uint(row: &Row<'_>, column: usize) -> Result<Option<u64>> {
    row.get::<_, Option<i64>>(column)?.map(unsigned).transpose()
}

/// Reads a small unsigned number.
pub(super) fn small(row: &Row<'_>, column: usize) -> Result<u32> {
    Ok(row.get::<_, u32>(column)?)
}

pub(super) fn seq(row: &Row<'_>, column: usize) -> Result<Seq> {
    uint(row, column).map(Seq)
}

pub(super) fn ino(row: &Row<'_>, column: usize) -> Result<Ino> {
    uint(row, column).map(Ino)
}

pub(super) fn opt_ino(row: &Row<'_>, column: usize) -> Result<Option<Ino>> {
    Ok(opt_uint(row, column)?.map(Ino))
}

pub(super) fn branch(row: &Row<'_>, column: usize) -> Result<BranchId> {
    uint(row, column).map(BranchId)
}

pub(super) fn txn(row: &Row<'_>, column: usize) -> Result<TxnId> {
    uint(row, column).map(TxnId)
}

pub(super) fn process(row: &Row<'_>, column: usize) -> Result<ProcId> {
    uint(row, column).map(ProcId)
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    Ok(Timestamp(row.get(column)?))
}

pub(super) fn opt_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

/// Reads the type of an inode.
pub(super) fn kind(row: &Row<'_>, column: usize) -> Result<Kind> {
    let code: u8 = row.get(column)?;
    Kind::from_code(code).ok_or_else(|| StoreError::Corrupt(format!("inode of unknown type {code}")))
}

/// Reads a file's name.
pub(super) fn name(row: &Row<'_>, column: usize) -> Result<Name> {
    let bytes = row.get_ref(column)?.as_blob()?;
    Name::new(bytes).map_err(|_| StoreError::Corrupt(format!("entry with the name \"{}\"", bytes.escape_ascii())))
}

/// Reads bytes that may be missing.
pub(super) fn opt_bytes(row: &Row<'_>, column: usize) -> Result<Option<Vec<u8>>> {
    Ok(row.get(column)?)
}

/// Reads bytes into shared memory.
pub(super) fn opt_shared(row: &Row<'_>, column: usize) -> Result<Option<Arc<[u8]>>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        value => Some(Arc::from(value.as_blob()?)),
    })
}

/// Reads a hash or digest.
pub(super) fn hash(row: &Row<'_>, column: usize) -> Result<[u8; 32]> {
    row.get_ref(column)?
        .as_blob()?
        .try_into()
        .map_err(|_| StoreError::Corrupt("a hash that has not 32 bytes".to_string()))
}
