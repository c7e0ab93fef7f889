//! Content-addressed chunks, each stored once: raw, compressed, or as what differs from another.
//!
//! A delta keeps small overwrites and appends small. It is relative to the chunk that stood at the
//! same place of the file before; chains of deltas are bounded in length and in bytes.

use std::ops::Range;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::codec;
use crate::store::{CHUNK_SIZE, ChunkHash, Result, StoreError};
use crate::types::ChunkId;

pub(super) const BY_HASH: &str = "SELECT id FROM chunk INDEXED BY chunk_prefix WHERE prefix=?1 AND hash=?2";

/// The bytes as they are.
const RAW: u8 = 0;
/// Compressed by zstd.
const ZSTD: u8 = 1;
/// Ranges of bytes over another chunk.
const DELTA: u8 = 2;

/// Nothing: the bytes were found to be lost.
const LOST: u8 = 3;

/// Chunks that are not known to be lost.
pub(super) const KEPT: &str = "SELECT id FROM chunk WHERE encoding<>3 ORDER BY id";

/// zstd's level: the fastest that still halves text.
const LEVEL: i32 = 1;
/// Below this size compressing saves no page.
const COMPRESS_MIN: usize = 512;
/// Bytes of each sample that tells whether a chunk is worth compressing.
const PROBE: usize = 4096;

/// The most deltas between a chunk and a whole one.
const CHAIN_MAX: u8 = 64;
/// The most bytes of all deltas between a chunk and a whole one.
const CHAIN_BYTES: usize = 2 * CHUNK_SIZE;
/// Smaller chunks are written whole.
const DELTA_MIN: usize = 4096;
/// Equal bytes between two differing ranges that are cheaper to repeat than to skip.
const GAP: usize = 32;

fn prefix(hash: &ChunkHash) -> i64 {
    hash.first_chunk::<8>().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

fn missing(id: ChunkId) -> StoreError {
    StoreError::Corrupt(format!("chunk {id} is missing"))
}

fn damaged(id: ChunkId, why: &str) -> StoreError {
    StoreError::Corrupt(format!("chunk {id}: {why}"))
}

/// Reads and decodes a chunk.
pub(super) fn read(conn: &Connection, id: ChunkId) -> Result<Arc<[u8]>> {
    let mut deltas: Vec<(ChunkId, usize, Vec<u8>)> = Vec::new();
    let mut next = id;
    let mut bytes = loop {
        let mut statement = conn.prepare_cached("SELECT size, encoding, base, data FROM chunk WHERE id=?1")?;
        let mut rows = statement.query([codec::int(next.0)])?;
        let Some(row) = rows.next()? else { return Err(missing(next)) };
        let size = usize::try_from(codec::uint(row, 0)?).unwrap_or(usize::MAX);
        if size > CHUNK_SIZE {
            return Err(damaged(next, "it is larger than a chunk can be"));
        }
        let data = row.get_ref(3)?.as_blob()?;
        match row.get::<_, u8>(1)? {
            RAW if deltas.is_empty() && data.len() == size => return Ok(Arc::from(data)),
            RAW if data.len() == size => break data.to_vec(),
            RAW => return Err(damaged(next, "its length is wrong")),
            ZSTD => match zstd::bulk::decompress(data, size) {
                Ok(bytes) if bytes.len() == size => break bytes,
                Ok(_) => return Err(damaged(next, "its length is wrong")),
                Err(error) => return Err(damaged(next, &format!("it does not decompress ({error})"))),
            },
            DELTA => {
                let base = codec::opt_uint(row, 2)?.map(ChunkId).filter(|base| *base < next);
                let Some(base) = base else { return Err(damaged(next, "its base is no older")) };
                deltas.push((next, size, data.to_vec()));
                if deltas.len() > usize::from(CHAIN_MAX) {
                    return Err(damaged(next, "it stands on too long a chain"));
                }
                next = base;
            }
            LOST => return Err(damaged(next, "its content is lost")),
            other => return Err(damaged(next, &format!("it has the unknown encoding {other}"))),
        }
    };
    for (id, size, delta) in deltas.iter().rev() {
        bytes = patch(bytes, *size, delta).ok_or_else(|| damaged(*id, "its ranges do not fit its base"))?;
    }
    Ok(Arc::from(bytes))
}

/// Reads and decodes a chunk, and compares it with its hash.
pub(super) fn read_verified(conn: &Connection, id: ChunkId) -> Result<Arc<[u8]>> {
    let bytes = read(conn, id)?;
    if blake3::hash(&bytes).as_bytes() != &hash(conn, id)? {
        return Err(damaged(id, "its content is not what its hash says"));
    }
    Ok(bytes)
}

/// Marks a chunk as lost: nothing is ever found to be the same as it. Tells whether it was not yet.
pub(super) fn lose(conn: &Connection, id: ChunkId) -> Result<usize> {
    let sql = "INSERT INTO chunk (id, prefix, size, encoding, base, hash, data) \
               VALUES (?1, 0, 0, ?2, NULL, zeroblob(32), x'') ON CONFLICT (id) DO UPDATE SET \
               prefix=0, size=0, encoding=?2, base=NULL, hash=zeroblob(32), data=x'' WHERE encoding<>?2";
    Ok(conn.execute(sql, params![codec::int(id.0), LOST])?)
}

pub(super) fn hash(conn: &Connection, id: ChunkId) -> Result<ChunkHash> {
    let mut statement = conn.prepare_cached("SELECT hash FROM chunk WHERE id=?1")?;
    let mut rows = statement.query([codec::int(id.0)])?;
    match rows.next()? {
        Some(row) => codec::hash(row, 0),
        None => Err(missing(id)),
    }
}

/// Makes sure that a chunk exists.
pub(super) fn require(conn: &Connection, id: ChunkId) -> Result<()> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM chunk WHERE id=?1")?;
    if statement.exists([codec::int(id.0)])? { Ok(()) } else { Err(missing(id)) }
}

/// A delta begins with its place in the chain (1 byte) and the bytes of all deltas below and with
/// it (4 bytes); then, for each range, its offset and length (4 bytes each) and its bytes. All
/// numbers are little endian. The base is cut or filled with zeros to the chunk's size first.
fn patch(mut base: Vec<u8>, size: usize, delta: &[u8]) -> Option<Vec<u8>> {
    let number = |bytes: &[u8]| bytes.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    base.resize(size, 0);
    let mut rest = delta.get(HEADER..)?;
    while !rest.is_empty() {
        let (offset, length) = (number(rest)?, number(rest.get(4..)?)?);
        let bytes = rest.get(8..8usize.checked_add(length)?)?;
        base.get_mut(offset..offset.checked_add(length)?)?.copy_from_slice(bytes);
        rest = rest.get(8 + length..)?;
    }
    Some(base)
}

const HEADER: usize = 5;

/// Writes ranges of bytes over a base, or `None` where they are more than half, or more than a chain may have.
fn encode(data: &[u8], ranges: impl Iterator<Item = Range<usize>>, depth: u8, below: usize) -> Option<Vec<u8>> {
    let mut delta = vec![0; HEADER];
    for range in ranges {
        let bytes = data.get(range.clone())?;
        delta.extend_from_slice(&u32::try_from(range.start).ok()?.to_le_bytes());
        delta.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
        delta.extend_from_slice(bytes);
        if delta.len() > data.len() / 2 {
            return None;
        }
    }
    let total = below + delta.len();
    if total > CHAIN_BYTES {
        return None;
    }
    let header = delta.first_chunk_mut::<HEADER>()?;
    let [b0, b1, b2, b3] = u32::try_from(total).ok()?.to_le_bytes();
    *header = [depth, b0, b1, b2, b3];
    Some(delta)
}

/// The ranges in which bytes differ from a base; what that lacks counts as zeros.
fn difference(base: &[u8], data: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let equal = |at: usize| base.get(at).copied().unwrap_or(0) == data.get(at).copied().unwrap_or(0);
    let mut at = 0;
    std::iter::from_fn(move || {
        at += same_from(base, data, at);
        if at >= data.len() {
            return None;
        }
        let start = at;
        // The range ends where more than a few bytes are equal.
        let mut end = at + 1;
        at = end;
        while at < data.len() && at - end < GAP {
            if !equal(at) {
                end = at + 1;
            }
            at += 1;
        }
        Some(start..end)
    })
}

/// Counts equal bytes from a place on, by the word where it can.
fn same_from(base: &[u8], data: &[u8], start: usize) -> usize {
    const STEP: usize = 64;
    let (data, base) = (data.get(start..).unwrap_or_default(), base.get(start..).unwrap_or_default());
    let steps = data.chunks_exact(STEP).zip(base.chunks_exact(STEP)).take_while(|(a, b)| a == b).count();
    let mut count = steps * STEP;
    while let Some(byte) = data.get(count)
        && base.get(count).copied().unwrap_or(0) == *byte
    {
        count += 1;
    }
    count
}

/// How new chunks are encoded.
pub(super) struct Encoder {
    /// `None` where nothing is to be compressed.
    compressor: Option<zstd::bulk::Compressor<'static>>,
    buffer: Vec<u8>,
}

impl Encoder {
    /// Reads the setting `compression`: `zstd`, or `none`.
    pub(super) fn new(setting: Option<&[u8]>) -> Encoder {
        let compressor = match setting {
            Some(b"zstd" | b"on") => zstd::bulk::Compressor::new(LEVEL).ok(),
            _ => None,
        };
        Encoder { compressor, buffer: Vec::new() }
    }

    /// Compresses where that saves an eighth or more.
    fn compress(&mut self, data: &[u8]) -> Option<&[u8]> {
        let compressor = self.compressor.as_mut()?;
        if data.len() < COMPRESS_MIN {
            return None;
        }
        let worth = |whole: usize, packed: usize| packed <= whole - whole / 8;
        // A sample from the middle: the beginning of packed formats often compresses.
        if data.len() > 4 * PROBE {
            let middle = data.len() / 2;
            let sample = data.get(middle..middle + PROBE)?;
            self.buffer.clear();
            self.buffer.reserve(zstd::zstd_safe::compress_bound(PROBE));
            let packed = compressor.compress_to_buffer(sample, &mut self.buffer).ok()?;
            if !worth(PROBE, packed) {
                return None;
            }
        }
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(data.len()));
        let packed = compressor.compress_to_buffer(data, &mut self.buffer).ok()?;
        worth(data.len(), packed).then_some(&self.buffer)
    }

    /// Stores bytes, or finds the chunk that has them already. `base`: the chunk that they replace, and where they
    /// differ from it, if that is known.
    pub(super) fn put(
        &mut self,
        conn: &Connection,
        hash: &ChunkHash,
        data: &[u8],
        base: Option<(ChunkId, Option<&[Range<usize>]>)>,
    ) -> Result<ChunkId> {
        let known: Option<i64> =
            conn.prepare_cached(BY_HASH)?.query_row(params![prefix(hash), hash], |row| row.get(0)).optional()?;
        if let Some(id) = known {
            return Ok(ChunkId(id as u64));
        }
        if let Some((base, changed)) = base.filter(|_| data.len() >= DELTA_MIN)
            && let Some(delta) = delta(conn, base, data, changed)?
        {
            return insert(conn, hash, data.len(), DELTA, Some(base), &delta);
        }
        match self.compress(data) {
            Some(packed) => insert(conn, hash, data.len(), ZSTD, None, packed),
            None => insert(conn, hash, data.len(), RAW, None, data),
        }
    }
}

fn delta(conn: &Connection, base: ChunkId, data: &[u8], changed: Option<&[Range<usize>]>) -> Result<Option<Vec<u8>>> {
    let made = || -> Result<Option<Vec<u8>>> {
        let (depth, below) = chain(conn, base)?;
        if depth >= CHAIN_MAX {
            return Ok(None);
        }
        if let Some(ranges) = changed {
            let delta = encode(data, ranges.iter().cloned(), depth + 1, below);
            debug_assert!(
                delta.as_ref().is_none_or(|delta| read(conn, base).is_ok_and(|base| patch(
                    base.to_vec(),
                    data.len(),
                    delta
                )
                .as_deref()
                    == Some(data))),
                "chunk {base} is changed elsewhere than in {ranges:?}"
            );
            return Ok(delta);
        }
        Ok(encode(data, difference(&read(conn, base)?, data), depth + 1, below))
    };
    match made() {
        // Nothing new is to stand on what is damaged, and writing over it is how it goes.
        Err(StoreError::Corrupt(_)) => Ok(None),
        other => other,
    }
}

/// Returns how many deltas a chunk stands on, itself counted, and their bytes.
fn chain(conn: &Connection, id: ChunkId) -> Result<(u8, usize)> {
    let mut statement = conn.prepare_cached("SELECT encoding, substr(data, 1, 5) FROM chunk WHERE id=?1")?;
    let mut rows = statement.query([codec::int(id.0)])?;
    let Some(row) = rows.next()? else { return Err(missing(id)) };
    match row.get::<_, u8>(0)? {
        DELTA => {}
        LOST => return Err(damaged(id, "its content is lost")),
        _ => return Ok((0, 0)),
    }
    match row.get_ref(1)?.as_blob()? {
        [depth, b0, b1, b2, b3] => Ok((*depth, u32::from_le_bytes([*b0, *b1, *b2, *b3]) as usize)),
        _ => Err(damaged(id, "its delta is cut short")),
    }
}

fn insert(
    conn: &Connection,
    hash: &ChunkHash,
    size: usize,
    encoding: u8,
    base: Option<ChunkId>,
    data: &[u8],
) -> Result<ChunkId> {
    conn.prepare_cached(
        "INSERT INTO chunk (prefix, size, encoding, base, hash, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        prefix(hash),
        codec::int(size as u64),
        encoding,
        base.map(|id| codec::int(id.0)),
        hash,
        data
    ])?;
    Ok(ChunkId(conn.last_insert_rowid() as u64))
}

/// Visits every chunk.
pub(super) fn scan(conn: &Connection, visit: &mut dyn FnMut(ChunkId, ChunkHash, &[u8]) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare("SELECT id, hash FROM chunk ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = ChunkId(codec::uint(row, 0)?);
        // What cannot be read is no content of any hash; the rest is looked at all the same.
        let bytes = match read(conn, id) {
            Err(StoreError::Corrupt(_)) => Arc::default(),
            other => other?,
        };
        visit(id, codec::hash(row, 1)?, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delta_over_its_base_gives_the_bytes(
            base in prop::collection::vec(0..3u8, 0..2000),
            cut in 0..2000usize,
            edits in prop::collection::vec((0..3000usize, prop::collection::vec(0..3u8, 1..60)), 0..6),
        ) {
            let mut data = base.clone();
            data.truncate(cut);
            for (offset, bytes) in edits {
                if data.len() < offset + bytes.len() {
                    data.resize(offset + bytes.len(), 0);
                }
                data[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            if let Some(delta) = encode(&data, difference(&base, &data), 1, 0) {
                prop_assert!(delta.len() <= HEADER + data.len() / 2);
                prop_assert_eq!(patch(base, data.len(), &delta), Some(data));
            }
        }

        #[test]
        fn damaged_deltas_are_refused_or_harmless(base in prop::collection::vec(any::<u8>(), 0..100),
                                                 delta in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(bytes) = patch(base, 50, &delta) {
                prop_assert_eq!(bytes.len(), 50);
            }
        }
    }

    #[test]
    fn one_changed_byte_is_a_short_delta() {
        let base = vec![7; CHUNK_SIZE];
        let mut data = base.clone();
        data[100_000] = 8;
        let encoded = |data: &[u8], below| encode(data, difference(&base, data), 1, below);
        assert_eq!(encoded(&data, 0).unwrap().len(), HEADER + 8 + 1);
        data.truncate(100_001);
        assert_eq!(encoded(&data, 0).unwrap().len(), HEADER + 8 + 1);
        assert_eq!(encoded(&data, CHAIN_BYTES), None);
        let other: Vec<u8> = (0..CHUNK_SIZE).map(|i| (i * 7 % 251) as u8).collect();
        assert_eq!(encoded(&other, 0), None);
    }

    #[test]
    fn what_compresses_is_compressed() {
        let mut encoder = Encoder::new(Some(b"zstd"));
        let text = b"a line of text, and again\n".repeat(4000);
        let packed = encoder.compress(&text).unwrap().to_vec();
        assert_eq!(zstd::bulk::decompress(&packed, text.len()).unwrap(), text);
        let mut state = 1u64;
        let noise: Vec<u8> = (0..100_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        assert_eq!(encoder.compress(&noise), None);
        assert_eq!(Encoder::new(None).compress(&text), None);
    }
}
