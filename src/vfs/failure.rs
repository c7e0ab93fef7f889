//! The record of changes that failed in the daemon. (What the kernel refuses by itself never comes here.)

use std::sync::Arc;

use super::node::NodeId;
use super::session::{Place, Tree};
use crate::engine::{FsError, Result};
use crate::store::EventRow;
use crate::types::{Caller, Ino, Op, Seq, Timestamp, View};

/// What a change that failed was about.
#[derive(Clone, Copy)]
pub(super) struct Failed<'a> {
    node: NodeId,
    name: Option<&'a [u8]>,
    second: Option<(NodeId, &'a [u8])>,
}

impl<'a> Failed<'a> {
    /// An inode.
    pub(super) fn of(node: NodeId) -> Failed<'a> {
        Failed { node, name: None, second: None }
    }

    /// A name in a directory.
    pub(super) fn name(parent: NodeId, name: &'a [u8]) -> Failed<'a> {
        Failed { node: parent, name: Some(name), second: None }
    }

    /// The place that it should have got.
    pub(super) fn to(self, parent: NodeId, name: &'a [u8]) -> Failed<'a> {
        Failed { second: Some((parent, name)), ..self }
    }
}

impl Tree<'_> {
    /// Records a change that failed, and passes its result on.
    pub(super) fn noted<T>(&self, op: Op, what: Failed<'_>, caller: &Caller, done: Result<T>) -> Result<T> {
        if let Err(error) = &done
            // What is not offered is asked for by probing, and a move between views is done by copying.
            && !matches!(error, FsError::Store(_) | FsError::NotSupported | FsError::CrossView)
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
                offset: None,
                length: None,
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
