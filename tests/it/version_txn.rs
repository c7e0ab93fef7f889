//! Transactions: visible in one step, first committer wins, the tree's rules hold.

use stonefs::types::{Seq, View};
use stonefs::version::conflict::ConflictKind as Kind;
use stonefs::version::merge::{self, MergeOptions, MergeOutcome};
use stonefs::version::txn::{self, CommitOptions, CommitOutcome};
use stonefs::version::{ErrorKind, ReadSet, VersionError, resolve};

use crate::world::{MAIN, World, kinds};

#[test]
fn references_name_states() {
    let w = World::new();
    w.write(MAIN, "a", "1").unwrap();
    let first = w.engine.seal(None).unwrap();
    w.tick(3600);
    w.write(MAIN, "a", "2").unwrap();
    w.tick(3600);
    assert_eq!(w.read(w.at(&format!("e{first}")), "a").unwrap(), "1");
    assert_eq!(w.read(w.at("90m"), "a").unwrap(), "1");
    assert_eq!(w.read(w.at("90-minutes-ago"), "a").unwrap(), "1");
    assert_eq!(w.read(w.at("2026-11-22T10:39:59Z"), "a").unwrap(), "1");
    assert_eq!(w.read(w.at("10:40:01"), "a").unwrap(), "2");
    assert_eq!(w.read(w.at("now"), "a").unwrap(), "2");
    assert_eq!(w.at("main"), MAIN);
    let branch = w.branch("side", w.at(&format!("e{first}")));
    assert_eq!(w.at("side"), branch);
    assert_eq!(w.read(w.at("side@now"), "a").unwrap(), "1");
    stonefs::version::branch::tag(&w.engine, b"v1", w.at(&format!("e{first}")), "", first_time(&w), &w.caller).unwrap();
    assert_eq!(w.read(w.at("v1"), "a").unwrap(), "1");
    assert_eq!(w.read(w.at("main@v1"), "a").unwrap(), "1");
    let kind = |text: &str| resolve(&w.engine, text.as_bytes(), &w.context()).map_err(|e: VersionError| e.kind);
    assert_eq!(kind("e99999"), Err(ErrorKind::Future));
    assert_eq!(kind("13:00"), Err(ErrorKind::Future));
    assert_eq!(kind("1w"), Err(ErrorKind::BeforeFirst));
    assert_eq!(kind("e0"), Err(ErrorKind::BeforeFirst));
    assert_eq!(kind("nonsense"), Err(ErrorKind::Unparsable));
    assert_eq!(kind("nobody@now"), Err(ErrorKind::NotFound));
    assert_eq!(kind("T1"), Err(ErrorKind::NotFound));
}

fn first_time(w: &World) -> stonefs::types::Timestamp {
    w.engine.point().1
}

#[test]
fn a_commit_shows_everything_at_once() {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    w.write(MAIN, "keep", "k").unwrap();
    w.write(MAIN, "gone", "g").unwrap();
    w.write(MAIN, "big", &"x".repeat(300_000)).unwrap();
    let before = w.tree(MAIN);
    let (row, tx) = w.begin();
    w.write(tx, "d/new", "n").unwrap();
    w.mkdir(tx, "d/sub").unwrap();
    w.write(tx, "d/sub/deep", &"y".repeat(200_000)).unwrap();
    w.write(tx, "keep", "K").unwrap();
    w.write(tx, "big", &"z".repeat(280_000)).unwrap();
    w.rm(tx, "gone").unwrap();
    w.symlink(tx, "keep", "link").unwrap();
    w.link(tx, "keep", "hard").unwrap();
    assert_eq!(w.tree(MAIN), before, "nothing leaks");
    let wanted = w.tree(tx);
    assert_eq!(
        w.diff(View::as_of(row.target, row.base), tx),
        "M /big, A /d/new, A /d/sub, A /d/sub/deep, D /gone, A /hard, M /keep, A /link"
    );
    assert_eq!(w.commits(&row), "5 added, 2 modified, 1 removed");
    assert_eq!(w.tree(MAIN), wanted);
    let after = w.at(&format!("T{}", row.id));
    assert_eq!(w.tree(after), wanted);
    assert_eq!(w.tree(w.at(&format!("T{}^", row.id))), before);
    w.check();
}

#[test]
fn a_rollback_leaves_no_trace_but_the_record() {
    let w = World::new();
    w.write(MAIN, "a", "1").unwrap();
    let before = w.tree(MAIN);
    let (row, tx) = w.begin();
    w.write(tx, "a", "2").unwrap();
    w.write(tx, "b", "2").unwrap();
    txn::rollback(&w.engine, row.id, &w.caller).unwrap();
    assert_eq!(w.tree(MAIN), before);
    let error = txn::rollback(&w.engine, row.id, &w.caller).unwrap_err();
    assert_eq!(error.kind, ErrorKind::State);
    let error = resolve(&w.engine, b"T1", &w.context()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotCommitted);
    w.check();
}

#[test]
fn changes_of_different_keys_commit_both() {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    w.write(MAIN, "f", "1").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "f", "2").unwrap();
    w.mkdir(tx, "d/mine").unwrap();
    w.chmod(MAIN, "f", 0o600).unwrap();
    w.mkdir(MAIN, "d/theirs").unwrap();
    w.write(MAIN, "other", "o").unwrap();
    w.commits(&row);
    let tree = w.tree(MAIN);
    assert_eq!(tree["f"], "file 600 1 2");
    assert_eq!(tree["d"], "dir 755 4 ");
    assert_eq!(tree["other"], "file 644 1 o");
    w.check();
}

#[test]
fn the_first_committer_wins_on_each_key() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    w.write(MAIN, "g", "1").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "f", "tx").unwrap();
    w.chmod(tx, "g", 0o600).unwrap();
    w.write(tx, "new", "tx").unwrap();
    w.write(MAIN, "f", "main").unwrap();
    w.chmod(MAIN, "g", 0o640).unwrap();
    w.write(MAIN, "new", "main").unwrap();
    let before = w.tree(MAIN);
    let mut conflicts = w.conflicts(&row);
    conflicts.sort();
    let path = |p: &str| p.to_owned();
    assert_eq!(conflicts, [(Kind::Content, path("/f")), (Kind::Attributes, path("/g")), (Kind::Entry, path("/new"))]);
    assert_eq!(w.tree(MAIN), before, "nothing of it is visible");
    assert_eq!(w.read(tx, "f").unwrap(), "tx", "it stays open");
    assert_eq!(txn::find(&w.engine, row.id).unwrap().state, stonefs::store::TxnState::Conflicted);
    w.check();
}

#[test]
fn removing_the_last_name_writes_the_content() {
    let w = World::new();
    for name in ["f", "g", "h"] {
        w.write(MAIN, name, "1").unwrap();
    }
    w.link(MAIN, "h", "h2").unwrap();
    let (row, tx) = w.begin();
    w.rm(tx, "f").unwrap();
    w.write(MAIN, "f", "main").unwrap();
    assert_eq!(w.conflicts(&row), [(Kind::Content, "/f".to_owned())]);
    let (row, tx) = w.begin();
    w.write(tx, "g", "tx").unwrap();
    w.rm(MAIN, "g").unwrap();
    assert_eq!(w.conflicts(&row), [(Kind::Content, "/g".to_owned())]);
    // One of two names is no content.
    let (row, tx) = w.begin();
    w.rm(tx, "h2").unwrap();
    w.write(MAIN, "h", "main").unwrap();
    w.commits(&row);
    assert_eq!(w.tree(MAIN)["h"], "file 644 1 main");
    w.check();
}

#[test]
fn a_directory_that_was_filled_is_not_removed() {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    let (row, tx) = w.begin();
    w.rmdir(tx, "d").unwrap();
    w.write(MAIN, "d/f", "1").unwrap();
    assert_eq!(w.conflicts(&row), [(Kind::NotEmpty, "/d".to_owned())]);
    let (row, tx) = w.begin();
    w.write(tx, "d/g", "1").unwrap();
    w.rm(MAIN, "d/f").unwrap();
    w.rmdir(MAIN, "d").unwrap();
    assert_eq!(w.conflicts(&row), [(Kind::Removed, "/d/g".to_owned())]);
    w.check();
}

#[test]
fn two_moves_that_would_make_a_cycle_conflict() {
    let w = World::new();
    w.mkdir(MAIN, "a").unwrap();
    w.mkdir(MAIN, "b").unwrap();
    let (row, tx) = w.begin();
    w.rename(tx, "a", "b/a").unwrap();
    w.rename(MAIN, "b", "a/b").unwrap();
    let conflicts = w.conflicts(&row);
    assert!(conflicts.iter().any(|(kind, _)| *kind == Kind::DirectoryCycle), "{conflicts:?}");
    assert_eq!(w.files(MAIN), "a/ a/b/");
    w.check();
}

#[test]
fn a_rebase_commits_what_can_be_merged() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    let (row, tx) = w.begin();
    w.mkdir(tx, "d").unwrap();
    w.write(tx, "d/tx", "t").unwrap();
    w.mkdir(MAIN, "d").unwrap();
    w.write(MAIN, "d/main", "m").unwrap();
    assert_eq!(w.conflicts(&row), [(Kind::Entry, "/d".to_owned())]);
    let options = CommitOptions { rebase: true, ..CommitOptions::default() };
    let outcome = txn::commit(&w.engine, row.id, &options, &w.caller).unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    assert_eq!(w.files(MAIN), "d/ d/main=m d/tx=t f=1");
    w.check();
}

#[test]
fn a_nested_transaction_commits_into_its_outer_one() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    let (outer, tx) = w.begin();
    w.write(tx, "f", "2").unwrap();
    let inner = w.begin_on(outer.branch);
    assert_eq!(inner.outer, Some(outer.id));
    let within = txn::view(&inner);
    assert_eq!(w.read(within, "f").unwrap(), "2");
    w.write(within, "g", "3").unwrap();
    w.write(within, "f", "3").unwrap();
    assert_eq!(w.read(tx, "f").unwrap(), "2");
    let refused = txn::commit(&w.engine, outer.id, &CommitOptions::default(), &w.caller).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::State);
    w.commits(&inner);
    assert_eq!(w.files(tx), "f=3 g=3");
    assert_eq!(w.files(MAIN), "f=1");
    w.commits(&outer);
    assert_eq!(w.files(MAIN), "f=3 g=3");
    w.check();
}

#[test]
fn write_skew_aborts_when_serializable() {
    let w = World::new();
    w.write(MAIN, "x", "1").unwrap();
    w.write(MAIN, "y", "1").unwrap();
    let ((one, first), (two, second)) = (w.begin(), w.begin());
    let serializable = |row: &stonefs::store::TxnRow| {
        let draft =
            stonefs::engine::EventDraft { op: stonefs::types::Op::Begin, txn: Some(row.id), old: None, new: None };
        let row = stonefs::store::TxnRow { serializable: true, ..row.clone() };
        w.engine.update_txn(row, draft, &w.caller).unwrap();
    };
    serializable(&one);
    serializable(&two);
    let reads = |path: &str| ReadSet { contents: [w.ino(MAIN, path).unwrap()].into(), ..ReadSet::default() };
    w.write(first, "x", "0").unwrap();
    w.write(second, "y", "0").unwrap();
    let (read_y, read_x) = (reads("y"), reads("x"));
    let commit = |row: &stonefs::store::TxnRow, reads: &ReadSet| {
        let options = CommitOptions { reads: Some(reads), ..CommitOptions::default() };
        txn::commit(&w.engine, row.id, &options, &w.caller).unwrap()
    };
    assert!(matches!(commit(&one, &read_y), CommitOutcome::Committed { .. }));
    match commit(&two, &read_x) {
        CommitOutcome::Conflicted { conflicts, .. } => assert_eq!(kinds(&conflicts), [(Kind::Read, "/x".to_owned())]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_negative_lookup_is_a_read() {
    let w = World::new();
    let (row, _) = w.begin();
    let mut reads = ReadSet::default();
    reads.entries.insert((stonefs::types::Ino::ROOT, stonefs::types::Name::new(b"absent").unwrap()));
    reads.listings.insert(stonefs::types::Ino::ROOT);
    let draft = stonefs::engine::EventDraft { op: stonefs::types::Op::Begin, txn: Some(row.id), old: None, new: None };
    w.engine.update_txn(stonefs::store::TxnRow { serializable: true, ..row.clone() }, draft, &w.caller).unwrap();
    w.write(MAIN, "absent", "1").unwrap();
    let options = CommitOptions { reads: Some(&reads), ..CommitOptions::default() };
    match txn::commit(&w.engine, row.id, &options, &w.caller).unwrap() {
        CommitOutcome::Conflicted { conflicts, .. } => {
            assert_eq!(kinds(&conflicts), [(Kind::Read, "/absent".to_owned()), (Kind::Read, "/".to_owned())]);
        }
        other @ CommitOutcome::Committed { .. } => panic!("{other:?}"),
    }
}

fn merge_into(w: &World, row: &stonefs::store::TxnRow) {
    let outcome = merge::merge(&w.engine, MAIN, row.branch, &MergeOptions::default(), &w.caller).unwrap();
    assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
}

#[test]
fn what_was_merged_into_a_transaction_is_no_change_of_it() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    w.write(MAIN, "g", "1").unwrap();
    w.write(MAIN, "old", "1").unwrap();
    w.write(MAIN, "saved", "1").unwrap();
    w.write(MAIN, "same", "1").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "mine", "m").unwrap();
    w.save(MAIN, "saved", "2").unwrap();
    w.write(MAIN, "same", "1").unwrap();
    w.write(MAIN, "f", "2").unwrap();
    w.chmod(MAIN, "g", 0o600).unwrap();
    w.write(MAIN, "new", "n").unwrap();
    w.write(MAIN, "kept", "k").unwrap();
    w.rm(MAIN, "old").unwrap();
    merge_into(&w, &row);
    assert_eq!(w.files(tx), "f=2 g=1 kept=k mine=m new=n same=1 saved=2");
    // The branch goes on, and takes back some of it: the transaction has nothing against it.
    w.rm(MAIN, "new").unwrap();
    w.write(MAIN, "f", "3").unwrap();
    w.chmod(MAIN, "g", 0o640).unwrap();
    w.write(MAIN, "old", "again").unwrap();
    w.save(MAIN, "saved", "3").unwrap();
    w.write(MAIN, "same", "2").unwrap();
    assert_eq!(w.commits(&row), "1 added");
    assert_eq!(w.files(MAIN), "f=3 g=1 kept=k mine=m old=again same=2 saved=3");
    assert_eq!(w.tree(MAIN)["g"], "file 640 1 1");
    w.check();
}

#[test]
fn after_a_merge_a_transaction_conflicts_on_what_it_has_otherwise() {
    let w = World::new();
    w.write(MAIN, "before", "1").unwrap();
    w.write(MAIN, "after", "1").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "before", "tx").unwrap();
    w.write(MAIN, "after", "main").unwrap();
    merge_into(&w, &row);
    w.write(tx, "after", "tx").unwrap();
    w.write(MAIN, "before", "2").unwrap();
    w.write(MAIN, "after", "2").unwrap();
    let mut conflicts = w.conflicts(&row);
    conflicts.sort();
    let path = |p: &str| p.to_owned();
    assert_eq!(conflicts, [(Kind::Content, path("/after")), (Kind::Content, path("/before"))]);
    w.check();
}

#[test]
fn what_was_read_before_and_after_a_merge_into_a_transaction_must_still_hold() {
    let entry = |name: &[u8]| (stonefs::types::Ino::ROOT, stonefs::types::Name::new(name).unwrap());
    for (merged, expected) in [(false, "/b"), (true, "/a")] {
        let w = World::new();
        let (row, _) = w.begin();
        let draft =
            stonefs::engine::EventDraft { op: stonefs::types::Op::Begin, txn: Some(row.id), old: None, new: None };
        w.engine.update_txn(stonefs::store::TxnRow { serializable: true, ..row.clone() }, draft, &w.caller).unwrap();
        let mut reads = ReadSet::default();
        w.write(MAIN, "a", "1").unwrap();
        w.write(MAIN, "b", "1").unwrap();
        // Of the begin `b` is read, which is there now; after the merge `a`, which is gone again.
        reads.entries.insert(entry(if merged { b"a" } else { b"b" }));
        merge_into(&w, &row);
        w.rm(MAIN, "a").unwrap();
        let options = CommitOptions { reads: Some(&reads), ..CommitOptions::default() };
        match txn::commit(&w.engine, row.id, &options, &w.caller).unwrap() {
            CommitOutcome::Conflicted { conflicts, .. } => {
                assert_eq!(kinds(&conflicts), [(Kind::Read, expected.to_owned())]);
            }
            other @ CommitOutcome::Committed { .. } => panic!("{other:?}"),
        }
    }
}

#[test]
fn commits_get_through_beside_a_writer_that_never_rests() {
    let w = World::new();
    w.mkdir(MAIN, "busy").unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                w.write(MAIN, &format!("busy/{}", n % 50), "x").unwrap();
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        for n in 0..20 {
            let (row, tx) = w.begin();
            w.write(tx, &format!("mine{n}"), "1").unwrap();
            w.commits(&row);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(w.ino(MAIN, "mine19").is_ok());
    assert!(w.engine.point().0 > Seq(60));
    w.check();
}

#[test]
fn what_a_transaction_had_read_when_it_was_left_open_is_validated_by_every_later_commit() {
    let w = World::new();
    w.write(MAIN, "x", "1").unwrap();
    w.write(MAIN, "free", "1").unwrap();
    let begin = || {
        let row = w.begin_on(MAIN.branch);
        let draft =
            stonefs::engine::EventDraft { op: stonefs::types::Op::Begin, txn: Some(row.id), old: None, new: None };
        w.engine.update_txn(stonefs::store::TxnRow { serializable: true, ..row.clone() }, draft, &w.caller).unwrap();
        w.write(txn::view(&row), &format!("result{}", row.id), "of x").unwrap();
        row
    };
    let keep = |row: &stonefs::store::TxnRow, path: &str| {
        let mut reads = ReadSet { contents: [w.ino(MAIN, path).unwrap()].into(), ..ReadSet::default() };
        let odd = stonefs::types::Name::new(b"no UTF-8: \xff").unwrap();
        reads.entries.insert((stonefs::types::Ino::ROOT, odd));
        txn::keep_reads(&w.engine, row.id, &reads, &w.caller).unwrap();
    };
    let (stale, fresh) = (begin(), begin());
    keep(&stale, "x");
    keep(&fresh, "free");
    w.write(MAIN, "x", "2").unwrap();
    for rebase in [false, true, false] {
        let options = CommitOptions { rebase, ..CommitOptions::default() };
        match txn::commit(&w.engine, stale.id, &options, &w.caller).unwrap() {
            CommitOutcome::Conflicted { conflicts, .. } => {
                assert_eq!(kinds(&conflicts), [(Kind::Read, "/x".to_owned())], "rebase {rebase}");
            }
            other @ CommitOutcome::Committed { .. } => panic!("{other:?}"),
        }
    }
    let options = CommitOptions { rebase: true, ..CommitOptions::default() };
    let done = txn::commit(&w.engine, fresh.id, &options, &w.caller).unwrap();
    assert!(matches!(done, CommitOutcome::Committed { .. }), "{done:?}");
    let row = txn::find(&w.engine, fresh.id).unwrap();
    assert_eq!(row.detail, "", "what was read is not kept longer than it is needed");
}
