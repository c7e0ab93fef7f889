//! Forgetting history at random, against a twin that forgets nothing.

use proptest::prelude::*;
use stonefs::store::Prune;
use stonefs::types::{Seq, View};
use stonefs::version::conflict::Side;
use stonefs::version::merge::{self, MergeOptions};
use stonefs::version::{ErrorKind, branch, resolve};

use crate::version_random::{Step, step, steps};
use crate::world::{MAIN, World};

/// A history with a branch, a tag, an open transaction and, where asked for, merges both ways.
struct Line {
    w: World,
    counter: u32,
    side: View,
    transaction: stonefs::store::TxnRow,
    private: View,
}

fn apply(w: &World, view: View, steps: &[Step], counter: &mut u32) {
    for each in steps {
        step(w, view, *each, counter);
    }
}

fn merge_into(w: &World, source: View, target: View) {
    let options = MergeOptions { strategy: Some(Side::Ours), ..MergeOptions::default() };
    merge::merge(&w.engine, source, target.branch, &options, &w.caller).unwrap();
}

fn history(parts: &[Vec<Step>], merges: u8) -> Line {
    let w = World::new();
    let mut counter = 100;
    w.mkdir(MAIN, "d").unwrap();
    for name in ["a", "d/b"] {
        w.write(MAIN, name, name).unwrap();
    }
    apply(&w, MAIN, &parts[0], &mut counter);
    let side = w.branch("side", MAIN);
    apply(&w, MAIN, &parts[1], &mut counter);
    branch::tag(&w.engine, b"tagged", MAIN, "", w.engine.point().1, &w.caller).unwrap();
    apply(&w, side, &parts[2], &mut counter);
    let (transaction, private) = w.begin();
    apply(&w, private, &parts[3], &mut counter);
    if merges & 1 != 0 {
        merge_into(&w, side, MAIN);
    }
    apply(&w, MAIN, &parts[4], &mut counter);
    if merges & 2 != 0 {
        merge_into(&w, MAIN, side);
    }
    apply(&w, side, &parts[5], &mut counter);
    Line { w, counter, side, transaction, private }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_needed_outlives_forgetting_and_what_is_gone_is_an_error(
        parts in proptest::collection::vec(steps(6), 6),
        merges in any::<u8>(),
        share in 0..=100_u64,
    ) {
        let (whole, pruned) = (history(&parts, merges), history(&parts, merges));
        let last = pruned.w.engine.point().0;
        prop_assert_eq!(whole.w.engine.point().0, last, "the twins are alike");
        pruned.w.engine.sync().unwrap();
        let before = Seq((last.0 * share / 100).max(1));
        pruned.w.engine.store().prune(&Prune { before, pins: Vec::new(), dry_run: false }).unwrap();
        // What was forgotten is said to be, whoever asks; all else is as it was.
        for seq in 1..=last.0 {
            for branch in ["main", "side"] {
                let reference = format!("{branch}@e{seq}");
                let got = resolve(&pruned.w.engine, reference.as_bytes(), &pruned.w.context());
                if seq < before.0 {
                    let kind = got.map_err(|error| error.kind);
                    prop_assert!(matches!(kind, Err(ErrorKind::Pruned | ErrorKind::BeforeFirst)), "{} is {:?}", reference, kind);
                } else if let Ok(view) = resolve(&whole.w.engine, reference.as_bytes(), &whole.w.context()) {
                    prop_assert_eq!(pruned.w.tree(got.unwrap()), whole.w.tree(view), "{}", reference);
                }
            }
        }
        let tagged = |line: &Line| line.w.tree(line.w.at("tagged"));
        prop_assert_eq!(tagged(&pruned), tagged(&whole), "a tag");
        for pick in [|_: &Line| MAIN, |line: &Line| line.side, |line: &Line| line.private] {
            prop_assert_eq!(pruned.w.tree(pick(&pruned)), whole.w.tree(pick(&whole)), "a branch or an open transaction");
        }
        // Both go on alike: the transaction's snapshot and the merge bases are still known.
        let committed = [&whole, &pruned].map(|line| {
            let conflicts = line.w.conflicts(&line.transaction);
            conflicts.into_iter().map(|(kind, path)| format!("{kind:?} {path}")).collect::<Vec<_>>()
        });
        prop_assert_eq!(&committed[0], &committed[1]);
        for line in [&whole, &pruned] {
            let mut counter = line.counter;
            apply(&line.w, MAIN, &parts[2], &mut counter);
            merge_into(&line.w, line.side, MAIN);
            merge_into(&line.w, MAIN, line.side);
        }
        prop_assert_eq!(pruned.w.tree(MAIN), whole.w.tree(MAIN));
        prop_assert_eq!(pruned.w.tree(pruned.side), whole.w.tree(whole.side));
        pruned.w.check();
    }
}

#[test]
fn branches_that_were_merged_and_dropped_keep_nothing_of_what_is_forgotten() {
    let w = World::new();
    let mut sizes = Vec::new();
    for round in 0..30 {
        let work = w.branch("work", MAIN);
        w.write(work, &format!("f{}", round % 3), &format!("{round} ").repeat(20_000)).unwrap();
        w.write(MAIN, "other", &format!("{round}: ").repeat(20_000)).unwrap();
        merge_into(&w, work, MAIN);
        branch::drop(&w.engine, b"work", true, &[], &w.caller).unwrap();
        w.engine.sync().unwrap();
        let before = w.engine.point().0;
        w.engine.store().prune(&Prune { before, pins: Vec::new(), dry_run: false }).unwrap();
        let space = w.engine.store().space().unwrap();
        sizes.push(space.total - space.log - space.reclaimable);
    }
    let (early, late) = (sizes[9], sizes[29]);
    assert!(late < early + early / 10 + (64 << 10), "it grows: {sizes:?}");
    w.check();
}
