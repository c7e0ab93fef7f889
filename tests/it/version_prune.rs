//! Forgetting history at random, against a twin that forgets nothing.

use proptest::prelude::*;
use stonefs::engine::EventDraft;
use stonefs::store::{Prune, StoredRow};
use stonefs::types::{Op, Seq, View};
use stonefs::version::conflict::Side;
use stonefs::version::merge::{self, MergeOptions};
use stonefs::version::restore;
use stonefs::version::undo::{self, UndoTarget};
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
        // Contents that have extents, and attributes.
        let tree = w.tree(view);
        let files: Vec<_> = tree.iter().filter(|(_, about)| about.starts_with("file ")).map(|(path, _)| path).collect();
        let Some(file) = files.get(usize::from(each.1) % files.len().max(1)) else { continue };
        match each.2 % 6 {
            0 => w.setxattr(view, file, "user.n", &counter.to_string()).unwrap(),
            1 | 2 => w.write(view, file, &format!("{counter} ").repeat(1000)).unwrap(),
            3 => w.write(view, file, "short").unwrap(),
            _ => {}
        }
    }
}

/// Takes changes of the main line back, so that what was removed is there again.
fn undo_some(w: &World, number: u8) {
    for _ in 0..number {
        // Nothing to undo, or in the way of what came later: then that is so with the twin too.
        let _ = undo::undo(&w.engine, MAIN.branch, UndoTarget::Newest, false, "", &w.caller);
    }
}

fn merge_into(w: &World, source: View, target: View) {
    let options = MergeOptions { strategy: Some(Side::Ours), ..MergeOptions::default() };
    merge::merge(&w.engine, source, target.branch, &options, &w.caller).unwrap();
}

fn history(parts: &[Vec<Step>], merges: u8, undone: u8) -> Line {
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
    undo_some(&w, undone);
    if merges & 2 != 0 {
        merge_into(&w, MAIN, side);
    }
    apply(&w, side, &parts[5], &mut counter);
    Line { w, counter, side, transaction, private }
}

/// `STONE_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("STONE_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_needed_outlives_forgetting_and_what_is_gone_is_an_error(
        parts in proptest::collection::vec(steps(6), 6),
        merges in any::<u8>(),
        undone in 0..4_u8,
        share in 0..=100_u64,
    ) {
        let (whole, pruned) = (history(&parts, merges, undone), history(&parts, merges, undone));
        let last = pruned.w.engine.point().0;
        prop_assert_eq!(whole.w.engine.point().0, last, "the twins are alike");
        pruned.w.engine.sync().unwrap();
        let before = Seq((last.0 * share / 100).max(1));
        forget_before(&pruned.w, before);
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

/// Bytes that the database needs, and its rows of extents and attributes.
fn size(w: &World) -> (u64, u64) {
    let space = w.engine.store().space().unwrap();
    let mut rows = 0;
    let read = w.engine.store().read().unwrap();
    read.scan_rows(&mut |row| {
        rows += u64::from(matches!(row, StoredRow::Extent(..) | StoredRow::Xattr(..)));
        Ok(())
    })
    .unwrap();
    (space.total - space.log - space.reclaimable, rows)
}

/// Forgets what was before a point, as `stone prune` does; what is left must be in order and proven.
fn forget_before(w: &World, before: Seq) {
    let draft = EventDraft { op: Op::Prune, txn: None, old: None, new: Some(format!("e{before}").into_bytes()) };
    w.engine.record(MAIN.branch, draft, Vec::new(), &w.caller).unwrap();
    w.engine.sync().unwrap();
    w.engine.store().prune(&Prune { before, pins: Vec::new(), dry_run: false }).unwrap();
    w.check();
    let proof = stonefs::audit::verify(w.engine.store().read().unwrap().as_ref()).unwrap();
    assert_eq!(proof.findings, Vec::<String>::new(), "before e{before}");
}

fn forget(w: &World) {
    w.engine.sync().unwrap();
    forget_before(w, w.engine.point().0);
}

/// Removes and replaces contents in every way; what is left at the end shows its round.
fn come_and_go(w: &World, view: View, round: u32) {
    let text = |name: &str| (0..4000).map(|n| format!("{name} {round} {n}\n")).collect::<String>();
    for name in ["removed", "again", "linked"] {
        w.write(view, name, &text(name)).unwrap();
        w.setxattr(view, name, "user.round", &round.to_string()).unwrap();
    }
    w.save(view, "replaced", &text("replaced")).unwrap();
    w.link(view, "linked", "link").unwrap();
    w.engine.sync().unwrap();
    for name in ["removed", "linked", "link"] {
        w.rm(view, name).unwrap();
    }
}

#[test]
fn content_of_files_that_were_removed_or_written_anew_is_forgotten() {
    let w = World::new();
    w.write(MAIN, "kept", &"kept ".repeat(10_000)).unwrap();
    let side = w.branch("side", MAIN);
    let mut sizes = Vec::new();
    for round in 0..30 {
        for view in [MAIN, side] {
            come_and_go(&w, view, round);
        }
        forget(&w);
        sizes.push(size(&w));
        for view in [MAIN, side] {
            let tree = w.tree(view);
            assert_eq!(tree.keys().collect::<Vec<_>>(), ["again", "kept", "replaced"]);
            for name in ["again", "replaced"] {
                assert!(tree[name].contains(&format!("{name} {round} 3999\n")), "{name} of round {round}");
            }
            assert!(tree["again"].contains(&format!("user.round={round}")));
        }
    }
    let ((early, rows), (late, last)) = (sizes[9], sizes[29]);
    assert!(late < early + early / 10 + (64 << 10) && last <= rows + 4, "it grows: {sizes:?}");
    w.check();
}

#[test]
fn what_is_open_or_brought_back_keeps_its_content() {
    let w = World::new();
    let text = |name: &str| format!("{name} ").repeat(50_000);
    for name in ["open", "back", "reborn", "child"] {
        w.write(MAIN, name, &text(name)).unwrap();
        w.setxattr(MAIN, name, "user.name", name).unwrap();
    }
    let open = w.ino(MAIN, "open").unwrap();
    let handle = w.engine.open_file(MAIN, open, libc::O_RDONLY, &w.caller).unwrap();
    let side = w.branch("side", MAIN);
    let before = w.now();
    for name in ["open", "back", "reborn", "child"] {
        w.rm(MAIN, name).unwrap();
    }
    // Back from the past under its old number, and on a branch whose parent has removed it.
    let child = w.branch("child", MAIN);
    for (view, name) in [(MAIN, "back"), (child, "child")] {
        restore::restore(&w.engine, view.branch, name.as_bytes(), before, "", &w.caller).unwrap();
    }
    for _ in 0..2 {
        forget(&w);
        // Without what memory knows.
        assert_eq!(w.read(View::as_of(MAIN.branch, w.engine.point().0), "back").unwrap(), text("back"));
        for (view, name) in [(MAIN, "back"), (child, "child"), (side, "reborn"), (side, "open")] {
            let ino = w.ino(view, name).unwrap();
            assert_eq!(w.read(view, name).unwrap(), text(name));
            assert_eq!(&*w.engine.getxattr(view, ino, b"user.name").unwrap(), name.as_bytes());
        }
        let read = w.engine.read(handle, 0, 1 << 20).unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), text("open"));
    }
    w.engine.release(handle).unwrap();
    // A merge takes over what the branch still has.
    w.chmod(side, "reborn", 0o600).unwrap();
    let options = MergeOptions { strategy: Some(Side::Theirs), ..MergeOptions::default() };
    merge::merge(&w.engine, side, MAIN.branch, &options, &w.caller).unwrap();
    forget(&w);
    assert_eq!(w.read(MAIN, "reborn").unwrap(), text("reborn"));
    assert!(w.tree(MAIN)["reborn"].ends_with("user.name=reborn"));
    w.check();
}

#[test]
fn merges_and_undo_that_try_again_and_merged_bases_leave_no_branch_that_keeps_the_past() {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    w.write(MAIN, "d/a", "a").unwrap();
    let (one, two) = (w.branch("one", MAIN), w.branch("two", MAIN));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..300 {
                w.write(MAIN, "busy", &n.to_string()).unwrap();
            }
        });
        for n in 0..10 {
            // Criss-cross: both have two bases from now on.
            w.write(one, &format!("d/one{n}"), "1").unwrap();
            w.write(two, &format!("d/two{n}"), "2").unwrap();
            let (from_one, from_two) =
                (w.at(&format!("one@e{}", w.engine.point().0)), w.at(&format!("two@e{}", w.engine.point().0)));
            merge_into(&w, from_one, two);
            merge_into(&w, from_two, one);
            merge_into(&w, one, MAIN);
            let _ = undo::undo(&w.engine, MAIN.branch, UndoTarget::Newest, false, "", &w.caller);
        }
        writer.join().unwrap();
    });
    let hidden = || {
        let known: Vec<_> = w.engine.transactions().iter().map(|row| row.branch).collect();
        let nameless = w.engine.branches().into_iter().filter(|row| row.name.is_none());
        nameless.filter(|row| !known.contains(&row.id)).map(|row| row.id).collect::<Vec<_>>()
    };
    let bases = hidden();
    let events = w.engine.store().read().unwrap();
    let virtual_bases = bases.iter().filter(|id| {
        let lineage = vec![stonefs::types::Segment { branch: **id, cut: Seq::MAX }];
        let filter = stonefs::store::EventFilter { lineage, ..Default::default() };
        !events.events(&filter).unwrap().is_empty()
    });
    assert_eq!(virtual_bases.count(), bases.len(), "a branch that nothing ever was on");
    drop(events);
    // What those bases hold goes when no merge can be about to use it any more.
    let rows = |w: &World| {
        let mut found = 0;
        let read = w.engine.store().read().unwrap();
        read.scan_rows(&mut |row| {
            let (StoredRow::Inode(period, ..)
            | StoredRow::Entry(period, ..)
            | StoredRow::Xattr(period, ..)
            | StoredRow::Extent(period, ..)) = row;
            found += usize::from(bases.contains(&period.branch));
            Ok(())
        })
        .unwrap();
        found
    };
    assert!(!bases.is_empty() && rows(&w) > 0, "no merge had two bases");
    w.tick(3600);
    w.write(MAIN, "later", "later").unwrap();
    forget(&w);
    assert_eq!(rows(&w), 0);
    w.check();
}
