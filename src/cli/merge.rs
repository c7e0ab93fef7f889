//! `stone merge`: brings the changes of a branch into another.

use serde::{Deserialize, Serialize};

use crate::version::conflict::{Detail, Side};
use crate::version::merge::{self, MergeOptions, MergeOutcome};
use crate::version::{refs, txn};

use super::app::App;
use super::commit::Strategy;
use super::context::Context;
use super::error::{Error, Result};
use super::outcome::Outcome;
use super::text::Text;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone merge experiment                  into the live branch
  stone merge main --into experiment
  stone merge experiment --text           merges line changes of text files that do not overlap
  stone merge experiment --strategy ours  where both changed the same, the live branch wins
Exit status 3: conflicts. The live tree is as it was; `stone conflicts` lists them, each is shown as
.tx/ID/.conflicts/PATH/{base,ours,theirs}, and `stone resolve`, then `stone commit` finish the merge.";

/// Merges a branch into the live one: three-way, by the identity of files
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct MergeArgs {
    /// The branch (or a point of one, as NAME@POINT)
    #[arg(value_name = "NAME")]
    name: Text,
    /// Into this branch instead of the live one
    #[arg(long, value_name = "BRANCH")]
    into: Option<Text>,
    /// Decides every conflict
    #[arg(long, value_name = "SIDE")]
    strategy: Option<Strategy>,
    /// Merges line changes of text files that do not overlap
    #[arg(long)]
    text: bool,
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
}

/// The work of `stone merge`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Merge {
    /// What is merged.
    pub name: Text,
    /// Into which branch.
    pub into: Option<Text>,
    /// Decides every conflict.
    pub strategy: Option<Strategy>,
    /// Merges lines.
    pub text: bool,
    /// What it is for.
    pub message: String,
}

impl Work for Merge {
    const NAME: &'static str = "merge";
    const CHANGES: bool = true;
    type Output = Outcome;

    fn execute(&self, context: &Context<'_>) -> Result<Outcome> {
        let source = context.reference(&self.name)?;
        let target = match &self.into {
            Some(name) => refs::branch(context.engine, name.as_bytes())?.id,
            None => {
                let live = context.live()?;
                if let Some(id) = live.txn {
                    let message = format!("transaction T{id} is shown; commit it or roll it back first, or use --into");
                    return Err(Error::failed(message));
                }
                live.branch
            }
        };
        for row in txn::open_ones(context.engine).into_iter().filter(|row| row.target == target) {
            if Detail::of(&row)?.merge.is_some_and(|merge| merge.theirs.branch == source.branch) {
                let id = row.id;
                let message = format!("T{id} merges it already; `stone commit T{id}` or `stone rollback T{id}` first");
                return Err(Error::failed(message).about(self.name.as_bytes()));
            }
        }
        context.host.cut()?;
        context.report("merging", 0, 0);
        let options =
            MergeOptions { strategy: self.strategy.map(Side::from), text: self.text, message: self.message.clone() };
        let outcome = match merge::merge(context.engine, source, target, &options, &context.caller)? {
            MergeOutcome::UpToDate => Outcome::unchanged(),
            MergeOutcome::Merged { txn, seq, summary, decided } => Outcome::committed(txn, seq, summary, &decided),
            MergeOutcome::Conflicted { txn, conflicts } => Outcome::conflict(txn, &conflicts),
        };
        context.engine.sync()?;
        Ok(outcome)
    }
}

impl MergeArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let work = Merge {
            name: self.name,
            into: self.into,
            strategy: self.strategy,
            text: self.text,
            message: self.message.unwrap_or_default(),
        };
        let outcome = app.ask(&work)?;
        app.show(&outcome, false, |screen, outcome| outcome.render(screen))?;
        if let Some(advice) = outcome.advice(true) {
            app.note(advice);
        }
        Ok(outcome.status())
    }
}
