//! Verification: the chain of digests recomputed, and every table held against it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::chain::{Digest, Found, Item, Records, digest, genesis, scan_events, scan_records, section};
use super::encode::{self, Hash16, Key, Table, hash16};
use crate::store::{EventRow, ReadTxn, Result, StoredRow, TxnState};
use crate::types::{BranchId, Ino, Op, ProcId, Seq};

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// The last digest, to be kept elsewhere; `None` where nothing was recorded yet.
    pub head: Option<Digest>,
    /// The last event that it covers.
    pub upto: Seq,
    /// Links of the chain.
    pub links: u64,
    /// Events that were compared.
    pub events: u64,
    /// Rows of temporal tables that were compared.
    pub rows: u64,
    /// Chunks of content that were compared.
    pub chunks: u64,
    /// The first event whose state was not pruned; what began before it is covered by the chain
    /// alone, not compared.
    pub pruned_before: Option<Seq>,
    /// What does not fit, in the order of events: one line each.
    pub findings: Vec<String>,
}

/// The most findings that are listed; one altered link makes all that follow suspect.
const FINDINGS_MAX: usize = 100;

/// Tells the last event that a digest kept elsewhere covers; `None` where it is not of this chain.
///
/// It proves that the history up to there is the one of then only together with [`verify`].
///
/// # Errors
/// What the store reports.
pub fn find_head(read: &dyn ReadTxn, head: &Digest) -> Result<Option<Seq>> {
    let mut from = 1;
    loop {
        let page = read.digests(from)?;
        let Some(last) = page.last() else { return Ok(None) };
        if let Some(found) = page.iter().find(|row| row.digest == *head) {
            return Ok(Some(found.seq));
        }
        from = last.number + 1;
    }
}

/// Recomputes the chain and compares every table with it.
///
/// # Errors
/// What the store reports; what does not fit is no error but a finding.
pub fn verify(read: &dyn ReadTxn) -> Result<Proof> {
    let mut check = Check { pruned: pruned_before(read)?, ..Check::default() };
    check.chain(read)?;
    check.events(read)?;
    check.rows(read)?;
    check.sections(read)?;
    check.names();
    check.processes(read)?;
    check.lines(read)?;
    read.scan_chunks(&mut |id, hash, data| {
        check.proof.chunks += 1;
        if blake3::hash(data).as_bytes() != &hash {
            check.finding(None, format!("chunk {id}: the content is not what its hash says"));
        }
        Ok(())
    })?;
    Ok(check.finish())
}

/// The setting that holds the first event that was not pruned, in decimal.
const PRUNED: &str = "pruned_before";

fn pruned_before(read: &dyn ReadTxn) -> Result<Seq> {
    let setting = read.setting(PRUNED)?;
    let number = setting.as_deref().and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Ok(number.map_or(Seq::ZERO, Seq))
}

/// What one event did to one name: removed it or made it name an inode.
type NameChange = (Seq, BranchId, Ino, Vec<u8>);

#[derive(Default)]
struct Check {
    proof: Proof,
    findings: Vec<(Option<Seq>, String)>,
    /// The last event of each link, by its index.
    ends: Vec<Seq>,
    /// What each link says of each section, by its index.
    expected: HashMap<(usize, Table, BranchId), Hash16>,
    /// What the tables say.
    actual: HashMap<(usize, Table, BranchId), Vec<Hash16>>,
    late: HashMap<Hash16, usize>,
    removed: HashMap<(Key, BranchId), BTreeSet<Seq>>,
    cut: HashMap<(BranchId, Ino), Vec<(Seq, u64)>>,
    processes: BTreeMap<u64, Vec<(u64, Hash16, Seq)>>,
    branches: BTreeMap<u64, Vec<u8>>,
    tags: BTreeMap<Vec<u8>, Vec<u8>>,
    txns: BTreeMap<u64, Vec<u8>>,
    merges: BTreeSet<Vec<u8>>,
    settings: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// What began before this event may be gone.
    pruned: Seq,
    /// Whether an event says that history was forgotten.
    prune_recorded: bool,
    /// Branches that were dropped or rolled back: all their rows may be gone.
    given_up: HashSet<BranchId>,
    /// What events say of names, taken away as rows say the same.
    told: HashMap<NameChange, Option<Ino>>,
    /// Events that change a tree without naming each change.
    sweeping: HashSet<Seq>,
    gone_inodes: HashSet<(BranchId, Ino, Seq)>,
    ended: Vec<(Key, BranchId, Seq)>,
    named: Vec<(NameChange, Option<Ino>)>,
}

impl Check {
    fn finding(&mut self, at: Option<Seq>, text: String) {
        self.findings.push((at, text));
    }

    fn finish(mut self) -> Proof {
        if self.pruned > Seq::ZERO {
            self.proof.pruned_before = Some(self.pruned);
            if !self.prune_recorded {
                let text = format!("history before e{} is said to be pruned, but no event says so", self.pruned);
                self.finding(None, text);
            }
        }
        // What belongs to no event comes last; the order among equals is the order of the checks.
        self.findings.sort_by_key(|(at, _)| at.unwrap_or(Seq::MAX));
        let more = self.findings.len().saturating_sub(FINDINGS_MAX);
        self.proof.findings = self.findings.into_iter().take(FINDINGS_MAX).map(|(_, text)| text).collect();
        if more > 0 {
            self.proof.findings.push(format!("and {more} more"));
        }
        self.proof
    }

    /// The link that covers an event, by its place; events after the last link have none.
    fn link_of(&self, at: Seq) -> Option<usize> {
        let index = self.ends.partition_point(|end| *end < at);
        (index < self.ends.len()).then_some(index)
    }

    /// Whether some of what a link covers may have been pruned.
    fn is_pruned(&self, link: usize) -> bool {
        let after = link.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(Seq::ZERO);
        // What was removed at the first event that is kept has no row any more that says so.
        after.next() <= self.pruned
    }

    fn stretch(&self, link: usize) -> String {
        let from = link.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(Seq(1), |end| end.next());
        let to = self.ends.get(link).copied().unwrap_or(from).max(from);
        if from == to { format!("e{to}") } else { format!("e{from} to e{to}") }
    }

    // ---- the chain ---------------------------------------------------------------------------

    fn chain(&mut self, read: &dyn ReadTxn) -> Result<()> {
        let mut previous = genesis();
        let mut from = 1;
        loop {
            let page = read.digests(from)?;
            let Some(last) = page.last() else { break };
            from = last.number + 1;
            for row in page {
                let link = self.ends.len();
                let number = link as u64 + 1;
                let after = self.ends.last().copied().unwrap_or(Seq::ZERO);
                self.ends.push(row.seq.max(after));
                if row.number != number || row.seq < after {
                    let (found, seq) = (row.number, row.seq);
                    self.finding(
                        Some(row.seq),
                        format!("digest {number}: the chain is broken (found {found}, e{seq})"),
                    );
                }
                if digest(&previous, &row.records) != row.digest {
                    let text = format!("digest {number} ({}) does not follow from what it covers", self.stretch(link));
                    self.finding(Some(row.seq), text);
                }
                previous = row.digest;
                self.proof.head = Some(row.digest);
                self.proof.upto = row.seq;
                self.proof.links = number;
                match Records::decode(&row.records) {
                    Some(records) => self.records(link, records),
                    None => self.finding(Some(row.seq), format!("digest {number}: its records cannot be read")),
                }
            }
        }
        Ok(())
    }

    fn records(&mut self, link: usize, records: Records) {
        let end = self.ends.get(link).copied().unwrap_or(Seq::ZERO);
        for ((table, branch), hash) in records.hashes {
            self.expected.insert((link, table, branch), hash);
        }
        for item in records.items {
            match item {
                Item::Late(key) => {
                    self.late.insert(key, link);
                }
                Item::Removed(key, branch, at) => {
                    self.removed.entry((key, branch)).or_default().insert(at);
                }
                Item::ExtentsFrom(branch, at, ino, index) => {
                    self.cut.entry((branch, ino)).or_default().push((at, index));
                }
                Item::Process(id, facts, hash) => self.processes.entry(id).or_default().push((facts, hash, end)),
                Item::Branch(id, bytes) => {
                    self.branches.insert(id, bytes);
                }
                Item::Tag(name, Some(bytes)) => {
                    self.tags.insert(name, bytes);
                }
                Item::Tag(name, None) => {
                    self.tags.remove(&name);
                }
                Item::Txn(id, bytes) => {
                    self.txns.insert(id, bytes);
                }
                Item::Merge(bytes) => {
                    self.merges.insert(bytes);
                }
                Item::Setting(key, value) => {
                    self.settings.insert(key, value);
                }
            }
        }
    }

    // ---- events ------------------------------------------------------------------------------

    fn events(&mut self, read: &dyn ReadTxn) -> Result<()> {
        scan_events(read, &mut |event, hash| {
            self.proof.events += 1;
            let late = self.late.get(&hash16(&event.seq.0.to_le_bytes())).copied();
            match late.or_else(|| self.link_of(event.seq)) {
                Some(link) => self.actual.entry((link, Table::Events, BranchId(0))).or_default().push(hash),
                None => self.finding(Some(event.seq), format!("event e{}: no digest covers it", event.seq)),
            }
            self.tell(event);
            Ok(())
        })
    }

    /// Notes what an event says of names.
    fn tell(&mut self, event: &EventRow) {
        if event.result != 0 {
            return;
        }
        let (seq, branch) = (event.seq, event.branch);
        let first = event.parent.zip(event.name.clone());
        let second = event.parent2.zip(event.name2.clone());
        let mut told = |place: Option<(Ino, Vec<u8>)>, ino: Option<Ino>| {
            if let Some((parent, name)) = place {
                self.told.insert((seq, branch, parent, name), ino);
            }
        };
        match event.op {
            Op::Create | Op::Mkdir | Op::Mknod | Op::Symlink | Op::Link => told(first, event.ino),
            Op::Unlink | Op::Rmdir => told(first, None),
            Op::Rename => {
                told(first, None);
                told(second, event.ino);
            }
            Op::Exchange => {
                told(first, event.ino2);
                told(second, event.ino);
            }
            Op::Write
            | Op::Truncate
            | Op::Fallocate
            | Op::Copy
            | Op::Chmod
            | Op::Chown
            | Op::Utimens
            | Op::Setxattr
            | Op::Removexattr
            | Op::Open => {}
            Op::Branch | Op::Tag | Op::Switch | Op::Begin | Op::Commit | Op::Rollback | Op::Merge => {
                self.sweeping.insert(seq);
            }
            Op::Prune => {
                self.sweeping.insert(seq);
                let point = event.new.as_deref().and_then(|text| std::str::from_utf8(text).ok()?.strip_prefix('e'));
                let before = point.and_then(|number| number.parse().ok()).map(Seq);
                self.prune_recorded |= before.is_some_and(|before| before >= self.pruned) && seq >= self.pruned;
            }
        }
    }

    // ---- rows --------------------------------------------------------------------------------

    fn rows(&mut self, read: &dyn ReadTxn) -> Result<()> {
        self.given_up = read
            .transactions()?
            .into_iter()
            .filter(|txn| txn.state == TxnState::RolledBack)
            .map(|txn| txn.branch)
            .chain(read.branches()?.into_iter().filter(|branch| branch.dropped.is_some()).map(|branch| branch.id))
            .collect();
        scan_records(read, &mut |found| {
            match found {
                Found::Record { key, branch, at, hash } => {
                    let explicit = matches!(self.removed.get(&(key.clone(), branch)), Some(at_) if at_.contains(&at));
                    let is_gone = hash == encode::row_hash(&key, branch, at, &encode::Value::Gone);
                    if is_gone && let Key::Inode(ino) = key {
                        self.gone_inodes.insert((branch, ino, at));
                    }
                    if let Key::Entry(parent, name) = &key
                        && is_gone
                    {
                        self.named.push(((at, branch, *parent, name.clone()), None));
                    }
                    if !(explicit && is_gone) {
                        self.record(&key, branch, at, hash);
                    }
                }
                Found::Ended { key, branch, at } => self.ended.push((key, branch, at)),
                Found::Misfit { at, .. } if at < self.pruned => {}
                Found::Misfit { key, branch, at } => {
                    self.finding(
                        Some(at),
                        format!("{key}: the row from e{at} on branch {branch} does not fit its neighbours"),
                    );
                }
                Found::Row(row) => {
                    self.proof.rows += 1;
                    self.period(&row);
                    if let StoredRow::Entry(period, parent, name, Some((ino, _))) = row {
                        self.named.push(((period.from, period.branch, parent, name), Some(ino)));
                    }
                }
            }
            Ok(())
        })?;
        for (key, branch, at) in std::mem::take(&mut self.ended) {
            if at < self.pruned {
                continue;
            }
            let explicit = self.removed.get(&(key.clone(), branch)).is_some_and(|ats| ats.contains(&at));
            let with_inode = match key {
                Key::Xattr(ino, _) | Key::Extent(ino, _) => self.gone_inodes.contains(&(branch, ino, at)),
                Key::Inode(_) | Key::Entry(..) => false,
            };
            let cut = match key {
                Key::Extent(ino, index) => {
                    let cuts = self.cut.get(&(branch, ino)).map_or(&[][..], Vec::as_slice);
                    cuts.iter().any(|(when, from)| *when == at && *from <= index)
                }
                Key::Inode(_) | Key::Entry(..) | Key::Xattr(..) => false,
            };
            if !explicit && !with_inode && !cut {
                self.finding(Some(at), format!("{key}: ends at e{at} on branch {branch}, where nothing was recorded"));
            }
        }
        Ok(())
    }

    fn record(&mut self, key: &Key, branch: BranchId, at: Seq, hash: Hash16) {
        let late = self.late.get(&hash16(&key.encode(branch, at))).copied();
        match late.or_else(|| self.link_of(at)) {
            Some(link) => self.actual.entry((link, key.table(), branch)).or_default().push(hash),
            None => self.finding(Some(at), format!("{key}: no digest covers its row from e{at}")),
        }
    }

    /// A row must have ended where a recorded removal lies within its period.
    fn period(&mut self, row: &StoredRow) {
        let (key, period) = match row {
            StoredRow::Xattr(period, ino, name, Some(_)) => (Key::Xattr(*ino, name.clone()), *period),
            StoredRow::Extent(period, ino, index, Some(_)) => (Key::Extent(*ino, *index), *period),
            StoredRow::Inode(..) | StoredRow::Entry(..) | StoredRow::Xattr(..) | StoredRow::Extent(..) => return,
        };
        let within = |at: &Seq| *at > period.from && *at < period.to;
        let removed = self.removed.get(&(key.clone(), period.branch)).and_then(|ats| ats.iter().copied().find(within));
        let cut = match key {
            Key::Extent(ino, index) => self
                .cut
                .get(&(period.branch, ino))
                .and_then(|cuts| cuts.iter().find(|(at, from)| *from <= index && within(at)).map(|(at, _)| *at)),
            Key::Inode(_) | Key::Entry(..) | Key::Xattr(..) => None,
        };
        if let Some(at) = removed.or(cut) {
            self.finding(Some(at), format!("{key}: should have ended at e{at} on branch {}", period.branch));
        }
    }

    fn sections(&mut self, read: &dyn ReadTxn) -> Result<()> {
        let mut wrong: BTreeSet<(usize, Table, BranchId)> = BTreeSet::new();
        let mut actual = std::mem::take(&mut self.actual);
        let held: HashSet<BranchId> = actual.keys().map(|(_, _, branch)| *branch).collect();
        for (place, hash) in &self.expected {
            if self.is_pruned(place.0) {
                continue;
            }
            match actual.remove(place) {
                Some(mut hashes) => {
                    if section(&mut hashes) != *hash {
                        wrong.insert(*place);
                    }
                }
                // The rows of a branch that was given up may be gone, all of them.
                None if self.given_up.contains(&place.2) && !held.contains(&place.2) => {}
                None => {
                    wrong.insert(*place);
                }
            }
        }
        wrong.extend(actual.into_keys().filter(|(link, ..)| !self.is_pruned(*link)));
        if wrong.is_empty() {
            return Ok(());
        }
        let suspects = self.suspects(read, &wrong)?;
        for place in wrong {
            let (link, table, branch) = place;
            let mut text = format!("{}: the {} are not what was recorded", self.stretch(link), table.as_str());
            if table != Table::Events && branch != BranchId::MAIN {
                text.push_str(&format!(" (branch {branch})"));
            }
            if let Some(keys) = suspects.get(&place) {
                text.push_str(&format!("; it is one of: {}", keys.join(", ")));
            }
            self.finding(self.ends.get(link).copied(), text);
        }
        Ok(())
    }

    /// Names what is in sections that do not fit, as far as they are short.
    fn suspects(
        &self,
        read: &dyn ReadTxn,
        wrong: &BTreeSet<(usize, Table, BranchId)>,
    ) -> Result<HashMap<(usize, Table, BranchId), Vec<String>>> {
        const SHOWN: usize = 5;
        let mut suspects: HashMap<_, Vec<String>> = HashMap::new();
        scan_records(read, &mut |found| {
            if let Found::Record { key, branch, at, .. } = found
                && let Some(link) = self.link_of(at)
                && wrong.contains(&(link, key.table(), branch))
            {
                suspects.entry((link, key.table(), branch)).or_default().push(format!("{key} at e{at}"));
            }
            Ok(())
        })?;
        for keys in suspects.values_mut() {
            if keys.len() > SHOWN {
                let more = keys.len() - SHOWN;
                keys.truncate(SHOWN);
                keys.push(format!("{more} more"));
            }
        }
        Ok(suspects)
    }

    /// Replays names: each event's effect is a row, and each row is some event's effect.
    fn names(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        for (change, ino) in std::mem::take(&mut self.named) {
            let expected = told.remove(&change);
            let (at, _, parent, name) = &change;
            // Before the first event there is nothing but the root; sweeping events name no names.
            if expected == Some(ino)
                || *at == Seq::ZERO
                || *at < self.pruned
                || (expected.is_none() && self.sweeping.contains(at))
            {
                continue;
            }
            let name = name.escape_ascii();
            let text = match expected {
                Some(_) => format!("e{at}: entry \"{name}\" of directory {parent} is not what the event says"),
                None => format!("e{at}: entry \"{name}\" of directory {parent} changes, but no event says so"),
            };
            self.finding(Some(*at), text);
        }
        let mut missing: Vec<_> = told.into_iter().collect();
        missing.sort_unstable();
        for ((at, branch, parent, name), ino) in missing {
            if at <= self.pruned {
                continue;
            }
            let explicit = || self.removed.contains_key(&(Key::Entry(parent, name.clone()), branch));
            if self.given_up.contains(&branch) || (ino.is_none() && explicit()) {
                continue;
            }
            let name = name.escape_ascii();
            self.finding(Some(at), format!("e{at}: entry \"{name}\" of directory {parent} has no row of this event"));
        }
    }

    // ---- tables that change ------------------------------------------------------------------

    fn processes(&mut self, read: &dyn ReadTxn) -> Result<()> {
        const PAGE: u64 = 10_000;
        let mut expected = std::mem::take(&mut self.processes);
        let last = read.counters()?.next_process.0.max(expected.keys().next_back().map_or(0, |id| id + 1));
        let (mut from, mut step) = (0, PAGE);
        while from < last {
            let page = read.processes(ProcId(from)..ProcId(last.min(from.saturating_add(step))))?;
            from = from.saturating_add(step);
            // A counter that was damaged leaves a gap that is not to be walked through.
            step = if page.is_empty() { step.saturating_mul(2) } else { PAGE };
            for row in page {
                let facts = encode::process_facts(&row);
                let Some(known) = expected.remove(&row.id.0) else {
                    self.finding(None, format!("process {}: its row was never recorded", row.id));
                    continue;
                };
                let all = known.iter().fold(0, |all, (facts, ..)| all | facts);
                let wrong = known.iter().find(|(facts, hash, _)| hash16(&encode::process(&row, *facts)) != *hash);
                if let Some((.., at)) = wrong {
                    let text =
                        format!("process {} (pid {}): its row is not what was recorded by e{at}", row.id, row.pid);
                    self.finding(Some(*at), text);
                } else if all != facts {
                    self.finding(None, format!("process {}: its row says what was never recorded", row.id));
                }
            }
        }
        for (id, known) in expected {
            self.finding(known.first().map(|(.., at)| *at), format!("process {id}: its row is missing"));
        }
        Ok(())
    }

    fn lines(&mut self, read: &dyn ReadTxn) -> Result<()> {
        let mut merges = BTreeSet::new();
        let branches = read.branches()?;
        for branch in &branches {
            merges.extend(read.merges(branch.id)?.iter().map(encode::merge));
        }
        let expected = std::mem::take(&mut self.branches);
        let found = branches.iter().map(|row| (row.id.0, encode::branch(row))).collect();
        self.compare("branch", expected, found, u64::to_string);
        let expected = std::mem::take(&mut self.txns);
        let found = read.transactions()?.iter().map(|row| (row.id.0, encode::txn(row))).collect();
        self.compare("transaction", expected, found, |id| format!("T{id}"));
        let expected = std::mem::take(&mut self.tags);
        let found = read.tags()?.into_iter().map(|row| (row.name.clone(), encode::tag(&row))).collect();
        self.compare("tag", expected, found, |name| name.escape_ascii().to_string());
        if merges != self.merges {
            self.finding(None, "merges: the rows are not what was recorded".to_owned());
        }
        for (key, expected) in std::mem::take(&mut self.settings) {
            let key = String::from_utf8_lossy(&key).into_owned();
            if read.setting(&key)? != expected {
                self.finding(None, format!("setting {key}: it is not what was recorded"));
            }
        }
        Ok(())
    }

    fn compare<K: Ord>(
        &mut self,
        what: &str,
        expected: BTreeMap<K, Vec<u8>>,
        mut found: BTreeMap<K, Vec<u8>>,
        show: impl Fn(&K) -> String,
    ) {
        for (key, bytes) in expected {
            match found.remove(&key) {
                Some(row) if row == bytes => {}
                Some(_) => self.finding(None, format!("{what} {}: its row is not what was recorded", show(&key))),
                None => self.finding(None, format!("{what} {}: its row is missing", show(&key))),
            }
        }
        for key in found.keys() {
            self.finding(None, format!("{what} {}: its row was never recorded", show(key)));
        }
    }
}
