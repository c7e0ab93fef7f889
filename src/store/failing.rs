//! A decorator that injects faults, for tests.
//!
//! Calls are counted by kind; a planned fault strikes at the Nth call of its kind from the plan on,
//! and either once or from then on until [`FailingStore::heal`].

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    BranchRow, ChunkHash, Counters, DigestRow, EntryRow, EntryVersionRow, EventFilter, EventRow, ExtentRow, Group,
    InodeRow, MergeRow, ProcessKey, ProcessRow, Prune, Pruned, ReadTxn, Result, Space, Store, StoreError, StoredRow,
    TagRow, Touched, TxnRow, VersionRow, WriteTxn,
};
use crate::types::{BranchId, ChunkId, Ino, Lineage, ProcId, Seq, Timestamp};

/// The kinds of call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A snapshot's opening, or a look-up in one (the writer's own look-ups too).
    Read,
    /// The write transaction's opening.
    Write,
    /// A group's application.
    Apply,
    /// A commit.
    Commit,
    /// A sync, or the durable part of a commit.
    Sync,
    /// A checkpoint.
    Checkpoint,
}

/// When a fault strikes and what it says.
#[derive(Clone, Debug)]
pub struct Fault {
    /// At which kind of call.
    pub call: Call,
    /// At the how manyth call of that kind, counted from the plan, from 1.
    pub nth: u64,
    /// What the call fails with.
    pub error: StoreError,
    /// Whether the call takes effect all the same: the outcome that nobody knows of.
    pub after: bool,
    /// Whether every later call of the kind fails too.
    pub lasting: bool,
}

#[derive(Default)]
struct Plan {
    faults: Vec<(Fault, u64)>,
    counts: [u64; 6],
}

/// A store that fails when it was told to.
pub struct FailingStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

impl FailingStore {
    /// Wraps a store; nothing fails yet.
    pub fn new(inner: Arc<dyn Store>) -> FailingStore {
        FailingStore { inner, plan: Mutex::new(Plan::default()) }
    }

    /// Plans a fault.
    pub fn fail(&self, fault: Fault) {
        self.plan.lock().faults.push((fault, 0));
    }

    /// Plans one failure of the Nth call of a kind, before it takes effect.
    pub fn fail_once(&self, call: Call, nth: u64, error: StoreError) {
        self.fail(Fault { call, nth, error, after: false, lasting: false });
    }

    /// Forgets all plans.
    pub fn heal(&self) {
        self.plan.lock().faults.clear();
    }

    /// Returns how many calls of a kind were made since the store was wrapped.
    pub fn count(&self, call: Call) -> u64 {
        self.plan.lock().counts.get(call as usize).copied().unwrap_or_default()
    }

    /// Counts a call; returns the fault that strikes it.
    fn strike(&self, call: Call) -> Option<Fault> {
        let mut plan = self.plan.lock();
        if let Some(count) = plan.counts.get_mut(call as usize) {
            *count += 1;
        }
        let mut struck = None;
        for (fault, seen) in plan.faults.iter_mut().filter(|(fault, _)| fault.call == call) {
            *seen += 1;
            if *seen == fault.nth || (fault.lasting && *seen > fault.nth) {
                struck.get_or_insert_with(|| fault.clone());
            }
        }
        struck
    }

    fn around<T>(&self, call: Call, run: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.strike(call) {
            None => run(),
            Some(fault) => {
                if fault.after {
                    run()?;
                }
                Err(fault.error)
            }
        }
    }
}

impl Store for FailingStore {
    fn read(&self) -> Result<Box<dyn ReadTxn + '_>> {
        let inner = self.around(Call::Read, || self.inner.read())?;
        Ok(Box::new(FailingRead { store: self, inner }))
    }

    fn write(&self) -> Result<Box<dyn WriteTxn + '_>> {
        let inner = self.around(Call::Write, || self.inner.write())?;
        Ok(Box::new(FailingWrite { store: self, inner }))
    }

    fn sync(&self) -> Result<()> {
        self.around(Call::Sync, || self.inner.sync())
    }

    fn checkpoint(&self) -> Result<u64> {
        self.around(Call::Checkpoint, || self.inner.checkpoint())
    }

    fn space(&self) -> Result<Space> {
        self.inner.space()
    }

    fn verify_content(&self, on: bool) {
        self.inner.verify_content(on);
    }

    fn check(&self) -> Result<Vec<String>> {
        self.inner.check()
    }

    fn prune(&self, request: &Prune) -> Result<Pruned> {
        self.around(Call::Write, || self.inner.prune(request))
    }

    fn release(&self, pages: u32) -> Result<u64> {
        self.around(Call::Write, || self.inner.release(pages))
    }

    fn backup(&self, to: &Path) -> Result<()> {
        self.inner.backup(to)
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

struct FailingRead<'s> {
    store: &'s FailingStore,
    inner: Box<dyn ReadTxn + 's>,
}

struct FailingWrite<'s> {
    store: &'s FailingStore,
    inner: Box<dyn WriteTxn + 's>,
}

macro_rules! delegate_reads {
    ($type:ident: $($method:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {
        impl ReadTxn for $type<'_> {
            $(fn $method(&self, $($arg: $kind),*) -> Result<$result> {
                self.store.around(Call::Read, || self.inner.$method($($arg),*))
            })*
        }
    };
}

macro_rules! delegate_all_reads {
    ($type:ident) => {
        delegate_reads! { $type:
            counters() -> Counters;
            is_staging() -> bool;
            inode(lineage: &Lineage, ino: Ino) -> Option<InodeRow>;
            entry(lineage: &Lineage, parent: Ino, name: &[u8]) -> Option<EntryRow>;
            entries(lineage: &Lineage, parent: Ino) -> Vec<EntryRow>;
            names_of(lineage: &Lineage, ino: Ino) -> Vec<EntryRow>;
            xattrs(lineage: &Lineage, ino: Ino) -> Vec<(Vec<u8>, Arc<[u8]>)>;
            extents(lineage: &Lineage, ino: Ino, data_from: Seq, range: Range<u64>) -> Vec<ExtentRow>;
            chunk(id: ChunkId) -> Arc<[u8]>;
            chunk_range(id: ChunkId, range: Range<usize>) -> Vec<u8>;
            chunk_hash(id: ChunkId) -> ChunkHash;
            orphans() -> Vec<(BranchId, Ino)>;
            branches() -> Vec<BranchRow>;
            tags() -> Vec<TagRow>;
            transactions() -> Vec<TxnRow>;
            merges(target: BranchId) -> Vec<MergeRow>;
            event(seq: Seq) -> Option<EventRow>;
            events(filter: &EventFilter) -> Vec<EventRow>;
            seq_at(at: Timestamp) -> Option<(Seq, Timestamp)>;
            versions(lineage: &Lineage, ino: Ino) -> Vec<VersionRow>;
            entry_versions(lineage: &Lineage, parent: Ino, name: &[u8]) -> Vec<EntryVersionRow>;
            past_names_of(lineage: &Lineage, ino: Ino) -> Vec<EntryVersionRow>;
            process(id: ProcId) -> Option<ProcessRow>;
            processes(range: Range<ProcId>) -> Vec<ProcessRow>;
            processes_by(key: &ProcessKey) -> Vec<ProcessRow>;
            digests(from: u64) -> Vec<DigestRow>;
            scan_rows(visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> ();
            scan_chunks(visit: &mut dyn FnMut(ChunkId, ChunkHash, &[u8]) -> Result<()>) -> ();
            setting(key: &str) -> Option<Vec<u8>>;
            touched(branch: BranchId, from: Seq, to: Seq) -> Touched;
        }
    };
}

delegate_all_reads!(FailingRead);
delegate_all_reads!(FailingWrite);

impl WriteTxn for FailingWrite<'_> {
    fn apply(&mut self, group: &Group) -> Result<()> {
        let inner = &mut self.inner;
        self.store.around(Call::Apply, || inner.apply(group))
    }

    fn commit(self: Box<Self>, durable: bool) -> Result<()> {
        let FailingWrite { store, inner } = *self;
        if !durable {
            return store.around(Call::Commit, || inner.commit(false));
        }
        // A sync that fails leaves the commit visible and its durability unknown.
        store.around(Call::Commit, || match store.strike(Call::Sync) {
            None => inner.commit(true),
            Some(fault) => {
                inner.commit(false)?;
                Err(fault.error)
            }
        })
    }
}
