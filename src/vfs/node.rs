//! Node numbers: what the kernel calls a file by, and what stat(2) shows as `st_ino`.
//!
//! A node is a slot (a view, or the tree that follows switches) and an inode in it. The table
//! counts how often the kernel knows each node, so that a switch can tell which nodes are in use,
//! and slots can be given to other views once nobody remembers them.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::types::Ino;

/// Bits of a node number below the slot.
const INO_BITS: u32 = 40;

/// A node: slot above bit 40, inode below; always under 2^53, which tools that keep numbers as
/// doubles need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The range of numbers that a view has inside one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The tree at the root of the mount; follows switches.
    pub const LIVE: Slot = Slot(0);
    /// The virtual directories themselves.
    pub const SPECIAL: Slot = Slot(1);
    /// Slots that exist: 13 bits.
    pub const COUNT: usize = 1 << 13;
}

impl NodeId {
    /// The root of the mount.
    pub const ROOT: NodeId = NodeId(1);

    /// Names an inode in a slot.
    pub fn new(slot: Slot, ino: Ino) -> NodeId {
        NodeId(u64::from(slot.0) << INO_BITS | ino.0)
    }

    /// The slot it is in.
    pub fn slot(self) -> Slot {
        Slot((self.0 >> INO_BITS) as u16)
    }

    /// The inode's own number.
    pub fn ino(self) -> Ino {
        Ino(self.0 & ((1 << INO_BITS) - 1))
    }
}

/// How a node is used at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// References that the kernel holds and will give back with FORGET.
    pub lookups: u64,
    /// Open files.
    pub opens: u32,
    /// Open files among them that can write.
    pub writers: u32,
}

const SHARDS: usize = 16;

/// Counts the uses of every node that the kernel knows.
pub(super) struct NodeTable {
    shards: [Mutex<FxHashMap<NodeId, Usage>>; SHARDS],
    /// Nodes known per slot; slot 0 is not counted.
    users: Vec<AtomicU32>,
}

impl NodeTable {
    pub(super) fn new() -> NodeTable {
        NodeTable {
            shards: std::array::from_fn(|_| Mutex::default()),
            users: (0..Slot::COUNT).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn with<R>(&self, node: NodeId, act: impl FnOnce(&mut FxHashMap<NodeId, Usage>) -> R) -> R {
        let [first, ..] = &self.shards;
        act(&mut self.shards.get((node.0 % SHARDS as u64) as usize).unwrap_or(first).lock())
    }

    fn count_slot(&self, node: NodeId, add: bool) {
        if node.slot() == Slot::LIVE {
            return;
        }
        if let Some(users) = self.users.get(usize::from(node.slot().0)) {
            if add {
                users.fetch_add(1, Ordering::Relaxed);
            } else {
                users.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn change(&self, node: NodeId, change: impl FnOnce(&mut Usage)) -> bool {
        let (new, gone) = self.with(node, |nodes| {
            let before = nodes.len();
            let usage = nodes.entry(node).or_default();
            change(usage);
            let gone = *usage == Usage::default();
            let new = nodes.len() > before;
            if gone {
                nodes.remove(&node);
            }
            (new, gone)
        });
        if new != gone {
            self.count_slot(node, new);
        }
        gone
    }

    /// Counts a reference that a reply is about to hand to the kernel.
    pub(super) fn looked_up(&self, node: NodeId) {
        self.change(node, |usage| usage.lookups += 1);
    }

    /// Takes references back; true when the kernel knows the node no longer.
    pub(super) fn forgotten(&self, node: NodeId, count: u64) -> bool {
        self.change(node, |usage| usage.lookups = usage.lookups.saturating_sub(count))
    }

    pub(super) fn opened(&self, node: NodeId, writable: bool) {
        self.change(node, |usage| {
            usage.opens += 1;
            usage.writers += u32::from(writable);
        });
    }

    pub(super) fn closed(&self, node: NodeId, writable: bool) -> bool {
        self.change(node, |usage| {
            usage.opens = usage.opens.saturating_sub(1);
            usage.writers = usage.writers.saturating_sub(u32::from(writable));
        })
    }

    pub(super) fn usage(&self, node: NodeId) -> Option<Usage> {
        self.with(node, |nodes| nodes.get(&node).copied())
    }

    /// Whether the kernel may have this node cached. It always knows the root.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        node == NodeId::ROOT || self.usage(node).is_some()
    }

    /// How many nodes of a slot the kernel knows.
    pub(super) fn users(&self, slot: Slot) -> u32 {
        self.users.get(usize::from(slot.0)).map_or(0, |users| users.load(Ordering::Relaxed))
    }

    /// Every known node that fits.
    pub(super) fn collect(&self, fits: impl Fn(NodeId, Usage) -> bool) -> Vec<NodeId> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            found.extend(shard.iter().filter(|(node, usage)| fits(**node, **usage)).map(|(node, _)| *node));
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_numbers_hold_slot_and_inode_below_two_to_the_53() {
        let node = NodeId::new(Slot((Slot::COUNT - 1) as u16), Ino((1 << INO_BITS) - 1));
        assert_eq!(node.slot(), Slot(8191));
        assert_eq!(node.ino(), Ino((1 << 40) - 1));
        assert!(node.0 < 1 << 53);
        assert_eq!(NodeId::new(Slot::LIVE, Ino::ROOT), NodeId::ROOT);
    }

    #[test]
    fn a_node_is_known_until_every_reference_is_given_back() {
        let table = NodeTable::new();
        let node = NodeId::new(Slot(7), Ino(9));
        table.looked_up(node);
        table.looked_up(node);
        table.opened(node, true);
        assert_eq!(table.users(Slot(7)), 1);
        assert!(!table.forgotten(node, 2));
        assert!(table.closed(node, true));
        assert_eq!(table.users(Slot(7)), 0);
        assert!(!table.knows(node));
        assert!(table.knows(NodeId::ROOT));
    }
}
