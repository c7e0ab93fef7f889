//! Content-addressed chunks, each stored once.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::codec;
use crate::store::{ChunkHash, Result, StoreError};
use crate::types::ChunkId;

pub(super) const BY_HASH: &str = "SELECT id FROM chunk INDEXED BY chunk_prefix WHERE prefix=?1 AND hash=?2";

/// The bytes as they are.
const RAW: u8 = 0;

fn prefix(hash: &ChunkHash) -> i64 {
    hash.first_chunk::<8>().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

pub(super) fn read(conn: &Connection, id: ChunkId) -> Result<Arc<[u8]>> {
    let mut statement = conn.prepare_cached("SELECT size, encoding, data FROM chunk WHERE id=?1")?;
    let mut rows = statement.query([codec::int(id.0)])?;
    let Some(row) = rows.next()? else { return Err(missing(id)) };
    let encoding: u8 = row.get(1)?;
    let data = row.get_ref(2)?.as_blob()?;
    if encoding != RAW {
        return Err(StoreError::Corrupt(format!("chunk {id} has the unknown encoding {encoding}")));
    }
    if data.len() as u64 != codec::uint(row, 0)? {
        return Err(StoreError::Corrupt(format!("chunk {id} has {} bytes", data.len())));
    }
    Ok(Arc::from(data))
}

pub(super) fn hash(conn: &Connection, id: ChunkId) -> Result<ChunkHash> {
    let mut statement = conn.prepare_cached("SELECT hash FROM chunk WHERE id=?1")?;
    let mut rows = statement.query([codec::int(id.0)])?;
    match rows.next()? {
        Some(row) => codec::hash(row, 0),
        None => Err(missing(id)),
    }
}

fn missing(id: ChunkId) -> StoreError {
    StoreError::Corrupt(format!("chunk {id} is missing"))
}

/// Stores bytes, or finds the chunk that has them already.
pub(super) fn put(conn: &Connection, hash: &ChunkHash, data: &[u8]) -> Result<ChunkId> {
    let known: Option<i64> =
        conn.prepare_cached(BY_HASH)?.query_row(params![prefix(hash), hash], |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(ChunkId(id as u64));
    }
    conn.prepare_cached("INSERT INTO chunk (prefix, size, encoding, hash, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![prefix(hash), codec::int(data.len() as u64), RAW, hash, data])?;
    Ok(ChunkId(conn.last_insert_rowid() as u64))
}

/// Visits every chunk.
pub(super) fn scan(conn: &Connection, visit: &mut dyn FnMut(ChunkId, ChunkHash, &[u8]) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare("SELECT id, hash FROM chunk ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = ChunkId(codec::uint(row, 0)?);
        visit(id, codec::hash(row, 1)?, &read(conn, id)?)?;
    }
    Ok(())
}
