//! `stone ps`: the processes of the record, with what they changed, as a tree.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::store::{ProcessRow, ReadTxn};
use crate::types::{ProcId, Seq};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::log::FilterArgs;
use super::screen::{Screen, Style};
use super::text::{Text, TreePath, When, escape, point};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone ps                          who changed something on the live branch, and who started them
  stone ps --since yesterday src    ... below src since yesterday
  stone ps --program make --all
  stone ps --txn T7                 the processes of a transaction
Then: `stone log --process ID` shows what one did, `stone undo --process ID` takes it back.";

/// Events that are read at a time.
const PAGE: usize = 10_000;
/// How far up a chain of parents is followed.
const DEPTH_MAX: usize = 64;

/// Shows the processes that changed something, as a tree, with what they changed
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PsArgs {
    /// Only changes at this path and below it
    #[arg(value_name = "PATH")]
    path: Option<TreePath>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// The work of `stone ps`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ps {
    /// Which changes count.
    pub filter: FilterArgs,
    /// At this path of the tree and below it.
    pub path: Option<TreePath>,
}

/// A process of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PsRow {
    /// Its number in the record.
    pub id: u64,
    /// Its process id.
    pub pid: u32,
    /// Its parent's process id.
    pub ppid: u32,
    /// Its parent in the record.
    pub parent: Option<u64>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its name.
    pub comm: Text,
    /// Its executable.
    pub exe: Option<Text>,
    /// Its arguments.
    pub argv: Option<Vec<Text>>,
    /// Its working directory.
    pub cwd: Option<Text>,
    /// When it was started.
    pub started: When,
    /// When it ended, where that was seen.
    pub ended: Option<When>,
    /// How it ended, where that was seen.
    pub exit_status: Option<i32>,
    /// The actor's label.
    pub label: Option<String>,
    /// Whether everything about it could be read before it was gone.
    pub complete: bool,
    /// How many changes it made.
    pub changes: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many different paths it changed.
    pub paths: u64,
    /// The point of its first change.
    pub first: Option<String>,
    /// The point of its last change.
    pub last: Option<String>,
}

/// What one process did.
#[derive(Default)]
struct Deeds {
    changes: u64,
    failed: u64,
    paths: HashSet<u64>,
    first: Option<Seq>,
    last: Option<Seq>,
}

impl Work for Ps {
    const NAME: &'static str = "ps";
    type Output = Vec<PsRow>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<PsRow>> {
        let mut filter = self.filter.resolve(context, true)?;
        filter.path = self.path.as_ref().map(|path| path.0.clone());
        filter.limit = Some(PAGE);
        let reader = context.reader()?;
        let mut deeds: HashMap<ProcId, Deeds> = HashMap::new();
        loop {
            let page = reader.events(&filter)?;
            let Some(last) = page.last() else { break };
            filter.after = Some(last.seq);
            let full = page.len() == PAGE;
            for event in page {
                if event.process == ProcId(0) {
                    continue;
                }
                let deed = deeds.entry(event.process).or_default();
                deed.changes += 1;
                deed.failed += u64::from(event.result != 0);
                if let Some(path) = &event.path {
                    deed.paths.insert(hash(path));
                }
                deed.first.get_or_insert(event.seq);
                deed.last = Some(event.seq);
            }
            if !full {
                break;
            }
        }
        rows(reader.as_ref(), deeds)
    }
}

/// Enough of a path to count different ones.
fn hash(path: &[u8]) -> u64 {
    blake3::hash(path).as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
}

/// The processes that did something, and those that started them.
fn rows(reader: &dyn ReadTxn, deeds: HashMap<ProcId, Deeds>) -> Result<Vec<PsRow>> {
    let mut found: BTreeMap<ProcId, ProcessRow> = BTreeMap::new();
    for id in deeds.keys() {
        let mut next = Some(*id);
        for _ in 0..DEPTH_MAX {
            let Some(id) = next.filter(|id| !found.contains_key(id)) else { break };
            let Some(process) = reader.process(id)? else { break };
            next = process.parent;
            found.insert(id, process);
        }
    }
    let none = Deeds::default();
    Ok(found.into_values().map(|process| row(deeds.get(&process.id).unwrap_or(&none), process)).collect())
}

/// A process and those that started it, itself first.
///
/// # Errors
/// Those of the store.
pub fn lineage_of(reader: &dyn ReadTxn, id: ProcId) -> Result<Vec<ProcessRow>> {
    let mut found = Vec::new();
    let mut next = Some(id);
    while let Some(process) = next.map(|id| reader.process(id)).transpose()?.flatten() {
        next = process.parent.filter(|_| found.len() < DEPTH_MAX);
        found.push(process);
    }
    Ok(found)
}

/// Processes, without a count of what they did.
pub fn uncounted(processes: Vec<ProcessRow>) -> Vec<PsRow> {
    let none = Deeds::default();
    processes.into_iter().map(|process| row(&none, process)).collect()
}

fn row(deed: &Deeds, process: ProcessRow) -> PsRow {
    let words = |argv: Vec<u8>| {
        let argv = argv.strip_suffix(b"\0").unwrap_or(&argv);
        argv.split(|byte| *byte == 0).map(|word| Text(word.to_vec())).collect()
    };
    PsRow {
        id: process.id.0,
        pid: process.pid,
        ppid: process.ppid,
        parent: process.parent.map(|id| id.0),
        uid: process.uid,
        gid: process.gid,
        comm: Text(process.comm),
        exe: process.exe.map(Text),
        argv: process.argv.map(words),
        cwd: process.cwd.map(Text),
        started: When(process.started),
        ended: process.ended.map(When),
        exit_status: process.exit_status,
        label: process.label,
        complete: process.complete,
        changes: deed.changes,
        failed: deed.failed,
        paths: deed.paths.len() as u64,
        first: deed.first.map(point),
        last: deed.last.map(point),
    }
}

impl PsArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = self.path.as_ref().map(|path| app.tree_path(path)).transpose()?;
        let rows = app.ask(&Ps { filter: self.filter, path })?;
        app.show(&rows, true, |screen, rows| render(screen, rows))?;
        Ok(0)
    }
}

/// Draws the tree: each process below the one that started it.
fn render(screen: &mut Screen, rows: &[PsRow]) -> Result<()> {
    let known: HashSet<u64> = rows.iter().map(|row| row.id).collect();
    let mut children: BTreeMap<Option<u64>, Vec<&PsRow>> = BTreeMap::new();
    for row in rows {
        children.entry(row.parent.filter(|parent| known.contains(parent))).or_default().push(row);
    }
    let head = ["ID", "PID", "USER", "STARTED", "CHANGES", "PATHS", "COMMAND"];
    let mut lines = vec![head.map(|title| (Style::Bold, title.to_owned())).to_vec()];
    // Depth first; the stack holds what is still to be drawn, the next on top.
    let mut stack: Vec<(&PsRow, String, bool)> = Vec::new();
    let push = |stack: &mut Vec<_>, of: Option<u64>, indent: &str| {
        if let Some(rows) = children.get(&of) {
            for (place, row) in rows.iter().enumerate().rev() {
                stack.push((*row, indent.to_owned(), place + 1 == rows.len()));
            }
        }
    };
    push(&mut stack, None, "");
    let mut drawn = 0;
    while let Some((row, indent, last)) = stack.pop() {
        drawn += 1;
        let top = row.parent.is_none_or(|parent| !known.contains(&parent));
        let branch = match (top, last) {
            (true, _) => "",
            (false, true) => "└─ ",
            (false, false) => "├─ ",
        };
        lines.push(cells(screen, row, &format!("{indent}{branch}")));
        let below = match (top, last) {
            (true, _) => String::new(),
            (false, true) => format!("{indent}   "),
            (false, false) => format!("{indent}│  "),
        };
        if drawn <= rows.len() {
            push(&mut stack, Some(row.id), &below);
        }
    }
    screen.columns(&lines)
}

fn cells(screen: &Screen, row: &PsRow, indent: &str) -> Vec<(Style, String)> {
    let mut command = match &row.argv {
        Some(argv) => argv.iter().map(|word| escape(word.as_bytes())).collect::<Vec<_>>().join(" "),
        None => format!("[{}]", row.comm.shown()),
    };
    if let Some(label) = &row.label {
        command.push_str(&format!(" ({})", escape(label.as_bytes())));
    }
    if let Some(status) = row.exit_status.filter(|status| *status != 0) {
        command.push_str(&format!(" (exit {status})"));
    }
    let changes = match row.failed {
        0 => row.changes.to_string(),
        failed => format!("{} ({failed} failed)", row.changes),
    };
    let active = row.changes > 0;
    vec![
        (Style::Yellow, row.id.to_string()),
        (Style::Plain, row.pid.to_string()),
        (Style::Plain, users::name(row.uid)),
        (Style::Dim, screen.time(row.started)),
        (if active { Style::Green } else { Style::Dim }, changes),
        (if active { Style::Plain } else { Style::Dim }, row.paths.to_string()),
        (if active { Style::Plain } else { Style::Dim }, format!("{indent}{command}")),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::types::Timestamp;

    fn process(id: u64, parent: Option<u64>, argv: &str) -> PsRow {
        let row = ProcessRow {
            id: ProcId(id),
            pid: 100 + id as u32,
            parent: parent.map(ProcId),
            comm: b"x".to_vec(),
            argv: Some(argv.replace(' ', "\0").into_bytes()),
            started: Timestamp(0),
            ..ProcessRow::default()
        };
        row_of(row)
    }

    fn row_of(process: ProcessRow) -> PsRow {
        row(&Deeds { changes: process.id.0, ..Deeds::default() }, process)
    }

    #[test]
    fn children_stand_below_who_started_them() {
        let rows = [
            process(1, None, "bash"),
            process(2, Some(1), "make install"),
            process(3, Some(2), "cp a"),
            process(4, Some(1), "vi \x1b"),
            process(5, Some(99), "cron"),
        ];
        let mut screen = Screen::memory(TimeZone::UTC);
        render(&mut screen, &rows).unwrap();
        let text = screen.collected();
        // The command is what stands below its title.
        let column = text.find("COMMAND").unwrap();
        let trees: Vec<String> = text.lines().skip(1).map(|line| line.chars().skip(column).collect()).collect();
        assert_eq!(trees, ["bash", "├─ make install", "│  └─ cp a", "└─ vi \\x1b", "cron"], "{text}");
    }
}
