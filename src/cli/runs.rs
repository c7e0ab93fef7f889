//! The daemon's side of `stone run`: a private session of the transaction's view.
//!
//! The session is mounted at a private directory for the moment in which the command binds it over
//! the usual paths in its own namespace; then it is taken away there. It ends when the last process
//! of the command does: by then the kernel has handed over everything that was written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::audit::ProcessTable;
use crate::engine::Engine;
use crate::fuse::{self, MountHandle};
use crate::store::{TxnKind, TxnRow};
use crate::types::{Caller, View};
use crate::version::diff::diff;
use crate::version::txn::{self, BeginOptions, CommitOptions};
use crate::vfs::{History, SessionOptions, Vfs};

use super::branch;
use super::context::{Context, Live, MountState};
use super::diff::DiffRow;
use super::error::{About, Error, Result};
use super::outcome::Outcome;
use super::private::PrivateDir;
use super::run::{Isolation, RunBegin, RunBegun, RunEnd, RunEndHow};
use super::text::{Text, TreePath, transaction};

/// How long a session may outlive its command, in milliseconds: somebody outside may hold a file of it.
const DEVICE_END_MS: u64 = 5000;

/// A command that runs in a transaction.
pub struct Run {
    /// Its transaction.
    pub txn: TxnRow,
    /// The private directory.
    dir: PathBuf,
    dev: u64,
    mount: Arc<MountHandle>,
    /// The branch that was made for the result.
    branch: Option<Text>,
    /// Whether the private directory is still mounted.
    attached: AtomicBool,
    /// The mount that it stands over.
    pub over: u64,
    /// The command's mount namespace, by device and inode.
    namespace: OnceLock<(u64, u64)>,
    /// What the kernel was asked for, as for that mount.
    kernel: Vec<String>,
    allow_other: bool,
    shown_as: (Option<u32>, Option<u32>),
}

/// What runs need of the daemon.
pub struct Parts<'a> {
    /// Sessions.
    pub vfs: &'a Arc<Vfs>,
    /// Processes.
    pub processes: &'a ProcessTable,
    /// The database's file.
    pub database: &'a Path,
    /// Where private directories are made.
    pub private: &'a PrivateDir,
}

impl Run {
    /// Opens the transaction and mounts its view.
    ///
    /// # Errors
    /// Where the mount of the asker is not one to run in, or the session cannot be mounted.
    pub fn begin(parts: &Parts<'_>, context: &Context<'_>, wanted: &RunBegin) -> Result<(Run, RunBegun)> {
        let mount = context.mount().ok_or_else(|| Error::failed("the database is not mounted"))?;
        if mount.read_only {
            return Err(Error::failed("the mount is read-only: nothing could be committed"));
        }
        context.host.cut()?;
        let mut target = match mount.run.or(mount.live.txn) {
            Some(outer) => txn::find_open(context.engine, outer, &context.caller)?.branch,
            None => mount.live.branch,
        };
        if let Some(name) = &wanted.branch {
            branch::create(context, name, None)?;
            target = context.named_branch(name)?.branch;
        }
        if !wanted.label.is_empty() {
            parts.processes.set_label(context.caller.pid, &wanted.label);
        }
        let options = BeginOptions {
            target,
            kind: TxnKind::Run,
            serializable: wanted.isolation == Isolation::Serializable,
            message: wanted.message.clone(),
            label: wanted.label.clone(),
        };
        let txn = txn::begin(context.engine, &options, &context.caller)?;
        if txn.serializable {
            parts.vfs.reads().start(txn.branch);
        }
        match Run::mount(parts, &txn, &mount, wanted.branch.clone()) {
            Ok(run) => {
                let dir = TreePath::from(run.dir.clone().into_os_string());
                let begun = RunBegun { transaction: transaction(txn.id), dir, dev: run.dev };
                Ok((run, begun))
            }
            Err(error) => {
                txn::rollback(context.engine, txn.id, &context.caller)?;
                Err(error)
            }
        }
    }

    fn mount(parts: &Parts<'_>, txn: &TxnRow, over: &MountState, branch: Option<Text>) -> Result<Run> {
        let dir = parts.private.make(&transaction(txn.id))?;
        let name = dir.as_os_str().as_encoded_bytes();
        let session = SessionOptions {
            root: View::live(txn.branch),
            read_only: false,
            others_read_only: true,
            notes_reads: txn.serializable,
            gathers_writes: false,
            history: History::Root,
            uid: over.shown_as.0,
            gid: over.shown_as.1,
        };
        // What may not be done through the mount may not be done through a view that stands over it.
        let shape = fuse::MountOptions {
            allow_other: over.allow_other,
            flags: over.kernel.clone(),
            ..fuse::MountOptions::new(session, parts.database)
        };
        let mounted = fuse::mount(parts.vfs, &dir, &shape).about(name);
        let mount = match mounted {
            Ok(mount) => mount,
            Err(error) => {
                let _ = fs::remove_dir(&dir);
                return Err(error);
            }
        };
        let dev = mount.device().map_or(0, |(major, minor)| libc::makedev(major, minor));
        Ok(Run {
            txn: txn.clone(),
            dir,
            dev,
            mount: Arc::new(mount),
            branch,
            attached: AtomicBool::new(true),
            over: over.dev,
            namespace: OnceLock::new(),
            kernel: over.kernel.clone(),
            allow_other: over.allow_other,
            shown_as: over.shown_as,
        })
    }

    /// As a mount, for what runs inside.
    pub fn state(&self) -> MountState {
        MountState {
            dir: Text(self.dir.as_os_str().as_encoded_bytes().to_vec()),
            dev: self.dev,
            live: Live { branch: self.txn.target, txn: Some(self.txn.id) },
            at: None,
            read_only: false,
            allow_other: self.allow_other,
            kernel: self.kernel.clone(),
            shown_as: self.shown_as,
            run: Some(self.txn.id),
        }
    }

    /// The session's device.
    pub fn handle(&self) -> &Arc<MountHandle> {
        &self.mount
    }

    /// The command has its own binding: takes the private mount point away.
    ///
    /// # Errors
    /// What the system says.
    pub fn entered(&self, pid: u32) -> Result<()> {
        let own = namespace_of("self");
        if let Some(found) = namespace_of(&pid.to_string()).filter(|_| pid != 0)
            && own.is_some_and(|own| own != found)
        {
            self.namespace.get_or_init(|| found);
        }
        self.leave_private_dir()
    }

    fn leave_private_dir(&self) -> Result<()> {
        if self.attached.swap(false, Ordering::SeqCst) {
            self.mount.detach()?;
            let _ = fs::remove_dir(&self.dir);
        }
        Ok(())
    }

    /// What would be committed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn preview(&self, engine: &Engine) -> Result<Vec<DiffRow>> {
        self.wait_for_device();
        let before = View::as_of(self.txn.target, self.txn.base);
        let changes = diff(engine, before, View::live(self.txn.branch), None)?;
        Ok(changes.iter().map(DiffRow::of).collect())
    }

    /// Ends it as the command asked.
    ///
    /// # Errors
    /// Those of the store.
    pub fn end(&self, context: &Context<'_>, processes: &ProcessTable, end: &RunEnd) -> Result<Value> {
        self.leave_private_dir()?;
        if end.pid != 0 {
            processes.ended(end.pid, end.status);
        }
        let outcome = match end.how {
            RunEndHow::Commit | RunEndHow::CommitOrNothing => {
                self.wait_for_device();
                let reads = self.mount.session().vfs().reads().take(self.txn.branch);
                let options = CommitOptions { reads: reads.as_ref(), ..CommitOptions::default() };
                let done = txn::commit(context.engine, self.txn.id, &options, &context.caller)?;
                let outcome = Outcome::from(&done);
                if outcome.is_conflict() && end.how == RunEndHow::CommitOrNothing {
                    self.give_up(context.engine, &context.caller)?;
                }
                context.engine.sync()?;
                outcome
            }
            RunEndHow::Keep => {
                self.wait_for_device();
                if let Some(reads) = self.mount.session().vfs().reads().take(self.txn.branch) {
                    txn::keep_reads(context.engine, self.txn.id, &reads, &context.caller)?;
                }
                context.engine.sync()?;
                Outcome::unchanged()
            }
            RunEndHow::Rollback => {
                self.give_up(context.engine, &context.caller)?;
                Outcome::unchanged()
            }
        };
        serde_json::to_value(outcome).map_err(|error| Error::failed(error.to_string()))
    }

    /// Ends every process in the command's namespace: `stone run`, which would have, was killed.
    pub fn end_processes(&self) {
        let Some(namespace) = self.namespace.get() else { return };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // held before it is looked at, so that the number cannot come to mean another process
            let Some(process) = Pid::from_raw(number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
                continue;
            };
            if namespace_of(&number.to_string()).as_ref() == Some(namespace)
                && let Err(error) = pidfd_send_signal(&process, Signal::KILL)
            {
                log::warn!("T{}: process {number}: {error}", self.txn.id);
            }
        }
    }

    /// Ends the session at once and leaves no trace but the record.
    ///
    /// # Errors
    /// Those of the store.
    pub fn give_up(&self, engine: &Engine, caller: &Caller) -> Result<()> {
        self.mount.end();
        drop(self.mount.session().vfs().reads().take(self.txn.branch));
        let detached = self.leave_private_dir();
        if txn::find(engine, self.txn.id).is_ok_and(|row| txn::is_open(&row)) {
            txn::rollback(engine, self.txn.id, caller)?;
        }
        if let Some(name) = &self.branch {
            crate::version::branch::drop(engine, name.as_bytes(), true, &[], caller)?;
        }
        detached
    }

    /// Waits until the kernel has handed over everything and let the device go.
    fn wait_for_device(&self) {
        let start = Instant::now();
        while self.mount.is_served() {
            if start.elapsed() > Duration::from_millis(DEVICE_END_MS) {
                log::warn!("T{}: somebody outside still holds a file of the transaction's view", self.txn.id);
                self.mount.flush_writers();
                break;
            }
            // Nearly always it is a matter of microseconds.
            let waited = start.elapsed();
            thread::sleep((waited / 4).clamp(Duration::from_micros(50), Duration::from_millis(1)));
        }
        self.mount.end();
    }
}

/// Names the mount namespace of a process.
fn namespace_of(pid: &str) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|meta| (meta.dev(), meta.ino()))
}
