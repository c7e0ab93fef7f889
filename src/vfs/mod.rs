//! L5: mounts without a kernel: routing between views, node numbers, virtual directories.
//!
//! A [`Vfs`] belongs to a daemon and holds the engine; a [`Session`] is one mount of it. Each
//! request asks the session for its [`Tree`] and calls one method per operation there. The tree is
//! held until the reply is sent, so that a switch happens between requests only; what the kernel
//! must forget afterwards comes out as [`Notice`]s, which the adapter sends from a thread of its own.

mod access;
mod attrs;
mod failure;
mod files;
mod listing;
mod names;
mod node;
mod notice;
mod refs;
mod session;
mod slots;
mod special;
mod switch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

pub use listing::{Child, Listing};
pub use node::{NodeId, Slot, Usage};
pub use notice::{Notice, Sink};
pub use session::{Entry, History, LONG, Session, SessionOptions, Tree};
pub use special::SpecialNames;
pub use switch::{Difference, Held, OpenFiles, Pause};

use crate::audit::ProcessTable;
use crate::engine::{Changed, Engine, FsError, Observer, Result};
use crate::store::Mutation;
use crate::types::{BranchId, Clock, Ino, Name};
use crate::version::ReadLog;

/// Everything that the mounts of one database share.
pub struct Vfs {
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    processes: Option<Arc<ProcessTable>>,
    names: SpecialNames,
    reads: ReadLog,
    sessions: RwLock<Vec<Weak<Session>>>,
    next_id: AtomicU64,
    /// The entries that lead to mount points inside of our mounts, with the directories that they name.
    held: RwLock<FxHashMap<(BranchId, Ino, Name), Ino>>,
}

impl Vfs {
    /// Prepares an opened database for mounting. `processes` tells the process entities behind requests.
    ///
    /// # Errors
    /// What reading the database's settings gives.
    pub fn new(engine: Arc<Engine>, clock: Arc<dyn Clock>, processes: Option<Arc<ProcessTable>>) -> Result<Arc<Vfs>> {
        let names = SpecialNames::read(&engine)?;
        let (sessions, next_id) = (RwLock::default(), AtomicU64::new(1));
        let (reads, held) = (ReadLog::default(), RwLock::default());
        let vfs = Arc::new(Vfs { engine, clock, processes, names, reads, sessions, next_id, held });
        vfs.engine.observe(Arc::new(Applied(Arc::downgrade(&vfs))));
        Ok(vfs)
    }

    /// The file system below.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The clock that relative points count from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The process entities behind requests, where they are recorded.
    pub fn processes(&self) -> Option<&Arc<ProcessTable>> {
        self.processes.as_ref()
    }

    /// What the serializable transactions that are running have read.
    pub fn reads(&self) -> &ReadLog {
        &self.reads
    }

    /// The names of the virtual directories.
    pub fn names(&self) -> &SpecialNames {
        &self.names
    }

    /// Starts a session.
    pub fn session(self: &Arc<Self>, options: SessionOptions) -> Arc<Session> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(self.clone(), id, options));
        let mut sessions = self.sessions.write();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        session
    }

    /// The sessions that are still there.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.read().iter().filter_map(Weak::upgrade).filter(|session| !session.is_dead()).collect()
    }

    /// Says which entries lead to mount points inside of mounts ([`Session::held`]): change sets that would take
    /// them away are refused from now on, since the kernel would silently unmount what stands there.
    pub fn hold(&self, entries: impl IntoIterator<Item = Held>) {
        *self.held.write() =
            entries.into_iter().map(|held| ((held.branch, held.parent, held.name), held.ino)).collect();
    }

    /// Forgets a session that has ended.
    fn ended(&self, id: u64) {
        self.sessions.write().retain(|session| session.upgrade().is_some_and(|session| session.id != id));
    }

    /// Whether some mount's live tree shows this branch.
    pub fn shows(&self, branch: BranchId) -> bool {
        self.sessions().iter().any(|session| session.branch() == Some(branch))
    }
}

/// Tells the sessions what the engine applied in one step (commit, merge, undo, restore).
struct Applied(Weak<Vfs>);

impl Observer for Applied {
    fn allows(&self, changes: &[Mutation]) -> Result<()> {
        let Some(vfs) = self.0.upgrade() else { return Ok(()) };
        let held = vfs.held.read();
        let takes_away = |change: &Mutation| match change {
            Mutation::Entry { branch, parent, name, row, .. } => held
                .get(&(*branch, *parent, name.clone()))
                .is_some_and(|ino| row.as_ref().is_none_or(|row| row.ino != *ino)),
            _ => false,
        };
        if !held.is_empty() && changes.iter().any(takes_away) { Err(FsError::Busy) } else { Ok(()) }
    }

    fn changed(&self, branch: BranchId, changes: &[Changed]) {
        if let Some(vfs) = self.0.upgrade() {
            for change in changes {
                vfs.spread(None, branch, change);
                // Perhaps it closed what past states still show open.
                if let Changed::Inode { ino, .. } = change {
                    vfs.spread_guard(branch, *ino);
                }
            }
            if let Err(error) = vfs.forget_files(branch, changes) {
                log::warn!("the kernel may show old sizes: {error}");
            }
        }
    }
}
