//! The real kernel: every test mounts a database of its own and uses it by system calls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod corners;
mod daemon;
mod freshness;
mod harness;
mod permissions;
mod posix;
mod program;
mod reads;
mod strangers;
mod switching;
mod views;
