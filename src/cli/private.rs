//! Where the daemon mounts the views of `stone run` for the moment in which a command takes them over.
//!
//! A command inside of another one's namespace sees a new mount only where mounts propagate. Many
//! systems share theirs (systemd does), containers do not: there, root's daemon binds its directory
//! over itself and shares that alone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::mountinfo;

/// A directory for private mounts.
pub struct PrivateDir {
    dir: PathBuf,
    bound: bool,
}

impl PrivateDir {
    /// Makes the directory, beside the daemon's socket.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn beside(socket: &Path) -> io::Result<PrivateDir> {
        let dir = socket.with_extension("runs");
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let dir = fs::canonicalize(dir)?;
        let already = mountinfo::at(&dir)?.is_some(); // of a daemon that was killed
        let bound = rustix::process::geteuid().is_root() && (already || !mountinfo::is_shared(&dir)?);
        if bound && let Err(error) = share(&dir, already) {
            log::info!("{}: {error}; a `stone run` inside of another will not work", dir.display());
        }
        Ok(PrivateDir { dir, bound })
    }

    /// A directory for one mount.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.dir.join(name);
        let _ = fs::remove_dir(&dir); // of a daemon that was killed
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(dir)
    }
}

fn share(dir: &Path, already: bool) -> rustix::io::Result<()> {
    if !already {
        mount_bind(dir, dir)?;
        mount_change(dir, MountPropagationFlags::PRIVATE)?; // leave the group of what is around
    }
    mount_change(dir, MountPropagationFlags::SHARED)
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if self.bound
            && let Err(error) = unmount(&self.dir, UnmountFlags::DETACH)
        {
            log::debug!("{}: {error}", self.dir.display());
        }
        if let Err(error) = fs::remove_dir(&self.dir) {
            log::debug!("{}: {error}", self.dir.display());
        }
    }
}
