//! L2: who did it, and proof that the record is what it was: process entities and the chain of digests.

mod process;
mod procfs;

pub use process::{ProcessSink, ProcessTable};
