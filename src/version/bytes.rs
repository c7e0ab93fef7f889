//! Paths and names in results: bytes, which JSON cannot hold as they are.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::show;

/// What stands before the base64 form of bytes that are not UTF-8; no path begins with a NUL.
const MARK: &str = "\0b64:";

/// A path or a name. Serialised as a string; exactly restored, whatever the bytes are.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathBytes(pub Vec<u8>);

impl PathBytes {
    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for PathBytes {
    fn from(bytes: &[u8]) -> PathBytes {
        PathBytes(bytes.to_vec())
    }
}

impl From<Arc<[u8]>> for PathBytes {
    fn from(bytes: Arc<[u8]>) -> PathBytes {
        PathBytes(bytes.to_vec())
    }
}

impl fmt::Display for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.0))
    }
}

impl fmt::Debug for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", show(&self.0))
    }
}

impl Serialize for PathBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with(MARK) => serializer.serialize_str(text),
            _ => serializer.serialize_str(&format!("{MARK}{}", STANDARD.encode(&self.0))),
        }
    }
}

impl<'de> Deserialize<'de> for PathBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PathBytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix(MARK) {
            Some(encoded) => STANDARD.decode(encoded).map(PathBytes).map_err(serde::de::Error::custom),
            None => Ok(PathBytes(text.into_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive_json(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let json = serde_json::to_string(&PathBytes(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<PathBytes>(&json).unwrap().0, bytes);
        }
    }
}
