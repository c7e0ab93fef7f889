//! What commits, merges and undos come to, and which transaction a command is about.

use serde::{Deserialize, Serialize};

use crate::store::TxnRow;
use crate::types::{Seq, TxnId};
use crate::version::PathBytes;
use crate::version::conflict::{Conflict, ConflictSide, Resolution};
use crate::version::diff::Summary;
use crate::version::txn::{self, CommitOutcome};

use super::context::{Context, Live};
use super::error::{About, Error, Result};
use super::screen::{Screen, Style};
use super::text::{Text, TreePath, escape, parse_transaction, point, transaction};

/// A row of `stone conflicts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConflictRow {
    /// Why: `content`, `add/add`, `modify/delete`, ...
    pub kind: String,
    /// Where it shows.
    pub path: TreePath,
    /// Its path at the merge base or the begin.
    pub base: Option<TreePath>,
    /// Its path on the receiving branch.
    pub ours: Option<TreePath>,
    /// Its path on the merged branch or in the transaction.
    pub theirs: Option<TreePath>,
    /// How it was resolved.
    pub resolved: Option<Resolution>,
}

fn tree_path(path: &PathBytes) -> TreePath {
    TreePath(path.0.clone())
}

impl ConflictRow {
    /// A conflict of the version layer as a row.
    pub fn of(conflict: &Conflict) -> ConflictRow {
        let side = |side: &Option<ConflictSide>| side.as_ref().map(|side| tree_path(&side.path));
        ConflictRow {
            kind: conflict.kind.as_str().to_owned(),
            path: tree_path(&conflict.path),
            base: side(&conflict.base),
            ours: side(&conflict.ours),
            theirs: side(&conflict.theirs),
            resolved: conflict.resolved,
        }
    }

    /// As cells of a line: kind, path, and the paths in base, ours and theirs.
    pub fn cells(&self) -> Vec<(Style, String)> {
        let side = |name: &str, path: &Option<TreePath>| match path {
            Some(path) => format!("{name}={}", path.shown()),
            None => format!("{name}=-"),
        };
        let resolved = match self.resolved {
            Some(Resolution::Ours) => "resolved: ours",
            Some(Resolution::Theirs) => "resolved: theirs",
            Some(Resolution::File) => "resolved: file",
            None => "",
        };
        vec![
            (if self.resolved.is_some() { Style::Green } else { Style::Red }, self.kind.clone()),
            (Style::Plain, self.path.shown()),
            (Style::Dim, side("base", &self.base)),
            (Style::Dim, side("ours", &self.ours)),
            (Style::Dim, side("theirs", &self.theirs)),
            (Style::Green, resolved.to_owned()),
        ]
    }
}

/// How many paths came, changed and went.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// New paths.
    pub added: u64,
    /// Paths whose content, type or attributes changed.
    pub modified: u64,
    /// Paths that have another name.
    pub renamed: u64,
    /// Paths that are gone.
    pub removed: u64,
}

impl From<Summary> for Counts {
    fn from(summary: Summary) -> Counts {
        let Summary { added, modified, removed, renamed } = summary;
        Counts { added, modified, renamed, removed }
    }
}

/// What an attempt to make a transaction visible came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The transaction, as `T7`.
    pub transaction: Option<String>,
    /// `committed`, `conflict`, `unchanged`.
    pub outcome: String,
    /// The commit event.
    pub point: Option<String>,
    /// What it changed.
    #[serde(flatten)]
    pub counts: Counts,
    /// What stands in the way (or, of a merge with a strategy, what it decided).
    pub conflicts: Vec<ConflictRow>,
}

impl Outcome {
    /// It is visible.
    pub fn committed(txn: TxnId, seq: Seq, summary: Summary, decided: &[Conflict]) -> Outcome {
        Outcome {
            transaction: Some(transaction(txn)),
            outcome: "committed".to_owned(),
            point: Some(point(seq)),
            counts: summary.into(),
            conflicts: decided.iter().map(ConflictRow::of).collect(),
        }
    }

    /// It waits.
    pub fn conflict(txn: TxnId, conflicts: &[Conflict]) -> Outcome {
        Outcome {
            transaction: Some(transaction(txn)),
            outcome: "conflict".to_owned(),
            point: None,
            counts: Counts::default(),
            conflicts: conflicts.iter().map(ConflictRow::of).collect(),
        }
    }

    /// There was nothing to do.
    pub fn unchanged() -> Outcome {
        Outcome {
            transaction: None,
            outcome: "unchanged".to_owned(),
            point: None,
            counts: Counts::default(),
            conflicts: Vec::new(),
        }
    }

    /// Whether it met a conflict.
    pub fn is_conflict(&self) -> bool {
        self.outcome == "conflict"
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        if self.is_conflict() { 3 } else { 0 }
    }

    /// What people are told on success: `Transaction T7 committed: 2 added, 1 removed`.
    pub fn sentence(&self) -> String {
        let Some(id) = &self.transaction else { return "Already up to date".to_owned() };
        let Counts { added, modified, renamed, removed } = self.counts;
        let summary = Summary { added, modified, removed, renamed };
        format!("Transaction {id} committed: {summary}")
    }

    /// Shows it: the sentence on standard output, or the conflicts there and what to do on standard error.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn render(&self, screen: &mut Screen) -> Result<()> {
        if !self.is_conflict() {
            return screen.line(self.sentence());
        }
        let rows: Vec<_> = self.conflicts.iter().map(ConflictRow::cells).collect();
        screen.columns(&rows)
    }

    /// What to do about a conflict, for standard error.
    pub fn advice(&self, merge: bool) -> Option<String> {
        let id = self.transaction.as_ref().filter(|_| self.is_conflict())?;
        let count = self.conflicts.iter().filter(|row| row.resolved.is_none()).count();
        let what = if count == 1 { "1 conflict".to_owned() } else { format!("{count} conflicts") };
        Some(if merge {
            format!(
                "{id} has {what}; `stone resolve PATH --ours|--theirs|--file F`, then `stone commit {id}`, or `stone rollback {id}`"
            )
        } else {
            format!(
                "{id} has {what} and stays open; `stone commit --rebase {id}` merges with what others did, `stone rollback {id}` gives up"
            )
        })
    }
}

impl From<&CommitOutcome> for Outcome {
    fn from(outcome: &CommitOutcome) -> Outcome {
        match outcome {
            CommitOutcome::Committed { txn, seq, summary } => Outcome::committed(*txn, *seq, *summary, &[]),
            CommitOutcome::Conflicted { txn, conflicts } => Outcome::conflict(*txn, conflicts),
        }
    }
}

/// The transaction that a command is about: the one named, else the one that the mount shows, else
/// the only open one.
///
/// # Errors
/// Where there is none, or several; the candidates are listed.
pub fn choose(context: &Context<'_>, named: Option<&Text>) -> Result<TxnRow> {
    if let Some(name) = named {
        let id = parse_transaction(name.as_bytes())
            .ok_or_else(|| Error::usage("is no transaction; they look like T7").about(name.as_bytes()))?;
        return Ok(txn::find(context.engine, id)?);
    }
    let shown = context.mount().and_then(|mount| mount.run.or(mount.live.txn));
    if let Some(id) = shown {
        return Ok(txn::find(context.engine, id)?);
    }
    let mut open = txn::open_ones(context.engine);
    match (open.pop(), open.len()) {
        (None, _) => Err(Error::failed("no transaction is open; `stone begin` opens one")),
        (Some(only), 0) => Ok(only),
        (Some(last), _) => {
            open.push(last);
            let list = open.iter().map(|row| {
                let message = if row.message.is_empty() { String::new() } else { format!(": {}", row.message) };
                let on = context.branch_name(row.target).shown();
                escape(format!("T{} on {on}{message}", row.id).as_bytes())
            });
            Err(Error::failed("several transactions are open; name one").with_details(list.collect()))
        }
    }
}

/// Makes every mount that shows a transaction show its branch again.
///
/// # Errors
/// Where a mount inside would vanish.
pub fn leave(context: &Context<'_>, row: &TxnRow) -> Result<()> {
    for mount in context.host.mounts() {
        if mount.live.txn == Some(row.id) {
            let live = Live { branch: mount.live.branch, txn: None };
            context.host.show(mount.dev, live).about(mount.dir.as_bytes())?;
        }
    }
    Ok(())
}
