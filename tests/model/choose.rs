//! Resolves the small numbers of an operation against the reference's state.

use stonefs::engine::Handle;
use stonefs::types::{BranchId, Ino, Kind, Seq, TxnId, View};

use crate::acl;
use crate::operation::{Place, Target};
use crate::oracle::Oracle;
use crate::tree::{Body, Tree};

pub const NAMES: &[&[u8]] =
    &[b"a", b"b", b"c", b"d", b"\xff\xfe\n", b".", b"..", b"", b"x/y", b"n\0l", LONGEST, TOO_LONG];
const LONGEST: &[u8] = &[b'l'; 255];
const TOO_LONG: &[u8] = &[b'l'; 256];
pub const BRANCHES: &[&[u8]] = &[b"main", b"one", b"two", b"three", b"v1", b"v2"];
pub const XATTRS: &[&[u8]] =
    &[b"user.a", b"user.b", b"security.capability", b"trusted.c", b"user.\xff", acl::ACCESS, acl::DEFAULT];
/// A handle that is never given out.
pub const NO_HANDLE: Handle = Handle(u64::MAX);
/// An inode that is never given out.
pub const NO_INODE: Ino = Ino(1 << 39);

impl Oracle {
    pub fn branch(&self, number: u8) -> BranchId {
        let live = self.live();
        live[usize::from(number) % live.len()]
    }

    /// A branch with a name: transactions are neither forked nor tagged.
    pub fn named_branch(&self, number: u8) -> BranchId {
        let named: Vec<BranchId> =
            self.live().into_iter().filter(|id| self.world.branches[id].name.is_some()).collect();
        named[usize::from(number) % named.len()]
    }

    pub fn txn(&self, number: u8) -> Option<TxnId> {
        let txns = &self.world.txns;
        txns.keys().nth(usize::from(number) % txns.len().max(1)).copied()
    }

    pub fn view(&self, branch: u8) -> View {
        View::live(self.branch(branch))
    }

    pub fn live_tree(&self, branch: u8) -> &Tree {
        &self.world.trees[&self.branch(branch)]
    }

    /// A directory and a name, for something new.
    pub fn place(&self, place: Place) -> (View, Ino, Vec<u8>) {
        let tree = self.live_tree(place.branch);
        let dirs: Vec<Ino> = tree.nodes.keys().copied().filter(|&ino| tree.is_dir(ino)).collect();
        let dir = match place.dir {
            255 => NO_INODE,
            250..=254 => tree.nodes.keys().copied().find(|&ino| !tree.is_dir(ino)).unwrap_or(NO_INODE),
            number => dirs[usize::from(number) % dirs.len()],
        };
        let name = if place.name < 128 { usize::from(place.name) % NAMES.len() } else { usize::from(place.name) % 5 };
        (self.view(place.branch), dir, NAMES[name].to_vec())
    }

    /// A directory and a name, mostly one that exists.
    pub fn existing(&self, place: Place) -> (View, Ino, Vec<u8>) {
        let tree = self.live_tree(place.branch);
        let entries: Vec<(Ino, &Vec<u8>)> = tree
            .nodes
            .iter()
            .filter_map(|(&ino, node)| match &node.body {
                Body::Dir { entries, .. } => Some(entries.keys().map(move |name| (ino, name))),
                Body::File(_) | Body::Symlink(_) | Body::Special => None,
            })
            .flatten()
            .collect();
        if place.name < 128 || place.dir >= 250 || entries.is_empty() {
            return self.place(place);
        }
        let (dir, name) = entries[(usize::from(place.dir) * 7 + usize::from(place.name - 128)) % entries.len()];
        (self.view(place.branch), dir, name.clone())
    }

    pub fn target(&self, target: Target) -> (View, Ino) {
        let tree = self.live_tree(target.branch);
        let ino = match target.node {
            250..=255 => NO_INODE,
            number => *tree.nodes.keys().nth(usize::from(number) % tree.nodes.len()).expect("within"),
        };
        (self.view(target.branch), ino)
    }

    /// A regular file of a branch, where there is one.
    pub fn file(&self, target: Target) -> (View, Ino) {
        let tree = self.live_tree(target.branch);
        let files: Vec<Ino> =
            tree.nodes.iter().filter(|(_, node)| node.kind == Kind::File).map(|(&ino, _)| ino).collect();
        if target.node >= 14 || files.is_empty() {
            return self.target(target);
        }
        (self.view(target.branch), files[usize::from(target.node) % files.len()])
    }

    pub fn pick(&self, number: u8) -> Handle {
        let handles = &self.handles;
        if number == 255 || handles.is_empty() {
            return NO_HANDLE;
        }
        handles.values().nth(usize::from(number) % handles.len()).expect("within").0
    }

    /// A point of the past: `back` steps ago, counted around.
    pub fn point(&self, back: u8) -> Seq {
        let steps = &self.steps;
        steps[steps.len() - 1 - usize::from(back) % steps.len()].point
    }
}

/// Flags of open(2).
pub fn open_flags(number: u8) -> i32 {
    let access = [libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR][usize::from(number % 4)];
    let append = if number & 4 != 0 && access != libc::O_RDONLY { libc::O_APPEND } else { 0 };
    let truncate = if number & 8 != 0 && access != libc::O_RDONLY { libc::O_TRUNC } else { 0 };
    access | append | truncate
}

/// Bytes to write: zeros for seed 0, else a pattern without any.
pub fn bytes(length: usize, seed: u8) -> Vec<u8> {
    match seed {
        0 => vec![0; length],
        seed => (0..length).map(|at| ((at / 7 + at / 1021 + usize::from(seed)) % 255) as u8 + 1).collect(),
    }
}
