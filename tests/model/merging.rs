//! Merges on an engine and on the reference side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stonefs::types::{At, BranchId, Ino, Kind, Op, Seq, TxnId, View};
use stonefs::version::ErrorKind;
use stonefs::version::conflict::{Conflict, ConflictKind, ConflictSide, Detail, Resolution, Side};
use stonefs::version::merge::{self, MergeOptions, MergeOutcome, Resolve};
use stonefs::version::txn;

use crate::harness::{Effect, Pair, caller};
use crate::merge::{Merged, Point, Take, Thing, Waiting};
use crate::observe::{Check, Derived, Rules, Seen, ensure, observe, settle};
use crate::oracle::{Commit, Exactness};
use crate::shapes::count_shapes;
use crate::tally::{Tally, count};
use crate::tree::{Body, Node, Tree};
use crate::txn::Txn;

/// A tree with nothing but what has a name.
pub fn named(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    tree.reap_all();
    tree
}

/// The three trees of a merge; no base where the reference does not know it.
struct Three {
    base: Option<Tree>,
    ours: Tree,
    theirs: Tree,
}

impl Three {
    /// One line a tree.
    fn show(&self) -> String {
        let base = self.base.as_ref().map_or_else(|| String::from("unknown"), Tree::show);
        format!("\n  base {base}\n  ours {}\n  theirs {}", self.ours.show(), self.theirs.show())
    }
}

impl Pair {
    pub fn merge(&mut self, from: u8, back: Option<u8>, into: u8, strategy: u8, keep: bool) -> Check<Effect> {
        let (source, target) = (self.oracle.named_branch(from), self.oracle.branch(into));
        let past = back.map(|back| self.oracle.point(back));
        if past.is_some_and(|seq| self.oracle.past(source, seq).is_none()) {
            return Ok(Effect::Nothing);
        }
        let point = self.seal_all(&[source, target])?;
        let from = (source, past.unwrap_or(point));
        let view = past.map_or(View::live(source), |seq| View::as_of(source, seq));
        let take = [None, None, None, None, Some(Take::Ours), Some(Take::Theirs)][usize::from(strategy % 6)];
        let side = |take| if take == Take::Ours { Side::Ours } else { Side::Theirs };
        let options = MergeOptions { strategy: take.map(side), ..MergeOptions::default() };
        let engine = self.engine().clone();
        if source == target && past.is_none() {
            let got = merge::merge(&engine, view, target, &options, &caller(0));
            ensure!(got.is_err_and(|error| error.kind == ErrorKind::Usage), "a branch is merged into itself");
            return Ok(Effect::Nothing);
        }
        let theirs = match view.at {
            At::Live => named(&self.oracle.world.trees[&source]),
            At::AsOf(seq) => {
                let mut tree = self.compare_past(source, seq)?;
                self.told_replaced(view, &mut tree)?;
                tree
            }
        };
        let ours = named(&self.oracle.world.trees[&target]);
        let three = Three { base: self.base((target, point), from, 0)?, ours, theirs };
        let known = self.oracle.world.same.clone();
        let had = [self.oracle.had((target, point)), self.oracle.had(from)];
        let merged = |base| crate::merge::merge(base, &three.ours, &three.theirs, &known, had.each_ref(), take);
        let want = three.base.as_ref().map(merged);
        if want.is_none() {
            count(Tally::Virtual);
        }
        let got =
            merge::merge(&engine, view, target, &options, &caller(0)).map_err(|error| format!("merge: {error}"))?;
        if !matches!(got, MergeOutcome::UpToDate) {
            if self.oracle.world.merges.iter().any(|made| made.at.0 == target && made.from.0 == source) {
                count(Tally::Again);
            }
            if let Some(base) = &three.base {
                count_shapes(base, &three.ours, &three.theirs, &known);
            }
        }
        let came = self.merge_came(got, from, (target, take), &three, want, keep);
        came.map_err(|error| format!("{error}{}", three.show()))
    }

    fn merge_came(
        &mut self,
        got: MergeOutcome,
        from: Point,
        (target, take): (BranchId, Option<Take>),
        three: &Three,
        want: Option<Merged>,
        keep: bool,
    ) -> Check<Effect> {
        match got {
            MergeOutcome::UpToDate => {
                ensure!(want.is_none_or(|want| !want.any), "it is said to be up to date, there is something to merge");
                count(Tally::UpToDate);
                Ok(Effect::Nothing)
            }
            MergeOutcome::Merged { txn, seq, decided, .. } => {
                let same = self.same(txn, want.as_ref())?;
                self.merge_made(target, take, three, want, &decided)?;
                self.oracle.merged((target, seq), from, &same);
                self.oracle.world.commits.insert(seq, Commit { txn, target, inverts: None });
                Ok(Effect::Made(Op::Merge))
            }
            MergeOutcome::Conflicted { txn, conflicts } => {
                count(Tally::Conflicted);
                ensure!(take.is_none(), "a strategy left conflicts: {}", show(&conflicts));
                let same = self.same(txn, want.as_ref())?;
                if let Some(want) = &want {
                    check_conflicts(three, want, &conflicts)?;
                }
                self.merge_waits(txn, target, three, want.as_ref(), &conflicts, Waiting { from, same })?;
                if keep && self.oracle.world.txns.len() <= 3 { Ok(Effect::Made(Op::Merge)) } else { self.rollback(txn) }
            }
        }
    }

    /// What is one thing from a merge on. Where the reference does not know the base, it takes over what was found,
    /// as it does with the tree: what comes of it in later merges is compared all the same.
    fn same(&self, id: TxnId, want: Option<&Merged>) -> Check<Vec<(Ino, Ino)>> {
        if let Some(want) = want {
            return Ok(want.same.clone());
        }
        let row = self.engine().transactions().into_iter().find(|row| row.id == id).ok_or("the merge has no row")?;
        let detail = Detail::of(&row).map_err(|error| error.to_string())?;
        Ok(detail.merge.map(|merge| merge.aliases).unwrap_or_default())
    }

    /// Gives every file of some branches a version; returns the point.
    pub fn seal_all(&mut self, branches: &[BranchId]) -> Check<Seq> {
        for &branch in branches {
            let point = self.engine().seal(Some(branch)).map_err(|error| error.to_string())?;
            self.oracle.seal(Some(branch), point);
        }
        let point = self.engine().point().0;
        self.oracle.record(point, false);
        Ok(point)
    }

    /// The tree against which two states are merged: that of their best common state, or of the merge of
    /// two. `None` where the two do not merge by themselves, or where there are more of them.
    fn base(&mut self, a: Point, b: Point, depth: usize) -> Check<Option<Tree>> {
        let bases = self.oracle.world.bases(a, b);
        match bases.as_slice() {
            [] => Err(format!("{a:?} and {b:?} have nothing in common")),
            &[(branch, seq)] => self.compare_past(branch, seq).map(Some),
            &[x, y] if depth < 4 => {
                count(Tally::CrissCross);
                let Some(below) = self.base(x, y, depth + 1)? else { return Ok(None) };
                let (left, right) = (self.compare_past(x.0, x.1)?, self.compare_past(y.0, y.1)?);
                let had = [self.oracle.had(x), self.oracle.had(y)];
                let known = &self.oracle.world.same;
                let merged = crate::merge::merge(&below, &left, &right, known, had.each_ref(), None);
                Ok((merged.quarrels.is_empty() && merged.faults.is_empty()).then_some(merged.tree))
            }
            [..] => Ok(None),
        }
    }

    /// Reads a tree whole: every page that a file of these trees has anything in.
    pub fn observe_with(&self, view: View, trees: &[&Tree]) -> Check<Seen> {
        let nodes = trees.iter().flat_map(|tree| tree.nodes.values());
        let pages: BTreeSet<u64> =
            nodes.filter_map(Node::file).flat_map(|content| content.pages().collect::<Vec<_>>()).collect();
        observe(self.engine(), view, &|_| pages.clone())
    }

    /// Compares the result of a merge, and takes it over.
    fn merge_made(
        &mut self,
        target: BranchId,
        take: Option<Take>,
        three: &Three,
        want: Option<Merged>,
        decided: &[Conflict],
    ) -> Check<()> {
        let view = View::live(target);
        let Some(want) = want else {
            let seen = self.observe_with(view, &[&three.ours, &three.theirs])?;
            self.take_over(target, seen, &[&three.theirs]);
            return Ok(());
        };
        ensure!(want.any, "it is merged, there is nothing to merge");
        if take.is_none() {
            let quarrels = show_quarrels(&want);
            ensure!(quarrels.is_empty(), "it is merged, it must conflict on {quarrels}");
            count(Tally::Clean);
        } else {
            check_conflicts(three, &want, decided)?;
            ensure!(decided.iter().all(|conflict| conflict.resolved.is_some()), "not decided: {}", show(decided));
            count(if want.quarrels.is_empty() && want.faults.is_empty() { Tally::Clean } else { Tally::Decided });
        }
        if want.faults.is_empty() {
            let mut expected = want.tree.clone();
            self.keep_open(target, &mut expected);
            let seen = self.observe_with(view, &[&expected])?;
            let settled = settle(&expected, &seen, &strict())
                .map_err(|error| format!("the merge of {target} is wrong: {error}; decided: {}", show(decided)))?;
            self.oracle.world.trees.insert(target, settled);
        } else {
            count(Tally::Loose);
            let seen = self.observe_with(view, &[&three.ours, &three.theirs])?;
            check_bystanders(&want, decided, &seen.tree)?;
            self.engine().flush(self.engine().point().0).map_err(|error| error.to_string())?;
            self.check_store().map_err(|error| {
                format!("{error} after {} were decided, of {}", show(decided), show_quarrels(&want))
            })?;
            self.take_over(target, seen, &[&three.theirs]);
        }
        Ok(())
    }

    /// Takes a transaction over that holds a merge with conflicts.
    fn merge_waits(
        &mut self,
        id: TxnId,
        target: BranchId,
        three: &Three,
        want: Option<&Merged>,
        conflicts: &[Conflict],
        waiting: Waiting,
    ) -> Check<()> {
        let row = txn::find(self.engine(), id).map_err(|error| error.to_string())?;
        let seen = self.observe_with(View::live(row.branch), &[&three.ours, &three.theirs])?;
        if let Some(want) = want {
            check_bystanders(want, conflicts, &seen.tree)?;
        }
        self.oracle.fork(row.branch, None, (target, row.base), three.ours.clone());
        // Before the event that begins the transaction nobody can change the branch.
        self.oracle.world.branches.get_mut(&row.branch).expect("forked").dropped = true;
        self.oracle.record(Seq(row.begun.0 - 1), false);
        self.oracle.world.branches.get_mut(&row.branch).expect("forked").dropped = false;
        self.take_over(row.branch, seen, &[&three.theirs]);
        let inside_run = self.oracle.world.txns.values().any(|txn| txn.branch == target && txn.run);
        let bases = vec![(row.base, Arc::new(three.ours.clone()))];
        let brought = BTreeSet::new();
        let txn =
            Txn { branch: row.branch, target, bases, brought, run: inside_run, reads: None, merge: Some(waiting) };
        ensure!(self.oracle.world.txns.insert(id, txn).is_none(), "T{id} was used before");
        self.compare_live(target).map_err(|error| format!("a merge with conflicts changed its target: {error}"))?;
        Ok(())
    }

    /// Adds to an expected tree what has no name there but is open.
    pub fn keep_open(&self, branch: BranchId, expected: &mut Tree) {
        let now = &self.oracle.world.trees[&branch];
        expected.opens = now.opens.clone();
        for (&ino, node) in now.nodes.iter().filter(|(ino, _)| now.opens.contains_key(ino)) {
            expected.nodes.entry(ino).or_insert_with(|| node.clone());
        }
    }

    /// What a file of the past has replaced is what the record tells, of what it has replaced at any time.
    pub fn told_replaced(&self, view: View, tree: &mut Tree) -> Check<()> {
        self.engine().flush(self.engine().point().0).map_err(|error| error.to_string())?;
        let lineage = self.engine().lineage(view).map_err(|error| error.to_string())?;
        let read = self.engine().store().read().map_err(|error| error.to_string())?;
        for (&ino, node) in tree.nodes.iter_mut().filter(|(_, node)| node.kind == Kind::File) {
            let row = read.inode(&lineage, ino).map_err(|error| error.to_string())?;
            let told = row.and_then(|row| row.predecessor);
            if node.replaced.first().copied() != told {
                let known = self.oracle.replaced(ino);
                let same = known.iter().find(|replaced| replaced.first().copied() == told);
                node.replaced = same.ok_or(format!("{ino} has replaced {told:?}, not one of {known:?}"))?.clone();
            }
        }
        Ok(())
    }

    /// Lets the reference have a tree as it was found, where nothing says exactly what it must be.
    pub fn take_over(&mut self, branch: BranchId, seen: Seen, others: &[&Tree]) {
        let mut tree = seen.tree;
        // What comes back is written anew, also where somebody has it open.
        let before = named(&self.oracle.world.trees[&branch]);
        for (ino, node) in &mut tree.nodes {
            let old = before.nodes.get(ino);
            let known = old.or_else(|| others.iter().find_map(|other| other.nodes.get(ino)));
            node.replaced = known.map(|known| known.replaced.clone()).unwrap_or_default();
            node.stamp(old);
        }
        self.keep_open(branch, &mut tree);
        self.oracle.world.trees.insert(branch, tree);
    }

    pub fn resolve(&mut self, number: u8, conflict: u8, all: bool, how: u8) -> Check<Effect> {
        let waiting: Vec<TxnId> =
            self.oracle.world.txns.iter().filter(|(_, txn)| txn.merge.is_some()).map(|(&id, _)| id).collect();
        let Some(&id) = waiting.get(usize::from(number) % waiting.len().max(1)) else { return Ok(Effect::Nothing) };
        let branch = self.oracle.world.txns[&id].branch;
        self.seal_all(&[branch])?;
        let engine = self.engine().clone();
        let conflicts = merge::conflicts(&engine, id).map_err(|error| error.to_string())?;
        let views = merge::conflict_views(&engine, id).map_err(|error| error.to_string())?;
        let chosen = usize::from(conflict) % conflicts.len().max(1);
        let paths: BTreeSet<Vec<u8>> = conflicts
            .iter()
            .enumerate()
            .filter(|(index, _)| all || *index == chosen)
            .map(|(_, conflict)| conflict.path.as_bytes().to_vec())
            .collect();
        let mut changed = false;
        for path in paths {
            let about: Vec<&Conflict> = conflicts.iter().filter(|conflict| conflict.is_at(&path)).collect();
            let decision = match how {
                0 | 1 => Resolve::Ours,
                2 | 3 => Resolve::Theirs,
                _ => Resolve::File(b"resolved".to_vec()),
            };
            let plain = about.iter().all(|c| c.kind == ConflictKind::Content || c.kind == ConflictKind::Attributes);
            match merge::resolve(&engine, id, &path, &decision, &caller(0)) {
                Ok(now) => {
                    changed = true;
                    self.take_resolved(branch, views)?;
                    let left = now.iter().filter(|conflict| conflict.is_at(&path) && conflict.resolved.is_none());
                    ensure!(left.count() == 0, "{} is not resolved", path.escape_ascii());
                    if plain && decision != Resolve::File(b"resolved".to_vec()) {
                        let which = if decision == Resolve::Ours { views[1] } else { views[2] };
                        self.check_resolved(View::live(branch), which, &about, decision == Resolve::Ours)?;
                    }
                }
                Err(error) => {
                    let known = matches!(error.kind, ErrorKind::Conflict | ErrorKind::State);
                    ensure!(known && (!plain || how > 3), "{} is not resolved: {error}", path.escape_ascii());
                }
            }
        }
        count(Tally::Resolved);
        Ok(if changed { Effect::Made(Op::Merge) } else { Effect::Nothing })
    }

    /// Takes the result over after each resolution: each is a step that a crash may leave last.
    fn take_resolved(&mut self, branch: BranchId, views: [View; 3]) -> Check<()> {
        let [_, ours, theirs] = views.map(|view| self.observe_with(view, &[]));
        let (ours, theirs) = (ours?.tree, theirs?.tree);
        let seen = self.observe_with(View::live(branch), &[&ours, &theirs, &self.oracle.world.trees[&branch]])?;
        self.take_over(branch, seen, &[&ours, &theirs]);
        self.oracle.record(self.engine().point().0, false);
        Ok(())
    }

    /// What is resolved for one side has that side's content, or attributes.
    fn check_resolved(&self, hidden: View, side: View, conflicts: &[&Conflict], ours: bool) -> Check<()> {
        let engine = self.engine();
        for conflict in conflicts {
            let Some(triple) = conflict.ids.first() else { continue };
            let (Some(mine), Some(from)) = (triple.ours, if ours { triple.ours } else { triple.theirs }) else {
                continue;
            };
            let read = |view: View, ino: Ino| -> Check<_> {
                let attr = engine.getattr(view, ino).map_err(|error| error.to_string())?;
                let content = match attr.kind {
                    Kind::File if conflict.kind == ConflictKind::Content => {
                        Some((attr.size, engine.read_at(view, ino, 0, 1 << 20).map_err(|error| error.to_string())?))
                    }
                    _ => None,
                };
                let attributes = (conflict.kind == ConflictKind::Attributes).then_some((attr.perm, attr.uid, attr.gid));
                Ok((content, attributes))
            };
            // It may have been removed by hand since, and still be open.
            if !engine.getattr(hidden, mine).is_ok_and(|attr| attr.nlink > 0) {
                continue;
            }
            let have = read(hidden, mine)?;
            let want = read(side, from)?;
            ensure!(have == want, "{} is {have:?}, but was resolved as {want:?}", show(std::slice::from_ref(conflict)));
        }
        Ok(())
    }
}

/// Everything must agree but access and change times, and the times of directories.
pub fn strict() -> Rules<'static> {
    Rules { dir_times: false, derived: Derived::Times, exactness: &|_| Exactness::Exact, sharing: &|_| Vec::new() }
}

fn show(conflicts: &[Conflict]) -> String {
    let shown = conflicts.iter().map(|c| format!("{} {}", c.kind.as_str(), c.path));
    shown.collect::<Vec<_>>().join(", ")
}

fn show_quarrels(want: &Merged) -> String {
    let quarrels = want.quarrels.iter().map(|quarrel| format!("{} {:?}", quarrel.kind.as_str(), quarrel.thing));
    quarrels.chain(want.faults.iter().cloned()).collect::<Vec<_>>().join(", ")
}

/// The things that a conflict is about.
fn about(conflict: &Conflict) -> Thing {
    conflict.ids.iter().flat_map(|ids| [ids.base, ids.ours, ids.theirs]).flatten().collect()
}

/// Compares the conflicts that are told with the quarrels that there are.
fn check_conflicts(three: &Three, want: &Merged, conflicts: &[Conflict]) -> Check<()> {
    if want.quarrels.is_empty() && want.faults.is_empty() {
        ensure!(conflicts.is_empty(), "conflicts for no reason: {}", show(conflicts));
        return Ok(());
    }
    ensure!(!conflicts.is_empty(), "no conflict is told, there are {}", show_quarrels(want));
    for quarrel in &want.quarrels {
        let told = conflicts.iter().any(|c| c.kind == quarrel.kind && !about(c).is_disjoint(&quarrel.thing));
        ensure!(told, "{} {:?} is not told, but {}", quarrel.kind.as_str(), quarrel.thing, show(conflicts));
    }
    for conflict in conflicts {
        let same = |kind: ConflictKind| kind == conflict.kind;
        let here = |thing: &Thing| !about(conflict).is_disjoint(thing);
        let known = want.quarrels.iter().any(|quarrel| same(quarrel.kind) && here(&quarrel.thing));
        let own = matches!(conflict.kind, ConflictKind::Content | ConflictKind::Attributes | ConflictKind::Type);
        // Where things do not fit together, what comes of it has no one form.
        let follows = !(own || want.faults.is_empty() && want.quarrels.is_empty());
        ensure!(known || follows, "{} {} is told for no reason", conflict.kind.as_str(), conflict.path);
        let sides: [(&Option<ConflictSide>, Option<&Tree>); 3] = [
            (&conflict.base, three.base.as_ref()),
            (&conflict.ours, Some(&three.ours)),
            (&conflict.theirs, Some(&three.theirs)),
        ];
        for (side, tree) in sides {
            if let (Some(side), Some(tree)) = (side, tree) {
                let paths = tree.paths(side.ino);
                ensure!(
                    paths.contains(&side.path.0),
                    "{} has no path {} there, in {}",
                    side.ino,
                    side.path,
                    show(std::slice::from_ref(conflict))
                );
            }
        }
        let first = [&conflict.ours, &conflict.theirs, &conflict.base].into_iter().flatten().next();
        let path = first.map(|side| side.path.as_bytes()).unwrap_or_default();
        ensure!(conflict.path.as_bytes() == path, "a conflict at {} shows at {}", path.escape_ascii(), conflict.path);
        let decided = conflict.resolved.is_none_or(|r| matches!(r, Resolution::Ours | Resolution::Theirs));
        ensure!(decided, "{} was resolved by nobody", conflict.path);
    }
    Ok(())
}

/// What is in no conflict has the content and the attributes of the merge, wherever it is.
fn check_bystanders(want: &Merged, conflicts: &[Conflict], seen: &Tree) -> Check<()> {
    let mut involved: Thing = conflicts.iter().flat_map(about).collect();
    involved.extend(want.quarrels.iter().flat_map(|quarrel| &quarrel.thing));
    let contents: BTreeMap<&Ino, &Node> = want.tree.nodes.iter().filter(|(ino, _)| !involved.contains(ino)).collect();
    for (ino, node) in contents {
        let Some(have) = seen.nodes.get(ino) else { continue };
        let content = matches!(node.body, Body::Dir { .. }) || have.body == node.body;
        ensure!(content, "content of {ino} is {:?}, must be {:?}", have.body, node.body);
        let attributes = |node: &Node| (node.perm, node.uid, node.gid, node.xattrs.clone());
        ensure!(
            attributes(have) == attributes(node),
            "attributes of {ino} are {:?}, must be {:?}",
            attributes(have),
            attributes(node)
        );
    }
    Ok(())
}
