//! The options of `stone mount -o`.

use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::error::{About, Error, Result};
use super::text::Text;
use super::users;

/// Options that the kernel knows and fstab(5) lines carry.
const KERNEL: [&str; 12] =
    ["dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync", "relatime"];
/// Options of mount(8) that mean nothing to us: reading changes no access time.
const IGNORED: [&str; 17] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "nodiratime",
    "diratime",
    "strictatime",
    "norelatime",
    "lazytime",
    "nolazytime",
];

/// What a mount is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// Nothing can be written.
    pub read_only: bool,
    /// Other users may enter.
    pub allow_other: bool,
    /// The directory may have entries, which the mount hides.
    pub nonempty: bool,
    /// The kernel collects writes.
    pub writeback: bool,
    /// The branch shown at first.
    pub branch: Option<Text>,
    /// The fixed point shown.
    pub at: Option<Text>,
    /// Every directory has a `.history`.
    pub history_everywhere: bool,
    /// Shows every file as this user's.
    pub uid: Option<u32>,
    /// Shows every file as this group's.
    pub gid: Option<u32>,
    /// Opens for reading are recorded.
    pub audit_all: bool,
    /// Nothing is recorded: for measuring what the record costs, and for nothing else, since undo,
    /// diff and merge live from it.
    #[serde(default)]
    pub audit_none: bool,
    /// The most bytes that the database may use.
    #[serde(default)]
    pub size: Option<u64>,
    /// Content is compared with its hash whenever it is read.
    #[serde(default)]
    pub verify: bool,
    /// New content is compressed.
    #[serde(default)]
    pub compress: Option<bool>,
    /// Passed to the kernel.
    pub kernel: Vec<String>,
}

/// Whether a mount that is there is to get other flags.
pub(super) fn has_remount(lists: &[std::ffi::OsString]) -> bool {
    lists.iter().any(|list| list.as_bytes().split(|&b| b == b',').any(|option| option == b"remount"))
}

impl MountOptions {
    /// Reads lists as `ro,branch=x`.
    ///
    /// # Errors
    /// An option that is not known, or a value that makes no sense.
    pub fn parse(lists: &[std::ffi::OsString]) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        for list in lists {
            for option in list.as_bytes().split(|&b| b == b',').filter(|option| !option.is_empty()) {
                options.set(option).about(option)?;
            }
        }
        if options.at.is_some() {
            options.read_only = true;
        }
        Ok(options)
    }

    fn set(&mut self, option: &[u8]) -> Result<()> {
        let (key, value) = match option.iter().position(|&b| b == b'=') {
            Some(at) => (option.get(..at).unwrap_or_default(), option.get(at + 1..)),
            None => (option, None),
        };
        let key = std::str::from_utf8(key).unwrap_or_default();
        let id = |value: &[u8]| std::str::from_utf8(value).ok().and_then(users::parse);
        match (key, value) {
            ("ro", None) => self.read_only = true,
            ("allow_other", None) => self.allow_other = true,
            ("nonempty", None) => self.nonempty = true,
            ("writeback", None) => self.writeback = true,
            ("branch", Some(name)) if !name.is_empty() => self.branch = Some(name.into()),
            ("at", Some(point)) if !point.is_empty() => self.at = Some(point.into()),
            ("history", Some(b"root")) => self.history_everywhere = false,
            ("history", Some(b"everywhere")) => self.history_everywhere = true,
            ("audit", Some(b"all")) => self.audit_all = true,
            ("audit", Some(b"none")) => self.audit_none = true,
            ("size", Some(value)) => {
                self.size = Some(bytes(value).ok_or_else(|| Error::usage("no size; give one as 20G, 500M or bytes"))?);
            }
            ("verify", None) => self.verify = true,
            ("compress", None) => self.compress = Some(true),
            ("compress", Some(b"zstd")) => self.compress = Some(true),
            ("compress", Some(b"none")) => self.compress = Some(false),
            ("uid", Some(value)) => self.uid = Some(id(value).ok_or_else(|| Error::usage("no such user"))?),
            ("gid", Some(value)) => self.gid = Some(id(value).ok_or_else(|| Error::usage("not a group's number"))?),
            (key, None) if KERNEL.contains(&key) => self.kernel.push(key.to_owned()),
            (key, None) if IGNORED.contains(&key) => {}
            // For those who read fstab(5): systemd, and people.
            (key, _) if key.starts_with("x-") || key.starts_with("X-") || key == "comment" => {}
            _ => {
                return Err(Error::usage(
                    "is not an option of mount; there are ro allow_other nonempty writeback branch=NAME at=REF \
                     history=root|everywhere audit=all uid= gid= size= verify compress[=zstd|none]",
                ));
            }
        }
        Ok(())
    }
}

/// `20G`, `500M`, `4096`: a number of bytes, with a power of 1024.
fn bytes(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        (at, 't' | 'T') => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (number > 0 && number <= i64::MAX as u64).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions> {
        MountOptions::parse(&[list.into()])
    }

    #[test]
    fn lists_of_options_are_read() {
        let options =
            parse("ro,allow_other,branch=x,history=everywhere,uid=root,gid=5,nosuid,defaults,x-a.b=c").unwrap();
        assert!(options.read_only && options.allow_other && options.history_everywhere && !options.writeback);
        assert_eq!(options.branch, Some("x".into()));
        assert_eq!((options.uid, options.gid), (Some(0), Some(5)));
        assert_eq!(options.kernel, ["nosuid"]);
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [("size=20G", 20 << 30), ("size=1k", 1024), ("size=4096", 4096)] {
            assert_eq!(parse(text).unwrap().size, Some(size));
        }
        for bad in ["size", "size=", "size=G", "size=-1", "size=0", "size=1.5G", "size=99999999999T", "size=+5"] {
            assert_eq!(parse(bad).unwrap_err().status(), 2, "{bad}");
        }
    }

    #[test]
    fn a_fixed_point_is_read_only() {
        assert!(parse("at=2026-11-22").unwrap().read_only);
    }

    #[test]
    fn what_is_not_known_is_wrong_usage() {
        for bad in ["nonsense", "branch", "branch=", "history=some", "uid=nobody-here", "ro=1"] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.status(), 2, "{bad}");
            assert!(error.to_string().starts_with(bad), "{error}");
        }
    }
}
