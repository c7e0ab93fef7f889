//! One mount, and the tree as one request sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustc_hash::FxHashMap;

use super::Vfs;
use super::listing::Stream;
use super::node::{NodeId, NodeTable, Slot};
use super::notice::{Notice, Sink};
use super::slots::Slots;
use super::special::{Special, Specials};
use crate::engine::{Engine, FsError, Handle, Result};
use crate::store::StoreError;
use crate::types::{At, Attr, BranchId, Ino, Kind, SETGID, SETUID, View};
use crate::version::ReadLog;

/// How long the kernel may keep what only we can change; explicit invalidation does the rest.
pub const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long the kernel may keep names that come and go without notice (branches, transactions, points).
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// Where past states are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// In the root of the mount only.
    #[default]
    Root,
    /// In every directory, by the directory's identity.
    Everywhere,
}

/// What a mount shows and how.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The tree at its root; a live branch can be switched.
    pub root: View,
    /// Nothing can be written.
    pub read_only: bool,
    /// Branches and transactions other than the root's cannot be written (`stone run`).
    pub others_read_only: bool,
    /// What is read through the root is noted, for a transaction that validates it.
    pub notes_reads: bool,
    /// The kernel gathers writes and therefore trusts no size but its own: where a file's content changes without it,
    /// it must forget the file.
    pub gathers_writes: bool,
    /// Where past states are found.
    pub history: History,
    /// Shows every file as this user's.
    pub uid: Option<u32>,
    /// Shows every file as this group's.
    pub gid: Option<u32>,
}

impl SessionOptions {
    /// The options of a plain mount of a branch.
    pub fn live(branch: BranchId) -> SessionOptions {
        SessionOptions {
            root: View::live(branch),
            read_only: false,
            others_read_only: false,
            notes_reads: false,
            gathers_writes: false,
            history: History::Root,
            uid: None,
            gid: None,
        }
    }
}

/// One mount.
pub struct Session {
    pub(super) vfs: Arc<Vfs>,
    pub(super) id: u64,
    pub(super) options: SessionOptions,
    /// What slot 0 shows. Requests hold it for reading until they have replied, a switch for writing.
    pub(super) live: RwLock<View>,
    pub(super) nodes: NodeTable,
    pub(super) slots: Slots,
    /// The branch of `live`, 0 for a past state; read where the lock may be held already.
    showing: AtomicU64,
    /// Files of slot 0 that stay on a branch although the live tree shows another.
    pub(super) pins: RwLock<FxHashMap<Ino, BranchId>>,
    /// The number of pins, so that the common case takes no lock.
    pub(super) pin_count: AtomicUsize,
    pub(super) specials: Specials,
    pub(super) streams: Mutex<FxHashMap<u64, Arc<Stream>>>,
    pub(super) next_stream: AtomicU64,
    /// Open files, to be closed when the connection ends without their release.
    pub(super) handles: Mutex<FxHashMap<Handle, NodeId>>,
    sink: RwLock<Option<Sink>>,
    dead: AtomicBool,
}

impl Session {
    pub(super) fn new(vfs: Arc<Vfs>, id: u64, options: SessionOptions) -> Session {
        Session {
            vfs,
            id,
            live: RwLock::new(options.root),
            showing: AtomicU64::new(growing(options.root)),
            options,
            nodes: NodeTable::new(),
            slots: Slots::default(),
            pins: RwLock::default(),
            pin_count: AtomicUsize::new(0),
            specials: Specials::default(),
            streams: Mutex::default(),
            next_stream: AtomicU64::new(1),
            handles: Mutex::default(),
            sink: RwLock::new(None),
            dead: AtomicBool::new(false),
        }
    }

    /// What all mounts of the database share.
    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.vfs
    }

    /// What the mount was made with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// What the root of the mount shows now.
    pub fn view(&self) -> View {
        *self.live.read()
    }

    /// The growing branch that the root of the mount shows now; none for a mount of a past state.
    pub fn branch(&self) -> Option<BranchId> {
        Some(BranchId(self.showing.load(Ordering::Acquire))).filter(|branch| branch.0 != 0)
    }

    /// Changes what the root of the mount shows; the caller holds the lock of `live`.
    pub(super) fn show(&self, live: &mut View, view: View) {
        *live = view;
        self.showing.store(growing(view), Ordering::Release);
    }

    /// The tree as a request sees it; keep it until the reply is sent.
    ///
    /// # Errors
    /// `EIO` once the session was ended.
    pub fn tree(&self) -> Result<Tree<'_>> {
        let live = self.live.read();
        if self.is_dead() {
            return Err(FsError::Store(StoreError::Closed));
        }
        Ok(Tree { session: self, live })
    }

    /// Says where notices go; the adapter calls it once the kernel listens.
    pub fn notify(&self, sink: Sink) {
        *self.sink.write() = Some(sink);
    }

    /// Hands a notice to the adapter's thread; waits for nothing.
    pub(super) fn send(&self, notice: Notice) {
        if let Some(sink) = &*self.sink.read() {
            sink(notice);
        }
    }

    /// Whether the session was ended.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Makes every later request fail with `EIO`, waits for those that are being served, and closes
    /// what is still open. For the end of a mount and for a transaction that lost its command.
    pub fn end(&self) {
        self.dead.store(true, Ordering::Release);
        drop(self.live.write());
        *self.sink.write() = None;
        self.streams.lock().clear();
        for handle in std::mem::take(&mut *self.handles.lock()).into_keys() {
            if let Err(error) = self.vfs.engine.release(handle) {
                log::debug!("closing a file at the end of a mount: {error}");
            }
        }
        self.vfs.ended(self.id);
    }

    /// Nodes that are open for writing: their mapped pages may hold what no request has told yet.
    pub fn writers(&self) -> Vec<NodeId> {
        self.nodes.collect(|_, usage| usage.writers > 0)
    }

    /// Takes back references of the kernel to a node.
    pub fn forget(&self, node: NodeId, count: u64) {
        if self.nodes.forgotten(node, count) {
            self.unpin(node);
        }
    }

    /// Drops the pin of a file once the kernel knows neither of its numbers, so that it gets its
    /// usual number again.
    pub(super) fn unpin(&self, node: NodeId) {
        if self.pin_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let live = self.live.read();
        let mut pins = self.pins.write();
        let ino = node.ino();
        let other = self.slots.find(View::live(live.branch)).map(|slot| NodeId::new(slot, ino));
        let busy = self.nodes.knows(NodeId::new(Slot::LIVE, ino)) || other.is_some_and(|node| self.nodes.knows(node));
        if !busy && pins.remove(&ino).is_some() {
            self.pin_count.store(pins.len(), Ordering::Release);
        }
    }
}

/// A growing branch's number, 0 for a past state.
fn growing(view: View) -> u64 {
    match view.at {
        At::Live => view.branch.0,
        At::AsOf(_) => 0,
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// An inode of a view.
    Inode { view: View, ino: Ino, writable: bool },
    /// A virtual directory.
    Special(Special),
}

/// What a lookup hands to the kernel.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The node's number.
    pub node: NodeId,
    /// Which use of the number it is.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How long the kernel may keep the name.
    pub name_for: Duration,
    /// How long the kernel may keep the attributes.
    pub attr_for: Duration,
}

/// The session as one request sees it: no switch happens while it is held.
pub struct Tree<'a> {
    pub(super) session: &'a Session,
    pub(super) live: RwLockReadGuard<'a, View>,
}

impl Tree<'_> {
    pub(super) fn engine(&self) -> &Engine {
        &self.session.vfs.engine
    }

    /// Finds out what a node is.
    pub(super) fn place(&self, node: NodeId) -> Result<Place> {
        let (slot, ino) = (node.slot(), node.ino());
        if slot == Slot::SPECIAL {
            return self.session.specials.get(ino).map(Place::Special).ok_or(FsError::Stale);
        }
        let options = &self.session.options;
        let (view, writable) = if slot == Slot::LIVE {
            let view = match self.pin(ino) {
                Some(branch) => View::live(branch),
                None => *self.live,
            };
            (view, !options.read_only)
        } else {
            let bound = self.session.slots.get(slot).ok_or(FsError::Stale)?;
            (bound.view, !options.read_only && !options.others_read_only)
        };
        Ok(Place::Inode { view, ino, writable: writable && view.at == At::Live })
    }

    /// Finds the inode that a node is.
    pub(super) fn inode(&self, node: NodeId) -> Result<(View, Ino)> {
        match self.place(node)? {
            Place::Inode { view, ino, .. } => Ok((view, ino)),
            Place::Special(_) => Err(FsError::NotPermitted),
        }
    }

    /// Finds the inode that a node is, for a change.
    pub(super) fn writable(&self, node: NodeId) -> Result<(View, Ino)> {
        match self.place(node)? {
            Place::Inode { view, ino, writable: true } => Ok((view, ino)),
            Place::Inode { .. } => Err(FsError::ReadOnly),
            Place::Special(special) => Err(special.refusal()),
        }
    }

    fn pin(&self, ino: Ino) -> Option<BranchId> {
        if self.session.pin_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.session.pins.read().get(&ino).copied()
    }

    /// The node of a child seen through a directory of `slot`: directories stay in their parent's
    /// slot; a file of a growing branch has one node, however it is reached.
    pub(super) fn child(&self, slot: Slot, view: View, attr_ino: Ino, kind: Kind) -> Result<NodeId> {
        if kind == Kind::Dir || view.at != At::Live {
            return Ok(NodeId::new(slot, attr_ino));
        }
        self.session.file_node(*self.live, view, attr_ino)
    }

    /// Shows attributes as the mount's options want them.
    pub(super) fn shown(&self, mut attr: Attr) -> Attr {
        attr.uid = self.session.options.uid.unwrap_or(attr.uid);
        attr.gid = self.session.options.gid.unwrap_or(attr.gid);
        attr
    }

    /// Builds the reply to a lookup, and counts the reference that it hands out.
    pub(super) fn entry(&self, slot: Slot, view: View, attr: Attr, name_for: Duration) -> Result<Entry> {
        let node = self.child(slot, view, attr.ino, attr.kind)?;
        self.session.nodes.looked_up(node);
        let generation = self.session.slots.get(node.slot()).map_or(0, |bound| bound.generation);
        let attr_for = self.attr_for(&attr);
        Ok(Entry { node, generation, attr: self.shown(attr), name_for, attr_for })
    }

    /// How long the kernel may keep attributes. Where reads are noted it must ask for a file's when somebody wants them;
    /// and it does not notice that a write has taken setuid and setgid away.
    pub(super) fn attr_for(&self, attr: &Attr) -> Duration {
        let asks = self.session.options.notes_reads || attr.perm & (SETUID | SETGID) != 0;
        if asks && attr.kind != Kind::Dir { Duration::ZERO } else { LONG }
    }

    /// Notes what was read, for a transaction that validates it.
    pub(super) fn note(&self, note: impl FnOnce(&ReadLog)) {
        if self.session.options.notes_reads {
            note(&self.session.vfs.reads);
        }
    }

    /// Takes back the reference of an entry whose reply could not be used.
    pub fn unused(&self, entry: &Entry) {
        self.session.nodes.forgotten(entry.node, 1);
    }
}

impl Session {
    /// The node of a file of a growing branch while the live tree shows `live`.
    pub(super) fn file_node(&self, live: View, view: View, ino: Ino) -> Result<NodeId> {
        let usual = NodeId::new(Slot::LIVE, ino);
        let pinned = match self.pin_count.load(Ordering::Acquire) {
            0 => None,
            _ => self.pins.read().get(&ino).copied(),
        };
        let at_usual = match pinned {
            Some(branch) => branch == view.branch,
            None => view == live,
        };
        if at_usual {
            return Ok(usual);
        }
        Ok(NodeId::new(self.slots.obtain(view, None, &self.nodes)?, ino))
    }
}
