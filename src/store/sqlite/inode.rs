//! Versions of inodes, and the list of those that are open without a name.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec;
use super::temporal::{self, Change, Cuts, Seek};
use crate::store::{Content, InodeRow, Period, Result, StoredRow, VersionRow};
use crate::types::{BranchId, Ino, Kind, Lineage, ProcId, Seq, Timestamp};

macro_rules! columns {
    () => {
        "branch, valid_from, valid_to, kind, perm, uid, gid, nlink, size, chunks, rdev, \
         atime, mtime, ctime, btime, data_from, content_seq, attr_seq, predecessor, process, content"
    };
}

pub(super) const EXACT: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM inode WHERE ino=?1 AND branch=?2 AND valid_from<=?3 ORDER BY valid_from DESC LIMIT 1"
);

pub(super) const BELOW: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM inode WHERE ino=?1 AND (branch, valid_from)<=(?2, ?3) ORDER BY branch DESC, valid_from DESC LIMIT 1"
);

const VERSIONS: &str = concat!("SELECT ", columns!(), " FROM inode WHERE ino=?1 ORDER BY valid_from");

pub(super) const NEWEST: &str =
    "SELECT valid_from, valid_to FROM inode WHERE ino=?1 AND branch=?2 ORDER BY valid_from DESC LIMIT 1";

fn read_version(row: &Row<'_>) -> Result<(Period, Option<InodeRow>)> {
    let period = Period { branch: codec::branch(row, 0)?, from: codec::seq(row, 1)?, to: codec::seq(row, 2)? };
    if row.get_ref(3)? == rusqlite::types::ValueRef::Null {
        return Ok((period, None));
    }
    let mtime = codec::time(row, 12)?;
    let inode = InodeRow {
        kind: codec::kind(row, 3)?,
        perm: row.get(4)?,
        uid: codec::small(row, 5)?,
        gid: codec::small(row, 6)?,
        nlink: codec::small(row, 7)?,
        size: codec::uint(row, 8)?,
        chunks: codec::uint(row, 9)?,
        rdev: codec::small(row, 10)?,
        atime: codec::opt_time(row, 11)?.unwrap_or(mtime),
        mtime,
        ctime: codec::opt_time(row, 13)?.unwrap_or(mtime),
        btime: codec::opt_time(row, 14)?.unwrap_or(mtime),
        data_from: codec::seq(row, 15)?,
        content_seq: codec::seq(row, 16)?,
        attr_seq: codec::seq(row, 17)?,
        predecessor: codec::opt_ino(row, 18)?,
        process: codec::opt_uint(row, 19)?.map(ProcId).unwrap_or_default(),
        content: codec::opt_shared(row, 20)?.map_or(Content::Extents, Content::Inline),
    };
    Ok((period, Some(inode)))
}

pub(super) fn find(conn: &Connection, lineage: &Lineage, ino: Ino) -> Result<Option<InodeRow>> {
    temporal::decide(lineage, |seek, branch, cut| {
        let sql = match seek {
            Seek::Exact => EXACT,
            Seek::Below => BELOW,
        };
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![codec::int(ino.0), codec::int(branch.0), codec::int(cut.0)])?;
        rows.next()?.map(read_version).transpose()
    })
}

/// Finds an inode's type without reading the rest of it.
pub(super) fn kind(conn: &Connection, lineage: &Lineage, ino: Ino) -> Result<Option<Kind>> {
    temporal::decide(lineage, |seek, branch, cut| {
        let mut statement = conn.prepare_cached(match seek {
            Seek::Exact => EXACT,
            Seek::Below => BELOW,
        })?;
        let mut rows = statement.query(params![codec::int(ino.0), codec::int(branch.0), codec::int(cut.0)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let period = Period { branch: codec::branch(row, 0)?, from: codec::seq(row, 1)?, to: codec::seq(row, 2)? };
        let tombstone = row.get_ref(3)? == rusqlite::types::ValueRef::Null;
        Ok(Some((period, if tombstone { None } else { Some(codec::kind(row, 3)?) })))
    })
}

pub(super) fn versions(conn: &Connection, lineage: &Lineage, ino: Ino) -> Result<Vec<VersionRow>> {
    let cuts = Cuts::new(lineage);
    let mut statement = conn.prepare_cached(VERSIONS)?;
    let mut rows = statement.query([codec::int(ino.0)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (period, row) = read_version(row)?;
        if cuts.holds(&period) {
            found.push(VersionRow { period, row });
        }
    }
    Ok(found)
}

/// Applies a change; `fresh`: the number was never used before, so that there is nothing to end.
pub(super) fn put(
    conn: &Connection,
    branch: BranchId,
    at: Seq,
    ino: Ino,
    row: Option<&InodeRow>,
    has_parent: bool,
    fresh: bool,
) -> Result<()> {
    let newest = if fresh { None } else { newest(conn, ino, branch)? };
    let key = |from: Seq| (codec::int(ino.0), codec::int(branch.0), codec::int(from.0));
    match temporal::change(newest, at, row.is_none(), has_parent)? {
        Change::Nothing => {}
        Change::Begin | Change::Replace => begin(conn, branch, at, ino, row)?,
        Change::Close(from) => close(conn, key(from), at)?,
        Change::CloseAndBegin(from) => {
            close(conn, key(from), at)?;
            begin(conn, branch, at, ino, row)?;
        }
        Change::Remove => {
            conn.prepare_cached("DELETE FROM inode WHERE ino=?1 AND branch=?2 AND valid_from=?3")?.execute(key(at))?;
        }
    }
    Ok(())
}

fn newest(conn: &Connection, ino: Ino, branch: BranchId) -> Result<Option<(Seq, Seq)>> {
    let mut statement = conn.prepare_cached(NEWEST)?;
    let found = statement
        .query_row((codec::int(ino.0), codec::int(branch.0)), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    Ok(found.map(|(from, to)| (Seq(from as u64), Seq(to as u64))))
}

fn close(conn: &Connection, (ino, branch, from): (i64, i64, i64), at: Seq) -> Result<()> {
    conn.prepare_cached("UPDATE inode SET valid_to=?4 WHERE ino=?1 AND branch=?2 AND valid_from=?3")?.execute((
        ino,
        branch,
        from,
        codec::int(at.0),
    ))?;
    Ok(())
}

fn begin(conn: &Connection, branch: BranchId, at: Seq, ino: Ino, row: Option<&InodeRow>) -> Result<()> {
    let Some(row) = row else {
        conn.prepare_cached("REPLACE INTO inode (ino, branch, valid_from, valid_to) VALUES (?1, ?2, ?3, ?4)")?
            .execute((codec::int(ino.0), codec::int(branch.0), codec::int(at.0), codec::int(Seq::MAX.0)))?;
        return Ok(());
    };
    let same = |time: Timestamp| (time != row.mtime).then_some(time.0);
    let content = match &row.content {
        Content::Inline(bytes) => Some(&bytes[..]),
        Content::Extents => None,
    };
    let mut statement = conn.prepare_cached(concat!(
        "REPLACE INTO inode (ino, ",
        columns!(),
        ") VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22)"
    ))?;
    statement.execute(params![
        codec::int(ino.0),
        codec::int(branch.0),
        codec::int(at.0),
        codec::int(Seq::MAX.0),
        row.kind.code(),
        row.perm,
        row.uid,
        row.gid,
        row.nlink,
        codec::int(row.size),
        codec::int(row.chunks),
        row.rdev,
        same(row.atime),
        row.mtime.0,
        same(row.ctime),
        same(row.btime),
        codec::int(row.data_from.0),
        codec::int(row.content_seq.0),
        codec::int(row.attr_seq.0),
        row.predecessor.map(|ino| codec::int(ino.0)),
        codec::int(row.process.0),
        content,
    ])?;
    Ok(())
}

pub(super) fn orphans(conn: &Connection) -> Result<Vec<(BranchId, Ino)>> {
    let mut statement = conn.prepare_cached("SELECT branch, ino FROM orphan ORDER BY branch, ino")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((codec::branch(row, 0)?, codec::ino(row, 1)?));
    }
    Ok(found)
}

pub(super) fn put_orphan(conn: &Connection, branch: BranchId, ino: Ino, open: bool) -> Result<()> {
    let sql = if open {
        "REPLACE INTO orphan (branch, ino) VALUES (?1, ?2)"
    } else {
        "DELETE FROM orphan WHERE branch=?1 AND ino=?2"
    };
    conn.prepare_cached(sql)?.execute((codec::int(branch.0), codec::int(ino.0)))?;
    Ok(())
}

/// Visits every version of every inode, by number, branch and `valid_from`.
pub(super) fn scan(conn: &Connection, visit: &mut dyn FnMut(StoredRow) -> Result<()>) -> Result<()> {
    let mut statement =
        conn.prepare(concat!("SELECT ", columns!(), ", ino FROM inode ORDER BY ino, branch, valid_from"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (period, inode) = read_version(row)?;
        visit(StoredRow::Inode(period, codec::ino(row, 21)?, inode.map(Box::new)))?;
    }
    Ok(())
}
