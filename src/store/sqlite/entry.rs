//! Entries of directories.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec;
use super::temporal::{self, Change, Cuts, Decider, Seek};
use crate::store::{EntryRow, EntryVersionRow, Period, Result, StoredRow};
use crate::types::{BranchId, Ino, Kind, Lineage, Name, Seq};

pub(super) const EXACT: &str = "SELECT branch, valid_from, valid_to, ino, kind FROM entry \
     WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from<=?4 ORDER BY valid_from DESC LIMIT 1";

pub(super) const BELOW: &str = "SELECT branch, valid_from, valid_to, ino, kind FROM entry \
     WHERE parent=?1 AND name=?2 AND (branch, valid_from)<=(?3, ?4) ORDER BY branch DESC, valid_from DESC LIMIT 1";

pub(super) const LIST_NOW: &str = "SELECT name, ino, kind FROM entry INDEXED BY entry_now \
     WHERE parent=?1 AND branch=?2 AND valid_to=9223372036854775807 AND ino IS NOT NULL ORDER BY name";

pub(super) const LIST: &str = "SELECT branch, valid_from, valid_to, ino, kind, name FROM entry \
     WHERE parent=?1 AND name>?2 ORDER BY name, branch, valid_from";

pub(super) const VERSIONS: &str = "SELECT branch, valid_from, valid_to, ino, kind FROM entry \
     WHERE parent=?1 AND name=?2 ORDER BY valid_from, branch";

pub(super) const BY_INO: &str = "SELECT branch, valid_from, valid_to, ino, kind, parent, name \
     FROM entry INDEXED BY entry_ino WHERE ino=?1 ORDER BY parent, name, branch, valid_from";

pub(super) const NEWEST: &str = "SELECT valid_from, valid_to FROM entry \
     WHERE parent=?1 AND name=?2 AND branch=?3 ORDER BY valid_from DESC LIMIT 1";

/// Rows of one name that a listing reads before it seeks the deciding one instead.
const SCAN_MAX: usize = 32;

fn read_period(row: &Row<'_>) -> Result<Period> {
    Ok(Period { branch: codec::branch(row, 0)?, from: codec::seq(row, 1)?, to: codec::seq(row, 2)? })
}

fn read_target(row: &Row<'_>) -> Result<Option<(Ino, Kind)>> {
    Ok(match codec::opt_ino(row, 3)? {
        None => None,
        Some(ino) => Some((ino, codec::kind(row, 4)?)),
    })
}

fn resolve(conn: &Connection, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Option<(Ino, Kind)>> {
    temporal::decide(lineage, |seek, branch, cut| {
        let sql = match seek {
            Seek::Exact => EXACT,
            Seek::Below => BELOW,
        };
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![codec::int(parent.0), name, codec::int(branch.0), codec::int(cut.0)])?;
        match rows.next()? {
            None => Ok(None),
            Some(row) => Ok(Some((read_period(row)?, read_target(row)?))),
        }
    })
}

pub(super) fn find(conn: &Connection, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Option<EntryRow>> {
    // What is no name has no entry.
    let Ok(checked) = Name::new(name) else { return Ok(None) };
    let target = resolve(conn, lineage, parent, name)?;
    Ok(target.map(|(ino, kind)| EntryRow { parent, name: checked, ino, kind }))
}

pub(super) fn list(conn: &Connection, lineage: &Lineage, parent: Ino) -> Result<Vec<EntryRow>> {
    if let [own] = &lineage.0[..]
        && own.cut == Seq::MAX
    {
        return list_now(conn, own.branch, parent);
    }
    let cuts = Cuts::new(lineage);
    let mut found = Vec::new();
    let mut after: Vec<u8> = Vec::new();
    // Each round scans names until one has so many rows that seeking is cheaper, and goes on after it.
    while let Some(crowded) = list_round(conn, &cuts, parent, &after, &mut found)? {
        if let Some(entry) = find(conn, lineage, parent, crowded.as_bytes())? {
            found.push(entry);
        }
        after = crowded.as_bytes().to_vec();
    }
    Ok(found)
}

fn list_now(conn: &Connection, branch: BranchId, parent: Ino) -> Result<Vec<EntryRow>> {
    let mut statement = conn.prepare_cached(LIST_NOW)?;
    let mut rows = statement.query((codec::int(parent.0), codec::int(branch.0)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(EntryRow {
            parent,
            name: codec::name(row, 0)?,
            ino: codec::ino(row, 1)?,
            kind: codec::kind(row, 2)?,
        });
    }
    Ok(found)
}

fn list_round(
    conn: &Connection,
    cuts: &Cuts,
    parent: Ino,
    after: &[u8],
    found: &mut Vec<EntryRow>,
) -> Result<Option<Name>> {
    struct Current {
        name: Name,
        rows: usize,
        decider: Decider<Option<(Ino, Kind)>>,
    }
    fn finish(parent: Ino, current: Option<Current>, found: &mut Vec<EntryRow>) {
        if let Some(current) = current
            && let Some(Some((ino, kind))) = current.decider.finish()
        {
            found.push(EntryRow { parent, name: current.name, ino, kind });
        }
    }
    let mut statement = conn.prepare_cached(LIST)?;
    let mut rows = statement.query(params![codec::int(parent.0), after])?;
    let mut current: Option<Current> = None;
    while let Some(row) = rows.next()? {
        let same = match &current {
            Some(current) => row.get_ref(5)?.as_blob()? == current.name.as_bytes(),
            None => false,
        };
        if !same {
            finish(parent, current.take(), found);
        }
        let entry = match &mut current {
            Some(current) => current,
            None => current.insert(Current { name: codec::name(row, 5)?, rows: 0, decider: Decider::new() }),
        };
        entry.rows += 1;
        if entry.rows > SCAN_MAX {
            return Ok(current.map(|current| current.name));
        }
        entry.decider.offer(cuts, read_period(row)?, read_target(row)?);
    }
    finish(parent, current, found);
    Ok(None)
}

pub(super) fn names_of(conn: &Connection, lineage: &Lineage, ino: Ino) -> Result<Vec<EntryRow>> {
    let cuts = Cuts::new(lineage);
    let mut found: Vec<EntryRow> = Vec::new();
    let mut statement = conn.prepare_cached(BY_INO)?;
    let mut rows = statement.query([codec::int(ino.0)])?;
    while let Some(row) = rows.next()? {
        // A row that shows at its own segment's cut may still be hidden by a nearer branch.
        if !cuts.shows(&read_period(row)?) {
            continue;
        }
        let (parent, name) = (codec::ino(row, 5)?, codec::name(row, 6)?);
        if found.last().is_some_and(|last| last.parent == parent && last.name == name) {
            continue;
        }
        let Some((target, kind)) = resolve(conn, lineage, parent, name.as_bytes())? else { continue };
        if target == ino {
            found.push(EntryRow { parent, name, ino, kind });
        }
    }
    Ok(found)
}

pub(super) fn versions(conn: &Connection, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<Vec<EntryVersionRow>> {
    let Ok(checked) = Name::new(name) else { return Ok(Vec::new()) };
    let cuts = Cuts::new(lineage);
    let mut statement = conn.prepare_cached(VERSIONS)?;
    let mut rows = statement.query(params![codec::int(parent.0), name])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let period = read_period(row)?;
        if cuts.holds(&period) {
            found.push(EntryVersionRow { period, parent, name: checked.clone(), ino: codec::opt_ino(row, 3)? });
        }
    }
    Ok(found)
}

pub(super) fn past_names_of(conn: &Connection, lineage: &Lineage, ino: Ino) -> Result<Vec<EntryVersionRow>> {
    let cuts = Cuts::new(lineage);
    let mut statement = conn.prepare_cached(BY_INO)?;
    let mut rows = statement.query([codec::int(ino.0)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let period = read_period(row)?;
        if cuts.holds(&period) {
            found.push(EntryVersionRow {
                period,
                parent: codec::ino(row, 5)?,
                name: codec::name(row, 6)?,
                ino: Some(ino),
            });
        }
    }
    found.sort_by_key(|row| (row.period.from, row.parent));
    Ok(found)
}

/// Applies a change.
pub(super) fn put(
    conn: &Connection,
    branch: BranchId,
    at: Seq,
    parent: Ino,
    name: &Name,
    row: Option<&EntryRow>,
    has_parent: bool,
) -> Result<()> {
    let name = name.as_bytes();
    let key = |from: Seq| (codec::int(parent.0), name, codec::int(branch.0), codec::int(from.0));
    let newest = conn
        .prepare_cached(NEWEST)?
        .query_row(params![codec::int(parent.0), name, codec::int(branch.0)], |row| {
            Ok((Seq(row.get::<_, i64>(0)? as u64), Seq(row.get::<_, i64>(1)? as u64)))
        })
        .optional()?;
    let target = row.map(|row| (codec::int(row.ino.0), row.kind.code())).unzip();
    match temporal::change(newest, at, row.is_none(), has_parent)? {
        Change::Nothing => {}
        Change::Begin => begin(conn, key(at), target)?,
        Change::Close(from) => close(conn, key(from), at)?,
        Change::CloseAndBegin(from) => {
            close(conn, key(from), at)?;
            begin(conn, key(at), target)?;
        }
        Change::Replace => {
            let (parent, name, branch, from) = key(at);
            conn.prepare_cached(
                "UPDATE entry SET ino=?5, kind=?6 WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4",
            )?
            .execute(params![parent, name, branch, from, target.0, target.1])?;
        }
        Change::Remove => {
            conn.prepare_cached("DELETE FROM entry WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4")?
                .execute(key(at))?;
        }
    }
    Ok(())
}

type Key<'a> = (i64, &'a [u8], i64, i64);

fn begin(conn: &Connection, key: Key<'_>, target: (Option<i64>, Option<u8>)) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO entry (parent, name, branch, valid_from, valid_to, ino, kind) \
         VALUES (?1, ?2, ?3, ?4, 9223372036854775807, ?5, ?6)",
    )?
    .execute((key.0, key.1, key.2, key.3, target.0, target.1))?;
    Ok(())
}

fn close(conn: &Connection, key: Key<'_>, at: Seq) -> Result<()> {
    conn.prepare_cached("UPDATE entry SET valid_to=?5 WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4")?
        .execute((key.0, key.1, key.2, key.3, codec::int(at.0)))?;
    Ok(())
}

/// Visits every row, by directory, name, branch and `valid_from`.
pub(super) fn scan(conn: &Connection, visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare(
        "SELECT branch, valid_from, valid_to, ino, kind, parent, name FROM entry \
         ORDER BY parent, name, branch, valid_from",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(StoredRow::Entry(read_period(row)?, codec::ino(row, 5)?, row.get(6)?, read_target(row)?))?;
    }
    Ok(())
}
