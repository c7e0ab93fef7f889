//! The schema's version: migrations, and the refusal of what is not ours.

use std::path::Path;

use rusqlite::Connection;

use super::posting;
use crate::store::{Result, StoreError};

/// `STON`, at offset 68 of the file.
pub(super) const APPLICATION_ID: i64 = 0x5354_4F4E;

/// Bytes in a database page.
const PAGE_SIZE: i64 = 16384;

/// Every migration, in order; migration `i` leads to version `i + 1`.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../schema/0001_initial.sql"),
    include_str!("../../../schema/0002_record.sql"),
    include_str!("../../../schema/0003_processes.sql"),
    include_str!("../../../schema/0004_postings.sql"),
    include_str!("../../../schema/0005_staged.sql"),
];

/// The version before which there were no postings.
const UNPOSTED: i64 = 4;

/// The views for other programs; made anew with every migration.
const VIEWS: &str = include_str!("../../../schema/views.sql");

/// The version that this program writes.
pub(super) fn latest() -> i64 {
    MIGRATIONS.len() as i64
}

/// Makes the tables of a new, empty database. Must run before the journal becomes a WAL.
pub(super) fn create(conn: &Connection) -> Result<()> {
    conn.execute_batch(&format!("PRAGMA page_size={PAGE_SIZE}; PRAGMA auto_vacuum=INCREMENTAL;"))?;
    conn.execute_batch("BEGIN IMMEDIATE")?;
    apply_from(conn, 0)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.execute_batch("COMMIT")?;
    Ok(())
}

/// Checks that a file is ours and not from the future; returns its version.
pub(super) fn inspect(conn: &Connection, path: &Path) -> Result<i64> {
    let shown = path.display();
    let pragma = |name: &str| -> Result<i64> {
        conn.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| match StoreError::from(error) {
            StoreError::Schema(_) => StoreError::Schema(format!("{shown} is not a StoneFS database")),
            StoreError::Corrupt(why) => {
                StoreError::Corrupt(format!("{shown} is truncated or damaged ({why}); restore it from a backup"))
            }
            other => other,
        })
    };
    let application = pragma("application_id")?;
    if application != APPLICATION_ID {
        return Err(StoreError::Schema(format!("{shown} is not a StoneFS database")));
    }
    let version = pragma("user_version")?;
    if version > latest() {
        return Err(StoreError::Schema(format!(
            "{shown} was written by a newer StoneFS (schema {version}, this program knows up to {}); use a newer stone",
            latest()
        )));
    }
    if version < 1 {
        return Err(StoreError::Schema(format!("{shown} has no schema version; it was never completely made")));
    }
    Ok(version)
}

/// Brings an older database up to date, in one transaction.
pub(super) fn migrate(conn: &Connection, version: i64) -> Result<()> {
    if version == latest() {
        return Ok(());
    }
    conn.execute_batch("BEGIN IMMEDIATE")?;
    apply_from(conn, version)?;
    conn.execute_batch("COMMIT")?;
    Ok(())
}

fn apply_from(conn: &Connection, version: i64) -> Result<()> {
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        conn.execute_batch(migration)?;
    }
    if version < UNPOSTED {
        posting::rebuild(conn)?;
    }
    conn.execute_batch(VIEWS)?;
    conn.pragma_update(None, "user_version", latest())?;
    Ok(())
}
