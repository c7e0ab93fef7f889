//! A record of a million files and more than a million events by 100,000 processes: how large it is, and how long the
//! questions of `docs/QUERIES.md` take on it, asked as the daemon asks them.
//!
//! `record FILE [FILES [PROCESSES]]` makes the database where it is missing, and prints a table. `scripts/record-scale`
//! runs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::tz::TimeZone;
use stonefs::audit::ProcessSink;
use stonefs::engine::{Engine, Options, RenameMode};
use stonefs::sql::{self, Asker, Format, Limits, Printer};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, ProcessRow, Store, TagRow, TxnKind};
use stonefs::types::{BranchId, Caller, Clock, FixedClock, Ino, ProcId, SetAttr, Timestamp, View};
use stonefs::version::txn::{self, BeginOptions, CommitOptions};

const MAIN: View = View { branch: BranchId::MAIN, at: stonefs::types::At::Live };
const SECOND: i64 = 1_000_000_000;
/// 2026-11-20T00:00:00Z.
const START: i64 = 1_795_132_800 * SECOND;
const PROGRAMS: [&str; 12] =
    ["cc", "ld", "make", "git", "rsync", "tar", "cp", "python3", "node", "sh", "dpkg", "rustc"];

struct World {
    engine: Arc<Engine>,
    clock: Arc<FixedClock>,
    caller: Caller,
    processes: u64,
    parent: Option<ProcId>,
}

impl World {
    fn open(path: &Path, now: i64) -> World {
        let clock = Arc::new(FixedClock::new(Timestamp(now)));
        let store = SqliteStore::open(path).unwrap();
        let engine = Engine::open(Arc::new(store), clock.clone(), Options::default()).unwrap();
        World { engine, clock, caller: Caller::default(), processes: 0, parent: None }
    }

    /// Another process acts from now on; every twentieth is the parent of those that follow.
    fn next_process(&mut self, program: &str, label: Option<&str>) {
        self.processes += 1;
        let id = self.engine.next_process_id();
        let pid = 1000 + (self.processes % 4_000_000) as u32;
        let row = ProcessRow {
            id,
            boot_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            host: "builder".to_owned(),
            pid,
            ppid: pid.saturating_sub(1),
            start_ticks: self.processes * 7,
            parent: self.parent,
            uid: 1000,
            gid: 1000,
            comm: program.into(),
            exe: Some(format!("/usr/bin/{program}").into_bytes()),
            argv: Some(
                format!("{program}\0-o\0build/object-{}.o\0src/part-{}.c\0", self.processes, self.processes).into(),
            ),
            cwd: Some(b"/home/me/project".to_vec()),
            session: 900,
            cgroup: Some(b"/user.slice/user-1000.slice/session-3.scope".to_vec()),
            started: self.clock.now(),
            ended: Some(self.clock.now()),
            exit_status: Some(0),
            label: label.map(str::to_owned),
            complete: true,
            ..ProcessRow::default()
        };
        ProcessSink::record_process(&*self.engine, row);
        if self.processes.is_multiple_of(20) {
            // Twelve generations, then a new session.
            self.parent = (!self.processes.is_multiple_of(240)).then_some(id);
        }
        self.caller = Caller { uid: 1000, gid: 1000, pid, process: id };
    }

    fn mkdir(&self, dir: Ino, name: &str) -> Ino {
        self.engine.mkdir(MAIN, dir, name.as_bytes(), 0o755, 0, &self.caller).unwrap().ino
    }

    fn create(&self, dir: Ino, name: &str, content: &[u8]) -> Ino {
        let (attr, handle) =
            self.engine.create(MAIN, dir, name.as_bytes(), 0o644, 0, libc::O_WRONLY, &self.caller).unwrap();
        if !content.is_empty() {
            self.engine.write(handle, 0, content, false, &self.caller).unwrap();
        }
        self.engine.release(handle).unwrap();
        attr.ino
    }

    fn rewrite(&self, ino: Ino, content: &[u8]) {
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let handle = self.engine.open_file(MAIN, ino, flags, &self.caller).unwrap();
        self.engine.write(handle, 0, content, false, &self.caller).unwrap();
        self.engine.release(handle).unwrap();
    }

    fn chmod(&self, ino: Ino, perm: u16) {
        let set = SetAttr { perm: Some(perm), ..SetAttr::default() };
        self.engine.setattr(MAIN, ino, &set, None, &self.caller).unwrap();
    }

    fn tag(&self, name: &[u8]) {
        let row = TagRow {
            name: name.to_vec(),
            branch: BranchId::MAIN,
            seq: self.engine.point().0,
            time: self.clock.now(),
            uid: 0,
            message: String::new(),
        };
        self.engine.set_tag(name, Some(row), &self.caller).unwrap();
    }
}

/// Fills a new database; what the questions ask for happens in the last ten minutes.
fn fill(path: &Path, files: u64, processes: u64) {
    let init = InitOptions { now: Timestamp(START), uid: 1000, gid: 1000, settings: Vec::new() };
    SqliteStore::create(path, &init).unwrap().close().unwrap();
    let mut world = World::open(path, START);
    world.next_process("bash", None);
    let (etc, src, bin, data) = (
        world.mkdir(Ino::ROOT, "etc"),
        world.mkdir(Ino::ROOT, "src"),
        world.mkdir(Ino::ROOT, "bin"),
        world.mkdir(Ino::ROOT, "data"),
    );
    let passwd = world.create(etc, "passwd", b"root\n");
    let main = world.create(src, "main.rs", b"fn main() {}\n");
    let copy = world.create(src, "copy.rs", b"fn main() {}\n");
    assert!(copy.0 > 0);
    let tool = world.create(bin, "tool", b"#!\n");
    world.chmod(tool, 0o755);
    for number in 0..200 {
        world.create(src, &format!("part-{number}.rs"), format!("// part {}\n", number / 2).as_bytes());
    }
    // The bulk: directories of 500 files, over twelve days.
    let each = files.div_ceil(processes.max(1)).max(1);
    let step = 12 * 86_400 * SECOND / files as i64;
    let mut dir = data;
    for number in 0..files {
        if number.is_multiple_of(50_000) {
            let top = world.mkdir(data, &format!("area-{}", number / 50_000));
            dir = world.mkdir(top, "0");
            assert!(top.0 > 0);
        }
        if number.is_multiple_of(500) {
            dir = world.mkdir(data, &format!("dir-{}", number / 500));
        }
        if number.is_multiple_of(each) {
            world.next_process(PROGRAMS[(world.processes % 12) as usize], None);
        }
        world.clock.advance(step);
        let name = format!("file-{number}.dat");
        let content =
            if number.is_multiple_of(4) { format!("content {}", number / 3).into_bytes() } else { Vec::new() };
        let ino = world.create(dir, &name, &content);
        if number % 20 == 7 {
            world.rewrite(ino, b"rewritten\n");
        }
        if number % 50 == 9 {
            let new = format!("renamed-{number}.dat");
            world
                .engine
                .rename(MAIN, dir, name.as_bytes(), dir, new.as_bytes(), RenameMode::Replace, &world.caller)
                .unwrap();
        } else if number % 50 == 11 {
            world.engine.unlink(MAIN, dir, name.as_bytes(), &world.caller).unwrap();
        } else if number % 100 == 13 {
            world.chmod(ino, 0o600);
        }
    }
    world.tag(b"v1");
    let side = world.engine.fork(Some(b"side"), MAIN, &world.caller).unwrap();
    world.engine.mkdir(View::live(side.id), src, b"only-here", 0o700, 0, &world.caller).unwrap();
    world.next_process("vi", None);
    world.clock.advance(300 * SECOND);
    world.rewrite(main, b"fn main() { run() }\n");
    world.rewrite(passwd, b"root\nalice\n");
    world.rewrite(tool, b"#!/bin/sh\n");
    let su = world.create(bin, "su", b"s\n");
    world.chmod(su, 0o4755);
    world.clock.advance(60 * SECOND);
    world.next_process("agent", Some("robot"));
    let options = BeginOptions {
        target: BranchId::MAIN,
        kind: TxnKind::Run,
        serializable: false,
        message: String::new(),
        label: "robot".to_owned(),
    };
    let begun = txn::begin(&world.engine, &options, &world.caller).unwrap();
    let view = View::live(begun.branch);
    for number in 0..100 {
        let name = format!("fixed-{number}.rs");
        let (_, handle) =
            world.engine.create(view, src, name.as_bytes(), 0o644, 0, libc::O_WRONLY, &world.caller).unwrap();
        world.engine.write(handle, 0, b"fn main() {}\n", false, &world.caller).unwrap();
        world.engine.release(handle).unwrap();
    }
    txn::commit(&world.engine, begun.id, &CommitOptions::default(), &world.caller).unwrap();
    world.engine.close().unwrap();
}

/// The page's questions: number, title, query.
fn questions() -> Vec<(String, String, String)> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/QUERIES.md")).unwrap();
    let mut found = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let Some((number, rest)) = section.split_once(". ") else { continue };
        let title = rest.lines().next().unwrap().to_owned();
        let Some(query) = rest.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()) else { continue };
        found.push((number.to_owned(), title, query.to_owned()));
    }
    found
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = arguments.next().map(PathBuf::from) else {
        println!("use: record FILE [FILES [PROCESSES]]");
        return;
    };
    let mut number = |usual: u64| arguments.next().map_or(usual, |text| text.parse().unwrap());
    let (files, processes) = (number(1_000_000), number(100_000));
    if !path.exists() {
        let began = Instant::now();
        fill(&path, files, processes);
        println!("made in {:.1} s", began.elapsed().as_secs_f64());
    }
    let end = START + 12 * 86_400 * SECOND + 500 * SECOND;
    let world = World::open(&path, end);
    let asker = Asker { branch: BranchId::MAIN, zone: TimeZone::UTC, now: Timestamp(end), at: None };
    let ask = |query: &str| {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, Format::Csv);
        sql::query(&world.engine, &asker, query, Limits::default(), &mut printer).unwrap();
        let rows = printer.finish().unwrap();
        (rows, String::from_utf8_lossy(&out).lines().nth(1).unwrap_or_default().to_owned())
    };
    for (what, query) in [
        ("files", "SELECT count(*) FROM files"),
        ("events", "SELECT count(*) FROM events"),
        ("processes", "SELECT count(*) FROM processes"),
    ] {
        let began = Instant::now();
        println!("{} {what} (counted in {:.0} ms)", ask(query).1, began.elapsed().as_secs_f64() * 1e3);
    }
    println!("{} bytes", std::fs::metadata(&path).unwrap().len());
    println!("\n| question | rows | first, ms | median of 5, ms |\n|---|---|---|---|");
    let more = [
        ("", "one file by its path", "SELECT size FROM files WHERE path = '/data/dir-1000/file-500001.dat'"),
        ("", "a prefix of the tree", "SELECT count(*) FROM files WHERE path GLOB '/data/dir-1000/*'"),
        ("", "an inode", "SELECT path FROM files WHERE inode = 400000"),
        ("", "what happened below a directory", "SELECT count(*) FROM events WHERE path GLOB '/data/dir-1000/*'"),
        ("", "what happened to a path", "SELECT op FROM events WHERE path = '/data/dir-1000/file-500001.dat'"),
        (
            "",
            "an hour five days ago",
            "SELECT count(*) FROM events WHERE time >= '2026-11-27T10' AND time < '2026-11-27T11'",
        ),
    ];
    let more = more.map(|(number, title, query)| (number.to_owned(), title.to_owned(), query.to_owned()));
    for (number, title, query) in questions().into_iter().chain(more) {
        let mut times = Vec::new();
        let mut rows = 0;
        for _ in 0..6 {
            let began = Instant::now();
            rows = ask(&query).0;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        let title = if number.is_empty() { title } else { format!("{number}. {title}") };
        println!("| {title} | {rows} | {first:.1} | {:.1} |", times[2]);
    }
}
