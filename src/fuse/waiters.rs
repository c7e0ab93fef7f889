//! Threads for requests that wait for the disk, so that others are served meanwhile and many fsyncs
//! share one group commit.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that exist at once, at most; further jobs queue.
const THREADS_MAX: usize = 64;
/// How long an idle thread stays.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    jobs: std::collections::VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// A pool that grows with the number of waiting requests.
#[derive(Clone, Default)]
pub(super) struct Waiters(Arc<(Mutex<State>, Condvar)>);

impl Waiters {
    /// Runs a job on a thread of its own; on the caller's where the system gives none.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (state, wake) = &*self.0;
        let mut locked = state.lock();
        locked.jobs.push_back(Box::new(job));
        if locked.idle >= locked.jobs.len() || locked.threads >= THREADS_MAX {
            wake.notify_one();
            return;
        }
        locked.threads += 1;
        drop(locked);
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("stone-wait".into()).spawn(move || pool.work());
        if thread.is_err() {
            let mut locked = state.lock();
            locked.threads -= 1;
            let job = locked.jobs.pop_back();
            drop(locked);
            if let Some(job) = job {
                job();
            }
        }
    }

    fn work(&self) {
        let (state, wake) = &*self.0;
        let mut locked = state.lock();
        loop {
            if let Some(job) = locked.jobs.pop_front() {
                drop(locked);
                job();
                locked = state.lock();
                continue;
            }
            locked.idle += 1;
            let timed_out = wake.wait_for(&mut locked, IDLE).timed_out();
            locked.idle -= 1;
            if timed_out && locked.jobs.is_empty() {
                locked.threads -= 1;
                return;
            }
        }
    }
}
