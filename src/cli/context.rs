//! What every command's work runs on: an open database, who asks, and what serves its mounts.
//!
//! The same work runs in the daemon (for a mounted database) and in the command's own process (for
//! one that nothing has mounted); only the [`Host`] differs.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::store::query::Stop;
use crate::store::{ReadTxn, TxnRow};
use crate::types::{At, BranchId, Caller, Clock, Seq, SystemClock, Timestamp, TxnId, View};
use crate::version::{RefContext, refs};

use super::error::{Error, Result};
use super::text::{Text, parse_transaction};

/// The setting that remembers the branch last switched to.
pub const LIVE_BRANCH: &str = "live_branch";

/// What a mount's root shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The branch.
    pub branch: BranchId,
    /// The transaction whose private view stands in for it.
    pub txn: Option<TxnId>,
}

/// A mount, as the daemon knows it.
#[derive(Clone, Debug)]
pub struct MountState {
    /// Its directory.
    pub dir: Text,
    /// Its device number.
    pub dev: u64,
    /// What its root shows.
    pub live: Live,
    /// The fixed point that it shows (`at=REF`).
    pub at: Option<Seq>,
    /// Whether nothing can be written through it.
    pub read_only: bool,
    /// Whether other users may enter.
    pub allow_other: bool,
    /// What the kernel was asked for (`nosuid`, `nodev` and the like).
    pub kernel: Vec<String>,
    /// Whose all files are shown as: user and group.
    pub shown_as: (Option<u32>, Option<u32>),
    /// The transaction of `stone run` whose private view this is.
    pub run: Option<TxnId>,
}

/// What serves a database's mounts.
pub trait Host: Send + Sync {
    /// The mounts, in the order in which they were made.
    fn mounts(&self) -> Vec<MountState>;

    /// Makes a mount's root show something else.
    ///
    /// # Errors
    /// Where a mount below would be taken away, or the device does not answer.
    fn show(&self, dev: u64, live: Live) -> Result<()>;

    /// Begins a transaction and makes a mount's root show it. Nothing is served in between, so that no change is made
    /// that the transaction does not see.
    ///
    /// # Errors
    /// Those of `begin`, and as for [`Host::show`].
    fn begin(&self, dev: u64, branch: BranchId, begin: &mut dyn FnMut() -> Result<TxnRow>) -> Result<()> {
        let row = begin()?;
        self.show(dev, Live { branch, txn: Some(row.id) })
    }

    /// Commits a transaction, and makes the mount that shows it show its branch again where `commit` says that it is
    /// done. Nothing is served in between, so that no change is made too late for the one and too early for the other.
    ///
    /// # Errors
    /// Those of `commit`, and as for [`Host::show`].
    fn commit(&self, _txn: TxnId, commit: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
        commit().map(|_| ())
    }

    /// Brings every page that programs wrote, mapped ones too, from the kernel to the engine.
    ///
    /// # Errors
    /// Where the device does not answer.
    fn cut(&self) -> Result<()>;

    /// Waits until the kernel knows everything that has changed.
    fn told(&self);

    /// The daemon's process; none where the command has the database open itself.
    fn pid(&self) -> Option<u32>;
}

/// A database that nothing has mounted.
pub struct Unmounted;

impl Host for Unmounted {
    fn mounts(&self) -> Vec<MountState> {
        Vec::new()
    }

    fn show(&self, _dev: u64, _live: Live) -> Result<()> {
        Ok(())
    }

    fn cut(&self) -> Result<()> {
        Ok(())
    }

    fn told(&self) {}

    fn pid(&self) -> Option<u32> {
        None
    }
}

/// Where a client stands; goes with every request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The name of its time zone, or its offset as `+01:00`.
    pub zone: String,
    /// The device number of the mount that it stands in.
    pub dev: Option<u64>,
}

/// The zone of this process, as [`TimeZone::system`] tells it; but where the system names one by a link, only
/// that one is read, and not the names of all.
pub fn system_zone() -> TimeZone {
    if std::env::var_os("TZ").is_some() {
        return TimeZone::system();
    }
    let linked = || {
        let file = std::fs::read_link("/etc/localtime").ok()?;
        let (_, name) = file.to_str()?.rsplit_once("/zoneinfo/")?;
        TimeZone::tzif(name, &std::fs::read("/etc/localtime").ok()?).ok()
    };
    linked().unwrap_or_else(TimeZone::system)
}

impl Origin {
    /// This process's.
    pub fn here(dev: Option<u64>) -> Origin {
        let zone = system_zone();
        let zone = match zone.iana_name() {
            Some(name) => name.to_owned(),
            None => zone.to_offset(now_of(&SystemClock)).to_string(),
        };
        Origin { zone, dev }
    }

    /// The zone that its times are meant in.
    pub fn time_zone(&self) -> TimeZone {
        if let Ok(zone) = TimeZone::get(&self.zone) {
            return zone;
        }
        let offset = format!("1970-01-01T00:00:00{}", self.zone);
        match offset.parse::<jiff::Timestamp>() {
            Ok(instant) => i32::try_from(-instant.as_second())
                .ok()
                .and_then(|seconds| jiff::tz::Offset::from_seconds(seconds).ok())
                .map_or(TimeZone::UTC, TimeZone::fixed),
            Err(_) => TimeZone::UTC,
        }
    }
}

fn now_of(clock: &dyn Clock) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(clock.now().0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Hears how far long work got: what, done, total (0 where unknown).
pub type ProgressFn<'a> = Box<dyn FnMut(&str, u64, u64) + 'a>;

/// One command's access to the database.
pub struct Context<'a> {
    /// The file system.
    pub engine: &'a Arc<Engine>,
    /// The database's file.
    pub database: &'a Path,
    /// What serves the mounts.
    pub host: &'a dyn Host,
    /// Who asks.
    pub caller: Caller,
    /// The asker's time zone.
    pub zone: TimeZone,
    /// The mount that the asker stands in, by device number.
    pub dev: Option<u64>,
    /// Whether nobody waits for the work's result any more.
    pub stopped: Stop,
    /// Where progress goes.
    pub progress: RefCell<ProgressFn<'a>>,
}

impl Context<'_> {
    /// The mount that the command is about: the asker's, else the first.
    pub fn mount(&self) -> Option<MountState> {
        let mounts = self.host.mounts();
        let own = self.dev.and_then(|dev| mounts.iter().find(|mount| mount.dev == dev));
        own.or_else(|| mounts.iter().find(|mount| mount.run.is_none())).cloned()
    }

    /// What the live tree shows; of a database that nothing has mounted, the branch last switched to.
    ///
    /// # Errors
    /// Those of the store.
    pub fn live(&self) -> Result<Live> {
        match self.mount() {
            Some(mount) => Ok(mount.live),
            None => Ok(Live { branch: stored_branch(self.engine)?, txn: None }),
        }
    }

    /// The live tree's view.
    ///
    /// # Errors
    /// Those of the store.
    pub fn live_view(&self) -> Result<View> {
        let live = self.live()?;
        if let Some(mount) = self.mount()
            && let Some(seq) = mount.at
        {
            return Ok(View::as_of(live.branch, seq));
        }
        Ok(View::live(self.branch_of(live)?))
    }

    /// The branch whose rows a live view shows: the transaction's hidden one where one is shown.
    ///
    /// # Errors
    /// Where the transaction is not known.
    pub fn branch_of(&self, live: Live) -> Result<BranchId> {
        match live.txn {
            Some(id) => Ok(self.txn(id)?.branch),
            None => Ok(live.branch),
        }
    }

    /// A transaction by its number.
    ///
    /// # Errors
    /// Where there is none.
    pub fn txn(&self, id: TxnId) -> Result<TxnRow> {
        let found = self.engine.transactions().into_iter().find(|row| row.id == id);
        found.ok_or_else(|| Error::failed(format!("there is no transaction T{id}; `stone status` lists the open ones")))
    }

    /// A branch's name; of a transaction's hidden branch `T7`.
    pub fn branch_name(&self, id: BranchId) -> Text {
        match self.engine.branch(id).and_then(|row| row.name) {
            Some(name) => Text(name),
            None => match self.engine.transactions().into_iter().find(|row| row.branch == id) {
                Some(row) => Text(format!("T{}", row.id).into_bytes()),
                None => Text(format!("#{id}").into_bytes()),
            },
        }
    }

    /// What a reference names.
    ///
    /// # Errors
    /// Where it names nothing, with why.
    pub fn reference(&self, text: &Text) -> Result<View> {
        let branch = self.live_view()?.branch;
        let context = RefContext { branch, zone: self.zone.clone(), now: self.now() };
        Ok(refs::resolve(self.engine, text.as_bytes(), &context)?)
    }

    /// The view that a reference names; the live tree's where there is none.
    ///
    /// # Errors
    /// Where it names nothing, with why.
    pub fn view_at(&self, at: Option<&Text>) -> Result<View> {
        match at {
            Some(text) => self.reference(text),
            None => self.live_view(),
        }
    }

    /// The point that a reference names; of a branch, its present.
    ///
    /// # Errors
    /// Where it names nothing, with why.
    pub fn point_of(&self, text: &Text) -> Result<Seq> {
        match self.reference(text)?.at {
            At::AsOf(seq) => Ok(seq),
            At::Live => Ok(self.engine.point().0),
        }
    }

    /// The present of a branch, or of an open transaction (`T7`).
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn named_branch(&self, name: &Text) -> Result<View> {
        if self.engine.branch_named(name.as_bytes()).is_none()
            && let Some(id) = parse_transaction(name.as_bytes())
        {
            return Ok(View::live(self.txn(id)?.branch));
        }
        Ok(View::live(refs::branch(self.engine, name.as_bytes())?.id))
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// Brings everything that was done so far to where readers of the store see it.
    ///
    /// # Errors
    /// Those of the store, or a mount that does not answer.
    pub fn settle(&self) -> Result<Seq> {
        self.host.cut()?;
        let seq = self.engine.seal(None)?;
        self.engine.flush(seq)?;
        Ok(seq)
    }

    /// A snapshot that holds every operation finished so far, of files still open for writing what
    /// has a version.
    ///
    /// # Errors
    /// Those of the store.
    pub fn reader(&self) -> Result<Box<dyn ReadTxn + '_>> {
        self.engine.flush(self.engine.point().0)?;
        Ok(self.engine.store().read()?)
    }

    /// Tells how far the work got.
    pub fn report(&self, what: &str, done: u64, total: u64) {
        (self.progress.borrow_mut())(what, done, total);
    }
}

/// The branch that was last switched to, `main` at first.
///
/// # Errors
/// Those of the store.
pub fn stored_branch(engine: &Engine) -> Result<BranchId> {
    let stored = engine.store().read()?.setting(LIVE_BRANCH)?;
    let id = stored.as_deref().and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).map(BranchId);
    Ok(match id.and_then(|id| engine.branch(id)) {
        Some(row) if row.dropped.is_none() => row.id,
        Some(_) | None => BranchId::MAIN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_the_systems() {
        let (ours, theirs) = (system_zone(), TimeZone::system());
        assert_eq!(ours.iana_name(), theirs.iana_name());
        for second in [0, 1_700_000_000, 1_790_000_000] {
            let at = jiff::Timestamp::from_second(second).unwrap();
            assert_eq!(ours.to_offset(at), theirs.to_offset(at));
        }
    }

    #[test]
    fn a_zone_is_understood_by_name_and_by_offset() {
        let named = Origin { zone: "Europe/Berlin".to_owned(), dev: None };
        assert_eq!(named.time_zone().iana_name(), Some("Europe/Berlin"));
        let offset = Origin { zone: "+05:30".to_owned(), dev: None };
        let noon = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(offset.time_zone().to_offset(noon).seconds(), 5 * 3600 + 1800);
        let nonsense = Origin { zone: "nowhere".to_owned(), dev: None };
        assert_eq!(nonsense.time_zone().to_offset(noon).seconds(), 0);
    }
}
