//! Faults at every Nth call of the store, below an engine that works.
//!
//! A twin without faults says what the state was at every event. After a fault that leaves the
//! disk unknown, no more changes are taken, callers are told EIO, reads go on, and the database
//! opens again with a prefix of what was done that holds everything acknowledged.

use std::path::Path;
use std::sync::Arc;

use stonefs::engine::{FsError, Options};
use stonefs::store::failing::{Call, FailingStore, Fault};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Store, StoreError, TagRow};
use stonefs::types::{Ino, Seq, View};

use crate::world::{MAIN, START, World};

/// Groups are made by syncs alone, so that every run has the same ones.
fn options() -> Options {
    Options { group_ms: 600_000, ..Options::default() }
}

fn create(path: &Path) -> Arc<FailingStore> {
    let init = InitOptions { now: START, uid: 0, gid: 0, settings: Vec::new() };
    Arc::new(FailingStore::new(Arc::new(SqliteStore::create(path, &init).unwrap())))
}

type Step = fn(&World) -> Result<(), FsError>;

fn write(w: &World, path: &str, content: &str) -> Result<(), FsError> {
    w.write(MAIN, path, content)
}

fn sync(w: &World) -> Result<(), FsError> {
    w.engine.sync().map(drop)
}

/// A transaction's steps fail as a whole.
fn transact(w: &World) -> Result<(), FsError> {
    let side = w.engine.fork(Some(b"side"), MAIN, &w.caller)?;
    w.write(View::live(side.id), "d/a", "on the side")?;
    w.rm(View::live(side.id), "b")
}

fn tag(w: &World) -> Result<(), FsError> {
    let (seq, time) = w.engine.point();
    let row = TagRow { name: b"v1".to_vec(), branch: MAIN.branch, seq, time, uid: 0, message: String::new() };
    w.engine.set_tag(b"v1", Some(row), &w.caller)
}

/// What is done: every kind of change, each few made durable.
const STEPS: &[Step] = &[
    |w| w.mkdir(MAIN, "d"),
    |w| write(w, "d/a", "one"),
    sync,
    |w| write(w, "b", &"large ".repeat(40_000)),
    |w| w.symlink(MAIN, "d/a", "link"),
    sync,
    |w| write(w, "b", &"larger ".repeat(40_000)),
    |w| w.rename(MAIN, "b", "d/b"),
    sync,
    |w| w.rename(MAIN, "d/b", "b"),
    |w| w.link(MAIN, "b", "hard"),
    |w| w.setxattr(MAIN, "b", "user.k", "v"),
    sync,
    transact,
    |w| w.chmod(MAIN, "d/a", 0o600),
    |w| w.save(MAIN, "d/a", "two"),
    sync,
    |w| w.rm(MAIN, "b"),
    |w| w.rm(MAIN, "link"),
    |w| w.mkdir(MAIN, "d/e"),
    |w| w.rmdir(MAIN, "d/e"),
    tag,
    sync,
    |w| write(w, "last", "word"),
    sync,
];

fn is_sync(step: usize) -> bool {
    STEPS[step] as usize == sync as Step as usize
}

/// A world that did everything, without a fault.
fn twin(dir: &Path) -> (World, Arc<FailingStore>) {
    let store = create(&dir.join("twin.stone"));
    let w = World::over(store.clone(), options());
    for step in STEPS {
        step(&w).unwrap();
    }
    (w, store)
}

/// Opens a database anew: sound, a prefix of the twin, and with everything up to a point.
fn reopen(path: &Path, twin: &World, durable: Seq, what: &str) -> World {
    let store = Arc::new(SqliteStore::open(path).unwrap());
    let point = store.read().unwrap().counters().unwrap().seq;
    assert!(point >= durable, "{what}: {durable} was acknowledged, {point} is there");
    let w = World::over(store, options());
    assert_eq!(w.tree(MAIN), twin.tree(View::as_of(MAIN.branch, point)), "{what}: at {point}");
    w.check();
    let proof = stonefs::audit::verify(w.engine.store().read().unwrap().as_ref()).unwrap();
    assert!(proof.findings.is_empty(), "{what}: {:?}", proof.findings);
    w.write(MAIN, "after", "it works again").unwrap();
    sync(&w).unwrap();
    w
}

#[test]
fn a_fault_at_any_write_stops_all_changes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (twin, counted) = twin(dir.path());
    let calls =
        [(Call::Write, false), (Call::Apply, false), (Call::Commit, false), (Call::Commit, true), (Call::Sync, false)];
    let mut struck = 0;
    for (call, after) in calls {
        // The first calls made the chain and are not repeated below.
        for nth in 1..=counted.count(call) {
            let what = format!("{call:?} {nth}{}", if after { " after it took effect" } else { "" });
            let path = dir.path().join(format!("{call:?}-{nth}-{after}.stone"));
            let store = create(&path);
            let w = World::over(store.clone(), options());
            store.fail(Fault { call, nth, error: StoreError::Backend("injected".into()), after, lasting: false });
            let mut durable = Seq(1);
            let mut failed = None;
            for (number, step) in STEPS.iter().enumerate() {
                match step(&w) {
                    Ok(()) if is_sync(number) => durable = w.engine.point().0,
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error.errno(), libc::EIO, "{what}: step {number} says {error}");
                        failed = Some(number);
                        break;
                    }
                }
            }
            let Some(failed) = failed else {
                assert!(nth + 2 >= counted.count(call), "{what}: nobody was told");
                continue;
            };
            struck += 1;
            // Changes are refused from now on, and nothing more is committed.
            let commits = store.count(Call::Commit);
            for step in STEPS.iter().skip(failed) {
                assert!(step(&w).is_err(), "{what}: a change was taken after the fault");
            }
            assert_eq!(store.count(Call::Commit), commits, "{what}: something was committed after the fault");
            assert!(w.engine.health().is_some());
            // What is there is read on: in memory, and from the store.
            assert!(w.engine.list(MAIN, Ino::ROOT).is_ok(), "{what}");
            w.tree(MAIN);
            w.tree(View::as_of(MAIN.branch, durable));
            w.engine.abandon();
            let _ = store.close();
            drop((w, store));
            reopen(&path, &twin, durable, &what).engine.close().unwrap();
        }
    }
    assert!(struck > 20, "only {struck} faults struck");
}

#[test]
fn a_disk_that_is_full_for_a_while_at_any_write_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (twin, counted) = twin(dir.path());
    let whole = twin.tree(MAIN);
    for call in [Call::Write, Call::Apply, Call::Commit] {
        for nth in 1..=counted.count(call) {
            let what = format!("{call:?} {nth}");
            let path = dir.path().join(format!("{call:?}-{nth}.stone"));
            let store = create(&path);
            let w = World::over(store.clone(), options());
            store.fail(Fault { call, nth, error: StoreError::Full, after: false, lasting: true });
            for (number, step) in STEPS.iter().enumerate() {
                let mut tries = 0;
                while let Err(error) = step(&w) {
                    assert_eq!(error.errno(), libc::ENOSPC, "{what}: step {number} says {error}");
                    w.tree(MAIN); // reads go on
                    if tries == 0 {
                        store.heal();
                    }
                    tries += 1;
                    assert!(tries < 2000, "{what}: step {number} does not recover");
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
            assert_eq!(w.tree(MAIN), whole, "{what}");
            w.check();
            w.engine.close().unwrap();
            store.close().unwrap();
            drop((w, store));
            let again = World::over(Arc::new(SqliteStore::open(&path).unwrap()), options());
            assert_eq!(again.tree(MAIN), whole, "{what}");
        }
    }
}

#[test]
fn a_read_that_fails_is_told_and_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let make = |path: &Path| {
        let store = create(path);
        let w = World::over(store.clone(), options());
        for step in &STEPS[..13] {
            step(&w).unwrap();
        }
        w.engine.close().unwrap();
        store.close().unwrap();
    };
    let base = dir.path().join("base.stone");
    make(&base);
    let mut nth = 1;
    let mut struck = 0;
    loop {
        let path = dir.path().join("copy.stone");
        std::fs::copy(&base, &path).unwrap();
        let store = Arc::new(FailingStore::new(Arc::new(SqliteStore::open(&path).unwrap())));
        let w = World::over(store.clone(), options());
        let before = store.count(Call::Read);
        store.fail_once(Call::Read, nth, StoreError::Backend("injected".into()));
        let mut told = false;
        let mut stopped = false;
        for step in &STEPS[13..] {
            if let Err(error) = step(&w) {
                assert!(told || error.errno() == libc::EIO, "read {nth}: {error}");
                told = true;
                // A read of the writer's own, about what it is to commit, ends like a failed write.
                stopped |= w.engine.health().is_some();
            }
        }
        let done = store.count(Call::Read) - before < nth;
        struck += u64::from(told);
        store.heal();
        let shown = (!stopped).then(|| {
            w.engine.sync().unwrap();
            w.tree(MAIN)
        });
        w.engine.abandon();
        let _ = store.close();
        drop((w, store));
        let store = Arc::new(SqliteStore::open(&path).unwrap());
        let again = World::over(store, options());
        if let Some(shown) = shown {
            assert_eq!(again.tree(MAIN), shown, "read {nth}: memory and database disagree");
        }
        again.check();
        again.engine.close().unwrap();
        again.engine.store().close().unwrap();
        if done {
            break;
        }
        nth += 1;
    }
    assert!(struck > 10, "only {struck} of {nth} reads struck");
}
