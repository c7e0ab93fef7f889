//! Undo, redo, restore and rollback to a state, on an engine and on the reference side by side.

use std::collections::{BTreeMap, BTreeSet};

use stonefs::engine::Engine;
use stonefs::store::{EventFilter, EventRow};
use stonefs::types::{BranchId, Ino, Kind, Op, Seq, View};
use stonefs::version::restore::{self, RestoreOutcome};
use stonefs::version::undo::{self, UndoOutcome, UndoTarget};
use stonefs::version::{ErrorKind, VersionError};

use crate::harness::{Effect, Pair, caller, difference};
use crate::invert::invert;
use crate::merging::{named, strict};
use crate::observe::{Check, Derived, Rules, ensure, settle};
use crate::operation::Target;
use crate::oracle::Commit;
use crate::tally::{Tally, count};
use crate::tree::{Body, Node, Tree};

/// What is taken back: the event in which it became visible, and what the record calls it.
struct Task {
    at: Seq,
    /// Whether it is an undo, and of which events.
    inverts: (bool, Vec<Seq>),
}

fn events(engine: &Engine, filter: &EventFilter) -> Check<Vec<EventRow>> {
    engine.flush(engine.point().0).map_err(|error| error.to_string())?;
    let read = engine.store().read().map_err(|error| error.to_string())?;
    read.events(filter).map_err(|error| error.to_string())
}

/// Whether an event is a change of the tree by itself.
fn changes(event: &EventRow) -> bool {
    let others = [Op::Open, Op::Branch, Op::Tag, Op::Switch, Op::Begin, Op::Rollback, Op::Prune, Op::Commit, Op::Merge];
    event.result == 0 && !others.contains(&event.op)
}

/// Whether two trees differ in nothing but when they were written.
fn unchanged(a: &Tree, b: &Tree) -> bool {
    let plain = |node: &Node| Node { attrs: 0, version: 0, ..node.clone() };
    a.nodes.len() == b.nodes.len()
        && a.nodes.iter().all(|(ino, node)| b.nodes.get(ino).is_some_and(|other| plain(node) == plain(other)))
}

impl Pair {
    /// The events that are undone on a branch: each undo adds, each redo takes away.
    fn undone(&self, branch: BranchId) -> BTreeSet<Seq> {
        let mut undone = BTreeSet::new();
        for commit in self.oracle.world.commits.values().filter(|commit| commit.target == branch) {
            match &commit.inverts {
                Some((true, events)) => undone.extend(events),
                Some((false, events)) => undone.retain(|seq| !events.contains(seq)),
                None => {}
            }
        }
        undone
    }

    fn task_of(&self, at: Seq, branch: BranchId) -> Task {
        let commit = self.oracle.world.commits.get(&at).filter(|commit| commit.target == branch);
        match commit.and_then(|commit| commit.inverts.clone()) {
            Some((undo, events)) => Task { at, inverts: (!undo, events) },
            None => Task { at, inverts: (true, vec![at]) },
        }
    }

    /// The changes of a branch that are neither undone nor an undo, newest first.
    fn newest(&self, branch: BranchId) -> Check<Vec<Task>> {
        let own = self.engine().lineage(View::live(branch)).map_err(|error| error.to_string())?.own();
        let filter = EventFilter { lineage: vec![own], descending: true, ..EventFilter::default() };
        let undone = self.undone(branch);
        let mut tasks = Vec::new();
        for event in events(self.engine(), &filter)? {
            let commit = self.oracle.world.commits.get(&event.seq).filter(|commit| commit.target == branch);
            let counts = commit.map_or(changes(&event), |commit| commit.inverts.is_none());
            if counts && !undone.contains(&event.seq) {
                tasks.push(self.task_of(event.seq, branch));
            }
        }
        Ok(tasks)
    }

    /// What is undone where the newest change is: the first that has an effect. Whether one has that only touches what
    /// is there, the engine decides.
    fn first_with_effect(
        &mut self,
        branch: BranchId,
        got: &Result<UndoOutcome, VersionError>,
        force: bool,
    ) -> Check<Option<Task>> {
        let now = named(&self.oracle.world.trees[&branch]);
        for task in self.newest(branch)? {
            if matches!(got, Ok(UndoOutcome::Done { events, .. }) if *events == task.inverts.1) {
                return Ok(Some(task));
            }
            let before = self.compare_past(branch, Seq(task.at.0 - 1))?;
            let after = self.compare_past(branch, task.at)?;
            match invert(&before, &after, &now, force) {
                None => {}
                Some(Ok(tree)) if unchanged(&tree, &now) => {}
                Some(_) => return Ok(Some(task)),
            }
        }
        Ok(None)
    }

    /// The change that an event is on a branch; `None` where it is none.
    fn event(&self, branch: BranchId, seq: Seq) -> Check<Option<Task>> {
        let commit = self.oracle.world.commits.get(&seq).is_some_and(|commit| commit.target == branch);
        let filter = EventFilter { lineage: self.lineage(branch)?, ..EventFilter::default() };
        let found = events(self.engine(), &filter)?.into_iter().find(|event| event.seq == seq);
        // What a transaction changed on a branch that this one came from is a change like others, and so is what a
        // merge that waits has brought, and each resolution of it. What changed nothing has nothing to be taken back.
        let made = |event: &EventRow| event.result == 0 && matches!(event.op, Op::Commit | Op::Merge);
        let counts = commit || found.is_some_and(|event| changes(&event) || made(&event));
        Ok(counts.then(|| self.task_of(seq, branch)))
    }

    fn lineage(&self, branch: BranchId) -> Check<Vec<stonefs::types::Segment>> {
        Ok(self.engine().lineage(View::live(branch)).map_err(|error| error.to_string())?.0.to_vec())
    }

    pub fn undo(&mut self, branch: u8, what: u8, back: u8, force: bool) -> Check<Effect> {
        let branch = self.oracle.branch(branch);
        self.seal_all(&[branch])?;
        let commits: Vec<(Seq, Commit)> =
            self.oracle.world.commits.iter().rev().map(|(&seq, commit)| (seq, commit.clone())).collect();
        let (target, task) = match what {
            0 | 1 => (UndoTarget::Newest, None),
            2 if !commits.is_empty() => {
                let (seq, commit) = &commits[usize::from(back) % commits.len()];
                let task = (commit.target == branch).then(|| self.task_of(*seq, branch));
                (UndoTarget::Txn(commit.txn), task)
            }
            _ => {
                let seq = self.oracle.point(back);
                (UndoTarget::Event(seq), self.event(branch, seq)?)
            }
        };
        let got = undo::undo(self.engine(), branch, target, force, "", &caller(0));
        let task = match target {
            UndoTarget::Newest => self.first_with_effect(branch, &got, force)?,
            UndoTarget::Event(_) | UndoTarget::Txn(_) | UndoTarget::Process(_) | UndoTarget::Tree(_) => task,
        };
        self.inverted(branch, task, got, force).map_err(|error| format!("{target:?} on {branch}: {error}"))
    }

    pub fn redo(&mut self, branch: u8, force: bool) -> Check<Effect> {
        let branch = self.oracle.branch(branch);
        self.seal_all(&[branch])?;
        let undone = self.undone(branch);
        let mut last = self.oracle.world.commits.iter().rev().filter(|(_, commit)| commit.target == branch);
        let last = last.find(|(_, commit)| {
            commit.inverts.as_ref().is_some_and(|(undo, events)| *undo && events.iter().all(|seq| undone.contains(seq)))
        });
        let task = last.map(|(&seq, _)| self.task_of(seq, branch));
        let got = undo::redo(self.engine(), branch, force, "", &caller(0));
        self.inverted(branch, task, got, force).map_err(|error| format!("redo on {branch}: {error}"))
    }

    fn inverted(
        &mut self,
        branch: BranchId,
        task: Option<Task>,
        got: Result<UndoOutcome, VersionError>,
        force: bool,
    ) -> Check<Effect> {
        let Some(Task { at, inverts }) = task else {
            let known = |error: &VersionError| matches!(error.kind, ErrorKind::NotFound | ErrorKind::State);
            ensure!(got.as_ref().is_err_and(known), "there is nothing to undo, but {got:?}");
            return Ok(Effect::Nothing);
        };
        let before = self.compare_past(branch, Seq(at.0 - 1))?;
        let after = self.compare_past(branch, at)?;
        let now = named(&self.oracle.world.trees[&branch]);
        let want = invert(&before, &after, &now, force);
        let view = View::live(branch);
        match (got, want) {
            (Err(error), None) if error.kind == ErrorKind::NotFound => Ok(Effect::Nothing),
            (Err(error), Some(Err(refused))) => Err(format!("e{at} fails: {error}; must be refused for {refused:?}")),
            (Err(error), _) => Err(format!("e{at} is not undone: {error}; it did: {}", difference(&before, &after))),
            (Ok(UndoOutcome::Refused { .. }), Some(Err(_))) => {
                count(Tally::Refused);
                self.compare_live(branch)?;
                Ok(Effect::Nothing)
            }
            (Ok(UndoOutcome::Refused { conflicts }), want) => {
                let shown: Vec<_> = conflicts.iter().map(|c| format!("{} {}", c.kind.as_str(), c.path)).collect();
                let did = want.map(|_| difference(&before, &after));
                Err(format!("undoing e{at} is refused because of {shown:?}, must be possible; it did: {did:?}"))
            }
            (Ok(UndoOutcome::Done { .. }), Some(Err(refused))) => {
                Err(format!("e{at} is undone, must be refused because of {refused:?}"))
            }
            (Ok(UndoOutcome::Done { txn, seq, events, .. }), want) => {
                let mut expected = want.and_then(Result::ok).unwrap_or(now);
                ensure!(events == inverts.1, "{events:?} are undone, must be {:?}", inverts.1);
                self.keep_open(branch, &mut expected);
                let seen = self.observe_with(view, &[&expected])?;
                let settled = settle(&expected, &seen, &strict()).map_err(|error| format!("undoing e{at}: {error}"))?;
                self.oracle.world.trees.insert(branch, settled);
                count(if inverts.0 { Tally::Undone } else { Tally::Redone });
                self.oracle.world.commits.insert(seq, Commit { txn, target: branch, inverts: Some(inverts) });
                Ok(Effect::Made(Op::Commit))
            }
        }
    }

    pub fn rollback_to(&mut self, branch: u8, from: Option<u8>, back: u8) -> Check<Effect> {
        let branch = self.oracle.branch(branch);
        let (from, seq) = (from.map_or(branch, |from| self.oracle.named_branch(from)), self.oracle.point(back));
        if self.oracle.past(from, seq).is_none() {
            return Ok(Effect::Nothing);
        }
        self.seal_all(&[branch, from])?;
        let then = self.compare_past(from, seq)?;
        let now = named(&self.oracle.world.trees[&branch]);
        let got = restore::rollback_to(self.engine(), branch, View::as_of(from, seq), "", &caller(0))
            .map_err(|error| format!("rollback to {from} at {seq}: {error}"))?;
        let mut expected = then;
        for (ino, node) in &mut expected.nodes {
            let old = now.nodes.get(ino);
            node.stamp(old);
        }
        self.keep_open(branch, &mut expected);
        let seen = self.observe_with(View::live(branch), &[&expected])?;
        let rules = Rules { derived: Derived::Times, ..strict() };
        let settled = settle(&expected, &seen, &rules).map_err(|error| format!("rollback to {from}@{seq}: {error}"))?;
        self.oracle.world.trees.insert(branch, settled);
        self.restored_replaced(branch)?;
        Ok(self.restored(branch, got, Tally::RolledBack))
    }

    fn restored(&mut self, branch: BranchId, got: RestoreOutcome, what: Tally) -> Effect {
        match got {
            RestoreOutcome::Unchanged => Effect::Nothing,
            RestoreOutcome::Restored { txn, seq, .. } => {
                count(what);
                self.oracle.world.commits.insert(seq, Commit { txn, target: branch, inverts: None });
                Effect::Made(Op::Commit)
            }
        }
    }

    fn restored_replaced(&mut self, branch: BranchId) -> Check<()> {
        let mut tree = self.oracle.world.trees[&branch].clone();
        self.told_replaced(View::live(branch), &mut tree)?;
        self.oracle.world.trees.insert(branch, tree);
        Ok(())
    }

    pub fn restore(&mut self, on: Target, from: Option<u8>, back: u8) -> Check<Effect> {
        let branch = self.oracle.branch(on.branch);
        let (from, seq) = (from.map_or(branch, |from| self.oracle.named_branch(from)), self.oracle.point(back));
        if self.oracle.past(from, seq).is_none() {
            return Ok(Effect::Nothing);
        }
        self.seal_all(&[branch, from])?;
        let then = self.compare_past(from, seq)?;
        let now = named(&self.oracle.world.trees[&branch]);
        let ino = *then.nodes.keys().nth(usize::from(on.node) % then.nodes.len()).expect("within");
        let path = then.paths(ino).remove(0);
        let got = restore::restore(self.engine(), branch, &path, View::as_of(from, seq), "", &caller(0));
        let shown = path.escape_ascii();
        let got = match got {
            Ok(got) => got,
            Err(error) => {
                let above = by_path(&now);
                let blocked = above
                    .iter()
                    .any(|(other, (_, node))| node.kind != Kind::Dir && below(&path, other) && *other != path);
                ensure!(error.kind == ErrorKind::Exists && blocked, "{shown} is not restored: {error}");
                return Ok(Effect::Nothing);
            }
        };
        let seen = self.observe_with(View::live(branch), &[&then, &now])?;
        check_restored(&path, &then, &now, &seen.tree).map_err(|error| format!("{shown} of {from}@{seq}: {error}"))?;
        self.given.extend(seen.tree.nodes.keys());
        self.take_over(branch, seen, &[&then]);
        self.restored_replaced(branch)?;
        Ok(self.restored(branch, got, Tally::Restored))
    }
}

/// Everything in a tree by its paths.
fn by_path(tree: &Tree) -> BTreeMap<Vec<u8>, (Ino, &Node)> {
    let all =
        tree.nodes.iter().flat_map(|(&ino, node)| tree.paths(ino).into_iter().map(move |path| (path, (ino, node))));
    all.collect()
}

/// Whether a path is another one or lies below it.
fn below(path: &[u8], root: &[u8]) -> bool {
    root == b"/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// What is at the path is as it was then, with the same hard links; everything else is as it is.
fn check_restored(path: &[u8], then: &Tree, now: &Tree, seen: &Tree) -> Check<()> {
    let (then, now, seen) = (by_path(then), by_path(now), by_path(seen));
    let names = |tree: &BTreeMap<Vec<u8>, (Ino, &Node)>| -> BTreeSet<Vec<u8>> {
        tree.keys().filter(|name| below(name, path)).cloned().collect()
    };
    ensure!(names(&then) == names(&seen), "has {:?}, must have {:?}", shown(&names(&seen)), shown(&names(&then)));
    let (mut there, mut here) = (BTreeMap::new(), BTreeMap::new());
    for name in names(&then) {
        let ((was, want), (ino, have)) = (then[&name], seen[&name]);
        same(want, have).map_err(|error| format!("{}: {error}", name.escape_ascii()))?;
        let (a, b) = (*there.entry(was).or_insert(ino), *here.entry(ino).or_insert(was));
        ensure!(
            (a, b) == (ino, was),
            "{} was {was}, is {ino}: another {:?} than its other names are; now {:?}, then {:?}",
            name.escape_ascii(),
            want.kind,
            now.iter().map(|(name, (ino, _))| (name.escape_ascii().to_string(), ino.0)).collect::<Vec<_>>(),
            then.iter().map(|(name, (ino, _))| (name.escape_ascii().to_string(), ino.0)).collect::<Vec<_>>()
        );
    }
    let touched: BTreeSet<Ino> =
        now.iter().chain(&seen).filter(|(name, _)| below(name, path)).map(|(_, &(ino, _))| ino).collect();
    for (name, &(ino, have)) in seen.iter().filter(|(name, _)| !below(name, path)) {
        let Some(&(old, want)) = now.get(name) else {
            ensure!(below(path, name), "{} has come, too", name.escape_ascii());
            continue;
        };
        ensure!(ino == old, "{} was {old}, is {ino}", name.escape_ascii());
        if !touched.contains(&ino) {
            same(want, have).map_err(|error| format!("{} beside it: {error}", name.escape_ascii()))?;
        }
    }
    for name in now.keys().filter(|name| !below(name, path)) {
        ensure!(seen.contains_key(name), "{} has gone, too", name.escape_ascii());
    }
    Ok(())
}

fn shown(names: &BTreeSet<Vec<u8>>) -> Vec<String> {
    names.iter().map(|name| name.escape_ascii().to_string()).collect()
}

fn same(want: &Node, have: &Node) -> Check<()> {
    ensure!(want.kind == have.kind, "is a {:?}, must be a {:?}", have.kind, want.kind);
    let is_dir = matches!(want.body, Body::Dir { .. });
    ensure!(is_dir || want.body == have.body, "is {:?}, must be {:?}", have.body, want.body);
    let attributes = |node: &Node| (node.perm, node.uid, node.gid, node.rdev, node.xattrs.clone());
    ensure!(attributes(want) == attributes(have), "has {:?}, must have {:?}", attributes(have), attributes(want));
    ensure!(is_dir || want.mtime == have.mtime, "mtime is {:?}, must be {:?}", have.mtime, want.mtime);
    Ok(())
}
