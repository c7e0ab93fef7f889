//! L1: the narrow waist between the file system and its database.
//!
//! The waist speaks rows and periods, never POSIX and never SQL types, and asks for nothing that
//! another database server could not give: snapshot reads, and groups of mutations applied in one
//! transaction. Every rule about periods (`valid_from`, `valid_to`, tombstones, resolution along a
//! [`Lineage`]) lives below this line.

mod error;
pub mod failing;
mod group;
pub mod query;
mod rows;
pub mod sqlite;

use std::ops::Range;
use std::sync::Arc;

pub use error::StoreError;
pub use group::{ChunkData, Group, Mutation};
pub use rows::{
    BranchRow, ChunkHash, Content, Counters, DigestRow, EntryRow, EntryVersionRow, EventFilter, EventRow, ExtentRow,
    InodeRow, MergeRow, Period, ProcessRow, Space, StoredRow, TagRow, TxnKind, TxnRow, TxnState, VersionRow,
};

use serde::{Deserialize, Serialize};

use crate::types::{BranchId, ChunkId, Ino, Lineage, Name, ProcId, Segment, Seq, Timestamp, TxnId};

/// What the store's calls return.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Bytes in a full content chunk; chunk `i` of a file holds bytes `i * CHUNK_SIZE ..`.
pub const CHUNK_SIZE: usize = 128 * 1024;

/// The largest content in bytes that is kept in the inode's own row.
pub const INLINE_MAX: usize = 2048;

/// The setting that says how new chunks are compressed: `zstd`, or `none`.
pub const COMPRESSION: &str = "compression";

/// A database that holds a whole tree and its history.
pub trait Store: Send + Sync + 'static {
    /// Opens a snapshot of everything committed so far.
    fn read(&self) -> Result<Box<dyn ReadTxn + '_>>;

    /// Opens the write transaction; one at a time, a second caller waits.
    fn write(&self) -> Result<Box<dyn WriteTxn + '_>>;

    /// Makes everything committed so far durable: survives a power cut when this returns.
    fn sync(&self) -> Result<()>;

    /// Moves committed data out of the log, a bounded step that never waits for readers or writers.
    /// Called by a background thread. Returns the log's size in bytes afterwards.
    fn checkpoint(&self) -> Result<u64>;

    /// Tells how many bytes the database uses.
    fn space(&self) -> Result<Space>;

    /// From now on compares every chunk that is read with its hash, or no longer does; what does not
    /// fit is [`StoreError::Corrupt`].
    fn verify_content(&self, on: bool);

    /// Looks for damage: page structure, dangling rows, overlapping periods. One line a finding.
    fn check(&self) -> Result<Vec<String>>;

    /// Forgets history before a point, but for what branches, open transactions, tags, merge bases
    /// and the request's pins need. Extents and attributes that no state shows because their inode is
    /// not there, or begins its data later, go too: who brings an inode back gives it all of them
    /// again. Runs in slices beside other writers; cut short, it can be repeated.
    fn prune(&self, request: &Prune) -> Result<Pruned>;

    /// Returns up to so many free pages to the disk, a bounded step. Returns the bytes that are
    /// still free inside the database.
    fn release(&self, pages: u32) -> Result<u64>;

    /// Writes a consistent copy of everything committed so far to a new file.
    fn backup(&self, to: &std::path::Path) -> Result<()>;

    /// Flushes, checkpoints and closes; later calls fail with [`StoreError::Closed`].
    fn close(&self) -> Result<()>;
}

/// A consistent snapshot. All lookups resolve along the lineage as [`Lineage`] defines.
pub trait ReadTxn {
    /// Returns the counters as of this snapshot.
    fn counters(&self) -> Result<Counters>;

    /// Whether rows are staged (see [`Group`]).
    fn is_staging(&self) -> Result<bool>;

    /// Finds an inode.
    fn inode(&self, lineage: &Lineage, ino: Ino) -> Result<Option<InodeRow>>;

    /// Finds an entry of a directory.
    fn entry(&self, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Option<EntryRow>>;

    /// Lists a directory, in the order of names.
    fn entries(&self, lineage: &Lineage, parent: Ino) -> Result<Vec<EntryRow>>;

    /// Lists the names of an inode (parent and name), in that order.
    fn names_of(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<EntryRow>>;

    /// Lists an inode's extended attributes, in the order of names.
    fn xattrs(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<(Vec<u8>, Arc<[u8]>)>>;

    /// Lists the chunks of a range of chunk indexes, ascending; holes and rows older than `data_from` are left out.
    fn extents(&self, lineage: &Lineage, ino: Ino, data_from: Seq, range: Range<u64>) -> Result<Vec<ExtentRow>>;

    /// Reads a chunk's bytes (1 to [`CHUNK_SIZE`]).
    fn chunk(&self, id: ChunkId) -> Result<Arc<[u8]>>;

    /// Reads part of a chunk; short where the chunk ends.
    fn chunk_range(&self, id: ChunkId, range: Range<usize>) -> Result<Vec<u8>> {
        let chunk = self.chunk(id)?;
        let end = range.end.min(chunk.len());
        Ok(chunk.get(range.start.min(end)..end).unwrap_or_default().to_vec())
    }

    /// Reads a chunk's content hash.
    fn chunk_hash(&self, id: ChunkId) -> Result<ChunkHash>;

    /// Lists inodes that had no name left but were still open at the last commit.
    fn orphans(&self) -> Result<Vec<(BranchId, Ino)>>;

    /// Lists every branch ever made, hidden and dropped ones too, by number.
    fn branches(&self) -> Result<Vec<BranchRow>>;

    /// Lists the tags, by name.
    fn tags(&self) -> Result<Vec<TagRow>>;

    /// Lists the transactions, by number.
    fn transactions(&self) -> Result<Vec<TxnRow>>;

    /// Lists the recorded merges into a branch, by event.
    fn merges(&self, target: BranchId) -> Result<Vec<MergeRow>>;

    /// Finds one event.
    fn event(&self, seq: Seq) -> Result<Option<EventRow>>;

    /// Lists events that match, ascending (or descending where the filter says so).
    fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>>;

    /// Returns the last event with `time <= at`, over all branches.
    fn seq_at(&self, at: Timestamp) -> Result<Option<(Seq, Timestamp)>>;

    /// Lists every version of an inode on the branches of a lineage (within its cuts), by `valid_from`.
    fn versions(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<VersionRow>>;

    /// Lists every period of a name in a directory on the branches of a lineage, by `valid_from`.
    fn entry_versions(&self, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Vec<EntryVersionRow>>;

    /// Lists the names under which an inode was ever known on the branches of a lineage.
    fn past_names_of(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<EntryVersionRow>>;

    /// Finds a process entity.
    fn process(&self, id: ProcId) -> Result<Option<ProcessRow>>;

    /// Lists process entities with numbers in a range.
    fn processes(&self, range: Range<ProcId>) -> Result<Vec<ProcessRow>>;

    /// Lists the process entities of a name, of a label, or started by one, by number.
    fn processes_by(&self, key: &ProcessKey) -> Result<Vec<ProcessRow>>;

    /// Lists the next links of the chain of digests from a number on, ascending: some of them, none only at the end.
    fn digests(&self, from: u64) -> Result<Vec<DigestRow>>;

    /// Visits every row of the temporal tables, table by table, in the order of key, branch and
    /// `valid_from`; for verification.
    fn scan_rows(&self, visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> Result<()>;

    /// Visits every chunk with the hash that is stored for it and its bytes; for verification.
    fn scan_chunks(&self, visit: &mut dyn FnMut(ChunkId, ChunkHash, &[u8]) -> Result<()>) -> Result<()>;

    /// Reads a value of the database's own settings (`history_dir`, `prune_keep`, ...).
    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Lists, for one branch, the keys whose rows begin in `(from, to]`: what the branch itself changed.
    fn touched(&self, branch: BranchId, from: Seq, to: Seq) -> Result<Touched>;
}

/// The keys of one branch's own rows in a stretch of time; each list sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Inodes with a new version (or removed).
    pub inodes: Vec<Ino>,
    /// Entries that came, changed or went.
    pub entries: Vec<(Ino, Name)>,
    /// Extended attributes that came, changed or went.
    pub xattrs: Vec<(Ino, Vec<u8>)>,
    /// Chunk indexes of files that changed.
    pub extents: Vec<(Ino, u64)>,
}

/// What process entities are looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessKey {
    /// The name that the kernel keeps.
    Comm(Vec<u8>),
    /// The actor's label.
    Label(String),
    /// Who started it.
    Parent(ProcId),
}

/// The one writer. Sees its own changes.
pub trait WriteTxn: ReadTxn {
    /// Applies a group's mutations in order.
    ///
    /// # Errors
    /// After an error the transaction can only be dropped, which undoes it.
    fn apply(&mut self, group: &Group) -> Result<()>;

    /// Makes the changes visible; durable before returning where `durable`, else in order but lazily.
    fn commit(self: Box<Self>, durable: bool) -> Result<()>;
}

/// What to forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// The first event whose state is kept.
    pub before: Seq,
    /// Further states to keep.
    pub pins: Vec<Segment>,
    /// Whether only to say what would go.
    pub dry_run: bool,
}

/// What was forgotten, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The first event whose state is kept.
    pub before: Seq,
    /// Rows of the temporal tables.
    pub rows: u64,
    /// Events.
    pub events: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of those chunks as they are stored.
    pub bytes: u64,
}

/// Settings and counters that a new database starts with.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// When the database is made.
    pub now: Timestamp,
    /// The root directory's owner.
    pub uid: u32,
    /// The root directory's group.
    pub gid: u32,
    /// Further settings, stored as given.
    pub settings: Vec<(String, Vec<u8>)>,
}

#[allow(unused)]
fn _object_safe(_: &dyn Store, _: &dyn ReadTxn, _: &dyn WriteTxn, _: TxnId, _: Name) {}
