//! Transactions on an engine and on the reference side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use stonefs::engine::Handle;
use stonefs::store::TxnKind;
use stonefs::types::{BranchId, Ino, Name, Op, Seq, TxnId, View};
use stonefs::version::merge;
use stonefs::version::readset::ReadSet;
use stonefs::version::txn::{self, BeginOptions, CommitOptions, CommitOutcome};

use crate::choose::NAMES;
use crate::harness::{Effect, Pair, caller};
use crate::observe::{Check, Derived, Rules, ensure, observe, settle};
use crate::operation::Place;
use crate::oracle::{Commit, Exactness, Oracle};
use crate::tally::{Tally, count};
use crate::tree::{Body, Node};
use crate::txn::Txn;

impl Oracle {
    /// Notes what the commit of a transaction makes true on its target.
    fn committed(&mut self, id: TxnId, seq: Seq) {
        let txn = self.world.txns[&id].clone();
        let inner: Vec<_> = self.world.merges.iter().filter(|made| made.at.0 == txn.branch).copied().collect();
        for made in inner {
            self.merged((txn.target, seq), made.from, &[]);
        }
        if let Some(waiting) = txn.merge {
            self.merged((txn.target, seq), waiting.from, &waiting.same);
        }
        self.world.commits.insert(seq, Commit { txn: id, target: txn.target, inverts: None });
    }
}

impl Pair {
    pub fn begin(&mut self, branch: u8, run: bool, serializable: bool) -> Check<Effect> {
        if self.oracle.world.txns.len() >= 3 {
            return Ok(Effect::Nothing);
        }
        let target = self.oracle.branch(branch);
        let inside_run = self.oracle.world.txns.values().any(|txn| txn.branch == target && txn.run);
        let point = self.engine().seal(Some(target)).map_err(|error| error.to_string())?;
        self.oracle.seal(Some(target), point);
        self.oracle.record(point, false);
        let options = BeginOptions {
            target,
            kind: if run { TxnKind::Run } else { TxnKind::Begin },
            serializable,
            message: String::new(),
            label: String::new(),
        };
        let row = txn::begin(self.engine(), &options, &caller(0)).map_err(|error| format!("begin: {error}"))?;
        ensure!(row.base >= point, "a transaction begun at {point} sees {}", row.base);
        let tree = self.oracle.world.trees[&target].clone();
        self.oracle.fork(row.branch, None, (target, row.base), tree);
        let bases = vec![(row.base, Arc::new(self.oracle.world.trees[&row.branch].clone()))];
        let reads = serializable.then(ReadSet::default);
        let entry = Txn {
            branch: row.branch,
            target,
            bases,
            run: run || inside_run,
            brought: BTreeSet::new(),
            reads,
            merge: None,
        };
        ensure!(self.oracle.world.txns.insert(row.id, entry).is_none(), "T{} was used before", row.id);
        Ok(Effect::Event)
    }

    /// Closes what is open in these branches, as the end of a transaction's session does.
    pub fn close_handles(&mut self, branches: &[BranchId]) -> Check<()> {
        let open = self.oracle.handles.values();
        let inside: Vec<Handle> =
            open.filter(|(_, open)| branches.contains(&open.view.branch)).map(|(handle, _)| *handle).collect();
        for handle in inside {
            let got = self.engine().release(handle);
            let want = self.oracle.release(handle, self.engine().point().0);
            self.agree(&got, &want)?;
        }
        self.oracle.record(self.engine().point().0, false);
        Ok(())
    }

    pub fn commit(&mut self, number: u8) -> Check<Effect> {
        let Some(id) = self.oracle.txn(number) else { return Ok(Effect::Nothing) };
        let engine = self.engine().clone();
        let Txn { branch, target, bases, reads, merge, .. } = self.oracle.world.txns[&id].clone();
        self.close_handles(&[branch])?;
        let unresolved =
            merge.is_some() && merge::conflicts(&engine, id).is_ok_and(|c| c.iter().any(|c| c.resolved.is_none()));
        let options = CommitOptions { reads: reads.as_ref(), ..CommitOptions::default() };
        let got = txn::commit(&engine, id, &options, &caller(0));
        if self.oracle.inside(id).len() > 1 {
            ensure!(got.is_err(), "a transaction with an open one inside is committed: {got:?}");
            return Ok(Effect::Nothing);
        }
        let got = got.map_err(|error| format!("commit: {error}"))?;
        let point = engine.point().0;
        self.oracle.seal(Some(branch), point);
        self.oracle.seal(Some(target), point);
        let trees = &self.oracle.world.trees;
        let (_, base) = bases.last().expect("that of its begin");
        let own = &trees[&branch];
        let hidden = if bases.len() > 1 { crate::txn::renumbered(base, own) } else { own.clone() };
        let mut want = crate::txn::commit(base, &trees[&target], &hidden);
        // Before a merge inside it has read another state than after it: all of them must still hold.
        let stale = |reads| bases.iter().flat_map(move |(_, seen)| crate::txn::stale(reads, seen, &trees[&target]));
        let stale: Vec<String> = reads.iter().flat_map(stale).collect();
        let is_stale = want.is_ok() && !stale.is_empty() && !unresolved;
        if unresolved {
            want = Err(vec![String::from("its conflicts")]);
        } else if !stale.is_empty() {
            want = Err(stale);
        }
        match (got, want) {
            (CommitOutcome::Conflicted { .. }, Err(_)) => {
                count(if is_stale { Tally::Stale } else { Tally::Lost });
                Ok(Effect::Nothing)
            }
            (CommitOutcome::Conflicted { conflicts, .. }, Ok(_)) => {
                let shown: Vec<_> = conflicts.iter().map(|c| format!("{:?} {:?}", c.kind, c.path)).collect();
                Err(format!("T{id} conflicts on {shown:?}, must commit"))
            }
            (CommitOutcome::Committed { .. }, Err(conflicts)) => {
                Err(format!("T{id} is committed, must conflict on {conflicts:?}"))
            }
            (CommitOutcome::Committed { seq, .. }, Ok(expected)) => {
                ensure!(seq <= point, "committed at {seq}, the point is {point}");
                let view = View::live(target);
                let pages = |ino: Ino| {
                    let node = expected.nodes.get(&ino);
                    node.and_then(Node::file)
                        .into_iter()
                        .flat_map(|content| content.pages().collect::<Vec<_>>())
                        .collect()
                };
                let seen = observe(&engine, view, &pages)?;
                let exactness: &dyn for<'n> Fn(&'n Node) -> Exactness<'n> = &|_| Exactness::Exact;
                let rules = Rules { dir_times: false, derived: Derived::Writes, exactness, sharing: &|_| Vec::new() };
                let settled =
                    settle(&expected, &seen, &rules).map_err(|error| format!("T{id} in {view:?}: {error}"))?;
                self.oracle.world.trees.insert(target, settled);
                count(Tally::Committed);
                self.oracle.committed(id, seq);
                self.oracle.world.end_txn(id);
                Ok(Effect::Made(if merge.is_some() { Op::Merge } else { Op::Commit }))
            }
        }
    }

    pub fn rollback(&mut self, id: TxnId) -> Check<Effect> {
        let inside = self.oracle.inside(id);
        self.close_handles(&inside)?;
        txn::rollback(self.engine(), id, &caller(0)).map_err(|error| format!("rollback: {error}"))?;
        self.oracle.world.end_txn(id);
        Ok(Effect::Made(Op::Rollback))
    }

    /// Reads something through a serializable transaction, found or not, and notes it for the commit.
    pub fn learn(&mut self, number: u8, at: Place, what: u8) -> Check<Effect> {
        let Some(id) = self.oracle.txn(number) else { return Ok(Effect::Nothing) };
        let Txn { branch, reads: Some(mut reads), .. } = self.oracle.world.txns[&id].clone() else {
            return Ok(Effect::Nothing);
        };
        let tree = &self.oracle.world.trees[&branch];
        let nth = |number: u8, inodes: Vec<Ino>| inodes.get(usize::from(number) % inodes.len().max(1)).copied();
        let dirs: Vec<Ino> = tree.nodes.keys().copied().filter(|&ino| tree.is_dir(ino)).collect();
        let dir = nth(at.dir, dirs).expect("the root");
        let any = nth(at.dir, tree.nodes.keys().copied().collect()).expect("the root");
        let named = self.oracle.world.trees[&branch].is_named(any);
        match what {
            0 | 1 => {
                let name = NAMES[usize::from(at.name) % 5];
                reads.entries.insert((dir, Name::new(name).expect("a name")));
            }
            2 => drop(reads.listings.insert(dir)),
            3 if named && matches!(tree.nodes[&any].body, Body::File(_) | Body::Symlink(_)) => {
                reads.contents.insert(any);
            }
            _ if named => drop(reads.attrs.insert(any)),
            _ => {}
        }
        self.oracle.world.txns.get_mut(&id).expect("open").reads = Some(reads);
        Ok(Effect::Nothing)
    }
}
