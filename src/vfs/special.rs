//! The virtual directories: past states, branches and open transactions, resolved at the root of
//! the mount and never listed there, so that `find`, `tar` and `rm -rf` do not walk into them.

use std::time::Duration;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::node::{NodeId, Slot};
use super::refs;
use super::session::{Entry, History, SHORT, Tree};
use crate::engine::{Engine, FsError, Result};
use crate::store::{EventFilter, TxnRow, TxnState};
use crate::types::{At, Attr, BranchId, Caller, Ino, Kind, TxnId, View};
use crate::version::branch as version;

/// The names of the virtual directories, from the database's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialNames {
    /// Past states (`history_dir`, `.history`).
    pub history: Vec<u8>,
    /// Branches (`branches_dir`, `.branches`).
    pub branches: Vec<u8>,
    /// Open transactions (`tx_dir`, `.tx`).
    pub transactions: Vec<u8>,
}

impl SpecialNames {
    pub(super) fn read(engine: &Engine) -> Result<SpecialNames> {
        let txn = engine.store().read()?;
        let name = |key: &str, usual: &str| -> Result<Vec<u8>> {
            Ok(txn.setting(key)?.filter(|name| !name.is_empty()).unwrap_or_else(|| usual.as_bytes().to_vec()))
        };
        Ok(SpecialNames {
            history: name("history_dir", ".history")?,
            branches: name("branches_dir", ".branches")?,
            transactions: name("tx_dir", ".tx")?,
        })
    }

    fn find(&self, name: &[u8]) -> Option<Special> {
        if name == self.history {
            Some(Special::History)
        } else if name == self.branches {
            Some(Special::Branches)
        } else if name == self.transactions {
            Some(Special::Transactions)
        } else {
            None
        }
    }
}

/// A virtual directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Special {
    /// `/.history`.
    History,
    /// `/.branches`.
    Branches,
    /// `/.tx`.
    Transactions,
    /// `DIR/.history`: past states of one directory, wherever it stood.
    HistoryOf(BranchId, Ino),
    /// `/.tx/ID/.conflicts/PATH`: what a merge could not decide; the path by its number in the table.
    Conflicts(TxnId, u32),
}

impl Special {
    /// Why nothing can be changed in it.
    pub(super) fn refusal(self) -> FsError {
        match self {
            Special::History | Special::HistoryOf(..) => FsError::ReadOnly,
            Special::Branches | Special::Transactions => FsError::NotPermitted,
            Special::Conflicts(..) => FsError::ReadOnly,
        }
    }
}

/// Gives numbers to the virtual directories.
#[derive(Default)]
pub(super) struct Specials(RwLock<Table>);

#[derive(Default)]
struct Table {
    specials: Vec<Special>,
    numbers: FxHashMap<Special, Ino>,
    paths: Vec<Vec<u8>>,
}

const FIXED: u64 = 4;

impl Specials {
    pub(super) fn get(&self, ino: Ino) -> Option<Special> {
        match ino.0 {
            1 => Some(Special::History),
            2 => Some(Special::Branches),
            3 => Some(Special::Transactions),
            number => self.0.read().specials.get(number.checked_sub(FIXED)? as usize).copied(),
        }
    }

    fn number(&self, special: Special) -> Ino {
        match special {
            Special::History => Ino(1),
            Special::Branches => Ino(2),
            Special::Transactions => Ino(3),
            Special::HistoryOf(..) | Special::Conflicts(..) => {
                let mut table = self.0.write();
                let next = Ino(table.specials.len() as u64 + FIXED);
                let ino = *table.numbers.entry(special).or_insert(next);
                if ino == next {
                    table.specials.push(special);
                }
                ino
            }
        }
    }

    /// The directory of a path's conflicts.
    fn conflicts(&self, txn: TxnId, path: &[u8]) -> Special {
        let mut table = self.0.write();
        let known = table.paths.iter().position(|known| known == path);
        let index = known.unwrap_or_else(|| {
            table.paths.push(path.to_vec());
            table.paths.len() - 1
        });
        Special::Conflicts(txn, index as u32)
    }

    fn path(&self, index: u32) -> Vec<u8> {
        self.0.read().paths.get(index as usize).cloned().unwrap_or_default()
    }
}

/// Where a merge's conflicts are found in its transaction.
const CONFLICTS: &[u8] = b".conflicts";
const SIDES: [&[u8]; 3] = [b"base", b"ours", b"theirs"];

/// Newest points that a listing of past states shows.
const LISTED_EVENTS: usize = 16;
const LISTED_COMMITS: usize = 64;

impl Tree<'_> {
    /// The virtual directory that a name in the root of the mount stands for.
    pub(super) fn special_name(&self, parent: NodeId, name: &[u8]) -> Option<Special> {
        if parent == NodeId::ROOT { self.session.vfs.names.find(name) } else { None }
    }

    /// The history of a directory, where the mount offers it everywhere.
    pub(super) fn history_name(&self, view: View, dir: Ino, name: &[u8]) -> Option<Special> {
        let everywhere = self.session.options.history == History::Everywhere && view.at == At::Live;
        (everywhere && name == self.session.vfs.names.history).then_some(Special::HistoryOf(view.branch, dir))
    }

    /// The attributes of a virtual directory: its owner is the tree's, its time the last event's.
    pub(super) fn special_attr(&self, special: Special) -> Result<Attr> {
        let root = self.engine().getattr(*self.live, Ino::ROOT)?;
        let (_, now) = self.engine().point();
        let perm = match special {
            Special::History | Special::HistoryOf(..) | Special::Transactions | Special::Conflicts(..) => 0o555,
            Special::Branches if self.session.options.read_only => 0o555,
            Special::Branches => 0o755,
        };
        let attr = Attr {
            ino: self.session.specials.number(special),
            kind: Kind::Dir,
            perm,
            nlink: 2,
            size: 0,
            blocks: 0,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            ..root
        };
        Ok(self.shown(attr))
    }

    pub(super) fn special_entry(&self, special: Special) -> Result<Entry> {
        let attr = self.special_attr(special)?;
        let node = NodeId::new(Slot::SPECIAL, attr.ino);
        self.session.nodes.looked_up(node);
        Ok(Entry { node, generation: 0, attr, name_for: SHORT, attr_for: SHORT })
    }

    /// Looks a name up in a virtual directory.
    pub(super) fn special_lookup(&self, special: Special, name: &[u8], caller: &Caller) -> Result<Entry> {
        match special {
            Special::History => self.past(self.live.branch, name, Ino::ROOT),
            Special::HistoryOf(branch, dir) => self.past(branch, name, dir),
            Special::Branches => {
                let row = self.engine().branch_named(name).filter(|row| row.dropped.is_none());
                self.view_root(View::live(row.ok_or(FsError::NotFound)?.id), None, Ino::ROOT, SHORT)
            }
            Special::Conflicts(txn, path) => self.conflict(txn, &self.session.specials.path(path), name),
            Special::Transactions => {
                let row = self.transaction(name, caller)?;
                self.view_root(View::live(row.branch), Some(row.uid), Ino::ROOT, SHORT)
            }
        }
    }

    fn past(&self, branch: BranchId, name: &[u8], dir: Ino) -> Result<Entry> {
        let view = refs::resolve_past(&self.session.vfs, name, branch)?;
        let name_for = if refs::is_fixed(name) { SHORT } else { Duration::ZERO };
        self.view_root(view, None, dir, name_for)
    }

    /// An open transaction, for its owner and root.
    fn transaction(&self, name: &[u8], caller: &Caller) -> Result<TxnRow> {
        let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        let number: u64 = text.strip_prefix('T').unwrap_or(text).parse().map_err(|_| FsError::NotFound)?;
        let row = self.engine().transactions().into_iter().find(|row| row.id.0 == number && is_open(row));
        row.filter(|row| caller.uid == 0 || caller.uid == row.uid).ok_or(FsError::NotFound)
    }

    /// The conflicts of the transaction whose root a directory is.
    pub(super) fn conflicts_name(&self, parent: NodeId, view: View, name: &[u8]) -> Option<Special> {
        if name != CONFLICTS || parent.ino() != Ino::ROOT {
            return None;
        }
        self.session.slots.get(parent.slot())?.owner?;
        let row = self.engine().transactions().into_iter().find(|row| row.branch == view.branch)?;
        let txn = crate::version::merge::conflicts(self.engine(), row.id).ok().filter(|all| !all.is_empty());
        txn.map(|_| self.session.specials.conflicts(row.id, b""))
    }

    /// A name below `.conflicts`: a directory on the way to a path, or one of the three versions.
    fn conflict(&self, txn: TxnId, at: &[u8], name: &[u8]) -> Result<Entry> {
        let conflicts = crate::version::merge::conflicts(self.engine(), txn).map_err(refs::meaning)?;
        let here = conflicts.iter().find(|conflict| conflict.path.as_bytes() == at);
        if let Some(conflict) = here
            && let Some(index) = SIDES.iter().position(|side| *side == name)
        {
            let [base, ours, theirs] = [&conflict.base, &conflict.ours, &conflict.theirs];
            let side = [base, ours, theirs].into_iter().nth(index).and_then(Option::as_ref).ok_or(FsError::NotFound)?;
            let view = refs::conflict_views(self.engine(), txn)?.into_iter().nth(index).ok_or(FsError::NotFound)?;
            let slot = self.session.slots.obtain(view, None, &self.session.nodes)?;
            let attr = self.engine().getattr(view, side.ino)?;
            return self.entry(slot, view, attr, SHORT);
        }
        let path = [at, b"/", name].concat();
        if conflicts.iter().any(|conflict| is_at_or_below(conflict.path.as_bytes(), &path)) {
            return self.special_entry(self.session.specials.conflicts(txn, &path));
        }
        Err(FsError::NotFound)
    }

    fn conflict_names(&self, txn: TxnId, at: &[u8]) -> Result<Vec<Vec<u8>>> {
        let conflicts = crate::version::merge::conflicts(self.engine(), txn).map_err(refs::meaning)?;
        let mut names = std::collections::BTreeSet::new();
        for conflict in &conflicts {
            let path = conflict.path.as_bytes();
            if path == at {
                let sides = [&conflict.base, &conflict.ours, &conflict.theirs].into_iter().zip(SIDES);
                names.extend(sides.filter(|(side, _)| side.is_some()).map(|(_, name)| name.to_vec()));
            } else if let Some(rest) = path.strip_prefix(at).and_then(|rest| rest.strip_prefix(b"/")) {
                names.extend(rest.split(|byte| *byte == b'/').next().map(<[u8]>::to_vec));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The root of a view inside this mount.
    fn view_root(&self, view: View, owner: Option<u32>, dir: Ino, name_for: Duration) -> Result<Entry> {
        let slot = self.session.slots.obtain(view, owner, &self.session.nodes)?;
        let attr = self.engine().getattr(view, dir)?;
        if attr.kind != Kind::Dir {
            return Err(FsError::NotFound);
        }
        let attr = self.guarded(NodeId::new(slot, dir), attr);
        self.entry(slot, view, attr, name_for)
    }

    /// Closes the root of a transaction's view to everybody but its owner.
    pub(super) fn guarded(&self, node: NodeId, mut attr: Attr) -> Attr {
        if node.ino() != Ino::ROOT || node.slot() == Slot::LIVE {
            return attr;
        }
        if let Some(owner) = self.session.slots.get(node.slot()).and_then(|bound| bound.owner) {
            let class = if attr.uid == owner { attr.perm >> 6 } else { attr.perm };
            attr.perm = (class & 0o7) << 6;
            attr.uid = owner;
        }
        attr
    }

    /// The names that a listing of a virtual directory shows.
    pub(super) fn special_names(&self, special: Special, caller: &Caller) -> Result<Vec<Vec<u8>>> {
        let engine = self.engine();
        Ok(match special {
            Special::History | Special::HistoryOf(..) => {
                let mut names: Vec<Vec<u8>> = engine.tags().into_iter().map(|tag| tag.name).collect();
                let transactions = engine.transactions();
                let commits = transactions.iter().rev().filter(|row| row.state == TxnState::Committed);
                names.extend(commits.take(LISTED_COMMITS).map(|row| format!("T{}", row.id).into_bytes()));
                let filter = EventFilter {
                    lineage: engine.lineage(*self.live)?.0.to_vec(),
                    descending: true,
                    limit: Some(LISTED_EVENTS),
                    ..EventFilter::default()
                };
                let events = engine.store().read()?.events(&filter)?;
                names.extend(events.iter().map(|event| format!("e{}", event.seq).into_bytes()));
                names
            }
            Special::Conflicts(txn, path) => self.conflict_names(txn, &self.session.specials.path(path))?,
            Special::Branches => {
                let branches = engine.branches().into_iter().filter(|row| row.dropped.is_none());
                branches.filter_map(|row| row.name).collect()
            }
            Special::Transactions => {
                let open = engine.transactions().into_iter().filter(is_open);
                let mine = open.filter(|row| caller.uid == 0 || caller.uid == row.uid);
                mine.map(|row| row.id.to_string().into_bytes()).collect()
            }
        })
    }

    /// Creates a branch from the live one by `mkdir /.branches/NAME`.
    pub(super) fn create_branch(&self, name: &[u8], caller: &Caller) -> Result<Entry> {
        if self.session.options.read_only || self.session.options.others_read_only {
            return Err(FsError::ReadOnly);
        }
        let row = version::create(self.engine(), name, *self.live, caller).map_err(refs::meaning)?;
        self.view_root(View::live(row.id), None, Ino::ROOT, SHORT)
    }

    /// Drops a branch by `rmdir /.branches/NAME`, where `stone branch -d` would.
    pub(super) fn drop_branch(&self, name: &[u8], caller: &Caller) -> Result<()> {
        if self.session.options.read_only || self.session.options.others_read_only {
            return Err(FsError::ReadOnly);
        }
        let shown: Vec<BranchId> = self.session.vfs.sessions().iter().filter_map(|session| session.branch()).collect();
        version::drop(self.engine(), name, false, &shown, caller).map_err(refs::meaning)
    }
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn is_open(row: &TxnRow) -> bool {
    match row.state {
        TxnState::Open | TxnState::Interrupted | TxnState::Conflicted => true,
        TxnState::Committed | TxnState::RolledBack => false,
    }
}
