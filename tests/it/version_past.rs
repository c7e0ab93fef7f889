//! Diff, history, undo and restore.

use std::path::Path;
use std::sync::Arc;

use stonefs::engine::Options;
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Store, TxnKind};
use stonefs::types::{BranchId, Op, Seq};
use stonefs::version::conflict::ConflictKind as Kind;
use stonefs::version::history::{self, LogOptions};
use stonefs::version::restore::{self, RestoreOutcome};
use stonefs::version::undo::{self, UndoOutcome, UndoTarget};
use stonefs::version::{ErrorKind, PathBytes, diff};

use crate::world::{MAIN, START, World, kinds};

#[test]
fn a_diff_has_one_line_a_path() {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    for name in ["d/a", "d/b", "c", "exchange1", "exchange2", "typed", "saved", "mode", "gone"] {
        w.write(MAIN, name, name).unwrap();
    }
    w.mkdir(MAIN, "tree").unwrap();
    w.write(MAIN, "tree/f", "f").unwrap();
    let before = w.now();
    w.rename(MAIN, "d", "e").unwrap();
    w.write(MAIN, "e/a", "changed").unwrap();
    w.rm(MAIN, "typed").unwrap();
    w.symlink(MAIN, "c", "typed").unwrap();
    w.save(MAIN, "saved", "again").unwrap();
    w.chmod(MAIN, "mode", 0o600).unwrap();
    w.rm(MAIN, "gone").unwrap();
    w.write(MAIN, "new", "n").unwrap();
    w.rename(MAIN, "exchange1", "t").unwrap();
    w.rename(MAIN, "exchange2", "exchange1").unwrap();
    w.rename(MAIN, "t", "exchange2").unwrap();
    w.write(MAIN, "c", "x").unwrap();
    w.write(MAIN, "c", "c").unwrap();
    // The same again by other inodes is no difference.
    w.rm(MAIN, "tree/f").unwrap();
    w.rmdir(MAIN, "tree").unwrap();
    w.mkdir(MAIN, "tree").unwrap();
    w.write(MAIN, "tree/f", "f").unwrap();
    assert_eq!(
        w.diff(before, MAIN),
        "R /d -> /e, M /e/a, R /exchange2 -> /exchange1, R /exchange1 -> /exchange2, D /gone, m /mode, A /new, M /saved, T /typed"
    );
    assert_eq!(w.diff(MAIN, MAIN), "");
    let changes = diff::diff(&w.engine, before, MAIN, Some(b"/e")).unwrap();
    assert_eq!(changes.len(), 2);
    let text = diff::text_diff(&w.engine, before, MAIN, &changes[1]).unwrap();
    assert_eq!(
        text.render(),
        b"@@ -1 +1 @@\n-d/a\n\\ No newline at end of file\n+changed\n\\ No newline at end of file\n"
    );
}

#[test]
fn history_follows_a_file_through_names_and_inodes() {
    let w = World::new();
    w.write(MAIN, "old", "1").unwrap();
    w.engine.seal(None).unwrap();
    w.rename(MAIN, "old", "f").unwrap();
    w.write(MAIN, "f", "22").unwrap();
    w.engine.seal(None).unwrap();
    w.save(MAIN, "f", "333").unwrap();
    w.engine.seal(None).unwrap();
    w.rm(MAIN, "f").unwrap();
    w.engine.seal(None).unwrap();
    let versions = history::history(&w.engine, MAIN, b"/f").unwrap();
    let shown: Vec<(u64, bool)> = versions.iter().map(|v| (v.size, v.removed)).collect();
    assert_eq!(shown.first(), Some(&(3, true)));
    assert!(shown.contains(&(3, false)) && shown.contains(&(2, false)), "{shown:?}");
    for version in versions.iter().filter(|version| !version.removed) {
        let then = stonefs::types::View::as_of(BranchId::MAIN, version.seq);
        assert_eq!(w.read(then, "f").unwrap().len() as u64, version.size);
    }
    w.write(MAIN, "f", "4444").unwrap();
    let versions = history::history(&w.engine, MAIN, b"f").unwrap();
    assert_eq!((versions[0].size, versions[0].until), (4, None));
    assert_eq!(history::history(&w.engine, MAIN, b"never").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_file_that_was_closed_is_kept_though_its_close_is_heard_of_late() {
    let w = World::new();
    // The kernel sends RELEASE after close(2) has returned: here after the next opener's O_TRUNC, and its write.
    w.write(MAIN, "f", "").unwrap();
    let ino = w.ino(MAIN, "f").unwrap();
    let mut handles = Vec::new();
    for (content, flags) in [("one", libc::O_TRUNC), ("three", libc::O_TRUNC), ("!", libc::O_APPEND)] {
        let handle = w.engine.open_file(MAIN, ino, libc::O_WRONLY | flags, &w.caller).unwrap();
        w.engine.write(handle, 0, content.as_bytes(), false, &w.caller).unwrap();
        handles.push(handle);
    }
    for handle in handles {
        w.engine.release(handle).unwrap();
    }
    let versions = history::history(&w.engine, MAIN, b"/f").unwrap();
    let contents: Vec<String> = versions
        .iter()
        .map(|version| w.read(stonefs::types::View::as_of(BranchId::MAIN, version.seq), "f").unwrap())
        .collect();
    assert_eq!(contents[..3], ["three!", "three", "one"]);
}

#[test]
fn blame_names_the_version_of_each_line() {
    let w = World::new();
    w.write(MAIN, "f", "a\nb\nc\n").unwrap();
    w.engine.seal(None).unwrap();
    w.write(MAIN, "f", "a\nB\nc\n").unwrap();
    w.engine.seal(None).unwrap();
    w.save(MAIN, "f", "a\nB\nc\nd\n").unwrap();
    let blame = history::blame(&w.engine, MAIN, b"/f").unwrap();
    let origins: Vec<usize> = blame.lines.iter().map(|(origin, _)| *origin).collect();
    let last = blame.versions.len() - 1;
    assert_eq!(blame.lines.len(), 4);
    assert_eq!(origins[0], origins[2]);
    assert!(origins[0] < origins[1] && origins[1] < origins[3] && origins[3] == last, "{origins:?}");
}

#[test]
fn the_log_shows_what_happened_inside_transactions_to_a_path() {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "d/f", "1").unwrap();
    w.commits(&row);
    let log = |options: &LogOptions| history::log(&w.engine, MAIN, options).unwrap();
    let plain = log(&LogOptions::default());
    assert!(plain.iter().any(|entry| entry.op == Op::Commit && entry.txn == Some(row.id)));
    assert!(plain.iter().all(|entry| entry.op != Op::Create || entry.branch == BranchId::MAIN));
    let path = LogOptions { path: Some(PathBytes::from(&b"/d/f"[..])), ..LogOptions::default() };
    let ops: Vec<Op> = log(&path).iter().map(|entry| entry.op).collect();
    assert!(ops.contains(&Op::Create), "{ops:?}");
    let shown = history::show(&w.engine, format!("T{}", row.id).as_bytes(), &w.context()).unwrap();
    assert_eq!(shown.changes.len(), 1);
    assert!(shown.inner.iter().any(|entry| entry.op == Op::Create));
    let create = shown.inner.iter().find(|entry| entry.op == Op::Create).unwrap();
    let event = history::show(&w.engine, format!("e{}", create.seq).as_bytes(), &w.context()).unwrap();
    assert_eq!(event.changes.len(), 1);
    assert!(event.txn.is_none());
}

fn undo(w: &World, target: UndoTarget) -> Result<UndoOutcome, ErrorKind> {
    undo::undo(&w.engine, BranchId::MAIN, target, false, "", &w.caller).map_err(|error| error.kind)
}

fn undone(w: &World, target: UndoTarget) {
    match undo(w, target) {
        Ok(UndoOutcome::Done { .. }) => {}
        other => panic!("{other:?}"),
    }
}

fn redone(w: &World) {
    let outcome = undo::redo(&w.engine, BranchId::MAIN, false, "", &w.caller).unwrap();
    assert!(matches!(outcome, UndoOutcome::Done { .. }), "{outcome:?}");
}

#[test]
fn undo_steps_back_and_redo_returns() {
    let w = World::new();
    w.write(MAIN, "a", "1").unwrap();
    w.engine.seal(None).unwrap();
    w.write(MAIN, "a", "2").unwrap();
    w.engine.seal(None).unwrap();
    let two = w.tree(MAIN);
    w.rename(MAIN, "a", "b").unwrap();
    let three = w.tree(MAIN);
    let (row, tx) = w.begin();
    w.write(tx, "c", "c").unwrap();
    w.rm(tx, "b").unwrap();
    w.commits(&row);
    let four = w.tree(MAIN);
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.tree(MAIN), three);
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.tree(MAIN), two);
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.read(MAIN, "a").unwrap(), "1");
    redone(&w);
    assert_eq!(w.tree(MAIN), two);
    redone(&w);
    assert_eq!(w.tree(MAIN), three);
    redone(&w);
    assert_eq!(w.tree(MAIN), four);
    assert_eq!(undo::redo(&w.engine, BranchId::MAIN, false, "", &w.caller).unwrap_err().kind, ErrorKind::NotFound);
    undone(&w, UndoTarget::Txn(row.id));
    assert_eq!(w.tree(MAIN), three);
    assert!(w.engine.transactions().iter().any(|row| row.kind == TxnKind::Redo));
    w.check();
}

#[test]
fn undo_steps_over_what_left_nothing_to_take_back() {
    let w = World::new();
    w.write(MAIN, "a", "1").unwrap();
    w.engine.seal(None).unwrap();
    let one = w.tree(MAIN);
    // The mode belongs to the version of the creation, and three writes of one opener share one, too.
    w.write(MAIN, "b", "").unwrap();
    w.chmod(MAIN, "b", 0o600).unwrap();
    w.engine.seal(None).unwrap();
    let two = w.tree(MAIN);
    let handle = w.engine.open_file(MAIN, w.ino(MAIN, "a").unwrap(), libc::O_WRONLY, &w.caller).unwrap();
    for (offset, byte) in [(0, b"2"), (1, b"3"), (2, b"4")] {
        w.engine.write(handle, offset, byte, false, &w.caller).unwrap();
    }
    w.engine.release(handle).unwrap();
    w.engine.seal(None).unwrap();
    // These change nothing.
    let (row, _) = w.begin();
    w.commits(&row);
    w.chmod(MAIN, "a", 0o644).unwrap();
    let three = w.tree(MAIN);
    assert_eq!(w.read(MAIN, "a").unwrap(), "234");
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.tree(MAIN), two);
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.tree(MAIN), one);
    redone(&w);
    assert_eq!(w.tree(MAIN), two);
    redone(&w);
    assert_eq!(w.tree(MAIN), three);
    w.check();
}

#[test]
fn an_undo_that_had_no_effect_does_not_keep_others_from_being_redone() {
    let w = World::new();
    w.write(MAIN, "a", "1").unwrap();
    w.engine.seal(None).unwrap();
    w.rename(MAIN, "a", "b").unwrap();
    let renamed = w.tree(MAIN);
    undone(&w, UndoTarget::Newest);
    w.chmod(MAIN, "a", 0o644).unwrap();
    w.engine.seal(None).unwrap();
    undone(&w, UndoTarget::Event(w.engine.point().0));
    redone(&w);
    redone(&w);
    assert_eq!(w.tree(MAIN), renamed);
    w.check();
}

#[test]
fn undo_touches_only_what_was_changed_and_refuses_what_has_changed_since() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    w.write(MAIN, "g", "1").unwrap();
    let (row, tx) = w.begin();
    w.write(tx, "f", "2").unwrap();
    w.write(tx, "g", "2").unwrap();
    w.mkdir(tx, "d").unwrap();
    w.commits(&row);
    w.chmod(MAIN, "f", 0o600).unwrap();
    w.write(MAIN, "other", "o").unwrap();
    undone(&w, UndoTarget::Txn(row.id));
    assert_eq!(w.files(MAIN), "f=1 g=1 other=o");
    assert_eq!(w.tree(MAIN)["f"], "file 600 1 1");
    redone(&w);
    w.write(MAIN, "g", "3").unwrap();
    w.write(MAIN, "d/in", "3").unwrap();
    let before = w.tree(MAIN);
    match undo(&w, UndoTarget::Txn(row.id)).unwrap() {
        UndoOutcome::Refused { conflicts } => {
            let kinds = kinds(&conflicts);
            assert!(kinds.contains(&(Kind::Content, "/g".into())), "{kinds:?}");
            assert!(kinds.contains(&(Kind::NotEmpty, "/d".into())), "{kinds:?}");
        }
        other @ UndoOutcome::Done { .. } => panic!("{other:?}"),
    }
    assert_eq!(w.tree(MAIN), before);
    w.rm(MAIN, "d/in").unwrap();
    undo::undo(&w.engine, BranchId::MAIN, UndoTarget::Txn(row.id), true, "", &w.caller).unwrap();
    assert_eq!(w.files(MAIN), "f=1 g=1 other=o");
    w.check();
}

#[test]
fn undo_brings_back_what_was_removed() {
    let w = World::new();
    w.write(MAIN, "big", &"x".repeat(400_000)).unwrap();
    w.setxattr(MAIN, "big", "user.note", "n").unwrap();
    w.chmod(MAIN, "big", 0o751).unwrap();
    let (ino, before) = (w.ino(MAIN, "big").unwrap(), w.tree(MAIN));
    w.rm(MAIN, "big").unwrap();
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.tree(MAIN), before);
    assert_eq!(w.ino(MAIN, "big").unwrap(), ino);
    assert_eq!(&*w.engine.getxattr(MAIN, ino, b"user.note").unwrap(), b"n");
    w.check();
}

#[test]
fn undoing_a_removal_again_leaves_what_was_done_since() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    let (row, tx) = w.begin();
    w.rm(tx, "f").unwrap();
    w.commits(&row);
    undone(&w, UndoTarget::Txn(row.id));
    w.write(MAIN, "f", "2").unwrap();
    w.setxattr(MAIN, "f", "user.note", "n").unwrap();
    let before = w.tree(MAIN);
    undone(&w, UndoTarget::Txn(row.id));
    assert_eq!(w.tree(MAIN), before);
    w.check();
}

/// A world over a file that the test keeps, in which nothing is written out until somebody waits for it.
fn slow(path: &Path) -> World {
    let store = if path.exists() {
        SqliteStore::open(path)
    } else {
        SqliteStore::create(path, &InitOptions { now: START, uid: 0, gid: 0, settings: Vec::new() })
    };
    World::over(Arc::new(store.unwrap()), Options { group_ms: 600_000, ..Options::default() })
}

fn proven(w: &World) {
    w.engine.sync().unwrap();
    w.check();
    let proof = stonefs::audit::verify(w.engine.store().read().unwrap().as_ref()).unwrap();
    assert!(proof.findings.is_empty(), "{:#?}", proof.findings);
}

#[test]
fn what_was_removed_while_it_was_open_and_is_brought_back_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.stone");
    for (closed_first, flushed) in [(true, true), (true, false), (false, true), (false, false)] {
        let w = slow(&path);
        w.write(MAIN, "f", "1").unwrap();
        let before = w.tree(MAIN);
        let handle = w.engine.open_file(MAIN, w.ino(MAIN, "f").unwrap(), libc::O_RDWR, &w.caller).unwrap();
        w.rm(MAIN, "f").unwrap();
        if flushed {
            w.engine.sync().unwrap();
        }
        if closed_first {
            w.engine.release(handle).unwrap();
        }
        undone(&w, UndoTarget::Newest);
        assert_eq!(w.tree(MAIN), before);
        if !closed_first {
            w.engine.release(handle).unwrap();
        }
        proven(&w);
        w.engine.abandon();
        drop(w);
        let w = slow(&path);
        w.engine.sync().unwrap();
        assert_eq!(w.tree(MAIN), before, "closed first: {closed_first}, flushed: {flushed}");
        w.rm(MAIN, "f").unwrap();
        proven(&w);
        w.engine.close().unwrap();
    }
}

#[test]
fn a_file_with_a_name_survives_a_note_that_it_was_removed_while_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.stone");
    let w = slow(&path);
    w.write(MAIN, "f", "1").unwrap();
    let (before, ino) = (w.tree(MAIN), w.ino(MAIN, "f").unwrap());
    w.engine.close().unwrap();
    drop(w);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute("INSERT INTO orphan (branch, ino) VALUES (?1, ?2)", [BranchId::MAIN.0 as i64, ino.0 as i64]).unwrap();
    drop(conn);
    let w = slow(&path);
    proven(&w);
    assert_eq!(w.tree(MAIN), before);
    w.engine.close().unwrap();
    drop(w);
    assert!(SqliteStore::open(&path).unwrap().read().unwrap().orphans().unwrap().is_empty());
}

fn restore(w: &World, path: &str, at: stonefs::types::View) -> RestoreOutcome {
    restore::restore(&w.engine, BranchId::MAIN, path.as_bytes(), at, "", &w.caller).unwrap()
}

#[test]
fn what_is_brought_back_has_the_attributes_of_then_and_no_others() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    let then = w.now();
    let ino = w.ino(MAIN, "f").unwrap();
    w.setxattr(MAIN, "f", "user.note", "n").unwrap();
    w.rm(MAIN, "f").unwrap();
    restore(&w, "f", then);
    assert_eq!(w.ino(MAIN, "f").unwrap(), ino);
    for view in [MAIN, w.now()] {
        assert!(w.engine.getxattr(view, ino, b"user.note").is_err(), "in {view:?}");
    }
    w.check();
}

#[test]
fn a_restored_path_is_as_it_was() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    w.chmod(MAIN, "f", 0o600).unwrap();
    let then = w.now();
    let mtime = w.engine.resolve(MAIN, b"/f").unwrap().mtime;
    w.tick(60);
    w.save(MAIN, "f", "2").unwrap();
    w.write(MAIN, "other", "o").unwrap();
    assert!(matches!(restore(&w, "f", then), RestoreOutcome::Restored { .. }));
    assert_eq!(w.tree(MAIN)["f"], "file 600 1 1");
    assert_eq!(w.engine.resolve(MAIN, b"/f").unwrap().mtime, mtime);
    assert_eq!(w.read(MAIN, "other").unwrap(), "o");
    assert_eq!(restore(&w, "f", then), RestoreOutcome::Unchanged);
    // What lives on under another name is copied, not taken away.
    w.rename(MAIN, "f", "moved").unwrap();
    restore(&w, "f", then);
    assert_eq!(w.files(MAIN), "f=1 moved=1 other=o");
    assert_ne!(w.ino(MAIN, "f").unwrap(), w.ino(MAIN, "moved").unwrap());
    let error = restore::restore(&w.engine, BranchId::MAIN, b"other", then, "", &w.caller).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    w.check();
}

#[test]
fn a_restored_tree_loses_what_was_not_there_then() {
    let w = World::new();
    for dir in ["d", "d/sub", "d/sub/deep", "elsewhere"] {
        w.mkdir(MAIN, dir).unwrap();
    }
    for file in ["d/a", "d/sub/b", "d/sub/deep/c"] {
        w.write(MAIN, file, file).unwrap();
    }
    w.link(MAIN, "d/a", "d/sub/a2").unwrap();
    let then = w.now();
    let wanted = w.tree(MAIN);
    w.tick(60);
    w.rename(MAIN, "d/sub/deep", "d/deep").unwrap();
    w.rename(MAIN, "d/sub", "d/renamed").unwrap();
    w.write(MAIN, "d/renamed/b", "changed").unwrap();
    w.write(MAIN, "d/new", "n").unwrap();
    w.mkdir(MAIN, "d/newdir").unwrap();
    w.write(MAIN, "d/newdir/x", "x").unwrap();
    w.rm(MAIN, "d/a").unwrap();
    restore(&w, "d", then);
    assert_eq!(w.tree(MAIN), wanted);
    w.check();
    // The same for the whole branch, and for a tree that is gone.
    for path in ["d/sub/deep/c", "d/sub/b", "d/sub/a2"] {
        w.rm(MAIN, path).unwrap();
    }
    w.rmdir(MAIN, "d/sub/deep").unwrap();
    w.rmdir(MAIN, "d/sub").unwrap();
    restore(&w, "d/sub/deep/c", then);
    assert_eq!(w.files(MAIN), "d/ d/a=d/a d/sub/ d/sub/deep/ d/sub/deep/c=d/sub/deep/c elsewhere/");
    let gone = restore::rollback_to(&w.engine, BranchId::MAIN, then, "", &w.caller).unwrap();
    assert!(matches!(gone, RestoreOutcome::Restored { .. }));
    assert_eq!(w.tree(MAIN), wanted);
    assert_eq!(w.diff(then, MAIN), "");
    w.check();
}

#[test]
fn nothing_of_it_erases_history() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    let then = w.now();
    w.write(MAIN, "f", "2").unwrap();
    let later = w.now();
    restore::rollback_to(&w.engine, BranchId::MAIN, then, "", &w.caller).unwrap();
    undone(&w, UndoTarget::Newest);
    assert_eq!(w.files(MAIN), "f=2");
    assert_eq!(w.files(later), "f=2");
    assert_eq!(w.files(then), "f=1");
    assert_eq!(undo(&w, UndoTarget::Event(Seq(1))), Err(ErrorKind::NotFound));
    w.check();
}
