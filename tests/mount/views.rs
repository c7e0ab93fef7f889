//! Past states, branches, several mounts.

use std::fs;
use std::os::unix::fs::MetadataExt;

use stonefs::fuse::MountOptions;
use stonefs::types::View;
use stonefs::vfs::{History, SessionOptions};

use crate::harness::{Stone, me, sh};

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

#[test]
fn every_past_state_can_be_read_and_none_written() {
    let stone = Stone::new();
    fs::create_dir(stone.path("d")).unwrap();
    fs::write(stone.path("d/f"), "one").unwrap();
    let first = stone.point();
    fs::write(stone.path("d/f"), "two").unwrap();
    let second = stone.point();
    fs::remove_dir_all(stone.path("d")).unwrap();
    let past = |point: &str| stone.path(&format!(".history/{point}/d/f"));
    assert_eq!(fs::read_to_string(past(&first)).unwrap(), "one");
    assert_eq!(fs::read_to_string(past(&second)).unwrap(), "two");
    assert_eq!(errno(fs::read(past(&stone.point())).unwrap_err()), libc::ENOENT);
    assert_eq!(errno(fs::write(past(&first), "x").unwrap_err()), libc::EROFS);
    assert_eq!(errno(fs::remove_file(past(&first)).unwrap_err()), libc::EROFS);
    assert_eq!(errno(fs::create_dir(stone.path(".history/x")).unwrap_err()), libc::EROFS);
    assert_eq!(errno(fs::metadata(stone.path(".history/no-such-point")).unwrap_err()), libc::ENOENT);
}

#[test]
fn virtual_directories_are_never_listed_and_have_numbers_of_their_own() {
    let stone = Stone::new();
    fs::write(stone.path("f"), "x").unwrap();
    let point = stone.point();
    assert_eq!(sh(&stone.path(""), "cd $D && find . | sort"), ".\n./f\n");
    let live = fs::metadata(stone.path("f")).unwrap().ino();
    let past = fs::metadata(stone.path(&format!(".history/{point}/f"))).unwrap().ino();
    assert_ne!(live, past);
    assert!(past < 1 << 53 && live < 1 << 40);
    for dir in [".history", ".branches", ".tx"] {
        assert!(fs::metadata(stone.path(dir)).unwrap().is_dir());
        assert!(fs::remove_dir(stone.path(dir)).is_err());
        assert!(fs::rename(stone.path(dir), stone.path("x")).is_err());
    }
    assert!(sh(&stone.path(""), "ls $D/.history").lines().any(|line| line == point));
}

#[test]
fn a_branch_is_a_directory_and_is_isolated() {
    let stone = Stone::new();
    fs::create_dir(stone.path("d")).unwrap();
    fs::write(stone.path("d/f"), "main").unwrap();
    fs::create_dir(stone.path(".branches/x")).unwrap();
    let branch = stone.path(".branches/x");
    assert_eq!(fs::read_to_string(branch.join("d/f")).unwrap(), "main");
    fs::write(branch.join("d/f"), "x").unwrap();
    fs::write(branch.join("d/new"), "x").unwrap();
    fs::remove_file(stone.path("d/f")).unwrap();
    fs::write(stone.path("d/later"), "main").unwrap();
    assert_eq!(
        sh(&branch, "cd $D && grep -r ''"),
        "d/new:x\nd/f:x\n".lines().rev().fold(String::new(), |all, line| all + line + "\n")
    );
    assert_eq!(sh(&stone.path(""), "cd $D && ls d"), "later\n");
    assert!(sh(&stone.path(""), "ls $D/.branches").contains("main\n"));
    // It holds changes that are nowhere else.
    assert!(fs::remove_dir(&branch).is_err());
    fs::create_dir(stone.path(".branches/y")).unwrap();
    fs::remove_dir(stone.path(".branches/y")).unwrap();
    assert_eq!(errno(fs::create_dir(stone.path(".branches/5m")).unwrap_err()), libc::EINVAL);
}

#[test]
fn moving_between_branches_is_refused_as_between_file_systems() {
    let stone = Stone::new();
    fs::write(stone.path("f"), "x").unwrap();
    fs::create_dir(stone.path(".branches/x")).unwrap();
    let to = stone.path(".branches/x/g");
    assert_eq!(errno(fs::rename(stone.path("f"), &to).unwrap_err()), libc::EXDEV);
    assert_eq!(errno(fs::hard_link(stone.path("f"), &to).unwrap_err()), libc::EXDEV);
    sh(&stone.path(""), "mv $D/f $D/.branches/x/g");
    assert_eq!(fs::read_to_string(&to).unwrap(), "x");
}

#[test]
fn the_live_branch_is_one_tree_however_it_is_reached() {
    let stone = Stone::new();
    fs::create_dir(stone.path("d")).unwrap();
    fs::write(stone.path("d/f"), "1").unwrap();
    let alias = stone.path(".branches/main");
    assert_eq!(fs::metadata(alias.join("d/f")).unwrap().ino(), fs::metadata(stone.path("d/f")).unwrap().ino());
    fs::write(alias.join("d/f"), "22").unwrap();
    assert_eq!(fs::read_to_string(stone.path("d/f")).unwrap(), "22");
    // Names that the kernel remembers as absent or present on the other side.
    assert!(!stone.path("d/g").exists());
    assert_eq!(sh(&stone.path(""), "ls $D/d"), "f\n");
    fs::write(alias.join("d/g"), "").unwrap();
    fs::remove_file(alias.join("d/f")).unwrap();
    stone.settle();
    assert!(stone.path("d/g").exists() && !stone.path("d/f").exists());
    assert_eq!(sh(&stone.path(""), "ls $D/d"), "g\n");
}

#[test]
fn two_mounts_of_one_branch_show_the_same() {
    let mut stone = Stone::new();
    let other = stone.mount_again("second", |options| options);
    fs::write(stone.path("f"), "one").unwrap();
    stone.settle();
    assert_eq!(fs::read_to_string(other.join("f")).unwrap(), "one");
    fs::write(other.join("f"), "longer than before").unwrap();
    stone.settle();
    assert_eq!(fs::read_to_string(stone.path("f")).unwrap(), "longer than before");
    fs::rename(stone.path("f"), stone.path("g")).unwrap();
    stone.settle();
    assert!(!other.join("f").exists() && other.join("g").exists());
    fs::remove_file(other.join("g")).unwrap();
    stone.settle();
    assert_eq!(fs::read_dir(stone.path("")).unwrap().count(), 0);
}

#[test]
fn a_mount_of_a_past_state_is_read_only() {
    let mut stone = Stone::new();
    fs::write(stone.path("f"), "old").unwrap();
    let seq = stone.engine.seal(None).unwrap();
    stone.engine.flush(seq).unwrap();
    fs::write(stone.path("f"), "new").unwrap();
    let old = stone.mount_again("old", |options| MountOptions {
        session: SessionOptions {
            root: View::as_of(View::live(stonefs::types::BranchId::MAIN).branch, seq),
            ..options.session.clone()
        },
        ..options
    });
    assert_eq!(fs::read_to_string(old.join("f")).unwrap(), "old");
    assert_eq!(errno(fs::write(old.join("g"), "").unwrap_err()), libc::EROFS);
}

#[test]
fn history_everywhere_follows_a_directory_through_renames() {
    let stone = Stone::with(|options| MountOptions {
        session: SessionOptions { history: History::Everywhere, ..options.session.clone() },
        ..options
    });
    fs::create_dir_all(stone.path("a/b")).unwrap();
    fs::write(stone.path("a/b/f"), "old").unwrap();
    let point = stone.point();
    fs::write(stone.path("a/b/f"), "new").unwrap();
    fs::rename(stone.path("a/b"), stone.path("c")).unwrap();
    assert_eq!(fs::read_to_string(stone.path(&format!("c/.history/{point}/f"))).unwrap(), "old");
    assert_eq!(sh(&stone.path(""), "cd $D && find c | sort"), "c\nc/f\n");
}

#[test]
fn an_undone_change_set_shows_at_once() {
    let stone = Stone::new();
    fs::write(stone.path("f"), "before").unwrap();
    assert_eq!(fs::read_to_string(stone.path("f")).unwrap(), "before");
    let caller = me();
    let main = View::live(stonefs::types::BranchId::MAIN);
    let ino = stone.engine.lookup(main, stonefs::types::Ino::ROOT, b"f").unwrap().ino;
    let parent = stonefs::types::Ino::ROOT;
    let name = stonefs::types::Name::new(b"f").unwrap();
    let gone = vec![
        stonefs::store::Mutation::Entry { branch: main.branch, at: stonefs::types::Seq::ZERO, parent, name, row: None },
        stonefs::store::Mutation::Inode { branch: main.branch, at: stonefs::types::Seq::ZERO, ino, row: None },
    ];
    let draft = stonefs::engine::EventDraft { op: stonefs::types::Op::Commit, txn: None, old: None, new: None };
    stone.engine.apply(main.branch, gone, draft, &mut |_| Ok(()), &caller).unwrap();
    stone.settle();
    assert!(!stone.path("f").exists());
    assert_eq!(fs::read_dir(stone.path("")).unwrap().count(), 0);
}
