//! The record of changes that failed in the daemon. (What the kernel refuses by itself never comes here.)

use std::sync::Arc;

use super::node::NodeId;
use super::session::{Place, Tree};
use crate::engine::{FsError, Handle, Result};
use crate::store::{EventRow, StoreError};
use crate::types::{Caller, Ino, Op, Seq, Timestamp, View};

/// What a change that failed was about.
#[derive(Clone, Copy)]
pub(super) struct Failed<'a> {
    node: NodeId,
    name: Option<&'a [u8]>,
    second: Option<(NodeId, &'a [u8])>,
    range: Option<(u64, u64)>,
}

impl<'a> Failed<'a> {
    /// An inode.
    pub(super) fn of(node: NodeId) -> Failed<'a> {
        Failed { node, name: None, second: None, range: None }
    }

    /// A name in a directory.
    pub(super) fn name(parent: NodeId, name: &'a [u8]) -> Failed<'a> {
        Failed { node: parent, name: Some(name), second: None, range: None }
    }

    /// The place that it should have got.
    pub(super) fn to(self, parent: NodeId, name: &'a [u8]) -> Failed<'a> {
        Failed { second: Some((parent, name)), ..self }
    }

    /// The bytes that it should have changed.
    pub(super) fn range(self, offset: u64, length: u64) -> Failed<'a> {
        Failed { range: Some((offset, length)), ..self }
    }
}

/// Whether an error is one that the record tells. What is not offered is asked for by probing, a move between views
/// is done by copying, and of a stale file the kernel looks the name up anew. Where there is no room, the limit on the
/// size left none: a store that fails itself takes no record either.
fn is_told(error: &FsError) -> bool {
    match error {
        FsError::NotSupported | FsError::CrossView | FsError::Stale => false,
        FsError::Store(error) => *error == StoreError::Full,
        _ => true,
    }
}

impl Tree<'_> {
    /// As [`Tree::noted`], for a change through an open file: pages that the kernel writes late are the opener's.
    pub(super) fn noted_open<T>(
        &self,
        op: Op,
        what: Failed<'_>,
        handle: Handle,
        caller: &Caller,
        done: Result<T>,
    ) -> Result<T> {
        let opener = (done.is_err() && caller.pid == 0).then(|| self.engine().opener(handle).ok()).flatten();
        self.noted(op, what, &opener.unwrap_or(*caller), done)
    }

    /// Records a change that failed, and passes its result on.
    pub(super) fn noted<T>(&self, op: Op, what: Failed<'_>, caller: &Caller, done: Result<T>) -> Result<T> {
        if let Err(error) = &done
            && is_told(error)
            && !self.session.options.read_only
            && let Ok(Place::Inode { view, ino, .. }) = self.place(what.node)
        {
            let dir = what.name.map(|_| ino);
            let path = |view: View, ino: Ino, name: Option<&[u8]>| -> Option<Arc<[u8]>> {
                let mut path = self.engine().path(view, ino).ok()?;
                if let Some(name) = name {
                    if path.last() != Some(&b'/') {
                        path.push(b'/');
                    }
                    path.extend(name);
                }
                Some(path.into())
            };
            let second = what.second.and_then(|(node, name)| match self.place(node) {
                Ok(Place::Inode { view, ino, .. }) => Some((view, ino, name)),
                Ok(Place::Special(_)) | Err(_) => None,
            });
            self.engine().record_failure(EventRow {
                seq: Seq::ZERO,
                time: Timestamp(0),
                raw_time: Timestamp(0),
                branch: view.branch,
                txn: None,
                op,
                ino: if what.name.is_some() { None } else { Some(ino) },
                parent: dir,
                name: what.name.map(<[u8]>::to_vec),
                parent2: second.map(|(_, ino, _)| ino),
                name2: second.map(|(_, _, name)| name.to_vec()),
                path: path(view, ino, what.name),
                path2: second.and_then(|(view, ino, name)| path(view, ino, Some(name))),
                ino2: None,
                offset: what.range.map(|(offset, _)| offset),
                length: what.range.map(|(_, length)| length),
                old: None,
                new: None,
                result: error.errno(),
                uid: caller.uid,
                gid: caller.gid,
                pid: caller.pid,
                process: caller.process,
            });
        }
        done
    }
}
