//! What is kept in memory of one inode of one view.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{DirEntry, FsError, Result};
use crate::store::{CHUNK_SIZE, Content, InodeRow};
use crate::types::{Attr, Caller, ChunkId, Ino, Kind, Lineage, Name, Op, Seq, Timestamp, View};

/// A view's tree as far as it is in memory.
pub(super) struct Tree {
    pub view: View,
    pub lineage: Lineage,
    pub nodes: FxHashMap<Ino, Node>,
    /// The tick at which it was last used; only trees of the past are dropped whole.
    pub used: u64,
}

/// An inode in memory.
pub(super) struct Node {
    /// Its attributes; ahead of the store while `dirty` is a generation that has not been flushed.
    pub row: InodeRow,
    /// The last generation of the queue that carries something of it.
    pub dirty: u64,
    /// The generation in which it was created, and the position of its last row in the queue of a generation.
    pub created: u64,
    pub queued: Option<(u64, usize)>,
    /// Open handles.
    pub opens: u32,
    /// Whether it has lost its last name.
    pub removed: bool,
    /// Whether it was used since the last sweep.
    pub used: bool,
    /// The directory and the name under which it was last found; checked before it is trusted.
    pub home: Option<(Ino, Name)>,
    /// Extended attributes, once loaded.
    pub xattrs: Option<BTreeMap<Vec<u8>, Arc<[u8]>>>,
    pub body: Body,
}

pub(super) enum Body {
    Dir(Directory),
    File(File),
    Other,
}

/// The names of a directory.
#[derive(Default)]
pub(super) struct Directory {
    /// Names that are known; `None` is known to be absent.
    pub entries: FxHashMap<Name, Option<(Ino, Kind)>>,
    /// Whether every name is in `entries`.
    pub complete: bool,
    /// The last listing, while nothing has changed since.
    pub listing: Option<Arc<Vec<DirEntry>>>,
    /// Its path and the epoch of directory renames in which that was true.
    pub path: Option<(u64, Arc<[u8]>)>,
    /// The event of a change of its times that is not queued yet.
    pub due: Option<Seq>,
}

/// The content of a regular file.
pub(super) struct File {
    /// Chunks in memory.
    pub blocks: BTreeMap<u64, Block>,
    /// Chunks at and above this index that are not in `blocks` are holes; below it the store knows.
    pub known_from: u64,
    /// Writes that no version has been made of yet.
    pub pending: Option<Pending>,
}

/// A chunk in memory.
pub(super) enum Block {
    /// Bytes; those beyond the vector's end are zero. `edits`: where they differ from what was queued last.
    Data { data: Arc<Vec<u8>>, dirty: bool, edits: Edits, generation: u64 },
    /// A chunk of the store that this file now shares.
    Stored { chunk: ChunkId, dirty: bool },
    /// Nothing: reads as zeros.
    Hole { dirty: bool },
}

/// Where a chunk's bytes may differ from those that the store was given last; by default, anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edits(Option<Vec<Range<usize>>>);

impl Edits {
    /// So many are worth a note; what is changed in more places is compared.
    const MOST: usize = 16;

    /// Nowhere.
    pub fn none() -> Edits {
        Edits(Some(Vec::new()))
    }

    pub fn add(&mut self, range: Range<usize>) {
        let Some(ranges) = &mut self.0 else { return };
        let first = ranges.partition_point(|r| r.end < range.start);
        let last = ranges.partition_point(|r| r.start <= range.end);
        let joined = ranges.get(first..last).unwrap_or_default();
        let start = joined.first().map_or(range.start, |r| r.start.min(range.start));
        let end = joined.last().map_or(range.end, |r| r.end.max(range.end));
        ranges.splice(first..last, std::iter::once(start..end));
        if ranges.len() > Edits::MOST {
            self.0 = None;
        }
    }

    /// The ranges, within a length, with nothing noted afterwards; `None` for anywhere.
    pub fn take(&mut self, length: usize) -> Option<Vec<Range<usize>>> {
        let ranges = std::mem::replace(self, Edits::none()).0?;
        let cut = ranges.into_iter().map(|r| r.start..r.end.min(length));
        Some(cut.filter(|r| !r.is_empty()).collect())
    }
}

/// A change of content that is still growing: one opener's writes since the last version.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The event of its last write.
    pub seq: Seq,
    pub time: Timestamp,
    pub raw_time: Timestamp,
    pub op: Op,
    /// The bytes that changed.
    pub start: u64,
    pub end: u64,
    /// Extents at and above this index go first.
    pub cut: Option<u64>,
    /// The size before the change.
    pub old_size: u64,
    /// Whom it is attributed to.
    pub caller: Caller,
    /// Bytes of dirty chunks that it holds.
    pub bytes: usize,
}

impl Node {
    pub fn new(row: InodeRow) -> Node {
        let body = match row.kind {
            Kind::Dir => Body::Dir(Directory::default()),
            Kind::File => Body::File(File { blocks: BTreeMap::new(), known_from: u64::MAX, pending: None }),
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Body::Other,
        };
        Node {
            row,
            dirty: 0,
            created: 0,
            queued: None,
            opens: 0,
            removed: false,
            used: true,
            home: None,
            xattrs: None,
            body,
        }
    }

    /// A node that has just been made: nothing of it is in the store, so everything is known.
    pub fn fresh(row: InodeRow, generation: u64) -> Node {
        let mut node = Node::new(row);
        node.created = generation;
        node.xattrs = Some(BTreeMap::new());
        match &mut node.body {
            Body::Dir(dir) => dir.complete = true,
            Body::File(file) => file.known_from = 0,
            Body::Other => {}
        }
        node
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        let row = &self.row;
        Attr {
            ino,
            kind: row.kind,
            perm: row.perm,
            uid: row.uid,
            gid: row.gid,
            nlink: if self.removed { 0 } else { row.nlink },
            size: row.size,
            blocks: self.blocks(),
            rdev: row.rdev,
            atime: row.atime,
            mtime: row.mtime,
            ctime: row.ctime,
            btime: row.btime,
        }
    }

    /// Allocated space in units of 512 bytes.
    fn blocks(&self) -> u64 {
        if self.row.kind != Kind::File {
            return 0;
        }
        let whole = self.row.size.div_ceil(512);
        match &self.row.content {
            Content::Inline(bytes) if self.row.chunks == 0 => whole.min((bytes.len() as u64).div_ceil(512)),
            Content::Inline(_) | Content::Extents => whole.min(self.row.chunks.saturating_mul(CHUNK_SIZE as u64 / 512)),
        }
    }

    pub fn dir(&self) -> Result<&Directory> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) | Body::Other => Err(FsError::NotDir),
        }
    }

    pub fn dir_mut(&mut self) -> Result<&mut Directory> {
        match &mut self.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) | Body::Other => Err(FsError::NotDir),
        }
    }

    pub fn file(&self) -> Result<&File> {
        match &self.body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(FsError::IsDir),
            Body::Other => Err(FsError::Invalid),
        }
    }

    pub fn file_mut(&mut self) -> Result<&mut File> {
        match &mut self.body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(FsError::IsDir),
            Body::Other => Err(FsError::Invalid),
        }
    }

    /// Whether the store knows everything of it, so that it may leave memory.
    pub fn is_clean(&self, flushed: u64) -> bool {
        let busy = match &self.body {
            Body::File(file) => file.pending.is_some(),
            Body::Dir(dir) => dir.due.is_some(),
            Body::Other => false,
        };
        self.dirty <= flushed && self.opens == 0 && !busy
    }

    /// How much memory it stands for, in inodes and entries.
    pub fn weight(&self) -> usize {
        match &self.body {
            Body::Dir(dir) => 1 + dir.entries.len(),
            Body::File(_) | Body::Other => 1,
        }
    }
}

impl Block {
    pub fn is_dirty(&self) -> bool {
        match self {
            Block::Data { dirty, .. } | Block::Stored { dirty, .. } | Block::Hole { dirty } => *dirty,
        }
    }

    pub fn is_hole(&self) -> bool {
        matches!(self, Block::Hole { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn edits_are_every_byte_that_was_named_and_no_other(
            edits in prop::collection::vec((0..300usize, 1..20usize), 0..40), length in 0..320usize,
        ) {
            let mut noted = Edits::none();
            let mut bytes = vec![false; 320];
            for (start, count) in edits {
                noted.add(start..start + count);
                bytes[start..start + count].fill(true);
            }
            let Some(ranges) = noted.take(length) else { return Ok(()) };
            prop_assert!(ranges.len() <= Edits::MOST && ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            let named = |at: usize| ranges.iter().any(|range| range.contains(&at));
            prop_assert!((0..320).all(|at| named(at) == (at < length && bytes[at])));
            prop_assert_eq!(noted.take(length), Some(Vec::new()));
        }
    }

    #[test]
    fn what_is_edited_in_many_places_may_be_so_anywhere() {
        let mut noted = Edits::none();
        (0..100).for_each(|n| noted.add(10 * n..10 * n + 1));
        assert_eq!(noted.take(1000), None);
        assert_eq!(Edits::default().take(1), None);
    }
}
