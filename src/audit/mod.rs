//! L2: who did it, and proof that the record is what it was: process entities and the chain of digests.

mod chain;
mod encode;
mod process;
mod procfs;
mod verify;

pub use chain::{Chain, Digest, digest, genesis};
pub use process::{ProcessSink, ProcessTable};
pub use procfs::core_of;
pub use verify::{Proof, find_head, verify};
