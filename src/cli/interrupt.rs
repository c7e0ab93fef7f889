//! Ctrl-C while a question is being answered: it ends the question, not the program.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

/// Watches for Ctrl-C.
#[derive(Clone, Default)]
pub struct Interrupts {
    fired: Arc<AtomicBool>,
    /// The connection that somebody waits on.
    waiting: Arc<Mutex<Option<UnixStream>>>,
}

impl Interrupts {
    /// Takes Ctrl-C from now on: the program does not end of it any more.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn watch() -> io::Result<Interrupts> {
        let interrupts = Interrupts::default();
        let (mut signals, told) = (Signals::new([SIGINT])?, interrupts.clone());
        thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
            for _ in &mut signals {
                told.fired.store(true, Ordering::SeqCst);
                if let Some(stream) = &*told.waiting.lock() {
                    // Whoever waits for an answer gets none, and the daemon sees that nobody does.
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                }
            }
        })?;
        Ok(interrupts)
    }

    /// A wait begins, on a connection where it is one.
    pub fn begin(&self, waiting: Option<UnixStream>) {
        *self.waiting.lock() = waiting;
        self.fired.store(false, Ordering::SeqCst);
    }

    /// Whether the wait was interrupted.
    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }

    /// The wait is over; returns whether it was interrupted.
    pub fn end(&self) -> bool {
        *self.waiting.lock() = None;
        self.fired()
    }
}
