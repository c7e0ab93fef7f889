//! What holds of the SQLite store alone: its file, its neighbours, its refusals.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::{Connection, OpenFlags};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Mutation, ReadTxn, Store, StoreError};
use stonefs::types::{Ino, Kind, Op};

use crate::store_conformance::{NOW, event, file_row, fork, live, put_bytes, put_entry, put_inode, write};

fn create(path: &Path) -> SqliteStore {
    SqliteStore::create(path, &InitOptions { now: NOW, uid: 0, gid: 0, settings: Vec::new() }).unwrap()
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.stone");
    (dir, path)
}

#[test]
fn only_the_owner_reads_the_file_and_its_log() {
    let (_dir, path) = scratch();
    let store = create(&path);
    write(&store, vec![put_entry(1, 2, 1, "a", Some(2))]);
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("{}{suffix}", path.display());
        assert_eq!(std::fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    store.close().unwrap();
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["t.stone"]);
}

#[test]
fn foreign_readers_work_and_foreign_writers_are_locked_out() {
    let (_dir, path) = scratch();
    let store = create(&path);
    let other = Connection::open(&path).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    for at in 2..6 {
        write(&store, vec![put_entry(1, at, 1, &format!("f{at}"), Some(at))]);
        let count: i64 = other.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap();
        assert_eq!(count as u64, at - 1);
        let error = other.execute("DELETE FROM entry", []).unwrap_err();
        assert_eq!(error.to_string(), "database is locked");
    }
    drop(store);
    assert_eq!(other.execute("DELETE FROM entry", []).unwrap(), 4);
}

#[test]
fn what_is_not_ours_is_refused_in_one_line() {
    let (dir, path) = scratch();
    let refusal = |path: &Path| {
        let before = std::fs::read(path).ok();
        let error = SqliteStore::open(path).err().unwrap();
        let again = SqliteStore::open_read_only(path).err().unwrap();
        assert_eq!(std::fs::read(path).ok(), before, "a refused file is left as it was");
        assert_eq!(error.to_string(), again.to_string());
        assert!(!error.to_string().contains('\n'), "{error}");
        error
    };
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(refusal(&path), StoreError::Schema(_)));
    std::fs::write(&path, vec![0; 200_000]).unwrap();
    assert!(matches!(refusal(&path), StoreError::Schema(_)));
    std::fs::write(&path, b"a text file that is longer than the header of a database, or else it is an easy case")
        .unwrap();
    assert!(matches!(refusal(&path), StoreError::Schema(_)));
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(refusal(&path), StoreError::Schema(why) if why.ends_with("is not a StoneFS database")));
    assert!(matches!(refusal(dir.path()), StoreError::Schema(_)));
    assert!(refusal(&dir.path().join("none")).to_string().contains("stone init"));
}

#[test]
fn a_newer_version_is_refused() {
    let (_dir, path) = scratch();
    create(&path).close().unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 1000).unwrap();
    drop(conn);
    let error = SqliteStore::open(&path).err().unwrap();
    assert!(matches!(&error, StoreError::Schema(why) if why.contains("newer") && why.contains("1000")), "{error}");
}

#[test]
fn a_truncated_file_is_refused_as_damaged() {
    let (_dir, path) = scratch();
    let store = create(&path);
    write(&store, (0..40).map(|index| put_bytes(1, 2, 2, index, &vec![index as u8; 100_000])).collect());
    store.close().unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    for left in [size / 2, size - 32768, 40_000, 1000] {
        let cut = path.with_extension("cut");
        std::fs::write(&cut, &std::fs::read(&path).unwrap()[..left as usize]).unwrap();
        let error = SqliteStore::open(&cut).err().unwrap();
        assert!(matches!(error, StoreError::Corrupt(_)), "{left} of {size} bytes: {error}");
    }
}

#[test]
fn the_log_starts_anew_while_readers_come_and_go() {
    let (_dir, path) = scratch();
    let store = create(&path);
    let mut largest = 0;
    for round in 0..60u64 {
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u64| (i.wrapping_mul(round + 7) >> 5) as u8).collect();
        let chunks = bytes.chunks(128 * 1024).enumerate();
        write(&store, chunks.map(|(index, data)| put_bytes(1, round + 2, 2, index as u64, data)).collect());
        let reader = store.read().unwrap();
        reader.counters().unwrap();
        drop(reader);
        store.checkpoint().unwrap();
        largest = largest.max(store.space().unwrap().log);
    }
    assert!(largest < 48 << 20, "the log grew to {largest} bytes");
}

#[test]
fn the_log_starts_anew_while_somebody_always_reads() {
    let (_dir, path) = scratch();
    let store = create(&path);
    let done = AtomicBool::new(false);
    let mut largest = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.read().unwrap().counters().unwrap();
            }
        });
        for round in 0..40u64 {
            let bytes: Vec<u8> = (0..2 << 20).map(|i: u64| (i.wrapping_mul(round + 7) >> 5) as u8).collect();
            let chunks = bytes.chunks(128 * 1024).enumerate();
            write(&store, chunks.map(|(index, data)| put_bytes(1, round + 2, 2, index as u64, data)).collect());
            store.checkpoint().unwrap();
            largest = largest.max(store.space().unwrap().log);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(largest < 64 << 20, "the log grew to {largest} bytes");
}

#[test]
fn a_reader_sees_every_commit_before_it_and_none_after() {
    let (_dir, path) = scratch();
    let store = create(&path);
    let names = |txn: &dyn ReadTxn| txn.entries(&live(1), Ino(1)).unwrap().len();
    for number in 0..10u64 {
        let before = store.read().unwrap();
        assert_eq!(names(before.as_ref()), number as usize);
        // The second goes on with the snapshot of the first.
        drop(store.read().unwrap());
        write(&store, vec![put_entry(1, number + 2, 1, &format!("f{number}"), Some(number + 2))]);
        assert_eq!(names(before.as_ref()), number as usize);
        drop(before);
        assert_eq!(names(store.read().unwrap().as_ref()), number as usize + 1);
        if number % 3 == 0 {
            store.checkpoint().unwrap();
        }
    }
}

#[test]
fn a_backup_is_a_database_of_its_own() {
    let (dir, path) = scratch();
    let store = create(&path);
    write(&store, vec![put_entry(1, 2, 1, "a", Some(2)), put_inode(1, 2, 2, Some(file_row(3)))]);
    let copy = dir.path().join("copy.stone");
    store.backup(&copy).unwrap();
    assert!(matches!(store.backup(&copy), Err(StoreError::Conflict(_))));
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let copied = SqliteStore::open(&copy).unwrap();
    assert_eq!(copied.read().unwrap().entry(&live(1), Ino(1), b"a").unwrap().unwrap().ino, Ino(2));
    assert_eq!(copied.check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_reader_needs_no_write_access() {
    let (dir, path) = scratch();
    let store = create(&path);
    write(&store, vec![put_entry(1, 2, 1, "a", Some(2))]);
    let beside = SqliteStore::open_read_only(&path).unwrap();
    assert_eq!(beside.read().unwrap().entries(&live(1), Ino(1)).unwrap().len(), 1);
    write(&store, vec![put_entry(1, 3, 1, "b", Some(3))]);
    assert_eq!(beside.read().unwrap().entries(&live(1), Ino(1)).unwrap().len(), 2);
    assert!(matches!(beside.write().err(), Some(StoreError::Backend(_))));
    drop(beside);
    store.close().unwrap();
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["t.stone"]);
}

#[test]
fn any_sqlite_program_reads_the_views() {
    let (_dir, path) = scratch();
    let store = create(&path);
    let mut made = event(2, 1, Op::Create);
    made.ino = Some(Ino(3));
    made.name = Some(b"f".to_vec());
    made.path = Some(std::sync::Arc::from(&b"/d/f"[..]));
    let mut dir = file_row(0);
    dir.kind = Kind::Dir;
    let mut subdir = put_entry(1, 2, 1, "d", Some(2));
    if let Mutation::Entry { row: Some(row), .. } = &mut subdir {
        row.kind = Kind::Dir;
    }
    write(
        &store,
        vec![
            subdir,
            put_inode(1, 2, 2, Some(dir)),
            put_entry(1, 2, 2, "f", Some(3)),
            put_inode(1, 2, 3, Some(file_row(6))),
            Mutation::Event(Box::new(made)),
            fork(2, 1, 2),
            put_entry(1, 3, 2, "f", None),
            put_inode(1, 3, 3, None),
            put_entry(2, 4, 2, "g", Some(4)),
            put_inode(2, 4, 4, Some(file_row(7))),
            Mutation::Setting("live_branch".to_string(), Some(b"2".to_vec())),
        ],
    );
    let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let column = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(column("SELECT path FROM files ORDER BY path"), ["/", "/d", "/d/f", "/d/g"]);
    assert_eq!(column("SELECT path FROM versions WHERE inode=3"), ["/d/f"]);
    assert_eq!(column("SELECT op||path FROM events WHERE path IS NOT NULL"), ["create/d/f"]);
    assert_eq!(column("SELECT name FROM branches ORDER BY id"), ["main", "b2"]);
    assert_eq!(column("SELECT time FROM events WHERE seq=1"), ["1970-01-01T00:00:01.000000000Z"]);
    for view in ["transactions", "tags", "conflicts", "processes"] {
        assert_eq!(column(&format!("SELECT * FROM {view}")), Vec::<String>::new());
    }
}

/// A small sound database: a directory, a file of one chunk, a file that a branch removed.
fn sound(path: &Path) {
    let store = create(path);
    let mut dir = file_row(0);
    (dir.kind, dir.nlink) = (Kind::Dir, 2);
    let mut root = dir.clone();
    root.nlink = 3;
    let mut subdir = put_entry(1, 2, 1, "d", Some(2));
    if let Mutation::Entry { row: Some(row), .. } = &mut subdir {
        row.kind = Kind::Dir;
    }
    let mut made = event(4, 1, Op::Create);
    made.path = Some(std::sync::Arc::from(&b"/d/f"[..]));
    write(
        &store,
        vec![
            put_inode(1, 2, 1, Some(root)),
            subdir,
            put_inode(1, 2, 2, Some(dir)),
            put_entry(1, 3, 2, "f", Some(3)),
            put_inode(1, 3, 3, Some(file_row(6))),
            put_bytes(1, 3, 3, 0, b"123456"),
            Mutation::Event(Box::new(made)),
            fork(2, 1, 4),
            put_entry(2, 5, 2, "f", None),
            put_inode(2, 5, 3, None),
        ],
    );
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    store.close().unwrap();
}

#[test]
fn a_check_finds_every_kind_of_damage() {
    let (_dir, path) = scratch();
    sound(&path);
    for (damage, finding) in [
        ("UPDATE entry SET valid_to=9 WHERE valid_from=2", "inode 2: a directory with 0 names on branch 1"),
        ("UPDATE entry SET valid_to=2 WHERE valid_from=2", "valid from e2 to e2"),
        ("INSERT INTO entry VALUES (2, x'66', 1, 4, 9223372036854775807, 3, 1)", "two rows at e4 on branch 1"),
        ("INSERT INTO entry VALUES (2, x'66', 2, 9, 9223372036854775807, 3, 1)", "two rows at e9 on branch 2"),
        ("UPDATE entry SET valid_to=7 WHERE branch=2", "ends at e7 on branch 2 without a tombstone"),
        ("UPDATE entry SET ino=NULL WHERE valid_from=3", "a tombstone at e3 on branch 1"),
        ("DELETE FROM inode WHERE ino=3", "inode 3 does not exist at e3"),
        ("UPDATE inode SET kind=3 WHERE ino=3 AND branch=1", "inode 3 is a symlink, not a file"),
        ("UPDATE inode SET nlink=7 WHERE ino=3 AND branch=1", "its link count is 7 on branch 1, it has 1"),
        ("UPDATE inode SET nlink=9 WHERE ino=1 AND valid_from=2", "its link count is 9 on branch 1, it has 3"),
        ("DELETE FROM chunk", "extent without its chunk (inode, index, chunk): 3, 0, 1"),
        ("UPDATE chunk SET size=5", "its length is wrong"),
        ("UPDATE chunk SET encoding=2", "base"),
        ("UPDATE chunk SET encoding=9", "unknown encoding 9"),
        ("DELETE FROM path", "event in a directory without a path (event): 4"),
        ("UPDATE event SET time=0 WHERE seq=4", "not later than the one before it (event): 4"),
        ("UPDATE counters SET seq=3", "is at 3, 4 is in use"),
        ("UPDATE counters SET next_ino=3", "is at 3, 4 is in use"),
        ("DELETE FROM branch WHERE id=2", "on branch 2, which is missing"),
        ("UPDATE branch SET parent=2 WHERE id=2", "branch 2: its parents are missing"),
        ("UPDATE inode SET kind=99 WHERE ino=3 AND branch=1", "unknown type 99"),
        ("DELETE FROM counters", "counters are missing"),
    ] {
        let copy = path.with_extension("damaged");
        std::fs::copy(&path, &copy).unwrap();
        Connection::open(&copy).unwrap().execute_batch(damage).unwrap();
        let found = match SqliteStore::open_read_only(&copy) {
            Ok(store) => match store.check() {
                Ok(findings) => findings.join("; "),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        assert!(found.contains(finding), "{damage}: {found}");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", copy.display()));
        }
    }
}

#[test]
fn damaged_bytes_are_errors_and_never_a_panic() {
    let (_dir, path) = scratch();
    sound(&path);
    let whole = std::fs::read(&path).unwrap();
    let copy = path.with_extension("damaged");
    let mut dice = 88172645463325252u64;
    let mut roll = |sides: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % sides as u64) as usize
    };
    let mut noticed = 0;
    for _ in 0..150 {
        let mut bytes = whole.clone();
        // Where the content is: pages end with their cells.
        let page = roll(whole.len() / 32768) * 32768;
        for _ in 0..1 + roll(8) {
            let place = if roll(2) == 0 { page + roll(200) } else { page + 32768 - 1 - roll(800) };
            bytes[place] ^= 1 << roll(8);
        }
        std::fs::write(&copy, &bytes).unwrap();
        let outcome = SqliteStore::open(&copy).and_then(|store| {
            let findings = store.check()?;
            let read = store.read()?;
            read.entries(&live(1), Ino(1))?;
            read.scan_rows(&mut |_| Ok(()))?;
            Ok(findings)
        });
        noticed += usize::from(!matches!(outcome, Ok(findings) if findings.is_empty()));
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", copy.display()));
        }
    }
    // Most flips hit free space; those in values are for the digests to find.
    assert!(noticed > 5, "{noticed} of 150 were noticed");
}
