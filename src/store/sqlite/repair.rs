//! Mending what a damaged database holds, and isolating what cannot be mended.
//!
//! One transaction: all of it or nothing. What is gone is not made up: a chunk that is lost stays an
//! error for whoever reads it, a name without its inode goes, an inode without a name gets one in the
//! root directory. `stone verify` still says that the record does not fit, since it does not.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::check::{self, Lines};
use super::{SqliteStore, chunk, codec, entry, inode, ledger, posting};
use crate::store::{Result, StoreError, StoredRow, WriteTxn};
use crate::types::{ChunkId, Ino, Kind, Seq};

/// Rounds after which what is left is left: each can uncover something that the one before hid.
const ROUNDS: usize = 8;

/// What a name begins with that an inode without one is given.
const FOUND: &str = "lost+found.";

/// Mends, in one transaction; one line for each kind of thing that was done.
pub(super) fn repair(store: &SqliteStore) -> Result<Vec<String>> {
    let mut write = store.begin_write()?;
    let writer = write.writer()?;
    let mut done = Vec::new();
    pages(&writer.conn, &mut done)?;
    let root = "SELECT count(*) FROM inode WHERE ino=1 AND branch=1 AND kind=2";
    if writer.conn.query_row(root, [], |row| row.get::<_, i64>(0))? == 0 {
        // Without it everything below would be taken for lost.
        return Err(StoreError::Corrupt("the root directory is missing, which cannot be mended".to_string()));
    }
    for _ in 0..ROUNDS {
        if check::check(&writer.conn)?.is_empty() {
            break;
        }
        let before = done.len();
        round(&writer.conn, &mut done)?;
        if done.len() == before {
            break;
        }
    }
    Box::new(write).commit(true)?;
    Ok(done)
}

/// Indexes can be made anew from their tables; tables cannot.
fn pages(conn: &Connection, done: &mut Vec<String>) -> Result<()> {
    let sound = || -> Result<bool> {
        Ok(conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))? == "ok")
    };
    if sound()? {
        return Ok(());
    }
    conn.execute_batch("REINDEX")?;
    if !sound()? {
        return Err(StoreError::Corrupt("pages of its tables are damaged, which cannot be mended".to_string()));
    }
    done.push("made the indexes anew".to_string());
    Ok(())
}

/// Runs a statement and tells what it did, where it did anything.
fn mend(conn: &Connection, done: &mut Vec<String>, what: &str, sql: &str) -> Result<()> {
    let count = conn.execute(sql, [])?;
    if count > 0 {
        done.push(format!("{what}: {count}"));
    }
    Ok(())
}

/// The temporal tables, with the columns of their key before the branch and what a tombstone lacks.
const TABLES: [(&str, &str, &str); 4] = [
    ("inode", "ino", "kind"),
    ("entry", "parent, name", "ino"),
    ("xattr", "ino, name", "value"),
    ("extent", "ino, idx", "chunk"),
];

fn round(conn: &Connection, done: &mut Vec<String>) -> Result<()> {
    for (table, column, misfit) in check::misfits(conn)? {
        let what = format!("removed rows of {table} with a {column} that cannot be there");
        mend(conn, done, &what, &format!("DELETE FROM \"{table}\" WHERE {misfit}"))?;
    }
    let mut raised = conn.execute("INSERT OR IGNORE INTO counters VALUES (1, 0, 0, 0, 0, 0, 0)", [])?;
    for (column, used) in [
        ("seq", "SELECT max(seq) FROM event"),
        ("time", "SELECT max(time) FROM event"),
        ("next_ino", "SELECT max(ino)+1 FROM inode"),
        ("next_branch", "SELECT max(id)+1 FROM branch"),
        ("next_txn", "SELECT max(id)+1 FROM txn"),
        ("next_process", "SELECT max(id)+1 FROM process"),
    ] {
        let used = format!("(SELECT coalesce(({used}), 1))");
        raised += conn.execute(&format!("UPDATE counters SET {column}={used} WHERE {column}<{used}"), [])?;
    }
    if raised > 0 {
        done.push(format!("raised counters: {raised}"));
    }
    for (what, sql) in [
        ("gave the main branch its name", "UPDATE branch SET name=CAST('main' AS BLOB) WHERE id=1 AND name IS NULL"),
        ("brought back the main branch", "UPDATE branch SET dropped=NULL WHERE id=1 AND dropped IS NOT NULL"),
        ("removed tags of missing branches", "DELETE FROM tag WHERE branch NOT IN (SELECT id FROM branch)"),
        (
            "removed transactions of missing branches",
            "DELETE FROM txn WHERE branch NOT IN (SELECT id FROM branch) OR target NOT IN (SELECT id FROM branch)",
        ),
        (
            "took paths from events whose directory's path is missing",
            "UPDATE event SET dir=NULL WHERE dir IS NOT NULL AND dir NOT IN (SELECT id FROM path)",
        ),
        (
            "took second paths from events whose directory's path is missing",
            "UPDATE event SET dir2=NULL WHERE dir2 IS NOT NULL AND dir2 NOT IN (SELECT id FROM path)",
        ),
    ] {
        mend(conn, done, what, sql)?;
    }
    if !matches!(posting::missing(conn), Ok(None)) {
        posting::rebuild(conn)?;
        done.push("made the postings of events anew".to_string());
    }
    for table in TABLES {
        periods(conn, done, table)?;
    }
    chunks(conn, done)?;
    names(conn, done)?;
    links(conn, done)
}

/// Rows that belong to no branch or hold at no time go; of two that hold at once the older ends
/// earlier; gaps on branches with a parent become tombstones.
fn periods(conn: &Connection, done: &mut Vec<String>, (table, key, value): (&str, &str, &str)) -> Result<()> {
    for (what, sql) in [
        ("on missing branches", format!("DELETE FROM {table} WHERE branch NOT IN (SELECT id FROM branch)")),
        ("that hold at no time", format!("DELETE FROM {table} WHERE valid_from>=valid_to OR valid_from<0")),
        (
            "that hide nothing",
            format!(
                "DELETE FROM {table} WHERE {value} IS NULL AND branch IN (SELECT id FROM branch WHERE parent IS NULL)"
            ),
        ),
    ] {
        mend(conn, done, &format!("removed rows of {table} {what}"), &sql)?;
    }
    let next = format!(
        "SELECT {key}, branch, valid_from, valid_to, \
         lead(valid_from) OVER (PARTITION BY {key}, branch ORDER BY valid_from) AS next FROM {table}"
    );
    mend(
        conn,
        done,
        &format!("ended rows of {table} where the next one begins"),
        &format!(
            "UPDATE {table} SET valid_to=n.next FROM ({next}) n WHERE n.next<n.valid_to \
             AND ({table}.branch, {table}.valid_from)=(n.branch, n.valid_from) AND {}",
            key.split(", ").map(|column| format!("{table}.{column}=n.{column}")).collect::<Vec<_>>().join(" AND ")
        ),
    )?;
    let pruned = super::prune::pruned_before(conn)?.0;
    mend(
        conn,
        done,
        &format!("filled gaps in {table}"),
        &format!(
            "INSERT OR IGNORE INTO {table} ({key}, branch, valid_from, valid_to) \
             SELECT {key}, branch, valid_to, coalesce(next, {end}) FROM ({next}) \
             WHERE valid_to<{end} AND (next IS NULL OR next>valid_to) AND coalesce(next, valid_to)>{pruned} \
             AND branch IN (SELECT id FROM branch WHERE parent IS NOT NULL)",
            end = i64::MAX
        ),
    )
}

/// Chunks whose bytes are lost are marked, so that nothing new comes to stand on them.
fn chunks(conn: &Connection, done: &mut Vec<String>) -> Result<()> {
    let mut numbers = Vec::new();
    {
        let mut statement = conn.prepare(
            "SELECT id FROM chunk UNION SELECT chunk FROM extent WHERE chunk IS NOT NULL AND chunk>0 ORDER BY 1",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            numbers.push(codec::uint(row, 0)?);
        }
    }
    let mut lost = 0;
    for id in numbers {
        match chunk::read_verified(conn, ChunkId(id)) {
            Ok(_) => {}
            Err(StoreError::Corrupt(_)) => lost += chunk::lose(conn, ChunkId(id))?,
            Err(error) => return Err(error),
        }
    }
    if lost > 0 {
        done.push(format!("isolated contents that are lost: {lost}"));
    }
    mend(
        conn,
        done,
        "turned extents of impossible chunks into holes",
        "DELETE FROM extent WHERE chunk IS NOT NULL AND chunk<=0",
    )
}

/// Names of what does not exist go; names say the type that their inode has.
fn names(conn: &Connection, done: &mut Vec<String>) -> Result<()> {
    let lines = Lines::of(conn)?;
    let mut gone = Vec::new();
    let mut typed = Vec::new();
    entry::scan(conn, &mut |row| {
        let StoredRow::Entry(period, parent, name, Some((ino, kind))) = row else { return Ok(()) };
        if period.from < lines.pruned {
            return Ok(());
        }
        let Some(lineage) = lines.lineage(period.branch, period.from) else { return Ok(()) };
        let key = (codec::int(parent.0), name, codec::int(period.branch.0), codec::int(period.from.0));
        let is_dir = inode::kind(conn, &lineage, parent)? == Some(Kind::Dir);
        match inode::kind(conn, &lineage, ino)? {
            Some(other) if is_dir && other == kind => {}
            Some(other) if is_dir => typed.push((key, other)),
            _ => gone.push((key, lines.rows.get(&period.branch).is_some_and(|row| row.parent.is_some()))),
        }
        Ok(())
    })?;
    for ((parent, name, branch, from), hides) in &gone {
        let sql = if *hides {
            "UPDATE entry SET ino=NULL, kind=NULL WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4"
        } else {
            "DELETE FROM entry WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4"
        };
        conn.execute(sql, params![parent, name, branch, from])?;
    }
    for ((parent, name, branch, from), kind) in &typed {
        let sql = "UPDATE entry SET kind=?5 WHERE parent=?1 AND name=?2 AND branch=?3 AND valid_from=?4";
        conn.execute(sql, params![parent, name, branch, from, kind.code()])?;
    }
    for (what, count) in [("removed names of what is missing", gone.len()), ("mended types of names", typed.len())] {
        if count > 0 {
            done.push(format!("{what}: {count}"));
        }
    }
    Ok(())
}

/// Link counts are what the names say; what has no name gets one.
fn links(conn: &Connection, done: &mut Vec<String>) -> Result<()> {
    let lines = Lines::of(conn)?;
    let open: Vec<_> = inode::orphans(conn)?;
    let at = ledger::counters(conn)?.seq;
    let (mut counts, mut nameless) = (Vec::new(), Vec::new());
    inode::scan(conn, &mut |row| {
        let StoredRow::Inode(period, ino, Some(row)) = row else { return Ok(()) };
        let live = lines.rows.get(&period.branch).is_some_and(|branch| branch.dropped.is_none());
        let Some(lineage) = lines.lineage(period.branch, Seq::MAX) else { return Ok(()) };
        if period.to != Seq::MAX || !live {
            return Ok(());
        }
        let names = entry::names_of(conn, &lineage, ino)?.len();
        if names == 0 && ino != Ino::ROOT && !open.contains(&(period.branch, ino)) {
            nameless.push((period.branch, ino, row.kind));
            return Ok(());
        }
        let expected = if row.kind == Kind::Dir {
            2 + entry::list(conn, &lineage, ino)?.iter().filter(|entry| entry.kind == Kind::Dir).count()
        } else {
            names
        };
        if row.nlink as usize != expected {
            counts.push((expected, ino, period));
        }
        Ok(())
    })?;
    for (expected, ino, period) in &counts {
        conn.execute(
            "UPDATE inode SET nlink=?1 WHERE ino=?2 AND branch=?3 AND valid_from=?4",
            params![
                Value::Integer(*expected as i64),
                codec::int(ino.0),
                codec::int(period.branch.0),
                codec::int(period.from.0)
            ],
        )?;
    }
    for (branch, ino, kind) in &nameless {
        conn.execute(
            "INSERT OR IGNORE INTO entry (parent, name, branch, valid_from, valid_to, ino, kind) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                codec::int(Ino::ROOT.0),
                format!("{FOUND}{ino}").into_bytes(),
                codec::int(branch.0),
                codec::int(at.0),
                codec::int(Seq::MAX.0),
                codec::int(ino.0),
                kind.code()
            ],
        )?;
    }
    for (what, count) in
        [("mended link counts", counts.len()), ("gave names in the root directory to what had none", nameless.len())]
    {
        if count > 0 {
            done.push(format!("{what}: {count}"));
        }
    }
    Ok(())
}
