//! The questions of `docs/QUERIES.md`, each asked.

use stonefs::store::TxnKind;
use stonefs::types::{BranchId, View};
use stonefs::version::txn::{self, BeginOptions, CommitOptions};

use super::record::{MAIN, SECOND, START, World};

/// The page's queries by their numbers.
fn questions() -> Vec<(usize, String)> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/QUERIES.md")).unwrap();
    let mut found = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let Some((number, _)) = section.split_once(". ") else { continue };
        let Ok(number) = number.parse() else { continue };
        let query = section.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        found.push((number, query.to_owned()));
    }
    found
}

/// A tree with everything that the questions ask for, made from ten o'clock on.
fn busy() -> World {
    let mut world = World::new();
    world.clock.advance(1200 * SECOND);
    let shell = world.act_as(100, "bash", b"bash\0");
    world.mkdir("/etc");
    world.mkdir("/src");
    world.mkdir("/bin");
    world.write("/etc/passwd", b"root\n");
    world.write("/src/main.rs", b"fn main() {}\n");
    world.write("/src/copy.rs", b"fn main() {}\n");
    world.write("/src/big", &vec![7; 300_000]);
    world.write("/bin/tool", b"#!\n");
    world.chmod("/bin/tool", 0o755);
    world.tag("v1");
    let side = world.engine().fork(Some(b"side"), MAIN, &world.caller).unwrap();
    let src = world.dir("/src");
    world.engine().mkdir(View::live(side.id), src, b"only-here", 0o700, 0, &world.caller).unwrap();
    world.clock.advance(240 * SECOND);
    world.act_as_child(200, "vi", b"vi\0main.rs\0", shell, None);
    world.write("/src/main.rs", b"fn main() { run() }\n");
    world.write("/etc/passwd", b"root\nalice\n");
    world.rename("/src/copy.rs", "/src/old.rs");
    world.write("/etc/lost", b"gone\n");
    world.unlink("/etc/lost");
    world.write("/bin/tool", b"#!/bin/sh\n");
    world.write("/bin/su", b"s\n");
    world.chmod("/bin/su", 0o4755);
    world.clock.advance(300 * SECOND);
    world.act_as_child(300, "agent", b"agent\0--fix\0", shell, Some("robot"));
    let options = BeginOptions {
        target: BranchId::MAIN,
        kind: TxnKind::Run,
        serializable: false,
        message: String::new(),
        label: "robot".to_owned(),
    };
    let begun = txn::begin(world.engine(), &options, &world.caller).unwrap();
    let view = View::live(begun.branch);
    let (_, handle) = world.engine().create(view, src, b"fixed.rs", 0o644, 0, libc::O_WRONLY, &world.caller).unwrap();
    world.engine().write(handle, 0, b"fn main() {}\n", false, &world.caller).unwrap();
    world.engine().release(handle).unwrap();
    txn::commit(world.engine(), begun.id, &CommitOptions::default(), &world.caller).unwrap();
    world.refused("/etc", libc::ENOTEMPTY);
    world.engine().sync().unwrap();
    world
}

/// The answers, without their header lines.
const ANSWERS: [&[&str]; 20] = [
    &[
        "2026-11-22T10:09:17.000000004Z,commit,,1000",
        "2026-11-22T10:09:17.000000003Z,write,/src/fixed.rs,1000",
        "2026-11-22T10:09:17.000000002Z,create,/src/fixed.rs,1000",
    ],
    &["2026-11-22T10:04:11.000000001Z,0,vi,vi main.rs"],
    &["/bin/su", "/bin/tool", "/etc/lost", "/etc/passwd", "/src/copy.rs", "/src/main.rs"],
    &["2026-11-22T10:04:14.000000000Z,/etc/lost,1000,vi"],
    &["/src/fixed.rs,13", "/bin/tool,7", "/src/main.rs,7", "/etc/passwd,6", "/bin/su,2", "/src/old.rs,0"],
    &["/bin/su,4755"],
    &["/bin/su", "/bin/tool"],
    &["30,begin,,", "31,create,/src/fixed.rs,", "32,write,/src/fixed.rs,", "33,commit,,"],
    &["2,13,/src/fixed.rs /src/old.rs"],
    &["v1,passwd,5", "5m,passwd,11", "now,passwd,11"],
    &["\"fn main() {}", "\",\"fn main() { run() }", "\",\"fn main() { run() }", "\""],
    &[
        "7,8,2026-11-22T10:00:05.000000000Z,0,1000",
        "8,19,2026-11-22T10:00:05.000000001Z,13,1000",
        "19,,2026-11-22T10:04:10.000000001Z,20,1000",
    ],
    &["2026-11-22T10:09:17.000000005Z,rmdir,/etc,39,1000,agent"],
    &["vi,10,6", "agent,5,2"],
    &["0,200,vi,vi main.rs", "1,100,bash,bash"],
    &["2026-11-22T10:00:05.000000000Z,create,/src/main.rs,"],
    &[
        "30,begin,,agent",
        "31,create,/src/fixed.rs,agent",
        "32,write,/src/fixed.rs,agent",
        "33,commit,,agent",
        "34,rmdir,/etc,agent",
    ],
    &["2026-11-22T10:04,10", "2026-11-22T10:09,5"],
    &["/src/copy.rs", "/src/only-here"],
    &["/src/big,300000", "/src/main.rs,20", "/src/fixed.rs,13", "/src/old.rs,13"],
];

#[test]
fn every_question_of_the_page_has_its_answer() {
    let world = busy();
    let now = START + 2040 * SECOND;
    let questions = questions();
    assert_eq!(questions.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    for ((number, query), wanted) in questions.iter().zip(ANSWERS) {
        // The first is asked a day later, and its answer is long.
        let now = if *number == 1 { now + 86_400 * SECOND } else { now };
        let answer = world.sql_when(now, None, query).unwrap_or_else(|error| panic!("{number}: {error}"));
        let lines: Vec<&str> = answer.lines().skip(1).collect();
        if *number == 1 {
            assert_eq!((lines.len(), &lines[..3]), (31, wanted));
        } else {
            assert_eq!(lines, wanted, "{number}: {query}");
        }
    }
}

#[test]
fn the_views_answer_any_sqlite_program_while_the_database_is_open() {
    let world = busy();
    let other =
        rusqlite::Connection::open_with_flags(world.path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let one = |sql: &str| -> String { other.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(one("SELECT group_concat(name, ' ') FROM (SELECT name FROM files WHERE path GLOB '/etc/*')"), "passwd");
    assert_eq!(one("SELECT CAST(size AS TEXT) FROM files WHERE path = '/src/main.rs'"), "20");
    assert_eq!(one("SELECT op || ' ' || path FROM events WHERE op = 'unlink'"), "unlink /etc/lost");
    assert_eq!(one("SELECT comm FROM processes WHERE label = 'robot'"), "agent");
    assert_eq!(one("SELECT state FROM transactions WHERE id = 1"), "committed");
    assert_eq!(one("SELECT group_concat(name, ' ') FROM (SELECT name FROM branches ORDER BY id)"), "main side");
    assert_eq!(one("SELECT name FROM tags"), "v1");
    assert_eq!(one("SELECT CAST(count(*) AS TEXT) FROM versions WHERE path = '/etc/passwd'"), "3");
    assert_eq!(one("SELECT CAST(count(*) AS TEXT) FROM conflicts"), "0");
    let error = other.execute("DELETE FROM event", []).unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
}
