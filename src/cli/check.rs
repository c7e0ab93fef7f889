//! `stone check`: looks for damage.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::text::escape;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone check                     the database of the mount you are in
  stone check work.stone          one that is not mounted
Exit status: 0 when it is sound; else 1, and one line per finding.";

/// Looks for damage: broken pages, dangling rows, overlapping periods
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The database, or a directory it is mounted at
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
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
    pub(super) fn run(self, app: &App) -> Result<u8> {
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
