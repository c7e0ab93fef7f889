//! Slots: which view each range of node numbers stands for.

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::node::{NodeTable, Slot};
use crate::engine::{FsError, Result};
use crate::types::{At, View};

/// What a slot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// The view.
    pub view: View,
    /// Who alone may enter, for an open transaction.
    pub owner: Option<u32>,
    /// Counts the views that had this slot before, so that a node number never means two things.
    pub generation: u64,
}

#[derive(Default)]
struct Table {
    /// Slot 2 and up.
    bound: Vec<Bound>,
    by_view: FxHashMap<View, Slot>,
    /// Where the search for a forgotten slot goes on.
    cursor: usize,
    /// Slots of growing branches, and of past states.
    live: usize,
    past: usize,
}

/// The slots of one mount, given to views on demand.
#[derive(Default)]
pub(super) struct Slots(RwLock<Table>);

const FIRST: usize = 2;

impl Slots {
    /// The view of a slot from 2 on.
    pub(super) fn get(&self, slot: Slot) -> Option<Bound> {
        let index = usize::from(slot.0).checked_sub(FIRST)?;
        self.0.read().bound.get(index).copied()
    }

    /// The slot that a view has, if any.
    pub(super) fn find(&self, view: View) -> Option<Slot> {
        self.0.read().by_view.get(&view).copied()
    }

    /// The slot of a view, a new one where it has none.
    ///
    /// # Errors
    /// `Busy` when the kernel remembers nodes of all 8,190 slots.
    pub(super) fn obtain(&self, view: View, owner: Option<u32>, nodes: &NodeTable) -> Result<Slot> {
        if let Some(slot) = self.find(view) {
            return Ok(slot);
        }
        let mut table = self.0.write();
        if let Some(slot) = table.by_view.get(&view) {
            return Ok(*slot);
        }
        let index = if table.bound.len() + FIRST < Slot::COUNT {
            table.bound.push(Bound { view, owner, generation: 0 });
            table.bound.len() - 1
        } else {
            let count = table.bound.len();
            let free = (0..count)
                .map(|step| (table.cursor + step) % count)
                .find(|index| nodes.users(Slot((index + FIRST) as u16)) == 0)
                .ok_or(FsError::Busy)?;
            table.cursor = (free + 1) % count;
            let old = table.bound.get_mut(free).ok_or(FsError::Busy)?;
            let before = std::mem::replace(old, Bound { view, owner, generation: old.generation + 1 });
            table.by_view.remove(&before.view);
            match before.view.at {
                At::Live => table.live -= 1,
                At::AsOf(_) => table.past -= 1,
            }
            free
        };
        match view.at {
            At::Live => table.live += 1,
            At::AsOf(_) => table.past += 1,
        }
        let slot = Slot((index + FIRST) as u16);
        table.by_view.insert(view, slot);
        Ok(slot)
    }

    /// How many slots show growing branches.
    pub(super) fn live(&self) -> usize {
        self.0.read().live
    }

    /// The slots that show past states, with their views.
    pub(super) fn past(&self) -> Vec<(Slot, View)> {
        let table = self.0.read();
        if table.past == 0 {
            return Vec::new();
        }
        let past = table.by_view.iter().filter(|(view, _)| matches!(view.at, At::AsOf(_)));
        past.map(|(view, slot)| (*slot, *view)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BranchId, Ino, Seq};
    use crate::vfs::NodeId;

    #[test]
    fn a_slot_is_given_to_another_view_only_when_nobody_knows_its_nodes() {
        let (slots, nodes) = (Slots::default(), NodeTable::new());
        let view = |seq| View::as_of(BranchId::MAIN, Seq(seq));
        for seq in 0..8190 {
            let slot = slots.obtain(view(seq), None, &nodes).unwrap();
            nodes.looked_up(NodeId::new(slot, Ino::ROOT));
        }
        assert_eq!(slots.obtain(view(9999), None, &nodes), Err(FsError::Busy));
        let slot = slots.find(view(77)).unwrap();
        nodes.forgotten(NodeId::new(slot, Ino::ROOT), 1);
        assert_eq!(slots.obtain(view(9999), None, &nodes), Ok(slot));
        assert_eq!(slots.find(view(77)), None);
        assert_eq!(slots.get(slot).unwrap().generation, 1);
    }
}
