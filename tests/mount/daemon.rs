//! A daemon that is killed or stopped: nobody waits for ever, and the next mount takes over.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{Process, World, eventually, is_alive, signal};

/// Whether a child ends within a minute; it is killed otherwise.
fn ends(child: &mut Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    false
}

/// A shell that works in the mount until a system call fails.
fn worker(world: &World, script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .env("D", world.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Every kind of request, again and again, until one fails.
const BUSY: [&str; 4] = [
    "set -e; n=0; while :; do n=$((n+1)); echo $n > $D/m/a.new; mv $D/m/a.new $D/m/a; done",
    "set -e; while :; do ls -l $D/m; cat $D/m/seed > /dev/null; test -e $D/m/seed; done",
    "set -e; while :; do dd if=/dev/zero of=$D/m/big bs=64k count=20 conv=fsync; rm $D/m/big; done",
    "set -e; while :; do mkdir -p $D/m/x/y; touch $D/m/x/y/z; sync -f $D/m/x; rm -r $D/m/x; test -d $D/m; done",
];

#[test]
fn no_client_of_a_killed_daemon_waits_for_ever_and_the_next_mount_takes_over() {
    let world = World::mounted("");
    fs::write(world.m("seed"), vec![1; 100_000]).unwrap();
    world.in_m(&["sync"]);
    for round in 0..3 {
        let mut workers: Vec<Child> = BUSY.iter().map(|script| worker(&world, script)).collect();
        let mut holder = Process::in_dir(&world.m(""));
        holder.tell("f = os.open('mapped', os.O_RDWR | os.O_CREAT); os.ftruncate(f, 8192); m = mmap.mmap(f, 0)");
        holder.tell("m[0:5] = b'dirty'");
        thread::sleep(Duration::from_millis(100 + 150 * round));
        let daemon = world.daemon("m");
        signal(daemon, "KILL");
        eventually("the daemon is gone", || !is_alive(daemon));
        assert!(workers.iter_mut().all(ends), "a client hangs");
        assert_eq!(holder.tell("os.open('seed', os.O_RDONLY)"), "Transport endpoint is not connected");
        assert!(holder.tell("os.fsync(f)").len() > 4);
        // Over the stale mount, which somebody still stands in.
        world.mount("m", "");
        assert_eq!(fs::read(world.m("seed")).unwrap(), vec![1; 100_000]);
        assert_eq!(world.stone(&["--mount", "m", "check"]), "");
        let _ = holder.ends_well();
    }
    signal(world.daemon("m"), "KILL");
    eventually("the mount is stale", || fs::read(world.m("seed")).is_err());
    world.stone(&["umount", "m"]);
    assert_eq!(fs::read_dir(world.m("")).unwrap().count(), 0);
}

#[test]
fn a_daemon_that_is_killed_in_any_phase_leaves_something_that_mounts_again() {
    let world = World::mounted("");
    fs::create_dir(world.m("d")).unwrap();
    fs::write(world.m("d/seed"), "seed").unwrap();
    world.in_m(&["branch", "x"]);
    fs::write(world.m(".branches/x/d/other"), "x").unwrap();
    world.in_m(&["sync"]);
    world.stone(&["umount", "m"]);
    let phases: [&[&str]; 7] = [
        &["mount", "db.stone", "m"],
        &["--mount", "m", "switch", "x"],
        &["--mount", "m", "run", "--", "sh", "-c", "echo 1 > $D/m/d/run; echo 2 > $D/m/d/run2"],
        &["--mount", "m", "sync"],
        &["--mount", "m", "commit"],
        &["--mount", "m", "merge", "x"],
        &["umount", "m"],
    ];
    // `STONE_KILLS=N` kills so often, at moments that are spread otherwise.
    let wanted: Option<u32> = std::env::var("STONE_KILLS").ok().and_then(|text| text.parse().ok());
    let rounds = wanted.unwrap_or(3 * phases.len() as u32);
    for (n, phase) in (0..rounds).zip(phases.iter().cycle()) {
        let turn = n / phases.len() as u32;
        let delay_us = if wanted.is_some() { n * 7919 % 40_000 } else { [0, 4000, 12_000][turn as usize % 3] };
        if phase[0] != "mount" {
            world.mount("m", "branch=main");
        }
        let is_commit = phase.contains(&"commit");
        let before = fs::read_to_string(world.m("d/one")).ok();
        if is_commit {
            world.in_m(&["begin"]);
            fs::write(world.m("d/one"), n.to_string()).unwrap();
            fs::write(world.m("d/two"), n.to_string()).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_stone"));
        command.args(*phase).current_dir(world.path("")).env("D", world.path(""));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros((delay_us * if phase[0] == "mount" { 4 } else { 1 }).into()));
        for daemon in daemons(&world) {
            signal(daemon, "KILL");
        }
        assert!(ends(&mut child), "{phase:?} hangs");
        let returned = child.wait().unwrap().success();
        for daemon in daemons(&world) {
            signal(daemon, "KILL");
            eventually("the daemon is gone", || !is_alive(daemon));
        }
        world.mount("m", "branch=main");
        assert_eq!(fs::read_to_string(world.m("d/seed")).unwrap(), "seed", "{phase:?}");
        assert_eq!(world.m("d/run").exists(), world.m("d/run2").exists(), "{phase:?}: all or nothing");
        let [one, two] = ["d/one", "d/two"].map(|name| fs::read_to_string(world.m(name)).ok());
        assert_eq!(one, two, "{phase:?}: all or nothing");
        if is_commit {
            let done = one == Some(n.to_string());
            assert!(done || (one == before && !returned), "{phase:?}: {before:?}, {one:?}, returned {returned}");
            if !done {
                world.in_m(&["rollback"]);
            }
        }
        assert_eq!(world.stone(&["--mount", "m", "check"]), "", "{phase:?}");
        world.stone(&["umount", "m"]);
    }
}

/// The daemons of a world's database: by their command lines.
fn daemons(world: &World) -> Vec<i32> {
    let database = world.path("db.stone");
    let database = database.to_str().unwrap().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let has = |word: &[u8]| words.split(|byte| *byte == 0).any(|given| given == word);
        if has(b"--detached") && has(database) && is_alive(pid) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn clients_of_a_stopped_daemon_wait_and_go_on() {
    let world = World::mounted("");
    world.mount("other", "");
    fs::write(world.m("f"), "content").unwrap();
    fs::write(world.m("g"), "other").unwrap();
    let daemon = world.daemon("m");
    let mut process = Process::in_dir(&world.m(""));
    process.tell("f = os.open('f', os.O_RDWR)");
    let mut writers: Vec<Child> = [BUSY[0], BUSY[2]].iter().map(|script| worker(&world, script)).collect();
    signal(daemon, "STOP");
    process.ask("os.write(f, b'written'); os.fsync(f)");
    let mut waiting = vec![worker(&world, "cat $D/m/g > $D/out && ls $D/m >> $D/out && echo new > $D/m/new")];
    let commands: [&[&str]; 4] = [
        &["--mount", "m", "sync"],
        &["--mount", "m", "run", "--", "sh", "-c", "echo run > $D/m/run"],
        &["--db", "db.stone", "tag", "stopped"],
        &["umount", "other"],
    ];
    for command in commands {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stone"));
        program.args(command).current_dir(world.path("")).env("D", world.path(""));
        waiting.push(program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }
    thread::sleep(Duration::from_secs(10));
    assert!(waiting.iter_mut().all(|client| client.try_wait().unwrap().is_none()), "all of them wait");
    signal(daemon, "CONT");
    assert_eq!(process.answer(), "None");
    for client in &mut waiting {
        assert!(ends(client) && client.wait().unwrap().success());
    }
    for writer in &mut writers {
        assert!(writer.try_wait().unwrap().is_none(), "a worker met an error");
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    assert!(fs::read_to_string(world.path("out")).unwrap().starts_with("other"));
    assert_eq!(fs::read_to_string(world.m("f")).unwrap(), "written");
    assert_eq!(fs::read_to_string(world.m("new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(world.m("run")).unwrap(), "run\n");
    assert!(process.ends_well());
}

#[test]
fn a_command_whose_daemon_is_killed_ends_and_its_transaction_is_gone() {
    let world = World::mounted("");
    fs::write(world.m("f"), "before").unwrap();
    world.in_m(&["sync"]);
    let script = "echo inside > f; echo started > ../started; while cat f; do sleep 0.05; done > /dev/null";
    let mut command = Command::new(env!("CARGO_BIN_EXE_stone"));
    command.args(["run", "--", "sh", "-c", script]).current_dir(world.m("")).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually("the command runs", || world.path("started").exists());
    let daemon = world.daemon("m");
    signal(daemon, "KILL");
    assert!(ends(&mut child), "the command hangs");
    assert!(!child.wait().unwrap().success());
    world.mount("m", "");
    assert_eq!(fs::read_to_string(world.m("f")).unwrap(), "before");
    assert_eq!(world.stone(&["--mount", "m", "check"]), "");
}
