//! The SQLite store.

pub mod query;
