//! Errors of commands: a status and one line that says what went wrong and what to do.

use std::fmt;
use std::io;

use crate::control::Failure;
use crate::engine::FsError;
use crate::fuse::MountError;
use crate::store::StoreError;
use crate::version::{ErrorKind, VersionError};

use super::text::escape;

/// Why a command did not do what it was asked for.
#[derive(Clone, Debug)]
pub struct Error(pub Failure);

/// What commands return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Failed (status 1).
    pub fn failed(message: impl Into<String>) -> Error {
        Error(Failure { status: 1, message: message.into(), details: Vec::new() })
    }

    /// Used wrongly (status 2).
    pub fn usage(message: impl Into<String>) -> Error {
        Error(Failure { status: 2, message: message.into(), details: Vec::new() })
    }

    /// Met a conflict (status 3).
    pub fn conflict(message: impl Into<String>) -> Error {
        Error(Failure { status: 3, message: message.into(), details: Vec::new() })
    }

    /// Adds lines, one finding each.
    #[must_use]
    pub fn with_details(mut self, details: Vec<String>) -> Error {
        self.0.details.extend(details);
        self
    }

    /// Says what it was about: `WHAT: message`.
    #[must_use]
    pub fn about(mut self, what: &[u8]) -> Error {
        self.0.message = format!("{}: {}", escape(what), self.0.message);
        self
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.0.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for detail in &self.0.details {
            write!(f, "\n  {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<FsError> for Error {
    fn from(error: FsError) -> Error {
        match error {
            FsError::Store(error) => error.into(),
            other => Error::failed(other.to_string()),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let advice = match &error {
            StoreError::Busy(_) => "; end the program that uses it, or use the mount it is mounted at",
            StoreError::Full => "; free some space on its disk and try again",
            StoreError::Corrupt(_) => "; `stone check` lists the damage",
            StoreError::Closed => "; unmount and mount it again, and run `stone check`",
            StoreError::Conflict(_) | StoreError::Schema(_) | StoreError::Backend(_) => "",
        };
        Error::failed(format!("{error}{advice}"))
    }
}

impl From<VersionError> for Error {
    fn from(error: VersionError) -> Error {
        let status = match error.kind {
            ErrorKind::Conflict => 3,
            ErrorKind::Usage => 2,
            ErrorKind::Unparsable
            | ErrorKind::Future
            | ErrorKind::BeforeFirst
            | ErrorKind::Pruned
            | ErrorKind::NotFound
            | ErrorKind::NotCommitted
            | ErrorKind::BadName
            | ErrorKind::Exists
            | ErrorKind::InUse
            | ErrorKind::Unmerged
            | ErrorKind::State
            | ErrorKind::Permission
            | ErrorKind::Io(_) => 1,
        };
        Error(Failure { status, message: error.to_string(), details: Vec::new() })
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Error {
        match error {
            MountError::System { error, .. } => error.into(),
            MountError::FileSystem(error) => error.into(),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        let text = error.to_string();
        Error::failed(text.split(" (os error").next().unwrap_or(&text))
    }
}

/// Says what a failure was about.
pub trait About<T> {
    /// `WHAT: message` instead of `message`.
    ///
    /// # Errors
    /// The same failure.
    fn about(self, what: impl AsRef<[u8]>) -> Result<T>;
}

impl<T, E: Into<Error>> About<T> for std::result::Result<T, E> {
    fn about(self, what: impl AsRef<[u8]>) -> Result<T> {
        self.map_err(|error| error.into().about(what.as_ref()))
    }
}
