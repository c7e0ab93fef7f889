//! The exact requests that common system calls cost, so that no change adds a round trip unnoticed.
//!
//! One test in a program of its own: the log of the binding that it listens to is the process's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use stonefs::engine::{Engine, Options};
use stonefs::fuse::{MountOptions, mount};
use stonefs::store::InitOptions;
use stonefs::store::sqlite::SqliteStore;
use stonefs::types::{BranchId, Clock, SystemClock};
use stonefs::vfs::{SessionOptions, Vfs};

/// Collects the names of requests as the binding logs them.
struct Requests(Mutex<Vec<String>>);

static REQUESTS: Requests = Requests(Mutex::new(Vec::new()));

impl log::Log for Requests {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "fuser::request"
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if !self.enabled(record.metadata()) || !line.starts_with("FUSE(") {
            return;
        }
        let op = line.split(" ino ").nth(1).and_then(|rest| rest.split_whitespace().nth(1)).unwrap_or_default();
        // Sent whenever the kernel likes.
        if !matches!(op, "FORGET" | "BATCHFORGET" | "RELEASE" | "RELEASEDIR") {
            self.0.lock().unwrap().push(op.trim_end_matches(',').to_owned());
        }
    }

    fn flush(&self) {}
}

/// The requests that an action costs.
fn cost(action: impl FnOnce()) -> String {
    REQUESTS.0.lock().unwrap().clear();
    action();
    REQUESTS.0.lock().unwrap().join(" ")
}

fn stat(path: &Path) {
    let _ = fs::symlink_metadata(path);
}

#[test]
fn common_calls_cost_no_more_requests_than_the_protocol_needs() {
    log::set_logger(&REQUESTS).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let scratch = tempfile::Builder::new().prefix("stone-requests-").tempdir().unwrap();
    let db = scratch.path().join("db.stone");
    let init = InitOptions { now: SystemClock.now(), uid: 0, gid: 0, settings: Vec::new() };
    drop(SqliteStore::create(&db, &init).unwrap());
    let store = Arc::new(SqliteStore::open(&db).unwrap());
    let engine = Engine::open(store, Arc::new(SystemClock), Options::default()).unwrap();
    let vfs = Vfs::new(engine.clone(), Arc::new(SystemClock), None).unwrap();
    let dir = scratch.path().join("mnt");
    fs::create_dir(&dir).unwrap();
    let mount = mount(&vfs, &dir, &MountOptions::new(SessionOptions::live(BranchId::MAIN), &db)).unwrap();
    let p = |name: &str| dir.join(name);
    stat(&dir);

    // The first close of all asks once whether closing needs a request.
    fs::write(p("first"), "x").unwrap();
    let mut table = Vec::new();
    let mut row = |name: &'static str, action: &mut dyn FnMut()| table.push(format!("{name}: {}", cost(action)));

    row("create, write, close", &mut || fs::write(p("a"), "x").unwrap());
    row("stat after a write", &mut || stat(&p("a")));
    row("stat", &mut || stat(&p("a")));
    row("open, read, close", &mut || drop(fs::read(p("a")).unwrap()));
    row("open, read, close again", &mut || drop(fs::read(p("a")).unwrap()));
    row("open, read, close a third time", &mut || drop(fs::read(p("a")).unwrap()));
    row("append", &mut || File::options().append(true).open(p("a")).unwrap().write_all(b"y").unwrap());
    row("a missing name", &mut || stat(&p("none")));
    row("a missing name again", &mut || stat(&p("none")));
    row("mkdir", &mut || fs::create_dir(p("d")).unwrap());
    row("rename", &mut || fs::rename(p("a"), p("d/a")).unwrap());
    row("stat after a rename", &mut || stat(&p("d/a")));
    row("chmod", &mut || fs::set_permissions(p("d/a"), fs::Permissions::from_mode(0o600)).unwrap());
    row("list", &mut || assert_eq!(fs::read_dir(p("d")).unwrap().count(), 1));
    row("list again", &mut || assert_eq!(fs::read_dir(p("d")).unwrap().count(), 1));
    row("list a third time", &mut || assert_eq!(fs::read_dir(p("d")).unwrap().count(), 1));
    row("symlink", &mut || std::os::unix::fs::symlink("a", p("d/s")).unwrap());
    row("readlink", &mut || drop(fs::read_link(p("d/s")).unwrap()));
    row("readlink again", &mut || drop(fs::read_link(p("d/s")).unwrap()));
    row("link", &mut || fs::hard_link(p("d/a"), p("d/b")).unwrap());
    row("unlink", &mut || fs::remove_file(p("d/a")).unwrap());
    row("truncate", &mut || drop(File::options().write(true).truncate(true).open(p("d/b")).unwrap()));
    row("fsync", &mut || File::open(p("d/b")).unwrap().sync_all().unwrap());
    let table = table.join("\n");
    mount.unmount().unwrap();
    engine.close().unwrap();

    // A directory's GETATTR after a change in it is the kernel's: it forgets everything about the directory, its
    // mode too. A file's after a first read is for the access time. GETXATTR asks for security.capability.
    let expected = "\
create, write, close: GETATTR LOOKUP CREATE GETXATTR WRITE
stat after a write: GETATTR GETATTR
stat:·
open, read, close: OPEN READ
open, read, close again: OPEN GETATTR
open, read, close a third time: OPEN
append: OPEN GETXATTR WRITE
a missing name: LOOKUP
a missing name again:·
mkdir: LOOKUP MKDIR
rename: GETATTR LOOKUP RENAME
stat after a rename: GETATTR GETATTR GETATTR
chmod: SETATTR
list: OPENDIR READDIRPLUS READDIR
list again: OPENDIR GETATTR
list a third time: OPENDIR
symlink: LOOKUP SYMLINK
readlink: GETATTR READLINK
readlink again:·
link: LOOKUP LINK
unlink: GETATTR UNLINK
truncate: GETATTR OPEN GETXATTR
fsync: OPEN FSYNC";
    assert_eq!(table, expected.replace('·', " "), "\n{table}\n");
}
