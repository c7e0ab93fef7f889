//! Rows that are written ahead of their event, for commits too large for one group.
//!
//! A staged row begins in the future of its branch, and what it replaces ends there. Readers of the present look just before that point until
//! the counters reach it, which makes all of it visible at once; or it is taken away again.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, params};

use super::codec;
use crate::store::{Mutation, Period, Result, StoredRow};
use crate::types::{BranchId, Ino, Lineage, Segment, Seq};

/// The commit that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    /// The branch that it will change.
    pub branch: BranchId,
    /// The event that it will be.
    pub at: Seq,
}

impl Staged {
    /// The last point before it.
    fn before(&self) -> Seq {
        Seq(self.at.0.saturating_sub(1))
    }

    /// The lineage in which the present of its branch is the one before it.
    pub(super) fn hide(&self, lineage: &Lineage) -> Lineage {
        let hidden = |segment: &Segment| Segment { cut: self.cut(segment.branch, segment.cut), ..*segment };
        Lineage(lineage.0.iter().map(hidden).collect())
    }

    /// The point at which a branch is to be read where its present was asked for.
    pub(super) fn cut(&self, branch: BranchId, cut: Seq) -> Seq {
        if branch == self.branch && cut == Seq::MAX { self.before() } else { cut }
    }

    /// A row's period as if nothing was staged; `None` for a row that is.
    pub(super) fn period(&self, period: Period) -> Option<Period> {
        if period.branch != self.branch {
            return Some(period);
        }
        let to = if period.to == self.at { Seq::MAX } else { period.to };
        (period.from < self.at).then_some(Period { to, ..period })
    }

    /// A row as if nothing was staged.
    pub(super) fn row(&self, row: StoredRow) -> Option<StoredRow> {
        Some(match row {
            StoredRow::Inode(period, ino, row) => StoredRow::Inode(self.period(period)?, ino, row),
            StoredRow::Entry(period, parent, name, to) => StoredRow::Entry(self.period(period)?, parent, name, to),
            StoredRow::Xattr(period, ino, name, value) => StoredRow::Xattr(self.period(period)?, ino, name, value),
            StoredRow::Extent(period, ino, index, chunk) => StoredRow::Extent(self.period(period)?, ino, index, chunk),
        })
    }
}

/// How often rows began to be staged, and ceased to be: odd from before the first of them is committed until after the
/// commit that shows or removes the last. Only the writer changes it.
#[derive(Debug, Default)]
pub(super) struct Stagings(AtomicU64);

/// What [`Stagings`] were at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StagingsState(u64);

impl Stagings {
    pub(super) fn state(&self) -> StagingsState {
        StagingsState(self.0.load(Ordering::SeqCst))
    }

    pub(super) fn begin(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        if self.0.load(Ordering::SeqCst) % 2 == 1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl StagingsState {
    /// Whether no snapshot between this moment and a later one can hold a staged row.
    pub(super) fn is_none_since(self, later: StagingsState) -> bool {
        self == later && self.0.is_multiple_of(2)
    }
}

pub(super) fn find(conn: &Connection) -> Result<Option<Staged>> {
    let mut statement = conn.prepare_cached("SELECT branch, seq FROM staged")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Staged { branch: codec::branch(row, 0)?, at: codec::seq(row, 1)? }))
}

/// As [`find`], in a database that may be of a version without such rows.
pub(super) fn of_version(conn: &Connection) -> Result<Option<Staged>> {
    let known = conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name='staged'")?.exists([])?;
    if known { find(conn) } else { Ok(None) }
}

pub(super) fn begin(conn: &Connection, staged: &Staged) -> Result<()> {
    conn.prepare_cached("REPLACE INTO staged (branch, seq) VALUES (?1, ?2)")?
        .execute((codec::int(staged.branch.0), codec::int(staged.at.0)))?;
    Ok(())
}

pub(super) fn end(conn: &Connection) -> Result<()> {
    conn.prepare_cached("DELETE FROM staged")?.execute([])?;
    Ok(())
}

/// Takes the staged row of a key away that somebody else changes first: that commit will fail.
pub(super) fn yield_key(conn: &Connection, staged: &Staged, mutation: &Mutation) -> Result<()> {
    match mutation {
        Mutation::Entry { parent, name, .. } if is_noted(conn, staged, *parent, name.as_bytes())? => {
            take_entry(conn, staged, *parent, name.as_bytes())
        }
        Mutation::Inode { ino, .. }
        | Mutation::Xattr { ino, .. }
        | Mutation::Extent { ino, .. }
        | Mutation::ExtentsFrom { ino, .. }
            if is_noted(conn, staged, *ino, b"")? =>
        {
            take_inode(conn, staged, *ino)
        }
        _ => Ok(()),
    }
}

fn is_noted(conn: &Connection, staged: &Staged, ino: Ino, name: &[u8]) -> Result<bool> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM change WHERE branch=?1 AND seq=?2 AND ino=?3 AND name=?4")?
        .exists(params![codec::int(staged.branch.0), codec::int(staged.at.0), codec::int(ino.0), name])?)
}

/// Takes up to so many keys away; returns whether none is left.
pub(super) fn take(conn: &Connection, staged: &Staged, keys: u32) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT ino, name FROM change WHERE branch=?1 AND seq=?2 LIMIT ?3")?;
    let mut rows = statement.query((codec::int(staged.branch.0), codec::int(staged.at.0), keys))?;
    let mut noted = Vec::new();
    while let Some(row) = rows.next()? {
        noted.push((codec::ino(row, 0)?, row.get::<_, Vec<u8>>(1)?));
    }
    for (ino, name) in &noted {
        if name.is_empty() {
            take_inode(conn, staged, *ino)?;
        } else {
            take_entry(conn, staged, *ino, name)?;
        }
        conn.prepare_cached("DELETE FROM change WHERE branch=?1 AND seq=?2 AND ino=?3 AND name=?4")?
            .execute(params![codec::int(staged.branch.0), codec::int(staged.at.0), codec::int(ino.0), name])?;
    }
    Ok(noted.len() < keys as usize)
}

fn take_inode(conn: &Connection, staged: &Staged, ino: Ino) -> Result<()> {
    let key = (codec::int(ino.0), codec::int(staged.branch.0), codec::int(staged.at.0));
    for sql in [
        "DELETE FROM inode WHERE ino=?1 AND branch=?2 AND valid_from=?3",
        "UPDATE inode SET valid_to=9223372036854775807 WHERE ino=?1 AND branch=?2 AND valid_to=?3 AND valid_from= \
             (SELECT max(valid_from) FROM inode WHERE ino=?1 AND branch=?2 AND valid_from<?3)",
        "DELETE FROM xattr WHERE ino=?1 AND branch=?2 AND valid_from=?3",
        "UPDATE xattr SET valid_to=9223372036854775807 WHERE ino=?1 AND branch=?2 AND valid_to=?3",
        "DELETE FROM extent WHERE ino=?1 AND branch=?2 AND valid_from=?3",
        "UPDATE extent SET valid_to=9223372036854775807 WHERE ino=?1 AND branch=?2 AND valid_to=?3",
    ] {
        conn.prepare_cached(sql)?.execute(key)?;
    }
    Ok(())
}

fn take_entry(conn: &Connection, staged: &Staged, parent: Ino, name: &[u8]) -> Result<()> {
    for sql in [
        "DELETE FROM entry WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4",
        "UPDATE entry SET valid_to=9223372036854775807 WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_to=?4 \
             AND valid_from= \
             (SELECT max(valid_from) FROM entry WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from<?4)",
    ] {
        let (branch, at) = (codec::int(staged.branch.0), codec::int(staged.at.0));
        conn.prepare_cached(sql)?.execute(params![codec::int(parent.0), name, branch, at])?;
    }
    Ok(())
}
