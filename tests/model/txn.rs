//! Transactions of the reference: what a commit must conflict on, and what it must result in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stonefs::types::{BranchId, Ino, Kind, Seq, TxnId};

use stonefs::version::readset::ReadSet;

use crate::merge::Waiting;
use crate::oracle::{Oracle, World};
use crate::tree::{Body, Node, Tree};

/// A transaction that can still change.
#[derive(Clone, Debug)]
pub struct Txn {
    /// Its hidden branch.
    pub branch: BranchId,
    /// The branch that it will change.
    pub target: BranchId,
    /// The target as the transaction has seen it: when it began, and after each merge that brought later changes of it.
    pub bases: Vec<(Seq, Arc<Tree>)>,
    /// Numbers of contents and attributes that those merges brought: nothing that it wrote itself.
    pub brought: BTreeSet<u64>,
    /// Whether the end of the daemon rolls it back.
    pub run: bool,
    /// What it has read, where that is validated.
    pub reads: Option<ReadSet>,
    /// The merge whose conflicts it waits for.
    pub merge: Option<Waiting>,
}

/// Lists what a transaction has read and would read otherwise on the present head.
pub fn stale(reads: &ReadSet, base: &Tree, head: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (dir, name) in &reads.entries {
        let entry = |tree: &Tree| tree.entries(*dir).ok().and_then(|entries| entries.get(name.as_bytes()).copied());
        if base.is_dir(*dir) && entry(base) != entry(head) {
            found.push(format!("{name:?} in {dir} was looked up"));
        }
    }
    for dir in reads.listings.iter().filter(|dir| base.is_dir(**dir)) {
        if base.entries(*dir).ok() != head.entries(*dir).ok() {
            found.push(format!("{dir} was listed"));
        }
    }
    let named = |tree: &'_ Tree, ino: Ino| tree.nodes.contains_key(&ino) && tree.is_named(ino);
    for &ino in reads.contents.iter().filter(|ino| named(base, **ino)) {
        if !named(head, ino) || base.nodes[&ino].version != head.nodes[&ino].version {
            found.push(format!("{ino} was read"));
        }
    }
    for &ino in reads.attrs.iter().filter(|ino| named(base, **ino)) {
        let seen = |tree: &Tree| {
            let node = &tree.nodes[&ino];
            (node.attrs, (!tree.is_dir(ino)).then(|| (node.version, tree.nlink(ino))))
        };
        if !named(head, ino) || seen(base) != seen(head) {
            found.push(format!("the attributes of {ino} were read"));
        }
    }
    found
}

type Place = (Ino, Vec<u8>);

fn places(tree: &Tree) -> BTreeMap<Place, Ino> {
    let mut found = BTreeMap::new();
    for (&dir, node) in &tree.nodes {
        if let Body::Dir { entries, .. } = &node.body {
            found.extend(entries.iter().map(|(name, &ino)| ((dir, name.clone()), ino)));
        }
    }
    found
}

/// Gives files that a merge has left their own number in the transaction the number that they have in its base, where
/// they are the same otherwise.
pub fn renumbered(base: &Tree, hidden: &Tree) -> Tree {
    let mut result = hidden.clone();
    let (before, after) = (places(base), places(hidden));
    let all = |places: &BTreeMap<Place, Ino>, ino: Ino| -> BTreeSet<Place> {
        places.iter().filter(|place| *place.1 == ino).map(|place| place.0.clone()).collect()
    };
    for (&ino, node) in hidden.nodes.iter().filter(|(ino, node)| node.kind != Kind::Dir && hidden.is_named(**ino)) {
        let names = all(&after, ino);
        let Some(&old) = names.first().and_then(|place| before.get(place)) else { continue };
        let apart = base.nodes.get(&ino).is_none_or(|_| !base.is_named(ino));
        let gone = hidden.nodes.get(&old).is_none_or(|_| !hidden.is_named(old));
        let there = &base.nodes[&old];
        let same = (&there.body, there.rdev, there.perm, there.uid, there.gid, &there.xattrs)
            == (&node.body, node.rdev, node.perm, node.uid, node.gid, &node.xattrs);
        if old != ino && apart && gone && same && there.kind == node.kind && all(&before, old) == names {
            for (dir, name) in names {
                result.entries_mut(dir).insert(name, old);
            }
            result.nodes.remove(&ino);
            result.nodes.insert(old, there.clone());
        }
    }
    result
}

/// Puts a transaction's changes on top of its target: first committer wins, key by key. The keys are
/// an inode's content, an inode's attributes, and a directory's name.
pub fn commit(base: &Tree, head: &Tree, hidden: &Tree) -> Result<Tree, Vec<String>> {
    let mut conflicts = Vec::new();
    let named = |tree: &'_ Tree, ino: Ino| tree.nodes.contains_key(&ino) && tree.is_named(ino);
    let (before, now, after) = (places(base), places(head), places(hidden));
    let keys: BTreeSet<&Place> =
        before.keys().chain(after.keys()).filter(|&place| before.get(place) != after.get(place)).collect();
    for &place in &keys {
        if now.get(place) != before.get(place) {
            conflicts.push(format!("name {} in {}", place.1.escape_ascii(), place.0));
        }
    }
    let mut result = head.clone();
    for (&ino, node) in &hidden.nodes {
        if named(hidden, ino) && !base.nodes.contains_key(&ino) {
            result.nodes.insert(ino, node.clone());
        }
    }
    let mut removed_dirs = Vec::new();
    for (&ino, old) in base.nodes.iter().filter(|&(&ino, _)| named(base, ino)) {
        let new = hidden.nodes.get(&ino).filter(|_| named(hidden, ino));
        let theirs = head.nodes.get(&ino).filter(|_| named(head, ino));
        let wrote = new.is_none_or(|new| new.version != old.version);
        let others_wrote = theirs.is_none_or(|theirs| theirs.version != old.version);
        if wrote && others_wrote && (new.is_some() || theirs.is_some()) {
            conflicts.push(format!("content of {ino}"));
        }
        let Some(new) = new else {
            if base.is_dir(ino) {
                removed_dirs.push(ino);
            }
            continue;
        };
        let Some(theirs) = theirs else { continue };
        if new.attrs != old.attrs && theirs.attrs != old.attrs {
            conflicts.push(format!("attributes of {ino}"));
        }
        let node = result.get(ino);
        if new.version != old.version {
            node.body = new.body.clone();
            node.version = new.version;
            node.earlier.clear();
        }
        if new.attrs != old.attrs {
            (node.perm, node.uid, node.gid) = (new.perm, new.uid, new.gid);
            node.xattrs = new.xattrs.clone();
            node.attrs = new.attrs;
        }
    }
    for &(dir, ref name) in keys {
        if result.entries(dir).is_err() {
            conflicts.push(format!("name {} in {dir}, which is gone", name.escape_ascii()));
            continue;
        }
        let target = after.get(&(dir, name.clone())).copied();
        match target {
            Some(ino) => drop(result.entries_mut(dir).insert(name.clone(), ino)),
            None => drop(result.entries_mut(dir).remove(name)),
        }
        if let Some(ino) = target
            && let Some(Body::Dir { parent, .. }) = result.nodes.get_mut(&ino).map(|node| &mut node.body)
        {
            *parent = dir;
        }
    }
    for dir in removed_dirs {
        if result.entries(dir).is_ok_and(|entries| !entries.is_empty()) {
            conflicts.push(format!("directory {dir} has entries again"));
        } else {
            result.nodes.remove(&dir);
        }
    }
    for ((dir, name), ino) in places(&result) {
        // What was not there at the begin either has been brought whole.
        let lost = base.nodes.contains_key(&ino) && head.nodes.contains_key(&ino) && !named(head, ino);
        if !result.nodes.contains_key(&ino) || lost {
            conflicts.push(format!("name {} in {dir} names {ino}, which is gone", name.escape_ascii()));
        }
    }
    if conflicts.is_empty() {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![Ino::ROOT];
        while let Some(dir) = waiting.pop() {
            if !reached.insert(dir) {
                conflicts.push(format!("directory {dir} has two names"));
                break;
            }
            let children = result.entries(dir).expect("a directory").values().copied();
            waiting.extend(children.filter(|&child| result.is_dir(child)));
        }
        if result.nodes.keys().any(|&ino| result.is_dir(ino) && !reached.contains(&ino)) {
            conflicts.push(String::from("directories that cannot be reached"));
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    for ino in result.nodes.keys().copied().collect::<Vec<_>>() {
        result.reap(ino);
        // What is left without a name is left to those who have it open, as they had it: it has no place in the tree.
        if let Some(now) = head.nodes.get(&ino)
            && result.nodes.contains_key(&ino)
            && !result.is_named(ino)
        {
            result.nodes.insert(ino, now.clone());
        }
    }
    Ok(result)
}

impl World {
    /// Ends a transaction: its branch takes no more changes.
    pub fn end_txn(&mut self, id: TxnId) {
        let Some(txn) = self.txns.remove(&id) else { return };
        self.trees.remove(&txn.branch);
        if let Some(branch) = self.branches.get_mut(&txn.branch) {
            branch.dropped = true;
        }
        let inner: Vec<TxnId> =
            self.txns.iter().filter(|(_, inner)| inner.target == txn.branch).map(|(&id, _)| id).collect();
        for inner in inner {
            self.end_txn(inner);
        }
    }
}

impl Oracle {
    /// The hidden branches of a transaction and of those inside it.
    pub fn inside(&self, id: TxnId) -> Vec<BranchId> {
        let mut found = vec![self.world.txns[&id].branch];
        for (&inner, txn) in &self.world.txns {
            if txn.target == found[0] {
                found.extend(self.inside(inner));
            }
        }
        found
    }

    /// Lets transactions go on from what a merge into them has brought of their target: what is there as the target had
    /// it then, and came with the merge, is no change of theirs.
    pub fn take_later_base(&mut self, hidden: BranchId) {
        let Some((&id, txn)) = self.world.txns.iter().find(|(_, txn)| txn.branch == hidden) else { return };
        let txn = txn.clone();
        let target = txn.target;
        let upto = self.world.brought((hidden, Seq::MAX), target);
        let known = txn.bases.last().map(|(seq, _)| *seq);
        let mut brought = txn.brought.clone();
        let Some(upto) = upto.filter(|upto| Some(*upto) > known) else { return };
        let mut base = self.past(target, upto).expect("it was merged").clone();
        base.reap_all();
        let before = self.steps.last().and_then(|step| step.world.trees.get(&hidden)).cloned().unwrap_or_default();
        for (ino, node) in &mut self.world.trees.get_mut(&hidden).expect("open").nodes {
            let old = before.nodes.get(ino);
            let mut now = node.clone();
            now.stamp(base.nodes.get(ino));
            // What it has from its begin or from a merge is not its own writing.
            let given = |number: fn(&Node) -> u64, node: &Node| {
                let mut known = txn.bases.iter().filter_map(|(_, base)| base.nodes.get(ino)).map(number);
                let came = old.is_none_or(|old| number(old) != number(node)) || txn.brought.contains(&number(node));
                came || known.any(|one| one == number(node))
            };
            if given(|node| node.version, node) {
                node.version = now.version;
                brought.insert(node.version);
            }
            if given(|node| node.attrs, node) {
                node.attrs = now.attrs;
                brought.insert(node.attrs);
            }
        }
        let txn = self.world.txns.get_mut(&id).expect("found");
        txn.bases.push((upto, Arc::new(base)));
        txn.brought = brought;
    }

    /// The end of the daemon rolls back what `run` opened.
    pub fn end_runs(&mut self) {
        let runs: Vec<TxnId> = self.world.txns.iter().filter(|(_, txn)| txn.run).map(|(&id, _)| id).collect();
        for id in runs {
            self.world.end_txn(id);
        }
    }
}
