//! Runs operations on an engine and on the reference side by side and compares after each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use stonefs::engine::{Engine, Fallocate, FsError, Handle, Options, RenameMode, Whence, XattrMode};
use stonefs::store::{BranchRow, EventFilter, InitOptions, Store, TagRow};
use stonefs::types::{
    At, Attr, BranchId, Caller, Clock, FixedClock, Ino, Kind, Op, ProcId, Seq, SetAttr, SetTime, Timestamp, View,
};
use stonefs::version::txn;

use crate::acl::{self, Acl};
use crate::choose::{BRANCHES, NO_INODE, XATTRS, bytes, open_flags};
use crate::observe::{Check, Derived, Rules, check_paths, ensure, observe, same_attr, settle};
use crate::operation::{LENGTHS, OFFSETS, Operation, Place, SPANS};
use crate::oracle::{Exactness, Oracle};
use crate::tree::{Birth, Body, Node, Outcome, Tree};

/// The start of every run's clock.
const START: i64 = 1_700_000_000_000_000_000;
pub fn caller(who: u8) -> Caller {
    let (uid, gid) = [(0, 0), (1000, 1000), (1001, 100)][usize::from(who % 3)];
    Caller { uid, gid, pid: 100 + u32::from(who), process: ProcId(0) }
}

/// An engine and the reference, in step.
pub struct Pair {
    /// Where the database is; removed with the run.
    directory: tempfile::TempDir,
    memory: Memory,
    /// The events that the record must have: somewhere in a stretch of numbers, of a kind.
    events: Vec<(Seq, Seq, Op)>,
    pub clock: Arc<FixedClock>,
    /// `None` between a crash and the next opening.
    engine: Option<Arc<Engine>>,
    pub oracle: Oracle,
    /// Inodes that were given out.
    pub given: BTreeSet<Ino>,
    last: (Seq, Timestamp),
    /// Past states that were looked at: a past state never changes.
    pub looked: BTreeMap<(BranchId, Seq), Tree>,
}

fn scratch() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    made.expect("a directory for the database")
}

/// How much the engine may keep in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Enough for everything.
    Ample,
    /// Next to nothing: what was written out is dropped and read again.
    Little,
}

fn options(memory: Memory) -> Options {
    let ample = Options { group_ms: 2, ..Options::default() };
    match memory {
        Memory::Ample => ample,
        Memory::Little => Options { inodes_max: 2, blocks_max: 1000, dirty_max: 300_000, stage_min: 1, ..ample },
    }
}

fn open_store(directory: &Path, create: Option<&InitOptions>) -> Check<Arc<dyn Store>> {
    crate::open_store(&directory.join("model.stone"), create)
}

/// Runs operations; the message says which one failed and how.
pub fn run(memory: Memory, operations: &[Operation]) -> Check<()> {
    let mut pair = Pair::new(memory)?;
    for (index, operation) in operations.iter().enumerate() {
        pair.step(operation).map_err(|error| format!("operation {index}, {operation:?}: {error}"))?;
    }
    pair.finish().map_err(|error| format!("at the end: {error}"))
}

impl Pair {
    pub fn new(memory: Memory) -> Check<Pair> {
        let directory = scratch();
        let clock = Arc::new(FixedClock::new(Timestamp(START)));
        let init = InitOptions { now: clock.now(), uid: 0, gid: 0, settings: Vec::new() };
        let store = open_store(directory.path(), Some(&init))?;
        let engine = Engine::open(store, clock.clone(), options(memory)).map_err(|error| format!("open: {error}"))?;
        let view = View::live(BranchId::MAIN);
        let seen = observe(&engine, view, &|_| BTreeSet::new())?;
        let root = seen.tree.nodes[&Ino::ROOT].clone();
        ensure!((root.uid, root.gid, root.kind) == (0, 0, Kind::Dir), "the root is {root:?}");
        let last = engine.point();
        let oracle = Oracle::new(root, last.0);
        let given = BTreeSet::from([Ino::ROOT]);
        Ok(Pair {
            directory,
            memory,
            events: Vec::new(),
            clock,
            engine: Some(engine),
            oracle,
            given,
            last,
            looked: BTreeMap::new(),
        })
    }

    // ---- comparing -----------------------------------------------------------------------------

    /// Compares a call's outcome; returns whether it succeeded.
    pub fn agree<T: std::fmt::Debug, U>(&self, got: &Result<T, FsError>, want: &Outcome<U>) -> Check<bool> {
        match (got, want) {
            (Ok(_), Ok(_)) => Ok(true),
            (Err(error), Err(refusal)) if refusal.contains(&error.errno()) => Ok(false),
            (Ok(value), Err(refusal)) => {
                Err(format!("succeeded with {value:?}, must fail with one of {}", show(refusal)))
            }
            (Err(error), Ok(_)) => Err(format!("failed with {error:?}, must succeed")),
            (Err(error), Err(refusal)) => {
                Err(format!("failed with {error:?}, must fail with one of {}", show(refusal)))
            }
        }
    }

    /// Compares returned attributes with the reference's.
    fn agree_attr(&self, view: View, got: &Result<Attr, FsError>, want: &Outcome<()>) -> Check<bool> {
        let done = self.agree(got, want)?;
        if let Ok(attr) = got {
            let tree = self.oracle.tree(view).expect("it succeeded");
            same_attr(attr, &tree.attr(attr.ino).map_err(|_| format!("{} is not known", attr.ino))?)?;
        }
        Ok(done)
    }

    pub fn compare_live(&self, branch: BranchId) -> Check<Tree> {
        self.compare(View::live(branch), &self.oracle.world.trees[&branch], true, true)
    }

    pub fn compare(&self, view: View, expected: &Tree, present: bool, dir_times: bool) -> Check<Tree> {
        let pages = |ino: Ino| {
            let node = expected.nodes.get(&ino);
            let contents = node.into_iter().flat_map(|node| node.file().into_iter().chain(&node.earlier));
            contents.flat_map(|content| content.pages().collect::<Vec<_>>()).collect()
        };
        let seen = observe(self.engine(), view, &pages)?;
        let exactness: &dyn for<'n> Fn(&'n Node) -> Exactness<'n> =
            &|node| if present { Exactness::Exact } else { self.oracle.exactness(node) };
        let sharing = |ino| match view.at {
            At::AsOf(seq) if !present => self.oracle.sharing(view.branch, ino, seq).into_iter().cloned().collect(),
            At::Live | At::AsOf(_) => Vec::new(),
        };
        settle(expected, &seen, &Rules { dir_times, derived: Derived::Nothing, exactness, sharing: &sharing })
            .map_err(|error| format!("{view:?}: {error}"))
    }

    /// Looks at a past state, and at whether it is the same as when it was looked at before.
    pub fn compare_past(&mut self, branch: BranchId, seq: Seq) -> Check<Tree> {
        let view = View::as_of(branch, seq);
        let Some(expected) = self.oracle.past(branch, seq) else {
            return Err(format!("the reference has no {view:?}"));
        };
        let mut settled = self.compare(view, expected, false, self.oracle.is_cut(seq))?;
        settled.reap_all();
        if let Some(before) = self.looked.insert((branch, seq), settled.clone()) {
            ensure!(
                before == settled,
                "{view:?} has changed since it was looked at: {}",
                difference(&before, &settled)
            );
        }
        Ok(settled)
    }

    fn compare_all(&self) -> Check<()> {
        for branch in self.oracle.live() {
            let tree = self.compare_live(branch)?;
            check_paths(self.engine(), View::live(branch), &tree)?;
            let mut opens = self.engine().open_inodes(branch);
            opens.sort_unstable();
            let want: Vec<(Ino, u32)> = self.oracle.world.trees[&branch].opens.iter().map(|(&i, &n)| (i, n)).collect();
            ensure!(opens == want, "open inodes of {branch} are {opens:?}, must be {want:?}");
            for &(ino, _) in &want {
                let attr = self
                    .engine()
                    .getattr(View::live(branch), ino)
                    .map_err(|e| format!("getattr of open {ino}: {e}"))?;
                same_attr(&attr, &self.oracle.world.trees[&branch].attr(ino).expect("open"))
                    .map_err(|error| format!("open {ino} of {branch}: {error}"))?;
            }
        }
        self.compare_branches()
    }

    fn compare_branches(&self) -> Check<()> {
        let named = |row: &BranchRow| row.dropped.is_none() && row.name.is_some();
        let mut have: Vec<_> = self.engine().branches().into_iter().filter(named).collect();
        have.sort_by_key(|row| row.id);
        let have: Vec<_> = have.into_iter().map(|row| (row.id, row.name, row.parent.map(|p| (p, row.base)))).collect();
        let want = self.oracle.world.branches.iter().filter(|(_, b)| !b.dropped && b.name.is_some());
        let want: Vec<_> = want.map(|(&id, b)| (id, b.name.clone(), b.base)).collect();
        ensure!(have == want, "branches are {have:?}, must be {want:?}");
        let have: BTreeMap<_, _> =
            self.engine().tags().into_iter().map(|row| (row.name, View::as_of(row.branch, row.seq))).collect();
        let txns = txn::open_ones(self.engine()).into_iter().map(|row| (row.id, row.branch, row.target));
        let txns: Vec<_> = txns.collect();
        let want: Vec<_> = self.oracle.world.txns.iter().map(|(&id, txn)| (id, txn.branch, txn.target)).collect();
        ensure!(txns == want, "open transactions are {txns:?}, must be {want:?}");
        ensure!(have == self.oracle.world.tags, "tags are {have:?}, must be {:?}", self.oracle.world.tags);
        Ok(())
    }

    // ---- running -------------------------------------------------------------------------------

    /// Runs one operation on both and compares.
    pub fn step(&mut self, operation: &Operation) -> Check<()> {
        let before = self.engine().point();
        ensure!(before.0 >= self.last.0, "the point went back from {:?} to {before:?}", self.last);
        let outcome = self.apply(operation)?;
        if std::env::var_os("STONE_MODEL_CHECK").is_some() {
            self.compare_all()?;
        }
        let after = self.engine().point();
        if !matches!(operation, Operation::Crash) {
            ensure!(after.0 >= before.0, "the point went back from {before:?} to {after:?}");
            ensure!(after.1 >= before.1, "time went back from {before:?} to {after:?}");
        }
        let recorded = match outcome {
            Effect::Event => Some(recorded_as(operation)),
            Effect::Made(op) => Some(Some(op)),
            Effect::Nothing | Effect::Cut => None,
        };
        if let Some(recorded) = recorded {
            ensure!(after.0 > before.0, "an event of its own has no number: still {after:?}");
            ensure!(after.1 > before.1, "an event has no later time than the one before: {after:?}");
            self.events.extend(recorded.map(|op| (before.0, after.0, op)));
        }
        self.last = after;
        self.oracle.record(after.0, outcome == Effect::Cut);
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Applies a creation to the reference with the number that the engine gave.
    fn born(&mut self, got: Option<Ino>) -> Check<Ino> {
        if let Some(ino) = got {
            ensure!(self.given.insert(ino), "inode number {ino} was given out before");
            ensure!(ino.0 < 1 << 40, "inode number {ino} is too large");
        }
        Ok(got.unwrap_or(NO_INODE))
    }

    #[allow(clippy::too_many_lines)] // one arm per operation
    fn apply(&mut self, operation: &Operation) -> Check<Effect> {
        match operation {
            Operation::Reopen => self.reopen()?,
            Operation::Crash => self.crash()?,
            _ => {}
        }
        let now = self.now();
        let engine = self.engine().clone();
        let event = |done: bool| if done { Effect::Event } else { Effect::Nothing };
        Ok(match *operation {
            Operation::Create { at, mode, umask, flags, who } => {
                let (view, dir, name) = self.oracle.place(at);
                let caller = caller(who);
                let flags = open_flags(flags) & !libc::O_TRUNC;
                let got = engine.create(view, dir, &name, mode, u32::from(umask), flags, &caller);
                let ino = self.born(got.as_ref().ok().map(|(attr, _)| attr.ino))?;
                let birth = Birth { ino, now, caller: &caller, perm: mode, umask: u32::from(umask) };
                let body = Body::File(Default::default());
                let want =
                    self.oracle.writable(view).and_then(|tree| tree.make(dir, &name, Kind::File, 0, body, &birth));
                if let Ok((attr, handle)) = &got
                    && want.is_ok()
                {
                    self.oracle.opened(*handle, view, attr.ino, flags);
                }
                event(self.agree_attr(view, &got.map(|(attr, _)| attr), &want)?)
            }
            Operation::Mknod { at, kind, mode, umask, rdev, who } => {
                let (view, dir, name) = self.oracle.place(at);
                let caller = caller(who);
                let kind = [Kind::File, Kind::Fifo, Kind::Socket, Kind::Char, Kind::Block, Kind::Dir, Kind::Symlink]
                    [usize::from(kind % 7)];
                let got = engine.mknod(view, dir, &name, kind, mode, u32::from(umask), rdev, &caller);
                let ino = self.born(got.as_ref().ok().map(|attr| attr.ino))?;
                let birth = Birth { ino, now, caller: &caller, perm: mode, umask: u32::from(umask) };
                let body = if kind == Kind::File { Body::File(Default::default()) } else { Body::Special };
                let want = if matches!(kind, Kind::Dir | Kind::Symlink) {
                    Err(vec![libc::EINVAL])
                } else {
                    self.oracle.writable(view).and_then(|tree| tree.make(dir, &name, kind, rdev, body, &birth))
                };
                event(self.agree_attr(view, &got, &want)?)
            }
            Operation::Mkdir { at, mode, umask, who } => {
                let (view, dir, name) = self.oracle.place(at);
                let caller = caller(who);
                let mode = mode & 0o1777; // the kernel passes no more
                let got = engine.mkdir(view, dir, &name, mode, u32::from(umask), &caller);
                let ino = self.born(got.as_ref().ok().map(|attr| attr.ino))?;
                let birth = Birth { ino, now, caller: &caller, perm: mode, umask: u32::from(umask) };
                let body = Body::Dir { parent: dir, entries: BTreeMap::new() };
                let want =
                    self.oracle.writable(view).and_then(|tree| tree.make(dir, &name, Kind::Dir, 0, body, &birth));
                event(self.agree_attr(view, &got, &want)?)
            }
            Operation::Symlink { at, length, who } => {
                let (view, dir, name) = self.oracle.place(at);
                let caller = caller(who);
                let target = vec![b't'; if length == 29 { 4096 } else { usize::from(length) * 7 }];
                let got = engine.symlink(view, dir, &name, &target, &caller);
                let ino = self.born(got.as_ref().ok().map(|attr| attr.ino))?;
                let birth = Birth { ino, now, caller: &caller, perm: 0o777, umask: 0 };
                let want = self.oracle.writable(view).and_then(|tree| tree.symlink(dir, &name, &target, &birth));
                event(self.agree_attr(view, &got, &want)?)
            }
            Operation::Link { from, at } => {
                let (view, dir, name) = self.oracle.place(Place { branch: from.branch, ..at });
                let (_, ino) = self.oracle.target(from);
                let got = engine.link(view, ino, dir, &name, &caller(0));
                let want = self.oracle.writable(view).and_then(|tree| tree.link(ino, dir, &name, now));
                event(self.agree_attr(view, &got, &want)?)
            }
            Operation::Unlink { at } => {
                let (view, dir, name) = self.oracle.existing(at);
                let got = engine.unlink(view, dir, &name, &caller(0));
                let want = self.oracle.writable(view).and_then(|tree| tree.unlink(dir, &name, now));
                event(self.agree(&got, &want)?)
            }
            Operation::Rmdir { at } => {
                let (view, dir, name) = self.oracle.existing(at);
                let got = engine.rmdir(view, dir, &name, &caller(0));
                let want = self.oracle.writable(view).and_then(|tree| tree.rmdir(dir, &name, now));
                event(self.agree(&got, &want)?)
            }
            Operation::Rename { from, to, mode } => {
                let (view, dir, name) = self.oracle.existing(from);
                let to = Place { branch: from.branch, ..to };
                let (_, dir2, name2) = self.oracle.existing(to);
                let mode =
                    [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][usize::from(mode % 6) / 2];
                let got = engine.rename(view, dir, &name, dir2, &name2, mode, &caller(0));
                let want = self.oracle.writable(view).and_then(|tree| tree.rename(dir, &name, dir2, &name2, mode, now));
                let changed = matches!(want, Ok(Some(_)));
                event(self.agree(&got, &want)? && changed)
            }
            Operation::Lookup { at } => {
                let (view, dir, name) = self.oracle.existing(at);
                let got = engine.lookup(view, dir, &name);
                let want = self.oracle.tree(view).expect("live").lookup(dir, &name).map(|_| ());
                let want = want.map_err(|mut refusal| {
                    refusal.push(libc::ENOENT); // of a name that cannot exist
                    refusal
                });
                self.agree_attr(view, &got, &want)?;
                Effect::Nothing
            }
            Operation::Chmod { on, mode, who } => {
                let (view, ino) = self.oracle.target(on);
                if self.oracle.live_tree(on.branch).nodes.get(&ino).is_some_and(|node| node.kind == Kind::Symlink) {
                    return Ok(Effect::Nothing); // the kernel does not pass it
                }
                let set = SetAttr { perm: Some(mode), ..SetAttr::default() };
                event(self.setattr(view, ino, &set, None, &caller(who))?)
            }
            Operation::Chown { on, uid, gid, who } => {
                let (view, ino) = self.oracle.target(on);
                let id = |id: u8| [0, 1000, 70_000][usize::from(id % 3)];
                let set = SetAttr { uid: uid.map(id), gid: gid.map(id), ..SetAttr::default() };
                event(self.setattr(view, ino, &set, None, &caller(who))? && set != SetAttr::default())
            }
            Operation::Utimens { on, atime, mtime } => {
                let (view, ino) = self.oracle.target(on);
                let time = |time: i16| match time {
                    ..0 => SetTime::Now,
                    time => SetTime::To(Timestamp(i64::from(time) * 1_000_000_007 - 5_000_000_000)),
                };
                let set = SetAttr { atime: atime.map(time), mtime: mtime.map(time), ..SetAttr::default() };
                event(self.setattr(view, ino, &set, None, &caller(0))? && set != SetAttr::default())
            }
            Operation::Truncate { on, size, who } => {
                let (view, ino) = self.oracle.file(on);
                let set = SetAttr { size: Some(OFFSETS[usize::from(size) % OFFSETS.len()]), ..SetAttr::default() };
                event(self.setattr(view, ino, &set, None, &caller(who))?)
            }
            Operation::Ftruncate { handle, size, who } => {
                let handle = self.oracle.pick(handle);
                let Ok(open) = self.oracle.handle(handle).cloned() else { return Ok(Effect::Nothing) };
                if !open.writable {
                    return Ok(Effect::Nothing); // the kernel does not pass it
                }
                let set = SetAttr { size: Some(OFFSETS[usize::from(size) % OFFSETS.len()]), ..SetAttr::default() };
                self.setattr(open.view, open.ino, &set, Some(handle), &caller(who))?;
                Effect::Nothing
            }
            Operation::Setxattr { on, name, value, mode } => {
                let (view, ino) = self.oracle.target(on);
                let name = XATTRS[usize::from(name % 5)];
                let length = [0, 1, 5, 100, 1000, 65536, 65537][usize::from(value % 7)];
                let value = vec![value; length];
                let mode =
                    [XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(mode % 4)];
                let got = engine.setxattr(view, ino, name, &value, mode, &caller(0));
                let want = self.oracle.writable(view).and_then(|tree| tree.setxattr(ino, name, &value, mode, now));
                event(self.agree(&got, &want)?)
            }
            Operation::Removexattr { on, name } => {
                let (view, ino) = self.oracle.target(on);
                let name = XATTRS[usize::from(name) % XATTRS.len()];
                let got = engine.removexattr(view, ino, name, &caller(0));
                let want = self.oracle.writable(view).and_then(|tree| tree.removexattr(ino, name, now));
                event(self.agree(&got, &want)?)
            }
            Operation::SetAcl { on, default, perms, named, broken } => {
                let (view, ino) = self.oracle.target(on);
                let named = named.map(|perm| (1000, u16::from(perm), perms >> 6 & 7));
                let mut value = Acl::build(perms >> 6, perms >> 3, perms, named).bytes();
                if broken {
                    value.truncate(value.len() - 8);
                }
                let name = if default { acl::DEFAULT } else { acl::ACCESS };
                let got = engine.setxattr(view, ino, name, &value, XattrMode::Set, &caller(0));
                let want =
                    self.oracle.writable(view).and_then(|tree| tree.setxattr(ino, name, &value, XattrMode::Set, now));
                event(self.agree(&got, &want)?)
            }
            Operation::Open { on, flags, who } => {
                let (view, ino) = self.oracle.file(on);
                self.open(view, ino, open_flags(flags), &caller(who))?
            }
            Operation::Release { handle } => {
                let handle = self.oracle.pick(handle);
                let got = engine.release(handle);
                let want = self.oracle.release(handle, engine.point().0);
                self.agree(&got, &want)?;
                Effect::Nothing
            }
            Operation::Read { handle, offset, length } => {
                let handle = self.oracle.pick(handle);
                let offset = OFFSETS[usize::from(offset) % OFFSETS.len()];
                let length = LENGTHS[usize::from(length) % LENGTHS.len()];
                let got = engine.read(handle, offset, length);
                let want = match self.oracle.handle(handle) {
                    Ok(open) if !open.readable => Err(vec![libc::EBADF]),
                    Ok(open) => Ok((open.view, open.ino)),
                    Err(refusal) => Err(refusal),
                };
                if self.agree(&got, &want)? {
                    let target = engine.handle_target(handle).map_err(|error| format!("handle_target: {error}"))?;
                    ensure!(Ok(target) == want, "the handle is open on {target:?}, must be {want:?}");
                    let content = self.oracle.content_of(handle).expect("open");
                    let want = content.read(offset, length as u64);
                    let got = got.expect("agreed");
                    // A past file's content may be one of several; whole trees are compared for that.
                    if target.0.at == At::Live {
                        ensure!(got == want, "reads {}, must read {}", show_bytes(&got), show_bytes(&want));
                    }
                }
                Effect::Nothing
            }
            Operation::Write { handle, offset, length, seed, kill_suid, who } => {
                let handle = self.oracle.pick(handle);
                let offset = OFFSETS[usize::from(offset) % OFFSETS.len()];
                let data = bytes(LENGTHS[usize::from(length) % LENGTHS.len()], seed);
                // As the kernel does: where the handle appends, the offset is the end that it knows.
                let got = engine.write(handle, offset, &data, kill_suid, &caller(who));
                let want = self.oracle.write(handle, offset, &data, kill_suid, now);
                if self.agree(&got, &want)? {
                    ensure!(got.ok() == want.ok(), "wrote another number of bytes");
                }
                self.check_handle(handle)?
            }
            Operation::Fallocate { handle, offset, length, mode, who } => {
                let handle = self.oracle.pick(handle);
                let offset = OFFSETS[usize::from(offset) % OFFSETS.len()];
                let length = SPANS[usize::from(length) % SPANS.len()];
                let mode = [
                    Fallocate::Extend,
                    Fallocate::KeepSize,
                    Fallocate::PunchHole,
                    Fallocate::ZeroRange,
                    Fallocate::ZeroRangeKeepSize,
                ][usize::from(mode % 5)];
                let got = engine.fallocate(handle, offset, length, mode, &caller(who));
                let want = self.oracle.fallocate(handle, offset, length, mode, &caller(who), now);
                self.agree(&got, &want)?;
                self.check_handle(handle)?
            }
            Operation::Seek { handle, offset, hole } => {
                let handle = self.oracle.pick(handle);
                let offset = OFFSETS[usize::from(offset) % OFFSETS.len()];
                let whence = if hole { Whence::Hole } else { Whence::Data };
                let got = engine.seek(handle, offset, whence);
                self.check_seek(handle, offset, whence, got)?;
                Effect::Nothing
            }
            Operation::Copy { from, from_offset, to, to_offset, length, who } => {
                let (from, to) = (self.oracle.pick(from), self.oracle.pick(to));
                let from_offset = OFFSETS[usize::from(from_offset) % OFFSETS.len()];
                let to_offset = OFFSETS[usize::from(to_offset) % OFFSETS.len()];
                let mut length = SPANS[usize::from(length) % SPANS.len()];
                if self.oracle.content_of(from).is_ok_and(|content| content.size() > 1 << 24) {
                    length = length.min(400_000); // a hole of terabytes is not what is looked for here
                }
                let before = engine.point().0;
                let got = engine.copy_range(from, from_offset, to, to_offset, length, &caller(who));
                let want = self.oracle.copy((from, from_offset), (to, to_offset), length, &caller(who), now);
                if want.is_ok() {
                    self.oracle.copied_in_parts(
                        (from, from_offset),
                        (to, to_offset),
                        length,
                        (before, engine.point().0),
                        (caller(who).uid != 0, now),
                    );
                }
                if self.agree(&got, &want)? {
                    ensure!(got.as_ref().ok() == want.as_ref().ok(), "copied {got:?} bytes, must copy {want:?}");
                }
                self.check_handle(to)?
            }
            Operation::Fsync { handle } => {
                let handle = self.oracle.pick(handle);
                let got = engine.fsync(handle);
                let point = engine.point().0;
                let want = self.oracle.fsync(handle, point);
                if self.agree(&got, &want)? && self.oracle.handle(handle).is_ok_and(|open| open.view.at == At::Live) {
                    self.oracle.durable = point;
                }
                Effect::Nothing
            }
            Operation::Save { at, length, seed } => {
                let (view, dir, name) = self.oracle.existing(at);
                let temporary = b".save".to_vec();
                let caller = caller(1);
                let got = engine.create(view, dir, &temporary, 0o644, 0o022, libc::O_WRONLY, &caller);
                let Ok((attr, handle)) = got else { return Ok(Effect::Nothing) };
                let ino = self.born(Some(attr.ino))?;
                let birth = Birth { ino, now, caller: &caller, perm: 0o644, umask: 0o022 };
                let body = Body::File(Default::default());
                let want =
                    self.oracle.writable(view).and_then(|tree| tree.make(dir, &temporary, Kind::File, 0, body, &birth));
                self.agree_attr(view, &Ok(attr), &want)?;
                self.oracle.opened(handle, view, ino, libc::O_WRONLY);
                self.oracle.record(engine.point().0, false);
                let data = bytes(LENGTHS[usize::from(length) % LENGTHS.len()], seed);
                let got = engine.write(handle, 0, &data, true, &caller);
                let want = self.oracle.write(handle, 0, &data, true, now);
                self.agree(&got, &want)?;
                self.oracle.record(engine.point().0, false);
                let got = engine.release(handle);
                let want = self.oracle.release(handle, engine.point().0);
                self.agree(&got, &want)?;
                self.oracle.record(engine.point().0, false);
                let got = engine.rename(view, dir, &temporary, dir, &name, RenameMode::Replace, &caller);
                let tree = self.oracle.writable(view).expect("live");
                let want = tree.rename(dir, &temporary, dir, &name, RenameMode::Replace, now);
                let done = self.agree(&got, &want)?;
                if !done {
                    self.oracle.record(engine.point().0, false);
                    let got = engine.unlink(view, dir, &temporary, &caller);
                    let want = self.oracle.writable(view).and_then(|tree| tree.unlink(dir, &temporary, now));
                    self.agree(&got, &want)?;
                }
                Effect::Event
            }
            Operation::Tick { nanos } => {
                self.clock.advance(nanos);
                Effect::Nothing
            }
            Operation::Fork { branch, back, name } => self.fork(branch, back, name)?,
            Operation::RenameBranch { branch, name } => {
                let id = self.oracle.named_branch(branch);
                let name = BRANCHES[usize::from(name) % BRANCHES.len()];
                if self.oracle.name_taken(name) || id == BranchId::MAIN {
                    return Ok(Effect::Nothing);
                }
                let mut row = engine.branch(id).ok_or("the branch is not known")?;
                row.name = Some(name.to_vec());
                engine.update_branch(row, &caller(0)).map_err(|error| error.to_string())?;
                self.oracle.world.branches.get_mut(&id).expect("live").name = Some(name.to_vec());
                Effect::Event
            }
            Operation::DropBranch { branch } => {
                let id = self.oracle.named_branch(branch);
                let parent = |b: &crate::oracle::Branch| b.base.is_some_and(|(parent, _)| parent == id);
                let open = self.oracle.handles.values().any(|(_, open)| open.view.branch == id);
                let tagged = self.oracle.world.tags.values().any(|view| view.branch == id);
                if id == BranchId::MAIN || open || tagged || self.oracle.world.branches.values().any(parent) {
                    return Ok(Effect::Nothing);
                }
                let mut row = engine.branch(id).ok_or("the branch is not known")?;
                row.dropped = Some(engine.point().0.next());
                engine.update_branch(row, &caller(0)).map_err(|error| error.to_string())?;
                self.oracle.world.branches.get_mut(&id).expect("live").dropped = true;
                Effect::Event
            }
            Operation::Tag { branch, back, name } => {
                let (branch, seq) = (self.oracle.named_branch(branch), self.oracle.point(back));
                let name = BRANCHES[usize::from(name) % BRANCHES.len()];
                if self.oracle.name_taken(name) || self.oracle.past(branch, seq).is_none() {
                    return Ok(Effect::Nothing);
                }
                let row =
                    TagRow { name: name.to_vec(), branch, seq, time: now, uid: 0, message: String::from("for a test") };
                engine.set_tag(name, Some(row), &caller(0)).map_err(|error| error.to_string())?;
                self.oracle.world.tags.insert(name.to_vec(), View::as_of(branch, seq));
                Effect::Event
            }
            Operation::Untag { name } => {
                let name = BRANCHES[usize::from(name) % BRANCHES.len()];
                if self.oracle.world.tags.remove(name).is_none() {
                    return Ok(Effect::Nothing);
                }
                engine.set_tag(name, None, &caller(0)).map_err(|error| error.to_string())?;
                Effect::Event
            }
            Operation::ReadPast { branch, back } => {
                let (branch, seq) = (self.oracle.branch(branch), self.oracle.point(back));
                self.compare_past(branch, seq)?;
                Effect::Nothing
            }
            Operation::OpenPast { on, back } => {
                let (live, ino) = self.oracle.file(on);
                let view = View::as_of(live.branch, self.oracle.point(back));
                self.open(view, ino, libc::O_RDONLY, &caller(0))?
            }
            Operation::WritePast { on, back, what } => {
                let (live, ino) = self.oracle.target(on);
                let view = View::as_of(live.branch, self.oracle.point(back));
                self.write_past(view, ino, what)?;
                Effect::Nothing
            }
            Operation::Begin { branch, run, serializable } => self.begin(branch, run, serializable)?,
            Operation::Learn { txn, at, what } => self.learn(txn, at, what)?,
            Operation::Commit { txn } => self.commit(txn)?,
            Operation::Rollback { txn } => {
                let Some(id) = self.oracle.txn(txn) else { return Ok(Effect::Nothing) };
                self.rollback(id)?
            }
            Operation::Merge { from, back, into, strategy, keep } => self.merge(from, back, into, strategy, keep)?,
            Operation::Resolve { txn, conflict, all, how } => self.resolve(txn, conflict, all, how)?,
            Operation::Undo { branch, what, back, force } => self.undo(branch, what, back, force)?,
            Operation::Redo { branch, force } => self.redo(branch, force)?,
            Operation::Restore { on, from, back } => self.restore(on, from, back)?,
            Operation::RollbackTo { branch, from, back } => self.rollback_to(branch, from, back)?,
            Operation::Seal { branch } => {
                let branch = branch.map(|branch| self.oracle.branch(branch));
                let point = engine.seal(branch).map_err(|error| error.to_string())?;
                self.oracle.seal(branch, point);
                Effect::Nothing
            }
            Operation::Sync => {
                let point = engine.sync().map_err(|error| error.to_string())?;
                ensure!(point == engine.point().0, "sync reached {point:?}, the point is {:?}", engine.point());
                self.oracle.seal(None, point);
                self.oracle.durable = point;
                Effect::Cut
            }
            Operation::Flush => {
                let point = engine.point().0;
                engine.flush(point).map_err(|error| error.to_string())?;
                self.oracle.durable = point; // abandoning the engine loses nothing that the store has
                Effect::Nothing
            }
            Operation::Check => {
                self.compare_all()?;
                Effect::Nothing
            }
            Operation::Reopen | Operation::Crash => Effect::Cut,
        })
    }

    fn setattr(&mut self, view: View, ino: Ino, set: &SetAttr, handle: Option<Handle>, caller: &Caller) -> Check<bool> {
        let now = self.now();
        let got = self.engine().setattr(view, ino, set, handle, caller);
        let point = self.engine().point().0;
        let want = self.oracle.setattr(view, ino, set, handle, caller, now, point);
        self.agree_attr(view, &got, &want)
    }

    fn open(&mut self, view: View, ino: Ino, flags: i32, caller: &Caller) -> Check<Effect> {
        let now = self.now();
        let got = self.engine().open_file(view, ino, flags, caller);
        let want = self.oracle.open(view, ino, flags, caller, now);
        if self.agree(&got, &want)? {
            let handle = got.expect("agreed");
            self.oracle.opened(handle, view, ino, flags);
            if flags & libc::O_TRUNC != 0 {
                self.oracle.truncated_by(handle);
            }
            return self.check_handle(handle);
        }
        Ok(Effect::Nothing)
    }

    /// Compares the attributes of what a handle is open on.
    fn check_handle(&self, handle: Handle) -> Check<Effect> {
        if let Ok(open) = self.oracle.handle(handle)
            && open.view.at == At::Live
        {
            let got = self.engine().getattr(open.view, open.ino);
            self.agree_attr(open.view, &got, &Ok(()))?;
        }
        Ok(Effect::Nothing)
    }

    fn check_seek(&self, handle: Handle, offset: u64, whence: Whence, got: Result<u64, FsError>) -> Check<()> {
        let content = match self.oracle.content_of(handle) {
            Err(refusal) => return self.agree(&got, &Err::<(), _>(refusal)).map(drop),
            Ok(_) if self.oracle.handle(handle).is_ok_and(|open| open.view.at != At::Live) => return Ok(()),
            Ok(content) => content,
        };
        let size = content.size();
        let next_data = content.pages().map(|page| page * 4096).find(|&start| start + 4096 > offset);
        match (got, whence) {
            (Err(FsError::NoSuchOffset), _) if offset >= size => Ok(()),
            (Err(FsError::NoSuchOffset), Whence::Data) => {
                let rest = next_data.map_or(Vec::new(), |_| content.read(offset, 1 << 21));
                ensure!(rest.iter().all(|&byte| byte == 0), "no data after {offset} of {content:?}");
                Ok(())
            }
            (Ok(at), _) => {
                ensure!(offset < size, "found {at} beyond the end, {size}");
                ensure!(
                    at >= offset && (at < size || (at == size && whence == Whence::Hole)),
                    "found {at} from {offset} of {size}"
                );
                let (from, to) = if whence == Whence::Data { (offset, at) } else { (at, (at + 1).min(size)) };
                // Between here and the data, and in the hole, nothing but zeros.
                let first = content.pages().map(|page| page * 4096).find(|&start| start + 4096 > from && start < to);
                let zeros = first.is_none_or(|first| {
                    content.read(from.max(first), (to - from.max(first)).min(1 << 21)).iter().all(|&byte| byte == 0)
                });
                ensure!(zeros, "{whence:?} from {offset} is {at}: not all zeros in {from}..{to} of {content:?}");
                Ok(())
            }
            (Err(error), _) => Err(format!("failed with {error:?}")),
        }
    }

    fn fork(&mut self, branch: u8, back: Option<u8>, name: u8) -> Check<Effect> {
        if self.oracle.live().len() >= 5 {
            return Ok(Effect::Nothing);
        }
        let parent = self.oracle.named_branch(branch);
        let name = BRANCHES[usize::from(name) % BRANCHES.len()];
        let view = match back {
            Some(back) => View::as_of(parent, self.oracle.point(back)),
            None => View::live(parent),
        };
        let tree = match view.at {
            At::Live => {
                let point = self.engine().seal(Some(parent)).map_err(|error| error.to_string())?;
                self.oracle.seal(Some(parent), point);
                self.oracle.record(point, false);
                self.oracle.world.trees[&parent].clone()
            }
            At::AsOf(seq) => self.compare_past(parent, seq)?,
        };
        let before = self.engine().point().0;
        let got = self.engine().fork(Some(name), view, &caller(0));
        let want = if self.oracle.name_taken(name) { Err(vec![libc::EEXIST]) } else { Ok(()) };
        if !self.agree(&got, &want)? {
            return Ok(Effect::Nothing);
        }
        let row = got.expect("agreed");
        ensure!(row.name.as_deref() == Some(name), "the branch is called {:?}", row.name);
        ensure!(!self.oracle.world.branches.contains_key(&row.id), "branch number {} was used before", row.id);
        let (origin, base) = (row.parent.ok_or("the branch has no parent")?, row.base);
        match view.at {
            At::Live => ensure!(origin == parent && base >= before, "forked from {origin} at {base}"),
            At::AsOf(seq) => ensure!(origin == parent && base == seq, "forked from {origin} at {base}, not at {seq}"),
        }
        self.oracle.fork(row.id, Some(name.to_vec()), (origin, base), tree);
        // Directories' times of the past may be those of the group's end: what it shows is what it has.
        let seen = self.compare(View::live(row.id), &self.oracle.world.trees[&row.id], true, back.is_none())?;
        let tree = self.oracle.world.trees.get_mut(&row.id).expect("forked");
        tree.nodes.extend(seen.nodes);
        Ok(Effect::Event)
    }

    /// Every kind of change must be refused in the past.
    fn write_past(&mut self, view: View, ino: Ino, what: u8) -> Check<()> {
        let engine = self.engine().clone();
        let who = caller(0);
        let set = SetAttr { perm: Some(0o700), ..SetAttr::default() };
        let got: Result<(), FsError> = match what % 8 {
            0 => engine.mkdir(view, Ino::ROOT, b"past", 0o755, 0, &who).map(drop),
            1 => engine.setattr(view, ino, &set, None, &who).map(drop),
            2 => engine.unlink(view, Ino::ROOT, b"a", &who),
            3 => engine.rename(view, Ino::ROOT, b"a", Ino::ROOT, b"past", RenameMode::Replace, &who),
            4 => engine.setxattr(view, ino, b"user.a", b"1", XattrMode::Set, &who),
            5 => engine.open_file(view, ino, libc::O_RDWR, &who).map(drop),
            6 => engine.create(view, Ino::ROOT, b"past", 0o644, 0, libc::O_RDWR, &who).map(drop),
            _ => engine.link(view, ino, Ino::ROOT, b"past", &who).map(drop),
        };
        self.agree(&got, &Err::<(), _>(vec![libc::EROFS]))?;
        Ok(())
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("opened")
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// Opens the database again; returns the last event that it has.
    fn start(&mut self) -> Check<Seq> {
        self.engine = None; // and with it the lock on the database
        let store = open_store(self.directory.path(), None)?;
        let found = store.read().and_then(|read| read.counters()).map_err(|error| error.to_string())?.seq;
        let engine =
            Engine::open(store, self.clock.clone(), options(self.memory)).map_err(|error| format!("open: {error}"))?;
        self.engine = Some(engine);
        Ok(found)
    }

    fn reopen(&mut self) -> Check<()> {
        self.engine().close().map_err(|error| format!("close: {error}"))?;
        let point = self.engine().point().0;
        let found = self.start()?;
        self.oracle.end_runs();
        ensure!(found >= point, "the point was {point}, is {found} after opening again");
        self.oracle.seal(None, found);
        self.oracle.forget_handles();
        self.oracle.durable = found;
        self.compare_all()?;
        self.check_store()
    }

    fn crash(&mut self) -> Check<()> {
        let reached = self.engine().point().0;
        self.engine().abandon();
        let found = self.start()?;
        let durable = self.oracle.durable;
        ensure!(found >= durable, "the crash went back to {found}, everything up to {durable} was durable");
        ensure!(found <= reached, "after the crash the point is {found}, it was {reached} before");
        self.oracle.crash(found);
        self.looked.clear();
        self.events.retain(|(_, last, _)| *last <= found);
        self.last = self.engine().point();
        self.given = self.oracle.known();
        for branch in self.oracle.live() {
            let tree = self.compare(View::live(branch), &self.oracle.world.trees[&branch], false, true);
            let mut tree = tree.map_err(|error| format!("after the crash, at {found}: {error}"))?;
            for node in tree.nodes.values_mut() {
                node.earlier.clear();
            }
            self.oracle.world.trees.insert(branch, tree);
        }
        self.compare_branches().map_err(|error| format!("after the crash, at {found}: {error}"))?;
        self.check_store()
    }

    /// Looks for damage in the database, and for inodes that nobody can reach.
    pub fn check_store(&self) -> Check<()> {
        let store = self.engine().store();
        let findings = store.check().map_err(|error| error.to_string())?;
        ensure!(findings.is_empty(), "the store's check finds {findings:?}");
        Ok(())
    }

    /// Compares everything, and a sample of the past.
    pub fn finish(mut self) -> Check<()> {
        self.compare_all()?;
        let point = self.engine().sync().map_err(|error| error.to_string())?;
        self.oracle.seal(None, point);
        self.oracle.record(point, true);
        let stride = (self.oracle.steps.len() / 12).max(1);
        let points: BTreeSet<Seq> = self.oracle.steps.iter().step_by(stride).map(|step| step.point).collect();
        for branch in self.oracle.live() {
            for &seq in &points {
                self.compare_past(branch, seq)?;
            }
        }
        self.reopen()?;
        for branch in self.oracle.live() {
            for &seq in &points {
                self.compare_past(branch, seq).map_err(|error| format!("after opening again: {error}"))?;
            }
        }
        self.check_events()?;
        self.engine().close().map_err(|error| format!("close: {error}"))
    }

    /// The record is complete, its numbers and times strictly increase, and everything can be verified.
    fn check_events(&self) -> Check<()> {
        let store = self.engine().store();
        let read = store.read().map_err(|error| error.to_string())?;
        let events = read.events(&EventFilter::default()).map_err(|error| error.to_string())?;
        for pair in events.windows(2) {
            ensure!(pair[0].seq < pair[1].seq, "events {} and {} are out of order", pair[0].seq, pair[1].seq);
            ensure!(pair[0].time < pair[1].time, "events {} and {} have times out of order", pair[0].seq, pair[1].seq);
        }
        for &(after, upto, op) in &self.events {
            let found: Vec<Op> =
                events.iter().filter(|event| event.seq > after && event.seq <= upto).map(|event| event.op).collect();
            ensure!(found.contains(&op), "no {op:?} is recorded in e{after}..=e{upto}, but {found:?}");
        }
        let proof = stonefs::audit::verify(read.as_ref()).map_err(|error| error.to_string())?;
        ensure!(proof.findings.is_empty(), "verification finds {:?}", proof.findings);
        Ok(())
    }
}

/// What an operation that is an event of its own is recorded as.
fn recorded_as(operation: &Operation) -> Option<Op> {
    Some(match operation {
        Operation::Create { .. } | Operation::Mknod { kind: 0, .. } => Op::Create,
        Operation::Mknod { .. } => Op::Mknod,
        Operation::Mkdir { .. } => Op::Mkdir,
        Operation::Symlink { .. } => Op::Symlink,
        Operation::Link { .. } => Op::Link,
        Operation::Unlink { .. } => Op::Unlink,
        Operation::Rmdir { .. } => Op::Rmdir,
        Operation::Rename { mode: 4.., .. } => Op::Exchange,
        Operation::Rename { .. } => Op::Rename,
        Operation::Chmod { .. } => Op::Chmod,
        Operation::Chown { .. } => Op::Chown,
        Operation::Utimens { .. } => Op::Utimens,
        Operation::Truncate { .. } => Op::Truncate,
        Operation::Setxattr { .. } | Operation::SetAcl { .. } => Op::Setxattr,
        Operation::Removexattr { .. } => Op::Removexattr,
        Operation::Fork { .. } | Operation::RenameBranch { .. } | Operation::DropBranch { .. } => Op::Branch,
        Operation::Tag { .. } | Operation::Untag { .. } => Op::Tag,
        Operation::Begin { .. } => Op::Begin,
        _ => return None,
    })
}

/// What an operation did to the sequence of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that must be an event of its own.
    Nothing,
    /// An event of its own.
    Event,
    /// An event of its own, of this kind.
    Made(Op),
    /// Everything is written out.
    Cut,
}

fn show(refusal: &[i32]) -> String {
    let name = |&errno: &i32| std::io::Error::from_raw_os_error(errno).to_string();
    refusal.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn show_bytes(bytes: &[u8]) -> String {
    let first = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{} bytes, {first}..", bytes.len())
}

pub fn difference(before: &Tree, now: &Tree) -> String {
    for (ino, node) in &before.nodes {
        match now.nodes.get(ino) {
            Some(other) if other == node => {}
            other => return format!("{ino} was {node:?}, is {other:?}"),
        }
    }
    format!("{} nodes, now {}", before.nodes.len(), now.nodes.len())
}
