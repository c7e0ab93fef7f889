//! The planner must take the indexes that the statements were written for.

use rusqlite::Connection;

use super::{chunk, entry, event, extent, inode, posting, schema, shown, touched, xattr};

fn plan(conn: &Connection, sql: &str) -> String {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let parameters = statement.parameter_count();
    let rows = statement.query_map(rusqlite::params_from_iter(vec![1i64; parameters]), |row| row.get::<_, String>(3));
    rows.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ")
}

#[test]
fn every_hot_statement_is_one_seek_in_its_own_index() {
    let conn = Connection::open_in_memory().unwrap();
    schema::create(&conn).unwrap();
    for (sql, expected) in [
        (inode::EXACT, "SEARCH inode USING PRIMARY KEY (ino=? AND branch=? AND valid_from<?)"),
        (inode::BELOW, "SEARCH inode USING PRIMARY KEY (ino=? AND (branch,valid_from)<(?,?))"),
        (inode::NEWEST, "SEARCH inode USING PRIMARY KEY (ino=? AND branch=?)"),
        (entry::EXACT, "SEARCH entry USING PRIMARY KEY (parent=? AND name=? AND branch=? AND valid_from<?)"),
        (entry::BELOW, "SEARCH entry USING PRIMARY KEY (parent=? AND name=? AND (branch,valid_from)<(?,?))"),
        (entry::NEWEST, "SEARCH entry USING PRIMARY KEY (parent=? AND name=? AND branch=?)"),
        (entry::LIST_NOW, "SEARCH entry USING COVERING INDEX entry_now (parent=? AND branch=?)"),
        (entry::LIST, "SEARCH entry USING PRIMARY KEY (parent=? AND name>?)"),
        (entry::BY_INO, "SEARCH entry USING INDEX entry_ino (ino=?)"),
        (xattr::LIST, "SEARCH xattr USING PRIMARY KEY (ino=?)"),
        (extent::EXACT, "SEARCH extent USING PRIMARY KEY (ino=? AND idx=? AND branch=? AND valid_from<?)"),
        (extent::BELOW, "SEARCH extent USING PRIMARY KEY (ino=? AND idx=? AND (branch,valid_from)<(?,?))"),
        (extent::LIST, "SEARCH extent USING PRIMARY KEY (ino=? AND idx>? AND idx<?)"),
        (chunk::BY_HASH, "SEARCH chunk USING INDEX chunk_prefix (prefix=?)"),
        (touched::EVENTS, "SEARCH event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (posting::BEFORE, "SEARCH posting USING PRIMARY KEY (kind=? AND key=? AND first<?)"),
        (posting::STRETCHES, "SEARCH posting USING PRIMARY KEY (kind=? AND key=? AND first<?)"),
        (touched::CHANGES, "SEARCH change USING PRIMARY KEY (branch=? AND seq>? AND seq<?)"),
        (touched::INODE, "SEARCH inode USING PRIMARY KEY (ino=? AND branch=?)"),
        (touched::ENTRY, "SEARCH entry USING PRIMARY KEY (parent=? AND name=? AND branch=?)"),
        (shown::UNDER, "SEARCH inode USING PRIMARY KEY (ino=? AND branch=? AND valid_from<?)"),
        (shown::FIRST, "SEARCH inode USING PRIMARY KEY (ino=? AND branch=?)"),
        (shown::YOUNGER, "SEARCH inode USING PRIMARY KEY (ino=? AND branch>?)"),
        (event::AT, "SEARCH event USING INTEGER PRIMARY KEY (rowid<?)"),
    ] {
        let plan = plan(&conn, sql);
        assert!(plan.contains(expected), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE") && !plan.contains("SCAN event"), "{sql}\n{plan}");
    }
}
