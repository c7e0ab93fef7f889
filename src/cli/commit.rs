//! `stone commit`: makes a transaction visible in one step.

use serde::{Deserialize, Serialize};

use crate::store::TxnKind;
use crate::version::conflict::Side;
use crate::version::txn::{self, CommitOptions, CommitOutcome};

use super::app::App;
use super::context::Context;
use super::error::{Error, Result};
use super::outcome::{Outcome, choose, leave};
use super::text::Text;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone commit                  the transaction that the mount shows, or the only open one
  stone commit T7 -m 'done'     by its number (an interrupted one too)
  stone commit --rebase         after a conflict: merges with what others have done since
Exit status 3: others changed the same things first; nothing is visible, the transaction stays open.";

/// Which side decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The branch that receives.
    Ours,
    /// What is merged or committed.
    Theirs,
}

impl From<Strategy> for Side {
    fn from(strategy: Strategy) -> Side {
        match strategy {
            Strategy::Ours => Side::Ours,
            Strategy::Theirs => Side::Theirs,
        }
    }
}

/// Makes all of a transaction visible in one step
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CommitArgs {
    /// The transaction
    #[arg(value_name = "ID")]
    id: Option<Text>,
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
    /// Merges with what others have done since instead of insisting on being first
    #[arg(long)]
    rebase: bool,
    /// With --rebase: decides every conflict
    #[arg(long, value_name = "SIDE", requires = "rebase")]
    strategy: Option<Strategy>,
}

/// The work of `stone commit`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Commit {
    /// Which.
    pub id: Option<Text>,
    /// What it is for.
    pub message: Option<String>,
    /// Merges with what others have done since.
    pub rebase: bool,
    /// Decides every conflict.
    pub strategy: Option<Strategy>,
}

/// What it came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Committed {
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Whether it was a merge.
    pub merge: bool,
}

impl Work for Commit {
    const NAME: &'static str = "commit";
    const CHANGES: bool = true;
    type Output = Committed;

    fn execute(&self, context: &Context<'_>) -> Result<Committed> {
        let row = choose(context, self.id.as_ref())?;
        if context.host.mounts().iter().any(|mount| mount.run == Some(row.id)) {
            return Err(Error::failed(format!(
                "T{} is of a `stone run` that is still running, which commits it",
                row.id
            )));
        }
        context.host.cut()?;
        let options = CommitOptions {
            message: self.message.clone(),
            rebase: self.rebase,
            strategy: self.strategy.map(Side::from),
            reads: None,
        };
        let mut outcome = None;
        context.host.commit(row.id, &mut || {
            let done = outcome.insert(txn::commit(context.engine, row.id, &options, &context.caller)?);
            Ok(matches!(done, CommitOutcome::Committed { .. }))
        })?;
        let outcome = outcome.ok_or_else(|| Error::failed("the commit was not tried"))?;
        if let CommitOutcome::Committed { seq, .. } = &outcome {
            leave(context, &row)?;
            // a commit that was reported survives a power cut
            context.engine.sync()?;
            context.engine.flush(*seq)?;
        }
        Ok(Committed { outcome: Outcome::from(&outcome), merge: row.kind == TxnKind::Merge })
    }
}

impl CommitArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let work = Commit { id: self.id, message: self.message, rebase: self.rebase, strategy: self.strategy };
        let done = app.ask(&work)?;
        app.show(&done, false, |screen, done| done.outcome.render(screen))?;
        if let Some(advice) = done.outcome.advice(done.merge) {
            app.note(advice);
        }
        Ok(done.outcome.status())
    }
}
