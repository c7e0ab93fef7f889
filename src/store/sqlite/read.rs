//! Reads: one implementation for snapshots and for the writer's own view.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::staged::Staged;
use super::{SqliteStore, chunk, entry, event, extent, inode, ledger, lines, process, staged, touched, xattr};
use crate::store::{
    BranchRow, ChunkHash, Counters, DigestRow, EntryRow, EntryVersionRow, EventFilter, EventRow, ExtentRow, InodeRow,
    MergeRow, Period, ProcessKey, ProcessRow, ReadTxn, Result, StoreError, StoredRow, TagRow, Touched, TxnRow,
    VersionRow,
};
use crate::types::{BranchId, ChunkId, Ino, Lineage, ProcId, Seq, Timestamp};

/// What reads from a connection inside a transaction.
pub(super) trait Connected {
    /// The connection.
    fn conn(&self) -> Result<&Connection>;

    /// Whether content is compared with its hash.
    fn verifying(&self) -> bool;

    /// The commit that is being written and not to be seen yet.
    fn hidden(&self) -> Option<Staged>;

    /// The lineage that is to be read where this one was asked for.
    fn seen<'l>(&self, lineage: &'l Lineage) -> Cow<'l, Lineage> {
        match self.hidden() {
            Some(staged) if lineage.0.iter().any(|s| staged.cut(s.branch, s.cut) != s.cut) => {
                Cow::Owned(staged.hide(lineage))
            }
            _ => Cow::Borrowed(lineage),
        }
    }
}

/// A snapshot that is kept for the next reader.
pub(super) struct Snapshot {
    pub(super) conn: Connection,
    /// The store's number of snapshots when it began.
    number: u64,
    hidden: Option<Staged>,
}

/// A snapshot, on a connection of the store's pool.
pub(super) struct SqliteRead<'s> {
    store: &'s SqliteStore,
    conn: Option<Connection>,
    /// The store's number of snapshots when it began.
    number: u64,
    hidden: Option<Staged>,
}

impl<'s> SqliteRead<'s> {
    /// Begins a snapshot of what is committed now, or goes on with one that is still that.
    pub(super) fn begin(store: &'s SqliteStore) -> Result<SqliteRead<'s>> {
        let number = store.snapshots.load(Ordering::Acquire);
        if let Some(kept) = store.snapshot.lock().take() {
            if kept.number == number {
                return Ok(SqliteRead { store, conn: Some(kept.conn), number, hidden: kept.hidden });
            }
            end(store, kept.conn);
        }
        let before = store.stagings.state();
        let conn = store.reader()?;
        conn.prepare_cached("BEGIN")?.execute([])?;
        let mut this = SqliteRead { store, conn: Some(conn), number, hidden: None };
        // SQLite takes the snapshot at the first read.
        let counters = ledger::counters(this.conn()?)?;
        // Where somebody else writes, nobody tells.
        let quiet = store.is_written_here() && before.is_none_since(store.stagings.state());
        let staged = if quiet { None } else { staged::of_version(this.conn()?)? };
        this.hidden = staged.filter(|staged| counters.seq < staged.at);
        Ok(this)
    }
}

/// Ends a snapshot; its connection may go back to the pool.
pub(super) fn end(store: &SqliteStore, conn: Connection) {
    if conn.prepare_cached("COMMIT").and_then(|mut statement| statement.execute([])).is_ok() {
        store.give_back(conn);
    }
}

impl Drop for SqliteRead<'_> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if self.store.snapshots.load(Ordering::Acquire) != self.number || !self.store.is_written_here() {
            return end(self.store, conn);
        }
        let kept = Snapshot { conn, number: self.number, hidden: self.hidden };
        if let Some(other) = self.store.snapshot.lock().replace(kept) {
            end(self.store, other.conn);
        }
    }
}

impl Connected for SqliteRead<'_> {
    fn conn(&self) -> Result<&Connection> {
        self.conn.as_ref().ok_or(StoreError::Closed)
    }

    fn verifying(&self) -> bool {
        self.store.verifying.load(Ordering::Acquire)
    }

    fn hidden(&self) -> Option<Staged> {
        self.hidden
    }
}

/// Makes a period what it is without a staged commit; `false` where there is none then.
fn show(staged: &Staged, period: &mut Period) -> bool {
    staged.period(*period).map(|shown| *period = shown).is_some()
}

impl<T: Connected> ReadTxn for T {
    fn counters(&self) -> Result<Counters> {
        ledger::counters(self.conn()?)
    }

    fn is_staging(&self) -> Result<bool> {
        Ok(staged::of_version(self.conn()?)?.is_some())
    }

    fn inode(&self, lineage: &Lineage, ino: Ino) -> Result<Option<InodeRow>> {
        inode::find(self.conn()?, &self.seen(lineage), ino)
    }

    fn entry(&self, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Option<EntryRow>> {
        entry::find(self.conn()?, &self.seen(lineage), parent, name)
    }

    fn entries(&self, lineage: &Lineage, parent: Ino) -> Result<Vec<EntryRow>> {
        entry::list(self.conn()?, &self.seen(lineage), parent)
    }

    fn names_of(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<EntryRow>> {
        entry::names_of(self.conn()?, &self.seen(lineage), ino)
    }

    fn xattrs(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<(Vec<u8>, Arc<[u8]>)>> {
        xattr::list(self.conn()?, &self.seen(lineage), ino)
    }

    fn extents(&self, lineage: &Lineage, ino: Ino, data_from: Seq, range: Range<u64>) -> Result<Vec<ExtentRow>> {
        extent::list(self.conn()?, &self.seen(lineage), ino, data_from, range)
    }

    fn chunk(&self, id: ChunkId) -> Result<Arc<[u8]>> {
        if self.verifying() { chunk::read_verified(self.conn()?, id) } else { chunk::read(self.conn()?, id) }
    }

    fn chunk_hash(&self, id: ChunkId) -> Result<ChunkHash> {
        chunk::hash(self.conn()?, id)
    }

    fn orphans(&self) -> Result<Vec<(BranchId, Ino)>> {
        inode::orphans(self.conn()?)
    }

    fn branches(&self) -> Result<Vec<BranchRow>> {
        lines::branches(self.conn()?)
    }

    fn tags(&self) -> Result<Vec<TagRow>> {
        lines::tags(self.conn()?)
    }

    fn transactions(&self) -> Result<Vec<TxnRow>> {
        lines::transactions(self.conn()?)
    }

    fn merges(&self, target: BranchId) -> Result<Vec<MergeRow>> {
        lines::merges(self.conn()?, target)
    }

    fn event(&self, seq: Seq) -> Result<Option<EventRow>> {
        event::find(self.conn()?, seq)
    }

    fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>> {
        event::list(self.conn()?, filter)
    }

    fn seq_at(&self, at: Timestamp) -> Result<Option<(Seq, Timestamp)>> {
        event::seq_at(self.conn()?, at)
    }

    fn versions(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<VersionRow>> {
        let mut versions = inode::versions(self.conn()?, &self.seen(lineage), ino)?;
        if let Some(staged) = self.hidden() {
            versions.retain_mut(|version| show(&staged, &mut version.period));
        }
        Ok(versions)
    }

    fn entry_versions(&self, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Vec<EntryVersionRow>> {
        let mut versions = entry::versions(self.conn()?, &self.seen(lineage), parent, name)?;
        if let Some(staged) = self.hidden() {
            versions.retain_mut(|version| show(&staged, &mut version.period));
        }
        Ok(versions)
    }

    fn past_names_of(&self, lineage: &Lineage, ino: Ino) -> Result<Vec<EntryVersionRow>> {
        let mut versions = entry::past_names_of(self.conn()?, &self.seen(lineage), ino)?;
        if let Some(staged) = self.hidden() {
            versions.retain_mut(|version| show(&staged, &mut version.period));
        }
        Ok(versions)
    }

    fn process(&self, id: ProcId) -> Result<Option<ProcessRow>> {
        process::find(self.conn()?, id)
    }

    fn processes(&self, range: Range<ProcId>) -> Result<Vec<ProcessRow>> {
        process::list(self.conn()?, range)
    }

    fn processes_by(&self, key: &ProcessKey) -> Result<Vec<ProcessRow>> {
        process::find_by(self.conn()?, key)
    }

    fn digests(&self, from: u64) -> Result<Vec<DigestRow>> {
        ledger::digests(self.conn()?, from)
    }

    fn scan_rows(&self, visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> Result<()> {
        let (conn, hidden) = (self.conn()?, self.hidden());
        let mut visit = |row: StoredRow| match hidden {
            None => visit(row),
            Some(staged) => staged.row(row).map_or(Ok(()), &mut *visit),
        };
        inode::scan(conn, &mut visit)?;
        entry::scan(conn, &mut visit)?;
        xattr::scan(conn, &mut visit)?;
        extent::scan(conn, &mut visit)
    }

    fn scan_chunks(&self, visit: &mut dyn FnMut(ChunkId, ChunkHash, &[u8]) -> Result<()>) -> Result<()> {
        chunk::scan(self.conn()?, visit)
    }

    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>> {
        ledger::setting(self.conn()?, key)
    }

    fn touched(&self, branch: BranchId, from: Seq, to: Seq) -> Result<Touched> {
        let to = self.hidden().map_or(to, |staged| staged.cut(branch, to));
        touched::touched(self.conn()?, branch, from, to)
    }
}
