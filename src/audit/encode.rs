//! The canonical bytes of records: one form a record, whatever the store does with it.
//!
//! Numbers are LEB128, byte strings carry their length, options a byte in front. The layout of each
//! record is part of the database's format: a change of it is a new version of [`super::chain`].

use crate::store::{
    BranchRow, ChunkHash, Content, EventRow, InodeRow, MergeRow, ProcessRow, TagRow, TxnKind, TxnRow, TxnState,
};
use crate::types::{BranchId, Ino, Kind, Seq, Timestamp};

/// Writes canonical bytes.
#[derive(Default)]
pub(super) struct Encoder(pub Vec<u8>);

impl Encoder {
    pub fn u64(&mut self, mut value: u64) -> &mut Encoder {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// Zigzag, so that small negative numbers stay short.
    pub fn i64(&mut self, value: i64) -> &mut Encoder {
        self.u64(((value << 1) ^ (value >> 63)) as u64)
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Encoder {
        self.u64(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn fixed(&mut self, value: &[u8]) -> &mut Encoder {
        self.0.extend_from_slice(value);
        self
    }

    pub fn option<T>(
        &mut self,
        value: Option<T>,
        encode: impl FnOnce(&mut Encoder, T) -> &mut Encoder,
    ) -> &mut Encoder {
        match value {
            None => self.u64(0),
            Some(value) => {
                self.u64(1);
                encode(self, value)
            }
        }
    }

    fn time(&mut self, value: Timestamp) -> &mut Encoder {
        self.i64(value.0)
    }

    fn optional_bytes(&mut self, value: Option<&[u8]>) -> &mut Encoder {
        self.option(value, |e, v| e.bytes(v))
    }

    fn optional_u64(&mut self, value: Option<u64>) -> &mut Encoder {
        self.option(value, |e, v| e.u64(v))
    }
}

/// Reads what [`Encoder`] wrote; `None` where the bytes are damaged.
pub(super) struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    pub fn u64(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        self.fixed(length)
    }

    pub fn fixed(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The temporal tables, and the events, as sections of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Events,
    Inodes,
    Entries,
    Xattrs,
    Extents,
}

impl Table {
    pub fn code(self) -> u8 {
        match self {
            Table::Events => 0,
            Table::Inodes => 1,
            Table::Entries => 2,
            Table::Xattrs => 3,
            Table::Extents => 4,
        }
    }

    pub fn from_code(code: u8) -> Option<Table> {
        Some(match code {
            0 => Table::Events,
            1 => Table::Inodes,
            2 => Table::Entries,
            3 => Table::Xattrs,
            4 => Table::Extents,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Table::Events => "events",
            Table::Inodes => "inodes",
            Table::Entries => "entries",
            Table::Xattrs => "extended attributes",
            Table::Extents => "extents",
        }
    }
}

/// One key of one temporal table, on one branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Inode(Ino),
    Entry(Ino, Vec<u8>),
    Xattr(Ino, Vec<u8>),
    Extent(Ino, u64),
}

impl Key {
    pub fn table(&self) -> Table {
        match self {
            Key::Inode(_) => Table::Inodes,
            Key::Entry(..) => Table::Entries,
            Key::Xattr(..) => Table::Xattrs,
            Key::Extent(..) => Table::Extents,
        }
    }

    pub fn encode(&self, branch: BranchId, at: Seq) -> Vec<u8> {
        let mut e = Encoder::default();
        e.u64(u64::from(self.table().code())).u64(branch.0).u64(at.0);
        match self {
            Key::Inode(ino) => e.u64(ino.0),
            Key::Entry(ino, name) | Key::Xattr(ino, name) => e.u64(ino.0).bytes(name),
            Key::Extent(ino, index) => e.u64(ino.0).u64(*index),
        };
        e.0
    }

    pub fn decode(d: &mut Decoder<'_>) -> Option<(Key, BranchId, Seq)> {
        let table = Table::from_code(u8::try_from(d.u64()?).ok()?)?;
        let (branch, at) = (BranchId(d.u64()?), Seq(d.u64()?));
        let ino = Ino(d.u64()?);
        let key = match table {
            Table::Events => return None,
            Table::Inodes => Key::Inode(ino),
            Table::Entries => Key::Entry(ino, d.bytes()?.to_vec()),
            Table::Xattrs => Key::Xattr(ino, d.bytes()?.to_vec()),
            Table::Extents => Key::Extent(ino, d.u64()?),
        };
        Some((key, branch, at))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Inode(ino) => write!(f, "inode {ino}"),
            Key::Entry(parent, name) => write!(f, "entry \"{}\" of directory {parent}", name.escape_ascii()),
            Key::Xattr(ino, name) => write!(f, "attribute \"{}\" of inode {ino}", name.escape_ascii()),
            Key::Extent(ino, index) => write!(f, "chunk {index} of inode {ino}"),
        }
    }
}

/// The value of a temporal row.
pub(super) enum Value<'a> {
    Gone,
    Inode(&'a InodeRow),
    Entry(Ino, Kind),
    Xattr(&'a [u8]),
    Extent(ChunkHash),
}

/// 128 bits of BLAKE3: altering a record unnoticed takes a second preimage.
pub(super) type Hash16 = [u8; 16];

pub(super) fn hash16(bytes: &[u8]) -> Hash16 {
    let hash = blake3::hash(bytes);
    let mut short = Hash16::default();
    short.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    short
}

/// The hash of one temporal row: its key, branch, beginning and value.
pub(super) fn row_hash(key: &Key, branch: BranchId, at: Seq, value: &Value<'_>) -> Hash16 {
    let mut e = Encoder(key.encode(branch, at));
    match value {
        Value::Gone => e.u64(0),
        Value::Inode(row) => inode(e.u64(1), row),
        Value::Entry(ino, kind) => e.u64(2).u64(ino.0).u64(u64::from(kind.code())),
        Value::Xattr(value) => e.u64(3).bytes(value),
        Value::Extent(hash) => e.u64(4).fixed(hash),
    };
    hash16(&e.0)
}

fn inode<'e>(e: &'e mut Encoder, row: &InodeRow) -> &'e mut Encoder {
    e.u64(u64::from(row.kind.code())).u64(u64::from(row.perm)).u64(u64::from(row.uid)).u64(u64::from(row.gid));
    e.u64(u64::from(row.nlink)).u64(row.size).u64(row.chunks).u64(u64::from(row.rdev));
    e.time(row.atime).time(row.mtime).time(row.ctime).time(row.btime);
    match &row.content {
        Content::Inline(bytes) => e.u64(1).bytes(bytes),
        Content::Extents => e.u64(2),
    };
    e.u64(row.data_from.0).u64(row.content_seq.0).u64(row.attr_seq.0);
    e.optional_u64(row.predecessor.map(|ino| ino.0)).u64(row.process.0)
}

pub(super) fn event(row: &EventRow) -> Vec<u8> {
    let mut e = Encoder::default();
    e.u64(row.seq.0).time(row.time).time(row.raw_time).u64(row.branch.0).optional_u64(row.txn.map(|txn| txn.0));
    e.u64(u64::from(row.op.code())).optional_u64(row.ino.map(|ino| ino.0));
    e.optional_u64(row.parent.map(|ino| ino.0)).optional_bytes(row.name.as_deref());
    e.optional_u64(row.parent2.map(|ino| ino.0)).optional_bytes(row.name2.as_deref());
    e.optional_bytes(row.path.as_deref()).optional_bytes(row.path2.as_deref());
    e.optional_u64(row.ino2.map(|ino| ino.0)).optional_u64(row.offset).optional_u64(row.length);
    e.optional_bytes(row.old.as_deref()).optional_bytes(row.new.as_deref()).i64(i64::from(row.result));
    e.u64(u64::from(row.uid)).u64(u64::from(row.gid)).u64(u64::from(row.pid)).u64(row.process.0);
    e.0
}

pub(super) fn branch(row: &BranchRow) -> Vec<u8> {
    let mut e = Encoder::default();
    e.u64(row.id.0).optional_bytes(row.name.as_deref()).optional_u64(row.parent.map(|id| id.0)).u64(row.base.0);
    e.u64(row.created.0).time(row.created_time).optional_u64(row.dropped.map(|seq| seq.0)).u64(u64::from(row.uid));
    e.0
}

pub(super) fn tag(row: &TagRow) -> Vec<u8> {
    let mut e = Encoder::default();
    e.bytes(&row.name).u64(row.branch.0).u64(row.seq.0).time(row.time).u64(u64::from(row.uid));
    e.bytes(row.message.as_bytes());
    e.0
}

pub(super) fn txn(row: &TxnRow) -> Vec<u8> {
    let kind = match row.kind {
        TxnKind::Begin => 1,
        TxnKind::Run => 2,
        TxnKind::Merge => 3,
        TxnKind::Undo => 4,
        TxnKind::Redo => 5,
        TxnKind::Restore => 6,
    };
    let state = match row.state {
        TxnState::Open => 1,
        TxnState::Interrupted => 2,
        TxnState::Conflicted => 3,
        TxnState::Committed => 4,
        TxnState::RolledBack => 5,
    };
    let mut e = Encoder::default();
    e.u64(row.id.0).u64(row.branch.0).u64(row.target.0).u64(row.base.0).u64(kind).u64(state);
    e.u64(u64::from(row.serializable)).optional_u64(row.outer.map(|id| id.0)).u64(u64::from(row.uid));
    e.u64(row.begun.0).time(row.begun_time).optional_u64(row.ended.map(|seq| seq.0));
    e.option(row.ended_time, |e, time| e.time(time));
    e.bytes(row.message.as_bytes()).bytes(row.label.as_bytes()).bytes(row.detail.as_bytes());
    e.0
}

pub(super) fn merge(row: &MergeRow) -> Vec<u8> {
    let mut e = Encoder::default();
    e.u64(row.target.0).u64(row.seq.0).u64(row.source.0).u64(row.source_seq.0);
    e.0
}

/// Which of the facts that come later a process's row has; each is set once.
pub(super) fn process_facts(row: &ProcessRow) -> u64 {
    let facts = [
        row.complete,
        row.exe.is_some(),
        row.argv.is_some(),
        row.cwd.is_some(),
        row.cgroup.is_some(),
        row.ended.is_some(),
        row.exit_status.is_some(),
    ];
    facts.iter().rev().fold(0, |mask, fact| mask << 1 | u64::from(*fact))
}

/// The bytes of a process's row as far as `facts` (see [`process_facts`]) were known.
pub(super) fn process(row: &ProcessRow, facts: u64) -> Vec<u8> {
    let has = |bit: u32| facts >> bit & 1 == 1;
    let mut e = Encoder::default();
    e.u64(row.id.0).bytes(row.boot_id.as_bytes()).bytes(row.host.as_bytes());
    e.u64(u64::from(row.pid)).u64(u64::from(row.ppid)).u64(row.start_ticks).optional_u64(row.parent.map(|id| id.0));
    e.u64(u64::from(row.uid)).u64(u64::from(row.gid)).bytes(&row.comm);
    e.u64(u64::from(row.session)).u64(u64::from(row.tty)).time(row.started);
    e.optional_bytes(row.label.as_deref().map(str::as_bytes));
    e.u64(facts);
    for (bit, value) in [(1, &row.exe), (2, &row.argv), (3, &row.cwd), (4, &row.cgroup)] {
        if has(bit) {
            e.optional_bytes(value.as_deref());
        }
    }
    if has(5) {
        e.option(row.ended, |e, time| e.time(time));
    }
    if has(6) {
        e.option(row.exit_status, |e, status| e.i64(i64::from(status)));
    }
    e.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::MAX / 2, u64::MAX] {
            let mut e = Encoder::default();
            e.u64(value);
            let mut d = Decoder(&e.0);
            assert_eq!(d.u64(), Some(value));
            assert!(d.is_empty());
        }
    }

    #[test]
    fn keys_come_back_and_differ() {
        let keys = [
            Key::Inode(Ino(7)),
            Key::Entry(Ino(7), b"a".to_vec()),
            Key::Xattr(Ino(7), b"a".to_vec()),
            Key::Extent(Ino(7), 97),
        ];
        for key in &keys {
            let bytes = key.encode(BranchId(3), Seq(300));
            assert_eq!(Key::decode(&mut Decoder(&bytes)), Some((key.clone(), BranchId(3), Seq(300))));
            assert_eq!(keys.iter().filter(|other| other.encode(BranchId(3), Seq(300)) == bytes).count(), 1);
        }
    }

    #[test]
    fn damaged_bytes_are_no_panic() {
        assert_eq!(Decoder(&[0xff; 12]).u64(), None);
        assert_eq!(Decoder(&[0xff, 0xff, 0xff, 0x7f, 1]).bytes(), None);
        assert_eq!(Key::decode(&mut Decoder(&[9, 1, 1, 1])), None);
    }

    #[test]
    fn a_fact_that_comes_later_does_not_change_what_was_recorded_before() {
        let first = ProcessRow { pid: 5, comm: b"sh".to_vec(), ..ProcessRow::default() };
        let later =
            ProcessRow { exe: Some(b"/bin/sh".to_vec()), complete: true, ended: Some(Timestamp(9)), ..first.clone() };
        let facts = process_facts(&first);
        assert_eq!(process(&first, facts), process(&later, facts));
        assert_ne!(process(&later, process_facts(&later)), process(&first, facts));
    }
}
