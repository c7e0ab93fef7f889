//! Integration tests, one binary.

mod damage;
mod faults;
mod inputs;
mod queries;
mod record;
mod shell;
mod space;
mod store_conformance;
mod store_resolution;
mod store_sqlite;
mod version_cases;
mod version_large;
mod version_merge;
mod version_past;
mod version_prune;
mod version_random;
mod version_serial;
mod version_txn;
#[allow(dead_code)]
mod world;
