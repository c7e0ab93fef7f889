//! Attributes: getattr, setattr, symlink targets, extended attributes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::acl::{self, Acl};
use super::content::CAPABILITY;
use super::core::{Core, Moment};
use super::quota::ROW_BYTES;
use super::{Engine, FsError, Handle, Result, XattrMode};
use crate::store::{Content, Mutation};
use crate::types::{Attr, Caller, Ino, Kind, Op, Permissions, SETGID, SETUID, SetAttr, SetTime, Timestamp, View};

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of Linux, in bytes.
const XATTR_SIZE_MAX: usize = 65536;
const XATTR_NAME_MAX: usize = 255;

const GROUP_EXEC: Permissions = 0o0010;

/// Clears setuid, and setgid where group execution makes it one (`setattr_should_drop_suidgid`).
pub(super) fn without_suid(perm: Permissions) -> Permissions {
    let kept = perm & !SETUID;
    if kept & GROUP_EXEC != 0 { kept & !SETGID } else { kept }
}

impl Engine {
    /// Returns the attributes of an inode; one that was removed but is still known has no links.
    pub fn getattr(&self, view: View, ino: Ino) -> Result<Attr> {
        Ok(self.enter(view)?.node(view, ino)?.attr(ino))
    }

    /// Changes attributes: each kind of change is an event. `handle` is the open file through which a
    /// truncation comes, as part of its opener's change.
    pub fn setattr(
        &self,
        view: View,
        ino: Ino,
        set: &SetAttr,
        handle: Option<Handle>,
        caller: &Caller,
    ) -> Result<Attr> {
        let mut core = self.enter_writable(view)?;
        self.throttle(&mut core)?;
        core.node(view, ino)?;
        if let Some(size) = set.size {
            core.set_size(view, ino, size, handle, caller)?;
        }
        if set.perm.is_some() || set.uid.is_some() || set.gid.is_some() || set.atime.is_some() || set.mtime.is_some() {
            core.seal_file(view, ino)?;
            core.set_owner(view, ino, set, caller)?;
            core.set_perm(view, ino, set, caller)?;
            core.set_times(view, ino, set, caller)?;
        }
        let attr = core.loaded(view, ino)?.attr(ino);
        self.queued(&mut core);
        Ok(attr)
    }

    /// Returns the target of a symbolic link.
    pub fn readlink(&self, view: View, ino: Ino) -> Result<Arc<[u8]>> {
        let mut core = self.enter(view)?;
        let row = &core.node(view, ino)?.row;
        match (&row.content, row.kind) {
            (Content::Inline(target), Kind::Symlink) => Ok(target.clone()),
            _ => Err(FsError::Invalid),
        }
    }

    /// Reads an extended attribute.
    pub fn getxattr(&self, view: View, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>> {
        self.enter(view)?.xattr(view, ino, name)?.ok_or(FsError::NoAttr)
    }

    /// Lists the names of extended attributes.
    pub fn listxattr(&self, view: View, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(self.enter(view)?.xattrs(view, ino)?.keys().cloned().collect())
    }

    /// Sets an extended attribute of up to 65,536 bytes.
    pub fn setxattr(
        &self,
        view: View,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        caller: &Caller,
    ) -> Result<()> {
        if name.len() > XATTR_NAME_MAX || name.is_empty() {
            return Err(FsError::Range);
        }
        if value.len() > XATTR_SIZE_MAX {
            return Err(FsError::TooBig);
        }
        let mut core = self.enter_writable(view)?;
        self.room(&mut core, ROW_BYTES + value.len())?;
        let old = core.xattr(view, ino, name)?;
        match (mode, &old) {
            (XattrMode::Create, Some(_)) => return Err(FsError::Exists),
            (XattrMode::Replace, None) => return Err(FsError::NoAttr),
            _ => {}
        }
        core.seal_file(view, ino)?;
        let mut stored: Option<Arc<[u8]>> = Some(value.into());
        let mut perm = None;
        if name == acl::ACCESS || name == acl::DEFAULT {
            let kind = core.loaded(view, ino)?.row.kind;
            if kind == Kind::Symlink {
                return Err(FsError::NotSupported);
            }
            if name == acl::DEFAULT && kind != Kind::Dir {
                return Err(FsError::Access);
            }
            let parsed = Acl::parse(value).ok_or(FsError::Invalid)?;
            if name == acl::ACCESS {
                perm = Some(parsed.apply_to(core.loaded(view, ino)?.row.perm));
                if parsed.is_minimal() {
                    stored = None; // permission bits say all of it
                }
            }
        }
        core.change_xattr(view, ino, Op::Setxattr, name, (old, Some(value.into()), stored), perm, caller)?;
        self.queued(&mut core);
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, view: View, ino: Ino, name: &[u8], caller: &Caller) -> Result<()> {
        let mut core = self.enter_writable(view)?;
        let old = core.xattr(view, ino, name)?;
        if old.is_none() {
            return Err(FsError::NoAttr);
        }
        core.seal_file(view, ino)?;
        core.change_xattr(view, ino, Op::Removexattr, name, (old, None, None), None, caller)?;
        self.queued(&mut core);
        Ok(())
    }
}

impl Core {
    /// Loads an inode's extended attributes.
    pub fn xattrs(&mut self, view: View, ino: Ino) -> Result<&mut BTreeMap<Vec<u8>, Arc<[u8]>>> {
        if self.node(view, ino)?.xattrs.is_none() {
            let lineage = self.tree(view)?.lineage.clone();
            let stored = self.with_reader(|txn| txn.xattrs(&lineage, ino))?;
            self.loaded(view, ino)?.xattrs = Some(stored.into_iter().collect());
        }
        Ok(self.loaded(view, ino)?.xattrs.get_or_insert_default())
    }

    pub fn xattr(&mut self, view: View, ino: Ino, name: &[u8]) -> Result<Option<Arc<[u8]>>> {
        Ok(self.xattrs(view, ino)?.get(name).cloned())
    }

    /// Sets a value in memory and queues its row; `None` removes it.
    pub fn put_xattr(
        &mut self,
        view: View,
        ino: Ino,
        at: crate::types::Seq,
        name: &[u8],
        value: Option<Arc<[u8]>>,
    ) -> Result<()> {
        let map = self.xattrs(view, ino)?;
        let known = match &value {
            Some(value) => map.insert(name.to_vec(), value.clone()),
            None => map.remove(name),
        };
        let generation = self.generation;
        self.loaded(view, ino)?.dirty = generation;
        if known.is_some() || value.is_some() {
            self.push(Mutation::Xattr { branch: view.branch, at, ino, name: name.to_vec(), value });
        }
        Ok(())
    }

    #[allow(clippy::type_complexity, clippy::too_many_arguments)]
    fn change_xattr(
        &mut self,
        view: View,
        ino: Ino,
        op: Op,
        name: &[u8],
        (old, new, stored): (Option<Arc<[u8]>>, Option<Arc<[u8]>>, Option<Arc<[u8]>>),
        perm: Option<Permissions>,
        caller: &Caller,
    ) -> Result<()> {
        let moment = self.moment();
        self.put_xattr(view, ino, moment.seq, name, stored)?;
        let node = self.loaded(view, ino)?;
        if let Some(perm) = perm {
            node.row.perm = perm;
        }
        self.attr_changed(view, ino, moment, caller, true)?;
        let mut event = self.event(view.branch, moment, op, caller);
        event.ino = Some(ino);
        event.name = Some(name.to_vec());
        event.path = self.path_of(view, ino).ok();
        event.old = old.map(|v| v.to_vec());
        event.new = new.map(|v| v.to_vec());
        self.push_event(event);
        Ok(())
    }

    fn attr_changed(&mut self, view: View, ino: Ino, moment: Moment, caller: &Caller, counts: bool) -> Result<()> {
        let node = self.loaded(view, ino)?;
        node.row.ctime = moment.raw;
        node.row.process = caller.process;
        if counts {
            node.row.attr_seq = moment.seq;
        }
        self.emit(view, ino, moment.seq, true)
    }

    fn attr_event(
        &mut self,
        view: View,
        ino: Ino,
        op: Op,
        moment: Moment,
        old: String,
        new: String,
        caller: &Caller,
    ) -> Result<()> {
        let mut event = self.event(view.branch, moment, op, caller);
        event.ino = Some(ino);
        event.path = self.path_of(view, ino).ok();
        event.old = Some(old.into_bytes());
        event.new = Some(new.into_bytes());
        self.push_event(event);
        Ok(())
    }

    fn set_owner(&mut self, view: View, ino: Ino, set: &SetAttr, caller: &Caller) -> Result<()> {
        if set.uid.is_none() && set.gid.is_none() {
            return Ok(());
        }
        let moment = self.moment();
        let row = &mut self.loaded(view, ino)?.row;
        let old = format!("{}:{}", row.uid, row.gid);
        row.uid = set.uid.unwrap_or(row.uid);
        row.gid = set.gid.unwrap_or(row.gid);
        if row.kind != Kind::Dir {
            row.perm = without_suid(row.perm);
        }
        let new = format!("{}:{}", row.uid, row.gid);
        if row.kind != Kind::Dir && self.xattr(view, ino, CAPABILITY)?.is_some() {
            self.put_xattr(view, ino, moment.seq, CAPABILITY, None)?;
        }
        self.attr_changed(view, ino, moment, caller, true)?;
        self.attr_event(view, ino, Op::Chown, moment, old, new, caller)
    }

    fn set_perm(&mut self, view: View, ino: Ino, set: &SetAttr, caller: &Caller) -> Result<()> {
        let Some(perm) = set.perm else { return Ok(()) };
        let access = self.xattr(view, ino, acl::ACCESS)?.and_then(|bytes| Acl::parse(&bytes));
        let moment = self.moment();
        if let Some(mut access) = access {
            access.chmod(perm);
            self.put_xattr(view, ino, moment.seq, acl::ACCESS, Some(access.to_bytes().into()))?;
        }
        let row = &mut self.loaded(view, ino)?.row;
        let old = format!("{:o}", row.perm);
        row.perm = perm & 0o7777;
        let new = format!("{:o}", row.perm);
        self.attr_changed(view, ino, moment, caller, true)?;
        self.attr_event(view, ino, Op::Chmod, moment, old, new, caller)
    }

    fn set_times(&mut self, view: View, ino: Ino, set: &SetAttr, caller: &Caller) -> Result<()> {
        if set.atime.is_none() && set.mtime.is_none() {
            return Ok(());
        }
        let moment = self.moment();
        let value = |time: SetTime| match time {
            SetTime::Now => moment.raw,
            SetTime::To(time) => time,
        };
        let explicit = [set.atime, set.mtime].iter().any(|t| matches!(t, Some(SetTime::To(_))));
        let show = |a: Timestamp, m: Timestamp| format!("{}:{}", a.0, m.0);
        let row = &mut self.loaded(view, ino)?.row;
        let old = show(row.atime, row.mtime);
        row.atime = set.atime.map_or(row.atime, value);
        row.mtime = set.mtime.map_or(row.mtime, value);
        let new = show(row.atime, row.mtime);
        self.attr_changed(view, ino, moment, caller, explicit)?;
        self.attr_event(view, ino, Op::Utimens, moment, old, new, caller)
    }
}
