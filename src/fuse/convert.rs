//! The kernel's words and ours.

use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

use crate::engine::{Fallocate, FsError};
use crate::types::{Attr, Kind, SetTime};
use crate::vfs::NodeId;

/// What stat(2) suggests as the size of reads and writes.
const BLOCK_SIZE: u32 = 128 * 1024;

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

pub(super) fn attr(node: NodeId, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The attributes of nothing: node 0 says that a name is absent.
pub(super) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::SpecificTime(time) => SetTime::To(time.into()),
        TimeOrNow::Now => SetTime::Now,
    }
}

pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

pub(super) fn fallocate(mode: i32) -> Option<Fallocate> {
    const KEEP_PUNCH: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
    const KEEP_ZERO: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_ZERO_RANGE;
    match mode {
        0 => Some(Fallocate::Extend),
        libc::FALLOC_FL_KEEP_SIZE => Some(Fallocate::KeepSize),
        KEEP_PUNCH => Some(Fallocate::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Some(Fallocate::ZeroRange),
        KEEP_ZERO => Some(Fallocate::ZeroRangeKeepSize),
        _ => None,
    }
}

/// Whether an error is part of a program's everyday life and not worth a warning.
pub(super) fn is_expected(error: &FsError) -> bool {
    !matches!(error, FsError::Store(_) | FsError::Stale | FsError::BadHandle)
}
