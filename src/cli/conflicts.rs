//! `stone conflicts` and `stone resolve`: what stands in a merge's way.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::version::merge::{self, Resolve};
use crate::version::txn;

use super::app::App;
use super::context::Context;
use super::error::{About, Result};
use super::outcome::{ConflictRow, choose};
use super::text::{Text, TreePath, transaction};
use super::works::Work;

const LIST_EXAMPLES: &str = "\
Examples:
  stone conflicts          of the transaction that is shown, or the only open one
  stone conflicts T7
One row each: kind, path, and the paths in base, ours and theirs. Each is also shown as
.tx/ID/.conflicts/PATH/{base,ours,theirs}.";

const RESOLVE_EXAMPLES: &str = "\
Examples:
  stone resolve src/a.c --ours             as the receiving branch has it
  stone resolve src/a.c --theirs           as the merged branch has it
  stone resolve src/a.c --file /tmp/a.c    with this content
  stone commit                             when all are resolved";

/// Lists the conflicts of a merge or a commit
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ConflictsArgs {
    /// The transaction
    #[arg(value_name = "ID")]
    id: Option<Text>,
}

/// Resolves a conflict of a merge
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = RESOLVE_EXAMPLES)]
#[command(group = clap::ArgGroup::new("how").required(true))]
pub struct ResolveArgs {
    /// Any of the conflict's paths
    #[arg(value_name = "PATH")]
    path: TreePath,
    /// As the receiving branch has it
    #[arg(long, group = "how")]
    ours: bool,
    /// As the merged branch has it
    #[arg(long, group = "how")]
    theirs: bool,
    /// With the content of this file
    #[arg(long, value_name = "FILE", group = "how")]
    file: Option<PathBuf>,
    /// The transaction
    #[arg(long, value_name = "ID")]
    txn: Option<Text>,
}

/// The work of `stone conflicts`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Conflicts {
    /// Which transaction.
    pub id: Option<Text>,
}

/// The work of `stone resolve`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResolveWork {
    /// Which transaction.
    pub id: Option<Text>,
    /// Any of the conflict's paths.
    pub path: TreePath,
    /// How.
    pub how: How,
}

/// How a conflict is resolved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// As the receiving branch has it.
    Ours,
    /// As the merged branch has it.
    Theirs,
    /// With this content.
    File(Text),
}

/// What is left.
#[derive(Debug, Serialize, Deserialize)]
pub struct Resolved {
    /// The transaction, as `T7`.
    pub transaction: String,
    /// All conflicts as they are now.
    pub conflicts: Vec<ConflictRow>,
}

impl Work for Conflicts {
    const NAME: &'static str = "conflicts";
    type Output = Vec<ConflictRow>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<ConflictRow>> {
        if self.id.is_none() && txn::open_ones(context.engine).is_empty() {
            return Ok(Vec::new());
        }
        let row = choose(context, self.id.as_ref())?;
        Ok(merge::conflicts(context.engine, row.id)?.iter().map(ConflictRow::of).collect())
    }
}

impl Work for ResolveWork {
    const NAME: &'static str = "resolve";
    const CHANGES: bool = true;
    type Output = Resolved;

    fn execute(&self, context: &Context<'_>) -> Result<Resolved> {
        let row = choose(context, self.id.as_ref())?;
        let how = match &self.how {
            How::Ours => Resolve::Ours,
            How::Theirs => Resolve::Theirs,
            How::File(content) => Resolve::File(content.0.clone()),
        };
        let conflicts = merge::resolve(context.engine, row.id, self.path.as_bytes(), &how, &context.caller)?;
        Ok(Resolved { transaction: transaction(row.id), conflicts: conflicts.iter().map(ConflictRow::of).collect() })
    }
}

impl ConflictsArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let rows = app.ask(&Conflicts { id: self.id })?;
        app.show(&rows, true, |screen, rows| screen.columns(&rows.iter().map(ConflictRow::cells).collect::<Vec<_>>()))?;
        Ok(0)
    }
}

impl ResolveArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = app.tree_path(&self.path)?;
        let how = match (self.ours, self.file) {
            (true, _) => How::Ours,
            (false, Some(file)) => How::File(Text(fs::read(&file).about(file.as_os_str().as_encoded_bytes())?)),
            (false, None) => How::Theirs,
        };
        let done = app.ask(&ResolveWork { id: self.txn, path, how })?;
        let left = done.conflicts.iter().filter(|row| row.resolved.is_none()).count();
        if app.globals.json {
            app.show_json(&done)?;
        } else if left > 0 {
            app.note(format!("{left} left; `stone conflicts` lists them"));
        } else {
            app.note(format!("all are resolved; `stone commit {}` finishes the merge", done.transaction));
        }
        Ok(0)
    }
}
