//! `stone history` and `stone blame`: the versions of a path, and who wrote each line.

use serde::{Deserialize, Serialize};

use crate::types::{Kind, Op, ProcId};
use crate::version::history::{self, PathVersion};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::screen::{Style, bytes};
use super::text::{Text, TreePath, When, escape, point, transaction};
use super::users;
use super::works::Work;

const HISTORY_EXAMPLES: &str = "\
Examples:
  stone history notes.txt              its distinct versions, newest first
  stone history src                    of a directory: when its entries changed
  stone history deleted.txt            also of what is gone
  stone history notes.txt --at v1.0    up to a state
To read one: `cat .history/e123/notes.txt`; to bring it back: `stone restore notes.txt --at e123`.";

const BLAME_EXAMPLES: &str = "\
Examples:
  stone blame src/main.c               who wrote each line, and when
  stone blame src/main.c --at v1.0";

/// Shows the distinct versions of a file or directory, also of one that is gone
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HISTORY_EXAMPLES)]
pub struct HistoryArgs {
    /// The file or directory
    #[arg(value_name = "PATH")]
    path: TreePath,
    /// As seen from this state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    at: Option<Text>,
    /// At most so many
    #[arg(short = 'n', long = "limit", value_name = "COUNT")]
    limit: Option<usize>,
}

/// Shows who wrote each line of a text file, or each region of another one, and when
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = BLAME_EXAMPLES)]
pub struct BlameArgs {
    /// The file
    #[arg(value_name = "FILE")]
    path: TreePath,
    /// As it was in this state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    at: Option<Text>,
}

/// The work of `stone history`.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// Whose.
    pub path: TreePath,
    /// As seen from this state.
    pub at: Option<Text>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// The work of `stone blame`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BlameWork {
    /// Of which file.
    pub path: TreePath,
    /// As it was in this state.
    pub at: Option<Text>,
}

/// A version of a path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionOut {
    /// The point from which it holds.
    pub point: String,
    /// When that was.
    pub time: When,
    /// The point that ended it; none for what is there now.
    pub until: Option<String>,
    /// The path that it had.
    pub path: Option<TreePath>,
    /// Its inode.
    pub inode: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Whether it was removed at this point, rather than given this form.
    pub removed: bool,
    /// Bytes.
    pub size: u64,
    /// Permission bits, in octal.
    pub mode: String,
    /// Its owner.
    pub owner: u32,
    /// The operation that made it.
    pub op: Option<Op>,
    /// In which transaction.
    pub transaction: Option<String>,
    /// Who.
    pub uid: u32,
    /// By which process id.
    pub pid: u32,
    /// By which process of the record.
    pub process: Option<u64>,
    /// By which program.
    pub program: Option<Text>,
}

/// A line of a file with the version that brought it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BlameLine {
    /// Its number, from 1; none for a region of a file that is no text.
    pub line: Option<usize>,
    /// The first byte of a region.
    pub offset: Option<u64>,
    /// The number of bytes of a region.
    pub length: Option<u64>,
    /// The point of the version.
    pub point: String,
    /// When that was.
    pub time: When,
    /// In which transaction.
    pub transaction: Option<String>,
    /// Who.
    pub uid: u32,
    /// By which process id.
    pub pid: u32,
    /// By which process of the record.
    pub process: Option<u64>,
    /// By which program.
    pub program: Option<Text>,
    /// The line.
    pub text: Text,
}

/// A version as it is printed.
pub fn out(version: &PathVersion) -> VersionOut {
    VersionOut {
        point: point(version.seq),
        time: When(version.time),
        until: version.until.map(point),
        path: version.path.as_ref().map(|path| TreePath(path.0.clone())),
        inode: version.ino.0,
        kind: version.kind,
        removed: version.removed,
        size: version.size,
        mode: format!("{:04o}", version.perm),
        owner: version.owner,
        op: version.op,
        transaction: version.txn.map(transaction),
        uid: version.uid,
        pid: version.pid,
        process: (version.process != ProcId(0)).then_some(version.process.0),
        program: version.program.as_ref().map(|name| Text(name.0.clone())),
    }
}

impl Work for History {
    const NAME: &'static str = "history";
    type Output = Vec<VersionOut>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<VersionOut>> {
        context.host.cut()?;
        let view = context.view_at(self.at.as_ref())?;
        let versions = history::history(context.engine, view, self.path.as_bytes())?;
        Ok(versions.iter().take(self.limit.unwrap_or(usize::MAX)).map(out).collect())
    }
}

impl Work for BlameWork {
    const NAME: &'static str = "blame";
    type Output = Vec<BlameLine>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<BlameLine>> {
        context.host.cut()?;
        let view = context.view_at(self.at.as_ref())?;
        let blame = history::blame(context.engine, view, self.path.as_bytes())?;
        let versions: Vec<VersionOut> = blame.versions.iter().map(out).collect();
        let by = |index: usize, line, region: Option<(u64, u64)>, text| {
            let version = versions.get(index)?.clone();
            Some(BlameLine {
                line,
                offset: region.map(|(offset, _)| offset),
                length: region.map(|(_, length)| length),
                point: version.point,
                time: version.time,
                transaction: version.transaction,
                uid: version.uid,
                pid: version.pid,
                process: version.process,
                program: version.program,
                text: Text(text),
            })
        };
        let lines = blame.lines.into_iter().enumerate();
        let lines = lines.filter_map(|(number, (index, text))| by(index, Some(number + 1), None, text.0));
        let regions = blame.regions.into_iter();
        let regions = regions.filter_map(|(index, offset, length)| by(index, None, Some((offset, length)), Vec::new()));
        Ok(lines.chain(regions).collect())
    }
}

fn program(name: &Option<Text>, pid: u32) -> String {
    match name {
        Some(name) => format!("{}[{pid}]", name.shown()),
        None => "-".to_owned(),
    }
}

impl HistoryArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = app.tree_path(&self.path)?;
        let versions = app.ask(&History { path: path.clone(), at: self.at, limit: self.limit })?;
        app.show(&versions, true, |screen, versions| {
            let mut rows = Vec::new();
            for row in versions {
                let size = if row.removed { "removed".to_owned() } else { bytes(row.size) };
                let txn = row.transaction.as_ref().map(|id| format!("[{id}]")).unwrap_or_default();
                let other = row.path.as_ref().filter(|named| **named != path);
                let named = other.map(TreePath::shown).unwrap_or_default();
                rows.push(vec![
                    (Style::Yellow, row.point.clone()),
                    (Style::Dim, screen.time(row.time)),
                    (if row.removed { Style::Red } else { Style::Plain }, size),
                    (Style::Plain, users::name(row.uid)),
                    (Style::Plain, program(&row.program, row.pid)),
                    (Style::Cyan, row.op.map(|op| op.as_str().to_owned()).unwrap_or_default()),
                    (Style::Plain, format!("{named} {txn}").trim().to_owned()),
                ]);
            }
            screen.columns(&rows)
        })?;
        Ok(0)
    }
}

impl BlameArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = app.tree_path(&self.path)?;
        let lines = app.ask(&BlameWork { path, at: self.at })?;
        app.show(&lines, true, |screen, lines| {
            let mut rows = Vec::new();
            for row in lines {
                let text = row.text.0.strip_suffix(b"\n").unwrap_or(&row.text.0);
                let place = match (row.line, row.offset, row.length) {
                    (Some(line), ..) => line.to_string(),
                    (None, Some(offset), Some(length)) => format!("{length} B at {offset}"),
                    (None, ..) => String::new(),
                };
                rows.push(vec![
                    (Style::Yellow, row.point.clone()),
                    (Style::Dim, screen.time(row.time)),
                    (Style::Plain, users::name(row.uid)),
                    (Style::Plain, program(&row.program, row.pid)),
                    (Style::Cyan, row.transaction.clone().unwrap_or_default()),
                    (Style::Dim, place),
                    (Style::Plain, escape(text)),
                ]);
            }
            screen.columns(&rows)
        })?;
        Ok(0)
    }
}
