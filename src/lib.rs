//! StoneFS: a POSIX file system whose disk is a database.
//!
//! Modules import downwards only, in the order in which they stand here; `tests/architecture.rs`
//! keeps it so. `docs/ARCHITECTURE.md` says what each layer owns.

pub mod types;

pub mod store;

pub mod audit;

pub mod engine;

pub mod version;

pub mod sql;

pub mod vfs;

pub mod control;

pub mod fuse;

pub mod cli;
