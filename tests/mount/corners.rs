//! Where file systems in user space are known to differ from those in the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::harness::{STRANGER, Stone, run, sh};
use crate::program::{Process, eventually};

#[test]
fn a_file_that_is_replaced_by_renaming_is_always_there_and_whole() {
    let stone = Stone::new();
    let path = stone.path("target");
    let content = |n: usize| vec![b'a' + (n % 26) as u8; 1000 + n % 5000];
    fs::write(&path, content(0)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !done.load(Ordering::Relaxed) {
                        let data = fs::read(&path).expect("there was no moment without the file");
                        assert!(data.len() >= 1000 && data.iter().all(|byte| *byte == data[0]), "{} bytes", data.len());
                        fs::metadata(&path).unwrap();
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (stone, path) = (&stone, &path);
                scope.spawn(move || {
                    for n in 0..500 {
                        let new = stone.path(&format!("new-{writer}"));
                        fs::write(&new, content(n)).unwrap();
                        fs::rename(&new, path).unwrap();
                    }
                })
            })
            .collect();
        let failed: Vec<_> = writers.into_iter().filter_map(|writer| writer.join().err()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_empty());
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
    assert_eq!(sh(&stone.path(""), "ls -A $D"), "target\n");
}

#[test]
fn appends_of_several_processes_lose_and_tear_nothing() {
    let stone = Stone::new();
    let script = "for p in 1 2 3 4; do
            python3 -c \"
import os
f = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for n in range(250):
    os.write(f, ('$p %d ' % n + 'x' * (n % 90) + chr(10)).encode())
\" & done; wait";
    sh(&stone.path(""), &format!("cd $D && {script}"));
    let log = fs::read_to_string(stone.path("log")).unwrap();
    let lines: BTreeSet<&str> = log.lines().collect();
    assert_eq!((log.lines().count(), lines.len()), (1000, 1000));
    for p in 1..=4 {
        for n in 0..250 {
            assert!(lines.contains(format!("{p} {n} {}", "x".repeat(n % 90)).as_str()), "{p} {n}");
        }
    }
}

#[test]
fn a_mapping_and_the_file_are_one() {
    let stone = Stone::new();
    fs::write(stone.path("f"), vec![b'-'; 8192]).unwrap();
    let (mut a, mut b) = (Process::in_dir(&stone.path("")), Process::in_dir(&stone.path("")));
    for process in [&mut a, &mut b] {
        process.tell("f = os.open('f', os.O_RDWR); m = mmap.mmap(f, 0)");
    }
    a.tell("m[0:3] = b'one'");
    assert_eq!(b.tell("m[0:4] + os.pread(f, 4, 0)"), "one-one-");
    b.tell("os.pwrite(f, b'two', 4096)");
    assert_eq!(a.tell("m[4096:4100]"), "two-");
    // Cut off and grown again, it is zeros.
    b.tell("os.ftruncate(f, 100); os.ftruncate(f, 8192)");
    assert_eq!(a.tell("str((sum(m[100:8192]), m[0:3]))"), "(0, b'one')");
    assert_eq!(a.tell("str(os.fstat(f).st_size)"), "8192");
    assert!(a.ends_well() && b.ends_well());
    assert_eq!(&fs::read(stone.path("f")).unwrap()[..4], b"one-");
}

#[test]
fn record_locks_exclude_wait_and_go_with_their_holder() {
    let stone = Stone::new();
    fs::write(stone.path("f"), [0; 100]).unwrap();
    let (mut a, mut b) = (Process::in_dir(&stone.path("")), Process::in_dir(&stone.path("")));
    for process in [&mut a, &mut b] {
        process.tell("f = os.open('f', os.O_RDWR); X, N, U = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN");
    }
    a.tell("fcntl.lockf(f, X, 10, 0)");
    assert_eq!(b.tell("fcntl.lockf(f, X | N, 10, 5)"), "Resource temporarily unavailable");
    assert_eq!(b.tell("fcntl.lockf(f, X | N, 10, 10)"), "None");
    // Waits until it is unlocked.
    b.ask("fcntl.lockf(f, X, 10, 0)");
    a.tell("fcntl.lockf(f, U, 10, 0)");
    assert_eq!(b.answer(), "None");
    a.ask("fcntl.lockf(f, X, 10, 0)");
    assert!(b.ends_well());
    assert_eq!(a.answer(), "None");
    // Of the whole file, by flock.
    let mut c = Process::in_dir(&stone.path(""));
    a.tell("fcntl.flock(f, X)");
    c.tell("f = os.open('f', os.O_RDWR)");
    assert_eq!(c.tell("fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)"), "Resource temporarily unavailable");
    c.ask("fcntl.flock(f, fcntl.LOCK_EX)");
    assert!(a.ends_well());
    assert_eq!(c.answer(), "None");
    assert!(c.ends_well());
}

#[test]
fn a_listing_tells_each_lasting_name_once_while_others_come_and_go() {
    let stone = Stone::new();
    for n in 0..1500 {
        fs::write(stone.path(&format!("keep-{n:04}")), "").unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                fs::write(stone.path(&format!("come-{}", n % 50)), "").unwrap();
                let _ = fs::remove_file(stone.path(&format!("come-{}", (n + 25) % 50)));
                n += 1;
            }
        });
        for _ in 0..10 {
            let mut seen = BTreeSet::new();
            for entry in fs::read_dir(stone.path("")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(seen.insert(name.clone()), "{name} twice");
            }
            assert_eq!(seen.iter().filter(|name| name.starts_with("keep-")).count(), 1500);
        }
        done.store(true, Ordering::Relaxed);
        changing.join().unwrap();
    });
}

#[test]
fn a_listing_goes_on_from_a_remembered_place_and_begins_anew_when_rewound() {
    let stone = Stone::new();
    for n in 0..300 {
        fs::write(stone.path(&format!("f{n:03}")), "").unwrap();
    }
    let dir = File::open(stone.path("")).unwrap();
    let mut stream = rustix::fs::Dir::read_from(&dir).unwrap();
    let mut names = Vec::new();
    let mut place = 0;
    for n in 0..100 {
        let entry = stream.read().unwrap().unwrap();
        names.push(entry.file_name().to_owned());
        if n == 49 {
            place = entry.offset();
        }
    }
    stream.seek(place).unwrap();
    let again: Vec<_> = (0..50).map(|_| stream.read().unwrap().unwrap().file_name().to_owned()).collect();
    assert_eq!(again, names[50..]);
    fs::write(stone.path("late"), "").unwrap();
    stream.rewind();
    let all: Vec<_> = stream.map(|entry| entry.unwrap().file_name().to_owned()).collect();
    assert_eq!(all.len(), 303); // with `.` and `..`
    assert!(all.iter().any(|name| name.to_bytes() == b"late"));
}

#[test]
fn paths_are_as_long_as_the_system_allows() {
    let stone = Stone::new();
    let mut process = Process::in_dir(&stone.path(""));
    process.tell("part = 'd' * 254; dirs = 15");
    // Relative to the root of the mount, 15 directories of 254 bytes and slashes: 3825 bytes; the name fills up.
    for _ in 0..15 {
        assert_eq!(process.tell("os.mkdir(part); os.chdir(part)"), "None");
    }
    process.tell(&format!("os.chdir('{}')", stone.path("").display()));
    process.tell("deep = '/'.join([part] * 15) + '/'");
    // 4095 bytes and the terminator are PATH_MAX.
    process.tell("name = 'n' * 200; deep += './' * ((4095 - 200 - len(deep)) // 2); deep += '/' * (3895 - len(deep))");
    assert_eq!(process.tell("str(len(deep + name))"), "4095");
    assert_eq!(process.tell("os.close(os.open(deep + name, os.O_CREAT | os.O_WRONLY))"), "None");
    assert_eq!(process.tell("str(os.stat(deep + name).st_size)"), "0");
    assert_eq!(process.tell("os.stat(deep + '/' + name)"), "File name too long");
    assert_eq!(process.tell("os.symlink('t' * 4095, 'long'); str(len(os.readlink('long')))"), "None");
    assert_eq!(process.tell("str(len(os.readlink('long')))"), "4095");
    assert_eq!(process.tell("os.symlink('t' * 4096, 'longer')"), "File name too long");
    assert!(process.ends_well());
}

#[test]
fn attributes_are_the_same_through_every_hard_link() {
    let stone = Stone::new();
    let (a, b) = (stone.path("a"), stone.path("d/b"));
    fs::create_dir(stone.path("d")).unwrap();
    fs::write(&a, "x").unwrap();
    fs::hard_link(&a, &b).unwrap();
    let stat = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        (meta.ino(), meta.mode(), meta.nlink(), meta.size(), meta.uid(), times)
    };
    let changes: [&dyn Fn(); 7] = [
        &|| fs::write(&a, "longer").unwrap(),
        &|| fs::set_permissions(&b, fs::Permissions::from_mode(0o640)).unwrap(),
        &|| std::os::unix::fs::chown(&a, Some(STRANGER), None).unwrap(),
        &|| OpenOptions::new().append(true).open(&b).unwrap().write_all(b"+").unwrap(),
        &|| fs::hard_link(&b, stone.path("c")).unwrap(),
        &|| fs::remove_file(stone.path("c")).unwrap(),
        &|| {
            fs::rename(stone.path("d"), stone.path("e"))
                .and_then(|()| fs::rename(stone.path("e"), stone.path("d")))
                .unwrap()
        },
    ];
    let mut before = (stat(&a), stat(&b));
    for (n, change) in changes.iter().enumerate() {
        change();
        let after = (stat(&a), stat(&b));
        assert_eq!(after.0, after.1, "change {n}");
        assert!(n == 6 || after.0 != before.0, "change {n} shows");
        before = after;
    }
    fs::remove_file(&a).unwrap();
    assert_eq!(fs::metadata(&b).unwrap().nlink(), 1);
}

#[test]
fn default_access_control_lists_pass_on_to_directories_and_through_them() {
    let stone = Stone::shared();
    let dir = stone.path("");
    sh(
        &dir,
        "chmod 755 $D && mkdir -m 700 $D/d && setfacl -d -m u:54321:rwx,g::rx,o::- $D/d && setfacl -m u:54321:x $D/d",
    );
    sh(&dir, "umask 077 && mkdir $D/d/e && echo hi > $D/d/e/f && mkdir -m 700 $D/d/e/closed");
    let defaults = |path: &str| sh(&dir, &format!("getfacl -dcn $D/{path} 2>/dev/null"));
    assert!(!defaults("d/e").is_empty());
    assert_eq!(defaults("d/e"), defaults("d"));
    assert_eq!(sh(&dir, "stat -c %a $D/d/e $D/d/e/f"), "770\n660\n");
    let may = |script: &str| crate::harness::may(&dir, STRANGER, script);
    assert!(may("cat $D/d/e/f && echo more >> $D/d/e/f && touch $D/d/e/mine"));
    assert!(!crate::harness::may(&dir, STRANGER + 1, "cat $D/d/e/f"));
    // The mode that mkdir asked for masks it; chmod changes the mask.
    assert!(!may("ls $D/d/e/closed"));
    sh(&dir, "chmod 770 $D/d/e/closed");
    assert!(may("ls $D/d/e/closed"));
    sh(&dir, "setfacl -x u:54321 $D/d/e/f && chmod 600 $D/d/e/f");
    assert!(!may("cat $D/d/e/f"));
}

#[test]
fn set_group_id_is_kept_for_members_and_taken_from_others() {
    let stone = Stone::shared();
    let dir = stone.path("");
    sh(&dir, "mkdir $D/d && chown 54321:4321 $D/d && chmod 2777 $D/d");
    let as_user = |groups: &str, script: &str| {
        let script = format!("setpriv --reuid 54321 --regid 54321 {groups} sh -c '{script}'");
        let output = run(&dir, &script, None);
        assert!(output.status.success(), "{output:?}");
    };
    as_user("--clear-groups", "cd $D/d && touch f && mkdir s && touch g && chmod 2755 g");
    as_user("--groups 4321", "cd $D/d && touch h && chmod 2755 h");
    assert_eq!(sh(&dir, "cd $D/d && stat -c '%n %a %g' f s g h"), "f 644 4321\ns 2755 4321\ng 755 4321\nh 2755 4321\n");
    sh(&dir, "cd $D/d && for f in p q; do echo > $f && chown 54321:4321 $f && chmod 2755 $f; done");
    as_user("--clear-groups", "setfacl -m u::rwx,g::rwx,o::rwx $D/d/p");
    as_user("--groups 4321", "setfacl -m u::rwx,g::rwx,o::rwx $D/d/q");
    assert_eq!(sh(&dir, "stat -c %a $D/d/p $D/d/q"), "777\n2777\n");
    // And goes, as setuid does, with a change of owner or of content by somebody else.
    sh(&dir, "cd $D/d && cp f x && chmod 6755 x && chown 0:0 x");
    assert_eq!(sh(&dir, "stat -c %a $D/d/x"), "755\n");
}

#[test]
fn what_the_protocol_or_the_binding_lacks_is_refused_or_left_out_as_documented() {
    let stone = Stone::new();
    let dir = File::open(stone.path("")).unwrap();
    let nameless = rustix::fs::openat(&dir, ".", OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(nameless.err(), Some(rustix::io::Errno::OPNOTSUPP));
    // The library's way round it works.
    tempfile::tempfile_in(stone.path("")).unwrap().write_all(b"x").unwrap();
    fs::write(stone.path("f"), "x").unwrap();
    let statx = rustix::fs::statx(CWD, stone.path("f"), AtFlags::empty(), StatxFlags::ALL).unwrap();
    assert_eq!(statx.stx_mask & StatxFlags::BTIME.bits(), 0);
    assert_eq!(statx.stx_mask & StatxFlags::BASIC_STATS.bits(), StatxFlags::BASIC_STATS.bits());
    rustix::fs::syncfs(&dir).unwrap();
    // Direct reads and writes of any alignment.
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(stone.path("f")).unwrap();
    direct.write_all_at(b"direct", 1).unwrap();
    let mut text = [0; 7];
    direct.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"xdirect");
    assert_eq!(fs::read(stone.path("f")).unwrap(), b"xdirect");
}

#[test]
fn a_running_program_is_neither_written_nor_truncated() {
    let stone = Stone::new();
    let program = stone.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let whole = fs::read(&program).unwrap();
    let mut running = Command::new(&program).arg("600").spawn().unwrap();
    let kinds = [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC, OFlags::WRONLY | OFlags::TRUNC];
    for flags in kinds {
        let opened = rustix::fs::open(&program, flags, Mode::empty());
        assert_eq!(opened.err(), Some(rustix::io::Errno::TXTBSY), "{flags:?}");
    }
    assert!(fs::read(&program).unwrap() == whole, "it is what it was");
    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();
    // Its file is closed when it has ended, not when somebody heard of that.
    eventually("nobody runs it", || rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC, Mode::empty()).is_ok());
    assert_eq!(fs::metadata(&program).unwrap().len(), 0);
}
