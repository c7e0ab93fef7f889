//! `stone check`: looks for damage.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::Store;
use crate::store::sqlite::SqliteStore;

use super::app::{App, connect};
use super::context::Context;
use super::error::{About, Error, Result};
use super::place::Place;
use super::text::escape;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone check                     the database of the mount you are in
  stone check work.stone          one that is not mounted
  stone check --repair work.stone       mends what can be mended; make a copy first
Exit status: 0 when it is sound; else 1, and one line per finding.";

/// Looks for damage: broken pages, dangling rows, overlapping periods
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The database, or a directory it is mounted at
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
    /// Mends what is found, and isolates what cannot be mended; the database must not be mounted
    #[arg(long)]
    repair: bool,
}

/// What a repair did.
#[derive(Debug, Serialize)]
struct Repaired {
    /// What was mended or isolated.
    mended: Vec<String>,
    /// What is wrong still.
    findings: Vec<Finding>,
}

/// The work of `stone check`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {}

/// A finding.
#[derive(Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub finding: String,
}

impl Work for Check {
    const NAME: &'static str = "check";
    type Output = Vec<Finding>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<Finding>> {
        context.settle()?;
        context.report("checking", 0, 0);
        Ok(context.engine.store().check()?.into_iter().map(|finding| Finding { finding }).collect())
    }
}

impl CheckArgs {
    fn repair(&self, app: &App) -> Result<u8> {
        let place = match &self.database {
            Some(name) => Place::of_either(name)?,
            None => Place::find(app.globals.db.as_deref(), app.globals.mount.as_deref(), &[])?,
        };
        let name = place.database.as_os_str().as_bytes();
        if connect(&place.database)?.is_some() {
            return Err(Error::failed("is mounted; unmount it before it is repaired").about(name));
        }
        let store = SqliteStore::open(&place.database).about(name)?;
        let mended = store.repair().about(name)?;
        let findings = store.check().about(name)?.into_iter().map(|finding| Finding { finding }).collect();
        store.close().about(name)?;
        let repaired = Repaired { mended, findings };
        app.show(&repaired, false, |screen, repaired| {
            for line in repaired.mended.iter().chain(repaired.findings.iter().map(|row| &row.finding)) {
                screen.line(escape(line.as_bytes()))?;
            }
            Ok(())
        })?;
        Ok(u8::from(!repaired.findings.is_empty()))
    }

    pub(super) fn run(self, app: &App) -> Result<u8> {
        if self.repair {
            return self.repair(app);
        }
        let findings = app.access_named(self.database.as_deref())?.ask(&Check {})?;
        app.show(&findings, false, |screen, findings| {
            for row in findings {
                screen.line(escape(row.finding.as_bytes()))?;
            }
            Ok(())
        })?;
        Ok(u8::from(!findings.is_empty()))
    }
}
