//! Names: looking up, creating, removing and moving entries.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failed;
use super::node::NodeId;
use super::session::{Entry, LONG, Place, Tree};
use super::special::Special;
use crate::engine::{Changed, FsError, Handle, RenameMode, Result};
use crate::types::{At, Attr, Caller, Ino, Kind, Name, Op, Permissions, View};

impl Tree<'_> {
    /// Finds a name in a directory and counts the reference that the reply hands out.
    ///
    /// # Errors
    /// `NotFound`, which the kernel may remember for [`Tree::absent_for`]; `Access` where a past
    /// state is closed to the caller now.
    pub fn lookup(&self, parent: NodeId, name: &[u8], caller: &Caller) -> Result<Entry> {
        match name {
            b"." => return self.known(parent),
            b".." => return self.known(self.parent_of(parent)),
            _ => {}
        }
        if let Some(special) = self.special_name(parent, name) {
            return self.special_entry(special);
        }
        let (view, dir) = match self.place(parent)? {
            Place::Inode { view, ino, .. } => (view, ino),
            Place::Special(special) => return self.special_lookup(special, name, caller),
        };
        let guarded = self.check_past(view, dir, caller, 0o1)?;
        self.note(|reads| reads.lookup(view.branch, dir, name));
        let attr = match self.engine().lookup(view, dir, name) {
            Err(FsError::NotFound) => {
                match self.history_name(view, dir, name).or_else(|| self.conflicts_name(parent, view, name)) {
                    Some(special) => return self.special_entry(special),
                    None => return Err(FsError::NotFound),
                }
            }
            found => found?,
        };
        let open = !guarded && !self.is_guarded(view, &attr)?;
        self.entry(parent.slot(), view, attr, if open { LONG } else { Duration::ZERO })
    }

    /// Finds a node by its number, for who comes with a file handle (name_to_handle_at(2), an NFS server).
    fn known(&self, node: NodeId) -> Result<Entry> {
        match self.place(node)? {
            Place::Special(special) => self.special_entry(special),
            Place::Inode { view, ino, .. } => {
                let attr = self.engine().getattr(view, ino)?;
                if attr.nlink == 0 {
                    return Err(FsError::NotFound);
                }
                self.entry(node.slot(), view, self.guarded(node, attr), LONG)
            }
        }
    }

    /// How long the kernel may remember that a name is absent in a directory.
    pub fn absent_for(&self, parent: NodeId) -> Duration {
        match self.place(parent) {
            Ok(Place::Inode { .. }) => LONG,
            Ok(Place::Special(_)) | Err(_) => Duration::ZERO,
        }
    }

    fn target(&self, parent: NodeId, name: &[u8]) -> Result<(View, Ino)> {
        if self.special_name(parent, name).is_some() {
            return Err(FsError::Exists);
        }
        self.writable(parent)
    }

    fn victim(&self, parent: NodeId, name: &[u8]) -> Result<(View, Ino)> {
        if self.special_name(parent, name).is_some() {
            return Err(FsError::NotPermitted);
        }
        self.writable(parent)
    }

    /// Tells other views of the branch that an entry, and perhaps an inode, changed.
    fn entry_changed(&self, view: View, parent: NodeId, dir: Ino, name: &[u8], child: Option<Ino>) {
        let session = self.session;
        if !session.vfs.is_shared(session) {
            return;
        }
        let Ok(name) = Name::new(name) else { return };
        session.vfs.spread(Some((session.id, parent)), view.branch, &Changed::Entry { parent: dir, name });
        if let Some(ino) = child {
            session.vfs.spread(None, view.branch, &Changed::Inode { ino, data: false });
        }
    }

    /// The inode of a name that is about to go, where other views must hear of it.
    fn before(&self, view: View, dir: Ino, name: &[u8]) -> Option<Ino> {
        if !self.session.vfs.is_shared(self.session) {
            return None;
        }
        self.engine().lookup(view, dir, name).ok().map(|attr| attr.ino)
    }

    fn made(&self, parent: NodeId, view: View, dir: Ino, name: &[u8], attr: Attr) -> Result<Entry> {
        self.entry_changed(view, parent, dir, name, None);
        self.entry(parent.slot(), view, attr, LONG)
    }

    /// Creates a file, FIFO, socket or device node.
    ///
    /// # Errors
    /// As mknod(2).
    #[allow(clippy::too_many_arguments)] // mknod(2) has them
    pub fn mknod(
        &self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        perm: Permissions,
        umask: u32,
        rdev: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let done = (|| {
            let (view, dir) = self.target(parent, name)?;
            let attr = self.engine().mknod(view, dir, name, kind, perm, umask, rdev, caller)?;
            self.made(parent, view, dir, name, attr)
        })();
        self.noted(if kind == Kind::File { Op::Create } else { Op::Mknod }, Failed::name(parent, name), caller, done)
    }

    /// Creates a directory; in the directory of branches, a branch.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(&self, parent: NodeId, name: &[u8], perm: Permissions, umask: u32, caller: &Caller) -> Result<Entry> {
        let done = (|| {
            if let Place::Special(Special::Branches) = self.place(parent)? {
                return self.create_branch(name, caller);
            }
            let (view, dir) = self.target(parent, name)?;
            let attr = self.engine().mkdir(view, dir, name, perm, umask, caller)?;
            self.made(parent, view, dir, name, attr)
        })();
        self.noted(Op::Mkdir, Failed::name(parent, name), caller, done)
    }

    /// Creates a symbolic link.
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(&self, parent: NodeId, name: &[u8], target: &[u8], caller: &Caller) -> Result<Entry> {
        let done = (|| {
            let (view, dir) = self.target(parent, name)?;
            let attr = self.engine().symlink(view, dir, name, target, caller)?;
            self.made(parent, view, dir, name, attr)
        })();
        self.noted(Op::Symlink, Failed::name(parent, name), caller, done)
    }

    /// Gives an inode a further name, in a directory of the same view.
    ///
    /// # Errors
    /// As link(2); `CrossView` between views.
    pub fn link(&self, node: NodeId, parent: NodeId, name: &[u8], caller: &Caller) -> Result<Entry> {
        let done = (|| {
            let (view, dir) = self.target(parent, name)?;
            let (from, ino) = self.inode(node)?;
            if from != view {
                return Err(FsError::CrossView);
            }
            let attr = self.engine().link(view, ino, dir, name, caller)?;
            self.entry_changed(view, parent, dir, name, Some(ino));
            self.entry(parent.slot(), view, attr, LONG)
        })();
        self.noted(Op::Link, Failed::name(parent, name), caller, done)
    }

    /// Removes a name.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, parent: NodeId, name: &[u8], caller: &Caller) -> Result<()> {
        let done = (|| {
            let (view, dir) = self.victim(parent, name)?;
            let child = self.before(view, dir, name);
            self.engine().unlink(view, dir, name, caller)?;
            self.entry_changed(view, parent, dir, name, child);
            Ok(())
        })();
        self.noted(Op::Unlink, Failed::name(parent, name), caller, done)
    }

    /// Removes an empty directory; in the directory of branches, drops a branch.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, parent: NodeId, name: &[u8], caller: &Caller) -> Result<()> {
        let done = (|| {
            if let Place::Special(Special::Branches) = self.place(parent)? {
                return self.drop_branch(name, caller);
            }
            let (view, dir) = self.victim(parent, name)?;
            self.engine().rmdir(view, dir, name, caller)?;
            self.entry_changed(view, parent, dir, name, None);
            Ok(())
        })();
        self.noted(Op::Rmdir, Failed::name(parent, name), caller, done)
    }

    /// Moves an entry within one view.
    ///
    /// # Errors
    /// As renameat2(2); `CrossView` between views, and for a directory between two ways to see one branch.
    #[allow(clippy::too_many_arguments)] // renameat2(2) has them
    pub fn rename(
        &self,
        parent: NodeId,
        name: &[u8],
        parent2: NodeId,
        name2: &[u8],
        mode: RenameMode,
        caller: &Caller,
    ) -> Result<()> {
        let done = (|| {
            let (view, dir) = self.victim(parent, name)?;
            let (view2, dir2) = self.victim(parent2, name2)?;
            if view != view2 {
                return Err(FsError::CrossView);
            }
            if parent.slot() != parent2.slot() {
                let moves_dir =
                    |dir, name: &[u8]| self.engine().lookup(view, dir, name).map(|attr| attr.kind == Kind::Dir);
                if moves_dir(dir, name)? || (mode == RenameMode::Exchange && moves_dir(dir2, name2)?) {
                    return Err(FsError::CrossView);
                }
            }
            let (child, child2) = (self.before(view, dir, name), self.before(view, dir2, name2));
            self.engine().rename(view, dir, name, dir2, name2, mode, caller)?;
            self.entry_changed(view, parent, dir, name, child);
            self.entry_changed(view, parent2, dir2, name2, child2);
            Ok(())
        })();
        self.noted(
            if mode == RenameMode::Exchange { Op::Exchange } else { Op::Rename },
            Failed::name(parent, name).to(parent2, name2),
            caller,
            done,
        )
    }

    /// Reads a symbolic link.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn readlink(&self, node: NodeId, caller: &Caller) -> Result<Arc<[u8]>> {
        let (view, ino) = self.inode(node)?;
        self.check_past(view, ino, caller, 0)?;
        self.note(|reads| reads.content(view.branch, ino));
        self.engine().readlink(view, ino)
    }

    /// Creates and opens a file.
    ///
    /// # Errors
    /// As open(2) with `O_CREAT | O_EXCL`.
    #[allow(clippy::too_many_arguments)] // open(2) has them
    pub fn create(
        &self,
        parent: NodeId,
        name: &[u8],
        perm: Permissions,
        umask: u32,
        flags: i32,
        caller: &Caller,
    ) -> Result<(Entry, Handle)> {
        let done = (|| {
            let (view, dir) = self.target(parent, name)?;
            let (attr, handle) = self.engine().create(view, dir, name, perm, umask, flags, caller)?;
            let entry = self.made(parent, view, dir, name, attr)?;
            self.opened(entry.node, handle, flags);
            Ok((entry, handle))
        })();
        self.noted(Op::Create, Failed::name(parent, name), caller, done)
    }

    /// Whether names of a directory may be remembered although past states differ from the present.
    pub(super) fn keeps_names(&self, view: View, attr: &Attr) -> Result<bool> {
        Ok(view.at == At::Live || !self.is_guarded(view, attr)?)
    }

    /// The number that `..` of a directory shows.
    pub(super) fn parent_of(&self, node: NodeId) -> NodeId {
        match self.place(node) {
            Ok(Place::Inode { view, ino, .. }) if ino != Ino::ROOT => {
                self.engine().parent(view, ino).map_or(node, |parent| NodeId::new(node.slot(), parent))
            }
            Ok(Place::Inode { .. } | Place::Special(_)) | Err(_) => NodeId::ROOT,
        }
    }
}
