//! `stone undo`, `stone redo`, `stone restore` and `stone rollback --to`: back to what was, as new
//! transactions; nothing is erased.

use serde::{Deserialize, Serialize};

use crate::types::{BranchId, ProcId, Seq};
use crate::version::restore::{self, RestoreOutcome};
use crate::version::undo::{self, UndoOutcome, UndoTarget};

use super::app::App;
use super::context::Context;
use super::error::{Error, Result};
use super::outcome::{ConflictRow, Counts, Outcome};
use super::text::{Text, TreePath, parse_transaction, point, transaction};
use super::works::Work;

const UNDO_EXAMPLES: &str = "\
Examples:
  stone undo                   the newest change of the live branch; again: the one before it
  stone undo T7                a transaction
  stone undo e123              an event
  stone undo --process 42      everything that a process of the record changed
  stone undo --process 42 --tree   ... with what it started
  stone redo                   brings back what the last undo took away
An undo is refused (exit status 3) where others have changed the same things since; --force takes
their changes back too. It is itself a transaction, and can be undone.";

const REDO_EXAMPLES: &str = "\
Examples:
  stone undo; stone redo       there and back";

const RESTORE_EXAMPLES: &str = "\
Examples:
  stone restore notes.txt --at 10:40      a file as it was, times and mode included
  stone restore src --at T7^              a tree as it was; what was not there then goes
  stone rollback --to yesterday           the whole live branch";

/// Takes a change back, as a new transaction
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = UNDO_EXAMPLES)]
pub struct UndoArgs {
    /// A transaction (T7) or an event (e123); the newest change that is not undone yet where it is left out
    #[arg(value_name = "ID")]
    id: Option<Text>,
    /// Everything that this process of the record changed (`stone ps` lists them)
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    process: Option<u64>,
    /// With everything that processes changed which it started, and those that they started
    #[arg(long, requires = "process")]
    tree: bool,
    /// Even where others have changed the same things since
    #[arg(long)]
    force: bool,
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
}

/// Brings back what the last undo took away
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = REDO_EXAMPLES)]
pub struct RedoArgs {
    /// Even where others have changed the same things since
    #[arg(long)]
    force: bool,
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
}

/// Brings a path, or a tree, back to what it was
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub struct RestoreArgs {
    /// The path
    #[arg(value_name = "PATH")]
    path: TreePath,
    /// The state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    at: Text,
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
}

/// The work of `stone undo`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Undo {
    /// What.
    pub id: Option<Text>,
    /// Everything of this process.
    pub process: Option<u64>,
    /// With those that it started.
    #[serde(default)]
    pub tree: bool,
    /// Even where others have changed the same.
    pub force: bool,
    /// What it is for.
    pub message: String,
}

/// The work of `stone redo`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Redo {
    /// Even where others have changed the same.
    pub force: bool,
    /// What it is for.
    pub message: String,
}

/// The work of `stone restore`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Restore {
    /// What.
    pub path: TreePath,
    /// To which state.
    pub at: Text,
    /// What it is for.
    pub message: String,
}

/// The work of `stone rollback --to`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RollbackTo {
    /// To which state.
    pub to: Text,
}

/// What an undo or redo came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Undone {
    /// The transaction that did it.
    pub transaction: Option<String>,
    /// Its event.
    pub point: Option<String>,
    /// The transaction that was taken back.
    pub of: Option<String>,
    /// The events that were taken back.
    pub events: Vec<String>,
    /// What changed by it.
    #[serde(flatten)]
    pub counts: Counts,
    /// What others have changed since, so that nothing was done.
    pub conflicts: Vec<ConflictRow>,
}

/// The branch that is changed: the live one, or the transaction that is shown.
fn branch(context: &Context<'_>) -> Result<BranchId> {
    if let Some(mount) = context.mount()
        && (mount.at.is_some() || mount.read_only)
    {
        return Err(Error::failed("this mount is read-only"));
    }
    Ok(context.live_view()?.branch)
}

fn undone(outcome: UndoOutcome) -> Undone {
    match outcome {
        UndoOutcome::Done { txn, seq, events, of, summary } => Undone {
            transaction: Some(transaction(txn)),
            point: Some(point(seq)),
            of: of.map(transaction),
            events: events.into_iter().map(point).collect(),
            counts: summary.into(),
            conflicts: Vec::new(),
        },
        UndoOutcome::Refused { conflicts } => Undone {
            transaction: None,
            point: None,
            of: None,
            events: Vec::new(),
            counts: Counts::default(),
            conflicts: conflicts.iter().map(ConflictRow::of).collect(),
        },
    }
}

impl Work for Undo {
    const NAME: &'static str = "undo";
    const CHANGES: bool = true;
    type Output = Undone;

    fn execute(&self, context: &Context<'_>) -> Result<Undone> {
        let target = match (&self.id, self.process) {
            (_, Some(process)) if self.tree => UndoTarget::Tree(ProcId(process)),
            (_, Some(process)) => UndoTarget::Process(ProcId(process)),
            (None, None) => UndoTarget::Newest,
            (Some(id), None) => parse_target(id)
                .ok_or_else(|| Error::usage("is no transaction (T7) and no event (e123)").about(id.as_bytes()))?,
        };
        context.host.cut()?;
        let branch = branch(context)?;
        let outcome = undo::undo(context.engine, branch, target, self.force, &self.message, &context.caller)?;
        context.engine.sync()?;
        Ok(undone(outcome))
    }
}

fn parse_target(id: &Text) -> Option<UndoTarget> {
    match id.as_bytes().split_first()? {
        (b'T', _) => parse_transaction(id.as_bytes()).map(UndoTarget::Txn),
        (b'e', digits) => std::str::from_utf8(digits).ok()?.parse().ok().map(|seq| UndoTarget::Event(Seq(seq))),
        _ => None,
    }
}

impl Work for Redo {
    const NAME: &'static str = "redo";
    const CHANGES: bool = true;
    type Output = Undone;

    fn execute(&self, context: &Context<'_>) -> Result<Undone> {
        context.host.cut()?;
        let outcome = undo::redo(context.engine, branch(context)?, self.force, &self.message, &context.caller)?;
        context.engine.sync()?;
        Ok(undone(outcome))
    }
}

fn restored(context: &Context<'_>, outcome: RestoreOutcome) -> Result<Outcome> {
    context.engine.sync()?;
    Ok(match outcome {
        RestoreOutcome::Restored { txn, seq, summary } => Outcome::committed(txn, seq, summary, &[]),
        RestoreOutcome::Unchanged => Outcome::unchanged(),
    })
}

impl Work for Restore {
    const NAME: &'static str = "restore";
    const CHANGES: bool = true;
    type Output = Outcome;

    fn execute(&self, context: &Context<'_>) -> Result<Outcome> {
        context.host.cut()?;
        let at = context.reference(&self.at)?;
        let branch = branch(context)?;
        let done = restore::restore(context.engine, branch, self.path.as_bytes(), at, &self.message, &context.caller);
        restored(context, done?)
    }
}

impl Work for RollbackTo {
    const NAME: &'static str = "rollback-to";
    const CHANGES: bool = true;
    type Output = Outcome;

    fn execute(&self, context: &Context<'_>) -> Result<Outcome> {
        context.host.cut()?;
        let at = context.reference(&self.to)?;
        let message = format!("rollback to {}", self.to.shown());
        let done = restore::rollback_to(context.engine, branch(context)?, at, &message, &context.caller)?;
        restored(context, done)
    }
}

/// Shows what an undo or redo came to.
fn show(app: &App, done: &Undone, word: &str) -> Result<u8> {
    app.show(done, false, |screen, done| {
        if let Some(id) = &done.transaction {
            let Counts { added, modified, renamed, removed } = done.counts;
            let summary = crate::version::diff::Summary { added, modified, removed, renamed };
            let what = match (&done.of, done.events.as_slice()) {
                (Some(of), _) => of.clone(),
                (None, [only]) => only.clone(),
                (None, events) => format!("{} events", events.len()),
            };
            return screen.line(format!("Transaction {id} {word} {what}: {summary}"));
        }
        screen.columns(&done.conflicts.iter().map(ConflictRow::cells).collect::<Vec<_>>())
    })?;
    if done.transaction.is_none() {
        app.note("nothing was done: others have changed the same things since; --force takes that back too");
        return Ok(3);
    }
    Ok(0)
}

impl UndoArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let message = self.message.unwrap_or_default();
        let done =
            app.ask(&Undo { id: self.id, process: self.process, tree: self.tree, force: self.force, message })?;
        show(app, &done, "undid")
    }
}

impl RedoArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let done = app.ask(&Redo { force: self.force, message: self.message.unwrap_or_default() })?;
        show(app, &done, "redid")
    }
}

impl RestoreArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = app.tree_path(&self.path)?;
        let outcome = app.ask(&Restore { path, at: self.at, message: self.message.unwrap_or_default() })?;
        app.show(&outcome, false, |screen, outcome| match &outcome.transaction {
            Some(_) => outcome.render(screen),
            None => screen.line("Nothing to restore: it is as it was then"),
        })?;
        Ok(outcome.status())
    }
}
