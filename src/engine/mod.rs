//! L3: POSIX semantics over a [`View`](crate::types::View); memory is the truth, the database follows at once.
//!
//! Every operation is decided and applied in memory under one lock, gets its event number, and is
//! queued as rows; the writer thread (`commit`) commits the queue in order. Live trees, branches,
//! history and transactions are the same code over different views; only a live view yields a tree
//! that can be written.

mod acl;
mod attrs;
mod branch;
mod commit;
mod content;
mod core;
mod data;
mod error;
mod names;
mod node;
mod quota;
mod stage;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

pub use commit::{Done, Hold};
pub use error::FsError;
use parking_lot::{Condvar, Mutex, RwLock};
pub use stage::Stage;

use self::core::Core;
use crate::audit::Chain;
use crate::store::{ProcessRow, Store, StoreError};
use crate::types::{BranchId, Clock, Ino, Kind, Name, Op, ProcId, TxnId};

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
    /// Rows of a commit from which they are written ahead, in slices beside other writers. Default 2,000.
    pub stage_min: usize,
    /// Whether events are recorded; off in benchmarks of the record's cost only.
    pub record: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dirty_max: 64 << 20,
            inodes_max: 200_000,
            blocks_max: 64 << 20,
            group_ms: 50,
            stage_min: 2_000,
            record: true,
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
    /// Asked before a change set is applied, with the engine's lock held: must not call the engine.
    ///
    /// # Errors
    /// Refuses the change set: nothing changes.
    fn allows(&self, _changes: &[crate::store::Mutation]) -> Result<()> {
        Ok(())
    }

    /// Called after the change is visible, without any lock of the engine held.
    fn changed(&self, branch: BranchId, changes: &[Changed]);
}

/// What the engine's threads share.
struct Shared {
    store: Arc<dyn Store>,
    core: Mutex<Core>,
    /// Wakes the writer.
    wake: Condvar,
    /// Tells waiters that a group was committed, or that none will be.
    progress: Condvar,
    checkpoint_lock: Mutex<()>,
    checkpoint: Condvar,
    stopping: AtomicBool,
    observers: RwLock<Vec<Arc<dyn Observer>>>,
}

/// The file system over one store.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Opens the file system that a store holds and starts the writer and the checkpointer.
    /// Transactions that were open are rolled back (`Run`) or marked as interrupted (the others), and
    /// inodes that lived only because they were open are removed.
    ///
    /// # Errors
    /// What the store reports.
    pub fn open(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: Options) -> Result<Arc<Engine>> {
        let mut chain = Chain::load(store.read()?.as_ref())?;
        if chain.is_new() {
            commit::begin_chain(store.as_ref(), &mut chain)?;
        }
        let mut core = Core::load_all(store.clone(), clock, options)?;
        core.recover()?;
        let shared = Arc::new(Shared {
            store,
            core: Mutex::new(core),
            wake: Condvar::new(),
            progress: Condvar::new(),
            checkpoint_lock: Mutex::new(()),
            checkpoint: Condvar::new(),
            stopping: AtomicBool::new(false),
            observers: RwLock::new(Vec::new()),
        });
        let mut threads = Vec::new();
        let writer = shared.clone();
        threads.push(spawn("stone-writer", move || commit::write_groups(&writer, chain))?);
        let checkpointer = shared.clone();
        threads.push(spawn("stone-checkpoint", move || commit::checkpoint_often(&checkpointer))?);
        Ok(Arc::new(Engine { shared, threads: Mutex::new(threads) }))
    }

    /// Returns the store underneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Tells the space of the disk and the number of inodes for statfs(2).
    ///
    /// # Errors
    /// What the store reports.
    pub fn statfs(&self) -> Result<Statfs> {
        const BLOCK: u64 = 4096;
        let space = self.shared.store.space()?;
        let mut core = self.core();
        let used = core.counters.next_ino.0;
        let free = core.free(&space);
        let total = match core.limited(&space) {
            Some((limit, used)) => limit.min(used + free).max(free),
            None => (space.total + space.disk_free).max(free),
        };
        drop(core);
        let free_inodes = free / 512;
        Ok(Statfs {
            block_size: BLOCK as u32,
            blocks: total / BLOCK,
            free: free / BLOCK,
            files: used + free_inodes,
            files_free: free_inodes,
        })
    }

    /// Returns the store's failure or a full disk, where changes are refused.
    pub fn health(&self) -> Option<StoreError> {
        match self.core().writable() {
            Err(FsError::Store(error)) => Some(error),
            _ => None,
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    Ok(thread.map_err(|error| StoreError::Backend(format!("cannot start a thread: {error}")))?)
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("closing: {error}");
        }
    }
}

impl crate::audit::ProcessSink for Engine {
    fn next_process_id(&self) -> ProcId {
        Engine::next_process_id(self)
    }
    fn record_process(&self, row: ProcessRow) {
        Engine::record_process(self, row);
    }
}
