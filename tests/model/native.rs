//! Runs operations on a real directory and on the reference side by side: what the engine is measured
//! with is itself measured with Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags, chmodat, chownat,
    copy_file_range, fallocate, ftruncate, lgetxattr, linkat, llistxattr, lremovexattr, lsetxattr, mkdirat, mknodat,
    openat, readlinkat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::umask;
use stonefs::engine::{Fallocate, Handle, RenameMode, XattrMode};
use stonefs::types::{BranchId, Caller, Ino, Kind, Name, Seq, SetAttr, Timestamp, View};

use crate::acl::{self, Acl};
use crate::choose::{XATTRS, bytes, open_flags};
use crate::observe::{Check, ensure};
use crate::operation::{LENGTHS, OFFSETS, Operation, Place, SPANS};
use crate::oracle::Oracle;
use crate::tree::{Birth, Body, Node, Outcome, Tree};

/// Files longer than this are left to the engine's tests.
const SIZE_MAX: u64 = 1 << 40;

struct Native {
    root: tempfile::TempDir,
    oracle: Oracle,
    files: BTreeMap<u64, File>,
    next: u64,
}

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1, process: stonefs::types::ProcId(0) };

/// Runs those of the operations that a real directory has.
pub fn run(operations: &[Operation]) -> Check<()> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    chmodat(CWD, root.path(), Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(|error| error.to_string())?;
    let time = Timestamp(0);
    let node = Node {
        kind: Kind::Dir,
        perm: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        xattrs: BTreeMap::new(),
        body: Body::Dir { parent: Ino::ROOT, entries: BTreeMap::new() },
        version: 0,
        attrs: 0,
        replaced: Vec::new(),
        earlier: Vec::new(),
    };
    let mut native = Native { root, oracle: Oracle::new(node, Seq(1)), files: BTreeMap::new(), next: 1 };
    for (index, operation) in operations.iter().enumerate() {
        native.apply(operation).map_err(|error| format!("operation {index}, {operation:?}: {error}"))?;
    }
    native.compare()
}

fn agree<T, U>(got: &Result<T, Errno>, want: &Outcome<U>) -> Check<bool> {
    match (got, want) {
        (Ok(_), Ok(_)) => Ok(true),
        (Err(error), Err(refusal)) if refusal.contains(&error.raw_os_error()) => Ok(false),
        (Ok(_), Err(refusal)) => Err(format!("Linux succeeds, the reference refuses with {refusal:?}")),
        (Err(error), Ok(_)) => Err(format!("Linux refuses with {error}, the reference succeeds")),
        (Err(error), Err(refusal)) => Err(format!("Linux refuses with {error}, the reference with {refusal:?}")),
    }
}

fn plain(name: &[u8]) -> bool {
    Name::new(name).is_ok()
}

impl Native {
    fn tree(&self) -> &Tree {
        &self.oracle.world.trees[&BranchId::MAIN]
    }

    fn tree_mut(&mut self) -> &mut Tree {
        self.oracle.world.trees.get_mut(&BranchId::MAIN).expect("main")
    }

    fn path(&self, ino: Ino) -> Option<PathBuf> {
        let paths = self.tree().paths(ino);
        let relative = paths.first()?.strip_prefix(b"/")?;
        Some(self.root.path().join(Path::new(std::ffi::OsStr::from_bytes(relative))))
    }

    /// The path of a name that may or may not exist.
    fn place(&self, (_, dir, name): (View, Ino, Vec<u8>)) -> Option<(Ino, Vec<u8>, PathBuf)> {
        if !plain(&name) || !self.tree().is_dir(dir) {
            return None;
        }
        let path = self.path(dir)?.join(std::ffi::OsStr::from_bytes(&name));
        Some((dir, name, path))
    }

    fn new_place(&self, at: Place) -> Option<(Ino, Vec<u8>, PathBuf)> {
        self.place(self.oracle.place(Place { branch: 0, ..at }))
    }

    fn old_place(&self, at: Place) -> Option<(Ino, Vec<u8>, PathBuf)> {
        self.place(self.oracle.existing(Place { branch: 0, ..at }))
    }

    fn born<T>(
        &mut self,
        got: Result<T, Errno>,
        make: impl FnOnce(&mut Tree, &Birth) -> Outcome<()>,
        mode: u16,
        mask: u16,
    ) -> Check<Option<(Ino, T)>> {
        self.next += 1;
        let ino = Ino(self.next);
        let birth = Birth { ino, now: Timestamp(1), caller: &ROOT, perm: mode, umask: u32::from(mask) };
        let want = make(self.tree_mut(), &birth);
        agree(&got, &want)?;
        Ok(got.ok().map(|made| (ino, made)))
    }

    fn handle(&self, number: u8) -> Option<Handle> {
        let handle = self.oracle.pick(number);
        self.files.contains_key(&handle.0).then_some(handle)
    }

    #[allow(clippy::too_many_lines)] // one arm per operation
    fn apply(&mut self, operation: &Operation) -> Check<()> {
        let live = View::live(BranchId::MAIN);
        let now = Timestamp(1);
        match *operation {
            Operation::Create { at, mode, umask: mask, flags, .. } => {
                let Some((dir, name, path)) = self.new_place(at) else { return Ok(()) };
                let flags = open_flags(flags) & !libc::O_TRUNC;
                umask(Mode::from_raw_mode(u32::from(mask)));
                let all = OFlags::from_bits_retain(flags as u32) | OFlags::CREATE | OFlags::EXCL;
                let got = openat(CWD, &path, all, Mode::from_raw_mode(u32::from(mode)));
                umask(Mode::from_raw_mode(0o022));
                let make = |tree: &mut Tree, birth: &Birth| {
                    tree.make(dir, &name, Kind::File, 0, Body::File(Default::default()), birth)
                };
                if let Some((ino, file)) = self.born(got, make, mode, mask)? {
                    self.oracle.opened(Handle(ino.0), live, ino, flags);
                    self.files.insert(ino.0, File::from(file));
                }
            }
            Operation::Mknod { at, kind, mode, umask: mask, rdev, .. } => {
                let Some((dir, name, path)) = self.new_place(at) else { return Ok(()) };
                let kinds = [
                    (Kind::File, FileType::RegularFile),
                    (Kind::Fifo, FileType::Fifo),
                    (Kind::Socket, FileType::Socket),
                    (Kind::Char, FileType::CharacterDevice),
                    (Kind::Block, FileType::BlockDevice),
                ];
                let Some(&(kind, of_type)) = kinds.get(usize::from(kind)) else { return Ok(()) };
                umask(Mode::from_raw_mode(u32::from(mask)));
                let got = mknodat(CWD, &path, of_type, Mode::from_raw_mode(u32::from(mode)), u64::from(rdev));
                umask(Mode::from_raw_mode(0o022));
                let body = if kind == Kind::File { Body::File(Default::default()) } else { Body::Special };
                self.born(got, |tree, birth| tree.make(dir, &name, kind, rdev, body, birth), mode, mask)?;
            }
            Operation::Mkdir { at, mode, umask: mask, .. } => {
                let Some((dir, name, path)) = self.new_place(at) else { return Ok(()) };
                let mode = mode & 0o1777;
                umask(Mode::from_raw_mode(u32::from(mask)));
                let got = mkdirat(CWD, &path, Mode::from_raw_mode(u32::from(mode)));
                umask(Mode::from_raw_mode(0o022));
                let body = Body::Dir { parent: dir, entries: BTreeMap::new() };
                self.born(got, |tree, birth| tree.make(dir, &name, Kind::Dir, 0, body, birth), mode, mask)?;
            }
            Operation::Symlink { at, length, .. } => {
                let Some((dir, name, path)) = self.new_place(at) else { return Ok(()) };
                let target = vec![b't'; if length == 29 { 4096 } else { usize::from(length) * 7 }];
                let got = symlinkat(std::ffi::OsStr::from_bytes(&target), CWD, &path);
                self.born(got, |tree, birth| tree.symlink(dir, &name, &target, birth), 0o777, 0)?;
            }
            Operation::Link { from, at } => {
                let Some((dir, name, path)) = self.new_place(at) else { return Ok(()) };
                let (_, ino) = self.oracle.target(from);
                let Some(old) = self.path(ino) else { return Ok(()) };
                let got = linkat(CWD, &old, CWD, &path, AtFlags::empty());
                agree(&got, &self.tree_mut().link(ino, dir, &name, now))?;
            }
            Operation::Unlink { at } => {
                let Some((dir, name, path)) = self.old_place(at) else { return Ok(()) };
                let got = unlinkat(CWD, &path, AtFlags::empty());
                agree(&got, &self.tree_mut().unlink(dir, &name, now))?;
            }
            Operation::Rmdir { at } => {
                let Some((dir, name, path)) = self.old_place(at) else { return Ok(()) };
                let got = unlinkat(CWD, &path, AtFlags::REMOVEDIR);
                agree(&got, &self.tree_mut().rmdir(dir, &name, now))?;
            }
            Operation::Rename { from, to, mode } => {
                let (from, to) = (self.old_place(from), self.old_place(to));
                let (Some((dir, name, old)), Some((dir2, name2, new))) = (from, to) else { return Ok(()) };
                let (mode, flags) = [
                    (RenameMode::Replace, RenameFlags::empty()),
                    (RenameMode::NoReplace, RenameFlags::NOREPLACE),
                    (RenameMode::Exchange, RenameFlags::EXCHANGE),
                ][usize::from(mode % 6) / 2];
                let got = renameat_with(CWD, &old, CWD, &new, flags);
                agree(&got, &self.tree_mut().rename(dir, &name, dir2, &name2, mode, now))?;
            }
            Operation::Chmod { on, mode, .. } => {
                let (_, ino) = self.oracle.target(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                if self.tree().nodes[&ino].kind == Kind::Symlink {
                    return Ok(());
                }
                let got = chmodat(CWD, &path, Mode::from_raw_mode(u32::from(mode)), AtFlags::empty());
                self.setattr(ino, SetAttr { perm: Some(mode), ..SetAttr::default() }, None, got)?;
            }
            Operation::Chown { on, uid, gid, .. } => {
                let (_, ino) = self.oracle.target(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                let id = |id: u8| [0, 1000, 70_000][usize::from(id % 3)];
                let set = SetAttr { uid: uid.map(id), gid: gid.map(id), ..SetAttr::default() };
                if set == SetAttr::default() {
                    return Ok(());
                }
                let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
                let got = chownat(CWD, &path, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
                self.setattr(ino, set, None, got)?;
            }
            Operation::Truncate { on, size, .. } => {
                let (_, ino) = self.oracle.file(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                let size = OFFSETS[usize::from(size) % OFFSETS.len()];
                // Only what the kernel hands to the file system: it follows symlinks itself.
                if self.tree().nodes[&ino].kind == Kind::Symlink || size > SIZE_MAX {
                    return Ok(());
                }
                let c_path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
                #[allow(unsafe_code)] // rustix has no truncate by path; the string outlives the call
                let failed = unsafe { libc::truncate(c_path.as_ptr(), size as i64) } != 0;
                let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                let got = if failed { Err(Errno::from_raw_os_error(error)) } else { Ok(()) };
                self.setattr(ino, SetAttr { size: Some(size), ..SetAttr::default() }, None, got)?;
            }
            Operation::Ftruncate { handle, size, .. } => {
                let Some(handle) = self.handle(handle) else { return Ok(()) };
                let open = self.oracle.handle(handle).expect("open").clone();
                let size = OFFSETS[usize::from(size) % OFFSETS.len()];
                if !open.writable || size > SIZE_MAX {
                    return Ok(());
                }
                let got = ftruncate(&self.files[&handle.0], size);
                self.setattr(open.ino, SetAttr { size: Some(size), ..SetAttr::default() }, Some(handle), got)?;
            }
            Operation::Setxattr { on, name, value, mode } => {
                let (_, ino) = self.oracle.target(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                // The kernel itself judges user attributes of other kinds, and the form of capabilities.
                let usable = matches!(self.tree().nodes[&ino].kind, Kind::File | Kind::Dir) && name % 5 != 2;
                if !usable {
                    return Ok(());
                }
                let name = XATTRS[usize::from(name % 5)];
                let value = vec![value; [0, 1, 5, 100, 200][usize::from(value % 5)]];
                let (mode, flags) = [
                    (XattrMode::Set, XattrFlags::empty()),
                    (XattrMode::Create, XattrFlags::CREATE),
                    (XattrMode::Replace, XattrFlags::REPLACE),
                ][usize::from(mode % 3)];
                let got = lsetxattr(&path, std::ffi::OsStr::from_bytes(name), &value, flags);
                agree(&got, &self.tree_mut().setxattr(ino, name, &value, mode, now))?;
            }
            Operation::Removexattr { on, name } => {
                let (_, ino) = self.oracle.target(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                // Removing an ACL that is not there is no error of ext4's; the engine says so, as FUSE does.
                let usable = matches!(self.tree().nodes[&ino].kind, Kind::File | Kind::Dir) && name % 7 < 5;
                if !usable || name % 5 == 2 {
                    return Ok(());
                }
                let name = XATTRS[usize::from(name % 5)];
                let got = lremovexattr(&path, std::ffi::OsStr::from_bytes(name));
                agree(&got, &self.tree_mut().removexattr(ino, name, now))?;
            }
            Operation::SetAcl { on, default, perms, named, broken } => {
                let (_, ino) = self.oracle.target(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                let named = named.map(|perm| (1000, u16::from(perm), perms >> 6 & 7));
                let mut value = Acl::build(perms >> 6, perms >> 3, perms, named).bytes();
                if broken {
                    value.truncate(value.len() - 8);
                }
                let name = if default { acl::DEFAULT } else { acl::ACCESS };
                let got = lsetxattr(&path, std::ffi::OsStr::from_bytes(name), &value, XattrFlags::empty());
                agree(&got, &self.tree_mut().setxattr(ino, name, &value, XattrMode::Set, now))?;
            }
            Operation::Open { on, flags, .. } => {
                let (_, ino) = self.oracle.file(on);
                let Some(path) = self.path(ino) else { return Ok(()) };
                if self.tree().nodes[&ino].kind != Kind::File {
                    return Ok(());
                }
                let flags = open_flags(flags);
                let got = openat(CWD, &path, OFlags::from_bits_retain(flags as u32), Mode::empty());
                let want = self.oracle.open(live, ino, flags, &ROOT, now);
                if agree(&got, &want)? {
                    self.next += 1;
                    self.oracle.opened(Handle(self.next), live, ino, flags);
                    self.files.insert(self.next, File::from(got.expect("agreed")));
                }
            }
            Operation::Release { handle } => {
                let Some(handle) = self.handle(handle) else { return Ok(()) };
                self.files.remove(&handle.0);
                self.oracle.release(handle, Seq(1)).expect("open");
            }
            Operation::Write { handle, offset, length, seed, .. } => {
                let Some(handle) = self.handle(handle) else { return Ok(()) };
                let offset = OFFSETS[usize::from(offset) % OFFSETS.len()];
                let data = bytes(LENGTHS[usize::from(length) % LENGTHS.len()], seed);
                if offset >= SIZE_MAX {
                    return Ok(());
                }
                let got = rustix::io::pwrite(&self.files[&handle.0], &data, offset);
                let want = self.oracle.write(handle, offset, &data, false, now);
                if agree(&got, &want)? {
                    ensure!(got.ok() == want.ok(), "another number of bytes");
                }
            }
            Operation::Fallocate { handle, offset, length, mode, .. } => {
                let Some(handle) = self.handle(handle) else { return Ok(()) };
                let offset = OFFSETS[usize::from(offset) % OFFSETS.len()];
                let length = SPANS[usize::from(length) % SPANS.len()];
                let keep = FallocateFlags::KEEP_SIZE;
                let (mode, flags) = [
                    (Fallocate::Extend, FallocateFlags::empty()),
                    (Fallocate::KeepSize, keep),
                    (Fallocate::PunchHole, FallocateFlags::PUNCH_HOLE | keep),
                    (Fallocate::ZeroRange, FallocateFlags::ZERO_RANGE),
                    (Fallocate::ZeroRangeKeepSize, FallocateFlags::ZERO_RANGE | keep),
                ][usize::from(mode % 5)];
                if offset > 1 << 20 || length > 1 << 20 {
                    return Ok(()); // a real disk has an end
                }
                let got = fallocate(&self.files[&handle.0], flags, offset, length);
                if got == Err(Errno::OPNOTSUPP) {
                    return Ok(()); // not every file system has every mode
                }
                agree(&got, &self.oracle.fallocate(handle, offset, length, mode, &ROOT, now))?;
            }
            Operation::Copy { from, from_offset, to, to_offset, length, .. } => {
                let (Some(from), Some(to)) = (self.handle(from), self.handle(to)) else { return Ok(()) };
                let mut from_offset = OFFSETS[usize::from(from_offset) % OFFSETS.len()];
                let mut to_offset = OFFSETS[usize::from(to_offset) % OFFSETS.len()];
                let length = SPANS[usize::from(length) % SPANS.len()].min(400_000);
                if from_offset > SIZE_MAX || to_offset >= SIZE_MAX {
                    return Ok(());
                }
                let starts = (from_offset, to_offset);
                let (input, output) = (&self.files[&from.0], &self.files[&to.0]);
                let got = copy_file_range(input, Some(&mut from_offset), output, Some(&mut to_offset), length as usize);
                let want = self.oracle.copy((from, starts.0), (to, starts.1), length, &ROOT, now);
                if agree(&got, &want)? {
                    ensure!(got.ok().map(|n| n as u64) == want.ok(), "another number of bytes");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn setattr(&mut self, ino: Ino, set: SetAttr, handle: Option<Handle>, got: Result<(), Errno>) -> Check<()> {
        let live = View::live(BranchId::MAIN);
        agree(&got, &self.oracle.setattr(live, ino, &set, handle, &ROOT, Timestamp(1), Seq(1)))?;
        Ok(())
    }

    fn compare(&self) -> Check<()> {
        for (&ino, node) in &self.tree().nodes {
            let Some(path) = self.path(ino) else { continue };
            let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} {}: {error}", path.display());
            let attr = self.tree().attr(ino).expect("it is there");
            let stat = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("stat", &e))?;
            ensure!(
                stat.st_mode == attr.kind.mode_bits() | u32::from(attr.perm),
                "mode of {ino} is {:o}, the reference has {:o}",
                stat.st_mode,
                attr.perm
            );
            ensure!(
                (stat.st_uid, stat.st_gid) == (attr.uid, attr.gid),
                "owner of {ino} is {}:{}, not {}:{}",
                stat.st_uid,
                stat.st_gid,
                attr.uid,
                attr.gid
            );
            ensure!(stat.st_nlink as u32 == attr.nlink, "nlink of {ino} is {}, not {}", stat.st_nlink, attr.nlink);
            ensure!(stat.st_rdev as u32 == attr.rdev, "rdev of {ino} is {}, not {}", stat.st_rdev, attr.rdev);
            match &node.body {
                Body::Dir { entries, .. } => {
                    let dir = openat(CWD, &path, OFlags::RDONLY, Mode::empty()).map_err(|e| failed("open", &e))?;
                    let have: BTreeSet<Vec<u8>> = Dir::new(dir)
                        .map_err(|e| failed("list", &e))?
                        .filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()))
                        .filter(|name| plain(name))
                        .collect();
                    ensure!(have.iter().eq(entries.keys()), "{ino} lists {have:?}, the reference {entries:?}");
                }
                Body::File(content) => {
                    ensure!(
                        stat.st_size as u64 == content.size(),
                        "size of {ino} is {}, not {}",
                        stat.st_size,
                        content.size()
                    );
                    let file = File::open(&path).map_err(|e| failed("open", &e))?;
                    let mut pages: BTreeSet<u64> = content.pages().collect();
                    pages.extend((0..100).chain([content.size() / 4096]));
                    for page in pages {
                        let mut have = vec![0; 4096];
                        let count = file.read_at(&mut have, page * 4096).map_err(|e| failed("read", &e))?;
                        ensure!(
                            have[..count] == content.read(page * 4096, 4096),
                            "page {page} of {ino} differs from {content:?}"
                        );
                    }
                }
                Body::Symlink(target) => {
                    let have = readlinkat(CWD, &path, Vec::new()).map_err(|e| failed("readlink", &e))?;
                    ensure!(have.to_bytes() == target, "the target of {ino} differs");
                }
                Body::Special => {}
            }
            let mut names = vec![0; 65536];
            let count = llistxattr(&path, &mut names).map_err(|e| failed("list attributes of", &e))?;
            let mut have = BTreeMap::new();
            for name in names[..count]
                .split(|&byte| byte == 0)
                .filter(|name| !name.is_empty() && !name.starts_with(b"security."))
            {
                let mut value = vec![0; 65536];
                let count = lgetxattr(&path, std::ffi::OsStr::from_bytes(name), &mut value)
                    .map_err(|e| failed("get an attribute of", &e))?;
                value.truncate(count);
                have.insert(name.to_vec(), value);
            }
            ensure!(have == node.xattrs, "attributes of {ino} are {have:?}, the reference has {:?}", node.xattrs);
        }
        Ok(())
    }
}
