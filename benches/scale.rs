//! How rates change with size, through the engine: files and events, one directory with all of them, one file with many
//! versions, many branches, a long chain of them. One JSON object a line.
//!
//! `cargo bench --bench scale -- DIRECTORY [FILES [ENTRIES [VERSIONS [BRANCHES [CHAIN]]]]]`; `scripts/scale` runs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use stonefs::engine::{Engine, Options};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Store, TxnKind};
use stonefs::types::{BranchId, Caller, Clock, Ino, Seq, SystemClock, View};
use stonefs::version::txn::{self, BeginOptions, CommitOptions};

const MAIN: View = View { branch: BranchId::MAIN, at: stonefs::types::At::Live };
/// Files in a directory of the tree.
const PER_DIR: u64 = 200;
/// Things that are asked for at random.
const ASKED: u64 = 2000;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % limit.max(1)
    }
}

/// Resident memory in MiB, now and at most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        found.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (line("VmRSS:"), line("VmHWM:"))
}

fn tell(what: &str, size: u64, mut figures: Value) {
    let (resident, most) = memory();
    figures["what"] = json!(what);
    figures["size"] = json!(size);
    figures["resident_mib"] = json!(resident);
    figures["most_mib"] = json!(most);
    println!("{figures}");
}

/// Runs work on so many things; microseconds for each.
fn each<T>(count: u64, mut work: impl FnMut(u64) -> T) -> f64 {
    let start = Instant::now();
    for number in 0..count {
        std::hint::black_box(work(number));
    }
    round(start.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn ms(start: Instant) -> f64 {
    round(start.elapsed().as_secs_f64() * 1e3)
}

struct World {
    engine: Arc<Engine>,
    caller: Caller,
    path: PathBuf,
}

impl World {
    fn create(path: &Path) -> World {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        let init = InitOptions { now: SystemClock.now(), uid: 0, gid: 0, settings: Vec::new() };
        SqliteStore::create(path, &init).unwrap().close().unwrap();
        World::open(path)
    }

    fn open(path: &Path) -> World {
        let store = SqliteStore::open(path).unwrap();
        let engine = Engine::open(Arc::new(store), Arc::new(SystemClock), Options::default()).unwrap();
        World { engine, caller: Caller::default(), path: path.to_owned() }
    }

    fn close(self) {
        self.engine.close().unwrap();
        self.engine.store().close().unwrap();
    }

    /// Closes and opens; milliseconds of the opening.
    fn reopen(self) -> (World, f64) {
        let path = self.path.clone();
        self.close();
        let start = Instant::now();
        let world = World::open(&path);
        let took = ms(start);
        (world, took)
    }

    fn file(&self, view: View, dir: Ino, name: &str, content: &[u8]) -> Ino {
        let (attr, handle) =
            self.engine.create(view, dir, name.as_bytes(), 0o644, 0, libc::O_WRONLY, &self.caller).unwrap();
        self.engine.write(handle, 0, content, false, &self.caller).unwrap();
        self.engine.release(handle).unwrap();
        attr.ino
    }

    fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.engine.mkdir(MAIN, parent, name.as_bytes(), 0o755, 0, &self.caller).unwrap().ino
    }

    /// A transaction that changes so many files.
    fn transaction(&self, changes: u64) {
        let options = BeginOptions {
            target: BranchId::MAIN,
            kind: TxnKind::Begin,
            serializable: false,
            message: String::new(),
            label: String::new(),
        };
        let row = txn::begin(&self.engine, &options, &self.caller).unwrap();
        for number in 0..changes {
            self.file(txn::view(&row), Ino::ROOT, &format!("of-{}-{number}", row.id), b"in a transaction");
        }
        txn::commit(&self.engine, row.id, &CommitOptions::default(), &self.caller).unwrap();
    }
}

fn size(world: &World) -> u64 {
    world.engine.sync().unwrap();
    std::fs::metadata(&world.path).map_or(0, |meta| meta.len())
}

/// A tree of directories of 200 files; figures at every power of ten and at the end.
fn files(dir: &Path, total: u64) {
    let mut world = World::create(&dir.join("files.stone"));
    let mut random = Random(1);
    let (mut made, mut next) = (0, 10_000.min(total));
    let mut dirs = Vec::new();
    while made < total {
        let (start, from) = (Instant::now(), made);
        let mut parent = Ino::ROOT;
        while made < next {
            if made % PER_DIR == 0 {
                // 100 directories at the top, the rest below them
                let top = dirs.len() as u64;
                parent = if top < 100 { Ino::ROOT } else { dirs[(top % 100) as usize] };
                parent = world.dir(parent, &format!("dir{top}"));
                dirs.push(parent);
            }
            world.file(MAIN, parent, &format!("file{made}"), format!("the content of file {made}").as_bytes());
            made += 1;
        }
        world.engine.sync().unwrap();
        let create = round(start.elapsed().as_secs_f64() * 1e6 / (made - from) as f64);
        let middle = world.engine.point().0.0 / 2;
        let (again, open) = world.reopen();
        world = again;
        let mut paths = Vec::new();
        for _ in 0..ASKED {
            let number = random.below(made);
            let top = number / PER_DIR;
            paths.push(if top < 100 {
                format!("/dir{top}/file{number}")
            } else {
                format!("/dir{}/dir{top}/file{number}", top % 100)
            });
        }
        let lookup = each(ASKED, |n| world.engine.resolve(MAIN, paths[n as usize].as_bytes()).unwrap());
        let past = View::as_of(MAIN.branch, Seq(middle));
        let as_of = each(ASKED, |n| world.engine.resolve(past, paths[n as usize].as_bytes()));
        let list = each(200, |_| {
            let dir = dirs[random.below(dirs.len() as u64) as usize];
            world.engine.list(MAIN, dir).unwrap();
        });
        let branch = each(20, |n| {
            let name = format!("b{made}-{n}");
            world.engine.fork(Some(name.as_bytes()), MAIN, &world.caller).unwrap();
        });
        let on_branch = {
            let view = View::live(world.engine.branch_named(format!("b{made}-0").as_bytes()).unwrap().id);
            each(ASKED, |n| world.engine.resolve(view, paths[n as usize].as_bytes()).unwrap())
        };
        let commit = each(10, |_| world.transaction(100)) / 1000.0;
        let sync = each(20, |n| {
            world.file(MAIN, Ino::ROOT, &format!("sync{made}-{n}"), b"durable");
            world.engine.sync().unwrap();
        });
        tell(
            "files",
            made,
            json!({
                "create_us": create, "open_ms": open, "lookup_us": lookup, "as_of_us": as_of, "list_200_us": list,
                "branch_us": branch, "lookup_on_branch_us": on_branch, "commit_100_ms": round(commit),
                "create_and_sync_us": sync, "database_bytes": size(&world),
            }),
        );
        next = (next * 10).min(total);
    }
    let start = Instant::now();
    assert!(world.engine.store().check().unwrap().is_empty());
    tell("check", made, json!({ "check_ms": ms(start), "us_per_file": round(ms(start) * 1e3 / made as f64) }));
    world.close();
}

fn directory(dir: &Path, total: u64) {
    let world = World::create(&dir.join("directory.stone"));
    let mut random = Random(2);
    let parent = world.dir(Ino::ROOT, "all");
    let create = each(total, |n| world.file(MAIN, parent, &format!("entry{n}"), b""));
    world.engine.sync().unwrap();
    let (world, open) = world.reopen();
    let lookup = each(ASKED, |_| {
        world.engine.lookup(MAIN, parent, format!("entry{}", random.below(total)).as_bytes()).unwrap();
    });
    let start = Instant::now();
    assert_eq!(world.engine.list(MAIN, parent).unwrap().len() as u64, total);
    let list = ms(start);
    let more = each(1000, |n| world.file(MAIN, parent, &format!("more{n}"), b""));
    let remove = each(1000, |n| {
        world.engine.unlink(MAIN, parent, format!("entry{n}").as_bytes(), &world.caller).unwrap();
    });
    tell(
        "directory",
        total,
        json!({ "create_us": create, "open_ms": open, "lookup_us": lookup, "list_ms": list, "create_then_us": more,
                "unlink_us": remove, "database_bytes": size(&world) }),
    );
    world.close();
}

fn versions(dir: &Path, total: u64) {
    let world = World::create(&dir.join("versions.stone"));
    let mut random = Random(3);
    let ino = world.file(MAIN, Ino::ROOT, "often", b"0");
    let write = each(total, |n| {
        let handle = world.engine.open_file(MAIN, ino, libc::O_WRONLY | libc::O_TRUNC, &world.caller).unwrap();
        world.engine.write(handle, 0, n.to_string().as_bytes(), false, &world.caller).unwrap();
        world.engine.release(handle).unwrap();
    });
    let last = world.engine.sync().unwrap();
    let (world, open) = world.reopen();
    let read = each(ASKED, |_| world.engine.read_at(MAIN, ino, 0, 100).unwrap());
    let as_of = each(200, |_| {
        let view = View::as_of(MAIN.branch, Seq(last.0 - random.below(last.0 / 2)));
        world.engine.read_at(view, ino, 0, 100).unwrap();
    });
    let start = Instant::now();
    let lineage = world.engine.lineage(MAIN).unwrap();
    let found = world.engine.store().read().unwrap().versions(&lineage, ino).unwrap().len();
    let all = ms(start);
    tell(
        "versions",
        total,
        json!({ "write_us": write, "open_ms": open, "read_us": read, "as_of_us": as_of, "list_all_ms": all,
                "versions": found, "database_bytes": size(&world) }),
    );
    world.close();
}

fn branches(dir: &Path, total: u64, chain: u64) {
    let world = World::create(&dir.join("branches.stone"));
    let mut random = Random(4);
    for n in 0..1000 {
        world.file(MAIN, Ino::ROOT, &format!("f{n}"), b"on main");
    }
    let fork = each(total, |n| {
        let row = world.engine.fork(Some(format!("b{n}").as_bytes()), MAIN, &world.caller).unwrap();
        world.file(View::live(row.id), Ino::ROOT, "own", b"own");
    });
    let (world, open) = world.reopen();
    let lookup = |world: &World, random: &mut Random, view: View| {
        each(ASKED, |_| {
            let name = format!("f{}", random.below(1000));
            world.engine.lookup(view, Ino::ROOT, name.as_bytes()).unwrap();
        })
    };
    let view = View::live(world.engine.branch_named(format!("b{}", total - 1).as_bytes()).unwrap().id);
    let on_branch = lookup(&world, &mut random, view);
    let on_main = lookup(&world, &mut random, MAIN);
    tell(
        "branches",
        total,
        json!({ "fork_and_write_us": fork, "open_ms": open, "lookup_us": on_branch, "lookup_on_main_us": on_main,
                "database_bytes": size(&world) }),
    );
    let mut view = MAIN;
    let fork = each(chain, |n| {
        let row = world.engine.fork(Some(format!("c{n}").as_bytes()), view, &world.caller).unwrap();
        view = View::live(row.id);
        world.file(view, Ino::ROOT, &format!("own{n}"), b"own");
    });
    let (world, open) = world.reopen();
    let deep = lookup(&world, &mut random, view);
    let start = Instant::now();
    let listed = world.engine.list(view, Ino::ROOT).unwrap().len();
    tell(
        "chain",
        chain,
        json!({ "fork_and_write_us": fork, "open_ms": open, "lookup_us": deep, "list_ms": ms(start), "listed": listed }),
    );
    world.close();
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "/tmp".to_owned()));
    let mut number = |default: u64| args.next().map_or(default, |text| text.parse().unwrap());
    let (total, entries, many) = (number(100_000), number(100_000), number(10_000));
    let (forks, chain) = (number(1000), number(100));
    files(&dir, total);
    directory(&dir, entries);
    versions(&dir, many);
    branches(&dir, forks, chain);
}
