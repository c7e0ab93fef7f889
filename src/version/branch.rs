//! Branches and tags: made, listed, renamed and dropped by name.

use serde::{Deserialize, Serialize};

use super::bytes::PathBytes;
use super::error::{ErrorKind, Result, VersionError, show};
use super::{merge, refs, txn};
use crate::engine::{Engine, FsError};
use crate::store::{BranchRow, TagRow};
use crate::types::{At, BranchId, Caller, Seq, Timestamp, View};

/// A branch in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchInfo {
    /// Its number.
    pub id: BranchId,
    /// Its name.
    pub name: PathBytes,
    /// The name of the branch it was forked from, where that has one.
    pub parent: Option<PathBytes>,
    /// The last event of the parent that it sees.
    pub base: Seq,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    pub uid: u32,
}

/// A tag in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagInfo {
    /// Its name.
    pub name: PathBytes,
    /// The name of its branch, where that has one.
    pub branch: Option<PathBytes>,
    /// The number of its branch.
    pub branch_id: BranchId,
    /// Its point.
    pub seq: Seq,
    /// When it was made.
    pub time: Timestamp,
    /// Who made it.
    pub uid: u32,
    /// Why.
    pub message: String,
}

fn name_of(engine: &Engine, id: BranchId) -> Option<PathBytes> {
    engine.branch(id).and_then(|row| row.name).map(PathBytes)
}

/// Lists the branches that have a name and were not dropped, by name.
pub fn list(engine: &Engine) -> Vec<BranchInfo> {
    let rows = engine.branches().into_iter().filter(|row| row.dropped.is_none());
    let mut list: Vec<BranchInfo> = rows
        .filter_map(|row| {
            Some(BranchInfo {
                id: row.id,
                name: PathBytes(row.name?),
                parent: row.parent.and_then(|parent| name_of(engine, parent)),
                base: row.base,
                created: row.created_time,
                uid: row.uid,
            })
        })
        .collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// Says in words what has a name already.
fn taken(engine: &Engine, name: &[u8], error: FsError) -> VersionError {
    match error {
        FsError::Exists => {
            let what = if refs::tag(engine, name).is_some() { "tag" } else { "branch" };
            VersionError::new(ErrorKind::Exists, format!("{:?}: a {what} of that name exists already", show(name)))
        }
        other => other.into(),
    }
}

/// Creates a branch that begins at a state; costs the same for any tree.
///
/// # Errors
/// [`ErrorKind::BadName`], [`ErrorKind::Exists`].
pub fn create(engine: &Engine, name: &[u8], from: View, caller: &Caller) -> Result<BranchRow> {
    refs::check_name(name)?;
    engine.fork(Some(name), from, caller).map_err(|error| taken(engine, name, error))
}

/// Gives a branch another name.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::BadName`], [`ErrorKind::Exists`].
pub fn rename(engine: &Engine, old: &[u8], new: &[u8], caller: &Caller) -> Result<()> {
    let row = refs::branch(engine, old)?;
    refs::check_name(new)?;
    if old == new {
        return Ok(());
    }
    let row = BranchRow { name: Some(new.to_vec()), ..row };
    engine.update_branch(row, caller).map_err(|error| taken(engine, new, error))
}

/// Drops a branch: its name is free again, its past stays. `live` lists the live branches of mounts.
///
/// # Errors
/// [`ErrorKind::InUse`] for a live one, one that others were forked from, and one with open
/// transactions; [`ErrorKind::Unmerged`] for one with changes that no other branch has, unless `force`.
pub fn drop(engine: &Engine, name: &[u8], force: bool, live: &[BranchId], caller: &Caller) -> Result<()> {
    let row = refs::branch(engine, name)?;
    let in_use = |why: String| Err(VersionError::new(ErrorKind::InUse, format!("branch {:?} {why}", show(name))));
    if live.contains(&row.id) {
        return in_use("is the live branch of a mount".into())
            .map_err(|error| error.hint("'stone switch' to another one first"));
    }
    let child = engine.branches().into_iter().find(|child| child.parent == Some(row.id) && child.dropped.is_none());
    if let Some(child) = child
        && let Some(child_name) = &child.name
    {
        return in_use(format!("is what {:?} was forked from", show(child_name)));
    }
    if let Some(open) = txn::open_ones(engine).into_iter().find(|open| open.target == row.id) {
        return in_use(format!("has the open transaction T{}", open.id))
            .map_err(|error| error.hint("commit it or roll it back first"));
    }
    if !force && !merge::is_merged(engine, row.id)? {
        let what = format!("branch {:?} has changes that are merged nowhere", show(name));
        return Err(VersionError::new(ErrorKind::Unmerged, what).hint("-D drops it all the same"));
    }
    engine.update_branch(BranchRow { dropped: Some(Seq::MAX), ..row }, caller)?;
    Ok(())
}

/// Lists the tags by name.
pub fn tags(engine: &Engine) -> Vec<TagInfo> {
    let rows = engine.tags().into_iter();
    rows.map(|row| TagInfo {
        branch: name_of(engine, row.branch),
        branch_id: row.branch,
        name: PathBytes(row.name),
        seq: row.seq,
        time: row.time,
        uid: row.uid,
        message: row.message,
    })
    .collect()
}

/// Names a state. `now` is the wall time.
///
/// # Errors
/// [`ErrorKind::BadName`], [`ErrorKind::Exists`].
pub fn tag(engine: &Engine, name: &[u8], at: View, message: &str, now: Timestamp, caller: &Caller) -> Result<TagRow> {
    refs::check_name(name)?;
    let seq = match at.at {
        At::Live => engine.seal(Some(at.branch))?,
        At::AsOf(seq) => seq,
    };
    let row =
        TagRow { name: name.to_vec(), branch: at.branch, seq, time: now, uid: caller.uid, message: message.to_owned() };
    engine.set_tag(name, Some(row.clone()), caller).map_err(|error| taken(engine, name, error))?;
    Ok(row)
}

/// Removes a tag.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn remove_tag(engine: &Engine, name: &[u8], caller: &Caller) -> Result<()> {
    if refs::tag(engine, name).is_none() {
        return Err(VersionError::new(ErrorKind::NotFound, format!("no tag {:?}", show(name))));
    }
    Ok(engine.set_tag(name, None, caller)?)
}
