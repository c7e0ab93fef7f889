//! The real kernel: every test mounts a database of its own and uses it by system calls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod harness;
mod permissions;
mod posix;
mod switching;
mod views;
