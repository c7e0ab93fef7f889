//! The reference file system: every branch's tree, and a copy of all of them after every step.

use std::collections::{BTreeMap, BTreeSet};

use stonefs::engine::{Fallocate, Handle};
use stonefs::types::{At, BranchId, Caller, Ino, Seq, SetAttr, Timestamp, TxnId, View};

use crate::content::Content;
use crate::merge::{Had, Made};
use crate::tree::{Body, Node, Outcome, Tree};
use crate::txn::Txn;

/// A branch of the reference.
#[derive(Clone, Debug)]
pub struct Branch {
    pub name: Option<Vec<u8>>,
    /// The branch that it was forked from, and the last event of it that is seen.
    pub base: Option<(BranchId, Seq)>,
    pub dropped: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub trees: BTreeMap<BranchId, Tree>,
    pub branches: BTreeMap<BranchId, Branch>,
    pub tags: BTreeMap<Vec<u8>, View>,
    /// Transactions that can still change.
    pub txns: BTreeMap<TxnId, Txn>,
    /// Merges that were made.
    pub merges: Vec<Made>,
    /// Inode numbers that merges found to be one thing.
    pub same: Vec<(Ino, Ino)>,
    /// What became visible in one step, by its event.
    pub commits: BTreeMap<Seq, Commit>,
}

/// A transaction that became visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub txn: TxnId,
    pub target: BranchId,
    /// The events that it took back (true) or brought back (false).
    pub inverts: Option<(bool, Vec<Seq>)>,
}

/// The world after one operation.
#[derive(Clone, Debug)]
pub struct Step {
    /// The last event after the operation.
    pub point: Seq,
    pub world: World,
    /// Whether the operation was a cut: everything that may be coalesced was written out.
    pub cut: bool,
}

/// An open file.
#[derive(Clone, Debug)]
pub struct Open {
    pub view: View,
    pub ino: Ino,
    pub readable: bool,
    pub writable: bool,
    pub append: bool,
    /// Whether it wrote since its content was last sealed.
    pub wrote: bool,
}

/// The reference.
pub struct Oracle {
    pub world: World,
    pub steps: Vec<Step>,
    /// Content versions that the store must have, with the point at which they were sealed.
    pub sealed: BTreeMap<u64, Seq>,
    pub handles: BTreeMap<u64, (Handle, Open)>,
    /// Everything up to this point must survive a crash.
    pub durable: Seq,
}

/// How exactly a past file must be what the reference has.
pub enum Exactness<'a> {
    /// Its content was sealed: everything must agree.
    Exact,
    /// Writes were in progress: one of these contents.
    Within(&'a [Content]),
}

impl Oracle {
    /// Starts from the tree of an empty file system.
    pub fn new(root: Node, point: Seq) -> Oracle {
        let main = Branch { name: Some(b"main".to_vec()), base: None, dropped: false };
        let world = World {
            trees: BTreeMap::from([(BranchId::MAIN, Tree::new(root))]),
            branches: BTreeMap::from([(BranchId::MAIN, main)]),
            tags: BTreeMap::new(),
            ..World::default()
        };
        let steps = vec![Step { point, world: world.clone(), cut: true }];
        Oracle { world, steps, sealed: BTreeMap::new(), handles: BTreeMap::new(), durable: point }
    }

    // ---- trees and history ---------------------------------------------------------------------

    /// Branches that can be worked on, in the order of their numbers.
    pub fn live(&self) -> Vec<BranchId> {
        self.world.branches.iter().filter(|(_, branch)| !branch.dropped).map(|(&id, _)| id).collect()
    }

    /// The tree that a view shows now. History is looked up, never kept apart.
    pub fn tree(&self, view: View) -> Option<&Tree> {
        match view.at {
            At::Live => self.world.trees.get(&view.branch),
            At::AsOf(seq) => self.past(view.branch, seq),
        }
    }

    /// The tree that can be changed through a view; history is read-only.
    pub fn writable(&mut self, view: View) -> Outcome<&mut Tree> {
        match view.at {
            At::Live => self.world.trees.get_mut(&view.branch).ok_or_else(|| vec![libc::ENOENT]),
            At::AsOf(_) => Err(vec![libc::EROFS]),
        }
    }

    /// The step that shows the state just after an event: the last that did not go beyond it. (Successive
    /// writes of one opener are one event, whose number the first of them takes.)
    pub fn step_at(&self, seq: Seq) -> Option<usize> {
        self.steps.iter().rposition(|step| step.point <= seq)
    }

    /// The state of a branch just after an event.
    pub fn past(&self, branch: BranchId, seq: Seq) -> Option<&Tree> {
        if let Some((parent, base)) = self.world.branches.get(&branch)?.base
            && seq <= base
        {
            return self.past(parent, seq);
        }
        let step = self.step_at(seq)?;
        self.steps[step..].iter().find_map(|step| step.world.trees.get(&branch))
    }

    /// What has ever been in a branch, up to an event.
    pub fn had(&self, (branch, seq): (BranchId, Seq)) -> Had {
        let base = self.world.branches.get(&branch).and_then(|branch| branch.base);
        let mut had = base.map(|(parent, base)| self.had((parent, base.min(seq)))).unwrap_or_default();
        let steps = self.steps.iter().filter(|step| step.point <= seq).map(|step| &step.world);
        let trees = steps.filter_map(|world| world.trees.get(&branch));
        had.extend(trees.flat_map(|tree| &tree.nodes).map(|(&ino, node)| (ino, node.replaced.first().copied())));
        had
    }

    /// Which files a file has replaced at any time, in any branch: a version of the past may be shared with later ones.
    pub fn replaced(&self, ino: Ino) -> BTreeSet<Vec<Ino>> {
        let worlds = self.steps.iter().map(|step| &step.world).chain([&self.world]);
        let nodes = worlds.flat_map(|world| world.trees.values()).filter_map(|tree| tree.nodes.get(&ino));
        nodes.map(|node| node.replaced.clone()).collect()
    }

    /// Ends an operation: keeps a copy of everything.
    pub fn record(&mut self, point: Seq, cut: bool) {
        self.steps.push(Step { point, world: self.world.clone(), cut });
    }

    /// How exactly a past state of a file binds.
    pub fn exactness<'a>(&self, node: &'a Node) -> Exactness<'a> {
        if node.earlier.is_empty() || self.sealed.contains_key(&node.version) {
            Exactness::Exact
        } else {
            Exactness::Within(&node.earlier)
        }
    }

    /// Whether something may be coalesced between this event and the next cut.
    pub fn is_cut(&self, seq: Seq) -> bool {
        self.steps.iter().any(|step| step.point == seq && step.cut)
    }

    /// The states of an inode from a step on for as long as nothing but its attributes changed, where
    /// they may share the version of its creation.
    pub fn sharing(&self, branch: BranchId, ino: Ino, seq: Seq) -> Vec<&Node> {
        if let Some((parent, base)) = self.world.branches.get(&branch).and_then(|branch| branch.base)
            && seq <= base
        {
            return self.sharing(parent, ino, seq);
        }
        let Some(first) = self.step_at(seq) else { return Vec::new() };
        let node_in = |step: &'_ Step| step.world.trees.get(&branch)?.nodes.get(&ino).map(|_| ());
        let born = self.steps.iter().position(|step| node_in(step).is_some()).unwrap_or(first);
        if self.steps[born.min(first)..first].iter().any(|step| step.cut) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for step in &self.steps[first..] {
            let Some(node) = step.world.trees.get(&branch).and_then(|tree| tree.nodes.get(&ino)) else { break };
            found.push(node);
            if step.cut {
                break;
            }
        }
        found
    }

    // ---- sealing -------------------------------------------------------------------------------

    /// The content of a file has a version now.
    pub fn seal_file(&mut self, branch: BranchId, ino: Ino, point: Seq) {
        let Some(node) = self.world.trees.get_mut(&branch).and_then(|tree| tree.nodes.get_mut(&ino)) else { return };
        if !node.earlier.is_empty() {
            node.earlier.clear();
            self.sealed.entry(node.version).or_insert(point);
        }
        for (_, open) in self.handles.values_mut() {
            if open.view == View::live(branch) && open.ino == ino {
                open.wrote = false;
            }
        }
    }

    /// Every file of a branch (of all for `None`) has a version now.
    pub fn seal(&mut self, branch: Option<BranchId>, point: Seq) {
        let branches = branch.map_or_else(|| self.world.trees.keys().copied().collect(), |branch| vec![branch]);
        for branch in branches {
            let files: Vec<Ino> = self.world.trees[&branch].nodes.keys().copied().collect();
            for ino in files {
                self.seal_file(branch, ino, point);
            }
        }
    }

    // ---- open files ----------------------------------------------------------------------------

    pub fn opened(&mut self, handle: Handle, view: View, ino: Ino, flags: i32) {
        let access = flags & libc::O_ACCMODE;
        let open = Open {
            view,
            ino,
            readable: access != libc::O_WRONLY,
            writable: access != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            wrote: false,
        };
        if view.at == At::Live {
            *self.world.trees.get_mut(&view.branch).expect("a live branch").opens.entry(ino).or_default() += 1;
        }
        self.handles.insert(handle.0, (handle, open));
    }

    /// What open itself checks and changes, before there is a handle.
    pub fn open(&mut self, view: View, ino: Ino, flags: i32, caller: &Caller, now: Timestamp) -> Outcome<()> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let tree = self.tree(view).ok_or_else(|| vec![libc::ENOENT])?;
        let mut content = tree.content(ino);
        if view.at != At::Live && !tree.is_named(ino) {
            content = Err(vec![libc::ENOENT]); // it was only open, which is no part of a past state
        }
        if writes && view.at != At::Live {
            return Err(vec![libc::EROFS]);
        }
        content.map_err(|mut refusal| {
            refusal.extend([libc::ELOOP, libc::EINVAL, libc::EISDIR, libc::ENXIO]);
            refusal
        })?;
        if writes && flags & libc::O_TRUNC != 0 {
            self.writable(view)?.truncate(ino, 0, caller, now);
        }
        Ok(())
    }

    pub fn handle(&self, handle: Handle) -> Outcome<&Open> {
        self.handles.get(&handle.0).map(|(_, open)| open).ok_or_else(|| vec![libc::EBADF])
    }

    pub fn content_of(&self, handle: Handle) -> Outcome<Content> {
        let open = self.handle(handle)?;
        self.tree(open.view).ok_or_else(|| vec![libc::EBADF])?.content(open.ino).cloned()
    }

    fn writer(&mut self, handle: Handle) -> Outcome<(View, Ino, bool)> {
        let open = self.handle(handle)?;
        if open.writable { Ok((open.view, open.ino, open.append)) } else { Err(vec![libc::EBADF]) }
    }

    fn wrote(&mut self, handle: Handle) {
        if let Some((_, open)) = self.handles.get_mut(&handle.0) {
            open.wrote = true;
        }
    }

    /// Marks that opening a file truncated it: the first part of the opener's change.
    pub fn truncated_by(&mut self, handle: Handle) {
        if let Some((_, open)) = self.handles.get_mut(&handle.0) {
            open.wrote = true;
        }
    }

    pub fn write(
        &mut self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        kill_suid: bool,
        now: Timestamp,
    ) -> Outcome<usize> {
        let (view, ino, append) = self.writer(handle)?;
        let tree = self.writable(view)?;
        let offset = if append { tree.content(ino)?.size() } else { offset };
        tree.write(ino, offset, data, kill_suid, now)?;
        if !data.is_empty() {
            self.wrote(handle);
        }
        Ok(data.len())
    }

    pub fn fallocate(
        &mut self,
        handle: Handle,
        offset: u64,
        length: u64,
        mode: Fallocate,
        caller: &Caller,
        now: Timestamp,
    ) -> Outcome<()> {
        let (view, ino, _) = self.writer(handle).map_err(|mut refusal| {
            refusal.extend((length == 0).then_some(libc::EINVAL));
            refusal
        })?;
        let tree = self.writable(view)?;
        let size = tree.content(ino)?.size();
        tree.fallocate(ino, offset, length, mode, caller, now)?;
        // What only reserves room is no change: the close that follows makes no version.
        let changes = match mode {
            Fallocate::KeepSize => false,
            Fallocate::Extend => offset.saturating_add(length) > size,
            Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize => true,
        };
        if changes {
            self.wrote(handle);
        }
        Ok(())
    }

    pub fn copy(
        &mut self,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        length: u64,
        caller: &Caller,
        now: Timestamp,
    ) -> Outcome<u64> {
        let source = self.handle(from)?.clone();
        let target = self.handle(to)?.clone();
        if !source.readable || !target.writable || target.append {
            return Err(vec![libc::EBADF]);
        }
        if source.view != target.view {
            return Err(vec![libc::EXDEV]);
        }
        let tree = self.writable(target.view)?;
        let count = tree.copy((source.ino, from_offset), (target.ino, to_offset), length, caller, now)?;
        if count > 0 {
            self.wrote(to);
        }
        Ok(count)
    }

    /// Copies are made chunk by chunk, as writes of one opener. Where memory is short a version may be made after any
    /// of them; it belongs to the event of the writes before.
    pub fn copied_in_parts(
        &mut self,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        length: u64,
        (before, after): (Seq, Seq),
        (suid, now): (bool, Timestamp),
    ) {
        const CHUNK: u64 = 128 << 10;
        let (Ok(source), Ok(open)) = (self.content_of(from), self.handle(to).cloned()) else { return };
        let count = length.min(source.size().saturating_sub(from_offset));
        let Some(mut last) = self.steps.last().cloned() else { return };
        let node = last.world.trees.get_mut(&open.view.branch).and_then(|tree| tree.nodes.get_mut(&open.ino));
        let Some(node) = node else { return };
        let Some(mut content) = node.file().cloned() else { return };
        let mut parts = Vec::new();
        let mut done = 0;
        while done < count && parts.len() < 100 {
            let step = (CHUNK - (from_offset + done) % CHUNK).min(count - done);
            let at = to_offset + done;
            if content.size() < at + step {
                content.resize(at + step);
            }
            content.zero(at, at + step);
            content.copy_from(&source, from_offset + done, at, step);
            parts.push(content.clone());
            done += step;
        }
        if !node.earlier.is_empty() {
            node.earlier.extend(parts.iter().cloned());
            *self.steps.last_mut().expect("it was there") = last.clone();
        }
        if after.0 > before.0 + 1 {
            let tree = last.world.trees.get_mut(&open.view.branch).expect("it was there");
            let node = tree.nodes.get_mut(&open.ino).expect("it was there");
            // The first part has taken away what any write does.
            Tree::kill_privileges(node, suid);
            (node.version, node.mtime, node.ctime) = (crate::tree::fresh(), now, now);
            node.earlier.clear();
            let mut parts = parts.into_iter();
            node.body = parts.next().map_or(node.body.clone(), Body::File);
            node.earlier.extend(parts);
            self.steps.push(Step { point: before.next(), world: last.world, cut: false });
        }
    }

    /// Changes attributes; a size set without a handle is a change of its own.
    pub fn setattr(
        &mut self,
        view: View,
        ino: Ino,
        set: &SetAttr,
        handle: Option<Handle>,
        caller: &Caller,
        now: Timestamp,
        point: Seq,
    ) -> Outcome<()> {
        self.writable(view)?.setattr(ino, set, caller, now)?;
        if set.size.is_some() {
            match handle {
                Some(handle) => self.wrote(handle),
                None => {
                    self.seal_file(view.branch, ino, point);
                }
            }
        }
        Ok(())
    }

    pub fn fsync(&mut self, handle: Handle, point: Seq) -> Outcome<()> {
        let open = self.handle(handle)?.clone();
        if open.view.at == At::Live {
            self.seal_file(open.view.branch, open.ino, point);
        }
        Ok(())
    }

    pub fn release(&mut self, handle: Handle, point: Seq) -> Outcome<()> {
        let open = self.handle(handle)?.clone();
        if open.view.at == At::Live {
            if open.wrote {
                self.seal_file(open.view.branch, open.ino, point);
            }
            let tree = self.world.trees.get_mut(&open.view.branch).expect("a live branch");
            if let Some(count) = tree.opens.get_mut(&open.ino) {
                *count -= 1;
                if *count == 0 {
                    tree.opens.remove(&open.ino);
                }
            }
            tree.reap(open.ino);
        }
        self.handles.remove(&handle.0);
        Ok(())
    }

    // ---- branches ------------------------------------------------------------------------------

    /// Adds a branch whose tree is `tree`.
    pub fn fork(&mut self, id: BranchId, name: Option<Vec<u8>>, base: (BranchId, Seq), mut tree: Tree) {
        tree.reap_all();
        for node in tree.nodes.values_mut() {
            node.earlier.clear();
        }
        self.world.trees.insert(id, tree);
        self.world.branches.insert(id, Branch { name, base: Some(base), dropped: false });
    }

    pub fn name_taken(&self, name: &[u8]) -> bool {
        let branch = self.world.branches.values().any(|b| !b.dropped && b.name.as_deref() == Some(name));
        branch || self.world.tags.contains_key(name)
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// All handles are gone, and with them what had no name.
    pub fn forget_handles(&mut self) {
        self.handles.clear();
        for tree in self.world.trees.values_mut() {
            tree.reap_all();
        }
    }

    /// Goes back to the state at a point, as a crash does. The trees are then set to what was found.
    pub fn crash(&mut self, point: Seq) {
        self.sealed.retain(|_, at| *at <= point);
        let step = self.step_at(point).expect("the first step is never lost");
        self.world = self.steps[step].world.clone();
        self.steps.truncate(step + 1);
        self.end_runs();
        self.forget_handles();
    }

    /// The numbers of all inodes that were ever given out and survive.
    pub fn known(&self) -> BTreeSet<Ino> {
        let worlds = self.steps.iter().map(|step| &step.world).chain([&self.world]);
        worlds.flat_map(|world| world.trees.values()).flat_map(|tree| tree.nodes.keys().copied()).collect()
    }
}

impl Node {
    /// The file's content.
    pub fn file(&self) -> Option<&Content> {
        match &self.body {
            Body::File(content) => Some(content),
            Body::Dir { .. } | Body::Symlink(_) | Body::Special => None,
        }
    }
}
