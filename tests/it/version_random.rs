//! Random transactions and merges against a reference that looks at whole trees, key by key.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use stonefs::types::{Ino, Kind, View};
use stonefs::version::merge::{self, MergeOptions, MergeOutcome};
use stonefs::version::txn::CommitOutcome;

use crate::world::{MAIN, World};

type Place = (Ino, String);

/// A tree by identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    entries: BTreeMap<Place, Ino>,
    inodes: BTreeMap<Ino, Inode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inode {
    kind: Kind,
    content: String,
    perm: u16,
}

impl Model {
    fn of(w: &World, view: View) -> Model {
        let mut model = Model::default();
        model.add(w, view, Ino::ROOT);
        let mut work = vec![Ino::ROOT];
        while let Some(dir) = work.pop() {
            for entry in w.engine.list(view, dir).unwrap().iter() {
                let name = String::from_utf8(entry.name.as_bytes().to_vec()).unwrap();
                model.entries.insert((dir, name), entry.ino);
                model.add(w, view, entry.ino);
                if entry.kind == Kind::Dir {
                    work.push(entry.ino);
                }
            }
        }
        model
    }

    fn add(&mut self, w: &World, view: View, ino: Ino) {
        let attr = w.engine.getattr(view, ino).unwrap();
        let content = match attr.kind {
            Kind::File => String::from_utf8(w.engine.read_at(view, ino, 0, 1 << 20).unwrap()).unwrap(),
            _ => String::new(),
        };
        self.inodes.insert(ino, Inode { kind: attr.kind, content, perm: attr.perm });
    }

    fn names(&self, ino: Ino) -> BTreeSet<Place> {
        self.entries.iter().filter(|(_, i)| **i == ino).map(|(place, _)| place.clone()).collect()
    }

    fn changed(&self, other: &Model, ino: Ino) -> bool {
        self.inodes.get(&ino) != other.inodes.get(&ino)
    }

    /// Whether it is a tree: every directory has one name, and is reached from the root.
    fn is_tree(&self) -> bool {
        let mut seen = BTreeSet::from([Ino::ROOT]);
        let mut work = vec![Ino::ROOT];
        let mut reached = 0;
        while let Some(dir) = work.pop() {
            for ((_, _), ino) in self.entries.range((dir, String::new())..).take_while(|((d, _), _)| *d == dir) {
                reached += 1;
                let Some(inode) = self.inodes.get(ino) else { return false };
                if inode.kind == Kind::Dir {
                    if !seen.insert(*ino) {
                        return false;
                    }
                    work.push(*ino);
                }
            }
        }
        reached == self.entries.len()
    }

    /// Drops inodes without a name.
    fn swept(mut self) -> Model {
        let named: BTreeSet<Ino> = self.entries.values().copied().chain([Ino::ROOT]).collect();
        self.inodes.retain(|ino, _| named.contains(ino));
        self
    }
}

/// Three-way, for one value.
fn pick<T: PartialEq + Clone>(base: &T, ours: &T, theirs: &T) -> T {
    if theirs == base { ours.clone() } else { theirs.clone() }
}

/// Merges key by key, whether that makes sense or not.
fn by_key(base: &Model, ours: &Model, theirs: &Model) -> Model {
    let mut result = Model::default();
    let places: BTreeSet<&Place> = [base, ours, theirs].into_iter().flat_map(|m| m.entries.keys()).collect();
    for place in places {
        let found = pick(&base.entries.get(place), &ours.entries.get(place), &theirs.entries.get(place));
        if let Some(ino) = found {
            result.entries.insert(place.clone(), *ino);
        }
    }
    let inos: BTreeSet<&Ino> = [base, ours, theirs].into_iter().flat_map(|m| m.inodes.keys()).collect();
    for ino in inos {
        let (o, a, b) = (base.inodes.get(ino), ours.inodes.get(ino), theirs.inodes.get(ino));
        let merged = match (o, a, b) {
            (Some(o), Some(a), Some(b)) => Some(Inode {
                kind: o.kind,
                content: pick(&o.content, &a.content, &b.content),
                perm: pick(&o.perm, &a.perm, &b.perm),
            }),
            (None, a, b) => a.or(b).cloned(),
            (Some(_), Some(x), None) | (Some(_), None, Some(x)) => Some(x.clone()),
            (Some(_), None, None) => None,
        };
        if let Some(merged) = merged {
            result.inodes.insert(*ino, merged);
        }
    }
    result
}

/// First committer wins: whether the two wrote a key in common, or break the tree together.
fn commit_conflicts(base: &Model, head: &Model, tx: &Model) -> bool {
    let places: BTreeSet<&Place> = [base, head, tx].into_iter().flat_map(|m| m.entries.keys()).collect();
    for place in places {
        let (o, a, b) = (base.entries.get(place), head.entries.get(place), tx.entries.get(place));
        if o != a && o != b {
            return true;
        }
    }
    for (ino, o) in &base.inodes {
        let (a, b) = (head.inodes.get(ino), tx.inodes.get(ino));
        let wrote = |now: Option<&Inode>| now.is_none_or(|now| now.content != o.content);
        if wrote(a) && wrote(b) && o.kind != Kind::Dir && !(a.is_none() && b.is_none()) {
            return true;
        }
        if let (Some(a), Some(b)) = (a, b)
            && a.perm != o.perm
            && b.perm != o.perm
        {
            return true;
        }
    }
    dangling(base, head, tx) || !by_key(base, head, tx).swept().is_tree()
}

/// A name that the transaction gave to what was removed since. (The other way round there is a serial order: what got
/// another name outside keeps that one when the transaction takes the name that it knew.)
fn dangling(base: &Model, head: &Model, tx: &Model) -> bool {
    let merged = by_key(base, head, tx);
    merged.entries.values().any(|ino| base.inodes.contains_key(ino) && !head.inodes.contains_key(ino))
}

/// Merge: whether something was changed on one side and changed otherwise, or removed, on the other.
fn merge_conflicts(base: &Model, ours: &Model, theirs: &Model) -> bool {
    for (ino, o) in &base.inodes {
        let (a, b) = (ours.inodes.get(ino), theirs.inodes.get(ino));
        let (na, nb, no) = (ours.names(*ino), theirs.names(*ino), base.names(*ino));
        match (a, b) {
            (Some(a), Some(b)) => {
                if a.content != o.content && b.content != o.content && a.content != b.content {
                    return true;
                }
                if a.perm != o.perm && b.perm != o.perm && a.perm != b.perm {
                    return true;
                }
                let both_lost = no.iter().any(|place| !na.contains(place) && !nb.contains(place));
                let gained = |names: &BTreeSet<Place>| names.difference(&no).cloned().collect::<BTreeSet<_>>();
                if both_lost && gained(&na) != gained(&nb) {
                    return true;
                }
            }
            (None, Some(_)) if theirs.changed(base, *ino) || nb != no => return true,
            (Some(_), None) if ours.changed(base, *ino) || na != no => return true,
            _ => {}
        }
    }
    !by_key(base, ours, theirs).swept().is_tree()
}

/// One random step: what, on which path, with which number.
pub type Step = (u8, u8, u8);

pub fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any::<Step>(), 0..max)
}

/// Does a random step in a view; names and contents are new each time, so that values tell changes.
pub fn step(w: &World, view: View, (what, which, other): Step, counter: &mut u32) {
    *counter += 1;
    let n = *counter;
    let tree = w.tree(view);
    let mut dirs: Vec<String> = vec![String::new()];
    let mut files = Vec::new();
    for (path, about) in &tree {
        if about.starts_with("dir ") { dirs.push(format!("{path}/")) } else { files.push(path.clone()) }
    }
    let dir = &dirs[usize::from(which) % dirs.len()];
    let into = &dirs[usize::from(other) % dirs.len()];
    let file = files.get(usize::from(which) % files.len().max(1));
    let shared = format!("{into}s{}", other % 3);
    let old_dir = dir.trim_end_matches('/');
    let _ = match (what % 10, file) {
        (0, _) => w.mkdir(view, &format!("{dir}d{n}")),
        (1, _) => w.write(view, &format!("{dir}f{n}"), &format!("c{n}")),
        (2 | 3, Some(file)) => w.write(view, file, &format!("c{n}")),
        (4, Some(file)) => w.chmod(view, file, (n % 4096) as u16),
        (5, Some(file)) => w.rename(view, file, &format!("{into}r{n}")),
        (6, Some(file)) => w.rm(view, file),
        (7, Some(file)) => w.link(view, file, &format!("{into}l{n}")),
        (8, _) if !old_dir.is_empty() && other % 2 == 0 => w.rmdir(view, old_dir),
        (8, _) if !old_dir.is_empty() => w.rename(view, old_dir, &format!("{into}m{n}")),
        (9, Some(file)) if w.ino(view, &shared).is_err() => w.rename(view, file, &shared),
        _ => Ok(()), // whatever fails (a directory into itself, one that is not empty) is no step
    };
}

fn start(w: &World, steps: &[Step], counter: &mut u32) {
    w.mkdir(MAIN, "d").unwrap();
    w.mkdir(MAIN, "d/e").unwrap();
    for name in ["a", "d/b", "d/e/c"] {
        w.write(MAIN, name, name).unwrap();
    }
    for each in steps {
        step(w, MAIN, *each, counter);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn commits_agree_with_first_committer_wins(
        before in steps(6), mine in steps(8), others in steps(6), ahead in any::<bool>()
    ) {
        let w = World::either(ahead);
        let mut counter = 100;
        start(&w, &before, &mut counter);
        let (row, tx) = w.begin();
        let base = Model::of(&w, MAIN);
        for each in &mine {
            step(&w, tx, *each, &mut counter);
        }
        for each in &others {
            step(&w, MAIN, *each, &mut counter);
        }
        let (head, private) = (Model::of(&w, MAIN), Model::of(&w, tx));
        let outcome = w.commit(&row);
        let expected = commit_conflicts(&base, &head, &private);
        match outcome {
            CommitOutcome::Committed { .. } => {
                prop_assert!(!expected, "committed though it conflicts");
                let merged = by_key(&base, &head, &private).swept();
                prop_assert_eq!(Model::of(&w, MAIN), merged);
                w.check();
                let tree = w.tree(MAIN);
                let at = w.at(&format!("T{}", row.id));
                prop_assert_eq!(w.tree(at), tree, "link counts and all, as the database has it");
            }
            CommitOutcome::Conflicted { conflicts, .. } => {
                prop_assert!(expected, "conflicts for no reason: {:?}", conflicts);
                prop_assert_eq!(Model::of(&w, MAIN), head);
            }
        }
    }

    #[test]
    fn merges_agree_with_a_merge_of_whole_trees(before in steps(6), mine in steps(8), others in steps(8)) {
        let w = World::new();
        let mut counter = 100;
        start(&w, &before, &mut counter);
        let side = w.branch("side", MAIN);
        let base = Model::of(&w, MAIN);
        for each in &mine {
            step(&w, side, *each, &mut counter);
        }
        for each in &others {
            step(&w, MAIN, *each, &mut counter);
        }
        let (ours, theirs) = (Model::of(&w, MAIN), Model::of(&w, side));
        let outcome = merge::merge(&w.engine, side, MAIN.branch, &MergeOptions::default(), &w.caller).unwrap();
        let replaced = replaces(&base, &ours) || replaces(&base, &theirs) || doubles(&ours, &theirs, &base);
        match outcome {
            MergeOutcome::UpToDate => prop_assert_eq!(&theirs, &base),
            MergeOutcome::Merged { .. } => {
                if !replaced {
                    prop_assert!(!merge_conflicts(&base, &ours, &theirs), "merged though it conflicts");
                    prop_assert_eq!(Model::of(&w, MAIN), by_key(&base, &ours, &theirs).swept());
                }
                w.check();
                let tree = w.tree(MAIN);
                let now = w.now();
                prop_assert_eq!(w.tree(now), tree);
                let again = merge::merge(&w.engine, side, MAIN.branch, &MergeOptions::default(), &w.caller).unwrap();
                prop_assert_eq!(again, MergeOutcome::UpToDate);
            }
            MergeOutcome::Conflicted { conflicts, txn } => {
                if !replaced {
                    prop_assert!(merge_conflicts(&base, &ours, &theirs), "conflicts for no reason: {:?}", conflicts);
                }
                prop_assert_eq!(&Model::of(&w, MAIN), &ours);
                let row = stonefs::version::txn::find(&w.engine, txn).unwrap();
                prop_assert!(Model::of(&w, stonefs::version::txn::view(&row)).is_tree());
                w.check();
            }
        }
    }

    #[test]
    fn strategies_always_decide_and_undo_always_returns(
        before in steps(6), mine in steps(8), others in steps(8), theirs in any::<bool>(), ahead in any::<bool>()
    ) {
        let w = World::either(ahead);
        let mut counter = 100;
        start(&w, &before, &mut counter);
        let side = w.branch("side", MAIN);
        for each in &mine {
            step(&w, side, *each, &mut counter);
        }
        for each in &others {
            step(&w, MAIN, *each, &mut counter);
        }
        let head = Model::of(&w, MAIN);
        let strategy = if theirs { stonefs::version::conflict::Side::Theirs } else { stonefs::version::conflict::Side::Ours };
        let options = MergeOptions { strategy: Some(strategy), ..MergeOptions::default() };
        let outcome = merge::merge(&w.engine, side, MAIN.branch, &options, &w.caller).unwrap();
        let decided = !matches!(outcome, MergeOutcome::Conflicted { .. });
        prop_assert!(decided, "{:?}", outcome);
        prop_assert!(Model::of(&w, MAIN).is_tree());
        w.check();
        if let MergeOutcome::Merged { txn, .. } = outcome {
            let target = stonefs::version::undo::UndoTarget::Txn(txn);
            if let Ok(done) = stonefs::version::undo::undo(&w.engine, MAIN.branch, target, false, "", &w.caller) {
                let is_done = matches!(done, stonefs::version::undo::UndoOutcome::Done { .. });
                prop_assert!(is_done, "{:?}", done);
            }
            prop_assert_eq!(Model::of(&w, MAIN), head);
            w.check();
        }
    }
}

/// Whether a name of the base stands for something new: a successor, which merges by other rules.
fn replaces(base: &Model, side: &Model) -> bool {
    side.entries
        .iter()
        .any(|(place, ino)| base.entries.get(place).is_some_and(|old| old != ino) && !base.inodes.contains_key(ino))
}

/// Whether both sides use one name for something: an alias or a collision.
fn doubles(ours: &Model, theirs: &Model, base: &Model) -> bool {
    ours.entries.iter().any(|(place, ino)| {
        base.entries.get(place) != Some(ino) && theirs.entries.get(place).is_some_and(|other| other != ino)
    })
}
