//! Workloads in tight loops, so that the client costs little beside the file system.
//!
//! `workload NAME DIR [SCALE]` prepares what NAME needs in the empty directory DIR, runs it, and prints one JSON
//! object: operations and nanoseconds of the measured part. Names that end in `-cold` drop the kernel's caches
//! (as root) between the two. `workload --list` names them all. SCALE multiplies the sizes (default 1.0).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

const MIB: usize = 1 << 20;
const PER_DIR: usize = 100;

struct Run<'a> {
    dir: &'a Path,
    scale: f64,
}

struct Measured {
    ops: u64,
    ns: u128,
    bytes: u64,
}

type Workload = fn(&Run) -> Measured;

const WORKLOADS: &[(&str, Workload)] = &[
    ("create-1k", create),
    ("mkdir", mkdir),
    ("symlink", symlink),
    ("link", link),
    ("stat-warm", stat_warm),
    ("stat-cold", stat_cold),
    ("walk-warm", walk_warm),
    ("walk-cold", walk_cold),
    ("read-warm", read_warm),
    ("read-cold", read_cold),
    ("missing", missing),
    ("replace", replace),
    ("rename", rename),
    ("chmod", chmod),
    ("append-small", append_small),
    ("unlink", unlink),
    ("rmdir", rmdir),
    ("seq-write-128k", seq_write_128k),
    ("seq-write-4k", seq_write_4k),
    ("seq-read-warm", seq_read_warm),
    ("seq-read-cold", seq_read_cold),
    ("rand-read-warm", rand_read_warm),
    ("rand-read-cold", rand_read_cold),
    ("rand-write-4k", rand_write),
    ("mmap-read-cold", mmap_read_cold),
    ("mmap-write", mmap_write),
    ("append-fsync", append_fsync),
    ("create-fsync", create_fsync),
    ("sqlite-rollback", sqlite_rollback),
    ("sqlite-wal", sqlite_wal),
    ("sqlite-bulk", sqlite_bulk),
];

impl Run<'_> {
    fn count(&self, base: usize) -> usize {
        ((base as f64 * self.scale) as usize).max(PER_DIR)
    }

    fn mebibytes(&self, base: usize) -> usize {
        ((base as f64 * self.scale) as usize).max(16)
    }

    fn file(&self, i: usize) -> PathBuf {
        self.dir.join(format!("d{}/file-{i}", i / PER_DIR))
    }

    fn dirs(&self, files: usize) {
        for d in 0..files.div_ceil(PER_DIR) {
            fs::create_dir(self.dir.join(format!("d{d}"))).unwrap();
        }
    }

    /// Small files of 1 KiB, a hundred in a directory.
    fn small(&self, base: usize) -> Vec<PathBuf> {
        let count = self.count(base);
        self.dirs(count);
        let paths: Vec<PathBuf> = (0..count).map(|i| self.file(i)).collect();
        for (i, path) in paths.iter().enumerate() {
            fs::write(path, content(i, 1024)).unwrap();
        }
        paths
    }

    fn large(&self) -> (PathBuf, usize) {
        let path = self.dir.join("large");
        let size = self.mebibytes(256) * MIB;
        let mut file = File::create(&path).unwrap();
        let block = noise(MIB);
        for i in 0..size / MIB {
            let mut block = block.clone();
            block[..8].copy_from_slice(&(i as u64).to_le_bytes());
            file.write_all(&block).unwrap();
        }
        file.sync_all().unwrap();
        (path, size)
    }
}

/// Text that differs from file to file.
fn content(i: usize, length: usize) -> Vec<u8> {
    let line = format!("line of file {i}: the quick brown fox jumps over the lazy dog\n");
    line.bytes().cycle().take(length).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..length / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

fn cold() {
    // Not root: the kernel keeps its caches and the row is a warm one; the runner says so.
    rustix::fs::sync();
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

fn timed(ops: usize, bytes: usize, run: impl FnOnce()) -> Measured {
    let began = Instant::now();
    run();
    Measured { ops: ops as u64, ns: began.elapsed().as_nanos(), bytes: bytes as u64 }
}

fn create(run: &Run) -> Measured {
    let count = run.count(5000);
    run.dirs(count);
    let paths: Vec<PathBuf> = (0..count).map(|i| run.file(i)).collect();
    let bytes = content(0, 1024);
    timed(count, 0, || {
        for path in &paths {
            let mut file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
            file.write_all(&bytes).unwrap();
        }
    })
}

fn mkdir(run: &Run) -> Measured {
    let paths: Vec<PathBuf> = (0..run.count(5000)).map(|i| run.dir.join(format!("dir-{i}"))).collect();
    timed(paths.len(), 0, || paths.iter().for_each(|p| fs::create_dir(p).unwrap()))
}

fn symlink(run: &Run) -> Measured {
    let paths: Vec<PathBuf> = (0..run.count(5000)).map(|i| run.dir.join(format!("link-{i}"))).collect();
    timed(paths.len(), 0, || paths.iter().for_each(|p| std::os::unix::fs::symlink("target/of/link", p).unwrap()))
}

fn link(run: &Run) -> Measured {
    let paths = run.small(3000);
    let links: Vec<PathBuf> = paths.iter().map(|p| p.with_extension("hard")).collect();
    timed(paths.len(), 0, || paths.iter().zip(&links).for_each(|(p, l)| fs::hard_link(p, l).unwrap()))
}

fn stat_all(paths: &[PathBuf]) {
    for path in paths {
        fs::symlink_metadata(path).unwrap();
    }
}

fn stat_warm(run: &Run) -> Measured {
    let paths = run.small(5000);
    stat_all(&paths);
    timed(paths.len() * 4, 0, || (0..4).for_each(|_| stat_all(&paths)))
}

fn stat_cold(run: &Run) -> Measured {
    let paths = run.small(5000);
    cold();
    timed(paths.len(), 0, || stat_all(&paths))
}

fn walk(dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        count += 1;
        if entry.metadata().unwrap().is_dir() {
            count += walk(&entry.path());
        }
    }
    count
}

fn walk_warm(run: &Run) -> Measured {
    let paths = run.small(5000);
    walk(run.dir);
    timed(paths.len() * 4, 0, || (0..4).for_each(|_| assert!(walk(run.dir) >= paths.len())))
}

fn walk_cold(run: &Run) -> Measured {
    let paths = run.small(5000);
    cold();
    timed(paths.len(), 0, || assert!(walk(run.dir) >= paths.len()))
}

fn read_all(paths: &[PathBuf]) {
    let mut buffer = vec![0; 4096];
    for path in paths {
        let mut file = File::open(path).unwrap();
        assert_eq!(file.read(&mut buffer).unwrap(), 1024);
    }
}

fn read_warm(run: &Run) -> Measured {
    let paths = run.small(5000);
    read_all(&paths);
    timed(paths.len() * 4, 0, || (0..4).for_each(|_| read_all(&paths)))
}

fn read_cold(run: &Run) -> Measured {
    let paths = run.small(5000);
    cold();
    timed(paths.len(), 0, || read_all(&paths))
}

/// What a compiler does with its include path: the same absent names again and again.
fn missing(run: &Run) -> Measured {
    let paths: Vec<PathBuf> = (0..run.count(500)).map(|i| run.dir.join(format!("absent-{i}"))).collect();
    timed(paths.len() * 20, 0, || {
        for _ in 0..20 {
            for path in &paths {
                assert!(fs::symlink_metadata(path).is_err());
            }
        }
    })
}

/// What an editor does: a new file, renamed over the old.
fn replace(run: &Run) -> Measured {
    let paths = run.small(2000);
    let bytes = content(1, 1100);
    timed(paths.len(), 0, || {
        for path in &paths {
            let temporary = path.with_extension("tmp");
            fs::write(&temporary, &bytes).unwrap();
            fs::rename(&temporary, path).unwrap();
        }
    })
}

fn rename(run: &Run) -> Measured {
    let paths = run.small(3000);
    let new: Vec<PathBuf> = paths.iter().map(|p| p.with_extension("new")).collect();
    timed(paths.len(), 0, || paths.iter().zip(&new).for_each(|(p, n)| fs::rename(p, n).unwrap()))
}

fn chmod(run: &Run) -> Measured {
    let paths = run.small(3000);
    timed(paths.len(), 0, || {
        for path in &paths {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    })
}

fn append_small(run: &Run) -> Measured {
    let paths = run.small(3000);
    timed(paths.len(), 0, || {
        for path in &paths {
            OpenOptions::new().append(true).open(path).unwrap().write_all(b"one more line\n").unwrap();
        }
    })
}

fn unlink(run: &Run) -> Measured {
    let paths = run.small(5000);
    timed(paths.len(), 0, || paths.iter().for_each(|p| fs::remove_file(p).unwrap()))
}

fn rmdir(run: &Run) -> Measured {
    let paths: Vec<PathBuf> = (0..run.count(5000)).map(|i| run.dir.join(format!("dir-{i}"))).collect();
    paths.iter().for_each(|p| fs::create_dir(p).unwrap());
    timed(paths.len(), 0, || paths.iter().for_each(|p| fs::remove_dir(p).unwrap()))
}

fn seq_write(run: &Run, block: usize, total: usize) -> Measured {
    let path = run.dir.join("large");
    let blocks = run.mebibytes(total) * MIB / block;
    let mut bytes = noise(block);
    timed(blocks, blocks * block, || {
        let mut file = File::create(&path).unwrap();
        for i in 0..blocks {
            bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
            file.write_all(&bytes).unwrap();
        }
        file.sync_all().unwrap();
    })
}

fn seq_write_128k(run: &Run) -> Measured {
    seq_write(run, 128 << 10, 256)
}

fn seq_write_4k(run: &Run) -> Measured {
    seq_write(run, 4 << 10, 100)
}

fn read_through(path: &Path) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 128 << 10];
    while file.read(&mut buffer).unwrap() > 0 {}
}

fn seq_read_warm(run: &Run) -> Measured {
    let (path, size) = run.large();
    read_through(&path);
    timed(size / (128 << 10), size, || read_through(&path))
}

fn seq_read_cold(run: &Run) -> Measured {
    let (path, size) = run.large();
    cold();
    timed(size / (128 << 10), size, || read_through(&path))
}

fn rand_read(path: &Path, size: usize, count: usize) -> Measured {
    let file = File::open(path).unwrap();
    let mut random = Random(42);
    let mut buffer = [0; 4096];
    timed(count, count * 4096, || {
        for _ in 0..count {
            let offset = random.next() % (size as u64 / 4096) * 4096;
            file.read_exact_at(&mut buffer, offset).unwrap();
        }
    })
}

fn rand_read_warm(run: &Run) -> Measured {
    let (path, size) = run.large();
    read_through(&path);
    rand_read(&path, size, 50_000)
}

fn rand_read_cold(run: &Run) -> Measured {
    let (path, size) = run.large();
    cold();
    rand_read(&path, size, 4000)
}

fn rand_write(run: &Run) -> Measured {
    let (path, size) = run.large();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut random = Random(7);
    let bytes = noise(4096);
    let count = 4000;
    timed(count, count * 4096, || {
        for _ in 0..count {
            let offset = random.next() % (size as u64 / 4096) * 4096;
            file.write_all_at(&bytes, offset).unwrap();
        }
        file.sync_all().unwrap();
    })
}

/// A shared mapping of a file, unmapped when dropped.
struct Mapping {
    at: *mut u8,
    length: usize,
}

impl Mapping {
    #[allow(unsafe_code, reason = "mmap(2) has no safe form")]
    fn new(file: &File, length: usize) -> Mapping {
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file keeps its length meanwhile.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Mapping { at: at.cast(), length }
    }

    #[allow(unsafe_code, reason = "the mapping's bytes as a slice")]
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `at` is valid for `length` bytes as long as `self` lives.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }

    #[allow(unsafe_code, reason = "msync(2) has no safe form")]
    fn sync(&mut self) {
        // SAFETY: the range is this mapping.
        assert_eq!(unsafe { libc::msync(self.at.cast(), self.length, libc::MS_SYNC) }, 0);
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code, reason = "munmap(2) has no safe form")]
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and nothing borrows it any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

fn mmap_read_cold(run: &Run) -> Measured {
    let (path, size) = run.large();
    cold();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapping = Mapping::new(&file, size);
    timed(size / 4096, size, || {
        let sum: u64 = mapping.bytes().iter().step_by(4096).map(|b| u64::from(*b)).sum();
        assert!(sum > 0);
    })
}

fn mmap_write(run: &Run) -> Measured {
    let (path, size) = run.large();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapping = Mapping::new(&file, size);
    timed(size / 16384, size / 4, || {
        mapping.bytes().iter_mut().step_by(16384).for_each(|b| *b = b.wrapping_add(1));
        mapping.sync();
    })
}

/// What a log does.
fn append_fsync(run: &Run) -> Measured {
    let mut file = File::create(run.dir.join("log")).unwrap();
    let count = run.count(500);
    timed(count, 0, || {
        for i in 0..count {
            writeln!(file, "{i}: a line of a log that must not be lost when the power goes").unwrap();
            file.sync_data().unwrap();
        }
    })
}

/// What a mail server does.
fn create_fsync(run: &Run) -> Measured {
    let count = run.count(500);
    run.dirs(count);
    timed(count, 0, || {
        for i in 0..count {
            let mut file = File::create(run.file(i)).unwrap();
            file.write_all(&content(i, 2000)).unwrap();
            file.sync_all().unwrap();
        }
    })
}

fn sqlite(run: &Run, journal: &str, batch: usize, transactions: usize) -> Measured {
    let mut db = rusqlite::Connection::open(run.dir.join("test.db")).unwrap();
    db.pragma_update(None, "journal_mode", journal).unwrap();
    db.pragma_update(None, "synchronous", "FULL").unwrap();
    db.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c BLOB); CREATE INDEX i ON t(b);").unwrap();
    let blob = noise(200);
    timed(transactions, 0, || {
        for i in 0..transactions {
            let txn = db.transaction().unwrap();
            {
                let mut insert = txn.prepare_cached("INSERT INTO t(b, c) VALUES (?, ?)").unwrap();
                for j in 0..batch {
                    insert.execute((format!("{:x}", (i * batch + j) * 2_654_435_761), &blob)).unwrap();
                }
            }
            txn.commit().unwrap();
        }
    })
}

fn sqlite_rollback(run: &Run) -> Measured {
    sqlite(run, "DELETE", 10, run.count(200))
}

fn sqlite_wal(run: &Run) -> Measured {
    sqlite(run, "WAL", 10, run.count(500))
}

fn sqlite_bulk(run: &Run) -> Measured {
    sqlite(run, "WAL", run.count(50_000), 1)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--list") => WORKLOADS.iter().for_each(|(name, _)| println!("{name}")),
        Some(name) if args.len() >= 2 => {
            let Some((_, workload)) = WORKLOADS.iter().find(|(n, _)| *n == name) else {
                eprintln!("workload: {name}: no such workload; --list names them");
                std::process::exit(2);
            };
            let scale = args.get(2).and_then(|s| s.parse().ok()).unwrap_or(1.0);
            let measured = workload(&Run { dir: Path::new(&args[1]), scale });
            println!(
                "{{\"workload\": \"{name}\", \"ops\": {}, \"ns\": {}, \"bytes\": {}}}",
                measured.ops, measured.ns, measured.bytes
            );
        }
        _ => println!("usage: workload NAME DIR [SCALE] | --list"),
    }
}
