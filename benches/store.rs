//! What the store costs by itself: CPU and time per file made, per look-up and per listing.
//!
//! `cargo bench --bench store [-- FILES [DIRECTORY]]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{ChunkData, Content, EntryRow, EventRow, Group, InitOptions, InodeRow, Mutation, ReadTxn, Store};
use stonefs::types::{BranchId, Ino, Kind, Lineage, Name, Op, ProcId, Segment, Seq, Timestamp};

const BATCH: u64 = 1000;
const PER_DIR: u64 = 200;

fn cpu_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Runs a piece of work and prints its cost per item.
fn measure(what: &str, items: u64, mut work: impl FnMut()) {
    let (cpu, wall) = (cpu_ns(), Instant::now());
    work();
    let per = |total: f64| total / items as f64 / 1000.0;
    println!(
        "{what:<44} {:>9.2} us CPU {:>9.2} us",
        per((cpu_ns() - cpu) as f64),
        per(wall.elapsed().as_nanos() as f64)
    );
}

fn inode(seq: u64, kind: Kind, content: Content, size: u64) -> InodeRow {
    let time = Timestamp(1_700_000_000_000_000_000 + seq as i64 * 1000);
    InodeRow {
        kind,
        perm: 0o644,
        uid: 1000,
        gid: 1000,
        nlink: 1,
        size,
        chunks: 0,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        content,
        data_from: Seq(0),
        content_seq: Seq(seq),
        attr_seq: Seq(seq),
        predecessor: None,
        process: ProcId(1),
    }
}

fn event(seq: u64, op: Op, ino: Ino, parent: Ino, name: &Name, dir: &str) -> EventRow {
    let time = Timestamp(1_700_000_000_000_000_000 + seq as i64 * 1000);
    let mut path = dir.as_bytes().to_vec();
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    EventRow {
        seq: Seq(seq),
        time,
        raw_time: time,
        branch: BranchId::MAIN,
        txn: None,
        op,
        ino: Some(ino),
        parent: Some(parent),
        name: Some(name.as_bytes().to_vec()),
        parent2: None,
        name2: None,
        path: Some(Arc::from(path)),
        path2: None,
        ino2: None,
        offset: None,
        length: None,
        old: None,
        new: None,
        result: 0,
        uid: 1000,
        gid: 1000,
        pid: 4242,
        process: ProcId(1),
    }
}

fn entry(parent: Ino, name: &Name, ino: Ino, kind: Kind) -> EntryRow {
    EntryRow { parent, name: name.clone(), ino, kind }
}

struct Maker {
    seq: u64,
    ino: u64,
}

impl Maker {
    fn file(&mut self, group: &mut Group, parent: Ino, dir: &str, content: usize) {
        self.seq += 1;
        self.ino += 1;
        let (at, ino) = (Seq(self.seq), Ino(self.ino));
        let name = Name::new(format!("file-{:06}.txt", self.ino).as_bytes()).unwrap();
        let bytes: Arc<[u8]> = (0..content).map(|i| (i as u64 * 31 + self.ino) as u8).collect();
        let (inline, size) = (content <= 2048, content as u64);
        let kept = if inline { Content::Inline(bytes.clone()) } else { Content::Extents };
        let row = Some(Box::new(inode(self.seq, Kind::File, kept, size)));
        group.mutations.push(Mutation::Inode { branch: BranchId::MAIN, at, ino, row });
        if !inline {
            let mut content = bytes.to_vec();
            content.splice(0..8, self.ino.to_le_bytes());
            let data = ChunkData::Bytes { hash: *blake3::hash(&content).as_bytes(), data: Arc::new(content) };
            group.mutations.push(Mutation::Extent { branch: BranchId::MAIN, at, ino, index: 0, data: Some(data) });
        }
        let row = Some(entry(parent, &name, ino, Kind::File));
        group.mutations.push(Mutation::Entry { branch: BranchId::MAIN, at, parent, name: name.clone(), row });
        let event = event(self.seq, Op::Create, ino, parent, &name, dir);
        group.mutations.push(Mutation::Event(Box::new(event)));
    }

    fn groups(&mut self, files: u64, content: usize) -> Vec<Group> {
        let mut groups = Vec::new();
        let mut group = Group::default();
        let (mut parent, mut dir) = (Ino::ROOT, String::new());
        for number in 0..files {
            if number % PER_DIR == 0 {
                self.seq += 1;
                self.ino += 1;
                parent = Ino(self.ino);
                let name = Name::new(format!("directory-{}", self.ino).as_bytes()).unwrap();
                dir = format!("/some/where/deep/{}", String::from_utf8_lossy(name.as_bytes()));
                let row = Some(Box::new(inode(self.seq, Kind::Dir, Content::Extents, 0)));
                let at = Seq(self.seq);
                group.mutations.push(Mutation::Inode { branch: BranchId::MAIN, at, ino: parent, row });
                let row = Some(entry(Ino::ROOT, &name, parent, Kind::Dir));
                group.mutations.push(Mutation::Entry { branch: BranchId::MAIN, at, parent: Ino::ROOT, name, row });
            }
            self.file(&mut group, parent, &dir, content);
            if (number + 1) % BATCH == 0 {
                groups.push(self.finish(&mut group));
            }
        }
        groups.push(self.finish(&mut group));
        groups
    }

    fn finish(&self, group: &mut Group) -> Group {
        group.counters.seq = Seq(self.seq);
        group.counters.next_ino = Ino(self.ino + 1);
        std::mem::take(group)
    }
}

fn run(store: &dyn Store, groups: &[Group], durable: bool) {
    for (number, group) in groups.iter().enumerate() {
        let mut txn = store.write().unwrap();
        txn.apply(group).unwrap();
        txn.commit(durable).unwrap();
        if number % 20 == 19 {
            store.checkpoint().unwrap();
        }
    }
}

fn reads(store: &dyn Store, maker: &Maker, lineage: &Lineage, what: &str) {
    let read: Box<dyn ReadTxn + '_> = store.read().unwrap();
    let rounds = 50_000u64;
    let pick = |i: u64| Ino(2 + (i * 7919) % (maker.ino - 2));
    measure(&format!("inode, {what}"), rounds, || {
        for i in 0..rounds {
            read.inode(lineage, pick(i)).unwrap();
        }
    });
    let names: Vec<_> = (0..2000).flat_map(|i| read.names_of(lineage, pick(i)).unwrap()).collect();
    measure(&format!("entry, {what}"), rounds, || {
        for entry in names.iter().cycle().take(rounds as usize) {
            read.entry(lineage, entry.parent, entry.name.as_bytes()).unwrap().unwrap();
        }
    });
    measure(&format!("entry that is missing, {what}"), rounds, || {
        for entry in names.iter().cycle().take(rounds as usize) {
            assert_eq!(read.entry(lineage, entry.parent, b"none").unwrap(), None);
        }
    });
    measure(&format!("listing of {PER_DIR}, {what}"), 2000, || {
        for entry in names.iter().cycle().take(2000) {
            read.entries(lineage, entry.parent).unwrap();
        }
    });
    measure(&format!("names of an inode, {what}"), 20_000, || {
        for i in 0..20_000 {
            read.names_of(lineage, pick(i)).unwrap();
        }
    });
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let files: u64 = args.next().map_or(200_000, |text| text.parse().unwrap());
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(dir).unwrap();
    for (what, content, durable) in [
        ("empty file", 0, false),
        ("1 KiB file", 1024, false),
        ("1 KiB file, durable groups", 1024, true),
        ("16 KiB file", 16 << 10, false),
    ] {
        let path = dir.path().join(format!("{content}-{durable}.stone"));
        let store =
            SqliteStore::create(&path, &InitOptions { now: Timestamp(0), uid: 0, gid: 0, settings: vec![] }).unwrap();
        let mut maker = Maker { seq: 1, ino: 1 };
        let files = if content > 2048 { files / 8 } else { files };
        let groups = maker.groups(files, content);
        measure(&format!("create, {what}"), files, || run(&store, &groups, durable));
        drop(groups);
        let more = maker.groups(files / 10, content);
        measure(&format!("create among them, {what}"), files / 10, || run(&store, &more, durable));
        if content == 1024 && !durable {
            let all = |cuts: &[(u64, u64)]| {
                Lineage(
                    cuts.iter().map(|(branch, cut)| Segment { branch: BranchId(*branch), cut: Seq(*cut) }).collect(),
                )
            };
            reads(&store, &maker, &all(&[(1, Seq::MAX.0)]), "now");
            reads(&store, &maker, &all(&[(1, maker.seq)]), "as of then");
            let deep: Vec<_> = (1..=10).rev().map(|b| (b, if b == 10 { Seq::MAX.0 } else { maker.seq })).collect();
            reads(&store, &maker, &all(&deep), "ten branches deep");
            measure("snapshot", 100_000, || {
                for _ in 0..100_000 {
                    drop(store.read().unwrap());
                }
            });
        }
        let space = store.space().unwrap();
        store.close().unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        println!("{what}: {} bytes a file, log {} MB", size / (files + files / 10), space.log >> 20);
        std::fs::remove_file(&path).unwrap();
    }
}
