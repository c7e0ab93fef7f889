//! `stone umount`: ends a mount; everything is on disk when it returns.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::app::{App, connect, connect_mount};
use super::context::Origin;
use super::daemon;
use super::error::{About, Error, Result};
use super::holders;
use super::mount::{ENDING, stale_mount};
use super::mountinfo::{self, FSTYPE};
use super::text::TreePath;

const EXAMPLES: &str = "\
Examples:
  stone umount ~/work
With its last mount the daemon ends. Transactions of `stone begin` are kept.";

/// How long the daemon may take to end, in milliseconds.
const END_MS: u64 = 60_000;

/// Unmounts; everything is on disk when it returns
///
/// Refused while somebody uses the mount, naming the processes. Clears a mount whose daemon is dead.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Umount {
    /// The mount's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// An unmount that the daemon is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct UmountRequest {
    /// The directory, absolute.
    pub dir: TreePath,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unmounted {
    /// Whether the mount is in use, so that nothing was done.
    pub busy: bool,
    /// Whether it was the last, so that the daemon ends.
    pub last: bool,
}

/// The name of the request on the wire.
pub const UMOUNT: &str = "umount";

impl Umount {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let name = self.dir.as_os_str().as_bytes();
        if let Some(stale) = stale_mount(&self.dir)? {
            daemon::detach(&stale).about(name)?;
            return Ok(0);
        }
        let dir = fs::canonicalize(&self.dir).about(name)?;
        let _ = rustix::process::chdir("/"); // lest we stand in it ourselves
        let mount = mountinfo::at(&dir)?.filter(|mount| mount.fstype == FSTYPE);
        let Some(mount) = mount else {
            return Err(Error::failed("no StoneFS is mounted there").about(name));
        };
        let database = Path::new(&mount.source);
        let Some(mut client) = connect_mount(database, mount.dev)? else {
            let message = "its daemon does not answer; `umount` or `fusermount3 -u` ends the mount";
            return Err(Error::failed(message).about(name));
        };
        let pid = client.daemon().about(name)?.pid;
        let process =
            i32::try_from(pid).ok().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let request = UmountRequest { dir: dir.clone().into_os_string().into() };
        let answer = match client.call(UMOUNT, &Origin::here(Some(mount.dev)), &request, &mut |_| ()) {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) if failure.message == ENDING => {
                serde_json::to_value(Unmounted { busy: false, last: true }).unwrap_or_default()
            }
            Ok(Err(failure)) => return Err(Error(failure).about(name)),
            Err(error) => return Err(Error::failed(format!("the daemon did not answer: {error}")).about(name)),
        };
        let answer: Unmounted =
            serde_json::from_value(answer).map_err(|error| Error::failed(error.to_string()).about(name))?;
        if answer.busy {
            let holders = holders::of_device(mount.dev);
            let shown: Vec<String> = holders.iter().filter(|holder| holder.pid != pid).map(|h| h.shown()).collect();
            let who = if shown.is_empty() { "a process of another user".to_owned() } else { shown.join(", ") };
            return Err(Error::failed(format!("is in use by {who}")).about(name));
        }
        drop(client);
        if answer.last {
            wait_for_end(process, database)?;
        }
        if app.globals.json {
            app.show_json(&serde_json::json!({ "dir": dir.to_string_lossy(), "daemon_ended": answer.last }))?;
        }
        Ok(0)
    }
}

/// Waits until the daemon is gone.
fn wait_for_end(process: Option<OwnedFd>, database: &Path) -> Result<()> {
    let Some(process) = process else {
        // not visible from this pid namespace: its socket goes last
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(END_MS) {
            if connect(database).ok().flatten().is_none() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        return Err(Error::failed("unmounted, but the daemon does not end; its log says why"));
    };
    let limit = rustix::event::Timespec { tv_sec: (END_MS / 1000).cast_signed(), tv_nsec: 0 };
    let mut waiting = [PollFd::new(&process, PollFlags::IN)];
    match poll(&mut waiting, Some(&limit)) {
        Ok(0) => Err(Error::failed("unmounted, but the daemon does not end; its log says why")),
        Ok(_) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).into()),
    }
}
