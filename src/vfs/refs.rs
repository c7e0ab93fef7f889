//! Names of states in paths, and what mkdir and rmdir of a branch mean.

use crate::engine::{Engine, FsError, Result};
use crate::store::BranchRow;
use crate::types::{At, BranchId, Caller, Seq, View};

/// Whether a name always means the same state; `5m` and the like do not.
pub(super) fn is_fixed(name: &[u8]) -> bool {
    match name {
        [b'e' | b'T', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// The past state that a name in `/.history` stands for, complete and readable.
pub(super) fn resolve_past(engine: &Engine, name: &[u8], branch: BranchId) -> Result<View> {
    let now = engine.point().0;
    let view = match resolve(engine, name, branch)? {
        View { branch, at: At::Live } => View::as_of(branch, now),
        past => past,
    };
    if let At::AsOf(seq) = view.at {
        if seq > now {
            return Err(FsError::NotFound);
        }
        if seq == now {
            engine.seal(None)?;
        }
        engine.flush(seq)?;
    }
    Ok(view)
}

fn resolve(engine: &Engine, name: &[u8], branch: BranchId) -> Result<View> {
    let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
    if let Some((of, point)) = text.split_once('@') {
        let row = engine.branch_named(of.as_bytes()).ok_or(FsError::NotFound)?;
        return resolve(engine, point.as_bytes(), row.id);
    }
    if let Some(seq) = text.strip_prefix('e').and_then(|digits| digits.parse().ok()) {
        return Ok(View::as_of(branch, Seq(seq)));
    }
    if let Some(tag) = engine.tags().into_iter().find(|tag| tag.name == name) {
        return Ok(View::as_of(tag.branch, tag.seq));
    }
    if text == "now" {
        return Ok(View::live(branch));
    }
    let row = engine.branch_named(name).filter(|row| row.dropped.is_none()).ok_or(FsError::NotFound)?;
    Ok(View::live(row.id))
}

/// Checks that bytes can name a branch.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let bad = |byte: &u8| matches!(byte, b'/' | b'@') || byte.is_ascii_control();
    if name.len() > 255 {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() || name.starts_with(b".") || name.starts_with(b"-") || name.iter().any(bad) || is_fixed(name) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// Drops a branch that holds nothing of its own and that no other was forked from.
pub(super) fn drop_branch(engine: &Engine, row: BranchRow, caller: &Caller) -> Result<()> {
    if engine.branches().iter().any(|other| other.parent == Some(row.id) && other.dropped.is_none()) {
        return Err(FsError::Busy);
    }
    let now = engine.point().0;
    engine.flush(now)?;
    let touched = engine.store().read()?.touched(row.id, row.base, now)?;
    if !touched.inodes.is_empty() || !touched.entries.is_empty() {
        return Err(FsError::NotEmpty);
    }
    engine.update_branch(BranchRow { dropped: Some(now), ..row }, caller)
}
