//! Mounting and unmounting: by mount(2) for root, through the setuid helper fusermount3 for others.
//!
//! The binding could mount by itself, but at the end it detaches what it cannot unmount, and tries
//! to unmount whatever stands at the path by then. Ours never does either.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// How a mount looks from outside.
pub(super) struct Shape<'a> {
    /// What stands in the first column of `mount`: the database's path.
    pub source: &'a Path,
    pub allow_other: bool,
    pub read_only: bool,
    pub nonempty: bool,
    /// Further flags of mount(8): `nosuid nodev noexec noatime`.
    pub flags: &'a [String],
}

/// The type that `mount` shows.
const SUBTYPE: &str = "stonefs";

/// Mounts and returns the descriptor on which the kernel's requests come.
pub(super) fn mount(dir: &Path, shape: &Shape<'_>) -> io::Result<OwnedFd> {
    let meta = std::fs::metadata(dir)?;
    if !meta.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    if !shape.nonempty && std::fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
    }
    if rustix::process::geteuid().is_root() {
        mount_directly(dir, meta.mode(), shape)
    } else {
        mount_by_helper(dir, shape)
    }
}

fn mount_directly(dir: &Path, mode: u32, shape: &Shape<'_>) -> io::Result<OwnedFd> {
    let device: File = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| {
        io::Error::new(error.kind(), format!("/dev/fuse: {error}; is the kernel's fuse module loaded?"))
    })?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let rootmode = mode & libc::S_IFMT;
    let mut data =
        format!("fd={},rootmode={rootmode:o},user_id={uid},group_id={gid},default_permissions", device.as_raw_fd());
    if shape.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, shape.read_only);
    for (word, flag) in [
        ("nosuid", MountFlags::NOSUID),
        ("nodev", MountFlags::NODEV),
        ("noexec", MountFlags::NOEXEC),
        ("noatime", MountFlags::NOATIME),
    ] {
        flags.set(flag, shape.flags.iter().any(|given| given == word));
    }
    let data = std::ffi::CString::new(data)?;
    rustix::mount::mount(shape.source, dir, format!("fuse.{SUBTYPE}"), flags, Some(data.as_c_str()))?;
    Ok(device.into())
}

/// The helper's own errors, without its name in front.
fn helper_error(stderr: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().last().unwrap_or("fusermount3 failed");
    io::Error::other(line.trim_start_matches("fusermount3: ").to_owned())
}

fn mount_by_helper(dir: &Path, shape: &Shape<'_>) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut options = OsString::from("default_permissions,subtype=");
    options.push(SUBTYPE);
    if shape.allow_other {
        options.push(",allow_other");
    }
    if shape.read_only {
        options.push(",ro");
    }
    for flag in shape.flags {
        options.push(",");
        options.push(flag);
    }
    options.push(",fsname=");
    let escaped = shape.source.as_os_str().as_bytes().iter().flat_map(|byte| match byte {
        b',' | b'\\' => vec![b'\\', *byte],
        byte => vec![*byte],
    });
    options.push(OsString::from_vec(escaped.collect()));
    // The helper must inherit its end, and nothing else that we start at the same time.
    let inherited = rustix::io::dup(&theirs)?;
    fcntl_setfd(&inherited, FdFlags::empty())?;
    drop(theirs);
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", inherited.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("fusermount3: {error}; is fuse3 installed?")))?;
    drop(inherited);
    let received = receive(&ours);
    let output = child.wait_with_output()?;
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) | Err(_) => Err(helper_error(&output.stderr)),
    }
}

fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [io::IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket.as_fd(), &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

/// Unmounts; never detaches. With `detach`, for a mount that was bound elsewhere or whose daemon is
/// gone, the path goes at once and the mount with its last user.
pub(super) fn unmount(dir: &Path, detach: bool) -> io::Result<()> {
    let flags = if detach { UnmountFlags::DETACH | UnmountFlags::NOFOLLOW } else { UnmountFlags::NOFOLLOW };
    match rustix::mount::unmount(dir, flags) {
        Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => {}
        done => return Ok(done?),
    }
    let mut helper = Command::new("fusermount3");
    helper.arg("-u");
    if detach {
        helper.arg("-z");
    }
    let output = helper.arg("--").arg(dir).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = helper_error(&output.stderr);
    if error.to_string().contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(error)
}

/// A mount as `/proc/self/mountinfo` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's number.
    pub id: u64,
    /// The number of the mount that it stands on.
    pub parent: u64,
    /// `st_dev` of its files, as major and minor.
    pub device: (u32, u32),
    /// What of the file system it shows.
    pub root: PathBuf,
    /// Where it stands.
    pub point: PathBuf,
    /// Its type, as `fuse.stonefs`.
    pub kind: String,
    /// Its source: the database's path for ours.
    pub source: PathBuf,
}

impl Mounted {
    /// Whether it is one of ours.
    pub fn is_stonefs(&self) -> bool {
        self.kind == "fuse.stonefs"
    }
}

/// Lists the mounts that this process sees, in the order of mounting.
///
/// # Errors
/// Where /proc cannot be read.
pub fn mounts() -> io::Result<Vec<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
    let (id, parent) = (number(next()?)?, number(next()?)?);
    let (major, minor) = std::str::from_utf8(next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let (root, point) = (unescape(next()?), unescape(next()?));
    while next()? != b"-" {}
    let kind = String::from_utf8_lossy(next()?).into_owned();
    let source = unescape(next()?);
    Some(Mounted { id, parent, device, root, point, kind, source })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = |byte: &u8| (b'0'..=b'7').contains(byte).then(|| u32::from(byte - b'0'));
        if let (b'\\', [a, b, c, tail @ ..]) = (first, after)
            && let (Some(a), Some(b), Some(c)) = (octal(a), octal(b), octal(c))
        {
            bytes.push((a * 64 + b * 8 + c) as u8);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_escapes_and_optional_fields() {
        let line = b"36 35 0:52 / /mnt/a\\040b rw,noatime shared:1 master:2 - fuse.stonefs /x/y.stone rw,user_id=0";
        let mounted = parse(line).unwrap();
        assert_eq!(mounted.point, Path::new("/mnt/a b"));
        assert_eq!((mounted.id, mounted.parent, mounted.device), (36, 35, (0, 52)));
        assert!(mounted.is_stonefs());
        assert_eq!(mounted.source, Path::new("/x/y.stone"));
        assert_eq!(parse(b""), None);
    }
}
