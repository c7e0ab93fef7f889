//! The SQLite store: one file in WAL mode, one writer, a pool of readers.

mod check;
mod chunk;
mod codec;
mod connection;
mod entry;
mod error;
mod event;
mod extent;
mod inode;
mod ledger;
mod lines;
mod pins;
#[cfg(test)]
mod plans;
mod posting;
mod process;
mod prune;
pub mod query;
mod read;
mod repair;
mod schema;
mod shown;
mod staged;
mod temporal;
mod temporary;
mod touched;
mod upkeep;
mod write;
mod xattr;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

use self::connection::{Index, Log};
use self::read::{Connected, Snapshot, SqliteRead};
use self::staged::Stagings;
use self::write::{SqliteWrite, Writer};
use super::{InitOptions, Prune, Pruned, ReadTxn, Result, Space, Store, StoreError, WriteTxn};

/// Read connections that wait for the next reader.
const IDLE_READERS: usize = 8;

/// How long an estimate of space holds.
const SHARE_AGE: Duration = Duration::from_secs(5);

/// How long a check waits for a large commit that is being written.
const CHECK_WAIT: Duration = Duration::from_secs(120);

/// A database in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    /// Device and inode of the file, in case another takes its name.
    identity: (u64, u64),
    /// `None` where the store is read-only, or closed.
    writer: Mutex<Option<Writer>>,
    readers: Mutex<Vec<Connection>>,
    /// A snapshot that the next reader goes on with if nothing was committed since: beginning one is half of what
    /// reading a row costs. It ends with the next look at the log, which it would keep from starting anew.
    snapshot: Mutex<Option<Snapshot>>,
    /// Counts the commits, and the times that the log was all in the database: a new snapshot is another one since.
    snapshots: Arc<AtomicU64>,
    /// `None` where the store is read-only.
    log: Option<Log>,
    checkpointer: Mutex<Option<Connection>>,
    mode: Mode,
    /// The last estimate of present and of all bytes, and when it was made.
    share: Mutex<Option<(Instant, (u64, u64))>>,
    closed: AtomicBool,
    failed: AtomicBool,
    /// Whether content is compared with its hash when it is read.
    verifying: AtomicBool,
    /// Whether readers have to look for rows that are written ahead of their event.
    stagings: Stagings,
}

/// How the file was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ReadWrite(Index),
    ReadOnly,
    /// Read-only, on a medium where not even the shared index can be made.
    Immutable,
}

impl SqliteStore {
    /// Makes a new database with an empty root directory on branch `main`, and opens it.
    ///
    /// Event 1 is the creation of `main`; the root directory is valid from it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the file exists.
    pub fn create(path: &Path, options: &InitOptions) -> Result<SqliteStore> {
        let log = connection::with_suffix(path, "-wal");
        if log.exists() {
            return Err(StoreError::Conflict(format!(
                "{} exists: a database of this name was removed or renamed while it was in use, or crashed; \
                 end what uses it, and remove or rename that file too",
                log.display()
            )));
        }
        connection::create_file(path)?;
        let made = (|| {
            let conn = connection::writer(path, Index::Shared)?;
            schema::create(&conn)?;
            connection::use_log(&conn)?;
            upkeep::populate(&conn, options)?;
            conn.close().map_err(|(_, error)| StoreError::from(error))
        })();
        if let Err(error) = made {
            // Only what this call made goes.
            for suffix in ["", "-wal", "-shm", "-journal"] {
                let _ = std::fs::remove_file(connection::with_suffix(path, suffix));
            }
            return Err(no_inodes(path, error));
        }
        SqliteStore::open(path)
    }

    /// Opens a database for reading and writing.
    ///
    /// # Errors
    /// [`StoreError::Schema`] where it is not ours or too new, [`StoreError::Corrupt`] where it is
    /// damaged or truncated, [`StoreError::Busy`] where another program has it open for writing.
    pub fn open(path: &Path) -> Result<SqliteStore> {
        require_file(path)?;
        if Log::is_locked(path) {
            return Err(connection::in_use(path));
        }
        let open = |index| SqliteStore::open_with(path, index).map_err(|error| no_inodes(path, error));
        match open(Index::Shared) {
            Err(StoreError::Full) => {
                let store = open(Index::Private)?;
                log::warn!("{}: its disk is full; until the next mount no other program can read it", path.display());
                Ok(store)
            }
            opened => opened,
        }
    }

    fn open_with(path: &Path, index: Index) -> Result<SqliteStore> {
        let conn = connection::writer(path, index)?;
        let version = schema::inspect(&conn, path)?;
        let busy = |error| match error {
            StoreError::Busy(_) => connection::in_use(path),
            other => other,
        };
        schema::migrate(&conn, version).map_err(busy)?;
        let snapshots = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(conn, path, snapshots.clone()).map_err(|error| match error {
            StoreError::Backend(why) => StoreError::Backend(format!("{}: {why}", path.display())),
            other => other,
        })?;
        let log = Log::open(path)?;
        let checkpointer = connection::checkpointer(path, index)?;
        Ok(SqliteStore {
            path: absolute(path)?,
            identity: identity(path)?,
            writer: Mutex::new(Some(writer)),
            readers: Mutex::new(Vec::new()),
            snapshot: Mutex::new(None),
            snapshots,
            log: Some(log),
            checkpointer: Mutex::new(Some(checkpointer)),
            mode: Mode::ReadWrite(index),
            share: Mutex::new(None),
            closed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            verifying: AtomicBool::new(false),
            stagings: Stagings::default(),
        })
    }

    /// Opens a database for reading only, beside whoever writes it.
    ///
    /// # Errors
    /// As [`SqliteStore::open`], but never because it is in use.
    pub fn open_read_only(path: &Path) -> Result<SqliteStore> {
        require_file(path)?;
        let mut mode = Mode::ReadOnly;
        let conn = match connection::read_only(path, false).and_then(|conn| {
            schema::inspect(&conn, path)?;
            Ok(conn)
        }) {
            Ok(conn) => conn,
            Err(StoreError::Backend(_)) if !connection::with_suffix(path, "-wal").exists() => {
                mode = Mode::Immutable;
                let conn = connection::read_only(path, true)?;
                schema::inspect(&conn, path)?;
                conn
            }
            Err(error) => return Err(error),
        };
        Ok(SqliteStore {
            path: absolute(path)?,
            identity: identity(path)?,
            writer: Mutex::new(None),
            readers: Mutex::new(vec![conn]),
            snapshot: Mutex::new(None),
            snapshots: Arc::default(),
            log: None,
            checkpointer: Mutex::new(None),
            mode,
            share: Mutex::new(None),
            closed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            verifying: AtomicBool::new(false),
            stagings: Stagings::default(),
        })
    }

    /// Mends what [`Store::check`] finds, and isolates what cannot be mended: what was done, one line
    /// each. Nobody else may have anything of the database in memory.
    ///
    /// # Errors
    /// Where pages of tables are damaged: nothing was changed then.
    pub fn repair(&self) -> Result<Vec<String>> {
        repair::repair(self)
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether all commits are this store's own.
    fn is_written_here(&self) -> bool {
        matches!(self.mode, Mode::ReadWrite(_))
    }

    /// Ends the snapshot that is kept for the next reader.
    fn end_snapshot(&self) {
        if let Some(kept) = self.snapshot.lock().take() {
            read::end(self, kept.conn);
        }
    }

    fn begin_write(&self) -> Result<SqliteWrite<'_>> {
        let writer = self.writer.lock();
        if self.closed.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if !self.is_written_here() {
            return Err(StoreError::Backend(format!("{} was opened for reading only", self.path.display())));
        }
        SqliteWrite::begin(self, writer)
    }

    fn reader(&self) -> Result<Connection> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if let Some(conn) = self.readers.lock().pop() {
            return Ok(conn);
        }
        if identity(&self.path).ok() != Some(self.identity) {
            return Err(StoreError::Backend(format!("{} was removed or replaced", self.path.display())));
        }
        match self.mode {
            Mode::ReadWrite(index) => connection::reader(&self.path, index),
            Mode::ReadOnly => connection::read_only(&self.path, false),
            Mode::Immutable => connection::read_only(&self.path, true),
        }
    }

    /// Takes a reader's connection back into the pool.
    fn give_back(&self, conn: Connection) {
        let mut readers = self.readers.lock();
        if readers.len() < IDLE_READERS && !self.closed.load(Ordering::Acquire) {
            readers.push(conn);
        }
    }

    /// Bytes of the present and of everything, by an estimate that is made anew now and then.
    fn live_share(&self, conn: &Connection) -> Result<(u64, u64)> {
        let mut share = self.share.lock();
        if let Some((made, figures)) = *share
            && made.elapsed() < SHARE_AGE
        {
            return Ok(figures);
        }
        let figures = upkeep::sample(conn)?;
        *share = Some((Instant::now(), figures));
        Ok(figures)
    }

    /// Takes no more writes: what is on disk is not known any more.
    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    fn sync_log(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        log.sync().map_err(|error| {
            // The kernel may have dropped the pages that it could not write: a second try would lie.
            self.fail();
            match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => StoreError::Full,
                _ => StoreError::Backend(format!("syncing the log: {error}")),
            }
        })
    }
}

/// The same file whatever the working directory becomes.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|error| StoreError::Backend(format!("{}: {error}", path.display())))
}

/// Tells a disk without free inodes, on which the log cannot be made, from other failures to open.
fn no_inodes(path: &Path, error: StoreError) -> StoreError {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (&error, rustix::fs::statvfs(dir)) {
        // File systems without a table of inodes say that they have none at all.
        (StoreError::Backend(_), Ok(disk)) if disk.f_files > 0 && disk.f_favail == 0 => StoreError::Full,
        _ => error,
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> Result<(u64, u64)> {
    let meta = std::fs::metadata(path).map_err(|error| StoreError::Backend(format!("{}: {error}", path.display())))?;
    Ok((meta.dev(), meta.ino()))
}

fn require_file(path: &Path) -> Result<()> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(StoreError::Schema(format!("{shown} is not a file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(StoreError::Backend(format!("{shown} does not exist; `stone init {shown}` makes it")))
        }
        Err(error) => Err(StoreError::Backend(format!("{shown}: {error}"))),
    }
}

impl Store for SqliteStore {
    fn read(&self) -> Result<Box<dyn ReadTxn + '_>> {
        Ok(Box::new(SqliteRead::begin(self)?))
    }

    fn write(&self) -> Result<Box<dyn WriteTxn + '_>> {
        Ok(Box::new(self.begin_write()?))
    }

    fn sync(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        self.sync_log()
    }

    fn checkpoint(&self) -> Result<u64> {
        upkeep::checkpoint(self)
    }

    fn space(&self) -> Result<Space> {
        upkeep::space(self)
    }

    fn verify_content(&self, on: bool) {
        self.verifying.store(on, Ordering::Release);
    }

    fn check(&self) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let read = SqliteRead::begin(self)?;
            // A commit that is half written would look like damage.
            if read.hidden().is_none() || start.elapsed() > CHECK_WAIT || !self.is_written_here() {
                return check::check(read.conn()?);
            }
            drop(read);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn prune(&self, request: &Prune) -> Result<Pruned> {
        prune::prune(self, request)
    }

    fn release(&self, pages: u32) -> Result<u64> {
        prune::release(self, pages)
    }

    fn backup(&self, to: &Path) -> Result<()> {
        upkeep::backup(self, to)
    }

    fn close(&self) -> Result<()> {
        upkeep::close(self)
    }
}
