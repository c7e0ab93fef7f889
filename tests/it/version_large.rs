//! Commits whose rows are written ahead of their event: nothing of them shows before, all of it after; others go on;
//! a crash at any moment leaves nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stonefs::engine::{EventDraft, FsError, Options};
use stonefs::store::failing::{Call, FailingStore, Fault};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{EntryRow, EventFilter, InitOptions, InodeRow, Mutation, Store, StoreError};
use stonefs::types::{Ino, Kind, Name, Op, Seq, View};
use stonefs::version::txn::{self, CommitOptions, CommitOutcome};

use crate::world::{MAIN, START, World};

/// Every commit is written ahead.
fn options() -> Options {
    Options { stage_min: 1, ..Options::default() }
}

fn create(path: &Path) -> SqliteStore {
    let init = InitOptions { now: START, uid: 0, gid: 0, settings: Vec::new() };
    SqliteStore::create(path, &init).unwrap()
}

fn world() -> (tempfile::TempDir, World) {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("w.stone"));
    (dir, World::over(Arc::new(store), options()))
}

fn verify(w: &World) {
    w.check();
    let proof = stonefs::audit::verify(w.engine.store().read().unwrap().as_ref()).unwrap();
    assert!(proof.findings.is_empty(), "{:#?}", proof.findings);
}

/// Some of everything, then a transaction that changes all of it.
fn prepare(w: &World) -> stonefs::store::TxnRow {
    w.mkdir(MAIN, "d").unwrap();
    w.mkdir(MAIN, "d/old").unwrap();
    w.mkdir(MAIN, "gone").unwrap();
    for name in ["a", "b", "d/c", "d/old/e", "gone/f"] {
        w.write(MAIN, name, name).unwrap();
    }
    w.write(MAIN, "large", &"x".repeat(400_000)).unwrap();
    w.write(MAIN, "cut", &"x".repeat(400_000)).unwrap();
    w.setxattr(MAIN, "a", "user.k", "v").unwrap();
    w.setxattr(MAIN, "d", "user.k", "v").unwrap();
    w.link(MAIN, "a", "d/hard").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "a", "A").unwrap();
    w.save(tx, "b", "B").unwrap();
    w.rm(tx, "d/hard").unwrap();
    w.rename(tx, "d/old", "moved").unwrap();
    w.rm(tx, "gone/f").unwrap();
    w.rmdir(tx, "gone").unwrap();
    w.write(tx, "large", &"y".repeat(300_000)).unwrap();
    w.write(tx, "cut", "short").unwrap();
    w.chmod(tx, "d/c", 0o600).unwrap();
    w.chmod(tx, "d", 0o700).unwrap();
    w.setxattr(tx, "a", "user.k", "w").unwrap();
    w.setxattr(tx, "d", "user.k", "w").unwrap();
    w.symlink(tx, "a", "link").unwrap();
    w.mkdir(tx, "new").unwrap();
    for i in 0..30 {
        w.write(tx, &format!("new/n{i}"), &i.to_string()).unwrap();
    }
    row
}

#[test]
fn a_commit_that_is_written_ahead_comes_to_the_same() {
    let (_dir, w) = world();
    let row = prepare(&w);
    let (before, after) = (w.tree(MAIN), w.tree(txn::view(&row)));
    let past = w.now();
    w.commits(&row);
    assert_eq!(w.tree(MAIN), after);
    assert_eq!(w.tree(past), before);
    let at = w.at(&format!("T{}", row.id));
    assert_eq!(w.tree(at), after, "as the database has it");
    assert_eq!(w.tree(w.at(&format!("T{}^", row.id))), before);
    verify(&w);
    w.write(MAIN, "a", "later").unwrap();
    w.rm(MAIN, "new/n3").unwrap();
    assert_eq!(w.tree(at), after);
    verify(&w);
}

#[test]
fn files_that_are_open_see_a_commit_that_is_written_ahead() {
    let (_dir, w) = world();
    let row = prepare(&w);
    let open = |path: &str| w.engine.open_file(MAIN, w.ino(MAIN, path).unwrap(), libc::O_RDWR, &w.caller).unwrap();
    let (large, a, gone) = (open("large"), open("a"), open("gone/f"));
    assert_eq!(w.engine.read(large, 0, 10).unwrap(), b"x".repeat(10));
    w.commits(&row);
    assert_eq!(w.engine.read(large, 0, 10).unwrap(), b"y".repeat(10));
    assert_eq!(w.engine.read(a, 0, 10).unwrap(), b"A");
    assert_eq!(w.engine.read(gone, 0, 10).unwrap(), b"gone/f");
    w.engine.write(a, 1, b"B", false, &w.caller).unwrap();
    for handle in [large, a, gone] {
        w.engine.release(handle).unwrap();
    }
    assert_eq!(w.read(MAIN, "a").unwrap(), "AB");
    verify(&w);
}

#[test]
fn a_crash_at_any_moment_of_a_commit_leaves_all_of_it_or_nothing() {
    for call in [Call::Apply, Call::Commit, Call::Sync] {
        for nth in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("w.stone");
            let store = Arc::new(FailingStore::new(Arc::new(create(&path))));
            let w = World::over(store.clone(), Options { group_ms: 600_000, ..options() });
            let row = prepare(&w);
            w.engine.sync().unwrap();
            let (before, after) = (w.tree(MAIN), w.tree(txn::view(&row)));
            let error = StoreError::Backend("lost".to_string());
            store.fail(Fault { call, nth, error, after: call == Call::Commit && nth % 2 == 0, lasting: true });
            let outcome = txn::commit(&w.engine, row.id, &CommitOptions::default(), &w.caller);
            let synced = w.engine.sync();
            w.engine.abandon();
            drop((w, store));
            let w = World::over(Arc::new(SqliteStore::open(&path).unwrap()), options());
            let now = w.tree(MAIN);
            assert!(now == before || now == after, "{call:?} {nth}: half of it");
            if outcome.is_ok() && synced.is_ok() {
                assert_eq!(now, after, "{call:?} {nth}: what was acknowledged is there");
            }
            verify(&w);
            if now == before {
                assert_eq!(w.tree(txn::view(&row)), after, "{call:?} {nth}: the transaction is still there");
                w.commits(&row);
                assert_eq!(w.tree(MAIN), after);
                verify(&w);
            }
            if outcome.is_ok() && synced.is_ok() {
                assert!(nth > 1, "{call:?}: no fault struck");
                break;
            }
        }
    }
}

/// Rows of a file at the root, as a change set has them.
fn file(w: &World, name: &str) -> (Ino, Vec<Mutation>) {
    let ino = w.engine.next_ino();
    w.write(MAIN, "pattern", "p").unwrap();
    w.engine.seal(None).unwrap();
    w.engine.flush(w.engine.point().0).unwrap();
    let lineage = w.engine.lineage(MAIN).unwrap();
    let pattern = w.ino(MAIN, "pattern").unwrap();
    let row = w.engine.store().read().unwrap().inode(&lineage, pattern).unwrap().unwrap();
    let row = InodeRow { data_from: Seq::MAX, ..row };
    let name = Name::new(name.as_bytes()).unwrap();
    let entry = EntryRow { parent: Ino::ROOT, name: name.clone(), ino, kind: Kind::File };
    let (branch, at) = (MAIN.branch, Seq::MAX);
    let rows = vec![
        Mutation::Inode { branch, at, ino, row: Some(Box::new(row)) },
        Mutation::Entry { branch, at, parent: Ino::ROOT, name, row: Some(entry) },
    ];
    (ino, rows)
}

fn draft() -> EventDraft {
    EventDraft { op: Op::Commit, txn: None, old: None, new: None }
}

#[test]
fn nothing_shows_while_it_is_written_and_others_go_on() {
    let (dir, w) = world();
    w.write(MAIN, "a", "1").unwrap();
    let (_, rows) = file(&w, "new");
    let before = w.tree(MAIN);
    let mut stage = w.engine.stage(MAIN.branch, rows.len(), &w.caller).unwrap();
    stage.write(rows).unwrap();
    assert_eq!(w.tree(MAIN), before);
    assert_eq!(w.tree(w.now()), before);
    // Also for who reads the file beside us, and for what begins meanwhile.
    let beside = SqliteStore::open_read_only(&dir.path().join("w.stone")).unwrap();
    let lineage = w.engine.lineage(MAIN).unwrap();
    assert!(beside.read().unwrap().entry(&lineage, Ino::ROOT, b"new").unwrap().is_none());
    assert!(beside.read().unwrap().entry(&lineage, Ino::ROOT, b"a").unwrap().is_some());
    let foreign = rusqlite::Connection::open(dir.path().join("w.stone")).unwrap();
    let paths = || -> String {
        let sql = "SELECT group_concat(path, ' ') FROM (SELECT path FROM files ORDER BY path)";
        foreign.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let open_versions = || -> i64 {
        foreign.query_row("SELECT count(*) FROM versions WHERE valid_to IS NULL", [], |row| row.get(0)).unwrap()
    };
    assert_eq!((paths().as_str(), open_versions()), ("/ /a /pattern", 3));
    let branch = w.branch("side", MAIN);
    let (row, tx) = w.begin();
    w.write(MAIN, "a", "2").unwrap();
    w.write(MAIN, "b", "3").unwrap();
    w.engine.sync().unwrap();
    let between = w.tree(MAIN);
    let past = w.now();
    assert!(!between.contains_key("new"));
    let seq = stage.publish(Vec::new(), draft(), &mut |_| Ok(()), &w.caller).unwrap();
    assert_eq!(w.read(MAIN, "new").unwrap(), "p");
    assert!(w.engine.point().0 >= seq && seq > Seq(0));
    for view in [branch, tx] {
        assert_eq!(w.tree(view), before, "what began before sees what was before");
    }
    assert_eq!(w.tree(past), between);
    w.engine.sync().unwrap();
    assert!(beside.read().unwrap().entry(&lineage, Ino::ROOT, b"new").unwrap().is_some());
    assert_eq!((paths().as_str(), open_versions()), ("/ /a /b /new /pattern", 5));
    let mut all = between.clone();
    all.insert("new".to_string(), w.tree(MAIN)["new"].clone());
    assert_eq!(w.tree(MAIN), all);
    w.engine.seal(None).unwrap();
    assert_eq!(w.tree(w.now()), all);
    txn::rollback(&w.engine, row.id, &w.caller).unwrap();
    drop(stage);
    verify(&w);
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let (_dir, w) = world();
    let (_, rows) = file(&w, "new");
    let before = w.tree(MAIN);
    let mut stage = w.engine.stage(MAIN.branch, rows.len(), &w.caller).unwrap();
    stage.write(rows).unwrap();
    // Somebody takes the name meanwhile.
    w.write(MAIN, "new", "other").unwrap();
    w.engine.sync().unwrap();
    let refused = stage.publish(Vec::new(), draft(), &mut |_| Err(FsError::WouldBlock), &w.caller);
    assert_eq!(refused, Err(FsError::WouldBlock));
    drop(stage);
    assert_eq!(w.read(MAIN, "new").unwrap(), "other");
    verify(&w);
    w.rm(MAIN, "new").unwrap();
    assert_eq!(w.tree(MAIN), before);
    for i in 0..200 {
        w.write(MAIN, "a", &i.to_string()).unwrap(); // up to and beyond the number that was reserved, in the end
    }
    verify(&w);
}

/// Moves money between files in transactions that conflict all the time, beside a writer of its own.
#[test]
fn a_bank_whose_commits_are_written_ahead_keeps_its_sum() {
    const ACCOUNTS: u64 = 5;
    const TELLERS: u64 = 4;
    let (_dir, w) = world();
    for account in 0..ACCOUNTS {
        w.write(MAIN, &format!("a{account}"), "100").unwrap();
    }
    let sum = |view: View| -> i64 {
        let amount = |account| w.read(view, &format!("a{account}")).unwrap().parse::<i64>().unwrap();
        (0..ACCOUNTS).map(amount).sum()
    };
    let begun = w.engine.point().0;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let w = &w;
        let tellers: Vec<_> = (0..TELLERS)
            .map(|teller| {
                scope.spawn(move || {
                    let (mut moved, mut number) = (0, teller);
                    while moved < 25 {
                        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let (from, to) = ((number >> 30) % ACCOUNTS, (number >> 40) % ACCOUNTS);
                        let (row, tx) = w.begin();
                        let move_by = |account: u64, by: i64| {
                            let path = format!("a{account}");
                            let amount: i64 = w.read(tx, &path).unwrap().parse().unwrap();
                            // Some are saved as editors do, some are overwritten.
                            let amount = (amount + by).to_string();
                            if number % 2 == 0 { w.save(tx, &path, &amount) } else { w.write(tx, &path, &amount) }
                                .unwrap();
                        };
                        move_by(from, -1);
                        move_by(to, 1);
                        match w.commit(&row) {
                            CommitOutcome::Committed { .. } => moved += 1,
                            CommitOutcome::Conflicted { .. } => {
                                drop(txn::rollback(&w.engine, row.id, &w.caller).unwrap())
                            }
                        }
                    }
                })
            })
            .collect();
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                written += 1;
                // Now and then what the tellers write too, which is no change of the sum.
                w.save(MAIN, &format!("w{}", written % 3), "w").unwrap();
                w.chmod(MAIN, &format!("a{}", written % ACCOUNTS), 0o600 | (written % 7) as u16).ok();
                if written % 4 == 0 {
                    w.engine.sync().unwrap();
                }
            }
        });
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(sum(View::as_of(MAIN.branch, w.engine.point().0)), 100 * ACCOUNTS as i64);
            }
        });
        let ends: Vec<_> = tellers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        for end in ends.into_iter().chain([writer.join(), reader.join()]) {
            end.unwrap();
        }
    });
    assert_eq!(sum(MAIN), 100 * ACCOUNTS as i64);
    w.engine.seal(None).unwrap();
    let read = w.engine.store().read().unwrap();
    let filter = EventFilter { after: Some(begun), ops: vec![Op::Commit], ..EventFilter::default() };
    let commits = read.events(&filter).unwrap();
    assert!(commits.len() >= 25 * TELLERS as usize);
    for event in commits {
        assert_eq!(sum(View::as_of(MAIN.branch, event.seq)), 100 * ACCOUNTS as i64, "at e{}", event.seq);
    }
    drop(read);
    verify(&w);
}

#[test]
fn writers_and_readers_beside_a_large_commit_see_all_of_it_or_nothing() {
    const FILES: usize = 3000;
    let dir = tempfile::tempdir().unwrap();
    let w =
        World::over(Arc::new(create(&dir.path().join("w.stone"))), Options { stage_min: 100, ..Options::default() });
    w.mkdir(MAIN, "d").unwrap();
    w.write(MAIN, "d/shared", "0").unwrap();
    w.write(MAIN, "count", "0").unwrap();
    let (row, tx) = w.begin();
    for i in 0..FILES {
        w.write(tx, &format!("d/f{i}"), "x").unwrap();
    }
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                written += 1;
                w.write(MAIN, "count", &written.to_string()).unwrap();
                w.write(MAIN, &format!("d/w{}", written % 50), "w").unwrap();
                w.engine.sync().unwrap();
            }
            written
        });
        let reader = scope.spawn(|| {
            let mut seen = BTreeMap::new();
            let dir = w.ino(MAIN, "d").unwrap();
            while !done.load(Ordering::Relaxed) {
                let count = |view: View| {
                    let list = w.engine.list(view, dir).unwrap();
                    list.iter().filter(|entry| entry.name.as_bytes().starts_with(b"f")).count()
                };
                *seen.entry(count(MAIN)).or_insert(0) += 1;
                *seen.entry(count(View::as_of(MAIN.branch, w.engine.point().0))).or_insert(0) += 1;
            }
            seen
        });
        let outcome = w.commit(&row);
        assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
        done.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        reader.join().unwrap()
    });
    assert!(seen.keys().all(|count| [0, FILES].contains(count)), "{seen:?}");
    assert_eq!(w.tree(MAIN).keys().filter(|path| path.starts_with("d/f")).count(), FILES);
    verify(&w);
}
