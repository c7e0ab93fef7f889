//! What can go wrong above the engine: a kind for programs, one line for people, and a hint.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::FsError;
use crate::store::StoreError;

/// What calls of this layer return.
pub type Result<T> = std::result::Result<T, VersionError>;

/// The kind of a failure, for exit statuses and errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No rule parses this text as a point, a branch or a tag.
    Unparsable,
    /// The point has not come yet.
    Future,
    /// The point is before the first event.
    BeforeFirst,
    /// The point has been pruned.
    Pruned,
    /// There is no such branch, tag, transaction, event or path.
    NotFound,
    /// The transaction is not committed, so that no point belongs to it.
    NotCommitted,
    /// A name that no branch or tag can have.
    BadName,
    /// The name is taken.
    Exists,
    /// Something still needs it.
    InUse,
    /// The branch has changes that are merged nowhere.
    Unmerged,
    /// Others have changed the same things.
    Conflict,
    /// Not in a state in which this can be done.
    State,
    /// Not the owner.
    Permission,
    /// The command makes no sense as given.
    Usage,
    /// The file system or the database failed, with this errno.
    Io(i32),
}

/// A failure: kind, one line that says what happened, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// One line without a full stop.
    pub message: String,
    /// What to do, where that is known.
    pub hint: Option<String>,
}

impl VersionError {
    /// Makes an error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> VersionError {
        VersionError { kind, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> VersionError {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the errno that a system call reports for this failure.
    pub fn errno(&self) -> i32 {
        match self.kind {
            ErrorKind::Unparsable
            | ErrorKind::Future
            | ErrorKind::BeforeFirst
            | ErrorKind::Pruned
            | ErrorKind::NotFound
            | ErrorKind::NotCommitted => libc::ENOENT,
            ErrorKind::BadName | ErrorKind::State | ErrorKind::Usage => libc::EINVAL,
            ErrorKind::Exists => libc::EEXIST,
            ErrorKind::InUse | ErrorKind::Unmerged | ErrorKind::Conflict => libc::EBUSY,
            ErrorKind::Permission => libc::EPERM,
            ErrorKind::Io(errno) => errno,
        }
    }
}

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for VersionError {}

impl From<FsError> for VersionError {
    fn from(error: FsError) -> VersionError {
        let kind = match error {
            FsError::NotFound => ErrorKind::NotFound,
            FsError::Exists => ErrorKind::Exists,
            FsError::Busy => ErrorKind::InUse,
            FsError::NotPermitted | FsError::Access => ErrorKind::Permission,
            _ => ErrorKind::Io(error.errno()),
        };
        let text = match error {
            FsError::Busy => "something is mounted in a directory that would go; unmount it first".to_owned(),
            error => error.to_string(),
        };
        VersionError::new(kind, text)
    }
}

impl From<StoreError> for VersionError {
    fn from(error: StoreError) -> VersionError {
        FsError::Store(error).into()
    }
}

/// Shows bytes that should be text: invalid and control bytes escaped.
pub fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
