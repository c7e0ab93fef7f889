//! What every store must do; each test runs against every store that `stores!` lists.

use std::path::Path;
use std::sync::Arc;

use stonefs::store::failing::{Call, FailingStore, Fault};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{
    BranchRow, ChunkData, Content, Counters, EntryRow, EventFilter, EventRow, Group, InitOptions, InodeRow, Mutation,
    ReadTxn, Store, StoreError, TagRow, Touched,
};
use stonefs::types::{BranchId, Ino, Kind, Lineage, Name, Op, ProcId, Segment, Seq, Timestamp};

use crate::store_resolution::{every_view_resolves_as_the_model_does, pruning_keeps_every_state_that_is_pinned};

/// How to make a store of some kind at a path, and how to open it again.
pub struct Maker {
    pub create: fn(&Path) -> Result<Box<dyn Store>, StoreError>,
    pub open: fn(&Path) -> Result<Box<dyn Store>, StoreError>,
}

pub const NOW: Timestamp = Timestamp(1_000_000_000);

fn init_options() -> InitOptions {
    InitOptions { now: NOW, uid: 7, gid: 8, settings: vec![("k".to_string(), b"v".to_vec())] }
}

const SQLITE: Maker = Maker {
    create: |path| Ok(Box::new(SqliteStore::create(path, &init_options())?)),
    open: |path| Ok(Box::new(SqliteStore::open(path)?)),
};

macro_rules! conformance {
    ($($test:ident,)*) => {
        mod sqlite {
            $(#[test]
            fn $test() {
                let dir = tempfile::tempdir().unwrap();
                super::$test(&super::SQLITE, &dir.path().join("t.stone"));
            })*
        }
    };
}

conformance! {
    a_new_store_has_a_root_and_one_event,
    what_is_committed_is_there_after_reopening,
    what_is_dropped_is_undone,
    a_snapshot_does_not_move,
    the_writer_sees_its_own_changes,
    create_refuses_an_existing_file,
    a_second_opener_is_refused,
    a_child_sees_its_parent_as_of_the_base,
    equal_bytes_are_stored_once,
    extents_past_an_index_become_holes,
    touched_says_what_changed,
    events_are_filtered,
    every_view_resolves_as_the_model_does,
    pruning_keeps_every_state_that_is_pinned,
    overwrites_of_a_chunk_read_back_whole,
    a_fault_strikes_where_it_was_planned,
}

pub fn lineage(segments: &[(u64, u64)]) -> Lineage {
    Lineage(segments.iter().map(|(branch, cut)| Segment { branch: BranchId(*branch), cut: Seq(*cut) }).collect())
}

pub fn live(branch: u64) -> Lineage {
    lineage(&[(branch, Seq::MAX.0)])
}

pub fn file_row(size: u64) -> InodeRow {
    InodeRow {
        kind: Kind::File,
        perm: 0o644,
        uid: 1,
        gid: 2,
        nlink: 1,
        size,
        chunks: 0,
        rdev: 0,
        atime: Timestamp(11),
        mtime: Timestamp(22),
        ctime: Timestamp(33),
        btime: Timestamp(22),
        content: Content::Extents,
        data_from: Seq::ZERO,
        content_seq: Seq(5),
        attr_seq: Seq(6),
        predecessor: Some(Ino(99)),
        process: ProcId(3),
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub fn put_inode(branch: u64, at: u64, ino: u64, row: Option<InodeRow>) -> Mutation {
    Mutation::Inode { branch: BranchId(branch), at: Seq(at), ino: Ino(ino), row: row.map(Box::new) }
}

pub fn put_entry(branch: u64, at: u64, parent: u64, text: &str, ino: Option<u64>) -> Mutation {
    let row = ino.map(|ino| EntryRow { parent: Ino(parent), name: name(text), ino: Ino(ino), kind: Kind::File });
    Mutation::Entry { branch: BranchId(branch), at: Seq(at), parent: Ino(parent), name: name(text), row }
}

pub fn put_bytes(branch: u64, at: u64, ino: u64, index: u64, bytes: &[u8]) -> Mutation {
    let hash = *blake3::hash(bytes).as_bytes();
    let data = ChunkData::Bytes { hash, data: Arc::new(bytes.to_vec()), changed: None };
    Mutation::Extent { branch: BranchId(branch), at: Seq(at), ino: Ino(ino), index, data: Some(data) }
}

pub fn event(seq: u64, branch: u64, op: Op) -> EventRow {
    EventRow {
        seq: Seq(seq),
        time: Timestamp(NOW.0 + seq as i64),
        raw_time: Timestamp(NOW.0 + seq as i64),
        branch: BranchId(branch),
        txn: None,
        op,
        ino: None,
        parent: None,
        name: None,
        parent2: None,
        name2: None,
        path: None,
        path2: None,
        ino2: None,
        offset: None,
        length: None,
        old: None,
        new: None,
        result: 0,
        uid: 1,
        gid: 2,
        pid: 3,
        process: ProcId(4),
    }
}

pub fn fork(id: u64, parent: u64, base: u64) -> Mutation {
    Mutation::Branch(Box::new(BranchRow {
        id: BranchId(id),
        name: Some(format!("b{id}").into_bytes()),
        parent: Some(BranchId(parent)),
        base: Seq(base),
        created: Seq(base),
        created_time: NOW,
        dropped: None,
        uid: 0,
    }))
}

/// Applies and commits mutations as one group.
pub fn write(store: &dyn Store, mutations: Vec<Mutation>) {
    let mut txn = store.write().unwrap();
    let counters = counters_after(txn.counters().unwrap(), &mutations);
    txn.apply(&Group { mutations, counters, ..Group::default() }).unwrap();
    txn.commit(false).unwrap();
}

/// The counters after some mutations.
fn counters_after(mut counters: Counters, mutations: &[Mutation]) -> Counters {
    for mutation in mutations {
        match mutation {
            Mutation::Inode { ino, .. } => counters.next_ino = counters.next_ino.max(Ino(ino.0 + 1)),
            Mutation::Branch(row) => counters.next_branch = counters.next_branch.max(BranchId(row.id.0 + 1)),
            Mutation::Event(row) => (counters.seq, counters.time) = (counters.seq.max(row.seq), row.time),
            _ => {}
        }
    }
    counters
}

fn find(read: &dyn ReadTxn, lineage: &Lineage, text: &str) -> Option<u64> {
    read.entry(lineage, Ino::ROOT, text.as_bytes()).unwrap().map(|row| row.ino.0)
}

fn a_new_store_has_a_root_and_one_event(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let read = store.read().unwrap();
    let counters = read.counters().unwrap();
    assert_eq!((counters.seq, counters.time, counters.next_ino), (Seq(1), NOW, Ino(2)));
    let root = read.inode(&live(1), Ino::ROOT).unwrap().unwrap();
    assert_eq!((root.kind, root.perm, root.nlink, root.uid, root.gid), (Kind::Dir, 0o755, 2, 7, 8));
    assert_eq!(read.inode(&lineage(&[(1, 0)]), Ino::ROOT).unwrap(), None);
    assert_eq!(read.entries(&live(1), Ino::ROOT).unwrap(), []);
    assert_eq!(read.event(Seq(1)).unwrap().unwrap().op, Op::Branch);
    let branches = read.branches().unwrap();
    assert_eq!(branches.len(), 1);
    assert_eq!(branches[0].name.as_deref(), Some(&b"main"[..]));
    assert_eq!(read.setting("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(read.setting("none").unwrap(), None);
    drop(read);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

fn what_is_committed_is_there_after_reopening(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let inline = InodeRow { content: Content::Inline(Arc::from(&b"hello"[..])), ..file_row(5) };
    let tag = TagRow {
        name: b"v1".to_vec(),
        branch: BranchId(1),
        seq: Seq(2),
        time: NOW,
        uid: 1,
        message: "first".to_string(),
    };
    let mut made = event(2, 1, Op::Create);
    made.path = Some(Arc::from(&b"/a"[..]));
    made.name = Some(b"a".to_vec());
    let mut txn = store.write().unwrap();
    let mut counters = txn.counters().unwrap();
    counters.seq = Seq(2);
    counters.next_ino = Ino(4);
    let mutations = vec![
        put_inode(1, 2, 2, Some(inline.clone())),
        put_entry(1, 2, 1, "a", Some(2)),
        put_bytes(1, 2, 2, 3, b"chunk"),
        Mutation::Xattr {
            branch: BranchId(1),
            at: Seq(2),
            ino: Ino(2),
            name: b"user.x".to_vec(),
            value: Some(Arc::from(&b"y"[..])),
        },
        Mutation::Orphan { branch: BranchId(1), ino: Ino(3), open: true },
        Mutation::Tag(tag.clone()),
        Mutation::Event(Box::new(made.clone())),
    ];
    txn.apply(&Group { mutations, counters, ..Group::default() }).unwrap();
    txn.commit(true).unwrap();
    store.close().unwrap();
    assert_eq!(store.read().err(), Some(StoreError::Closed));
    drop(store);

    let store = (maker.open)(path).unwrap();
    let read = store.read().unwrap();
    assert_eq!(read.counters().unwrap(), counters);
    assert_eq!(read.inode(&live(1), Ino(2)).unwrap(), Some(inline));
    assert_eq!(find(&*read, &live(1), "a"), Some(2));
    let extents = read.extents(&live(1), Ino(2), Seq::ZERO, 0..10).unwrap();
    assert_eq!(extents.len(), 1);
    assert_eq!((extents[0].index, extents[0].valid_from), (3, Seq(2)));
    assert_eq!(&*read.chunk(extents[0].chunk).unwrap(), b"chunk");
    assert_eq!(read.chunk_hash(extents[0].chunk).unwrap(), *blake3::hash(b"chunk").as_bytes());
    assert_eq!(read.extents(&live(1), Ino(2), Seq(3), 0..10).unwrap(), []);
    assert_eq!(read.xattrs(&live(1), Ino(2)).unwrap(), [(b"user.x".to_vec(), Arc::from(&b"y"[..]))]);
    assert_eq!(read.orphans().unwrap(), [(BranchId(1), Ino(3))]);
    assert_eq!(read.tags().unwrap(), [tag]);
    assert_eq!(read.event(Seq(2)).unwrap(), Some(made));
    assert_eq!(read.names_of(&live(1), Ino(2)).unwrap().len(), 1);
}

fn what_is_dropped_is_undone(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let mut made = event(2, 1, Op::Create);
    made.path = Some(Arc::from(&b"/new/a"[..]));
    let group = |seq: u64| {
        let mutations = vec![
            put_inode(1, seq, 2, Some(file_row(1))),
            put_entry(1, seq, 1, "a", Some(2)),
            fork(2, 1, 1),
            Mutation::Event(Box::new(EventRow { seq: Seq(seq), time: Timestamp(NOW.0 + 5), ..made.clone() })),
        ];
        let counters = counters_after(store.read().unwrap().counters().unwrap(), &mutations);
        Group { mutations, counters, ..Group::default() }
    };
    let mut txn = store.write().unwrap();
    txn.apply(&group(2)).unwrap();
    drop(txn);
    let read = store.read().unwrap();
    assert_eq!(find(&*read, &live(1), "a"), None);
    assert_eq!(read.inode(&live(1), Ino(2)).unwrap(), None);
    assert_eq!(read.branches().unwrap().len(), 1);
    drop(read);
    // The writer has forgotten what it remembered, too.
    let mut txn = store.write().unwrap();
    assert!(matches!(
        txn.apply(&Group { mutations: vec![put_entry(2, 3, 1, "b", Some(2))], ..Group::default() }),
        Err(StoreError::Conflict(_))
    ));
    drop(txn);
    let mut txn = store.write().unwrap();
    txn.apply(&group(3)).unwrap();
    txn.commit(false).unwrap();
    let read = store.read().unwrap();
    assert_eq!(read.event(Seq(3)).unwrap().unwrap().path.as_deref(), Some(&b"/new/a"[..]));
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

fn a_snapshot_does_not_move(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let before = store.read().unwrap();
    write(&*store, vec![put_entry(1, 2, 1, "a", Some(2))]);
    let after = store.read().unwrap();
    assert_eq!(find(&*before, &live(1), "a"), None);
    assert_eq!(find(&*after, &live(1), "a"), Some(2));
}

fn the_writer_sees_its_own_changes(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let mut txn = store.write().unwrap();
    let counters = txn.counters().unwrap();
    txn.apply(&Group { mutations: vec![put_entry(1, 2, 1, "a", Some(2))], counters, ..Group::default() }).unwrap();
    assert_eq!(txn.entry(&live(1), Ino::ROOT, b"a").unwrap().unwrap().ino, Ino(2));
    assert_eq!(find(&*store.read().unwrap(), &live(1), "a"), None);
    txn.commit(false).unwrap();
    assert_eq!(find(&*store.read().unwrap(), &live(1), "a"), Some(2));
}

fn create_refuses_an_existing_file(maker: &Maker, path: &Path) {
    std::fs::write(path, b"precious").unwrap();
    assert!(matches!((maker.create)(path).err(), Some(StoreError::Conflict(_))));
    assert_eq!(std::fs::read(path).unwrap(), b"precious");
}

fn a_second_opener_is_refused(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    assert!(matches!((maker.open)(path).err(), Some(StoreError::Busy(_))));
    write(&*store, vec![put_entry(1, 2, 1, "a", Some(2))]);
    assert!(matches!((maker.open)(path).err(), Some(StoreError::Busy(_))));
    store.close().unwrap();
    (maker.open)(path).unwrap();
}

fn a_child_sees_its_parent_as_of_the_base(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    write(
        &*store,
        vec![
            put_entry(1, 2, 1, "kept", Some(2)),
            put_entry(1, 3, 1, "gone", Some(3)),
            fork(2, 1, 4),
            put_entry(1, 5, 1, "kept", None),
            put_entry(1, 6, 1, "late", Some(4)),
            put_entry(2, 7, 1, "gone", None),
            put_entry(2, 8, 1, "own", Some(5)),
        ],
    );
    let read = store.read().unwrap();
    let names = |lineage: &Lineage| -> Vec<String> {
        let rows = read.entries(lineage, Ino::ROOT).unwrap();
        rows.iter().map(|row| String::from_utf8(row.name.as_bytes().to_vec()).unwrap()).collect()
    };
    let child = lineage(&[(2, Seq::MAX.0), (1, 4)]);
    assert_eq!(names(&live(1)), ["gone", "late"]);
    assert_eq!(names(&child), ["kept", "own"]);
    assert_eq!(names(&lineage(&[(2, 7), (1, 4)])), ["kept"]);
    assert_eq!(names(&lineage(&[(2, 6), (1, 4)])), ["gone", "kept"]);
    assert_eq!(find(&*read, &child, "kept"), Some(2));
    assert_eq!(find(&*read, &child, "gone"), None);
    assert_eq!(read.names_of(&child, Ino(3)).unwrap(), []);
    assert_eq!(read.names_of(&live(1), Ino(3)).unwrap().len(), 1);
}

fn equal_bytes_are_stored_once(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    write(
        &*store,
        vec![put_bytes(1, 2, 2, 0, b"same"), put_bytes(1, 3, 3, 7, b"same"), put_bytes(1, 4, 3, 8, b"other")],
    );
    let read = store.read().unwrap();
    let a = read.extents(&live(1), Ino(2), Seq::ZERO, 0..1).unwrap();
    let b = read.extents(&live(1), Ino(3), Seq::ZERO, 0..100).unwrap();
    assert_eq!(a[0].chunk, b[0].chunk);
    assert_ne!(a[0].chunk, b[1].chunk);
}

fn extents_past_an_index_become_holes(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    write(&*store, (0..6).map(|index| put_bytes(1, 2, 2, index, &[index as u8])).collect());
    write(
        &*store,
        vec![
            fork(2, 1, 2),
            Mutation::ExtentsFrom { branch: BranchId(2), at: Seq(4), ino: Ino(2), index: 3 },
            put_bytes(2, 5, 2, 5, b"again"),
            Mutation::ExtentsFrom { branch: BranchId(1), at: Seq(6), ino: Ino(2), index: 1 },
        ],
    );
    let read = store.read().unwrap();
    let indexes = |lineage: &Lineage| -> Vec<u64> {
        read.extents(lineage, Ino(2), Seq::ZERO, 0..u64::MAX).unwrap().iter().map(|row| row.index).collect()
    };
    assert_eq!(indexes(&live(1)), [0]);
    assert_eq!(indexes(&lineage(&[(1, 5)])), [0, 1, 2, 3, 4, 5]);
    assert_eq!(indexes(&lineage(&[(2, Seq::MAX.0), (1, 2)])), [0, 1, 2, 5]);
    assert_eq!(indexes(&lineage(&[(2, 4), (1, 2)])), [0, 1, 2]);
}

fn touched_says_what_changed(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let mut created = event(2, 1, Op::Create);
    (created.ino, created.parent, created.name) = (Some(Ino(2)), Some(Ino(1)), Some(b"a".to_vec()));
    let mut written = event(3, 1, Op::Write);
    written.ino = Some(Ino(2));
    let commit = event(4, 1, Op::Commit);
    write(
        &*store,
        vec![
            put_inode(1, 2, 2, Some(file_row(0))),
            put_entry(1, 2, 1, "a", Some(2)),
            Mutation::Event(Box::new(created)),
            put_inode(1, 3, 2, Some(file_row(9))),
            put_bytes(1, 3, 2, 4, b"data"),
            Mutation::Event(Box::new(written)),
            // A commit's rows are named by no event.
            put_inode(1, 4, 3, Some(file_row(1))),
            put_entry(1, 4, 1, "b", Some(3)),
            put_bytes(1, 4, 3, 0, b"more"),
            put_entry(1, 4, 1, "a", None),
            Mutation::Event(Box::new(commit)),
        ],
    );
    let read = store.read().unwrap();
    let touched = |from: u64, to: u64| read.touched(BranchId(1), Seq(from), Seq(to)).unwrap();
    assert_eq!(
        touched(1, 2),
        Touched { inodes: vec![Ino(2)], entries: vec![(Ino(1), name("a"))], ..Touched::default() }
    );
    assert_eq!(touched(2, 3), Touched { inodes: vec![Ino(2)], extents: vec![(Ino(2), 4)], ..Touched::default() });
    assert_eq!(
        touched(3, 4),
        Touched {
            inodes: vec![Ino(3)],
            entries: vec![(Ino(1), name("a")), (Ino(1), name("b"))],
            extents: vec![(Ino(3), 0)],
            ..Touched::default()
        }
    );
    assert_eq!(touched(4, 9), Touched::default());
    assert_eq!(read.touched(BranchId(2), Seq(0), Seq(9)).unwrap(), Touched::default());
}

fn events_are_filtered(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let mut mutations = vec![fork(2, 1, 10)];
    for seq in 2..=30u64 {
        let mut row = event(seq, if seq > 20 { 2 } else { 1 }, if seq % 2 == 0 { Op::Create } else { Op::Write });
        row.ino = Some(Ino(seq % 5));
        row.path = Some(if seq % 3 == 0 { Arc::from(&b"/d/x"[..]) } else { Arc::from(&b"/d2/y"[..]) });
        row.uid = (seq % 4) as u32;
        mutations.push(Mutation::Event(Box::new(row)));
    }
    write(&*store, mutations);
    let read = store.read().unwrap();
    let seqs =
        |filter: EventFilter| -> Vec<u64> { read.events(&filter).unwrap().iter().map(|event| event.seq.0).collect() };
    let all: Vec<u64> = (1..=30).collect();
    let only = |keep: &dyn Fn(u64) -> bool| -> Vec<u64> { all.iter().copied().filter(|seq| keep(*seq)).collect() };
    assert_eq!(seqs(EventFilter::default()), all);
    let lineage = vec![Segment { branch: BranchId(2), cut: Seq(25) }, Segment { branch: BranchId(1), cut: Seq(10) }];
    assert_eq!(
        seqs(EventFilter { lineage: lineage.clone(), ..Default::default() }),
        only(&|s| s <= 10 || (s > 20 && s <= 25))
    );
    assert_eq!(
        seqs(EventFilter { lineage, descending: true, limit: Some(7), ..Default::default() }),
        [25, 24, 23, 22, 21, 10, 9]
    );
    assert_eq!(seqs(EventFilter { path: Some(b"/d".to_vec()), ..Default::default() }), only(&|s| s > 1 && s % 3 == 0));
    assert_eq!(
        seqs(EventFilter { path: Some(b"/d/x".to_vec()), ..Default::default() }),
        only(&|s| s > 1 && s % 3 == 0)
    );
    assert_eq!(seqs(EventFilter { path: Some(b"/".to_vec()), limit: Some(3), ..Default::default() }), [1, 2, 3]);
    assert_eq!(seqs(EventFilter { ino: Some(Ino(3)), ..Default::default() }), only(&|s| s > 1 && s % 5 == 3));
    assert_eq!(
        seqs(EventFilter { uid: Some(2), ops: vec![Op::Create], ..Default::default() }),
        only(&|s| s > 1 && s % 4 == 2)
    );
    let since = Some(Timestamp(NOW.0 + 7));
    let until = Some(Timestamp(NOW.0 + 9));
    assert_eq!(seqs(EventFilter { since, until, ..Default::default() }), [7, 8]);
    assert_eq!(read.seq_at(Timestamp(NOW.0 - 1)).unwrap(), None);
    assert_eq!(read.seq_at(Timestamp(NOW.0 + 12)).unwrap(), Some((Seq(12), Timestamp(NOW.0 + 12))));
    assert_eq!(read.seq_at(Timestamp(i64::MAX)).unwrap().unwrap().0, Seq(30));
}

fn overwrites_of_a_chunk_read_back_whole(maker: &Maker, path: &Path) {
    let store = (maker.create)(path).unwrap();
    let mut bytes = vec![0u8; 128 * 1024];
    let mut expected = Vec::new();
    for at in 2..200u64 {
        let offset = (at * 7919 * 4096) as usize % (bytes.len() - 4096);
        bytes[offset..offset + 4096].fill(at as u8);
        // Now and then it shrinks, and grows again.
        if at % 50 == 0 {
            bytes.truncate(100_000);
        } else if at % 50 == 10 {
            bytes.resize(128 * 1024, 9);
        }
        write(&*store, vec![put_bytes(1, at, 2, 0, &bytes)]);
        expected.push((at, *blake3::hash(&bytes).as_bytes()));
    }
    store.close().unwrap();
    let store = (maker.open)(path).unwrap();
    let read = store.read().unwrap();
    for (at, hash) in expected {
        let extents = read.extents(&lineage(&[(1, at)]), Ino(2), Seq::ZERO, 0..1).unwrap();
        let chunk = read.chunk(extents[0].chunk).unwrap();
        assert_eq!(*blake3::hash(&chunk).as_bytes(), hash, "as of e{at}");
        assert_eq!(read.chunk_hash(extents[0].chunk).unwrap(), hash);
        assert_eq!(read.chunk_range(extents[0].chunk, 5..9).unwrap(), chunk[5..9]);
    }
    assert!(store.space().unwrap().total < 8 << 20, "{:?}", store.space());
}

fn a_fault_strikes_where_it_was_planned(maker: &Maker, path: &Path) {
    let inner: Arc<dyn Store> = Arc::from((maker.create)(path).unwrap());
    let store = FailingStore::new(inner);
    let group =
        |seq: u64| Group { mutations: vec![put_entry(1, seq, 1, &format!("f{seq}"), Some(seq))], ..Group::default() };
    let put = |seq: u64, durable: bool| {
        let mut txn = store.write()?;
        txn.apply(&group(seq))?;
        txn.commit(durable)
    };
    let there = |seq: u64| find(&*store.read().unwrap(), &live(1), &format!("f{seq}")).is_some();
    store.fail_once(Call::Apply, 2, StoreError::Full);
    assert_eq!(put(2, false), Ok(()));
    assert_eq!(put(3, false), Err(StoreError::Full));
    assert_eq!(put(4, false), Ok(()));
    assert!(there(2) && !there(3) && there(4));

    store.fail_once(Call::Commit, 1, StoreError::Backend("no".to_string()));
    assert!(put(5, true).is_err());
    assert!(!there(5));

    let after = Fault { call: Call::Commit, nth: 1, error: StoreError::Closed, after: true, lasting: false };
    store.fail(after);
    assert_eq!(put(6, true), Err(StoreError::Closed));
    assert!(there(6));

    store.fail_once(Call::Sync, 1, StoreError::Full);
    assert_eq!(put(7, false), Ok(()));
    assert_eq!(put(8, true), Err(StoreError::Full));
    assert!(there(8));

    store.fail(Fault { call: Call::Read, nth: 2, error: StoreError::Closed, after: false, lasting: true });
    assert!(store.read().is_ok());
    assert!(store.read().is_err() && store.read().is_err());
    store.heal();
    assert!(store.read().is_ok());
}
