//! Finding the database that a command is about, and paths in its tree.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{About, Error, Result};
use super::mountinfo::{self, FSTYPE, MountPoint, normalize, settle};
use super::text::TreePath;

/// Which database, and where the user stands in it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The database's file.
    pub database: PathBuf,
    /// The mount through which it was found; none with `--db`.
    pub mount: Option<MountPoint>,
    /// Whether typed paths begin at the root of the tree (`--db`, `--mount`).
    from_root: bool,
}

impl Place {
    /// Finds the database: `--db`, `--mount`, else the mount that one of the typed paths is in, else
    /// the mount that the working directory is in.
    ///
    /// # Errors
    /// Where none is found, or what is found is no database or a mount whose daemon is dead.
    pub fn find(db: Option<&Path>, mount: Option<&Path>, typed: &[&OsStr]) -> Result<Place> {
        if let Some(db) = db {
            return Place::of_file(db);
        }
        if let Some(dir) = mount {
            let found = mount_of(dir)?.ok_or_else(|| {
                Error::failed("no StoneFS is mounted there; `stone mount DB DIR` mounts one")
                    .about(dir.as_os_str().as_bytes())
            })?;
            return Ok(Place::of_mount(found, true));
        }
        for path in typed {
            if let Some(found) = mount_of(Path::new(path))? {
                return Ok(Place::of_mount(found, false));
            }
        }
        match mount_of(Path::new("."))? {
            Some(found) => Ok(Place::of_mount(found, false)),
            None => Err(Error::usage("not inside a mounted StoneFS; name the database with --db FILE or --mount DIR")),
        }
    }

    /// A database by its file.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn of_file(db: &Path) -> Result<Place> {
        let name = db.as_os_str().as_bytes();
        let database = fs::canonicalize(db).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::failed("no such database; `stone init DB` makes one").about(name),
            _ => Error::from(error).about(name),
        })?;
        if fs::metadata(&database).about(name)?.is_dir() {
            return Err(Error::failed("is a directory; give the database's file, or --mount DIR").about(name));
        }
        Ok(Place { database, mount: None, from_root: true })
    }

    /// A database by one of its names: its file, or a directory of a mount.
    ///
    /// # Errors
    /// As for [`Place::find`].
    pub fn of_either(name: &Path) -> Result<Place> {
        match mount_of(name)? {
            Some(found) => Ok(Place::of_mount(found, true)),
            None => Place::of_file(name),
        }
    }

    /// The database's file may have been removed since: its daemon has it open, and is found by the mount.
    fn of_mount(mount: MountPoint, from_root: bool) -> Place {
        Place { database: PathBuf::from(&mount.source), mount: Some(mount), from_root }
    }

    /// Turns a typed path into a path of the tree.
    ///
    /// # Errors
    /// Where it is outside of the mount.
    pub fn tree_path(&self, typed: &TreePath) -> Result<TreePath> {
        let mount = match &self.mount {
            Some(mount) if !self.from_root => mount,
            Some(_) | None => return Ok(TreePath(normalize(typed.as_bytes()))),
        };
        let settled = settle(Path::new(typed.as_os_str())).about(typed.as_bytes())?;
        let Ok(below) = settled.strip_prefix(&mount.dir) else {
            let message = format!("is not below the mount at {}", mount.dir.display());
            return Err(Error::usage(message).about(typed.as_bytes()));
        };
        Ok(TreePath(normalize(mount.root.join(below).as_os_str().as_bytes())))
    }

    /// The device number of the mount that the user stands in.
    pub fn dev(&self) -> Option<u64> {
        self.mount.as_ref().map(|mount| mount.dev)
    }
}

/// The StoneFS mount that a path is in, by device number, so that binds and namespaces are seen
/// through; of a path that does not exist, the one that its directory is in.
///
/// # Errors
/// Where the mount's daemon is dead.
pub fn mount_of(path: &Path) -> Result<Option<MountPoint>> {
    let mounts = mountinfo::list()?;
    let mut existing = path;
    let dev = loop {
        match fs::symlink_metadata(if existing.as_os_str().is_empty() { Path::new(".") } else { existing }) {
            Ok(meta) => break meta.dev(),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                return Err(dead().about(path.as_os_str().as_bytes()));
            }
            Err(_) => match existing.parent() {
                Some(parent) => existing = parent,
                None => return Ok(None),
            },
        }
    };
    let settled = settle(path).unwrap_or_else(|_| path.to_owned());
    let ours = || mounts.iter().filter(|mount| mount.dev == dev && mount.fstype == FSTYPE);
    let nearest =
        ours().filter(|mount| settled.starts_with(&mount.dir)).max_by_key(|mount| mount.dir.as_os_str().len());
    let found = nearest.or_else(|| ours().next()).cloned();
    match &found {
        Some(mount) if mountinfo::is_dead(&mount.dir) => Err(dead().about(mount.dir.as_os_str().as_bytes())),
        Some(_) | None => Ok(found),
    }
}

/// What is said of a mount that nobody serves.
pub(super) fn dead() -> Error {
    Error::failed("the mount's daemon is dead; `stone umount` clears the mount, `stone mount` renews it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_a_database_begin_at_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("x.stone");
        fs::write(&db, b"").unwrap();
        let place = Place::find(Some(&db), None, &[]).unwrap();
        assert_eq!(place.tree_path(&"a/../b".into()).unwrap(), "/b".into());
        assert_eq!(place.tree_path(&"/b/c".into()).unwrap(), "/b/c".into());
    }

    #[test]
    fn paths_in_a_mount_follow_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let mount = MountPoint {
            dev: 1,
            root: "/sub".into(),
            dir: root.clone(),
            shared: false,
            fstype: FSTYPE.to_owned(),
            source: "/db".into(),
        };
        let place = Place { database: "/db".into(), mount: Some(mount), from_root: false };
        let typed = root.join("a/b");
        assert_eq!(place.tree_path(&TreePath(typed.as_os_str().as_bytes().to_vec())).unwrap(), "/sub/a/b".into());
        assert_eq!(place.tree_path(&"/etc".into()).unwrap_err().status(), 2);
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = Place::find(Some(Path::new("/nonexistent/x.stone")), None, &[]).unwrap_err();
        assert!(missing.to_string().contains("stone init"), "{missing}");
        let outside = Place::find(None, Some(Path::new("/")), &[]).unwrap_err();
        assert!(outside.to_string().contains("stone mount"), "{outside}");
    }
}
