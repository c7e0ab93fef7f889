//! The kernel's requests, each parsed, handed to the session, and answered.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert;
use super::follow::Follower;
use crate::engine::{Done, FsError, Handle, RenameMode, Result, Whence, XattrMode};
use crate::types::{Caller, Kind, Permissions, ProcId, SetAttr};
use crate::vfs::{Entry, NodeId, Session, Tree};

/// Requests of the kernel's own (read-ahead, late writes) that may be under way at once.
const BACKGROUND: u16 = 64;
/// The largest write in bytes.
const WRITE_MAX: u32 = 1 << 20;
/// The longest name in bytes.
const NAME_MAX: u32 = 255;

/// What a mount negotiates with the kernel beyond the usual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Negotiation {
    pub writeback: bool,
    pub record_reads: bool,
}

/// One mount's connection.
pub(super) struct Adapter {
    pub session: Arc<Session>,
    pub negotiation: Negotiation,
    pub follower: Follower,
}

/// A reply that can say that the request failed.
trait Refuse {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ident)*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyLseek ReplyOpen
    ReplyStatfs ReplyWrite ReplyXattr
}

fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

fn permissions(mode: u32) -> Permissions {
    (mode & 0o7777) as Permissions
}

fn report(op: &str, req: &Request, node: NodeId, error: &FsError) {
    let level = if convert::is_expected(error) { log::Level::Debug } else { log::Level::Error };
    log::log!(level, "{op} node {:#x} pid {}: {error} (errno {})", node.0, req.pid(), error.errno());
}

impl Adapter {
    /// The caller of a request that changes nothing.
    fn reader(req: &Request) -> Caller {
        Caller { uid: req.uid(), gid: req.gid(), pid: req.pid(), process: ProcId(0) }
    }

    /// The caller of a request that is recorded.
    fn writer(&self, req: &Request) -> Caller {
        let processes = self.session.vfs().processes();
        let process = processes.map_or(ProcId(0), |known| known.lookup(req.pid(), req.uid(), req.gid()));
        Caller { process, ..Adapter::reader(req) }
    }

    /// Serves a request: the tree stays as it is until the reply is sent, and a panic becomes `EIO`.
    fn serve<R: Refuse, T>(
        &self,
        (op, req, node): (&str, &Request, NodeId),
        reply: R,
        act: impl FnOnce(&Tree<'_>) -> Result<T>,
        send: impl FnOnce(R, T),
    ) {
        self.follower.follow(req.pid());
        let served = catch_unwind(AssertUnwindSafe(|| {
            let tree = match self.session.tree() {
                Ok(tree) => tree,
                Err(error) => return reply.refuse(convert::errno(&error)),
            };
            match act(&tree) {
                Ok(result) => send(reply, result),
                Err(error) => {
                    report(op, req, node, &error);
                    reply.refuse(convert::errno(&error));
                }
            }
        }));
        if served.is_err() {
            log::error!("{op} node {:#x} pid {}: panicked", node.0, req.pid());
        }
    }

    /// Serves a request whose reply is filled piece by piece.
    fn fill<R: Refuse>(
        &self,
        (op, req, node): (&str, &Request, NodeId),
        mut reply: R,
        act: impl FnOnce(&Tree<'_>, &mut R) -> Result<()>,
        send: impl FnOnce(R),
    ) {
        self.follower.follow(req.pid());
        let served = catch_unwind(AssertUnwindSafe(|| {
            let filled = self.session.tree().and_then(|tree| {
                act(&tree, &mut reply)?;
                Ok(tree)
            });
            match filled {
                Ok(_tree) => send(reply),
                Err(error) => {
                    report(op, req, node, &error);
                    reply.refuse(convert::errno(&error));
                }
            }
        }));
        if served.is_err() {
            log::error!("{op} node {:#x} pid {}: panicked", node.0, req.pid());
        }
    }

    /// The end of a request that waits for the disk: the reply is sent by whoever finds the wait over.
    fn waits(op: &'static str, reply: ReplyEmpty) -> Done {
        Box::new(move |result| match result {
            Ok(()) => reply.ok(),
            Err(error) => {
                log::error!("{op}: {error} (errno {})", error.errno());
                reply.error(convert::errno(&error));
            }
        })
    }
}

fn send_entry(reply: ReplyEntry, entry: Entry) {
    let attr = convert::attr(entry.node, &entry.attr);
    reply.entry_with_ttls(&entry.attr_for, &entry.name_for, &attr, Generation(entry.generation));
}

enum Found {
    Entry(Box<Entry>),
    Absent(Duration),
}

#[allow(clippy::too_many_arguments)] // the trait's
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        let wanted = if self.negotiation.writeback { wanted | InitFlags::FUSE_WRITEBACK_CACHE } else { wanted };
        // Where reads are noted, a listing must not read what nobody asked for.
        let plus = InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
        let wanted = if self.session.options().notes_reads { wanted } else { wanted | plus };
        if let Err(missing) = config.add_capabilities(wanted) {
            log::warn!("the kernel lacks {missing:?}");
            let _ = config.add_capabilities(wanted & !missing);
        }
        let _ = config.set_max_write(WRITE_MAX);
        let _ = config.set_max_background(BACKGROUND);
        if let Err(most) = config.set_max_readahead(WRITE_MAX) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.session.end();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (dir, name) = (node(parent), name.as_bytes());
        let act = |tree: &Tree<'_>| match tree.lookup(dir, name, &Adapter::reader(req)) {
            Ok(entry) => Ok(Found::Entry(Box::new(entry))),
            Err(FsError::NotFound) => Ok(Found::Absent(tree.absent_for(dir))),
            Err(error) => Err(error),
        };
        self.serve(("lookup", req, dir), reply, act, |reply, found| match found {
            Found::Entry(entry) => send_entry(reply, *entry),
            Found::Absent(Duration::ZERO) => reply.error(Errno::ENOENT),
            Found::Absent(keep) => reply.entry(&keep, &convert::absent(), Generation(0)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.session.forget(node(ino), nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let node = node(ino);
        self.serve(
            ("getattr", req, node),
            reply,
            |tree| tree.getattr(node),
            |reply, (attr, keep)| {
                reply.attr(&keep, &convert::attr(node, &attr));
            },
        );
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let node = node(ino);
        let set = SetAttr {
            perm: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        let handle = fh.map(|fh| Handle(fh.0));
        let act = |tree: &Tree<'_>| tree.setattr(node, &set, handle, &self.writer(req));
        self.serve(("setattr", req, node), reply, act, |reply, (attr, keep)| {
            reply.attr(&keep, &convert::attr(node, &attr));
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| tree.readlink(node, &Adapter::reader(req));
        self.serve(("readlink", req, node), reply, act, |reply, target| reply.data(&target));
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let dir = node(parent);
        let act = |tree: &Tree<'_>| {
            let kind = Kind::from_mode(mode).ok_or(FsError::Invalid)?;
            tree.mknod(dir, name.as_bytes(), kind, permissions(mode), umask, rdev, &self.writer(req))
        };
        self.serve(("mknod", req, dir), reply, act, send_entry);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let dir = node(parent);
        let act = |tree: &Tree<'_>| tree.mkdir(dir, name.as_bytes(), permissions(mode), umask, &self.writer(req));
        self.serve(("mkdir", req, dir), reply, act, send_entry);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = node(parent);
        let act = |tree: &Tree<'_>| tree.unlink(dir, name.as_bytes(), &self.writer(req));
        self.serve(("unlink", req, dir), reply, act, |reply, ()| reply.ok());
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = node(parent);
        let act = |tree: &Tree<'_>| tree.rmdir(dir, name.as_bytes(), &self.writer(req));
        self.serve(("rmdir", req, dir), reply, act, |reply, ()| reply.ok());
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let dir = node(parent);
        let target = target.as_os_str().as_bytes();
        let act = |tree: &Tree<'_>| tree.symlink(dir, link_name.as_bytes(), target, &self.writer(req));
        self.serve(("symlink", req, dir), reply, act, send_entry);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (dir, dir2) = (node(parent), node(newparent));
        let act = |tree: &Tree<'_>| {
            let mode = if flags.is_empty() {
                RenameMode::Replace
            } else if flags == RenameFlags::RENAME_NOREPLACE {
                RenameMode::NoReplace
            } else if flags == RenameFlags::RENAME_EXCHANGE {
                RenameMode::Exchange
            } else {
                return Err(FsError::Invalid);
            };
            tree.rename(dir, name.as_bytes(), dir2, newname.as_bytes(), mode, &self.writer(req))
        };
        self.serve(("rename", req, dir), reply, act, |reply, ()| reply.ok());
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let dir = node(newparent);
        let act = |tree: &Tree<'_>| tree.link(node(ino), dir, newname.as_bytes(), &self.writer(req));
        self.serve(("link", req, dir), reply, act, send_entry);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let node = node(ino);
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY || flags.0 & libc::O_TRUNC != 0;
        let recorded = self.negotiation.record_reads && !writes;
        let act = |tree: &Tree<'_>| {
            let caller = if recorded || writes { self.writer(req) } else { Adapter::reader(req) };
            let handle = tree.open(node, flags.0, &caller)?;
            if recorded {
                tree.record_open(node, &caller);
            }
            Ok(handle)
        };
        self.serve(("open", req, node), reply, act, |reply, handle| {
            reply.opened(FileHandle(handle.0), FopenFlags::FOPEN_KEEP_CACHE);
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let act = |_: &Tree<'_>| self.session.read(Handle(fh.0), offset, size as usize);
        self.serve(("read", req, node(ino)), reply, act, |reply, data| reply.data(&data));
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = node(ino);
        // Of a page that the kernel writes late nobody is the caller; the engine takes the opener.
        let late = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let kill_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let act = |tree: &Tree<'_>| {
            let caller = if late { Caller::default() } else { self.writer(req) };
            tree.write(node, Handle(fh.0), offset, data, kill_suid, &caller)
        };
        self.serve(("write", req, node), reply, act, |reply, written| reply.written(written as u32));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // Nothing to do, and the kernel never asks again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let node = node(ino);
        // Holds no tree: it may change what is pinned.
        let released = catch_unwind(AssertUnwindSafe(|| self.session.release(node, Handle(fh.0), flags.0)));
        match released {
            Ok(Ok(())) => {}
            Ok(Err(error)) => report("release", req, node, &error),
            Err(_) => log::error!("release node {:#x}: panicked", node.0),
        }
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.session.fsync(Handle(fh.0), Adapter::waits("fsync", reply));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| {
            let stream = tree.open_dir(node, &Adapter::reader(req))?;
            Ok((stream, tree.caches_listing(node)))
        };
        self.serve(("opendir", req, node), reply, act, |reply, (stream, cache)| {
            let cached = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(FileHandle(stream), if cache { cached } else { FopenFlags::empty() });
        });
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let act = |tree: &Tree<'_>, reply: &mut ReplyDirectory| {
            let listing = tree.listing(fh.0, offset == 0, &Adapter::reader(req))?;
            let dots = [(listing.node(), "."), (listing.parent(), "..")];
            for (index, (dir, name)) in dots.into_iter().enumerate().skip(usize::try_from(offset).unwrap_or(2)) {
                if reply.add(INodeNo(dir.0), index as u64 + 1, fuser::FileType::Directory, name) {
                    return Ok(());
                }
            }
            for index in offset.saturating_sub(2).. {
                let Some(child) = tree.list_child(&listing, index as usize) else { break };
                let kind = convert::file_type(child.kind);
                if reply.add(INodeNo(child.node.0), index + 3, kind, OsStr::from_bytes(child.name)) {
                    break;
                }
            }
            Ok(())
        };
        self.fill(("readdir", req, node(ino)), reply, act, ReplyDirectory::ok);
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let act = |tree: &Tree<'_>, reply: &mut ReplyDirectoryPlus| {
            let caller = Adapter::reader(req);
            let listing = tree.listing(fh.0, offset == 0, &caller)?;
            let dots = [(listing.node(), "."), (listing.parent(), "..")];
            for (index, (dir, name)) in dots.into_iter().enumerate().skip(usize::try_from(offset).unwrap_or(2)) {
                let mut attr = convert::absent();
                (attr.ino, attr.kind) = (INodeNo(dir.0), fuser::FileType::Directory);
                if reply.add(attr.ino, index as u64 + 1, name, &Duration::ZERO, &attr, Generation(0)) {
                    return Ok(());
                }
            }
            for index in offset.saturating_sub(2).. {
                let Some(child) = tree.list_child(&listing, index as usize) else { break };
                let name = OsStr::from_bytes(child.name);
                // A name that went since the snapshot is left out, so that no dead entry is remembered.
                let Some(entry) = tree.list_entry(&listing, index as usize, &caller)? else { continue };
                let attr = convert::attr(entry.node, &entry.attr);
                if reply.add(attr.ino, index + 3, name, &entry.name_for, &attr, Generation(entry.generation)) {
                    tree.unused(&entry);
                    break;
                }
            }
            Ok(())
        };
        self.fill(("readdirplus", req, node(ino)), reply, act, ReplyDirectoryPlus::ok);
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.session.close_dir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.session.sync(Adapter::waits("fsyncdir", reply));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.serve(
            ("statfs", req, node(ino)),
            reply,
            |tree| tree.statfs(),
            |reply, fs| {
                reply.statfs(
                    fs.blocks,
                    fs.free,
                    fs.free,
                    fs.files,
                    fs.files_free,
                    fs.block_size,
                    NAME_MAX,
                    fs.block_size,
                );
            },
        );
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| {
            let mode = match flags {
                0 => XattrMode::Set,
                libc::XATTR_CREATE => XattrMode::Create,
                libc::XATTR_REPLACE => XattrMode::Replace,
                _ => return Err(FsError::Invalid),
            };
            tree.setxattr(node, name.as_bytes(), value, mode, &self.writer(req))
        };
        self.serve(("setxattr", req, node), reply, act, |reply, ()| reply.ok());
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| tree.getxattr(node, name.as_bytes(), &Adapter::reader(req));
        self.serve(("getxattr", req, node), reply, act, |reply, value| send_xattr(reply, size, &value));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| tree.listxattr(node, &Adapter::reader(req));
        self.serve(("listxattr", req, node), reply, act, |reply, names| {
            let list: Vec<u8> = names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect();
            send_xattr(reply, size, &list);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| tree.removexattr(node, name.as_bytes(), &self.writer(req));
        self.serve(("removexattr", req, node), reply, act, |reply, ()| reply.ok());
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel decides by the attributes (`default_permissions`).
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let dir = node(parent);
        let act =
            |tree: &Tree<'_>| tree.create(dir, name.as_bytes(), permissions(mode), umask, flags, &self.writer(req));
        self.serve(("create", req, dir), reply, act, |reply, (entry, handle)| {
            let attr = convert::attr(entry.node, &entry.attr);
            let (keep, generation) = (entry.name_for, Generation(entry.generation));
            reply.created(&keep, &attr, generation, FileHandle(handle.0), FopenFlags::FOPEN_KEEP_CACHE);
        });
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let node = node(ino);
        let act = |tree: &Tree<'_>| {
            let mode = convert::fallocate(mode).ok_or(FsError::NotSupported)?;
            tree.fallocate(node, Handle(fh.0), offset, length, mode, &self.writer(req))
        };
        self.serve(("fallocate", req, node), reply, act, |reply, ()| reply.ok());
    }

    fn lseek(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let act = |tree: &Tree<'_>| {
            let whence = match whence {
                libc::SEEK_DATA => Whence::Data,
                libc::SEEK_HOLE => Whence::Hole,
                _ => return Err(FsError::Invalid),
            };
            let offset = u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
            tree.seek(Handle(fh.0), offset, whence)
        };
        self.serve(("lseek", req, node(ino)), reply, act, |reply, offset| reply.offset(offset as i64));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let target = node(ino_out);
        // The reply has 32 bits for the number of bytes.
        let length = len.min(u64::from(u32::MAX) & !0xfffff);
        let act = |tree: &Tree<'_>| {
            let (from, to) = (Handle(fh_in.0), Handle(fh_out.0));
            tree.copy_range(from, offset_in, target, to, offset_out, length, &self.writer(req))
        };
        self.serve(("copy_file_range", req, target), reply, act, |reply, copied| reply.written(copied as u32));
    }
}

fn send_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
