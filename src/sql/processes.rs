//! `processes`: who did it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::scope::{Batches, Result, Row, Scope, Source, line};
use super::times;
use crate::store::query::{Cell, Rows, Scan, Table, Test};
use crate::store::{ProcessKey, ProcessRow, ReadTxn};
use crate::types::{ProcId, Timestamp};

pub(super) const NAME: &str = "processes";
pub(super) const COLUMNS: &[(&str, &str)] = &[
    ("id", "INTEGER"),
    ("pid", "INTEGER"),
    ("ppid", "INTEGER"),
    ("parent", "INTEGER"),
    ("uid", "INTEGER"),
    ("gid", "INTEGER"),
    ("comm", "TEXT"),
    ("exe", "TEXT"),
    ("argv", "TEXT"),
    ("cwd", "TEXT"),
    ("started", "TEXT"),
    ("ended", "TEXT"),
    ("exit_status", "INTEGER"),
    ("label", "TEXT"),
    ("session", "INTEGER"),
    ("tty", "INTEGER"),
    ("cgroup", "TEXT"),
    ("host", "TEXT"),
    ("boot_id", "TEXT"),
    ("start_ticks", "INTEGER"),
    ("complete", "INTEGER"),
];

const ID: usize = 0;
const PARENT: usize = 3;
const COMM: usize = 6;
const LABEL: usize = 13;

pub(super) struct Processes(pub Arc<Scope>);

impl Table for Processes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn columns(&self) -> &'static [(&'static str, &'static str)] {
        COLUMNS
    }

    fn rows(&self, conditions: &[(usize, Test)]) -> f64 {
        let cost = |&(column, test): &(usize, Test)| match (column, test) {
            (ID, Test::Eq) => 1.0,
            (PARENT | LABEL, Test::Eq) => 20.0,
            (COMM, Test::Eq) => 200.0,
            _ => 100_000.0,
        };
        conditions.iter().map(cost).fold(100_000.0, f64::min)
    }

    fn open(&self, scan: Scan) -> Result<Box<dyn Rows>> {
        let state = self.0.state(scan.as_of.as_ref())?;
        let (mut next, mut end) = (0, u64::MAX);
        for condition in scan.conditions.iter().filter(|condition| condition.column == ID) {
            let number = condition.value.as_number();
            match (condition.test, number) {
                (Test::Eq, Some(id)) => {
                    next = next.max(id);
                    end = end.min(id.saturating_add(1));
                }
                (Test::Eq, None) => end = 0,
                (Test::Gt | Test::Ge, Some(id)) => next = next.max(id),
                (Test::Lt | Test::Le, Some(id)) => end = end.min(id.saturating_add(1)),
                (Test::Gt | Test::Ge | Test::Lt | Test::Le | Test::Like | Test::Glob, _) => {}
            }
        }
        let before = match state.live {
            true => None,
            false => self.0.read()?.event(state.point).map_err(line)?.map(|event| event.time),
        };
        let key = if scan.equal(ID).is_some() {
            None
        } else if let Some(parent) = scan.equal(PARENT) {
            parent.as_number().map(|id| ProcessKey::Parent(ProcId(id)))
        } else if let Some(label) = scan.equal(LABEL) {
            label.as_bytes().and_then(|text| std::str::from_utf8(text).ok()).map(|text| ProcessKey::Label(text.into()))
        } else {
            scan.equal(COMM).and_then(Cell::as_bytes).map(|comm| ProcessKey::Comm(comm.to_vec()))
        };
        Ok(Box::new(Batches::new(&self.0, Pages { key, next, end, before })))
    }
}

struct Pages {
    /// Where only some are asked for.
    key: Option<ProcessKey>,
    next: u64,
    end: u64,
    /// Processes that started later do not show, and ends that came later neither.
    before: Option<Timestamp>,
}

impl Source for Pages {
    fn fill(&mut self, _scope: &Scope, read: &dyn ReadTxn, out: &mut VecDeque<Row>) -> Result<bool> {
        const PAGE: u64 = 1024;
        let end = self.end.min(read.counters().map_err(line)?.next_process.0);
        if self.next >= end {
            return Ok(false);
        }
        let (upto, found) = match &self.key {
            Some(key) => (end, read.processes_by(key)),
            None => {
                let upto = end.min(self.next + PAGE);
                (upto, read.processes(ProcId(self.next)..ProcId(upto)))
            }
        };
        for mut process in found.map_err(line)? {
            if let Some(before) = self.before {
                if process.started > before {
                    continue;
                }
                if process.ended.is_some_and(|ended| ended > before) {
                    process.ended = None;
                    process.exit_status = None;
                }
            }
            out.push_back(row(process));
        }
        self.next = upto;
        Ok(true)
    }
}

/// Arguments as a shell would need them typed.
fn command_line(argv: &[u8]) -> Cell {
    let words = argv.strip_suffix(b"\0").unwrap_or(argv).split(|byte| *byte == 0);
    let quoted: Vec<Vec<u8>> = words
        .map(|word| shlex::bytes::try_quote(word).map_or_else(|_| word.to_vec(), |word| word.into_owned()))
        .collect();
    Cell::bytes(&quoted.join(&b' '))
}

fn row(process: ProcessRow) -> Row {
    let text = |bytes: Option<Vec<u8>>| bytes.map_or(Cell::Null, |bytes| Cell::bytes(&bytes));
    vec![
        Cell::number(process.id.0),
        process.pid.into(),
        process.ppid.into(),
        process.parent.map_or(Cell::Null, |id| Cell::number(id.0)),
        process.uid.into(),
        process.gid.into(),
        Cell::bytes(&process.comm),
        text(process.exe),
        process.argv.map_or(Cell::Null, |argv| command_line(&argv)),
        text(process.cwd),
        times::print(process.started).into(),
        process.ended.map(times::print).into(),
        process.exit_status.map_or(Cell::Null, |status| Cell::Int(i64::from(status))),
        process.label.into(),
        process.session.into(),
        process.tty.into(),
        text(process.cgroup),
        process.host.into(),
        process.boot_id.into(),
        Cell::number(process.start_ticks),
        Cell::Int(i64::from(process.complete)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_as_for_a_shell() {
        assert_eq!(command_line(b"cp\0a b\0c\0"), Cell::from("cp 'a b' c"));
    }
}
