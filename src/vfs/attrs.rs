//! Attributes: stat, chmod, chown, truncate, utimens and extended attributes.

use std::sync::Arc;
use std::time::Duration;

use super::access::{ACL, is_in_group};
use super::failure::Failed;
use super::node::NodeId;
use super::session::{Place, SHORT, Tree};
use crate::engine::{Changed, FsError, Handle, Result, Statfs, XattrMode};
use crate::types::{Attr, Caller, Ino, Op, SETGID, SetAttr, View};

impl Tree<'_> {
    /// The attributes of a node, and how long the kernel may keep them.
    ///
    /// # Errors
    /// As fstat(2); `NotFound` for a directory that the branch shown now lacks.
    pub fn getattr(&self, node: NodeId) -> Result<(Attr, Duration)> {
        match self.place(node)? {
            Place::Inode { view, ino, .. } => {
                let attr = self.guarded(node, self.engine().getattr(view, ino)?);
                self.note(|reads| reads.attrs(view.branch, ino));
                let keep = self.attr_for(&attr);
                Ok((self.shown(attr), keep))
            }
            Place::Special(special) => Ok((self.special_attr(special)?, SHORT)),
        }
    }

    /// Tells other views of the branch that an inode changed.
    pub(super) fn inode_changed(&self, node: NodeId, view: View, ino: Ino, data: bool) {
        let session = self.session;
        if session.vfs.is_shared(session) {
            session.vfs.spread(Some((session.id, node)), view.branch, &Changed::Inode { ino, data });
        }
    }

    /// Changes attributes. Returns them, and how long the kernel may keep them.
    ///
    /// # Errors
    /// As chmod(2), chown(2), truncate(2) and utimensat(2).
    pub fn setattr(
        &self,
        node: NodeId,
        set: &SetAttr,
        handle: Option<Handle>,
        caller: &Caller,
    ) -> Result<(Attr, Duration)> {
        let done = self.try_setattr(node, set, handle, caller);
        let op = match set {
            SetAttr { size: Some(_), .. } => Op::Truncate,
            SetAttr { perm: Some(_), .. } => Op::Chmod,
            SetAttr { uid: Some(_), .. } | SetAttr { gid: Some(_), .. } => Op::Chown,
            SetAttr { .. } => Op::Utimens,
        };
        self.noted(op, Failed::of(node), caller, done)
    }

    fn try_setattr(
        &self,
        node: NodeId,
        set: &SetAttr,
        handle: Option<Handle>,
        caller: &Caller,
    ) -> Result<(Attr, Duration)> {
        let (view, ino) = self.writable(node)?;
        if ino == Ino::ROOT
            && self.guarded(node, self.engine().getattr(view, ino)?).uid != caller.uid
            && caller.uid != 0
        {
            return Err(FsError::NotPermitted);
        }
        let attr = self.engine().setattr(view, ino, set, handle, caller)?;
        self.inode_changed(node, view, ino, set.size.is_some());
        if set.perm.is_some() || set.uid.is_some() || set.gid.is_some() {
            self.session.vfs.spread_guard(view.branch, ino);
        }
        let keep = self.attr_for(&attr);
        Ok((self.shown(self.guarded(node, attr)), keep))
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// As getxattr(2).
    pub fn getxattr(&self, node: NodeId, name: &[u8], caller: &Caller) -> Result<Arc<[u8]>> {
        match self.place(node)? {
            Place::Inode { view, ino, .. } => {
                if !name.starts_with(b"system.") && !name.starts_with(b"security.") {
                    self.check_past(view, ino, caller, 0o4)?;
                }
                self.note(|reads| reads.attrs(view.branch, ino));
                self.engine().getxattr(view, ino, name)
            }
            Place::Special(_) => Err(FsError::NoAttr),
        }
    }

    /// Lists the names of extended attributes; `trusted.` ones for root only, as disks do.
    ///
    /// # Errors
    /// As listxattr(2).
    pub fn listxattr(&self, node: NodeId, caller: &Caller) -> Result<Vec<Vec<u8>>> {
        match self.place(node)? {
            Place::Inode { view, ino, .. } => {
                let mut names = self.engine().listxattr(view, ino)?;
                names.retain(|name| caller.uid == 0 || !name.starts_with(b"trusted."));
                Ok(names)
            }
            Place::Special(_) => Ok(Vec::new()),
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// As setxattr(2).
    pub fn setxattr(&self, node: NodeId, name: &[u8], value: &[u8], mode: XattrMode, caller: &Caller) -> Result<()> {
        let done = self.writable(node).and_then(|(view, ino)| {
            self.engine().setxattr(view, ino, name, value, mode, caller)?;
            if name == ACL {
                self.drop_setgid(view, ino, caller)?;
            }
            self.xattr_changed(node, view, ino, name);
            Ok(())
        });
        self.noted(Op::Setxattr, Failed::of(node), caller, done)
    }

    /// Takes setgid away from what somebody outside of its group gives other permissions by an ACL, as chmod(2) does. The
    /// kernel would say when, but the binding does not pass it on (`FUSE_SETXATTR_EXT`).
    fn drop_setgid(&self, view: View, ino: Ino, caller: &Caller) -> Result<()> {
        let attr = self.engine().getattr(view, ino)?;
        if attr.perm & SETGID == 0 || caller.uid == 0 || is_in_group(caller, attr.gid) {
            return Ok(());
        }
        let set = SetAttr { perm: Some(attr.perm & !SETGID), ..SetAttr::default() };
        self.engine().setattr(view, ino, &set, None, caller)?;
        Ok(())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As removexattr(2).
    pub fn removexattr(&self, node: NodeId, name: &[u8], caller: &Caller) -> Result<()> {
        let done = self.writable(node).and_then(|(view, ino)| {
            self.engine().removexattr(view, ino, name, caller)?;
            self.xattr_changed(node, view, ino, name);
            Ok(())
        });
        self.noted(Op::Removexattr, Failed::of(node), caller, done)
    }

    fn xattr_changed(&self, node: NodeId, view: View, ino: Ino, name: &[u8]) {
        self.inode_changed(node, view, ino, false);
        if name.starts_with(b"system.posix_acl") {
            self.session.vfs.spread_guard(view.branch, ino);
        }
    }

    /// Totals of the file system.
    ///
    /// # Errors
    /// As statfs(2).
    pub fn statfs(&self) -> Result<Statfs> {
        self.engine().statfs()
    }
}
