//! Names of states in paths, and what mkdir and rmdir of a branch mean.

use jiff::tz::TimeZone;

use super::Vfs;
use crate::engine::{Engine, FsError, Result};
use crate::store::BranchRow;
use crate::types::{At, BranchId, Caller, View};
use crate::version::refs::{self, RefContext};
use crate::version::{ErrorKind, VersionError};

/// Whether a name always means the same state; `5m` and the like do not.
pub(super) fn is_fixed(name: &[u8]) -> bool {
    match name {
        [b'e' | b'T', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// The past state that a name in `/.history` stands for, complete and readable.
pub(super) fn resolve_past(vfs: &Vfs, name: &[u8], branch: BranchId) -> Result<View> {
    let context = RefContext { branch, zone: TimeZone::system(), now: vfs.clock.now() };
    match refs::resolve(&vfs.engine, name, &context).map_err(meaning)? {
        View { branch, at: At::Live } => {
            let now = vfs.engine.seal(None)?;
            vfs.engine.flush(now)?;
            Ok(View::as_of(branch, now))
        }
        past => Ok(past),
    }
}

/// Checks that bytes can name a branch.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    refs::check_name(name).map_err(meaning)
}

/// What a failure of the version layer is to a program that asked by a path.
fn meaning(error: VersionError) -> FsError {
    match error.kind {
        ErrorKind::Unparsable
        | ErrorKind::Future
        | ErrorKind::BeforeFirst
        | ErrorKind::Pruned
        | ErrorKind::NotFound
        | ErrorKind::NotCommitted => FsError::NotFound,
        ErrorKind::BadName | ErrorKind::State | ErrorKind::Usage => FsError::Invalid,
        ErrorKind::Exists => FsError::Exists,
        ErrorKind::InUse | ErrorKind::Unmerged | ErrorKind::Conflict => FsError::Busy,
        ErrorKind::Permission => FsError::NotPermitted,
        ErrorKind::Io(_) => FsError::Store(crate::store::StoreError::Backend(error.message)),
    }
}

/// Drops a branch that holds nothing of its own and that no other was forked from.
pub(super) fn drop_branch(engine: &Engine, row: BranchRow, caller: &Caller) -> Result<()> {
    if engine.branches().iter().any(|other| other.parent == Some(row.id) && other.dropped.is_none()) {
        return Err(FsError::Busy);
    }
    let now = engine.seal(Some(row.id))?;
    engine.flush(now)?;
    let touched = engine.store().read()?.touched(row.id, row.base, now)?;
    if !touched.inodes.is_empty() || !touched.entries.is_empty() {
        return Err(FsError::NotEmpty);
    }
    engine.update_branch(BranchRow { dropped: Some(now), ..row }, caller)
}
