//! `versions`: every version of everything, on every branch.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::content;
use super::scope::{Batches, Paths, Result, Row, Scope, Source, components, line};
use super::times;
use crate::engine::Engine;
use crate::store::query::{Cell, Rows, Scan, Table, Test};
use crate::store::{InodeRow, Period, ReadTxn};
use crate::types::{BranchId, Ino, Lineage, Seq, View};

pub(super) const NAME: &str = "versions";
pub(super) const COLUMNS: &[(&str, &str)] = &[
    ("path", "TEXT"),
    ("inode", "INTEGER"),
    ("branch", "TEXT"),
    ("valid_from", "INTEGER"),
    ("valid_to", "INTEGER"),
    ("time", "TEXT"),
    ("size", "INTEGER"),
    ("content_hash", "TEXT"),
    ("process", "INTEGER"),
    ("type", "TEXT"),
    ("mode", "INTEGER"),
    ("uid", "INTEGER"),
    ("gid", "INTEGER"),
    ("nlink", "INTEGER"),
    ("mtime", "TEXT"),
    ("target", "TEXT"),
];

const PATH: usize = 0;
const INODE: usize = 1;
const FROM: usize = 3;
const TIME: usize = 5;
const HASH: usize = 7;

pub(super) struct Versions(pub Arc<Scope>);

impl Table for Versions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn columns(&self) -> &'static [(&'static str, &'static str)] {
        COLUMNS
    }

    fn rows(&self, conditions: &[(usize, Test)]) -> f64 {
        let cost = |&(column, test): &(usize, Test)| match (column, test) {
            (INODE, Test::Eq) => 10.0,
            (PATH, Test::Eq) => 30.0,
            (FROM, Test::Eq) => 20.0,
            (FROM | TIME, Test::Ge | Test::Gt | Test::Le | Test::Lt) => 100_000.0,
            _ => 2_000_000.0,
        };
        conditions.iter().map(cost).fold(2_000_000.0, f64::min)
    }

    fn open(&self, scan: Scan) -> Result<Box<dyn Rows>> {
        let point = self.0.state(scan.as_of.as_ref())?.point;
        let everything = self.0.everything(point);
        let read = self.0.read()?;
        let candidates = candidates(&self.0, read.as_ref(), &scan, &everything, point)?;
        drop(read);
        let source = Pass { scan, point, everything, candidates, states: HashMap::new() };
        Ok(Box::new(Batches::new(&self.0, source)))
    }
}

/// Which inodes may have versions that match.
enum Candidates {
    These(VecDeque<Ino>),
    From(Ino),
}

fn candidates(scope: &Scope, read: &dyn ReadTxn, scan: &Scan, everything: &Lineage, point: Seq) -> Result<Candidates> {
    if let Some(ino) = scan.equal(INODE) {
        return Ok(Candidates::These(ino.as_number().map(Ino).into_iter().collect()));
    }
    if let Some(path) = scan.equal(PATH) {
        let found = path.as_bytes().map(|path| ever_at(read, everything, path)).transpose()?;
        return Ok(Candidates::These(found.unwrap_or_default().into()));
    }
    let Some((after, upto)) = stretch(read, scan, point)? else { return Ok(Candidates::From(Ino::ROOT)) };
    let mut found = BTreeSet::new();
    for branch in scope.engine.branches() {
        found.extend(read.touched(branch.id, after, upto).map_err(line)?.inodes);
    }
    Ok(Candidates::These(found.into_iter().collect()))
}

/// Every inode that was ever at a path, on any branch.
fn ever_at(read: &dyn ReadTxn, everything: &Lineage, path: &[u8]) -> Result<Vec<Ino>> {
    let Some(names) = components(path) else { return Ok(Vec::new()) };
    let mut at = BTreeSet::from([Ino::ROOT]);
    for name in names {
        let mut next = BTreeSet::new();
        for dir in at {
            let rows = read.entry_versions(everything, dir, name.as_bytes()).map_err(line)?;
            next.extend(rows.into_iter().filter_map(|row| row.ino));
        }
        at = next;
    }
    Ok(at.into_iter().collect())
}

/// The stretch of events `(after, upto]` in which versions that match begin; `None` for all.
fn stretch(read: &dyn ReadTxn, scan: &Scan, point: Seq) -> Result<Option<(Seq, Seq)>> {
    let (mut after, mut upto) = (Seq::ZERO, point);
    let mut bounded = false;
    for condition in &scan.conditions {
        let seq = match condition.column {
            FROM => condition.value.as_number().map(Seq),
            TIME => {
                let text = condition.value.as_bytes().and_then(|text| std::str::from_utf8(text).ok());
                match text.and_then(times::floor) {
                    // The last event at or before the instant: what begins later begins after it.
                    Some(time) => Some(read.seq_at(time).map_err(line)?.map_or(Seq::ZERO, |(seq, _)| seq)),
                    None => None,
                }
            }
            _ => None,
        };
        let Some(seq) = seq else { continue };
        let before = Seq(seq.0.saturating_sub(1));
        match condition.test {
            Test::Eq => {
                after = after.max(before);
                upto = upto.min(seq);
            }
            Test::Gt | Test::Ge => after = after.max(before),
            Test::Lt | Test::Le => upto = upto.min(seq),
            Test::Like | Test::Glob => continue,
        }
        bounded = true;
    }
    Ok(bounded.then_some((after, upto)))
}

struct Pass {
    scan: Scan,
    point: Seq,
    everything: Lineage,
    candidates: Candidates,
    /// Lineages by branch and point, for paths as they were.
    states: HashMap<(BranchId, Seq), Lineage>,
}

impl Source for Pass {
    fn fill(&mut self, scope: &Scope, read: &dyn ReadTxn, out: &mut VecDeque<Row>) -> Result<bool> {
        let ino = match &mut self.candidates {
            Candidates::These(list) => list.pop_front(),
            Candidates::From(next) => {
                let ino = *next;
                *next = Ino(ino.0 + 1);
                (ino < read.counters().map_err(line)?.next_ino).then_some(ino)
            }
        };
        let Some(ino) = ino else { return Ok(false) };
        for version in read.versions(&self.everything, ino).map_err(line)? {
            if let Some(inode) = version.row.filter(|inode| inode.nlink > 0) {
                let row = self.row(scope, read, ino, version.period, &inode)?;
                out.push_back(row);
            }
        }
        Ok(true)
    }
}

impl Pass {
    fn lineage(&mut self, engine: &Engine, period: Period) -> Result<Lineage> {
        let key = (period.branch, period.from);
        if let Some(known) = self.states.get(&key) {
            return Ok(known.clone());
        }
        let lineage = engine.lineage(View::as_of(period.branch, period.from)).map_err(line)?;
        if self.states.len() > 1000 {
            self.states.clear();
        }
        self.states.insert(key, lineage.clone());
        Ok(lineage)
    }

    fn row(&mut self, scope: &Scope, read: &dyn ReadTxn, ino: Ino, period: Period, inode: &InodeRow) -> Result<Row> {
        let (path, hash) = if self.scan.uses(PATH) || self.scan.uses(HASH) {
            let lineage = self.lineage(&scope.engine, period)?;
            let path = Paths::default().inode(read, &lineage, ino)?;
            let hash = match self.scan.uses(HASH) {
                true => content::hash(read, &lineage, ino, inode)?,
                false => Cell::Null,
            };
            (path.map_or(Cell::Null, |path| Cell::bytes(&path)), hash)
        } else {
            (Cell::Null, Cell::Null)
        };
        let time = match self.scan.uses(TIME) {
            true => read.event(period.from).map_err(line)?.map(|event| times::print(event.time)),
            false => None,
        };
        Ok(vec![
            path,
            Cell::number(ino.0),
            scope.branch(period.branch),
            Cell::number(period.from.0),
            if period.to > self.point { Cell::Null } else { Cell::number(period.to.0) },
            time.into(),
            Cell::number(inode.size),
            hash,
            if inode.process.0 == 0 { Cell::Null } else { Cell::number(inode.process.0) },
            inode.kind.as_str().into(),
            Cell::Int(i64::from(inode.perm)),
            inode.uid.into(),
            inode.gid.into(),
            inode.nlink.into(),
            times::print(inode.mtime).into(),
            content::target(inode),
        ])
    }
}
