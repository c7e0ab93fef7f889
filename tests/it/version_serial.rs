//! Random histories of several transactions at once, and of several branches that merge over and over.

use std::collections::BTreeSet;

use proptest::prelude::*;
use stonefs::store::TxnKind;
use stonefs::types::{BranchId, Ino, Name, View};
use stonefs::version::conflict::Side;
use stonefs::version::merge::{self, MergeOptions, MergeOutcome};
use stonefs::version::readset::ReadSet;
use stonefs::version::txn::{self, BeginOptions, CommitOptions, CommitOutcome};

use crate::version_random::{Step, step, steps};
use crate::world::{MAIN, World};

const FILES: [&str; 4] = ["w", "x", "y", "z"];

/// What a program does: it adds up files, and leaves the sum somewhere.
#[derive(Clone, Copy, Debug)]
struct Sum {
    /// The file that is read; one that is missing counts as 1.
    first: u8,
    second: u8,
    /// The file that is written; one of the last is made anew or removed, by the sum.
    into: u8,
    /// Whether it counts the names in the directory too.
    counts: bool,
}

fn programs() -> impl Strategy<Value = Vec<Vec<Sum>>> {
    let sum = (0..4_u8, 0..4_u8, 0..4_u8, any::<bool>()).prop_map(|(first, second, into, counts)| Sum {
        first,
        second,
        into,
        counts: counts && into == 3,
    });
    proptest::collection::vec(proptest::collection::vec(sum, 1..4), 2..5)
}

/// Runs one step of a program in a view and notes what it reads.
fn run(w: &World, view: View, number: usize, sum: Sum, reads: &mut ReadSet) {
    let mut read = |file: u8| -> u64 {
        let name = FILES[usize::from(file)];
        reads.entries.insert((Ino::ROOT, Name::new(name.as_bytes()).unwrap()));
        let Ok(ino) = w.ino(view, name) else { return 1 };
        reads.contents.insert(ino);
        w.read(view, name).unwrap().parse().unwrap()
    };
    let mut total = read(sum.first) * 3 + read(sum.second) * 5 + number as u64;
    if sum.counts {
        reads.listings.insert(Ino::ROOT);
        total += 7 * w.engine.list(view, Ino::ROOT).unwrap().len() as u64;
    }
    total %= 1009;
    let into = FILES[usize::from(sum.into)];
    // Whether the name is there decides what happens: that is read, too.
    reads.entries.insert((Ino::ROOT, Name::new(into.as_bytes()).unwrap()));
    if sum.into >= 2 && total.is_multiple_of(3) {
        if w.ino(view, into).is_ok() {
            w.rm(view, into).unwrap();
        }
    } else {
        w.write(view, into, &total.to_string()).unwrap();
    }
}

fn begin(w: &World, target: BranchId, serializable: bool) -> (stonefs::store::TxnRow, View) {
    let options =
        BeginOptions { target, kind: TxnKind::Run, serializable, message: String::new(), label: String::new() };
    let row = txn::begin(&w.engine, &options, &w.caller).unwrap();
    let view = txn::view(&row);
    (row, view)
}

fn start() -> World {
    let w = World::new();
    for (number, name) in FILES.iter().take(3).enumerate() {
        w.write(MAIN, name, &(number + 1).to_string()).unwrap();
    }
    w
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Their steps are interleaved and their commits come in any order: those that commit have done what they would
    /// have done one after the other.
    #[test]
    fn serializable_transactions_are_equal_to_a_serial_order(
        programs in programs(),
        turns in proptest::collection::vec(any::<u8>(), 0..24),
        late in any::<bool>(),
    ) {
        let w = start();
        let count = programs.len();
        let mut open: Vec<Option<(stonefs::store::TxnRow, View, ReadSet, usize)>> = vec![None; count];
        if !late {
            for slot in &mut open {
                let (row, view) = begin(&w, BranchId::MAIN, true);
                *slot = Some((row, view, ReadSet::default(), 0));
            }
        }
        let mut ended = BTreeSet::new();
        let mut committed = Vec::new();
        let endless = turns.into_iter().map(usize::from).chain((0..count * 8).collect::<Vec<_>>());
        for turn in endless {
            let who = turn % count;
            if ended.contains(&who) {
                continue;
            }
            let slot = &mut open[who];
            let (row, view, reads, next) = slot.get_or_insert_with(|| {
                let (row, view) = begin(&w, BranchId::MAIN, true);
                (row, view, ReadSet::default(), 0)
            });
            if let Some(sum) = programs[who].get(*next) {
                run(&w, *view, who, *sum, reads);
                *next += 1;
                continue;
            }
            let options = CommitOptions { reads: Some(reads), ..CommitOptions::default() };
            match txn::commit(&w.engine, row.id, &options, &w.caller).unwrap() {
                CommitOutcome::Committed { .. } => committed.push(who),
                CommitOutcome::Conflicted { .. } => {
                    txn::rollback(&w.engine, row.id, &w.caller).unwrap();
                }
            }
            ended.insert(who);
        }
        prop_assert_eq!(ended.len(), count);
        prop_assert!(!committed.is_empty(), "the first to commit has nobody before it");
        w.check();
        let serial = start();
        for &who in &committed {
            for sum in &programs[who] {
                run(&serial, MAIN, who, *sum, &mut ReadSet::default());
            }
        }
        prop_assert_eq!(w.files(MAIN), serial.files(MAIN), "committed in this order: {:?}", committed);
    }

    /// Several branches that change and merge in any order, also over cross: what was merged is merged, and a branch
    /// that has everything of another becomes exactly what that one is.
    #[test]
    fn branches_merge_over_and_over(
        before in steps(5),
        rounds in proptest::collection::vec((any::<u8>(), steps(4), any::<u8>(), any::<bool>()), 1..9),
    ) {
        let w = World::new();
        let mut counter = 100;
        w.mkdir(MAIN, "d").unwrap();
        for name in ["a", "d/b"] {
            w.write(MAIN, name, name).unwrap();
        }
        apply(&w, MAIN, &before, &mut counter);
        let views = [MAIN, w.branch("one", MAIN), w.branch("two", MAIN)];
        for (who, steps, from, ours) in rounds {
            let target = views[usize::from(who) % 3];
            apply(&w, target, &steps, &mut counter);
            let source = views[(usize::from(who) + 1 + usize::from(from) % 2) % 3];
            if from >= 200 {
                continue; // no merge in this round
            }
            let (theirs, mine) = (w.tree(source), w.tree(target));
            let merge_with = |source: View, target: View, strategy| {
                let options = MergeOptions { strategy, ..MergeOptions::default() };
                merge::merge(&w.engine, source, target.branch, &options, &w.caller).unwrap()
            };
            let plain = merge_with(source, target, None);
            if let MergeOutcome::Conflicted { txn: id, .. } = &plain {
                prop_assert_eq!(&w.tree(target), &mine, "a merge with conflicts leaves the target as it was");
                txn::rollback(&w.engine, *id, &w.caller).unwrap();
                let strategy = Some(if ours { Side::Ours } else { Side::Theirs });
                let decided = matches!(merge_with(source, target, strategy), MergeOutcome::Merged { .. });
                prop_assert!(decided, "a strategy decides every conflict");
            }
            prop_assert_eq!(&w.tree(source), &theirs, "a merge does not change its source");
            prop_assert_eq!(merge_with(source, target, None), MergeOutcome::UpToDate, "merged is merged");
            w.check();
            if from % 4 == 0 {
                // The other way round it is what git calls a fast-forward.
                merge_with(target, source, None);
                prop_assert_eq!(w.tree(source), w.tree(target), "a branch that lacked nothing but this");
                w.check();
            }
        }
        let seen: Vec<_> = views.iter().map(|view| w.tree(*view)).collect();
        w.engine.sync().unwrap();
        let now = ["now", "one@now", "two@now"];
        for (reference, tree) in now.iter().zip(seen) {
            prop_assert_eq!(w.tree(w.at(reference)), tree, "as the database has it");
        }
    }
}

fn apply(w: &World, view: View, steps: &[Step], counter: &mut u32) {
    for each in steps {
        step(w, view, *each, counter);
    }
}
