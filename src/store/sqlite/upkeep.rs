//! What keeps a database in order: its first rows, checkpoints, space, checks, backups, the end.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::event::{self, Paths};
use super::posting::Postings;
use super::write::is_busy;
use super::{SqliteStore, codec, connection, inode, ledger, lines, schema};
use crate::store::{BranchRow, Content, Counters, EventRow, InitOptions, InodeRow, Result, Space, StoreError};
use crate::types::{BranchId, Ino, Kind, Op, ProcId, Seq, TxnId};

/// Bytes of log from which on it is worth to stop the writer for the last step.
const RESET_FROM: u64 = 16 << 20;

/// Bytes of log that may be left for the last step.
const LAST_STEP: u64 = 4 << 20;

/// Bytes of log from which on the writer has to wait for readers.
const LOG_WANTED: u64 = 48 << 20;

/// How long commits wait at most, so that readers leave the log.
const RESTART_WAIT: Duration = Duration::from_millis(250);

/// Bytes of log from which on the writer has to wait for the disk.
const LOG_MAX: u64 = 192 << 20;

/// Writes the first rows of a new database.
pub(super) fn populate(conn: &Connection, options: &InitOptions) -> Result<()> {
    let first = Seq(1);
    conn.execute_batch("BEGIN IMMEDIATE")?;
    lines::put_branch(
        conn,
        &BranchRow {
            id: BranchId::MAIN,
            name: Some(b"main".to_vec()),
            parent: None,
            base: Seq::ZERO,
            created: first,
            created_time: options.now,
            dropped: None,
            uid: options.uid,
        },
    )?;
    let root = InodeRow {
        kind: Kind::Dir,
        perm: 0o755,
        uid: options.uid,
        gid: options.gid,
        nlink: 2,
        size: 0,
        chunks: 0,
        rdev: 0,
        atime: options.now,
        mtime: options.now,
        ctime: options.now,
        btime: options.now,
        content: Content::Extents,
        data_from: Seq::ZERO,
        content_seq: first,
        attr_seq: first,
        predecessor: None,
        process: ProcId(0),
    };
    inode::put(conn, BranchId::MAIN, first, Ino::ROOT, Some(&root), false, true)?;
    let event = EventRow {
        seq: first,
        time: options.now,
        raw_time: options.now,
        branch: BranchId::MAIN,
        txn: None,
        op: Op::Branch,
        ino: Some(Ino::ROOT),
        parent: None,
        name: None,
        parent2: None,
        name2: None,
        path: None,
        path2: None,
        ino2: None,
        offset: None,
        length: None,
        old: None,
        new: Some(b"main".to_vec()),
        result: 0,
        uid: options.uid,
        gid: options.gid,
        pid: 0,
        process: ProcId(0),
    };
    let mut postings = Postings::default();
    event::put(conn, &mut Paths::new(), &mut postings, &event)?;
    postings.write(conn)?;
    for (key, value) in &options.settings {
        ledger::put_setting(conn, key, Some(value))?;
    }
    let counters = Counters {
        seq: first,
        time: options.now,
        next_ino: Ino(2),
        next_branch: BranchId(2),
        next_txn: TxnId(1),
        next_process: ProcId(1),
    };
    ledger::put_counters(conn, &counters)?;
    conn.execute_batch("COMMIT")?;
    Ok(())
}

/// Runs a checkpoint; returns the frames in the log, and how many of them are in the database.
fn run_checkpoint(conn: &Connection, kind: &str) -> Result<(u64, u64)> {
    let frames = conn.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| {
        Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    match frames {
        Ok((log, done)) => Ok((log.max(0) as u64, done.max(0) as u64)),
        Err(error) if is_busy(&error) => Ok((0, 0)),
        Err(error) => Err(error.into()),
    }
}

/// The bulk beside the writer; the last step, after which the log starts anew, between two groups.
pub(super) fn checkpoint(store: &SqliteStore) -> Result<u64> {
    let checkpointer = store.checkpointer.lock();
    let Some(conn) = checkpointer.as_ref() else { return Ok(0) };
    let frame = pragma(conn, "page_size")? + 24;
    let (mut size, mut rest) = (0, u64::MAX);
    // What the writer added meanwhile is less each time, unless it is faster than the disk.
    for _ in 0..3 {
        store.end_snapshot();
        let (log, done) = run_checkpoint(conn, "PASSIVE")?;
        (size, rest) = (log * frame, log.saturating_sub(done) * frame);
        if size < RESET_FROM || rest <= LAST_STEP {
            break;
        }
    }
    if size < RESET_FROM || (rest > LAST_STEP && size < LOG_MAX) {
        return Ok(size);
    }
    // A group in progress is left alone, unless the log grows without end.
    let patience = if size < LOG_MAX { Duration::from_millis(20) } else { Duration::from_secs(5) };
    let Some(mut writer) = store.writer.try_lock_for(patience) else { return Ok(size) };
    let Some(writer) = writer.as_mut() else { return Ok(0) };
    writer.begin()?;
    writer.commit()?;
    store.end_snapshot();
    let (log, done) = run_checkpoint(&writer.conn, "PASSIVE")?;
    // A snapshot that began before is none to keep; one that begins from now on reads the database alone.
    store.snapshots.fetch_add(1, Ordering::Release);
    store.end_snapshot();
    let restarted = log == done && (size < LOG_WANTED || restart(&writer.conn, patience)?);
    // With everything in the database and no reader in the log, the next commit starts it anew.
    writer.begin()?;
    if log > 0 && !restarted {
        log::debug!("{} bytes of log are held by a reader", log * frame);
    }
    Ok(if restarted { 0 } else { log * frame })
}

/// Waits until nobody reads from a log whose content is in the database already, so that it starts anew. Who begins to
/// read meanwhile needs only the database: readers that follow each other without a gap would keep the log for ever.
fn restart(conn: &Connection, patience: Duration) -> Result<bool> {
    let patience = Instant::now() + patience.min(RESTART_WAIT);
    loop {
        match conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0)) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_busy(&error) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= patience {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn pragma(conn: &Connection, name: &str) -> Result<u64> {
    Ok(conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0))? as u64)
}

/// Asks the database and the disk.
pub(super) fn space(store: &SqliteStore) -> Result<Space> {
    let conn = store.reader()?;
    let page = pragma(&conn, "page_size")?;
    let pages = pragma(&conn, "page_count")?;
    let free = pragma(&conn, "freelist_count")?.min(pages);
    let (live, all) = store.live_share(&conn)?;
    store.give_back(conn);
    let log = store.log.as_ref().map_or(0, connection::Log::size);
    let disk = match &store.log {
        Some(log) => log.disk(),
        None => rustix::fs::statvfs(&store.path).map_err(std::io::Error::from),
    };
    let disk = disk.map_err(|error| StoreError::Backend(error.to_string()))?;
    let used = (pages - free) * page;
    let live = (u128::from(used) * u128::from(live) / u128::from(all.max(1))) as u64;
    Ok(Space {
        total: pages * page + log,
        live,
        history: used - live.min(used),
        reclaimable: free * page,
        log,
        disk_free: disk.f_bavail * disk.f_frsize,
        disk_total: disk.f_blocks * disk.f_frsize,
    })
}

/// Inodes that are looked at to estimate how much of the database is of the present.
const SAMPLE: u64 = 300;

/// Rows of one inode that are looked at.
const SAMPLE_ROWS: i64 = 64;

/// Bytes of a row beside its content, events and indexes included.
const ROW_BYTES: u64 = 400;

/// Estimates bytes of present rows and of all rows, from inodes at even distances.
pub(super) fn sample(conn: &Connection) -> Result<(u64, u64)> {
    let (mut live, mut all) = (0, 0);
    let count = ledger::counters(conn)?.next_ino.0;
    let mut add = |sql: &str, start: u64, rows_max: i64| -> Result<()> {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query((codec::int(start), rows_max))?;
        while let Some(row) = rows.next()? {
            let bytes = ROW_BYTES + codec::opt_uint(row, 0)?.unwrap_or(0);
            all += bytes;
            if codec::seq(row, 1)? == Seq::MAX {
                live += bytes;
            }
        }
        Ok(())
    };
    for number in 0..SAMPLE.min(count) {
        let start = u128::from(number) * u128::from(count) / u128::from(SAMPLE.min(count));
        let start = start as u64;
        add("SELECT length(content), valid_to FROM inode WHERE ino=?1 LIMIT ?2", start, SAMPLE_ROWS)?;
        add(
            "SELECT length(c.data), x.valid_to FROM extent x CROSS JOIN chunk c ON c.id=x.chunk WHERE x.ino=?1 LIMIT ?2",
            start,
            SAMPLE_ROWS,
        )?;
    }
    Ok((live, all))
}

/// Copies a snapshot to a new file and checks the copy.
pub(super) fn backup(store: &SqliteStore, to: &Path) -> Result<()> {
    connection::create_file(to)?;
    let copied = (|| {
        let source = store.reader()?;
        // One snapshot for all steps: without it, each commit would start the copy over.
        source.execute_batch("BEGIN")?;
        ledger::counters(&source)?;
        let mut target = Connection::open(to)?;
        {
            let backup = Backup::new(&source, &mut target)?;
            loop {
                match backup.step(1024)? {
                    StepResult::Done => break,
                    StepResult::More => {}
                    _ => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        }
        source.execute_batch("COMMIT")?;
        store.give_back(source);
        schema::inspect(&target, to)?;
        let verdict: String = target.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt(format!("the copy does not check: {verdict}")));
        }
        target.close().map_err(|(_, error)| StoreError::from(error))
    })();
    if copied.is_err() {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(connection::with_suffix(to, suffix));
        }
    }
    copied
}

/// Ends everything; what is committed is durable and in the database when this returns.
pub(super) fn close(store: &SqliteStore) -> Result<()> {
    if store.closed.swap(true, Ordering::AcqRel) {
        return Err(StoreError::Closed);
    }
    store.snapshot.lock().take();
    store.readers.lock().clear();
    let mut checkpointer = store.checkpointer.lock();
    let mut writer = store.writer.lock();
    checkpointer.take();
    let Some(mut writer) = writer.take() else { return Ok(()) };
    if store.failed.load(Ordering::Acquire) {
        return Err(StoreError::Closed);
    }
    writer.begin()?;
    writer.commit()?;
    store.sync_log()?;
    run_checkpoint(&writer.conn, "TRUNCATE")?;
    writer.conn.close().map_err(|(_, error)| StoreError::from(error))?;
    if let Some(log) = &store.log {
        log.unlock();
    }
    Ok(())
}
