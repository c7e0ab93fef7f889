//! POSIX ACLs in the kernel's binary form (`struct posix_acl_xattr_header`, version 2): inheritance,
//! chmod's effect, and the mode that an ACL stands for. The kernel enforces; we keep them consistent.

use crate::types::Permissions;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A parsed ACL: always one owner, one group and one other entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Parses and validates; `None` where the bytes are no valid ACL.
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*head) != VERSION || rest.len() % 8 != 0 {
            return None;
        }
        let mut entries = Vec::new();
        for raw in rest.chunks_exact(8) {
            let &[t0, t1, p0, p1, i0, i1, i2, i3] = raw else { return None };
            entries.push(Entry {
                tag: u16::from_le_bytes([t0, t1]),
                perm: u16::from_le_bytes([p0, p1]),
                id: u32::from_le_bytes([i0, i1, i2, i3]),
            });
        }
        let acl = Acl(entries);
        acl.is_valid().then_some(acl)
    }

    fn is_valid(&self) -> bool {
        let count = |tag: u16| self.0.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP) > 0;
        self.0.iter().all(|e| e.perm <= 7 && [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&e.tag))
            && count(USER_OBJ) == 1
            && count(GROUP_OBJ) == 1
            && count(OTHER) == 1
            && count(MASK) <= 1
            && (!named || count(MASK) == 1)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm)
    }

    fn set(&mut self, tag: u16, perm: u16) {
        for entry in self.0.iter_mut().filter(|e| e.tag == tag) {
            entry.perm = perm;
        }
    }

    fn group_class(&self) -> u16 {
        if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// The permission bits that it stands for; the bits above `0o777` of `perm` stay.
    pub fn apply_to(&self, perm: Permissions) -> Permissions {
        let part = |tag| self.perm(tag).unwrap_or(0) & 7;
        (perm & !0o777) | (part(USER_OBJ) << 6) | (part(self.group_class()) << 3) | part(OTHER)
    }

    /// What chmod does to an access ACL (owner, mask or group, other).
    pub fn chmod(&mut self, perm: Permissions) {
        self.set(USER_OBJ, (perm >> 6) & 7);
        let class = self.group_class();
        self.set(class, (perm >> 3) & 7);
        self.set(OTHER, perm & 7);
    }

    /// What creation in a directory with this default ACL gives: the new access ACL, restricted by
    /// the mode that the creator asked for (`posix_acl_create_masq`).
    pub fn inherit(&self, perm: Permissions) -> Acl {
        let mut acl = self.clone();
        acl.set(USER_OBJ, self.perm(USER_OBJ).unwrap_or(0) & (perm >> 6) & 7);
        let class = self.group_class();
        acl.set(class, self.perm(class).unwrap_or(0) & (perm >> 3) & 7);
        acl.set(OTHER, self.perm(OTHER).unwrap_or(0) & perm & 7);
        acl
    }

    /// Whether permission bits alone say the same (`posix_acl_equiv_mode`).
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    #[test]
    fn an_acl_survives_its_binary_form() {
        let one = acl(&[
            (USER_OBJ, 7, u32::MAX),
            (USER, 5, 10),
            (GROUP_OBJ, 5, u32::MAX),
            (MASK, 7, u32::MAX),
            (OTHER, 0, u32::MAX),
        ]);
        assert_eq!(Acl::parse(&one.to_bytes()), Some(one));
    }

    #[test]
    fn named_entries_need_a_mask() {
        let bad = acl(&[(USER_OBJ, 7, 0), (USER, 5, 10), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]);
        assert_eq!(Acl::parse(&bad.to_bytes()), None);
    }

    #[test]
    fn inheritance_masks_the_group_class() {
        let default = acl(&[(USER_OBJ, 7, 0), (USER, 7, 10), (GROUP_OBJ, 7, 0), (MASK, 7, 0), (OTHER, 5, 0)]);
        let inherited = default.inherit(0o640);
        assert_eq!(inherited.apply_to(0o640), 0o640);
        assert_eq!(inherited.perm(GROUP_OBJ), Some(7));
        assert_eq!(inherited.perm(MASK), Some(4));
    }
}
