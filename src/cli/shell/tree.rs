//! The tree that the shell works on: through the mount where there is one, else in this process.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::error::{About, Error, Result};
use crate::cli::mountinfo::normalize;
use crate::engine::{Engine, FsError, RenameMode};
use crate::types::{Attr, Caller, Ino, Kind, SetAttr, SetTime, Timestamp, View};
use crate::version::{RefContext, refs};

/// What the shell shows of a file.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Its type.
    pub kind: Kind,
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Inode.
    pub ino: u64,
}

/// Operations on a tree, by absolute path. Errors name the path.
pub trait Tree {
    /// Attributes; of a link itself where `follow` is not set.
    ///
    /// # Errors
    /// As for stat(2), here and below.
    fn stat(&self, path: &[u8], follow: bool) -> Result<Meta>;
    /// Names and types in a directory, sorted.
    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>>;
    /// A link's target.
    fn readlink(&self, path: &[u8]) -> Result<Vec<u8>>;
    /// Copies a file's content to a writer.
    fn read(&self, path: &[u8], to: &mut dyn Write) -> Result<()>;
    /// Replaces, or continues, a file's content; creates it with these permission bits before umask.
    fn write(&self, path: &[u8], from: &mut dyn Read, append: bool, perm: u16) -> Result<()>;
    /// As mkdir(2).
    fn mkdir(&self, path: &[u8], perm: u16) -> Result<()>;
    /// As rmdir(2).
    fn rmdir(&self, path: &[u8]) -> Result<()>;
    /// As unlink(2).
    fn unlink(&self, path: &[u8]) -> Result<()>;
    /// As rename(2).
    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()>;
    /// As link(2).
    fn link(&self, from: &[u8], to: &[u8]) -> Result<()>;
    /// As symlink(2).
    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()>;
    /// Changes attributes.
    fn set(&self, path: &[u8], set: &SetAttr) -> Result<()>;
}

/// Bytes that are carried at a time.
const PIECE: usize = 1 << 20;

// ---- through the mount ---------------------------------------------------------------------------

/// A tree that is mounted.
pub struct Mounted {
    root: PathBuf,
}

impl Mounted {
    /// The tree at a mount point.
    pub fn new(root: PathBuf) -> Mounted {
        Mounted { root }
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        let below = path.strip_prefix(b"/").unwrap_or(path);
        self.root.join(Path::new(std::ffi::OsStr::from_bytes(below)))
    }
}

fn kind_of(meta: &fs::Metadata) -> Kind {
    Kind::from_mode(meta.mode()).unwrap_or(Kind::File)
}

impl Tree for Mounted {
    fn stat(&self, path: &[u8], follow: bool) -> Result<Meta> {
        let at = self.at(path);
        let meta = if follow { fs::metadata(at) } else { fs::symlink_metadata(at) }.about(path)?;
        Ok(Meta {
            kind: kind_of(&meta),
            perm: (meta.mode() & 0o7777) as u16,
            uid: meta.uid(),
            gid: meta.gid(),
            nlink: u32::try_from(meta.nlink()).unwrap_or(u32::MAX),
            size: meta.size(),
            mtime: Timestamp::from_secs_nanos(meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
            ctime: Timestamp::from_secs_nanos(meta.ctime(), u32::try_from(meta.ctime_nsec()).unwrap_or(0)),
            ino: meta.ino(),
        })
    }

    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.at(path)).about(path)? {
            let entry = entry.about(path)?;
            let kind = match fs::symlink_metadata(entry.path()) {
                Ok(meta) => kind_of(&meta),
                Err(_) => continue, // it went meanwhile
            };
            found.push((entry.file_name().into_vec(), kind));
        }
        found.sort();
        Ok(found)
    }

    fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        Ok(fs::read_link(self.at(path)).about(path)?.into_os_string().into_vec())
    }

    fn read(&self, path: &[u8], to: &mut dyn Write) -> Result<()> {
        let mut file = fs::File::open(self.at(path)).about(path)?;
        std::io::copy(&mut file, to).about(path)?;
        Ok(())
    }

    fn write(&self, path: &[u8], from: &mut dyn Read, append: bool, perm: u16) -> Result<()> {
        let mut options = fs::OpenOptions::new();
        options.create(true).mode(u32::from(perm)).append(append).write(true).truncate(!append);
        let mut file = options.open(self.at(path)).about(path)?;
        std::io::copy(from, &mut file).about(path)?;
        Ok(())
    }

    fn mkdir(&self, path: &[u8], perm: u16) -> Result<()> {
        fs::DirBuilder::new().mode(u32::from(perm)).create(self.at(path)).about(path)
    }

    fn rmdir(&self, path: &[u8]) -> Result<()> {
        fs::remove_dir(self.at(path)).about(path)
    }

    fn unlink(&self, path: &[u8]) -> Result<()> {
        fs::remove_file(self.at(path)).about(path)
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        fs::rename(self.at(from), self.at(to)).about(to)
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        fs::hard_link(self.at(from), self.at(to)).about(to)
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        symlink(std::ffi::OsStr::from_bytes(target), self.at(path)).about(path)
    }

    fn set(&self, path: &[u8], set: &SetAttr) -> Result<()> {
        let at = self.at(path);
        if let Some(perm) = set.perm {
            fs::set_permissions(&at, fs::Permissions::from_mode(u32::from(perm))).about(path)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            chown(&at, set.uid, set.gid).about(path)?;
        }
        let time = |time: Option<SetTime>| match time {
            None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            Some(SetTime::To(time)) => {
                let (seconds, nanos) = time.secs_nanos();
                rustix::fs::Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) }
            }
        };
        if set.atime.is_some() || set.mtime.is_some() {
            let times = rustix::fs::Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
            rustix::fs::utimensat(rustix::fs::CWD, &at, &times, rustix::fs::AtFlags::empty())
                .map_err(std::io::Error::from)
                .about(path)?;
        }
        Ok(())
    }
}

// ---- in this process -----------------------------------------------------------------------------

/// A tree of a database that this process has open.
pub struct Direct {
    engine: Arc<Engine>,
    caller: Caller,
    umask: u32,
    context: RefContext,
    view: View,
}

struct Spot {
    view: View,
    attr: Attr,
}

/// Links followed before it counts as a loop, as in Linux.
const LINKS_MAX: usize = 40;

impl Direct {
    /// The tree of a view, to a caller.
    pub fn new(engine: &Arc<Engine>, caller: Caller, view: View, context: RefContext) -> Direct {
        let umask = fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| {
                let digits = text.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim().to_owned();
                u32::from_str_radix(&digits, 8).ok()
            })
            .unwrap_or(0o022);
        Direct { engine: Arc::clone(engine), caller, umask, context, view }
    }

    /// The view that a path begins in, and the rest of it.
    fn view_of<'p>(&self, path: &'p [u8]) -> Result<(View, &'p [u8])> {
        let Some(rest) = path.strip_prefix(b"/.") else { return Ok((self.view, path)) };
        let (kind, rest) = split_first(rest);
        let (name, rest) = split_first(rest.strip_prefix(b"/").unwrap_or_default());
        if name.is_empty() {
            return Ok((self.view, path));
        }
        let view = match kind {
            b"history" => {
                let view = refs::resolve(&self.engine, name, &self.context)?;
                match view.at {
                    crate::types::At::Live => View::as_of(view.branch, self.engine.seal(Some(view.branch))?),
                    crate::types::At::AsOf(_) => view,
                }
            }
            b"branches" => View::live(refs::branch(&self.engine, name)?.id),
            _ => return Ok((self.view, path)),
        };
        Ok((view, if rest.is_empty() { b"/" } else { rest }))
    }

    fn find(&self, path: &[u8], follow: bool) -> Result<Spot> {
        self.walk(path, follow, LINKS_MAX).map_err(|error| match error {
            Failed::Tree(error) => Error::from(error).about(path),
            Failed::Other(error) => error,
        })
    }

    fn walk(&self, path: &[u8], follow: bool, links: usize) -> std::result::Result<Spot, Failed> {
        let (view, path) = self.view_of(path)?;
        let plain = normalize(path);
        let mut attr = self.engine.getattr(view, Ino::ROOT)?;
        let mut done = Vec::new();
        let mut names = plain.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            attr = self.engine.lookup(view, attr.ino, name)?;
            if attr.kind == Kind::Symlink && (follow || names.peek().is_some()) {
                let left = links.checked_sub(1).ok_or(Failed::Other(Error::failed("too many levels of links")))?;
                let target = self.engine.readlink(view, attr.ino)?;
                let mut next = if target.starts_with(b"/") { Vec::new() } else { done };
                next.push(b'/');
                next.extend_from_slice(&target);
                for name in names {
                    next.push(b'/');
                    next.extend_from_slice(name);
                }
                let inner = Direct {
                    engine: Arc::clone(&self.engine),
                    caller: self.caller,
                    umask: self.umask,
                    context: self.context.clone(),
                    view,
                };
                return inner.walk(&normalize(&next), follow, left);
            }
            done.push(b'/');
            done.extend_from_slice(name);
        }
        Ok(Spot { view, attr })
    }

    /// The directory that a path's last name is in.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(View, Ino, &'p [u8])> {
        let (dir, name) = split_last(path);
        if name.is_empty() {
            return Err(Error::failed("is the root of the tree").about(path));
        }
        let spot = self.find(if dir.is_empty() { b"/" } else { dir }, true)?;
        Ok((spot.view, spot.attr.ino, name))
    }
}

enum Failed {
    Tree(FsError),
    Other(Error),
}

impl From<FsError> for Failed {
    fn from(error: FsError) -> Failed {
        Failed::Tree(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Other(error)
    }
}

fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    path.split_at_checked(end).unwrap_or((path, b""))
}

/// A path's directory (empty for the root) and its last name.
pub fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

fn meta(attr: &Attr) -> Meta {
    Meta {
        kind: attr.kind,
        perm: attr.perm,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        mtime: attr.mtime,
        ctime: attr.ctime,
        ino: attr.ino.0,
    }
}

impl Tree for Direct {
    fn stat(&self, path: &[u8], follow: bool) -> Result<Meta> {
        Ok(meta(&self.find(path, follow)?.attr))
    }

    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>> {
        let spot = self.find(path, true)?;
        let entries = self.engine.list(spot.view, spot.attr.ino).about(path)?;
        let mut found: Vec<_> = entries.iter().map(|entry| (entry.name.as_bytes().to_vec(), entry.kind)).collect();
        found.sort();
        Ok(found)
    }

    fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        let spot = self.find(path, false)?;
        Ok(self.engine.readlink(spot.view, spot.attr.ino).about(path)?.to_vec())
    }

    fn read(&self, path: &[u8], to: &mut dyn Write) -> Result<()> {
        let spot = self.find(path, true)?;
        match spot.attr.kind {
            Kind::File => {}
            Kind::Dir => return Err(Error::from(FsError::IsDir).about(path)),
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => {
                return Err(Error::failed("is no regular file; only a mount can open it").about(path));
            }
        }
        let mut offset = 0;
        loop {
            let piece = self.engine.read_at(spot.view, spot.attr.ino, offset, PIECE).about(path)?;
            if piece.is_empty() {
                return Ok(());
            }
            to.write_all(&piece).about("output")?;
            offset += piece.len() as u64;
        }
    }

    fn write(&self, path: &[u8], from: &mut dyn Read, append: bool, perm: u16) -> Result<()> {
        let mode = libc::O_WRONLY | if append { libc::O_APPEND } else { libc::O_TRUNC };
        let (handle, mut offset) = match self.find(path, true) {
            Ok(spot) => {
                if spot.attr.kind != Kind::File {
                    return Err(Error::failed("is no regular file").about(path));
                }
                let start = if append { spot.attr.size } else { 0 };
                (self.engine.open_file(spot.view, spot.attr.ino, mode, &self.caller).about(path)?, start)
            }
            Err(_) => {
                let (view, dir, name) = self.parent(path)?;
                let made = self.engine.create(view, dir, name, perm, self.umask, mode, &self.caller).about(path)?;
                (made.1, 0)
            }
        };
        let written = (|| {
            let mut buffer = vec![0; PIECE];
            loop {
                let length = from.read(&mut buffer).about("input")?;
                let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else { return Ok(()) };
                self.engine.write(handle, offset, piece, false, &self.caller).about(path)?;
                offset += length as u64;
            }
        })();
        self.engine.release(handle).about(path)?;
        written
    }

    fn mkdir(&self, path: &[u8], perm: u16) -> Result<()> {
        let (view, dir, name) = self.parent(path)?;
        self.engine.mkdir(view, dir, name, perm, self.umask, &self.caller).about(path)?;
        Ok(())
    }

    fn rmdir(&self, path: &[u8]) -> Result<()> {
        let (view, dir, name) = self.parent(path)?;
        self.engine.rmdir(view, dir, name, &self.caller).about(path)
    }

    fn unlink(&self, path: &[u8]) -> Result<()> {
        let (view, dir, name) = self.parent(path)?;
        self.engine.unlink(view, dir, name, &self.caller).about(path)
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((view, dir, name), (view2, dir2, name2)) = (self.parent(from)?, self.parent(to)?);
        if view != view2 {
            return Err(Error::from(FsError::CrossView).about(to));
        }
        self.engine.rename(view, dir, name, dir2, name2, RenameMode::Replace, &self.caller).about(to)
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let spot = self.find(from, false)?;
        let (view, dir, name) = self.parent(to)?;
        if view != spot.view {
            return Err(Error::from(FsError::CrossView).about(to));
        }
        self.engine.link(view, spot.attr.ino, dir, name, &self.caller).about(to)?;
        Ok(())
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        let (view, dir, name) = self.parent(path)?;
        self.engine.symlink(view, dir, name, target, &self.caller).about(path)?;
        Ok(())
    }

    fn set(&self, path: &[u8], set: &SetAttr) -> Result<()> {
        let spot = self.find(path, true)?;
        self.engine.setattr(spot.view, spot.attr.ino, set, None, &self.caller).about(path)?;
        Ok(())
    }
}
