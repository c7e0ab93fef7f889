//! What a file-system call can fail with: one variant per POSIX meaning, and one mapping to errno.

use std::fmt;

use crate::store::StoreError;
use crate::types::NameError;

/// A failed file-system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsError {
    /// No such entry, inode or state.
    NotFound,
    /// The name exists.
    Exists,
    /// A directory is needed.
    NotDir,
    /// No directory is allowed.
    IsDir,
    /// The directory has entries.
    NotEmpty,
    /// Not allowed by ownership or by the kind of file (`EPERM`).
    NotPermitted,
    /// Not allowed by permission bits (`EACCES`).
    Access,
    /// History is read-only (`EROFS`).
    ReadOnly,
    /// An argument makes no sense.
    Invalid,
    /// A name is longer than 255 bytes.
    NameTooLong,
    /// A file would grow past the 64-bit limits.
    TooLarge,
    /// Too many links.
    TooManyLinks,
    /// The attribute does not exist.
    NoAttr,
    /// The caller's buffer is too small, or a value is too large.
    Range,
    /// A value is larger than the limit of extended attributes.
    TooBig,
    /// Source and target are of different views.
    CrossView,
    /// In use.
    Busy,
    /// No offset beyond this one holds what was looked for (`ENXIO`).
    NoSuchOffset,
    /// A bad file handle, or one that is not open for this.
    BadHandle,
    /// Not implemented for this kind of file.
    NotSupported,
    /// Stale: the object is gone.
    Stale,
    /// A program that is running (`ETXTBSY`).
    TextBusy,
    /// The operation would wait and must not.
    WouldBlock,
    /// The store failed.
    Store(StoreError),
}

impl FsError {
    /// Returns the errno that a system call reports.
    pub fn errno(&self) -> i32 {
        match self {
            FsError::NotFound => libc::ENOENT,
            FsError::Exists => libc::EEXIST,
            FsError::NotDir => libc::ENOTDIR,
            FsError::IsDir => libc::EISDIR,
            FsError::NotEmpty => libc::ENOTEMPTY,
            FsError::NotPermitted => libc::EPERM,
            FsError::Access => libc::EACCES,
            FsError::ReadOnly => libc::EROFS,
            FsError::Invalid => libc::EINVAL,
            FsError::NameTooLong => libc::ENAMETOOLONG,
            FsError::TooLarge => libc::EFBIG,
            FsError::TooManyLinks => libc::EMLINK,
            FsError::NoAttr => libc::ENODATA,
            FsError::Range => libc::ERANGE,
            FsError::TooBig => libc::E2BIG,
            FsError::CrossView => libc::EXDEV,
            FsError::Busy => libc::EBUSY,
            FsError::NoSuchOffset => libc::ENXIO,
            FsError::BadHandle => libc::EBADF,
            FsError::NotSupported => libc::EOPNOTSUPP,
            FsError::Stale => libc::ESTALE,
            FsError::TextBusy => libc::ETXTBSY,
            FsError::WouldBlock => libc::EAGAIN,
            FsError::Store(error) => match error {
                StoreError::Full => libc::ENOSPC,
                StoreError::Busy(_)
                | StoreError::Conflict(_)
                | StoreError::Corrupt(_)
                | StoreError::Schema(_)
                | StoreError::Closed
                | StoreError::Backend(_) => libc::EIO,
            },
        }
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FsError::Store(error) => error.fmt(f),
            FsError::NotFound
            | FsError::Exists
            | FsError::NotDir
            | FsError::IsDir
            | FsError::NotEmpty
            | FsError::NotPermitted
            | FsError::Access
            | FsError::ReadOnly
            | FsError::Invalid
            | FsError::NameTooLong
            | FsError::TooLarge
            | FsError::TooManyLinks
            | FsError::NoAttr
            | FsError::Range
            | FsError::TooBig
            | FsError::CrossView
            | FsError::Busy
            | FsError::NoSuchOffset
            | FsError::BadHandle
            | FsError::NotSupported
            | FsError::Stale
            | FsError::TextBusy
            | FsError::WouldBlock => {
                let text = std::io::Error::from_raw_os_error(self.errno()).to_string();
                f.write_str(text.split(" (os error").next().unwrap_or(&text))
            }
        }
    }
}

impl std::error::Error for FsError {}

impl From<StoreError> for FsError {
    fn from(error: StoreError) -> FsError {
        FsError::Store(error)
    }
}

impl From<NameError> for FsError {
    fn from(error: NameError) -> FsError {
        match error {
            NameError::Invalid => FsError::Invalid,
            NameError::TooLong => FsError::NameTooLong,
        }
    }
}
