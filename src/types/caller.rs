//! Who asks for an operation.

use super::ProcId;

/// The process on whose behalf an operation runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective (file-system) user.
    pub uid: u32,
    /// Effective (file-system) group.
    pub gid: u32,
    /// Process id in the daemon's namespace; 0 where the kernel does not tell.
    pub pid: u32,
    /// The process entity of the record; `ProcId(0)` where unknown.
    pub process: ProcId,
}
