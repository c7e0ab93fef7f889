//! The rows that cross the waist.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{BranchId, ChunkId, Ino, Kind, Name, Op, Permissions, ProcId, Seq, Timestamp, TxnId};

/// BLAKE3 of a chunk's bytes.
pub type ChunkHash = [u8; 32];

/// Where an inode's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the row: a symlink's target, or a file of up to `INLINE_MAX` bytes (always the whole file;
    /// shorter than `size` where the rest is a hole).
    Inline(Arc<[u8]>),
    /// In extents; an index without one is a hole.
    Extents,
}

/// One version of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRow {
    /// Its type.
    pub kind: Kind,
    /// Permission bits.
    pub perm: Permissions,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names (2 plus subdirectories for a directory).
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Chunks that are not holes.
    pub chunks: u64,
    /// Device number.
    pub rdev: u32,
    /// Last access as set.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// The bytes.
    pub content: Content,
    /// Extents that begin before this do not show (a truncation to nothing is one row).
    pub data_from: Seq,
    /// When the content last changed.
    pub content_seq: Seq,
    /// When mode, owner, ACL, xattrs or explicitly set times last changed.
    pub attr_seq: Seq,
    /// The inode whose name this one took over when it was saved by renaming over it.
    pub predecessor: Option<Ino>,
    /// The process that wrote this version.
    pub process: ProcId,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// The directory.
    pub parent: Ino,
    /// The name.
    pub name: Name,
    /// What it names.
    pub ino: Ino,
    /// The type of what it names.
    pub kind: Kind,
}

/// The half-open stretch `[from, to)` in which a row holds on its branch; `to` is [`Seq::MAX`] for the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The branch that wrote the row.
    pub branch: BranchId,
    /// The event it holds from.
    pub from: Seq,
    /// The event that ended it.
    pub to: Seq,
}

/// An inode's version with its period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// When it holds.
    pub period: Period,
    /// What it is; `None` for a tombstone.
    pub row: Option<InodeRow>,
}

/// An entry with its period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryVersionRow {
    /// When it holds.
    pub period: Period,
    /// The directory.
    pub parent: Ino,
    /// The name.
    pub name: Name,
    /// What it names; `None` for a tombstone.
    pub ino: Option<Ino>,
}

/// One chunk of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRow {
    /// Offset in the file, in chunks.
    pub index: u64,
    /// The content.
    pub chunk: ChunkId,
    /// The event that wrote it.
    pub valid_from: Seq,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRow {
    /// Its number.
    pub id: BranchId,
    /// Its name; `None` for a transaction's hidden branch.
    pub name: Option<Vec<u8>>,
    /// The branch it was forked from.
    pub parent: Option<BranchId>,
    /// The last event of the parent that it sees.
    pub base: Seq,
    /// The event that made it.
    pub created: Seq,
    /// When that was.
    pub created_time: Timestamp,
    /// The event that dropped it.
    pub dropped: Option<Seq>,
    /// Who made it.
    pub uid: u32,
}

/// A tag: a name for a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRow {
    /// Its name.
    pub name: Vec<u8>,
    /// The branch of the state.
    pub branch: BranchId,
    /// The point of the state.
    pub seq: Seq,
    /// When the tag was made.
    pub time: Timestamp,
    /// Who made it.
    pub uid: u32,
    /// Why.
    pub message: String,
}

/// What opened a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TxnKind {
    /// `stone begin`.
    Begin,
    /// `stone run`.
    Run,
    /// `stone merge`.
    Merge,
    /// `stone undo`.
    Undo,
    /// `stone redo`.
    Redo,
    /// `stone restore` and `stone rollback --to`.
    Restore,
}

/// How far a transaction got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TxnState {
    /// In progress.
    Open,
    /// In progress when the daemon crashed or ended; readable until it is committed or rolled back.
    Interrupted,
    /// Tried to commit and met conflicts; still open.
    Conflicted,
    /// Visible.
    Committed,
    /// Given up.
    RolledBack,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnRow {
    /// Its number.
    pub id: TxnId,
    /// Its hidden branch.
    pub branch: BranchId,
    /// The branch that it changes.
    pub target: BranchId,
    /// The snapshot: the last event of the target that it sees.
    pub base: Seq,
    /// What opened it.
    pub kind: TxnKind,
    /// How far it got.
    pub state: TxnState,
    /// Whether it validates what it read.
    pub serializable: bool,
    /// The transaction around it.
    pub outer: Option<TxnId>,
    /// Who opened it.
    pub uid: u32,
    /// The event that opened it.
    pub begun: Seq,
    /// When that was.
    pub begun_time: Timestamp,
    /// The event that committed it or gave it up.
    pub ended: Option<Seq>,
    /// When that was.
    pub ended_time: Option<Timestamp>,
    /// What it is for.
    pub message: String,
    /// Who acts in it (`--as`).
    pub label: String,
    /// What kind-specific commands need (merge: source and base; undo: what was undone), as JSON.
    pub detail: String,
}

/// A merge that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeRow {
    /// The branch that received it.
    pub target: BranchId,
    /// The event that made it visible there.
    pub seq: Seq,
    /// The branch that was merged.
    pub source: BranchId,
    /// Up to which of its points.
    pub source_seq: Seq,
}

/// An event of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Its number.
    pub seq: Seq,
    /// Strictly increasing wall time.
    pub time: Timestamp,
    /// The wall clock as it was.
    pub raw_time: Timestamp,
    /// The branch that changed.
    pub branch: BranchId,
    /// The transaction it was part of.
    pub txn: Option<TxnId>,
    /// What was done.
    pub op: Op,
    /// To which inode.
    pub ino: Option<Ino>,
    /// The directory, for operations on names.
    pub parent: Option<Ino>,
    /// The name in it.
    pub name: Option<Vec<u8>>,
    /// The second directory (rename, link, exchange).
    pub parent2: Option<Ino>,
    /// The second name.
    pub name2: Option<Vec<u8>>,
    /// The first path as it was (begins with `/`), of the entry or of the inode.
    pub path: Option<Arc<[u8]>>,
    /// The second path.
    pub path2: Option<Arc<[u8]>>,
    /// The inode that lost this name (unlink, rename over), or the second one of an exchange.
    pub ino2: Option<Ino>,
    /// First byte that changed.
    pub offset: Option<u64>,
    /// Number of bytes that changed.
    pub length: Option<u64>,
    /// The old value (mode in octal, `uid:gid`, time, xattr's value, tag's point).
    pub old: Option<Vec<u8>>,
    /// The new value.
    pub new: Option<Vec<u8>>,
    /// 0, or the errno of a mutation that failed.
    pub result: i32,
    /// Who.
    pub uid: u32,
    /// Who.
    pub gid: u32,
    /// By which process id.
    pub pid: u32,
    /// By which process.
    pub process: ProcId,
}

/// Chooses events; every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// On these branches, each up to its cut; empty means all.
    pub lineage: Vec<crate::types::Segment>,
    /// After this event.
    pub after: Option<Seq>,
    /// Up to and with this event.
    pub upto: Option<Seq>,
    /// Not before this instant.
    pub since: Option<Timestamp>,
    /// Before this instant.
    pub until: Option<Timestamp>,
    /// At this path or below it.
    pub path: Option<Vec<u8>>,
    /// Only at that path, not below it.
    pub path_exact: bool,
    /// Only below that path, whatever the case of its ASCII letters; the first path of an event counts.
    pub path_any_case: bool,
    /// Touching this inode.
    pub ino: Option<Ino>,
    /// By this user.
    pub uid: Option<u32>,
    /// By this pid.
    pub pid: Option<u32>,
    /// By this process.
    pub process: Option<ProcId>,
    /// By processes with this `comm` or executable's last component.
    pub program: Option<Vec<u8>>,
    /// In this transaction.
    pub txn: Option<TxnId>,
    /// One of these operations; empty means all.
    pub ops: Vec<Op>,
    /// Only what failed.
    pub failed: bool,
    /// Newest first.
    pub descending: bool,
    /// At most so many.
    pub limit: Option<usize>,
}

/// A process entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessRow {
    /// Its number.
    pub id: ProcId,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The host's name.
    pub host: String,
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid.
    pub ppid: u32,
    /// Its start, in clock ticks since the boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// Its parent, where recorded.
    pub parent: Option<ProcId>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The name that the kernel keeps (at most 15 bytes).
    pub comm: Vec<u8>,
    /// The executable's path.
    pub exe: Option<Vec<u8>>,
    /// Arguments, each followed by a NUL.
    pub argv: Option<Vec<u8>>,
    /// Working directory.
    pub cwd: Option<Vec<u8>>,
    /// Session id.
    pub session: u32,
    /// Controlling terminal's device number, 0 for none.
    pub tty: u32,
    /// Control group's path.
    pub cgroup: Option<Vec<u8>>,
    /// Start.
    pub started: Timestamp,
    /// End, where it was seen.
    pub ended: Option<Timestamp>,
    /// Exit status, where it was seen.
    pub exit_status: Option<i32>,
    /// The actor's label.
    pub label: Option<String>,
    /// Whether everything that /proc tells was read before the process was gone.
    pub complete: bool,
}

/// A link of the chain of digests: one a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestRow {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// The last event that it and the links before it cover (a group without events repeats it).
    pub seq: Seq,
    /// `H(previous digest, H(records))`.
    pub digest: [u8; 32],
    /// The group's records that no table keeps as they were, and hashes of those that tables keep
    /// (`audit::chain` defines the bytes).
    pub records: Vec<u8>,
}

/// A row of a temporal table exactly as it is stored, for verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredRow {
    /// A version of an inode; `None` is a tombstone, here and below.
    Inode(Period, Ino, Option<Box<InodeRow>>),
    /// A directory's entry: parent, name, what it names.
    Entry(Period, Ino, Vec<u8>, Option<(Ino, Kind)>),
    /// An extended attribute: whose, name, value.
    Xattr(Period, Ino, Vec<u8>, Option<Arc<[u8]>>),
    /// A chunk of a file: which file, index, chunk.
    Extent(Period, Ino, u64, Option<ChunkId>),
}

/// The next numbers to give out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The last event.
    pub seq: Seq,
    /// The last event's time.
    pub time: Timestamp,
    /// The next inode.
    pub next_ino: Ino,
    /// The next branch.
    pub next_branch: BranchId,
    /// The next transaction.
    pub next_txn: TxnId,
    /// The next process.
    pub next_process: ProcId,
}

/// What the database uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The database file with its log.
    pub total: u64,
    /// Content and rows of the present states of all branches (an estimate kept by sampling).
    pub live: u64,
    /// What only past states need.
    pub history: u64,
    /// Free pages inside the file.
    pub reclaimable: u64,
    /// The log.
    pub log: u64,
    /// Free bytes of the disk underneath.
    pub disk_free: u64,
    /// Size of the disk underneath.
    pub disk_total: u64,
}
