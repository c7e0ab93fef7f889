//! One tree of the reference: inodes in a map, POSIX as Linux's ext4 does it, nothing clever.
//!
//! Calls that fail return every errno that applies: where two rules are broken at once the order in
//! which an implementation looks at them is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use stonefs::engine::{Fallocate, RenameMode, XattrMode};
use stonefs::types::{Attr, Caller, Ino, Kind, Permissions, SetAttr, SetTime, Timestamp};

use crate::acl::{self, Acl};
use crate::content::Content;

/// The errnos of which a refused call may report any.
pub type Refusal = Vec<i32>;
/// What reference calls return.
pub type Outcome<T> = Result<T, Refusal>;

/// The largest size of a file.
pub const SIZE_MAX: u64 = i64::MAX as u64;
/// More bytes than the disk of any test has.
const DISK: u64 = 1 << 38;
const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;

/// What an inode holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Content),
    Dir { parent: Ino, entries: BTreeMap<Vec<u8>, Ino> },
    Symlink(Vec<u8>),
    Special,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub perm: Permissions,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
    /// The number of this state of the content; the history keeps which of them were sealed.
    pub version: u64,
    /// The number of this state of mode, owner, xattrs and times set explicitly.
    pub attrs: u64,
    /// The files whose names it took by being renamed over them, the newest first, with those that they had replaced.
    pub replaced: Vec<Ino>,
    /// Contents since the last sealed one (that one included) that a past state may show instead of `body`.
    pub earlier: Vec<Content>,
}

/// A tree: every inode that has a name or is open.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree {
    pub nodes: BTreeMap<Ino, Node>,
    /// How many handles are open on an inode.
    pub opens: BTreeMap<Ino, u32>,
}

/// Numbers a state that has not been before.
pub fn fresh() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// What a refused call collects.
#[derive(Default)]
struct Faults(Refusal);

impl Faults {
    fn when(&mut self, broken: bool, errno: i32) {
        if broken {
            self.0.push(errno);
        }
    }

    fn check(self) -> Outcome<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// Who makes a new inode, when, and with which number.
#[derive(Clone, Copy)]
pub struct Birth<'a> {
    pub ino: Ino,
    pub now: Timestamp,
    pub caller: &'a Caller,
    pub perm: Permissions,
    pub umask: u32,
}

fn name_faults(name: &[u8], faults: &mut Faults) {
    faults.when(name.len() > 255, libc::ENAMETOOLONG);
    let bad = name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, b'/' | 0));
    faults.when(bad, libc::EINVAL);
    if name == b"." || name == b".." {
        // Each call has a word of its own for these.
        faults.0.extend([libc::EEXIST, libc::ENOTEMPTY, libc::EBUSY]);
    }
}

impl Node {
    /// Numbers content and attributes anew where they differ from what the inode was.
    pub fn stamp(&mut self, old: Option<&Node>) {
        let same_content = old.is_some_and(|old| (&old.body, old.rdev) == (&self.body, self.rdev));
        let same_attributes = old.is_some_and(|old| {
            (old.perm, old.uid, old.gid, &old.xattrs) == (self.perm, self.uid, self.gid, &self.xattrs)
        });
        let number = |same: bool, old: Option<u64>| old.filter(|_| same).unwrap_or_else(fresh);
        // A directory has no content: its names are counted one by one, also when it comes back.
        self.version = if self.kind == Kind::Dir { 0 } else { number(same_content, old.map(|old| old.version)) };
        self.attrs = number(same_attributes, old.map(|old| old.attrs));
        self.earlier.clear();
    }
}

impl Tree {
    /// A tree of nothing but the root.
    pub fn new(root: Node) -> Tree {
        Tree { nodes: BTreeMap::from([(Ino::ROOT, root)]), opens: BTreeMap::new() }
    }

    pub fn node(&self, ino: Ino) -> Outcome<&Node> {
        self.nodes.get(&ino).ok_or_else(|| vec![libc::ENOENT, libc::ESTALE])
    }

    pub fn get(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("the caller looked")
    }

    pub fn entries(&self, dir: Ino) -> Outcome<&BTreeMap<Vec<u8>, Ino>> {
        match &self.node(dir)?.body {
            Body::Dir { entries, .. } => Ok(entries),
            Body::File(_) | Body::Symlink(_) | Body::Special => Err(vec![libc::ENOTDIR]),
        }
    }

    pub fn entries_mut(&mut self, dir: Ino) -> &mut BTreeMap<Vec<u8>, Ino> {
        match &mut self.get(dir).body {
            Body::Dir { entries, .. } => entries,
            Body::File(_) | Body::Symlink(_) | Body::Special => panic!("{dir} is no directory"),
        }
    }

    pub fn parent(&self, dir: Ino) -> Outcome<Ino> {
        match &self.node(dir)?.body {
            Body::Dir { parent, .. } => Ok(*parent),
            Body::File(_) | Body::Symlink(_) | Body::Special => Err(vec![libc::ENOTDIR]),
        }
    }

    pub fn is_dir(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.kind == Kind::Dir)
    }

    /// Whether an inode can be reached by a name.
    pub fn is_named(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.is_dir(ino) || self.nlink(ino) > 0
    }

    /// The directories that the root leads to.
    pub fn reachable(&self) -> BTreeSet<Ino> {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![Ino::ROOT];
        while let Some(dir) = waiting.pop() {
            if let Ok(entries) = self.entries(dir)
                && reached.insert(dir)
            {
                waiting.extend(entries.values());
            }
        }
        reached
    }

    /// Counts names by looking at all of them.
    pub fn nlink(&self, ino: Ino) -> u32 {
        let dirs = self.nodes.values().filter_map(|node| match &node.body {
            Body::Dir { entries, .. } => Some(entries),
            Body::File(_) | Body::Symlink(_) | Body::Special => None,
        });
        match self.nodes.get(&ino).map(|node| &node.body) {
            Some(Body::Dir { entries, .. }) => 2 + entries.values().filter(|&&child| self.is_dir(child)).count() as u32,
            _ => dirs.flat_map(|entries| entries.values()).filter(|&&named| named == ino).count() as u32,
        }
    }

    pub fn attr(&self, ino: Ino) -> Outcome<Attr> {
        let node = self.node(ino)?;
        Ok(Attr {
            ino,
            kind: node.kind,
            perm: node.perm,
            uid: node.uid,
            gid: node.gid,
            nlink: self.nlink(ino),
            size: match &node.body {
                Body::File(content) => content.size(),
                Body::Symlink(target) => target.len() as u64,
                Body::Dir { .. } | Body::Special => 0,
            },
            blocks: 0,
            rdev: node.rdev,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
            btime: node.btime,
        })
    }

    fn entry(&self, parent: Ino, name: &[u8], faults: &mut Faults) -> Option<Ino> {
        match self.entries(parent) {
            Ok(entries) => entries.get(name).copied(),
            Err(refusal) => {
                faults.0.extend(refusal);
                None
            }
        }
    }

    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Outcome<Ino> {
        let mut faults = Faults::default();
        name_faults(name, &mut faults);
        let found = self.entry(parent, name, &mut faults);
        faults.when(found.is_none(), libc::ENOENT);
        faults.check()?;
        Ok(found.expect("looked"))
    }

    /// Every path of an inode.
    pub fn paths(&self, ino: Ino) -> Vec<Vec<u8>> {
        if ino == Ino::ROOT {
            return vec![b"/".to_vec()];
        }
        let mut found = Vec::new();
        for (&dir, node) in &self.nodes {
            let Body::Dir { entries, .. } = &node.body else { continue };
            for (name, _) in entries.iter().filter(|&(_, &named)| named == ino) {
                for mut path in self.paths(dir) {
                    if path != b"/" {
                        path.push(b'/');
                    }
                    path.extend(name);
                    found.push(path);
                }
            }
        }
        found
    }

    /// Every path with its inode, in one line.
    pub fn show(&self) -> String {
        let mut lines = Vec::new();
        for (&ino, node) in &self.nodes {
            let what = match &node.body {
                Body::File(content) => format!("{content:?}"),
                Body::Dir { .. } | Body::Symlink(_) | Body::Special => String::new(),
            };
            for path in self.paths(ino) {
                let owner = (node.uid, node.gid, node.xattrs.len());
                let path = path.escape_ascii();
                lines
                    .push(format!("{path}:{ino} {:?} {:o} {owner:?} {what} {:?}", node.kind, node.perm, node.replaced));
            }
        }
        lines.sort();
        lines.join("; ")
    }

    fn touch(&mut self, dir: Ino, now: Timestamp) {
        let node = self.get(dir);
        node.mtime = now;
        node.ctime = now;
    }

    // ---- names ---------------------------------------------------------------------------------

    /// Makes an inode with its first name.
    pub fn make(&mut self, parent: Ino, name: &[u8], kind: Kind, rdev: u32, body: Body, birth: &Birth) -> Outcome<()> {
        let mut faults = Faults::default();
        name_faults(name, &mut faults);
        let found = self.entry(parent, name, &mut faults);
        faults.when(found.is_some(), libc::EEXIST);
        faults.check()?;
        let mut perm = birth.perm & 0o7777;
        let mut xattrs = BTreeMap::new();
        let above = &self.nodes[&parent];
        match above.xattrs.get(acl::DEFAULT) {
            _ if kind == Kind::Symlink => perm = 0o777,
            Some(default) => {
                let mut inherited = Acl::parse(default).expect("only valid ones are kept");
                perm = perm & 0o7000 | inherited.inherit(perm);
                if !inherited.is_minimal() {
                    xattrs.insert(acl::ACCESS.to_vec(), inherited.bytes());
                }
                if kind == Kind::Dir {
                    xattrs.insert(acl::DEFAULT.to_vec(), default.clone());
                }
            }
            None => perm &= !(birth.umask as u16 & 0o777),
        }
        let mut gid = birth.caller.gid;
        if above.perm & SGID != 0 {
            gid = above.gid;
            if kind == Kind::Dir {
                perm |= SGID;
            }
        }
        let now = birth.now;
        let device = matches!(kind, Kind::Char | Kind::Block);
        let node = Node {
            kind,
            perm,
            uid: birth.caller.uid,
            gid,
            rdev: if device { rdev } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs,
            body,
            version: 0,
            attrs: 0,
            replaced: Vec::new(),
            earlier: Vec::new(),
        };
        self.nodes.insert(birth.ino, node);
        self.entries_mut(parent).insert(name.to_vec(), birth.ino);
        self.touch(parent, now);
        Ok(())
    }

    pub fn symlink(&mut self, parent: Ino, name: &[u8], target: &[u8], birth: &Birth) -> Outcome<()> {
        let mut faults = Faults::default();
        faults.when(target.is_empty(), libc::ENOENT);
        faults.when(target.is_empty(), libc::EINVAL);
        faults.when(target.len() > 4095, libc::ENAMETOOLONG);
        name_faults(name, &mut faults);
        let found = self.entry(parent, name, &mut faults);
        faults.when(found.is_some(), libc::EEXIST);
        faults.check()?;
        self.make(parent, name, Kind::Symlink, 0, Body::Symlink(target.to_vec()), birth)
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, name: &[u8], now: Timestamp) -> Outcome<()> {
        let mut faults = Faults::default();
        name_faults(name, &mut faults);
        let found = self.entry(parent, name, &mut faults);
        faults.when(found.is_some(), libc::EEXIST);
        match self.node(ino) {
            Ok(node) => {
                faults.when(node.kind == Kind::Dir, libc::EPERM);
                faults.when(node.kind != Kind::Dir && self.nlink(ino) == 0, libc::ENOENT);
            }
            Err(stale) => faults.0.extend(stale),
        }
        faults.check()?;
        self.entries_mut(parent).insert(name.to_vec(), ino);
        self.touch(parent, now);
        self.get(ino).ctime = now;
        Ok(())
    }

    /// Forgets an inode that has neither a name nor a handle.
    pub fn reap(&mut self, ino: Ino) {
        let open = self.opens.get(&ino).is_some_and(|&count| count > 0);
        if ino != Ino::ROOT && !self.is_dir(ino) && !open && self.nlink(ino) == 0 {
            self.nodes.remove(&ino);
        }
    }

    /// Forgets all of them, with their handles, as a crash or a new mount does.
    pub fn reap_all(&mut self) {
        self.opens.clear();
        for ino in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.reap(ino);
        }
    }

    pub fn unlink(&mut self, parent: Ino, name: &[u8], now: Timestamp) -> Outcome<Ino> {
        let ino = self.lookup(parent, name)?;
        if self.is_dir(ino) {
            return Err(vec![libc::EISDIR]);
        }
        self.entries_mut(parent).remove(name);
        self.touch(parent, now);
        self.get(ino).ctime = now;
        self.reap(ino);
        Ok(ino)
    }

    pub fn rmdir(&mut self, parent: Ino, name: &[u8], now: Timestamp) -> Outcome<Ino> {
        let ino = self.lookup(parent, name)?;
        if !self.entries(ino)?.is_empty() {
            return Err(vec![libc::ENOTEMPTY]);
        }
        self.entries_mut(parent).remove(name);
        self.touch(parent, now);
        self.nodes.remove(&ino);
        Ok(ino)
    }

    /// Tells whether `dir` is `above` or lies below it.
    fn within(&self, dir: Ino, above: Ino) -> bool {
        let mut at = dir;
        loop {
            if at == above {
                return true;
            }
            match self.parent(at) {
                Ok(parent) if at != Ino::ROOT => at = parent,
                _ => return false,
            }
        }
    }

    /// Renames; returns the inodes that the two names were, or `None` where nothing is to be done.
    pub fn rename(
        &mut self,
        parent: Ino,
        name: &[u8],
        parent2: Ino,
        name2: &[u8],
        mode: RenameMode,
        now: Timestamp,
    ) -> Outcome<Option<(Ino, Option<Ino>)>> {
        let mut faults = Faults::default();
        name_faults(name, &mut faults);
        name_faults(name2, &mut faults);
        let (from, to) = (self.entries(parent), self.entries(parent2));
        for side in [&from, &to] {
            if let Err(refusal) = side {
                faults.0.extend(refusal);
            }
        }
        let source = from.ok().and_then(|entries| entries.get(name).copied());
        let target = to.ok().and_then(|entries| entries.get(name2).copied());
        faults.when(source.is_none(), libc::ENOENT);
        faults.when(mode == RenameMode::NoReplace && target.is_some(), libc::EEXIST);
        faults.when(mode == RenameMode::Exchange && target.is_none(), libc::ENOENT);
        let same = source == target;
        if let Some(source) = source {
            faults.when(self.within(parent2, source), libc::EINVAL);
        }
        if let (Some(source), Some(target), false) = (source, target, same) {
            let around = self.is_dir(target) && self.within(parent, target);
            if mode == RenameMode::Exchange {
                faults.when(around, libc::EINVAL);
            } else {
                faults.when(around, libc::ENOTEMPTY);
                match (self.is_dir(source), self.is_dir(target)) {
                    (true, false) => faults.when(true, libc::ENOTDIR),
                    (false, true) => faults.when(true, libc::EISDIR),
                    (true, true) => faults.when(!self.entries(target)?.is_empty(), libc::ENOTEMPTY),
                    (false, false) => {}
                }
            }
        }
        faults.check()?;
        let source = source.expect("looked");
        if same {
            return Ok(None);
        }
        self.entries_mut(parent).remove(name);
        self.entries_mut(parent2).insert(name2.to_vec(), source);
        self.moved(source, parent2, now);
        self.touch(parent, now);
        self.touch(parent2, now);
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                self.entries_mut(parent).insert(name.to_vec(), target);
                self.moved(target, parent, now);
            } else if self.is_dir(target) {
                self.nodes.remove(&target);
            } else {
                self.get(target).ctime = now;
                if [source, target].iter().all(|ino| self.nodes[ino].kind == Kind::File) {
                    let mut replaced = vec![target];
                    replaced.extend_from_slice(&self.nodes[&target].replaced);
                    self.get(source).replaced = replaced;
                }
                self.reap(target);
            }
        }
        Ok(Some((source, target)))
    }

    fn moved(&mut self, ino: Ino, to: Ino, now: Timestamp) {
        let node = self.get(ino);
        node.ctime = now;
        if let Body::Dir { parent, .. } = &mut node.body {
            *parent = to;
        }
    }

    // ---- attributes ----------------------------------------------------------------------------

    /// Clears what a change of content clears: setuid, setgid where the group may execute, capabilities.
    pub fn kill_privileges(node: &mut Node, suid: bool) {
        node.xattrs.remove(&b"security.capability"[..]);
        if suid {
            node.perm &= !SUID;
            if node.perm & 0o010 != 0 {
                node.perm &= !SGID;
            }
        }
    }

    pub fn setattr(&mut self, ino: Ino, set: &SetAttr, caller: &Caller, now: Timestamp) -> Outcome<()> {
        let kind = self.node(ino)?.kind;
        if let Some(size) = set.size {
            let mut faults = Faults::default();
            faults.when(kind == Kind::Dir, libc::EISDIR);
            faults.when(kind != Kind::Dir && kind != Kind::File, libc::EINVAL);
            faults.when(size > SIZE_MAX, libc::EFBIG);
            faults.check()?;
        }
        if *set == SetAttr::default() {
            return Ok(());
        }
        let node = self.get(ino);
        if set.uid.is_some() || set.gid.is_some() {
            node.uid = set.uid.unwrap_or(node.uid);
            node.gid = set.gid.unwrap_or(node.gid);
            if kind != Kind::Dir {
                Tree::kill_privileges(node, true);
            }
        }
        if let Some(perm) = set.perm {
            node.perm = perm & 0o7777;
            if let Some(value) = node.xattrs.get_mut(acl::ACCESS) {
                let mut access = Acl::parse(value).expect("only valid ones are kept");
                access.chmod(perm);
                *value = access.bytes();
            }
        }
        if let Some(size) = set.size {
            self.truncate(ino, size, caller, now);
        }
        let node = self.get(ino);
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        node.atime = set.atime.map_or(node.atime, time);
        node.mtime = set.mtime.map_or(node.mtime, time);
        node.ctime = now;
        let explicit = [set.atime, set.mtime].iter().any(|time| matches!(time, Some(SetTime::To(_))));
        if set.perm.is_some() || set.uid.is_some() || set.gid.is_some() || explicit {
            node.attrs = fresh();
        }
        Ok(())
    }

    /// Sets the size as open with `O_TRUNC` and ftruncate do.
    pub fn truncate(&mut self, ino: Ino, size: u64, caller: &Caller, now: Timestamp) {
        let suid = caller.uid != 0;
        self.change(ino, suid, now, |content| content.resize(size));
    }

    fn change(&mut self, ino: Ino, suid: bool, now: Timestamp, how: impl FnOnce(&mut Content)) {
        let node = self.get(ino);
        Tree::kill_privileges(node, suid);
        node.mtime = now;
        node.ctime = now;
        node.version = fresh();
        match &mut node.body {
            Body::File(content) => {
                node.earlier.push(content.clone());
                how(content);
            }
            Body::Dir { .. } | Body::Symlink(_) | Body::Special => panic!("{ino} is no file"),
        }
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Outcome<&[u8]> {
        self.node(ino)?.xattrs.get(name).map(Vec::as_slice).ok_or_else(|| vec![libc::ENODATA])
    }

    pub fn setxattr(&mut self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode, now: Timestamp) -> Outcome<()> {
        let mut faults = Faults::default();
        faults.when(value.len() > 65536, libc::E2BIG);
        let node = self.node(ino).map_err(|mut stale| {
            stale.extend(&faults.0);
            stale
        })?;
        let exists = node.xattrs.contains_key(name);
        faults.when(mode == XattrMode::Create && exists, libc::EEXIST);
        faults.when(mode == XattrMode::Replace && !exists, libc::ENODATA);
        faults.when(name.is_empty() || name.len() > 255, libc::ERANGE);
        let access = name == acl::ACCESS;
        let parsed = if access || name == acl::DEFAULT {
            let parsed = Acl::parse(value);
            faults.when(parsed.is_none(), libc::EINVAL);
            faults.when(node.kind == Kind::Symlink, libc::EOPNOTSUPP);
            faults.when(!access && node.kind != Kind::Dir, libc::EACCES);
            parsed
        } else {
            None
        };
        faults.check()?;
        let node = self.get(ino);
        node.ctime = now;
        node.attrs = fresh();
        match parsed {
            Some(acl) if access => {
                node.perm = node.perm & 0o7000 | acl.mode();
                if acl.is_minimal() {
                    node.xattrs.remove(name);
                } else {
                    node.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
            Some(_) | None => drop(node.xattrs.insert(name.to_vec(), value.to_vec())),
        }
        Ok(())
    }

    pub fn removexattr(&mut self, ino: Ino, name: &[u8], now: Timestamp) -> Outcome<()> {
        self.getxattr(ino, name)?;
        let node = self.get(ino);
        node.xattrs.remove(name);
        node.ctime = now;
        node.attrs = fresh();
        Ok(())
    }

    // ---- contents ------------------------------------------------------------------------------

    pub fn content(&self, ino: Ino) -> Outcome<&Content> {
        match &self.node(ino)?.body {
            Body::File(content) => Ok(content),
            Body::Dir { .. } => Err(vec![libc::EISDIR]),
            Body::Symlink(_) | Body::Special => Err(vec![libc::EINVAL]),
        }
    }

    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8], kill_suid: bool, now: Timestamp) -> Outcome<()> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > SIZE_MAX) {
            return Err(vec![libc::EFBIG]);
        }
        if !data.is_empty() {
            self.change(ino, kill_suid, now, |content| content.write(offset, data));
        }
        Ok(())
    }

    pub fn fallocate(
        &mut self,
        ino: Ino,
        offset: u64,
        length: u64,
        mode: Fallocate,
        caller: &Caller,
        now: Timestamp,
    ) -> Outcome<()> {
        let mut faults = Faults::default();
        faults.when(length == 0, libc::EINVAL);
        let end = offset.checked_add(length).filter(|&end| end <= SIZE_MAX);
        faults.when(end.is_none(), libc::EFBIG);
        faults.check()?;
        let end = end.expect("checked");
        let size = self.content(ino)?.size();
        let promised = end.saturating_sub(offset.max(size));
        if matches!(mode, Fallocate::KeepSize | Fallocate::Extend) && promised > DISK {
            return Err(vec![libc::ENOSPC]);
        }
        // Space that is only allocated is no change that could be seen, but for what it takes away.
        let allocates = mode == Fallocate::KeepSize || mode == Fallocate::Extend && end <= size;
        let perm = self.get(ino).perm;
        let privileged = perm & SUID != 0 || perm & (SGID | 0o010) == SGID | 0o010;
        if allocates && (caller.uid == 0 || !privileged) {
            return Ok(());
        }
        self.change(ino, caller.uid != 0, now, |content| {
            if matches!(mode, Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize) {
                content.zero(offset, end);
            }
            if matches!(mode, Fallocate::Extend | Fallocate::ZeroRange) && end > content.size() {
                content.resize(end);
            }
        });
        Ok(())
    }

    /// Copies between two files of this tree; returns the number of bytes.
    pub fn copy(
        &mut self,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        length: u64,
        caller: &Caller,
        now: Timestamp,
    ) -> Outcome<u64> {
        let source = self.content(from)?.clone();
        let count = length.min(source.size().saturating_sub(from_offset));
        if count == 0 {
            return Ok(0);
        }
        let mut faults = Faults::default();
        let end = to_offset.checked_add(count).filter(|&end| end <= SIZE_MAX);
        faults.when(end.is_none(), libc::EFBIG);
        let overlap = to_offset < from_offset.saturating_add(count) && from_offset < to_offset.saturating_add(count);
        faults.when(from == to && overlap, libc::EINVAL);
        faults.check()?;
        let suid = caller.uid != 0;
        self.change(to, suid, now, |content| {
            let end = to_offset + count;
            if content.size() < end {
                content.resize(end);
            }
            content.zero(to_offset, end);
            content.copy_from(&source, from_offset, to_offset, count);
        });
        Ok(count)
    }
}
