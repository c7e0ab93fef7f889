//! L4: naming states, branches and tags, transactions, diff, merge, history and undo.
//!
//! Pure algorithms (parsing, line diffs, merge bases) stand apart from what reads the store; nothing
//! here prints, and everything returned is typed.

pub mod branch;
mod bytes;
mod changeset;
pub mod conflict;
mod delta;
pub mod diff;
mod error;
pub mod history;
mod large;
pub mod merge;
pub mod point;
pub mod readset;
pub mod refs;
pub mod restore;
mod state;
pub mod text;
pub mod txn;
pub mod undo;

pub use bytes::PathBytes;
pub use error::{ErrorKind, Result, VersionError, show};
pub use readset::{ReadLog, ReadSet};
pub use refs::{RefContext, resolve};
