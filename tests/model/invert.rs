//! The reference's undo: the difference of two whole trees, taken back in a third.

use std::collections::BTreeSet;

use stonefs::types::{Ino, Kind};

use crate::tree::{Body, Node, Tree, fresh};

/// Takes back in `now` what happened between `before` and `after`: what else has changed since is left
/// alone, and where that is the same thing, it is refused. Returns `None` where nothing happened.
///
/// All trees hold nothing but what has a name.
pub fn invert(before: &Tree, after: &Tree, now: &Tree, force: bool) -> Option<Result<Tree, Vec<String>>> {
    let mut refused = Vec::new();
    let mut happened = false;
    let mut result = now.clone();
    let inodes: BTreeSet<Ino> = before.nodes.keys().chain(after.nodes.keys()).copied().collect();
    for ino in inodes {
        match (before.nodes.get(&ino), after.nodes.get(&ino)) {
            (Some(was), Some(made)) => {
                let content = was.kind != Kind::Dir && was.body != made.body;
                let attributes = !same_attributes(was, made)
                    || was.attrs != made.attrs && (was.atime, was.mtime) != (made.atime, made.mtime);
                happened |= content || attributes;
                if !content && !attributes {
                    continue;
                }
                let Some(present) = now.nodes.get(&ino) else {
                    refused.push(format!("{ino} is gone"));
                    continue;
                };
                let node = result.get(ino);
                if content {
                    if present.body != made.body {
                        refused.push(format!("the content of {ino}"));
                    }
                    (node.body, node.mtime) = (was.body.clone(), was.mtime);
                    node.version = fresh();
                }
                if attributes {
                    if !same_attributes(present, made) {
                        refused.push(format!("the attributes of {ino}"));
                    }
                    (node.perm, node.uid, node.gid, node.xattrs) = (was.perm, was.uid, was.gid, was.xattrs.clone());
                    node.attrs = fresh();
                    if was.mtime != made.mtime {
                        node.mtime = was.mtime;
                    }
                }
            }
            (Some(was), None) => {
                happened = true;
                if !now.nodes.contains_key(&ino) {
                    let mut node = was.clone();
                    node.stamp(None);
                    if let Body::Dir { entries, .. } = &mut node.body {
                        entries.clear();
                    }
                    result.nodes.insert(ino, node);
                }
            }
            (None, Some(made)) => {
                happened = true;
                let differs = |present: &Node| {
                    made.kind != Kind::Dir && present.body != made.body || !same_attributes(present, made)
                };
                if now.nodes.get(&ino).is_some_and(differs) {
                    refused.push(format!("{ino} was changed"));
                }
            }
            (None, None) => {}
        }
    }
    for (dir, name) in places(before).union(&places(after)) {
        let entry = |tree: &Tree| tree.entries(*dir).ok().and_then(|entries| entries.get(name).copied());
        let (was, made, present) = (entry(before), entry(after), entry(now));
        if was == made {
            continue;
        }
        happened = true;
        if present == was {
            continue;
        }
        if present != made {
            refused.push(format!("the name {} in {dir}", name.escape_ascii()));
        }
        match (result.entries(*dir).is_ok(), was) {
            (true, Some(ino)) => drop(result.entries_mut(*dir).insert(name.clone(), ino)),
            (true, None) => drop(result.entries_mut(*dir).remove(name)),
            (false, _) => {}
        }
        if was.is_some() && result.entries(*dir).is_err() {
            // Nobody may force a name into what is no directory.
            return Some(Err(vec![format!("{dir} is gone")]));
        }
    }
    if !happened {
        return None;
    }
    if force {
        refused.clear();
    }
    refused.extend(sweep(&mut result));
    Some(if refused.is_empty() { Ok(result) } else { Err(refused) })
}

fn same_attributes(a: &Node, b: &Node) -> bool {
    (a.perm, a.uid, a.gid, &a.xattrs) == (b.perm, b.uid, b.gid, &b.xattrs)
}

fn places(tree: &Tree) -> BTreeSet<(Ino, Vec<u8>)> {
    let mut found = BTreeSet::new();
    for (&dir, node) in &tree.nodes {
        if let Body::Dir { entries, .. } = &node.body {
            found.extend(entries.keys().map(|name| (dir, name.clone())));
        }
    }
    found
}

/// Forgets what has lost its last name, and tells what is no tree.
fn sweep(tree: &mut Tree) -> Vec<String> {
    let mut faults = Vec::new();
    let dirs: Vec<Ino> = tree.nodes.keys().copied().filter(|&ino| tree.is_dir(ino)).collect();
    for &dir in &dirs {
        let above: Vec<Ino> = dirs
            .iter()
            .filter_map(|&parent| Some((parent, tree.entries(parent).ok()?)))
            .flat_map(|(parent, entries)| entries.values().map(move |&ino| (parent, ino)))
            .filter(|&(_, ino)| ino == dir)
            .map(|(parent, _)| parent)
            .collect();
        match above.as_slice() {
            [parent] => {
                if let Body::Dir { parent: known, .. } = &mut tree.get(dir).body {
                    *known = *parent;
                }
            }
            [] if dir == Ino::ROOT => {}
            [] if tree.entries(dir).is_ok_and(|entries| entries.is_empty()) => drop(tree.nodes.remove(&dir)),
            [] => faults.push(format!("directory {dir} has no name and is not empty")),
            [..] => faults.push(format!("directory {dir} has two names")),
        }
    }
    for (dir, name) in places(tree) {
        if !tree.nodes.contains_key(&tree.entries(dir).expect("a directory")[&name]) {
            faults.push(format!("{} in {dir} names what is gone", name.escape_ascii()));
        }
    }
    let reached = tree.reachable();
    let lost = tree.nodes.keys().filter(|&&ino| tree.is_dir(ino) && !reached.contains(&ino));
    faults.extend(lost.map(|ino| format!("{ino} cannot be reached")));
    for ino in tree.nodes.keys().copied().collect::<Vec<_>>() {
        tree.reap(ino);
    }
    faults
}
