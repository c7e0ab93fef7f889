//! Branches, tags, transactions' rows, and sets of changes that become visible in one step.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::core::{Core, Moment, is_open};
use super::node::{Block, Body, Edits, Node};
use super::stage::stamp;
use super::{Changed, Engine, EventDraft, FsError, Observer, Result};
use crate::store::{BranchRow, ChunkData, Content, EventRow, InodeRow, Mutation, TagRow, TxnRow};
use crate::types::{At, BranchId, Caller, Ino, Lineage, Op, ProcId, Seq, Timestamp, TxnId, View};

impl Engine {
    /// Returns the last event and its time.
    pub fn point(&self) -> (Seq, Timestamp) {
        let core = self.core();
        (core.counters.seq, core.counters.time)
    }

    /// Returns the segments of a view.
    pub fn lineage(&self, view: View) -> Result<Lineage> {
        self.core().lineage_of(view)
    }

    /// Lists all branches, hidden and dropped ones too.
    pub fn branches(&self) -> Vec<BranchRow> {
        self.core().branches.values().cloned().collect()
    }

    /// Finds the branch that has a name now.
    pub fn branch_named(&self, name: &[u8]) -> Option<BranchRow> {
        self.core().named(name).cloned()
    }

    /// Finds a branch by its number.
    pub fn branch(&self, id: BranchId) -> Option<BranchRow> {
        self.core().branches.get(&id).cloned()
    }

    /// Forks a branch from the state of a view, at constant cost; `None` makes a hidden one.
    ///
    /// # Errors
    /// `Exists` where a branch or tag has the name.
    pub fn fork(&self, name: Option<&[u8]>, from: View, caller: &Caller) -> Result<BranchRow> {
        let mut core = self.core();
        core.writable()?;
        if let Some(name) = name {
            core.check_free(name)?;
        }
        core.branches.get(&from.branch).ok_or(FsError::NotFound)?;
        let base = match from.at {
            At::Live => {
                core.cut_point(Some(from.branch))?;
                core.counters.seq
            }
            At::AsOf(seq) => seq.min(core.counters.seq),
        };
        let moment = core.moment();
        let id = core.counters.next_branch;
        core.counters.next_branch = BranchId(id.0 + 1);
        let row = BranchRow {
            id,
            name: name.map(<[u8]>::to_vec),
            parent: Some(from.branch),
            base,
            created: moment.seq,
            created_time: moment.time,
            dropped: None,
            uid: caller.uid,
        };
        core.keep_branch(row.clone());
        if let Some(name) = name {
            let draft = EventDraft { op: Op::Branch, txn: None, old: None, new: Some(name.to_vec()) };
            core.drafted(id, moment, draft, caller);
        }
        self.queued(&mut core);
        Ok(row)
    }

    /// Takes the number of a hidden branch that [`Engine::apply`] makes, with the changes of which it is the branch:
    /// nothing is left of it where those are refused.
    pub fn hidden_branch(&self, parent: BranchId, base: Seq, caller: &Caller) -> BranchRow {
        let mut core = self.core();
        let id = core.counters.next_branch;
        core.counters.next_branch = BranchId(id.0 + 1);
        BranchRow {
            id,
            name: None,
            parent: Some(parent),
            base,
            created: Seq::ZERO,
            created_time: Timestamp::default(),
            dropped: None,
            uid: caller.uid,
        }
    }

    /// Records a branch's new name, or that it was dropped.
    pub fn update_branch(&self, row: BranchRow, caller: &Caller) -> Result<()> {
        let mut core = self.core();
        core.writable()?;
        let old = core.branches.get(&row.id).cloned().ok_or(FsError::NotFound)?;
        if let Some(name) = &row.name
            && row.dropped.is_none()
            && old.name != row.name
        {
            core.check_free(name)?;
        }
        let moment = core.moment();
        let mut row = row;
        if row.dropped.is_some() && old.dropped.is_none() {
            row.dropped = Some(moment.seq);
            core.cut_point(Some(row.id))?;
        }
        let new = if row.dropped.is_some() { None } else { row.name.clone() };
        let draft = EventDraft { op: Op::Branch, txn: None, old: old.name, new };
        core.drafted(row.id, moment, draft, caller);
        core.keep_branch(row);
        self.queued(&mut core);
        Ok(())
    }

    /// Lists the tags by name.
    pub fn tags(&self) -> Vec<TagRow> {
        self.core().tags.values().cloned().collect()
    }

    /// Adds a tag, or removes one (`None`).
    ///
    /// # Errors
    /// `Exists` where a branch or tag has the name, `NotFound` where there is none to remove.
    pub fn set_tag(&self, name: &[u8], row: Option<TagRow>, caller: &Caller) -> Result<()> {
        let mut core = self.core();
        core.writable()?;
        let branch = match &row {
            Some(row) => {
                core.check_free(name)?;
                core.cut_point(Some(row.branch))?;
                row.branch
            }
            None => core.tags.get(name).ok_or(FsError::NotFound)?.branch,
        };
        let moment = core.moment();
        let draft = match row {
            Some(row) => {
                let point = format!("e{}", row.seq);
                core.tags.insert(name.to_vec(), row.clone());
                core.push(Mutation::Tag(row));
                EventDraft { op: Op::Tag, txn: None, old: Some(point.into_bytes()), new: Some(name.to_vec()) }
            }
            None => {
                core.tags.remove(name);
                core.push(Mutation::TagRemoved(name.to_vec()));
                EventDraft { op: Op::Tag, txn: None, old: Some(name.to_vec()), new: None }
            }
        };
        core.drafted(branch, moment, draft, caller);
        self.queued(&mut core);
        Ok(())
    }

    /// Lists the transactions by number.
    pub fn transactions(&self) -> Vec<TxnRow> {
        self.core().txns.values().cloned().collect()
    }

    /// Takes the next transaction number.
    pub fn next_txn(&self) -> TxnId {
        let mut core = self.core();
        let id = core.counters.next_txn;
        core.counters.next_txn = TxnId(id.0 + 1);
        id
    }

    /// Records a transaction's new state together with an event on its target branch.
    pub fn update_txn(&self, row: TxnRow, draft: EventDraft, caller: &Caller) -> Result<Seq> {
        let mut core = self.core();
        core.writable()?;
        if !is_open(row.state) {
            core.cut_point(Some(row.branch))?;
        }
        let moment = core.moment();
        core.drafted(row.target, moment, draft, caller);
        core.keep_txn(stamped(row, moment.seq, moment.time));
        self.queued(&mut core);
        Ok(moment.seq)
    }

    /// Records an event of the system's own, with further mutations.
    pub fn record(&self, branch: BranchId, draft: EventDraft, extra: Vec<Mutation>, caller: &Caller) -> Result<Seq> {
        let mut core = self.core();
        core.writable()?;
        let moment = core.moment();
        core.drafted(branch, moment, draft, caller);
        for mutation in extra {
            core.push(mutation);
        }
        self.queued(&mut core);
        Ok(moment.seq)
    }

    /// Changes a setting of the database, which is no event of the tree's history.
    pub fn set_setting(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        let mut core = self.core();
        core.writable()?;
        core.push(Mutation::Setting(key.to_owned(), value.map(<[u8]>::to_vec)));
        self.queued(&mut core);
        Ok(())
    }

    /// Records a mutation that failed in the daemon; the event's number and times are filled in. What
    /// failed for lack of room is recorded once, however often it is tried again.
    pub fn record_failure(&self, event: EventRow) {
        let mut core = self.core();
        if event.result == libc::ENOSPC {
            let tried = (event.process, event.op, event.ino, event.parent, event.name.clone());
            if core.no_room.as_ref() == Some(&tried) {
                return;
            }
            core.no_room = Some(tried);
        }
        if core.writable().is_ok() {
            let moment = core.moment();
            let txn = event.txn.or_else(|| core.txn_of.get(&event.branch).copied());
            let event = EventRow { seq: moment.seq, time: moment.time, raw_time: moment.raw, txn, ..event };
            core.push_event(Box::new(event));
            self.queued(&mut core);
        }
    }

    /// Asks to be told what change sets changed.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.shared.observers.write().push(observer);
    }

    /// Makes a set of changes visible on a branch in one step, as one event: the mutations' `at` becomes
    /// that event, and a row's `data_from` of [`Seq::MAX`] too. `validate` runs under the engine's lock with the
    /// branch's last event, and can refuse: nothing changes then. An inode's version comes before its extents.
    pub fn apply(
        &self,
        branch: BranchId,
        changes: Vec<Mutation>,
        draft: EventDraft,
        validate: &mut dyn FnMut(Seq) -> Result<()>,
        caller: &Caller,
    ) -> Result<Seq> {
        let view = View::live(branch);
        let mut core = self.enter(view)?;
        core.writable()?;
        core.cut_point(Some(branch))?;
        validate(core.last_of.get(&branch).copied().unwrap_or_default())?;
        for observer in self.shared.observers.read().iter() {
            observer.allows(&changes)?;
        }
        let moment = core.moment();
        let mut changed = Vec::new();
        core.put_all(view, moment, changes, caller.process, &mut changed)?;
        core.drafted(branch, moment, draft, caller);
        core.epoch += 1;
        self.queued(&mut core);
        drop(core);
        for observer in self.shared.observers.read().iter() {
            observer.changed(branch, &changed);
        }
        Ok(moment.seq)
    }

    /// Takes the next inode number, for a change set that makes an inode.
    pub fn next_ino(&self) -> Ino {
        let mut core = self.core();
        let ino = core.counters.next_ino;
        core.counters.next_ino = Ino(ino.0 + 1);
        ino
    }

    /// Takes the next number of a process entity.
    pub fn next_process_id(&self) -> ProcId {
        let mut core = self.core();
        let id = core.counters.next_process;
        core.counters.next_process = ProcId(id.0 + 1);
        id
    }

    /// Records what is known of a process.
    pub fn record_process(&self, row: crate::store::ProcessRow) {
        let mut core = self.core();
        if core.writable().is_ok() && core.options.record {
            core.push(Mutation::Process(Box::new(row)));
            self.queued(&mut core);
        }
    }
}

fn stamped(mut row: TxnRow, seq: Seq, time: Timestamp) -> TxnRow {
    if row.begun == Seq::ZERO {
        row.begun = seq;
        row.begun_time = time;
    }
    if !is_open(row.state) && row.ended.is_none() {
        row.ended = Some(seq);
        row.ended_time = Some(time);
    }
    row
}

impl Core {
    fn named(&self, name: &[u8]) -> Option<&BranchRow> {
        self.branches.get(self.names.get(name)?)
    }

    /// Keeps a branch's row, and its name while it has one.
    fn keep_branch(&mut self, row: BranchRow) {
        if let Some(old) = self.branches.get(&row.id).and_then(|old| old.name.clone())
            && self.names.get(&old) == Some(&row.id)
        {
            self.names.remove(&old);
        }
        if let (Some(name), None) = (&row.name, row.dropped) {
            self.names.insert(name.clone(), row.id);
        }
        self.branches.insert(row.id, row.clone());
        self.push(Mutation::Branch(Box::new(row)));
    }

    fn check_free(&self, name: &[u8]) -> Result<()> {
        if self.named(name).is_some() || self.tags.contains_key(name) { Err(FsError::Exists) } else { Ok(()) }
    }

    pub fn keep_txn(&mut self, row: TxnRow) {
        if is_open(row.state) {
            self.txn_of.insert(row.branch, row.id);
        } else {
            self.txn_of.remove(&row.branch);
        }
        self.txns.insert(row.id, row.clone());
        self.push(Mutation::Txn(Box::new(row)));
    }

    /// Applies a change set to memory and queues it.
    pub fn put_all(
        &mut self,
        view: View,
        moment: Moment,
        changes: Vec<Mutation>,
        process: ProcId,
        changed: &mut Vec<Changed>,
    ) -> Result<()> {
        let mut touched: FxHashMap<Ino, bool> = FxHashMap::default();
        for mutation in &changes {
            if let Mutation::Extent { ino, .. } | Mutation::ExtentsFrom { ino, .. } = mutation {
                touched.insert(*ino, true);
            }
        }
        for mutation in changes {
            self.put(view, moment.seq, moment.time, mutation, &touched, process, changed)?;
        }
        Ok(())
    }

    /// Applies one mutation of a change set to memory and queues it.
    #[allow(clippy::too_many_arguments)]
    fn put(
        &mut self,
        view: View,
        seq: Seq,
        time: Timestamp,
        mutation: Mutation,
        contents: &FxHashMap<Ino, bool>,
        process: ProcId,
        changed: &mut Vec<Changed>,
    ) -> Result<()> {
        let branch = view.branch;
        match mutation {
            Mutation::Inode { ino, row: Some(row), .. } => {
                let data = self.put_inode(view, ino, *row, seq, contents.contains_key(&ino), process)?;
                changed.push(Changed::Inode { ino, data });
                self.emit(view, ino, seq, false)?;
            }
            Mutation::Inode { ino, row: None, .. } => {
                if self.load(view, ino).is_ok() {
                    self.retire(view, ino, seq)?;
                    changed.push(Changed::Inode { ino, data: false });
                }
            }
            Mutation::Entry { parent, name, row, .. } => {
                let target = row.map(|row| (row.ino, row.kind));
                self.set_entry(view, seq, parent, &name, target)?;
                if let Some((ino, _)) = target
                    && let Ok(node) = self.loaded(view, ino)
                {
                    node.home = Some((parent, name.clone()));
                }
                changed.push(Changed::Entry { parent, name });
            }
            Mutation::Xattr { ino, name, value, .. } => {
                let generation = self.generation;
                if self.load(view, ino).is_ok() {
                    match &value {
                        Some(value) => self.xattrs(view, ino)?.insert(name.clone(), value.clone()),
                        None => self.xattrs(view, ino)?.remove(&name),
                    };
                    self.loaded(view, ino)?.dirty = generation;
                    changed.push(Changed::Inode { ino, data: false });
                }
                self.push(Mutation::Xattr { branch, at: seq, ino, name, value });
            }
            Mutation::Extent { ino, index, data, .. } => {
                let generation = self.generation;
                if let Ok(node) = self.node(view, ino) {
                    node.dirty = generation;
                    let file = node.file_mut()?;
                    let block = match &data {
                        Some(ChunkData::Bytes { data, .. }) => {
                            Block::Data { data: data.clone(), dirty: false, edits: Edits::none(), generation }
                        }
                        Some(ChunkData::Stored(chunk)) => Block::Stored { chunk: *chunk, dirty: false },
                        None => Block::Hole { dirty: false },
                    };
                    file.blocks.insert(index, block);
                }
                self.push(Mutation::Extent { branch, at: seq, ino, index, data });
            }
            Mutation::ExtentsFrom { ino, index, .. } => {
                if let Ok(node) = self.node(view, ino) {
                    let file = node.file_mut()?;
                    file.blocks.split_off(&index);
                    file.known_from = file.known_from.min(index);
                }
                self.push(Mutation::ExtentsFrom { branch, at: seq, ino, index });
            }
            Mutation::Txn(row) => self.keep_txn(stamped(*row, seq, time)),
            Mutation::Merge(mut row) => {
                row.seq = seq;
                self.push(Mutation::Merge(row));
            }
            Mutation::Branch(row) => self.keep_branch(match row.created {
                Seq::ZERO => BranchRow { created: seq, created_time: time, ..*row },
                _ => *row,
            }),
            Mutation::Tag(_)
            | Mutation::TagRemoved(_)
            | Mutation::Orphan { .. }
            | Mutation::Event(_)
            | Mutation::Process(_)
            | Mutation::Digest(_)
            | Mutation::Setting(..)
            | Mutation::Stage { .. }
            | Mutation::Unstage { .. } => self.push(mutation),
        }
        Ok(())
    }

    /// Puts a new version of an inode in memory; returns whether its content changed.
    fn put_inode(
        &mut self,
        view: View,
        ino: Ino,
        mut row: InodeRow,
        seq: Seq,
        extents: bool,
        process: ProcId,
    ) -> Result<bool> {
        let all_new = row.data_from == Seq::MAX;
        let generation = self.generation;
        if self.load(view, ino).is_err() {
            stamp(&mut row, None, seq, extents, process);
            let mut node = Node::new(row);
            node.xattrs = Some(Default::default());
            if let Body::Dir(dir) = &mut node.body {
                dir.complete = true;
            }
            if let Body::File(file) = &mut node.body {
                file.known_from = 0;
            }
            node.dirty = generation;
            self.insert_node(view, ino, node);
            return Ok(true);
        }
        let node = self.loaded(view, ino)?;
        let data = stamp(&mut row, Some(&node.row), seq, extents, process);
        let came_back = std::mem::replace(&mut node.removed, false);
        node.row = row;
        if all_new && let Body::File(file) = &mut node.body {
            file.blocks.clear();
            file.known_from = 0;
        }
        if matches!(node.row.content, Content::Inline(_))
            && let Body::File(file) = &mut node.body
        {
            file.blocks.clear(); // the row has all of it
        }
        if came_back {
            node.xattrs = Some(Default::default());
            // It was kept for those who have it open; now it has a name again, which outlives them.
            self.push(Mutation::Orphan { branch: view.branch, ino, open: false });
        }
        Ok(data)
    }
}
