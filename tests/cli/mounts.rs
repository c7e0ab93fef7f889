//! Mounting, unmounting, and how the daemon lives and ends.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::stone::{World, eventually, is_alive, is_mounted, program, signal};

#[test]
fn mount_makes_the_database_and_returns_when_it_answers() {
    let world = World::new();
    fs::create_dir(world.path("m")).unwrap();
    assert_eq!(world.stone(["mount", "db.stone", "m"]).ok(), "");
    assert!(is_mounted(&world.path("m")));
    fs::write(world.path("m/a"), "hello").unwrap();
    let daemon = world.daemon();
    assert_eq!(world.stone(["umount", "m"]).ok(), "");
    assert!(!is_mounted(&world.path("m")));
    assert!(!is_alive(daemon));
    assert!(!world.path("db.stone-wal").exists());
    world.stone(["mount", "db.stone", "m"]).ok();
    assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "hello");
}

#[test]
fn the_daemon_keeps_none_of_the_callers_streams() {
    let world = World::new();
    fs::create_dir(world.path("m")).unwrap();
    // output() returns only when nobody holds the pipes any more
    let output = program()
        .args(["mount", "db.stone", "m"])
        .current_dir(world.dir.path())
        .stdin(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success());
    let daemon = world.daemon();
    assert_eq!(fs::read_link(format!("/proc/{daemon}/cwd")).unwrap().to_str(), Some("/"));
    let stat = fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap();
    let session: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, daemon, "it leads a session of its own");
}

#[test]
fn what_is_busy_is_not_unmounted_and_its_users_are_named() {
    let world = World::mounted();
    let mut sleeper = Command::new("sleep").arg("60").current_dir(world.path("m")).spawn().unwrap();
    eventually("sleep stands in the mount", || {
        fs::read_link(format!("/proc/{}/cwd", sleeper.id())).is_ok_and(|cwd| cwd == world.path("m"))
    });
    let refused = world.stone(["umount", "m"]).fails(1);
    assert!(refused.contains(&format!("[{}] (working directory)", sleeper.id())), "{refused}");
    assert!(is_mounted(&world.path("m")));
    fs::write(world.path("m/still"), "works").unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    world.stone(["umount", "m"]).ok();
}

#[test]
fn a_second_mount_is_served_by_the_same_daemon() {
    let world = World::mounted();
    fs::create_dir(world.path("n")).unwrap();
    world.stone(["--db", "db.stone", "branch", "x"]).ok();
    world.stone(["mount", "db.stone", "n", "-o", "branch=x"]).ok();
    fs::write(world.path("n/only-x"), "").unwrap();
    assert!(!world.path("m/only-x").exists());
    let status = world.stone_in("m", ["status", "--json"]).json();
    let branches: Vec<_> = status["mounts"].as_array().unwrap().iter().map(|mount| mount["branch"].clone()).collect();
    assert_eq!(branches, ["main", "x"]);
    assert_eq!(world.stone_in("n", ["status", "--json"]).json()["branch"], "x");
    let daemon = world.daemon();
    world.stone(["umount", "m"]).ok();
    assert!(is_alive(daemon));
    world.stone(["umount", "n"]).ok();
    assert!(!is_alive(daemon));
}

#[test]
fn signals_end_the_daemon_with_everything_on_disk() {
    for name in ["TERM", "INT"] {
        let world = World::mounted();
        fs::write(world.path("m/a"), name).unwrap();
        let daemon = world.daemon();
        signal(daemon, name);
        eventually("the daemon ends", || !is_alive(daemon));
        assert!(!is_mounted(&world.path("m")));
        world.stone(["mount", "db.stone", "m"]).ok();
        assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), name);
    }
}

#[test]
fn a_stale_mount_is_cleared_by_mount_and_by_umount() {
    let world = World::mounted();
    let kill = || {
        let daemon = world.daemon();
        signal(daemon, "KILL");
        eventually("the mount is stale", || {
            fs::read_dir(world.path("m")).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
        });
    };
    fs::write(world.path("m/a"), "kept").unwrap();
    world.stone_in("m", ["sync"]).ok();
    kill();
    assert!(world.stone_in("", ["status", "m"]).fails(1).contains("dead"));
    world.stone(["mount", "db.stone", "m"]).ok();
    assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "kept");
    kill();
    world.stone(["umount", "m"]).ok();
    assert!(!is_mounted(&world.path("m")));
}

#[test]
fn an_unmount_behind_its_back_ends_the_daemon() {
    let world = World::mounted();
    let daemon = world.daemon();
    let done = Command::new("umount").arg(world.path("m")).status().unwrap();
    assert!(done.success());
    eventually("the daemon ends", || !is_alive(daemon));
    assert_eq!(world.stone(["check", "db.stone"]).ok(), "");
}

#[test]
fn mount_points_that_do_not_fit_are_refused() {
    let world = World::mounted();
    assert!(world.stone(["mount", "db.stone", "m"]).fails(1).contains("mounted there already"));
    assert!(world.stone(["mount", "db.stone", "missing"]).fails(1).contains("no such directory"));
    fs::write(world.path("file"), "").unwrap();
    assert!(world.stone(["mount", "db.stone", "file"]).fails(1).contains("not a directory"));
    fs::create_dir_all(world.path("full/x")).unwrap();
    assert!(world.stone(["mount", "db.stone", "full"]).fails(1).contains("nonempty"));
    world.stone(["mount", "db.stone", "full", "-o", "nonempty"]).ok();
    assert!(!world.path("full/x").exists());
    assert!(world.stone(["mount", "new.stone", "."]).fails(1).contains("not empty"));
    assert!(world.stone(["umount", "."]).fails(1).contains("no StoneFS"));
}

#[test]
fn a_mount_of_a_past_state_is_read_only() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "old").unwrap();
    let point = world.stone_in("m", ["sync"]).ok();
    fs::write(world.path("m/a"), "new").unwrap();
    fs::create_dir(world.path("past")).unwrap();
    let options = format!("at={}", point.trim());
    world.stone(["mount", "db.stone", "past", "-o", &options]).ok();
    assert_eq!(fs::read_to_string(world.path("past/a")).unwrap(), "old");
    assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "new");
    let refused = fs::write(world.path("past/a"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(world.stone(["mount", "db.stone", "file", "-o", "at=nonsense"]).status == 1);
}

#[test]
fn mount_8_and_fstab_find_their_helper_in_the_program() {
    let world = World::new();
    let helper = world.path("mount.fuse.stonefs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_stone"), &helper).unwrap();
    let call = |options: &str| {
        let mut command = Command::new(&helper);
        command.args(["db.stone", "m", "-n", "-o", options]).current_dir(world.dir.path());
        command.stdin(Stdio::null()).output().unwrap()
    };
    fs::create_dir(world.path("m")).unwrap();
    let done = call("rw,nosuid,noauto,nofail,x-systemd.automount");
    assert!(done.status.success(), "{done:?}");
    assert!(is_mounted(&world.path("m")));
    fs::write(world.path("m/a"), "hello").unwrap();
    // Plain umount(8) ends it, with everything on disk.
    assert!(Command::new("umount").arg(world.path("m")).status().unwrap().success());
    eventually("the daemon has ended", || !world.path("db.stone-wal").exists());
    assert!(call("defaults").status.success());
    assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "hello");
    assert!(call("remount,ro").status.success());
    assert_eq!(fs::write(world.path("m/b"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert!(call("remount,rw").status.success());
    fs::write(world.path("m/b"), "").unwrap();
}

#[test]
fn in_the_foreground_it_ends_with_the_mount() {
    let world = World::new();
    fs::create_dir(world.path("m")).unwrap();
    let mut daemon = program()
        .args(["mount", "-f", "db.stone", "m"])
        .current_dir(world.dir.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is mounted", || is_mounted(&world.path("m")));
    assert_eq!(world.daemon(), i32::try_from(daemon.id()).unwrap());
    world.stone(["umount", "m"]).ok();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn switching_changes_what_the_root_shows() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "main").unwrap();
    world.stone_in("m", ["switch", "-c", "x"]).ok();
    assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "main");
    fs::write(world.path("m/a"), "x").unwrap();
    fs::write(world.path("m/only-x"), "").unwrap();
    world.stone_in("m", ["switch", "main"]).ok();
    assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "main");
    assert!(!world.path("m/only-x").exists());
    assert_eq!(fs::read_to_string(world.path("m/.branches/x/a")).unwrap(), "x");
    assert_eq!(world.stone_in("m", ["diff", "main", "x"]).ok(), "M\ta\nA\tonly-x\n");
    world.stone_in("m", ["switch", "x"]).ok();
    world.stone(["umount", "m"]).ok();
    world.stone(["mount", "db.stone", "m"]).ok();
    assert_eq!(world.stone_in("m", ["status", "--json"]).json()["branch"], "x", "it is remembered");
}

#[test]
fn two_mounts_of_one_database_at_the_same_time_share_a_daemon() {
    let world = World::unmounted();
    let names = ["m", "n", "o"];
    let mut waiting = Vec::new();
    for name in names {
        fs::create_dir(world.path(name)).unwrap();
        waiting.push(program().args(["mount", "db.stone", name]).current_dir(world.dir.path()).spawn().unwrap());
    }
    for mut child in waiting {
        assert!(child.wait().unwrap().success());
    }
    let status = world.stone(["status", "db.stone", "--json"]).json();
    assert_eq!(status["mounts"].as_array().unwrap().len(), 3);
}

#[test]
fn a_mount_whose_database_was_removed_or_replaced_still_works_and_is_unmounted() {
    for replaced in [false, true] {
        let world = World::mounted();
        fs::write(world.path("m/a"), "content").unwrap();
        let daemon = world.daemon();
        fs::remove_file(world.path("db.stone")).unwrap();
        if replaced {
            assert!(world.stone(["init", "db.stone"]).fails(1).contains("db.stone-wal"), "its log is in use");
            world.stone(["init", "other.stone"]).ok();
            fs::rename(world.path("other.stone"), world.path("db.stone")).unwrap();
            assert!(world.stone(["--db", "db.stone", "branch"]).fails(1).contains("in use"));
        }
        assert_eq!(fs::read_to_string(world.path("m/a")).unwrap(), "content");
        fs::write(world.path("m/b"), "more").unwrap();
        assert!(world.stone_in("m", ["sync"]).ok().starts_with('e'));
        assert_eq!(world.stone_in("m", ["status", "--json"]).json()["pid"], daemon);
        assert_eq!(world.stone_in("m", ["-q", "run", "--", "cat", "b"]).ok(), "more");
        assert_eq!(world.stone(["umount", "m"]).ok(), "");
        assert!(!is_mounted(&world.path("m")));
        assert!(!is_alive(daemon));
        if replaced {
            world.stone(["mount", "db.stone", "m"]).ok();
            assert!(!world.path("m/a").exists(), "it is another database");
        }
    }
}

#[test]
fn a_database_on_a_full_disk_is_mounted_and_takes_changes_when_there_is_space() {
    let world = World::unmounted();
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(&disk).status().unwrap();
    assert!(mounted.success(), "mounting needs root");
    fs::create_dir(world.path("disk/m")).unwrap();
    world.stone(["mount", "disk/db.stone", "disk/m"]).ok();
    fs::write(world.path("disk/m/a"), "kept").unwrap();
    world.stone(["umount", "disk/m"]).ok();
    let fill = world.path("disk/fill");
    let mut dd = Command::new("dd");
    dd.arg("if=/dev/zero").arg(format!("of={}", fill.display())).arg("bs=4096").stderr(Stdio::null());
    assert!(!dd.status().unwrap().success(), "it fills the disk");
    for options in ["ro", "nodev"] {
        world.stone(["mount", "disk/db.stone", "disk/m", "-o", options]).ok();
        assert_eq!(fs::read_to_string(world.path("disk/m/a")).unwrap(), "kept");
        assert_eq!(world.stone(["--mount", "disk/m", "diff", "e1"]).ok(), "A\ta\n");
        if options == "ro" {
            world.stone(["umount", "disk/m"]).ok();
        }
    }
    let big = vec![1; 4 << 20];
    let written = fs::File::create(world.path("disk/m/b")).and_then(|mut file| {
        file.write_all(&big)?;
        file.sync_all()
    });
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read_to_string(world.path("disk/m/a")).unwrap(), "kept");
    fs::remove_file(&fill).unwrap();
    eventually("it takes changes again", || fs::write(world.path("disk/m/c"), "new").is_ok());
    world.stone(["--mount", "disk/m", "sync"]).ok();
    assert_eq!(world.stone(["--mount", "disk/m", "check"]).ok(), "");
    world.stone(["umount", "disk/m"]).ok();
    world.stone(["mount", "disk/db.stone", "disk/m"]).ok();
    assert_eq!(fs::read_to_string(world.path("disk/m/c")).unwrap(), "new");
    world.stone(["umount", "disk/m"]).ok();
}
