//! Switching the live tree to another view: directories follow by identity, open files stay what
//! they were, and the kernel forgets what differs.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;
use rustc_hash::FxHashMap;

use super::node::{NodeId, Slot};
use super::notice::Notice;
use super::session::Session;
use crate::engine::{Engine, FsError, Handle, Result};
use crate::store::ReadTxn;
use crate::types::{At, BranchId, Ino, Kind, Lineage, Name, Seq, View};

/// What may differ between two views.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Inodes that are not the same in both.
    pub inodes: BTreeSet<Ino>,
    /// Entries that are not the same in both.
    pub entries: BTreeSet<(Ino, Name)>,
}

impl Difference {
    /// Compares two views by what their branches touched since their common past; costs what changed.
    ///
    /// # Errors
    /// What the store gives.
    pub fn between(engine: &Engine, a: View, b: View) -> Result<Difference> {
        let (lineage_a, lineage_b) = (engine.lineage(a)?, engine.lineage(b)?);
        engine.flush(engine.point().0)?;
        let txn = engine.store().read()?;
        let mut difference = Difference::default();
        let mut cuts: FxHashMap<BranchId, (Seq, Seq)> = FxHashMap::default();
        for segment in lineage_a.0.iter() {
            cuts.entry(segment.branch).or_default().0 = segment.cut;
        }
        for segment in lineage_b.0.iter() {
            cuts.entry(segment.branch).or_default().1 = segment.cut;
        }
        for (branch, (cut_a, cut_b)) in cuts {
            if cut_a == cut_b {
                continue;
            }
            let touched = txn.touched(branch, cut_a.min(cut_b), cut_a.max(cut_b))?;
            difference.inodes.extend(touched.inodes);
            difference.inodes.extend(touched.xattrs.into_iter().map(|(ino, _)| ino));
            difference.inodes.extend(touched.extents.into_iter().map(|(ino, _)| ino));
            difference.entries.extend(touched.entries);
        }
        difference.keep_real(&*txn, &lineage_a, &lineage_b)?;
        Ok(difference)
    }

    /// Drops what was touched and yet is the same in both.
    fn keep_real(&mut self, txn: &dyn ReadTxn, a: &Lineage, b: &Lineage) -> Result<()> {
        let mut failed = None;
        let mut same = |equal: std::result::Result<bool, crate::store::StoreError>| match equal {
            Ok(equal) => equal,
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        self.inodes.retain(|ino| !same(txn.inode(a, *ino).and_then(|row| Ok(row == txn.inode(b, *ino)?))));
        self.entries.retain(|(parent, name)| {
            let name = name.as_bytes();
            !same(txn.entry(a, *parent, name).and_then(|row| Ok(row == txn.entry(b, *parent, name)?)))
        });
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// An entry on the way to a mount point inside of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The branch that the mount shows.
    pub branch: BranchId,
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Name,
    /// What it names.
    pub ino: Ino,
}

/// What becomes of open files in a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFiles {
    /// They stay what they were opened as.
    Stay,
    /// They become the new branch's, where it has them: a transaction was committed to it.
    Follow,
}

/// A session that serves nothing for the moment.
pub struct Pause<'a> {
    session: &'a Session,
    live: RwLockWriteGuard<'a, View>,
}

impl Pause<'_> {
    /// Makes the live tree show another view and returns what the kernel must forget. `held` as for
    /// [`Session::switch`].
    ///
    /// # Errors
    /// As for [`Session::switch`].
    pub fn show(&mut self, to: View, held: &[Vec<u8>], open: OpenFiles) -> Result<Vec<Notice>> {
        self.session.switch_paused(&mut self.live, to, held, open)
    }
}

impl Session {
    /// The entries of the live tree that lead to mount points, given by their paths from its root.
    pub fn held(&self, paths: &[Vec<u8>]) -> Vec<Held> {
        let view = self.view();
        paths.iter().flat_map(|path| self.entries_of(view, path)).collect()
    }

    fn entries_of(&self, view: View, path: &[u8]) -> Vec<Held> {
        let mut parent = Ino::ROOT;
        let mut found = Vec::new();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let (Ok(name), Ok(attr)) = (Name::new(part), self.vfs.engine.lookup(view, parent, part)) else { break };
            found.push(Held { branch: view.branch, parent, name, ino: attr.ino });
            parent = attr.ino;
        }
        found
    }

    /// Makes the live tree show another view and returns what the kernel must forget, in the order
    /// in which it must be told. `held` are the paths of mount points inside, from the root of the tree.
    ///
    /// Waits for the requests that are being served. Nodes open for writing should have been flushed
    /// before ([`Session::writers`]).
    ///
    /// # Errors
    /// `Busy` where a mount point would vanish; nothing has changed then.
    pub fn switch(&self, to: View, held: &[Vec<u8>]) -> Result<Vec<Notice>> {
        self.switch_paused(&mut self.live.write(), to, held, OpenFiles::Stay)
    }

    /// Waits for the requests that are being served, and serves none until the pause is dropped.
    pub fn pause(&self) -> Pause<'_> {
        Pause { session: self, live: self.live.write() }
    }

    fn switch_paused(&self, live: &mut View, to: View, held: &[Vec<u8>], open: OpenFiles) -> Result<Vec<Notice>> {
        let engine = &self.vfs.engine;
        let from = *live;
        if from == to {
            return Ok(Vec::new());
        }
        engine.getattr(to, Ino::ROOT)?;
        // Shown first, so that changes of the new branch that come while we compare are spread to us.
        self.show(live, to);
        let planned = self.plan(from, to, held, open);
        if planned.is_err() {
            self.show(live, from);
        }
        planned
    }

    /// The open files of the live tree that can become another branch's, which has them too.
    fn adoptable(&self, to: View) -> FxHashMap<Handle, Ino> {
        let pins = self.pins.read();
        let other = self.slots.find(to);
        let can = |node: NodeId| {
            node.slot() == Slot::LIVE
                && !pins.contains_key(&node.ino())
                && other.and_then(|slot| self.nodes.usage(NodeId::new(slot, node.ino()))).is_none_or(|u| u.opens == 0)
                && self.vfs.engine.getattr(to, node.ino()).is_ok_and(|attr| attr.kind == Kind::File && attr.nlink > 0)
        };
        let handles = self.handles.lock();
        handles.iter().filter(|(_, node)| can(**node)).map(|(handle, node)| (*handle, node.ino())).collect()
    }

    fn plan(&self, from: View, to: View, held: &[Vec<u8>], open: OpenFiles) -> Result<Vec<Notice>> {
        let engine = &self.vfs.engine;
        for view in [from, to] {
            if view.at == At::Live {
                engine.seal(Some(view.branch))?;
            }
        }
        let difference = Difference::between(engine, from, to)?;
        let is_dir = |ino: Ino| engine.getattr(from, ino).or_else(|_| engine.getattr(to, ino)).is_ok_and(is_dir);

        let followers = match open {
            OpenFiles::Stay => FxHashMap::default(),
            OpenFiles::Follow => self.adoptable(to),
        };
        let adopted: BTreeSet<Ino> = followers.values().copied().collect();

        // Files whose usual node stays behind: open ones, and known ones that differ.
        let mut pinned: BTreeSet<Ino> = BTreeSet::new();
        let mut stale: BTreeSet<Ino> = self.pins.read().keys().copied().collect();
        let known = self.nodes.collect(|node, usage| {
            node.slot() == Slot::LIVE
                && !adopted.contains(&node.ino())
                && (usage.opens > 0 || (open == OpenFiles::Stay && difference.inodes.contains(&node.ino())))
        });
        for node in known {
            let ino = node.ino();
            if !is_dir(ino) && !self.pins.read().contains_key(&ino) {
                pinned.insert(ino);
            }
        }
        // Files of the new branch that are open under its own numbers keep these.
        if let Some(slot) = self.slots.find(to) {
            let open = self.nodes.collect(|node, usage| node.slot() == slot && usage.opens > 0);
            pinned.extend(open.into_iter().map(NodeId::ino).filter(|ino| !self.pins.read().contains_key(ino)));
        }
        stale.extend(&pinned);

        let mut entries: BTreeSet<(NodeId, Name)> = BTreeSet::new();
        for (parent, name) in &difference.entries {
            entries.insert((NodeId::new(Slot::LIVE, *parent), name.clone()));
        }
        {
            let lineage = engine.lineage(from)?;
            let txn = engine.store().read()?;
            for ino in &stale {
                for row in txn.names_of(&lineage, *ino)? {
                    entries.insert((NodeId::new(Slot::LIVE, row.parent), row.name));
                }
            }
        }
        for path in held {
            if self.is_on_path(from, path, &entries) {
                return Err(FsError::Busy);
            }
        }
        // Directories of both branches' own slots: their files share nodes with the live tree or no longer do.
        for view in [from, to] {
            let Some(slot) = self.slots.find(view).filter(|_| view.at == At::Live) else { continue };
            for node in self.nodes.collect(|node, _| node.slot() == slot) {
                let Ok(list) = engine.list(view, node.ino()) else { continue };
                entries.extend(list.iter().filter(|entry| entry.kind != Kind::Dir).map(|e| (node, e.name.clone())));
            }
        }

        if !followers.is_empty() {
            engine.adopt(&followers.into_keys().collect::<Vec<_>>(), to.branch)?;
        }
        if from.at == At::Live {
            let mut pins = self.pins.write();
            pins.extend(pinned.iter().map(|ino| (*ino, from.branch)));
            self.pin_count.store(pins.len(), Ordering::Release);
        }

        let mut notices: Vec<Notice> = Vec::new();
        let mut parents: BTreeSet<NodeId> = BTreeSet::new();
        for (parent, name) in entries {
            if self.nodes.knows(parent) {
                notices.push(Notice::Entry { parent, name });
                parents.insert(parent);
            }
        }
        notices.extend(parents.iter().map(|node| Notice::Inode { node: *node, data: true }));
        for ino in &difference.inodes {
            let node = NodeId::new(Slot::LIVE, *ino);
            if self.nodes.knows(node) && !parents.contains(&node) && !stale.contains(ino) {
                notices.push(Notice::Inode { node, data: true });
            }
        }
        Ok(notices)
    }

    /// Whether an entry that must be dropped lies on a path of the live tree.
    fn is_on_path(&self, view: View, path: &[u8], entries: &BTreeSet<(NodeId, Name)>) -> bool {
        let on_path = self.entries_of(view, path);
        on_path.into_iter().any(|held| entries.contains(&(NodeId::new(Slot::LIVE, held.parent), held.name)))
    }
}

fn is_dir(attr: crate::types::Attr) -> bool {
    attr.kind == Kind::Dir
}
