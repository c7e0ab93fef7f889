//! Random histories of branches: what a store resolves agrees with a model that keeps every state
//! of every branch as a whole, in every view that is sampled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use stonefs::store::{BranchRow, InodeRow, Mutation, Prune, ReadTxn, TagRow};
use stonefs::types::{BranchId, Ino, Lineage, Segment, Seq};

use crate::store_conformance::{Maker, NOW, file_row, name, put_bytes, put_entry, put_inode, write};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const XATTRS: [&[u8]; 2] = [b"user.p", b"user.q"];
const INDEXES: u64 = 5;
const KEYS: u64 = 4;

/// A whole tree in one state, by content: values are marks that say which change wrote them.
#[derive(Clone, Default, PartialEq, Debug)]
struct State {
    entries: BTreeMap<(u64, &'static str), u64>,
    /// Marks with `data_from`.
    inodes: BTreeMap<u64, (u64, u64)>,
    xattrs: BTreeMap<(u64, &'static [u8]), u64>,
    /// Marks with the points that wrote them.
    extents: BTreeMap<(u64, u64), (u64, u64)>,
}

impl State {
    /// What somebody sees who asks for contents and attributes through their inodes.
    fn shown(mut self) -> State {
        let inodes = &self.inodes;
        self.xattrs.retain(|(ino, _), _| inodes.contains_key(ino));
        self.extents.retain(|(ino, _), (_, at)| inodes.get(ino).is_some_and(|(_, data_from)| data_from <= at));
        self
    }
}

struct Line {
    parent: Option<(u64, u64)>,
    /// States by the point that they begin at.
    states: BTreeMap<u64, State>,
}

#[derive(Default)]
struct Model {
    lines: BTreeMap<u64, Line>,
}

impl Model {
    fn state(&self, branch: u64, at: u64) -> State {
        let line = &self.lines[&branch];
        if let Some((_, state)) = line.states.range(..=at).next_back() {
            return state.clone();
        }
        line.parent.map_or_else(State::default, |(parent, base)| self.state(parent, base.min(at)))
    }

    fn lineage(&self, branch: u64, at: u64) -> Lineage {
        let mut segments = vec![Segment { branch: BranchId(branch), cut: Seq(at) }];
        let (mut branch, mut cut) = (branch, at);
        while let Some((parent, base)) = self.lines[&branch].parent {
            (branch, cut) = (parent, cut.min(base));
            segments.push(Segment { branch: BranchId(branch), cut: Seq(cut) });
        }
        Lineage(segments.into())
    }
}

/// A small generator (xorshift), so that a case is its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// The numbers of one case's keys, its own in a store that many cases share.
struct Case {
    first_ino: u64,
    next_branch: u64,
    seq: u64,
    mark: u64,
}

fn run(dice: &mut Dice, case: &mut Case) -> (Model, Vec<Mutation>) {
    let mut model = Model::default();
    let mut mutations = Vec::new();
    let mut add_branch = |model: &mut Model, mutations: &mut Vec<Mutation>, parent: Option<(u64, u64)>, seq: u64| {
        let id = case.next_branch;
        case.next_branch += 1;
        model.lines.insert(id, Line { parent, states: BTreeMap::new() });
        mutations.push(Mutation::Branch(Box::new(BranchRow {
            id: BranchId(id),
            name: None,
            parent: parent.map(|(parent, _)| BranchId(parent)),
            base: Seq(parent.map_or(0, |(_, base)| base)),
            created: Seq(seq),
            created_time: NOW,
            dropped: None,
            uid: 0,
        })));
        id
    };
    let start = case.seq;
    add_branch(&mut model, &mut mutations, None, start);
    for _ in 0..20 + dice.roll(60) {
        // Now and then a change at the point of the one before it.
        if dice.roll(6) != 0 {
            case.seq += 1 + dice.roll(2);
        }
        let at = case.seq;
        let ids: Vec<u64> = model.lines.keys().copied().collect();
        let branch = ids[dice.roll(ids.len() as u64) as usize];
        if dice.roll(8) == 0 && ids.len() < 7 {
            let base = start + dice.roll(at - start + 1);
            add_branch(&mut model, &mut mutations, Some((branch, base)), at);
            case.seq += 1;
            continue;
        }
        let mut state = model.state(branch, u64::MAX - 1);
        let ino = case.first_ino + dice.roll(KEYS);
        let gone = dice.roll(3) == 0;
        case.mark += 1;
        let mark = case.mark;
        match dice.roll(6) {
            0 | 1 => {
                let parent = case.first_ino + dice.roll(2);
                let text = NAMES[dice.roll(NAMES.len() as u64) as usize];
                mutations.push(put_entry(branch, at, parent, text, (!gone).then_some(ino)));
                if gone {
                    state.entries.remove(&(parent, text));
                } else {
                    state.entries.insert((parent, text), ino);
                }
            }
            2 => {
                // Anywhere, so that contents show again that did not.
                let data_from = [0, at, start + dice.roll(at - start + 1)][dice.roll(3) as usize];
                let row = InodeRow { data_from: Seq(data_from), ..file_row(mark) };
                mutations.push(put_inode(branch, at, ino, (!gone).then_some(row)));
                if gone {
                    state.inodes.remove(&ino);
                } else {
                    state.inodes.insert(ino, (mark, data_from));
                }
            }
            3 => {
                let xattr = XATTRS[dice.roll(2) as usize];
                mutations.push(Mutation::Xattr {
                    branch: BranchId(branch),
                    at: Seq(at),
                    ino: Ino(ino),
                    name: xattr.to_vec(),
                    value: (!gone).then(|| Arc::from(&mark.to_be_bytes()[..])),
                });
                if gone {
                    state.xattrs.remove(&(ino, xattr));
                } else {
                    state.xattrs.insert((ino, xattr), mark);
                }
            }
            4 => {
                let index = dice.roll(INDEXES);
                if gone {
                    mutations.push(Mutation::Extent {
                        branch: BranchId(branch),
                        at: Seq(at),
                        ino: Ino(ino),
                        index,
                        data: None,
                    });
                    state.extents.remove(&(ino, index));
                } else {
                    mutations.push(put_bytes(branch, at, ino, index, &mark.to_be_bytes()));
                    state.extents.insert((ino, index), (mark, at));
                }
            }
            _ => {
                let index = dice.roll(INDEXES);
                mutations.push(Mutation::ExtentsFrom { branch: BranchId(branch), at: Seq(at), ino: Ino(ino), index });
                state.extents.retain(|(other, place), _| *other != ino || *place < index);
            }
        }
        model.lines.get_mut(&branch).unwrap().states.insert(at, state);
    }
    (model, mutations)
}

fn mark(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Reads a whole state through every kind of look-up.
fn read_state(read: &dyn ReadTxn, lineage: &Lineage, first_ino: u64) -> State {
    let mut state = State::default();
    let mut names: BTreeSet<(u64, u64, &str)> = BTreeSet::new();
    for parent in first_ino..first_ino + 2 {
        for text in NAMES {
            if let Some(row) = read.entry(lineage, Ino(parent), text.as_bytes()).unwrap() {
                assert_eq!((row.parent, &row.name), (Ino(parent), &name(text)));
                state.entries.insert((parent, text), row.ino.0);
                names.insert((row.ino.0, parent, text));
            }
        }
        let listed: Vec<_> = read.entries(lineage, Ino(parent)).unwrap();
        let listed: Vec<_> = listed.iter().map(|row| (row.name.as_bytes(), row.ino.0)).collect();
        let found: Vec<_> = state
            .entries
            .iter()
            .filter(|((dir, _), _)| *dir == parent)
            .map(|((_, text), ino)| (text.as_bytes(), *ino))
            .collect();
        assert_eq!(listed, found, "a listing differs from the look-ups");
    }
    for ino in first_ino..first_ino + KEYS {
        if let Some(row) = read.inode(lineage, Ino(ino)).unwrap() {
            state.inodes.insert(ino, (row.size, row.data_from.0));
        }
        for (xattr, value) in read.xattrs(lineage, Ino(ino)).unwrap() {
            let xattr = XATTRS.into_iter().find(|other| *other == xattr).unwrap();
            state.xattrs.insert((ino, xattr), mark(&value));
        }
        for extent in read.extents(lineage, Ino(ino), Seq::ZERO, 0..u64::MAX).unwrap() {
            let found = (mark(&read.chunk(extent.chunk).unwrap()), extent.valid_from.0);
            state.extents.insert((ino, extent.index), found);
        }
        let one = read.extents(lineage, Ino(ino), Seq::ZERO, 2..3).unwrap();
        assert_eq!(one.first().map(|_| ()), state.extents.get(&(ino, 2)).map(|_| ()));
        let of_ino = read.names_of(lineage, Ino(ino)).unwrap();
        let of_ino: Vec<_> = of_ino.iter().map(|row| (row.parent.0, row.name.as_bytes())).collect();
        let expected: Vec<_> =
            names.iter().filter(|(other, ..)| *other == ino).map(|(_, dir, text)| (*dir, text.as_bytes())).collect();
        assert_eq!(of_ino, expected, "the names of an inode differ from the look-ups");
    }
    state
}

/// Findings of what is left to chance here: names, inodes and link counts are independent of each other.
fn of_the_tree(finding: &str) -> bool {
    ["does not exist", "link count", "more than 200 findings"].iter().any(|part| finding.contains(part))
}

/// Runs the cases; `STONE_CASES` asks for more of them.
pub fn every_view_resolves_as_the_model_does(maker: &Maker, path: &Path) {
    let cases = std::env::var("STONE_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    let store = (maker.create)(path).unwrap();
    let mut case = Case { first_ino: 100, next_branch: 2, seq: 10, mark: 0 };
    for seed in 1..=cases {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let start = case.seq;
        let (model, mutations) = run(&mut dice, &mut case);
        write(&*store, mutations);
        let read = store.read().unwrap();
        for branch in model.lines.keys() {
            for at in [u64::MAX, start + dice.roll(case.seq - start + 1), start + dice.roll(case.seq - start + 1)] {
                let at = at.min(Seq::MAX.0);
                let lineage = model.lineage(*branch, at);
                let got = read_state(&*read, &lineage, case.first_ino);
                assert_eq!(got, model.state(*branch, at), "seed {seed}, branch {branch} at e{at}");
            }
        }
        drop(read);
        case.first_ino += KEYS;
        case.seq += 1;
    }
    let findings = store.check().unwrap();
    let periods: Vec<_> = findings.iter().filter(|line| !of_the_tree(line)).collect();
    assert_eq!(periods, Vec::<&String>::new());
}

/// Forgets the past of many histories at once and looks at everything that must be left; `STONE_CASES` asks for more,
/// `STONE_SEED` for others.
pub fn pruning_keeps_every_state_that_is_pinned(maker: &Maker, path: &Path) {
    let number = |name: &str| std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let first: u64 = number("STONE_SEED");
    for seed in first..first + number("STONE_CASES") {
        prune_histories(maker, &path.with_extension(seed.to_string()), seed);
    }
}

fn prune_histories(maker: &Maker, path: &Path, seed: u64) {
    let store = (maker.create)(path).unwrap();
    let mut case = Case { first_ino: 100, next_branch: 2, seq: 10, mark: 0 };
    let mut dice = Dice(u64::wrapping_mul(seed, 0x1234_5678_9ABC));
    let mut kept: Vec<(Model, u64, u64, u64)> = Vec::new();
    let (mut pins, mut last) = (Vec::new(), 0);
    for number in 0..60 {
        let start = case.seq;
        let (model, mut mutations) = run(&mut dice, &mut case);
        for branch in model.lines.keys().copied() {
            let at = start + dice.roll(case.seq - start + 1);
            kept.push((model_of(&model), branch, Seq::MAX.0, case.first_ino));
            match dice.roll(3) {
                0 => pins.push(Segment { branch: BranchId(branch), cut: Seq(at) }),
                1 => mutations.push(Mutation::Tag(TagRow {
                    name: format!("t{branch}").into_bytes(),
                    branch: BranchId(branch),
                    seq: Seq(at),
                    time: NOW,
                    uid: 0,
                    message: String::new(),
                })),
                _ => continue,
            }
            kept.push((model_of(&model), branch, at, case.first_ino));
        }
        write(&*store, mutations);
        if number == 59 {
            last = start + (case.seq - start) / 2;
            for branch in model.lines.keys().copied() {
                for at in last..=case.seq {
                    kept.push((model_of(&model), branch, at, case.first_ino));
                }
            }
        }
        case.first_ino += KEYS;
        case.seq += 1;
    }
    let count = |read: &dyn ReadTxn| {
        let mut rows = 0;
        read.scan_rows(&mut |_| {
            rows += 1;
            Ok(())
        })
        .unwrap();
        rows
    };
    let request = Prune { before: Seq(last), pins, dry_run: true };
    let expected = store.prune(&request).unwrap();
    let before = count(&*store.read().unwrap());
    let pruned = store.prune(&Prune { dry_run: false, ..request.clone() }).unwrap();
    let read = store.read().unwrap();
    assert_eq!(before - count(&*read), pruned.rows);
    assert_eq!((pruned.rows, pruned.events), (expected.rows, expected.events));
    assert!(pruned.rows > before / 10 && pruned.chunks > 20, "{pruned:?} of {before} rows");
    for (model, branch, at, first_ino) in &kept {
        let got = read_state(&*read, &model.lineage(*branch, *at), *first_ino);
        let expected = model.state(*branch, *at).shown();
        assert_eq!(got.shown(), expected, "branch {branch} at e{at}, pruned before e{last}");
    }
    drop(read);
    // Nothing is left for a second time.
    let again = store.prune(&Prune { dry_run: false, ..request }).unwrap();
    assert_eq!((again.rows, again.events, again.chunks), (0, 0, 0));
    let findings = store.check().unwrap();
    let periods: Vec<_> = findings.iter().filter(|line| !of_the_tree(line)).collect();
    assert_eq!(periods, Vec::<&String>::new());
    while store.release(64).unwrap() > 0 {}
}

fn model_of(model: &Model) -> Model {
    let lines = model.lines.iter().map(|(id, line)| (*id, Line { parent: line.parent, states: line.states.clone() }));
    Model { lines: lines.collect() }
}
