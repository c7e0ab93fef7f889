//! What commands tell about a mounted tree.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::stone::World;

#[test]
fn log_shows_what_happened_newest_first() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "1").unwrap();
    fs::create_dir(world.path("m/d")).unwrap();
    fs::rename(world.path("m/a"), world.path("m/d/b")).unwrap();
    let log = world.stone_in("m", ["log"]).ok();
    let last: Vec<_> = log.lines().take(2).collect();
    assert!(last[0].contains("rename") && last[0].ends_with("a -> d/b"), "{log}");
    assert!(last[1].contains("mkdir") && last[1].ends_with(" d"), "{log}");
    let events = world.stone_in("m", ["log", "--json", "-n", "1"]).json();
    assert_eq!(events.as_array().unwrap().len(), 1);
    assert_eq!(events[0]["op"], "rename");
    assert_eq!((&events[0]["path"], &events[0]["path2"]), (&"/a".into(), &"/d/b".into()));
    assert_eq!(events[0]["path_bytes"], "L2E=");
    assert!(events[0]["time"].as_str().unwrap().ends_with('Z'));
    let below = world.stone_in("m/d", ["log", "."]).ok();
    assert!(below.contains("rename") && !below.contains("create"), "{below}");
    let created = world.stone_in("m", ["log", "--op", "create,mkdir", "--reverse", "--json"]).json();
    let ops: Vec<_> = created.as_array().unwrap().iter().map(|event| event["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["create", "mkdir"]);
}

#[test]
fn log_goes_on_where_a_page_ends() {
    let world = World::mounted();
    for i in 0..700 {
        fs::create_dir(world.path(&format!("m/{i}"))).unwrap();
        fs::remove_dir(world.path(&format!("m/{i}"))).unwrap();
    }
    let all = world.stone_in("m", ["log", "--json", "--op", "mkdir,rmdir"]).json();
    assert_eq!(all.as_array().unwrap().len(), 1400);
    let seqs: Vec<_> = all.as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] > pair[1]));
    assert_eq!(world.stone_in("m", ["log", "-n", "1200", "--op", "mkdir,rmdir"]).ok().lines().count(), 1200);
}

#[test]
fn names_never_reach_the_output_raw() {
    let world = World::mounted();
    let name = OsStr::from_bytes(b"evil\x1b[31m\n\xff");
    fs::write(world.path("m").join(name), "x").unwrap();
    let shown = "evil\\x1b[31m\\n\\xff";
    assert!(world.stone_in("m", ["log"]).ok().contains(shown));
    assert_eq!(world.stone_in("m", ["diff"]).ok(), format!("A\t{shown}\n"));
    let json = world.stone_in("m", ["diff", "--json"]).json();
    assert_eq!(json[0]["path"], "/evil\u{1b}[31m\n\\xff");
    assert_eq!(json[0]["path_bytes"], "L2V2aWwbWzMxbQr/");
    assert!(world.stone_in("m", ["log", "evil\x1bnone"]).ok().is_empty());
    let outside = world.stone_in("m", ["log", "/etc/\x1b[31m"]).fails(2);
    assert!(!outside.contains('\x1b'), "{outside:?}");
}

#[test]
fn diff_has_one_line_a_path() {
    let world = World::mounted();
    fs::write(world.path("m/kept"), "same\n").unwrap();
    fs::write(world.path("m/changed"), "one\ntwo\n").unwrap();
    fs::write(world.path("m/gone"), "x").unwrap();
    fs::write(world.path("m/old"), "moved").unwrap();
    let point = world.stone_in("m", ["sync"]).ok();
    let point = point.trim();
    fs::write(world.path("m/changed"), "one\n2\n").unwrap();
    fs::remove_file(world.path("m/gone")).unwrap();
    fs::rename(world.path("m/old"), world.path("m/new")).unwrap();
    fs::write(world.path("m/added"), "").unwrap();
    let expected = "A\tadded\nM\tchanged\nD\tgone\nR\told -> new\n";
    assert_eq!(world.stone_in("m", ["diff", point]).ok(), expected);
    assert_eq!(world.stone_in("m", ["diff", point, "now"]).ok(), expected);
    assert_eq!(world.stone_in("m", ["diff", point, "--", "changed"]).ok(), "M\tchanged\n");
    let patch = world.stone_in("m", ["diff", "-p", point, "--", "changed"]).ok();
    assert!(patch.starts_with("M\tchanged\n--- a/changed\n+++ b/changed\n@@ "), "{patch}");
    assert!(patch.contains("\n-two\n+2\n"), "{patch}");
    assert_eq!(world.stone_in("m", ["diff", "now", "now"]).ok(), "");
}

#[test]
fn every_time_printed_names_the_same_state_when_typed() {
    let world = World::mounted();
    for i in 0..5 {
        fs::write(world.path("m/a"), i.to_string()).unwrap();
    }
    let log = world.stone_in("m", ["log", "--op", "write"]).ok();
    let json = world.stone_in("m", ["log", "--op", "write", "--json"]).json();
    assert_eq!(log.lines().count(), 5);
    for (line, event) in log.lines().zip(json.as_array().unwrap()) {
        let mut words = line.split_whitespace();
        let point = words.next().unwrap();
        let time = words.next().unwrap();
        assert_eq!(world.stone_in("m", ["diff", point, time]).ok(), "", "{line}");
        let utc = event["time"].as_str().unwrap();
        assert_eq!(world.stone_in("m", ["diff", utc, point]).ok(), "", "{line}");
        let from_path = fs::read(world.path(&format!("m/.history/{utc}/a"))).unwrap();
        assert_eq!(from_path, fs::read(world.path(&format!("m/.history/{point}/a"))).unwrap());
    }
}

#[test]
fn show_tells_of_an_event_and_what_it_changed() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "hello\n").unwrap();
    let point = world.stone_in("m", ["log", "--op", "write", "--json"]).json()[0]["point"].clone();
    let shown = world.stone_in("m", ["show", point.as_str().unwrap(), "-p"]).ok();
    assert!(shown.contains("operation  write") && shown.contains("+hello"), "{shown}");
    world.stone_in("m", ["show", "e99999"]).fails(1);
    world.stone_in("m", ["show", "T99"]).fails(1);
}

#[test]
fn a_backup_is_a_database_with_all_of_the_history() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    let point = world.stone_in("m", ["sync"]).ok();
    fs::write(world.path("m/a"), "new").unwrap();
    world.stone_in("m", ["backup", world.path("copy.stone").to_str().unwrap()]).ok();
    world.stone_in("m", ["backup", world.path("copy.stone").to_str().unwrap()]).fails(1);
    fs::create_dir(world.path("c")).unwrap();
    world.stone(["mount", "copy.stone", "c"]).ok();
    assert_eq!(fs::read_to_string(world.path("c/a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(world.path(&format!("c/.history/{}/a", point.trim()))).unwrap(), "old");
    assert_eq!(world.stone_in("c", ["check"]).ok(), "");
}

#[test]
fn a_backup_into_a_mount_that_needs_the_database_is_refused() {
    let world = World::mounted();
    // A second database, which lies in the first one's tree.
    fs::create_dir(world.path("inner")).unwrap();
    world.stone(["mount", "m/inner.stone", "inner"]).ok();
    std::os::unix::fs::symlink(world.path("m"), world.path("link")).unwrap();
    for file in ["m/copy", "m/.branches/main/copy", "link/copy", "inner/copy"] {
        let refused = world.stone(["--mount", "m", "backup", file]).fails(1);
        assert!(refused.contains("lies in a mount of the database itself"), "{file}: {refused}");
        assert!(!world.path(file).exists(), "{file}");
    }
    // It is the outer one that needs nothing of the inner.
    world.stone(["--mount", "inner", "backup", "m/copy.stone"]).ok();
    world.stone(["umount", "inner"]).ok();
    world.stone(["check", "m/copy.stone"]).ok();
}

#[test]
fn the_database_is_found_by_option_path_and_working_directory() {
    let world = World::mounted();
    fs::create_dir(world.path("m/d")).unwrap();
    fs::write(world.path("m/d/a"), "x").unwrap();
    let by_cwd = world.stone_in("m/d", ["log", "a"]).ok();
    assert_eq!(world.stone(["log", "m/d/a"]).ok(), by_cwd);
    assert_eq!(world.stone(["log", "--mount", "m", "d/a"]).ok(), by_cwd);
    assert_eq!(world.stone(["log", "--db", "db.stone", "/d/a"]).ok(), by_cwd);
    assert_eq!(by_cwd.lines().count(), 2);
    assert!(world.stone(["log", "/etc/passwd"]).fails(2).contains("not inside a mounted StoneFS"));
}
