//! Open files.

use super::failure::Failed;
use super::node::NodeId;
use super::session::{Place, Session, Tree};
use crate::engine::{Changed, Done, Fallocate, FsError, Handle, Result, Whence};
use crate::types::{At, Caller, Ino, Op, View};

/// Whether open(2)'s flags ask for writing.
fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Tree<'_> {
    pub(super) fn opened(&self, node: NodeId, handle: Handle, flags: i32) {
        self.session.nodes.opened(node, writes(flags));
        self.session.handles.lock().insert(handle, node);
    }

    /// Opens a file.
    ///
    /// # Errors
    /// As open(2) without `O_CREAT`.
    pub fn open(&self, node: NodeId, flags: i32, caller: &Caller) -> Result<Handle> {
        let done = self.try_open(node, flags, caller);
        if flags & libc::O_TRUNC == 0 {
            return done;
        }
        self.noted(Op::Truncate, Failed::of(node), caller, done)
    }

    fn try_open(&self, node: NodeId, flags: i32, caller: &Caller) -> Result<Handle> {
        let (view, ino) = if writes(flags) || flags & libc::O_TRUNC != 0 {
            self.writable(node)?
        } else {
            match self.place(node)? {
                Place::Inode { view, ino, .. } => (view, ino),
                Place::Special(_) => return Err(FsError::IsDir),
            }
        };
        self.check_past(view, ino, caller, 0o4)?;
        let handle = match self.engine().open_file(view, ino, flags, caller) {
            Err(FsError::NotFound) => self.open_removed(view, ino, flags, caller)?,
            opened => opened?,
        };
        if flags & libc::O_ACCMODE != libc::O_WRONLY {
            self.note(|reads| reads.content(view.branch, ino));
        }
        if flags & libc::O_TRUNC != 0 {
            self.inode_changed(node, view, ino, true);
        }
        self.opened(node, handle, flags);
        Ok(handle)
    }

    /// Records that a file was opened for reading; what cannot be recorded can be read all the same.
    pub fn record_open(&self, node: NodeId, caller: &Caller) {
        if let Ok(Place::Inode { view, ino, .. }) = self.place(node)
            && let Err(error) = self.engine().record_open(view, ino, caller)
        {
            log::debug!("an open of inode {ino} is not recorded: {error}");
        }
    }

    /// Opens a file whose last name went after the kernel had found it, as a reader of a file that is being replaced
    /// again and again does. Other file systems open it all the same; ours has its content in the past.
    fn open_removed(&self, view: View, ino: Ino, flags: i32, caller: &Caller) -> Result<Handle> {
        if view.at != At::Live || writes(flags) || flags & libc::O_TRUNC != 0 {
            // The kernel looks the name up anew.
            return Err(FsError::Stale);
        }
        let engine = self.engine();
        let point = engine.content_point(view, ino).map_err(|_| FsError::Stale)?;
        engine.flush(point)?;
        engine.open_file(View::as_of(view.branch, point), ino, flags, caller).map_err(|_| FsError::Stale)
    }

    /// Whether the content of a node never changes.
    pub fn is_past(&self, node: NodeId) -> bool {
        matches!(self.place(node), Ok(Place::Inode { view, .. }) if view.at != At::Live)
    }

    /// Writes.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn write(
        &self,
        node: NodeId,
        handle: Handle,
        offset: u64,
        data: &[u8],
        kill_suid: bool,
        caller: &Caller,
    ) -> Result<usize> {
        let done = self.engine().write(handle, offset, data, kill_suid, caller);
        let what = Failed::of(node).range(offset, data.len() as u64);
        let written = self.noted_open(Op::Write, what, handle, caller, done)?;
        self.content_changed(node, handle);
        Ok(written)
    }

    /// Allocates, punches out or zeroes a range.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn fallocate(
        &self,
        node: NodeId,
        handle: Handle,
        offset: u64,
        length: u64,
        mode: Fallocate,
        caller: &Caller,
    ) -> Result<()> {
        let done = self.engine().fallocate(handle, offset, length, mode, caller);
        self.noted_open(Op::Fallocate, Failed::of(node).range(offset, length), handle, caller, done)?;
        self.content_changed(node, handle);
        Ok(())
    }

    /// Copies a range between files of one view, sharing what can be shared.
    ///
    /// # Errors
    /// As copy_file_range(2); `CrossView` makes the kernel copy by reading and writing.
    #[allow(clippy::too_many_arguments)] // copy_file_range(2) has them
    pub fn copy_range(
        &self,
        from: Handle,
        from_offset: u64,
        node: NodeId,
        to: Handle,
        to_offset: u64,
        length: u64,
        caller: &Caller,
    ) -> Result<u64> {
        let done = self.engine().copy_range(from, from_offset, to, to_offset, length, caller);
        let copied = self.noted_open(Op::Copy, Failed::of(node).range(to_offset, length), to, caller, done)?;
        self.content_changed(node, to);
        Ok(copied)
    }

    fn content_changed(&self, node: NodeId, handle: Handle) {
        let session = self.session;
        if !session.vfs.is_shared(session) {
            return;
        }
        if let Ok((view, ino)) = self.engine().handle_target(handle) {
            session.vfs.spread(Some((session.id, node)), view.branch, &Changed::Inode { ino, data: true });
        }
    }

    /// Finds data or a hole.
    ///
    /// # Errors
    /// As lseek(2).
    pub fn seek(&self, handle: Handle, offset: u64, whence: Whence) -> Result<u64> {
        self.engine().seek(handle, offset, whence)
    }
}

impl Session {
    /// Reads; short at the end of the file.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read(&self, handle: Handle, offset: u64, size: usize) -> Result<Vec<u8>> {
        self.vfs.engine.read(handle, offset, size)
    }

    /// Makes a file's content durable; `done` gets the result, as fsync(2).
    pub fn fsync(&self, handle: Handle, done: Done) {
        self.vfs.engine.fsync_then(handle, done);
    }

    /// Makes everything durable, which includes every directory; `done` gets the result, as fsync(2).
    pub fn sync(&self, done: Done) {
        self.vfs.engine.sync_then(done);
    }

    /// Closes an open file.
    ///
    /// # Errors
    /// What sealing its content gives; the file is closed all the same.
    pub fn release(&self, node: NodeId, handle: Handle, flags: i32) -> Result<()> {
        let gone = self.nodes.closed(node, writes(flags));
        let known = self.handles.lock().remove(&handle).is_some();
        let released = if known { self.vfs.engine.release(handle) } else { Ok(()) };
        if gone {
            self.unpin(node);
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{Engine, Options};
    use crate::store::sqlite::SqliteStore;
    use crate::store::{EventFilter, EventRow, InitOptions, Store};
    use crate::types::{BranchId, FixedClock, ProcId, Timestamp};
    use crate::vfs::{SessionOptions, Vfs};

    const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 7, process: ProcId(3) };

    fn world() -> (tempfile::TempDir, Arc<Engine>, Arc<Session>) {
        let scratch = tempfile::tempdir().unwrap();
        let db = scratch.path().join("db.stone");
        let init = InitOptions { now: Timestamp(1), uid: 0, gid: 0, settings: Vec::new() };
        SqliteStore::create(&db, &init).unwrap().close().unwrap();
        let store = Arc::new(SqliteStore::open(&db).unwrap());
        let clock = Arc::new(FixedClock::new(Timestamp(10)));
        let engine = Engine::open(store, clock.clone(), Options::default()).unwrap();
        let vfs = Vfs::new(engine.clone(), clock, None).unwrap();
        let session = vfs.session(SessionOptions::live(BranchId::MAIN));
        (scratch, engine, session)
    }

    fn failures(engine: &Engine) -> Vec<EventRow> {
        engine.flush(engine.seal(None).unwrap()).unwrap();
        let filter = EventFilter { failed: true, ..EventFilter::default() };
        engine.store().read().unwrap().events(&filter).unwrap()
    }

    #[test]
    fn every_failed_change_of_content_is_recorded_with_its_range() {
        let (_scratch, engine, session) = world();
        let tree = session.tree().unwrap();
        let (entry, reader) = tree.create(NodeId(1), b"f", 0o644, 0, libc::O_RDONLY, &CALLER).unwrap();
        let file = entry.node;
        let writer = tree.open(file, libc::O_WRONLY, &CALLER).unwrap();
        let late = Caller::default();
        let end = i64::MAX as u64;

        assert_eq!(tree.write(file, writer, end, b"xy", false, &late), Err(FsError::TooLarge));
        assert_eq!(tree.write(file, reader, 5, b"xyz", false, &CALLER), Err(FsError::BadHandle));
        assert_eq!(tree.fallocate(file, writer, end, 9, Fallocate::Extend, &CALLER), Err(FsError::TooLarge));
        assert_eq!(tree.copy_range(writer, 0, file, reader, 4, 8, &CALLER), Err(FsError::BadHandle));
        let point = format!("e{}", engine.seal(None).unwrap());
        let mut old = NodeId(1);
        for name in [&b".history"[..], point.as_bytes(), b"f"] {
            old = tree.lookup(old, name, &CALLER).unwrap().node;
        }
        assert_eq!(tree.open(old, libc::O_WRONLY | libc::O_TRUNC, &CALLER), Err(FsError::ReadOnly));
        assert_eq!(tree.open(old, libc::O_WRONLY, &CALLER), Err(FsError::ReadOnly));
        drop(tree);

        let events = failures(&engine);
        let told: Vec<_> = events.iter().map(|e| (e.op, e.offset, e.length, e.result)).collect();
        let expected = [
            (Op::Write, Some(end), Some(2), libc::EFBIG),
            (Op::Write, Some(5), Some(3), libc::EBADF),
            (Op::Fallocate, Some(end), Some(9), libc::EFBIG),
            (Op::Copy, Some(4), Some(8), libc::EBADF),
            (Op::Truncate, None, None, libc::EROFS),
        ];
        assert_eq!(told, expected);
        for event in &events {
            assert_eq!((event.path.as_deref(), event.process), (Some(&b"/f"[..]), ProcId(3)), "{event:?}");
        }
    }

    #[test]
    fn what_finds_no_room_is_recorded_once() {
        let (_scratch, engine, session) = world();
        let tree = session.tree().unwrap();
        let (entry, handle) = tree.create(NodeId(1), b"f", 0o644, 0, libc::O_WRONLY, &CALLER).unwrap();
        engine.limit_size(Some(1));
        for _ in 0..3 {
            assert_eq!(tree.write(entry.node, handle, 0, b"x", false, &CALLER).unwrap_err().errno(), libc::ENOSPC);
        }
        for _ in 0..3 {
            assert_eq!(tree.mkdir(NodeId(1), b"d", 0o755, 0, &CALLER).unwrap_err().errno(), libc::ENOSPC);
        }
        drop(tree);
        let told: Vec<_> = failures(&engine).into_iter().map(|e| (e.op, e.path.unwrap().to_vec(), e.result)).collect();
        let expected = [(Op::Write, b"/f".to_vec(), libc::ENOSPC), (Op::Mkdir, b"/d".to_vec(), libc::ENOSPC)];
        assert_eq!(told, expected);
    }
}
