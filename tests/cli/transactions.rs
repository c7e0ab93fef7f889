//! Transactions, merges, and commands that run in a transaction.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::stone::{Ran, World, eventually, is_alive, program, signal};

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.path(name)).unwrap_or_else(|error| format!("<{error}>"))
}

/// Runs a shell's line in a transaction.
fn run(world: &World, options: &[&str], line: &str) -> Ran {
    let mut args = vec!["run"];
    args.extend_from_slice(options);
    args.extend_from_slice(&["--", "sh", "-c", line]);
    world.stone_in("m", args)
}

#[test]
fn a_transaction_becomes_visible_in_one_step() {
    let world = World::mounted();
    fs::write(world.path("m/kept"), "1").unwrap();
    fs::write(world.path("m/gone"), "1").unwrap();
    assert_eq!(world.stone_in("m", ["begin", "-m", "test"]).ok(), "Transaction T1 started\n");
    fs::write(world.path("m/kept"), "2").unwrap();
    fs::write(world.path("m/new"), "").unwrap();
    fs::remove_file(world.path("m/gone")).unwrap();
    assert_eq!(read(&world, "m/.branches/main/kept"), "1");
    assert_eq!(read(&world, "m/.tx/1/kept"), "2");
    assert!(world.stone_in("m", ["begin"]).fails(1).contains("T1"));
    assert!(world.stone_in("m", ["switch", "-c", "x"]).fails(1).contains("T1"));
    assert_eq!(world.stone_in("m", ["diff"]).ok(), "D\tgone\nM\tkept\nA\tnew\n");
    let status = world.stone_in("m", ["status", "--json"]).json();
    assert_eq!((&status["transaction"], &status["transactions"][0]["state"]), (&"T1".into(), &"open".into()));
    let done = world.stone_in("m", ["commit"]).ok();
    assert_eq!(done, "Transaction T1 committed: 1 added, 1 modified, 1 removed\n");
    assert_eq!(read(&world, "m/.branches/main/kept"), "2");
    assert!(!world.path("m/gone").exists());
    assert!(world.stone_in("m", ["commit"]).fails(1).contains("no transaction is open"));
    assert!(world.stone_in("m", ["show", "T1"]).ok().contains("test"));
}

#[test]
fn a_rollback_leaves_nothing() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "1").unwrap();
    world.stone_in("m", ["begin"]).ok();
    fs::write(world.path("m/a"), "2").unwrap();
    fs::create_dir(world.path("m/d")).unwrap();
    assert_eq!(world.stone_in("m", ["rollback"]).ok(), "Transaction T1 rolled back\n");
    assert_eq!(read(&world, "m/a"), "1");
    assert!(!world.path("m/d").exists());
}

#[test]
fn an_open_transaction_survives_the_unmount() {
    let world = World::mounted();
    world.stone_in("m", ["begin"]).ok();
    fs::write(world.path("m/a"), "in it").unwrap();
    world.stone(["umount", "m"]).ok();
    let status = world.stone(["status", "db.stone", "--json"]).json();
    assert_eq!(status["transactions"][0]["state"], "interrupted");
    world.stone(["mount", "db.stone", "m"]).ok();
    assert!(!world.path("m/a").exists());
    assert_eq!(read(&world, "m/.tx/1/a"), "in it");
    world.stone_in("m", ["commit"]).ok();
    assert_eq!(read(&world, "m/a"), "in it");
}

#[test]
fn the_first_to_commit_wins_and_the_other_can_rebase() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "1").unwrap();
    world.stone_in("m", ["begin"]).ok();
    fs::write(world.path("m/a"), "mine").unwrap();
    fs::write(world.path("m/b"), "mine").unwrap();
    fs::write(world.path("m/.branches/main/a"), "theirs").unwrap();
    let refused = world.stone_in("m", ["commit"]);
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(refused.out.contains("content") && refused.out.contains("ours=a"), "{refused:?}");
    assert_eq!(read(&world, "m/.branches/main/a"), "theirs");
    assert_eq!(read(&world, "m/a"), "mine", "the transaction is still shown");
    assert!(world.stone_in("m", ["conflicts"]).ok().contains("content"));
    let json = world.stone_in("m", ["commit", "--json"]);
    assert_eq!(json.status, 3);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.out).unwrap()["outcome"], "conflict");
    world.stone_in("m", ["commit", "--rebase", "--strategy", "ours"]).ok();
    assert_eq!((read(&world, "m/a").as_str(), read(&world, "m/b").as_str()), ("theirs", "mine"));
}

#[test]
fn merges_bring_branches_together() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "base\n").unwrap();
    fs::write(world.path("m/b"), "base\n").unwrap();
    world.stone_in("m", ["branch", "x"]).ok();
    fs::write(world.path("m/.branches/x/a"), "theirs\n").unwrap();
    fs::write(world.path("m/b"), "ours\n").unwrap();
    assert_eq!(world.stone_in("m", ["merge", "x"]).ok(), "Transaction T1 committed: 1 modified\n");
    assert_eq!((read(&world, "m/a").as_str(), read(&world, "m/b").as_str()), ("theirs\n", "ours\n"));
    assert_eq!(world.stone_in("m", ["merge", "x"]).ok(), "Already up to date\n");
    world.stone_in("m", ["branch", "-d", "x"]).ok();
}

#[test]
fn conflicts_of_a_merge_wait_to_be_resolved() {
    let world = World::mounted();
    for name in ["a", "b"] {
        fs::write(world.path("m").join(name), "base\n").unwrap();
    }
    world.stone_in("m", ["branch", "x"]).ok();
    for name in ["a", "b"] {
        fs::write(world.path("m/.branches/x").join(name), "theirs\n").unwrap();
        fs::write(world.path("m").join(name), "ours\n").unwrap();
    }
    assert!(world.stone_in("m", ["branch", "-d", "x"]).fails(1).contains("merged nowhere"));
    let refused = world.stone_in("m", ["merge", "x"]);
    assert_eq!((refused.status, refused.out.lines().count()), (3, 2), "{refused:?}");
    assert!(refused.err.contains("stone resolve"), "{refused:?}");
    assert_eq!(read(&world, "m/a"), "ours\n");
    assert_eq!(world.stone_in("m", ["conflicts", "--json"]).json().as_array().unwrap().len(), 2);
    assert_eq!(world.stone_in("m", ["resolve", "a", "--theirs"]).status, 0);
    assert_eq!(world.stone_in("m", ["commit"]).status, 3, "b is not resolved");
    fs::write(world.path("new-b"), "both\n").unwrap();
    assert_eq!(world.stone_in("m", ["resolve", "b", "--file", world.path("new-b").to_str().unwrap()]).status, 0);
    world.stone_in("m", ["commit"]).ok();
    assert_eq!((read(&world, "m/a").as_str(), read(&world, "m/b").as_str()), ("theirs\n", "both\n"));
    world.stone_in("m", ["resolve", "b"]).fails(2);
}

#[test]
fn run_keeps_what_succeeded_and_nobody_sees_it_before() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    let outside = world.path("outside");
    let line = format!("echo new > a; cat a > {}; sleep 0.5", outside.display());
    let child = program()
        .args(["run", "-m", "why", "--", "sh", "-c", &line])
        .current_dir(world.path("m"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the command wrote", || outside.exists() && read(&world, "outside") == "new\n");
    assert_eq!(read(&world, "m/a"), "old");
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.status, ran.out.as_str()), (0, ""), "{ran:?}");
    assert_eq!(ran.err, "stone: Transaction T1 committed: 1 modified\n");
    assert_eq!(read(&world, "m/a"), "new\n");
    assert_eq!(world.stone_in("m", ["show", "T1", "--json"]).json()["transaction"]["message"], "why");
}

#[test]
fn run_rolls_back_what_failed_and_passes_its_status_on() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    let ran = run(&world, &[], "rm a; echo x > b; echo out; echo err >&2; exit 42");
    assert_eq!((ran.status, ran.out.as_str()), (42, "out\n"));
    assert!(ran.err.starts_with("err\n") && ran.err.contains("rolled back"), "{ran:?}");
    assert_eq!(read(&world, "m/a"), "old");
    assert!(!world.path("m/b").exists());
    assert_eq!(run(&world, &[], "kill -TERM $$").status, 128 + 15);
    assert_eq!(world.stone_in("m", ["run", "--", "/nonexistent"]).status, 127);
    assert_eq!(world.stone_in("m", ["run", "--", "/etc/passwd"]).status, 126);
    assert_eq!(world.stone(["run", "--", "true"]).status, 2);
    assert_eq!(run(&world, &["-q"], "true").err, "");
}

#[test]
fn run_shows_every_file_under_its_usual_name_and_number() {
    let world = World::mounted();
    fs::create_dir(world.path("m/d")).unwrap();
    fs::write(world.path("m/d/a"), "x").unwrap();
    let meta = fs::metadata(world.path("m/d/a")).unwrap();
    let line = format!("pwd; stat -c '%i %d' {}", world.path("m/d/a").display());
    let ran = world.stone_in("m/d", ["run", "--", "sh", "-c", &line]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], world.path("m/d").to_str().unwrap());
    let (ino, dev) = lines[1].split_once(' ').unwrap();
    assert_eq!(ino, meta.ino().to_string());
    assert_ne!(dev, meta.dev().to_string());
}

#[test]
fn run_ends_what_its_command_left_behind() {
    let world = World::mounted();
    let pid_file = world.path("pid");
    let line = format!(
        "setsid sh -c 'echo $$ > {}; trap : TERM; while :; do sleep 1; done' & sleep 0.3; echo x > a",
        pid_file.display()
    );
    assert_eq!(run(&world, &[], &line).status, 0);
    let pid: i32 = read(&world, "pid").trim().parse().unwrap();
    assert!(!is_alive(pid));
    assert_eq!(read(&world, "m/a"), "x\n");
}

#[test]
fn a_killed_run_is_rolled_back() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    let seen = world.path("seen");
    let line = format!("echo new > a; touch {}; sleep 30", seen.display());
    let mut child = program().args(["run", "--", "sh", "-c", &line]).current_dir(world.path("m")).spawn().unwrap();
    eventually("the command wrote", || seen.exists());
    assert!(world.stone(["umount", "m"]).fails(1).contains("stone run"));
    signal(i32::try_from(child.id()).unwrap(), "KILL");
    child.wait().unwrap();
    let open = || world.stone_in("m", ["status", "--json"]).json()["transactions"].as_array().unwrap().len();
    eventually("the transaction is gone", || open() == 0);
    assert_eq!(read(&world, "m/a"), "old");
    world.stone(["umount", "m"]).ok();
}

#[test]
fn signals_to_run_reach_the_command() {
    let world = World::mounted();
    let seen = world.path("seen");
    let line = format!("trap 'echo got > got; exit 0' TERM; touch {}; while :; do sleep 0.1; done", seen.display());
    let mut child =
        program().args(["run", "-q", "--", "sh", "-c", &line]).current_dir(world.path("m")).spawn().unwrap();
    eventually("the command is there", || seen.exists());
    signal(i32::try_from(child.id()).unwrap(), "TERM");
    assert!(child.wait().unwrap().success());
    assert_eq!(read(&world, "m/got"), "got\n");
}

#[test]
fn run_meets_conflicts_with_status_3_and_can_try_again() {
    let world = World::mounted();
    fs::write(world.path("m/count"), "0").unwrap();
    let main = world.path("m/count");
    // changes the same file outside, behind its own back: in the first run only
    let line = format!(
        "n=$(cat count); echo $((n+1)) > count; if [ ! -e {0} ]; then touch {0}; touch {1}; while [ -e {1} ]; do sleep 0.02; done; fi",
        world.path("once").display(),
        world.path("go").display()
    );
    let start = |retry: &str| {
        program()
            .args(["run", "--retry", retry, "--", "sh", "-c", &line])
            .current_dir(world.path("m"))
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let interfere = || {
        eventually("the command read", || world.path("go").exists());
        fs::write(&main, "10").unwrap();
        fs::remove_file(world.path("go")).unwrap();
    };
    let child = start("0");
    interfere();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.err.contains("content") && ran.err.contains("stays open"), "{ran:?}");
    assert_eq!(read(&world, "m/count"), "10");
    world.stone_in("m", ["rollback", "T1"]).ok();
    fs::remove_file(world.path("once")).unwrap();
    let child = start("2");
    interfere();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(read(&world, "m/count"), "11\n");
}

#[test]
fn run_can_leave_its_result_on_a_branch_or_keep_it_open() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    assert_eq!(run(&world, &["--branch", "try"], "echo new > a").status, 0);
    assert_eq!((read(&world, "m/a").as_str(), read(&world, "m/.branches/try/a").as_str()), ("old", "new\n"));
    assert_eq!(run(&world, &["--branch", "bad"], "exit 1").status, 1);
    assert_eq!(world.stone_in("m", ["branch"]).ok(), "* main\n  try\n");
    assert_eq!(run(&world, &["--keep"], "echo kept > a; exit 1").status, 1);
    assert_eq!(read(&world, "m/a"), "old");
    world.stone_in("m", ["commit"]).ok();
    assert_eq!(read(&world, "m/a"), "kept\n");
}

#[test]
fn mapped_pages_are_in_the_commit() {
    let world = World::mounted();
    let script = "import mmap\nf=open('a','w+b')\nf.truncate(4096)\nm=mmap.mmap(f.fileno(),4096)\nm[:5]=b'pages'\n";
    let python = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    assert!(python.is_ok_and(|status| status.success()), "python3 is needed");
    assert_eq!(world.stone_in("m", ["run", "--", "python3", "-c", script]).status, 0);
    assert!(read(&world, "m/a").starts_with("pages"));
}

#[test]
fn the_record_names_the_actor() {
    let world = World::mounted();
    assert_eq!(run(&world, &["--as", "agent-7"], "echo x > a").status, 0);
    let events = world.stone_in("m", ["log", "--txn", "T1", "--op", "create", "--json"]).json();
    assert_eq!(events[0]["label"], "agent-7", "{events}");
}

#[test]
fn questions_are_asked_in_sql() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "12345").unwrap();
    let sql = |args: &[&str]| world.stone_in("m", [&["sql"], args].concat());
    let query = "SELECT path, size FROM files WHERE type = 'file'";
    assert_eq!(sql(&["--format", "csv", query]).ok(), "path,size\n/a,5\n");
    assert_eq!(sql(&["--json", query]).json(), serde_json::json!([{"path": "/a", "size": 5}]));
    assert_eq!(sql(&["--at", "e1", "--format", "tsv", "SELECT count(*) n FROM files"]).ok(), "n\n1\n");
    sql(&["DROP TABLE files"]).fails(1);
    sql(&["--format", "xml", query]).fails(2);
    world.stone(["umount", "m"]).ok();
    assert_eq!(world.stone(["--db", "db.stone", "sql", "--format", "csv", query]).ok(), "path,size\n/a,5\n");
}

#[test]
fn the_record_is_proven() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "12345").unwrap();
    assert_eq!(world.stone_in("m", ["verify"]).ok(), "");
    let head = world.stone_in("m", ["verify", "--head"]).ok();
    fs::write(world.path("m/b"), "").unwrap();
    assert!(world.stone_in("m", ["verify", "--head", head.trim()]).ok().contains("covers everything"));
    let other = "0".repeat(64);
    let ran = world.stone_in("m", ["verify", "--head", &other]);
    assert_eq!((ran.status, ran.out.lines().count()), (1, 1), "{ran:?}");
    world.stone_in("m", ["verify", "--head", "xyz"]).fails(2);
}
