//! The floor of FUSE: a file system in memory that does as little as a correct one can, with the lifetimes and the
//! flags that StoneFS negotiates. What StoneFS costs above it is StoneFS; the rest is the kernel's protocol.
//!
//! `floor DIR [--no-open] [--threads N]` mounts it until it is unmounted. It keeps nothing, checks little, and is no
//! part of the product.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, SessionACL, TimeOrNow, WriteFlags,
};

const LIFETIME: Duration = Duration::from_secs(86_400);
const BLOCK: usize = 128 << 10;

#[derive(Default)]
struct Data {
    blocks: Vec<Vec<u8>>,
}

impl Data {
    fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, start) = (offset / BLOCK, offset % BLOCK);
            let length = bytes.len().min(BLOCK - start);
            if self.blocks.len() <= index {
                self.blocks.resize_with(index + 1, Vec::new);
            }
            let block = &mut self.blocks[index];
            if block.len() < start + length {
                block.resize(start + length, 0);
            }
            block[start..start + length].copy_from_slice(&bytes[..length]);
            offset += length;
            bytes = &bytes[length..];
        }
    }

    fn read(&self, mut offset: usize, end: usize, out: &mut Vec<u8>) {
        while offset < end {
            let (index, start) = (offset / BLOCK, offset % BLOCK);
            let length = (end - offset).min(BLOCK - start);
            let have = self.blocks.get(index).map_or(&[][..], |b| b.get(start..).unwrap_or(&[]));
            let have = &have[..have.len().min(length)];
            out.extend_from_slice(have);
            out.resize(out.len() + length - have.len(), 0);
            offset += length;
        }
    }

    fn truncate(&mut self, size: usize) {
        self.blocks.truncate(size.div_ceil(BLOCK));
        if let Some(last) = self.blocks.get_mut(size / BLOCK) {
            last.truncate(size % BLOCK);
        }
    }
}

struct Node {
    attr: FileAttr,
    data: Data,
    target: OsString,
    names: HashMap<OsString, u64>,
    order: BTreeMap<u64, (OsString, u64)>,
    next: u64,
    lookups: u64,
}

impl Node {
    fn new(ino: u64, kind: FileType, mode: u32, req: &Request) -> Node {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm: (mode & 0o7777) as u16,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: req.uid(),
            gid: req.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        Node {
            attr,
            data: Data::default(),
            target: OsString::new(),
            names: HashMap::new(),
            order: BTreeMap::new(),
            next: 3,
            lookups: 0,
        }
    }

    fn insert(&mut self, name: &OsStr, ino: u64) {
        let cookie = self.next;
        self.next += 1;
        self.names.insert(name.to_owned(), cookie);
        self.order.insert(cookie, (name.to_owned(), ino));
        self.touch();
    }

    fn remove(&mut self, name: &OsStr) -> Option<u64> {
        let cookie = self.names.remove(name)?;
        self.touch();
        self.order.remove(&cookie).map(|(_, ino)| ino)
    }

    fn child(&self, name: &OsStr) -> Option<u64> {
        self.order.get(self.names.get(name)?).map(|(_, ino)| *ino)
    }

    fn touch(&mut self) {
        let now = SystemTime::now();
        (self.attr.mtime, self.attr.ctime) = (now, now);
    }
}

struct Floor {
    state: Mutex<State>,
    no_open: bool,
}

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
}

type Result<T> = std::result::Result<T, Errno>;

impl State {
    fn get(&mut self, ino: INodeNo) -> Result<&mut Node> {
        self.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, kind: FileType, mode: u32, req: &Request) -> Result<&mut Node> {
        let ino = self.next;
        let dir = self.get(parent)?;
        if dir.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        dir.insert(name, ino);
        if kind == FileType::Directory {
            dir.attr.nlink += 1;
        }
        self.next += 1;
        let mut node = Node::new(ino, kind, mode, req);
        node.lookups = 1;
        Ok(self.nodes.entry(ino).or_insert(node))
    }

    fn unlink(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.attr.nlink = node.attr.nlink.saturating_sub(1);
            node.attr.ctime = SystemTime::now();
            if node.attr.nlink == 0 && node.lookups == 0 {
                self.nodes.remove(&ino);
            }
        }
    }

    fn drop_dir(&mut self, parent: INodeNo, ino: u64) {
        if let Some(dir) = self.nodes.get_mut(&parent.0) {
            dir.attr.nlink = dir.attr.nlink.saturating_sub(1);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.attr.nlink = 1;
        }
        self.unlink(ino);
    }

    fn rename(&mut self, parent: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags) -> Result<()> {
        let ino = self.get(parent)?.child(name).ok_or(Errno::ENOENT)?;
        let old = self.get(to)?.child(new);
        if old == Some(ino) {
            return Ok(());
        }
        let is_dir = self.get(INodeNo(ino))?.attr.kind == FileType::Directory;
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            let old = old.ok_or(Errno::ENOENT)?;
            self.get(parent)?.remove(name);
            self.get(to)?.remove(new);
            self.get(parent)?.insert(name, old);
            self.get(to)?.insert(new, ino);
            return Ok(());
        }
        if let Some(old) = old {
            if flags.contains(RenameFlags::RENAME_NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            let replaced = self.get(INodeNo(old))?;
            let old_is_dir = replaced.attr.kind == FileType::Directory;
            if old_is_dir && !replaced.names.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            self.get(to)?.remove(new);
            if old_is_dir { self.drop_dir(to, old) } else { self.unlink(old) }
        }
        self.get(parent)?.remove(name);
        self.get(to)?.insert(new, ino);
        if is_dir && parent != to {
            self.get(parent)?.attr.nlink -= 1;
            self.get(to)?.attr.nlink += 1;
        }
        self.get(INodeNo(ino))?.attr.ctime = SystemTime::now();
        Ok(())
    }
}

impl Floor {
    fn open_flags(&self) -> FopenFlags {
        FopenFlags::FOPEN_KEEP_CACHE
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn answer(reply: ReplyEntry, result: Result<FileAttr>) {
    match result {
        Ok(attr) => reply.entry(&LIFETIME, &attr, Generation(0)),
        Err(e) => reply.error(e),
    }
}

fn done(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
        ];
        if !self.no_open {
            wanted.push(InitFlags::FUSE_ATOMIC_O_TRUNC);
        }
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_readahead(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.lock();
        let found = match state.get(parent) {
            Ok(dir) => dir.child(name),
            Err(e) => return reply.error(e),
        };
        match found.and_then(|ino| state.nodes.get_mut(&ino)) {
            Some(node) => {
                node.lookups += 1;
                let attr = node.attr;
                drop(state);
                reply.entry(&LIFETIME, &attr, Generation(0));
            }
            None => reply.entry(&LIFETIME, &absent(), Generation(0)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let mut state = self.lock();
        if let Some(node) = state.nodes.get_mut(&ino.0) {
            node.lookups = node.lookups.saturating_sub(nlookup);
            if node.lookups == 0 && node.attr.nlink == 0 {
                state.nodes.remove(&ino.0);
            }
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.lock().get(ino) {
            Ok(node) => reply.attr(&LIFETIME, &node.attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.lock();
        let node = match state.get(ino) {
            Ok(node) => node,
            Err(e) => return reply.error(e),
        };
        let now = SystemTime::now();
        let time = |t| match t {
            TimeOrNow::SpecificTime(t) => t,
            TimeOrNow::Now => now,
        };
        let attr = &mut node.attr;
        attr.perm = mode.map_or(attr.perm, |m| (m & 0o7777) as u16);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.atime = atime.map_or(attr.atime, time);
        attr.mtime = mtime.map_or(attr.mtime, time);
        attr.ctime = now;
        if let Some(size) = size {
            if size < attr.size {
                node.data.truncate(size as usize);
            }
            (attr.size, attr.blocks, attr.mtime) = (size, size.div_ceil(512), now);
        }
        reply.attr(&LIFETIME, &node.attr);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.lock().get(ino) {
            Ok(node) => reply.data(node.target.as_bytes()),
            Err(e) => reply.error(e),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => FileType::NamedPipe,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            _ => FileType::RegularFile,
        };
        let result = self.lock().add(parent, name, kind, mode & !umask, req).map(|node| {
            node.attr.rdev = rdev;
            node.attr
        });
        answer(reply, result);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let result = self.lock().add(parent, name, FileType::Directory, mode & !umask, req).map(|node| node.attr);
        answer(reply, result);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.lock();
        let result = state.get(parent).and_then(|dir| dir.remove(name).ok_or(Errno::ENOENT));
        done(reply, result.map(|ino| state.unlink(ino)));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.lock();
        let result = (|| {
            let ino = state.get(parent)?.child(name).ok_or(Errno::ENOENT)?;
            if !state.get(INodeNo(ino))?.names.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            state.get(parent)?.remove(name);
            state.drop_dir(parent, ino);
            Ok(())
        })();
        done(reply, result);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let result = self.lock().add(parent, name, FileType::Symlink, 0o777, req).map(|node| {
            node.target = target.as_os_str().to_owned();
            node.attr.size = node.target.len() as u64;
            node.attr
        });
        answer(reply, result);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let result = self.lock().rename(parent, name, newparent, newname, flags);
        done(reply, result);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let mut state = self.lock();
        let result = (|| {
            if state.get(newparent)?.names.contains_key(newname) {
                return Err(Errno::EEXIST);
            }
            let node = state.get(ino)?;
            node.attr.nlink += 1;
            node.attr.ctime = SystemTime::now();
            node.lookups += 1;
            let attr = node.attr;
            state.get(newparent)?.insert(newname, ino.0);
            Ok(attr)
        })();
        answer(reply, result);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.no_open {
            return reply.error(Errno::ENOSYS);
        }
        if flags.0 & libc::O_TRUNC != 0
            && let Ok(node) = self.lock().get(ino)
        {
            node.data.truncate(0);
            (node.attr.size, node.attr.blocks) = (0, 0);
            node.touch();
        }
        reply.opened(FileHandle(ino.0), self.open_flags());
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let result = self.lock().add(parent, name, FileType::RegularFile, mode & !umask, req).map(|node| node.attr);
        match result {
            Ok(attr) => reply.created(&LIFETIME, &attr, Generation(0), FileHandle(attr.ino.0), self.open_flags()),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.lock();
        match state.get(ino) {
            Ok(node) => {
                let end = (offset + u64::from(size)).min(node.attr.size);
                let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
                node.data.read(offset as usize, end as usize, &mut out);
                drop(state);
                reply.data(&out);
            }
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.lock();
        match state.get(ino) {
            Ok(node) => {
                node.data.write(offset as usize, data);
                node.attr.size = node.attr.size.max(offset + data.len() as u64);
                node.attr.blocks = node.attr.size.div_ceil(512);
                node.touch();
                drop(state);
                reply.written(data.len() as u32);
            }
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.lock();
        let State { nodes, .. } = &mut *state;
        let Some(dir) = nodes.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        for (cookie, name) in [(1, "."), (2, "..")] {
            if offset < cookie && reply.add(ino, cookie, FileType::Directory, name) {
                return reply.ok();
            }
        }
        for (cookie, (name, child)) in dir.order.range(offset + 1..) {
            let kind = nodes.get(child).map_or(FileType::RegularFile, |n| n.attr.kind);
            if reply.add(INodeNo(*child), *cookie, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut state = self.lock();
        let Ok(dir) = state.get(ino) else { return reply.error(Errno::ENOENT) };
        let own = dir.attr;
        let entries: Vec<(u64, OsString, u64)> =
            dir.order.range(offset + 1..).take(2048).map(|(c, (n, i))| (*c, n.clone(), *i)).collect();
        for (cookie, name) in [(1, "."), (2, "..")] {
            if offset < cookie && reply.add(ino, cookie, name, &Duration::ZERO, &own, Generation(0)) {
                return reply.ok();
            }
        }
        for (cookie, name, child) in entries {
            let Some(node) = state.nodes.get_mut(&child) else { continue };
            if reply.add(INodeNo(child), cookie, &name, &LIFETIME, &node.attr, Generation(0)) {
                break;
            }
            node.lookups += 1;
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 29, 1 << 29, 1 << 30, 1 << 29, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let result = self.lock().get(ino).map(|node| node.attr.size = node.attr.size.max(offset + length));
        done(reply, result);
    }
}

fn main() {
    let mut dir = None;
    let (mut no_open, mut threads) = (false, 1);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--no-open" => no_open = true,
            "--threads" => threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            "--bench" => {}
            _ => dir = Some(arg),
        }
    }
    let Some(dir) = dir else {
        println!("usage: floor DIR [--no-open] [--threads N]");
        return;
    };
    // The root belongs to the owner of the mount point.
    let owner = std::fs::metadata(&dir)
        .map(|m| (std::os::unix::fs::MetadataExt::uid(&m), std::os::unix::fs::MetadataExt::gid(&m)));
    let (uid, gid) = owner.unwrap_or((0, 0));
    let mut root_attr = absent();
    let now = SystemTime::now();
    root_attr.ino = INodeNo(1);
    (root_attr.kind, root_attr.perm, root_attr.nlink, root_attr.uid, root_attr.gid) =
        (FileType::Directory, 0o755, 2, uid, gid);
    (root_attr.atime, root_attr.mtime, root_attr.ctime) = (now, now, now);
    let root = Node {
        attr: root_attr,
        data: Data::default(),
        target: OsString::new(),
        names: HashMap::new(),
        order: BTreeMap::new(),
        next: 3,
        lookups: 1,
    };
    let floor = Floor { state: Mutex::new(State { nodes: HashMap::from([(1, root)]), next: 2 }), no_open };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("floor".into()),
        MountOption::Subtype("floor".into()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::Owner;
    config.n_threads = Some(threads);
    config.clone_fd = threads > 1;
    if let Err(e) = fuser::mount(floor, Path::new(&dir), &config) {
        eprintln!("floor: {dir}: {e}");
        std::process::exit(1);
    }
}
