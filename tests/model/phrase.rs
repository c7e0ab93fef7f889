//! Operations that belong together: what it takes for the rare shapes of merges to come about.

use proptest::prelude::*;

use crate::operation::Operation::{self, *};
use crate::operation::{Place, Target, Taste, operation};

/// Two branches, a directory of theirs, and a name that exists.
type Where = (u8, u8, u8, u8);

fn at((dir, name): (u8, u8), branch: u8) -> Place {
    Place { branch, dir, name }
}

fn fork(branch: u8) -> Operation {
    Fork { branch, back: None, name: 1 + branch % 3 }
}

fn merge(from: u8, into: u8, back: Option<u8>, strategy: u8) -> Operation {
    Merge { from, back, into, strategy, keep: false }
}

/// Each branch is merged into the other as it was before; then both go on.
fn crossed((a, b, dir, name): Where, kind: u8) -> Vec<Operation> {
    let save = |branch, seed| Save { at: at((dir, name.wrapping_add(seed)), branch), length: 2, seed };
    let mut phrase = vec![fork(a), save(a, 1), save(b, 2), merge(a, b, None, 4), merge(b, a, Some(1), 5)];
    phrase.extend([save(a, 3), save(b, kind), merge(a, b, None, kind), merge(b, a, None, kind)]);
    phrase
}

/// The same file is replaced on both sides.
fn saved((a, b, dir, name): Where, kind: u8) -> Vec<Operation> {
    let save = |branch, seed| Save { at: at((dir, name), branch), length: seed % 3, seed };
    let file = Create { at: at((dir, 0), a), mode: 0o644, umask: 0, flags: 0, who: 0 };
    vec![file, fork(a), save(a, 1), save(b, kind), merge(a, b, None, kind), save(a, 4), merge(a, b, None, kind)]
}

/// The same file is moved, or gets and loses names, on both sides.
fn moved((a, b, dir, name): Where, kind: u8) -> Vec<Operation> {
    let rename = |branch, to| Rename { from: at((dir, name), branch), to: at((dir, to), branch), mode: kind };
    let link = |branch, to| Link { from: Target { branch, node: dir + 1 }, at: at((dir, to), branch) };
    let unlink = |branch| Unlink { at: at((dir, name), branch) };
    let mut phrase = vec![link(a, 1), fork(a)];
    phrase.extend(match kind {
        0 | 1 => [rename(a, 0), rename(b, 2)],
        2 | 3 => [link(a, 0), unlink(b)],
        _ => [unlink(a), rename(b, 3)],
    });
    phrase.extend([merge(a, b, None, kind), merge(b, a, None, kind)]);
    phrase
}

/// A directory is removed on one side and filled on the other.
fn filled((a, b, dir, name): Where, kind: u8) -> Vec<Operation> {
    let mkdir = |branch| Mkdir { at: at((0, name % 5), branch), mode: 0o755, umask: 0, who: 0 };
    let create = Create { at: at((dir, 1), b), mode: 0o644, umask: 0, flags: 0, who: 0 };
    let remove = (128..140).map(|name| Rmdir { at: at((dir, name), a) });
    let mut phrase = vec![mkdir(a), fork(a)];
    phrase.extend(remove);
    phrase.extend([create, merge(a, b, None, kind), merge(b, a, None, kind)]);
    phrase
}

/// A file is taken over from another branch and changed on one side.
fn brought((a, b, dir, name): Where, kind: u8) -> Vec<Operation> {
    let save = Save { at: at((dir, name % 5), a), length: 2, seed: 9 };
    let restore = Restore { on: Target { branch: b, node: 0 }, from: Some(a), back: 0 };
    let change = match kind % 3 {
        0 => Rename { from: at((dir, name), b), to: at((dir, 0), b), mode: 0 },
        1 => Truncate { on: Target { branch: b, node: dir }, size: 2, who: 0 },
        _ => Unlink { at: at((dir, name), b) },
    };
    vec![fork(a), save, Seal { branch: None }, restore, change, merge(b, a, None, kind), merge(a, b, None, kind)]
}

/// A file is replaced, merged, moved away, and brought back to where it was.
fn brought_back((a, b, dir, name): Where, kind: u8) -> Vec<Operation> {
    let save = Save { at: at((dir, name), a), length: 2, seed: 5 };
    let away = Rename { from: at((dir, name), a), to: at((0, name % 5), a), mode: 2 };
    let restore = Restore { on: Target { branch: a, node: 0 }, from: None, back: 4 };
    let link = Link { from: Target { branch: a, node: dir + 1 }, at: at((0, kind % 5), a) };
    vec![fork(a), link, save, merge(a, b, None, 5), away, restore, merge(a, b, None, kind)]
}

/// A serializable transaction reads what is changed before its commit.
fn stale((_, _, dir, name): Where, kind: u8) -> Vec<Operation> {
    let learn = |what| Learn { txn: 3, at: at((dir, name % 5), 0), what };
    let change = |name| Create { at: at((dir, name), 0), mode: 0o644, umask: 0, flags: 0, who: 0 };
    let inside = Create { at: at((0, kind % 5), 3), mode: 0o644, umask: 0, flags: 0, who: 0 };
    let begin = Begin { branch: 0, run: false, serializable: true };
    vec![begin, learn(0), learn(2), inside, change(name % 5), change((name + 1) % 5), Commit { txn: 3 }]
}

/// One operation, or several that belong together.
pub fn phrase(taste: Taste) -> impl Strategy<Value = Vec<Operation>> {
    let place = || (0..3u8, 0..2u8, 0..4u8, 128..140u8).prop_map(|(a, b, dir, name)| (a, (a + 1 + b) % 3, dir, name));
    let of =
        move |shape: fn(Where, u8) -> Vec<Operation>| (place(), 0..6u8).prop_map(move |(at, kind)| shape(at, kind));
    prop_oneof![
        60 => operation(taste).prop_map(|operation| vec![operation]),
        2 => of(crossed),
        2 => of(saved),
        2 => of(moved),
        2 => of(filled),
        2 => of(brought),
        2 => of(brought_back),
        1 => of(stale),
    ]
}
