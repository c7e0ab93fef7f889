//! Looking for damage: pages, periods, references between tables, counters.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::{chunk, codec, entry, inode, ledger, lines, posting, prune};
use crate::store::{BranchRow, Period, Result, StoreError, StoredRow};
use crate::types::{BranchId, Ino, Kind, Lineage, Segment, Seq};

/// Findings after which the search ends.
const MAX: usize = 200;

/// The branches, as the checks need them.
pub(super) struct Lines {
    pub(super) rows: BTreeMap<BranchId, BranchRow>,
    /// The first event whose state is kept; before it, only pinned rows are.
    pub(super) pruned: Seq,
}

impl Lines {
    pub(super) fn of(conn: &Connection) -> Result<Lines> {
        Ok(Lines {
            rows: lines::branches(conn)?.into_iter().map(|row| (row.id, row)).collect(),
            pruned: prune::pruned_before(conn)?,
        })
    }

    /// The lineage of a branch at a point; `None` where an ancestor is missing or goes in a circle.
    pub(super) fn lineage(&self, branch: BranchId, at: Seq) -> Option<Lineage> {
        let mut segments = vec![Segment { branch, cut: at }];
        let (mut row, mut cut) = (self.rows.get(&branch)?, at);
        while let Some(parent) = row.parent {
            if parent >= row.id {
                return None;
            }
            cut = cut.min(row.base);
            segments.push(Segment { branch: parent, cut });
            row = self.rows.get(&parent)?;
        }
        Some(Lineage(Arc::from(segments)))
    }
}

/// What is found, up to a limit.
struct Findings {
    lines: Vec<String>,
}

impl Findings {
    fn add(&mut self, line: String) -> Result<()> {
        self.lines.push(line);
        // The limit leaves the scans by the way that errors take.
        if self.lines.len() >= MAX { Err(StoreError::Closed) } else { Ok(()) }
    }
}

/// Looks for damage in one snapshot; one line a finding.
pub(super) fn check(conn: &Connection) -> Result<Vec<String>> {
    let mut findings = Findings { lines: Vec::new() };
    let checked = pages(conn, &mut findings).and_then(|()| {
        // Where pages are damaged, what tables say means nothing.
        if findings.lines.is_empty() { tables(conn, &mut findings) } else { Ok(()) }
    });
    match checked {
        Ok(()) => {}
        Err(StoreError::Closed) => findings.lines.push(format!("more than {MAX} findings; the rest is not listed")),
        Err(StoreError::Corrupt(why)) => findings.lines.push(why),
        Err(error) => return Err(error),
    }
    Ok(findings.lines)
}

fn pages(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let mut statement = conn.prepare("PRAGMA integrity_check(100)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            findings.add(format!("pages: {line}"))?;
        }
    }
    Ok(())
}

fn tables(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let lines = Lines::of(conn)?;
    for id in lines.rows.keys() {
        if lines.lineage(*id, Seq::MAX).is_none() {
            findings.add(format!("branch {id}: its parents are missing or no older than itself"))?;
        }
    }
    for columns in misfits(conn)?.chunk_by(|a, b| a.0 == b.0) {
        let Some((table, ..)) = columns.first() else { continue };
        // One pass for all columns of a table.
        let counts: Vec<String> = columns.iter().map(|(.., misfit)| format!("coalesce(sum({misfit}), 0)")).collect();
        let sql = format!("SELECT {} FROM \"{table}\"", counts.join(", "));
        let counts = conn.query_row(&sql, [], |row| {
            (0..columns.len()).map(|column| row.get::<_, i64>(column)).collect::<rusqlite::Result<Vec<i64>>>()
        })?;
        for ((table, column, _), count) in columns.iter().zip(counts).filter(|(_, count)| *count > 0) {
            findings.add(format!("{table}.{column}: {count} values that cannot be there"))?;
        }
    }
    readable(conn, &lines, findings)?;
    counters(conn, findings)?;
    if let Some(event) = posting::missing(conn)? {
        findings.add(format!("postings: they do not lead to event {event}, and perhaps to others"))?;
    }
    references(conn, findings)?;
    order(conn, findings)?;
    periods(conn, &lines, findings)?;
    targets(conn, &lines, findings)?;
    links(conn, &lines, findings)?;
    chunks(conn, findings)
}

/// Columns that hold times, or other numbers that may be negative.
const SIGNED: [&str; 13] = [
    "time",
    "raw_time",
    "atime",
    "mtime",
    "ctime",
    "btime",
    "created_time",
    "begun_time",
    "ended_time",
    "started",
    "ended",
    "exit_status",
    "prefix",
];

/// Columns of 32 bits and less, with the most that they hold.
const SMALL: [(&str, u32); 9] = [
    ("uid", u32::MAX),
    ("gid", u32::MAX),
    ("nlink", u32::MAX),
    ("rdev", u32::MAX),
    ("pid", u32::MAX),
    ("ppid", u32::MAX),
    ("perm", 0o7777),
    ("session", u32::MAX),
    ("tty", u32::MAX),
];

/// Conditions that no row of ours meets: table, column, condition.
pub(super) fn misfits(conn: &Connection) -> Result<Vec<(String, String, String)>> {
    let mut statement = conn.prepare(
        "SELECT s.name, c.name, c.type, c.\"notnull\" FROM sqlite_schema s JOIN pragma_table_info(s.name) c \
         WHERE s.type='table' AND s.name NOT LIKE 'sqlite%' ORDER BY s.name, c.cid",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (table, column): (String, String) = (row.get(0)?, row.get(1)?);
        let kind = row.get::<_, String>(2)?.to_ascii_lowercase();
        let null = if row.get(3)? { "" } else { ", 'null'" };
        let mut misfit = format!("typeof(\"{column}\") NOT IN ('{kind}'{null})");
        // An end is a time for processes only, and an event's number elsewhere.
        let signed = SIGNED.contains(&column.as_str()) && (column != "ended" || table == "process");
        if kind == "integer" && !signed {
            misfit.push_str(&format!(" OR \"{column}\"<0"));
        }
        if let Some((_, most)) = SMALL.iter().find(|(name, _)| *name == column) {
            misfit.push_str(&format!(" OR \"{column}\">{most}"));
        }
        found.push((table, column, misfit));
    }
    Ok(found)
}

/// Everything that opening the database reads can be read.
fn readable(conn: &Connection, lines: &Lines, findings: &mut Findings) -> Result<()> {
    let root = Lineage(Arc::from([Segment { branch: BranchId::MAIN, cut: Seq::MAX }]));
    if inode::kind(conn, &root, Ino::ROOT)? != Some(Kind::Dir) {
        findings.add("the root directory is missing".to_string())?;
    }
    let mut tell = |what: &str, result: Result<()>| match result {
        Err(StoreError::Corrupt(why)) => findings.add(format!("{what}: {why}")),
        other => other,
    };
    tell("tags", lines::tags(conn).map(drop))?;
    tell("transactions", lines::transactions(conn).map(drop))?;
    for id in lines.rows.keys() {
        tell("merges", lines::merges(conn, *id).map(drop))?;
    }
    tell("open files without a name", inode::orphans(conn).map(drop))?;
    let mut from = 1;
    loop {
        match ledger::digests(conn, from) {
            Ok(page) => match page.last() {
                Some(last) => from = last.number.saturating_add(1),
                None => return Ok(()),
            },
            Err(error) => return tell("digests", Err(error)),
        }
    }
}

fn counters(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let counters = ledger::counters(conn)?;
    let newest = |sql: &str| -> Result<u64> {
        Ok(conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0) as u64)
    };
    for (what, used, counter) in [
        ("event", newest("SELECT max(seq) FROM event")?, counters.seq.0),
        ("inode", newest("SELECT max(ino)+1 FROM inode")?, counters.next_ino.0),
        ("branch", newest("SELECT max(id)+1 FROM branch")?, counters.next_branch.0),
        ("transaction", newest("SELECT max(id)+1 FROM txn")?, counters.next_txn.0),
        ("process", newest("SELECT max(id)+1 FROM process")?, counters.next_process.0),
    ] {
        if used > counter {
            findings.add(format!("counters: the number of an {what} is at {counter}, {used} is in use"))?;
        }
    }
    let newest: Option<i64> =
        conn.query_row("SELECT time FROM event ORDER BY seq DESC LIMIT 1", [], |row| row.get(0)).optional()?;
    if newest.is_some_and(|time| time > counters.time.0) {
        findings.add("counters: the last event is later than the time they say".to_string())?;
    }
    Ok(())
}

/// References that one statement can follow.
fn references(conn: &Connection, findings: &mut Findings) -> Result<()> {
    for (what, sql) in [
        (
            "extent without its chunk (inode, index, chunk)",
            "SELECT x.ino||', '||x.idx||', '||x.chunk FROM extent x \
             WHERE x.chunk IS NOT NULL AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.id=x.chunk) LIMIT 50",
        ),
        (
            "chunk over a base that is missing or no older (chunk, base)",
            "SELECT c.id||', '||coalesce(c.base, 'none') FROM chunk c WHERE c.encoding=2 AND (c.base IS NULL \
             OR c.base>=c.id OR NOT EXISTS (SELECT 1 FROM chunk b WHERE b.id=c.base)) LIMIT 50",
        ),
        (
            "event in a directory without a path (event)",
            "SELECT e.seq FROM event e WHERE (e.dir IS NOT NULL AND NOT EXISTS (SELECT 1 FROM path p WHERE p.id=e.dir)) \
             OR (e.dir2 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM path p WHERE p.id=e.dir2)) LIMIT 50",
        ),
        (
            "transaction whose branches are missing (transaction)",
            "SELECT t.id FROM txn t WHERE NOT EXISTS (SELECT 1 FROM branch b WHERE b.id=t.branch) \
             OR NOT EXISTS (SELECT 1 FROM branch b WHERE b.id=t.target) LIMIT 50",
        ),
        ("branch that must have a name (branch)", "SELECT id FROM branch WHERE id=1 AND name IS NULL"),
        ("branch that is dropped and cannot be (branch)", "SELECT id FROM branch WHERE id=1 AND dropped IS NOT NULL"),
        (
            "tag on a branch that is missing (tag)",
            "SELECT CAST(t.name AS TEXT) FROM tag t WHERE NOT EXISTS (SELECT 1 FROM branch b WHERE b.id=t.branch) LIMIT 50",
        ),
    ] {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let value: rusqlite::types::Value = row.get(0)?;
            let shown = match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                _ => String::from("?"),
            };
            findings.add(format!("{what}: {shown}"))?;
        }
    }
    Ok(())
}

/// Every event is later than the one before it.
fn order(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let mut statement = conn.prepare("SELECT seq, time FROM event ORDER BY seq")?;
    let mut rows = statement.query([])?;
    let mut before = None;
    while let Some(row) = rows.next()? {
        let (seq, time) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?);
        if before.is_some_and(|before| time <= before) {
            findings.add(format!("event that is not later than the one before it (event): {seq}"))?;
        }
        before = Some(time);
    }
    Ok(())
}

/// The key of a temporal row, for messages and to tell one key's rows from the next.
#[derive(Clone, PartialEq, Eq)]
enum Key {
    Inode(Ino),
    Entry(Ino, Vec<u8>),
    Xattr(Ino, Vec<u8>),
    Extent(Ino, u64),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Inode(ino) => write!(f, "inode {ino}"),
            Key::Entry(parent, name) => write!(f, "entry \"{}\" of inode {parent}", name.escape_ascii()),
            Key::Xattr(ino, name) => write!(f, "attribute \"{}\" of inode {ino}", name.escape_ascii()),
            Key::Extent(ino, index) => write!(f, "extent {index} of inode {ino}"),
        }
    }
}

/// Periods of one key on one branch: in order, without overlap, and from the first touch on without
/// a gap where the branch has a parent.
fn periods(conn: &Connection, lines: &Lines, findings: &mut Findings) -> Result<()> {
    let mut before: Option<(Key, Period)> = None;
    let mut visit = |row: StoredRow| -> Result<()> {
        let (key, period, tombstone) = match row {
            StoredRow::Inode(period, ino, row) => (Key::Inode(ino), period, row.is_none()),
            StoredRow::Entry(period, parent, name, target) => (Key::Entry(parent, name), period, target.is_none()),
            StoredRow::Xattr(period, ino, name, value) => (Key::Xattr(ino, name), period, value.is_none()),
            StoredRow::Extent(period, ino, index, chunk) => (Key::Extent(ino, index), period, chunk.is_none()),
        };
        let Some(branch) = lines.rows.get(&period.branch) else {
            return findings.add(format!("{key}: on branch {}, which is missing", period.branch));
        };
        if period.from >= period.to {
            findings.add(format!("{key}: valid from e{} to e{}", period.from, period.to))?;
        }
        if tombstone && branch.parent.is_none() {
            findings
                .add(format!("{key}: a tombstone at e{} on branch {}, which has no parent", period.from, branch.id))?;
        }
        let ended = match &before {
            Some((other, last)) if *other == key && last.branch == period.branch => Some(last.to),
            _ => {
                last_row(&before, lines, findings)?;
                None
            }
        };
        if let Some(ended) = ended {
            // A part of an inode that did not show goes, however late its period ended.
            let hidden = matches!(key, Key::Xattr(..) | Key::Extent(..)) && ended < lines.pruned;
            if ended > period.from {
                findings.add(format!("{key}: two rows at e{} on branch {}", period.from, branch.id))?;
            } else if ended < period.from && period.from > lines.pruned && !hidden && branch.parent.is_some() {
                findings.add(format!("{key}: no row from e{ended} to e{} on branch {}", period.from, branch.id))?;
            }
        }
        before = Some((key, period));
        Ok(())
    };
    inode::scan(conn, &mut visit)?;
    entry::scan(conn, &mut visit)?;
    super::xattr::scan(conn, &mut visit)?;
    super::extent::scan(conn, &mut visit)?;
    last_row(&before, lines, findings)
}

fn last_row(before: &Option<(Key, Period)>, lines: &Lines, findings: &mut Findings) -> Result<()> {
    if let Some((key, last)) = before
        && last.to != Seq::MAX
        && last.to > lines.pruned
        && lines.rows.get(&last.branch).is_some_and(|branch| branch.parent.is_some())
    {
        findings.add(format!("{key}: ends at e{} on branch {} without a tombstone", last.to, last.branch))?;
    }
    Ok(())
}

/// Every entry names an inode of its own kind that exists when the entry begins.
fn targets(conn: &Connection, lines: &Lines, findings: &mut Findings) -> Result<()> {
    entry::scan(conn, &mut |row| {
        let StoredRow::Entry(period, parent, name, Some((ino, kind))) = row else { return Ok(()) };
        if period.from < lines.pruned {
            return Ok(());
        }
        let Some(lineage) = lines.lineage(period.branch, period.from) else { return Ok(()) };
        let key = Key::Entry(parent, name);
        match inode::kind(conn, &lineage, ino)? {
            None => findings.add(format!("{key}: inode {ino} does not exist at e{}", period.from))?,
            Some(other) if other != kind => {
                findings.add(format!("{key}: inode {ino} is a {}, not a {}", other.as_str(), kind.as_str()))?;
            }
            Some(_) => {}
        }
        if inode::kind(conn, &lineage, parent)? != Some(Kind::Dir) {
            findings.add(format!("{key}: its directory does not exist at e{}", period.from))?;
        }
        Ok(())
    })
}

/// Link counts of what each branch has now, for the inodes that the branch itself has rows of.
fn links(conn: &Connection, lines: &Lines, findings: &mut Findings) -> Result<()> {
    inode::scan(conn, &mut |row| {
        let StoredRow::Inode(period, ino, Some(inode)) = row else { return Ok(()) };
        let Some(branch) = lines.rows.get(&period.branch) else { return Ok(()) };
        if period.to != Seq::MAX || branch.dropped.is_some() {
            return Ok(());
        }
        let Some(lineage) = lines.lineage(period.branch, Seq::MAX) else { return Ok(()) };
        let names = entry::names_of(conn, &lineage, ino)?.len() as u64;
        let expected = if inode.kind != Kind::Dir {
            names
        } else {
            if names != u64::from(ino != Ino::ROOT) {
                findings.add(format!("inode {ino}: a directory with {names} names on branch {}", branch.id))?;
            }
            let subdirs = entry::list(conn, &lineage, ino)?.iter().filter(|entry| entry.kind == Kind::Dir).count();
            2 + subdirs as u64
        };
        if u64::from(inode.nlink) != expected {
            findings.add(format!(
                "inode {ino}: its link count is {} on branch {}, it has {expected}",
                inode.nlink, branch.id
            ))?;
        }
        Ok(())
    })
}

/// Every chunk can be decoded, and is what its hash says.
fn chunks(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let mut statement = conn.prepare(chunk::KEPT)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match chunk::read_verified(conn, crate::types::ChunkId(codec::uint(row, 0)?)) {
            Ok(_) => {}
            Err(StoreError::Corrupt(why)) => findings.add(why)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
