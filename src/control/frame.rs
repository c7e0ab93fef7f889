//! Frames: a length in four bytes, little-endian, and a JSON document of that length.

use std::fmt;
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest document in bytes; a longer one is refused before anything is allocated for it.
pub const FRAME_MAX: usize = 256 << 20;

/// Why a frame could not be read or written.
#[derive(Debug)]
pub enum FrameError {
    /// The other end closed the connection between two frames.
    Closed,
    /// The connection failed, or ended within a frame.
    Io(io::Error),
    /// Longer than [`FRAME_MAX`].
    TooLong(usize),
    /// Not the document that was expected.
    Json(serde_json::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Closed => f.write_str("the connection was closed"),
            FrameError::Io(error) => error.fmt(f),
            FrameError::TooLong(length) => write!(f, "a message of {length} bytes is too long"),
            FrameError::Json(error) => write!(f, "a message is not understood: {error}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> FrameError {
        FrameError::Io(error)
    }
}

/// Writes one document.
///
/// # Errors
/// [`FrameError`] where it cannot be written as JSON, is too long, or the connection fails.
pub fn write_frame<T: Serialize>(to: &mut impl Write, document: &T) -> Result<(), FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, document).map_err(FrameError::Json)?;
    let length = frame.len() - 4;
    if length > FRAME_MAX {
        return Err(FrameError::TooLong(length));
    }
    for (to, from) in frame.iter_mut().zip((length as u32).to_le_bytes()) {
        *to = from;
    }
    to.write_all(&frame)?;
    to.flush()?;
    Ok(())
}

/// Reads one document.
///
/// # Errors
/// [`FrameError::Closed`] at a clean end of the connection, else what went wrong.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut head = [0; 4];
    let mut got = 0;
    while got < head.len() {
        match from.read(head.get_mut(got..).unwrap_or_default()) {
            Ok(0) if got == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > FRAME_MAX {
        return Err(FrameError::TooLong(length));
    }
    // read_to_end grows with what arrives, so that a false length costs nothing
    let mut document = Vec::new();
    from.take(length as u64).read_to_end(&mut document)?;
    if document.len() < length {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&document).map_err(FrameError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_survive_the_wire() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &("a", 1)).unwrap();
        write_frame(&mut wire, &("b", 2)).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(read_frame::<(String, i32)>(&mut wire).unwrap(), ("a".to_owned(), 1));
        assert_eq!(read_frame::<(String, i32)>(&mut wire).unwrap(), ("b".to_owned(), 2));
        assert!(matches!(read_frame::<(String, i32)>(&mut wire), Err(FrameError::Closed)));
    }

    #[test]
    fn broken_frames_are_refused() {
        let long = (u32::MAX).to_le_bytes();
        assert!(matches!(read_frame::<u8>(&mut long.as_slice()), Err(FrameError::TooLong(_))));
        let short = [5, 0, 0, 0, b'1'];
        assert!(matches!(read_frame::<u8>(&mut short.as_slice()), Err(FrameError::Io(_))));
        let head = [5, 0];
        assert!(matches!(read_frame::<u8>(&mut head.as_slice()), Err(FrameError::Io(_))));
        let text = [1, 0, 0, 0, b'x'];
        assert!(matches!(read_frame::<u8>(&mut text.as_slice()), Err(FrameError::Json(_))));
    }
}
