//! `stone run` inside of itself, in the hands of an ordinary user, on a terminal, where namespaces are
//! forbidden, and many at once.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::thread;

use crate::stone::{Ran, World, eventually, is_alive, program, signal};

const BINARY: &str = env!("CARGO_BIN_EXE_stone");

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.path(name)).unwrap_or_else(|error| format!("<{error}>"))
}

/// Runs a shell's line in a transaction; `$stone` in it is the program.
fn run(world: &World, options: &[&str], line: &str) -> Ran {
    let mut command = program();
    command.arg("run").args(options).args(["--", "sh", "-c", line]);
    command.env("stone", BINARY).current_dir(world.path("m")).output().unwrap().into()
}

fn open_transactions(world: &World) -> usize {
    world.stone_in("m", ["status", "--json"]).json()["transactions"].as_array().unwrap().len()
}

#[test]
fn a_run_inside_of_a_run_is_a_transaction_inside_of_its_transaction() {
    let world = World::mounted();
    let line = "echo o > outer; \
                $stone run -- sh -c 'cat outer; echo i > inner'; \
                $stone run -- sh -c 'rm outer; false'; \
                $stone run -- $stone run -- touch deep; \
                ls; cat $SEEN/inner 2>/dev/null; true";
    let line = line.replace("$SEEN", world.path("m/.branches/main").to_str().unwrap());
    let ran = run(&world, &[], &line);
    assert_eq!((ran.status, ran.out.as_str()), (0, "o\ndeep\ninner\nouter\n"), "{ran:?}");
    assert_eq!(read(&world, "m/inner"), "i\n");
    let ran = run(&world, &[], "$stone run -- touch gone; exit 4");
    assert_eq!(ran.status, 4, "{ran:?}");
    assert!(!world.path("m/gone").exists());
    assert_eq!(open_transactions(&world), 0);
}

#[test]
fn nothing_is_left_of_a_run_that_is_killed() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    let line = format!(
        "echo new > a; (setsid sleep 61 & echo $! > {0}.new; mv {0}.new {0}; wait)",
        world.path("pid").display()
    );
    let mut child = program().args(["run", "--", "sh", "-c", &line]).current_dir(world.path("m")).spawn().unwrap();
    eventually("the command is there", || world.path("pid").exists());
    let inside: i32 = read(&world, "pid").trim().parse().unwrap();
    assert!(is_alive(inside));
    signal(i32::try_from(child.id()).unwrap(), "KILL");
    child.wait().unwrap();
    eventually("its processes are ended", || !is_alive(inside));
    eventually("the transaction is gone", || open_transactions(&world) == 0);
    assert_eq!(read(&world, "m/a"), "old");
    world.stone(["umount", "m"]).ok();
}

#[test]
fn a_run_that_is_tried_again_leaves_no_transaction() {
    let world = World::mounted();
    fs::write(world.path("m/count"), "0").unwrap();
    let line = format!(
        "read n < count; echo $((n + 1)) > count; [ -e {0} ] || {{ touch {0}; echo 10 > {1}; }}",
        world.path("once").display(),
        world.path("n/count").display()
    );
    // a second mount is outside of the transaction
    fs::create_dir(world.path("n")).unwrap();
    world.stone(["mount", "db.stone", "n"]).ok();
    let ran = run(&world, &["--retry", "2"], &line);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(read(&world, "m/count"), "11\n");
    assert_eq!(open_transactions(&world), 0);
}

#[test]
fn what_a_serializable_run_read_must_not_have_changed() {
    let world = World::mounted();
    fs::create_dir(world.path("n")).unwrap();
    world.stone(["mount", "db.stone", "n"]).ok();
    fs::write(world.path("m/on-call"), "alice").unwrap();
    let line = format!("cat on-call; echo free > bob; echo nobody > {}/on-call", world.path("n").display());
    assert_eq!(run(&world, &[], &line).status, 0, "a snapshot may be skewed");
    fs::write(world.path("m/on-call"), "alice").unwrap();
    let ran = run(&world, &["--isolation", "serializable"], &line.replace("bob", "carol"));
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(!world.path("m/carol").exists());
    world.stone_in("m", ["rollback"]).ok();
}

#[test]
fn money_is_neither_made_nor_lost() {
    const ACCOUNTS: u32 = 12;
    let world = World::mounted();
    let deposit = format!("for n in $(seq {ACCOUNTS}); do echo 100 > account-$n; done");
    assert_eq!(run(&world, &[], &deposit).status, 0);
    let transfer = "read -r a < account-$1; read -r b < account-$2; \
                    echo $((a - 7)) > new-$1; mv new-$1 account-$1; \
                    [ $3 = 3 ] && exit 8; [ $3 = 5 ] && kill -9 $$; \
                    echo $((b + 7)) > account-$2";
    thread::scope(|scope| {
        for worker in 0..4_u32 {
            let world = &world;
            scope.spawn(move || {
                for turn in 0..8_u32 {
                    let from = (worker * 5 + turn * 7) % ACCOUNTS + 1;
                    let to = (worker * 3 + turn * 5 + 1) % ACCOUNTS + 1;
                    if from == to {
                        continue;
                    }
                    let numbers = [from.to_string(), to.to_string(), turn.to_string()];
                    let command = ["run", "--retry", "20", "--", "sh", "-c", transfer, "transfer"];
                    let args = command.iter().copied().chain(numbers.iter().map(String::as_str));
                    let ran = world.stone_in("m", args);
                    assert!([0, 8, 137].contains(&ran.status), "{ran:?}");
                }
            });
        }
    });
    let sum = |dir: &str| -> u32 {
        (1..=ACCOUNTS).map(|n| read(&world, &format!("{dir}/account-{n}")).trim().parse::<u32>().unwrap()).sum()
    };
    assert_eq!(sum("m"), ACCOUNTS * 100);
    assert_eq!(open_transactions(&world), 0);
    let points = world.stone_in("m", ["log", "--op", "commit", "--branch", "main", "--json"]).json();
    let points = points.as_array().unwrap();
    assert!(points.len() > 10, "{}", points.len());
    for point in points {
        assert_eq!(sum(&format!("m/.history/{}", point["point"].as_str().unwrap())), ACCOUNTS * 100, "{point}");
    }
    assert_eq!(world.stone_in("m", ["check"]).ok(), "");
}

#[test]
fn the_terminal_is_passed_through() {
    let world = World::mounted();
    let line = format!("{BINARY} run -q -- sh -c 'test -t 0 && test -t 1 && read x && echo got $x > got; exit 5'");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(world.path("m")).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = script.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"hello\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!world.path("m/got").exists(), "it failed, so that it was rolled back");
    let ok = line.replace("exit 5", "true");
    let mut child = Command::new("script")
        .args(["-qec", &ok, "/dev/null"])
        .current_dir(world.path("m"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"hello\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(read(&world, "m/got"), "got hello\n");
}

#[test]
fn without_namespaces_nothing_runs_and_the_error_says_what_to_allow() {
    let world = World::mounted();
    let ran: Ran = Command::new("setpriv")
        .args(["--inh-caps=-sys_admin", "--bounding-set=-sys_admin", BINARY, "run", "--", "touch", "a"])
        .current_dir(world.path("m"))
        .output()
        .unwrap()
        .into();
    assert!(ran.fails(125).contains("CAP_SYS_ADMIN"));
    assert!(!world.path("m/a").exists());
    assert_eq!(open_transactions(&world), 0);
}

#[test]
fn run_has_the_exit_statuses_of_env_for_its_own_failures() {
    let world = World::mounted();
    assert!(world.stone_in("m", ["run", "--", "no-such-program"]).fails(127).contains("no-such-program"));
    assert!(world.stone_in("m", ["run", "--", "/etc/passwd"]).fails(126).contains("/etc/passwd"));
    assert!(world.stone_in("m", ["run", "--branch", "a/b", "--", "true"]).fails(125).contains("a/b"));
    world.stone_in("m", ["run"]).fails(2);
    world.stone_in("", ["run", "--", "true"]).fails(2);
    assert_eq!(run(&world, &["-q"], "kill -TERM $$").status, 128 + 15);
    assert_eq!(open_transactions(&world), 0);
}

#[test]
fn an_ordinary_user_mounts_works_and_runs() {
    const USER: u32 = 65_534; // nobody: fusermount3 wants a name
    let world = World::new();
    fs::set_permissions(world.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(world.path("home")).unwrap();
    chown(world.path("home"), Some(USER), Some(USER)).unwrap();
    fs::copy(BINARY, world.path("stone")).unwrap();
    // the device for everybody, as most systems have it, and mounts that propagate, in a namespace of the test's own
    let node = world.path("fuse");
    assert!(Command::new("mknod").arg(&node).args(["c", "10", "229"]).status().unwrap().success());
    fs::set_permissions(&node, Permissions::from_mode(0o666)).unwrap();
    let script = format!(
        "mount --make-rshared / && mount --bind {node} /dev/fuse && exec setpriv --reuid {USER} --regid {USER} \
         --clear-groups env -i PATH={dir}:$PATH HOME={dir}/home stone={dir}/stone sh -ec '{work}'",
        node = node.display(),
        dir = world.dir.path().display(),
        work = "cd; mkdir m; stone mount w.stone m; cd m; echo 1 > a; \
                stone begin > /dev/null; echo 2 > b; stone commit; \
                stone run -q -- sh -c \"id -u; echo 3 > c; stone run -q -- touch d\"; \
                stone run -q -- sh -c \"rm *; false\" || echo status $?; \
                stone branch x; echo 4 > .branches/x/e; stone merge x; stone undo; \
                cat .history/T1/b; ls; cd; stone umount m; stone check w.stone; ls -A"
    );
    let ran: Ran = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap().into();
    let expected = "Transaction T1 committed: 1 added\n65534\nstatus 1\nTransaction T5 committed: 1 added\n\
                    Transaction T6 undid T5: 1 removed\n2\na\nb\nc\nd\n.local\nm\nw.stone\n";
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (0, expected, ""));
}
