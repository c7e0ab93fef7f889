//! `stone prune`: forgets history before a point; `stone gc`: returns free space to the disk.

use serde::{Deserialize, Serialize};

use crate::store::{Prune, Pruned};

use super::app::App;
use super::context::Context;
use super::error::{Error, Result};
use super::retention;
use super::screen::bytes;
use super::text::{Text, point};
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone prune --before 30d --dry-run      says what would be forgotten, and what that frees
  stone prune --before 30d                forgets it
  stone prune --before v2; stone gc       ... and returns the space to the disk
  stone prune --keep 30d                  from now on, the mounted database forgets what is older
  stone prune --keep all                  ... and from now on forgets nothing by itself any more
What tags, branches and open transactions need is kept. A state before REF that was forgotten cannot
be named any more; there is no way back. The chain of digests stays whole: `stone verify` says from
where on the record is complete.";

const GC_EXAMPLES: &str = "\
Examples:
  stone gc                returns free space inside the database to the disk, in small steps
It can run while programs work on the mount. `stone status` shows what can be returned; `stone prune`
makes more of it.";

/// Pages that one step returns.
const STEP: u32 = 256;

/// Forgets history before a point, except what tags, branches and open transactions need
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PruneArgs {
    /// The first state that is kept
    #[arg(long, value_name = "REF", allow_hyphen_values = true, required_unless_present = "keep")]
    before: Option<Text>,
    /// Sets how long history is kept from now on (30d, 12h, 2w, all); the daemon forgets what is older
    #[arg(long, value_name = "TIME", conflicts_with_all = ["before", "dry_run"])]
    keep: Option<Text>,
    /// Only says what would be forgotten
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Returns free space inside the database to the disk
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = GC_EXAMPLES)]
pub struct GcArgs {}

/// The work of `stone prune`.
#[derive(Debug, Serialize, Deserialize)]
pub struct PruneWork {
    /// The first state that is kept.
    pub before: Text,
    /// Only says what would be forgotten.
    pub dry_run: bool,
}

/// What was forgotten, or would be.
#[derive(Debug, Serialize, Deserialize)]
pub struct PruneOut {
    /// The first point that is kept.
    pub before: String,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Versions of files, names, attributes and parts of contents.
    pub versions: u64,
    /// Events.
    pub events: u64,
    /// Contents.
    pub contents: u64,
    /// Bytes of those as they are stored.
    pub bytes: u64,
}

impl Work for PruneWork {
    const NAME: &'static str = "prune";
    const CHANGES: bool = true;
    type Output = PruneOut;

    fn execute(&self, context: &Context<'_>) -> Result<PruneOut> {
        context.settle()?;
        let before = context.point_of(&self.before)?;
        let pins = retention::pins(context.engine, &context.host.mounts())?;
        context.report("forgetting", 0, 0);
        let pruned = if self.dry_run {
            context.engine.store().prune(&Prune { before, pins, dry_run: true })?
        } else {
            retention::forget(context.engine, before, pins, &context.caller)?
        };
        let Pruned { before, rows, events, chunks, bytes } = pruned;
        Ok(PruneOut { before: point(before), dry_run: self.dry_run, versions: rows, events, contents: chunks, bytes })
    }
}

/// The work of `stone prune --keep`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Keep {
    /// How long history is kept; `all` for good.
    pub keep: Text,
}

impl Work for Keep {
    const NAME: &'static str = "keep";
    const CHANGES: bool = true;
    type Output = Keep;

    fn execute(&self, context: &Context<'_>) -> Result<Keep> {
        retention::set(context.engine, &self.keep, &context.caller)?;
        Ok(Keep { keep: self.keep.clone() })
    }
}

/// The work of `stone gc`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Gc {}

/// What was returned.
#[derive(Debug, Serialize, Deserialize)]
pub struct GcOut {
    /// Bytes that the disk got back.
    pub returned: u64,
    /// Bytes that are still free inside the database.
    pub reclaimable: u64,
}

impl Work for Gc {
    const NAME: &'static str = "gc";
    const CHANGES: bool = true;
    type Output = GcOut;

    fn execute(&self, context: &Context<'_>) -> Result<GcOut> {
        context.settle()?;
        let store = context.engine.store();
        let before = store.space()?.reclaimable;
        let mut left = u64::MAX;
        loop {
            let free = store.release(STEP)?;
            context.report("returning space", before.saturating_sub(free), before);
            store.checkpoint()?;
            if free == 0 || free >= left {
                break;
            }
            left = free;
        }
        let reclaimable = store.space()?.reclaimable;
        Ok(GcOut { returned: before.saturating_sub(reclaimable), reclaimable })
    }
}

impl PruneArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        if let Some(keep) = self.keep {
            retention::parse(&keep)?;
            let set = app.ask(&Keep { keep })?;
            return app.show(&set, false, |_, _| Ok(())).map(|()| 0);
        }
        let before = self.before.ok_or_else(|| Error::usage("give --before REF or --keep TIME"))?;
        let done = app.ask(&PruneWork { before, dry_run: self.dry_run })?;
        app.show(&done, false, |screen, done| {
            let verb = if done.dry_run { "Would forget" } else { "Forgot" };
            screen.line(format!(
                "{verb} history before {}: {} versions, {} events, {} contents of {}",
                done.before,
                done.versions,
                done.events,
                done.contents,
                bytes(done.bytes)
            ))
        })?;
        Ok(0)
    }
}

impl GcArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let done = app.ask(&Gc {})?;
        app.show(&done, false, |screen, done| {
            screen.line(format!("Returned {}; {} are still free inside", bytes(done.returned), bytes(done.reclaimable)))
        })?;
        Ok(0)
    }
}
