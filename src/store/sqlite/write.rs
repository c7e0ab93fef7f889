//! The one writer: applies groups of mutations and commits them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use rusqlite::{Connection, ErrorCode};
use rustc_hash::{FxHashMap, FxHashSet};

use super::chunk::{self, Encoder};
use super::event::Paths;
use super::posting::Postings;
use super::read::Connected;
use super::staged::Staged;
use super::{SqliteStore, connection, entry, event, extent, inode, ledger, lines, process, staged, touched, xattr};
use crate::store::{BranchRow, COMPRESSION, ChunkData, EventRow, Group, Mutation, Result, StoreError, WriteTxn};
use crate::types::{BranchId, ChunkId, Ino, Lineage, Segment, Seq};

/// How long the writer waits in all for a foreign program that got in between two commits.
const FOREIGN_WAIT: Duration = Duration::from_secs(5);

/// The writer's connection and what it remembers.
///
/// `BEGIN IMMEDIATE` is held from one commit to the next, so that another program that wants to
/// write is told that the database is locked, while everybody can read.
pub(super) struct Writer {
    pub(super) conn: Connection,
    /// The store's number of snapshots, which a commit makes another.
    snapshots: Arc<AtomicU64>,
    begun: bool,
    /// SQLite's counter of other connections' commits, as of our last transaction.
    foreign: i64,
    /// How often branches, tags, transactions or merges were changed.
    pub(super) lines: u64,
    /// Parent and base of every branch.
    branches: BTreeMap<BranchId, (Option<BranchId>, Seq)>,
    /// No row of this inode or of one above exists.
    fresh: Ino,
    paths: Paths,
    encoder: Encoder,
    /// The commit whose rows are being written ahead of its event.
    staged: Option<Staged>,
    /// Chunks that were there already when somebody asked for them, since a collection began.
    pub(super) reused: Option<FxHashSet<ChunkId>>,
}

impl Writer {
    pub(super) fn new(conn: Connection, path: &Path, snapshots: Arc<AtomicU64>) -> Result<Writer> {
        let mut writer = Writer {
            conn,
            snapshots,
            begun: false,
            foreign: 0,
            lines: 0,
            branches: BTreeMap::new(),
            fresh: Ino::ROOT,
            paths: Paths::new(),
            encoder: Encoder::new(None),
            staged: None,
            reused: None,
        };
        writer.begin_once().map_err(|error| match error {
            StoreError::Busy(_) => connection::in_use(path),
            other => other,
        })?;
        writer.foreign = writer.data_version()?;
        writer.remember()?;
        let above =
            writer.conn.query_row("SELECT coalesce(max(ino), 0)+1 FROM inode", [], |row| row.get::<_, i64>(0))?;
        writer.fresh = Ino(above as u64).max(ledger::counters(&writer.conn)?.next_ino);
        if writer.staged.is_some() {
            // A crash came in between: nothing of it was ever seen.
            writer.unstage(u32::MAX)?;
            writer.commit()?;
            writer.begin()?;
        }
        Ok(writer)
    }

    fn remember(&mut self) -> Result<()> {
        self.lines += 1;
        self.branches = lines::branches(&self.conn)?.into_iter().map(|row| (row.id, (row.parent, row.base))).collect();
        // Whoever follows parents relies on it that they end.
        if let Some((id, _)) =
            self.branches.iter().find(|(id, (parent, _))| parent.is_some_and(|parent| parent >= **id))
        {
            return Err(StoreError::Corrupt(format!("branch {id} is no younger than its parent; restore a backup")));
        }
        self.paths.clear();
        self.staged = staged::find(&self.conn)?;
        self.encoder = Encoder::new(ledger::setting(&self.conn, COMPRESSION)?.as_deref());
        Ok(())
    }

    fn data_version(&self) -> Result<i64> {
        Ok(self.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
    }

    fn begin_once(&mut self) -> Result<()> {
        if !self.begun {
            self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.begun = true;
        }
        Ok(())
    }

    /// Takes the write lock where it is not held.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another program keeps it, [`StoreError::Corrupt`] when one wrote.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        let start = Instant::now();
        while let Err(error) = self.begin_once() {
            if !matches!(error, StoreError::Busy(_)) || start.elapsed() > FOREIGN_WAIT {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.data_version()? != self.foreign {
            return Err(StoreError::Corrupt(
                "another program wrote to the database while it was in use; check it".to_string(),
            ));
        }
        Ok(())
    }

    /// Ends the transaction, keeping what it changed.
    pub(super) fn commit(&mut self) -> Result<()> {
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        self.snapshots.fetch_add(1, Ordering::Release);
        self.begun = false;
        self.foreign = self.data_version()?;
        Ok(())
    }

    fn roll_back(&mut self) -> Result<()> {
        // SQLite has ended the transaction itself after some errors.
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        self.begun = false;
        self.begin()?;
        self.remember()
    }

    fn has_parent(&self, branch: BranchId) -> Result<bool> {
        match self.branches.get(&branch) {
            Some((parent, _)) => Ok(parent.is_some()),
            None => Err(StoreError::Conflict(format!("branch {branch} does not exist"))),
        }
    }

    /// The lineage of a branch's present.
    fn lineage(&self, branch: BranchId) -> Lineage {
        let mut segments = vec![Segment { branch, cut: Seq::MAX }];
        let (mut branch, mut cut) = (branch, Seq::MAX);
        while let Some((Some(parent), base)) = self.branches.get(&branch) {
            (branch, cut) = (*parent, cut.min(*base));
            segments.push(Segment { branch, cut });
        }
        Lineage(Arc::from(segments))
    }

    fn apply(&mut self, group: &Group) -> Result<()> {
        let events: FxHashMap<(BranchId, Seq), &EventRow> = group
            .mutations
            .iter()
            .filter_map(|mutation| match mutation {
                Mutation::Event(event) => Some(((event.branch, event.seq), &**event)),
                _ => None,
            })
            .collect();
        let mut postings = Postings::default();
        for mutation in &group.mutations {
            if let Some((branch, at)) = mutation.place() {
                let staged = self.staged.is_some_and(|staged| (staged.branch, staged.at) == (branch, at));
                if let Some(other) = self.staged
                    && other.branch == branch
                    && at < other.at
                {
                    staged::yield_key(&self.conn, &other, mutation)?;
                }
                // What is staged is found by its notes, should it have to be taken away.
                if (staged || !group.unrecorded)
                    && let Some((ino, name)) = touched::beyond(mutation, events.get(&(branch, at)).copied())
                {
                    touched::note(&self.conn, branch, at, ino, name)?;
                }
            }
            self.lines += u64::from(matches!(
                mutation,
                Mutation::Branch(_)
                    | Mutation::Tag(_)
                    | Mutation::TagRemoved(_)
                    | Mutation::Txn(_)
                    | Mutation::Merge(_)
            ));
            self.apply_one(mutation, &mut postings)?;
        }
        postings.write(&self.conn)?;
        if self.staged.is_some_and(|staged| staged.at <= group.counters.seq) {
            staged::end(&self.conn)?;
            self.staged = None;
        }
        ledger::put_counters(&self.conn, &group.counters)
    }

    /// Notes that rows are written ahead of an event.
    fn stage(&mut self, branch: BranchId, at: Seq) -> Result<()> {
        let staged = Staged { branch, at };
        match self.staged {
            Some(known) if known == staged => Ok(()),
            Some(known) => Err(StoreError::Conflict(format!("rows of e{at} while those of e{} are written", known.at))),
            None => {
                staged::begin(&self.conn, &staged)?;
                self.staged = Some(staged);
                Ok(())
            }
        }
    }

    /// Takes up to so many keys of what is staged away.
    fn unstage(&mut self, keys: u32) -> Result<()> {
        if let Some(staged) = self.staged
            && staged::take(&self.conn, &staged, keys)?
        {
            staged::end(&self.conn)?;
            self.staged = None;
        }
        Ok(())
    }

    fn apply_one(&mut self, mutation: &Mutation, postings: &mut Postings) -> Result<()> {
        let conn = &self.conn;
        match mutation {
            Mutation::Inode { branch, at, ino, row } => {
                let fresh = *ino >= self.fresh;
                inode::put(conn, *branch, *at, *ino, row.as_deref(), self.has_parent(*branch)?, fresh)?;
                self.fresh = self.fresh.max(Ino(ino.0 + 1));
                Ok(())
            }
            Mutation::Entry { branch, at, parent, name, row } => {
                entry::put(conn, *branch, *at, *parent, name, row.as_ref(), self.has_parent(*branch)?)
            }
            Mutation::Xattr { branch, at, ino, name, value } => {
                xattr::put(conn, *branch, *at, *ino, name, value.as_deref(), self.has_parent(*branch)?)
            }
            Mutation::Extent { branch, at, ino, index, data } => {
                let chunk = match data {
                    None => None,
                    Some(ChunkData::Stored(id)) => {
                        chunk::require(conn, *id)?;
                        Some(*id)
                    }
                    Some(ChunkData::Bytes { hash, data, changed }) => {
                        let base = extent::present(conn, &self.lineage(*branch), *ino, *index)?;
                        Some(self.encoder.put(conn, hash, data, base.map(|base| (base, changed.as_deref())))?)
                    }
                };
                if let (Some(id), Some(reused)) = (chunk, &mut self.reused) {
                    reused.insert(id);
                }
                extent::put(conn, *branch, *at, *ino, *index, chunk, self.has_parent(*branch)?)
            }
            Mutation::ExtentsFrom { branch, at, ino, index } => {
                let lineage = self.lineage(*branch);
                extent::put_from(conn, &lineage, *branch, *at, *ino, *index, self.has_parent(*branch)?)
            }
            Mutation::Orphan { branch, ino, open } => inode::put_orphan(conn, *branch, *ino, *open),
            Mutation::Event(row) => event::put(conn, &mut self.paths, postings, row),
            Mutation::Process(row) => process::put(conn, row),
            Mutation::Branch(row) => {
                lines::put_branch(conn, row)?;
                let BranchRow { id, parent, base, .. } = **row;
                self.branches.insert(id, (parent, base));
                Ok(())
            }
            Mutation::Tag(row) => lines::put_tag(conn, row),
            Mutation::TagRemoved(name) => lines::remove_tag(conn, name),
            Mutation::Txn(row) => lines::put_txn(conn, row),
            Mutation::Merge(row) => lines::put_merge(conn, row),
            Mutation::Digest(row) => ledger::put_digest(conn, row),
            Mutation::Setting(key, value) => {
                if key == COMPRESSION {
                    self.encoder = Encoder::new(value.as_deref());
                }
                ledger::put_setting(conn, key, value.as_deref())
            }
            Mutation::Stage { branch, at } => self.stage(*branch, *at),
            Mutation::Unstage { keys } => self.unstage(*keys),
        }
    }
}

/// The write transaction that a caller holds.
pub(super) struct SqliteWrite<'s> {
    store: &'s SqliteStore,
    writer: MutexGuard<'s, Option<Writer>>,
    /// Whether anything has to be undone when this is dropped.
    dirty: bool,
}

impl<'s> SqliteWrite<'s> {
    pub(super) fn begin(store: &'s SqliteStore, mut writer: MutexGuard<'s, Option<Writer>>) -> Result<SqliteWrite<'s>> {
        match writer.as_mut() {
            None => Err(StoreError::Closed),
            Some(open) => {
                open.begin()?;
                Ok(SqliteWrite { store, writer, dirty: false })
            }
        }
    }
}

impl SqliteWrite<'_> {
    /// The writer itself, for what is no group.
    pub(super) fn writer(&mut self) -> Result<&mut Writer> {
        self.dirty = true;
        self.writer.as_mut().ok_or(StoreError::Closed)
    }
}

impl Connected for SqliteWrite<'_> {
    fn conn(&self) -> Result<&Connection> {
        self.writer.as_ref().map(|writer| &writer.conn).ok_or(StoreError::Closed)
    }

    fn verifying(&self) -> bool {
        self.store.verifying.load(Ordering::Acquire)
    }

    fn hidden(&self) -> Option<Staged> {
        None
    }
}

impl WriteTxn for SqliteWrite<'_> {
    fn apply(&mut self, group: &Group) -> Result<()> {
        let store = self.store;
        let writer = self.writer()?;
        writer.apply(group)?;
        // Readers must know before they can see the rows.
        if writer.staged.is_some() {
            store.stagings.begin();
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>, durable: bool) -> Result<()> {
        let store = self.store;
        let writer = self.writer.as_mut().ok_or(StoreError::Closed)?;
        if let Err(error) = writer.commit() {
            // A full disk stops before the commit record; after anything else nobody knows.
            if !matches!(error, StoreError::Full | StoreError::Busy(_)) {
                store.fail();
            }
            return Err(error);
        }
        self.dirty = false;
        if writer.staged.is_none() {
            store.stagings.end();
        }
        // The lock is taken again at once; if that fails, the next writer tries again and reports it.
        if let Err(error) = writer.begin() {
            log::warn!("after a commit: {error}");
        }
        drop(self);
        if durable { store.sync_log() } else { Ok(()) }
    }
}

impl Drop for SqliteWrite<'_> {
    fn drop(&mut self) {
        if self.dirty
            && let Some(writer) = self.writer.as_mut()
            && let Err(error) = writer.roll_back()
        {
            log::error!("undoing a group: {error}");
            self.store.fail();
        }
    }
}

/// Tells whether an error says that somebody holds a lock.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
