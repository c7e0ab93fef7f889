//! The record: the chain of digests, what an altered database shows, and SQL over all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use rusqlite::Connection;
use stonefs::audit::{self, ProcessSink, Proof};
use stonefs::engine::{Engine, EventDraft, Options, RenameMode, XattrMode};
use stonefs::sql::{self, Asker, Format, Limits, Printer};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{EventRow, InitOptions, ProcessRow, Prune, Store, TagRow};
use stonefs::types::{BranchId, Caller, FixedClock, Ino, Op, ProcId, Seq, SetAttr, Timestamp, View};

pub const MAIN: View = View { branch: BranchId::MAIN, at: stonefs::types::At::Live };
pub const START: i64 = 1_795_340_400_000_000_000; // 2026-11-22T09:40:00Z
pub const SECOND: i64 = 1_000_000_000;

pub struct World {
    dir: tempfile::TempDir,
    pub clock: Arc<FixedClock>,
    /// `None` while the database is closed.
    open: Option<Arc<Engine>>,
    pub caller: Caller,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp(START);
        let options = InitOptions { now, uid: 0, gid: 0, settings: Vec::new() };
        SqliteStore::create(&dir.path().join("t.stone"), &options).unwrap().close().unwrap();
        let clock = Arc::new(FixedClock::new(now));
        let engine = open(&dir.path().join("t.stone"), &clock);
        World { dir, clock, open: Some(engine), caller: Caller::default() }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.open.as_ref().unwrap()
    }

    /// Closes the database, so that others can open it.
    pub fn close(&mut self) -> PathBuf {
        self.open.take().unwrap().close().unwrap();
        self.path()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("t.stone")
    }

    pub fn tick(&self) {
        self.clock.advance(SECOND);
    }

    /// Makes a process entity act from now on.
    pub fn act_as(&mut self, pid: u32, comm: &str, argv: &[u8]) -> u64 {
        self.act_as_child(pid, comm, argv, 0, None)
    }

    /// The same, started by another process, perhaps with a label.
    pub fn act_as_child(&mut self, pid: u32, comm: &str, argv: &[u8], parent: u64, label: Option<&str>) -> u64 {
        let id = self.engine().next_process_id();
        let row = ProcessRow {
            id,
            pid,
            comm: comm.into(),
            argv: Some(argv.to_vec()),
            exe: Some(format!("/usr/bin/{comm}").into_bytes()),
            complete: true,
            parent: (parent > 0).then_some(ProcId(parent)),
            label: label.map(str::to_owned),
            started: Timestamp(START),
            ..ProcessRow::default()
        };
        ProcessSink::record_process(&**self.engine(), row);
        self.caller = Caller { uid: 1000, gid: 1000, pid, process: id };
        id.0
    }

    pub fn dir(&self, path: &str) -> Ino {
        self.engine().resolve(MAIN, path.as_bytes()).unwrap().ino
    }

    pub fn split<'p>(&self, path: &'p str) -> (Ino, &'p [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap();
        (if dir.is_empty() { Ino::ROOT } else { self.dir(dir) }, name.as_bytes())
    }

    pub fn mkdir(&self, path: &str) {
        self.tick();
        let (dir, name) = self.split(path);
        self.engine().mkdir(MAIN, dir, name, 0o755, 0, &self.caller).unwrap();
    }

    pub fn write(&self, path: &str, content: &[u8]) {
        self.tick();
        let (dir, name) = self.split(path);
        let handle = match self.engine().lookup(MAIN, dir, name) {
            Ok(attr) => self.engine().open_file(MAIN, attr.ino, libc::O_WRONLY | libc::O_TRUNC, &self.caller).unwrap(),
            Err(_) => self.engine().create(MAIN, dir, name, 0o644, 0, libc::O_WRONLY, &self.caller).unwrap().1,
        };
        self.engine().write(handle, 0, content, false, &self.caller).unwrap();
        self.engine().release(handle).unwrap();
    }

    pub fn unlink(&self, path: &str) {
        self.tick();
        let (dir, name) = self.split(path);
        self.engine().unlink(MAIN, dir, name, &self.caller).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        self.tick();
        let ((dir, name), (dir2, name2)) = (self.split(from), self.split(to));
        self.engine().rename(MAIN, dir, name, dir2, name2, RenameMode::Replace, &self.caller).unwrap();
    }

    pub fn chmod(&self, path: &str, perm: u16) {
        self.tick();
        let set = SetAttr { perm: Some(perm), ..SetAttr::default() };
        self.engine().setattr(MAIN, self.dir(path), &set, None, &self.caller).unwrap();
    }

    /// Notes that removing a directory was refused.
    pub fn refused(&self, path: &str, result: i32) {
        let (parent, name) = self.split(path);
        self.engine().record_failure(EventRow {
            seq: Seq::ZERO,
            time: Timestamp(0),
            raw_time: Timestamp(0),
            branch: BranchId::MAIN,
            txn: None,
            op: Op::Rmdir,
            ino: None,
            parent: Some(parent),
            name: Some(name.to_vec()),
            parent2: None,
            name2: None,
            path: Some(path.as_bytes().into()),
            path2: None,
            ino2: None,
            offset: None,
            length: None,
            old: None,
            new: None,
            result,
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: self.caller.pid,
            process: self.caller.process,
        });
    }

    pub fn reopen(&mut self) {
        let path = self.close();
        self.open = Some(open(&path, &self.clock));
    }

    pub fn proof(&self) -> Proof {
        self.engine().sync().unwrap();
        let read = self.engine().store().read().unwrap();
        audit::verify(read.as_ref()).unwrap()
    }

    pub fn tag(&self, name: &str) {
        let tag = TagRow {
            name: name.into(),
            branch: BranchId::MAIN,
            seq: self.engine().point().0,
            time: Timestamp(START),
            uid: 0,
            message: String::new(),
        };
        self.engine().set_tag(name.as_bytes(), Some(tag), &self.caller).unwrap();
    }

    pub fn sql_at(&self, at: Option<&str>, query: &str) -> Result<String, String> {
        self.sql_when(START + 3600 * SECOND, at, query)
    }

    /// Asks at an instant.
    pub fn sql_when(&self, now: i64, at: Option<&str>, query: &str) -> Result<String, String> {
        self.sql_within(Limits { time_ms: 5000, ..Limits::default() }, now, at, query)
    }

    /// Asks within limits.
    pub fn sql_within(&self, limits: Limits, now: i64, at: Option<&str>, query: &str) -> Result<String, String> {
        let asker = Asker {
            branch: BranchId::MAIN,
            zone: TimeZone::UTC,
            now: Timestamp(now),
            at: at.map(|at| at.as_bytes().to_vec()),
        };
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, Format::Csv);
        sql::query(self.engine(), &asker, query, limits, &mut printer)?;
        printer.finish()?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The lines of an answer without its header.
    pub fn sql(&self, query: &str) -> Vec<String> {
        let answer = self.sql_at(None, query).unwrap_or_else(|error| panic!("{query}: {error}"));
        answer.lines().skip(1).map(str::to_owned).collect()
    }
}

fn open(path: &Path, clock: &Arc<FixedClock>) -> Arc<Engine> {
    let store = SqliteStore::open(path).unwrap();
    Engine::open(Arc::new(store), clock.clone(), Options::default()).unwrap()
}

/// A little of everything that is recorded.
fn eventful() -> World {
    let mut world = World::new();
    world.act_as(100, "cp", b"cp\0a\0b\0");
    world.mkdir("/etc");
    world.mkdir("/src");
    world.write("/etc/passwd", b"root\n");
    world.write("/src/big", &vec![7; 300_000]);
    world.write("/src/main.rs", b"fn main() {}\n");
    world.engine().sync().unwrap();
    world.act_as(200, "vi", b"vi\0main.rs\0");
    world.write("/src/main.rs", b"fn main() { run() }\n");
    world.write("/src/.tmp", b"saved by rename\n");
    world.rename("/src/.tmp", "/src/main.rs");
    world.chmod("/etc/passwd", 0o600);
    let passwd = world.dir("/etc/passwd");
    world.engine().setxattr(MAIN, passwd, b"user.note", b"keep", XattrMode::Set, &world.caller).unwrap();
    world.engine().setxattr(MAIN, passwd, b"user.gone", b"x", XattrMode::Set, &world.caller).unwrap();
    world.engine().removexattr(MAIN, passwd, b"user.gone", &world.caller).unwrap();
    let set = SetAttr { size: Some(140_000), ..SetAttr::default() };
    world.engine().setattr(MAIN, world.dir("/src/big"), &set, None, &world.caller).unwrap();
    world.engine().symlink(MAIN, world.dir("/src"), b"link", b"main.rs", &world.caller).unwrap();
    world.engine().link(MAIN, passwd, Ino::ROOT, b"hard", &world.caller).unwrap();
    world.write("/etc/lost", b"short-lived\n");
    world.unlink("/etc/lost");
    // Open without a name, written, then closed.
    world.write("/orphan", b"1");
    let orphan = world.dir("/orphan");
    let handle = world.engine().open_file(MAIN, orphan, libc::O_RDWR, &world.caller).unwrap();
    world.unlink("/orphan");
    world.engine().sync().unwrap();
    world.engine().write(handle, 0, b"22", false, &world.caller).unwrap();
    world.engine().fsync(handle).unwrap();
    world.engine().release(handle).unwrap();
    world.tag("v1");
    let side = world.engine().fork(Some(b"side"), MAIN, &world.caller).unwrap();
    let side = View::live(side.id);
    world.engine().unlink(side, world.dir("/src"), b"main.rs", &world.caller).unwrap();
    world.engine().mkdir(side, Ino::ROOT, b"only-here", 0o700, 0, &world.caller).unwrap();
    world.engine().sync().unwrap();
    world
}

#[test]
fn an_untouched_record_proves_sound_across_reopening() {
    let mut world = eventful();
    let proof = world.proof();
    assert_eq!(proof.findings, Vec::<String>::new());
    assert!(proof.links >= 3 && proof.events > 20 && proof.rows > 30 && proof.chunks > 0, "{proof:?}");
    let head = proof.head.unwrap();
    world.reopen();
    world.write("/etc/later", b"x");
    world.engine().sync().unwrap();
    assert_eq!(world.proof().findings, Vec::<String>::new());
    let read = world.engine().store().read().unwrap();
    assert_eq!(audit::find_head(read.as_ref(), &head).unwrap(), Some(proof.upto));
    assert_eq!(audit::find_head(read.as_ref(), &[1; 32]).unwrap(), None);
}

#[test]
fn whatever_is_altered_by_hand_is_found() {
    let mut world = eventful();
    let path = world.close();
    let alterations = [
        "UPDATE event SET uid = 0 WHERE seq = 4",
        "UPDATE event SET time = time + 1 WHERE seq = 5",
        "UPDATE event SET result = 13 WHERE seq = 3",
        "DELETE FROM event WHERE seq = 6",
        "INSERT INTO event SELECT seq + 1000, time + 1000000000000, raw_time, branch, txn, op, ino, parent, name, \
         parent2, name2, dir, leaf, dir2, leaf2, ino2, offset, length, old, new, result, uid, gid, pid, process \
         FROM event WHERE seq = 4",
        "UPDATE path SET path = CAST('/elsewhere' AS BLOB) WHERE path = CAST('/etc' AS BLOB)",
        "UPDATE entry SET ino = 3 WHERE name = CAST('passwd' AS BLOB)",
        "DELETE FROM entry WHERE name = CAST('main.rs' AS BLOB) AND ino IS NULL",
        "DELETE FROM entry WHERE name = CAST('lost' AS BLOB)",
        "UPDATE entry SET valid_to = valid_to + 1 WHERE name = CAST('lost' AS BLOB)",
        "UPDATE entry SET valid_to = 9223372036854775807 WHERE name = CAST('lost' AS BLOB)",
        "UPDATE inode SET perm = 511 WHERE size = 5",
        "UPDATE inode SET content = CAST('toor' AS BLOB) WHERE content = CAST('root' || char(10) AS BLOB)",
        "UPDATE inode SET mtime = mtime - 1 WHERE ino = 1 AND valid_from = (SELECT min(valid_from) FROM inode WHERE ino = 1)",
        "UPDATE inode SET process = process + 1 WHERE process IS NOT NULL AND nlink > 0",
        "UPDATE xattr SET value = CAST('lose' AS BLOB) WHERE name = CAST('user.note' AS BLOB)",
        "UPDATE xattr SET valid_to = 9223372036854775807 WHERE name = CAST('user.gone' AS BLOB)",
        "DELETE FROM xattr WHERE name = CAST('user.note' AS BLOB)",
        "UPDATE extent SET valid_to = valid_to - 1 WHERE valid_to < 9223372036854775807",
        "UPDATE extent SET idx = idx + 7 WHERE idx = 2",
        "UPDATE chunk SET data = zeroblob(length(data)), encoding = 0, size = length(data), base = NULL",
        "UPDATE chunk SET hash = zeroblob(32)",
        "UPDATE process SET comm = CAST('innocent' AS BLOB) WHERE pid = 200",
        "UPDATE process SET argv = NULL WHERE pid = 100",
        "DELETE FROM process WHERE pid = 200",
        "UPDATE branch SET base = base - 1 WHERE parent IS NOT NULL",
        "UPDATE tag SET seq = seq - 1",
        "DELETE FROM tag",
        "UPDATE digest SET digest = zeroblob(32) WHERE rowid = (SELECT min(rowid) FROM digest)",
        "UPDATE digest SET records = x'01' WHERE rowid = (SELECT max(rowid) FROM digest)",
        "DELETE FROM digest WHERE rowid = (SELECT min(rowid) + 1 FROM digest)",
    ];
    let mut missed = Vec::new();
    for alteration in alterations {
        let copy = path.with_file_name("altered.stone");
        std::fs::copy(&path, &copy).unwrap();
        let other = Connection::open(&copy).unwrap();
        let changed = other.execute(alteration, []).unwrap_or_else(|error| panic!("{alteration}: {error}"));
        assert!(changed > 0, "{alteration} changes nothing");
        other.close().unwrap();
        let store = SqliteStore::open(&copy).unwrap();
        let read = store.read().unwrap();
        match audit::verify(read.as_ref()) {
            Ok(proof) if proof.findings.is_empty() => missed.push(alteration),
            Ok(_) | Err(_) => {}
        }
        drop(read);
        drop(store);
        std::fs::remove_file(&copy).unwrap();
    }
    assert_eq!(missed, Vec::<&str>::new());
}

#[test]
fn the_first_place_that_does_not_fit_is_named() {
    let mut world = eventful();
    let path = world.close();
    let other = Connection::open(&path).unwrap();
    other.execute("UPDATE xattr SET value = x'00' WHERE name = CAST('user.note' AS BLOB)", []).unwrap();
    other.execute("UPDATE process SET comm = x'00' WHERE pid = 200", []).unwrap();
    other.close().unwrap();
    let store = SqliteStore::open(&path).unwrap();
    let proof = audit::verify(store.read().unwrap().as_ref()).unwrap();
    assert!(proof.findings[0].contains("process") || proof.findings[0].contains("user.note"), "{:?}", proof.findings);
    assert!(proof.findings.iter().any(|finding| finding.contains("pid 200")), "{:?}", proof.findings);
}

#[test]
fn a_path_an_inode_or_a_prefix_is_found_in_any_state() {
    let world = eventful();
    let ino = world.dir("/src/main.rs").0;
    assert_eq!(world.sql(&format!("SELECT path FROM files WHERE inode = {ino}")), ["/src/main.rs"]);
    assert_eq!(world.sql("SELECT size, type FROM files WHERE path = '/src/main.rs'"), ["16,file"]);
    assert_eq!(world.sql("SELECT path FROM files WHERE path GLOB '/etc/*' ORDER BY path"), ["/etc/passwd"]);
    assert_eq!(world.sql("SELECT count(*) FROM files"), ["8"]);
    assert_eq!(world.sql("SELECT target FROM files WHERE name = 'link'"), ["main.rs"]);
    assert_eq!(world.sql("SELECT trim(content('/src/main.rs'), char(10))"), ["saved by rename"]);
    assert_eq!(
        world.sql("SELECT trim(content_at('/src/main.rs', '2026-11-22T09:40:05.5Z'), char(10))"),
        ["fn main() {}"]
    );
    assert_eq!(world.sql(&format!("SELECT path({ino})")), ["/src/main.rs"]);
    let then = "SELECT count(*) FROM files FOR SYSTEM_TIME AS OF '2026-11-22T09:40:05.5Z' f WHERE f.type = 'file'";
    assert_eq!(world.sql(then), ["3"]);
    assert_eq!(
        world.sql_at(Some("side"), "SELECT path FROM files WHERE path GLOB '/only*'").unwrap(),
        "path\n/only-here\n"
    );
    assert_eq!(world.sql_at(Some("side"), "SELECT path FROM files WHERE path = '/src/main.rs'").unwrap(), "path\n");
    assert_eq!(world.sql("SELECT path FROM files WHERE path REGEXP '^/etc/p.*d$'"), ["/etc/passwd"]);
    let hash = blake3::hash(b"root\n").to_hex();
    assert_eq!(
        world.sql(&format!("SELECT path FROM files WHERE content_hash = '{hash}' ORDER BY path")),
        ["/etc/passwd", "/hard"]
    );
}

#[test]
fn versions_events_and_processes_answer_who_and_when() {
    let world = eventful();
    let versions =
        world.sql("SELECT size, valid_to IS NULL FROM versions WHERE path = '/src/main.rs' ORDER BY valid_from");
    assert_eq!(versions, ["0,0", "13,0", "20,0", "16,1"]);
    let who = "SELECT p.comm FROM versions v JOIN processes p ON p.id = v.process \
               WHERE v.path = '/src/main.rs' AND v.valid_to IS NULL";
    assert_eq!(world.sql(who), ["vi"]);
    let deleted = "SELECT e.path, p.argv FROM events e JOIN processes p ON p.id = e.process \
                   WHERE e.op = 'unlink' AND e.branch = 'main' ORDER BY e.seq";
    assert_eq!(world.sql(deleted), ["/etc/lost,vi main.rs", "/orphan,vi main.rs"]);
    assert_eq!(world.sql("SELECT seq FROM events ORDER BY seq DESC LIMIT 1"), [world.engine().point().0.0.to_string()]);
    let early = "SELECT count(*) FROM events WHERE time < instant('2026-11-22 09:40:04')";
    assert_eq!(world.sql(early), ["5"]);
    assert_eq!(world.sql("SELECT name, parent FROM branches ORDER BY id"), ["main,", "side,main"]);
    assert_eq!(world.sql("SELECT name FROM tags"), ["v1"]);
    assert_eq!(world.sql("SELECT count(*) FROM transactions"), ["0"]);
    assert_eq!(world.sql("SELECT count(*) FROM conflicts"), ["0"]);
}

#[test]
fn queries_only_read_and_only_so_long() {
    let world = eventful();
    let point = world.engine().point().0;
    for bad in [
        "DELETE FROM files",
        "INSERT INTO events DEFAULT VALUES",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "ATTACH '/tmp/x' AS x",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "SELECT load_extension('x')",
        "VACUUM INTO '/tmp/x'",
        "BEGIN",
        "UPDATE files SET uid = 0",
        "DROP TABLE files",
        "SELECT writefile('/tmp/x', 'y')",
        "SELECT length(zeroblob(200000000))",
        "SELECT * FROM inode",
        "SELECT * FROM files('no-such-ref')",
        "SELECT * FROM files('e999999')",
        "SELECT ?",
    ] {
        let error = world.sql_at(None, bad).expect_err(bad);
        assert!(!error.contains('\n') && !error.is_empty(), "{bad}: {error:?}");
    }
    let start = std::time::Instant::now();
    let forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    assert!(world.sql_at(None, forever).unwrap_err().contains("stopped after"));
    assert!(start.elapsed().as_secs() < 20);
    assert_eq!(world.engine().point().0, point);
}

#[test]
fn what_was_pruned_is_said_and_the_rest_still_proven() {
    let mut world = eventful();
    let before = world.engine().point().0;
    world.write("/etc/after", b"kept\n");
    world.engine().sync().unwrap();
    let request = Prune { before, pins: Vec::new(), dry_run: false };
    world.engine().store().prune(&request).unwrap();
    let proof = world.proof();
    assert!(proof.findings.iter().all(|finding| finding.contains("no event says so")), "{:?}", proof.findings);
    assert_eq!(proof.findings.len(), 1);
    let draft = EventDraft { op: Op::Prune, txn: None, old: None, new: Some(format!("e{before}").into_bytes()) };
    world.engine().record(BranchId::MAIN, draft, Vec::new(), &world.caller).unwrap();
    let proof = world.proof();
    assert_eq!(proof.findings, Vec::<String>::new());
    assert_eq!(proof.pruned_before, Some(before));
    let path = world.close();
    let other = Connection::open(&path).unwrap();
    let changed =
        other.execute("UPDATE inode SET content = x'00' WHERE content = CAST('kept' || char(10) AS BLOB)", []);
    assert_eq!(changed.unwrap(), 1);
    other.close().unwrap();
    let store = SqliteStore::open(&path).unwrap();
    assert_ne!(audit::verify(store.read().unwrap().as_ref()).unwrap().findings, Vec::<String>::new());
}

#[test]
fn a_query_may_use_so_much_temporary_disk_and_no_more() {
    let world = World::new();
    // 36 MB to be sorted: more than what is kept in memory for it.
    let sorts = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
         SELECT count(*) FROM (SELECT hex(zeroblob(300)) || i AS x FROM n ORDER BY x DESC LIMIT -1 OFFSET 1)";
    for _ in 0..2 {
        for (bytes, fits) in [(1 << 20, false), (1 << 30, true)] {
            let limits = Limits { temporary_max: bytes, ..Limits::default() };
            match world.sql_within(limits, 0, None, sorts) {
                Ok(answer) => assert!(fits && answer.lines().nth(1) == Some("59999"), "{answer}"),
                Err(error) => {
                    assert!(!fits && error.contains("more temporary disk") && error.contains("1 MiB"), "{error}")
                }
            }
        }
    }
}

#[test]
fn conditions_joined_by_or_give_what_each_gives_and_nothing_twice() {
    let world = eventful();
    let count = |table: &str, condition: &str| -> usize {
        world.sql(&format!("SELECT count(*) FROM {table} WHERE {condition}"))[0].parse().unwrap()
    };
    for (table, one, other) in [
        ("files", "path GLOB '/etc/*'", "path GLOB '/src/*'"),
        ("events", "path GLOB '/etc/*'", "path GLOB '/src/*'"),
        ("events", "seq < 5", "seq BETWEEN 4 AND 9"),
        ("events", "process = 1", "seq < 9"),
        ("versions", "inode = 2", "inode = 3"),
        ("versions", "inode = 2", "valid_from < 6"),
        ("processes", "id = 1", "comm = 'sh'"),
    ] {
        let (first, second) = (count(table, one), count(table, other));
        let both = count(table, &format!("({one}) AND ({other})"));
        assert_eq!(count(table, &format!("{one} OR {other}")), first + second - both, "{table}: {one} OR {other}");
    }
}
