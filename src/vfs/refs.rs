//! Names of states in paths.

use jiff::tz::TimeZone;

use super::Vfs;
use crate::engine::{Engine, FsError, Result};
use crate::types::{At, BranchId, TxnId, View};
use crate::version::refs::{self, RefContext};
use crate::version::{ErrorKind, VersionError, merge, txn};

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

/// What a failure of the version layer is to a program that asked by a path.
pub(super) fn meaning(error: VersionError) -> FsError {
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

/// The states that the conflicts of a transaction are between: base, ours, theirs.
pub(super) fn conflict_views(engine: &Engine, id: TxnId) -> Result<[View; 3]> {
    if let Ok(views) = merge::conflict_views(engine, id) {
        return Ok(views);
    }
    let row = txn::find(engine, id).map_err(meaning)?;
    let now = engine.seal(None)?;
    engine.flush(now)?;
    let base = txn::base(engine, &row).map_err(meaning)?;
    Ok([base, View::as_of(row.target, now), View::as_of(row.branch, now)])
}
