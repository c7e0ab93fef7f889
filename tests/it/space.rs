//! Space: limits, what is stored once, and content that is compared with its hash.

use std::path::Path;
use std::sync::Arc;

use stonefs::engine::{FsError, Options};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{COMPRESSION, InitOptions, Prune};
use stonefs::types::Ino;

use crate::world::{MAIN, START, World};

fn create(path: &Path) -> World {
    let init = InitOptions { now: START, uid: 0, gid: 0, settings: Vec::new() };
    World::over(Arc::new(SqliteStore::create(path, &init).unwrap()), Options::default())
}

/// Text that does not compress well, and differs with its seed.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + (state >> 33) as u8 % 90)
    };
    (0..length).map(|_| next()).collect()
}

fn used(w: &World) -> u64 {
    w.engine.sync().unwrap();
    let space = w.engine.store().space().unwrap();
    space.total - space.log - space.reclaimable
}

#[test]
fn a_limit_is_a_full_disk_until_history_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let w = create(&dir.path().join("w.stone"));
    let limit = used(&w) + (4 << 20);
    w.engine.limit_size(Some(limit));
    let mut count = 0;
    let error = loop {
        match w.write(MAIN, "f", &noise(count, 300_000)) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 1000, "the limit was never reached");
    };
    assert_eq!(error.errno(), libc::ENOSPC);
    assert!((8..=14).contains(&count), "{count} versions of 300 kB in 4 MiB");
    assert!(used(&w) <= limit + 65536, "{} of {limit}", used(&w));
    let free = w.engine.statfs().unwrap();
    assert!(free.blocks * 4096 <= limit && free.free * 4096 < 400_000, "{free:?}");
    // What makes something is refused; reads and what removes go on.
    let full = |result: Result<(), FsError>| assert_eq!(result.unwrap_err().errno(), libc::ENOSPC);
    full(w.write(MAIN, "g", &noise(count, 300_000)));
    w.tree(MAIN);
    w.rm(MAIN, "f").unwrap();
    assert_eq!(w.engine.lookup(MAIN, Ino::ROOT, b"f"), Err(FsError::NotFound));
    // Nothing is free yet: the past still has it. Forgetting it makes room, without a remount.
    let before = w.engine.sync().unwrap();
    w.engine.store().prune(&Prune { before, pins: Vec::new(), dry_run: false }).unwrap();
    for seed in 0..8 {
        w.write(MAIN, "h", &noise(1000 + seed, 300_000)).unwrap();
    }
    assert_eq!(w.read(MAIN, "h").unwrap(), noise(1007, 300_000));
    w.engine.limit_size(None);
    w.write(MAIN, "i", &noise(7, 8 << 20)).unwrap();
    w.check();
}

#[test]
fn small_files_up_to_a_limit_are_not_refused_early() {
    let dir = tempfile::tempdir().unwrap();
    let w = create(&dir.path().join("w.stone"));
    w.engine.limit_size(Some(used(&w) + (2 << 20)));
    let mut count = 0;
    while w.write(MAIN, &format!("f{count}"), "a few bytes").is_ok() {
        count += 1;
        assert!(count < 100_000, "the limit was never reached");
    }
    assert!(count > 1000, "only {count} small files in 2 MiB");
    assert_eq!(w.read(MAIN, "f0").unwrap(), "a few bytes");
    w.check();
}

#[test]
fn content_that_was_altered_is_no_content_where_reads_verify() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.stone");
    let w = create(&path);
    for name in ["good", "bad"] {
        w.write(MAIN, name, &noise(name.len() as u64, 300_000)).unwrap();
    }
    w.engine.close().unwrap();
    w.engine.store().close().unwrap();
    drop(w);
    {
        let conn = rusqlite::Connection::open(&path).unwrap();
        let one = "SELECT max(id) FROM chunk WHERE encoding=0 AND size=131072";
        let alter = format!("UPDATE chunk SET data=CAST(x'00'||substr(data, 2) AS BLOB) WHERE id=({one})");
        assert_eq!(conn.execute(&alter, []).unwrap(), 1);
    }
    let open = || World::over(Arc::new(SqliteStore::open(&path).unwrap()), Options::default());
    let w = open();
    w.engine.store().verify_content(true);
    let results = [w.read(MAIN, "good"), w.read(MAIN, "bad")];
    let errors: Vec<i32> = results.iter().filter_map(|result| result.as_ref().err()).map(FsError::errno).collect();
    assert_eq!(errors, [libc::EIO], "{results:?}");
    assert!(w.engine.health().is_none(), "one damaged file is not the end of the others");
    // Writing the whole file anew mends it; what is new does not stand on what is damaged.
    let name = if results[0].is_err() { "good" } else { "bad" };
    w.write(MAIN, name, &noise(77, 300_000)).unwrap();
    w.engine.sync().unwrap();
    assert_eq!(w.read(MAIN, name).unwrap(), noise(77, 300_000));
}

#[test]
fn the_same_content_is_stored_once_and_one_byte_is_one_small_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let w = create(&dir.path().join("w.stone"));
    let mut text = noise(1, 8 << 20);
    let empty = used(&w);
    w.write(MAIN, "a", &text).unwrap();
    let first = used(&w);
    assert!(first - empty < (8 << 20) * 105 / 100, "{} bytes for 8 MiB", first - empty);
    for n in 0..5 {
        w.write(MAIN, &format!("copy{n}"), &text).unwrap();
    }
    let side = w.branch("side", MAIN);
    w.write(side, "copy", &text).unwrap();
    let copied = used(&w);
    assert!(copied - first < 512 << 10, "{} bytes for copies", copied - first);
    text.replace_range(5_000_000..5_000_001, "\u{7f}");
    w.write(MAIN, "a", &text).unwrap();
    let changed = used(&w);
    assert!(changed - copied < 256 << 10, "{} bytes for one that changed", changed - copied);
    w.check();
}

#[test]
fn compression_is_switched_on_and_off_for_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.stone");
    let w = create(&path);
    let line = |n: usize| format!("the {n}th line of a text that is much like any other line of it\n");
    let text = |from: usize| (from..from + 30_000).map(line).collect::<String>();
    let sizes: Vec<u64> = [None, Some(&b"zstd"[..]), Some(b"none")]
        .into_iter()
        .enumerate()
        .map(|(n, setting)| {
            if setting.is_some() {
                w.engine.set_setting(COMPRESSION, setting).unwrap();
            }
            let before = used(&w);
            w.write(MAIN, &format!("f{n}"), &text(n * 100_000)).unwrap();
            used(&w) - before
        })
        .collect();
    assert!(sizes[1] * 2 < sizes[0] && sizes[1] * 2 < sizes[2], "{sizes:?}");
    w.engine.close().unwrap();
    w.engine.store().close().unwrap();
    drop(w);
    let w = World::over(Arc::new(SqliteStore::open(&path).unwrap()), Options::default());
    for n in 0..3 {
        assert_eq!(
            w.engine.read_at(MAIN, w.ino(MAIN, &format!("f{n}")).unwrap(), 0, 4 << 20).unwrap(),
            text(n * 100_000).as_bytes()
        );
    }
    w.check();
    let proof = stonefs::audit::verify(w.engine.store().read().unwrap().as_ref()).unwrap();
    assert!(proof.findings.is_empty(), "{:?}", proof.findings);
}
