//! Who did what, with which program: processes of a real mount.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::stone::{World, eventually, program};

/// Runs a shell script in the mount.
#[track_caller]
fn sh(world: &World, script: &str) {
    assert!(Command::new("sh").args(["-c", script]).current_dir(world.path("m")).status().unwrap().success());
}

/// The rows of an answer, as objects.
#[track_caller]
fn ask(world: &World, query: &str) -> Vec<Value> {
    world.stone_in("m", ["sql", "--json", query]).json().as_array().unwrap().clone()
}

#[test]
fn a_process_is_known_with_all_that_started_it() {
    let world = World::mounted();
    // Both stay until they are told to end, so that all of them can be read.
    sh(
        &world,
        "sh -c 'echo x > made; until [ -e seen ]; do sleep 0.05; done' 'an argument' & \
                until [ -e made ]; do sleep 0.05; done; sleep 0.5; touch seen; wait",
    );
    let rows = ask(
        &world,
        "SELECT p.*, q.comm AS parent_comm, q.pid AS parent_pid FROM events e JOIN processes p ON p.id = e.process \
         JOIN processes q ON q.id = p.parent WHERE e.path = '/made' AND e.op = 'create'",
    );
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&row["comm"], &row["parent_comm"], &row["complete"]), (&"sh".into(), &"sh".into(), &1.into()));
    assert!(row["argv"].as_str().unwrap().ends_with("'an argument'"), "{row}");
    assert_eq!(row["ppid"], row["parent_pid"]);
    assert_eq!(row["cwd"].as_str().unwrap(), world.path("m").to_str().unwrap());
    assert!(row["exe"].as_str().unwrap().contains("sh"), "{row}");
    assert_eq!(row["uid"], 0);
    assert!(!row["boot_id"].as_str().unwrap().is_empty() && !row["host"].as_str().unwrap().is_empty());
    assert!(row.get("environment").is_none());
    eventually("its end is recorded", || {
        ask(&world, "SELECT p.ended FROM events e JOIN processes p ON p.id = e.process WHERE e.path = '/made'")
            .iter()
            .any(|row| row["ended"].is_string())
    });
    // The tests' own process is in the chain, far above.
    let above = ask(
        &world,
        &format!(
            "WITH RECURSIVE up(id) AS (SELECT process FROM events WHERE path = '/made' AND op = 'create' UNION ALL \
             SELECT p.parent FROM up JOIN processes p ON p.id = up.id WHERE p.parent IS NOT NULL) \
             SELECT p.pid FROM up JOIN processes p ON p.id = up.id WHERE p.pid = {}",
            std::process::id()
        ),
    );
    assert_eq!(above.len(), 1);
}

#[test]
fn a_process_that_renames_itself_or_executes_another_program_is_told_apart() {
    let world = World::mounted();
    sh(&world, "echo 1 > a; printf other > /proc/$$/comm; echo 2 > b; exec cp a c");
    let rows = ask(
        &world,
        "SELECT DISTINCT p.id, p.pid, p.comm, p.start_ticks FROM events e JOIN processes p ON p.id = e.process \
         WHERE e.path GLOB '/[abc]' ORDER BY p.id",
    );
    let comms: Vec<&str> = rows.iter().map(|row| row["comm"].as_str().unwrap()).collect();
    assert_eq!(comms, ["sh", "other", "cp"]);
    assert!(rows.iter().all(|row| row["pid"] == rows[0]["pid"] && row["start_ticks"] == rows[0]["start_ticks"]));
}

#[test]
fn a_label_is_inherited_by_the_process_tree_and_can_be_asked_for() {
    let world = World::mounted();
    world.stone_in("m", ["-q", "run", "--as", "robot-7", "--", "sh", "-c", "mkdir d; sh -c 'echo x > d/f'"]).ok();
    sh(&world, "touch outside");
    let paths = ask(
        &world,
        "SELECT DISTINCT e.path FROM processes p JOIN events e ON e.process = p.id \
         WHERE p.label = 'robot-7' AND e.path IS NOT NULL ORDER BY e.path",
    );
    let paths: Vec<&str> = paths.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/d", "/d/f"]);
    assert!(world.stone_in("m", ["audit"]).ok().contains("(robot-7)"));
    let log = world.stone_in("m", ["log", "d"]).ok();
    assert!(log.lines().all(|line| line.contains("(robot-7)")), "{log}");
    let tree = world.stone_in("m", ["ps", "--program", "sh"]).ok();
    assert!(tree.contains("sh -c"), "{tree}");
}

#[test]
fn many_processes_that_live_for_a_moment_are_each_recorded() {
    let world = World::mounted();
    sh(&world, "i=0; while [ $i -lt 150 ]; do /bin/echo $i > f$i; i=$((i + 1)); done");
    let rows = ask(
        &world,
        "SELECT count(*) AS events, count(DISTINCT e.process) AS processes, count(p.id) AS known, min(e.pid) AS pid \
         FROM events e LEFT JOIN processes p ON p.id = e.process WHERE e.op = 'write' AND e.path GLOB '/f*'",
    );
    assert_eq!((&rows[0]["events"], &rows[0]["known"]), (&150.into(), &150.into()));
    assert!(rows[0]["processes"].as_u64().unwrap() >= 100 && rows[0]["pid"].as_u64().unwrap() > 0, "{rows:?}");
}

#[test]
fn audit_all_records_what_was_read_and_why_tells_inputs() {
    let world = World::new();
    fs::create_dir(world.path("m")).unwrap();
    world.stone(["mount", "-o", "audit=all", "db.stone", "m"]).ok();
    sh(&world, "echo 1 > a; echo 2 > b; echo 3 > unread; cat a b > c");
    let opened = ask(&world, "SELECT path FROM events WHERE op = 'open' ORDER BY seq");
    let opened: Vec<&str> = opened.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(opened, ["/a", "/b"]);
    let why = world.stone_in("m", ["why", "c", "--json"]).json();
    let inputs: Vec<&str> = why["inputs"].as_array().unwrap().iter().map(|i| i["path"].as_str().unwrap()).collect();
    assert_eq!(inputs, ["/a", "/b"]);
    assert_eq!(why["processes"][0]["comm"], "cat");
    let text = world.stone_in("m", ["why", "c"]).ok();
    assert!(text.contains("by     ") && text.contains("had read before:"), "{text}");
}

#[test]
fn what_failed_is_in_the_log() {
    let world = World::mounted();
    fs::create_dir_all(world.path("m/d/e")).unwrap();
    assert!(fs::remove_dir(world.path("m/d")).is_err());
    let failed = world.stone_in("m", ["log", "--failed"]).ok();
    assert!(failed.lines().count() == 1 && failed.contains("  rmdir  d failed: Directory not empty"), "{failed}");
    let rows = ask(&world, "SELECT op, path, result FROM events WHERE result > 0");
    assert_eq!(rows, [serde_json::json!({"op": "rmdir", "path": "/d", "result": libc::ENOTEMPTY})]);
    assert!(world.stone_in("m", ["audit", "--failed"]).ok().contains("1 rmdir"));
    world.stone_in("m", ["verify"]).ok();
}

#[test]
fn transactions_are_seen_from_inside_where_deeds_are_asked_for() {
    let world = World::mounted();
    sh(&world, "echo x > f");
    world.stone_in("m", ["begin"]).ok();
    sh(&world, "rm f");
    world.stone_in("m", ["commit"]).ok();
    let removed = world.stone_in("m", ["history", "f"]).ok();
    assert!(removed.lines().next().unwrap().contains("rm["), "{removed}");
    assert!(world.stone_in("m", ["log", "--op", "unlink"]).ok().contains("rm["));
    assert!(world.stone_in("m", ["log", "f"]).ok().lines().next().unwrap().contains("unlink"));
    assert!(world.stone_in("m", ["ps"]).ok().contains("rm"));
    let log = world.stone_in("m", ["log", "-n", "1"]).ok();
    assert!(log.contains("commit"), "{log}");
}

#[test]
fn log_follows_what_happens() {
    let world = World::mounted();
    let mut child = program()
        .args(["log", "--follow", "--json"])
        .current_dir(world.path("m"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap(); // what was there before
    fs::create_dir(world.path("m/new")).unwrap();
    let line = lines.next().unwrap().unwrap();
    let row: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&row["op"], &row["path"]), (&"mkdir".into(), &"/new".into()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn other_programs_read_the_mounted_database_and_cannot_write() {
    let world = World::mounted();
    sh(&world, "echo hello > f; chmod 600 f");
    world.stone_in("m", ["sync"]).ok();
    let reader = Connection::open_with_flags(world.path("db.stone"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let size: i64 = reader.query_row("SELECT size FROM files WHERE path = '/f'", [], |row| row.get(0)).unwrap();
    assert_eq!(size, 6);
    let comm: String = reader
        .query_row("SELECT p.comm FROM events e JOIN processes p ON p.id = e.process WHERE e.op = 'chmod'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(comm, "chmod");
    drop(reader);
    let writer = Connection::open(world.path("db.stone")).unwrap();
    let error = writer.execute("DELETE FROM event", []).unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
}

#[test]
fn verify_proves_a_head_and_finds_what_was_altered() {
    let world = World::mounted();
    sh(&world, "echo one > f");
    world.stone_in("m", ["sync"]).ok();
    let head = world.stone_in("m", ["verify", "--head"]).ok().trim().to_owned();
    assert_eq!(head.len(), 64);
    sh(&world, "echo two >> f");
    assert!(world.stone_in("m", ["verify"]).ok().is_empty());
    world.stone_in("m", ["verify", "--head", &head]).ok();
    let other = world.stone_in("m", ["verify", "--head", &"0".repeat(64)]);
    assert!(other.status == 1 && other.out.contains("is not in this history"), "{other:?}");
    world.stone(["umount", "m"]).ok();
    let other = Connection::open(world.path("db.stone")).unwrap();
    assert_eq!(other.execute("UPDATE event SET uid = 77 WHERE op = 10 AND seq = 3", []).unwrap(), 1);
    other.close().unwrap();
    let found = world.stone(["verify", "db.stone"]);
    assert_eq!(found.status, 1);
    assert!(found.out.lines().next().unwrap().contains("e3"), "{found:?}");
}

#[test]
fn queries_have_limits_and_change_nothing() {
    let world = World::mounted();
    let forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    assert!(world.stone_in("m", ["sql", "--timeout", "1", forever]).fails(1).contains("stopped after 1 second"));
    for bad in ["DELETE FROM files", "ATTACH 'db.stone' AS x", "PRAGMA user_version = 7", "SELECT load_extension('x')"]
    {
        world.stone_in("m", ["sql", bad]).fails(1);
    }
    let name = "quote'\"comma,\nline\ttab\x1b";
    fs::write(world.path("m").join(name), "").unwrap();
    let query = "SELECT name FROM files WHERE type = 'file'";
    let csv = world.stone_in("m", ["sql", "--format", "csv", query]).ok();
    assert_eq!(csv, "name\n\"quote'\"\"comma,\nline\ttab\x1b\"\n");
    let tsv = world.stone_in("m", ["sql", "--format", "tsv", query]).ok();
    assert_eq!(tsv, "name\nquote'\"comma,\\nline\\ttab\\u{1b}\n");
    assert_eq!(ask(&world, query)[0]["name"], name);
    assert!(!world.stone_in("m", ["sql", query]).ok().contains('\x1b'));
    assert_eq!(fs::metadata(world.path("m")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn blame_tells_who_wrote_the_regions_of_what_is_no_text() {
    let world = World::mounted();
    sh(&world, "head -c 400000 /dev/urandom > big; printf '\\0\\1' > small");
    let first = ask(&world, "SELECT max(seq) AS seq FROM events WHERE path = '/big'")[0]["seq"].as_u64().unwrap();
    sh(&world, "dd if=/dev/urandom of=big bs=1000 seek=140 count=1 conv=notrunc 2>/dev/null");
    let regions = world.stone_in("m", ["blame", "--json", "big"]).json();
    let regions: Vec<_> =
        regions.as_array().unwrap().iter().map(|r| (&r["program"], &r["offset"], &r["length"])).collect();
    let (head, dd) = (Value::from("head"), Value::from("dd"));
    let expected =
        [(0, 131_072), (131_072, 131_072), (262_144, 137_856)].map(|(at, n)| (Value::from(at), Value::from(n)));
    assert_eq!(
        regions,
        [
            (&head, &expected[0].0, &expected[0].1),
            (&dd, &expected[1].0, &expected[1].1),
            (&head, &expected[2].0, &expected[2].1)
        ],
        "after e{first}"
    );
    assert!(world.stone_in("m", ["blame", "small"]).ok().contains("2 B at 0"));
}
