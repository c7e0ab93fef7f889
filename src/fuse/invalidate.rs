//! The thread that tells the kernel what to forget. It serves no request and holds no lock: the
//! kernel waits for locks of directories and for reads and writes in progress, whose replies come
//! from the threads that serve requests.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use fuser::{INodeNo, Notifier};
use rustc_hash::FxHashSet;

use crate::vfs::{NodeId, Notice};

enum Job {
    Notice(Notice),
    Barrier(SyncSender<()>),
}

/// Sends notices in order.
pub(super) struct Invalidator {
    sender: Sender<Job>,
    notifier: Notifier,
}

/// Notices that are taken from the queue at once; equal ones among them are sent once.
const BATCH: usize = 4096;

impl Invalidator {
    pub(super) fn start(notifier: Notifier) -> io::Result<Invalidator> {
        let (sender, receiver) = channel();
        let through = notifier.clone();
        // Ends when the session and the handle of the mount have dropped their ends.
        std::thread::Builder::new().name("stone-notices".into()).spawn(move || run(&receiver, &through))?;
        Ok(Invalidator { sender, notifier })
    }

    /// A function that queues a notice and waits for nothing.
    pub(super) fn sink(&self) -> crate::vfs::Sink {
        let sender = self.sender.clone();
        Box::new(move |notice| {
            let _ = sender.send(Job::Notice(notice));
        })
    }

    /// Waits until everything queued so far was sent.
    pub(super) fn settle(&self) {
        let (done, wait) = sync_channel(1);
        if self.sender.send(Job::Barrier(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    /// Sends notices from the calling thread, which must not serve requests.
    pub(super) fn send_all(&self, notices: &[Notice]) {
        for notice in notices {
            send(&self.notifier, notice);
        }
    }

    /// Makes the kernel hand over what was written to a node's mapped pages, and drop them.
    pub(super) fn flush(&self, node: NodeId) {
        send(&self.notifier, &Notice::Inode { node, data: true });
    }
}

fn run(receiver: &Receiver<Job>, notifier: &Notifier) {
    while let Ok(first) = receiver.recv() {
        let mut jobs = vec![first];
        while jobs.len() < BATCH
            && let Ok(job) = receiver.try_recv()
        {
            jobs.push(job);
        }
        // The last of equal notices counts: a later one covers what happened before it.
        let mut seen = FxHashSet::default();
        let mut wanted = vec![true; jobs.len()];
        for (job, wanted) in jobs.iter().zip(&mut wanted).rev() {
            match job {
                Job::Notice(notice) => *wanted = seen.insert(notice),
                Job::Barrier(_) => seen.clear(),
            }
        }
        for (job, wanted) in jobs.iter().zip(wanted) {
            match job {
                Job::Notice(notice) if wanted => send(notifier, notice),
                Job::Notice(_) => {}
                Job::Barrier(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    }
}

fn send(notifier: &Notifier, notice: &Notice) {
    let sent = match notice {
        Notice::Entry { parent, name } => notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes())),
        // A negative offset leaves pages alone.
        Notice::Inode { node, data: false } => notifier.inval_inode(INodeNo(node.0), -1, 0),
        Notice::Inode { node, data: true } => notifier.inval_inode(INodeNo(node.0), 0, 0),
    };
    match sent {
        Ok(()) => {}
        // Not cached, or the mount is gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV)) => {}
        Err(error) => log::warn!("telling the kernel to forget {notice:?}: {error}"),
    }
}
