//! The reference's merges: three whole trees, one thing after the other, as the contract says it.
//!
//! A thing is what one inode number stands for, together with its successors and with what was added
//! alike on both sides. For each thing there are three versions; of its content, its attributes and its
//! names each is decided by itself: what only one side changed is taken, what both changed alike is
//! taken once, everything else is a quarrel. Then the things are put together; where that gives no
//! tree, it is a quarrel too.

use std::collections::{BTreeMap, BTreeSet};

use stonefs::types::{BranchId, Ino, Kind, Seq};
use stonefs::version::conflict::ConflictKind;

use crate::oracle::{Oracle, World};
use crate::tree::{Body, Node, Tree};

/// Who wins where both changed one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Ours,
    Theirs,
}

/// The files that a branch has ever had, each with the last that it replaced there.
pub type Had = BTreeMap<Ino, Option<Ino>>;

/// Numbers that stand for one thing.
pub type Thing = BTreeSet<Ino>;

/// What does not fit together about a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarrel {
    pub kind: ConflictKind,
    pub thing: Thing,
}

/// What a merge must be.
#[derive(Debug)]
pub struct Merged {
    /// Whether theirs changed anything since the base.
    pub any: bool,
    /// Numbers that are one thing from now on.
    pub same: Vec<(Ino, Ino)>,
    /// What does not fit together, thing by thing.
    pub quarrels: Vec<Quarrel>,
    /// Why the things, put together, are no tree; one line each.
    pub faults: Vec<String>,
    /// The result; exact where there are no faults.
    pub tree: Tree,
}

/// A directory as a thing, and a name in it.
type Place = (usize, Vec<u8>);

struct Things<'t> {
    base: &'t Tree,
    ours: &'t Tree,
    theirs: &'t Tree,
    sets: Vec<Thing>,
    of: BTreeMap<Ino, usize>,
}

impl<'t> Things<'t> {
    fn new(base: &'t Tree, ours: &'t Tree, theirs: &'t Tree, known: &[(Ino, Ino)], had: [&Had; 2]) -> Things<'t> {
        let mut things = Things { base, ours, theirs, sets: Vec::new(), of: BTreeMap::new() };
        for tree in [base, ours, theirs] {
            for &ino in tree.nodes.keys() {
                things.number(ino);
            }
        }
        for &(a, b) in known {
            things.number(a);
            things.number(b);
            things.join(a, b);
        }
        things.successors(ours, had[0]);
        things.successors(theirs, had[1]);
        things.additions();
        things
    }

    fn number(&mut self, ino: Ino) {
        let next = self.sets.len();
        if let std::collections::btree_map::Entry::Vacant(entry) = self.of.entry(ino) {
            entry.insert(next);
            self.sets.push(Thing::from([ino]));
        }
    }

    /// What a thing is in a tree.
    fn member(&self, tree: &Tree, thing: usize) -> Option<Ino> {
        self.sets[thing].iter().copied().find(|ino| tree.nodes.contains_key(ino))
    }

    fn node<'n>(&self, tree: &'n Tree, thing: usize) -> Option<&'n Node> {
        self.member(tree, thing).map(|ino| &tree.nodes[&ino])
    }

    /// Two numbers become one thing, unless they are two things in one of the trees.
    fn join(&mut self, a: Ino, b: Ino) {
        let (a, b) = (self.of[&a], self.of[&b]);
        let trees = [self.base, self.ours, self.theirs];
        if a == b || trees.iter().any(|tree| self.member(tree, a).is_some() && self.member(tree, b).is_some()) {
            return;
        }
        for ino in std::mem::take(&mut self.sets[b]) {
            self.of.insert(ino, a);
            self.sets[a].insert(ino);
        }
    }

    /// A file that replaced another, or stands where another stood, is that one's next version. Of what replaced
    /// another before it came here from another branch, the record of this one knows nothing: a chain goes
    /// on with what each file replaced there.
    fn successors(&mut self, side: &Tree, had: &Had) {
        let before = places(self.base);
        let new: Vec<Ino> = side.nodes.keys().copied().filter(|&ino| self.is_new(ino)).collect();
        for &ino in &new {
            let known = |&&old: &&Ino| self.of.get(&old).is_some_and(|&thing| self.member(self.base, thing).is_some());
            let before = |old: &Ino| had.get(old).copied().flatten();
            let chain = std::iter::successors(side.nodes[&ino].replaced.first().copied(), before);
            let replaced = chain.take(64).find(|old| known(&old));
            if let Some(old) = replaced.filter(|_| side.nodes[&ino].kind == Kind::File && self.is_new(ino)) {
                self.succeed(side, ino, old);
            }
        }
        for ((dir, name), &old) in &before {
            let thing = self.of[dir];
            let Some(dir) = self.member(side, thing) else { continue };
            let Some(&ino) = side.entries(dir).ok().and_then(|entries| entries.get(name)) else { continue };
            let (kind, old_kind) = (side.nodes[&ino].kind, self.base.nodes[&old].kind);
            if kind == old_kind && kind != Kind::Dir && self.is_new(ino) {
                self.succeed(side, ino, old);
            }
        }
    }

    fn is_new(&self, ino: Ino) -> bool {
        self.member(self.base, self.of[&ino]).is_none()
    }

    fn succeed(&mut self, side: &Tree, ino: Ino, old: Ino) {
        if self.member(side, self.of[&old]).is_none() {
            self.join(old, ino);
        }
    }

    /// Directories, and equal files, that both added under one name are one.
    fn additions(&mut self) {
        // From the root down, as what a directory is decides what its names are.
        let depth = |dir: Ino| self.theirs.paths(dir).first().map_or(0, |path| path.split(|&b| b == b'/').count());
        let mut names: Vec<_> =
            places(self.theirs).into_iter().map(|((dir, name), ino)| (depth(dir), dir, name, ino)).collect();
        names.sort_by_key(|&(depth, dir, ..)| (dir != Ino::ROOT, depth, dir));
        for (_, dir, name, b) in names {
            let Some(dir) = self.member(self.ours, self.of[&dir]) else { continue };
            let Some(&a) = self.ours.entries(dir).ok().and_then(|entries| entries.get(&name)) else { continue };
            let (x, y) = (&self.ours.nodes[&a], &self.theirs.nodes[&b]);
            if self.is_new(a) && self.is_new(b) && x.kind == y.kind && same_content(x, y) {
                self.join(a, b);
            }
        }
    }

    /// The names of a thing in a tree.
    fn names(&self, tree: &Tree, thing: usize) -> BTreeSet<Place> {
        let Some(ino) = self.member(tree, thing) else { return BTreeSet::new() };
        let found = places(tree).into_iter().filter(|&(_, named)| named == ino);
        found.map(|((dir, name), _)| (self.of[&dir], name)).collect()
    }
}

fn places(tree: &Tree) -> BTreeMap<(Ino, Vec<u8>), Ino> {
    let mut found = BTreeMap::new();
    for (&dir, node) in &tree.nodes {
        if let Body::Dir { entries, .. } = &node.body {
            found.extend(entries.iter().map(|(name, &ino)| ((dir, name.clone()), ino)));
        }
    }
    found
}

fn same_content(a: &Node, b: &Node) -> bool {
    match (&a.body, &b.body) {
        (Body::Dir { .. }, Body::Dir { .. }) => true,
        (a_body, b_body) => a_body == b_body && a.rdev == b.rdev,
    }
}

fn same_attributes(a: &Node, b: &Node) -> bool {
    (a.perm, a.uid, a.gid, &a.xattrs) == (b.perm, b.uid, b.gid, &b.xattrs)
}

/// What becomes of a thing.
struct Verdict<'t> {
    names: BTreeSet<Place>,
    /// What it begins as: ours, or what theirs brings.
    node: &'t Node,
    ino: Ino,
    content: &'t Node,
    attributes: &'t Node,
}

/// Whether theirs differ from the base at all.
fn differs(base: &Tree, theirs: &Tree) -> bool {
    let same = |a: &Node, b: &Node| same_content(a, b) && same_attributes(a, b);
    places(base) != places(theirs)
        || base.nodes.len() != theirs.nodes.len()
        || base.nodes.iter().any(|(ino, a)| theirs.nodes.get(ino).is_none_or(|b| !same(a, b)))
}

/// Merges trees that hold nothing but what has a name. `had` is what each side's branch has ever had.
pub fn merge(
    base: &Tree,
    ours: &Tree,
    theirs: &Tree,
    known: &[(Ino, Ino)],
    had: [&Had; 2],
    take: Option<Take>,
) -> Merged {
    let things = Things::new(base, ours, theirs, known, had);
    let mut quarrels = Vec::new();
    let mut verdicts = BTreeMap::new();
    for (thing, members) in things.sets.iter().enumerate().filter(|(_, members)| !members.is_empty()) {
        let mut quarrel = |kind| {
            quarrels.push(Quarrel { kind, thing: members.clone() });
            take == Some(Take::Theirs)
        };
        let in_base = things.node(base, thing);
        let (mine, others) = (things.node(ours, thing), things.node(theirs, thing));
        let names = |tree| things.names(tree, thing);
        let whole = |tree: &'_ Tree, node| Verdict {
            names: things.names(tree, thing),
            node,
            ino: things.member(tree, thing).expect("it is there"),
            content: node,
            attributes: node,
        };
        let changed = |o: &Node, now: &Node| !same_content(o, now) || !same_attributes(o, now);
        let verdict = match (in_base, mine, others) {
            (_, None, None) => None,
            (None, Some(x), None) => Some(whole(ours, x)),
            (None, None, Some(y)) => Some(whole(theirs, y)),
            (None, Some(x), Some(y)) => {
                let mut verdict = whole(ours, x);
                if !same_content(x, y) {
                    if quarrel(ConflictKind::AddAdd) {
                        (verdict.content, verdict.attributes) = (y, y);
                    }
                } else if !same_attributes(x, y) && x.kind != Kind::Dir && quarrel(ConflictKind::Attributes) {
                    verdict.attributes = y;
                }
                if x.kind != Kind::Dir {
                    verdict.names.extend(names(theirs));
                }
                Some(verdict)
            }
            (Some(o), Some(x), None) => {
                let kind = if changed(o, x) {
                    Some(removal(&things, thing, o.kind, theirs))
                } else {
                    (names(ours) != names(base)).then_some(ConflictKind::RenameDelete)
                };
                match kind.map(&mut quarrel) {
                    Some(false) => Some(whole(ours, x)),
                    Some(true) | None => None,
                }
            }
            (Some(o), None, Some(y)) => {
                let kind = if changed(o, y) {
                    Some(removal(&things, thing, o.kind, ours))
                } else {
                    (names(theirs) != names(base)).then_some(ConflictKind::RenameDelete)
                };
                kind.map(&mut quarrel).filter(|&back| back).map(|_| whole(theirs, y))
            }
            (Some(o), Some(x), Some(y)) => {
                let mut verdict = whole(ours, x);
                let (before, a, b) = (names(base), names(ours), names(theirs));
                let gained = |now: &BTreeSet<Place>| now.difference(&before).cloned().collect::<BTreeSet<_>>();
                let both_lost = before.iter().any(|place| !a.contains(place) && !b.contains(place));
                if b == before {
                } else if both_lost && gained(&a) != gained(&b) {
                    let moved = !gained(&a).is_empty() && !gained(&b).is_empty();
                    if quarrel(if moved { ConflictKind::RenameRename } else { ConflictKind::RenameDelete }) {
                        verdict.names = b;
                    }
                } else {
                    verdict.names =
                        a.into_iter().filter(|place| b.contains(place) || !before.contains(place)).collect();
                    verdict.names.extend(gained(&b));
                    // Each removed another hard link: the file goes, unless it was changed.
                    if verdict.names.is_empty() && (changed(o, x) || changed(o, y)) {
                        let back = quarrel(ConflictKind::ModifyDelete);
                        verdict.names = names(if back { theirs } else { ours });
                    }
                }
                if !same_content(o, y) && !same_content(x, y) && (same_content(o, x) || quarrel(ConflictKind::Content))
                {
                    verdict.content = y;
                }
                if !same_attributes(o, y)
                    && !same_attributes(x, y)
                    && (same_attributes(o, x) || quarrel(ConflictKind::Attributes))
                {
                    verdict.attributes = y;
                }
                Some(verdict)
            }
        };
        if let Some(verdict) = verdict.filter(|verdict| !verdict.names.is_empty() || verdict.ino == Ino::ROOT) {
            verdicts.insert(thing, verdict);
        }
    }
    let (tree, faults) = assemble(&verdicts, ours, things.of[&Ino::ROOT]);
    let pairs = things.sets.iter().flat_map(|set| set.iter().skip(1).map(|&ino| (*set.first().expect("two"), ino)));
    Merged { any: differs(base, theirs), same: pairs.collect(), quarrels, faults, tree }
}

/// What was removed on one side and changed on the other is of another type where the remover put such a thing there.
fn removal(things: &Things<'_>, thing: usize, kind: Kind, remover: &Tree) -> ConflictKind {
    for (dir, name) in things.names(things.base, thing) {
        let entries = things.member(remover, dir).and_then(|dir| remover.entries(dir).ok());
        let there = entries.and_then(|entries| entries.get(&name));
        if there.is_some_and(|ino| remover.nodes[ino].kind != kind) {
            return ConflictKind::Type;
        }
    }
    ConflictKind::ModifyDelete
}

/// Puts things together.
fn assemble(verdicts: &BTreeMap<usize, Verdict<'_>>, ours: &Tree, root: usize) -> (Tree, Vec<String>) {
    let mut faults = Vec::new();
    let mut tree = Tree::default();
    for verdict in verdicts.values() {
        let old = ours.nodes.get(&verdict.ino);
        let (content, attributes) = (verdict.content, verdict.attributes);
        let mut node = verdict.node.clone();
        (node.perm, node.uid, node.gid, node.xattrs) =
            (attributes.perm, attributes.uid, attributes.gid, attributes.xattrs.clone());
        (node.mtime, node.rdev) = (content.mtime, content.rdev);
        node.body = match &content.body {
            Body::Dir { parent, .. } => Body::Dir { parent: *parent, entries: BTreeMap::new() },
            body => body.clone(),
        };
        node.stamp(old);
        tree.nodes.insert(verdict.ino, node);
    }
    for (&thing, verdict) in verdicts {
        for (dir, name) in &verdict.names {
            let Some(above) = verdicts.get(dir).map(|above| above.ino) else {
                faults.push(format!("the directory of {} of {} is gone", name.escape_ascii(), verdict.ino));
                continue;
            };
            if let Some(other) = tree.entries_mut(above).insert(name.clone(), verdict.ino) {
                faults.push(format!("{other} and {} claim {} in {above}", verdict.ino, name.escape_ascii()));
            }
            if let Body::Dir { parent, .. } = &mut tree.get(verdict.ino).body {
                *parent = above;
            }
        }
        if tree.is_dir(verdict.ino) && thing != root && verdict.names.len() > 1 {
            faults.push(format!("{} has {} names", verdict.ino, verdict.names.len()));
        }
    }
    if faults.is_empty() {
        let reached = tree.reachable();
        let lost = tree.nodes.keys().filter(|&&ino| tree.is_dir(ino) && !reached.contains(&ino));
        faults.extend(lost.map(|ino| format!("{ino} is below itself")));
    }
    (tree, faults)
}

// ---- which states are merged ---------------------------------------------------------------------

/// A state of a branch.
pub type Point = (BranchId, Seq);

/// A merge that was made: the receiver at its event, and what it received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    pub at: Point,
    pub from: Point,
}

/// What is kept of a merge that waits for its conflicts.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub from: Point,
    pub same: Vec<(Ino, Ino)>,
}

impl World {
    /// Before its fork a branch is its parent.
    fn own(&self, (branch, seq): Point) -> Point {
        match self.branches.get(&branch).and_then(|branch| branch.base) {
            Some((parent, base)) if seq <= base => self.own((parent, seq)),
            _ => (branch, seq),
        }
    }

    /// Everything that a state has come from: the last state of each branch.
    fn roots(&self, point: Point) -> BTreeSet<Point> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.own(point)];
        while let Some(point) = waiting.pop() {
            if found.insert(point) {
                let fork = self.branches.get(&point.0).and_then(|branch| branch.base);
                let merged = self.merges.iter().filter(|made| made.at.0 == point.0 && made.at.1 <= point.1);
                waiting.extend(fork.into_iter().chain(merged.map(|made| made.from)).map(|point| self.own(point)));
            }
        }
        found
    }

    /// Up to where a state has another branch's own changes.
    pub fn brought(&self, point: Point, branch: BranchId) -> Option<Seq> {
        self.roots(point).into_iter().filter(|root| root.0 == branch).map(|root| root.1).max()
    }

    /// Whether a state has everything of another.
    fn has(&self, point: Point, other: Point) -> bool {
        let other = self.own(other);
        self.roots(point).iter().any(|&(branch, seq)| branch == other.0 && seq >= other.1)
    }

    /// The common states of two that no other common state has everything of.
    pub fn bases(&self, a: Point, b: Point) -> Vec<Point> {
        let forks = self.branches.values().filter_map(|branch| branch.base);
        let all = forks.chain(self.merges.iter().map(|made| made.from)).chain([a, b]).map(|point| self.own(point));
        let common: BTreeSet<Point> = all.filter(|&point| self.has(a, point) && self.has(b, point)).collect();
        let beaten = |point: &Point| common.iter().any(|other| other != point && self.has(*other, *point));
        common.iter().filter(|point| !beaten(point)).copied().collect()
    }
}

impl Oracle {
    /// Ends a merge: what it found out holds from now on.
    pub fn merged(&mut self, at: Point, from: Point, same: &[(Ino, Ino)]) {
        self.world.merges.push(Made { at, from });
        self.world.same.extend_from_slice(same);
        self.world.same.sort_unstable();
        self.world.same.dedup();
        self.take_later_base(at.0);
    }
}
