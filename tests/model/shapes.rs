//! Tells what kinds of change a merge brings together, so that a test can say that it met them all.

use std::collections::{BTreeMap, BTreeSet};

use stonefs::types::{Ino, Kind};

use crate::tally::{Tally, count};
use crate::tree::{Body, Tree};

type Names = BTreeMap<Ino, BTreeSet<(Ino, Vec<u8>)>>;

/// Counts the kinds of change between a base and its two sides.
pub fn count_shapes(base: &Tree, ours: &Tree, theirs: &Tree, same: &[(Ino, Ino)]) {
    let [was, mine, others] = [base, ours, theirs].map(names);
    let moved = |now: &Names, ino: &Ino| now.get(ino).is_some_and(|names| Some(names) != was.get(ino));
    if was.keys().any(|ino| moved(&mine, ino) && moved(&others, ino)) {
        count(Tally::RenamedTwice);
    }
    let linked = |names: &Names, ino: &Ino| names.get(ino).is_some_and(|names| names.len() > 1);
    let relinked = |now: &Names, ino: &Ino| linked(now, ino) && moved(now, ino) || linked(&was, ino) && moved(now, ino);
    if was.keys().any(|ino| relinked(&mine, ino) || relinked(&others, ino)) {
        count(Tally::Linked);
    }
    let new = |ino: &&Ino| !base.nodes.contains_key(ino) && theirs.nodes.contains_key(ino);
    let differ = |ino: &Ino| mine.get(ino) != others.get(ino) || ours.nodes[ino].body != theirs.nodes[ino].body;
    if ours.nodes.keys().filter(new).any(|ino| !ours.is_dir(*ino) && differ(ino)) {
        count(Tally::BroughtTwice);
    }
    let both = |tree: &Tree, a, b| tree.nodes.contains_key(a) && tree.nodes.contains_key(b);
    if same.iter().any(|(a, b)| [base, ours, theirs].iter().any(|tree| both(tree, a, b))) {
        count(Tally::BroughtBack);
    }
    let (here, there) = (saved(base, ours), saved(base, theirs));
    if !here.is_empty() || !there.is_empty() {
        count(Tally::Saved);
    }
    if here.intersection(&there).next().is_some() {
        count(Tally::SavedTwice);
    }
    if filled(base, ours, theirs) || filled(base, theirs, ours) {
        count(Tally::FilledAndRemoved);
    }
}

fn names(tree: &Tree) -> Names {
    let mut found = Names::new();
    for (&dir, node) in &tree.nodes {
        if let Body::Dir { entries, .. } = &node.body {
            for (name, &ino) in entries {
                found.entry(ino).or_default().insert((dir, name.clone()));
            }
        }
    }
    found
}

/// The files of a base in whose place a side has a new file.
fn saved(base: &Tree, side: &Tree) -> BTreeSet<Ino> {
    let mut found = BTreeSet::new();
    for (ino, names) in names(base) {
        for (dir, name) in names {
            let now = side.entries(dir).ok().and_then(|entries| entries.get(&name));
            if let Some(now) = now
                && base.nodes[&ino].kind == Kind::File
                && side.nodes[now].kind == Kind::File
                && !base.nodes.contains_key(now)
                && !side.nodes.contains_key(&ino)
            {
                found.insert(ino);
            }
        }
    }
    found
}

/// Whether one side put something into a directory that the other removed.
fn filled(base: &Tree, filler: &Tree, remover: &Tree) -> bool {
    base.nodes.keys().any(|&dir| {
        let before = base.entries(dir).ok();
        let after = filler.entries(dir).ok();
        let more = before.zip(after).is_some_and(|(before, after)| after.keys().any(|name| !before.contains_key(name)));
        more && !remover.nodes.contains_key(&dir)
    })
}
