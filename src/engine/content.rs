//! The content of files in memory: changes, chunks, truncation, and the sealing of versions.

use std::sync::Arc;

use super::attrs::without_suid;
use super::core::Core;
use super::data::CHUNK;
use super::node::{Block, Edits, Pending};
use super::{FsError, Handle, Result};
use crate::store::{CHUNK_SIZE, ChunkData, Content, INLINE_MAX, Mutation};
use crate::types::{Caller, ChunkId, Ino, Op, ProcId, Seq, View};

/// The largest file size in bytes: `MAX_LFS_FILESIZE`.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;
/// File capabilities: any change of content or owner takes them away (`FUSE_HANDLE_KILLPRIV_V2`).
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Which of a chunk's bytes a change is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Those from one place to another, within the chunk's bytes or beyond.
    Range(usize, usize),
    /// All, and none is to be kept.
    Whole,
    /// Any.
    Unknown,
}

impl Core {
    /// Begins or continues a change of content: an event of its own at its last write, one for all
    /// successive writes of one opener.
    pub fn start_change(&mut self, view: View, ino: Ino, op: Op, caller: &Caller, start: u64, end: u64) -> Result<()> {
        // Threads of one process have process ids of their own in requests; the entity is the same.
        let who = |c: &Caller| (c.uid, c.process, if c.process == ProcId::default() { c.pid } else { 0 });
        let same = |p: &Pending| who(&p.caller) == who(caller);
        if self.loaded(view, ino)?.file()?.pending.as_ref().is_some_and(|p| !same(p)) {
            self.seal_file(view, ino)?;
        }
        let current = self.counters.seq;
        let continues = self.loaded(view, ino)?.file()?.pending.as_ref().is_some_and(|p| p.seq == current);
        let moment = if continues {
            // Nothing happened since: the same number at a later time.
            let raw = self.clock.now();
            let time = crate::types::Timestamp(raw.0.max(self.counters.time.0.saturating_add(1)));
            self.counters.time = time;
            super::core::Moment { seq: current, time, raw }
        } else {
            self.moment()
        };
        if self.loaded(view, ino)?.file()?.pending.is_none() && self.xattr(view, ino, CAPABILITY)?.is_some() {
            self.put_xattr(view, ino, moment.seq, CAPABILITY, None)?;
        }
        let node = self.loaded(view, ino)?;
        let old_size = node.row.size;
        node.row.mtime = moment.raw;
        node.row.ctime = moment.raw;
        node.row.process = caller.process;
        let inline = match &node.row.content {
            Content::Inline(bytes) => Some(bytes.clone()),
            Content::Extents => None,
        };
        let generation = node.dirty;
        let file = node.file_mut()?;
        match &mut file.pending {
            Some(pending) => {
                pending.seq = moment.seq;
                pending.time = moment.time;
                pending.raw_time = moment.raw;
                pending.start = pending.start.min(start);
                pending.end = pending.end.max(end);
                if pending.op != op {
                    pending.op = Op::Write;
                }
            }
            None => {
                if let Some(bytes) = inline {
                    // From here on the bytes are a chunk like any other.
                    file.known_from = 0;
                    if !bytes.is_empty() {
                        let data = Arc::new(bytes.to_vec());
                        let edits = Edits::default();
                        file.blocks.entry(0).or_insert(Block::Data { data, dirty: false, edits, generation });
                    }
                }
                file.pending = Some(Pending {
                    seq: moment.seq,
                    time: moment.time,
                    raw_time: moment.raw,
                    op,
                    start,
                    end,
                    cut: None,
                    old_size,
                    caller: *caller,
                    bytes: 0,
                });
                if self.first_change.is_none() {
                    self.first_change = Some(std::time::Instant::now());
                }
                self.unsealed.insert((view.branch, ino));
            }
        }
        Ok(())
    }

    /// Whether the store has a chunk that memory does not know of.
    pub fn stored_chunk(&mut self, view: View, ino: Ino, index: u64) -> Result<Option<ChunkId>> {
        let node = self.loaded(view, ino)?;
        if index >= node.file()?.known_from || matches!(node.row.content, Content::Inline(_)) {
            return Ok(None);
        }
        let data_from = node.row.data_from;
        let lineage = self.tree(view)?.lineage.clone();
        let rows = self.with_reader(|txn| txn.extents(&lineage, ino, data_from, index..index + 1))?;
        Ok(rows.first().map(|row| row.chunk))
    }

    /// Puts a block in the place of chunk `index`, as part of the change that was started.
    pub fn put_block(&mut self, view: View, ino: Ino, index: u64, block: Block) -> Result<()> {
        let existed = match self.loaded(view, ino)?.file()?.blocks.get(&index) {
            Some(block) => !block.is_hole(),
            None => self.stored_chunk(view, ino, index)?.is_some(),
        };
        let node = self.loaded(view, ino)?;
        match (existed, block.is_hole()) {
            (false, false) => node.row.chunks += 1,
            (true, true) => node.row.chunks = node.row.chunks.saturating_sub(1),
            (true, false) | (false, true) => {}
        }
        node.file_mut()?.blocks.insert(index, block);
        Ok(())
    }

    /// Returns a chunk's bytes for a change.
    fn block_mut(&mut self, view: View, ino: Ino, index: u64, extent: Extent) -> Result<&mut Vec<u8>> {
        let stored = match self.loaded(view, ino)?.file()?.blocks.get(&index) {
            Some(Block::Data { .. }) => None,
            Some(Block::Stored { chunk, dirty }) => Some((Some(*chunk), *dirty)),
            Some(Block::Hole { .. }) => Some((None, true)),
            None => Some((self.stored_chunk(view, ino, index)?, false)),
        };
        if let Some((chunk, moved)) = stored {
            let bytes = match chunk {
                Some(chunk) if extent != Extent::Whole => self.with_reader(|txn| txn.chunk(chunk))?.to_vec(),
                _ => Vec::new(),
            };
            let edits = if bytes.is_empty() || moved { Edits::default() } else { Edits::none() };
            let block = Block::Data { data: Arc::new(bytes), dirty: false, edits, generation: 0 };
            self.put_block(view, ino, index, block)?;
        }
        let file = self.loaded(view, ino)?.file_mut()?;
        if file.blocks.get(&index).is_some_and(|b| !b.is_dirty()) {
            if let Some(pending) = &mut file.pending {
                pending.bytes += CHUNK_SIZE;
            }
            self.unsealed_bytes += CHUNK_SIZE;
        }
        self.work += match extent {
            Extent::Range(start, end) => end.saturating_sub(start),
            Extent::Whole | Extent::Unknown => CHUNK_SIZE,
        };
        match self.loaded(view, ino)?.file_mut()?.blocks.get_mut(&index) {
            Some(Block::Data { data, dirty, edits, .. }) => {
                *dirty = true;
                match extent {
                    Extent::Range(start, end) => edits.add(start..end),
                    Extent::Whole | Extent::Unknown => *edits = Edits::default(),
                }
                Ok(Arc::make_mut(data))
            }
            _ => Err(FsError::Stale),
        }
    }

    /// Writes bytes into the chunks of a file, as part of the change that was started.
    pub fn put_bytes(&mut self, view: View, ino: Ino, offset: u64, mut data: &[u8]) -> Result<()> {
        let size = self.loaded(view, ino)?.row.size;
        let mut at = offset;
        while !data.is_empty() {
            let index = at / CHUNK;
            let within = (at % CHUNK) as usize;
            let count = data.len().min(CHUNK_SIZE - within);
            let (now, rest) = data.split_at(count);
            let whole = within == 0 && at + count as u64 >= size.min((index + 1) * CHUNK);
            let extent = if whole { Extent::Whole } else { Extent::Range(within, within + count) };
            let bytes = self.block_mut(view, ino, index, extent)?;
            if bytes.len() < within {
                bytes.resize(within, 0);
            }
            bytes.truncate(if whole { 0 } else { bytes.len() });
            if bytes.len() == within {
                bytes.extend_from_slice(now);
            } else {
                if bytes.len() < within + count {
                    bytes.resize(within + count, 0);
                }
                if let Some(place) = bytes.get_mut(within..within + count) {
                    place.copy_from_slice(now);
                }
            }
            at += count as u64;
            data = rest;
        }
        Ok(())
    }

    /// Zeroes a range inside the file; whole chunks become holes.
    pub fn zero(&mut self, view: View, ino: Ino, start: u64, end: u64) -> Result<()> {
        let size = self.loaded(view, ino)?.row.size;
        let mut at = start;
        while at < end {
            let index = at / CHUNK;
            let stop = ((index + 1) * CHUNK).min(end);
            if at.is_multiple_of(CHUNK) && (stop == (index + 1) * CHUNK || stop >= size) {
                let known = match self.loaded(view, ino)?.file()?.blocks.get(&index) {
                    Some(block) => !block.is_hole(),
                    None => self.stored_chunk(view, ino, index)?.is_some(),
                };
                if known {
                    self.put_block(view, ino, index, Block::Hole { dirty: true })?;
                } else if let Some(next) = self.next_chunk(view, ino, index + 1)? {
                    at = (next * CHUNK).max(stop);
                    continue;
                } else {
                    break;
                }
            } else if self.chunk_exists(view, ino, index)? {
                let (from, to) = ((at % CHUNK) as usize, (stop - index * CHUNK) as usize);
                let bytes = self.block_mut(view, ino, index, Extent::Range(from, to))?;
                let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
                if let Some(range) = bytes.get_mut(from..to) {
                    range.fill(0);
                }
            }
            at = stop;
        }
        Ok(())
    }

    fn chunk_exists(&mut self, view: View, ino: Ino, index: u64) -> Result<bool> {
        Ok(match self.loaded(view, ino)?.file()?.blocks.get(&index) {
            Some(block) => !block.is_hole(),
            None => self.stored_chunk(view, ino, index)?.is_some(),
        })
    }

    /// The first chunk at or after `index` that is no hole.
    fn next_chunk(&mut self, view: View, ino: Ino, index: u64) -> Result<Option<u64>> {
        let node = self.loaded(view, ino)?;
        let file = node.file()?;
        let in_memory = file.blocks.range(index..).find(|(_, b)| !b.is_hole()).map(|(&i, _)| i);
        if index >= file.known_from || matches!(node.row.content, Content::Inline(_)) {
            return Ok(in_memory);
        }
        let (known, data_from) = (file.known_from, node.row.data_from);
        let end = known.min(node.row.size.div_ceil(CHUNK));
        let lineage = self.tree(view)?.lineage.clone();
        let rows = self.with_reader(|txn| txn.extents(&lineage, ino, data_from, index..end.max(index)))?;
        let file = self.loaded(view, ino)?.file()?;
        let stored = rows.iter().map(|r| r.index).find(|i| !file.blocks.contains_key(i));
        Ok(match (in_memory, stored) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    /// Sets a file's size: the rest is cut off, or a hole is added.
    pub fn set_size(&mut self, view: View, ino: Ino, size: u64, handle: Option<Handle>, caller: &Caller) -> Result<()> {
        if size > SIZE_MAX {
            return Err(FsError::TooLarge);
        }
        self.loaded(view, ino)?.file()?;
        if handle.is_none() {
            // No part of an opener's change: an event of its own.
            self.seal_file(view, ino)?;
        }
        let old = self.loaded(view, ino)?.row.size;
        let opener = match handle {
            Some(handle) => self.handles.get(&handle.0).map(|open| open.caller),
            None => None,
        };
        let caller = if caller.pid == 0 { opener.unwrap_or(*caller) } else { *caller };
        self.start_change(view, ino, Op::Truncate, &caller, size.min(old), size.max(old))?;
        if size < old {
            self.cut(view, ino, size)?;
        }
        let node = self.loaded(view, ino)?;
        node.row.size = size;
        if caller.uid != 0 {
            node.row.perm = without_suid(node.row.perm);
        }
        match handle.and_then(|handle| self.handles.get_mut(&handle.0)) {
            Some(open) => open.wrote = true,
            None => self.seal_file(view, ino)?,
        }
        Ok(())
    }

    /// Drops everything from `size` on.
    fn cut(&mut self, view: View, ino: Ino, size: u64) -> Result<()> {
        let keep = size.div_ceil(CHUNK);
        let within = (size % CHUNK) as usize;
        if within > 0 && self.chunk_exists(view, ino, size / CHUNK)? {
            let bytes = self.block_mut(view, ino, size / CHUNK, Extent::Unknown)?;
            bytes.truncate(within);
        }
        let node = self.loaded(view, ino)?;
        let inline = matches!(node.row.content, Content::Inline(_));
        let known = node.file()?.known_from;
        let data_from = node.row.data_from;
        let stored = if keep > 0 && !inline {
            let lineage = self.tree(view)?.lineage.clone();
            self.with_reader(|txn| txn.extents(&lineage, ino, data_from, 0..keep.min(known)))?
        } else {
            Vec::new()
        };
        let node = self.loaded(view, ino)?;
        let file = node.file_mut()?;
        let gone = file.blocks.split_off(&keep);
        let freed: usize = gone.values().filter(|b| matches!(b, Block::Data { dirty: true, .. })).count() * CHUNK_SIZE;
        file.known_from = file.known_from.min(keep);
        let in_memory = file.blocks.values().filter(|b| !b.is_hole()).count() as u64;
        let in_store = stored.iter().filter(|row| !file.blocks.contains_key(&row.index)).count() as u64;
        if let Some(pending) = &mut file.pending {
            pending.cut = Some(pending.cut.map_or(keep, |cut| cut.min(keep)));
            pending.bytes = pending.bytes.saturating_sub(freed);
        }
        node.row.chunks = in_memory + in_store;
        self.unsealed_bytes = self.unsealed_bytes.saturating_sub(freed);
        Ok(())
    }

    /// Makes a version of what was written and not yet sealed.
    pub fn seal_file(&mut self, view: View, ino: Ino) -> Result<()> {
        let generation = self.generation;
        let Ok(node) = self.loaded(view, ino) else { return Ok(()) };
        let Ok(file) = node.file_mut() else { return Ok(()) };
        let Some(pending) = file.pending.take() else { return Ok(()) };
        let at = pending.seq;
        let was_inline = matches!(node.row.content, Content::Inline(_));
        let size = node.row.size;
        node.row.content_seq = at;
        let mut extents: Vec<(u64, Option<ChunkData>, usize)> = Vec::new();
        let mut cut = pending.cut;
        if size <= INLINE_MAX as u64 {
            // Whatever extents there were never show again.
            self.unsealed_bytes = self.unsealed_bytes.saturating_sub(pending.bytes);
            let bytes = self.inline_bytes(view, ino, size)?;
            let node = self.loaded(view, ino)?;
            node.row.chunks = u64::from(!bytes.is_empty());
            node.row.content = Content::Inline(bytes);
            node.row.data_from = at;
            let file = node.file_mut()?;
            file.blocks.clear();
            file.known_from = 0;
            cut = None;
        } else {
            if cut == Some(0) || was_inline {
                node.row.data_from = at;
                cut = None;
            }
            node.row.content = Content::Extents;
            let mut sealed = Vec::new();
            let file = node.file_mut()?;
            for (&index, block) in &mut file.blocks {
                if !block.is_dirty() && !was_inline {
                    continue;
                }
                match block {
                    Block::Data { data, dirty, edits, generation: g } => {
                        *dirty = false;
                        *g = generation;
                        // Zeros past the file's end are cut off by whoever truncates, so this is all of it.
                        if data.is_empty() {
                            continue;
                        }
                        sealed.push((index, data.len()));
                        let changed = edits.take(data.len());
                        let bytes = ChunkData::Bytes { hash: [0; 32], data: data.clone(), changed };
                        extents.push((index, Some(bytes), data.len()));
                    }
                    Block::Stored { chunk, dirty } => {
                        *dirty = false;
                        extents.push((index, Some(ChunkData::Stored(*chunk)), 0));
                    }
                    Block::Hole { dirty } => {
                        *dirty = false;
                        extents.push((index, None, 0));
                    }
                }
            }
            for (index, bytes) in sealed {
                self.sealed.push_back((view.branch, ino, index, generation, bytes));
                self.sealed_bytes += bytes;
            }
            self.unsealed_bytes = self.unsealed_bytes.saturating_sub(pending.bytes);
        }
        self.unsealed.remove(&(view.branch, ino));
        let removed = self.loaded(view, ino)?.removed;
        self.emit(view, ino, at, false)?;
        if let Some(index) = cut {
            self.push(Mutation::ExtentsFrom { branch: view.branch, at, ino, index });
        }
        for (index, data, bytes) in extents {
            self.push(Mutation::Extent { branch: view.branch, at, ino, index, data });
            self.queue_bytes += bytes;
        }
        let path = if removed { None } else { self.path_of(view, ino).ok() };
        let moment = super::core::Moment { seq: at, time: pending.time, raw: pending.raw_time };
        let mut event = self.event(view.branch, moment, pending.op, &pending.caller);
        event.ino = Some(ino);
        event.path = path;
        event.offset = Some(pending.start);
        event.length = Some(pending.end - pending.start);
        event.old = Some(pending.old_size.to_string().into_bytes());
        event.new = Some(size.to_string().into_bytes());
        self.push_event(event);
        Ok(())
    }

    /// All bytes of a small file.
    fn inline_bytes(&mut self, view: View, ino: Ino, size: u64) -> Result<Arc<[u8]>> {
        if size == 0 || !self.chunk_exists(view, ino, 0)? {
            return Ok(Arc::from(&b""[..]));
        }
        let block = self.loaded(view, ino)?.file()?.blocks.get(&0).map(|b| match b {
            Block::Data { data, .. } => (Some(data.clone()), None),
            Block::Stored { chunk, .. } => (None, Some(*chunk)),
            Block::Hole { .. } => (None, None),
        });
        let (data, chunk) = match block {
            Some(found) => found,
            None => (None, self.stored_chunk(view, ino, 0)?),
        };
        if let Some(data) = data {
            return Ok(data.get(..data.len().min(size as usize)).unwrap_or_default().into());
        }
        match chunk {
            Some(chunk) => {
                let bytes = self.with_reader(|txn| txn.chunk(chunk))?;
                Ok(bytes.get(..bytes.len().min(size as usize)).unwrap_or_default().into())
            }
            None => Ok(Arc::from(&b""[..])),
        }
    }

    /// Seals every file with unsealed writes, of one branch or of all.
    pub fn seal_all(&mut self, branch: Option<crate::types::BranchId>) -> Result<()> {
        let mut files: Vec<(Seq, View, Ino)> = Vec::new();
        for &(of, ino) in &self.unsealed {
            if branch.is_none_or(|b| b == of) {
                let view = View::live(of);
                let seq = self.peek(view, ino).ok().and_then(|n| n.file().ok()?.pending.as_ref().map(|p| p.seq));
                files.push((seq.unwrap_or(Seq::ZERO), view, ino));
            }
        }
        files.sort_unstable_by_key(|(seq, view, ino)| (*seq, view.branch, *ino));
        for (_, view, ino) in files {
            self.seal_file(view, ino)?;
        }
        Ok(())
    }

    /// Drops the oldest sealed chunks from memory when there are too many bytes of them.
    pub fn shed_blocks(&mut self) {
        while self.sealed_bytes > self.options.blocks_max {
            let Some(&(branch, ino, index, generation, bytes)) = self.sealed.front() else { return };
            if generation > self.flushed_generation {
                return;
            }
            self.sealed.pop_front();
            self.sealed_bytes = self.sealed_bytes.saturating_sub(bytes);
            let Ok(node) = self.loaded(View::live(branch), ino) else { continue };
            let Ok(file) = node.file_mut() else { continue };
            let old = matches!(file.blocks.get(&index), Some(Block::Data { dirty: false, generation: g, .. }) if *g <= generation);
            if old {
                file.blocks.remove(&index);
                file.known_from = file.known_from.max(index + 1);
            }
        }
    }
}
