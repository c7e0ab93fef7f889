//! What can go wrong below the waist.

use std::fmt;

/// A failure of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another program holds the database for writing.
    Busy(String),
    /// A row that must be new exists, or one that must exist does not.
    Conflict(String),
    /// The disk or the configured size limit is full; nothing of the group was applied.
    Full,
    /// The database's content is damaged.
    Corrupt(String),
    /// The file is not a StoneFS database, or of a newer version than this program.
    Schema(String),
    /// The store was closed or failed before and takes no more writes.
    Closed,
    /// The disk or the database engine failed.
    Backend(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Busy(what) => write!(f, "database is in use: {what}"),
            StoreError::Conflict(what) => write!(f, "conflicting rows: {what}"),
            StoreError::Full => write!(f, "no space left for the database"),
            StoreError::Corrupt(what) => write!(f, "database is damaged: {what}"),
            StoreError::Schema(what) => write!(f, "{what}"),
            StoreError::Closed => write!(f, "database takes no more changes after an earlier failure"),
            StoreError::Backend(what) => write!(f, "database error: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}
