//! One run of the program: its options, and its one access to a database.

use std::cell::{OnceCell, RefCell};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::audit::{ProcessSink, ProcessTable};
use crate::control::{self, Client, FrameError, Progress};
use crate::engine::{Engine, Options};
use crate::store::StoreError;
use crate::store::query::Stop;
use crate::store::sqlite::SqliteStore;
use crate::types::{Caller, ProcId, SystemClock};

use super::context::{Context, Host, Origin, Unmounted, system_zone};
use super::error::{About, Error, Result};
use super::interrupt::Interrupts;
use super::mount::ENDING;
use super::place::{Place, dead};
use super::screen::Screen;
use super::text::{TreePath, to_json};
use super::works::Work;

/// How long a command waits for another command that has the database open, in milliseconds.
pub const BUSY_WAIT_MS: u64 = 5000;
/// The request that a daemon answers once it serves.
pub const PING: &str = "ping";
/// The request that asks a daemon whether it serves the mount that the asker stands in.
pub const SERVES: &str = "serves";
/// How long a command waits, at its end, for what /proc tells of itself, in milliseconds.
const SETTLE_MS: u64 = 200;

/// Options that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Globals {
    /// The database's file
    #[arg(long = "db", id = "global_db", value_name = "FILE", global = true, conflicts_with = "global_mount")]
    pub db: Option<PathBuf>,
    /// A directory that the database is mounted at
    #[arg(long = "mount", id = "global_mount", value_name = "DIR", global = true)]
    pub mount: Option<PathBuf>,
    /// Prints one JSON document
    #[arg(long, id = "global_json", global = true)]
    pub json: bool,
    /// Prints nothing but errors and what was asked for
    #[arg(short, long, id = "global_quiet", global = true, conflicts_with = "global_verbose")]
    pub quiet: bool,
    /// Says more; twice, much more
    #[arg(short, long, id = "global_verbose", global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The running program.
pub struct App {
    /// Options.
    pub globals: Globals,
    /// The user's time zone.
    pub zone: TimeZone,
    access: OnceCell<Rc<Access>>,
}

/// The way to an open database.
pub struct Access {
    /// Which database, and where the user stands in it.
    pub place: Place,
    origin: Origin,
    backend: Backend,
    /// The directory of the tree that typed paths begin at, where a shell stands in one.
    cwd: RefCell<Option<Vec<u8>>>,
    /// What ends work before it is done.
    interrupts: RefCell<Option<Interrupts>>,
}

enum Backend {
    Daemon(RefCell<Client>),
    Here(Local),
}

/// A database that this process has open itself.
struct Local {
    engine: Arc<Engine>,
    /// This process in the record, once it changes something.
    recorded: OnceCell<(Arc<ProcessTable>, ProcId)>,
    /// What stands in for a mount, in a shell.
    host: OnceCell<Box<dyn Host>>,
}

impl App {
    /// Begins a run.
    pub fn new(globals: Globals) -> App {
        App { globals, zone: system_zone(), access: OnceCell::new() }
    }

    /// A run of one command on the database that this one has open, with options of its own.
    pub fn with_options(&self, globals: Globals) -> App {
        App { globals, zone: self.zone.clone(), access: self.access.clone() }
    }

    /// Finds the database (by options, these typed paths, or the working directory) and opens it or
    /// connects to the daemon that has it open; once.
    ///
    /// # Errors
    /// Where no database is found or it cannot be opened.
    pub fn access(&self, typed: &[&TreePath]) -> Result<&Access> {
        if let Some(access) = self.access.get() {
            return Ok(access);
        }
        let typed: Vec<&OsStr> = typed.iter().map(|path| path.as_os_str()).collect();
        let place = Place::find(self.globals.db.as_deref(), self.globals.mount.as_deref(), &typed)?;
        self.use_place(place)
    }

    /// As [`App::access`], where the command itself may name the database or a directory of its mount.
    ///
    /// # Errors
    /// Those of [`App::access`].
    pub fn access_named(&self, named: Option<&Path>) -> Result<&Access> {
        match named {
            Some(name) if self.access.get().is_none() => self.use_place(Place::of_either(name)?),
            Some(_) | None => self.access(&[]),
        }
    }

    fn use_place(&self, place: Place) -> Result<&Access> {
        let access = Access::open(place)?;
        Ok(self.access.get_or_init(|| Rc::new(access)))
    }

    /// Has work done.
    ///
    /// # Errors
    /// Those of the work.
    pub fn ask<W: Work>(&self, work: &W) -> Result<W::Output> {
        self.access(&[])?.ask(work)
    }

    /// A typed path in the tree; the database is found by it where no option names one.
    ///
    /// # Errors
    /// Where no database is found or the path is not in its tree.
    pub fn tree_path(&self, typed: &TreePath) -> Result<TreePath> {
        self.access(&[typed])?.tree_path(typed)
    }

    /// Shows a result: as JSON, or as `render` has it.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn show<T: serde::Serialize>(
        &self,
        result: &T,
        paged: bool,
        render: impl FnOnce(&mut Screen, &T) -> Result<()>,
    ) -> Result<()> {
        if self.globals.json {
            return self.show_json(result);
        }
        let mut screen = Screen::open(self.zone.clone(), paged);
        render(&mut screen, result)?;
        screen.finish()
    }

    /// Prints a result as the one JSON document.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn show_json<T: serde::Serialize>(&self, result: &T) -> Result<()> {
        let misfit = |error: serde_json::Error| Error::failed(error.to_string());
        let document = to_json(serde_json::to_value(result).map_err(misfit)?);
        let mut screen = Screen::open(self.zone.clone(), false);
        let text = serde_json::to_string_pretty(&document).map_err(misfit)?;
        screen.document(text.as_bytes())?;
        screen.raw(b"\n")?;
        screen.finish()
    }

    /// Says something on standard error that is no error, unless `-q`.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.globals.quiet {
            eprintln!("stone: {text}");
        }
    }

    /// Closes the database; everything is on disk when it returns.
    ///
    /// # Errors
    /// Those of the store.
    pub fn finish(self) -> Result<()> {
        match self.access.into_inner().and_then(Rc::into_inner) {
            Some(Access { backend: Backend::Here(local), place, .. }) => {
                if let Some((processes, _)) = local.recorded.get() {
                    processes.settle(Duration::from_millis(SETTLE_MS));
                }
                let name = place.database.as_os_str().as_bytes();
                local.engine.close().about(name)?;
                local.engine.store().close().about(name)
            }
            Some(Access { backend: Backend::Daemon(_), .. }) | None => Ok(()),
        }
    }
}

impl Access {
    /// Connects to the database's daemon, or opens the database.
    ///
    /// # Errors
    /// Where neither is possible.
    pub fn open(place: Place) -> Result<Access> {
        let origin = Origin::here(place.dev());
        let start = Instant::now();
        loop {
            let daemon = match place.dev() {
                Some(dev) => connect_mount(&place.database, dev)?,
                None => connect(&place.database)?,
            };
            if let Some(mut client) = daemon {
                match client.call(PING, &origin, &(), &mut |_| ()) {
                    Ok(Ok(_)) => {}
                    Ok(Err(failure)) if failure.message != ENDING => return Err(Error(failure)),
                    // it is just ending, or could not begin
                    Ok(Err(_)) | Err(_) if start.elapsed() < Duration::from_millis(BUSY_WAIT_MS) => {
                        thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    Ok(Err(failure)) => return Err(Error(failure)),
                    Err(error) => return Err(lost(error)),
                }
                return Ok(Access {
                    place,
                    origin,
                    backend: Backend::Daemon(RefCell::new(client)),
                    cwd: RefCell::default(),
                    interrupts: RefCell::default(),
                });
            }
            // What was done through a mount whose daemon has just died may be lost, and an open transaction interrupted:
            // a command that was given in the mount must not go on without.
            if let Some(mount) = &place.mount {
                return Err(dead().about(mount.dir.as_os_str().as_bytes()));
            }
            match open_engine(&place.database, &Options::default()) {
                Ok(engine) => {
                    let local = Local { engine, recorded: OnceCell::new(), host: OnceCell::new() };
                    let (cwd, interrupts) = (RefCell::default(), RefCell::default());
                    return Ok(Access { place, origin, backend: Backend::Here(local), cwd, interrupts });
                }
                Err(OpenError::Busy(_)) if start.elapsed() < Duration::from_millis(BUSY_WAIT_MS) => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(OpenError::Busy(error) | OpenError::Other(error)) => {
                    return Err(error.about(place.database.as_os_str().as_bytes()));
                }
            }
        }
    }

    /// Has work done, in the daemon or here.
    ///
    /// # Errors
    /// Those of the work, or a daemon that went away.
    pub fn ask<W: Work>(&self, work: &W) -> Result<W::Output> {
        let mut bar = Bar::default();
        match &self.backend {
            Backend::Daemon(client) => {
                let mut client = client.borrow_mut();
                let answer = client.call(W::NAME, &self.origin, work, &mut |step| bar.step(&step)).map_err(lost)?;
                let value: Value = answer.map_err(Error)?;
                serde_json::from_value(value).map_err(|error| Error::failed(format!("{}: {error}", W::NAME)))
            }
            Backend::Here(local) => {
                let mut caller = own_caller();
                if W::CHANGES {
                    caller.process = local.own_process(&caller);
                }
                let context = Context {
                    engine: &local.engine,
                    database: &self.place.database,
                    host: local.host.get().map_or(&Unmounted, |host| host.as_ref()),
                    caller,
                    zone: self.origin.time_zone(),
                    dev: None,
                    stopped: self.stop(),
                    progress: RefCell::new(Box::new(move |what, done, total| {
                        bar.step(&Progress { what: what.to_owned(), done, total });
                    })),
                };
                work.execute(&context)
            }
        }
    }
}

impl Access {
    /// As [`Access::ask`], unless Ctrl-C comes: `None` then.
    ///
    /// # Errors
    /// Those of [`Access::ask`].
    pub fn ask_until<W: Work>(&self, work: &W, interrupts: &Interrupts) -> Result<Option<W::Output>> {
        let waiting = match &self.backend {
            Backend::Daemon(client) => Some(client.borrow().connection().map_err(Error::from)?),
            Backend::Here(_) => None,
        };
        interrupts.begin(waiting);
        *self.interrupts.borrow_mut() = Some(interrupts.clone());
        let done = self.ask(work);
        *self.interrupts.borrow_mut() = None;
        if !interrupts.end() {
            return done.map(Some);
        }
        if let Backend::Daemon(client) = &self.backend {
            let gone = || Error::failed("the daemon has ended");
            *client.borrow_mut() = connect(&self.place.database)?.ok_or_else(gone)?;
        }
        Ok(None)
    }

    fn stop(&self) -> Stop {
        match &*self.interrupts.borrow() {
            Some(interrupts) => {
                let interrupts = interrupts.clone();
                Arc::new(move || interrupts.fired())
            }
            None => Arc::new(|| false),
        }
    }

    /// A typed path in the tree.
    ///
    /// # Errors
    /// Where it is outside of the mount.
    pub fn tree_path(&self, typed: &TreePath) -> Result<TreePath> {
        match &*self.cwd.borrow() {
            Some(cwd) if !typed.as_bytes().starts_with(b"/") => {
                self.place.tree_path(&TreePath([cwd.as_slice(), b"/", typed.as_bytes()].concat()))
            }
            Some(_) | None => self.place.tree_path(typed),
        }
    }

    /// Lets relative paths begin at a directory of the tree.
    pub fn stand_in(&self, dir: &[u8]) {
        *self.cwd.borrow_mut() = Some(dir.to_vec());
    }

    /// The file system and this process as its caller, where this process has the database open itself.
    pub fn local(&self) -> Option<(&Arc<Engine>, Caller)> {
        match &self.backend {
            Backend::Daemon(_) => None,
            Backend::Here(local) => {
                let mut caller = own_caller();
                caller.process = local.own_process(&caller);
                Some((&local.engine, caller))
            }
        }
    }

    /// Lets something stand in for a mount of a database that this process has open itself.
    pub fn serve(&self, host: Box<dyn Host>) {
        if let Backend::Here(local) = &self.backend {
            drop(local.host.set(host));
        }
    }
}

impl Local {
    /// This process's entity in the record.
    fn own_process(&self, caller: &Caller) -> ProcId {
        if let Some((_, id)) = self.recorded.get() {
            return *id;
        }
        let sink = Arc::clone(&self.engine) as Arc<dyn ProcessSink>;
        match ProcessTable::new(sink, Arc::new(SystemClock)) {
            Ok(processes) => {
                let id = processes.lookup(caller.pid, caller.uid, caller.gid);
                self.recorded.get_or_init(|| (Arc::new(processes), id)).1
            }
            Err(error) => {
                log::warn!("this process is not recorded: {error}");
                ProcId(0)
            }
        }
    }
}

fn lost(error: FrameError) -> Error {
    Error::failed(format!("the daemon did not answer: {error}; its log says why (`stone status -v` names it)"))
}

/// This process, as a caller.
pub fn own_caller() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
        process: ProcId(0),
    }
}

/// Connects to the daemon that has a database open; `None` where there is none.
///
/// # Errors
/// Where the database is not there, or the daemon's socket cannot be used.
pub fn connect(database: &Path) -> Result<Option<Client>> {
    for path in control::find_sockets(database).about(database.as_os_str().as_bytes())? {
        match Client::connect(&path) {
            Ok(client) => return Ok(Some(client)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let message = "permission denied: only the database's owner and root may do this";
                return Err(Error::failed(message).about(database.as_os_str().as_bytes()));
            }
            Err(error) => return Err(Error::from(error).about(path.as_os_str().as_bytes())),
        }
    }
    Ok(None)
}

/// Connects to the daemon that serves a mount, also where its database's file was removed or replaced since;
/// `None` where there is none.
///
/// # Errors
/// Where the daemon's socket cannot be used.
pub fn connect_mount(database: &Path, dev: u64) -> Result<Option<Client>> {
    let serves = |client: &mut Client| match client.call(SERVES, &Origin::here(Some(dev)), &(), &mut |_| ()) {
        Ok(Ok(Value::Bool(serves))) => Some(serves),
        _ => None,
    };
    if database.exists()
        && let Some(mut client) = connect(database)?
    {
        match serves(&mut client) {
            Some(true) => return Ok(Some(client)),
            Some(false) => {}
            // It refused, and closed the connection: what is asked next is told why.
            None => return connect(database),
        }
    }
    let mut others = control::all_sockets().into_iter().filter_map(|path| Client::connect(&path).ok());
    Ok(others.find_map(|mut client| (serves(&mut client) == Some(true)).then_some(client)))
}

/// Why a database could not be opened.
pub enum OpenError {
    /// Somebody else has it open.
    Busy(Error),
    /// Anything else.
    Other(Error),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::Busy(error) | OpenError::Other(error) => error,
        }
    }
}

/// Opens a database in this process.
///
/// # Errors
/// [`OpenError`].
pub fn open_engine(database: &Path, options: &Options) -> std::result::Result<Arc<Engine>, OpenError> {
    let sort = |error: StoreError| match error {
        StoreError::Busy(_) => OpenError::Busy(error.into()),
        other => OpenError::Other(other.into()),
    };
    let store = SqliteStore::open(database).map_err(sort)?;
    Engine::open(Arc::new(store), Arc::new(SystemClock), options.clone()).map_err(|error| match error {
        crate::engine::FsError::Store(error) => sort(error),
        other => OpenError::Other(other.into()),
    })
}

/// A progress bar on a terminal, and nothing elsewhere; appears with the first step.
#[derive(Default)]
struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    fn step(&mut self, step: &Progress) {
        if !io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(step.total);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(step.total);
        bar.set_message(step.what.clone());
        bar.set_position(step.done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
