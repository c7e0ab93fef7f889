//! File names: any 1 to 255 bytes but `/` and NUL, and neither `.` nor `..`.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Names one entry of a directory. Bytes, never text; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Says why some bytes are no file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Empty, `.`, `..`, or with a `/` or NUL in it.
    Invalid,
    /// Longer than [`Name::MAX`] bytes.
    TooLong,
}

impl Name {
    /// The longest name in bytes (`NAME_MAX`).
    pub const MAX: usize = 255;

    /// Checks and copies a name.
    ///
    /// # Errors
    /// [`NameError`] where POSIX does not allow these bytes as a file name.
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        if bytes.len() > Name::MAX {
            return Err(NameError::TooLong);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(NameError::Invalid);
        }
        Ok(Name(bytes.into()))
    }

    /// Returns the name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_posix() {
        assert!(Name::new(b"a").is_ok());
        assert!(Name::new(&[0xff; 255]).is_ok());
        assert_eq!(Name::new(&[b'a'; 256]), Err(NameError::TooLong));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(Name::new(bad), Err(NameError::Invalid));
        }
    }
}
