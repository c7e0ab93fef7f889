//! The kernel shows what is so, at once, whatever made it so: transactions, undo, restore, merges, with files
//! open and mapped, mounts below, and processes standing in directories that vanish.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::harness::{run, sh};
use crate::program::{Process, World};

/// Everything that can be seen of a tree: names, types, modes, sizes, targets, contents.
fn seen(root: &Path) -> String {
    sh(
        root,
        "cd $D && find . -printf '%p %y %m %s %l\\n' | sort | sed 's/^\\(.* d [0-7]*\\) [0-9]*/\\1/' && \
         find . -type f | sort | xargs grep -H '' && for n in none new/none d/absent moved; do stat -c %F $n 2>&1; done; true",
    )
}

fn plant(root: &Path) {
    fs::create_dir_all(root.join("d/sub")).unwrap();
    for (name, text) in [("f", "old f"), ("gone", "will go"), ("d/g", "old g"), ("d/sub/h", "old h"), ("mode", "m")] {
        fs::write(root.join(name), text).unwrap();
    }
    symlink("f", root.join("link")).unwrap();
}

/// One change of every kind.
fn change(root: &Path) {
    fs::write(root.join("f"), "new and longer f").unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    fs::create_dir(root.join("new")).unwrap();
    fs::write(root.join("new/n"), "new").unwrap();
    fs::rename(root.join("d/sub"), root.join("moved")).unwrap();
    fs::write(root.join("moved/h"), "h!").unwrap();
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("d/g", root.join("link")).unwrap();
    fs::write(root.join("d/temporary"), "saved by renaming").unwrap();
    fs::rename(root.join("d/temporary"), root.join("d/g")).unwrap();
}

/// A database with two mounts of its main branch, `m` and `n`, and what `plant` makes.
fn two_mounts() -> (World, String) {
    let world = World::mounted("");
    world.mount("n", "");
    plant(&world.m(""));
    world.in_m(&["sync"]);
    let before = seen(&world.m(""));
    assert_eq!(seen(&world.path("n")), before);
    (world, before)
}

#[test]
fn a_commit_and_a_rollback_show_in_every_mount_at_once_and_nothing_before() {
    let (world, before) = two_mounts();
    let (m, n) = (world.m(""), world.path("n"));
    for _ in 0..2 {
        world.in_m(&["begin"]);
        change(&m);
        let inside = seen(&m);
        assert_ne!(inside, before);
        assert_eq!(seen(&n), before);
        assert_eq!(seen(&world.m(".branches/main")), before);
        world.in_m(&["rollback"]);
        assert_eq!(seen(&m), before);
        assert_eq!(seen(&n), before);
    }
    world.in_m(&["begin"]);
    change(&m);
    let inside = seen(&m);
    world.in_m(&["commit"]);
    assert_eq!(seen(&m), inside);
    assert_eq!(seen(&n), inside);
    assert_eq!(seen(&world.path("n/.branches/main")), inside);
}

#[test]
fn undo_redo_restore_and_rollback_to_a_point_show_at_once() {
    let (world, before) = two_mounts();
    let (m, n) = (world.m(""), world.path("n"));
    let point = world.in_m(&["sync"]);
    let script = "set -e; printf 'new and longer f' > f; rm gone; mkdir new; printf new > new/n; mv d/sub moved
        chmod 600 mode; ln -sfn d/g link; printf saved > d/t; mv d/t d/g; printf h > moved/h";
    world.in_m(&["run", "--", "sh", "-c", script]);
    let after = seen(&m);
    assert_ne!(after, before);
    assert_eq!(seen(&n), after);
    let both = |what: &str, expected: &str| {
        assert_eq!(seen(&n), expected, "{what}");
        assert_eq!(seen(&m), expected, "{what}");
    };
    world.in_m(&["undo"]);
    both("undo", &before);
    world.in_m(&["redo"]);
    both("redo", &after);
    world.in_m(&["rollback", "--to", point.trim()]);
    both("rollback --to", &before);
    world.in_m(&["undo"]);
    both("undo of the rollback", &after);
    world.in_m(&["restore", ".", "--at", point.trim()]);
    both("restore", &before);
}

#[test]
fn a_merge_shows_at_once() {
    let (world, before) = two_mounts();
    world.in_m(&["branch", "x"]);
    change(&world.m(".branches/x"));
    assert_eq!(seen(&world.m("")), before);
    let after = seen(&world.m(".branches/x"));
    world.in_m(&["merge", "x"]);
    assert_eq!(seen(&world.m("")), after);
    assert_eq!(seen(&world.path("n")), after);
}

#[test]
fn open_files_see_what_a_commit_and_an_undo_make_of_them() {
    let (world, _) = two_mounts();
    let n = world.path("n");
    let mut process = Process::in_dir(&n);
    process.tell("f = os.open('f', os.O_RDWR); g = os.open('gone', os.O_RDONLY); h = os.open('d/sub/h', os.O_RDONLY)");
    process.tell("m = mmap.mmap(f, 0); s = mmap.mmap(h, 0, prot=mmap.PROT_READ)");
    assert_eq!(process.tell("m[:] + os.pread(f, 99, 0) + s[:] + os.pread(g, 9, 0)"), "old fold fold hwill go");
    world.in_m(&["begin"]);
    change(&world.m(""));
    assert_eq!(process.tell("m[:] + os.pread(f, 99, 0) + s[:]"), "old fold fold h");
    world.in_m(&["commit"]);
    // The same files with other content; the removed one lives while it is open.
    assert_eq!(process.tell("os.pread(f, 99, 0) + m[:] + os.pread(h, 9, 0)"), "new and longer fnew ah!");
    assert_eq!(process.tell("str((os.fstat(f).st_size, os.fstat(h).st_size, os.fstat(g).st_nlink))"), "(16, 2, 0)");
    assert_eq!(process.tell("os.pread(g, 9, 0)"), "will go");
    // What it writes now is a change of the live branch.
    process.tell("m[0:3] = b'MAP'; m.flush(); os.pwrite(f, b'END', 13)");
    assert_eq!(fs::read_to_string(world.m("f")).unwrap(), "MAP and longeEND");
    world.in_m(&["undo", "--force"]);
    assert!(process.ends_well());
}

#[test]
fn pages_written_in_a_transaction_are_in_its_commit_and_gone_with_its_rollback() {
    let (world, _) = two_mounts();
    let m = world.m("");
    fs::write(m.join("pages"), vec![b'.'; 12288]).unwrap();
    for commits in [false, true] {
        world.in_m(&["begin"]);
        let mut process = Process::in_dir(&m);
        process.tell("f = os.open('pages', os.O_RDWR); m = mmap.mmap(f, 0); m[0:5] = b'first'; m[8192:8196] = b'last'");
        process
            .tell("t = os.open('only-inside', os.O_RDWR | os.O_CREAT); os.write(t, b'i' * 9000); w = mmap.mmap(t, 0)");
        process.tell("w[4096:4102] = b'mapped'");
        assert_eq!(sh(&world.path("n"), "tr -d . < $D/pages; ls $D/only-inside 2>&1 | grep -c cannot"), "1\n");
        world.in_m(&[if commits { "commit" } else { "rollback" }]);
        for mount in [m.clone(), world.path("n")] {
            let pages = sh(&mount, "tr -d . < $D/pages");
            assert_eq!(pages, if commits { "firstlast" } else { "" });
            assert_eq!(mount.join("only-inside").exists(), commits);
            if commits {
                assert_eq!(&fs::read(mount.join("only-inside")).unwrap()[4090..4110], b"iiiiiimappediiiiiiii");
            }
        }
        // The process that has them open goes on unharmed, a page that it had not touched included.
        assert_eq!(process.tell("m[4096:4100] + w[0:4] + os.pread(f, 5, 0)"), "....iiiifirst");
        assert_eq!(process.tell("str(os.fstat(t).st_size)"), "9000");
        // What it writes now goes where its transaction went.
        assert_eq!(process.tell("os.pwrite(f, b'LATE', 100); m[200:206] = b'MAPPED'; m.flush()"), "None");
        assert_eq!(process.tell("os.pwrite(t, b'LATE', 9000); str(os.fstat(t).st_size)"), "None");
        assert_eq!(process.tell("str(os.fstat(t).st_size) + str(os.pread(t, 9, 8998))"), "9004b'iiLATE'");
        for mount in [m.clone(), world.path("n")] {
            let pages = sh(&mount, "tr -d . < $D/pages");
            assert_eq!(pages, if commits { "firstLATEMAPPEDlast" } else { "" });
            assert_eq!(fs::metadata(mount.join("only-inside")).map(|meta| meta.len()).ok(), commits.then_some(9004));
        }
        assert!(process.ends_well());
    }
}

#[test]
fn nothing_that_is_done_while_a_transaction_begins_or_is_committed_is_lost() {
    let (world, _) = two_mounts();
    let mut process = Process::in_dir(&world.m(""));
    process.tell("import threading");
    process.tell("log = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND); done = []; counts = []; failures = []");
    process.tell("put = lambda n: (os.write(log, b'%d\\n' % n), os.mkdir('made-%d' % n), os.rmdir('made-%d' % (n - 2)) if n > 1 else 0)");
    process.tell("work = lambda n: (put(n), counts.append(n))");
    process.tell("exec('def run():\\n n = 0\\n while not done:\\n  try:\\n   work(n)\\n  except OSError as e:\\n   failures.append(str(e))\\n  n += 1')");
    process.tell("t = threading.Thread(target=run); t.start()");
    for _ in 0..8 {
        world.in_m(&["begin"]);
        world.in_m(&["commit"]);
    }
    process.tell("done.append(1); t.join()");
    assert_eq!(process.tell("str(failures)"), "[]");
    let count: usize = process.tell("str(len(counts))").parse().unwrap();
    assert!(count > 8, "{count}");
    let lines = fs::read_to_string(world.m("log")).unwrap();
    assert_eq!(lines.lines().count(), count);
    assert!(lines.lines().enumerate().all(|(n, line)| line == n.to_string()), "{lines}");
    let made = fs::read_dir(world.m("")).unwrap().flatten();
    let made: Vec<_> = made.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"made-")).collect();
    assert_eq!(made.len(), 2);
    assert!(process.ends_well());
}

#[test]
fn a_process_that_stands_in_a_directory_that_vanishes_learns_it_and_one_that_stays_sees_what_is_new() {
    let (world, _) = two_mounts();
    let m = world.m("");
    world.in_m(&["begin"]);
    fs::create_dir_all(m.join("fresh/below")).unwrap();
    fs::write(m.join("d/inside"), "").unwrap();
    let mut in_fresh = Process::in_dir(&m.join("fresh/below"));
    let mut in_d = Process::in_dir(&m.join("d"));
    assert_eq!(in_d.tell("' '.join(sorted(os.listdir('.')))"), "g inside sub");
    world.in_m(&["rollback"]);
    assert_eq!(in_fresh.tell("os.listdir('.')"), "No such file or directory");
    assert_eq!(in_fresh.tell("os.open('x', os.O_CREAT | os.O_WRONLY)"), "No such file or directory");
    assert_eq!(in_fresh.tell("os.mkdir('x')"), "No such file or directory");
    assert_eq!(in_fresh.tell("os.getcwd()"), "No such file or directory");
    assert_eq!(in_d.tell("' '.join(sorted(os.listdir('.')))"), "g sub");
    assert_eq!(in_d.tell("os.stat('inside')"), "No such file or directory");
    // It finds its way out.
    in_fresh.tell(&format!("os.chdir('{}')", m.display()));
    assert_eq!(in_fresh.tell("' '.join(sorted(os.listdir('.')))"), "d f gone link mode");
    // And so it is when an undo takes a directory away.
    world.in_m(&["run", "--", "mkdir", "taken"]);
    let mut in_taken = Process::in_dir(&m.join("taken"));
    world.in_m(&["undo"]);
    assert_eq!(in_taken.tell("os.listdir('.')"), "[]");
    assert_eq!(in_taken.tell("os.mkdir('x')"), "No such file or directory");
    assert_eq!(in_taken.tell("os.open('x', os.O_CREAT | os.O_WRONLY)"), "No such file or directory");
    assert!(!m.join("taken").exists());
    world.in_m(&["redo"]);
    assert_eq!(sh(&m, "ls -A $D/taken"), "");
    for process in [in_fresh, in_d, in_taken] {
        assert!(process.ends_well());
    }
}

#[test]
fn whatever_would_take_a_mount_point_away_is_refused() {
    let (world, _) = two_mounts();
    let m = world.m("");
    let mount_at = |name: &str| sh(&m, &format!("mount -t tmpfs none $D/{name} && touch $D/{name}/inside"));
    let refused = |args: &[&str], at: &str| {
        let output = world.try_stone_in("m", args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let still = m.join(at).join("inside").exists();
        if output.status.success() || !still {
            let _ = run(&m, &format!("umount $D/{at}"), None);
        }
        assert!(!output.status.success() && still, "{args:?}: {said}");
        assert!(said.contains("mounted") || said.contains("busy"), "{args:?}: {said}");
    };
    world.in_m(&["begin"]);
    fs::create_dir(m.join("fresh")).unwrap();
    mount_at("fresh");
    refused(&["rollback"], "fresh");
    // What the commit keeps may be mounted on.
    world.in_m(&["commit"]);
    assert!(m.join("fresh/inside").exists());
    let point = world.in_m(&["sync"]);
    sh(&m, "umount $D/fresh");
    world.in_m(&["run", "--", "mkdir", "-p", "one/two"]);
    mount_at("one/two");
    refused(&["undo"], "one/two");
    refused(&["rollback", "--to", point.trim()], "one/two");
    refused(&["restore", ".", "--at", point.trim()], "one/two");
    sh(&m, "umount $D/one/two");
    world.in_m(&["undo"]);
    assert!(!m.join("one").exists());
}

#[test]
fn sizes_are_right_where_the_kernel_gathers_writes() {
    let world = World::mounted("writeback");
    world.mount("n", "writeback");
    fs::write(world.m("f"), "old").unwrap();
    fs::hard_link(world.m("f"), world.m("link")).unwrap();
    let point = world.in_m(&["sync"]);
    let both = |text: &str| {
        for name in ["m/f", "n/f", "m/link", "n/link"] {
            assert_eq!(fs::read_to_string(world.path(name)).unwrap(), text, "{name}");
            assert_eq!(fs::metadata(world.path(name)).unwrap().len(), text.len() as u64, "{name}");
        }
    };
    both("old");
    world.in_m(&["run", "--", "sh", "-c", "printf 'longer than before' > f"]);
    both("longer than before");
    world.in_m(&["undo"]);
    both("old");
    world.in_m(&["redo"]);
    both("longer than before");
    world.in_m(&["begin"]);
    fs::write(world.m("f"), "-").unwrap();
    world.in_m(&["rollback"]);
    both("longer than before");
    world.in_m(&["begin"]);
    fs::write(world.m("f"), "longer than anything before").unwrap();
    world.in_m(&["commit"]);
    both("longer than anything before");
    world.in_m(&["restore", "f", "--at", point.trim()]);
    both("old");
}

#[test]
fn attributes_are_those_of_the_branch_that_a_switch_shows() {
    let (world, _) = two_mounts();
    let m = world.m("");
    world.in_m(&["branch", "x"]);
    change(&m);
    let (main, x) = (seen(&m), seen(&world.m(".branches/x")));
    assert_ne!(main, x);
    let ino = fs::metadata(m.join("d")).unwrap().ino();
    for _ in 0..3 {
        world.in_m(&["switch", "x"]);
        assert_eq!(seen(&m), x);
        assert_eq!(seen(&world.path("n")), main);
        assert_eq!(fs::metadata(m.join("d")).unwrap().ino(), ino);
        world.in_m(&["switch", "main"]);
        assert_eq!(seen(&m), main);
    }
}
