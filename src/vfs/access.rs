//! Who may read the past: the kernel checks a file's old owner, mode and ACL, which are what it is
//! shown; the present ones, where the inode still lives on that branch, are checked here.

use super::session::Tree;
use crate::engine::{FsError, Result};
use crate::types::{At, Attr, Caller, Ino, Kind, View};

/// The attribute that holds an ACL, in the kernel's binary form.
pub(super) const ACL: &[u8] = b"system.posix_acl_access";

/// What decides about access now.
struct Guard {
    uid: u32,
    gid: u32,
    perm: u16,
    acl: Option<Acl>,
}

impl Tree<'_> {
    /// The guard of an inode of a past state, where it is another now than it was then.
    fn guard(&self, view: View, old: &Attr) -> Result<Option<Guard>> {
        if view.at == At::Live {
            return Ok(None);
        }
        let present = View::live(view.branch);
        let now = match self.engine().getattr(present, old.ino) {
            Ok(now) => now,
            Err(FsError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let acl_of = |view| match self.engine().getxattr(view, old.ino, ACL) {
            Ok(value) => Ok(Some(value)),
            Err(FsError::NoAttr) => Ok(None),
            Err(error) => Err(error),
        };
        let (old_acl, acl) = if old.kind == Kind::Symlink { (None, None) } else { (acl_of(view)?, acl_of(present)?) };
        if (now.uid, now.gid, now.perm) == (old.uid, old.gid, old.perm) && old_acl == acl {
            return Ok(None);
        }
        let acl = acl.map(|bytes| Acl::parse(&bytes).ok_or(FsError::Access)).transpose()?;
        Ok(Some(Guard { uid: now.uid, gid: now.gid, perm: now.perm, acl }))
    }

    /// Whether access to an inode of a past state is decided by request, so that names must not be kept.
    pub(super) fn is_guarded(&self, view: View, attr: &Attr) -> Result<bool> {
        Ok(self.guard(view, attr)?.is_some())
    }

    /// Checks the present permission bits of an inode of a past state, where they differ from the old
    /// ones. `want` as for access(2). Returns whether they differ.
    ///
    /// # Errors
    /// `Access` where they forbid it, or where the caller's groups would decide and are unknown.
    pub(super) fn check_past(&self, view: View, ino: Ino, caller: &Caller, want: u16) -> Result<bool> {
        if view.at == At::Live {
            return Ok(false);
        }
        let old = self.engine().getattr(view, ino)?;
        let Some(guard) = self.guard(view, &old)? else { return Ok(false) };
        if old.kind == Kind::Symlink || guard.allows(caller, want, &mut || groups(caller)) {
            Ok(true)
        } else {
            Err(FsError::Access)
        }
    }
}

impl Guard {
    fn allows(&self, caller: &Caller, want: u16, groups: &mut dyn FnMut() -> Option<Vec<u32>>) -> bool {
        let has = |bits: u16| bits & want == want;
        if caller.uid == 0 {
            return true;
        }
        if caller.uid == self.uid {
            return has(self.perm >> 6);
        }
        let mut groups = || {
            groups().map(|mut groups| {
                groups.push(caller.gid);
                groups
            })
        };
        match &self.acl {
            Some(acl) => acl.allows(caller.uid, self.gid, want, &mut groups),
            // Without a list of groups, both classes must allow it.
            None => match groups() {
                Some(groups) if groups.contains(&self.gid) => has(self.perm >> 3),
                Some(_) => has(self.perm),
                None => has(self.perm >> 3) && has(self.perm),
            },
        }
    }
}

/// A POSIX.1e access control list.
struct Acl(Vec<(u16, u16, u32)>);

const VERSION: u32 = 2;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

impl Acl {
    /// Reads the kernel's form: a version, then entries of tag, permissions and id, little-endian.
    fn parse(bytes: &[u8]) -> Option<Acl> {
        let (version, entries) = bytes.split_first_chunk::<4>()?;
        let (entries, rest) = entries.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return None;
        }
        let entry = |[t0, t1, p0, p1, i0, i1, i2, i3]: &[u8; 8]| {
            (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*p0, *p1]), u32::from_le_bytes([*i0, *i1, *i2, *i3]))
        };
        Some(Acl(entries.iter().map(entry).collect()))
    }

    fn of(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|entry| entry.0 == tag).map(|entry| entry.1)
    }

    /// Decides for somebody who is not the owner.
    fn allows(&self, uid: u32, gid: u32, want: u16, groups: &mut dyn FnMut() -> Option<Vec<u32>>) -> bool {
        let mask = self.of(MASK).unwrap_or(0o7);
        let has = |bits: u16| bits & want == want;
        if let Some(user) = self.0.iter().find(|entry| entry.0 == USER && entry.2 == uid) {
            return has(user.1 & mask);
        }
        let Some(groups) = groups() else { return false };
        let mine = self.0.iter().filter(|(tag, _, id)| match *tag {
            GROUP_OBJ => groups.contains(&gid),
            GROUP => groups.contains(id),
            _ => false,
        });
        let mut any = false;
        for entry in mine {
            any = true;
            if has(entry.1 & mask) {
                return true;
            }
        }
        !any && has(self.of(OTHER).unwrap_or(0))
    }
}

/// Whether a caller is known to be in a group.
pub(super) fn is_in_group(caller: &Caller, gid: u32) -> bool {
    caller.gid == gid || groups(caller).is_some_and(|groups| groups.contains(&gid))
}

/// The supplementary groups of the calling process; none where it is unknown or somebody else's.
fn groups(caller: &Caller) -> Option<Vec<u32>> {
    if caller.pid == 0 {
        return None;
    }
    parse_groups(&std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).ok()?, caller.uid)
}

fn parse_groups(status: &str, uid: u32) -> Option<Vec<u32>> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let fs_uid: u32 = field("Uid:")?.split_whitespace().nth(3)?.parse().ok()?;
    if fs_uid != uid {
        return None;
    }
    field("Groups:")?.split_whitespace().map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, ..Caller::default() }
    }

    #[test]
    fn permission_bits_decide_by_class_and_unknown_groups_refuse() {
        let guard = Guard { uid: 10, gid: 20, perm: 0o640, acl: None };
        let known = |list: &'static [u32]| move || Some(list.to_vec());
        assert!(guard.allows(&caller(0, 0), 0o4, &mut || None));
        assert!(guard.allows(&caller(10, 1), 0o6, &mut || None));
        assert!(guard.allows(&caller(11, 20), 0o4, &mut known(&[])));
        assert!(guard.allows(&caller(11, 1), 0o4, &mut known(&[20])));
        assert!(!guard.allows(&caller(11, 1), 0o4, &mut known(&[21])));
        assert!(!guard.allows(&caller(11, 20), 0o4, &mut || None));
    }

    #[test]
    fn an_acl_is_read_and_masked() {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in [(1u16, 7u16, !0u32), (USER, 6, 30), (GROUP_OBJ, 4, !0), (MASK, 4, !0), (OTHER, 0, !0)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        let guard = Guard { uid: 10, gid: 20, perm: 0o740, acl: Acl::parse(&bytes) };
        assert!(guard.acl.is_some());
        assert!(guard.allows(&caller(30, 1), 0o4, &mut || None));
        assert!(!guard.allows(&caller(30, 1), 0o2, &mut || None));
        assert!(guard.allows(&caller(31, 20), 0o4, &mut || Some(Vec::new())));
        assert!(!guard.allows(&caller(31, 21), 0o4, &mut || Some(Vec::new())));
        assert!(Acl::parse(&bytes[..bytes.len() - 1]).is_none());
    }

    #[test]
    fn groups_are_those_of_the_caller_only() {
        let status = "Name:\tx\nUid:\t1\t1\t1\t1000\nGid:\t5\t5\t5\t5\nGroups:\t4 24 27 \n";
        assert_eq!(parse_groups(status, 1000), Some(vec![4, 24, 27]));
        assert_eq!(parse_groups(status, 1001), None);
    }
}
