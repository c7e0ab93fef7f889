//! Where events are found: by branch, process, directory and inode, in stretches.
//!
//! Programs work on neighbours: a process makes a hundred files in one directory, and their inodes
//! have successive numbers. An index entry for each event and question says the same over and over,
//! and costs more than the event itself. A row here covers a stretch of events instead. Rows of one
//! key do not overlap, and together they name every event of the key; they may name others too
//! (events that were pruned, or that lie between), so that whoever reads an event still compares.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension};
use rustc_hash::FxHashSet;

use crate::store::{Result, StoreError};

/// What events are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum By {
    /// The branch.
    Branch,
    /// The process entity.
    Process,
    /// The directory of the first or second path, and a hash of the name in it.
    Dir,
    /// The first or second inode, by its block of 64.
    Inode,
}

impl By {
    const ALL: [By; 4] = [By::Branch, By::Process, By::Dir, By::Inode];

    fn code(self) -> i64 {
        match self {
            By::Branch => 1,
            By::Process => 2,
            By::Dir => 3,
            By::Inode => 4,
        }
    }

    fn from_code(code: i64) -> Option<By> {
        By::ALL.into_iter().find(|by| by.code() == code)
    }

    /// How many bits tell the events of a key apart; `None` where a row is a stretch and no list.
    fn tag_bits(self) -> Option<u32> {
        match self {
            By::Branch | By::Process => None,
            By::Dir => Some(16),
            By::Inode => Some(6),
        }
    }
}

/// Events of others that a stretch may run over before a new row begins.
const GAP_MAX: i64 = 16;

/// Bytes of a list at which the next row begins: no blob over 1 KB in a table without row numbers.
const LIST_MAX: usize = 900;

/// The most stretches that a search is left with.
const STRETCHES_MAX: usize = 20_000;

/// What is posted for an inode: its block, and its place there.
pub(super) fn inode(ino: i64) -> (i64, u32) {
    (ino >> 6, (ino & 63) as u32)
}

/// What tells the names in a directory apart: FNV-1a, folded; part of the database's format.
pub(super) fn leaf(name: &[u8]) -> u32 {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) ^ (hash & 0xffff)
}

/// One event as it is posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posted<'a> {
    pub seq: i64,
    pub branch: i64,
    pub process: i64,
    pub inodes: [Option<i64>; 2],
    /// Number of the directory's path, and the name in it.
    pub paths: [Option<(i64, &'a [u8])>; 2],
}

impl Posted<'_> {
    fn each(&self, post: &mut dyn FnMut(By, i64, u32)) {
        post(By::Branch, self.branch, 0);
        post(By::Process, self.process, 0);
        for (dir, name) in self.paths.into_iter().flatten() {
            post(By::Dir, dir, leaf(name));
        }
        for ino in self.inodes.into_iter().flatten() {
            let (block, place) = inode(ino);
            post(By::Inode, block, place);
        }
    }
}

/// Postings of a group, before they are written.
#[derive(Default)]
pub(super) struct Postings {
    keys: BTreeMap<(By, i64), Vec<(i64, u32)>>,
    /// Where the last event went, which the next one mostly follows.
    count: usize,
}

impl Postings {
    pub(super) fn add(&mut self, event: &Posted<'_>) {
        self.count += 1;
        event.each(&mut |by, key, tag| self.keys.entry((by, key)).or_default().push((event.seq, tag)));
    }

    /// Writes what was gathered.
    pub(super) fn write(self, conn: &Connection) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut table = Table::of(conn)?;
        for ((by, key), mut events) in self.keys {
            events.sort_unstable();
            events.dedup();
            table.post(by, key, &events)?;
        }
        Ok(())
    }
}

/// A row: its stretch and, where the kind has lists, which events.
struct Row {
    first: i64,
    last: i64,
    list: Vec<u8>,
}

/// The statements of a writer.
struct Table<'c> {
    conn: &'c Connection,
    before: CachedStatement<'c>,
    put: CachedStatement<'c>,
}

pub(super) const BEFORE: &str = "SELECT first, last, events FROM posting WHERE kind=?1 AND key=?2 AND first<=?3 \
     ORDER BY first DESC LIMIT 1";

const AFTER: &str = "SELECT first FROM posting WHERE kind=?1 AND key=?2 AND first>?3 ORDER BY first LIMIT 1";

const PUT: &str = "REPLACE INTO posting (kind, key, first, last, events) VALUES (?1, ?2, ?3, ?4, ?5)";

impl<'c> Table<'c> {
    fn of(conn: &'c Connection) -> Result<Table<'c>> {
        Ok(Table { conn, before: conn.prepare_cached(BEFORE)?, put: conn.prepare_cached(PUT)? })
    }

    /// The last row of a key that begins at an event or before it.
    fn before(&mut self, by: By, key: i64, seq: i64) -> Result<Option<Row>> {
        let found = self.before.query_row((by.code(), key, seq), |row| {
            let list = row.get_ref(2)?.as_bytes_or_null()?.unwrap_or_default().to_vec();
            Ok(Row { first: row.get(0)?, last: row.get(1)?, list })
        });
        Ok(found.optional()?)
    }

    /// Posts events of one key, in order.
    fn post(&mut self, by: By, key: i64, mut events: &[(i64, u32)]) -> Result<()> {
        while let Some((seq, _)) = events.first() {
            let mut row = self.before(by, key, i64::MAX)?;
            let mut here = events.len();
            // Events follow those that are there, but in a database that was written to by hand.
            if row.as_ref().is_some_and(|row| row.first > *seq) {
                row = self.before(by, key, *seq)?;
                let mut after = self.conn.prepare_cached(AFTER)?;
                let next: Option<i64> = after.query_row((by.code(), key, seq), |row| row.get(0)).optional()?;
                here = next.map_or(here, |next| events.partition_point(|(seq, _)| *seq < next)).max(1);
            }
            let (now, later) = events.split_at_checked(here).unwrap_or((events, &[]));
            match by.tag_bits() {
                None => self.stretches(by, key, row, now)?,
                Some(bits) => self.lists(by, key, row, bits, now)?,
            }
            events = later;
        }
        Ok(())
    }

    fn put(&mut self, by: By, key: i64, row: &Row) -> Result<()> {
        let list = by.tag_bits().map(|_| row.list.as_slice());
        self.put.execute((by.code(), key, row.first, row.last, list))?;
        Ok(())
    }

    fn stretches(&mut self, by: By, key: i64, row: Option<Row>, events: &[(i64, u32)]) -> Result<()> {
        let mut row = row;
        for (seq, _) in events {
            row = Some(match row {
                Some(row) if seq.saturating_sub(row.last) <= GAP_MAX => Row { last: row.last.max(*seq), ..row },
                other => {
                    if let Some(row) = other {
                        self.put(by, key, &row)?;
                    }
                    Row { first: *seq, last: *seq, list: Vec::new() }
                }
            });
        }
        row.map_or(Ok(()), |row| self.put(by, key, &row))
    }

    fn lists(&mut self, by: By, key: i64, row: Option<Row>, bits: u32, events: &[(i64, u32)]) -> Result<()> {
        let mut events = events;
        let merged;
        let mut row = match row {
            // Not in order: all of the row is written anew.
            Some(row) if events.first().is_some_and(|(seq, _)| *seq <= row.last) => {
                let mut all = decode(row.first, &row.list, bits)?;
                all.extend_from_slice(events);
                all.sort_unstable();
                all.dedup();
                merged = all;
                events = &merged;
                None
            }
            other => other,
        };
        for (seq, tag) in events {
            row = Some(match row {
                // The events of one number stay together, so that no two rows begin with it.
                Some(mut row) if row.list.len() < LIST_MAX || *seq == row.last => {
                    encode(&mut row.list, seq.saturating_sub(row.last), bits, *tag);
                    Row { last: *seq, ..row }
                }
                other => {
                    if let Some(row) = other {
                        self.put(by, key, &row)?;
                    }
                    let mut list = Vec::new();
                    encode(&mut list, 0, bits, *tag);
                    Row { first: *seq, last: *seq, list }
                }
            });
        }
        row.map_or(Ok(()), |row| self.put(by, key, &row))
    }
}

/// Adds an event to a list: how far it is from the one before, and its tag.
fn encode(list: &mut Vec<u8>, distance: i64, bits: u32, tag: u32) {
    let mut value = (distance as u64) << bits | u64::from(tag);
    while value >= 0x80 {
        list.push(value as u8 | 0x80);
        value >>= 7;
    }
    list.push(value as u8);
}

fn damaged() -> StoreError {
    StoreError::Corrupt("a posting of events cannot be read; `stone check --repair` makes them anew".to_string())
}

/// Reads a list: numbers and tags.
fn decode(first: i64, mut list: &[u8], bits: u32) -> Result<Vec<(i64, u32)>> {
    let mut events = Vec::with_capacity(list.len());
    let mut seq = first;
    while !list.is_empty() {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let (byte, rest) = list.split_first().ok_or_else(damaged)?;
            list = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(damaged)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        let distance = i64::try_from(value >> bits).map_err(|_| damaged())?;
        seq = seq.checked_add(distance).ok_or_else(damaged)?;
        events.push((seq, (value & ((1 << bits) - 1)) as u32));
    }
    Ok(events)
}

pub(super) const STRETCHES: &str = "SELECT first, last, events FROM posting \
     WHERE kind=?1 AND key=?2 AND first<=?3 ORDER BY first DESC";

/// Stretches of events, `(first, last)`, that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretches(pub Vec<(i64, i64)>);

impl Stretches {
    /// One event after another in a stretch of their own.
    pub(super) fn single(events: impl IntoIterator<Item = i64>) -> Stretches {
        Stretches::joined(events.into_iter().map(|seq| (seq, seq)).collect())
    }

    /// Sorts and joins what touches or nearly does.
    fn joined(mut stretches: Vec<(i64, i64)>) -> Stretches {
        stretches.sort_unstable();
        let mut gap = GAP_MAX;
        loop {
            let mut joined: Vec<(i64, i64)> = Vec::with_capacity(stretches.len());
            for (first, last) in stretches {
                match joined.last_mut() {
                    Some(before) if first.saturating_sub(before.1) <= gap => before.1 = before.1.max(last),
                    _ => joined.push((first, last)),
                }
            }
            if joined.len() <= STRETCHES_MAX {
                return Stretches(joined);
            }
            stretches = joined;
            gap = gap.saturating_mul(4);
        }
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Stretches) -> Stretches {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            if first <= last {
                both.push((first, last));
            }
            if x.1 < y.1 {
                a.next()
            } else {
                b.next()
            };
        }
        Stretches(both)
    }

    /// What is in either.
    pub(super) fn or(mut self, other: Stretches) -> Stretches {
        self.0.extend(other.0);
        Stretches::joined(self.0)
    }
}

/// Finds the stretches in `(after, upto]` that hold every event of some keys; with tags, only events of one of these.
pub(super) fn find(
    conn: &Connection,
    by: By,
    keys: impl IntoIterator<Item = (i64, Option<u32>)>,
    after: i64,
    upto: i64,
) -> Result<Stretches> {
    let mut statement = conn.prepare_cached(STRETCHES)?;
    let mut found = Vec::new();
    for (key, tag) in keys {
        let mut rows = statement.query((by.code(), key, upto))?;
        while let Some(row) = rows.next()? {
            let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
            if last <= after {
                break;
            }
            match by.tag_bits() {
                None => found.push((first.max(after.saturating_add(1)), last.min(upto))),
                Some(bits) => {
                    let list = row.get_ref(2)?.as_bytes_or_null()?.unwrap_or_default();
                    let events = decode(first, list, bits)?.into_iter();
                    let wanted =
                        |event: &(i64, u32)| event.0 > after && event.0 <= upto && tag.is_none_or(|tag| tag == event.1);
                    found.extend(events.filter(wanted).map(|(seq, _)| (seq, seq)));
                }
            }
        }
        // A whole tree's directories may have millions: joined now and then.
        if found.len() > 64 * STRETCHES_MAX {
            found = Stretches::joined(found).0;
        }
    }
    Ok(Stretches::joined(found))
}

const EVENTS: &str = "SELECT e.seq, e.branch, e.process, e.ino, e.ino2, e.dir, coalesce(e.leaf, e.name), e.dir2, \
     coalesce(e.leaf2, e.name2) FROM event e WHERE e.seq>?1 AND e.seq<=?2 ORDER BY e.seq";

/// Visits events in `(after, upto]` as they are posted.
fn events(conn: &Connection, after: i64, upto: i64, visit: &mut dyn FnMut(&Posted<'_>) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare_cached(EVENTS)?;
    let mut rows = statement.query((after, upto))?;
    while let Some(row) = rows.next()? {
        let (dir, dir2): (Option<i64>, Option<i64>) = (row.get(5)?, row.get(7)?);
        let name = row.get_ref(6)?.as_bytes_or_null()?.unwrap_or_default();
        let name2 = row.get_ref(8)?.as_bytes_or_null()?.unwrap_or_default();
        visit(&Posted {
            seq: row.get(0)?,
            branch: row.get(1)?,
            process: row.get(2)?,
            inodes: [row.get(3)?, row.get(4)?],
            paths: [dir.map(|dir| (dir, name)), dir2.map(|dir| (dir, name2))],
        })?;
    }
    Ok(())
}

/// Events that are posted, or looked at, at once.
const SLICE: usize = 100_000;

/// Makes all postings anew.
pub(super) fn rebuild(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM posting", [])?;
    let mut postings = Postings::default();
    events(conn, i64::MIN, i64::MAX, &mut |event| {
        postings.add(event);
        if postings.count >= SLICE { std::mem::take(&mut postings).write(conn) } else { Ok(()) }
    })?;
    postings.write(conn)
}

/// Removes postings of pruned events, those before a point.
pub(super) fn prune(conn: &Connection, before: i64) -> Result<()> {
    conn.execute("DELETE FROM posting WHERE last<?1", [before])?;
    Ok(())
}

/// Finds an event that the postings do not lead to.
pub(super) fn missing(conn: &Connection) -> Result<Option<i64>> {
    let mut after = i64::MIN;
    loop {
        // So many events, however far apart damage has put their numbers.
        let sql = "SELECT max(seq) FROM (SELECT seq FROM event WHERE seq>?1 ORDER BY seq LIMIT ?2)";
        let upto: Option<i64> = conn.prepare_cached(sql)?.query_row((after, SLICE as i64), |row| row.get(0))?;
        let Some(upto) = upto else { return Ok(None) };
        let posted = Posts::load(conn, after, upto)?;
        let mut lost = None;
        events(conn, after, upto, &mut |event| {
            event.each(&mut |by, key, tag| {
                if !posted.has(by, key, event.seq, tag) {
                    lost = lost.or(Some(event.seq));
                }
            });
            Ok(())
        })?;
        if lost.is_some() {
            return Ok(lost);
        }
        after = upto;
    }
}

/// What is posted of some events.
struct Posts {
    lists: FxHashSet<(By, i64, i64, u32)>,
    stretches: BTreeMap<(By, i64, i64), i64>,
}

impl Posts {
    fn load(conn: &Connection, after: i64, upto: i64) -> Result<Posts> {
        let mut posts = Posts { lists: FxHashSet::default(), stretches: BTreeMap::new() };
        let mut statement =
            conn.prepare_cached("SELECT kind, key, first, last, events FROM posting WHERE first<=?2 AND last>?1")?;
        let mut rows = statement.query((after, upto))?;
        while let Some(row) = rows.next()? {
            let (Some(by), key) = (By::from_code(row.get(0)?), row.get::<_, i64>(1)?) else { continue };
            let (first, last): (i64, i64) = (row.get(2)?, row.get(3)?);
            match by.tag_bits() {
                None => {
                    posts.stretches.insert((by, key, first), last);
                }
                Some(bits) => {
                    let list = row.get_ref(4)?.as_bytes_or_null()?.unwrap_or_default();
                    let within = |event: &(i64, u32)| event.0 > after && event.0 <= upto && event.0 <= last;
                    let list = decode(first, list, bits)?.into_iter().filter(within);
                    posts.lists.extend(list.map(|(seq, tag)| (by, key, seq, tag)));
                }
            }
        }
        Ok(posts)
    }

    fn has(&self, by: By, key: i64, seq: i64, tag: u32) -> bool {
        if by.tag_bits().is_some() {
            return self.lists.contains(&(by, key, seq, tag));
        }
        let before = self.stretches.range((by, key, i64::MIN)..=(by, key, seq)).next_back();
        before.is_some_and(|(_, last)| *last >= seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::sqlite::schema;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn).unwrap();
        conn
    }

    /// Number, branch, process, inode, directory, name.
    type Event = (i64, i64, i64, i64, i64, u8);

    fn post(conn: &Connection, events: &[Event]) {
        let mut postings = Postings::default();
        for (seq, branch, process, ino, dir, name) in events {
            let paths = [Some((*dir, std::slice::from_ref(name))), None];
            postings.add(&Posted { seq: *seq, branch: *branch, process: *process, inodes: [Some(*ino), None], paths });
        }
        postings.write(conn).unwrap();
    }

    fn holds(found: &Stretches, seq: i64) -> bool {
        found.0.iter().any(|(first, last)| *first <= seq && seq <= *last)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn every_event_is_found_by_each_of_its_keys(
            events in prop::collection::vec((1..4i64, 1..5i64, 1..200i64, 1..4i64, 0..20u8), 1..250),
            jumps in prop::collection::vec(1..40i64, 250),
            cuts in prop::collection::vec(1..100usize, 1..20),
            late in prop::collection::vec(0..250usize, 0..20),
        ) {
            let conn = database();
            let mut seq = 0;
            let numbered: Vec<Event> = events.iter().zip(jumps).map(|((branch, process, ino, dir, name), jump)| {
                seq += jump;
                (seq, *branch, *process, *ino, *dir, *name)
            }).collect();
            // Some come after all others.
            let is_late = |place: usize| late.contains(&place);
            let (mut rest, mut cut) = (Vec::new(), cuts.iter().cycle());
            let mut group = Vec::new();
            for (place, event) in numbered.iter().enumerate() {
                if is_late(place) { rest.push(*event) } else { group.push(*event) }
                if group.len() >= *cut.clone().next().unwrap() {
                    post(&conn, &group);
                    group.clear();
                    cut.next();
                }
            }
            post(&conn, &group);
            rest.iter().rev().for_each(|event| post(&conn, &[*event]));
            let middle = numbered[numbered.len() / 2].0;
            for (after, upto) in [(0, i64::MAX), (0, middle), (middle, i64::MAX)] {
                let find = |by, key, tag| find(&conn, by, [(key, tag)], after, upto).unwrap();
                for (seq, branch, process, ino, dir, name) in &numbered {
                    let within = *seq > after && *seq <= upto;
                    let (block, place) = inode(*ino);
                    for found in [
                        find(By::Branch, *branch, None),
                        find(By::Process, *process, None),
                        find(By::Dir, *dir, Some(leaf(&[*name]))),
                        find(By::Dir, *dir, None),
                        find(By::Inode, block, Some(place)),
                    ] {
                        prop_assert!(!within || holds(&found, *seq), "e{seq} in {found:?}");
                        prop_assert!(found.0.iter().all(|(first, last)| *first > after && *last <= upto && first <= last));
                        prop_assert!(found.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
                    }
                }
            }
            let mut largest = conn.prepare("SELECT coalesce(max(length(events)), 0) FROM posting").unwrap();
            prop_assert!(largest.query_row([], |row| row.get::<_, i64>(0)).unwrap() < 1024);
        }
    }

    #[test]
    fn neighbours_share_rows() {
        let conn = database();
        let events: Vec<Event> = (1..=64_000).map(|seq| (seq, 1, seq / 1000, 64 + seq, seq / 5000, 0)).collect();
        events.chunks(500).for_each(|group| post(&conn, group));
        let rows = |by: By| -> i64 {
            conn.query_row("SELECT count(*) FROM posting WHERE kind=?1", [by.code()], |row| row.get(0)).unwrap()
        };
        assert_eq!((rows(By::Branch), rows(By::Process)), (1, 65));
        assert!(rows(By::Dir) < 64_000 / 250 && rows(By::Inode) < 1100, "{} {}", rows(By::Dir), rows(By::Inode));
    }

    #[test]
    fn stretches_combine() {
        let (a, b) = (Stretches(vec![(1, 10), (50, 60)]), Stretches(vec![(5, 55), (60, 70)]));
        assert_eq!(a.and(&b), Stretches(vec![(5, 10), (50, 55), (60, 60)]));
        assert_eq!(a.or(Stretches::single([100, 12])), Stretches(vec![(1, 12), (50, 60), (100, 100)]));
        let many = Stretches::single((0..STRETCHES_MAX as i64 * 3).map(|number| number * 100));
        assert!(many.0.len() <= STRETCHES_MAX);
    }

    #[test]
    fn damaged_lists_are_errors_and_no_panic() {
        for list in [&[0x80u8][..], &[0xff; 12], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            for bits in [6, 16] {
                let _ = decode(i64::MAX, list, bits);
            }
        }
        assert!(decode(1, &[0x80], 6).is_err());
    }
}
