//! What a serializable run has read, and the record of what failed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use crate::harness::{run, sh};
use crate::program::{World, eventually};

/// A run that reads, says so, waits for the word, and writes.
fn start(world: &World, isolation: &str, name: &str, reads: &str, writes: &str) -> Child {
    let script = format!(
        "{reads} > /dev/null 2>&1; touch $W/{name}-has-read; while ! test -e $W/go; do sleep 0.02; done; {writes}"
    );
    Command::new(env!("CARGO_BIN_EXE_stone"))
        .args(["run", "--isolation", isolation, "--", "sh", "-c", &script])
        .current_dir(world.m(""))
        .env("W", world.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn has_read(world: &World, name: &str) {
    eventually("it has read", || world.path(&format!("{name}-has-read")).exists());
}

/// Ends the round: exit statuses, in order.
fn statuses(world: &World, children: Vec<Child>) -> Vec<Option<i32>> {
    fs::write(world.path("go"), "").unwrap();
    let ended = children.into_iter().map(|mut child| child.wait().unwrap().code()).collect();
    sh(&world.path(""), "rm -f $D/go $D/*-has-read");
    // What met a conflict stays open.
    for entry in fs::read_dir(world.m(".tx")).unwrap() {
        let id = format!("T{}", entry.unwrap().file_name().to_str().unwrap());
        world.in_m(&["rollback", &id]);
    }
    ended
}

#[test]
fn of_two_runs_that_read_what_the_other_writes_a_serializable_one_is_refused() {
    let world = World::mounted("");
    for (isolation, expected) in [("snapshot", [Some(0), Some(0)]), ("serializable", [Some(0), Some(3)])] {
        fs::write(world.m("a"), "1").unwrap();
        fs::write(world.m("b"), "1").unwrap();
        let children = vec![
            start(&world, isolation, "one", "cat a b", "echo 0 > a"),
            start(&world, isolation, "two", "cat a b", "echo 0 > b"),
        ];
        has_read(&world, "one");
        has_read(&world, "two");
        let mut ended = statuses(&world, children);
        ended.sort_unstable();
        assert_eq!(ended, expected, "{isolation}");
    }
}

#[test]
fn a_serializable_run_is_refused_for_what_it_read_and_for_nothing_else() {
    let world = World::mounted("");
    let m = world.m("");
    for dir in ["d", "e"] {
        fs::create_dir(m.join(dir)).unwrap();
    }
    for file in ["f", "g", "d/h"] {
        fs::write(m.join(file), "x").unwrap();
    }
    // What is read, a change that others make of it, one that does not touch it.
    let table = [
        ("cat f", "echo changed > f", "echo changed > g"),
        ("test -e d/none", "touch d/none", "touch d/another; rm d/another; touch e/none"),
        ("ls d", "touch d/listed", "touch e/listed"),
        ("stat f", "chmod 600 f", "chmod 600 g"),
        ("cat d/h", "mv d/h d/i; mv d/i e/h", "echo y > e/y"),
    ];
    for (n, (reads, touches, spares)) in table.into_iter().enumerate() {
        for (change, expected) in [(spares, Some(0)), (touches, Some(3))] {
            fs::set_permissions(m.join("f"), fs::Permissions::from_mode(0o644)).unwrap();
            let child = start(&world, "serializable", "it", reads, &format!("echo {n} > written"));
            has_read(&world, "it");
            sh(&m, &format!("cd $D && {change}"));
            assert_eq!(statuses(&world, vec![child]), [expected], "{reads}, meanwhile {change}");
        }
    }
}

#[test]
fn changes_that_fail_in_the_daemon_are_recorded_with_their_error() {
    let world = World::mounted("");
    let m = world.m("");
    sh(&m, "cd $D && mkdir -p full/sub other && touch full/f f");
    for fails in [
        "rmdir full",
        "mv -T other full",
        "setfattr -x user.none f",
        "mv -T full full/sub/below",
        "rmdir .branches/main",
    ] {
        assert!(!run(&m, &format!("cd $D && {fails}"), None).status.success(), "{fails}");
    }
    let rows = world.in_m(&[
        "sql",
        "--format",
        "tsv",
        "SELECT op, path, path2, result FROM events WHERE result <> 0 AND op <> 'mkdir' ORDER BY seq",
    ]);
    let rows: Vec<&str> = rows.lines().skip(1).collect();
    let expected = [
        format!("rmdir\t/full\t\t{}", libc::ENOTEMPTY),
        format!("rename\t/other\t/full\t{}", libc::ENOTEMPTY),
        format!("removexattr\t/f\t\t{}", libc::ENODATA),
    ];
    assert_eq!(rows, expected);
    // They change nothing: verify replays the record.
    world.in_m(&["verify"]);
    assert_eq!(world.in_m(&["check"]), "");
}
