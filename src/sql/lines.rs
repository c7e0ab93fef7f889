//! `transactions`, `branches`, `tags`, `conflicts`: the lines of history.

use std::sync::Arc;

use super::scope::{Result, Row, Scope, State, line};
use super::times;
use crate::store::query::{Cell, Rows, Scan, Table, Test};
use crate::store::{TxnKind, TxnRow, TxnState};

pub(super) const TRANSACTIONS: &str = "transactions";
pub(super) const TRANSACTION_COLUMNS: &[(&str, &str)] = &[
    ("id", "INTEGER"),
    ("kind", "TEXT"),
    ("state", "TEXT"),
    ("branch", "TEXT"),
    ("base", "INTEGER"),
    ("begun", "INTEGER"),
    ("begun_time", "TEXT"),
    ("ended", "INTEGER"),
    ("ended_time", "TEXT"),
    ("uid", "INTEGER"),
    ("message", "TEXT"),
    ("label", "TEXT"),
    ("outer_txn", "INTEGER"),
    ("serializable", "INTEGER"),
    ("detail", "TEXT"),
];

pub(super) const BRANCHES: &str = "branches";
pub(super) const BRANCH_COLUMNS: &[(&str, &str)] = &[
    ("id", "INTEGER"),
    ("name", "TEXT"),
    ("parent", "TEXT"),
    ("base", "INTEGER"),
    ("created", "INTEGER"),
    ("created_time", "TEXT"),
    ("dropped", "INTEGER"),
    ("uid", "INTEGER"),
];

pub(super) const TAGS: &str = "tags";
pub(super) const TAG_COLUMNS: &[(&str, &str)] = &[
    ("name", "TEXT"),
    ("branch", "TEXT"),
    ("seq", "INTEGER"),
    ("time", "TEXT"),
    ("uid", "INTEGER"),
    ("message", "TEXT"),
];

pub(super) const CONFLICTS: &str = "conflicts";
pub(super) const CONFLICT_COLUMNS: &[(&str, &str)] = &[
    ("txn", "INTEGER"),
    ("kind", "TEXT"),
    ("base", "TEXT"),
    ("ours", "TEXT"),
    ("theirs", "TEXT"),
    ("resolved", "TEXT"),
];

/// Which of the small tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Transactions,
    Branches,
    Tags,
    Conflicts,
}

pub(super) struct Lines(pub Arc<Scope>, pub Which);

impl Table for Lines {
    fn name(&self) -> &'static str {
        match self.1 {
            Which::Transactions => TRANSACTIONS,
            Which::Branches => BRANCHES,
            Which::Tags => TAGS,
            Which::Conflicts => CONFLICTS,
        }
    }

    fn columns(&self) -> &'static [(&'static str, &'static str)] {
        match self.1 {
            Which::Transactions => TRANSACTION_COLUMNS,
            Which::Branches => BRANCH_COLUMNS,
            Which::Tags => TAG_COLUMNS,
            Which::Conflicts => CONFLICT_COLUMNS,
        }
    }

    fn rows(&self, _conditions: &[(usize, Test)]) -> f64 {
        100.0
    }

    fn open(&self, scan: Scan) -> Result<Box<dyn Rows>> {
        let state = self.0.state(scan.as_of.as_ref())?;
        let rows = match self.1 {
            Which::Transactions => transactions(&self.0, &state),
            Which::Branches => branches(&self.0, &state),
            Which::Tags => tags(&self.0, &state)?,
            Which::Conflicts => conflicts(&self.0, &state)?,
        };
        Ok(Box::new(Ready(rows.into_iter())))
    }
}

struct Ready(std::vec::IntoIter<Row>);

impl Rows for Ready {
    fn next(&mut self) -> Result<Option<Row>> {
        Ok(self.0.next())
    }
}

fn transactions(scope: &Scope, state: &State) -> Vec<Row> {
    let begun = scope.engine.transactions().into_iter().filter(|txn| txn.begun <= state.point);
    begun.map(|txn| transaction(scope, state, txn)).collect()
}

fn transaction(scope: &Scope, state: &State, txn: TxnRow) -> Row {
    let ended = txn.ended.filter(|ended| *ended <= state.point);
    let kind = match txn.kind {
        TxnKind::Begin => "begin",
        TxnKind::Run => "run",
        TxnKind::Merge => "merge",
        TxnKind::Undo => "undo",
        TxnKind::Redo => "redo",
        TxnKind::Restore => "restore",
    };
    let progress = match txn.state {
        TxnState::Committed | TxnState::RolledBack if ended.is_none() => "open",
        TxnState::Open => "open",
        TxnState::Interrupted => "interrupted",
        TxnState::Conflicted => "conflicted",
        TxnState::Committed => "committed",
        TxnState::RolledBack => "rolledback",
    };
    vec![
        Cell::number(txn.id.0),
        kind.into(),
        progress.into(),
        scope.branch(txn.target),
        Cell::number(txn.base.0),
        Cell::number(txn.begun.0),
        times::print(txn.begun_time).into(),
        ended.map_or(Cell::Null, |seq| Cell::number(seq.0)),
        ended.and(txn.ended_time).map(times::print).into(),
        txn.uid.into(),
        txn.message.into(),
        txn.label.into(),
        txn.outer.map_or(Cell::Null, |outer| Cell::number(outer.0)),
        Cell::Int(i64::from(txn.serializable)),
        txn.detail.into(),
    ]
}

fn branches(scope: &Scope, state: &State) -> Vec<Row> {
    let mut rows = Vec::new();
    for branch in scope.engine.branches() {
        let Some(name) = branch.name.filter(|_| branch.created <= state.point) else { continue };
        let dropped = branch.dropped.filter(|dropped| *dropped <= state.point);
        rows.push(vec![
            Cell::number(branch.id.0),
            Cell::bytes(&name),
            branch.parent.map_or(Cell::Null, |parent| scope.branch(parent)),
            Cell::number(branch.base.0),
            Cell::number(branch.created.0),
            times::print(branch.created_time).into(),
            dropped.map_or(Cell::Null, |seq| Cell::number(seq.0)),
            branch.uid.into(),
        ]);
    }
    rows
}

fn tags(scope: &Scope, state: &State) -> Result<Vec<Row>> {
    let last = match state.live {
        true => None,
        false => scope.read()?.event(state.point).map_err(line)?.map(|event| event.time),
    };
    let made = scope.engine.tags().into_iter().filter(|tag| last.is_none_or(|last| tag.time <= last));
    Ok(made
        .map(|tag| {
            vec![
                Cell::bytes(&tag.name),
                scope.branch(tag.branch),
                Cell::number(tag.seq.0),
                times::print(tag.time).into(),
                tag.uid.into(),
                tag.message.into(),
            ]
        })
        .collect())
}

/// The conflicts of transactions that are still open, as their last attempt to commit left them.
fn conflicts(scope: &Scope, state: &State) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for txn in scope.engine.transactions() {
        if txn.state != TxnState::Conflicted || txn.begun > state.point || txn.detail.is_empty() {
            continue;
        }
        let detail: serde_json::Value = serde_json::from_str(&txn.detail).map_err(line)?;
        let list = detail.get("conflicts").and_then(serde_json::Value::as_array);
        for conflict in list.into_iter().flatten() {
            let text = |value: Option<&serde_json::Value>| match value {
                None | Some(serde_json::Value::Null) => Cell::Null,
                Some(serde_json::Value::String(text)) => text.as_str().into(),
                Some(other) => other.to_string().into(),
            };
            let side = |name: &str| text(conflict.get(name).and_then(|side| side.get("path")));
            rows.push(vec![
                Cell::number(txn.id.0),
                text(conflict.get("kind")),
                side("base"),
                side("ours"),
                side("theirs"),
                text(conflict.get("resolved")),
            ]);
        }
    }
    Ok(rows)
}
