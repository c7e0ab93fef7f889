//! A limit on the database's size: full as a disk would be, and not any more when history is forgotten.

use parking_lot::MutexGuard;

use super::core::Core;
use super::{Engine, Result};
use crate::store::{Space, StoreError};

/// Bytes that a change of names or attributes takes with its rows, index entries and event, roughly.
pub(super) const ROW_BYTES: usize = 1024;

/// Bytes from which it is looked whether there is room for what fallocate(2) asks for.
const PROMISE_MIN: u64 = 1 << 20;

/// What is known of the space.
#[derive(Default)]
pub(super) struct Quota {
    /// The most bytes that the database may use, its log and free pages not counted.
    limit: Option<u64>,
    /// Bytes that it used when it was looked at.
    used: u64,
    looked: bool,
}

impl Engine {
    /// Limits the bytes that the database may use (its log and free pages are not counted), or no
    /// longer does. What creates or writes fails with `ENOSPC` at the limit; what removes goes on.
    pub fn limit_size(&self, limit: Option<u64>) {
        self.core().quota = Quota { limit, ..Quota::default() };
    }

    /// Refuses a change of so many bytes where the limit leaves no room for it. Asked first, since it may wait.
    pub(super) fn room(&self, core: &mut MutexGuard<'_, Core>, bytes: usize) -> Result<()> {
        let Some(limit) = core.quota.limit else { return Ok(()) };
        if !core.quota.looked {
            core.look_at_space()?;
        }
        if !core.is_beyond(limit, bytes) {
            return Ok(());
        }
        // What waits for the database takes less there than it is counted for here.
        if core.dirty_bytes() > 0 && core.quota.used < limit {
            let upto = core.counters.seq;
            self.wait_flushed(core, upto)?;
        }
        // Forgetting makes room at any time, and only the store knows.
        core.look_at_space()?;
        if core.is_beyond(limit, bytes) { Err(StoreError::Full.into()) } else { Ok(()) }
    }
}

impl Core {
    /// Refuses to promise more bytes than there are. Nothing is kept free for what is promised.
    pub fn promise(&mut self, bytes: u64) -> Result<()> {
        if bytes < PROMISE_MIN {
            return Ok(());
        }
        let space = self.store.space()?;
        if bytes > self.free(&space) { Err(StoreError::Full.into()) } else { Ok(()) }
    }

    /// Bytes that can still be written: what the disk has, and the limit leaves.
    pub fn free(&mut self, space: &Space) -> u64 {
        let free = space.disk_free.saturating_add(space.reclaimable);
        self.limited(space).map_or(free, |(limit, used)| free.min(limit.saturating_sub(used)))
    }

    /// The limit and the bytes used of it, where there is a limit.
    pub fn limited(&mut self, space: &Space) -> Option<(u64, u64)> {
        let limit = self.quota.limit?;
        self.note_space(space);
        Some((limit, self.quota.used.saturating_add(self.dirty_bytes() as u64)))
    }

    fn look_at_space(&mut self) -> Result<()> {
        let space = self.store.space()?;
        self.note_space(&space);
        Ok(())
    }

    fn note_space(&mut self, space: &Space) {
        self.quota.used = space.total.saturating_sub(space.log).saturating_sub(space.reclaimable);
        self.quota.looked = true;
    }

    fn is_beyond(&self, limit: u64, bytes: usize) -> bool {
        self.quota.used.saturating_add(self.dirty_bytes().saturating_add(bytes) as u64) > limit
    }

    /// Counts what was committed: the next look at the store tells exactly.
    pub fn committed_bytes(&mut self, bytes: usize) {
        self.quota.used = self.quota.used.saturating_add(bytes as u64);
    }
}
