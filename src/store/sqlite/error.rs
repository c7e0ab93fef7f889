//! From SQLite's result codes to the waist's errors.

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::StoreError;

impl From<Error> for StoreError {
    fn from(error: Error) -> StoreError {
        match &error {
            Error::SqliteFailure(code, message) => from_code(*code, message.as_deref().unwrap_or_default()),
            Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::QueryReturnedNoRows => {
                StoreError::Corrupt(format!("a row that does not fit its schema ({error})"))
            }
            _ => StoreError::Backend(error.to_string()),
        }
    }
}

impl From<rusqlite::types::FromSqlError> for StoreError {
    fn from(error: rusqlite::types::FromSqlError) -> StoreError {
        StoreError::Corrupt(format!("a row that does not fit its schema ({error})"))
    }
}

fn from_code(error: ffi::Error, message: &str) -> StoreError {
    let text = || if message.is_empty() { error.to_string() } else { message.to_string() };
    // Growing the -shm file is what a full disk stops first.
    if error.extended_code == ffi::SQLITE_IOERR_SHMSIZE {
        return StoreError::Full;
    }
    match error.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            StoreError::Busy(text())
        }
        ErrorCode::DiskFull => StoreError::Full,
        ErrorCode::DatabaseCorrupt => StoreError::Corrupt(text()),
        ErrorCode::NotADatabase => StoreError::Schema(text()),
        ErrorCode::ConstraintViolation => StoreError::Conflict(text()),
        _ => StoreError::Backend(text()),
    }
}
