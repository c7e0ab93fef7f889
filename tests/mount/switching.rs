//! Switching the live tree: directories follow by identity, open files stay what they were.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use stonefs::types::{BranchId, View};

use crate::harness::{Stone, sh};

/// main has d/f and d/only-main, x has another d/f and d/only-x; both have d/same.
fn two_branches() -> (Stone, BranchId) {
    let stone = Stone::new();
    fs::create_dir(stone.path("d")).unwrap();
    for (name, text) in [("f", "main"), ("same", "same"), ("only-main", "")] {
        fs::write(stone.path("d").join(name), text).unwrap();
    }
    let x = stone.fork("x");
    fs::remove_file(stone.path(".branches/x/d/only-main")).unwrap();
    fs::write(stone.path(".branches/x/d/only-x"), "").unwrap();
    fs::write(stone.path(".branches/x/d/f"), "x, and longer").unwrap();
    (stone, x)
}

fn list(stone: &Stone) -> String {
    sh(&stone.path(""), "cd $D/d && ls | tr '\\n' ' '")
}

#[test]
fn a_switch_shows_the_other_branch_at_once_and_back() {
    let (stone, x) = two_branches();
    let same = fs::metadata(stone.path("d/same")).unwrap().ino();
    for _ in 0..3 {
        assert_eq!(list(&stone), "f only-main same ");
        assert_eq!(fs::read_to_string(stone.path("d/f")).unwrap(), "main");
        assert!(!stone.path("d/only-x").exists());
        stone.switch(x);
        assert_eq!(list(&stone), "f only-x same ");
        assert_eq!(fs::read_to_string(stone.path("d/f")).unwrap(), "x, and longer");
        assert_eq!(fs::metadata(stone.path("d/f")).unwrap().len(), 13);
        assert!(!stone.path("d/only-main").exists());
        assert_eq!(fs::metadata(stone.path("d/same")).unwrap().ino(), same);
        stone.switch(BranchId::MAIN);
    }
}

#[test]
fn an_open_file_stays_what_it_was_opened_as() {
    let (stone, x) = two_branches();
    let file = File::options().read(true).write(true).open(stone.path("d/f")).unwrap();
    let same = File::options().read(true).write(true).open(stone.path("d/same")).unwrap();
    stone.switch(x);
    let mut text = [0; 4];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"main");
    file.write_all_at(b"MAIN", 0).unwrap();
    same.write_all_at(b"SAME", 0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4);
    assert_eq!(fs::read_to_string(stone.path("d/f")).unwrap(), "x, and longer");
    assert_eq!(fs::read_to_string(stone.path("d/same")).unwrap(), "same");
    assert_eq!(fs::read_to_string(stone.path(".branches/main/d/f")).unwrap(), "MAIN");
    drop((file, same));
    stone.switch(BranchId::MAIN);
    assert_eq!(fs::read_to_string(stone.path("d/f")).unwrap(), "MAIN");
    assert_eq!(fs::read_to_string(stone.path("d/same")).unwrap(), "SAME");
}

#[test]
fn pages_written_through_a_mapping_before_a_switch_belong_to_the_old_branch() {
    let (stone, x) = two_branches();
    let script = "import mmap, os, sys\nf = open(os.environ['D'] + '/d/same', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[0:4] = b'DIRT'\nprint('written', flush=True)\nsys.stdin.readline()\nm[0:4] = b'LATE'\nprint('again', flush=True)\nsys.stdin.readline()\n";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .env("D", stone.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    stone.switch(x);
    assert_eq!(fs::read_to_string(stone.path("d/same")).unwrap(), "same");
    assert_eq!(fs::read_to_string(stone.path(".branches/main/d/same")).unwrap(), "DIRT");
    input.write_all(b"\n").unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    input.write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(stone.path("d/same")).unwrap(), "same");
    stone.switch(BranchId::MAIN);
    assert_eq!(fs::read_to_string(stone.path("d/same")).unwrap(), "LATE");
}

#[test]
fn a_directory_in_use_follows_and_one_that_is_gone_reads_as_deleted() {
    let (stone, x) = two_branches();
    fs::create_dir(stone.path("gone")).unwrap();
    let d = File::open(stone.path("d")).unwrap();
    let gone = File::open(stone.path("gone")).unwrap();
    stone.switch(x);
    let names: Vec<_> =
        rustix::fs::Dir::read_from(&d).unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
    assert!(names.iter().any(|name| name.to_bytes() == b"only-x"), "{names:?}");
    assert!(rustix::fs::openat(&d, "only-x", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).is_ok());
    assert!(
        rustix::fs::openat(&gone, "f", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY, 0o600.into()).is_err()
    );
    assert!(!stone.path("gone").exists());
    stone.switch(BranchId::MAIN);
    assert!(stone.path("gone").exists());
}

#[test]
fn a_switch_that_would_take_a_mount_point_away_is_refused() {
    let (stone, x) = two_branches();
    fs::create_dir_all(stone.path("here/point")).unwrap();
    sh(&stone.path(""), "mount -t tmpfs none $D/here/point && touch $D/here/point/inside");
    let refused = stone.mount.switch(View::live(x));
    let still = stone.path("here/point/inside").exists() && stone.path("d/only-main").exists();
    sh(&stone.path(""), "umount $D/here/point");
    assert!(refused.unwrap_err().to_string().contains("busy"));
    assert!(still);
    stone.switch(x);
    assert!(!stone.path("here").exists());
}

#[test]
fn new_names_go_to_the_branch_that_is_shown() {
    let (stone, x) = two_branches();
    stone.switch(x);
    fs::write(stone.path("d/new"), "x").unwrap();
    fs::rename(stone.path("d/f"), stone.path("d/moved")).unwrap();
    assert!(stone.path(".branches/x/d/new").exists());
    assert!(!stone.path(".branches/main/d/new").exists());
    stone.switch(BranchId::MAIN);
    assert_eq!(list(&stone), "f only-main same ");
    assert_eq!(fs::read_to_string(stone.path("d/f")).unwrap(), "main");
}
