//! `stone sync`: everything so far is on disk.

use serde::{Deserialize, Serialize};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::text::point;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone sync                 prints the point reached, as e123
  point=$(stone sync)        remember this state ...
  stone diff $point          ... and see later what changed since";

/// Puts everything so far on disk, mapped pages too, and prints the point reached
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SyncArgs {}

/// The work of `stone sync`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sync {}

/// What it reached.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reached {
    /// The point.
    pub point: String,
}

impl Work for Sync {
    const NAME: &'static str = "sync";
    type Output = Reached;

    fn execute(&self, context: &Context<'_>) -> Result<Reached> {
        context.host.cut()?;
        Ok(Reached { point: point(context.engine.sync()?) })
    }
}

impl SyncArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let reached = app.ask(&Sync {})?;
        app.show(&reached, false, |screen, reached| screen.line(&reached.point))?;
        Ok(0)
    }
}
