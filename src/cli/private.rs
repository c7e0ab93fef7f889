//! Where the daemon mounts the views of `stone run` for the moment in which a command takes them over.
//!
//! A command inside of another one's namespace sees a new mount only where mounts propagate. Many
//! systems share theirs (systemd does), containers do not: there, root's daemon binds its directory
//! over itself and shares that alone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::mountinfo;

/// A directory for private mounts, beside the daemon's socket; made when the first is needed.
pub struct PrivateDir {
    dir: PathBuf,
    /// Whether the directory is there.
    made: Mutex<bool>,
}

impl PrivateDir {
    /// Names the directory, and takes away those that daemons left which were killed.
    pub fn beside(socket: &Path) -> PrivateDir {
        let dir = socket.with_extension("runs");
        for entry in socket.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten() {
            let other = entry.path();
            let lost = || UnixStream::connect(other.with_extension("sock")).is_err();
            // our own, since the socket is ours now
            if other.extension() == dir.extension() && (other == dir || lost()) {
                remove(&other);
            }
        }
        PrivateDir { dir, made: Mutex::new(false) }
    }

    /// A directory for one mount.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make(&self, name: &str) -> io::Result<PathBuf> {
        let mut made = self.made.lock();
        if !*made {
            make_private(&self.dir)?;
            *made = true;
            if rustix::process::geteuid().is_root()
                && let Err(error) = share(&self.dir)
            {
                log::info!("{}: {error}; a `stone run` inside of another may not work", self.dir.display());
            }
        }
        let dir = self.dir.join(name);
        make_private(&dir)?;
        Ok(dir)
    }
}

/// Makes a directory for its owner alone, unless it is there.
fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn share(dir: &Path) -> io::Result<()> {
    if mountinfo::is_shared(dir)? {
        return Ok(());
    }
    if mountinfo::at(dir)?.is_none() {
        mount_bind(dir, dir)?;
        mount_change(dir, MountPropagationFlags::PRIVATE)?; // leave the group of what is around
    }
    Ok(mount_change(dir, MountPropagationFlags::SHARED)?)
}

/// Takes the directory away, with what is mounted at it and below.
fn remove(dir: &Path) {
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Err(error) = crate::fuse::clear_stale(&below.path()) {
            log::debug!("{}: {error}", below.path().display());
        }
    }
    if mountinfo::at(dir).is_ok_and(|mount| mount.is_some())
        && let Err(error) = unmount(dir, UnmountFlags::DETACH)
    {
        log::info!("{}: {error}", dir.display());
    }
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(below.path());
    }
    if let Err(error) = fs::remove_dir(dir) {
        log::info!("{}: {error}", dir.display());
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if *self.made.get_mut() {
            remove(&self.dir);
        }
    }
}
