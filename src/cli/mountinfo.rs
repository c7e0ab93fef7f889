//! The kernel's table of mounts, and which of them are StoneFS.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The type under which the kernel lists our mounts.
pub const FSTYPE: &str = "fuse.stonefs";

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The file system's device number (`st_dev`), as `makedev(3)` packs it.
    pub dev: u64,
    /// The directory of the file system that shows here (`/` but for binds).
    pub root: PathBuf,
    /// Where it is mounted.
    pub dir: PathBuf,
    /// Whether what is mounted below it propagates.
    pub shared: bool,
    /// What it is.
    pub fstype: String,
    /// For StoneFS: the database's path.
    pub source: OsString,
}

/// Lists this process's mounts, a later one over an earlier one.
///
/// # Errors
/// Where `/proc` is not there.
pub fn list() -> io::Result<Vec<MountPoint>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// Finds what is mounted exactly at a directory (the topmost).
///
/// # Errors
/// Where `/proc` is not there.
pub fn at(dir: &Path) -> io::Result<Option<MountPoint>> {
    Ok(list()?.into_iter().rev().find(|mount| mount.dir == dir))
}

/// Whether mounts below a directory reach the namespaces that were copied from this one.
///
/// # Errors
/// Where `/proc` is not there.
pub fn is_shared(dir: &Path) -> io::Result<bool> {
    let around = list()?.into_iter().filter(|mount| dir.starts_with(&mount.dir));
    // of two at one place, the later one stands over the earlier one
    Ok(around.max_by_key(|mount| mount.dir.as_os_str().len()).is_some_and(|mount| mount.shared))
}

/// Whether the daemon behind a mount is gone. Asked of the file system, because attributes of its
/// root may still be cached.
pub fn is_dead(dir: &Path) -> bool {
    matches!(rustix::fs::statfs(dir), Err(rustix::io::Errno::NOTCONN))
}

fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|&b| b == b' ');
    let dev = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = dev.split_once(':')?;
    let dev = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let dir = unescape(fields.next()?);
    let mut shared = false;
    let mut after = fields.skip_while(|field| {
        shared |= field.starts_with(b"shared:");
        *field != b"-"
    });
    after.next()?;
    let fstype = String::from_utf8_lossy(after.next()?).into_owned();
    let source = unescape(after.next()?);
    Some(MountPoint { dev, root: root.into(), dir: dir.into(), shared, fstype, source })
}

/// Reads the octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            plain.push(digits.iter().fold(0u8, |value, d| value.wrapping_mul(8).wrapping_add(d - b'0')));
            rest = tail.get(3..).unwrap_or_default();
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

/// Removes `.`, `..` and repeated slashes without asking the file system; begins with `/`.
pub fn normalize(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut plain = Vec::with_capacity(path.len() + 1);
    for part in &parts {
        plain.push(b'/');
        plain.extend_from_slice(part);
    }
    if plain.is_empty() {
        plain.push(b'/');
    }
    plain
}

/// A path without symlinks in its directories; the last part is kept as it is, and so are parts
/// that do not exist.
///
/// # Errors
/// Where the working directory is gone.
pub fn settle(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let typed = path.as_os_str().as_bytes();
    let is_directory = matches!(typed, b"." | b".." | [.., b'/'] | [.., b'/', b'.'] | [.., b'/', b'.', b'.']);
    if (is_directory || absolute.file_name().is_none())
        && let Ok(real) = fs::canonicalize(&absolute)
    {
        return Ok(real);
    }
    let mut missing: Vec<OsString> = Vec::new();
    let mut known = absolute.clone();
    while let Some(name) = known.file_name() {
        missing.push(name.to_owned());
        known = known.parent().unwrap_or(Path::new("/")).to_owned();
        if let Ok(real) = fs::canonicalize(&known) {
            let mut settled = real.into_os_string().into_vec();
            for name in missing.iter().rev() {
                settled.push(b'/');
                settled.extend_from_slice(name.as_bytes());
            }
            return Ok(PathBuf::from(OsStr::from_bytes(&normalize(&settled))));
        }
    }
    Ok(PathBuf::from(OsStr::from_bytes(&normalize(absolute.as_os_str().as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line =
            br"36 35 0:52 / /mnt\040two rw,nosuid shared:7 master:1 - fuse.stonefs /tmp/a\134b.stone rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.dev, libc::makedev(0, 52));
        assert_eq!(mount.root, Path::new("/"));
        assert_eq!(mount.dir, Path::new("/mnt two"));
        assert!(mount.shared);
        assert_eq!(mount.fstype, FSTYPE);
        assert_eq!(mount.source, r"/tmp/a\b.stone");
        assert_eq!(parse(b"nonsense"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }

    #[test]
    fn paths_are_normalized_without_leaving_the_root() {
        assert_eq!(normalize(b"a//b/./c/../d"), b"/a/b/d");
        assert_eq!(normalize(b"../../x"), b"/x");
        assert_eq!(normalize(b""), b"/");
    }

    #[test]
    fn a_last_symlink_is_kept_and_missing_parts_too() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(real.join("d")).unwrap();
        std::os::unix::fs::symlink("d", real.join("l")).unwrap();
        assert_eq!(settle(&real.join("l")).unwrap(), real.join("l"));
        assert_eq!(settle(&real.join("l/x/y")).unwrap(), real.join("d/x/y"));
        assert_eq!(settle(&real.join("l/.")).unwrap(), real.join("d"));
    }
}
