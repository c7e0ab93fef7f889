//! What the kernel must forget: changes that it does not know of because they came another way.

use super::Vfs;
use super::node::{NodeId, Slot};
use super::session::Session;
use crate::engine::{Changed, Result};
use crate::types::{At, BranchId, Ino, Name, View};

/// Something that the kernel has cached and that is no longer so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// What a name in a directory stands for.
    Entry {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name,
    },
    /// A node's attributes, and with `data` its pages (a directory's: its cached listing).
    Inode {
        /// The node.
        node: NodeId,
        /// Whether pages are stale too.
        data: bool,
    },
}

/// Takes notices; must not wait for anything that a request could hold.
pub type Sink = Box<dyn Fn(Notice) + Send + Sync>;

impl Session {
    /// The nodes under which this mount shows a directory of a growing branch.
    fn directory_nodes(&self, branch: BranchId, dir: Ino) -> impl Iterator<Item = NodeId> {
        let view = View::live(branch);
        let live = (self.branch() == Some(branch)).then(|| NodeId::new(Slot::LIVE, dir));
        let other = self.slots.find(view).map(|slot| NodeId::new(slot, dir));
        live.into_iter().chain(other).filter(|node| self.nodes.knows(*node))
    }

    /// The nodes under which this mount may know an inode of a growing branch.
    fn inode_nodes(&self, branch: BranchId, ino: Ino) -> impl Iterator<Item = NodeId> {
        let view = View::live(branch);
        let live = self.branch() == Some(branch) || self.pins.read().get(&ino) == Some(&branch);
        let live = live.then(|| NodeId::new(Slot::LIVE, ino));
        let other = self.slots.find(view).map(|slot| NodeId::new(slot, ino));
        live.into_iter().chain(other).filter(|node| self.nodes.knows(*node))
    }
}

impl Vfs {
    /// Whether a branch can be seen in more than one way at the moment, so that changes must be
    /// spread. False in the common case of one mount whose other branches nobody entered.
    pub(super) fn is_shared(&self, session: &Session) -> bool {
        session.slots.live() > 0 || self.sessions.read().len() > 1
    }

    /// Queues what other views of a branch must forget. `origin` is the session and node through
    /// which the change came; the kernel keeps that one right by itself.
    pub(super) fn spread(&self, origin: Option<(u64, NodeId)>, branch: BranchId, change: &Changed) {
        for session in self.sessions() {
            let is_origin = |node: NodeId| origin == Some((session.id, node));
            match change {
                Changed::Entry { parent, name } => {
                    for node in session.directory_nodes(branch, *parent).filter(|node| !is_origin(*node)) {
                        // First the entry: it waits for a listing in progress, whose pages the second drops.
                        session.send(Notice::Entry { parent: node, name: name.clone() });
                        session.send(Notice::Inode { node, data: true });
                    }
                }
                Changed::Inode { ino, data } => {
                    for node in session.inode_nodes(branch, *ino).filter(|node| !is_origin(*node)) {
                        session.send(Notice::Inode { node, data: *data });
                    }
                }
            }
        }
    }

    /// Makes the kernels that trust no size but their own forget the files whose content a change set changed.
    pub(super) fn forget_files(&self, branch: BranchId, changes: &[Changed]) -> Result<()> {
        let sessions: Vec<_> = self.sessions().into_iter().filter(|session| session.options.gathers_writes).collect();
        if sessions.is_empty() {
            return Ok(());
        }
        self.engine.flush(self.engine.point().0)?;
        let lineage = self.engine.lineage(View::live(branch))?;
        let txn = self.engine.store().read()?;
        for change in changes {
            let Changed::Inode { ino, data: true } = change else { continue };
            for row in txn.names_of(&lineage, *ino)? {
                for session in &sessions {
                    for node in session.directory_nodes(branch, row.parent) {
                        session.send(Notice::Entry { parent: node, name: row.name.clone() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Queues what views of the past must forget of an inode whose owner, mode or ACL changed:
    /// whether it may be entered is asked again.
    pub(super) fn spread_guard(&self, branch: BranchId, ino: Ino) {
        for session in self.sessions() {
            let root = session.options.root;
            let root = matches!(root.at, At::AsOf(_)).then_some((Slot::LIVE, root));
            for (slot, view) in session.slots.past().into_iter().chain(root) {
                let node = NodeId::new(slot, ino);
                if view.branch != branch || !session.nodes.knows(node) {
                    continue;
                }
                for child in self.engine.list(view, ino).iter().flat_map(|list| list.iter()) {
                    session.send(Notice::Entry { parent: node, name: child.name.clone() });
                }
                session.send(Notice::Inode { node, data: true });
            }
        }
    }
}
