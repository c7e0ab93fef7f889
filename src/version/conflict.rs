//! Conflicts, and what a transaction keeps of its kind: both travel as JSON in its row.

use serde::{Deserialize, Serialize};

use super::bytes::PathBytes;
use super::error::{Result, VersionError};
use super::readset::ReadSet;
use crate::store::TxnRow;
use crate::types::{BranchId, Ino, Seq, TxnId};

/// Why two lines of change do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// Both changed the content of a file.
    Content,
    /// Both put something new at one name.
    AddAdd,
    /// One changed what the other removed.
    ModifyDelete,
    /// One moved what the other removed.
    RenameDelete,
    /// Both moved one thing to different names, or different things to one name.
    RenameRename,
    /// A directory on one side stands where the other has something else.
    DirectoryFile,
    /// The type differs.
    Type,
    /// Both changed mode, owner, ACL or xattrs.
    Attributes,
    /// Together the moves would put a directory below itself.
    DirectoryCycle,
    /// Both changed what one name in a directory stands for (commit).
    Entry,
    /// A directory that one removed has been filled by the other (commit).
    NotEmpty,
    /// The directory, or the file that was linked, has been removed by the other (commit).
    Removed,
    /// What the transaction read has changed since (serializable commit).
    Read,
}

impl ConflictKind {
    /// The word that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            ConflictKind::Content => "content",
            ConflictKind::AddAdd => "add/add",
            ConflictKind::ModifyDelete => "modify/delete",
            ConflictKind::RenameDelete => "rename/delete",
            ConflictKind::RenameRename => "rename/rename",
            ConflictKind::DirectoryFile => "directory/file",
            ConflictKind::Type => "type",
            ConflictKind::Attributes => "attributes",
            ConflictKind::DirectoryCycle => "directory cycle",
            ConflictKind::Entry => "entry",
            ConflictKind::NotEmpty => "not empty",
            ConflictKind::Removed => "removed",
            ConflictKind::Read => "read",
        }
    }
}

/// One of the three versions of what is in conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictSide {
    /// Its inode there.
    pub ino: Ino,
    /// Its path there.
    pub path: PathBytes,
}

/// Whose version was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// That of the branch that receives the changes.
    Ours,
    /// That of the branch that was merged, or of the transaction.
    Theirs,
}

/// How a conflict was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// As the receiving branch has it.
    Ours,
    /// As the merged branch has it.
    Theirs,
    /// By a file's content.
    File,
}

/// One thing (an inode and its successors) as the three states have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Triple {
    /// In the merge base.
    pub base: Option<Ino>,
    /// On the receiving branch.
    pub ours: Option<Ino>,
    /// On the merged branch.
    pub theirs: Option<Ino>,
}

/// A row of `stone conflicts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Why.
    pub kind: ConflictKind,
    /// Where it shows: the path of ours where there is one.
    pub path: PathBytes,
    /// As it was at the merge base or the transaction's begin.
    pub base: Option<ConflictSide>,
    /// As the receiving branch has it.
    pub ours: Option<ConflictSide>,
    /// As the merged branch or the transaction has it.
    pub theirs: Option<ConflictSide>,
    /// Everything that the conflict is about.
    #[serde(default)]
    pub ids: Vec<Triple>,
    /// How it was resolved.
    pub resolved: Option<Resolution>,
}

impl Conflict {
    /// Whether one of its paths is this one.
    pub fn is_at(&self, path: &[u8]) -> bool {
        let sides = [&self.base, &self.ours, &self.theirs];
        self.path.as_bytes() == path || sides.into_iter().flatten().any(|side| side.path.as_bytes() == path)
    }
}

/// A fixed or live state, as JSON keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRef {
    /// The branch.
    pub branch: BranchId,
    /// The point on it.
    pub seq: Seq,
}

/// What a merge keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeDetail {
    /// The merge base (a hidden branch where several were merged into one).
    pub base: StateRef,
    /// What receives it.
    pub ours: StateRef,
    /// What is merged.
    pub theirs: StateRef,
    /// Pairs of inodes that stand for one thing: merged directories, equal additions, successors; those that no merge
    /// before it has found. They hold in every later merge none of whose states has both.
    pub aliases: Vec<(Ino, Ino)>,
}

/// What an undo, redo or restore keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoDetail {
    /// The events whose changes were taken back, or brought back by a redo.
    pub events: Vec<Seq>,
    /// The transaction that was taken back.
    pub txn: Option<TxnId>,
}

/// Everything kind-specific in a transaction's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The conflicts of the last attempt to commit, or of the merge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// For merges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeDetail>,
    /// For undo and redo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoDetail>,
    /// What a serializable transaction had read when it was left open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<ReadSet>,
}

impl Detail {
    /// Reads a row's detail; an empty one is nothing.
    ///
    /// # Errors
    /// When it is no JSON of ours.
    pub fn of(row: &TxnRow) -> Result<Detail> {
        if row.detail.is_empty() {
            return Ok(Detail::default());
        }
        serde_json::from_str(&row.detail).map_err(|error| {
            let what = format!("the detail of transaction T{} cannot be read: {error}", row.id);
            VersionError::new(super::ErrorKind::Io(libc::EIO), what)
        })
    }

    /// Prints it for a row.
    pub fn print(&self) -> String {
        if *self == Detail::default() {
            return String::new();
        }
        serde_json::to_string(self).unwrap_or_default()
    }
}
