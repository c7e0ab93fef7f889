//! The daemon: one process that has a database open and serves all its mounts.
//!
//! It ends when its last mount does, or on SIGTERM and SIGINT: everything on disk, unmounted, ended,
//! in that order.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::audit::{ProcessSink, ProcessTable};
use crate::control::{self, Failure, Peer, Reply, Request, Server, Service, Session};
use crate::engine::{Engine, EventDraft, FsError, Options};
use crate::fuse::{self, MountError};
use crate::store::{COMPRESSION, Mutation, TxnRow};
use crate::types::{At, BranchId, Caller, Clock, Op, ProcId, Seq, SystemClock, TxnId, View};
use crate::version::{RefContext, refs};
use crate::vfs::{History, OpenFiles, SessionOptions, Vfs};

use super::app::{BUSY_WAIT_MS, OpenError, PING, SERVES, open_engine};
use super::context::{Context, Host, LIVE_BRANCH, Live, MountState, Origin, stored_branch};
use super::error::{About, Error, Result};
use super::mount::{ENDING, MOUNT, MountRequest};
use super::options::MountOptions;
use super::private::PrivateDir;
use super::retention::Keeper;
use super::run::{RUN_BEGIN, RUN_END, RUN_ENTERED, RUN_PREVIEW, RunBegin, RunEnd};
use super::runs::{Parts, Run};
use super::text::Text;
use super::umount::{UMOUNT, UmountRequest, Unmounted};
use super::works;

/// How long the daemon waits, when it ends, for the command that asked it to, in milliseconds.
const FAREWELL_MS: u64 = 2000;
/// How long the daemon waits, when it ends, for what /proc tells of the processes it met, in milliseconds.
const SETTLE_MS: u64 = 200;
/// From which size in bytes on an allocation is a mapping of its own.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 4 << 20;
/// How often the daemon looks whether somebody else unmounted, in milliseconds.
const REAP_MS: u64 = 250;

/// What wakes the daemon's main thread.
enum Wake {
    /// A signal to end.
    Signal(i32),
    /// The last mount was unmounted on request, and everything is closed.
    Closed,
    /// The connection on which that was asked is gone.
    Farewell,
}

/// The daemon.
pub struct Daemon {
    database: PathBuf,
    engine: Arc<Engine>,
    vfs: Arc<Vfs>,
    processes: Arc<ProcessTable>,
    mounts: Mutex<Vec<Mounted>>,
    runs: Mutex<Vec<Arc<Run>>>,
    /// Where views of `stone run` are mounted.
    private: PrivateDir,
    /// Held while the set of mounts changes.
    changing: Mutex<()>,
    ending: AtomicBool,
    wake: Sender<Wake>,
}

struct Mounted {
    dir: PathBuf,
    dev: u64,
    live: Live,
    at: Option<Seq>,
    read_only: bool,
    allow_other: bool,
    kernel: Vec<String>,
    shown_as: (Option<u32>, Option<u32>),
    mount: Arc<fuse::MountHandle>,
}

/// Serves a database until its last mount is gone. `ready` is called when the first mount answers.
///
/// # Errors
/// Where the database cannot be opened, the first mount fails, or closing it does.
pub fn serve(database: &Path, dir: &Path, options: &MountOptions, ready: &mut dyn FnMut()) -> Result<()> {
    let name = database.as_os_str().as_bytes();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    return_large_buffers();
    // before anything slow, so that commands and further mounts wait for this daemon
    let socket = control::make_socket_path(database).map_err(|error| Error::failed(error.to_string()))?;
    let server = Server::bind(&socket, database).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Error::failed("another daemon has it mounted").about(name),
        _ => Error::from(error).about(socket.as_os_str().as_bytes()),
    })?;
    let engine_options = Options { record: !options.audit_none, ..Options::default() };
    let engine = open_waiting(database, &engine_options)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let processes = Arc::new(ProcessTable::new(Arc::clone(&engine) as Arc<dyn ProcessSink>, Arc::clone(&clock))?);
    let (wake, woken) = channel();
    let daemon = Arc::new(Daemon {
        database: database.to_owned(),
        vfs: Vfs::new(Arc::clone(&engine), clock, (!options.audit_none).then(|| Arc::clone(&processes))).about(name)?,
        processes,
        engine,
        mounts: Mutex::default(),
        runs: Mutex::default(),
        private: PrivateDir::beside(&socket),
        changing: Mutex::default(),
        ending: AtomicBool::new(false),
        wake: wake.clone(),
    });
    let mounted = daemon.mount(dir, options, Caller::default(), &Origin::here(None));
    if let Err(error) = mounted.and_then(|()| daemon.listen(&server)) {
        let found = daemon.mounts.lock().pop();
        if let Some(Err(error)) = found.map(|mounted| mounted.mount.unmount()) {
            log::error!("{}: {error}", dir.display());
        }
        daemon.close()?;
        return Err(error);
    }
    let handle = signals.handle();
    let listener = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            if wake.send(Wake::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    log::info!("{} is mounted at {}", database.display(), dir.display());
    let keeper = Keeper::start(&daemon.engine, &daemon);
    if let Err(error) = &keeper {
        log::warn!("{error}");
    }
    ready();
    let ended = daemon.run(&server, &woken);
    drop(keeper);
    handle.close();
    drop(listener.join());
    ended
}

/// Has large buffers, of which every session has one, mapped when they are made and given back when they
/// are dropped. Else the allocator learns from the first to keep them: after many runs of commands at once,
/// half a gigabyte, which it clears anew for every session.
#[allow(unsafe_code)] // a parameter of the C library's allocator
fn return_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// Opens a database; waits for a command that has it open for a moment.
fn open_waiting(database: &Path, options: &Options) -> Result<Arc<Engine>> {
    let start = Instant::now();
    loop {
        match open_engine(database, options) {
            Err(OpenError::Busy(_)) if start.elapsed() < Duration::from_millis(BUSY_WAIT_MS) => {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done.about(database.as_os_str().as_bytes()),
        }
    }
}

impl Daemon {
    fn listen(self: &Arc<Self>, server: &Server) -> Result<()> {
        let owner = fs::metadata(&self.database).about(self.name())?.uid();
        Ok(server.serve(owner, Arc::clone(self) as Arc<dyn Service>)?)
    }

    fn name(&self) -> &[u8] {
        self.database.as_os_str().as_bytes()
    }

    /// Waits for the end.
    fn run(&self, server: &Server, woken: &Receiver<Wake>) -> Result<()> {
        loop {
            match woken.recv_timeout(Duration::from_millis(REAP_MS)) {
                Ok(Wake::Signal(signal)) => {
                    log::info!("ending on signal {signal}");
                    return self.end_now(server);
                }
                Err(RecvTimeoutError::Timeout) => {
                    // somebody may have unmounted without asking us
                    let _changing = self.changing.lock();
                    if self.reap() && !self.ending.swap(true, Ordering::SeqCst) {
                        server.stop();
                        return self.close();
                    }
                }
                Ok(Wake::Closed) => {
                    server.stop();
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_millis(FAREWELL_MS) {
                        match woken.recv_timeout(Duration::from_millis(FAREWELL_MS)) {
                            Ok(Wake::Farewell) | Err(_) => break,
                            Ok(Wake::Signal(_) | Wake::Closed) => {}
                        }
                    }
                    return Ok(());
                }
                Ok(Wake::Farewell) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Forgets mounts whose device ended; true when none is left.
    fn reap(&self) -> bool {
        let mut mounts = self.mounts.lock();
        mounts.retain(|mounted| mounted.mount.is_served());
        mounts.is_empty()
    }

    /// Everything on disk, then unmounted, then ended.
    fn end_now(&self, server: &Server) -> Result<()> {
        self.ending.store(true, Ordering::SeqCst);
        server.stop();
        let _changing = self.changing.lock();
        if let Err(error) = self.cut() {
            log::warn!("{error}");
        }
        let synced = self.engine.sync();
        for run in std::mem::take(&mut *self.runs.lock()) {
            if let Err(error) = run.give_up(&self.engine, &Caller::default()) {
                log::warn!("T{}: {error}", run.txn.id);
            }
        }
        for mounted in std::mem::take(&mut *self.mounts.lock()) {
            let done = mounted.mount.unmount().or_else(|error| {
                log::warn!("{}: {error}; detaching it", mounted.dir.display());
                mounted.mount.detach()
            });
            if let Err(error) = done {
                log::error!("{}: {error}", mounted.dir.display());
            }
        }
        synced.about(self.name())?;
        self.close()
    }

    fn close(&self) -> Result<()> {
        self.processes.settle(Duration::from_millis(SETTLE_MS));
        self.engine.close().about(self.name())?;
        self.engine.store().close().about(self.name())
    }

    fn view_of(&self, options: &MountOptions, origin: &Origin) -> Result<View> {
        let branch = match &options.branch {
            Some(name) => refs::branch(&self.engine, name.as_bytes())?.id,
            None => stored_branch(&self.engine)?,
        };
        let Some(at) = &options.at else { return Ok(View::live(branch)) };
        let now = self.vfs.clock().now();
        let context = RefContext { branch, zone: origin.time_zone(), now };
        let view = refs::resolve(&self.engine, at.as_bytes(), &context)?;
        Ok(match view.at {
            At::AsOf(_) => view,
            // a branch's name, frozen at its present
            At::Live => View::as_of(view.branch, self.engine.seal(Some(view.branch))?),
        })
    }

    /// Makes a mount.
    fn mount(self: &Arc<Self>, dir: &Path, options: &MountOptions, _caller: Caller, origin: &Origin) -> Result<()> {
        let _changing = self.changing.lock();
        if self.ending.load(Ordering::SeqCst) {
            return Err(Error::failed(ENDING));
        }
        let name = dir.as_os_str().as_bytes();
        let root = self.view_of(options, origin)?;
        self.tune(options)?;
        let session = SessionOptions {
            root,
            read_only: options.read_only,
            others_read_only: false,
            notes_reads: false,
            gathers_writes: options.writeback,
            history: if options.history_everywhere { History::Everywhere } else { History::Root },
            uid: options.uid,
            gid: options.gid,
        };
        let shape = fuse::MountOptions {
            allow_other: options.allow_other,
            nonempty: options.nonempty,
            writeback: options.writeback,
            flags: options.kernel.clone(),
            record_reads: options.audit_all,
            ..fuse::MountOptions::new(session, &self.database)
        };
        let mount = fuse::mount(&self.vfs, dir, &shape).about(name)?;
        let dev = mount.device().map_or(0, |(major, minor)| libc::makedev(major, minor));
        let at = match root.at {
            At::AsOf(seq) => Some(seq),
            At::Live => None,
        };
        self.mounts.lock().push(Mounted {
            dir: dir.to_owned(),
            dev,
            live: Live { branch: root.branch, txn: None },
            at,
            read_only: options.read_only,
            allow_other: options.allow_other,
            kernel: options.kernel.clone(),
            shown_as: (options.uid, options.gid),
            mount: Arc::new(mount),
        });
        Ok(())
    }

    /// Sets what concerns the whole database; of several mounts, the last that says something decides.
    fn tune(&self, options: &MountOptions) -> Result<()> {
        if options.size.is_some() {
            self.engine.limit_size(options.size);
        }
        if options.verify {
            self.engine.store().verify_content(true);
        }
        if let Some(compress) = options.compress {
            let wanted: &[u8] = if compress { b"zstd" } else { b"none" };
            let setting = self.engine.store().read()?.setting(COMPRESSION)?;
            if setting.as_deref().unwrap_or(b"none") != wanted {
                self.engine.set_setting(COMPRESSION, Some(wanted))?;
            }
        }
        Ok(())
    }

    /// Ends a mount; with the last one, closes the database.
    fn umount(&self, dir: &Path) -> Result<Unmounted> {
        let _changing = self.changing.lock();
        if self.ending.load(Ordering::SeqCst) {
            return Err(Error::failed(ENDING));
        }
        let found = self.mounts.lock().iter().find(|m| m.dir == dir).map(|m| (m.dev, Arc::clone(&m.mount)));
        let Some((dev, mount)) = found else {
            return Err(Error::failed("this daemon has nothing mounted there"));
        };
        if let Some(run) = self.runs.lock().iter().find(|run| run.over == dev) {
            return Err(Error::failed(format!("`stone run` uses it (transaction T{})", run.txn.id)));
        }
        self.cut()?;
        self.engine.sync()?;
        match mount.unmount() {
            Ok(()) => {}
            Err(MountError::System { error, .. }) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Ok(Unmounted { busy: true, last: false });
            }
            Err(error) => return Err(error.into()),
        }
        let last = {
            let mut mounts = self.mounts.lock();
            mounts.retain(|mounted| mounted.dir != dir);
            mounts.is_empty()
        };
        if last {
            self.ending.store(true, Ordering::SeqCst);
            self.close()?;
            drop(self.wake.send(Wake::Closed));
        } else {
            self.engine.sync()?;
        }
        Ok(Unmounted { busy: false, last })
    }

    /// Looks where something is mounted inside of the mounts, so that no change set takes that away.
    fn hold(&self) {
        let mounts: Vec<Arc<fuse::MountHandle>> = self.mounts.lock().iter().map(|m| Arc::clone(&m.mount)).collect();
        self.vfs.hold(mounts.iter().flat_map(|mount| mount.held()));
    }

    fn find(&self, dev: u64) -> Option<Arc<fuse::MountHandle>> {
        self.mounts.lock().iter().find(|mounted| mounted.dev == dev).map(|mounted| Arc::clone(&mounted.mount))
    }
}

impl Host for Daemon {
    fn mounts(&self) -> Vec<MountState> {
        let state = |mounted: &Mounted| MountState {
            dir: Text(mounted.dir.as_os_str().as_bytes().to_vec()),
            dev: mounted.dev,
            live: mounted.live,
            at: mounted.at,
            read_only: mounted.read_only,
            allow_other: mounted.allow_other,
            kernel: mounted.kernel.clone(),
            shown_as: mounted.shown_as,
            run: None,
        };
        let mut all: Vec<MountState> = self.mounts.lock().iter().map(state).collect();
        all.extend(self.runs.lock().iter().map(|run| run.state()));
        all
    }

    fn show(&self, dev: u64, live: Live) -> Result<()> {
        let mount = self.find(dev).ok_or_else(|| Error::failed("this daemon does not serve that mount"))?;
        let branch = match live.txn {
            Some(id) => {
                let row = self.engine.transactions().into_iter().find(|row| row.id == id);
                row.ok_or_else(|| Error::failed(format!("there is no transaction T{id}")))?.branch
            }
            None => live.branch,
        };
        mount.switch(View::live(branch)).map_err(|error| match error {
            MountError::FileSystem(FsError::Busy) => {
                Error::failed("something is mounted in a directory that would go; unmount it first")
            }
            other => other.into(),
        })?;
        for mounted in self.mounts.lock().iter_mut().filter(|mounted| mounted.dev == dev) {
            mounted.live = live;
        }
        Ok(())
    }

    fn begin(&self, dev: u64, branch: BranchId, begin: &mut dyn FnMut() -> Result<TxnRow>) -> Result<()> {
        let Some(mount) = self.find(dev) else { return begin().map(|_| ()) };
        let mut txn = None;
        mount.paused(|| {
            let row = begin()?;
            txn = Some(row.id);
            Ok::<_, Error>(Some((View::live(row.branch), OpenFiles::Stay)))
        })?;
        for mounted in self.mounts.lock().iter_mut().filter(|mounted| mounted.dev == dev) {
            mounted.live = Live { branch, txn };
        }
        Ok(())
    }

    fn commit(&self, txn: TxnId, commit: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
        let shown = |mounted: &&Mounted| mounted.live.txn == Some(txn);
        let found = self.mounts.lock().iter().find(shown).map(|m| (Arc::clone(&m.mount), m.dev, m.live.branch));
        let Some((mount, dev, branch)) = found else { return commit().map(|_| ()) };
        let mut done = false;
        mount.paused(|| {
            done = commit()?;
            Ok::<_, Error>(done.then_some((View::live(branch), OpenFiles::Follow)))
        })?;
        for mounted in self.mounts.lock().iter_mut().filter(|mounted| mounted.dev == dev && done) {
            mounted.live.txn = None;
        }
        Ok(())
    }

    fn cut(&self) -> Result<()> {
        let mounts: Vec<Arc<fuse::MountHandle>> = self.mounts.lock().iter().map(|m| Arc::clone(&m.mount)).collect();
        let runs: Vec<Arc<Run>> = self.runs.lock().clone();
        for mount in mounts.iter().chain(runs.iter().map(|run| run.handle())) {
            mount.flush_writers();
        }
        Ok(())
    }

    fn told(&self) {
        let mounts: Vec<Arc<fuse::MountHandle>> = self.mounts.lock().iter().map(|m| Arc::clone(&m.mount)).collect();
        let runs: Vec<Arc<Run>> = self.runs.lock().clone();
        for mount in mounts.iter().chain(runs.iter().map(|run| run.handle())) {
            mount.settle();
        }
    }

    fn pid(&self) -> Option<u32> {
        Some(std::process::id())
    }
}

impl Service for Daemon {
    fn open(self: Arc<Self>, peer: Peer) -> Box<dyn Session> {
        let caller = Caller { uid: peer.uid, gid: peer.gid, pid: peer.pid, process: ProcId(0) };
        Box::new(Conversation { daemon: self, caller, asked_to_end: false, run: None })
    }
}

/// One command's connection.
struct Conversation {
    daemon: Arc<Daemon>,
    caller: Caller,
    asked_to_end: bool,
    /// The command that runs in a transaction as long as this connection lasts.
    run: Option<Arc<Run>>,
}

impl Session for Conversation {
    fn call(&mut self, request: Request, reply: &mut Reply<'_>) -> std::result::Result<Value, Failure> {
        self.answer(request, reply).map_err(|error| error.0)
    }
}

impl Conversation {
    fn answer(&mut self, request: Request, reply: &mut Reply<'_>) -> Result<Value> {
        let daemon = Arc::clone(&self.daemon);
        let origin: Origin = read(request.origin)?;
        match request.work.as_str() {
            MOUNT => {
                let wanted: MountRequest = read(request.args)?;
                daemon.mount(Path::new(wanted.dir.as_os_str()), &wanted.options, self.caller, &origin)?;
                Ok(Value::Null)
            }
            UMOUNT => {
                let wanted: UmountRequest = read(request.args)?;
                let done = daemon.umount(Path::new(wanted.dir.as_os_str()))?;
                self.asked_to_end = done.last;
                serde_json::to_value(done).map_err(misfit)
            }
            SERVES if !daemon.ending.load(Ordering::SeqCst) => {
                let served = Host::mounts(daemon.as_ref());
                Ok(Value::Bool(served.iter().any(|mount| Some(mount.dev) == origin.dev)))
            }
            PING if !daemon.ending.load(Ordering::SeqCst) => Ok(Value::Null),
            _ if daemon.ending.load(Ordering::SeqCst) && self.run.is_none() => Err(Error::failed(ENDING)),
            name => {
                let mut caller = self.caller;
                let of_run = matches!(name, RUN_BEGIN | RUN_ENTERED | RUN_PREVIEW | RUN_END);
                if of_run || works::changes(name) {
                    caller.process = daemon.processes.lookup(caller.pid, caller.uid, caller.gid);
                }
                let context = Context {
                    engine: &daemon.engine,
                    database: &daemon.database,
                    host: daemon.as_ref(),
                    caller,
                    zone: origin.time_zone(),
                    dev: origin.dev,
                    stopped: reply.hang_up(),
                    progress: RefCell::new(Box::new(|what, done, total| reply.progress(what, done, total))),
                };
                if of_run {
                    return self.answer_run(&context, name, request.args);
                }
                if works::changes(name) {
                    daemon.hold();
                }
                let done = works::perform(name, request.args, &context);
                // What the command made visible in one step, the kernel must show when it returns.
                if works::changes(name) {
                    daemon.told();
                }
                done
            }
        }
    }

    /// The requests of `stone run`.
    fn answer_run(&mut self, context: &Context<'_>, name: &str, args: Value) -> Result<Value> {
        let daemon = Arc::clone(&self.daemon);
        if name == RUN_BEGIN {
            let _changing = daemon.changing.lock();
            if daemon.ending.load(Ordering::SeqCst) {
                return Err(Error::failed(ENDING));
            }
            if self.run.is_some() {
                return Err(Error::failed("a command runs on this connection already"));
            }
            let parts = Parts {
                vfs: &daemon.vfs,
                processes: &daemon.processes,
                database: &daemon.database,
                private: &daemon.private,
            };
            let wanted: RunBegin = read(args)?;
            let (run, begun) = Run::begin(&parts, context, &wanted)?;
            let run = Arc::new(run);
            daemon.runs.lock().push(Arc::clone(&run));
            self.run = Some(run);
            return serde_json::to_value(begun).map_err(misfit);
        }
        let run = self.run.clone().ok_or_else(|| Error::failed("no command runs on this connection"))?;
        match name {
            RUN_ENTERED => run.entered(read(args)?).map(|()| Value::Null),
            RUN_PREVIEW => serde_json::to_value(run.preview(&daemon.engine)?).map_err(misfit),
            _ => {
                let end: RunEnd = read(args)?;
                daemon.hold();
                let done = run.end(context, &daemon.processes, &end)?;
                self.run = None;
                daemon.runs.lock().retain(|other| other.txn.id != run.txn.id);
                daemon.told();
                Ok(done)
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            log::info!("T{}: its command is gone; rolled back", run.txn.id);
            run.end_processes();
            if let Err(error) = run.give_up(&self.daemon.engine, &self.caller) {
                log::warn!("T{}: {error}", run.txn.id);
            }
            self.daemon.runs.lock().retain(|other| other.txn.id != run.txn.id);
        }
        if self.asked_to_end {
            drop(self.daemon.wake.send(Wake::Farewell));
        }
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(misfit)
}

fn misfit(error: serde_json::Error) -> Error {
    Error::failed(format!("the request is not understood: {error}"))
}

/// Clears a mount whose daemon is dead.
///
/// # Errors
/// Where it cannot be unmounted.
pub fn detach(dir: &Path) -> io::Result<()> {
    fuse::clear_stale(dir)
}

/// Remembers the branch that was switched to, as an event.
///
/// # Errors
/// Those of the store.
pub fn remember_branch(context: &Context<'_>, from: &Text, to: &Text, branch: crate::types::BranchId) -> Result<Seq> {
    let draft = EventDraft { op: Op::Switch, txn: None, old: Some(from.0.clone()), new: Some(to.0.clone()) };
    let setting = Mutation::Setting(LIVE_BRANCH.to_owned(), Some(branch.0.to_string().into_bytes()));
    Ok(context.engine.record(branch, draft, vec![setting], &context.caller)?)
}
