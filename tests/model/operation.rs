//! What a random run does: operations with small numbers in them, resolved against the reference's
//! state when they run, so that names, inodes and offsets collide and shrunk runs stay meaningful.

use proptest::prelude::*;

/// A branch, a directory of it and a name. Names of 128 and more mean an entry that exists.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub branch: u8,
    pub dir: u8,
    pub name: u8,
}

/// An inode of a branch; a few numbers mean one that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub branch: u8,
    pub node: u8,
}

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Operation {
    Create {
        at: Place,
        mode: u16,
        umask: u16,
        flags: u8,
        who: u8,
    },
    Mknod {
        at: Place,
        kind: u8,
        mode: u16,
        umask: u16,
        rdev: u32,
        who: u8,
    },
    Mkdir {
        at: Place,
        mode: u16,
        umask: u16,
        who: u8,
    },
    Symlink {
        at: Place,
        length: u8,
        who: u8,
    },
    Link {
        from: Target,
        at: Place,
    },
    Unlink {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        mode: u8,
    },
    Lookup {
        at: Place,
    },
    Chmod {
        on: Target,
        mode: u16,
        who: u8,
    },
    Chown {
        on: Target,
        uid: Option<u8>,
        gid: Option<u8>,
        who: u8,
    },
    Utimens {
        on: Target,
        atime: Option<i16>,
        mtime: Option<i16>,
    },
    Truncate {
        on: Target,
        size: u8,
        who: u8,
    },
    Ftruncate {
        handle: u8,
        size: u8,
        who: u8,
    },
    Setxattr {
        on: Target,
        name: u8,
        value: u8,
        mode: u8,
    },
    Removexattr {
        on: Target,
        name: u8,
    },
    SetAcl {
        on: Target,
        default: bool,
        perms: u16,
        named: Option<u8>,
        broken: bool,
    },
    Open {
        on: Target,
        flags: u8,
        who: u8,
    },
    Release {
        handle: u8,
    },
    Read {
        handle: u8,
        offset: u8,
        length: u8,
    },
    Write {
        handle: u8,
        offset: u8,
        length: u8,
        seed: u8,
        kill_suid: bool,
        who: u8,
    },
    Fallocate {
        handle: u8,
        offset: u8,
        length: u8,
        mode: u8,
        who: u8,
    },
    Seek {
        handle: u8,
        offset: u8,
        hole: bool,
    },
    Copy {
        from: u8,
        from_offset: u8,
        to: u8,
        to_offset: u8,
        length: u8,
        who: u8,
    },
    Fsync {
        handle: u8,
    },
    /// Writes a new file and renames it over another, as editors save.
    Save {
        at: Place,
        length: u8,
        seed: u8,
    },
    Tick {
        nanos: i64,
    },
    Fork {
        branch: u8,
        back: Option<u8>,
        name: u8,
    },
    RenameBranch {
        branch: u8,
        name: u8,
    },
    DropBranch {
        branch: u8,
    },
    Tag {
        branch: u8,
        back: u8,
        name: u8,
    },
    Untag {
        name: u8,
    },
    ReadPast {
        branch: u8,
        back: u8,
    },
    OpenPast {
        on: Target,
        back: u8,
    },
    WritePast {
        on: Target,
        back: u8,
        what: u8,
    },
    Begin {
        branch: u8,
        run: bool,
        serializable: bool,
    },
    /// Reads something in a serializable transaction.
    Learn {
        txn: u8,
        at: Place,
        what: u8,
    },
    Commit {
        txn: u8,
    },
    Rollback {
        txn: u8,
    },
    Merge {
        from: u8,
        back: Option<u8>,
        into: u8,
        strategy: u8,
        keep: bool,
    },
    /// Decides conflicts of a merge that waits.
    Resolve {
        txn: u8,
        conflict: u8,
        all: bool,
        how: u8,
    },
    Undo {
        branch: u8,
        what: u8,
        back: u8,
        force: bool,
    },
    Redo {
        branch: u8,
        force: bool,
    },
    Restore {
        on: Target,
        from: Option<u8>,
        back: u8,
    },
    RollbackTo {
        branch: u8,
        from: Option<u8>,
        back: u8,
    },
    Seal {
        branch: Option<u8>,
    },
    Sync,
    Flush,
    Check,
    Reopen,
    Crash,
}

/// Which operations a run prefers.
#[derive(Clone, Copy, Debug)]
pub struct Taste {
    pub names: u32,
    pub attributes: u32,
    pub contents: u32,
    pub history: u32,
    pub transactions: u32,
    pub merges: u32,
    pub ends: u32,
}

fn place() -> impl Strategy<Value = Place> {
    let dir = prop_oneof![20 => 0..6u8, 1 => 250..=255u8];
    let name = prop_oneof![30 => 0..5u8, 40 => 128..170u8, 1 => 5..12u8];
    (branch(), dir, name).prop_map(|(branch, dir, name)| Place { branch, dir, name })
}

fn target() -> impl Strategy<Value = Target> {
    (branch(), prop_oneof![30 => 0..16u8, 1 => 250..=255u8]).prop_map(|(branch, node)| Target { branch, node })
}

fn branch() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 2 => 0..4u8]
}

fn handle() -> impl Strategy<Value = u8> {
    prop_oneof![40 => 0..6u8, 1 => Just(255u8)]
}

fn mode() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0o644u16), Just(0o755), Just(0o777), Just(0o640), 0..0o10000u16]
}

fn umask() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0o022u16), Just(0), Just(0o077), Just(0o027)]
}

/// Indexes of [`OFFSETS`], the first ones more often.
fn offset() -> impl Strategy<Value = u8> {
    prop_oneof![10 => 0..12u8, 3 => 12..18u8, 1 => 18..OFFSETS.len() as u8]
}

fn length() -> impl Strategy<Value = u8> {
    prop_oneof![10 => 0..9u8, 3 => 9..LENGTHS.len() as u8]
}

fn span() -> impl Strategy<Value = u8> {
    0..SPANS.len() as u8
}

/// Offsets and sizes: around the largest inline content, a page, a chunk, and far out.
pub const OFFSETS: &[u64] = &[
    0,
    1,
    5,
    2047,
    2048,
    2049,
    4096,
    131_071,
    131_072,
    131_073,
    100,
    1000,
    4095,
    4097,
    262_143,
    262_144,
    300_000,
    393_216,
    1 << 20,
    (1 << 32) + 5,
    1 << 40,
    i64::MAX as u64 - 10,
    i64::MAX as u64,
    u64::MAX - 1,
];

/// Lengths of writes.
pub const LENGTHS: &[usize] = &[1, 2, 10, 1000, 2047, 2048, 2049, 4096, 0, 131_071, 131_072, 131_073, 200_000, 262_144];

/// Lengths of ranges.
pub const SPANS: &[u64] = &[
    0,
    1,
    10,
    2048,
    4096,
    5000,
    131_071,
    131_072,
    131_073,
    262_144,
    400_000,
    1 << 30,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

pub fn operation(taste: Taste) -> impl Strategy<Value = Operation> {
    use Operation::*;
    let who = || 0..3u8;
    let names = prop_oneof![
        6 => (place(), mode(), umask(), 0..8u8, who())
            .prop_map(|(at, mode, umask, flags, who)| Create { at, mode, umask, flags, who }),
        2 => (place(), 0..7u8, mode(), umask(), 0..1000u32, who())
            .prop_map(|(at, kind, mode, umask, rdev, who)| Mknod { at, kind, mode, umask, rdev, who }),
        5 => (place(), mode(), umask(), who()).prop_map(|(at, mode, umask, who)| Mkdir { at, mode, umask, who }),
        2 => (place(), 0..30u8, who()).prop_map(|(at, length, who)| Symlink { at, length, who }),
        4 => (target(), place()).prop_map(|(from, at)| Link { from, at }),
        5 => place().prop_map(|at| Unlink { at }),
        4 => place().prop_map(|at| Rmdir { at }),
        9 => (place(), place(), 0..6u8).prop_map(|(from, to, mode)| Rename { from, to, mode }),
        1 => place().prop_map(|at| Lookup { at }),
    ];
    let attributes = prop_oneof![
        4 => (target(), mode(), who()).prop_map(|(on, mode, who)| Chmod { on, mode, who }),
        3 => (target(), prop::option::of(0..3u8), prop::option::of(0..3u8), who())
            .prop_map(|(on, uid, gid, who)| Chown { on, uid, gid, who }),
        2 => (target(), prop::option::of(-3..30i16), prop::option::of(-3..30i16))
            .prop_map(|(on, atime, mtime)| Utimens { on, atime, mtime }),
        3 => (target(), offset(), who()).prop_map(|(on, size, who)| Truncate { on, size, who }),
        4 => (target(), 0..5u8, 0..7u8, 0..4u8)
            .prop_map(|(on, name, value, mode)| Setxattr { on, name, value, mode }),
        2 => (target(), 0..7u8).prop_map(|(on, name)| Removexattr { on, name }),
        3 => (target(), any::<bool>(), 0..0o1000u16, prop::option::of(0..8u8), prop::bool::weighted(0.1))
            .prop_map(|(on, default, perms, named, broken)| SetAcl { on, default, perms, named, broken }),
    ];
    let contents = prop_oneof![
        7 => (target(), 0..16u8, who()).prop_map(|(on, flags, who)| Open { on, flags, who }),
        5 => handle().prop_map(|handle| Release { handle }),
        2 => (handle(), offset(), length()).prop_map(|(handle, offset, length)| Read { handle, offset, length }),
        12 => (handle(), offset(), length(), 0..250u8, any::<bool>(), who()).prop_map(
            |(handle, offset, length, seed, kill_suid, who)| Write { handle, offset, length, seed, kill_suid, who }
        ),
        3 => (handle(), offset(), who()).prop_map(|(handle, size, who)| Ftruncate { handle, size, who }),
        4 => (handle(), offset(), span(), 0..5u8, who()).prop_map(
            |(handle, offset, length, mode, who)| Fallocate { handle, offset, length, mode, who }
        ),
        2 => (handle(), offset(), any::<bool>()).prop_map(|(handle, offset, hole)| Seek { handle, offset, hole }),
        4 => (handle(), offset(), handle(), offset(), span(), who()).prop_map(
            |(from, from_offset, to, to_offset, length, who)| Copy { from, from_offset, to, to_offset, length, who }
        ),
        2 => handle().prop_map(|handle| Fsync { handle }),
        3 => (place(), length(), 0..250u8).prop_map(|(at, length, seed)| Save { at, length, seed }),
    ];
    let history = prop_oneof![
        3 => (branch(), prop::option::of(any::<u8>()), 0..6u8)
            .prop_map(|(branch, back, name)| Fork { branch, back, name }),
        1 => (branch(), 0..6u8).prop_map(|(branch, name)| RenameBranch { branch, name }),
        1 => branch().prop_map(|branch| DropBranch { branch }),
        1 => (branch(), any::<u8>(), 0..6u8).prop_map(|(branch, back, name)| Tag { branch, back, name }),
        1 => (0..6u8).prop_map(|name| Untag { name }),
        6 => (branch(), any::<u8>()).prop_map(|(branch, back)| ReadPast { branch, back }),
        1 => (target(), any::<u8>()).prop_map(|(on, back)| OpenPast { on, back }),
        1 => (target(), any::<u8>(), 0..8u8).prop_map(|(on, back, what)| WritePast { on, back, what }),
        2 => prop::option::of(branch()).prop_map(|branch| Seal { branch }),
        1 => Just(Flush),
    ];
    let transactions = prop_oneof![
        4 => (branch(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(branch, run, serializable)| Begin { branch, run, serializable }),
        2 => (0..4u8, place(), 0..5u8).prop_map(|(txn, at, what)| Learn { txn, at, what }),
        3 => (0..4u8).prop_map(|txn| Commit { txn }),
        1 => (0..4u8).prop_map(|txn| Rollback { txn }),
    ];
    let back = || prop_oneof![2 => 0..12u8, 1 => any::<u8>()];
    let merges = prop_oneof![
        8 => (0..5u8, prop::option::weighted(0.25, back()), 0..5u8, 0..6u8, any::<bool>())
            .prop_map(|(from, back, into, strategy, keep)| Merge { from, back, into, strategy, keep }),
        3 => (0..4u8, any::<u8>(), any::<bool>(), 0..5u8)
            .prop_map(|(txn, conflict, all, how)| Resolve { txn, conflict, all, how }),
        4 => (branch(), 0..4u8, back(), prop::bool::weighted(0.2))
            .prop_map(|(branch, what, back, force)| Undo { branch, what, back, force }),
        2 => (branch(), prop::bool::weighted(0.2)).prop_map(|(branch, force)| Redo { branch, force }),
        2 => (target(), prop::option::weighted(0.3, branch()), back())
            .prop_map(|(on, from, back)| Restore { on, from, back }),
        1 => (branch(), prop::option::weighted(0.3, branch()), back())
            .prop_map(|(branch, from, back)| RollbackTo { branch, from, back }),
    ];
    let ends = prop_oneof![2 => Just(Sync), 1 => Just(Reopen), 2 => Just(Crash)];
    let tick = prop_oneof![Just(0i64), Just(1), Just(1_000), Just(1_000_000_000), Just(-500), Just(-3_000_000_000)];
    prop_oneof![
        taste.names => names,
        taste.attributes => attributes,
        taste.contents => contents,
        taste.history => history,
        taste.transactions => transactions,
        taste.merges => merges,
        taste.ends => ends,
        8 => tick.prop_map(|nanos| Tick { nanos }),
        4 => Just(Check),
    ]
}
