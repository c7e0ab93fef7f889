//! Keeps the thread that serves requests on the core of those whom it serves.
//!
//! A request is a conversation of two threads, one of which always sleeps. Where they are on two
//! cores, every turn wakes a core that has gone idle, which costs a virtual machine a hundred
//! microseconds and more; on one core it is a change of context. The scheduler finds either by
//! chance and stays with it for long, so it is told now and then where the other one is.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::audit::core_of;

/// Requests between two looks, while the cores differ and while they do not.
const GAPS: (u32, u32) = (16, 128);

/// When to look next.
#[derive(Debug)]
pub(super) struct Follower {
    left: AtomicU32,
    gap: AtomicU32,
}

impl Follower {
    pub fn new() -> Follower {
        Follower { left: AtomicU32::new(GAPS.0), gap: AtomicU32::new(GAPS.0) }
    }

    /// Called by the serving thread for a request of a task; 0 is the kernel.
    pub fn follow(&self, task: u32) {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 || task == 0 {
            return self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        }
        let gap = match core_of(task) {
            Some(core) if core != sched_getcpu() => {
                go_to(core);
                GAPS.0
            }
            _ => GAPS.1.min(self.gap.load(Ordering::Relaxed) * 2),
        };
        self.gap.store(gap, Ordering::Relaxed);
        self.left.store(gap, Ordering::Relaxed);
    }
}

/// Moves the calling thread to a core, from where the scheduler may move it on.
fn go_to(core: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if core >= CpuSet::MAX_CPU || !allowed.is_set(core) {
        return;
    }
    let mut only = CpuSet::new();
    only.set(core);
    if sched_setaffinity(None, &only).is_ok()
        && let Err(error) = sched_setaffinity(None, &allowed)
    {
        log::warn!("the serving thread stays on core {core}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_seldom_where_the_cores_are_one_and_never_for_the_kernel() {
        let follower = Follower::new();
        (0..10 * GAPS.0).for_each(|_| follower.follow(0));
        assert_eq!(follower.gap.load(Ordering::Relaxed), GAPS.0);
        // A task that is gone is nowhere else.
        for _ in 0..10 * GAPS.1 {
            follower.follow(u32::MAX);
        }
        assert_eq!(follower.gap.load(Ordering::Relaxed), GAPS.1);
    }

    #[test]
    fn a_thread_goes_where_it_is_told_and_may_leave_again() {
        let allowed = sched_getaffinity(None).unwrap();
        for core in (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)) {
            // It may be moved on at once: of many tries one is seen to have arrived.
            let arrives = |_| {
                go_to(core);
                sched_getcpu() == core
            };
            assert!((0..1000).any(arrives), "never on core {core}");
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
        }
        go_to(usize::MAX);
        assert_eq!(sched_getaffinity(None).unwrap(), allowed);
    }
}
