//! `stone show`: one event or transaction whole, with its diff.

use serde::{Deserialize, Serialize};

use crate::store::{EventFilter, TxnKind, TxnState};
use crate::types::{At, Seq, TxnId, View};

use super::app::App;
use super::context::Context;
use super::diff::{self, DiffRow};
use super::error::{Error, Result};
use super::log::{self, LogRow, Programs};
use super::screen::{Screen, Style};
use super::text::{Text, When, escape, parse_transaction, point, transaction};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone show e123              an event, and what it changed
  stone show T7 -p             a transaction, line by line
  stone show 10:40             the last event before that time
To read a file as it was: `cat .history/e123/FILE`.";

/// Events of a transaction that are shown.
const EVENTS_MAX: usize = 1000;

/// Shows one event or transaction whole, with its diff
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    /// An event (e123), a transaction (T7), or any point
    #[arg(value_name = "POINT", allow_hyphen_values = true)]
    point: Text,
    /// Shows changes of text line by line
    #[arg(short, long)]
    patch: bool,
}

/// The work of `stone show`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Show {
    /// Which point.
    pub point: Text,
    /// With changes of text.
    pub patch: bool,
}

/// A transaction.
#[derive(Debug, Serialize, Deserialize)]
pub struct TxnOut {
    /// Its number, as `T7`.
    pub id: String,
    /// The branch that it changes.
    pub branch: Text,
    /// What opened it.
    pub kind: TxnKind,
    /// How far it got.
    pub state: TxnState,
    /// The state that it began from.
    pub base: String,
    /// When it was opened.
    pub begun: When,
    /// The event that ended it.
    pub ended_point: Option<String>,
    /// When that was.
    pub ended: Option<When>,
    /// Who opened it.
    pub uid: u32,
    /// What it is for.
    pub message: String,
    /// Who acts in it.
    pub label: String,
}

/// An event or a transaction with what it changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The event; of a transaction that ended, its last.
    pub event: Option<LogRow>,
    /// The transaction.
    pub transaction: Option<TxnOut>,
    /// The transaction's own events, oldest first (the first thousand).
    pub events: Vec<LogRow>,
    /// What was changed.
    pub changes: Vec<DiffRow>,
}

impl Work for Show {
    const NAME: &'static str = "show";
    type Output = Shown;

    fn execute(&self, context: &Context<'_>) -> Result<Shown> {
        if let Some(id) = parse_transaction(self.point.as_bytes()).filter(|_| self.point.0.first() == Some(&b'T')) {
            return self.transaction(context, id);
        }
        let seq = context.point_of(&self.point)?;
        let reader = context.reader()?;
        let Some(event) = reader.event(seq)? else {
            return Err(Error::failed(format!("there is no event {}", point(seq))));
        };
        if let Some(id) = event.txn.filter(|_| event.op == crate::types::Op::Commit) {
            drop(reader);
            return self.transaction(context, id);
        }
        let branch = event.branch;
        let row = log::row(context, reader.as_ref(), &mut Programs::default(), event)?;
        drop(reader);
        let before = View::as_of(branch, Seq(seq.0.saturating_sub(1)));
        let changes = diff::rows(context, before, View::as_of(branch, seq), None, self.patch)?;
        Ok(Shown { event: Some(row), transaction: None, events: Vec::new(), changes })
    }
}

impl Show {
    fn transaction(&self, context: &Context<'_>, id: TxnId) -> Result<Shown> {
        let txn = context.txn(id)?;
        let reader = context.reader()?;
        let mut programs = Programs::default();
        let event = match txn.ended.map(|seq| reader.event(seq)).transpose()?.flatten() {
            Some(event) => Some(log::row(context, reader.as_ref(), &mut programs, event)?),
            None => None,
        };
        let own = EventFilter { txn: Some(id), limit: Some(EVENTS_MAX), ..EventFilter::default() };
        let mut events = Vec::new();
        for event in reader.events(&own)? {
            if event.branch == txn.branch {
                events.push(log::row(context, reader.as_ref(), &mut programs, event)?);
            }
        }
        drop(reader);
        let before = View::as_of(txn.target, txn.base);
        let after = match (txn.state, txn.ended) {
            (TxnState::Committed, Some(seq)) => View { branch: txn.target, at: At::AsOf(seq) },
            _ => View::live(txn.branch),
        };
        let before = match after.at {
            At::AsOf(seq) if after.branch == txn.target => View::as_of(txn.target, Seq(seq.0.saturating_sub(1))),
            At::AsOf(_) | At::Live => before,
        };
        let changes = diff::rows(context, before, after, None, self.patch)?;
        let transaction = TxnOut {
            id: transaction(id),
            branch: context.branch_name(txn.target),
            kind: txn.kind,
            state: txn.state,
            base: point(txn.base),
            begun: When(txn.begun_time),
            ended_point: txn.ended.map(point),
            ended: txn.ended_time.map(When),
            uid: txn.uid,
            message: txn.message,
            label: txn.label,
        };
        Ok(Shown { event, transaction: Some(transaction), events, changes })
    }
}

impl ShowArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let shown = app.ask(&Show { point: self.point, patch: self.patch })?;
        app.show(&shown, true, |screen, shown| render(screen, shown, self.patch))?;
        Ok(0)
    }
}

fn render(screen: &mut Screen, shown: &Shown, patch: bool) -> Result<()> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![(Style::Dim, name.to_owned()), (Style::Plain, value)]);
    if let Some(txn) = &shown.transaction {
        let kind = format!("{:?}", txn.kind).to_lowercase();
        let state = match txn.state {
            TxnState::Open => "open",
            TxnState::Interrupted => "interrupted",
            TxnState::Conflicted => "in conflict",
            TxnState::Committed => "committed",
            TxnState::RolledBack => "rolled back",
        };
        row("transaction", format!("{} ({kind}, {state}) on {}", txn.id, txn.branch.shown()));
        row("from", txn.base.clone());
        row("begun", format!("{} by {}", txn.begun.shown(&screen.zone), users::name(txn.uid)));
        if let (Some(at), Some(time)) = (&txn.ended_point, txn.ended) {
            row("ended", format!("{at} {}", time.shown(&screen.zone)));
        }
        for (name, text) in [("label", &txn.label), ("message", &txn.message)] {
            if !text.is_empty() {
                row(name, escape(text.as_bytes()));
            }
        }
    } else if let Some(event) = &shown.event {
        row("event", format!("{} on {}", event.point, event.branch.shown()));
        row("time", event.time.shown(&screen.zone));
        row("operation", event.op.as_str().to_owned());
        for (name, path) in [("path", &event.path), ("second path", &event.path2)] {
            if let Some(path) = path {
                row(name, path.shown());
            }
        }
        if let (Some(offset), Some(length)) = (event.offset, event.length) {
            row("bytes", format!("{length} at {offset}"));
        }
        for (name, value) in [("old", &event.old), ("new", &event.new)] {
            if let Some(value) = value {
                row(name, value.shown());
            }
        }
        if let Some(inode) = event.inode {
            row("inode", inode.to_string());
        }
        let program = event.program.as_ref().map(|name| format!(" with {}", name.shown())).unwrap_or_default();
        row("by", format!("{}{program}, pid {}", users::name(event.uid), event.pid));
        if let Some(label) = &event.label {
            row("label", escape(label.as_bytes()));
        }
        if let Some(txn) = &event.transaction {
            row("transaction", txn.clone());
        }
        if event.result != 0 {
            row("failed", std::io::Error::from_raw_os_error(event.result).to_string());
        }
    }
    screen.columns(&rows)?;
    if !shown.events.is_empty() {
        screen.line("")?;
        let lines: Vec<_> = shown.events.iter().map(|event| log::cells(screen, event)).collect();
        screen.columns(&lines)?;
    }
    if !shown.changes.is_empty() {
        screen.line("")?;
        diff::show(screen, &shown.changes, patch)?;
    }
    Ok(())
}
