//! Random input to what reads text and bytes of others: references, statements, the protocol.
//! `STONE_INPUT_CASES=N` tries more.

use jiff::tz::TimeZone;
use proptest::prelude::*;
use stonefs::control::{Request, read_frame, write_frame};
use stonefs::sql::{self, Asker, Cell, Limits, Output};
use stonefs::types::{Ino, View};
use stonefs::version::{branch, refs, resolve};

use crate::world::{MAIN, World};

fn cases(cases: u32) -> ProptestConfig {
    let cases = std::env::var("STONE_INPUT_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A database with names that look like points, for a whole test.
fn world() -> World {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    for n in 0..5 {
        w.write(MAIN, "d/f", &n.to_string()).unwrap();
        w.tick(60);
    }
    w.branch("side", MAIN);
    let (row, view) = w.begin();
    w.write(view, "t", "t").unwrap();
    w.commits(&row);
    branch::tag(&w.engine, b"v1", MAIN, "", w.engine.point().1, &w.caller).unwrap();
    w
}

/// Pieces of references, and anything else.
fn reference() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "e", "T", "^", "@", "main", "side", "v1", "now", "yesterday", "-", " ", "ago", "m", "h", "d", "w", ":", "T1",
            "2026-11-22", "10:40", "Z", "+01:00", "_", "e5", "e0", "99999999999999999999", "1", "0", ".5", "\u{e9}", "/", "..",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Pieces of statements.
fn statement() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "SELECT",
        "*",
        "path",
        "count(*)",
        "FROM",
        "files",
        "events",
        "versions",
        "FOR SYSTEM_TIME AS OF",
        "FOR",
        "AS OF",
        "'e5'",
        "'v1'",
        "'nothing'",
        "''",
        "'",
        "\"",
        "--",
        "/*",
        "*/",
        "(",
        ")",
        ",",
        ";",
        "WHERE",
        "path =",
        "glob",
        "LIKE",
        "content('/d/f')",
        "content_at('/d/f', 'e5')",
        "path(2)",
        "JOIN",
        "LIMIT 1",
        "e5",
        "TIMESTAMP",
        "\u{e9}",
        "\0",
        "[",
        "]",
        "`",
        "?1",
        ":a",
        "x'00'",
        "1e999",
        "WITH",
        "PRAGMA",
        "ATTACH 'x'",
        "DELETE",
        "regexp('(', path)",
        "ORDER BY 1",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.join(" "))
}

struct Nothing;

impl Output for Nothing {
    fn columns(&mut self, _: &[&str]) -> Result<(), String> {
        Ok(())
    }
    fn row(&mut self, _: Vec<Cell>) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn no_reference_is_a_panic_and_every_state_that_resolves_can_be_read() {
    let w = world();
    let context = w.context();
    proptest!(cases(512), |(text in reference())| {
        let parts = refs::split(&text);
        prop_assert!(parts.rest.len() <= text.len());
        match resolve(&w.engine, &text, &context) {
            Ok(view) => {
                prop_assert!(w.engine.branch(view.branch).is_some());
                prop_assert!(w.engine.list(view, Ino::ROOT).is_ok(), "{:?}", text.escape_ascii().to_string());
            }
            Err(error) => {
                let line = error.to_string();
                prop_assert!(!line.is_empty() && line.lines().count() == 1, "{line:?}");
            }
        }
    });
    assert!(w.engine.health().is_none());
    assert_eq!(w.read(MAIN, "d/f").unwrap(), "4");
}

#[test]
fn no_statement_is_a_panic_or_changes_anything() {
    let w = world();
    let before = w.tree(MAIN);
    let asker = Asker { branch: MAIN.branch, zone: TimeZone::UTC, now: w.context().now, at: None };
    proptest!(cases(512), |(text in statement())| {
        let limits = Limits { time_ms: 20_000, ..Limits::default() };
        if let Err(line) = sql::query(&w.engine, &asker, &text, limits, &mut Nothing) {
            prop_assert!(!line.is_empty(), "{text:?}");
        }
        sql::complete(&text);
    });
    assert_eq!(w.tree(MAIN), before);
    w.check();
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn no_bytes_on_the_socket_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in any::<u32>()) {
        let _ = read_frame::<Request>(&mut bytes.as_slice());
        let framed = [&length.to_le_bytes()[..], &bytes].concat();
        let _ = read_frame::<Request>(&mut framed.as_slice());
        let framed = [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
        let _ = read_frame::<Request>(&mut framed.as_slice());
    }

    #[test]
    fn a_request_with_anything_missing_or_cut_is_refused(at in 0..200_usize, byte in any::<u8>()) {
        let request = Request {
            protocol: 1, work: "status".into(), origin: serde_json::json!({"zone": "UTC", "dev": 5}), args: serde_json::json!({}),
        };
        let mut wire = Vec::new();
        write_frame(&mut wire, &request).unwrap();
        let cut = &wire[..at.min(wire.len() - 1)];
        prop_assert!(read_frame::<Request>(&mut &cut[..]).is_err());
        let at = at % wire.len();
        wire[at] = byte;
        let _ = read_frame::<Request>(&mut wire.as_slice());
    }
}

#[test]
fn a_view_that_does_not_exist_is_an_error_everywhere() {
    let w = world();
    for view in [
        View::live(stonefs::types::BranchId(99)),
        View::as_of(MAIN.branch, stonefs::types::Seq(u64::MAX)),
        View::as_of(stonefs::types::BranchId(0), stonefs::types::Seq(3)),
    ] {
        assert!(w.engine.list(view, Ino::ROOT).is_err(), "{view:?}");
        assert!(w.engine.lineage(view).is_err() || w.engine.getattr(view, Ino::ROOT).is_err());
    }
}
