//! Commands on a database that nothing has mounted, and wrong usage.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::stone::World;

#[test]
fn init_makes_a_private_database_once() {
    let world = World::new();
    assert_eq!(world.stone(["init", "db.stone"]).ok(), "");
    assert_eq!(fs::metadata(world.path("db.stone")).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(world.path("db.stone")).unwrap();
    assert!(world.stone(["init", "db.stone"]).fails(1).contains("exists already"));
    assert_eq!(fs::read(world.path("db.stone")).unwrap(), before);
}

#[test]
fn init_refuses_names_that_are_none() {
    let world = World::new();
    world.stone(["init", "db.stone", "--history-dir", "a/b"]).fails(2);
    world.stone(["init", "db.stone", "--history-dir", ".x", "--tx-dir", ".x"]).fails(2);
    assert!(!world.path("db.stone").exists());
}

#[test]
fn status_tells_of_a_database_that_is_not_mounted() {
    let world = World::unmounted();
    let status = world.stone(["--db", "db.stone", "status", "--json"]).json();
    assert!(status["db"].as_str().unwrap().ends_with("/db.stone"));
    assert_eq!(status["pid"], serde_json::Value::Null);
    assert_eq!(status["mounts"], serde_json::json!([]));
    assert_eq!(status["branch"], "main");
    assert_eq!(status["point"], "e1");
    assert_eq!(status["transactions"], serde_json::json!([]));
    assert!(world.stone(["status", "db.stone"]).ok().contains("not mounted"));
}

#[test]
fn global_options_work_before_and_after_the_command() {
    let world = World::unmounted();
    let before = world.stone(["--json", "--db", "db.stone", "branch"]).json();
    let after = world.stone(["branch", "--db", "db.stone", "--json"]).json();
    assert_eq!(before, after);
    assert_eq!(before[0]["name"], "main");
}

#[test]
fn branches_are_made_renamed_dropped_and_switched_to_without_a_mount() {
    let world = World::unmounted();
    let stone = |args: &[&str]| world.stone([&["--db", "db.stone"], args].concat());
    assert_eq!(stone(&["branch", "x"]).ok(), "");
    assert_eq!(stone(&["branch"]).ok(), "* main\n  x\n");
    stone(&["switch", "x"]).ok();
    assert_eq!(stone(&["branch"]).ok(), "  main\n* x\n");
    assert!(stone(&["branch", "-d", "x"]).fails(1).contains("live branch"));
    assert!(stone(&["branch", "-d", "main"]).fails(1).contains("forked from"));
    stone(&["switch", "-c", "y"]).ok();
    stone(&["branch", "-m", "y", "z"]).ok();
    stone(&["switch", "main"]).ok();
    stone(&["branch", "-d", "z"]).ok();
    assert_eq!(stone(&["branch"]).ok(), "* main\n  x\n");
    assert!(stone(&["branch", "x"]).fails(1).contains("already"));
    assert!(stone(&["branch", "e5"]).fails(1).contains("point in time"));
    assert!(stone(&["switch", "nowhere"]).fails(1).contains("no branch"));
}

#[test]
fn tags_name_states() {
    let world = World::unmounted();
    let stone = |args: &[&str]| world.stone([&["--db", "db.stone"], args].concat());
    stone(&["tag", "v1", "-m", "first"]).ok();
    assert_eq!(stone(&["tag"]).ok(), "v1\n");
    let tags = stone(&["tag", "--json"]).json();
    assert_eq!((&tags[0]["name"], &tags[0]["message"]), (&"v1".into(), &"first".into()));
    assert!(stone(&["branch", "v1"]).fails(1).contains("a tag of that name"));
    assert!(stone(&["tag", "v1"]).fails(1).contains("already"));
    stone(&["tag", "-d", "v1"]).ok();
    assert_eq!(stone(&["tag"]).ok(), "");
    stone(&["tag", "-d", "v1"]).fails(1);
}

#[test]
fn a_reference_that_names_nothing_says_why() {
    let world = World::unmounted();
    let stone = |args: &[&str]| world.stone([&["--db", "db.stone"], args].concat());
    assert!(stone(&["diff", "nonsense"]).fails(1).contains("is no point in time, branch or tag"));
    assert!(stone(&["diff", "e999"]).fails(1).contains("future"));
    assert!(stone(&["diff", "2001-01-01"]).fails(1).contains("before the first event"));
    assert!(stone(&["diff", "2026-13-45"]).fails(1).contains("no day"));
}

#[test]
fn wrong_usage_has_status_2_and_one_line() {
    let world = World::unmounted();
    world.stone(["frobnicate"]).fails(2);
    world.stone(["log", "--nonsense"]).fails(2);
    world.stone(["mount"]).fails(2);
    world.stone(["mount", "db.stone", "m", "-o", "nonsense"]).fails(2);
    assert!(world.stone(["status"]).fails(2).contains("--db FILE"));
    world.stone(["--db", "db.stone", "log", "--op", "fly"]).fails(2);
}

#[test]
fn help_teaches_and_goes_to_standard_output() {
    let world = World::new();
    for command in ["init", "mount", "umount", "status", "sync", "branch", "switch", "tag", "diff", "log", "show"] {
        let help = world.stone([command, "--help"]).ok();
        assert!(help.contains("Examples:"), "{command}");
    }
    assert!(world.stone(["--help"]).ok().contains("REF names a state"));
    assert!(world.stone(["--version"]).ok().starts_with("stone "));
}

#[test]
fn what_is_no_database_is_refused_and_kept() {
    let world = World::new();
    fs::create_dir(world.path("m")).unwrap();
    for (name, content) in
        [("zeros", vec![0; 100_000]), ("text", b"hello, this is no database".to_vec()), ("empty", vec![])]
    {
        fs::write(world.path(name), &content).unwrap();
        world.stone(["status", name]).fails(1);
        world.stone(["mount", name, "m"]).fails(1);
        assert_eq!(fs::read(world.path(name)).unwrap(), content, "{name}");
    }
    assert!(world.stone(["status", "missing"]).fails(1).contains("stone init"));
    world.stone(["--db", "m", "status"]).fails(1);
}

#[test]
fn a_sound_database_has_no_findings() {
    let world = World::unmounted();
    assert_eq!(world.stone(["check", "db.stone"]).ok(), "");
    assert_eq!(world.stone(["check", "db.stone", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn nothing_is_left_beside_the_database_after_a_command() {
    let world = World::unmounted();
    world.stone(["--db", "db.stone", "branch", "x"]).ok();
    world.stone(["--db", "db.stone", "log"]).ok();
    let names: Vec<_> = fs::read_dir(world.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["db.stone"]);
}

#[test]
fn what_is_damaged_is_found_and_mended_or_isolated() {
    let world = World::mounted();
    let noise: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::create_dir(world.path("m/d")).unwrap();
    for name in ["m/d/lost", "m/kept", "m/nameless"] {
        fs::write(world.path(name), name).unwrap();
    }
    fs::write(world.path("m/large"), &noise).unwrap();
    fs::write(world.path("m/other"), &noise[1000..]).unwrap();
    assert!(world.stone(["check", "--repair", "db.stone"]).fails(1).contains("unmount"));
    world.stone(["umount", "m"]).ok();
    assert_eq!(world.stone(["check", "--repair", "db.stone"]).ok(), "");
    {
        let conn = rusqlite::Connection::open(world.path("db.stone")).unwrap();
        for sql in [
            "DELETE FROM inode WHERE ino=(SELECT ino FROM entry WHERE name=CAST('lost' AS BLOB))",
            "DELETE FROM entry WHERE name=CAST('nameless' AS BLOB)",
            "UPDATE inode SET nlink=7 WHERE ino=(SELECT ino FROM entry WHERE name=CAST('kept' AS BLOB))",
            "UPDATE chunk SET data=zeroblob(length(data)) WHERE id=1",
            "UPDATE counters SET next_ino=2",
        ] {
            assert!(conn.execute(sql, []).unwrap() > 0, "{sql}");
        }
    }
    let found = world.stone(["check", "db.stone"]);
    assert!(found.status == 1 && found.out.lines().count() >= 5, "{found:?}");
    let mended = world.stone(["check", "--repair", "db.stone"]);
    assert!(mended.status == 0 && mended.out.contains("isolated contents"), "{mended:?}");
    assert_eq!(world.stone(["check", "db.stone"]).ok(), "");
    world.stone(["mount", "db.stone", "m"]).ok();
    let names: Vec<String> =
        fs::read_dir(world.path("m")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let found = names.iter().find(|name| name.starts_with("lost+found.")).expect("nothing was found again");
    assert_eq!(fs::read(world.path("m").join(found)).unwrap(), b"m/nameless");
    assert_eq!(fs::read(world.path("m/kept")).unwrap(), b"m/kept");
    assert!(!world.path("m/d/lost").exists());
    let damaged = ["m/large", "m/other"].map(|name| fs::read(world.path(name)).map_err(|error| error.raw_os_error()));
    assert_eq!(damaged.iter().filter(|read| **read == Err(Some(libc::EIO))).count(), 1, "what is lost is an error");
    // What is written anew is not taken for the lost one.
    fs::write(world.path("m/large"), &noise).unwrap();
    fs::write(world.path("m/d/lost"), "again").unwrap();
    assert_eq!(fs::read(world.path("m/large")).unwrap(), noise);
    assert_ne!(world.stone(["verify", "--mount", "m"]).status, 0, "the record says what is missing");
    world.stone(["umount", "m"]).ok();
    assert_eq!(world.stone(["check", "db.stone"]).ok(), "");
}

#[test]
fn a_limit_on_the_size_is_a_full_disk() {
    let world = World::new();
    fs::create_dir(world.path("m")).unwrap();
    world.stone(["mount", "db.stone", "m", "-o", "size=x"]).fails(2);
    world.stone(["mount", "db.stone", "m", "-o", "size=12M,compress,verify"]).ok();
    let noise = |seed: u64| {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..1_000_000).map(|_| next()).collect::<Vec<u8>>()
    };
    let mut seed = 0;
    let full = loop {
        seed += 1;
        assert!(seed < 100, "the limit was never reached");
        if let Err(error) = fs::write(world.path("m/f"), noise(seed)) {
            break error;
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    fs::remove_file(world.path("m/f")).unwrap();
    let disk = rustix::fs::statvfs(world.path("m")).unwrap();
    assert!(disk.f_blocks * disk.f_frsize <= 12 << 20, "{}", disk.f_blocks);
    world.stone_in("m", ["prune", "--before", "now"]).ok();
    fs::write(world.path("m/g"), noise(1)).unwrap();
    assert_eq!(fs::read(world.path("m/g")).unwrap(), noise(1));
}
