//! What a branch changed in a stretch of time, at a cost that follows the change.
//!
//! An event says which inodes and names it is about; what a change set touches beyond that has rows
//! in `change`, written by the writer as it applies a group. The candidates that both give are then
//! looked up in the temporal tables.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Rows, params};

use super::posting::{self, By};
use super::{codec, entry, extent, inode, prune, xattr};
use crate::store::{EventRow, Mutation, Period, Result, StoredRow, Touched};
use crate::types::{BranchId, Ino, Name, Op, Seq};

pub(super) const EVENTS: &str = "SELECT op, ino, ino2, parent, name, parent2, name2 FROM event \
     WHERE branch=?1 AND seq>=?2 AND seq<=?3";

pub(super) const CHANGES: &str = "SELECT ino, name FROM change WHERE branch=?1 AND seq>?2 AND seq<=?3";

pub(super) const INODE: &str = "SELECT EXISTS (SELECT 1 FROM inode WHERE ino=?1 AND branch=?2 \
     AND ((valid_from>?3 AND valid_from<=?4) OR (valid_to>?3 AND valid_to<=?4)))";

pub(super) const ENTRY: &str = "SELECT EXISTS (SELECT 1 FROM entry WHERE parent=?1 AND name=?5 AND branch=?2 \
     AND ((valid_from>?3 AND valid_from<=?4) OR (valid_to>?3 AND valid_to<=?4)))";

const XATTR: &str = "SELECT DISTINCT name FROM xattr WHERE ino=?1 AND branch=?2 \
     AND ((valid_from>?3 AND valid_from<=?4) OR (valid_to>?3 AND valid_to<=?4)) ORDER BY name";

const EXTENT: &str = "SELECT DISTINCT idx FROM extent WHERE ino=?1 AND branch=?2 \
     AND ((valid_from>?3 AND valid_from<=?4) OR (valid_to>?3 AND valid_to<=?4)) ORDER BY idx";

fn changes_content(op: Op) -> bool {
    matches!(op, Op::Write | Op::Truncate | Op::Fallocate | Op::Copy)
}

/// What a mutation touches beyond what its event says: an inode (without a name), or an entry.
pub(super) fn beyond<'a>(mutation: &'a Mutation, event: Option<&EventRow>) -> Option<(Ino, &'a [u8])> {
    let about = |ino: Ino, event: &EventRow| event.ino == Some(ino) || event.ino2 == Some(ino);
    match mutation {
        Mutation::Inode { ino, .. } => {
            let said = event
                .is_some_and(|event| about(*ino, event) || event.parent == Some(*ino) || event.parent2 == Some(*ino));
            (!said).then_some((*ino, &[]))
        }
        Mutation::Entry { parent, name, .. } => {
            let said = event.is_some_and(|event| {
                let is = |dir: Option<Ino>, leaf: &Option<Vec<u8>>| {
                    dir == Some(*parent) && leaf.as_deref() == Some(name.as_bytes())
                };
                is(event.parent, &event.name) || is(event.parent2, &event.name2)
            });
            (!said).then_some((*parent, name.as_bytes()))
        }
        Mutation::Xattr { ino, .. } => (!event.is_some_and(|event| about(*ino, event))).then_some((*ino, &[])),
        Mutation::Extent { ino, .. } | Mutation::ExtentsFrom { ino, .. } => {
            let said = event.is_some_and(|event| about(*ino, event) && changes_content(event.op));
            (!said).then_some((*ino, &[]))
        }
        Mutation::Orphan { .. }
        | Mutation::Event(_)
        | Mutation::Process(_)
        | Mutation::Branch(_)
        | Mutation::Tag(_)
        | Mutation::TagRemoved(_)
        | Mutation::Txn(_)
        | Mutation::Merge(_)
        | Mutation::Digest(_)
        | Mutation::Setting(..)
        | Mutation::Stage { .. }
        | Mutation::Unstage { .. } => None,
    }
}

pub(super) fn note(conn: &Connection, branch: BranchId, at: Seq, ino: Ino, name: &[u8]) -> Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO change (branch, seq, ino, name) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![codec::int(branch.0), codec::int(at.0), codec::int(ino.0), name])?;
    Ok(())
}

/// What may have changed: inodes, with whether their content may have, and entries.
#[derive(Default)]
struct Candidates {
    inodes: BTreeMap<Ino, bool>,
    entries: BTreeSet<(Ino, Name)>,
}

impl Candidates {
    fn inode(&mut self, ino: Ino, content: bool) {
        *self.inodes.entry(ino).or_default() |= content;
    }

    fn entry(&mut self, parent: Ino, name: &[u8]) {
        self.inode(parent, false);
        if let Ok(name) = Name::new(name) {
            self.entries.insert((parent, name));
        }
    }
}

pub(super) fn touched(conn: &Connection, branch: BranchId, from: Seq, to: Seq) -> Result<Touched> {
    if from < prune::pruned_before(conn)? {
        return scan(conn, branch, from, to);
    }
    let mut candidates = Candidates::default();
    let stretch = (codec::int(branch.0), codec::int(from.0), codec::int(to.0));
    let stretches = posting::find(conn, By::Branch, [(stretch.0, None)], stretch.1, stretch.2)?;
    let mut statement = conn.prepare_cached(EVENTS)?;
    for (first, last) in stretches.0 {
        said(&mut candidates, statement.query((stretch.0, first, last))?)?;
    }
    let mut statement = conn.prepare_cached(CHANGES)?;
    let mut rows = statement.query(stretch)?;
    while let Some(row) = rows.next()? {
        let ino = codec::ino(row, 0)?;
        match row.get_ref(1)?.as_blob()? {
            [] => candidates.inode(ino, true),
            name => candidates.entry(ino, name),
        }
    }
    look_up(conn, &candidates, branch, from, to)
}

/// Takes what events say themselves.
fn said(candidates: &mut Candidates, mut rows: Rows<'_>) -> Result<()> {
    while let Some(row) = rows.next()? {
        let content = Op::from_code(row.get(0)?).is_some_and(changes_content);
        for column in [1, 2] {
            if let Some(ino) = codec::opt_ino(row, column)? {
                candidates.inode(ino, content);
            }
        }
        for column in [3, 5] {
            if let Some(parent) = codec::opt_ino(row, column)? {
                candidates.inode(parent, false);
                if let Some(name) = codec::opt_bytes(row, column + 1)? {
                    candidates.entry(parent, &name);
                }
            }
        }
    }
    Ok(())
}

/// Reads the tables themselves, where the events of the stretch were pruned.
fn scan(conn: &Connection, branch: BranchId, from: Seq, to: Seq) -> Result<Touched> {
    let within = |at: Seq| from < at && at <= to;
    let changed = |period: Period| period.branch == branch && (within(period.from) || within(period.to));
    let mut touched = Touched::default();
    let mut visit = |row: StoredRow| -> Result<()> {
        match row {
            StoredRow::Inode(period, ino, _) if changed(period) => touched.inodes.push(ino),
            StoredRow::Entry(period, parent, name, _) if changed(period) => {
                touched.entries.extend(Name::new(&name).ok().map(|name| (parent, name)));
            }
            StoredRow::Xattr(period, ino, name, _) if changed(period) => touched.xattrs.push((ino, name)),
            StoredRow::Extent(period, ino, index, _) if changed(period) => touched.extents.push((ino, index)),
            StoredRow::Inode(..) | StoredRow::Entry(..) | StoredRow::Xattr(..) | StoredRow::Extent(..) => {}
        }
        Ok(())
    };
    inode::scan(conn, &mut visit)?;
    entry::scan(conn, &mut visit)?;
    xattr::scan(conn, &mut visit)?;
    extent::scan(conn, &mut visit)?;
    touched.inodes.dedup();
    touched.entries.dedup();
    touched.xattrs.dedup();
    touched.extents.dedup();
    Ok(touched)
}

fn look_up(conn: &Connection, candidates: &Candidates, branch: BranchId, from: Seq, to: Seq) -> Result<Touched> {
    let mut touched = Touched::default();
    for (ino, content) in &candidates.inodes {
        let key = (codec::int(ino.0), codec::int(branch.0), codec::int(from.0), codec::int(to.0));
        if conn.prepare_cached(INODE)?.query_row(key, |row| row.get(0))? {
            touched.inodes.push(*ino);
        }
        let mut statement = conn.prepare_cached(XATTR)?;
        let mut rows = statement.query(key)?;
        while let Some(row) = rows.next()? {
            touched.xattrs.push((*ino, row.get(0)?));
        }
        if *content {
            let mut statement = conn.prepare_cached(EXTENT)?;
            let mut rows = statement.query(key)?;
            while let Some(row) = rows.next()? {
                touched.extents.push((*ino, codec::uint(row, 0)?));
            }
        }
    }
    for (parent, name) in &candidates.entries {
        let key =
            params![codec::int(parent.0), codec::int(branch.0), codec::int(from.0), codec::int(to.0), name.as_bytes()];
        if conn.prepare_cached(ENTRY)?.query_row(key, |row| row.get(0))? {
            touched.entries.push((*parent, name.clone()));
        }
    }
    Ok(touched)
}
