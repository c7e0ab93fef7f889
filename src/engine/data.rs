//! Open files and their bytes: open, read, write, truncate, allocate, seek, copy, and the sealing of versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attrs::without_suid;
use super::commit::Done;
use super::content::SIZE_MAX;
use super::core::{Core, OpenFile};
use super::names::Creation;
use super::node::Block;
use super::quota::ROW_BYTES;
use super::{Engine, Fallocate, FsError, Handle, Result, Whence};
use crate::store::{CHUNK_SIZE, Content, Mutation};
use crate::types::{At, Attr, Caller, ChunkId, Ino, Kind, Op, Permissions, Seq, View};

/// The flag by which the kernel tells that it opens a file to run it (`__FMODE_EXEC`).
const EXECUTES: i32 = 0x20;

/// `CHUNK_SIZE` as offsets need it.
pub(super) const CHUNK: u64 = CHUNK_SIZE as u64;

/// Where the bytes of one chunk are to be read from, outside of the lock.
enum Source {
    Memory(Arc<Vec<u8>>),
    Zeros,
    Chunk(ChunkId),
    Store,
}

#[allow(clippy::too_many_arguments)] // the arguments are those of the system calls
impl Engine {
    /// Creates a file and opens it.
    pub fn create(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        perm: Permissions,
        umask: u32,
        flags: i32,
        caller: &Caller,
    ) -> Result<(Attr, Handle)> {
        let mut core = self.enter_writable(view)?;
        self.room(&mut core, ROW_BYTES)?;
        let creation = Creation { op: Op::Create, kind: Kind::File, perm, umask, rdev: 0, target: None };
        let attr = core.make(view, parent, name, &creation, caller)?;
        let handle = core.open(view, attr.ino, flags & !libc::O_TRUNC, caller)?;
        self.queued(&mut core);
        Ok((attr, handle))
    }

    /// Opens a file; `O_TRUNC` truncates it as part of its opener's change.
    pub fn open_file(&self, view: View, ino: Ino, flags: i32, caller: &Caller) -> Result<Handle> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        let mut core = if writes { self.enter_writable(view)? } else { self.enter(view)? };
        // Of other writers the kernel refuses those of a running program itself; of this one it looks too late.
        let truncates_only = flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_TRUNC != 0;
        if truncates_only && core.handles.values().any(|open| open.executes && open.view == view && open.ino == ino) {
            return Err(FsError::TextBusy);
        }
        let handle = core.open(view, ino, flags, caller)?;
        if flags & libc::O_TRUNC != 0 {
            core.set_size(view, ino, 0, Some(handle), caller)?;
        }
        self.queued(&mut core);
        Ok(handle)
    }

    /// Records that a file of a growing branch was opened for reading (`audit=all`).
    ///
    /// # Errors
    /// Where the branch takes no changes.
    pub fn record_open(&self, view: View, ino: Ino, caller: &Caller) -> Result<()> {
        if view.at != At::Live {
            return Ok(());
        }
        let mut core = self.enter_writable(view)?;
        let moment = core.moment();
        let mut event = core.event(view.branch, moment, Op::Open, caller);
        event.ino = Some(ino);
        event.path = core.path_of(view, ino).ok();
        core.push_event(event);
        self.queued(&mut core);
        Ok(())
    }

    /// Reads through a handle; short at the end of the file.
    pub fn read(&self, handle: Handle, offset: u64, size: usize) -> Result<Vec<u8>> {
        let open = self.core().handle(handle)?.clone();
        if !open.readable {
            return Err(FsError::BadHandle);
        }
        self.read_at(open.view, open.ino, offset, size)
    }

    /// Reads without a handle; short at the end of the file.
    pub fn read_at(&self, view: View, ino: Ino, offset: u64, size: usize) -> Result<Vec<u8>> {
        let mut core = self.enter(view)?;
        let node = core.node(view, ino)?;
        node.file()?;
        let end = node.row.size.min(offset.saturating_add(size as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut sources = Vec::new();
        let mut asks_store = false;
        for index in offset / CHUNK..end.div_ceil(CHUNK) {
            let source = node.source(index)?;
            asks_store |= matches!(source, Source::Store);
            sources.push((index, source));
        }
        let data_from = node.row.data_from;
        let lineage = core.tree(view)?.lineage.clone();
        drop(core);
        let mut out = vec![0; (end - offset) as usize];
        if sources.iter().all(|(_, s)| matches!(s, Source::Memory(_) | Source::Zeros)) {
            for (index, source) in &sources {
                if let Source::Memory(data) = source {
                    copy_in(&mut out, offset, *index, 0, data);
                }
            }
            return Ok(out);
        }
        let txn = self.store().read()?;
        let mut stored = BTreeMap::new();
        if asks_store {
            let first = sources.first().map_or(0, |(i, _)| *i);
            let last = sources.last().map_or(0, |(i, _)| *i);
            for row in txn.extents(&lineage, ino, data_from, first..last + 1)? {
                stored.insert(row.index, row.chunk);
            }
        }
        for (index, source) in &sources {
            let chunk = match source {
                Source::Memory(data) => {
                    copy_in(&mut out, offset, *index, 0, data);
                    continue;
                }
                Source::Zeros => continue,
                Source::Chunk(chunk) => *chunk,
                Source::Store => match stored.get(index) {
                    Some(chunk) => *chunk,
                    None => continue,
                },
            };
            let from = offset.saturating_sub(index * CHUNK).min(CHUNK) as usize;
            let to = (end - index * CHUNK).min(CHUNK) as usize;
            if from == 0 && to == CHUNK_SIZE {
                copy_in(&mut out, offset, *index, 0, &txn.chunk(chunk)?);
            } else {
                copy_in(&mut out, offset, *index, from, &txn.chunk_range(chunk, from..to)?);
            }
        }
        Ok(out)
    }

    /// Writes through a handle, at the end of the file where it appends. `kill_suid`: the writer may not
    /// keep setuid and setgid (`FUSE_WRITE_KILL_SUIDGID`).
    pub fn write(&self, handle: Handle, offset: u64, data: &[u8], kill_suid: bool, caller: &Caller) -> Result<usize> {
        let mut core = self.core();
        let open = core.handle(handle)?.clone();
        if !open.writable {
            return Err(FsError::BadHandle);
        }
        self.wait_held(&mut core, open.view.branch);
        core.writable()?;
        self.throttle(&mut core)?;
        self.room(&mut core, data.len())?;
        let size = core.node(open.view, open.ino)?.row.size;
        let offset = if open.append { size } else { offset };
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        if data.is_empty() {
            return Ok(0);
        }
        // Late writes of the kernel come without a process: they are the opener's.
        let caller = if caller.pid == 0 { &open.caller } else { caller };
        core.start_change(open.view, open.ino, Op::Write, caller, offset, end)?;
        core.put_bytes(open.view, open.ino, offset, data)?;
        let node = core.loaded(open.view, open.ino)?;
        node.row.size = node.row.size.max(end);
        if kill_suid {
            node.row.perm = without_suid(node.row.perm);
        }
        if let Some(open) = core.handles.get_mut(&handle.0) {
            open.wrote = true;
        }
        self.queued(&mut core);
        Ok(data.len())
    }

    /// Allocates, punches out or zeroes a range.
    pub fn fallocate(&self, handle: Handle, offset: u64, length: u64, mode: Fallocate, caller: &Caller) -> Result<()> {
        let mut core = self.core();
        let open = core.handle(handle)?.clone();
        if !open.writable {
            return Err(FsError::BadHandle);
        }
        core.writable()?;
        self.throttle(&mut core)?;
        let end = offset.checked_add(length).filter(|&end| end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        if length == 0 {
            return Err(FsError::Invalid);
        }
        let row = &core.node(open.view, open.ino)?.row;
        let size = row.size;
        let perm = if caller.uid == 0 { row.perm } else { without_suid(row.perm) };
        let drops = perm != row.perm;
        if matches!(mode, Fallocate::KeepSize | Fallocate::Extend) {
            core.promise(end.saturating_sub(offset.max(size)))?;
        }
        let (zero, grow) = match mode {
            Fallocate::KeepSize => (false, false),
            Fallocate::Extend => (false, true),
            Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize => (true, false),
            Fallocate::ZeroRange => (true, true),
        };
        let extends = grow && end > size;
        if !zero && !drops && !extends {
            return Ok(());
        }
        core.start_change(open.view, open.ino, Op::Fallocate, caller, offset, end)?;
        if let Some(open) = core.handles.get_mut(&handle.0) {
            open.wrote = true;
        }
        if zero {
            core.zero(open.view, open.ino, offset, end.min(size))?;
        }
        let node = core.loaded(open.view, open.ino)?;
        if grow {
            node.row.size = size.max(end);
        }
        node.row.perm = perm;
        self.queued(&mut core);
        Ok(())
    }

    /// Finds the next byte of data or the next hole, in steps of chunks.
    pub fn seek(&self, handle: Handle, offset: u64, whence: Whence) -> Result<u64> {
        let mut core = self.core();
        let open = core.handle(handle)?.clone();
        let node = core.node(open.view, open.ino)?;
        let (size, data_from) = (node.row.size, node.row.data_from);
        if offset >= size {
            return Err(FsError::NoSuchOffset);
        }
        if let (Content::Inline(bytes), true) = (&node.row.content, node.file()?.blocks.is_empty()) {
            let data_end = bytes.len() as u64;
            return match whence {
                Whence::Data if offset < data_end => Ok(offset),
                Whence::Data => Err(FsError::NoSuchOffset),
                Whence::Hole => Ok(if offset < data_end && data_end < size {
                    data_end
                } else if offset < data_end {
                    size
                } else {
                    offset
                }),
            };
        }
        let lineage = core.tree(open.view)?.lineage.clone();
        let known_from = core.loaded(open.view, open.ino)?.file()?.known_from;
        let first = offset / CHUNK;
        let mut filled: BTreeMap<u64, bool> = BTreeMap::new();
        let stored_end = known_from.min(size.div_ceil(CHUNK));
        if first < stored_end {
            let rows = core.with_reader(|txn| txn.extents(&lineage, open.ino, data_from, first..stored_end))?;
            filled.extend(rows.into_iter().map(|row| (row.index, true)));
        }
        for (&index, block) in core.loaded(open.view, open.ino)?.file()?.blocks.range(first..) {
            filled.insert(index, !block.is_hole());
        }
        filled.retain(|_, data| *data);
        match whence {
            Whence::Data => match filled.keys().next() {
                Some(&index) => Ok((index * CHUNK).max(offset))
                    .and_then(|at| if at < size { Ok(at) } else { Err(FsError::NoSuchOffset) }),
                None => Err(FsError::NoSuchOffset),
            },
            Whence::Hole => {
                let mut index = first;
                while filled.contains_key(&index) {
                    index += 1;
                }
                Ok((index * CHUNK).max(offset).min(size))
            }
        }
    }

    /// Copies a range; whole chunks at matching offsets are shared, not copied.
    pub fn copy_range(
        &self,
        from: Handle,
        from_offset: u64,
        to: Handle,
        to_offset: u64,
        length: u64,
        caller: &Caller,
    ) -> Result<u64> {
        let (source, target) = {
            let core = self.core();
            (core.handle(from)?.clone(), core.handle(to)?.clone())
        };
        if !source.readable || !target.writable || target.append {
            return Err(FsError::BadHandle);
        }
        if source.view != target.view {
            return Err(FsError::CrossView);
        }
        let size = self.enter(source.view)?.node(source.view, source.ino)?.row.size;
        let length = length.min(size.saturating_sub(from_offset));
        if length == 0 {
            return Ok(0);
        }
        to_offset.checked_add(length).filter(|&end| end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        if (source.view, source.ino) == (target.view, target.ino)
            && from_offset < to_offset.saturating_add(length)
            && to_offset < from_offset.saturating_add(length)
        {
            return Err(FsError::Invalid);
        }
        let mut done = 0;
        let aligned = from_offset % CHUNK == to_offset % CHUNK;
        while done < length {
            let (at, to_at) = (from_offset + done, to_offset + done);
            let rest = length - done;
            let step = (CHUNK - at % CHUNK).min(rest);
            // A chunk is shared where all of it is copied: a whole one, or the source's last.
            let whole = aligned && at % CHUNK == 0 && (step == CHUNK || at + step == size);
            if !whole || !self.share_chunk(&source, at / CHUNK, &target, to, to_at / CHUNK, step, caller)? {
                let bytes = self.read_at(source.view, source.ino, at, step as usize)?;
                if bytes.is_empty() {
                    break;
                }
                self.write(to, to_at, &bytes, caller.uid != 0, caller)?;
            }
            done += step;
        }
        Ok(done)
    }

    /// Makes one chunk of the target the source's chunk; `false` where bytes must be copied instead.
    fn share_chunk(
        &self,
        source: &OpenFile,
        index: u64,
        target: &OpenFile,
        handle: Handle,
        target_index: u64,
        length: u64,
        caller: &Caller,
    ) -> Result<bool> {
        let mut core = self.enter(source.view)?;
        core.writable()?;
        let node = core.node(source.view, source.ino)?;
        let chunk = match node.source(index)? {
            Source::Chunk(chunk) => chunk,
            Source::Store => {
                let data_from = node.row.data_from;
                let lineage = core.tree(source.view)?.lineage.clone();
                let rows = core.with_reader(|txn| txn.extents(&lineage, source.ino, data_from, index..index + 1))?;
                match rows.first() {
                    Some(row) => row.chunk,
                    None => return Ok(false),
                }
            }
            Source::Memory(_) | Source::Zeros => return Ok(false),
        };
        let (start, end) = (target_index * CHUNK, target_index * CHUNK + length);
        if end < core.node(target.view, target.ino)?.row.size && length < CHUNK {
            return Ok(false);
        }
        core.start_change(target.view, target.ino, Op::Copy, caller, start, end)?;
        core.put_block(target.view, target.ino, target_index, Block::Stored { chunk, dirty: true })?;
        let node = core.loaded(target.view, target.ino)?;
        node.row.size = node.row.size.max(end);
        if caller.uid != 0 {
            node.row.perm = without_suid(node.row.perm);
        }
        if let Some(open) = core.handles.get_mut(&handle.0) {
            open.wrote = true;
        }
        self.queued(&mut core);
        Ok(true)
    }

    /// Makes everything up to now durable, the file's content with it.
    pub fn fsync(&self, handle: Handle) -> Result<()> {
        let mut core = self.core();
        let upto = core.seal_open(handle)?;
        self.wait_durable(&mut core, upto)
    }

    /// As [`Engine::fsync`], but returns at once; `done` is called when it is done.
    pub fn fsync_then(&self, handle: Handle, done: Done) {
        let mut core = self.core();
        match core.seal_open(handle) {
            Ok(upto) => self.when_durable(core, upto, done),
            Err(error) => {
                drop(core);
                done(Err(error));
            }
        }
    }

    /// Ends an open file; the version of what was written through it is made here.
    pub fn release(&self, handle: Handle) -> Result<()> {
        let mut core = self.core();
        let Some(open) = core.handles.remove(&handle.0) else { return Err(FsError::BadHandle) };
        core.closed(&open)?;
        self.queued(&mut core);
        Ok(())
    }

    /// Tells which view and inode a handle is open on.
    pub fn handle_target(&self, handle: Handle) -> Result<(View, Ino)> {
        let core = self.core();
        let open = core.handle(handle)?;
        Ok((open.view, open.ino))
    }

    /// Tells who opened a handle.
    pub fn opener(&self, handle: Handle) -> Result<Caller> {
        Ok(self.core().handle(handle)?.caller)
    }

    /// Makes open files those of another growing branch, which has the same inodes: what is written through them from
    /// now on is written there.
    pub fn adopt(&self, handles: &[Handle], branch: crate::types::BranchId) -> Result<()> {
        let to = View::live(branch);
        let mut core = self.enter(to)?;
        for handle in handles {
            let Ok(open) = core.handle(*handle).cloned() else { continue };
            let node = core.node(to, open.ino)?;
            node.file()?;
            node.opens += 1;
            if let Some(kept) = core.handles.get_mut(&handle.0) {
                (kept.view, kept.wrote) = (to, false);
            }
            core.closed(&open)?;
        }
        self.queued(&mut core);
        Ok(())
    }

    /// The event that made the present content of an inode, of one too that was removed a moment ago.
    pub fn content_point(&self, view: View, ino: Ino) -> Result<Seq> {
        Ok(self.enter(view)?.node(view, ino)?.row.content_seq)
    }

    /// Lists the inodes of a branch that have an open handle, with the number of handles.
    pub fn open_inodes(&self, branch: crate::types::BranchId) -> Vec<(Ino, u32)> {
        let mut counts: BTreeMap<Ino, u32> = BTreeMap::new();
        for open in self.core().handles.values().filter(|o| o.view == View::live(branch)) {
            *counts.entry(open.ino).or_default() += 1;
        }
        counts.into_iter().collect()
    }
}

/// Copies the part of a chunk that lies inside of a read's range; `skip` bytes of the chunk are not in `data`.
fn copy_in(out: &mut [u8], offset: u64, index: u64, skip: usize, data: &[u8]) {
    let start = index * CHUNK + skip as u64;
    let (from, to) = if start >= offset { (0, (start - offset) as usize) } else { ((offset - start) as usize, 0) };
    let Some(data) = data.get(from..) else { return };
    let Some(out) = out.get_mut(to..) else { return };
    let count = data.len().min(out.len());
    if let (Some(out), Some(data)) = (out.get_mut(..count), data.get(..count)) {
        out.copy_from_slice(data);
    }
}

impl super::node::Node {
    /// Says where chunk `index` is to be read from.
    fn source(&self, index: u64) -> Result<Source> {
        let file = self.file()?;
        Ok(match file.blocks.get(&index) {
            Some(Block::Data { data, .. }) => Source::Memory(data.clone()),
            Some(Block::Stored { chunk, .. }) => Source::Chunk(*chunk),
            Some(Block::Hole { .. }) => Source::Zeros,
            None => match &self.row.content {
                Content::Inline(bytes) if file.pending.is_none() => match index {
                    0 => Source::Memory(Arc::new(bytes.to_vec())),
                    _ => Source::Zeros,
                },
                Content::Inline(_) => Source::Zeros,
                Content::Extents if index >= file.known_from => Source::Zeros,
                Content::Extents => Source::Store,
            },
        })
    }
}

impl Core {
    /// Seals what was written to an open file, and returns the event up to which everything must be durable.
    fn seal_open(&mut self, handle: Handle) -> Result<Seq> {
        let open = self.handle(handle)?.clone();
        if open.view.at != At::Live {
            return Ok(Seq::ZERO);
        }
        self.seal_file(open.view, open.ino)?;
        Ok(self.counters.seq)
    }

    pub fn handle(&self, handle: Handle) -> Result<&OpenFile> {
        self.handles.get(&handle.0).ok_or(FsError::BadHandle)
    }

    fn open(&mut self, view: View, ino: Ino, flags: i32, caller: &Caller) -> Result<Handle> {
        let node = self.node(view, ino)?;
        node.file()?;
        if node.removed && node.opens == 0 {
            return Err(FsError::NotFound);
        }
        node.opens += 1;
        let mode = flags & libc::O_ACCMODE;
        if mode != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            // What the opener before wrote is a state of its own: close(2) returns before we hear of it.
            self.seal_file(view, ino)?;
        }
        self.next_handle += 1;
        let handle = Handle(self.next_handle);
        let open = OpenFile {
            view,
            ino,
            readable: mode != libc::O_WRONLY,
            writable: mode != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            executes: flags & EXECUTES != 0,
            caller: *caller,
            wrote: false,
        };
        self.handles.insert(handle.0, open);
        Ok(handle)
    }

    fn closed(&mut self, open: &OpenFile) -> Result<()> {
        let (view, ino) = (open.view, open.ino);
        self.load(view, ino)?;
        if open.wrote {
            self.seal_file(view, ino)?;
        }
        let node = self.loaded(view, ino)?;
        node.opens = node.opens.saturating_sub(1);
        if node.removed && node.opens == 0 && view.at == At::Live && self.failed.is_none() {
            self.seal_file(view, ino)?;
            // The number stands for no event: nobody can see the difference.
            self.counters.seq = self.counters.seq.next();
            let at = self.counters.seq;
            let generation = self.generation;
            let node = self.loaded(view, ino)?;
            node.dirty = generation;
            if let Ok(file) = node.file_mut() {
                file.blocks.clear();
            }
            self.push(Mutation::Inode { branch: view.branch, at, ino, row: None });
            self.push(Mutation::Orphan { branch: view.branch, ino, open: false });
        }
        Ok(())
    }
}
