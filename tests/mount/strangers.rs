//! What another user can learn and do: nothing that the files' owners did not allow.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use stonefs::fuse::MountOptions;
use stonefs::store::TxnKind;
use stonefs::types::{BranchId, View};
use stonefs::version::txn::{self, BeginOptions};
use stonefs::vfs::SessionOptions;

use crate::harness::{STRANGER, Stone, may, me, run, sh};
use crate::program::World;

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// pub/ (0755) with open (0644) and closed (0600); secret/ (0700) with f (0644).
fn tree(root: &Path) {
    for (dir, mode) in [("pub", 0o755), ("secret", 0o700)] {
        fs::create_dir(root.join(dir)).unwrap();
        chmod(root.join(dir), mode);
    }
    for (file, mode) in [("pub/open", 0o644), ("pub/closed", 0o600), ("secret/f", 0o644)] {
        fs::write(root.join(file), "content").unwrap();
        chmod(root.join(file), mode);
    }
}

/// What a script says as a stranger.
fn says(dir: &Path, script: &str) -> String {
    let output = run(dir, script, Some(STRANGER));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_stranger_reads_changes_and_learns_nothing_closed_through_any_view() {
    let stone = Stone::shared();
    tree(&stone.path(""));
    stone.fork("x");
    let point = stone.point();
    let views = [String::new(), format!(".history/{point}/"), ".branches/x/".to_owned(), ".branches/main/".to_owned()];
    for view in views {
        let dir = stone.path(&view);
        // Known to the kernel, so that it is not the daemon alone that refuses.
        assert_eq!(sh(&dir, "cat $D/pub/closed $D/secret/f $D/pub/open; ls $D/secret"), "contentcontentcontentf\n");
        assert!(may(&dir, STRANGER, "test \"$(cat $D/pub/open)\" = content && ls $D/pub"), "{view}");
        for closed in
            ["cat $D/pub/closed", "cat $D/secret/f", "ls $D/secret", "stat $D/secret/f", "getfattr -d $D/secret/f"]
        {
            assert!(!may(&dir, STRANGER, closed), "{view}: {closed}");
        }
        for change in [
            "echo x >> $D/pub/open",
            "touch $D/pub/new",
            "mkdir $D/pub/new",
            "rm -f $D/pub/open",
            "mv $D/pub/open $D/pub/moved",
            "ln $D/pub/open $D/pub/link",
            "ln -s x $D/pub/link",
            "chmod 777 $D/pub/open",
            "chown $(id -u) $D/pub/open",
            "truncate -s 0 $D/pub/open",
            "setfattr -n user.x -v y $D/pub/open",
            "touch -d 2001-01-01 $D/pub/open",
            "rmdir $D/pub",
        ] {
            assert!(!may(&dir, STRANGER, change), "{view}: {change}");
        }
        // Whether a name exists in a closed directory is not told.
        for name in ["f", "none"] {
            let said = says(&dir, &format!("stat $D/secret/{name}"));
            assert!(said.contains("Permission denied"), "{view}: {said}");
        }
        assert_eq!(sh(&dir, "cat $D/pub/open; ls $D/pub"), "contentclosed\nopen\n");
    }
    assert!(!may(&stone.path(""), STRANGER, "mkdir $D/.branches/mine"));
    assert!(!may(&stone.path(""), STRANGER, "rmdir $D/.branches/x"));
}

#[test]
fn a_transaction_is_its_owners_and_roots() {
    let stone = Stone::shared();
    tree(&stone.path(""));
    let begin = |uid: u32| {
        let options = BeginOptions {
            target: BranchId::MAIN,
            kind: TxnKind::Begin,
            serializable: false,
            message: String::new(),
            label: String::new(),
        };
        let caller = stonefs::types::Caller { uid, gid: uid, ..me() };
        txn::begin(&stone.engine, &options, &caller).unwrap().id
    };
    let (roots, theirs) = (begin(0), begin(STRANGER));
    let root = stone.path("");
    fs::write(stone.path(&format!(".tx/{roots}/pub/open")), "in the transaction").unwrap();
    fs::write(stone.path(&format!(".tx/{roots}/pub/new")), "").unwrap();
    assert_eq!(sh(&root, &format!("cat $D/.tx/{roots}/pub/open")), "in the transaction");
    for closed in ["cat $D/.tx/ID/pub/open", "ls $D/.tx/ID", "ls $D/.tx/ID/pub", "stat $D/.tx/ID/pub/new"] {
        assert!(!may(&root, STRANGER, &closed.replace("ID", &roots.to_string())), "{closed}");
    }
    assert!(!says(&root, "ls $D/.tx").lines().any(|line| line == roots.to_string()));
    assert!(says(&root, "ls $D/.tx").lines().any(|line| line == theirs.to_string()));
    assert!(may(&root, STRANGER, &format!("cat $D/.tx/{theirs}/pub/open")));
    assert!(!may(&root, STRANGER, &format!("cat $D/.tx/{theirs}/pub/closed")));
    assert!(!may(&root, STRANGER + 1, &format!("ls $D/.tx/{theirs}")));
}

#[test]
fn what_a_transaction_closed_is_closed_in_the_past_from_its_commit_on() {
    let world = World::mounted("allow_other");
    tree(&world.m(""));
    let point = world.stone(&["--mount", "m", "sync"]);
    let past = format!("m/.history/{}/pub/open", point.trim());
    let reads = || world.as_user(STRANGER, &format!("cat $D/{past}")).status.success();
    assert!(reads());
    world.in_m(&["run", "--", "chmod", "700", "pub"]);
    assert!(!reads());
    world.in_m(&["undo"]);
    assert!(reads());
    world.in_m(&["run", "--", "chmod", "600", "pub/open"]);
    assert!(!reads());
}

#[test]
fn a_mount_of_the_past_is_guarded_by_the_present() {
    let mut stone = Stone::shared();
    tree(&stone.path(""));
    let seq = stone.engine.seal(None).unwrap();
    stone.engine.flush(seq).unwrap();
    let old = stone.mount_again("old", |options| MountOptions {
        session: SessionOptions { root: View::as_of(BranchId::MAIN, seq), ..options.session.clone() },
        allow_other: true,
        ..options
    });
    let reads = || may(&old, STRANGER, "cat $D/pub/open");
    assert!(reads());
    chmod(stone.path("pub"), 0o700);
    stone.settle();
    assert!(!reads());
    chmod(stone.path("pub"), 0o755);
    stone.settle();
    assert!(reads());
}

#[test]
fn conflicts_are_shown_to_the_owner_of_the_merge_only() {
    let world = World::mounted("allow_other");
    tree(&world.m(""));
    world.in_m(&["branch", "x"]);
    fs::write(world.m("pub/open"), "ours").unwrap();
    fs::write(world.m(".branches/x/pub/open"), "theirs").unwrap();
    let merge = world.try_stone_in("m", &["merge", "x"]);
    assert_eq!(merge.status.code(), Some(3), "{merge:?}");
    let id = fs::read_dir(world.m(".tx")).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let dir = format!(".tx/{id}/.conflicts/pub/open");
    for (side, text) in [("base", "content"), ("ours", "ours"), ("theirs", "theirs")] {
        assert_eq!(fs::read_to_string(world.m(&dir).join(side)).unwrap(), text);
        assert!(!world.as_user(STRANGER, &format!("cat $D/m/{dir}/{side}")).status.success());
    }
    assert!(!world.as_user(STRANGER, &format!("ls $D/m/{dir}")).status.success());
    assert!(!world.as_user(STRANGER, &format!("ls $D/m/.tx/{id}/.conflicts")).status.success());
}

#[test]
fn database_log_and_socket_are_the_owners_and_every_command_is_refused() {
    let world = World::mounted("allow_other");
    tree(&world.m(""));
    world.stone(&["--mount", "m", "backup", "copy.stone"]);
    for name in ["db.stone", "db.stone-wal", "db.stone-shm", "copy.stone"] {
        if let Ok(meta) = fs::metadata(world.path(name)) {
            assert_eq!(meta.mode() & 0o7777, 0o600, "{name}");
        }
        assert!(!world.as_user(STRANGER, &format!("cat $D/{name}")).status.success());
    }
    assert!(world.path("db.stone-wal").exists());
    let daemon = world.daemon("m");
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{daemon}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let socket = sockets
        .lines()
        .filter(|line| inodes.iter().any(|inode| line.split_whitespace().nth(6) == Some(inode)))
        .find_map(|line| line.split_whitespace().nth(7))
        .expect("the daemon listens somewhere");
    let connect = format!(
        "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{socket}'); print('in')\" 2>&1"
    );
    let said = world.as_user(STRANGER, &connect);
    assert!(String::from_utf8_lossy(&said.stdout).contains("Permission"), "{said:?}");
    for command in [
        "status",
        "sql 'SELECT path FROM files'",
        "log",
        "diff",
        "branch",
        "branch mine",
        "begin",
        "tag mine",
        "undo",
        "ps",
        "audit",
        "sync",
        "show e5",
        "history pub/open",
        "backup $D/stolen.stone",
        "run -- cat secret/f",
        "shell -c 'cat secret/f'",
    ] {
        // The second time whoever reaches the socket is refused for who he is.
        for mode in [0o600, 0o666] {
            chmod(socket, mode);
            for target in ["--mount $D/m", "--db $D/db.stone"] {
                let output = world.as_user(STRANGER, &format!("cd /; stone {target} {command}"));
                let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                assert!(!output.status.success(), "{target} {command}: {said}");
                assert!(!said.contains("/pub") && !said.contains("/secret") && !said.contains("content"), "{said}");
                let told = said.contains("needs a mount") || said.contains("only the database's owner and root");
                assert!(mode == 0o600 || told, "{command}: {said}");
            }
        }
    }
    assert!(!world.as_user(STRANGER, "stone umount $D/m").status.success());
    assert!(
        !world
            .as_user(
                STRANGER,
                "mkdir /tmp/stone-s$$; stone mount $D/db.stone /tmp/stone-s$$; r=$?; rmdir /tmp/stone-s$$; exit $r"
            )
            .status
            .success()
    );
    assert_eq!(fs::read_to_string(world.m("pub/open")).unwrap(), "content");
}

#[test]
fn setuid_programs_and_device_nodes_follow_the_mounts_options() {
    for (options, effective, opens) in [("allow_other", "0", true), ("allow_other,nosuid,nodev", "54321", false)] {
        let world = World::mounted(options);
        sh(&world.m(""), "cp \"$(command -v id)\" $D/id && chmod 4755 $D/id && mknod -m 666 $D/null c 1 3");
        let id = world.as_user(STRANGER, "$D/m/id -u");
        assert_eq!(String::from_utf8_lossy(&id.stdout).trim(), effective, "{options}: {id:?}");
        assert_eq!(world.as_user(STRANGER, "echo x > $D/m/null").status.success(), opens, "{options}");
        // The view of a transaction, which stands over the mount, gives no more.
        let path = world.m("id").to_string_lossy().into_owned();
        let uid = STRANGER.to_string();
        let inside = world.try_stone_in(
            "m",
            &["run", "--", "setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", &path, "-u"],
        );
        assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), effective, "{options}: {inside:?}");
        let inside = world.try_stone_in("m", &["run", "--", "sh", "-c", "echo x > null"]);
        assert_eq!(inside.status.success(), opens, "{options}: {inside:?}");
    }
}

#[test]
fn nothing_leads_out_of_a_transactions_view() {
    let world = World::mounted("allow_other");
    let m = world.m("");
    fs::create_dir_all(m.join("d/e")).unwrap();
    fs::write(m.join("f"), "old").unwrap();
    for dir in ["bound", "below"] {
        fs::create_dir(world.path(dir)).unwrap();
    }
    sh(&world.path(""), "mount --bind $D/m $D/bound && mount --bind $D/m/d $D/below");
    std::os::unix::fs::symlink(m.join("f"), world.path("outside")).unwrap();
    std::os::unix::fs::symlink(m.join("f"), m.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../f", m.join("d/e/relative")).unwrap();
    let script = "
        set -e
        echo 1 > $D/outside; echo 2 >> $D/m/absolute; echo 3 >> relative; echo 4 >> ../../f
        cd ..; echo 5 >> ../f; cd ..; echo 6 >> f
        echo 7 >> $D/bound/f; echo 8 > $D/below/new; echo 9 >> /proc/self/cwd/f; echo 10 >> $D/m/../m/f
        echo 11 >> /proc/$$/root/$D/m/f; cd $D/below; echo 12 >> new
        cat $D/m/f $D/m/d/new
        exit 7";
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stone"))
        .args(["run", "--", "sh", "-c", script])
        .current_dir(m.join("d/e"))
        .env("D", world.path(""))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n3\n4\n5\n6\n7\n9\n10\n11\n8\n12\n");
    let after = sh(&world.path(""), "cat $D/m/f $D/bound/f; cd $D && ls m/d below");
    sh(&world.path(""), "umount $D/bound $D/below");
    assert_eq!(after, "oldoldbelow:\ne\n\nm/d:\ne\n");
}
