//! L4: read-only SQL over the whole record: trees at any point, versions, events, processes.
//!
//! Every table is computed from the store's own lookups, so that a path, a prefix or an inode is
//! found without walking the tree, and so that one query sees one state: the point at which it began.

mod content;
mod events;
mod files;
mod format;
mod lines;
mod processes;
mod rewrite;
mod scope;
mod times;
mod versions;

use std::sync::Arc;

use jiff::tz::TimeZone;

pub use crate::store::query::{Cell, Limits, Output, Stop};
pub use format::{Format, Printer};
pub use rewrite::complete;
pub use times::print as print_time;

use crate::engine::Engine;
use crate::store::query::{Function, Table};
use crate::store::sqlite::query::Session;
use crate::types::{BranchId, Timestamp};
use scope::Scope;

/// Who asks, and what the live tree is for them.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The branch that their live tree shows (a transaction's hidden one, where it shows that).
    pub branch: BranchId,
    /// Their time zone.
    pub zone: TimeZone,
    /// The wall time.
    pub now: Timestamp,
    /// The state that tables show where a query names none (`--at`).
    pub at: Option<Vec<u8>>,
}

/// Runs statements against the record, and hands over what they yield.
///
/// # Errors
/// One line for the user.
pub fn query(
    engine: &Arc<Engine>,
    asker: &Asker,
    sql: &str,
    limits: Limits,
    out: &mut dyn Output,
) -> Result<(), String> {
    query_until(engine, asker, sql, limits, Arc::new(|| false), out)
}

/// As [`query`], until somebody says stop.
///
/// # Errors
/// One line for the user.
pub fn query_until(
    engine: &Arc<Engine>,
    asker: &Asker,
    sql: &str,
    limits: Limits,
    stop: Stop,
    out: &mut dyn Output,
) -> Result<(), String> {
    let scope = Arc::new(Scope::new(Arc::clone(engine), asker)?);
    let mut session = Session::open(tables(&scope), functions(&scope), limits, stop)?;
    session.run(&rewrite::rewrite(sql), out)
}

/// The tables, with the names and types of their columns.
pub fn schema() -> Vec<(&'static str, &'static [(&'static str, &'static str)])> {
    vec![
        (files::NAME, files::COLUMNS),
        (versions::NAME, versions::COLUMNS),
        (events::NAME, events::COLUMNS),
        (lines::TRANSACTIONS, lines::TRANSACTION_COLUMNS),
        (lines::BRANCHES, lines::BRANCH_COLUMNS),
        (lines::TAGS, lines::TAG_COLUMNS),
        (lines::CONFLICTS, lines::CONFLICT_COLUMNS),
        (processes::NAME, processes::COLUMNS),
    ]
}

fn tables(scope: &Arc<Scope>) -> Vec<Arc<dyn Table>> {
    let shared = || Arc::clone(scope);
    vec![
        Arc::new(files::Files(shared())),
        Arc::new(versions::Versions(shared())),
        Arc::new(events::Events(shared())),
        Arc::new(lines::Lines(shared(), lines::Which::Transactions)),
        Arc::new(lines::Lines(shared(), lines::Which::Branches)),
        Arc::new(lines::Lines(shared(), lines::Which::Tags)),
        Arc::new(lines::Lines(shared(), lines::Which::Conflicts)),
        Arc::new(processes::Processes(shared())),
    ]
}

fn functions(scope: &Arc<Scope>) -> Vec<Function> {
    let (here, then, paths, instants) = (Arc::clone(scope), Arc::clone(scope), Arc::clone(scope), Arc::clone(scope));
    vec![
        Function { name: "content", arguments: 1, body: Box::new(move |cells| here.content(cells.first(), None)) },
        Function {
            name: "content_at",
            arguments: 2,
            body: Box::new(move |cells| then.content(cells.first(), cells.get(1))),
        },
        Function { name: "path", arguments: 1, body: Box::new(move |cells| paths.path(cells.first())) },
        Function { name: "instant", arguments: 1, body: Box::new(move |cells| instants.instant(cells.first())) },
        Function { name: "regexp", arguments: 2, body: content::regexp() },
    ]
}
