//! Connections: how each is set up.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;

use crate::store::{Result, StoreError};

/// Bytes to which the log is cut when it starts anew.
const LOG_KEEP_BYTES: i64 = 64 << 20;

/// Where the index of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    /// In a file beside the database, which other programs that read use too.
    Shared,
    /// In this process's memory: on a disk too full for that file. Nobody else can open the database then.
    Private,
}

fn open_writable(path: &Path, index: Index) -> Result<Connection> {
    let flags = flags(OpenFlags::SQLITE_OPEN_READ_WRITE);
    Ok(match index {
        Index::Shared => Connection::open_with_flags(path, flags)?,
        Index::Private => Connection::open_with_flags_and_vfs(path, flags, "unix-excl")?,
    })
}

fn flags(base: OpenFlags) -> OpenFlags {
    // Each connection is used by one thread at a time.
    base | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}

/// Opens the connection through which everything is written.
pub(super) fn writer(path: &Path, index: Index) -> Result<Connection> {
    let conn = open_writable(path, index)?;
    keep_plans(&conn, 256)?;
    // NORMAL: the log is synced by `Log::sync` where a commit must be durable, and by checkpoints.
    conn.execute_batch(&format!(
        "PRAGMA busy_timeout=0; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-65536; \
         PRAGMA cache_spill=OFF; PRAGMA temp_store=MEMORY; PRAGMA journal_size_limit={LOG_KEEP_BYTES};"
    ))?;
    Ok(conn)
}

/// Keeps so many prepared statements, and their plans whatever is bound to them: without the
/// guarantee SQLite prepares a statement anew at most executions.
fn keep_plans(conn: &Connection, statements: usize) -> Result<()> {
    conn.set_prepared_statement_cache_capacity(statements);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Turns the journal of a new database into a write-ahead log.
pub(super) fn use_log(conn: &Connection) -> Result<()> {
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Backend(format!(
            "this file system cannot keep a write-ahead log (journal mode {mode}); use a local disk"
        )));
    }
    Ok(())
}

/// Opens a connection that only reads.
pub(super) fn reader(path: &Path, index: Index) -> Result<Connection> {
    let conn = open_writable(path, index)?;
    reader_settings(&conn)?;
    Ok(conn)
}

/// Opens a connection to a database that this process may not write; `immutable`: nobody does.
pub(super) fn read_only(path: &Path, immutable: bool) -> Result<Connection> {
    let base = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = if immutable {
        let mut uri = String::from("file:");
        for byte in std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()) {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
                _ => uri.push_str(&format!("%{byte:02x}")),
            }
        }
        uri.push_str("?immutable=1");
        Connection::open_with_flags(uri, flags(base | OpenFlags::SQLITE_OPEN_URI))?
    } else {
        Connection::open_with_flags(path, flags(base))?
    };
    reader_settings(&conn)?;
    Ok(conn)
}

fn reader_settings(conn: &Connection) -> Result<()> {
    keep_plans(conn, 128)?;
    // Nothing is mapped: where pruning shortened the file, a reader died of SIGBUS, and the daemon with it.
    conn.execute_batch(
        "PRAGMA busy_timeout=5000; PRAGMA query_only=ON; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-8192; \
         PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;",
    )?;
    Ok(())
}

/// Opens the connection that moves the log into the database.
pub(super) fn checkpointer(path: &Path, index: Index) -> Result<Connection> {
    let conn = open_writable(path, index)?;
    conn.execute_batch(&format!(
        "PRAGMA busy_timeout=0; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-1024; \
         PRAGMA journal_size_limit={LOG_KEEP_BYTES};"
    ))?;
    Ok(conn)
}

/// The write-ahead log's file: synced for durability, and locked against a second StoneFS.
///
/// SQLite's own locks are POSIX record locks on the database and the `-shm` file, which closing any
/// other descriptor of those files would drop; it takes none on the log. The log exists as long as
/// a connection that has read is open, so everybody who opens the database meets at one file.
pub(super) struct Log {
    file: File,
}

impl Log {
    /// Opens and locks the log of a database whose connection has begun a transaction.
    pub(super) fn open(database: &Path) -> Result<Log> {
        let path = with_suffix(database, "-wal");
        let open = || -> std::io::Result<Log> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            // The log's own name must be on disk before what it holds can be.
            if let Some(dir) = database.parent() {
                let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                File::open(dir)?.sync_all()?;
            }
            Ok(Log { file })
        };
        open().map_err(|error| {
            if error.raw_os_error() == Some(libc::EWOULDBLOCK) {
                in_use(database)
            } else {
                StoreError::Backend(format!("{}: {error}", path.display()))
            }
        })
    }

    /// Whether another StoneFS has the log open. Asked before SQLite opens a database: where the file was replaced
    /// under a running daemon, SQLite would take that one's log for this one's.
    pub(super) fn is_locked(database: &Path) -> bool {
        let Ok(file) = File::open(with_suffix(database, "-wal")) else { return false };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        locked == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Waits until everything in the log is on disk.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    /// Lets somebody else open the database.
    pub(super) fn unlock(&self) {
        if let Err(error) = rustix::fs::flock(&self.file, FlockOperation::Unlock) {
            log::warn!("unlocking the log: {error}");
        }
    }

    /// Returns what the file system holds that the database lies on, also where its name is gone.
    pub(super) fn disk(&self) -> std::io::Result<rustix::fs::StatVfs> {
        Ok(rustix::fs::fstatvfs(&self.file)?)
    }

    /// Returns the log's size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

/// Says that somebody else has the database open.
pub(super) fn in_use(path: &Path) -> StoreError {
    StoreError::Busy(format!(
        "{} is open in another program (a mount or a second stone?); unmount it or go through the mount",
        path.display()
    ))
}

/// Appends to a file's name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes a file that must not exist yet, readable by its owner only.
pub(super) fn create_file(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::Conflict(format!("{} exists already", path.display())))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Err(StoreError::Full),
        Err(error) => Err(StoreError::Backend(format!("{}: {error}", path.display()))),
    }
}
