//! The standing policy of `stone prune --keep 30d`: kept in the database, applied by the daemon in
//! the background.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::{Engine, EventDraft};
use crate::store::{EventFilter, Mutation, Prune, Pruned, Store, StoreError};
use crate::types::{BranchId, Caller, Clock, Op, Segment, Seq, SystemClock, Timestamp, View};
use crate::version::point::{self, Point};
use crate::version::refs::PRUNED_SETTING;

use super::context::{Host, MountState};
use super::error::{About, Error, Result};
use super::text::{Text, point as shown};

/// The setting that holds the policy as it was given (`30d`).
const SETTING: &str = "prune_keep";
/// What `--keep` takes for no policy at all.
const ALL: &[u8] = b"all";
/// How often the daemon looks whether there is something to forget: a share of what is kept, ...
const SHARE: u64 = 20;
/// ... but not more often than this, ...
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// ... and at least so often.
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);
/// How long the daemon lets a new mount work before it looks.
const BEGIN: Duration = Duration::from_secs(1);
/// Free pages that one step returns to the disk, so that a writer waits for few.
const STEP: u32 = 64;
/// How long writers have the database for themselves between two steps.
const BREATH: Duration = Duration::from_millis(20);
/// Steps after which what they wrote leaves the log.
const STEPS: u32 = 16;
/// Free bytes that stay in the file, and the share of it that does: what is forgotten in one round is needed again in
/// the next, and moving pages to shorten a file writes each of them twice.
const FREE_MIN: u64 = 32 << 20;
const FREE_SHARE: u64 = 8;
/// Events of pruning itself that are looked at before a prune is worth it.
const LOOK: usize = 64;

/// Reads a policy: nanoseconds that are kept; `None` where everything is.
///
/// # Errors
/// What is no duration.
pub fn parse(text: &Text) -> Result<Option<i64>> {
    if text.as_bytes() == ALL {
        return Ok(None);
    }
    match point::parse(text.as_bytes()) {
        Ok(Some(Point::Ago(nanos))) if nanos > 0 => Ok(Some(nanos)),
        _ => Err(Error::usage("is no duration; give one as 30d, 12h or 2w, or `all`").about(text.as_bytes())),
    }
}

/// The policy that stands, as it was given and in nanoseconds.
///
/// # Errors
/// Those of the store.
pub fn standing(engine: &Engine) -> Result<Option<(Text, i64)>> {
    let Some(text) = engine.store().read()?.setting(SETTING)?.map(Text) else { return Ok(None) };
    // What another version wrote and this one cannot read keeps everything.
    Ok(parse(&text).ok().flatten().map(|nanos| (text, nanos)))
}

/// Sets the policy, or removes it.
///
/// # Errors
/// What is no duration; those of the store.
pub fn set(engine: &Engine, keep: &Text, caller: &Caller) -> Result<()> {
    let value = parse(keep)?.map(|_| keep.as_bytes().to_vec());
    let new = [b"keep ", keep.as_bytes()].concat();
    let draft = EventDraft { op: Op::Prune, txn: None, old: None, new: Some(new) };
    let setting = Mutation::Setting(SETTING.to_owned(), value);
    let seq = engine.record(BranchId::MAIN, draft, vec![setting], caller)?;
    Ok(engine.flush(seq)?)
}

/// States that mounts of the past show.
///
/// # Errors
/// Where a mount shows what does not exist.
pub fn pins(engine: &Engine, mounts: &[MountState]) -> Result<Vec<Segment>> {
    let mut pins = Vec::new();
    for mount in mounts {
        if let Some(at) = mount.at {
            pins.extend(engine.lineage(View::as_of(mount.live.branch, at))?.0.iter().copied());
        }
    }
    Ok(pins)
}

/// Forgets history before a point. The event comes first, so that nothing is ever missing that no
/// event accounts for.
///
/// # Errors
/// Those of the store.
pub fn forget(engine: &Engine, before: Seq, pins: Vec<Segment>, caller: &Caller) -> Result<Pruned> {
    let draft = EventDraft { op: Op::Prune, txn: None, old: None, new: Some(shown(before).into_bytes()) };
    engine.record(BranchId::MAIN, draft, Vec::new(), caller)?;
    engine.sync()?;
    Ok(engine.store().prune(&Prune { before, pins, dry_run: false })?)
}

/// The first point that a policy keeps, where something before it has not been forgotten yet.
fn due(engine: &Engine, keep: i64, now: Timestamp) -> Result<Option<Seq>> {
    let read = engine.store().read()?;
    let limit = Timestamp(now.0.saturating_sub(keep));
    let Some((seq, _)) = read.seq_at(limit)? else { return Ok(None) };
    let pruned = read.setting(PRUNED_SETTING)?;
    let pruned = pruned.as_deref().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).map_or(Seq::ZERO, Seq);
    if seq <= pruned {
        return Ok(None);
    }
    // On a system where nothing happens, each prune must not be the reason for the next.
    let filter =
        EventFilter { after: Some(pruned), upto: Some(seq), limit: Some(LOOK), descending: true, ..Default::default() };
    let worth = read.events(&filter)?.iter().any(|event| event.op != Op::Prune);
    Ok(worth.then_some(seq))
}

#[derive(Default)]
struct Signal {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Waits; `true` where it is time to end.
    fn wait(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.changed.wait_for(&mut stopped, pause);
        }
        *stopped
    }
}

/// The daemon's thread that applies the policy.
pub struct Keeper {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start<H: Host + 'static>(engine: &Arc<Engine>, host: &Arc<H>) -> Result<Keeper> {
        let signal = Arc::new(Signal::default());
        let (engine, host, own) = (Arc::clone(engine), Arc::downgrade(host), Arc::clone(&signal));
        let thread = thread::Builder::new().name("stone-keep".to_owned()).spawn(move || {
            let mut pause = BEGIN;
            while !own.wait(pause) {
                let Some(host) = host.upgrade() else { return };
                match round(&engine, host.as_ref(), &own) {
                    Ok(next) => pause = next,
                    Err(error) => {
                        log::warn!("forgetting old history: {error}");
                        pause = PAUSE_MAX.min(pause.saturating_mul(2));
                    }
                }
            }
        });
        Ok(Keeper { signal, thread: Some(thread.about(b"cannot start a thread")?) })
    }

    /// Ends it; what it had begun is done, or left to the next daemon.
    pub fn stop(&mut self) {
        *self.signal.stopped.lock() = true;
        self.signal.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Forgets what the policy does not keep, and gives the space back. Returns when to look again.
fn round(engine: &Engine, host: &dyn Host, signal: &Signal) -> Result<Duration> {
    let Some((_, keep)) = standing(engine)? else { return Ok(PAUSE_MIN) };
    let pause = (Duration::from_nanos(keep.unsigned_abs()) / SHARE as u32).clamp(PAUSE_MIN, PAUSE_MAX);
    let Some(before) = due(engine, keep, SystemClock.now())? else { return Ok(pause) };
    let pins = pins(engine, &host.mounts())?;
    let done = match forget(engine, before, pins, &Caller::default()) {
        Ok(done) => done,
        // The database is being closed; what is left is done by the next daemon.
        Err(_) if *signal.stopped.lock() => return Ok(pause),
        Err(error) => return Err(error),
    };
    log::info!("forgot history before e{before}: {} versions, {} events", done.rows, done.events);
    match shorten(engine.store().as_ref(), signal) {
        Ok(()) | Err(StoreError::Closed) => Ok(pause),
        Err(error) => Err(error.into()),
    }
}

/// Returns free pages to the disk, but for those that the next changes take.
fn shorten(store: &dyn Store, signal: &Signal) -> std::result::Result<(), StoreError> {
    let space = store.space()?;
    let spare = FREE_MIN.max((space.total - space.log) / FREE_SHARE);
    let (mut left, mut steps) = (space.reclaimable, 0);
    while left > spare && !signal.wait(BREATH) {
        let free = store.release(STEP)?;
        if free >= left {
            break;
        }
        left = free;
        steps += 1;
        if steps % STEPS == 0 {
            store.checkpoint()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_durations_or_all() {
        assert_eq!(parse(&"30d".into()).unwrap(), Some(30 * 24 * 3600 * 1_000_000_000));
        assert_eq!(parse(&"all".into()).unwrap(), None);
        for bad in ["", "0d", "now", "yesterday-ish", "2026-11-22", "e5", "-1"] {
            assert_eq!(parse(&bad.into()).unwrap_err().status(), 2, "{bad}");
        }
    }
}
