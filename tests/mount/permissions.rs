//! Who may do what, as several users.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{STRANGER, Stone, may, sh};

fn chmod(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn others_are_kept_out_without_allow_other() {
    let stone = Stone::new();
    assert!(rustix::process::geteuid().is_root(), "this test acts as another user and must run as root");
    fs::write(stone.path("f"), "x").unwrap();
    assert!(!may(&stone.path(""), STRANGER, "cat $D/f"));
}

#[test]
fn the_present_bits_guard_the_past_too() {
    let stone = Stone::shared();
    let dir = stone.path("");
    fs::create_dir(stone.path("d")).unwrap();
    fs::write(stone.path("d/f"), "open once").unwrap();
    fs::write(stone.path("d/g"), "always open").unwrap();
    let point = stone.point();
    let read = |name: &str| may(&dir, STRANGER, &format!("cat $D/.history/{point}/d/{name}"));
    assert!(read("f") && read("g"));
    chmod(stone.path("d/f"), 0o600);
    stone.settle();
    assert!(!read("f") && read("g"));
    chmod(stone.path("d/f"), 0o644);
    stone.settle();
    assert!(read("f"));
    // A closed directory closes what the kernel has cached below it.
    chmod(stone.path("d"), 0o700);
    stone.settle();
    assert!(!read("f") && !read("g"));
    assert!(!may(&dir, STRANGER, &format!("ls $D/.history/{point}/d")));
    chmod(stone.path("d"), 0o755);
    stone.settle();
    assert!(read("f"));
    // Gone from the branch: the old bits alone decide.
    fs::remove_file(stone.path("d/f")).unwrap();
    assert!(read("f"));
}

#[test]
fn old_bits_still_close_what_was_closed_then() {
    let stone = Stone::shared();
    fs::write(stone.path("f"), "secret").unwrap();
    chmod(stone.path("f"), 0o600);
    let point = stone.point();
    chmod(stone.path("f"), 0o644);
    assert!(may(&stone.path(""), STRANGER, "cat $D/f"));
    assert!(!may(&stone.path(""), STRANGER, &format!("cat $D/.history/{point}/f")));
}

#[test]
fn a_group_that_lost_access_cannot_read_the_past() {
    let stone = Stone::shared();
    fs::write(stone.path("f"), "x").unwrap();
    sh(&stone.path(""), "chgrp 4321 $D/f && chmod 640 $D/f");
    let point = stone.point();
    let script = format!("setpriv --reuid {STRANGER} --regid {STRANGER} --groups 4321 cat $D/.history/{point}/f");
    let member = || crate::harness::run(&stone.path(""), &script, None).status.success();
    assert!(member());
    sh(&stone.path(""), "chgrp 4322 $D/f");
    stone.settle();
    assert!(!member());
    sh(&stone.path(""), "chgrp 4321 $D/f && chmod 660 $D/f");
    stone.settle();
    assert!(member());
}

#[test]
fn files_of_a_user_are_the_users() {
    let stone = Stone::shared();
    chmod(stone.path(""), 0o1777);
    assert!(may(&stone.path(""), STRANGER, "touch $D/mine && chmod 600 $D/mine && test -O $D/mine"));
    assert!(!may(&stone.path(""), STRANGER + 1, "cat $D/mine"));
    assert!(!may(&stone.path(""), STRANGER + 1, "rm -f $D/mine"));
    assert!(!may(&stone.path(""), STRANGER, "chown 0 $D/mine"));
    assert!(!may(&stone.path(""), STRANGER, "mkdir $D/.branches/mine"));
}
