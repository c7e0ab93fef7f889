//! `stone shell`: the interactive command interpreter, with and without a mount.
//!
//! On a database that is mounted, files are reached through the mount, and so through the daemon; on
//! one that is not, this process has it open. Commands of `stone` itself are run by the parser that
//! the command line uses.

mod execute;
mod files;
mod glob;
mod line;
mod parse;
mod tree;

use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::store::TxnKind;
use crate::types::{BranchId, Clock, SystemClock, TxnId, View};
use crate::version::RefContext;
use crate::version::txn::{self, BeginOptions, CommitOptions, CommitOutcome};

use super::app::{Access, App};
use super::context::{Context, Host, Live, MountState, stored_branch};
use super::error::{About, Error, Result};
use super::mountinfo::normalize;
use super::outcome::Outcome;
use super::place::mount_of;
use super::status::Status;
use super::text::{Text, escape, transaction};
use super::works::Work;
use parse::{Join, ParseError};
use tree::{Direct, Mounted, Tree};

const EXAMPLES: &str = "\
Examples:
  stone shell work.stone                     a database that need not be mounted
  stone shell                                the one whose mount you are in
  stone shell work.stone -c 'mkdir a; ls'    unattended; stops at the first error
  stone shell work.stone < script
Inside, `help` lists the commands; `history FILE`, `begin`, `sql \"SELECT ...\"` and all other commands
of stone work as on the command line, without `stone`. Output goes to files of the tree with > and >>,
and to programs with | (cat f | grep x).";

/// Works on a database interactively, mounted or not
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ShellArgs {
    /// The database, or a directory it is mounted at
    #[arg(value_name = "DB|DIR")]
    target: Option<PathBuf>,
    /// Runs these commands and exits
    #[arg(short = 'c', value_name = "CMDS")]
    commands: Option<Text>,
}

/// Where a shell stands: what its prompt shows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Standing {}

/// The live tree, for a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// The branch.
    pub branch: Text,
    /// The open transaction that is shown, as `T7`.
    pub transaction: Option<String>,
}

impl Work for Standing {
    const NAME: &'static str = "shell_standing";
    type Output = Stood;

    fn execute(&self, context: &Context<'_>) -> Result<Stood> {
        let live = context.live()?;
        Ok(Stood { branch: context.branch_name(live.branch), transaction: live.txn.map(transaction) })
    }
}

/// One command's own transaction: `rm -r` and the like happen in one step or not at all.
#[derive(Debug, Serialize, Deserialize)]
pub enum Step {
    /// Opens it, with the command as its message; nothing shows it.
    Begin(String),
    /// Makes it visible.
    Commit(u64),
    /// Gives it up.
    Rollback(u64),
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stepped {
    /// Its number.
    pub id: u64,
    /// Its private branch.
    pub branch: u64,
    /// What its commit came to.
    pub outcome: Option<Outcome>,
}

impl Work for Step {
    const NAME: &'static str = "shell_step";
    const CHANGES: bool = true;
    type Output = Stepped;

    fn execute(&self, context: &Context<'_>) -> Result<Stepped> {
        match self {
            Step::Begin(message) => {
                let target = context.branch_of(context.live()?)?;
                let options = BeginOptions {
                    target,
                    kind: TxnKind::Begin,
                    serializable: false,
                    message: message.clone(),
                    label: String::new(),
                };
                let row = txn::begin(context.engine, &options, &context.caller)?;
                Ok(Stepped { id: row.id.0, branch: row.branch.0, outcome: None })
            }
            Step::Commit(id) => {
                context.host.cut()?;
                let options = CommitOptions { message: None, rebase: false, strategy: None, reads: None };
                let outcome = txn::commit(context.engine, TxnId(*id), &options, &context.caller)?;
                if let CommitOutcome::Conflicted { .. } = &outcome {
                    txn::rollback(context.engine, TxnId(*id), &context.caller)?;
                }
                Ok(Stepped { id: *id, branch: 0, outcome: Some(Outcome::from(&outcome)) })
            }
            Step::Rollback(id) => {
                txn::rollback(context.engine, TxnId(*id), &context.caller)?;
                Ok(Stepped { id: *id, branch: 0, outcome: None })
            }
        }
    }
}

/// What stands in for a mount of a database that the shell has open itself.
struct Stand(Arc<Mutex<Live>>);

impl Host for Stand {
    fn mounts(&self) -> Vec<MountState> {
        let live = *self.0.lock();
        vec![MountState {
            dir: Text(b"/".to_vec()),
            dev: 0,
            live,
            at: None,
            read_only: false,
            allow_other: false,
            kernel: Vec::new(),
            shown_as: (None, None),
            run: None,
        }]
    }

    fn show(&self, _dev: u64, live: Live) -> Result<()> {
        *self.0.lock() = live;
        Ok(())
    }

    fn cut(&self) -> Result<()> {
        Ok(())
    }

    fn told(&self) {}

    fn pid(&self) -> Option<u32> {
        None
    }
}

/// Where the tree is.
enum Ground {
    /// Mounted at this directory.
    Mount(PathBuf),
    /// In this process, showing this.
    Here(Arc<Mutex<Live>>),
}

/// A running shell.
pub(super) struct Shell<'a> {
    app: &'a App,
    access: &'a Access,
    ground: Ground,
    /// The directory it stands in, of the tree.
    cwd: Vec<u8>,
    before: Vec<u8>,
    status: u8,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    done: bool,
}

impl ShellArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let access = match &self.target {
            Some(target) => app.access_named(Some(target))?,
            None => app.access(&[])?,
        };
        let mut shell = Shell::new(app, access)?;
        if let Some(commands) = &self.commands {
            return shell.script(commands.as_bytes());
        }
        if io::stdin().is_terminal() {
            return shell.converse();
        }
        let mut script = Vec::new();
        io::stdin().read_to_end(&mut script).about("standard input")?;
        shell.script(&script)
    }
}

impl<'a> Shell<'a> {
    fn new(app: &'a App, access: &'a Access) -> Result<Shell<'a>> {
        let mut cwd = b"/".to_vec();
        let ground = match access.local() {
            Some((engine, _)) => {
                let live = Arc::new(Mutex::new(Live { branch: stored_branch(engine)?, txn: None }));
                access.serve(Box::new(Stand(Arc::clone(&live))));
                Ground::Here(live)
            }
            None => {
                let dir = mounted_at(access)?;
                // Where the user stands in the mount, the shell begins there too.
                if let Ok(below) = std::env::current_dir().unwrap_or_default().strip_prefix(&dir) {
                    cwd = normalize(below.as_os_str().as_bytes());
                }
                Ground::Mount(dir)
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGINT, Arc::clone(&stop))?;
        let mut shell = Shell { app, access, ground, before: cwd.clone(), cwd, status: 0, stop, done: false };
        shell.stand(shell.cwd.clone());
        Ok(shell)
    }

    /// A typed path as one of the tree.
    fn path(&self, word: &[u8]) -> Vec<u8> {
        match word.first() {
            Some(b'/') => normalize(word),
            Some(_) | None => normalize(&[self.cwd.as_slice(), b"/", word].concat()),
        }
    }

    fn stand(&mut self, dir: Vec<u8>) {
        self.access.stand_in(&dir);
        if let Ground::Mount(root) = &self.ground {
            // Programs that are started begin there too. The directory was looked at before.
            let _ = std::env::set_current_dir(below(root, &dir));
        }
        self.before = std::mem::replace(&mut self.cwd, dir);
    }

    /// Fails once Ctrl-C was typed.
    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::failed("interrupted")) } else { Ok(()) }
    }

    /// The live tree as it is now.
    fn tree(&self) -> Result<Box<dyn Tree>> {
        match &self.ground {
            Ground::Mount(root) => Ok(Box::new(Mounted::new(root.clone()))),
            Ground::Here(live) => {
                let live = *live.lock();
                let branch = match (live.txn, self.access.local()) {
                    (Some(id), Some((engine, _))) => txn::find(engine, id)?.branch,
                    (Some(_) | None, _) => live.branch,
                };
                self.direct(branch)
            }
        }
    }

    fn direct(&self, branch: BranchId) -> Result<Box<dyn Tree>> {
        let Some((engine, caller)) = self.access.local() else {
            return Err(Error::failed("the database is not open here"));
        };
        let context = RefContext { branch, zone: self.app.zone.clone(), now: SystemClock.now() };
        Ok(Box::new(Direct::new(engine, caller, View::live(branch), context)))
    }

    /// Does what changes several things in a transaction of its own.
    fn in_one_step(&mut self, name: &str, words: &[Vec<u8>]) -> Result<u8> {
        let message = [&[name.as_bytes().to_vec()], words].concat().join(&b' ');
        let begun = self.access.ask(&Step::Begin(String::from_utf8_lossy(&message).into_owned()))?;
        let tree = match &self.ground {
            Ground::Here(_) => self.direct(BranchId(begun.branch)),
            Ground::Mount(root) => Ok(Box::new(Mounted::new(root.join(format!(".tx/T{}", begun.id)))) as Box<dyn Tree>),
        };
        match tree.and_then(|tree| self.file_command(name, words, tree.as_ref())) {
            Ok(status) => {
                let done = self.access.ask(&Step::Commit(begun.id))?;
                match done.outcome.filter(Outcome::is_conflict) {
                    Some(_) => Err(Error::conflict("others changed the same things meanwhile; nothing was done")),
                    None => Ok(status),
                }
            }
            Err(error) => {
                self.access.ask(&Step::Rollback(begun.id))?;
                Err(error)
            }
        }
    }

    /// Runs a script: stops at the first error, with its status.
    fn script(&mut self, text: &[u8]) -> Result<u8> {
        let pipelines = parse::parse(text).map_err(|error| Error::usage(error.to_string()))?;
        self.run(&pipelines, true)?;
        Ok(self.status)
    }

    /// Runs pipelines; errors are printed, and the status is kept.
    fn run(&mut self, pipelines: &[parse::Pipeline], strict: bool) -> Result<()> {
        let mut following = pipelines.iter().peekable();
        while let Some(pipeline) = following.next() {
            let due = match pipeline.join {
                Join::Then => true,
                Join::And => self.status == 0,
                Join::Or => self.status != 0,
            };
            if due {
                self.status = match self.pipeline(&pipeline.commands) {
                    Ok(status) => status,
                    Err(error) => super::report(&error),
                };
            }
            let joined = following.peek().is_some_and(|next| next.join != Join::Then);
            if self.done || (strict && due && self.status != 0 && !joined) || self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    fn prompt(&self) -> String {
        let dir = escape(&self.cwd);
        match self.access.ask(&Standing {}) {
            Ok(Stood { branch, transaction: None }) => format!("stone:{} {dir}> ", branch.shown()),
            Ok(Stood { branch, transaction: Some(id) }) => format!("stone:{} ({id}) {dir}> ", branch.shown()),
            Err(_) => format!("stone {dir}> "),
        }
    }

    /// Reads lines and runs them until the end of input.
    fn converse(&mut self) -> Result<u8> {
        let mut editor = line::Editor::new(self)?;
        let mut pending: Vec<u8> = Vec::new();
        while !self.done {
            self.stop.store(false, Ordering::Relaxed);
            let prompt = if pending.is_empty() { self.prompt() } else { "> ".to_owned() };
            match editor.read(self, &prompt)? {
                line::Typed::Line(text) => {
                    pending.extend_from_slice(text.as_bytes());
                    pending.push(b'\n');
                }
                line::Typed::Interrupted => {
                    pending.clear();
                    continue;
                }
                line::Typed::End if pending.is_empty() => break,
                line::Typed::End => {
                    eprintln!("stone: {}", ParseError::Unfinished);
                    pending.clear();
                    continue;
                }
            }
            match parse::parse(&pending) {
                Err(ParseError::Unfinished) => continue,
                Err(error) => {
                    eprintln!("stone: {error}");
                    self.status = 2;
                }
                Ok(pipelines) => self.run(&pipelines, false)?,
            }
            editor.remember(pending.trim_ascii())?;
            pending.clear();
        }
        editor.finish();
        Ok(self.status)
    }
}

/// A directory of the tree below its mount point.
fn below(root: &Path, dir: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(dir.strip_prefix(b"/").unwrap_or(dir)))
}

/// The directory at which the daemon's database shows its whole tree.
fn mounted_at(access: &Access) -> Result<PathBuf> {
    if let Some(mount) = access.place.mount.as_ref().filter(|mount| mount.root == Path::new("/")) {
        return Ok(mount.dir.clone());
    }
    let status = access.ask(&Status {})?;
    for mount in status.mounts.iter().filter(|mount| !mount.run) {
        let dir = PathBuf::from(std::ffi::OsStr::from_bytes(mount.dir.as_bytes()));
        if mount_of(&dir)?.is_some() {
            return Ok(dir);
        }
    }
    Err(Error::failed("its mount is not to be seen from here; run the shell where it is"))
}
