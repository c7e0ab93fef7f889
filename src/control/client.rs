//! The command's end of the socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{Answer, Failure, FrameError, PROTOCOL, Peer, Progress, Request, peer_of, read_frame, write_frame};

/// A connection to a daemon.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to a socket that a daemon listens on.
    ///
    /// # Errors
    /// Those of connect(2): `NotFound` and `ConnectionRefused` mean that no daemon is there.
    pub fn connect(path: &Path) -> io::Result<Client> {
        Ok(Client { stream: UnixStream::connect(path)? })
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn daemon(&self) -> io::Result<Peer> {
        peer_of(&self.stream)
    }

    /// The connection, for whoever shuts it down while an answer is waited for.
    ///
    /// # Errors
    /// Where there is no further descriptor.
    pub fn connection(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Has one piece of work done; `progress` hears how far it got.
    ///
    /// # Errors
    /// [`FrameError`] where the connection failed; a [`Failure`] inside where the work did.
    pub fn call(
        &mut self,
        work: &str,
        origin: &impl Serialize,
        args: &impl Serialize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Result<Value, Failure>, FrameError> {
        let request = Request {
            protocol: PROTOCOL,
            work: work.to_owned(),
            origin: serde_json::to_value(origin).map_err(FrameError::Json)?,
            args: serde_json::to_value(args).map_err(FrameError::Json)?,
        };
        // a daemon that refused has answered and closed before the request was written
        let sent = write_frame(&mut self.stream, &request);
        loop {
            match read_frame(&mut self.stream) {
                Ok(Answer::Progress(step)) => progress(step),
                Ok(Answer::Done(value)) => return Ok(Ok(value)),
                Ok(Answer::Failed(failure)) => return Ok(Err(failure)),
                Err(error) => return Err(sent.err().unwrap_or(error)),
            }
        }
    }
}
