//! A group of mutations: what the engine queued, applied in one transaction.

use std::ops::Range;
use std::sync::Arc;

use super::rows::{
    BranchRow, ChunkHash, Counters, DigestRow, EntryRow, EventRow, InodeRow, MergeRow, ProcessRow, TagRow, TxnRow,
};
use crate::types::{BranchId, ChunkId, Ino, Name, Seq};

/// The content of one chunk of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkData {
    /// New bytes, 1 to `CHUNK_SIZE`; stored once however often the same bytes come.
    Bytes {
        /// BLAKE3 of the bytes.
        hash: ChunkHash,
        /// The bytes.
        data: Arc<Vec<u8>>,
        /// Where it is known: all places, in order and apart from each other, at which they may differ from the chunk
        /// that stood there before, cut or filled with zeros to their number.
        changed: Option<Vec<Range<usize>>>,
    },
    /// A chunk that the store has already (a copy, a commit, a restore).
    Stored(ChunkId),
}

/// One change of one row. Temporal rows follow one rule: putting a key at `at` ends the branch's
/// own present row of that key at `at` and begins a new one; a present row that itself begins at
/// `at` is replaced. `None` ends it, and leaves a tombstone where the branch has a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A version of an inode.
    Inode {
        /// The branch that changes.
        branch: BranchId,
        /// When.
        at: Seq,
        /// Which inode.
        ino: Ino,
        /// Its new version; `None` when it is gone.
        row: Option<Box<InodeRow>>,
    },
    /// A directory's entry.
    Entry {
        /// The branch that changes.
        branch: BranchId,
        /// When.
        at: Seq,
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: Name,
        /// What it names now; `None` when it is gone.
        row: Option<EntryRow>,
    },
    /// An extended attribute.
    Xattr {
        /// The branch that changes.
        branch: BranchId,
        /// When.
        at: Seq,
        /// Whose.
        ino: Ino,
        /// Its full name, as `user.mime`.
        name: Vec<u8>,
        /// Its value; `None` when it is gone.
        value: Option<Arc<[u8]>>,
    },
    /// One chunk of a file.
    Extent {
        /// The branch that changes.
        branch: BranchId,
        /// When.
        at: Seq,
        /// Which file.
        ino: Ino,
        /// The chunk's index (offset / `CHUNK_SIZE`).
        index: u64,
        /// Its content; `None` for a hole.
        data: Option<ChunkData>,
    },
    /// Every extent of a file at and above an index becomes a hole.
    ExtentsFrom {
        /// The branch that changes.
        branch: BranchId,
        /// When.
        at: Seq,
        /// Which file.
        ino: Ino,
        /// The first index that goes.
        index: u64,
    },
    /// An inode without a name that is still open.
    Orphan {
        /// Its branch.
        branch: BranchId,
        /// Its number.
        ino: Ino,
        /// Whether it became one, or is none any more: gone for good, which comes right after the removal of the inode,
        /// or brought back.
        open: bool,
    },
    /// An event of the record.
    Event(Box<EventRow>),
    /// A process entity, new or with more known of it.
    Process(Box<ProcessRow>),
    /// A branch, new or changed (by its number).
    Branch(Box<BranchRow>),
    /// A tag, new or moved (by its name).
    Tag(TagRow),
    /// A tag that is removed.
    TagRemoved(Vec<u8>),
    /// A transaction, new or changed (by its number).
    Txn(Box<TxnRow>),
    /// A merge that was recorded.
    Merge(MergeRow),
    /// A link of the chain of digests.
    Digest(DigestRow),
    /// A setting; `None` removes it.
    Setting(String, Option<Vec<u8>>),
    /// From now on, rows of a branch that begin at an event beyond the counters are staged.
    Stage {
        /// The branch.
        branch: BranchId,
        /// The event.
        at: Seq,
    },
    /// What is staged is given up: up to so many of its keys at a time.
    Unstage {
        /// How many.
        keys: u32,
    },
}

/// Everything that one store transaction writes.
///
/// [`Mutation::Stage`] announces rows that are written ahead of their event: readers of the present do
/// not see them, nor that they end others, until a group brings the counters up to there. One event
/// at a time can be staged. What is staged when a store is opened is taken away; where somebody else
/// changes one of its keys first, that key is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// In the order of the operations.
    pub mutations: Vec<Mutation>,
    /// The counters after the group.
    pub counters: Counters,
    /// Whether the record is switched off, as only a benchmark does: what changed is not noted anywhere.
    pub unrecorded: bool,
}

impl Mutation {
    /// The branch and point of a temporal change.
    pub fn place(&self) -> Option<(BranchId, Seq)> {
        match self {
            Mutation::Inode { branch, at, .. }
            | Mutation::Entry { branch, at, .. }
            | Mutation::Xattr { branch, at, .. }
            | Mutation::Extent { branch, at, .. }
            | Mutation::ExtentsFrom { branch, at, .. } => Some((*branch, *at)),
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
            | Mutation::Unstage { .. } => None,
        }
    }
}
