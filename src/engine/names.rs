//! Operations on names: lookup, listing, creation, links, removal, rename.

use std::sync::Arc;

use super::acl::{self, Acl};
use super::core::{Core, Moment, join, new_row};
use super::node::Node;
use super::quota::ROW_BYTES;
use super::{DirEntry, Engine, FsError, RenameMode, Result};
use crate::store::{Content, Mutation};
use crate::types::{Attr, Caller, Ino, Kind, Name, Op, Permissions, SETGID, View};

/// Most names that one inode may have.
const LINK_MAX: u32 = 1_000_000;
/// `PATH_MAX` without its NUL: the longest target of a symbolic link.
const TARGET_MAX: usize = 4095;

/// What a creation makes.
pub(super) struct Creation<'a> {
    pub op: Op,
    pub kind: Kind,
    pub perm: Permissions,
    pub umask: u32,
    pub rdev: u32,
    pub target: Option<&'a [u8]>,
}

#[allow(clippy::too_many_arguments)] // the arguments are those of the system calls
impl Engine {
    /// Finds an entry of a directory.
    pub fn lookup(&self, view: View, parent: Ino, name: &[u8]) -> Result<Attr> {
        let mut core = self.enter(view)?;
        if name.len() > Name::MAX {
            return Err(FsError::NameTooLong);
        }
        let (ino, _) = core.entry(view, parent, name)?.ok_or(FsError::NotFound)?;
        core.place(view, parent, &Name::new(name)?, ino)?;
        let attr = core.node(view, ino)?.attr(ino);
        core.shed();
        Ok(attr)
    }

    /// Returns the parent of a directory; the root's is the root.
    pub fn parent(&self, view: View, dir: Ino) -> Result<Ino> {
        self.enter(view)?.parent_of(view, dir)
    }

    /// Returns a path of an inode in this view, beginning with `/`; `NotFound` when it has no name.
    pub fn path(&self, view: View, ino: Ino) -> Result<Vec<u8>> {
        Ok(self.enter(view)?.path_of(view, ino)?.to_vec())
    }

    /// Resolves a path without following symlinks; `.` and `..` count, repeated slashes do not.
    pub fn resolve(&self, view: View, path: &[u8]) -> Result<Attr> {
        let mut core = self.enter(view)?;
        let mut at = Ino::ROOT;
        for part in path.split(|&b| b == b'/') {
            at = match part {
                b"" | b"." => at,
                b".." => core.parent_of(view, at)?,
                name if name.len() > Name::MAX => return Err(FsError::NameTooLong),
                name => {
                    let (ino, _) = core.entry(view, at, name)?.ok_or(FsError::NotFound)?;
                    core.place(view, at, &Name::new(name)?, ino)?;
                    ino
                }
            };
        }
        let attr = core.node(view, at)?.attr(at);
        if path.last() == Some(&b'/') && attr.kind != Kind::Dir {
            return Err(FsError::NotDir);
        }
        Ok(attr)
    }

    /// Lists a directory: a snapshot that does not change while it is read.
    pub fn list(&self, view: View, dir: Ino) -> Result<Arc<Vec<DirEntry>>> {
        let mut core = self.enter(view)?;
        let node = core.node(view, dir)?;
        node.dir()?;
        if node.removed {
            return Ok(Arc::new(Vec::new()));
        }
        core.complete(view, dir)?;
        let body = core.loaded(view, dir)?.dir_mut()?;
        if let Some(listing) = &body.listing {
            return Ok(listing.clone());
        }
        let mut listing: Vec<DirEntry> = body
            .entries
            .iter()
            .filter_map(|(name, target)| target.map(|(ino, kind)| DirEntry { name: name.clone(), ino, kind }))
            .collect();
        // In the order of inode numbers: reading the inodes afterwards walks the store in order.
        listing.sort_unstable_by(|a, b| (a.ino, &a.name).cmp(&(b.ino, &b.name)));
        let listing = Arc::new(listing);
        body.listing = Some(listing.clone());
        core.shed();
        Ok(listing)
    }

    /// Creates a file, FIFO, socket or device node. A default ACL of the directory replaces the umask.
    pub fn mknod(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        perm: Permissions,
        umask: u32,
        rdev: u32,
        caller: &Caller,
    ) -> Result<Attr> {
        let op = match kind {
            Kind::File => Op::Create,
            Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Op::Mknod,
            Kind::Dir | Kind::Symlink => return Err(FsError::Invalid),
        };
        let creation = Creation { op, kind, perm, umask, rdev, target: None };
        self.create_inode(view, parent, name, &creation, caller)
    }

    /// Creates a directory.
    pub fn mkdir(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        perm: Permissions,
        umask: u32,
        caller: &Caller,
    ) -> Result<Attr> {
        let creation = Creation { op: Op::Mkdir, kind: Kind::Dir, perm, umask, rdev: 0, target: None };
        self.create_inode(view, parent, name, &creation, caller)
    }

    /// Creates a symbolic link with a target of 1 to 4095 bytes.
    pub fn symlink(&self, view: View, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong);
        }
        let creation =
            Creation { op: Op::Symlink, kind: Kind::Symlink, perm: 0o777, umask: 0, rdev: 0, target: Some(target) };
        self.create_inode(view, parent, name, &creation, caller)
    }

    fn create_inode(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        creation: &Creation<'_>,
        caller: &Caller,
    ) -> Result<Attr> {
        let mut core = self.enter_writable(view)?;
        self.room(&mut core, ROW_BYTES)?;
        let attr = core.make(view, parent, name, creation, caller)?;
        self.queued(&mut core);
        Ok(attr)
    }

    /// Gives a further name to an inode that is no directory.
    pub fn link(&self, view: View, ino: Ino, parent: Ino, name: &[u8], caller: &Caller) -> Result<Attr> {
        let mut core = self.enter_writable(view)?;
        self.room(&mut core, ROW_BYTES)?;
        let name = core.free_name(view, parent, name)?;
        let node = core.node(view, ino)?;
        if node.row.kind == Kind::Dir {
            return Err(FsError::NotPermitted);
        }
        if node.removed {
            return Err(FsError::NotFound);
        }
        if node.row.nlink >= LINK_MAX {
            return Err(FsError::TooManyLinks);
        }
        let kind = node.row.kind;
        core.seal_file(view, ino)?;
        let from = core.path_of(view, ino).ok();
        let moment = core.moment();
        let node = core.loaded(view, ino)?;
        node.row.nlink += 1;
        node.row.ctime = moment.raw;
        node.row.process = caller.process;
        let attr = node.attr(ino);
        core.set_entry(view, moment.seq, parent, &name, Some((ino, kind)))?;
        core.emit(view, ino, moment.seq, false)?;
        core.touch_dir(view, parent, moment)?;
        let mut event = core.event(view.branch, moment, Op::Link, caller);
        event.ino = Some(ino);
        event.parent = Some(parent);
        event.name = Some(name.as_bytes().to_vec());
        event.path = Some(join(&core.dir_path(view, parent)?, &name));
        event.path2 = from;
        core.push_event(event);
        self.queued(&mut core);
        Ok(attr)
    }

    /// Removes a name of something that is no directory.
    pub fn unlink(&self, view: View, parent: Ino, name: &[u8], caller: &Caller) -> Result<()> {
        let mut core = self.enter_writable(view)?;
        let (name, ino, kind) = core.existing(view, parent, name)?;
        if kind == Kind::Dir {
            return Err(FsError::IsDir);
        }
        core.node(view, ino)?;
        core.seal_file(view, ino)?;
        let moment = core.moment();
        core.set_entry(view, moment.seq, parent, &name, None)?;
        core.drop_link(view, ino, moment, caller)?;
        core.touch_dir(view, parent, moment)?;
        core.name_event(view, moment, Op::Unlink, parent, &name, ino, caller)?;
        self.queued(&mut core);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, view: View, parent: Ino, name: &[u8], caller: &Caller) -> Result<()> {
        if name == b"." {
            return Err(FsError::Invalid);
        }
        if name == b".." {
            return Err(FsError::NotEmpty);
        }
        let mut core = self.enter_writable(view)?;
        let (name, ino, kind) = core.existing(view, parent, name)?;
        if kind != Kind::Dir {
            return Err(FsError::NotDir);
        }
        core.must_be_empty(view, ino)?;
        let moment = core.moment();
        core.set_entry(view, moment.seq, parent, &name, None)?;
        core.node(view, ino)?;
        core.retire(view, ino, moment.seq)?;
        core.loaded(view, ino)?.row.ctime = moment.raw;
        core.count_subdirs(view, parent, -1, moment)?;
        core.name_event(view, moment, Op::Rmdir, parent, &name, ino, caller)?;
        self.queued(&mut core);
        Ok(())
    }

    /// Moves an entry, within one view.
    pub fn rename(
        &self,
        view: View,
        parent: Ino,
        name: &[u8],
        parent2: Ino,
        name2: &[u8],
        mode: RenameMode,
        caller: &Caller,
    ) -> Result<()> {
        let mut core = self.enter_writable(view)?;
        let (name, ino, kind) = core.existing(view, parent, name)?;
        let name2 = Name::new(name2)?;
        let target = core.entry(view, parent2, name2.as_bytes())?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            _ => {}
        }
        if kind == Kind::Dir && core.is_below(view, parent2, ino)? {
            return Err(FsError::Invalid);
        }
        if let Some((ino2, kind2)) = target {
            if ino2 == ino {
                return Ok(()); // two names of one inode: POSIX asks for nothing
            }
            if kind2 == Kind::Dir && core.is_below(view, parent, ino2)? {
                return Err(if mode == RenameMode::Exchange { FsError::Invalid } else { FsError::NotEmpty });
            }
            if mode != RenameMode::Exchange {
                match (kind == Kind::Dir, kind2 == Kind::Dir) {
                    (true, false) => return Err(FsError::NotDir),
                    (false, true) => return Err(FsError::IsDir),
                    (true, true) => core.must_be_empty(view, ino2)?,
                    (false, false) => {}
                }
            }
        }
        core.node(view, ino)?;
        core.seal_file(view, ino)?;
        let path = join(&core.dir_path(view, parent)?, &name);
        let path2 = join(&core.dir_path(view, parent2)?, &name2);
        if let Some((ino2, _)) = target {
            core.node(view, ino2)?;
            core.seal_file(view, ino2)?;
        }
        let moment = core.moment();
        let moves = kind == Kind::Dir && parent != parent2;
        match (mode, target) {
            (RenameMode::Exchange, Some((ino2, kind2))) => {
                core.set_entry(view, moment.seq, parent, &name, Some((ino2, kind2)))?;
                core.set_entry(view, moment.seq, parent2, &name2, Some((ino, kind)))?;
                core.moved(view, ino2, kind2, parent, &name, moment, caller)?;
                let moves2 = kind2 == Kind::Dir && parent != parent2;
                let shift = i32::from(moves2) - i32::from(moves);
                core.count_subdirs(view, parent, shift, moment)?;
                core.count_subdirs(view, parent2, -shift, moment)?;
            }
            (RenameMode::Replace | RenameMode::NoReplace | RenameMode::Exchange, _) => {
                core.set_entry(view, moment.seq, parent, &name, None)?;
                core.set_entry(view, moment.seq, parent2, &name2, Some((ino, kind)))?;
                let mut lost = 0;
                if let Some((ino2, kind2)) = target {
                    if kind2 == Kind::Dir {
                        core.retire(view, ino2, moment.seq)?;
                        lost = 1;
                    } else {
                        core.drop_link(view, ino2, moment, caller)?;
                        if kind == Kind::File && kind2 == Kind::File {
                            core.loaded(view, ino)?.row.predecessor = Some(ino2);
                        }
                    }
                }
                core.count_subdirs(view, parent, -i32::from(moves), moment)?;
                core.count_subdirs(view, parent2, i32::from(moves) - lost, moment)?;
            }
        }
        core.moved(view, ino, kind, parent2, &name2, moment, caller)?;
        let op = if mode == RenameMode::Exchange { Op::Exchange } else { Op::Rename };
        let mut event = core.event(view.branch, moment, op, caller);
        event.ino = Some(ino);
        event.ino2 = target.map(|(ino2, _)| ino2);
        event.parent = Some(parent);
        event.name = Some(name.as_bytes().to_vec());
        event.parent2 = Some(parent2);
        event.name2 = Some(name2.as_bytes().to_vec());
        event.path = Some(path);
        event.path2 = Some(path2);
        core.push_event(event);
        self.queued(&mut core);
        Ok(())
    }
}

#[allow(clippy::too_many_arguments)]
impl Core {
    /// Checks that a new name can be made in a directory.
    pub fn free_name(&mut self, view: View, parent: Ino, name: &[u8]) -> Result<Name> {
        let name = match name {
            b"." | b".." => return Err(FsError::Exists),
            other => Name::new(other)?,
        };
        match self.entry(view, parent, name.as_bytes())? {
            Some(_) => Err(FsError::Exists),
            None => Ok(name),
        }
    }

    /// Finds the entry that an operation is about.
    fn existing(&mut self, view: View, parent: Ino, name: &[u8]) -> Result<(Name, Ino, Kind)> {
        let name = Name::new(name)?;
        let (ino, kind) = self.entry(view, parent, name.as_bytes())?.ok_or(FsError::NotFound)?;
        Ok((name, ino, kind))
    }

    /// Creates an inode with its first name.
    pub fn make(&mut self, view: View, parent: Ino, name: &[u8], what: &Creation<'_>, caller: &Caller) -> Result<Attr> {
        let name = self.free_name(view, parent, name)?;
        let default = self.xattr(view, parent, acl::DEFAULT)?.and_then(|bytes| Some((Acl::parse(&bytes)?, bytes)));
        let (parent_gid, parent_perm) = {
            let row = &self.loaded(view, parent)?.row;
            (row.gid, row.perm)
        };
        let path = join(&self.dir_path(view, parent)?, &name);
        let moment = self.moment();
        let mut perm = what.perm;
        let mut xattrs: Vec<(&[u8], Arc<[u8]>)> = Vec::new();
        match &default {
            Some((acl, bytes)) if what.kind != Kind::Symlink => {
                let access = acl.inherit(perm);
                perm = access.apply_to(perm);
                if !access.is_minimal() {
                    xattrs.push((acl::ACCESS, access.to_bytes().into()));
                }
                if what.kind == Kind::Dir {
                    xattrs.push((acl::DEFAULT, bytes.clone()));
                }
            }
            _ => perm &= !(what.umask as Permissions & 0o777),
        }
        let mut gid = caller.gid;
        if parent_perm & SETGID != 0 {
            gid = parent_gid;
            if what.kind == Kind::Dir {
                perm |= SETGID;
            }
        }
        let ino = self.counters.next_ino;
        self.counters.next_ino = Ino(ino.0 + 1);
        let mut row = new_row(what.kind, perm, caller.uid, gid, moment, caller);
        row.rdev = if matches!(what.kind, Kind::Char | Kind::Block) { what.rdev } else { 0 };
        if let Some(target) = what.target {
            row.size = target.len() as u64;
            row.content = Content::Inline(target.into());
        }
        let mut node = Node::fresh(row, self.generation);
        node.xattrs.get_or_insert_default().extend(xattrs.iter().map(|(n, v)| (n.to_vec(), v.clone())));
        let attr = node.attr(ino);
        self.insert_node(view, ino, node);
        self.set_entry(view, moment.seq, parent, &name, Some((ino, what.kind)))?;
        self.emit(view, ino, moment.seq, false)?;
        for (attribute, value) in xattrs {
            self.push(Mutation::Xattr {
                branch: view.branch,
                at: moment.seq,
                ino,
                name: attribute.to_vec(),
                value: Some(value),
            });
        }
        self.place(view, parent, &name, ino)?;
        if what.kind == Kind::Dir {
            self.count_subdirs(view, parent, 1, moment)?;
        } else {
            self.touch_dir(view, parent, moment)?;
        }
        let mut event = self.event(view.branch, moment, what.op, caller);
        event.ino = Some(ino);
        event.parent = Some(parent);
        event.name = Some(name.as_bytes().to_vec());
        event.path = Some(path);
        event.new = Some(format!("{:o}", attr.perm).into_bytes());
        self.push_event(event);
        Ok(attr)
    }

    fn name_event(
        &mut self,
        view: View,
        moment: Moment,
        op: Op,
        parent: Ino,
        name: &Name,
        ino: Ino,
        caller: &Caller,
    ) -> Result<()> {
        let mut event = self.event(view.branch, moment, op, caller);
        event.ino = Some(ino);
        event.parent = Some(parent);
        event.name = Some(name.as_bytes().to_vec());
        event.path = Some(join(&self.dir_path(view, parent)?, name));
        self.push_event(event);
        Ok(())
    }

    /// Takes one name from an inode; the last one takes the inode.
    fn drop_link(&mut self, view: View, ino: Ino, moment: Moment, caller: &Caller) -> Result<()> {
        let node = self.loaded(view, ino)?;
        node.row.ctime = moment.raw;
        node.row.process = caller.process;
        if node.row.nlink > 1 {
            node.row.nlink -= 1;
            self.emit(view, ino, moment.seq, false)
        } else {
            self.retire(view, ino, moment.seq)
        }
    }

    /// What rename does to the inode that moved.
    fn moved(
        &mut self,
        view: View,
        ino: Ino,
        kind: Kind,
        parent: Ino,
        name: &Name,
        moment: Moment,
        caller: &Caller,
    ) -> Result<()> {
        let node = self.node(view, ino)?;
        node.row.ctime = moment.raw;
        node.row.process = caller.process;
        self.emit(view, ino, moment.seq, false)?;
        if kind == Kind::Dir {
            self.epoch += 1;
        }
        self.place(view, parent, name, ino)
    }

    /// A directory gained or lost subdirectories (or only names, with 0): its link count is a version at once.
    pub fn count_subdirs(&mut self, view: View, dir: Ino, change: i32, moment: Moment) -> Result<()> {
        self.touch_dir(view, dir, moment)?;
        if change != 0 {
            let node = self.loaded(view, dir)?;
            node.row.nlink = node.row.nlink.saturating_add_signed(change);
            self.emit(view, dir, moment.seq, false)?;
        }
        Ok(())
    }

    fn must_be_empty(&mut self, view: View, dir: Ino) -> Result<()> {
        self.complete(view, dir)?;
        if self.loaded(view, dir)?.dir()?.entries.is_empty() { Ok(()) } else { Err(FsError::NotEmpty) }
    }

    /// Whether a directory is another one or lies below it.
    fn is_below(&mut self, view: View, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = dir;
        loop {
            if at == top {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.parent_of(view, at)?;
        }
    }
}
