//! `stone audit`: who did what, summed up by user and program.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::types::{Op, ProcId};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::log::{FilterArgs, Programs};
use super::screen::{Screen, Style};
use super::text::{Text, TreePath, When, escape, point};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone audit                          who changed what, by user and program
  stone audit /etc --since yesterday   below a path, since a state
  stone audit --failed                 who tried what was refused
  stone audit --json --all             of all branches
Each line can be followed up: `stone log --user U --program P`, `stone ps --program P`.";

/// Events that are read at a time.
const PAGE: usize = 10_000;

/// Sums up who did what, by user, program and label
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct AuditArgs {
    /// Only at this path and below it
    #[arg(value_name = "PATH")]
    path: Option<TreePath>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// The work of `stone audit`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Audit {
    /// Which events count.
    pub filter: FilterArgs,
    /// At this path of the tree and below it.
    pub path: Option<TreePath>,
}

/// What one user did with one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditRow {
    /// The user.
    pub uid: u32,
    /// The program; none where the record does not know it.
    pub program: Option<Text>,
    /// The actor's label.
    pub label: Option<String>,
    /// How many processes of it.
    pub processes: u64,
    /// How many of each operation.
    pub operations: BTreeMap<String, u64>,
    /// How many failed.
    pub failed: u64,
    /// How many different paths.
    pub paths: u64,
    /// The first event.
    pub first: String,
    /// When that was.
    pub first_time: When,
    /// The last event.
    pub last: String,
    /// When that was.
    pub last_time: When,
}

/// A row while it is counted.
struct Sum {
    row: AuditRow,
    processes: HashSet<ProcId>,
    paths: HashSet<[u8; 32]>,
}

impl Work for Audit {
    const NAME: &'static str = "audit";
    type Output = Vec<AuditRow>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<AuditRow>> {
        let mut filter = self.filter.resolve(context, true)?;
        filter.path = self.path.as_ref().map(|path| path.0.clone());
        filter.limit = Some(PAGE);
        let reader = context.reader()?;
        let mut programs = Programs::default();
        let mut sums: HashMap<(u32, Option<Text>, Option<String>), Sum> = HashMap::new();
        loop {
            let page = reader.events(&filter)?;
            let Some(last) = page.last() else { break };
            filter.after = Some(last.seq);
            let full = page.len() == PAGE;
            for event in page {
                let (program, label) = programs.find(reader.as_ref(), event.process)?;
                let sum = sums.entry((event.uid, program.clone(), label.clone())).or_insert_with(|| Sum {
                    row: AuditRow {
                        uid: event.uid,
                        program,
                        label,
                        processes: 0,
                        operations: BTreeMap::new(),
                        failed: 0,
                        paths: 0,
                        first: point(event.seq),
                        first_time: When(event.time),
                        last: String::new(),
                        last_time: When(event.time),
                    },
                    processes: HashSet::new(),
                    paths: HashSet::new(),
                });
                *sum.row.operations.entry(event.op.as_str().to_owned()).or_default() += 1;
                sum.row.failed += u64::from(event.result != 0);
                sum.row.last = point(event.seq);
                sum.row.last_time = When(event.time);
                if event.process != ProcId(0) {
                    sum.processes.insert(event.process);
                }
                if let Some(path) = &event.path {
                    sum.paths.insert(*blake3::hash(path).as_bytes());
                }
            }
            if !full {
                break;
            }
        }
        let mut rows: Vec<AuditRow> = sums
            .into_values()
            .map(|sum| AuditRow { processes: sum.processes.len() as u64, paths: sum.paths.len() as u64, ..sum.row })
            .collect();
        rows.sort_by(|a, b| b.last_time.cmp(&a.last_time).then_with(|| a.program.cmp(&b.program)));
        Ok(rows)
    }
}

impl AuditArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = self.path.as_ref().map(|path| app.tree_path(path)).transpose()?;
        let rows = app.ask(&Audit { filter: self.filter, path })?;
        app.show(&rows, true, |screen, rows| render(screen, rows))?;
        Ok(0)
    }
}

fn render(screen: &mut Screen, rows: &[AuditRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let head = ["USER", "PROGRAM", "PROCESSES", "PATHS", "FAILED", "LAST", "OPERATIONS"];
    let mut lines = vec![head.map(|title| (Style::Bold, title.to_owned())).to_vec()];
    for row in rows {
        let mut program = row.program.as_ref().map_or_else(|| "-".to_owned(), Text::shown);
        if let Some(label) = &row.label {
            program.push_str(&format!(" ({})", escape(label.as_bytes())));
        }
        // In the order of the operations' codes, as the contract lists them.
        let counts = Op::ALL.iter().filter_map(|op| {
            let count = row.operations.get(op.as_str())?;
            Some(format!("{count} {}", op.as_str()))
        });
        lines.push(vec![
            (Style::Plain, users::name(row.uid)),
            (Style::Plain, program),
            (Style::Plain, row.processes.to_string()),
            (Style::Plain, row.paths.to_string()),
            (if row.failed > 0 { Style::Red } else { Style::Dim }, row.failed.to_string()),
            (Style::Dim, screen.time(row.last_time)),
            (Style::Cyan, counts.collect::<Vec<_>>().join(", ")),
        ]);
    }
    screen.columns(&lines)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::types::Timestamp;

    #[test]
    fn a_line_sums_up_one_program_of_one_user() {
        let row = AuditRow {
            uid: 0,
            program: Some("rm\n".into()),
            label: Some("robot".to_owned()),
            processes: 2,
            operations: BTreeMap::from([("unlink".to_owned(), 3), ("create".to_owned(), 1)]),
            failed: 1,
            paths: 3,
            first: "e1".to_owned(),
            first_time: When(Timestamp(0)),
            last: "e4".to_owned(),
            last_time: When(Timestamp(0)),
        };
        let mut screen = Screen::memory(TimeZone::UTC);
        render(&mut screen, &[row]).unwrap();
        let text = screen.collected();
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "root  rm\\n (robot)  2          3      1       1970-01-01T00:00:00  1 create, 3 unlink"
        );
    }
}
