//! What all tables of one query share: the engine, the point at which it began, and references.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Asker;
use super::times;
use crate::engine::Engine;
use crate::store::query::{Cell, Rows};
use crate::store::{EntryRow, ReadTxn};
use crate::types::{At, BranchId, Ino, Lineage, Name, Segment, Seq, Timestamp, View};
use crate::version::point::{self, Point};
use crate::version::{RefContext, refs};

pub(super) type Result<T> = std::result::Result<T, String>;

/// Turns any error into the line that the user is told.
pub(super) fn line(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A state that tables can show.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// How its rows are found.
    pub lineage: Lineage,
    /// The point of it: nothing later shows.
    pub point: Seq,
    /// Whether it is the present.
    pub live: bool,
}

/// What one query sees.
pub(super) struct Scope {
    pub engine: Arc<Engine>,
    context: RefContext,
    default: State,
    known: Mutex<HashMap<Vec<u8>, State>>,
    names: HashMap<BranchId, Cell>,
}

impl Scope {
    pub fn new(engine: Arc<Engine>, asker: &Asker) -> Result<Scope> {
        let point = engine.seal(Some(asker.branch)).map_err(line)?;
        let point = engine.point().0.max(point);
        engine.flush(point).map_err(line)?;
        let context = RefContext { branch: asker.branch, zone: asker.zone.clone(), now: asker.now };
        // As of the point, and not live: cursors of one query open their snapshots one by one.
        let lineage = engine.lineage(View::as_of(asker.branch, point)).map_err(line)?;
        let txns: HashMap<BranchId, String> =
            engine.transactions().into_iter().map(|txn| (txn.branch, format!("T{}", txn.id))).collect();
        let names = engine
            .branches()
            .into_iter()
            .map(|branch| {
                let own = branch.name.map(|name| Cell::bytes(&name));
                (branch.id, own.or_else(|| Some(txns.get(&branch.id)?.clone().into())).unwrap_or(Cell::Null))
            })
            .collect();
        let live = State { lineage, point, live: true };
        let mut scope = Scope { engine, context, default: live, known: Mutex::new(HashMap::new()), names };
        if let Some(reference) = &asker.at {
            scope.default = scope.resolve(reference)?;
        }
        Ok(scope)
    }

    /// The state that a table is asked for.
    pub fn state(&self, as_of: Option<&Cell>) -> Result<State> {
        let Some(cell) = as_of.filter(|cell| **cell != Cell::Null) else { return Ok(self.default.clone()) };
        let number = cell.as_number().map(|seq| format!("e{seq}"));
        let reference = match &number {
            Some(event) => event.as_bytes(),
            None => cell.as_bytes().ok_or("a state is named by a reference, as 'e123' or '10:40'")?,
        };
        if let Some(known) = self.known.lock().get(reference) {
            return Ok(known.clone());
        }
        let state = self.resolve(reference)?;
        self.known.lock().insert(reference.to_vec(), state.clone());
        Ok(state)
    }

    fn resolve(&self, reference: &[u8]) -> Result<State> {
        let view = refs::resolve(&self.engine, reference, &self.context).map_err(line)?;
        let (point, live) = match view.at {
            At::AsOf(seq) => (seq, false),
            At::Live => (self.default.point, true),
        };
        let lineage = self.engine.lineage(View::as_of(view.branch, point)).map_err(line)?;
        Ok(State { lineage, point, live })
    }

    /// A branch's name; `T7` for a transaction's own.
    pub fn branch(&self, id: BranchId) -> Cell {
        self.names.get(&id).cloned().unwrap_or(Cell::Null)
    }

    /// All branches up to a point, for tables that show every version.
    pub fn everything(&self, point: Seq) -> Lineage {
        let mut branches: Vec<BranchId> = self.names.keys().copied().collect();
        branches.sort_unstable_by(|a, b| b.cmp(a));
        Lineage(branches.into_iter().map(|branch| Segment { branch, cut: point }).collect())
    }

    pub fn read(&self) -> Result<Box<dyn ReadTxn + '_>> {
        self.engine.store().read().map_err(line)
    }

    /// `instant('10:40')`: a point in time as tables print it.
    pub fn instant(&self, cell: Option<&Cell>) -> Result<Cell> {
        let Some(text) = cell.and_then(Cell::as_bytes) else { return Ok(Cell::Null) };
        let shown = || String::from_utf8_lossy(text).into_owned();
        let time = match point::parse(text).map_err(|error| error.0)? {
            Some(parsed @ (Point::Event(_) | Point::Txn(_) | Point::BeforeTxn(_))) => {
                let _ = parsed;
                let view = refs::resolve(&self.engine, text, &self.context).map_err(line)?;
                let At::AsOf(seq) = view.at else { return Err(format!("{} is no instant", shown())) };
                self.time_of(seq)?
            }
            Some(parsed) => point::instant(parsed, &self.context.zone, self.context.now).map_err(|error| error.0)?,
            None => {
                let tag = refs::tag(&self.engine, text).ok_or_else(|| format!("{} is no point in time", shown()))?;
                self.time_of(tag.seq)?
            }
        };
        Ok(time.map(times::print).into())
    }

    fn time_of(&self, seq: Seq) -> Result<Option<Timestamp>> {
        Ok(self.read()?.event(seq).map_err(line)?.map(|event| event.time))
    }
}

/// Paths of directories in one state, each looked up once.
#[derive(Default)]
pub(super) struct Paths(HashMap<Ino, Option<Vec<u8>>>);

/// Deeper than any path that the kernel could name; stops at a cycle of a damaged database.
const DEPTH_MAX: usize = 4096;

impl Paths {
    /// A directory's path without a final slash (the root's is empty); `None` where it has none.
    pub fn dir(&mut self, read: &dyn ReadTxn, lineage: &Lineage, dir: Ino) -> Result<Option<Vec<u8>>> {
        let mut missing = Vec::new();
        let mut at = dir;
        let mut path = loop {
            if at == Ino::ROOT {
                break Some(Vec::new());
            }
            if let Some(known) = self.0.get(&at) {
                break known.clone();
            }
            let Some(entry) = read.names_of(lineage, at).map_err(line)?.into_iter().next() else { break None };
            if missing.len() >= DEPTH_MAX {
                break None;
            }
            at = entry.parent;
            missing.push(entry);
        };
        for entry in missing.into_iter().rev() {
            path = path.map(|path| join(&path, &entry.name));
            self.0.insert(entry.ino, path.clone());
        }
        Ok(path)
    }

    /// The path of an entry.
    pub fn entry(&mut self, read: &dyn ReadTxn, lineage: &Lineage, entry: &EntryRow) -> Result<Option<Vec<u8>>> {
        Ok(self.dir(read, lineage, entry.parent)?.map(|dir| join(&dir, &entry.name)))
    }

    /// One path of an inode.
    pub fn inode(&mut self, read: &dyn ReadTxn, lineage: &Lineage, ino: Ino) -> Result<Option<Vec<u8>>> {
        if ino == Ino::ROOT {
            return Ok(Some(b"/".to_vec()));
        }
        match read.names_of(lineage, ino).map_err(line)?.into_iter().next() {
            Some(entry) => self.entry(read, lineage, &entry),
            None => Ok(None),
        }
    }
}

/// Appends a name to a directory's path (without a final slash).
pub(super) fn join(dir: &[u8], name: &Name) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.as_bytes().len());
    path.extend_from_slice(dir);
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    path
}

/// The names in a path of the tree; `None` where it is none (`//`, `.`, no leading slash).
pub(super) fn components(path: &[u8]) -> Option<Vec<Name>> {
    let rest = path.strip_prefix(b"/")?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    rest.split(|byte| *byte == b'/').map(|name| Name::new(name).ok()).collect()
}

/// Resolves a path in a state; `None` where nothing is there.
pub(super) fn resolve(read: &dyn ReadTxn, lineage: &Lineage, path: &[u8]) -> Result<Option<(Ino, Option<EntryRow>)>> {
    let Some(names) = components(path) else { return Ok(None) };
    let mut at = Ino::ROOT;
    let mut last = None;
    for name in names {
        let Some(entry) = read.entry(lineage, at, name.as_bytes()).map_err(line)? else { return Ok(None) };
        at = entry.ino;
        last = Some(entry);
    }
    Ok(Some((at, last)))
}

/// A row of a table.
pub(super) type Row = Vec<Cell>;

/// What fills a table's rows, a batch at a time, each from a snapshot of its own.
pub(super) trait Source {
    /// Adds rows; returns whether there may be more.
    fn fill(&mut self, scope: &Scope, read: &dyn ReadTxn, out: &mut VecDeque<Row>) -> Result<bool>;
}

/// A pass over a table, in batches.
pub(super) struct Batches<S> {
    scope: Arc<Scope>,
    source: S,
    ready: VecDeque<Row>,
    done: bool,
}

impl<S: Source> Batches<S> {
    pub fn new(scope: &Arc<Scope>, source: S) -> Batches<S> {
        Batches { scope: Arc::clone(scope), source, ready: VecDeque::new(), done: false }
    }
}

impl<S: Source> Rows for Batches<S> {
    fn next(&mut self) -> Result<Option<Row>> {
        const BATCH: usize = 256;
        if self.ready.is_empty() && !self.done {
            let read = self.scope.engine.store().read().map_err(line)?;
            while self.ready.len() < BATCH && !self.done {
                self.done = !self.source.fill(&self.scope, read.as_ref(), &mut self.ready)?;
            }
        }
        Ok(self.ready.pop_front())
    }
}
