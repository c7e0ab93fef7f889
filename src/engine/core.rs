//! The state under the engine's one lock: trees, the queue of rows, counters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::commit::Done;
use super::node::{Body, Node, Tree};
use super::quota::Quota;
use super::stage::Reserved;
use super::{EventDraft, FsError, Options, Result};
use crate::store::{
    BranchRow, Content, Counters, EventRow, InodeRow, Mutation, ReadTxn, Store, StoreError, TagRow, TxnKind, TxnRow,
    TxnState,
};
use crate::types::{
    At, BranchId, Caller, Clock, Ino, Kind, Lineage, Name, Op, Permissions, ProcId, Segment, Seq, Timestamp, TxnId,
    View,
};

/// Trees of the past kept in memory at once.
const PAST_TREES_MAX: usize = 64;

pub(super) struct Core {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub options: Options,
    pub counters: Counters,
    pub branches: BTreeMap<BranchId, BranchRow>,
    /// The branches that have a name now.
    pub names: FxHashMap<Vec<u8>, BranchId>,
    pub tags: BTreeMap<Vec<u8>, TagRow>,
    pub txns: BTreeMap<TxnId, TxnRow>,
    /// The transaction of each hidden branch that can still change.
    pub txn_of: FxHashMap<BranchId, TxnId>,
    pub trees: FxHashMap<View, Tree>,
    pub handles: FxHashMap<u64, OpenFile>,
    pub next_handle: u64,
    /// Counts renames of directories: cached paths of an older epoch are stale.
    pub epoch: u64,
    pub tick: u64,

    pub queue: Vec<Mutation>,
    /// Rows of the queue before this position are part of a state that somebody may look at: a cut point.
    pub cut: usize,
    /// Bytes of memory that changes hold: queued, not yet sealed, being committed.
    pub queue_bytes: usize,
    pub unsealed_bytes: usize,
    pub inflight_bytes: usize,
    /// About how many bytes the group that is being gathered will write.
    pub work: usize,
    /// The generation that the queue belongs to; one a group.
    pub generation: u64,
    pub unsealed: FxHashSet<(BranchId, Ino)>,
    pub due: FxHashSet<(BranchId, Ino)>,
    /// The last event of each branch that changed since the start.
    pub last_of: FxHashMap<BranchId, Seq>,
    /// Branches whose writers wait for a commit, with the number of commits.
    pub held: FxHashMap<BranchId, u32>,
    pub first_change: Option<Instant>,
    /// The number of a change set that is being written ahead of its event.
    pub reserved: Option<Reserved>,
    /// The branch and event of one that is visible, until the store says so too.
    pub published: Option<(BranchId, Seq)>,

    /// The last event and generation that readers of the store see.
    pub flushed: Seq,
    pub flushed_generation: u64,
    /// The last event that survives a power cut.
    pub durable: Seq,
    pub want_flushed: Seq,
    pub want_durable: Seq,
    pub want_generation: u64,
    pub failed: Option<StoreError>,
    pub full: bool,
    pub stop: bool,
    pub abandoned: bool,
    /// Whether the writer sleeps until it is told of a change.
    pub idle: bool,
    /// Who is called when an event is durable.
    pub waiting: Vec<(Seq, Done)>,

    /// Sealed chunks in memory, oldest first: branch, inode, index, generation, bytes.
    pub sealed: VecDeque<(BranchId, Ino, u64, u64, usize)>,
    pub sealed_bytes: usize,
    pub weight: usize,
    pub quota: Quota,
    /// What failed last for lack of room: by whom, and at what.
    pub no_room: Option<(ProcId, Op, Option<Ino>, Option<Ino>, Option<Vec<u8>>)>,
}

/// An open file.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub view: View,
    pub ino: Ino,
    pub readable: bool,
    pub writable: bool,
    pub append: bool,
    /// Opened to be run, until the last process ends that runs it.
    pub executes: bool,
    /// Who opened it.
    pub caller: Caller,
    /// The event that the handle's last write belongs to.
    pub wrote: bool,
}

/// The moment of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub seq: Seq,
    pub time: Timestamp,
    pub raw: Timestamp,
}

impl Core {
    /// Reads what is always in memory.
    pub fn load_all(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: Options) -> Result<Core> {
        let (counters, branches, tags, txns) = {
            let txn = store.read()?;
            (txn.counters()?, txn.branches()?, txn.tags()?, txn.transactions()?)
        };
        let named = branches.iter().filter(|row| row.dropped.is_none());
        Ok(Core {
            names: named.filter_map(|row| Some((row.name.clone()?, row.id))).collect(),
            store,
            clock,
            options,
            counters,
            branches: branches.into_iter().map(|row| (row.id, row)).collect(),
            tags: tags.into_iter().map(|row| (row.name.clone(), row)).collect(),
            txn_of: txns.iter().filter(|t| is_open(t.state)).map(|t| (t.branch, t.id)).collect(),
            txns: txns.into_iter().map(|row| (row.id, row)).collect(),
            trees: FxHashMap::default(),
            handles: FxHashMap::default(),
            next_handle: 0,
            epoch: 0,
            tick: 0,
            queue: Vec::new(),
            cut: 0,
            queue_bytes: 0,
            unsealed_bytes: 0,
            work: 0,
            inflight_bytes: 0,
            generation: 1,
            unsealed: FxHashSet::default(),
            last_of: FxHashMap::default(),
            held: FxHashMap::default(),
            due: FxHashSet::default(),
            first_change: None,
            reserved: None,
            published: None,
            flushed: counters.seq,
            flushed_generation: 0,
            durable: counters.seq,
            want_flushed: Seq::ZERO,
            want_durable: Seq::ZERO,
            want_generation: 0,
            failed: None,
            full: false,
            stop: false,
            abandoned: false,
            idle: false,
            waiting: Vec::new(),
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            weight: 0,
            quota: Quota::default(),
            no_room: None,
        })
    }

    /// Ends what a crash left open: orphans are removed, transactions rolled back or interrupted.
    pub fn recover(&mut self) -> Result<()> {
        // Of a store that stayed open while its engine did not.
        if self.with_reader(|txn| txn.is_staging())? {
            self.push(Mutation::Unstage { keys: u32::MAX });
        }
        let orphans = self.with_reader(|txn| txn.orphans())?;
        for (branch, ino) in orphans {
            let lineage = self.lineage_of(View::live(branch))?;
            // An undo may have brought it back, in a database of a program that did not note that here.
            if self.with_reader(|txn| txn.inode(&lineage, ino))?.is_some_and(|row| row.nlink > 0) {
                self.push(Mutation::Orphan { branch, ino, open: false });
                continue;
            }
            self.counters.seq = self.counters.seq.next();
            let at = self.counters.seq;
            self.push(Mutation::Inode { branch, at, ino, row: None });
            self.push(Mutation::Orphan { branch, ino, open: false });
        }
        let open: Vec<TxnRow> = self.txns.values().filter(|t| is_open(t.state)).cloned().collect();
        let mut ended = FxHashSet::default();
        for mut row in open {
            // An inner transaction has a higher number than the one that it changes, and ends with it.
            if row.kind == TxnKind::Run || ended.contains(&row.target) {
                ended.insert(row.branch);
                let moment = self.moment();
                let draft = EventDraft { op: Op::Rollback, txn: Some(row.id), old: None, new: None };
                row.state = TxnState::RolledBack;
                row.ended = Some(moment.seq);
                row.ended_time = Some(moment.time);
                self.drafted(row.target, moment, draft, &Caller::default());
            } else if row.state == TxnState::Open {
                row.state = TxnState::Interrupted;
            } else {
                continue;
            }
            self.keep_txn(row);
        }
        Ok(())
    }

    // ---- time and events -------------------------------------------------------------------

    /// Takes the next event number; its time is strictly increasing.
    pub fn moment(&mut self) -> Moment {
        let raw = self.clock.now();
        let time = Timestamp(raw.0.max(self.counters.time.0.saturating_add(1)));
        self.counters.seq = self.counters.seq.next();
        if self.reserved.is_some_and(|reserved| reserved.at <= self.counters.seq) {
            // Writers wait long before this; whoever comes all the same must not make half a commit visible.
            let why = "the event numbers beside a large commit are used up".to_owned();
            self.failed.get_or_insert(StoreError::Backend(why));
        }
        self.counters.time = time;
        Moment { seq: self.counters.seq, time, raw }
    }

    /// Queues a mutation for the group that is being gathered.
    pub fn push(&mut self, mutation: Mutation) {
        if self.first_change.is_none() {
            self.first_change = Some(Instant::now());
        }
        self.queue_bytes += 200;
        self.work += 200;
        self.queue.push(mutation);
    }

    pub fn event(&mut self, branch: BranchId, moment: Moment, op: Op, caller: &Caller) -> Box<EventRow> {
        let last = self.last_of.entry(branch).or_default();
        *last = moment.seq.max(*last);
        Box::new(EventRow {
            seq: moment.seq,
            time: moment.time,
            raw_time: moment.raw,
            branch,
            txn: self.txn_of.get(&branch).copied(),
            op,
            ino: None,
            parent: None,
            name: None,
            parent2: None,
            name2: None,
            path: None,
            path2: None,
            ino2: None,
            offset: None,
            length: None,
            old: None,
            new: None,
            result: 0,
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            process: caller.process,
        })
    }

    pub fn push_event(&mut self, event: Box<EventRow>) {
        if self.options.record {
            self.push(Mutation::Event(event));
        }
    }

    pub fn drafted(&mut self, branch: BranchId, moment: Moment, draft: EventDraft, caller: &Caller) {
        let mut event = self.event(branch, moment, draft.op, caller);
        event.txn = draft.txn.or(event.txn);
        event.old = draft.old;
        event.new = draft.new;
        // The system's own events are what commits and branches hang on: never switched off.
        self.push(Mutation::Event(event));
    }

    /// Refuses changes after a failure of the store, or while its disk is full.
    pub fn writable(&self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        if self.full {
            return Err(StoreError::Full.into());
        }
        if self.stop {
            return Err(StoreError::Closed.into());
        }
        Ok(())
    }

    // ---- trees and nodes -------------------------------------------------------------------

    pub fn lineage_of(&self, view: View) -> Result<Lineage> {
        let mut cut = match view.at {
            At::Live => Seq::MAX,
            At::AsOf(seq) => seq,
        };
        let mut segments = Vec::new();
        let mut next = Some(view.branch);
        while let Some(id) = next {
            let row = self.branches.get(&id).ok_or(FsError::NotFound)?;
            segments.push(Segment { branch: id, cut });
            cut = cut.min(row.base);
            next = row.parent;
        }
        Ok(Lineage(segments.into()))
    }

    /// Makes sure that a view has a tree. The caller has seen to it that what it inherits is flushed.
    pub fn ensure_tree(&mut self, view: View) -> Result<()> {
        self.tick += 1;
        let tick = self.tick;
        if let Some(tree) = self.trees.get_mut(&view) {
            tree.used = tick;
            return Ok(());
        }
        let lineage = self.tree_lineage(view)?;
        let past = self.trees.values().filter(|t| t.view.at != At::Live);
        if past.clone().count() >= PAST_TREES_MAX
            && let Some(oldest) = past.min_by_key(|t| t.used).map(|t| t.view)
            && self.trees.get(&oldest).is_some_and(|t| t.nodes.values().all(|n| n.opens == 0))
        {
            self.trees.remove(&oldest);
        }
        self.trees.insert(view, Tree { view, lineage, nodes: FxHashMap::default(), used: tick });
        Ok(())
    }

    pub fn tree(&self, view: View) -> Result<&Tree> {
        self.trees.get(&view).ok_or(FsError::NotFound)
    }

    fn lineage(&self, view: View) -> Result<Lineage> {
        Ok(self.tree(view)?.lineage.clone())
    }

    /// Reads from the store; what is not flushed yet is in memory, so this is never asked for it.
    pub fn with_reader<T>(&self, read: impl FnOnce(&dyn ReadTxn) -> crate::store::Result<T>) -> Result<T> {
        let txn = self.store.read()?;
        Ok(read(txn.as_ref())?)
    }

    /// Brings an inode of the tree into memory.
    pub fn load(&mut self, view: View, ino: Ino) -> Result<()> {
        if let Some(node) = self.trees.get_mut(&view).and_then(|t| t.nodes.get_mut(&ino)) {
            node.used = true;
            return Ok(());
        }
        let lineage = self.lineage(view)?;
        let row = self.with_reader(|txn| txn.inode(&lineage, ino))?;
        // One without a name is in memory as long as somebody has it open; it is in no past state, and in no fork.
        let row = row.filter(|row| row.nlink > 0).ok_or(FsError::NotFound)?;
        self.insert_node(view, ino, Node::new(row));
        Ok(())
    }

    pub fn insert_node(&mut self, view: View, ino: Ino, node: Node) {
        self.weight += node.weight();
        if let Some(tree) = self.trees.get_mut(&view) {
            tree.nodes.insert(ino, node);
        }
    }

    /// Returns an inode, loading it where needed; removed ones that are still known too.
    pub fn node(&mut self, view: View, ino: Ino) -> Result<&mut Node> {
        self.load(view, ino)?;
        self.loaded(view, ino)
    }

    /// Returns an inode that is in memory.
    pub fn loaded(&mut self, view: View, ino: Ino) -> Result<&mut Node> {
        self.trees.get_mut(&view).and_then(|t| t.nodes.get_mut(&ino)).ok_or(FsError::NotFound)
    }

    pub fn peek(&self, view: View, ino: Ino) -> Result<&Node> {
        self.trees.get(&view).and_then(|t| t.nodes.get(&ino)).ok_or(FsError::NotFound)
    }

    /// Returns a directory that still has its name.
    pub fn directory(&mut self, view: View, ino: Ino) -> Result<&mut Node> {
        let node = self.node(view, ino)?;
        node.dir()?;
        if node.removed {
            return Err(FsError::NotFound);
        }
        Ok(node)
    }

    // ---- names -----------------------------------------------------------------------------

    /// Finds what a name stands for; `None` where it is absent.
    pub fn entry(&mut self, view: View, parent: Ino, name: &[u8]) -> Result<Option<(Ino, Kind)>> {
        let dir = self.directory(view, parent)?.dir_mut()?;
        if let Some(known) = dir.entries.get(name) {
            return Ok(*known);
        }
        if dir.complete {
            return Ok(None);
        }
        let lineage = self.lineage(view)?;
        let row = self.with_reader(|txn| txn.entry(&lineage, parent, name))?;
        let found = row.map(|row| (row.ino, row.kind));
        self.weight += 1;
        self.loaded(view, parent)?.dir_mut()?.entries.insert(Name::new(name)?, found);
        Ok(found)
    }

    /// Brings every name of a directory into memory.
    pub fn complete(&mut self, view: View, dir: Ino) -> Result<()> {
        if self.directory(view, dir)?.dir()?.complete {
            return Ok(());
        }
        let lineage = self.lineage(view)?;
        let rows = self.with_reader(|txn| txn.entries(&lineage, dir))?;
        self.weight += rows.len();
        let body = self.loaded(view, dir)?.dir_mut()?;
        for row in rows {
            body.entries.entry(row.name).or_insert(Some((row.ino, row.kind)));
        }
        body.entries.retain(|_, target| target.is_some());
        body.complete = true;
        Ok(())
    }

    /// Sets a name in memory and queues its row.
    pub fn set_entry(
        &mut self,
        view: View,
        at: Seq,
        parent: Ino,
        name: &Name,
        target: Option<(Ino, Kind)>,
    ) -> Result<()> {
        self.keep_entry(view, parent, name, target)?;
        let row = target.map(|(ino, kind)| crate::store::EntryRow { parent, name: name.clone(), ino, kind });
        self.push(Mutation::Entry { branch: view.branch, at, parent, name: name.clone(), row });
        Ok(())
    }

    /// Sets a name in memory only.
    pub fn keep_entry(&mut self, view: View, parent: Ino, name: &Name, target: Option<(Ino, Kind)>) -> Result<()> {
        let generation = self.generation;
        self.weight += 1;
        let node = self.node(view, parent)?;
        node.dirty = generation;
        let dir = node.dir_mut()?;
        dir.listing = None;
        if target.is_none() && dir.complete {
            dir.entries.remove(name);
        } else {
            dir.entries.insert(name.clone(), target);
        }
        Ok(())
    }

    /// The directory that holds a directory, and its name there (the root's is itself, without one).
    pub fn parent_of(&mut self, view: View, ino: Ino) -> Result<Ino> {
        if ino == Ino::ROOT {
            return Ok(ino);
        }
        Ok(self.position(view, ino)?.0)
    }

    /// One name of an inode: the one it was last found under, where that still holds.
    fn position(&mut self, view: View, ino: Ino) -> Result<(Ino, Name)> {
        if let Some((parent, name)) = self.node(view, ino)?.home.clone()
            && self.entry(view, parent, name.as_bytes()).is_ok_and(|found| found.is_some_and(|(i, _)| i == ino))
        {
            return Ok((parent, name));
        }
        let position = self.stored_name(view, ino)?;
        self.loaded(view, ino)?.home = Some(position.clone());
        Ok(position)
    }

    fn stored_name(&mut self, view: View, ino: Ino) -> Result<(Ino, Name)> {
        let lineage = self.lineage(view)?;
        let rows = self.with_reader(|txn| txn.names_of(&lineage, ino))?;
        for row in rows {
            if self.entry(view, row.parent, row.name.as_bytes()).is_ok_and(|found| found.is_some_and(|(i, _)| i == ino))
            {
                return Ok((row.parent, row.name));
            }
        }
        // Not flushed yet, then: some directory in memory holds it.
        self.tree(view)?
            .nodes
            .iter()
            .filter_map(|(&parent, node)| Some((parent, node.dir().ok()?)))
            .find_map(|(parent, dir)| {
                let (name, _) = dir.entries.iter().find(|(_, t)| t.is_some_and(|(i, _)| i == ino))?;
                Some((parent, name.clone()))
            })
            .ok_or(FsError::NotFound)
    }

    /// A directory's path, beginning with `/`.
    pub fn dir_path(&mut self, view: View, dir: Ino) -> Result<Arc<[u8]>> {
        if dir == Ino::ROOT {
            return Ok(Arc::from(&b"/"[..]));
        }
        let epoch = self.epoch;
        if let Some((at, path)) = &self.node(view, dir)?.dir()?.path
            && *at == epoch
        {
            return Ok(path.clone());
        }
        let (parent, name) = self.position(view, dir)?;
        let path = join(&self.dir_path(view, parent)?, &name);
        self.loaded(view, dir)?.dir_mut()?.path = Some((epoch, path.clone()));
        Ok(path)
    }

    /// Remembers under which name an inode was found.
    pub fn place(&mut self, view: View, parent: Ino, name: &Name, ino: Ino) -> Result<()> {
        let node = self.node(view, ino)?;
        if node.home.as_ref().is_none_or(|(p, n)| *p != parent || n != name) {
            node.home = Some((parent, name.clone()));
            if let Body::Dir(dir) = &mut node.body {
                dir.path = None;
            }
        }
        Ok(())
    }

    /// Any path of an inode.
    pub fn path_of(&mut self, view: View, ino: Ino) -> Result<Arc<[u8]>> {
        let node = self.node(view, ino)?;
        if node.removed {
            return Err(FsError::NotFound);
        }
        if node.row.kind == Kind::Dir {
            return self.dir_path(view, ino);
        }
        let (parent, name) = self.position(view, ino)?;
        Ok(join(&self.dir_path(view, parent)?, &name))
    }

    // ---- rows ------------------------------------------------------------------------------

    /// Queues an inode's row as of an event. `share` lets attribute changes right after a creation
    /// change the row that is queued already instead of adding a version.
    pub fn emit(&mut self, view: View, ino: Ino, at: Seq, share: bool) -> Result<()> {
        let generation = self.generation;
        let (position, cut) = (self.queue.len(), self.cut);
        let node = self.loaded(view, ino)?;
        if let Body::Dir(dir) = &mut node.body {
            dir.due = None;
        }
        node.dirty = generation;
        let row = node.row.clone();
        let fresh = node.created == generation;
        let shared = node.queued.filter(|(g, index)| share && *g == generation && fresh && *index >= cut);
        if shared.is_none() {
            node.queued = Some((generation, position));
        }
        if let Some((_, index)) = shared
            && let Some(Mutation::Inode { row: Some(old), .. }) = self.queue.get_mut(index)
        {
            **old = row;
            return Ok(());
        }
        self.push(Mutation::Inode { branch: view.branch, at, ino, row: Some(Box::new(row)) });
        Ok(())
    }

    /// Notes that a directory's times changed; the row follows with its group.
    pub fn touch_dir(&mut self, view: View, dir: Ino, moment: Moment) -> Result<()> {
        let generation = self.generation;
        let node = self.node(view, dir)?;
        node.row.mtime = moment.raw;
        node.row.ctime = moment.raw;
        node.dirty = generation;
        node.dir_mut()?.due = Some(moment.seq);
        self.due.insert((view.branch, dir));
        Ok(())
    }

    /// A cut point: unsealed writes of a branch (of all for `None`) become versions, directories' times
    /// too, and no later change shares a version with what is queued now.
    pub fn cut_point(&mut self, branch: Option<BranchId>) -> Result<()> {
        self.seal_all(branch)?;
        self.emit_due()?;
        self.cut = self.queue.len();
        Ok(())
    }

    /// Queues the rows of directories whose times changed.
    pub fn emit_due(&mut self) -> Result<()> {
        let mut due: Vec<_> = self.due.drain().collect();
        due.sort_unstable();
        for (branch, ino) in due {
            let view = View::live(branch);
            let Ok(node) = self.loaded(view, ino) else { continue };
            if let Body::Dir(dir) = &node.body
                && let Some(at) = dir.due
                && !node.removed
            {
                self.emit(view, ino, at, true)?;
            }
        }
        Ok(())
    }

    /// Takes away an inode whose last name is gone; while it is open it lives on without one.
    pub fn retire(&mut self, view: View, ino: Ino, at: Seq) -> Result<()> {
        let generation = self.generation;
        let node = self.loaded(view, ino)?;
        node.removed = true;
        node.row.nlink = 0;
        node.dirty = generation;
        let open = node.opens > 0 && node.row.kind == Kind::File;
        if open {
            self.emit(view, ino, at, false)?;
            self.push(Mutation::Orphan { branch: view.branch, ino, open: true });
        } else {
            self.push(Mutation::Inode { branch: view.branch, at, ino, row: None });
        }
        Ok(())
    }

    // ---- memory ----------------------------------------------------------------------------

    /// Drops clean inodes that were not used lately when there are too many.
    pub fn shed(&mut self) {
        let max = self.options.inodes_max;
        if self.weight <= max + max / 8 {
            return;
        }
        let flushed = self.flushed_generation;
        for pass in 0..2 {
            let mut weight = 0;
            for tree in self.trees.values_mut() {
                tree.nodes.retain(|_, node| {
                    let keep = !node.is_clean(flushed) || (pass == 0 && std::mem::take(&mut node.used));
                    if keep {
                        weight += node.weight();
                    }
                    keep
                });
                // A table keeps the room that it once needed, and a tree outlives its transaction.
                if tree.nodes.len() < tree.nodes.capacity() / 4 {
                    tree.nodes.shrink_to(2 * tree.nodes.len());
                }
            }
            self.weight = weight;
            if weight <= max {
                break;
            }
        }
    }

    pub fn dirty_bytes(&self) -> usize {
        self.queue_bytes + self.unsealed_bytes + self.inflight_bytes
    }
}

/// A new inode's row.
pub(super) fn new_row(kind: Kind, perm: Permissions, uid: u32, gid: u32, moment: Moment, caller: &Caller) -> InodeRow {
    let now = moment.raw;
    InodeRow {
        kind,
        perm,
        uid,
        gid,
        nlink: if kind == Kind::Dir { 2 } else { 1 },
        size: 0,
        chunks: 0,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        content: Content::Inline(Arc::from(&b""[..])),
        data_from: Seq::ZERO,
        content_seq: moment.seq,
        attr_seq: moment.seq,
        predecessor: None,
        process: caller.process,
    }
}

/// Appends a name to a directory's path.
pub(super) fn join(dir: &[u8], name: &Name) -> Arc<[u8]> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path.into()
}

/// Whether a transaction can still change.
pub(super) fn is_open(state: TxnState) -> bool {
    match state {
        TxnState::Open | TxnState::Interrupted | TxnState::Conflicted => true,
        TxnState::Committed | TxnState::RolledBack => false,
    }
}
