//! The daemon's end: listens, checks who speaks, and hands requests to a service.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::{Answer, Failure, FrameError, PROTOCOL, Peer, Progress, Request, peer_of, read_frame, write_frame};

/// Connections served at once; more are turned away with a clear answer.
const CONNECTIONS_MAX: usize = 256;

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// Begins a conversation.
    fn open(self: Arc<Self>, peer: Peer) -> Box<dyn Session>;
}

/// One connection's state; dropped when the other end has closed it, however it ended.
pub trait Session: Send {
    /// Does one piece of work.
    ///
    /// # Errors
    /// What the client reports to its user.
    fn call(&mut self, request: Request, reply: &mut Reply<'_>) -> Result<Value, Failure>;
}

/// Where a session reports progress while it works.
pub struct Reply<'a> {
    stream: &'a UnixStream,
}

impl Reply<'_> {
    /// Tells the client how far the work got; a client that went away is noticed at the answer.
    pub fn progress(&mut self, what: &str, done: u64, total: u64) {
        let progress = Answer::Progress(Progress { what: what.to_owned(), done, total });
        if let Err(error) = write_frame(&mut self.stream, &progress) {
            log::debug!("progress not delivered: {error}");
        }
    }

    /// Tells, whenever it is asked, whether the client went away.
    pub fn hang_up(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let Ok(stream) = self.stream.try_clone() else { return Arc::new(|| false) };
        Arc::new(move || {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let mut asked = [PollFd::new(&stream, PollFlags::RDHUP)];
            let found = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            found.is_ok_and(|found| found > 0)
        })
    }

    /// A descriptor whose hang-up means that the client went away.
    pub fn stream(&self) -> &UnixStream {
        self.stream
    }
}

/// A socket that is being served.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Takes the socket; one that no daemon listens on any more is replaced. Connections wait until
    /// [`Server::serve`].
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there, else what went wrong.
    pub fn bind(path: &Path, database: &Path) -> io::Result<Server> {
        // one at a time, lest two find the same dead socket and the slower one removes the faster one's
        let dir = File::open(path.parent().unwrap_or(Path::new("/")))?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)?;
        let listener = match UnixListener::bind(path) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(path).is_ok() {
                    return Err(error);
                }
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            Err(error) => return Err(error),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let owner = fs::metadata(database)?.uid();
        if rustix::process::geteuid().is_root() && owner != 0 {
            chown(path, Some(owner), None)?;
        }
        Ok(Server { path: path.to_owned(), listener, stopped: Arc::new(AtomicBool::new(false)) })
    }

    /// Serves in the background until [`Server::stop`]; `owner` and root are let in.
    ///
    /// # Errors
    /// Where the listener's thread cannot be started.
    pub fn serve(&self, owner: u32, service: Arc<dyn Service>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let stopped = Arc::clone(&self.stopped);
        let open = Arc::new(AtomicUsize::new(0));
        thread::Builder::new().name("control".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let stream = match stream {
                    Ok(stream) => stream,
                    Err(error) => {
                        log::warn!("control socket: {error}");
                        thread::sleep(std::time::Duration::from_millis(50)); // out of descriptors
                        continue;
                    }
                };
                let (service, open) = (Arc::clone(&service), Arc::clone(&open));
                open.fetch_add(1, Ordering::SeqCst);
                let spawned = thread::Builder::new().name("client".to_owned()).spawn(move || {
                    let crowded = open.load(Ordering::SeqCst) > CONNECTIONS_MAX;
                    if let Err(error) = converse(&stream, owner, service, crowded) {
                        log::debug!("control connection ended: {error}");
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
                if let Err(error) = spawned {
                    log::warn!("control connection refused: {error}");
                }
            }
        })?;
        Ok(())
    }

    /// Takes no more connections and removes the socket; conversations go on to their end.
    pub fn stop(&self) {
        if self.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        let _woken = UnixStream::connect(&self.path);
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn refuse(mut stream: &UnixStream, message: &str) -> Result<(), FrameError> {
    let failure = Failure { status: 1, message: message.to_owned(), details: Vec::new() };
    write_frame(&mut stream, &Answer::Failed(failure))
}

fn converse(mut stream: &UnixStream, owner: u32, service: Arc<dyn Service>, crowded: bool) -> Result<(), FrameError> {
    let peer = peer_of(stream)?;
    if peer.uid != 0 && peer.uid != owner {
        log::warn!("user {} (pid {}) was refused", peer.uid, peer.pid);
        return refuse(stream, "permission denied: only the database's owner and root may do this");
    }
    if crowded {
        return refuse(stream, "too many commands are running on this database; try again");
    }
    let mut session = service.open(peer);
    loop {
        let request: Request = match read_frame(&mut stream) {
            Ok(request) => request,
            Err(FrameError::Closed) => return Ok(()),
            Err(FrameError::Json(error)) => {
                return refuse(stream, &format!("the daemon does not understand the request: {error}"));
            }
            Err(error @ (FrameError::Io(_) | FrameError::TooLong(_))) => return Err(error),
        };
        if request.protocol != PROTOCOL {
            return refuse(
                stream,
                "the daemon is of another version of stone; unmount and mount again with this version",
            );
        }
        let answer = match session.call(request, &mut Reply { stream }) {
            Ok(value) => Answer::Done(value),
            Err(failure) => Answer::Failed(failure),
        };
        write_frame(&mut stream, &answer)?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::*;

    struct Echo;
    struct EchoSession;

    impl Service for Echo {
        fn open(self: Arc<Self>, _peer: Peer) -> Box<dyn Session> {
            Box::new(EchoSession)
        }
    }

    impl Session for EchoSession {
        fn call(&mut self, request: Request, reply: &mut Reply<'_>) -> Result<Value, Failure> {
            reply.progress("echoing", 1, 2);
            if request.work == "fail" {
                return Err(Failure { status: 3, message: "no".to_owned(), details: vec!["why".to_owned()] });
            }
            Ok(request.args)
        }
    }

    fn serve() -> (tempfile::TempDir, Server, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        fs::write(&database, b"").unwrap();
        let path = dir.path().join("sock");
        let server = Server::bind(&path, &database).unwrap();
        server.serve(rustix::process::geteuid().as_raw(), Arc::new(Echo)).unwrap();
        (dir, server, path)
    }

    #[test]
    fn requests_are_answered_in_order_on_one_connection() {
        let (_dir, _server, path) = serve();
        let mut client = Client::connect(&path).unwrap();
        let mut steps = 0;
        for i in 0..3 {
            let answer = client.call("echo", &(), &i, &mut |_| steps += 1).unwrap().unwrap();
            assert_eq!(answer, Value::from(i));
        }
        assert_eq!(steps, 3);
        let failure = client.call("fail", &(), &0, &mut |_| ()).unwrap().unwrap_err();
        assert_eq!((failure.status, failure.details), (3, vec!["why".to_owned()]));
    }

    #[test]
    fn a_second_daemon_on_one_socket_is_refused_and_a_dead_one_replaced() {
        let (dir, server, path) = serve();
        let database = dir.path().join("db");
        let error = Server::bind(&path, &database).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(server);
        drop(UnixListener::bind(&path).unwrap());
        assert!(Server::bind(&path, &database).is_ok());
    }

    #[test]
    fn another_version_of_the_protocol_is_told_so() {
        let (_dir, _server, path) = serve();
        let mut stream = UnixStream::connect(&path).unwrap();
        let request = Request { protocol: 0, work: "echo".to_owned(), origin: Value::Null, args: Value::Null };
        write_frame(&mut stream, &request).unwrap();
        let answer: Answer = read_frame(&mut stream).unwrap();
        assert!(matches!(answer, Answer::Failed(failure) if failure.message.contains("version")));
    }
}
