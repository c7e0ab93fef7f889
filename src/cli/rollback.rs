//! `stone rollback`: gives a transaction up, or brings a whole branch back.

use serde::{Deserialize, Serialize};

use crate::version::txn;

use super::app::App;
use super::context::Context;
use super::error::{Error, Result};
use super::outcome::{choose, leave};
use super::text::{Text, transaction};
use super::undo::RollbackTo;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone rollback              the transaction that the mount shows, or the only open one
  stone rollback T7           by its number
  stone rollback --to 10:40   brings the whole live branch back to a state, as a new transaction";

/// Gives a transaction up: no trace but the record
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RollbackArgs {
    /// The transaction
    #[arg(value_name = "ID")]
    id: Option<Text>,
    /// Brings the whole live branch back to this state instead; nothing is erased
    #[arg(long, value_name = "REF", conflicts_with = "id", allow_hyphen_values = true)]
    to: Option<Text>,
}

/// The work of `stone rollback`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rollback {
    /// Which.
    pub id: Option<Text>,
}

/// What was given up.
#[derive(Debug, Serialize, Deserialize)]
pub struct RolledBack {
    /// The transaction, as `T7`.
    pub transaction: String,
}

impl Work for Rollback {
    const NAME: &'static str = "rollback";
    const CHANGES: bool = true;
    type Output = RolledBack;

    fn execute(&self, context: &Context<'_>) -> Result<RolledBack> {
        let row = choose(context, self.id.as_ref())?;
        let row = txn::find_open(context.engine, row.id, &context.caller)?;
        if context.host.mounts().iter().any(|mount| mount.run == Some(row.id)) {
            let message = format!("T{} is of a `stone run` that is still running; end that program", row.id);
            return Err(Error::failed(message));
        }
        leave(context, &row)?;
        txn::rollback(context.engine, row.id, &context.caller)?;
        context.engine.sync()?;
        Ok(RolledBack { transaction: transaction(row.id) })
    }
}

impl RollbackArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        if let Some(to) = self.to {
            let outcome = app.ask(&RollbackTo { to })?;
            app.show(&outcome, false, |screen, outcome| outcome.render(screen))?;
            return Ok(outcome.status());
        }
        let done = app.ask(&Rollback { id: self.id })?;
        app.show(&done, false, |screen, done| screen.line(format!("Transaction {} rolled back", done.transaction)))?;
        Ok(0)
    }
}
