//! Listings: a snapshot per open directory, so that reading is linear and stable while entries
//! come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::node::{NodeId, Slot};
use super::session::{Entry, LONG, Place, Session, Tree};
use super::special::Special;
use crate::engine::{DirEntry, FsError, Result};
use crate::types::{Attr, Caller, Kind, View};

/// An open directory.
pub(super) struct Stream {
    node: NodeId,
    listing: Mutex<Option<Arc<Listing>>>,
}

/// What an open directory shows.
pub struct Listing {
    node: NodeId,
    /// The number of `..`.
    parent: NodeId,
    content: Content,
}

enum Content {
    Inodes { view: View, entries: Arc<Vec<DirEntry>>, keep: Duration },
    Special { special: Special, names: Vec<Vec<u8>> },
}

/// One line of a listing.
pub struct Child<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The number that readdir shows.
    pub node: NodeId,
    /// The type.
    pub kind: Kind,
}

impl Tree<'_> {
    /// Opens a directory for listing.
    ///
    /// # Errors
    /// As opendir(3).
    pub fn open_dir(&self, node: NodeId, caller: &Caller) -> Result<u64> {
        if let Place::Inode { view, ino, .. } = self.place(node)? {
            self.check_past(view, ino, caller, 0o4)?;
        }
        let session = self.session;
        let id = session.next_stream.fetch_add(1, Ordering::Relaxed);
        session.streams.lock().insert(id, Arc::new(Stream { node, listing: Mutex::new(None) }));
        Ok(id)
    }

    /// Whether the kernel may keep a directory's listing: whatever changes it is told.
    pub fn caches_listing(&self, node: NodeId) -> bool {
        matches!(self.place(node), Ok(Place::Inode { .. }))
    }

    /// The listing of an open directory; from the start, a new one.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn listing(&self, stream: u64, from_start: bool, caller: &Caller) -> Result<Arc<Listing>> {
        let stream = self.session.streams.lock().get(&stream).cloned().ok_or(FsError::BadHandle)?;
        let mut listing = stream.listing.lock();
        match &*listing {
            Some(listing) if !from_start => Ok(listing.clone()),
            Some(_) | None => {
                let new = Arc::new(self.list(stream.node, caller)?);
                *listing = Some(new.clone());
                Ok(new)
            }
        }
    }

    fn list(&self, node: NodeId, caller: &Caller) -> Result<Listing> {
        let content = match self.place(node)? {
            Place::Inode { view, ino, .. } => {
                let attr = self.engine().getattr(view, ino)?;
                let keep = if self.keeps_names(view, &attr)? { LONG } else { Duration::ZERO };
                self.note(|reads| reads.listing(view.branch, ino));
                Content::Inodes { view, entries: self.engine().list(view, ino)?, keep }
            }
            Place::Special(special) => Content::Special { special, names: self.special_names(special, caller)? },
        };
        Ok(Listing { node, parent: self.parent_of(node), content })
    }

    /// The attributes that go with a line of a listing, as a lookup would give them now; none where
    /// the name has gone since.
    ///
    /// # Errors
    /// What a lookup gives.
    pub fn list_entry(&self, listing: &Listing, index: usize, caller: &Caller) -> Result<Option<Entry>> {
        let found = match &listing.content {
            Content::Inodes { view, entries, keep } => {
                let Some(entry) = entries.get(index) else { return Ok(None) };
                self.engine().lookup(*view, listing.node.ino(), entry.name.as_bytes()).and_then(|attr: Attr| {
                    let keep = if self.keeps_names(*view, &attr)? { *keep } else { Duration::ZERO };
                    self.entry(listing.node.slot(), *view, attr, keep)
                })
            }
            Content::Special { special, names } => {
                let Some(name) = names.get(index) else { return Ok(None) };
                self.special_lookup(*special, name, caller)
            }
        };
        match found {
            Ok(entry) => Ok(Some(entry)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A line of a listing.
    pub fn list_child<'l>(&self, listing: &'l Listing, index: usize) -> Option<Child<'l>> {
        match &listing.content {
            Content::Inodes { view, entries, .. } => {
                let entry = entries.get(index)?;
                let node = self.child(listing.node.slot(), *view, entry.ino, entry.kind).ok()?;
                Some(Child { name: entry.name.as_bytes(), node, kind: entry.kind })
            }
            Content::Special { names, .. } => {
                let node = NodeId(NodeId::new(Slot::SPECIAL, listing.node.ino()).0 + (index as u64 + 1) * 4096);
                Some(Child { name: names.get(index)?, node, kind: Kind::Dir })
            }
        }
    }
}

impl Session {
    /// Closes a directory.
    pub fn close_dir(&self, stream: u64) {
        self.streams.lock().remove(&stream);
    }
}

impl Listing {
    /// The directory itself.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What `..` shows.
    pub fn parent(&self) -> NodeId {
        self.parent
    }
}
