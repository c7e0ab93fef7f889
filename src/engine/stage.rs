//! Change sets too large for one group: their rows are written ahead of their event, in slices between
//! the groups of other writers, and one small step makes them visible.
//!
//! The event's number is reserved beyond those that come meanwhile; until the counters reach it, readers
//! of the present look just before it (see [`crate::store::Group`]). A crash leaves nothing of it.

use super::core::Core;
use super::node::Body;
use super::{Changed, Engine, EventDraft, FsError, Result};
use crate::store::{EntryRow, InodeRow, Mutation};
use crate::types::{BranchId, Caller, Ino, Name, ProcId, Segment, Seq, View};

/// Rows that are written at once, so that a group of other writers waits for no more.
const SLICE: usize = 1000;
/// The fewest event numbers that are left to others meanwhile.
const GAP_MIN: u64 = 1 << 14;

/// The number that is reserved, and from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    pub at: Seq,
    /// What is left to others: half of it while rows are written, half while they are taken away again.
    gap: u64,
}

impl Reserved {
    fn left(&self, now: Seq) -> u64 {
        self.at.0.saturating_sub(now.0)
    }

    /// Whether writers have to wait until the number is given back: they have nearly used up what was left to them.
    pub fn is_crowded(&self, now: Seq) -> bool {
        self.left(now) < self.gap / 4
    }
}

/// A change set that is being written; given up when it is dropped.
pub struct Stage<'e> {
    engine: &'e Engine,
    branch: BranchId,
    at: Seq,
    process: ProcId,
    /// Entries, for observers and for what is in memory.
    entries: Vec<Mutation>,
    inodes: Vec<(Ino, bool)>,
    slices: usize,
    ended: bool,
}

impl Engine {
    /// The number of rows from which a change set should be staged.
    pub fn stage_min(&self) -> usize {
        self.core().options.stage_min
    }

    /// Begins a change set of about so many rows that is written ahead of its event. Waits for another one to end.
    ///
    /// # Errors
    /// Where the store takes no changes.
    pub fn stage(&self, branch: BranchId, rows: usize, caller: &Caller) -> Result<Stage<'_>> {
        let mut core = self.core();
        loop {
            core.writable()?;
            if let Some((_, at)) = core.published {
                self.wait_flushed(&mut core, at)?;
            } else if core.reserved.is_some() {
                self.shared.progress.wait(&mut core);
            } else {
                break;
            }
        }
        let gap = (rows as u64).saturating_mul(2).max(GAP_MIN);
        let at = Seq(core.counters.seq.0.saturating_add(gap));
        core.reserved = Some(Reserved { at, gap });
        let process = caller.process;
        Ok(Stage {
            engine: self,
            branch,
            at,
            process,
            entries: Vec::new(),
            inodes: Vec::new(),
            slices: 0,
            ended: false,
        })
    }
}

impl Stage<'_> {
    /// Writes rows; their `at` becomes the event's number, as in [`Engine::apply`]. An inode's version comes before its
    /// attributes and extents, an inode before what names it.
    ///
    /// # Errors
    /// `WouldBlock` where others have used up the numbers that were left to them; those of the store.
    pub fn write(&mut self, rows: Vec<Mutation>) -> Result<()> {
        let mut slice = Vec::with_capacity(SLICE);
        let mut rows = rows.into_iter().peekable();
        while let Some(row) = rows.next() {
            slice.push(row);
            let whole = matches!(rows.peek(), None | Some(Mutation::Inode { .. } | Mutation::Entry { .. }));
            if rows.peek().is_none() || (slice.len() >= SLICE && whole) {
                self.write_slice(std::mem::take(&mut slice))?;
            }
        }
        Ok(())
    }

    fn write_slice(&mut self, mut rows: Vec<Mutation>) -> Result<()> {
        self.stamp(&mut rows)?;
        let mut core = self.engine.core();
        let reserved = core.reserved.filter(|reserved| reserved.at == self.at).ok_or(FsError::WouldBlock)?;
        if reserved.left(core.counters.seq) < reserved.gap / 2 {
            return Err(FsError::WouldBlock);
        }
        if self.slices == 0 {
            core.push(Mutation::Stage { branch: self.branch, at: self.at });
        }
        self.slices += 1;
        for row in rows {
            core.push(row);
        }
        self.engine.wait_queued(&mut core)
    }

    /// Completes rows as [`Engine::apply`] does.
    fn stamp(&mut self, rows: &mut [Mutation]) -> Result<()> {
        let lineage = self.engine.lineage(View::live(self.branch))?;
        let txn = self.engine.store().read()?;
        let mut data: Vec<Ino> = rows.iter().filter_map(writes_data).collect();
        data.sort_unstable();
        data.dedup();
        for mutation in rows {
            match mutation {
                Mutation::Inode { at, ino, row, .. } => {
                    *at = self.at;
                    let mut changed = false;
                    if let Some(row) = row {
                        let old = txn.inode(&lineage, *ino)?;
                        changed = stamp(row, old.as_ref(), self.at, data.binary_search(ino).is_ok(), self.process);
                    }
                    self.inodes.push((*ino, changed));
                }
                Mutation::Entry { at, branch, parent, name, row } => {
                    *at = self.at;
                    let (branch, parent, name, row) = (*branch, *parent, name.clone(), row.clone());
                    self.entries.push(Mutation::Entry { branch, at: self.at, parent, name, row });
                }
                Mutation::Xattr { at, .. } | Mutation::Extent { at, .. } | Mutation::ExtentsFrom { at, .. } => {
                    *at = self.at;
                }
                Mutation::Orphan { .. }
                | Mutation::Event(_)
                | Mutation::Process(_)
                | Mutation::Branch(_)
                | Mutation::Tag(_)
                | Mutation::TagRemoved(_)
                | Mutation::Txn(_)
                | Mutation::Merge(_)
                | Mutation::Digest(_)
                | Mutation::Setting(..)
                | Mutation::Stage { .. }
                | Mutation::Unstage { .. } => return Err(FsError::Invalid),
            }
        }
        Ok(())
    }

    /// Makes everything visible as one event, together with further changes, as [`Engine::apply`] does.
    ///
    /// # Errors
    /// Those of `validate`, of an observer, and of the store; nothing has changed then, and it can be tried again.
    pub fn publish(
        &mut self,
        rest: Vec<Mutation>,
        draft: EventDraft,
        validate: &mut dyn FnMut(Seq) -> Result<()>,
        caller: &Caller,
    ) -> Result<Seq> {
        let engine = self.engine;
        let view = View::live(self.branch);
        let mut core = engine.enter(view)?;
        core.writable()?;
        core.cut_point(Some(self.branch))?;
        validate(core.last_of.get(&self.branch).copied().unwrap_or_default())?;
        if core.reserved.is_none_or(|reserved| reserved.at != self.at) || core.counters.seq >= self.at {
            return Err(FsError::WouldBlock);
        }
        for observer in engine.shared.observers.read().iter() {
            observer.allows(&self.entries)?;
            observer.allows(&rest)?;
        }
        // From here on it is done, or the store has failed.
        self.ended = true;
        core.reserved = None;
        core.counters.seq = Seq(self.at.0 - 1);
        let moment = core.moment();
        core.published = Some((self.branch, self.at));
        let shown = (|| {
            core.relink(view)?;
            let mut changed = core.forget_staged(view, self.at, &self.inodes, &self.entries)?;
            core.put_all(view, moment, rest, caller.process, &mut changed)?;
            Ok(changed)
        })();
        let changed = match shown {
            Ok(changed) => changed,
            Err(error) => {
                // Half of it is in memory.
                core.fail(FsError::clone(&error));
                engine.shared.progress.notify_all();
                return Err(error);
            }
        };
        core.drafted(self.branch, moment, draft, caller);
        core.epoch += 1;
        engine.queued(&mut core);
        drop(core);
        for observer in engine.shared.observers.read().iter() {
            observer.changed(self.branch, &changed);
        }
        Ok(moment.seq)
    }

    fn give_up(&mut self) -> Result<()> {
        for _ in 0..=self.slices {
            let mut core = self.engine.core();
            core.push(Mutation::Unstage { keys: SLICE as u32 });
            self.engine.wait_queued(&mut core)?;
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.slices > 0
            && let Err(error) = self.give_up()
        {
            log::warn!("giving a change set up: {error}");
        }
        let mut core = self.engine.core();
        if self.slices > 0 {
            // Whatever is left: in the queue before any event that could reach its number.
            core.push(Mutation::Unstage { keys: u32::MAX });
        }
        core.reserved = core.reserved.filter(|reserved| reserved.at != self.at);
        drop(core);
        self.engine.shared.progress.notify_all();
    }
}

impl Core {
    /// Lets a view's tree read the store at its present lineage.
    pub fn relink(&mut self, view: View) -> Result<()> {
        let lineage = self.tree_lineage(view)?;
        if let Some(tree) = self.trees.get_mut(&view) {
            tree.lineage = lineage;
        }
        Ok(())
    }

    /// The lineage at which a view's tree reads the store. Between the moment in which staged rows become visible and
    /// the group that says so in the store, the tree must see them and everybody else must not.
    pub fn tree_lineage(&self, view: View) -> Result<crate::types::Lineage> {
        let lineage = self.lineage_of(view)?;
        let everything = |segment: &Segment| match segment.cut {
            Seq::MAX if self.published.is_some_and(|(branch, _)| branch == segment.branch) => {
                Segment { cut: Seq(Seq::MAX.0 - 1), ..*segment }
            }
            _ => *segment,
        };
        Ok(crate::types::Lineage(lineage.0.iter().map(everything).collect()))
    }

    /// The store's readers see what was published up to an event.
    pub fn settle_published(&mut self) {
        if let Some((branch, at)) = self.published
            && at <= self.flushed
        {
            self.published = None;
            if let Err(error) = self.relink(View::live(branch)) {
                log::error!("branch {branch}: {error}");
            }
        }
    }

    /// Drops what is in memory of staged rows, or brings it up to date where it cannot be dropped.
    fn forget_staged(
        &mut self,
        view: View,
        at: Seq,
        inodes: &[(Ino, bool)],
        entries: &[Mutation],
    ) -> Result<Vec<Changed>> {
        let flushed = self.flushed_generation;
        let mut changed = Vec::with_capacity(inodes.len() + entries.len());
        for (ino, data) in inodes {
            changed.push(Changed::Inode { ino: *ino, data: *data });
            let Some(node) = self.trees.get(&view).and_then(|tree| tree.nodes.get(ino)) else { continue };
            if node.is_clean(flushed) {
                let weight = node.weight();
                self.weight = self.weight.saturating_sub(weight);
                if let Some(tree) = self.trees.get_mut(&view) {
                    tree.nodes.remove(ino);
                }
            } else {
                self.refresh(view, *ino, at)?;
            }
        }
        for entry in entries {
            let Mutation::Entry { parent, name, row, .. } = entry else { continue };
            changed.push(Changed::Entry { parent: *parent, name: name.clone() });
            self.note_entry(view, *parent, name, row.as_ref());
        }
        Ok(changed)
    }

    /// Reads an inode that is in use again.
    fn refresh(&mut self, view: View, ino: Ino, at: Seq) -> Result<()> {
        let lineage = self.tree(view)?.lineage.clone();
        let Some(row) = self.with_reader(|txn| txn.inode(&lineage, ino))? else {
            return self.retire(view, ino, at);
        };
        let node = self.loaded(view, ino)?;
        let came_back = std::mem::replace(&mut node.removed, false);
        node.row = row;
        node.xattrs = None;
        if let Body::File(file) = &mut node.body {
            file.blocks.clear();
            file.known_from = u64::MAX;
        }
        if came_back {
            // It was kept for those who have it open; now it has a name again, which outlives them.
            self.push(Mutation::Orphan { branch: view.branch, ino, open: false });
        }
        Ok(())
    }

    /// Brings a directory in memory up to date.
    fn note_entry(&mut self, view: View, parent: Ino, name: &Name, row: Option<&EntryRow>) {
        let Ok(node) = self.loaded(view, parent) else { return };
        let Ok(dir) = node.dir_mut() else { return };
        dir.listing = None;
        match row {
            Some(row) if dir.complete || dir.entries.contains_key(name) => {
                let new = dir.entries.insert(name.clone(), Some((row.ino, row.kind))).is_none();
                self.weight += usize::from(new);
            }
            Some(_) => {}
            None => {
                dir.entries.remove(name);
            }
        }
    }
}

impl Engine {
    /// Waits until the store has everything that is queued.
    fn wait_queued(&self, core: &mut parking_lot::MutexGuard<'_, Core>) -> Result<()> {
        let generation = core.generation;
        while core.flushed_generation < generation {
            core.check_waiter()?;
            core.want_generation = core.want_generation.max(generation);
            self.shared.wake.notify_one();
            self.shared.progress.wait(core);
        }
        Ok(())
    }
}

/// The file whose bytes a row is about.
fn writes_data(mutation: &Mutation) -> Option<Ino> {
    match mutation {
        Mutation::Extent { ino, .. } | Mutation::ExtentsFrom { ino, .. } => Some(*ino),
        _ => None,
    }
}

/// Completes an inode's new version with the event of a change set; returns whether its content changed.
pub(super) fn stamp(row: &mut InodeRow, old: Option<&InodeRow>, at: Seq, extents: bool, process: ProcId) -> bool {
    let all_new = row.data_from == Seq::MAX;
    if all_new {
        row.data_from = at;
    }
    if row.process == ProcId::default() {
        row.process = process;
    }
    let Some(old) = old else {
        row.content_seq = at;
        row.attr_seq = at;
        return true;
    };
    let data = extents || all_new || old.size != row.size || old.content != row.content;
    let attr = (old.perm, old.uid, old.gid) != (row.perm, row.uid, row.gid);
    row.content_seq = if data { at } else { old.content_seq };
    row.attr_seq = if attr { at } else { old.attr_seq.max(row.attr_seq.min(at)) };
    data
}
