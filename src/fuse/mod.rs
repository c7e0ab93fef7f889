//! L6: the kernel's side: mounting, requests, and what the kernel must forget.

mod adapter;
mod convert;
mod device;
mod follow;
mod invalidate;

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

pub use device::{Mounted, mounts};
use parking_lot::Mutex;

use self::adapter::{Adapter, Negotiation};
use self::follow::Follower;
use self::invalidate::Invalidator;
use crate::engine::FsError;
use crate::types::View;
use crate::vfs::{Held, OpenFiles, Session, SessionOptions, Vfs};

/// How a session is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What the mount shows.
    pub session: SessionOptions,
    /// The database's path, shown as the mount's source.
    pub source: PathBuf,
    /// Other users may enter.
    pub allow_other: bool,
    /// The mount point may have entries, which the mount hides.
    pub nonempty: bool,
    /// The kernel gathers small writes, at the price of who wrote and of slower creation.
    pub writeback: bool,
    /// Further flags of mount(8): `nosuid nodev noexec noatime`.
    pub flags: Vec<String>,
    /// Opens for reading are recorded.
    pub record_reads: bool,
}

impl MountOptions {
    /// The usual options for a session of a database.
    pub fn new(session: SessionOptions, source: &Path) -> MountOptions {
        MountOptions {
            session,
            source: source.to_owned(),
            allow_other: false,
            nonempty: false,
            writeback: false,
            flags: Vec::new(),
            record_reads: false,
        }
    }
}

/// Why a mount could not be made, switched or ended.
#[derive(Debug)]
pub enum MountError {
    /// The system refused.
    System {
        /// What was tried.
        what: &'static str,
        /// Where.
        dir: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// The file system refused.
    FileSystem(FsError),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::System { what, dir, error } => write!(f, "cannot {what} {}: {error}", dir.display()),
            MountError::FileSystem(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MountError {}

impl From<FsError> for MountError {
    fn from(error: FsError) -> MountError {
        MountError::FileSystem(error)
    }
}

/// A mounted session. Dropping it neither unmounts nor ends it.
pub struct MountHandle {
    session: Arc<Session>,
    dir: PathBuf,
    device: Option<(u32, u32)>,
    invalidator: Invalidator,
    server: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

/// Mounts a session of a database on a directory and serves it; returns when the kernel listens.
///
/// # Errors
/// What the system says about the directory, the device or the helper.
pub fn mount(vfs: &Arc<Vfs>, dir: &Path, options: &MountOptions) -> Result<MountHandle, MountError> {
    let failed = |what| move |error| MountError::System { what, dir: dir.to_owned(), error };
    let dir_path = dir.canonicalize().map_err(failed("mount on"))?;
    let session = vfs.session(options.session.clone());
    let adapter = Adapter {
        session: session.clone(),
        negotiation: Negotiation { writeback: options.writeback, record_reads: options.record_reads },
        follower: Follower::new(),
    };
    let shape = device::Shape {
        source: &options.source,
        allow_other: options.allow_other,
        read_only: options.session.read_only || !matches!(options.session.root.at, crate::types::At::Live),
        nonempty: options.nonempty,
        flags: &options.flags,
    };
    let descriptor = device::mount(&dir_path, &shape).map_err(failed("mount on"))?;
    let mut config = fuser::Config::default();
    // The engine is one lock: a second thread would wait for the first, and being woken by turns costs
    // more than it gains. What waits for the disk is answered by the writer.
    config.n_threads = Some(1);
    let served = fuser::Session::from_fd(adapter, descriptor, fuser::SessionACL::All, config).and_then(|server| {
        let invalidator = Invalidator::start(server.notifier())?;
        let thread = std::thread::Builder::new().name("stone-serve".into()).spawn(move || server.run())?;
        Ok((invalidator, thread))
    });
    let (invalidator, thread) = match served {
        Ok(served) => served,
        Err(error) => {
            let _ = device::unmount(&dir_path, true);
            return Err(failed("serve")(error));
        }
    };
    session.notify(invalidator.sink());
    let mounted = mounts().unwrap_or_default().into_iter().rev().find(|mounted| mounted.point == dir_path);
    Ok(MountHandle {
        session,
        dir: dir_path,
        device: mounted.map(|mounted| mounted.device),
        invalidator,
        server: Mutex::new(Some(thread)),
    })
}

impl MountHandle {
    /// The session behind the mount.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The mount point, as it was when the mount was made.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `st_dev` of the mount's files, as major and minor.
    pub fn device(&self) -> Option<(u32, u32)> {
        self.device
    }

    /// Makes the kernel hand over what mapped pages of files that are open for writing hold: to be
    /// called before every cut point. Must not be called from a thread that serves requests.
    pub fn flush_writers(&self) {
        for node in self.session.writers() {
            self.invalidator.flush(node);
        }
    }

    /// Waits until the kernel has been told everything that it must forget so far.
    pub fn settle(&self) {
        self.invalidator.settle();
    }

    /// Makes the root of the mount show another view, and returns when the kernel shows it.
    ///
    /// # Errors
    /// `Busy` where a mount point inside would vanish; nothing has changed then.
    pub fn switch(&self, to: View) -> Result<(), MountError> {
        self.flush_writers();
        let notices = self.session.switch(to, &self.mount_points_inside())?;
        self.invalidator.send_all(&notices);
        Ok(())
    }

    /// Does something while nothing is served, and then makes the root show what it says, if anything.
    ///
    /// # Errors
    /// Those of `act`, and as for [`MountHandle::switch`].
    pub fn paused<E: From<MountError>>(
        &self,
        act: impl FnOnce() -> Result<Option<(View, OpenFiles)>, E>,
    ) -> Result<(), E> {
        self.flush_writers();
        let inside = self.mount_points_inside();
        let mut pause = self.session.pause();
        let notices = match act()? {
            Some((to, open)) => pause.show(to, &inside, open).map_err(MountError::from)?,
            None => Vec::new(),
        };
        drop(pause);
        self.invalidator.send_all(&notices);
        Ok(())
    }

    /// The entries on the way to mount points inside this mount.
    pub fn held(&self) -> Vec<Held> {
        self.session.held(&self.mount_points_inside())
    }

    /// The mount points inside this mount, from its root.
    fn mount_points_inside(&self) -> Vec<Vec<u8>> {
        let Ok(all) = mounts() else { return Vec::new() };
        let ours: Vec<&Mounted> = all.iter().filter(|mounted| Some(mounted.device) == self.device).collect();
        let mut inside = Vec::new();
        for mounted in &all {
            if let Some(below) = ours.iter().find(|ours| ours.id == mounted.parent)
                && let Ok(rest) = mounted.point.strip_prefix(&below.point)
            {
                inside.push(below.root.join(rest).as_os_str().as_bytes().to_vec());
            }
        }
        inside
    }

    /// Whether the mount is still served; false once it was unmounted by whomever.
    pub fn is_served(&self) -> bool {
        self.server.lock().as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Unmounts and waits until the last request was served.
    ///
    /// # Errors
    /// `EBUSY` while somebody uses the mount, which goes on then.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.is_served() {
            device::unmount(&self.dir, false).map_err(|error| MountError::System {
                what: "unmount",
                dir: self.dir.clone(),
                error,
            })?;
        }
        self.join();
        Ok(())
    }

    /// Takes the mount point away at once; the session lives while it is used through another path
    /// or an open file. For a private mount that was bound elsewhere.
    ///
    /// # Errors
    /// What the system says.
    pub fn detach(&self) -> Result<(), MountError> {
        device::unmount(&self.dir, true).map_err(|error| MountError::System {
            what: "detach",
            dir: self.dir.clone(),
            error,
        })
    }

    /// Waits for the end of the session, however it comes.
    pub fn join(&self) {
        let Some(thread) = self.server.lock().take() else { return };
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("{}: {error}", self.dir.display()),
            Err(_) => log::error!("{}: a serving thread panicked", self.dir.display()),
        }
        self.session.end();
    }

    /// Makes the session answer `EIO` from now on, whoever uses it.
    pub fn end(&self) {
        self.session.end();
    }
}

/// Clears a mount whose daemon is gone ("transport endpoint is not connected").
///
/// # Errors
/// What the system says.
pub fn clear_stale(dir: &Path) -> io::Result<()> {
    device::unmount(dir, true)
}
