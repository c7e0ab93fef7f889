//! Instants, and the only clocks that the rest of the code may read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// An instant in nanoseconds since 1970-01-01T00:00:00Z; years 1678 to 2261.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

const NANOS: i64 = 1_000_000_000;

impl Timestamp {
    /// Builds an instant from seconds and nanoseconds, saturating at the ends of the range.
    pub fn from_secs_nanos(secs: i64, nanos: u32) -> Timestamp {
        Timestamp(secs.saturating_mul(NANOS).saturating_add(i64::from(nanos)))
    }

    /// Returns whole seconds (rounded down) and the nanoseconds above them (0 to 999,999,999).
    pub fn secs_nanos(self) -> (i64, u32) {
        (self.0.div_euclid(NANOS), self.0.rem_euclid(NANOS) as u32)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp(nanos(after)),
            Err(before) => Timestamp(-nanos(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        let distance = Duration::from_nanos(time.0.unsigned_abs());
        let shifted = if time.0 >= 0 { UNIX_EPOCH.checked_add(distance) } else { UNIX_EPOCH.checked_sub(distance) };
        shifted.unwrap_or(UNIX_EPOCH)
    }
}

/// Tells the wall time.
pub trait Clock: Send + Sync {
    /// Returns the current wall time; may step back, callers make it monotonic where they need that.
    fn now(&self) -> Timestamp;
}

/// The machine's real-time clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that may read it
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct FixedClock(AtomicI64);

impl FixedClock {
    /// Starts at an instant.
    pub fn new(at: Timestamp) -> FixedClock {
        FixedClock(AtomicI64::new(at.0))
    }

    /// Moves the clock by some nanoseconds, back too.
    pub fn advance(&self, nanos: i64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
