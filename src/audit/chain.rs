//! The chain of digests: one link a group, each over the one before it and the group's records.
//!
//! A link's `records` say what the group wrote: hashes of what the tables keep (events, and the rows
//! of the temporal tables by branch), and in full what they do not keep (branches, tags, transactions
//! and settings as they were then; which facts of which process; removals that leave no row). The
//! digest is `BLAKE3(previous digest, BLAKE3(records))`, so that the chain alone can be checked, and
//! the tables against it, also where pruning has taken rows away.
//!
//! What the hashes of temporal rows cover: every row by key, branch, beginning and value, and every
//! removal of an inode or entry. A row's end is the beginning of its successor or a removal. Inodes
//! without a name count as gone, because what keeps them is memory alone.
//!
//! The engine must not replace a row that an earlier group wrote: a new version begins at an event of
//! its own. A group may write rows that begin before it; the link lists them as late.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::encode::{self, Decoder, Encoder, Hash16, Key, Table, Value, hash16, row_hash};
use crate::store::{
    ChunkData, ChunkHash, DigestRow, EventFilter, EventRow, Group, Mutation, ReadTxn, Result, StoreError, StoredRow,
};
use crate::types::{BranchId, ChunkId, Ino, Seq};

/// The layout of `records` that this program writes.
const VERSION: u8 = 1;

/// BLAKE3 of a link.
pub type Digest = [u8; 32];

/// What the first link follows.
const GENESIS: &[u8] = b"StoneFS digest chain 1";

/// Computes a link's digest from its predecessor's and its records.
pub fn digest(previous: &Digest, records: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(blake3::hash(records).as_bytes());
    *hasher.finalize().as_bytes()
}

/// The digest that the first link follows.
pub fn genesis() -> Digest {
    *blake3::hash(GENESIS).as_bytes()
}

/// The growing end of the chain; held by the writer.
#[derive(Clone, Debug)]
pub struct Chain {
    number: u64,
    seq: Seq,
    head: Digest,
    /// Hashes of what the database held before its first link.
    before: BTreeMap<(Table, BranchId), Vec<Hash16>>,
    /// Branches that were there before the first link.
    branches: Vec<Vec<u8>>,
    /// The event that rows are written ahead of, and their records, for the link that covers it.
    staging: Option<Seq>,
    staged: Vec<Ahead>,
    /// Events of rows that are no part of the group's own link.
    skipped: Vec<Seq>,
}

/// The record of a row that was written ahead of its event.
#[derive(Clone, Debug)]
struct Ahead {
    /// Its key's hash.
    key: Hash16,
    record: AheadRecord,
}

#[derive(Clone, Debug)]
enum AheadRecord {
    /// A row, or a removal that leaves one, by its hash.
    Row(Table, BranchId, Hash16),
    /// What the link says in full.
    Item(u64, Box<[u8]>),
}

/// Where a row of a temporal table begins.
fn begins(mutation: &Mutation) -> Option<Seq> {
    mutation.place().map(|(_, at)| at)
}

impl Chain {
    /// Reads the chain's end. In a database without links, what it holds will be part of the first.
    ///
    /// # Errors
    /// What the store reports.
    pub fn load(read: &dyn ReadTxn) -> Result<Chain> {
        // Gallops to the last link: a start must not take longer the longer the history is.
        let mut last: Option<DigestRow> = None;
        let (mut step, mut growing) = (1u64, true);
        loop {
            let from = last.as_ref().map_or(0, |row| row.number).saturating_add(step);
            match read.digests(from)?.pop() {
                Some(row) => last = Some(row),
                None if step == 1 => break,
                None => growing = false,
            }
            step = if growing { step.saturating_mul(2) } else { (step / 2).max(1) };
        }
        if let Some(row) = last {
            return Ok(Chain {
                number: row.number,
                seq: row.seq,
                head: row.digest,
                before: BTreeMap::new(),
                branches: Vec::new(),
                staging: None,
                staged: Vec::new(),
                skipped: Vec::new(),
            });
        }
        let mut chain = Chain {
            number: 0,
            seq: Seq::ZERO,
            head: genesis(),
            before: BTreeMap::new(),
            branches: Vec::new(),
            staging: None,
            staged: Vec::new(),
            skipped: Vec::new(),
        };
        scan_records(read, &mut |found| {
            if let Found::Record { branch, key, hash, .. } = found {
                chain.before.entry((key.table(), branch)).or_default().push(hash);
            }
            Ok(())
        })?;
        scan_events(read, &mut |event, hash| {
            chain.seq = chain.seq.max(event.seq);
            chain.before.entry((Table::Events, BranchId(0))).or_default().push(hash);
            Ok(())
        })?;
        chain.branches = read.branches()?.iter().map(encode::branch).collect();
        Ok(chain)
    }

    /// Whether the database has no link yet.
    pub fn is_new(&self) -> bool {
        self.number == 0
    }

    /// Returns the last digest and the last event that it covers.
    pub fn head(&self) -> (Digest, Seq) {
        (self.head, self.seq)
    }

    /// Computes the link that covers a group; it becomes part of the chain with [`Chain::advance`],
    /// once the group and the link are committed together. `None` where the group has no records.
    ///
    /// # Errors
    /// What `hash_of`, which tells a stored chunk's hash, reports.
    pub fn link(&self, group: &Group, hash_of: &dyn Fn(ChunkId) -> Result<ChunkHash>) -> Result<Option<DigestRow>> {
        let (after, upto) = (self.seq, group.counters.seq);
        let mut gathered = Gathered { after, first: self.number == 0, ..Gathered::default() };
        // Rows that were staged are covered by the link that reaches their event.
        let reached = self.staging.filter(|at| *at <= upto);
        gathered.reached = reached;
        if self.number == 0 {
            gathered.hashes.clone_from(&self.before);
            for bytes in &self.branches {
                gathered.item(Item::BRANCH, bytes);
            }
        }
        gathered.add(&group.mutations, &|at| !self.skipped.contains(&at), hash_of)?;
        if reached.is_some() {
            gathered.take_over(&self.staged);
        }
        let Some(records) = gathered.finish() else { return Ok(None) };
        let seq = group.counters.seq.max(self.seq);
        Ok(Some(DigestRow { number: self.number + 1, seq, digest: digest(&self.head, &records), records }))
    }

    /// Keeps the records of what a group stages until the link that covers its event; to be called before
    /// [`Chain::link`].
    ///
    /// # Errors
    /// As for [`Chain::link`].
    pub fn stage(&mut self, group: &Group, hash_of: &dyn Fn(ChunkId) -> Result<ChunkHash>) -> Result<()> {
        let upto = group.counters.seq;
        self.skipped.clear();
        self.skipped.extend(self.staging.filter(|at| *at > upto));
        let mut rows = group.mutations.as_slice();
        for (index, mutation) in group.mutations.iter().enumerate() {
            match mutation {
                Mutation::Stage { at, .. } => {
                    self.staging = Some(*at);
                    self.skipped.extend(self.staging.filter(|at| *at > upto));
                }
                Mutation::Unstage { .. } => {
                    self.staged.clear();
                    rows = group.mutations.get(index..).unwrap_or_default();
                }
                _ => {}
            }
        }
        let Some(ahead) = self.staging.filter(|at| *at > upto) else { return Ok(()) };
        if rows.iter().filter_map(begins).any(|at| at == ahead) {
            let mut gathered = Gathered { staged: Some(std::mem::take(&mut self.staged)), ..Gathered::default() };
            gathered.add(rows, &|at| at == ahead, hash_of)?;
            self.staged = gathered.staged.unwrap_or_default();
        }
        Ok(())
    }

    /// Makes a committed link the chain's end.
    pub fn advance(&mut self, link: &DigestRow) {
        if self.staging.is_some_and(|at| at <= link.seq) {
            self.staging = None;
            self.staged = Vec::new();
        }
        self.number = link.number;
        self.seq = link.seq;
        self.head = link.digest;
        self.before.clear();
        self.branches.clear();
    }
}

/// One thing that a link says in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A row or removal that begins before the group, by the hash of its key.
    Late(Hash16),
    /// A removal that may have left no row.
    Removed(Key, BranchId, Seq),
    /// All chunks of a file from an index on became holes.
    ExtentsFrom(BranchId, Seq, Ino, u64),
    /// Facts of a process, with the hash of its row as far as they go.
    Process(u64, u64, Hash16),
    /// A branch's row.
    Branch(u64, Vec<u8>),
    /// A tag's row, or its removal.
    Tag(Vec<u8>, Option<Vec<u8>>),
    /// A transaction's row.
    Txn(u64, Vec<u8>),
    /// A merge's row.
    Merge(Vec<u8>),
    /// A setting, or its removal.
    Setting(Vec<u8>, Option<Vec<u8>>),
}

impl Item {
    const LATE: u64 = 1;
    const REMOVED: u64 = 2;
    const EXTENTS_FROM: u64 = 3;
    const PROCESS: u64 = 4;
    const BRANCH: u64 = 5;
    const TAG: u64 = 6;
    const TAG_REMOVED: u64 = 7;
    const TXN: u64 = 8;
    const MERGE: u64 = 9;
    const SETTING: u64 = 10;
    const SETTING_REMOVED: u64 = 11;

    fn decode(d: &mut Decoder<'_>) -> Option<Item> {
        let tag = d.u64()?;
        let body = d.bytes()?;
        let mut d = Decoder(body);
        Some(match tag {
            Item::LATE => Item::Late(d.fixed(16)?.try_into().ok()?),
            Item::REMOVED => {
                let (key, branch, at) = Key::decode(&mut d)?;
                Item::Removed(key, branch, at)
            }
            Item::EXTENTS_FROM => Item::ExtentsFrom(BranchId(d.u64()?), Seq(d.u64()?), Ino(d.u64()?), d.u64()?),
            Item::PROCESS => Item::Process(d.u64()?, d.u64()?, d.fixed(16)?.try_into().ok()?),
            Item::BRANCH => Item::Branch(d.u64()?, body.to_vec()),
            Item::TAG => Item::Tag(d.bytes()?.to_vec(), Some(body.to_vec())),
            Item::TAG_REMOVED => Item::Tag(body.to_vec(), None),
            Item::TXN => Item::Txn(d.u64()?, body.to_vec()),
            Item::MERGE => Item::Merge(body.to_vec()),
            Item::SETTING => Item::Setting(d.bytes()?.to_vec(), Some(d.bytes()?.to_vec())),
            Item::SETTING_REMOVED => Item::Setting(body.to_vec(), None),
            _ => return None,
        })
    }
}

/// The records of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub hashes: BTreeMap<(Table, BranchId), Hash16>,
    pub items: Vec<Item>,
}

impl Records {
    /// Reads a link's records; `None` where they are damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Option<Records> {
        let mut d = Decoder(bytes);
        if d.fixed(1)? != [VERSION] {
            return None;
        }
        let mut records = Records::default();
        for _ in 0..d.u64()? {
            let table = Table::from_code(u8::try_from(d.u64()?).ok()?)?;
            let branch = BranchId(d.u64()?);
            records.hashes.insert((table, branch), d.fixed(16)?.try_into().ok()?);
        }
        while !d.is_empty() {
            records.items.push(Item::decode(&mut d)?);
        }
        Some(records)
    }
}

/// Hashes a section of a link: its records' hashes, in order of their value.
pub(super) fn section(hashes: &mut [Hash16]) -> Hash16 {
    hashes.sort_unstable();
    hash16(hashes.as_flattened())
}

/// A group while its records are gathered.
#[derive(Default)]
struct Gathered {
    after: Seq,
    first: bool,
    hashes: BTreeMap<(Table, BranchId), Vec<Hash16>>,
    items: Encoder,
    /// Where what is gathered is staged: its records.
    staged: Option<Vec<Ahead>>,
    /// The event of the staged rows that this link covers, and the keys that it puts there itself.
    reached: Option<Seq>,
    put_again: HashSet<Hash16>,
}

impl Gathered {
    fn item(&mut self, tag: u64, body: &[u8]) {
        self.items.u64(tag).bytes(body);
    }

    fn is_late(&self, at: Seq) -> bool {
        !self.first && at <= self.after
    }

    fn take_over(&mut self, staged: &[Ahead]) {
        for row in staged {
            if self.put_again.contains(&row.key) {
                continue;
            }
            match &row.record {
                AheadRecord::Row(table, branch, hash) => self.hashes.entry((*table, *branch)).or_default().push(*hash),
                AheadRecord::Item(tag, body) => self.item(*tag, body),
            }
        }
    }

    /// Adds what of a group begins at certain points, or at none.
    fn add(
        &mut self,
        mutations: &[Mutation],
        which: &dyn Fn(Seq) -> bool,
        hash_of: &dyn Fn(ChunkId) -> Result<ChunkHash>,
    ) -> Result<()> {
        // Inodes whose last opener has left count as gone since they lost their name: this removal, which comes just
        // before the word that nobody has them open, is none.
        let released: HashSet<(BranchId, Ino, Seq)> = mutations
            .windows(2)
            .filter_map(|pair| match pair {
                [
                    Mutation::Inode { branch, at, ino, row: None },
                    Mutation::Orphan { branch: of, ino: closed, open: false },
                ] if (branch, ino) == (of, closed) => Some((*branch, *ino, *at)),
                _ => None,
            })
            .collect();
        let mut rows = Rows::new();
        let is_staged = self.staged.is_some();
        for mutation in mutations.iter().filter(|one| begins(one).map_or(!is_staged, which)) {
            match mutation {
                Mutation::Inode { branch, at, ino, row } => {
                    let key = Key::Inode(*ino);
                    match row.as_deref().filter(|row| row.nlink > 0) {
                        Some(row) => put(&mut rows, key, *branch, *at, &Value::Inode(row)),
                        None if row.is_none() && released.contains(&(*branch, *ino, *at)) => {}
                        None => remove(&mut rows, key, *branch, *at),
                    }
                }
                Mutation::Entry { branch, at, parent, name, row } => {
                    let key = Key::Entry(*parent, name.as_bytes().to_vec());
                    match row {
                        Some(row) => put(&mut rows, key, *branch, *at, &Value::Entry(row.ino, row.kind)),
                        None => remove(&mut rows, key, *branch, *at),
                    }
                }
                Mutation::Xattr { branch, at, ino, name, value } => {
                    let key = Key::Xattr(*ino, name.clone());
                    match value {
                        Some(value) => put(&mut rows, key, *branch, *at, &Value::Xattr(value)),
                        None => remove(&mut rows, key, *branch, *at),
                    }
                }
                Mutation::Extent { branch, at, ino, index, data } => {
                    let key = Key::Extent(*ino, *index);
                    match data {
                        Some(ChunkData::Bytes { hash, .. }) => {
                            put(&mut rows, key, *branch, *at, &Value::Extent(*hash));
                        }
                        Some(ChunkData::Stored(id)) => {
                            put(&mut rows, key, *branch, *at, &Value::Extent(hash_of(*id)?));
                        }
                        None => remove(&mut rows, key, *branch, *at),
                    }
                }
                Mutation::ExtentsFrom { branch, at, ino, index } => {
                    // It ends rows of the group too that begin at the same event.
                    let from = (Key::Extent(*ino, *index), BranchId(0), Seq::ZERO);
                    let gone: Vec<_> = rows
                        .range(from..)
                        .map(|(key, _)| key)
                        .take_while(|(key, ..)| matches!(key, Key::Extent(other, _) if other == ino))
                        .filter(|(_, of, begun)| of == branch && begun == at)
                        .cloned()
                        .collect();
                    for key in gone {
                        rows.remove(&key);
                    }
                    let mut e = Encoder::default();
                    e.u64(branch.0).u64(at.0).u64(ino.0).u64(*index);
                    match &mut self.staged {
                        Some(staged) => {
                            let record = AheadRecord::Item(Item::EXTENTS_FROM, e.0.into());
                            staged.push(Ahead { key: [0; 16], record });
                        }
                        None => self.item(Item::EXTENTS_FROM, &e.0),
                    }
                }
                Mutation::Event(event) => {
                    if self.is_late(event.seq) {
                        let key = hash16(&event.seq.0.to_le_bytes());
                        self.item(Item::LATE, &key);
                    }
                    let hash = hash16(&encode::event(event));
                    self.hashes.entry((Table::Events, BranchId(0))).or_default().push(hash);
                }
                Mutation::Process(row) => {
                    let facts = encode::process_facts(row);
                    let mut e = Encoder::default();
                    e.u64(row.id.0).u64(facts).fixed(&hash16(&encode::process(row, facts)));
                    self.item(Item::PROCESS, &e.0);
                }
                Mutation::Branch(row) => self.item(Item::BRANCH, &encode::branch(row)),
                Mutation::Tag(row) => self.item(Item::TAG, &encode::tag(row)),
                Mutation::TagRemoved(name) => self.item(Item::TAG_REMOVED, name),
                Mutation::Txn(row) => self.item(Item::TXN, &encode::txn(row)),
                Mutation::Merge(row) => self.item(Item::MERGE, &encode::merge(row)),
                Mutation::Setting(key, Some(value)) => {
                    let mut e = Encoder::default();
                    e.bytes(key.as_bytes()).bytes(value);
                    self.item(Item::SETTING, &e.0);
                }
                Mutation::Setting(key, None) => self.item(Item::SETTING_REMOVED, key.as_bytes()),
                Mutation::Orphan { .. } | Mutation::Digest(_) | Mutation::Stage { .. } | Mutation::Unstage { .. } => {}
            }
        }
        self.settle(rows);
        Ok(())
    }

    fn settle(&mut self, rows: Rows) {
        for ((key, branch, at), (hash, ambiguous)) in rows {
            let in_full = hash.is_none() && (ambiguous || matches!(key, Key::Xattr(..) | Key::Extent(..)));
            if let Some(staged) = &mut self.staged {
                let bytes = key.encode(branch, at);
                let hashed = hash16(&bytes);
                let record = if in_full {
                    AheadRecord::Item(Item::REMOVED, bytes.into())
                } else {
                    let hash = hash.unwrap_or_else(|| row_hash(&key, branch, at, &Value::Gone));
                    AheadRecord::Row(key.table(), branch, hash)
                };
                staged.push(Ahead { key: hashed, record });
                continue;
            }
            if self.reached == Some(at) {
                self.put_again.insert(hash16(&key.encode(branch, at)));
            }
            if in_full {
                self.item(Item::REMOVED, &key.encode(branch, at));
                continue;
            }
            if self.is_late(at) {
                self.item(Item::LATE, &hash16(&key.encode(branch, at)));
            }
            let hash = hash.unwrap_or_else(|| row_hash(&key, branch, at, &Value::Gone));
            self.hashes.entry((key.table(), branch)).or_default().push(hash);
        }
    }

    fn finish(mut self) -> Option<Vec<u8>> {
        if self.hashes.is_empty() && self.items.0.is_empty() {
            return None;
        }
        let mut e = Encoder(vec![VERSION]);
        e.u64(self.hashes.len() as u64);
        for ((table, branch), hashes) in &mut self.hashes {
            e.u64(u64::from(table.code())).u64(branch.0).fixed(&section(hashes));
        }
        e.fixed(&self.items.0);
        Some(e.0)
    }
}

/// The rows that a group leaves, by key, branch and beginning: the value's hash (none for a removal),
/// and whether the key was also put at that event.
type Rows = BTreeMap<(Key, BranchId, Seq), (Option<Hash16>, bool)>;

fn put(rows: &mut Rows, key: Key, branch: BranchId, at: Seq, value: &Value<'_>) {
    let hash = row_hash(&key, branch, at, value);
    rows.insert((key, branch, at), (Some(hash), false));
}

fn remove(rows: &mut Rows, key: Key, branch: BranchId, at: Seq) {
    let state = rows.entry((key, branch, at)).or_insert((None, false));
    *state = (None, state.1 || state.0.is_some());
}

/// What a scan of the temporal tables finds.
pub(super) enum Found {
    /// A row, or the removal of an inode or entry, with its hash.
    Record { key: Key, branch: BranchId, at: Seq, hash: Hash16 },
    /// A removal of what leaves no record of its own: attributes and chunks.
    Ended { key: Key, branch: BranchId, at: Seq },
    /// A row whose period does not fit its neighbours of the same key.
    Misfit { key: Key, branch: BranchId, at: Seq },
    /// The row as it is, for further checks.
    Row(StoredRow),
}

/// What a row says of its key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Present,
    /// An inode without a name.
    Nameless,
    Tombstone,
}

/// The row before, while the next one may be of the same key.
struct Previous {
    key: Key,
    branch: BranchId,
    from: Seq,
    to: Seq,
    state: State,
}

impl Previous {
    /// The row ended, and no row of its key and branch begins there.
    ///
    /// On a branch with a parent that would let the parent's row show again: a removal leaves a
    /// tombstone there, which lasts until a row follows.
    fn ended(self, has_parent: bool, visit: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
        if self.to == Seq::MAX {
            return Ok(());
        }
        if has_parent || self.state == State::Tombstone {
            visit(Found::Misfit { key: self.key.clone(), branch: self.branch, at: self.from })?;
        }
        if self.state == State::Present {
            visit(removal(self.key, self.branch, self.to))?;
        }
        Ok(())
    }
}

fn removal(key: Key, branch: BranchId, at: Seq) -> Found {
    match key {
        Key::Inode(_) | Key::Entry(..) => {
            let hash = row_hash(&key, branch, at, &Value::Gone);
            Found::Record { key, branch, at, hash }
        }
        Key::Xattr(..) | Key::Extent(..) => Found::Ended { key, branch, at },
    }
}

/// Rebuilds the records of temporal rows from the tables, as [`Chain::link`] saw them.
pub(super) fn scan_records(read: &dyn ReadTxn, visit: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let forked: HashSet<BranchId> =
        read.branches()?.into_iter().filter(|branch| branch.parent.is_some()).map(|branch| branch.id).collect();
    let mut contents: HashMap<ChunkId, ChunkHash> = HashMap::new();
    let mut previous: Option<Previous> = None;
    read.scan_rows(&mut |row| {
        let (key, period) = match &row {
            StoredRow::Inode(period, ino, _) => (Key::Inode(*ino), *period),
            StoredRow::Entry(period, parent, name, _) => (Key::Entry(*parent, name.clone()), *period),
            StoredRow::Xattr(period, ino, name, _) => (Key::Xattr(*ino, name.clone()), *period),
            StoredRow::Extent(period, ino, index, _) => (Key::Extent(*ino, *index), *period),
        };
        let value = match &row {
            StoredRow::Inode(_, _, row) => row.as_deref().map(Value::Inode),
            StoredRow::Entry(_, _, _, target) => target.map(|(ino, kind)| Value::Entry(ino, kind)),
            StoredRow::Xattr(_, _, _, value) => value.as_deref().map(Value::Xattr),
            StoredRow::Extent(_, _, _, None) => None,
            StoredRow::Extent(_, _, _, Some(id)) => Some(Value::Extent(match contents.entry(*id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(slot) => *slot.insert(read.chunk_hash(*id)?),
            })),
        };
        let state = match &value {
            None => State::Tombstone,
            Some(Value::Inode(row)) if row.nlink == 0 => State::Nameless,
            Some(_) => State::Present,
        };
        let (branch, at) = (period.branch, period.from);
        let same = previous.as_ref().is_some_and(|last| last.key == key && last.branch == branch);
        if period.to <= at || (same && previous.as_ref().is_some_and(|last| last.to > at)) {
            visit(Found::Misfit { key: key.clone(), branch, at })?;
        }
        let before = match previous.take() {
            Some(last) if same && last.to >= at => Some(last.state),
            Some(last) => {
                let has_parent = forked.contains(&last.branch);
                last.ended(has_parent, visit)?;
                None
            }
            None => None,
        };
        match (state, value) {
            (State::Present, Some(value)) => {
                let hash = row_hash(&key, branch, at, &value);
                visit(Found::Record { key: key.clone(), branch, at, hash })?;
            }
            // Its last opener left: gone since it lost its name.
            (State::Tombstone, _) if before == Some(State::Nameless) => {}
            (State::Present | State::Nameless | State::Tombstone, _) => visit(removal(key.clone(), branch, at))?,
        }
        previous = Some(Previous { key, branch, from: at, to: period.to, state });
        visit(Found::Row(row))
    })?;
    match previous {
        Some(last) => {
            let has_parent = forked.contains(&last.branch);
            last.ended(has_parent, visit)
        }
        None => Ok(()),
    }
}

/// Visits the hash of every event, ascending.
pub(super) fn scan_events(read: &dyn ReadTxn, visit: &mut dyn FnMut(&EventRow, Hash16) -> Result<()>) -> Result<()> {
    const PAGE: usize = 10_000;
    let mut after = Seq::ZERO;
    loop {
        let filter = EventFilter { after: Some(after), limit: Some(PAGE), ..EventFilter::default() };
        let page = read.events(&filter)?;
        let Some(last) = page.last() else { return Ok(()) };
        if last.seq <= after {
            return Err(StoreError::Corrupt(format!("events after e{after} do not ascend")));
        }
        after = last.seq;
        for row in &page {
            visit(row, hash16(&encode::event(row)))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Content, Counters, EntryRow, InodeRow};
    use crate::types::{Kind, Name, ProcId, Timestamp};

    fn chain() -> Chain {
        let (before, branches, staged) = (BTreeMap::new(), Vec::new(), Vec::new());
        Chain { number: 1, seq: Seq(10), head: genesis(), before, branches, staging: None, staged, skipped: Vec::new() }
    }

    fn group(mutations: Vec<Mutation>) -> Group {
        Group { mutations, counters: Counters { seq: Seq(20), ..Counters::default() }, ..Group::default() }
    }

    fn entry(at: u64, name: &[u8], ino: Option<u64>) -> Mutation {
        let name = Name::new(name).unwrap();
        let row = ino.map(|ino| EntryRow { parent: Ino(1), name: name.clone(), ino: Ino(ino), kind: Kind::File });
        Mutation::Entry { branch: BranchId(1), at: Seq(at), parent: Ino(1), name, row }
    }

    fn inode(at: u64, nlink: u32) -> Mutation {
        let row = InodeRow {
            kind: Kind::File,
            perm: 0o644,
            uid: 0,
            gid: 0,
            nlink,
            size: 0,
            chunks: 0,
            rdev: 0,
            atime: Timestamp(0),
            mtime: Timestamp(0),
            ctime: Timestamp(0),
            btime: Timestamp(0),
            content: Content::Inline(b"x".as_slice().into()),
            data_from: Seq(0),
            content_seq: Seq(at),
            attr_seq: Seq(at),
            predecessor: None,
            process: ProcId(1),
        };
        Mutation::Inode { branch: BranchId(1), at: Seq(at), ino: Ino(5), row: Some(Box::new(row)) }
    }

    fn link(chain: &Chain, mutations: Vec<Mutation>) -> DigestRow {
        chain.link(&group(mutations), &|_| Ok([0; 32])).unwrap().unwrap()
    }

    #[test]
    fn a_link_depends_on_its_predecessor_and_on_every_record() {
        let chain = chain();
        let one = link(&chain, vec![entry(11, b"a", Some(5)), entry(12, b"b", Some(6))]);
        assert_eq!((one.number, one.seq), (2, Seq(20)));
        assert_eq!(one.digest, digest(&genesis(), &one.records));
        assert_ne!(one.digest, link(&chain, vec![entry(11, b"a", Some(5)), entry(12, b"b", Some(7))]).digest);
        assert_ne!(one.digest, link(&chain, vec![entry(11, b"a", Some(5)), entry(13, b"b", Some(6))]).digest);
        let mut next = chain.clone();
        next.advance(&one);
        assert_ne!(link(&next, vec![entry(21, b"c", None)]).digest, link(&chain, vec![entry(21, b"c", None)]).digest);
    }

    #[test]
    fn only_what_a_group_leaves_behind_counts() {
        let chain = chain();
        let last = link(&chain, vec![entry(11, b"a", Some(6))]);
        assert_eq!(link(&chain, vec![entry(11, b"a", Some(5)), entry(11, b"a", Some(6))]), last);
        let records = Records::decode(&link(&chain, vec![entry(11, b"a", Some(5)), entry(11, b"a", None)]).records);
        let removed = Item::Removed(Key::Entry(Ino(1), b"a".to_vec()), BranchId(1), Seq(11));
        assert_eq!(records.unwrap().items, [removed]);
    }

    #[test]
    fn an_inode_is_gone_when_it_loses_its_name() {
        let chain = chain();
        let orphan = |open| Mutation::Orphan { branch: BranchId(1), ino: Ino(5), open };
        let gone = Mutation::Inode { branch: BranchId(1), at: Seq(12), ino: Ino(5), row: None };
        let later = Mutation::Inode { branch: BranchId(1), at: Seq(15), ino: Ino(5), row: None };
        let at_once = link(&chain, vec![inode(11, 1), gone]);
        assert_eq!(link(&chain, vec![inode(11, 1), inode(12, 0), orphan(true)]), at_once);
        assert_eq!(link(&chain, vec![inode(11, 1), inode(12, 0), orphan(true), later.clone(), orphan(false)]), at_once);
        assert!(chain.link(&group(vec![later, orphan(false)]), &|_| Ok([0; 32])).unwrap().is_none());
    }

    #[test]
    fn the_removal_of_what_was_brought_back_and_closed_is_one() {
        let chain = chain();
        let orphan = |open| Mutation::Orphan { branch: BranchId(1), ino: Ino(5), open };
        let gone = Mutation::Inode { branch: BranchId(1), at: Seq(13), ino: Ino(5), row: None };
        let without_note = link(&chain, vec![inode(11, 0), inode(12, 1), gone.clone()]);
        assert_eq!(link(&chain, vec![inode(11, 0), orphan(true), inode(12, 1), orphan(false), gone]), without_note);
    }

    #[test]
    fn what_begins_before_the_group_is_listed_as_late() {
        let records = Records::decode(&link(&chain(), vec![entry(9, b"a", Some(5))]).records).unwrap();
        let key = Key::Entry(Ino(1), b"a".to_vec()).encode(BranchId(1), Seq(9));
        assert_eq!(records.items, [Item::Late(hash16(&key))]);
    }

    #[test]
    fn damaged_records_are_no_panic() {
        let bytes = link(&chain(), vec![entry(9, b"a", Some(5)), entry(11, b"b", None)]).records;
        for length in 0..bytes.len() {
            assert_ne!(Records::decode(&bytes[..length]), Records::decode(&bytes), "cut at {length}");
        }
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x41;
            let _ = Records::decode(&damaged);
        }
    }
}
