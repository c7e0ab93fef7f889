//! Contents in queries: their hashes, and the functions `content`, `content_at`, `path`, `regexp`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use regex::bytes::Regex;

use super::scope::{Paths, Result, Scope, line, resolve};
use crate::store::query::{Body, Cell};
use crate::store::{CHUNK_SIZE, Content, InodeRow, ReadTxn};
use crate::types::{Ino, Kind, Lineage};

/// The largest content in bytes that a query may take whole.
const CONTENT_MAX: u64 = 64 << 20;
/// Patterns kept compiled.
const PATTERNS_MAX: usize = 64;

impl Scope {
    /// A file's content, or a link's target, in a state; null where there is none.
    pub fn content(&self, path: Option<&Cell>, as_of: Option<&Cell>) -> Result<Cell> {
        let Some(path) = path.and_then(Cell::as_bytes) else { return Ok(Cell::Null) };
        let state = self.state(as_of)?;
        let read = self.read()?;
        let Some((ino, _)) = resolve(read.as_ref(), &state.lineage, path)? else { return Ok(Cell::Null) };
        let Some(row) = read.inode(&state.lineage, ino).map_err(line)? else { return Ok(Cell::Null) };
        match row.kind {
            Kind::File => {}
            Kind::Symlink => return Ok(target(&row)),
            Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => return Ok(Cell::Null),
        }
        if row.size > CONTENT_MAX {
            let shown = String::from_utf8_lossy(path);
            return Err(format!("{shown}: {} bytes are too many for a query; read the file instead", row.size));
        }
        Ok(Cell::bytes(&bytes(read.as_ref(), &state.lineage, ino, &row)?))
    }

    /// One path of an inode in the state that the query shows.
    pub fn path(&self, ino: Option<&Cell>) -> Result<Cell> {
        let Some(ino) = ino.and_then(Cell::as_number) else { return Ok(Cell::Null) };
        let state = self.state(None)?;
        let read = self.read()?;
        let path = Paths::default().inode(read.as_ref(), &state.lineage, Ino(ino))?;
        Ok(path.map_or(Cell::Null, |path| Cell::bytes(&path)))
    }
}

/// A symbolic link's target.
pub(super) fn target(row: &InodeRow) -> Cell {
    match (&row.content, row.kind) {
        (Content::Inline(target), Kind::Symlink) => Cell::bytes(target),
        (Content::Inline(_) | Content::Extents, _) => Cell::Null,
    }
}

/// A file's bytes, all of them; holes are zeros.
fn bytes(read: &dyn ReadTxn, lineage: &Lineage, ino: Ino, row: &InodeRow) -> Result<Vec<u8>> {
    let size = usize::try_from(row.size).unwrap_or(usize::MAX);
    let mut content = vec![0; size];
    let mut place = |at: usize, data: &[u8]| {
        let end = at.saturating_add(data.len()).min(size);
        if let Some(space) = content.get_mut(at.min(end)..end) {
            space.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        }
    };
    match &row.content {
        Content::Inline(data) => place(0, data),
        Content::Extents => {
            let last = row.size.div_ceil(CHUNK_SIZE as u64);
            for extent in read.extents(lineage, ino, row.data_from, 0..last).map_err(line)? {
                let at = usize::try_from(extent.index).unwrap_or(usize::MAX).saturating_mul(CHUNK_SIZE);
                place(at, &read.chunk(extent.chunk).map_err(line)?);
            }
        }
    }
    Ok(content)
}

/// A file's content hash, in hexadecimal: BLAKE3 of its bytes up to one chunk (128 KiB), and of its
/// size and the hashes of its chunks (with their places) above that, which costs no reading.
pub(super) fn hash(read: &dyn ReadTxn, lineage: &Lineage, ino: Ino, row: &InodeRow) -> Result<Cell> {
    if row.kind != Kind::File {
        return Ok(Cell::Null);
    }
    let hash = if row.size <= CHUNK_SIZE as u64 {
        match &row.content {
            Content::Inline(data) if data.len() as u64 == row.size => blake3::hash(data),
            Content::Inline(_) | Content::Extents => blake3::hash(&bytes(read, lineage, ino, row)?),
        }
    } else {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&row.size.to_le_bytes());
        let last = row.size.div_ceil(CHUNK_SIZE as u64);
        for extent in read.extents(lineage, ino, row.data_from, 0..last).map_err(line)? {
            hasher.update(&extent.index.to_le_bytes());
            hasher.update(&read.chunk_hash(extent.chunk).map_err(line)?);
        }
        hasher.finalize()
    };
    Ok(hash.to_hex().as_str().into())
}

/// `X REGEXP Y`, which SQLite turns into `regexp(Y, X)`.
pub(super) fn regexp() -> Body {
    let compiled: Mutex<HashMap<Vec<u8>, Arc<Regex>>> = Mutex::new(HashMap::new());
    Box::new(move |cells| {
        let (Some(pattern), Some(text)) =
            (cells.first().and_then(Cell::as_bytes), cells.get(1).and_then(Cell::as_bytes))
        else {
            return Ok(Cell::Null);
        };
        let mut compiled = compiled.lock();
        let regex = match compiled.get(pattern) {
            Some(regex) => Arc::clone(regex),
            None => {
                let source = std::str::from_utf8(pattern).map_err(|_| "regexp: the pattern is not UTF-8")?;
                let regex = Arc::new(Regex::new(source).map_err(|error| format!("regexp: {error}"))?);
                if compiled.len() >= PATTERNS_MAX {
                    compiled.clear();
                }
                compiled.insert(pattern.to_vec(), Arc::clone(&regex));
                regex
            }
        };
        drop(compiled);
        Ok(Cell::Int(i64::from(regex.is_match(text))))
    })
}
