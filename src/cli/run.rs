//! `stone run`: a whole process tree in a transaction of its own, at the usual paths.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::control::Client;

use super::app::{App, connect, connect_mount};
use super::context::Origin;
use super::diff::{self, DiffRow};
use super::error::{About, Error, Result};
use super::isolate::{self, IsolateError, Over};
use super::mountinfo;
use super::outcome::Outcome;
use super::place::Place;
use super::screen::Screen;
use super::text::{Text, TreePath};

const EXAMPLES: &str = "\
Examples:
  stone run -- make install              kept if it succeeds, else as if it had never run
  stone run --preview -- ./cleanup.sh    shows what it did, deletions first, and asks
  stone run --branch try -- cargo update the result is left on a new branch
  stone run --retry 3 -- ./transfer      runs again when others changed the same things first
  stone run --as agent-7 -- ./agent      the record calls the actor agent-7
The command sees the tree at the usual paths, and nobody else sees anything before the commit. Other
file systems and the network are outside of the transaction. Exit status: the command's; 3 on a
conflict; 125 to 127, as for env(1), when it could not be run.";

/// The exit status of failures of our own.
const OWN_FAILURE: u8 = 125;
/// How long processes that the command left behind may take to end after SIGTERM, in milliseconds.
const GRACE_MS: u64 = 200;

/// Runs a command in a transaction of its own: commits if it succeeds, else rolls back
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
    /// Calls the actor by this label in the record
    #[arg(long = "as", value_name = "LABEL")]
    label: Option<String>,
    /// Shows what would be committed, deletions first, and asks
    #[arg(long)]
    preview: bool,
    /// Keeps the transaction open when the command fails
    #[arg(long)]
    keep: bool,
    /// Leaves the result on a new branch instead
    #[arg(long, value_name = "NAME")]
    branch: Option<Text>,
    /// Runs it again, up to so many times, when others changed the same things first
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry: u32,
    /// What is validated at the commit: what it wrote (snapshot), or what it read too (serializable)
    #[arg(long, value_name = "LEVEL", default_value = "snapshot")]
    isolation: Isolation,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How strictly a transaction is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Snapshot isolation.
    Snapshot,
    /// As if one after the other.
    Serializable,
}

/// Names of the requests on the wire.
pub const RUN_BEGIN: &str = "run-begin";
/// The command, with this process id, is inside: the private mount point can go.
pub const RUN_ENTERED: &str = "run-entered";
/// What would be committed.
pub const RUN_PREVIEW: &str = "run-preview";
/// The command has ended.
pub const RUN_END: &str = "run-end";

/// Asks for a transaction with a private mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunBegin {
    /// What it is for.
    pub message: String,
    /// Who acts.
    pub label: String,
    /// The new branch that receives the result.
    pub branch: Option<Text>,
    /// Whether what it reads is validated.
    pub isolation: Isolation,
}

/// The private mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunBegun {
    /// The transaction, as `T7`.
    pub transaction: String,
    /// Where its view is mounted for a moment.
    pub dir: TreePath,
    /// The device number of its files.
    pub dev: u64,
}

/// Says how the command ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunEnd {
    /// What becomes of the transaction.
    pub how: RunEndHow,
    /// The command's exit status, for the record.
    pub status: i32,
    /// The command's process.
    pub pid: u32,
}

/// What becomes of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunEndHow {
    /// Everything becomes visible.
    Commit,
    /// As `Commit`, but nothing stays open on a conflict: the command will be run again.
    CommitOrNothing,
    /// Nothing does.
    Rollback,
    /// It stays open.
    Keep,
}

impl RunArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        match self.attempts(app) {
            Ok(status) => Ok(status),
            Err(mut error) => {
                if error.0.status == 1 {
                    error.0.status = OWN_FAILURE;
                }
                Err(error)
            }
        }
    }

    fn attempts(&self, app: &App) -> Result<u8> {
        let place = Place::find(app.globals.db.as_deref(), app.globals.mount.as_deref(), &[])?;
        if place.mount.is_none() {
            return Err(Error::usage("stone run needs a mount: mount the database, and name the directory by --mount"));
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| Error::from(io::Error::from(error)))?;
        let child = Arc::new(AtomicI32::new(0));
        forward_signals(Arc::clone(&child))?;
        for attempt in 0..=self.retry {
            if let Some(status) = self.attempt(app, &place, &child, attempt == self.retry)? {
                return Ok(status);
            }
            app.note("others changed the same things first; running it again");
        }
        Ok(3)
    }

    /// One run; `None` where it met a conflict and may be run again.
    fn attempt(&self, app: &App, place: &Place, current: &AtomicI32, last: bool) -> Result<Option<u8>> {
        let name = place.database.as_os_str().as_encoded_bytes();
        let client = match place.dev() {
            Some(dev) => connect_mount(&place.database, dev)?,
            None => connect(&place.database)?,
        };
        let client = client.ok_or_else(|| Error::failed("its daemon does not answer").about(name))?;
        let mut daemon = Daemon { client, origin: Origin::here(place.dev()) };
        let begin = RunBegin {
            message: self.message.clone().unwrap_or_default(),
            label: self.label.clone().unwrap_or_default(),
            branch: self.branch.clone(),
            isolation: self.isolation,
        };
        let begun: RunBegun = daemon.ask(RUN_BEGIN, &begin)?;
        // from here on the end of the connection rolls everything back
        let cwd = std::env::current_dir().map_err(|error| Error::from(error).about(b"the working directory"))?;
        let over = overlays(place, Path::new(begun.dir.as_os_str()))?;
        let (program, args) = self.command.split_first().ok_or_else(|| Error::usage("no command"))?;
        let mut child = match isolate::spawn(program, args, &over, begun.dev, &cwd) {
            Ok(child) => child,
            Err(error) => {
                let end = RunEnd { how: RunEndHow::Rollback, status: 0, pid: 0 };
                daemon.ask::<Outcome>(RUN_END, &end)?;
                return match error {
                    IsolateError::Namespace(error) => Err(error),
                    IsolateError::Exec(error) => {
                        let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                        let mut error = Error::from(error).about(program.as_encoded_bytes());
                        error.0.status = status;
                        Err(error)
                    }
                };
            }
        };
        current.store(child.id().cast_signed(), Ordering::SeqCst);
        let pid = child.id();
        let entered = daemon.ask::<()>(RUN_ENTERED, &pid);
        let status = wait(&mut child)?;
        current.store(0, Ordering::SeqCst);
        end_leftovers();
        entered?;
        let code = exit_code(status);
        let mut how = match (status.success(), self.keep) {
            (true, _) if last => RunEndHow::Commit,
            (true, _) => RunEndHow::CommitOrNothing,
            (false, true) => RunEndHow::Keep,
            (false, false) => RunEndHow::Rollback,
        };
        let id = &begun.transaction;
        let mut refused = false;
        if status.success() && self.preview {
            let changes: Vec<DiffRow> = daemon.ask(RUN_PREVIEW, &())?;
            if !confirm(app, changes)? {
                how = RunEndHow::Rollback;
                refused = true;
            }
        }
        let outcome: Outcome = daemon.ask(RUN_END, &RunEnd { how, status: i32::from(code), pid })?;
        match how {
            RunEndHow::CommitOrNothing if outcome.is_conflict() => Ok(None),
            RunEndHow::Commit if outcome.is_conflict() => {
                for row in &outcome.conflicts {
                    let cells: Vec<String> = row.cells().into_iter().map(|(_, cell)| cell).collect();
                    app.note(cells.join(" ").trim_end());
                }
                if let Some(advice) = outcome.advice(false) {
                    app.note(advice);
                }
                Ok(Some(3))
            }
            RunEndHow::Commit | RunEndHow::CommitOrNothing => {
                app.note(outcome.sentence());
                Ok(Some(code))
            }
            RunEndHow::Keep => {
                app.note(format!("Transaction {id} kept open; its view is .tx/{}", id.trim_start_matches('T')));
                Ok(Some(code))
            }
            RunEndHow::Rollback => {
                app.note(format!("Transaction {id} rolled back"));
                Ok(Some(if refused { 1 } else { code }))
            }
        }
    }
}

/// A conversation with the daemon.
struct Daemon {
    client: Client,
    origin: Origin,
}

impl Daemon {
    fn ask<T: DeserializeOwned>(&mut self, work: &str, args: &impl Serialize) -> Result<T> {
        let answer = self.client.call(work, &self.origin, args, &mut |_| ());
        let answer = answer.map_err(|error| Error::failed(format!("the daemon did not answer: {error}")))?;
        let value = answer.map_err(Error)?;
        serde_json::from_value(value).map_err(|error| Error::failed(format!("{work}: {error}")))
    }
}

/// Every place where the mount shows, with what is to stand over it.
fn overlays(place: &Place, private: &Path) -> Result<Vec<Over>> {
    let mut found = Vec::new();
    for mount in mountinfo::list()?.into_iter().filter(|mount| Some(mount.dev) == place.dev()) {
        let below = mount.root.strip_prefix("/").unwrap_or(&mount.root);
        let from = if below.as_os_str().is_empty() { private.to_owned() } else { private.join(below) };
        let known = found.iter().any(|over: &Over| over.at == mount.dir);
        if !known {
            found.push(Over { from, at: mount.dir });
        }
    }
    Ok(found)
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Waits for the command; reaps what others leave to us meanwhile.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        match child.wait() {
            Ok(status) => return Ok(status),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends what the command left behind: SIGTERM, a moment, SIGKILL. Orphans of the tree become our
/// children, so that none is missed.
fn end_leftovers() {
    let start = Instant::now();
    let mut told: Vec<i32> = Vec::new();
    loop {
        if !reap() {
            return;
        }
        let late = start.elapsed() > Duration::from_millis(GRACE_MS);
        for pid in children() {
            if late {
                kill(pid, rustix::process::Signal::KILL);
            } else if !told.contains(&pid) {
                told.push(pid);
                kill(pid, rustix::process::Signal::TERM);
                kill(pid, rustix::process::Signal::CONT);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid)
        && let Err(error) = rustix::process::kill_process(pid, signal)
    {
        log::debug!("kill {}: {error}", pid.as_raw_nonzero());
    }
}

/// Reaps every child that has ended; tells whether others are left.
fn reap() -> bool {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false, // ECHILD: there is none
        }
    }
}

/// The processes whose parent we are.
fn children() -> Vec<i32> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        // the name in parentheses may hold anything
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let parent = rest.split(' ').nth(1).and_then(|field| field.parse::<u32>().ok());
        if parent == Some(own) {
            found.push(pid);
        }
    }
    found
}

/// Hands signals that are meant for the command on to it. What the terminal sends reaches the command
/// directly, since it is of the same process group.
fn forward_signals(child: Arc<AtomicI32>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for number in &mut signals {
            let of_terminal = matches!(number, SIGINT | SIGQUIT) && in_foreground();
            let pid = child.load(Ordering::SeqCst);
            if pid == 0 || of_terminal {
                continue;
            }
            if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                kill(pid, signal);
            }
        }
    })?;
    Ok(())
}

/// Whether our process group is the one that the terminal's keys speak to.
fn in_foreground() -> bool {
    let own = rustix::process::getpgrp();
    fs::File::open("/dev/tty").ok().and_then(|tty| rustix::termios::tcgetpgrp(&tty).ok()) == Some(own)
}

/// Shows what would be committed, deletions first, and asks.
fn confirm(app: &App, mut changes: Vec<DiffRow>) -> Result<bool> {
    use crate::version::diff::ChangeKind;
    changes.sort_by_key(|row| row.status != ChangeKind::Deleted);
    let mut screen = Screen::errors(app.zone.clone());
    diff::show(&mut screen, &changes, false)?;
    screen.finish()?;
    if changes.is_empty() {
        return Ok(true);
    }
    let tty = fs::OpenOptions::new().read(true).write(true).open("/dev/tty");
    let Ok(mut tty) = tty else {
        if !io::stdin().is_terminal() {
            return Err(Error::failed("--preview asks, and there is no terminal to ask on; rolled back"));
        }
        return Ok(false);
    };
    write!(tty, "Commit these changes? [y/N] ").about("the terminal")?;
    let mut answer = String::new();
    io::BufReader::new(tty).read_line(&mut answer).about("the terminal")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
