//! Group commit: the writer thread, the checkpointer, and waiting for them.
//!
//! The queue is ordered, and a group takes all of it together with every unsealed write, so that the
//! store always holds exactly a prefix of the operations.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::core::Core;
use super::{Engine, FsError, Result, Shared};
use crate::audit::Chain;
use crate::store::{ChunkData, DigestRow, Group, Mutation, Store, StoreError};
use crate::types::{At, BranchId, Seq, View};

/// Bytes to write at which a group is committed without waiting for its time. It is also committed when its changes
/// hold half of the memory that they may: a write of a few bytes holds its chunk.
const GROUP_BYTES: usize = 8 << 20;
/// How much longer a group may wait while files are being written and nobody asks for durability.
const UNSEALED_FACTOR: u64 = 8;
/// How long the writer waits before it tries a full disk again.
const FULL_RETRY: Duration = Duration::from_millis(300);
/// How long after a group the writer looks for changes by itself, so that none has to wake it.
const LINGER: Duration = Duration::from_secs(1);
/// How often the log is looked at.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);

/// Keeps a branch's writers waiting; see [`Engine::hold`].
pub struct Hold<'e> {
    engine: &'e Engine,
    branch: BranchId,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut core = self.engine.core();
        if let Some(count) = core.held.get_mut(&self.branch) {
            *count -= 1;
            if *count == 0 {
                core.held.remove(&self.branch);
            }
        }
        drop(core);
        self.engine.shared.progress.notify_all();
    }
}

/// Called once with the result of a wait for the disk: by the writer, which waits for it to return.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// What one commit carries.
struct Batch {
    group: Group,
    link: Option<DigestRow>,
    generation: u64,
    upto: Seq,
    durable: bool,
    bytes: usize,
}

impl Engine {
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.shared.core.lock()
    }

    /// Locks the state with a view's tree ready to be read.
    pub(super) fn enter(&self, view: View) -> Result<MutexGuard<'_, Core>> {
        let mut core = self.core();
        if !core.trees.contains_key(&view) {
            self.prepare(&mut core, view)?;
        }
        core.ensure_tree(view)?;
        Ok(core)
    }

    /// Locks the state for a change of a live view.
    pub(super) fn enter_writable(&self, view: View) -> Result<MutexGuard<'_, Core>> {
        if view.at != At::Live {
            return Err(FsError::ReadOnly);
        }
        let mut core = self.enter(view)?;
        self.wait_held(&mut core, view.branch);
        core.writable()?;
        let branch = core.branches.get(&view.branch).ok_or(FsError::NotFound)?;
        if branch.dropped.is_some() || (branch.name.is_none() && !core.txn_of.contains_key(&view.branch)) {
            return Err(FsError::ReadOnly);
        }
        Ok(core)
    }

    /// Waits while a commit holds a branch's writers.
    pub(super) fn wait_held(&self, core: &mut MutexGuard<'_, Core>, branch: BranchId) {
        let waits = |core: &Core| {
            core.held.contains_key(&branch) || core.reserved.is_some_and(|r| r.is_crowded(core.counters.seq))
        };
        while waits(core) && !core.stop {
            self.shared.progress.wait(core);
        }
    }

    /// Lets a branch's writers wait until the guard is dropped, for a commit that kept losing the
    /// race against them. Change sets are not held.
    pub fn hold(&self, branch: BranchId) -> Hold<'_> {
        *self.core().held.entry(branch).or_default() += 1;
        Hold { engine: self, branch }
    }

    /// Waits until the store has everything that a view inherits from the past.
    fn prepare(&self, core: &mut MutexGuard<'_, Core>, view: View) -> Result<()> {
        let lineage = core.lineage_of(view)?;
        if let At::AsOf(seq) = view.at
            && seq > core.counters.seq
        {
            return Err(FsError::NotFound);
        }
        let mut need = Seq::ZERO;
        for segment in lineage.0.iter().filter(|s| s.cut != Seq::MAX) {
            core.cut_point(Some(segment.branch))?;
            need = need.max(segment.cut);
        }
        // In a damaged database a branch may begin at a point that is never reached.
        let need = need.min(core.counters.seq);
        self.wait_flushed(core, need)
    }

    /// Waits while too many changes wait for the database.
    pub(super) fn throttle(&self, core: &mut MutexGuard<'_, Core>) -> Result<()> {
        while core.dirty_bytes() > core.options.dirty_max {
            core.writable()?;
            self.shared.wake.notify_one();
            self.shared.progress.wait(core);
        }
        Ok(())
    }

    /// Ends an operation that may have queued something.
    pub(super) fn queued(&self, core: &mut MutexGuard<'_, Core>) {
        if core.first_change.is_some() && (core.idle || core.is_group_full()) {
            core.idle = false;
            self.shared.wake.notify_one();
        }
        core.shed();
        core.shed_blocks();
    }

    pub(super) fn wait_flushed(&self, core: &mut MutexGuard<'_, Core>, upto: Seq) -> Result<()> {
        while core.flushed < upto {
            core.check_waiter()?;
            core.want_flushed = core.want_flushed.max(upto);
            self.shared.wake.notify_one();
            self.shared.progress.wait(core);
        }
        Ok(())
    }

    pub(super) fn wait_durable(&self, core: &mut MutexGuard<'_, Core>, upto: Seq) -> Result<()> {
        while core.durable < upto {
            core.check_waiter()?;
            core.want_durable = core.want_durable.max(upto);
            core.want_flushed = core.want_flushed.max(upto);
            self.shared.wake.notify_one();
            self.shared.progress.wait(core);
        }
        Ok(())
    }

    /// As [`Engine::wait_durable`], but returns at once; the result goes to `done`, at the latest from the
    /// writer's thread: no other thread has to wake up for it.
    pub(super) fn when_durable(&self, mut core: MutexGuard<'_, Core>, upto: Seq, done: Done) {
        let now = if core.durable >= upto { Some(Ok(())) } else { core.check_waiter().err().map(Err) };
        if let Some(result) = now {
            drop(core);
            return done(result);
        }
        core.want_durable = core.want_durable.max(upto);
        core.want_flushed = core.want_flushed.max(upto);
        core.waiting.push((upto, done));
        drop(core);
        self.shared.wake.notify_one();
    }

    /// Seals every file with unsealed writes on a branch (on all for `None`): a cut point. Returns the point.
    pub fn seal(&self, branch: Option<BranchId>) -> Result<Seq> {
        let mut core = self.core();
        core.cut_point(branch)?;
        let point = core.counters.seq;
        self.queued(&mut core);
        Ok(point)
    }

    /// Makes everything so far durable and returns the point reached.
    pub fn sync(&self) -> Result<Seq> {
        let mut core = self.core();
        core.cut_point(None)?;
        let point = core.counters.seq;
        self.wait_durable(&mut core, point)?;
        Ok(point)
    }

    /// As [`Engine::sync`], but returns at once; `done` is called when it is done.
    pub fn sync_then(&self, done: Done) {
        let mut core = self.core();
        if let Err(error) = core.cut_point(None) {
            drop(core);
            return done(Err(error));
        }
        let point = core.counters.seq;
        self.when_durable(core, point, done);
    }

    /// Waits until the store's readers see everything up to an event.
    pub fn flush(&self, upto: Seq) -> Result<()> {
        let mut core = self.core();
        let upto = upto.min(core.counters.seq);
        self.wait_flushed(&mut core, upto)
    }

    /// Flushes everything durably and stops the threads; later changes fail.
    ///
    /// # Errors
    /// When the last changes could not be written.
    pub fn close(&self) -> Result<()> {
        let synced = if self.core().stop { Ok(Seq::ZERO) } else { self.sync() };
        self.halt(false);
        synced?;
        Ok(())
    }

    /// Stops without flushing what is still queued, as a crash would.
    pub fn abandon(&self) {
        self.halt(true);
    }

    fn halt(&self, abandoned: bool) {
        {
            let mut core = self.core();
            core.stop = true;
            core.abandoned |= abandoned;
        }
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake.notify_all();
        self.shared.progress.notify_all();
        self.shared.checkpoint.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

impl Core {
    /// Says why somebody who waits for the store would wait in vain.
    pub(super) fn check_waiter(&self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        if self.full {
            return Err(StoreError::Full.into());
        }
        if self.stop && self.abandoned {
            return Err(StoreError::Closed.into());
        }
        Ok(())
    }

    fn is_group_full(&self) -> bool {
        self.work > GROUP_BYTES || self.queue_bytes + self.unsealed_bytes > self.options.dirty_max / 2
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.unsealed.is_empty() || !self.due.is_empty()
    }

    /// Takes everything that is queued or still open as one group.
    fn take_batch(&mut self) -> Result<Batch> {
        self.seal_all(None)?;
        self.emit_due()?;
        let bytes = std::mem::take(&mut self.queue_bytes);
        self.inflight_bytes = bytes;
        self.first_change = None;
        let generation = self.generation;
        self.generation += 1;
        self.cut = 0;
        self.work = 0;
        Ok(Batch {
            group: Group {
                mutations: std::mem::take(&mut self.queue),
                counters: self.counters,
                unrecorded: !self.options.record,
            },
            link: None,
            generation,
            upto: self.counters.seq,
            durable: self.want_durable > self.durable,
            bytes,
        })
    }
}

/// The writer thread: commits groups until it is told to stop and nothing is left.
pub(super) fn write_groups(shared: &Arc<Shared>, mut chain: Chain) {
    let mut busy_until = Instant::now();
    loop {
        let mut core = shared.core.lock();
        loop {
            if core.failed.is_some() || (core.stop && (core.abandoned || !core.has_work())) {
                core.failed.get_or_insert(StoreError::Closed);
                return progressed(shared, core);
            }
            let urgent = core.want_flushed > core.flushed
                || core.want_durable > core.durable
                || core.want_generation > core.flushed_generation
                || core.is_group_full()
                || core.stop;
            if urgent && (core.has_work() || core.want_durable > core.durable || core.want_flushed > core.flushed) {
                break;
            }
            match core.first_change {
                None if Instant::now() < busy_until => {
                    let next = Duration::from_millis(core.options.group_ms);
                    shared.wake.wait_for(&mut core, next);
                }
                None => {
                    core.idle = true;
                    shared.wake.wait(&mut core);
                }
                Some(first) => {
                    let factor = if core.unsealed.is_empty() { 1 } else { UNSEALED_FACTOR };
                    let until = first + Duration::from_millis(core.options.group_ms * factor);
                    if Instant::now() >= until || shared.wake.wait_until(&mut core, until).timed_out() {
                        break;
                    }
                }
            }
        }
        let mut batch = match core.take_batch() {
            Ok(batch) => batch,
            Err(error) => {
                core.fail(error);
                return progressed(shared, core);
            }
        };
        drop(core);
        hash_chunks(&mut batch.group);
        match extend(shared, &mut chain, &batch.group) {
            Ok(link) => batch.group.mutations.extend(link.map(|link| {
                batch.link = Some(link.clone());
                Mutation::Digest(link)
            })),
            Err(error) => {
                log::error!("the store failed, no more changes are taken: {error}");
                let mut core = shared.core.lock();
                core.fail(error.into());
                return progressed(shared, core);
            }
        }
        if !commit(shared, &mut batch) {
            return;
        }
        if let Some(link) = &batch.link {
            chain.advance(link);
        }
        busy_until = Instant::now() + LINGER;
    }
}

/// Commits one batch; on a full disk it is kept and tried again. `false` when the store failed.
fn commit(shared: &Arc<Shared>, batch: &mut Batch) -> bool {
    loop {
        let result = write(shared, batch);
        let mut core = shared.core.lock();
        match result {
            Ok(()) => {
                core.flushed = batch.upto;
                core.flushed_generation = batch.generation;
                core.settle_published();
                if batch.durable {
                    core.durable = batch.upto;
                }
                core.inflight_bytes = core.inflight_bytes.saturating_sub(batch.bytes);
                core.committed_bytes(batch.bytes);
                core.full = false;
                core.shed_blocks();
                progressed(shared, core);
                return true;
            }
            Err(StoreError::Full) => {
                if !core.full {
                    log::error!("the database's disk is full: changes fail until there is space");
                }
                core.full = true;
                progressed(shared, core);
                let mut core = shared.core.lock();
                if core.stop {
                    return false;
                }
                shared.wake.wait_for(&mut core, FULL_RETRY);
                batch.durable |= core.want_durable > core.durable;
            }
            Err(error) => {
                log::error!("the store failed, no more changes are taken: {error}");
                core.fail(error.into());
                progressed(shared, core);
                return false;
            }
        }
    }
}

/// Lets everybody know how far the store is, or that it is no further.
fn progressed(shared: &Shared, mut core: MutexGuard<'_, Core>) {
    shared.progress.notify_all();
    let waiting = std::mem::take(&mut core.waiting);
    let mut finished = Vec::new();
    for (upto, done) in waiting {
        if core.durable >= upto {
            finished.push((done, Ok(())));
        } else if let Err(error) = core.check_waiter() {
            finished.push((done, Err(error)));
        } else {
            core.waiting.push((upto, done));
        }
    }
    drop(core);
    for (done, result) in finished {
        done(result);
    }
}

impl Core {
    pub(super) fn fail(&mut self, error: FsError) {
        self.failed = Some(match error {
            FsError::Store(error) => error,
            other => StoreError::Backend(other.to_string()),
        });
    }
}

/// Covers what a new database holds with the first link, so that it can be verified before any change.
pub(super) fn begin_chain(store: &dyn Store, chain: &mut Chain) -> std::result::Result<(), StoreError> {
    let counters = store.read()?.counters()?;
    let mut group = Group { counters, ..Group::default() };
    let Some(link) = chain.link(&group, &|chunk| store.read()?.chunk_hash(chunk))? else { return Ok(()) };
    group.mutations.push(Mutation::Digest(link.clone()));
    let mut txn = store.write()?;
    txn.apply(&group)?;
    txn.commit(true)?;
    chain.advance(&link);
    Ok(())
}

/// Computes the link of the chain of digests that covers a group.
fn extend(shared: &Shared, chain: &mut Chain, group: &Group) -> std::result::Result<Option<DigestRow>, StoreError> {
    if group.unrecorded {
        return Ok(None);
    }
    let hash_of = |chunk| shared.store.read()?.chunk_hash(chunk);
    chain.stage(group, &hash_of)?;
    chain.link(group, &hash_of)
}

fn write(shared: &Shared, batch: &Batch) -> std::result::Result<(), StoreError> {
    if batch.group.mutations.is_empty() {
        return if batch.durable { shared.store.sync() } else { Ok(()) };
    }
    let mut txn = shared.store.write()?;
    txn.apply(&batch.group)?;
    txn.commit(batch.durable)
}

fn hash_chunks(group: &mut Group) {
    for mutation in &mut group.mutations {
        if let Mutation::Extent { data: Some(ChunkData::Bytes { hash, data, .. }), .. } = mutation {
            *hash = *blake3::hash(data).as_bytes();
        }
    }
}

/// The checkpointer: keeps the log short, beside the writer.
pub(super) fn checkpoint_often(shared: &Arc<Shared>) {
    let mut guard = shared.checkpoint_lock.lock();
    let mut told = None;
    while !shared.stopping.load(Ordering::SeqCst) {
        shared.checkpoint.wait_for(&mut guard, CHECKPOINT_INTERVAL);
        let failed = shared.store.checkpoint().err();
        // A full disk fails it twice a second: said once.
        if let Some(error) = failed.as_ref().filter(|_| failed != told) {
            log::warn!("checkpoint: {error}");
        }
        told = failed;
    }
}
