//! `stone log`: what happened, newest first.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::{EventFilter, EventRow, ReadTxn};
use crate::types::{Op, ProcId, Seq};
use crate::version::history;

use super::app::App;
use super::context::Context;
use super::error::{About, Error, Result};
use super::graph;
use super::screen::{Screen, Style};
use super::text::{Text, TreePath, When, escape, parse_transaction, point, transaction};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone log                                   of the live branch
  stone log src --since yesterday             of a path and what is below it
  stone log --user alice --op unlink,rmdir    who deleted what
  stone log --txn T7                          what a transaction did, one by one
  stone log --program make -n 20 --json
  stone log --graph --op commit,merge,branch  how branches forked and merged
  stone log --follow                          what happens, as it happens
An event printed as e123 is a REF: `stone show e123`, `cat .history/e123/FILE`.";

/// Events that one request brings.
const PAGE: usize = 1000;
/// How often `--follow` looks, in milliseconds.
const FOLLOW_MS: u64 = 300;

/// Shows what happened, newest first: point, time, who, program, operation, path
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LogArgs {
    /// Only at this path and below it
    #[arg(value_name = "PATH")]
    path: Option<TreePath>,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many events
    #[arg(short = 'n', long = "limit", value_name = "COUNT")]
    limit: Option<usize>,
    /// Oldest first
    #[arg(long)]
    reverse: bool,
    /// Draws the lines of all branches, their forks and merges
    #[arg(long, conflicts_with_all = ["reverse", "follow"])]
    graph: bool,
    /// Goes on with what happens, until interrupted
    #[arg(long, conflicts_with_all = ["reverse", "limit"])]
    follow: bool,
}

/// Which events; every condition that is given must hold.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct FilterArgs {
    /// After this state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    pub since: Option<Text>,
    /// Up to this state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    pub until: Option<Text>,
    /// By this user (name or number)
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// By this program (its name or its executable's last part)
    #[arg(long, value_name = "NAME")]
    pub program: Option<Text>,
    /// By this process of the record (`stone ps` lists them)
    #[arg(long, value_name = "ID")]
    pub process: Option<u64>,
    /// By this process id
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// In this transaction
    #[arg(long, value_name = "ID")]
    pub txn: Option<Text>,
    /// Only these operations (create, write, unlink, rename, commit, ...)
    #[arg(long = "op", value_name = "OP", value_delimiter = ',')]
    pub ops: Vec<String>,
    /// Of this branch instead of the live one
    #[arg(long, value_name = "NAME")]
    pub branch: Option<Text>,
    /// Of all branches and transactions
    #[arg(long)]
    pub all: bool,
    /// Only what failed
    #[arg(long)]
    pub failed: bool,
}

/// The work of `stone log`: one page of events.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogPage {
    /// Which.
    pub filter: FilterArgs,
    /// At this path of the tree and below it.
    pub path: Option<TreePath>,
    /// Before this event (newest first) or after it (oldest first).
    pub cursor: Option<u64>,
    /// Oldest first.
    pub ascending: bool,
    /// At most so many.
    pub limit: usize,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRow {
    /// The point just after it, as `e12`.
    pub point: String,
    /// Its number.
    pub seq: u64,
    /// When.
    pub time: When,
    /// On which branch (of a transaction's own events, `T7`).
    pub branch: Text,
    /// In which transaction.
    pub transaction: Option<String>,
    /// What was done.
    pub op: Op,
    /// The path as it was.
    pub path: Option<TreePath>,
    /// The second path (rename, link, exchange).
    pub path2: Option<TreePath>,
    /// The inode.
    pub inode: Option<u64>,
    /// First byte that changed.
    pub offset: Option<u64>,
    /// Number of bytes that changed.
    pub length: Option<u64>,
    /// The old value.
    pub old: Option<Text>,
    /// The new value.
    pub new: Option<Text>,
    /// 0, or the errno of what failed.
    pub result: i32,
    /// Who.
    pub uid: u32,
    /// Who.
    pub gid: u32,
    /// By which process id.
    pub pid: u32,
    /// By which process of the record.
    pub process: Option<u64>,
    /// By which program.
    pub program: Option<Text>,
    /// The actor's label.
    pub label: Option<String>,
}

impl Work for LogPage {
    const NAME: &'static str = "log";
    type Output = Vec<LogRow>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<LogRow>> {
        let inside = self.path.is_some() || self.filter.asks_for_deeds();
        let mut filter = self.filter.resolve(context, inside)?;
        filter.path = self.path.as_ref().map(|path| path.0.clone());
        filter.limit = Some(self.limit);
        filter.descending = !self.ascending;
        let cursor = self.cursor.map(Seq);
        if self.ascending {
            filter.after = filter.after.max(cursor);
        } else if let Some(Seq(before)) = cursor {
            let last = Seq(before.saturating_sub(1));
            filter.upto = Some(filter.upto.map_or(last, |upto| upto.min(last)));
        }
        let reader = context.reader()?;
        let mut rows = Vec::new();
        let mut programs = Programs::default();
        for event in reader.events(&filter)? {
            rows.push(row(context, reader.as_ref(), &mut programs, event)?);
        }
        Ok(rows)
    }
}

impl FilterArgs {
    /// Whether it asks for deeds, and not for the line of history.
    fn asks_for_deeds(&self) -> bool {
        self.user.is_some()
            || self.program.is_some()
            || self.process.is_some()
            || self.pid.is_some()
            || self.failed
            || !self.ops.is_empty()
    }

    /// Turns what was typed into a filter of the store; `inside` adds what was done inside of
    /// committed transactions to the history of a branch.
    ///
    /// # Errors
    /// Where a name, a reference or a number means nothing.
    pub fn resolve(&self, context: &Context<'_>, inside: bool) -> Result<EventFilter> {
        let mut filter = EventFilter::default();
        if let Some(user) = &self.user {
            let unknown = || Error::usage("no such user; use a number").about(user.as_bytes());
            filter.uid = Some(users::parse(user).ok_or_else(unknown)?);
        }
        for word in &self.ops {
            let unknown = || {
                let known: Vec<&str> = Op::ALL.iter().map(|op| op.as_str()).collect();
                Error::usage(format!("no such operation; there are {}", known.join(" "))).about(word.as_bytes())
            };
            filter.ops.push(Op::from_word(word).ok_or_else(unknown)?);
        }
        filter.program = self.program.as_ref().map(|name| name.0.clone());
        filter.process = self.process.map(ProcId);
        filter.pid = self.pid;
        filter.failed = self.failed;
        if let Some(typed) = &self.txn {
            let unknown = || Error::usage("is no transaction; they look like T7").about(typed.as_bytes());
            filter.txn = Some(parse_transaction(typed.as_bytes()).ok_or_else(unknown)?);
        }
        if !self.all && self.txn.is_none() {
            let view = match &self.branch {
                Some(name) => context.named_branch(name)?,
                None => context.live_view()?,
            };
            filter.lineage = context.engine.lineage(view)?.0.to_vec();
            if inside {
                let inner = history::committed_within(context.engine, &filter.lineage);
                filter.lineage.extend(inner);
            }
        }
        filter.after = self.since.as_ref().map(|text| context.point_of(text)).transpose()?;
        filter.upto = self.until.as_ref().map(|text| context.point_of(text)).transpose()?;
        Ok(filter)
    }
}

/// Processes looked up so far.
#[derive(Default)]
pub struct Programs(HashMap<ProcId, (Option<Text>, Option<String>)>);

impl Programs {
    /// A process's name and label.
    ///
    /// # Errors
    /// Those of the store.
    pub fn find(&mut self, reader: &dyn ReadTxn, id: ProcId) -> Result<(Option<Text>, Option<String>)> {
        if id == ProcId(0) {
            return Ok((None, None));
        }
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let found = reader.process(id)?.map_or((None, None), |row| (Some(Text(row.comm)), row.label));
        self.0.insert(id, found.clone());
        Ok(found)
    }
}

/// An event with the names that belong to its numbers.
///
/// # Errors
/// Those of the store.
pub fn row(context: &Context<'_>, reader: &dyn ReadTxn, programs: &mut Programs, event: EventRow) -> Result<LogRow> {
    let (program, label) = programs.find(reader, event.process)?;
    let path = |path: &[u8]| TreePath(path.to_vec());
    Ok(LogRow {
        point: point(event.seq),
        seq: event.seq.0,
        time: When(event.time),
        branch: context.branch_name(event.branch),
        transaction: event.txn.map(transaction),
        op: event.op,
        path: event.path.as_deref().map(path),
        path2: event.path2.as_deref().map(path),
        inode: event.ino.map(|ino| ino.0),
        offset: event.offset,
        length: event.length,
        old: event.old.map(Text),
        new: event.new.map(Text),
        result: event.result,
        uid: event.uid,
        gid: event.gid,
        pid: event.pid,
        process: (event.process != ProcId(0)).then_some(event.process.0),
        program,
        label,
    })
}

impl LogArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = self.path.as_ref().map(|path| app.tree_path(path)).transpose()?;
        let limit = self.limit.unwrap_or(usize::MAX);
        if self.graph {
            return graph::run(app, self.filter, path, limit);
        }
        let mut page =
            LogPage { filter: self.filter, path, cursor: None, ascending: self.reverse, limit: PAGE.min(limit) };
        if self.follow {
            return follow(app, page);
        }
        if app.globals.json {
            let mut all: Vec<LogRow> = Vec::new();
            while page.limit > 0 {
                let rows = app.ask(&page)?;
                let Some(last) = rows.last() else { break };
                page.cursor = Some(last.seq);
                let full = rows.len() == page.limit;
                all.extend(rows);
                page.limit = if full { PAGE.min(limit - all.len()) } else { 0 };
            }
            app.show_json(&all)?;
            return Ok(0);
        }
        let mut screen: Option<Screen> = None;
        let mut shown = 0;
        while page.limit > 0 {
            let rows = app.ask(&page)?;
            let Some(last) = rows.last() else { break };
            page.cursor = Some(last.seq);
            let screen = screen.get_or_insert_with(|| Screen::open(app.zone.clone(), true));
            let lines: Vec<_> = rows.iter().map(|row| cells(screen, row)).collect();
            screen.columns(&lines)?;
            shown += rows.len();
            page.limit = if rows.len() == page.limit { PAGE.min(limit - shown) } else { 0 };
        }
        screen.map_or(Ok(()), Screen::finish)?;
        Ok(0)
    }
}

fn follow(app: &App, mut page: LogPage) -> Result<u8> {
    let mut screen = Screen::open(app.zone.clone(), false);
    page.limit = 10;
    let mut rows = app.ask(&page)?;
    rows.reverse();
    page.ascending = true;
    page.limit = PAGE;
    page.cursor = Some(0);
    loop {
        for row in &rows {
            page.cursor = Some(row.seq);
            if app.globals.json {
                let plain = serde_json::to_value(row).map_err(|error| Error::failed(error.to_string()))?;
                screen.document(super::text::to_json(plain).to_string().as_bytes())?;
                screen.raw(b"\n")?;
            } else {
                let cells = cells(&screen, row);
                screen.columns(&[cells])?;
            }
        }
        std::io::Write::flush(&mut screen).about("standard output")?;
        if rows.len() < PAGE {
            thread::sleep(Duration::from_millis(FOLLOW_MS));
        }
        rows = app.ask(&page)?;
    }
}

/// One event as cells of a line.
pub fn cells(screen: &Screen, row: &LogRow) -> Vec<(Style, String)> {
    let program = match (&row.program, row.pid) {
        (Some(program), 0) => program.shown(),
        (Some(program), pid) => format!("{}[{pid}]", program.shown()),
        (None, 0) => "-".to_owned(),
        (None, pid) => format!("[{pid}]"),
    };
    let program = match &row.label {
        Some(label) => format!("{program} ({})", escape(label.as_bytes())),
        None => program,
    };
    vec![
        (Style::Yellow, row.point.clone()),
        (Style::Dim, screen.time(row.time)),
        (Style::Plain, users::name(row.uid)),
        (Style::Plain, program),
        (Style::Cyan, row.op.as_str().to_owned()),
        (Style::Plain, subject(row)),
    ]
}

/// What an event was about, in words.
fn subject(row: &LogRow) -> String {
    let mut words = Vec::new();
    if let Some(path) = &row.path {
        words.push(path.shown());
    }
    if let Some(path2) = &row.path2 {
        words.push(format!("-> {}", path2.shown()));
    }
    match row.op {
        Op::Write | Op::Fallocate | Op::Copy => {
            if let (Some(offset), Some(length)) = (row.offset, row.length) {
                words.push(format!("({length} B at {offset})"));
            }
        }
        Op::Truncate
        | Op::Chmod
        | Op::Chown
        | Op::Branch
        | Op::Tag
        | Op::Switch
        | Op::Begin
        | Op::Commit
        | Op::Rollback
        | Op::Merge
        | Op::Prune => match (&row.old, &row.new) {
            (Some(old), Some(new)) => words.push(format!("{} -> {}", old.shown(), new.shown())),
            (Some(old), None) => words.push(format!("{} ->", old.shown())),
            (None, Some(new)) => words.push(new.shown()),
            (None, None) => {}
        },
        Op::Setxattr | Op::Removexattr => {
            if let Some(name) = row.new.as_ref().or(row.old.as_ref()).filter(|value| value.0.len() < 60) {
                words.push(name.shown());
            }
        }
        Op::Create
        | Op::Mkdir
        | Op::Mknod
        | Op::Symlink
        | Op::Link
        | Op::Unlink
        | Op::Rmdir
        | Op::Rename
        | Op::Exchange
        | Op::Utimens
        | Op::Open => {}
    }
    if let Some(txn) = &row.transaction {
        words.push(format!("[{txn}]"));
    }
    if row.result != 0 {
        let text = std::io::Error::from_raw_os_error(row.result).to_string();
        words.push(format!("failed: {}", text.split(" (os error").next().unwrap_or(&text)));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;
    use jiff::tz::TimeZone;

    fn sample() -> LogRow {
        LogRow {
            point: "e7".to_owned(),
            seq: 7,
            time: When(Timestamp(0)),
            branch: "main".into(),
            transaction: None,
            op: Op::Rename,
            path: Some("/a\n".into()),
            path2: Some("/b".into()),
            inode: Some(2),
            offset: None,
            length: None,
            old: None,
            new: None,
            result: 0,
            uid: 0,
            gid: 0,
            pid: 12,
            process: Some(3),
            program: Some("mv\x1b".into()),
            label: None,
        }
    }

    #[test]
    fn a_line_says_point_time_who_program_operation_and_path() {
        let mut screen = Screen::memory(TimeZone::UTC);
        let cells = cells(&screen, &sample());
        screen.columns(&[cells]).unwrap();
        assert_eq!(screen.collected(), "e7  1970-01-01T00:00:00  root  mv\\x1b[12]  rename  a\\n -> b\n");
    }

    #[test]
    fn what_failed_says_why() {
        let row = LogRow { result: libc::EACCES, ..sample() };
        assert!(subject(&row).ends_with("failed: Permission denied"));
    }
}
