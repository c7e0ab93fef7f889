//! A small world for tests of the upper layers: an engine on a real database, driven by paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use stonefs::engine::{Engine, FsError, Options, RenameMode, XattrMode};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Store, TxnKind, TxnRow};
use stonefs::types::{BranchId, Caller, Clock, FixedClock, Ino, Kind, SetAttr, Timestamp, View};
use stonefs::version::conflict::{Conflict, ConflictKind};
use stonefs::version::txn::{self, BeginOptions, CommitOptions, CommitOutcome};
use stonefs::version::{RefContext, diff, resolve};

pub const MAIN: View = View { branch: BranchId::MAIN, at: stonefs::types::At::Live };
pub const START: Timestamp = Timestamp(1_795_340_400_000_000_000); // 2026-11-22T09:40:00Z

pub struct World {
    pub engine: Arc<Engine>,
    pub clock: Arc<FixedClock>,
    pub caller: Caller,
    _dir: Option<tempfile::TempDir>,
}

impl World {
    pub fn new() -> World {
        World::with(Options::default())
    }

    /// As the new world, or one in which every commit is written ahead of its event.
    pub fn either(ahead: bool) -> World {
        World::with(if ahead { Options { stage_min: 1, ..Options::default() } } else { Options::default() })
    }

    fn with(options: Options) -> World {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(FixedClock::new(START));
        let init = InitOptions { now: START, uid: 0, gid: 0, settings: Vec::new() };
        let store = SqliteStore::create(&dir.path().join("w.stone"), &init).unwrap();
        let engine = Engine::open(Arc::new(store), clock.clone(), options).unwrap();
        World { engine, clock, caller: Caller::default(), _dir: Some(dir) }
    }

    /// A world over a store that the test made itself.
    pub fn over(store: Arc<dyn Store>, options: Options) -> World {
        let clock = Arc::new(FixedClock::new(START));
        let engine = Engine::open(store, clock.clone(), options).unwrap();
        World { engine, clock, caller: Caller::default(), _dir: None }
    }

    pub fn tick(&self, seconds: i64) {
        self.clock.advance(seconds * 1_000_000_000);
    }

    pub fn context(&self) -> RefContext {
        RefContext { branch: BranchId::MAIN, zone: jiff::tz::TimeZone::UTC, now: self.clock.now() }
    }

    pub fn at(&self, reference: &str) -> View {
        resolve(&self.engine, reference.as_bytes(), &self.context()).unwrap()
    }

    pub fn now(&self) -> View {
        self.at("now")
    }

    /// The directory and the name of a path.
    fn split<'p>(&self, view: View, path: &'p str) -> Result<(Ino, &'p [u8]), FsError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.engine.resolve(view, format!("/{dir}").as_bytes())?.ino, name.as_bytes()))
    }

    pub fn ino(&self, view: View, path: &str) -> Result<Ino, FsError> {
        Ok(self.engine.resolve(view, format!("/{path}").as_bytes())?.ino)
    }

    pub fn mkdir(&self, view: View, path: &str) -> Result<(), FsError> {
        let (dir, name) = self.split(view, path)?;
        self.engine.mkdir(view, dir, name, 0o755, 0, &self.caller).map(drop)
    }

    /// Creates a file or replaces its content, as `echo > path` does.
    pub fn write(&self, view: View, path: &str, content: &str) -> Result<(), FsError> {
        let (dir, name) = self.split(view, path)?;
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let handle = match self.engine.lookup(view, dir, name) {
            Ok(attr) if attr.kind == Kind::Dir => return Err(FsError::IsDir),
            Ok(attr) => self.engine.open_file(view, attr.ino, flags, &self.caller)?,
            Err(FsError::NotFound) => self.engine.create(view, dir, name, 0o644, 0, flags, &self.caller)?.1,
            Err(error) => return Err(error),
        };
        self.engine.write(handle, 0, content.as_bytes(), false, &self.caller)?;
        self.engine.release(handle)
    }

    /// Saves as editors do: a new file, renamed over the old one.
    pub fn save(&self, view: View, path: &str, content: &str) -> Result<(), FsError> {
        let temporary = format!("{path}~");
        self.write(view, &temporary, content)?;
        self.rename(view, &temporary, path)
    }

    pub fn read(&self, view: View, path: &str) -> Result<String, FsError> {
        let ino = self.ino(view, path)?;
        Ok(String::from_utf8(self.engine.read_at(view, ino, 0, 1 << 20)?).unwrap())
    }

    pub fn rename(&self, view: View, old: &str, new: &str) -> Result<(), FsError> {
        let ((dir, name), (dir2, name2)) = (self.split(view, old)?, self.split(view, new)?);
        self.engine.rename(view, dir, name, dir2, name2, RenameMode::Replace, &self.caller)
    }

    pub fn link(&self, view: View, old: &str, new: &str) -> Result<(), FsError> {
        let (ino, (dir, name)) = (self.ino(view, old)?, self.split(view, new)?);
        self.engine.link(view, ino, dir, name, &self.caller).map(drop)
    }

    pub fn symlink(&self, view: View, target: &str, path: &str) -> Result<(), FsError> {
        let (dir, name) = self.split(view, path)?;
        self.engine.symlink(view, dir, name, target.as_bytes(), &self.caller).map(drop)
    }

    pub fn rm(&self, view: View, path: &str) -> Result<(), FsError> {
        let (dir, name) = self.split(view, path)?;
        self.engine.unlink(view, dir, name, &self.caller)
    }

    pub fn rmdir(&self, view: View, path: &str) -> Result<(), FsError> {
        let (dir, name) = self.split(view, path)?;
        self.engine.rmdir(view, dir, name, &self.caller)
    }

    pub fn chmod(&self, view: View, path: &str, perm: u16) -> Result<(), FsError> {
        let set = SetAttr { perm: Some(perm), ..SetAttr::default() };
        self.engine.setattr(view, self.ino(view, path)?, &set, None, &self.caller).map(drop)
    }

    pub fn setxattr(&self, view: View, path: &str, name: &str, value: &str) -> Result<(), FsError> {
        let ino = self.ino(view, path)?;
        self.engine.setxattr(view, ino, name.as_bytes(), value.as_bytes(), XattrMode::Set, &self.caller)
    }

    /// Everything in a view: path to `TYPE MODE NLINK CONTENT`, and extended attributes.
    pub fn tree(&self, view: View) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        self.walk(view, Ino::ROOT, "", &mut tree);
        tree
    }

    fn walk(&self, view: View, dir: Ino, path: &str, tree: &mut BTreeMap<String, String>) {
        for entry in self.engine.list(view, dir).unwrap().iter() {
            let path = format!("{path}/{}", String::from_utf8_lossy(entry.name.as_bytes()));
            let attr = self.engine.getattr(view, entry.ino).unwrap();
            let content = match attr.kind {
                Kind::File => {
                    String::from_utf8_lossy(&self.engine.read_at(view, entry.ino, 0, 1 << 20).unwrap()).into_owned()
                }
                Kind::Symlink => String::from_utf8_lossy(&self.engine.readlink(view, entry.ino).unwrap()).into_owned(),
                _ => String::new(),
            };
            let mut shown = format!("{} {:o} {} {content}", attr.kind.as_str(), attr.perm, attr.nlink);
            for name in self.engine.listxattr(view, entry.ino).unwrap() {
                let value = self.engine.getxattr(view, entry.ino, &name).unwrap();
                shown.push_str(&format!(" {}={}", name.escape_ascii(), value.escape_ascii()));
            }
            tree.insert(path[1..].to_owned(), shown);
            if attr.kind == Kind::Dir {
                self.walk(view, entry.ino, &path, tree);
            }
        }
    }

    /// Names in a view, with contents of files.
    pub fn files(&self, view: View) -> String {
        let tree = self.tree(view);
        let words = tree.iter().map(|(path, what)| match what.strip_prefix("dir ") {
            Some(_) => format!("{path}/"),
            None => format!("{path}={}", what.splitn(4, ' ').nth(3).unwrap_or_default()),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    pub fn diff(&self, before: View, after: View) -> String {
        let changes = diff::diff(&self.engine, before, after, None).unwrap();
        let lines = changes.iter().map(|change| match &change.old_path {
            Some(old) => format!("{} {old} -> {}", change.kind.letter(), change.path),
            None => format!("{} {}", change.kind.letter(), change.path),
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    pub fn begin_on(&self, target: BranchId) -> TxnRow {
        let options = BeginOptions {
            target,
            kind: TxnKind::Begin,
            serializable: false,
            message: String::new(),
            label: String::new(),
        };
        txn::begin(&self.engine, &options, &self.caller).unwrap()
    }

    pub fn begin(&self) -> (TxnRow, View) {
        let row = self.begin_on(BranchId::MAIN);
        let view = txn::view(&row);
        (row, view)
    }

    pub fn commit(&self, row: &TxnRow) -> CommitOutcome {
        txn::commit(&self.engine, row.id, &CommitOptions::default(), &self.caller).unwrap()
    }

    pub fn commits(&self, row: &TxnRow) -> String {
        match self.commit(row) {
            CommitOutcome::Committed { summary, .. } => summary.to_string(),
            CommitOutcome::Conflicted { conflicts, .. } => panic!("{conflicts:?}"),
        }
    }

    pub fn conflicts(&self, row: &TxnRow) -> Vec<(ConflictKind, String)> {
        match self.commit(row) {
            CommitOutcome::Committed { .. } => Vec::new(),
            CommitOutcome::Conflicted { conflicts, .. } => kinds(&conflicts),
        }
    }

    pub fn branch(&self, name: &str, from: View) -> View {
        let row = stonefs::version::branch::create(&self.engine, name.as_bytes(), from, &self.caller).unwrap();
        View::live(row.id)
    }

    /// Whether everything in the database fits together.
    pub fn check(&self) {
        self.engine.sync().unwrap();
        let findings = self.engine.store().check().unwrap();
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

pub fn kinds(conflicts: &[Conflict]) -> Vec<(ConflictKind, String)> {
    conflicts.iter().map(|conflict| (conflict.kind, conflict.path.to_string())).collect()
}
