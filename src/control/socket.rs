//! Where a database's socket lives, and who is at its other end.
//!
//! The socket's name is derived from the database file's device and inode, so that every name of a
//! database leads to the same daemon. Its directory belongs to the daemon's user: `/run/stonefs`
//! for root, else `$XDG_RUNTIME_DIR/stonefs`, `/run/user/UID/stonefs` or `/tmp/stonefs-UID`.

use std::fmt;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Who is at the other end of a connection, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, 0 where it is not visible from here.
    pub pid: u32,
}

/// Why there is no place for a socket.
#[derive(Debug)]
pub enum SocketError {
    /// A file operation failed.
    Io(PathBuf, io::Error),
    /// The directory belongs to somebody else or others can write to it.
    Unsafe(PathBuf),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            SocketError::Unsafe(path) => {
                write!(f, "{} is not a private directory of this user; remove it", path.display())
            }
        }
    }
}

impl std::error::Error for SocketError {}

/// Names a database by its file: 16 hexadecimal digits from device and inode.
///
/// # Errors
/// Those of stat(2).
pub fn database_key(database: &Path) -> io::Result<String> {
    let meta = fs::metadata(database)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&meta.dev().to_le_bytes());
    hasher.update(&meta.ino().to_le_bytes());
    Ok(hasher.finalize().to_hex().chars().take(16).collect())
}

fn directories(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return vec![PathBuf::from("/run/stonefs"), PathBuf::from("/tmp/stonefs-0")];
    }
    let mut found = Vec::new();
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR")
        && fs::metadata(&dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
    {
        found.push(PathBuf::from(dir).join("stonefs"));
    }
    let run = PathBuf::from(format!("/run/user/{uid}/stonefs"));
    if !found.contains(&run) {
        found.push(run);
    }
    found.push(PathBuf::from(format!("/tmp/stonefs-{uid}")));
    found
}

/// Lists every socket that a daemon of this user's, or of root's, may listen on: for a mount whose database's file
/// was removed or replaced, so that nothing leads from its name to its socket.
pub fn all_sockets() -> Vec<PathBuf> {
    let mut users = vec![rustix::process::geteuid().as_raw(), 0];
    users.dedup();
    let mut found = Vec::new();
    for uid in users {
        for dir in directories(uid) {
            if !fs::symlink_metadata(&dir).is_ok_and(|meta| is_private(&meta, uid)) {
                continue;
            }
            let listed = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
            found.extend(listed.filter(|path| path.extension().is_some_and(|extension| extension == "sock")));
        }
    }
    found
}

fn is_private(meta: &Metadata, uid: u32) -> bool {
    meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0
}

/// Makes the directory for this user's sockets and returns the database's socket path in it.
///
/// # Errors
/// [`SocketError`] where no directory can be made, or what stands there is not private.
pub fn make_socket_path(database: &Path) -> Result<PathBuf, SocketError> {
    let key = database_key(database).map_err(|error| SocketError::Io(database.to_owned(), error))?;
    let uid = rustix::process::geteuid().as_raw();
    let mut last = None;
    for dir in directories(uid) {
        match make_private(&dir, uid) {
            Ok(()) => return Ok(dir.join(format!("{key}.sock"))),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(SocketError::Io(PathBuf::from("/tmp"), io::ErrorKind::NotFound.into())))
}

fn make_private(dir: &Path, uid: u32) -> Result<(), SocketError> {
    // root's directory lets the owners of databases through to their sockets, but does not list them
    let mode = if uid == 0 { 0o711 } else { 0o700 };
    let failed = |error| SocketError::Io(dir.to_owned(), error);
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(dir).map_err(failed)?;
            if is_private(&meta, uid) { Ok(()) } else { Err(SocketError::Unsafe(dir.to_owned())) }
        }
        Err(error) => Err(failed(error)),
    }
}

/// Lists the sockets that a database's daemon may listen on, the likeliest first.
///
/// Looked for: this user's, the database owner's and root's; only in directories that belong to
/// that user, so that nobody else can stand in for the daemon.
///
/// # Errors
/// Those of stat(2) on the database.
pub fn find_sockets(database: &Path) -> io::Result<Vec<PathBuf>> {
    let key = database_key(database)?;
    let mut users = vec![rustix::process::geteuid().as_raw(), fs::metadata(database)?.uid(), 0];
    users.dedup();
    let mut found = Vec::new();
    for uid in users {
        for dir in directories(uid) {
            let path = dir.join(format!("{key}.sock"));
            let known = fs::symlink_metadata(&dir).is_ok_and(|meta| is_private(&meta, uid));
            if known && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Where the daemon of a database writes its log: `/var/log/stonefs/KEY.log` for root, else
/// `$XDG_STATE_HOME/stonefs/KEY.log` or `~/.local/state/stonefs/KEY.log`.
///
/// # Errors
/// Where the directory cannot be made.
pub fn log_path(database: &Path) -> io::Result<PathBuf> {
    let key = database_key(database)?;
    let uid = rustix::process::geteuid().as_raw();
    let dir = if uid == 0 {
        PathBuf::from("/var/log/stonefs")
    } else if let Some(state) = std::env::var_os("XDG_STATE_HOME").filter(|state| !state.is_empty()) {
        PathBuf::from(state).join("stonefs")
    } else if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        PathBuf::from(home).join(".local/state/stonefs")
    } else {
        PathBuf::from(format!("/tmp/stonefs-{uid}"))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    Ok(dir.join(format!("{key}.log")))
}

/// Asks the kernel who is at the other end.
///
/// # Errors
/// Those of getsockopt(2).
#[allow(unsafe_code)] // rustix takes the pid as non-zero, and it is zero across pid namespaces
pub fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call's duration, and the buffer is `length` bytes of plain data.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { uid: cred.uid, gid: cred.gid, pid: u32::try_from(cred.pid).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_database_leads_to_the_same_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&one, b"").unwrap();
        fs::hard_link(&one, &two).unwrap();
        assert_eq!(database_key(&one).unwrap(), database_key(&two).unwrap());
        let other = dir.path().join("c");
        fs::write(&other, b"").unwrap();
        assert_ne!(database_key(&one).unwrap(), database_key(&other).unwrap());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let place = dir.path().join("s");
        make_private(&place, uid).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(make_private(&place, uid), Err(SocketError::Unsafe(_))));
    }
}
