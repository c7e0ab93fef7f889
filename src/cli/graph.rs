//! `stone log --graph`: the lines of branches, their forks and merges, beside what happened on them.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::types::{BranchId, Segment, Seq};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::log::{self, FilterArgs, LogRow, Programs};
use super::screen::{Screen, Style};
use super::text::{Text, TreePath};
use super::works::Work;

/// Events that one request brings.
const PAGE: usize = 1000;

/// The work of `stone log --graph`: one page of the events of all branches, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct GraphPage {
    /// Which.
    pub filter: FilterArgs,
    /// At this path of the tree and below it.
    pub path: Option<TreePath>,
    /// Before this event.
    pub cursor: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A page of events, and the branches that they are on.
#[derive(Debug, Serialize, Deserialize)]
pub struct GraphOut {
    /// Newest first.
    pub rows: Vec<GraphRow>,
    /// All branches.
    pub branches: Vec<GraphBranch>,
}

/// An event on a branch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GraphRow {
    /// The event.
    #[serde(flatten)]
    pub event: LogRow,
    /// The number of its branch.
    pub branch_id: u64,
    /// The number of the branch that it merged.
    pub merged: Option<u64>,
}

/// A branch in a graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GraphBranch {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: Text,
    /// The branch that it was forked from, and at which of its events.
    pub fork: Option<(u64, u64)>,
    /// Whether its name is given up.
    pub dropped: bool,
}

/// The branches that have, or had, a name.
fn branches(context: &Context<'_>) -> Vec<GraphBranch> {
    let all: HashMap<_, _> = context.engine.branches().into_iter().map(|row| (row.id, row)).collect();
    let mut found = Vec::new();
    for row in all.values() {
        let Some(name) = &row.name else { continue };
        let (mut parent, mut base) = (row.parent, row.base);
        // a branch of a transaction's view comes from what the transaction came from
        while let Some(hidden) = parent.and_then(|id| all.get(&id)).filter(|row| row.name.is_none()) {
            (parent, base) = (hidden.parent, base.min(hidden.base));
        }
        let fork = parent.map(|parent| (parent.0, base.0));
        found.push(GraphBranch { id: row.id.0, name: Text(name.clone()), fork, dropped: row.dropped.is_some() });
    }
    found.sort_by_key(|branch| branch.id);
    found
}

impl Work for GraphPage {
    const NAME: &'static str = "graph";
    type Output = GraphOut;

    fn execute(&self, context: &Context<'_>) -> Result<GraphOut> {
        let mut filter = self.filter.resolve(context, false)?;
        let branches = branches(context);
        if self.filter.branch.is_none() {
            let whole = |branch: &GraphBranch| Segment { branch: BranchId(branch.id), cut: Seq::MAX };
            filter.lineage = branches.iter().map(whole).collect();
        }
        filter.path = self.path.as_ref().map(|path| path.0.clone());
        filter.limit = Some(self.limit);
        filter.descending = true;
        if let Some(before) = self.cursor {
            let last = Seq(before.saturating_sub(1));
            filter.upto = Some(filter.upto.map_or(last, |upto| upto.min(last)));
        }
        let reader = context.reader()?;
        let mut merges = HashMap::new();
        for branch in &branches {
            for merge in reader.merges(BranchId(branch.id))? {
                merges.insert(merge.seq, merge.source.0);
            }
        }
        let mut programs = Programs::default();
        let mut rows = Vec::new();
        for event in reader.events(&filter)? {
            let (branch_id, merged) = (event.branch.0, merges.get(&event.seq).copied());
            let event = log::row(context, reader.as_ref(), &mut programs, event)?;
            rows.push(GraphRow { event, branch_id, merged });
        }
        Ok(GraphOut { rows, branches })
    }
}

/// Shows the graph.
///
/// # Errors
/// Those of the work and of the output.
pub fn run(app: &App, filter: FilterArgs, path: Option<TreePath>, limit: usize) -> Result<u8> {
    let mut page = GraphPage { filter, path, cursor: None, limit: PAGE.min(limit) };
    let mut drawing: Option<(Screen, Drawing)> = None;
    let mut all = Vec::new();
    let mut count = 0;
    while page.limit > 0 {
        let GraphOut { rows, branches } = app.ask(&page)?;
        page.cursor = rows.last().map(|row| row.event.seq);
        count += rows.len();
        page.limit = if rows.len() == page.limit { PAGE.min(limit - count) } else { 0 };
        if app.globals.json {
            all.extend(rows);
            continue;
        }
        let (screen, drawing) =
            drawing.get_or_insert_with(|| (Screen::open(app.zone.clone(), true), Drawing::new(branches)));
        let mut lines = Vec::new();
        for row in &rows {
            drawing.event(row, log::cells(screen, &row.event), &mut lines);
        }
        if page.limit == 0 && count < limit {
            drawing.forks(0, &mut lines);
        }
        screen.columns(&lines)?;
    }
    if app.globals.json {
        app.show_json(&all)?;
    }
    drawing.map_or(Ok(()), |(screen, _)| screen.finish())?;
    Ok(0)
}

type Line = Vec<(Style, String)>;

/// The lanes of a graph that is drawn from the newest event down.
struct Drawing {
    branches: HashMap<u64, GraphBranch>,
    /// The branch whose line goes down in each lane.
    lanes: Vec<Option<u64>>,
    named: HashSet<u64>,
}

impl Drawing {
    fn new(branches: Vec<GraphBranch>) -> Drawing {
        let branches = branches.into_iter().map(|branch| (branch.id, branch)).collect();
        Drawing { branches, lanes: Vec::new(), named: HashSet::new() }
    }

    fn lane(&self, branch: u64) -> Option<usize> {
        self.lanes.iter().position(|lane| *lane == Some(branch))
    }

    fn open_lane(&mut self, branch: u64) -> usize {
        let free = self.lanes.iter().position(Option::is_none).unwrap_or(self.lanes.len());
        match self.lanes.get_mut(free) {
            Some(lane) => *lane = Some(branch),
            None => self.lanes.push(Some(branch)),
        }
        free
    }

    /// Draws an event, after the forks that lie above it.
    fn event(&mut self, row: &GraphRow, cells: Line, lines: &mut Vec<Line>) {
        self.forks(row.event.seq, lines);
        let own = self.lane(row.branch_id).unwrap_or_else(|| self.open_lane(row.branch_id));
        let mut picture = self.picture();
        put(&mut picture, own * 2, '*');
        let mut line = vec![(Style::Plain, picture.into_iter().collect())];
        line.extend(cells);
        if self.named.insert(row.branch_id)
            && let Some(branch) = self.branches.get(&row.branch_id)
        {
            let gone = if branch.dropped { " dropped" } else { "" };
            line.push((Style::Green, format!("({}{gone})", branch.name.shown())));
        }
        lines.push(line);
        if let Some(source) = row.merged.filter(|source| self.branches.contains_key(source)) {
            let before = self.picture();
            let lane = self.lane(source);
            let (from, mut picture) = match lane {
                Some(from) => (from, before),
                None => (self.open_lane(source), before),
            };
            connect(&mut picture, own, from, '\\', '/');
            lines.push(vec![(Style::Plain, picture.into_iter().collect())]);
        }
    }

    /// Ends the lanes of branches that were forked after this event.
    fn forks(&mut self, seq: u64, lines: &mut Vec<Line>) {
        loop {
            let fork = |lane: &Option<u64>| lane.and_then(|id| self.branches.get(&id)?.fork);
            let due = self.lanes.iter().enumerate().filter_map(|(at, lane)| Some((at, fork(lane)?)));
            // the newest fork first
            let Some((at, (parent, _))) = due.filter(|(_, (_, base))| *base >= seq).max_by_key(|(_, (_, base))| *base)
            else {
                break;
            };
            match self.lane(parent) {
                Some(into) => {
                    self.set(at, None);
                    let mut picture = self.picture();
                    connect(&mut picture, into, at, '/', '\\');
                    lines.push(vec![(Style::Plain, picture.into_iter().collect())]);
                }
                None => self.set(at, Some(parent)),
            }
        }
        while self.lanes.last() == Some(&None) {
            self.lanes.pop();
        }
    }

    fn set(&mut self, at: usize, branch: Option<u64>) {
        if let Some(lane) = self.lanes.get_mut(at) {
            *lane = branch;
        }
    }

    /// The lanes as they go straight down.
    fn picture(&self) -> Vec<char> {
        let mut picture = Vec::new();
        for lane in &self.lanes {
            picture.push(if lane.is_some() { '|' } else { ' ' });
            picture.push(' ');
        }
        picture
    }
}

fn put(picture: &mut Vec<char>, at: usize, sign: char) {
    if picture.len() <= at {
        picture.resize(at + 1, ' ');
    }
    if let Some(place) = picture.get_mut(at) {
        *place = sign;
    }
}

/// Draws the line between a lane and another one, which begins or ends here on its right or left.
fn connect(picture: &mut Vec<char>, lane: usize, other: usize, right: char, left: char) {
    let (between, end) = if other > lane {
        (lane * 2 + 1..other * 2 - 1, (other * 2 - 1, right))
    } else {
        (other * 2 + 2..lane * 2, (other * 2 + 1, left))
    };
    for at in between {
        if picture.get(at) != Some(&'|') {
            put(picture, at, '_');
        }
    }
    put(picture, end.0, end.1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Op, Timestamp};

    fn branch(id: u64, name: &str, fork: Option<(u64, u64)>) -> GraphBranch {
        GraphBranch { id, name: name.into(), fork, dropped: false }
    }

    fn row(seq: u64, branch_id: u64, merged: Option<u64>) -> GraphRow {
        let event = LogRow {
            point: format!("e{seq}"),
            seq,
            time: super::super::text::When(Timestamp(0)),
            branch: "main".into(),
            transaction: None,
            op: Op::Create,
            path: None,
            path2: None,
            inode: None,
            offset: None,
            length: None,
            old: None,
            new: None,
            result: 0,
            uid: 0,
            gid: 0,
            pid: 0,
            process: None,
            program: None,
            label: None,
        };
        GraphRow { event, branch_id, merged }
    }

    fn drawn(branches: Vec<GraphBranch>, rows: &[GraphRow]) -> Vec<String> {
        let mut drawing = Drawing::new(branches);
        let mut lines = Vec::new();
        for row in rows {
            drawing.event(row, vec![(Style::Plain, row.event.point.clone())], &mut lines);
        }
        drawing.forks(0, &mut lines);
        let join = |line: Line| line.into_iter().map(|(_, cell)| cell).collect::<Vec<_>>().join(" ");
        lines.into_iter().map(|line| join(line).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_fork_and_its_merge_are_drawn_as_git_draws_them() {
        let branches = vec![branch(1, "main", None), branch(2, "x", Some((1, 2)))];
        let rows = [row(6, 1, Some(2)), row(5, 2, None), row(4, 1, None), row(3, 2, None), row(2, 1, None)];
        let expected = ["*  e6 (main)", "|\\", "| *  e5 (x)", "* |  e4", "| *  e3", "|/", "*  e2"];
        assert_eq!(drawn(branches, &rows), expected);
    }

    #[test]
    fn lines_cross_what_is_between() {
        let branches = vec![branch(1, "main", None), branch(2, "x", Some((1, 1))), branch(3, "y", Some((1, 3)))];
        let rows =
            [row(6, 1, None), row(5, 2, None), row(4, 3, None), row(3, 1, None), row(2, 2, None), row(1, 1, None)];
        let expected = ["*  e6 (main)", "| *  e5 (x)", "| | *  e4 (y)", "|_|/", "* |  e3", "| *  e2", "|/", "*  e1"];
        assert_eq!(drawn(branches, &rows), expected);
    }

    #[test]
    fn a_branch_whose_parent_has_nothing_newer_goes_on_in_its_lane() {
        let branches = vec![branch(1, "main", None), branch(2, "x", Some((1, 1)))];
        assert_eq!(drawn(branches, &[row(2, 2, None), row(1, 1, None)]), ["*  e2 (x)", "*  e1 (main)"]);
    }
}
