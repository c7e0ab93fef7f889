//! Damaged databases: flipped bits, torn, swapped and emptied pages, truncated files, and rows that
//! say something else. Whatever is in the file, nothing panics, hangs or takes memory without
//! bound, and what is served as right is right.
//!
//! Each batch runs in a process of its own, with a limit on its memory and on its time.
//! `STONE_DAMAGE_CASES=N` tries more of them, `STONE_DAMAGE_SEED=N` others.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use stonefs::audit;
use stonefs::engine::{Engine, Options};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{EventFilter, InitOptions, Prune, Store};
use stonefs::types::{Caller, FixedClock, Ino, Kind, Seq, View};
use stonefs::version::{branch, history};

use crate::world::{MAIN, START, World};

/// Cases of one process.
const BATCH: u64 = 40;
/// The most processor time of a process, in seconds: what goes round for ever ends there.
const BATCH_CPU: u64 = 120;
/// The longest that a process may take that waits for something, on a machine that is busy.
const BATCH_TIME: Duration = Duration::from_secs(1200);
/// The most address space of a process: a dozen connections map the small database, nothing is large.
const MEMORY: u64 = 4 << 30;
/// Directories deeper than any that was made are a circle.
const DEPTH: usize = 64;

/// SplitMix64: one seed, one case.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A small history with something in every table: branches, a tag, a merge, transactions, deltas, links.
fn sound(path: &Path, compressed: bool) {
    let settings = if compressed { vec![("compression".to_owned(), b"zstd".to_vec())] } else { Vec::new() };
    let init = InitOptions { now: START, uid: 0, gid: 0, settings };
    let store = SqliteStore::create(path, &init).unwrap();
    let w = World::over(Arc::new(store), Options::default());
    let text = |n: usize| format!("line {n} of a text that is longer than a row\n").repeat(600 + n);
    for dir in ["a", "a/b", "a/b/c"] {
        w.mkdir(MAIN, dir).unwrap();
    }
    for n in 0..6 {
        w.write(MAIN, &format!("a/f{n}"), &format!("small {n}")).unwrap();
        w.write(MAIN, &format!("a/b/g{n}"), &text(n)).unwrap();
    }
    w.symlink(MAIN, "../f0", "a/b/link").unwrap();
    w.link(MAIN, "a/f1", "a/b/c/hard").unwrap();
    w.setxattr(MAIN, "a/f2", "user.mime", "text/plain").unwrap();
    for n in 0..8 {
        w.write(MAIN, "a/b/g0", &(text(0) + &n.to_string())).unwrap();
        w.engine.sync().unwrap();
    }
    let side = w.branch("side", MAIN);
    w.write(side, "a/f3", "from the side").unwrap();
    w.rm(side, "a/f4").unwrap();
    w.rename(side, "a/b/g1", "a/g1").unwrap();
    w.write(MAIN, "a/f5", "meanwhile").unwrap();
    branch::tag(&w.engine, b"v1", MAIN, "first", w.engine.point().1, &w.caller).unwrap();
    let (row, view) = w.begin();
    w.write(view, "a/in-transaction", "private").unwrap();
    w.commits(&row);
    w.begin();
    let deep = w.branch("deep", side);
    w.chmod(deep, "a/f0", 0o600).unwrap();
    w.rm(MAIN, "a/f2").unwrap();
    w.engine.close().unwrap();
    w.engine.store().close().unwrap();
}

/// What every view shows: path to kind, size and content, or the error that it says.
type Seen = BTreeMap<String, String>;

/// Looks at everything that can be looked at. Returns what the live tree of `main` shows.
fn look(store: Arc<dyn Store>) -> Option<(Seen, bool)> {
    let findings = store.check().ok();
    let clock = Arc::new(FixedClock::new(START));
    let Ok(engine) = Engine::open(store.clone(), clock, Options::default()) else { return None };
    let read = store.read().ok()?;
    let proof = audit::verify(read.as_ref()).ok();
    let _ = read.events(&EventFilter { limit: Some(1000), ..EventFilter::default() });
    let _ = (read.orphans(), read.processes(stonefs::types::ProcId(0)..stonefs::types::ProcId(100)));
    drop(read);
    let mut seen = Seen::new();
    let main = walk(&engine, MAIN, &mut seen);
    let mut other = Seen::new();
    for row in engine.branches().into_iter().take(20) {
        walk(&engine, View::live(row.id), &mut other);
        for seq in [1, 10, 25, 40, 1000] {
            walk(&engine, View::as_of(row.id, Seq(seq)), &mut other);
        }
    }
    let _ = history::log(&engine, MAIN, &history::LogOptions::default());
    for path in ["/a/f3", "/a/b/g0"] {
        let _ = history::history(&engine, MAIN, path.as_bytes());
        let _ = history::blame(&engine, MAIN, path.as_bytes());
    }
    let clean = main && findings.is_some_and(|found| found.is_empty()) && proof.is_some_and(|p| p.findings.is_empty());
    // Writing into the damage may be refused, and must not do harm to the process.
    let caller = Caller::default();
    let _ = engine.mkdir(MAIN, Ino::ROOT, b"new", 0o755, 0, &caller);
    let _ = engine.unlink(MAIN, Ino(2), b"f0", &caller);
    let _ = engine.sync();
    let _ = store.prune(&Prune { before: Seq(30), pins: Vec::new(), dry_run: true });
    let _ = store.prune(&Prune { before: Seq(30), pins: Vec::new(), dry_run: false });
    let _ = store.release(16);
    let _ = store.checkpoint();
    let _ = store.space();
    let _ = engine.close();
    let _ = store.close();
    Some((seen, clean))
}

/// Reads a whole view; `false` where anything was an error.
fn walk(engine: &Engine, view: View, seen: &mut Seen) -> bool {
    let mut whole = true;
    let mut rest = vec![(Ino::ROOT, String::new(), 0)];
    while let Some((dir, path, depth)) = rest.pop() {
        if depth > DEPTH || seen.len() > 5000 {
            return false;
        }
        let Ok(list) = engine.list(view, dir) else {
            whole = false;
            continue;
        };
        for entry in list.iter() {
            let path = format!("{path}/{}", String::from_utf8_lossy(entry.name.as_bytes()));
            let Ok(attr) = engine.getattr(view, entry.ino) else {
                whole = false;
                continue;
            };
            let what = match attr.kind {
                Kind::File => engine.read_at(view, entry.ino, 0, 1 << 20).map(|bytes| blake3::hash(&bytes).to_string()),
                Kind::Symlink => engine.readlink(view, entry.ino).map(|target| format!("{target:?}")),
                Kind::Dir => {
                    rest.push((entry.ino, path.clone(), depth + 1));
                    Ok(String::new())
                }
                _ => Ok(String::new()),
            };
            whole &= what.is_ok() && engine.listxattr(view, entry.ino).is_ok();
            let _ = engine.path(view, entry.ino);
            let _ = engine.read_at(view, entry.ino, attr.size.saturating_sub(4096), 8192);
            let shape = format!("{} {:o} {} {}", attr.kind.as_str(), attr.perm, attr.size, attr.nlink);
            seen.insert(path, format!("{shape} {}", what.unwrap_or_else(|error| error.to_string())));
        }
    }
    whole
}

const PAGE: usize = 32768;

/// Damages a file's bytes.
fn damage_bytes(random: &mut Random, bytes: &mut Vec<u8>) -> String {
    let pages = bytes.len() / PAGE;
    match random.below(7) {
        0 => {
            let count = 1 + random.below(8);
            for _ in 0..count {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            format!("{count} bits")
        }
        1 => {
            // where rows and the headers of pages are
            let at = random.below(pages) * PAGE + random.below(200);
            bytes[at] = random.next() as u8;
            format!("byte {at}")
        }
        2 => {
            let length = random.below(bytes.len());
            bytes.truncate(length);
            format!("cut to {length}")
        }
        3 => {
            let (a, b) = (random.below(pages), random.below(pages));
            let page = bytes[a * PAGE..(a + 1) * PAGE].to_vec();
            bytes.copy_within(b * PAGE..(b + 1) * PAGE, a * PAGE);
            bytes[b * PAGE..(b + 1) * PAGE].copy_from_slice(&page);
            format!("pages {a} and {b} swapped")
        }
        4 => {
            let a = random.below(pages);
            let from = random.below(PAGE);
            bytes[a * PAGE + from..(a + 1) * PAGE].fill(0);
            format!("page {a} zero from {from}")
        }
        5 => {
            let (a, b) = (random.below(pages), random.below(pages));
            bytes.copy_within(b * PAGE..(b + 1) * PAGE, a * PAGE);
            format!("page {a} as {b}")
        }
        _ => {
            let (at, length) = (random.below(bytes.len()), 1 + random.below(600));
            for byte in bytes.iter_mut().skip(at).take(length) {
                *byte = random.next() as u8;
            }
            format!("{length} bytes of noise at {at}")
        }
    }
}

/// Lets rows say something else, in a file that is sound for SQLite.
fn damage_rows(random: &mut Random, path: &Path) -> String {
    let conn = rusqlite::Connection::open(path).unwrap();
    let tables: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite%' ORDER BY name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let mut told = Vec::new();
    for _ in 0..1 + random.below(3) {
        let table = &tables[random.below(tables.len())];
        let columns: Vec<(String, bool)> = conn
            .prepare(&format!("PRAGMA table_info(\"{table}\")"))
            .unwrap()
            .query_map([], |row| Ok((row.get(1)?, row.get::<_, i64>(5)? > 0)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let count = conn.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get::<_, i64>(0));
        let count = count.unwrap() as usize;
        if count == 0 {
            continue;
        }
        let keys: Vec<String> = columns.iter().filter(|c| c.1).map(|c| format!("\"{}\"", c.0)).collect();
        let column = &columns[random.below(columns.len())].0;
        let here = format!(
            "({}) = (SELECT {} FROM \"{table}\" LIMIT 1 OFFSET {})",
            keys.join(","),
            keys.join(","),
            random.below(count)
        );
        let value = match random.below(10) {
            0 => Value::Null,
            1 => Value::Integer(i64::MAX),
            2 => Value::Integer(-1),
            3 => Value::Integer(i64::MIN),
            4 => Value::Integer(0),
            5 | 6 => Value::Integer(random.below(60) as i64),
            7 => Value::Blob((0..random.below(300)).map(|_| random.next() as u8).collect()),
            8 => Value::Blob(b"../x\0/".to_vec()),
            _ => Value::Integer(random.next() as i64),
        };
        let gone = random.below(8) == 0;
        let sql = if gone {
            format!("DELETE FROM \"{table}\" WHERE {here}")
        } else {
            format!("UPDATE OR IGNORE \"{table}\" SET \"{column}\"=?1 WHERE {here}")
        };
        told.push(format!("{table}.{column} {value:?}{}", if gone { " row gone" } else { "" }));
        let _ = if gone { conn.execute(&sql, []) } else { conn.execute(&sql, [value]) };
    }
    told.join(", ")
}

/// One damaged database, from its seed. Returns what is wrong with what came of it.
fn case(seed: u64, sound: &[Vec<u8>], truth: &[Seen], dir: &Path) -> Option<String> {
    let mut random = Random(seed);
    let which = random.below(sound.len());
    let path = dir.join("case.stone");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    let mut bytes = sound[which].clone();
    let told = if random.below(2) == 0 {
        std::fs::write(&path, &bytes).unwrap();
        damage_rows(&mut random, &path)
    } else {
        let told = damage_bytes(&mut random, &mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        told
    };
    println!("case {seed}: {told}");
    if let Some(wrong) = mend(seed, &path, &told) {
        return Some(wrong);
    }
    let looked = catch_unwind(AssertUnwindSafe(|| look(Arc::new(SqliteStore::open(&path).ok()?))));
    match looked {
        Err(_) => Some(format!("{seed}: panicked ({told})")),
        Ok(None) => None,
        Ok(Some((seen, true))) if seen != truth[which] => {
            let wrong: Vec<_> = seen.iter().filter(|(path, what)| truth[which].get(*path) != Some(what)).collect();
            Some(format!("{seed}: found sound, and wrong ({told}): {wrong:?}"))
        }
        Ok(Some(_)) => None,
    }
}

/// Repairs a copy: what is said to be mended is sound, and can be worked on.
fn mend(seed: u64, damaged: &Path, told: &str) -> Option<String> {
    let path = damaged.with_file_name("mended.stone");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    std::fs::copy(damaged, &path).unwrap();
    let mended = catch_unwind(AssertUnwindSafe(|| {
        let store = Arc::new(SqliteStore::open(&path).ok()?);
        let found = store.check().unwrap_or_else(|error| vec![error.to_string()]);
        let done = store.repair();
        let left = store.check().unwrap_or_else(|error| vec![error.to_string()]);
        if done.is_ok() && left.is_empty() {
            if found.is_empty() != done.as_ref().is_ok_and(|lines| lines.is_empty()) {
                return Some(format!("found {found:?}, did {done:?}"));
            }
            let clock = Arc::new(FixedClock::new(START));
            let engine = match Engine::open(store.clone(), clock, Options::default()) {
                Ok(engine) => engine,
                Err(error) => return Some(format!("mended, and does not open: {error}")),
            };
            walk(&engine, MAIN, &mut Seen::new());
            let caller = Caller::default();
            let made = engine.mkdir(MAIN, Ino::ROOT, b"after", 0o755, 0, &caller).and_then(|_| engine.sync());
            if let Err(error) = made {
                return Some(format!("mended by {done:?}, and takes no changes: {error}"));
            }
            let again = store.check().unwrap_or_else(|error| vec![error.to_string()]);
            if !again.is_empty() {
                return Some(format!("mended by {done:?}, and then {again:?}"));
            }
            let _ = engine.close();
        } else if done.is_ok() {
            println!("case {seed}: not mended: {left:?}");
        }
        let _ = store.close();
        None
    }));
    match mended {
        Ok(wrong) => wrong.map(|wrong| format!("{seed}: {wrong} ({told})")),
        Err(_) => Some(format!("{seed}: panicked while it was mended ({told})")),
    }
}

fn batch(first: u64, count: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, mut truth) = (Vec::new(), Vec::new());
    for compressed in [false, true] {
        let path = dir.path().join(format!("{compressed}.stone"));
        sound(&path, compressed);
        bytes.push(std::fs::read(&path).unwrap());
        let (seen, clean) = look(Arc::new(SqliteStore::open(&path).unwrap())).unwrap();
        assert!(clean && seen.len() > 15, "the sound one is not");
        truth.push(seen);
    }
    let wrong: Vec<String> = (first..first + count).filter_map(|seed| case(seed, &bytes, &truth, dir.path())).collect();
    for line in &wrong {
        println!("WRONG {line}");
    }
    assert!(wrong.is_empty(), "{} of {count} cases", wrong.len());
}

/// The process that `nothing_in_a_file_does_harm` starts.
#[test]
fn batch_of_damage() {
    let Ok(first) = std::env::var("STONE_DAMAGE_BATCH") else { return };
    let limit = rustix::process::Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
    let limit = rustix::process::Rlimit { current: Some(BATCH_CPU), maximum: Some(BATCH_CPU) };
    rustix::process::setrlimit(rustix::process::Resource::Cpu, limit).unwrap();
    let count = number("STONE_DAMAGE_COUNT").unwrap_or(BATCH);
    batch(first.parse().unwrap(), count);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_in_a_file_does_harm() {
    let cases = number("STONE_DAMAGE_CASES").unwrap_or(2 * BATCH);
    let seed = number("STONE_DAMAGE_SEED").unwrap_or(1);
    let mut wrong = Vec::new();
    for first in (seed..seed + cases).step_by(BATCH as usize) {
        let output = tempfile::NamedTempFile::new().unwrap();
        let file = |stdio: &tempfile::NamedTempFile| Stdio::from(stdio.reopen().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "damage::batch_of_damage", "--nocapture", "--test-threads=1"])
            .env("STONE_DAMAGE_BATCH", first.to_string())
            .stdin(Stdio::null())
            .stdout(file(&output))
            .stderr(Stdio::from(std::fs::OpenOptions::new().append(true).open(output.path()).unwrap()))
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if start.elapsed() > BATCH_TIME => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if !status.is_some_and(|status| status.success()) {
            let text = std::fs::read(output.path()).unwrap();
            let text = String::from_utf8_lossy(&text);
            let how = status.map_or_else(|| "hung".to_owned(), |status| status.to_string());
            let told: Vec<&str> =
                text.lines().filter(|line| line.starts_with("WRONG") || line.contains("panicked")).collect();
            let last = text.lines().rfind(|line| line.contains("case ")).unwrap_or_default();
            wrong.push(format!("from {first}: {how}; last was {last}\n{}", told.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
