//! Looking back and going back: history, blame, restore, undo, redo, rollback --to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::stone::World;

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.path(name)).unwrap_or_else(|error| format!("<{error}>"))
}

#[test]
fn history_lists_versions_also_of_what_is_gone() {
    let world = World::mounted();
    for content in ["1", "22", "333"] {
        fs::write(world.path("m/a"), content).unwrap();
    }
    let rows = world.stone_in("m", ["history", "a", "--json"]).json();
    let sizes: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes[..3], [3, 2, 1], "{rows}");
    let point = rows[1]["point"].as_str().unwrap().to_owned();
    assert_eq!(read(&world, &format!("m/.history/{point}/a")), "22");
    fs::remove_file(world.path("m/a")).unwrap();
    let text = world.stone_in("m", ["history", "a"]).ok();
    assert!(text.lines().next().unwrap().contains("removed"), "{text}");
    assert!(world.stone_in("m", ["history", "never"]).fails(1).contains("never"));
}

#[test]
fn blame_names_the_writer_of_each_line() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "one\ntwo\n").unwrap();
    fs::write(world.path("m/a"), "one\n2\n").unwrap();
    let lines = world.stone_in("m", ["blame", "a", "--json"]).json();
    assert_eq!((&lines[0]["text"], &lines[1]["text"]), (&"one\n".into(), &"2\n".into()));
    assert_ne!(lines[0]["point"], lines[1]["point"]);
    assert!(world.stone_in("m", ["blame", "a"]).ok().lines().nth(1).unwrap().ends_with("2  2"));
}

#[test]
fn restore_brings_a_path_or_a_tree_back() {
    let world = World::mounted();
    fs::create_dir(world.path("m/d")).unwrap();
    fs::write(world.path("m/d/a"), "old").unwrap();
    fs::set_permissions(world.path("m/d/a"), fs::Permissions::from_mode(0o640)).unwrap();
    let modified = fs::metadata(world.path("m/d/a")).unwrap().modified().unwrap();
    let point = world.stone_in("m", ["sync"]).ok();
    let point = point.trim();
    fs::write(world.path("m/d/a"), "new").unwrap();
    fs::set_permissions(world.path("m/d/a"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(world.path("m/d/b"), "").unwrap();
    assert!(world.stone_in("m", ["restore", "d/a", "--at", point]).ok().contains("1 modified"));
    let meta = fs::metadata(world.path("m/d/a")).unwrap();
    assert_eq!((read(&world, "m/d/a").as_str(), meta.permissions().mode() & 0o777), ("old", 0o640));
    assert_eq!(meta.modified().unwrap(), modified);
    assert!(world.path("m/d/b").exists());
    world.stone_in("m/d", ["restore", ".", "--at", point]).ok();
    assert!(!world.path("m/d/b").exists());
    assert!(world.stone_in("m", ["restore", "d", "--at", point]).ok().contains("as it was then"));
    fs::remove_dir_all(world.path("m/d")).unwrap();
    world.stone_in("m", ["restore", "d", "--at", point]).ok();
    assert_eq!(read(&world, "m/d/a"), "old");
    world.stone_in("m", ["restore", "nothing", "--at", point]).fails(1);
    world.stone_in("m", ["restore", "d"]).fails(2);
}

#[test]
fn undo_steps_back_and_redo_returns() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "1").unwrap();
    world.stone_in("m", ["run", "-q", "--", "sh", "-c", "echo 2 > a; echo b > b"]).ok();
    fs::remove_file(world.path("m/b")).unwrap();
    world.stone_in("m", ["undo"]).ok();
    assert_eq!(read(&world, "m/b"), "b\n");
    assert!(world.stone_in("m", ["undo"]).ok().contains("undid T1"));
    assert_eq!(read(&world, "m/a"), "1");
    assert!(!world.path("m/b").exists());
    world.stone_in("m", ["redo"]).ok();
    assert_eq!((read(&world, "m/a").as_str(), read(&world, "m/b").as_str()), ("2\n", "b\n"));
}

#[test]
fn an_undo_of_what_others_changed_since_is_refused() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "1").unwrap();
    world.stone_in("m", ["run", "-q", "--", "sh", "-c", "echo 2 > a"]).ok();
    fs::write(world.path("m/a"), "3").unwrap();
    let refused = world.stone_in("m", ["undo", "T1"]);
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(refused.out.contains("content") && refused.err.contains("--force"), "{refused:?}");
    assert_eq!(read(&world, "m/a"), "3");
    world.stone_in("m", ["undo", "T1", "--force"]).ok();
    assert_eq!(read(&world, "m/a"), "1");
    world.stone_in("m", ["undo", "x1"]).fails(2);
    world.stone_in("m", ["undo", "T99"]).fails(1);
}

#[test]
fn a_whole_branch_goes_back_and_forgets_nothing() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    world.stone_in("m", ["tag", "good"]).ok();
    fs::write(world.path("m/a"), "bad").unwrap();
    fs::create_dir(world.path("m/worse")).unwrap();
    let bad = world.stone_in("m", ["sync"]).ok();
    world.stone_in("m", ["rollback", "--to", "good"]).ok();
    assert_eq!(read(&world, "m/a"), "old");
    assert!(!world.path("m/worse").exists());
    assert_eq!(world.stone_in("m", ["diff", "good"]).ok(), "");
    assert_eq!(read(&world, &format!("m/.history/{}/a", bad.trim())), "bad");
    assert!(world.stone_in("m", ["undo"]).ok().starts_with("Transaction T2 undid T1"));
    assert_eq!(read(&world, "m/a"), "bad");
}

#[test]
fn history_is_forgotten_but_for_what_tags_and_branches_need() {
    let world = World::mounted();
    let stone = |args: &[&str]| world.stone_in("m", args);
    let noise =
        |seed: u8| (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect::<Vec<u8>>();
    fs::write(world.path("m/a"), noise(1)).unwrap();
    stone(&["tag", "kept"]).ok();
    fs::write(world.path("m/a"), noise(2)).unwrap();
    let middle = stone(&["sync"]).ok();
    fs::write(world.path("m/a"), noise(3)).unwrap();
    let point = stone(&["sync"]).ok();
    let dry = stone(&["prune", "--before", point.trim(), "--dry-run", "--json"]).json();
    assert!(dry["versions"].as_u64().unwrap() > 0 && dry["bytes"].as_u64().unwrap() > 200_000, "{dry}");
    assert!(world.path("m/.history").join(middle.trim()).exists());
    let done = stone(&["prune", "--before", point.trim(), "--json"]).json();
    assert_eq!((&done["versions"], &done["bytes"]), (&dry["versions"], &dry["bytes"]));
    assert!(stone(&["diff", middle.trim()]).fails(1).contains("pruned"));
    assert_eq!(fs::read(world.path("m/.history/kept/a")).unwrap(), noise(1));
    assert_eq!(fs::read(world.path("m/a")).unwrap(), noise(3));
    let returned = stone(&["gc", "--json"]).json();
    assert!(returned["returned"].as_u64().unwrap() > 0, "{returned}");
    assert_eq!(stone(&["check"]).ok(), "");
    stone(&["prune"]).fails(2);
    assert!(stone(&["prune", "--before", "e99999"]).fails(1).contains("future"));
    let verified = stone(&["verify"]);
    assert_eq!((verified.status, verified.out.as_str()), (0, ""), "{verified:?}");
    assert!(verified.err.contains(&format!("pruned before {}", point.trim())), "{verified:?}");
}

#[test]
fn a_standing_policy_forgets_in_the_background() {
    let world = World::mounted();
    let stone = |args: &[&str]| world.stone_in("m", args);
    fs::write(world.path("m/a"), "first").unwrap();
    stone(&["tag", "kept"]).ok();
    fs::write(world.path("m/a"), "second").unwrap();
    let old = stone(&["sync"]).ok();
    fs::write(world.path("m/a"), "third").unwrap();
    for bad in ["never", "0d", "now"] {
        stone(&["prune", "--keep", bad]).fails(2);
    }
    stone(&["prune", "--keep", "1s", "--before", "now"]).fails(2);
    assert_eq!(stone(&["prune", "--keep", "1s"]).ok(), "");
    assert_eq!(stone(&["status", "--json"]).json()["keep"], "1s");
    let start = Instant::now();
    while stone(&["diff", old.trim()]).status == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was forgotten");
        thread::sleep(Duration::from_millis(100));
    }
    let said = stone(&["diff", old.trim()]).fails(1);
    assert!(said.contains("pruned"), "{said}");
    assert_eq!(read(&world, "m/a"), "third");
    assert_eq!(fs::read(world.path("m/.history/kept/a")).unwrap(), b"first");
    stone(&["prune", "--keep", "all"]).ok();
    assert!(stone(&["status", "--json"]).json()["keep"].is_null());
    assert_eq!(stone(&["check"]).ok(), "");
    assert_eq!(stone(&["verify"]).status, 0);
}
