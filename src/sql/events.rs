//! `events`: what happened, a row an operation.

use std::collections::VecDeque;
use std::sync::Arc;

use super::scope::{Batches, Result, Row, Scope, Source, line};
use super::times;
use crate::store::query::{Cell, Rows, Scan, Table, Test};
use crate::store::{EventFilter, EventRow, ReadTxn};
use crate::types::{Ino, Op, ProcId, Seq, Timestamp, TxnId};

pub(super) const NAME: &str = "events";
pub(super) const COLUMNS: &[(&str, &str)] = &[
    ("seq", "INTEGER"),
    ("time", "TEXT"),
    ("branch", "TEXT"),
    ("txn", "INTEGER"),
    ("op", "TEXT"),
    ("inode", "INTEGER"),
    ("path", "TEXT"),
    ("path2", "TEXT"),
    ("offset", "INTEGER"),
    ("length", "INTEGER"),
    ("old", "TEXT"),
    ("new", "TEXT"),
    ("result", "INTEGER"),
    ("uid", "INTEGER"),
    ("gid", "INTEGER"),
    ("pid", "INTEGER"),
    ("process", "INTEGER"),
    ("parent", "INTEGER"),
    ("name", "TEXT"),
    ("parent2", "INTEGER"),
    ("name2", "TEXT"),
    ("inode2", "INTEGER"),
];

const SEQ: usize = 0;
const TIME: usize = 1;
const TXN: usize = 3;
const OP: usize = 4;
const INODE: usize = 5;
const PATH: usize = 6;
const RESULT: usize = 12;
const UID: usize = 13;
const PID: usize = 15;
const PROCESS: usize = 16;

pub(super) struct Events(pub Arc<Scope>);

impl Table for Events {
    fn name(&self) -> &'static str {
        NAME
    }

    fn columns(&self) -> &'static [(&'static str, &'static str)] {
        COLUMNS
    }

    fn ordered(&self) -> &'static [usize] {
        &[SEQ, TIME]
    }

    fn rows(&self, conditions: &[(usize, Test)]) -> f64 {
        let share = |&(column, test): &(usize, Test)| match (column, test) {
            (SEQ | TIME, Test::Eq) => 1e-6,
            (INODE, Test::Eq) => 2e-5,
            (SEQ | TIME, Test::Ge | Test::Gt | Test::Le | Test::Lt) => 0.1,
            (PROCESS | PATH, Test::Eq) => 2e-5,
            (TXN, Test::Eq) => 1e-4,
            (PATH, Test::Glob | Test::Like) => 0.02,
            // Looked for in the store, but among all events.
            (PID, Test::Eq) => 0.2,
            (OP | UID, Test::Eq) => 0.5,
            (RESULT, Test::Gt) => 0.01,
            _ => 1.0,
        };
        (1e6 * conditions.iter().map(share).product::<f64>()).max(1.0)
    }

    fn open(&self, scan: Scan) -> Result<Box<dyn Rows>> {
        let state = self.0.state(scan.as_of.as_ref())?;
        let filter = filter(&scan, state.point);
        Ok(Box::new(Batches::new(&self.0, Pages { filter, page: FIRST_PAGE })))
    }
}

/// The first page is small, for queries with a limit; later ones grow.
const FIRST_PAGE: usize = 64;
const PAGE_MAX: usize = 16_384;

struct Pages {
    /// `None` where no event can match.
    filter: Option<EventFilter>,
    page: usize,
}

impl Source for Pages {
    fn fill(&mut self, scope: &Scope, read: &dyn ReadTxn, out: &mut VecDeque<Row>) -> Result<bool> {
        let Some(filter) = &mut self.filter else { return Ok(false) };
        filter.limit = Some(self.page);
        let rows = read.events(filter).map_err(line)?;
        let Some(last) = rows.last() else { return Ok(false) };
        if filter.descending {
            filter.upto = Some(Seq(last.seq.0.saturating_sub(1)));
        } else {
            filter.after = Some(last.seq);
        }
        let more = rows.len() == self.page;
        self.page = (self.page * 4).min(PAGE_MAX);
        out.extend(rows.into_iter().map(|event| row(scope, event)));
        Ok(more)
    }
}

/// Turns conditions into what the store can look for; `None` where nothing can match.
fn filter(scan: &Scan, point: Seq) -> Option<EventFilter> {
    let mut filter = EventFilter { upto: Some(point), descending: scan.descending, ..EventFilter::default() };
    for condition in &scan.conditions {
        let number = condition.value.as_number();
        let small = number.and_then(|number| u32::try_from(number).ok());
        match (condition.column, condition.test) {
            (SEQ, test) => range(&mut filter, test, number),
            (TIME, test) => time_range(&mut filter, test, &condition.value),
            (INODE, Test::Eq) => filter.ino = Some(Ino(number?)),
            (TXN, Test::Eq) => filter.txn = Some(TxnId(number?)),
            (RESULT, Test::Gt) if condition.value == Cell::Int(0) => filter.failed = true,
            (UID, Test::Eq) => filter.uid = Some(small?),
            (PID, Test::Eq) => filter.pid = Some(small?),
            (PROCESS, Test::Eq) => filter.process = Some(ProcId(number?)),
            (OP, Test::Eq) => filter.ops = vec![Op::from_word(std::str::from_utf8(condition.value.as_bytes()?).ok()?)?],
            (PATH, Test::Eq) => {
                filter.path = Some(condition.value.as_bytes()?.to_vec());
                filter.path_exact = true;
                filter.path_any_case = false;
            }
            (PATH, Test::Glob) if filter.path.is_none() => {
                filter.path = below(condition.value.as_bytes()?, b"*?[");
            }
            (PATH, Test::Like) if filter.path.is_none() => {
                filter.path = below(condition.value.as_bytes()?, b"%_");
                filter.path_any_case = filter.path.is_some();
            }
            _ => {}
        }
    }
    Some(filter)
}

/// The directory that everything a pattern matches is in.
fn below(pattern: &[u8], wildcards: &[u8]) -> Option<Vec<u8>> {
    let wild = pattern.iter().position(|byte| wildcards.contains(byte)).unwrap_or(pattern.len());
    let fixed = pattern.get(..wild)?;
    let slash = fixed.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0)?;
    Some(fixed.get(..slash)?.to_vec())
}

fn range(filter: &mut EventFilter, test: Test, number: Option<u64>) {
    let Some(number) = number else { return };
    let (after, upto) = match test {
        Test::Eq => (Some(number.saturating_sub(1)), Some(number)),
        Test::Gt => (Some(number), None),
        Test::Ge => (Some(number.saturating_sub(1)), None),
        Test::Le => (None, Some(number)),
        Test::Lt => (None, Some(number.saturating_sub(1))),
        Test::Like | Test::Glob => (None, None),
    };
    filter.after = filter.after.max(after.map(Seq));
    if let Some(upto) = upto {
        filter.upto = Some(filter.upto.map_or(Seq(upto), |other| other.min(Seq(upto))));
    }
}

fn time_range(filter: &mut EventFilter, test: Test, value: &Cell) {
    let Some(time) = value.as_bytes().and_then(|text| times::floor(std::str::from_utf8(text).ok()?)) else { return };
    let since = |filter: &mut EventFilter| filter.since = filter.since.max(Some(time));
    let until = |filter: &mut EventFilter| {
        let end = Timestamp(time.0.saturating_add(1));
        filter.until = Some(filter.until.map_or(end, |other| other.min(end)));
    };
    match test {
        Test::Eq => {
            since(filter);
            until(filter);
        }
        Test::Gt | Test::Ge => since(filter),
        Test::Lt | Test::Le => until(filter),
        Test::Like | Test::Glob => {}
    }
}

fn row(scope: &Scope, event: EventRow) -> Row {
    let number = |number: Option<u64>| number.map_or(Cell::Null, Cell::number);
    let text = |bytes: Option<&[u8]>| bytes.map_or(Cell::Null, Cell::bytes);
    vec![
        Cell::number(event.seq.0),
        times::print(event.time).into(),
        scope.branch(event.branch),
        number(event.txn.map(|txn| txn.0)),
        event.op.as_str().into(),
        number(event.ino.map(|ino| ino.0)),
        text(event.path.as_deref()),
        text(event.path2.as_deref()),
        number(event.offset),
        number(event.length),
        text(event.old.as_deref()),
        text(event.new.as_deref()),
        Cell::Int(i64::from(event.result)),
        event.uid.into(),
        event.gid.into(),
        event.pid.into(),
        number(Some(event.process.0).filter(|id| *id > 0)),
        number(event.parent.map(|ino| ino.0)),
        text(event.name.as_deref()),
        number(event.parent2.map(|ino| ino.0)),
        text(event.name2.as_deref()),
        number(event.ino2.map(|ino| ino.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::Condition;

    fn of(conditions: &[(usize, Test, Cell)]) -> Option<EventFilter> {
        let conditions = conditions
            .iter()
            .map(|(column, test, value)| Condition { column: *column, test: *test, value: value.clone() })
            .collect();
        filter(&Scan { conditions, ..Scan::default() }, Seq(1000))
    }

    #[test]
    fn conditions_become_bounds_that_leave_out_nothing() {
        let found = of(&[(SEQ, Test::Gt, Cell::Int(10)), (SEQ, Test::Le, Cell::Int(20))]).unwrap();
        assert_eq!((found.after, found.upto), (Some(Seq(10)), Some(Seq(20))));
        let found = of(&[(TIME, Test::Lt, "1970-01-01T00:00:01".into())]).unwrap();
        assert_eq!(found.until, Some(Timestamp(1_000_000_001)));
        assert_eq!(of(&[(TIME, Test::Ge, "now".into())]).unwrap().since, None);
        assert_eq!(of(&[(PATH, Test::Glob, "/a/b/*.rs".into())]).unwrap().path.as_deref(), Some(&b"/a/b"[..]));
        assert_eq!(of(&[(PATH, Test::Glob, "/a*".into())]).unwrap().path, None);
        assert!(of(&[(OP, Test::Eq, "nonsense".into())]).is_none());
    }
}
