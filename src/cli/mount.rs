//! `stone mount`: shows a database's tree at a directory.
//!
//! The first mount of a database starts its daemon; further ones are made by the same daemon.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::control::{self, Failure};

use super::app::{App, PING, connect};
use super::context::Origin;
use super::daemon;
use super::error::{About, Error, Result};
use super::init;
use super::mountinfo::{self, FSTYPE};
use super::options::{self, MountOptions};
use super::text::TreePath;

const EXAMPLES: &str = "\
Examples:
  stone mount work.stone ~/work                        makes work.stone where it is missing
  stone mount work.stone /mnt -o allow_other           other users may enter (as root)
  stone mount work.stone /mnt -o ro,at=2026-11-22      a past state, read-only
  stone mount work.stone /mnt2 -o branch=experiment    a second mount, showing another branch
  stone mount -f work.stone /mnt                       stays in the foreground (for systemd)
  ln -s $(command -v stone) /sbin/mount.fuse.stonefs   then a line of /etc/fstab mounts it:
                                                       /data/work.stone /mnt fuse.stonefs defaults 0 0

Options (-o): ro; allow_other; nonempty (hide what is in DIR); writeback (the kernel collects
writes: small writes are faster, creates slower); branch=NAME; at=REF; history=root|everywhere
(everywhere: each directory has its own .history); audit=all (record opens for reading too);
uid=, gid= (show all files as this user's); size=20G (the most that the database may use: full as a
disk would be, until history is pruned); verify (compare content with its hash whenever it is read);
compress, compress=none (whether new content is compressed, from now on). nosuid, nodev, noexec and the like go to the kernel.

A crash of the daemon alone loses at most the last second; nothing that was fsynced.";

/// How long a mount waits for a daemon that is just beginning or ending, in milliseconds.
const RETRY_MS: u64 = 30_000;
/// How long the kernel may take to end the mount of a daemon that was killed, in milliseconds.
const DYING_MS: u64 = 5000;
/// The size in bytes above which a daemon's log starts anew.
const LOG_MAX: u64 = 4 << 20;

/// Mounts a database; makes it where it is missing
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Mount {
    /// The database
    #[arg(value_name = "DB")]
    database: PathBuf,
    /// The directory to mount it at
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPT,...")]
    options: Vec<OsString>,
    /// Stays in the foreground
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Is the daemon: reports on standard output when the mount answers
    #[arg(long, hide = true, conflicts_with = "foreground")]
    detached: bool,
}

/// A mount that a running daemon is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountRequest {
    /// The directory, absolute.
    pub dir: TreePath,
    /// With what.
    pub options: MountOptions,
}

/// The name of the request on the wire.
pub const MOUNT: &str = "mount";

/// What a daemon answers that is just ending; the asker tries again.
pub const ENDING: &str = "the daemon is ending; try again";

impl Mount {
    /// Whether this process is the daemon, whose log goes to a file.
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Whether this process becomes the daemon.
    pub(super) fn is_foreground(&self) -> bool {
        self.foreground
    }

    pub(super) fn run(self, app: &App) -> Result<u8> {
        if options::has_remount(&self.options) {
            return self.remount();
        }
        let options = MountOptions::parse(&self.options)?;
        if self.detached {
            return self.serve_detached(options);
        }
        let dir = prepare_dir(&self.dir, &options)?;
        let database = prepare_database(&self.database, &dir)?;
        let start = Instant::now();
        loop {
            let done = match connect(&database)? {
                Some(mut client) => {
                    let request = MountRequest { dir: dir.clone().into_os_string().into(), options: options.clone() };
                    let origin = Origin::here(None);
                    match client.call(MOUNT, &origin, &request, &mut |_| ()) {
                        Ok(Ok(_)) if self.foreground => return wait_while_mounted(&dir),
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err(failure)) if failure.message == ENDING => Err(()),
                        Ok(Err(failure)) => return Err(Error(failure)),
                        Err(_) => Err(()), // it ended while we asked
                    }
                }
                None if self.foreground => {
                    daemon::serve(&database, &dir, &options, &mut || ())?;
                    return Ok(0);
                }
                None => match self.spawn(app, &database, &dir) {
                    Ok(()) => Ok(()),
                    // another mount was faster and has the database open now
                    Err(_) if connect(&database)?.is_some() => Err(()),
                    Err(error) => return Err(error),
                },
            };
            match done {
                Ok(()) => break,
                Err(()) if start.elapsed() > Duration::from_millis(RETRY_MS) => return Err(Error::failed(ENDING)),
                Err(()) => thread::sleep(Duration::from_millis(20)),
            }
        }
        fs::metadata(&dir).map_err(|error| Error::from(error).about(b"the mount does not answer"))?;
        if app.globals.json {
            app.show_json(&serde_json::json!({ "db": database.to_string_lossy(), "dir": dir.to_string_lossy() }))?;
        }
        Ok(0)
    }

    /// Lets the kernel change the flags of a mount that is there (`-o remount,ro`): no daemon has a part in it.
    fn remount(&self) -> Result<u8> {
        let mut command = Command::new("mount");
        command.arg("-i");
        for list in &self.options {
            command.arg("-o").arg(list);
        }
        let status = command.arg(&self.dir).status().map_err(|error| Error::from(error).about(b"mount"))?;
        Ok(u8::from(!status.success()))
    }

    /// Starts the daemon and waits until its mount answers.
    fn spawn(&self, app: &App, database: &Path, dir: &Path) -> Result<()> {
        let program = std::env::current_exe().map_err(|error| Error::from(error).about(b"own program"))?;
        let mut command = Command::new(program);
        // Under whatever name mount(8) has called it.
        command.arg0("stone").arg("mount").arg("--detached").arg(database).arg(dir);
        for list in &self.options {
            command.arg("-o").arg(list);
        }
        for _ in 0..app.globals.verbose {
            command.arg("-v");
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| Error::from(error).about(b"cannot start the daemon"))?;
        let mut report = Vec::new();
        if let Some(pipe) = child.stdout.as_mut() {
            pipe.read_to_end(&mut report).map_err(|error| Error::from(error).about(b"the daemon does not report"))?;
        }
        if report == READY {
            return Ok(());
        }
        drop(child.wait());
        match serde_json::from_slice::<Failure>(&report) {
            Ok(failure) => Err(Error(failure)),
            Err(_) => {
                let log = control::log_path(database).map(|path| path.display().to_string()).unwrap_or_default();
                Err(Error::failed(format!("the daemon ended without a word; its log is {log}")))
            }
        }
    }

    /// Is the daemon.
    fn serve_detached(&self, options: MountOptions) -> Result<u8> {
        let _ = rustix::process::setsid(); // fails where we lead a session already
        let _ = rustix::process::chdir("/");
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let served = open_log(&self.database)
            .map_err(Error::from)
            .and_then(|log| rustix::stdio::dup2_stderr(&log).map_err(|error| Error::from(io::Error::from(error))))
            .and_then(|()| daemon::serve(&self.database, &self.dir, &options, &mut report_ready));
        match served {
            Ok(()) => Ok(0),
            Err(error) => {
                ::log::error!("{error}");
                let report = serde_json::to_vec(&error.0).unwrap_or_default();
                drop(io::stdout().write_all(&report).and_then(|()| io::stdout().flush()));
                Ok(error.status())
            }
        }
    }
}

const READY: &[u8] = b"ready\n";

/// Tells the waiting command that the mount answers, and lets go of its pipe.
fn report_ready() {
    drop(io::stdout().write_all(READY).and_then(|()| io::stdout().flush()));
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn open_log(database: &Path) -> io::Result<File> {
    let path = control::log_path(database)?;
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX) {
        fs::rename(&path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Checks the directory and clears a stale mount there; returns its path without symlinks.
fn prepare_dir(dir: &Path, options: &MountOptions) -> Result<PathBuf> {
    let name = dir.as_os_str().as_bytes();
    if let Some(stale) = stale_mount(dir)? {
        daemon::detach(&stale).about(name)?;
    }
    let real = fs::canonicalize(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::failed("no such directory; make it first").about(name),
        _ => Error::from(error).about(name),
    })?;
    if !fs::metadata(&real).about(name)?.is_dir() {
        return Err(Error::failed("is not a directory").about(name));
    }
    if let Some(mount) = mountinfo::at(&real)?
        && mount.fstype == FSTYPE
    {
        let message = format!("{} is mounted there already", Path::new(&mount.source).display());
        return Err(Error::failed(message).about(name));
    }
    if !options.nonempty && fs::read_dir(&real).about(name)?.next().is_some() {
        return Err(Error::failed("is not empty; `-o nonempty` hides what is in it").about(name));
    }
    Ok(real)
}

/// The mount point at a directory whose daemon is dead, where it is one.
///
/// # Errors
/// Where the table of mounts cannot be read.
pub fn stale_mount(dir: &Path) -> Result<Option<PathBuf>> {
    let settled = mountinfo::settle(dir)?;
    let start = Instant::now();
    loop {
        let Some(mount) = mountinfo::at(&settled)?.filter(|mount| mount.fstype == FSTYPE) else { return Ok(None) };
        if mountinfo::is_dead(&settled) {
            return Ok(Some(settled));
        }
        // a daemon that was killed a moment ago does not answer, though its mount is not dead yet
        if answers(Path::new(&mount.source)) || start.elapsed() > Duration::from_millis(DYING_MS) {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a database's daemon answers, or is none of ours to ask.
fn answers(database: &Path) -> bool {
    match connect(database) {
        Ok(Some(mut client)) => client.call(PING, &Origin::default(), &(), &mut |_| ()).is_ok(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Makes the database where it is missing; returns its path without symlinks.
fn prepare_database(database: &Path, dir: &Path) -> Result<PathBuf> {
    let name = database.as_os_str().as_bytes();
    if matches!(fs::metadata(database), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        init::create(database, Vec::new())?;
    }
    let real = fs::canonicalize(database).about(name)?;
    let meta = fs::metadata(&real).about(name)?;
    if meta.is_dir() {
        return Err(Error::failed("is a directory; give the database's file").about(name));
    }
    if real.starts_with(dir) {
        return Err(Error::failed("is inside of the directory that it would be mounted over").about(name));
    }
    let uid = rustix::process::geteuid().as_raw();
    if uid != 0 && meta.uid() != uid {
        return Err(Error::failed("belongs to somebody else; only its owner and root mount it").about(name));
    }
    Ok(real)
}

/// Stays until somebody unmounts (`-f` where the daemon runs already).
fn wait_while_mounted(dir: &Path) -> Result<u8> {
    while mountinfo::at(dir)?.is_some_and(|mount| mount.fstype == FSTYPE) {
        thread::sleep(Duration::from_millis(200));
    }
    Ok(0)
}
