//! L3: POSIX semantics over a [`View`]; memory is the truth, the database follows at once.
//!
//! Every operation is decided and applied in memory under one lock, gets its event number, and is
//! queued as rows; the writer thread (`commit`) commits the queue in order. Live trees, branches,
//! history and transactions are the same code over different views; only a live view yields a tree
//! that can be written.

mod error;

use std::sync::Arc;

pub use error::FsError;

use crate::store::{BranchRow, EventRow, Mutation, ProcessRow, Store, TagRow, TxnRow};
use crate::types::{
    Attr, BranchId, Caller, Clock, Ino, Kind, Lineage, Name, Op, Permissions, ProcId, Seq, SetAttr, Timestamp, TxnId,
    View,
};

/// What engine calls return.
pub type Result<T> = std::result::Result<T, FsError>;

/// Bounds and switches of an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of changes that may wait for the database before writers wait. Default 64 MiB.
    pub dirty_max: usize,
    /// Clean inodes kept in memory. Default 200,000.
    pub inodes_max: usize,
    /// Bytes of clean file content kept in memory. Default 64 MiB.
    pub blocks_max: usize,
    /// Longest time in milliseconds that a change waits for its group. Default 50.
    pub group_ms: u64,
    /// Whether events are recorded; off in benchmarks of the record's cost only.
    pub record: bool,
    /// Whether opens for reading are recorded (`audit=all`).
    pub record_reads: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dirty_max: 64 << 20,
            inodes_max: 200_000,
            blocks_max: 64 << 20,
            group_ms: 50,
            record: true,
            record_reads: false,
        }
    }
}

/// An open file of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// An entry of a listing (without `.` and `..`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Name,
    /// What it names.
    pub ino: Ino,
    /// The type of what it names.
    pub kind: Kind,
}

/// How rename treats an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It makes the call fail.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// What setxattr expects of an existing value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    Set,
    /// None (`XATTR_CREATE`).
    Create,
    /// One (`XATTR_REPLACE`).
    Replace,
}

/// What lseek looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole (the end of the file is one).
    Hole,
}

/// What fallocate does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Makes sure that the range is inside the file.
    Extend,
    /// Keeps the size (`FALLOC_FL_KEEP_SIZE`).
    KeepSize,
    /// Turns it into a hole (`PUNCH_HOLE | KEEP_SIZE`).
    PunchHole,
    /// Zeroes it, growing the file (`ZERO_RANGE`).
    ZeroRange,
    /// Zeroes it, keeping the size (`ZERO_RANGE | KEEP_SIZE`).
    ZeroRangeKeepSize,
}

/// Totals for statfs(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Statfs {
    /// Block size in bytes.
    pub block_size: u32,
    /// Blocks in total.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Inodes in total.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// The event that a change set is recorded as.
#[derive(Clone, Debug)]
pub struct EventDraft {
    /// What was done.
    pub op: Op,
    /// The transaction it belongs to.
    pub txn: Option<TxnId>,
    /// The old value, in words.
    pub old: Option<Vec<u8>>,
    /// The new value, in words (a branch's name, a tag's name, ...).
    pub new: Option<Vec<u8>>,
}

/// What another view of the same branch must forget after a change set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// An entry came, changed or went.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: Name,
    },
    /// An inode's attributes or (where `data`) content changed.
    Inode {
        /// The inode.
        ino: Ino,
        /// Whether cached pages are stale too.
        data: bool,
    },
}

/// Hears what [`Engine::apply`] changed, so that kernel caches can be told.
pub trait Observer: Send + Sync {
    /// Called after the change is visible, without any lock of the engine held.
    fn changed(&self, branch: BranchId, changes: &[Changed]);
}

/// The file system over one store.
pub struct Engine {}

#[allow(unused_variables, missing_docs)]
impl Engine {
    /// Opens the file system that a store holds, starts the writer and the checkpointer, marks
    /// transactions left open as rolled back (`Run`) or interrupted (the others).
    pub fn open(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: Options) -> Result<Arc<Engine>> {
        Err(FsError::NotSupported)
    }
    /// Flushes everything durably, stops the threads; later calls fail.
    pub fn close(&self) -> Result<()> {
        Err(FsError::NotSupported)
    }
    /// Stops without flushing what is still queued, as a crash would; for tests.
    pub fn abandon(&self) {}
    pub fn store(&self) -> &Arc<dyn Store> {
        unimplemented!()
    }

    // ---- names -------------------------------------------------------------------------------
    pub fn lookup(&self, view: View, parent: Ino, name: &[u8]) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    /// The parent of a directory (the root's is the root).
    pub fn parent(&self, view: View, dir: Ino) -> Result<Ino> {
        Err(FsError::NotSupported)
    }
    /// A path of an inode in this view, beginning with `/`; `NotFound` when it has no name.
    pub fn path(&self, view: View, ino: Ino) -> Result<Vec<u8>> {
        Err(FsError::NotSupported)
    }
    /// Resolves `/a/b/c` without following symlinks; for the shell, the command line and tests.
    pub fn resolve(&self, view: View, path: &[u8]) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    /// All entries of a directory, a stable snapshot.
    pub fn list(&self, view: View, dir: Ino) -> Result<Arc<Vec<DirEntry>>> {
        Err(FsError::NotSupported)
    }
    /// Creates a file, FIFO, socket or device node. `perm` before umask; a default ACL replaces the umask.
    pub fn mknod(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        perm: Permissions,
        umask: u32,
        rdev: u32,
        caller: &Caller,
    ) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    pub fn mkdir(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        perm: Permissions,
        umask: u32,
        caller: &Caller,
    ) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    pub fn symlink(&self, view: View, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    pub fn link(&self, view: View, ino: Ino, parent: Ino, name: &[u8], caller: &Caller) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    pub fn unlink(&self, view: View, parent: Ino, name: &[u8], caller: &Caller) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn rmdir(&self, view: View, parent: Ino, name: &[u8], caller: &Caller) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn rename(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        parent2: Ino,
        name2: &[u8],
        mode: RenameMode,
        caller: &Caller,
    ) -> Result<()> {
        Err(FsError::NotSupported)
    }

    // ---- attributes --------------------------------------------------------------------------
    pub fn getattr(&self, view: View, ino: Ino) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    /// `handle`: the open file through which a truncation comes (ftruncate), part of its opener's change.
    pub fn setattr(
        &self,
        view: View,
        ino: Ino,
        set: &SetAttr,
        handle: Option<Handle>,
        caller: &Caller,
    ) -> Result<Attr> {
        Err(FsError::NotSupported)
    }
    pub fn readlink(&self, view: View, ino: Ino) -> Result<Arc<[u8]>> {
        Err(FsError::NotSupported)
    }
    /// `name` in full, as `user.mime` or `system.posix_acl_access` (the kernel's binary form of ACLs).
    pub fn getxattr(&self, view: View, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>> {
        Err(FsError::NotSupported)
    }
    pub fn listxattr(&self, view: View, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Err(FsError::NotSupported)
    }
    pub fn setxattr(
        &self,
        view: View,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        caller: &Caller,
    ) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn removexattr(&self, view: View, ino: Ino, name: &[u8], caller: &Caller) -> Result<()> {
        Err(FsError::NotSupported)
    }

    // ---- open files --------------------------------------------------------------------------
    /// Creates and opens; an existing name is `Exists` (the kernel looks up first).
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
        Err(FsError::NotSupported)
    }
    /// `flags` as for open(2): access mode, `O_TRUNC`, `O_APPEND` count.
    pub fn open_file(&self, view: View, ino: Ino, flags: i32, caller: &Caller) -> Result<Handle> {
        Err(FsError::NotSupported)
    }
    /// Short at the end of the file.
    pub fn read(&self, handle: Handle, offset: u64, size: usize) -> Result<Vec<u8>> {
        Err(FsError::NotSupported)
    }
    /// Reads without a handle (no-open sessions, `cat` of the command line).
    pub fn read_at(&self, view: View, ino: Ino, offset: u64, size: usize) -> Result<Vec<u8>> {
        Err(FsError::NotSupported)
    }
    /// `kill_suid`: the kernel asks to clear setuid and setgid (`FUSE_WRITE_KILL_SUIDGID`).
    pub fn write(&self, handle: Handle, offset: u64, data: &[u8], kill_suid: bool, caller: &Caller) -> Result<usize> {
        Err(FsError::NotSupported)
    }
    pub fn fallocate(&self, handle: Handle, offset: u64, length: u64, mode: Fallocate, caller: &Caller) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn seek(&self, handle: Handle, offset: u64, whence: Whence) -> Result<u64> {
        Err(FsError::NotSupported)
    }
    /// Copies within one writable view, sharing chunks where offsets allow; returns the bytes copied.
    pub fn copy_range(
        &self,
        from: Handle,
        from_offset: u64,
        to: Handle,
        to_offset: u64,
        length: u64,
        caller: &Caller,
    ) -> Result<u64> {
        Err(FsError::NotSupported)
    }
    /// Durable when it returns; seals the content's version.
    pub fn fsync(&self, handle: Handle) -> Result<()> {
        Err(FsError::NotSupported)
    }
    /// The last close of an open file; seals the content's version after a write.
    pub fn release(&self, handle: Handle) -> Result<()> {
        Err(FsError::NotSupported)
    }
    /// Which view and inode a handle is open on.
    pub fn handle_target(&self, handle: Handle) -> Result<(View, Ino)> {
        Err(FsError::NotSupported)
    }
    /// Inodes of a branch that have an open handle, with the number of handles.
    pub fn open_inodes(&self, branch: BranchId) -> Vec<(Ino, u32)> {
        Vec::new()
    }
    pub fn statfs(&self) -> Result<Statfs> {
        Err(FsError::NotSupported)
    }

    // ---- time, branches, change sets ---------------------------------------------------------
    /// The last event and its time.
    pub fn point(&self) -> (Seq, Timestamp) {
        (Seq::ZERO, Timestamp(0))
    }
    /// Seals every file with unsealed writes on a branch (all branches for `None`): a cut point.
    pub fn seal(&self, branch: Option<BranchId>) -> Result<Seq> {
        Err(FsError::NotSupported)
    }
    /// Seals everything; durable when it returns. Returns the point reached.
    pub fn sync(&self) -> Result<Seq> {
        Err(FsError::NotSupported)
    }
    /// Waits until the store's readers see everything up to an event.
    pub fn flush(&self, upto: Seq) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn lineage(&self, view: View) -> Result<Lineage> {
        Err(FsError::NotSupported)
    }
    /// All branches, hidden and dropped ones too.
    pub fn branches(&self) -> Vec<BranchRow> {
        Vec::new()
    }
    pub fn branch_named(&self, name: &[u8]) -> Option<BranchRow> {
        None
    }
    pub fn branch(&self, id: BranchId) -> Option<BranchRow> {
        None
    }
    /// Forks a branch from the state of a view, constant cost. `name` is `None` for a hidden one.
    /// Names are unique among undropped branches and tags (`Exists`).
    pub fn fork(&self, name: Option<&[u8]>, from: View, caller: &Caller) -> Result<BranchRow> {
        Err(FsError::NotSupported)
    }
    /// Records a branch's new name or its dropping (an event).
    pub fn update_branch(&self, row: BranchRow, caller: &Caller) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn tags(&self) -> Vec<TagRow> {
        Vec::new()
    }
    /// Adds (`Some`) or removes (`None`) a tag (an event).
    pub fn set_tag(&self, name: &[u8], row: Option<TagRow>, caller: &Caller) -> Result<()> {
        Err(FsError::NotSupported)
    }
    pub fn transactions(&self) -> Vec<TxnRow> {
        Vec::new()
    }
    /// Takes the next transaction number.
    pub fn next_txn(&self) -> TxnId {
        TxnId(0)
    }
    /// Records a transaction's new state together with an event (begin, commit without changes, rollback).
    pub fn update_txn(&self, row: TxnRow, draft: EventDraft, caller: &Caller) -> Result<Seq> {
        Err(FsError::NotSupported)
    }
    /// Records an event of the system's own (switch, prune), with further mutations of its own.
    pub fn record(&self, branch: BranchId, draft: EventDraft, extra: Vec<Mutation>, caller: &Caller) -> Result<Seq> {
        Err(FsError::NotSupported)
    }
    /// Makes a set of changes visible on a branch in one step, as one event. The mutations' `at` is
    /// replaced by that event; temporal rows, `Txn` and `Merge` rows may be among them. `validate` runs under the
    /// engine's lock with the branch's last event, and can refuse: nothing changes then.
    pub fn apply(
        &self,
        branch: BranchId,
        changes: Vec<Mutation>,
        draft: EventDraft,
        validate: &mut dyn FnMut(Seq) -> Result<()>,
        caller: &Caller,
    ) -> Result<Seq> {
        Err(FsError::NotSupported)
    }
    pub fn observe(&self, observer: Arc<dyn Observer>) {}
    /// Records a mutation that failed in the daemon.
    pub fn record_failure(&self, event: EventRow) {}
    /// Takes the next number of a process entity.
    pub fn next_process_id(&self) -> ProcId {
        ProcId(0)
    }
    /// Records a process entity, new or with more known of it.
    pub fn record_process(&self, row: ProcessRow) {}
}

impl crate::audit::ProcessSink for Engine {
    fn next_process_id(&self) -> ProcId {
        Engine::next_process_id(self)
    }
    fn record_process(&self, row: ProcessRow) {
        Engine::record_process(self, row);
    }
}
