//! What holds of the SQLite store alone: its file, its neighbours, its refusals.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Mutation, Store, StoreError};
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
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
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
