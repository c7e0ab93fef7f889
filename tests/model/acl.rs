//! POSIX ACLs in the binary form of `system.posix_acl_*`, after Linux's `fs/posix_acl.c`.

/// The attribute of the ACL that is checked.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that new entries inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// An ACL: (tag, permissions, id) in the order of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<(u16, u16, u32)>);

impl Acl {
    /// Builds one for tests: the three classes, and a named user with its mask where asked for.
    pub fn build(user: u16, group: u16, other: u16, named: Option<(u32, u16, u16)>) -> Acl {
        let none = u32::MAX;
        let mut entries = vec![(USER_OBJ, user & 7, none)];
        if let Some((uid, perm, _)) = named {
            entries.push((USER, perm & 7, uid));
        }
        entries.push((GROUP_OBJ, group & 7, none));
        if let Some((_, _, mask)) = named {
            entries.push((MASK, mask & 7, none));
        }
        entries.push((OTHER, other & 7, none));
        Acl(entries)
    }

    /// Reads the binary form; `None` where the kernel would say `EINVAL`.
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        if bytes.len() < 4 || !(bytes.len() - 4).is_multiple_of(8) || bytes[..4] != 2u32.to_le_bytes() {
            return None;
        }
        let entries: Vec<(u16, u16, u32)> = bytes[4..]
            .chunks(8)
            .map(|e| {
                let half = |at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
                (half(0), half(2), u32::from_le_bytes([e[4], e[5], e[6], e[7]]))
            })
            .collect();
        let count = |tag| entries.iter().filter(|e| e.0 == tag).count();
        let ordered = entries.windows(2).all(|pair| pair[0].0 <= pair[1].0);
        let known = entries.iter().all(|e| [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&e.0) && e.1 <= 7);
        let named = count(USER) + count(GROUP) > 0;
        let single = count(USER_OBJ) == 1 && count(GROUP_OBJ) == 1 && count(OTHER) == 1 && count(MASK) <= 1;
        (ordered && known && single && (!named || count(MASK) == 1)).then_some(Acl(entries))
    }

    /// Writes the binary form.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in &self.0 {
            out.extend(tag.to_le_bytes());
            out.extend(perm.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    /// Tells whether permission bits alone say the same.
    pub fn is_minimal(&self) -> bool {
        self.0.iter().all(|e| matches!(e.0, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// Returns the nine permission bits that stat(2) shows for a file with this ACL.
    pub fn mode(&self) -> u16 {
        let perm = |tag| self.0.iter().find(|e| e.0 == tag).map(|e| e.1);
        let group = perm(MASK).or(perm(GROUP_OBJ)).unwrap_or(0);
        perm(USER_OBJ).unwrap_or(0) << 6 | group << 3 | perm(OTHER).unwrap_or(0)
    }

    /// Changes the ACL as chmod(2) does.
    pub fn chmod(&mut self, mode: u16) {
        let masked = self.0.iter().any(|e| e.0 == MASK);
        for entry in &mut self.0 {
            match entry.0 {
                USER_OBJ => entry.1 = mode >> 6 & 7,
                GROUP_OBJ if !masked => entry.1 = mode >> 3 & 7,
                MASK => entry.1 = mode >> 3 & 7,
                OTHER => entry.1 = mode & 7,
                _ => {}
            }
        }
    }

    /// Makes this default ACL the access ACL of a new entry; returns the entry's nine permission bits.
    pub fn inherit(&mut self, mode: u16) -> u16 {
        let masked = self.0.iter().any(|e| e.0 == MASK);
        let mut result = 0;
        for entry in &mut self.0 {
            match entry.0 {
                USER_OBJ => {
                    entry.1 &= mode >> 6 & 7;
                    result |= entry.1 << 6;
                }
                GROUP_OBJ if !masked => {
                    entry.1 &= mode >> 3 & 7;
                    result |= entry.1 << 3;
                }
                MASK => {
                    entry.1 &= mode >> 3 & 7;
                    result |= entry.1 << 3;
                }
                OTHER => {
                    entry.1 &= mode & 7;
                    result |= entry.1;
                }
                _ => {}
            }
        }
        result
    }
}
