//! `stone why`: who made a file, from what.

use serde::{Deserialize, Serialize};

use crate::store::{EventFilter, ReadTxn};
use crate::types::{Op, ProcId, Seq};
use crate::version::history;

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::history::VersionOut;
use super::ps::{PsRow, lineage_of, uncounted};
use super::screen::{Screen, Style, bytes};
use super::text::{Text, TreePath, When, escape, point};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone why build/app            who made it, who started that, and what it had read before
  stone why build/app --at v1.0  of the file as it was then
What a program reads is recorded where the database is mounted with `-o audit=all`.";

/// The most inputs that are listed.
const INPUTS_MAX: usize = 1000;

/// Says who made a file, who started that, and from which inputs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct WhyArgs {
    /// The file
    #[arg(value_name = "PATH")]
    path: TreePath,
    /// As it was in this state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    at: Option<Text>,
}

/// The work of `stone why`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Why {
    /// Of which file.
    pub path: TreePath,
    /// As it was in this state.
    pub at: Option<Text>,
}

/// A file that the process had opened for reading before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// Its path then.
    pub path: TreePath,
    /// The point of the first open.
    pub point: String,
    /// When that was.
    pub time: When,
    /// Its inode.
    pub inode: Option<u64>,
}

/// Why a file is what it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reason {
    /// The version that was asked about.
    pub version: VersionOut,
    /// Who made it, and who started that: the maker first.
    pub processes: Vec<PsRow>,
    /// What the maker had read before.
    pub inputs: Vec<Input>,
    /// Whether anything that the maker read was recorded at all.
    pub reads_recorded: bool,
}

impl Work for Why {
    const NAME: &'static str = "why";
    type Output = Reason;

    fn execute(&self, context: &Context<'_>) -> Result<Reason> {
        context.settle()?;
        let view = context.view_at(self.at.as_ref())?;
        let versions = history::history(context.engine, view, self.path.as_bytes())?;
        let missing = || super::error::Error::failed("has no version").about(self.path.as_bytes());
        let version = versions.first().ok_or_else(missing)?;
        let reader = context.reader()?;
        let processes = match version.process {
            ProcId(0) => Vec::new(),
            id => uncounted(lineage_of(reader.as_ref(), id)?),
        };
        // Of a transaction the version is as of the commit; what was read came before that too.
        let (inputs, reads_recorded) = inputs(reader.as_ref(), version.process, version.seq, self.path.as_bytes())?;
        Ok(Reason { version: super::history::out(version), processes, inputs, reads_recorded })
    }
}

/// What a process had opened for reading.
fn inputs(reader: &dyn ReadTxn, maker: ProcId, upto: Seq, own: &[u8]) -> Result<(Vec<Input>, bool)> {
    let mut found: Vec<Input> = Vec::new();
    let mut recorded = false;
    if maker == ProcId(0) {
        return Ok((found, recorded));
    }
    let filter = EventFilter { process: Some(maker), ops: vec![Op::Open], upto: Some(upto), ..EventFilter::default() };
    for event in reader.events(&filter)? {
        if event.result != 0 {
            continue;
        }
        recorded = true;
        let Some(path) = event.path.filter(|path| **path != *own) else { continue };
        if found.len() < INPUTS_MAX && !found.iter().any(|input| input.path.as_bytes() == &*path) {
            let inode = event.ino.map(|ino| ino.0);
            found.push(Input { path: TreePath(path.to_vec()), point: point(event.seq), time: When(event.time), inode });
        }
    }
    Ok((found, recorded))
}

impl WhyArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = app.tree_path(&self.path)?;
        let reason = app.ask(&Why { path, at: self.at })?;
        app.show(&reason, true, render)?;
        Ok(0)
    }
}

fn command(row: &PsRow) -> String {
    match &row.argv {
        Some(argv) => argv.iter().map(|word| escape(word.as_bytes())).collect::<Vec<_>>().join(" "),
        None => format!("[{}]", row.comm.shown()),
    }
}

fn render(screen: &mut Screen, reason: &Reason) -> Result<()> {
    let version = &reason.version;
    let what = if version.removed { "removed".to_owned() } else { bytes(version.size) };
    let op = version.op.map(|op| op.as_str()).unwrap_or_default();
    let txn = version.transaction.as_ref().map(|id| format!(" [{id}]")).unwrap_or_default();
    let time = screen.time(version.time);
    let path = version.path.as_ref().map(TreePath::shown).unwrap_or_default();
    let point = screen.paint(Style::Yellow, &version.point);
    screen.line(format!("{path}  {point}  {time}  {what}  {op}{txn}"))?;
    for (place, row) in reason.processes.iter().enumerate() {
        let role = if place == 0 { "by     " } else { "  from " };
        let label = row.label.as_ref().map(|label| format!(" ({})", escape(label.as_bytes()))).unwrap_or_default();
        let cwd = row.cwd.as_ref().map(|cwd| format!(", in {}", cwd.shown())).unwrap_or_default();
        let gaps = if row.complete { "" } else { ", incomplete" };
        let command = screen.paint(Style::Bold, command(row));
        let user = users::name(row.uid);
        screen.line(format!("{role}{command}{label}  (process {}, pid {}, {user}{cwd}{gaps})", row.id, row.pid))?;
    }
    if reason.processes.is_empty() {
        screen.line("by nobody that the record knows")?;
    }
    match (reason.inputs.is_empty(), reason.reads_recorded) {
        (false, _) => screen.line("had read before:")?,
        (true, true) => screen.line("had read nothing else here before")?,
        (true, false) => screen.line("what it had read was not recorded (`stone mount -o audit=all` does)")?,
    }
    let rows: Vec<_> = reason
        .inputs
        .iter()
        .map(|input| {
            vec![
                (Style::Yellow, format!("  {}", input.point)),
                (Style::Dim, screen.time(input.time)),
                (Style::Plain, input.path.shown()),
            ]
        })
        .collect();
    screen.columns(&rows)
}
