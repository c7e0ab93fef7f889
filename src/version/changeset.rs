//! A set of changes on top of a state, checked by the tree's own rules and turned into rows.
//!
//! Commit, merge, undo and restore differ in how they decide; what they decide is written down here.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::error::Result;
use super::state::{Found, Place, State};
use crate::store::{CHUNK_SIZE, ChunkData, Content, EntryRow, INLINE_MAX, InodeRow, Mutation};
use crate::types::{Ino, Kind, Name, ProcId, Seq, Timestamp};

/// Where an inode's bytes come from.
pub(crate) enum Source<'t> {
    /// An inode of some state.
    State(&'t State<'t>, Ino),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What changes about one inode.
#[derive(Default)]
struct Edit<'t> {
    /// What it begins as where the head has none of it.
    create: Option<Arc<InodeRow>>,
    content: Option<Source<'t>>,
    attrs: Option<(&'t State<'t>, Ino)>,
    atime: Option<Timestamp>,
    mtime: Option<Timestamp>,
    ctime: Option<Timestamp>,
    predecessor: Option<Ino>,
}

/// A rule of the tree that a set of changes would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A directory that goes still has entries.
    NotEmpty(Ino),
    /// An entry's directory is gone.
    Orphan(Place),
    /// An entry names an inode that is gone.
    Dangling(Place),
    /// A directory would be below itself.
    Cycle(Ino),
    /// A directory would have more than one name.
    TwoNames(Ino),
}

/// Changes on top of a head.
pub(crate) struct Changeset<'t> {
    /// The state that is changed.
    pub head: &'t State<'t>,
    /// The time that derived changes (of directories, of ctime) get.
    pub now: Timestamp,
    entries: BTreeMap<Place, Option<Found>>,
    names: RefCell<FxHashMap<Ino, BTreeSet<Place>>>,
    edits: BTreeMap<Ino, Edit<'t>>,
    dir_times: BTreeMap<Ino, (Timestamp, Timestamp)>,
}

impl<'t> Changeset<'t> {
    /// Begins without changes.
    pub fn new(head: &'t State<'t>, now: Timestamp) -> Changeset<'t> {
        Changeset {
            head,
            now,
            entries: BTreeMap::new(),
            names: RefCell::default(),
            edits: BTreeMap::new(),
            dir_times: BTreeMap::new(),
        }
    }

    // ---- what the result looks like ----------------------------------------------------------

    /// What a name stands for.
    pub fn entry(&self, place: &Place) -> Result<Option<Found>> {
        match self.entries.get(place) {
            Some(found) => Ok(*found),
            None => self.head.entry(place.0, &place.1),
        }
    }

    /// The names of an inode.
    pub fn names(&self, ino: Ino) -> Result<BTreeSet<Place>> {
        if let Some(names) = self.names.borrow().get(&ino) {
            return Ok(names.clone());
        }
        let names = self.names_before(ino)?;
        self.names.borrow_mut().insert(ino, names.clone());
        Ok(names)
    }

    /// What is not there has no names either; nothing need be looked up.
    fn names_before(&self, ino: Ino) -> Result<BTreeSet<Place>> {
        if ino != Ino::ROOT && self.head.inode(ino)?.is_none() {
            return Ok(BTreeSet::new());
        }
        Ok(self.head.names(ino)?.into_iter().collect())
    }

    /// The number of names of an inode.
    fn names_count(&self, ino: Ino) -> Result<usize> {
        if let Some(names) = self.names.borrow().get(&ino) {
            return Ok(names.len());
        }
        Ok(self.names(ino)?.len())
    }

    /// The entries of a directory.
    pub fn list(&self, dir: Ino) -> Result<BTreeMap<Name, Found>> {
        let mut listing: BTreeMap<Name, Found> =
            self.head.entries(dir)?.into_iter().map(|row| (row.name, (row.ino, row.kind))).collect();
        for (place, found) in self.entries_of(dir) {
            match found {
                Some(found) => listing.insert(place.1.clone(), *found),
                None => listing.remove(&place.1),
            };
        }
        Ok(listing)
    }

    /// Whether an inode has a row and a name.
    pub fn alive(&self, ino: Ino) -> Result<bool> {
        Ok(ino == Ino::ROOT || self.exists(ino)? && self.names_count(ino)? > 0)
    }

    fn exists(&self, ino: Ino) -> Result<bool> {
        Ok(self.edits.get(&ino).is_some_and(|edit| edit.create.is_some()) || self.head.inode(ino)?.is_some())
    }

    /// The type of an inode.
    pub fn kind(&self, ino: Ino) -> Result<Option<Kind>> {
        if let Some(row) = self.head.inode(ino)? {
            return Ok(Some(row.kind));
        }
        Ok(self.edits.get(&ino).and_then(|edit| edit.create.as_ref()).map(|row| row.kind))
    }

    /// Where an inode's bytes are in the result: a state and a number there; `None` for new bytes.
    pub fn content_of(&self, ino: Ino) -> Option<(&'t State<'t>, Ino)> {
        match self.edits.get(&ino).and_then(|edit| edit.content.as_ref()) {
            Some(Source::State(state, from)) => Some((state, *from)),
            Some(Source::Bytes(_)) => None,
            None => Some((self.head, ino)),
        }
    }

    /// Where an inode's mode, owner, ACL and extended attributes are in the result.
    pub fn attrs_of(&self, ino: Ino) -> (&'t State<'t>, Ino) {
        self.edits.get(&ino).and_then(|edit| edit.attrs).unwrap_or((self.head, ino))
    }

    /// Whether an inode can be reached from the root in the result.
    pub fn is_reachable(&self, ino: Ino) -> Result<bool> {
        self.is_reachable_within(ino, 0)
    }

    fn is_reachable_within(&self, ino: Ino, depth: usize) -> Result<bool> {
        if ino == Ino::ROOT {
            return Ok(true);
        }
        if depth > 4096 {
            return Ok(false);
        }
        for (parent, _) in self.names(ino)? {
            if self.is_reachable_within(parent, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The changed entries of a directory.
    fn entries_of(&self, dir: Ino) -> impl Iterator<Item = (&Place, &Option<Found>)> {
        let start: Option<Place> = Name::new(&[1]).ok().map(|name| (dir, name));
        let rows = start.map(|start| self.entries.range(start..));
        rows.into_iter().flatten().take_while(move |((parent, _), _)| *parent == dir)
    }

    // ---- changes ---------------------------------------------------------------------------

    /// Lets a name stand for something else, or for nothing.
    pub fn set(&mut self, place: &Place, found: Option<Found>) -> Result<()> {
        let old = self.entry(place)?;
        if old == found {
            return Ok(());
        }
        if let Some((ino, _)) = old {
            self.names(ino)?;
            if let Some(names) = self.names.get_mut().get_mut(&ino) {
                names.remove(place);
            }
        }
        if let Some((ino, _)) = found {
            self.names(ino)?;
            self.names.get_mut().entry(ino).or_default().insert(place.clone());
        }
        self.entries.insert(place.clone(), found);
        Ok(())
    }

    /// Removes a name and, of a directory, everything below it, unless it has its place elsewhere by now.
    pub fn remove_tree(&mut self, place: &Place) -> Result<()> {
        let Some((ino, kind)) = self.entry(place)? else { return Ok(()) };
        if kind == Kind::Dir && self.names(ino)?.len() < 2 {
            for name in self.list(ino)?.into_keys() {
                self.remove_tree(&(ino, name))?;
            }
        }
        self.set(place, None)
    }

    /// Takes an inode over from a state, whole but for its names, under its own or another number.
    pub fn bring(&mut self, ino: Ino, from: &'t State<'t>, from_ino: Ino) -> Result<()> {
        let Some(mut row) = from.inode(from_ino)? else { return Ok(()) };
        if ino != from_ino {
            // A copy has taken nobody's name.
            row = Arc::new(InodeRow { predecessor: None, ..InodeRow::clone(&row) });
        }
        let edit = self.edits.entry(ino).or_default();
        edit.atime = Some(row.atime);
        edit.mtime = Some(row.mtime);
        edit.ctime = Some(row.ctime.max(edit.ctime.unwrap_or(row.ctime)));
        edit.predecessor = row.predecessor;
        edit.attrs = Some((from, from_ino));
        if row.kind != Kind::Dir {
            edit.content = Some(Source::State(from, from_ino));
        } else {
            self.dir_times.insert(ino, (row.mtime, row.ctime));
        }
        edit.create = Some(row);
        Ok(())
    }

    /// Gives an inode other bytes.
    pub fn content(&mut self, ino: Ino, source: Source<'t>) -> Result<()> {
        let (mtime, ctime) = match &source {
            Source::State(state, from) => match state.inode(*from)? {
                Some(row) => (row.mtime, row.ctime),
                None => return Ok(()),
            },
            Source::Bytes(_) => (self.now, self.now),
        };
        let edit = self.edits.entry(ino).or_default();
        edit.content = Some(source);
        edit.mtime = Some(mtime);
        edit.ctime = Some(ctime.max(edit.ctime.unwrap_or(ctime)));
        Ok(())
    }

    /// Gives an inode the mode, owner, ACL and extended attributes of another.
    pub fn attrs(&mut self, ino: Ino, from: &'t State<'t>, from_ino: Ino) {
        self.edits.entry(ino).or_default().attrs = Some((from, from_ino));
    }

    /// Sets an inode's access and modification time; `None` leaves one.
    pub fn times(&mut self, ino: Ino, atime: Option<Timestamp>, mtime: Option<Timestamp>) {
        let edit = self.edits.entry(ino).or_default();
        edit.atime = atime.or(edit.atime);
        edit.mtime = mtime.or(edit.mtime);
        if let Some(mtime) = mtime {
            self.dir_times.insert(ino, (mtime, self.now));
        }
    }

    /// Makes an inode's ctime at least this.
    pub fn ctime(&mut self, ino: Ino, ctime: Timestamp) {
        let edit = self.edits.entry(ino).or_default();
        edit.ctime = Some(ctime.max(edit.ctime.unwrap_or(ctime)));
    }

    /// Notes whose name an inode took over.
    pub fn predecessor(&mut self, ino: Ino, predecessor: Option<Ino>) {
        if predecessor.is_some() {
            self.edits.entry(ino).or_default().predecessor = predecessor;
        }
    }

    /// Says which times a directory gets whose entries change; the present time otherwise.
    pub fn dir_times(&mut self, dir: Ino, mtime: Timestamp, ctime: Timestamp) {
        self.dir_times.insert(dir, (mtime, ctime));
    }

    // ---- the tree's own rules ----------------------------------------------------------------

    /// Lists the rules that the result would break; none for one that can be applied.
    pub fn faults(&self) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        let mut lost = BTreeSet::new();
        for (place, found) in &self.entries {
            if let Some((ino, _)) = self.head.entry(place.0, &place.1)? {
                lost.insert(ino);
            }
            let Some((ino, kind)) = found else { continue };
            if !self.exists(*ino)? {
                faults.push(Fault::Dangling(place.clone()));
                continue;
            }
            if self.kind(place.0)? != Some(Kind::Dir) || !self.alive(place.0)? {
                faults.push(Fault::Orphan(place.clone()));
                continue;
            }
            if *kind == Kind::Dir {
                if self.names_count(*ino)? > 1 {
                    faults.push(Fault::TwoNames(*ino));
                } else if self.is_cyclic(*ino)? {
                    faults.push(Fault::Cycle(*ino));
                }
            }
        }
        for ino in lost {
            if self.kind(ino)? == Some(Kind::Dir) && !self.alive(ino)? && !self.list(ino)?.is_empty() {
                faults.push(Fault::NotEmpty(ino));
            }
        }
        Ok(faults)
    }

    /// Whether the way up from a directory comes back to it.
    fn is_cyclic(&self, dir: Ino) -> Result<bool> {
        let mut at = dir;
        let mut seen = BTreeSet::new();
        while at != Ino::ROOT && seen.insert(at) {
            match self.names(at)?.first() {
                Some((parent, _)) => at = *parent,
                None => return Ok(false), // its own fault, told as such
            }
        }
        Ok(at != Ino::ROOT)
    }

    // ---- rows --------------------------------------------------------------------------------

    /// Turns the changes into rows for [`crate::engine::Engine::apply`].
    pub fn mutations(&self) -> Result<Vec<Mutation>> {
        let mut inodes: BTreeSet<Ino> = self.edits.keys().copied().collect();
        let mut parents = BTreeSet::new();
        let mut entries = Vec::new();
        for (place, found) in &self.entries {
            let old = self.head.entry(place.0, &place.1)?;
            if old == *found {
                continue;
            }
            parents.insert(place.0);
            inodes.extend([old, *found].into_iter().flatten().map(|(ino, _)| ino));
            let row = found.map(|(ino, kind)| EntryRow { parent: place.0, name: place.1.clone(), ino, kind });
            entries.push(Mutation::Entry {
                branch: self.head.view.branch,
                at: Seq::MAX,
                parent: place.0,
                name: place.1.clone(),
                row,
            });
        }
        inodes.extend(parents.iter().copied());
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        for ino in inodes {
            if self.alive(ino)? {
                self.inode_rows(ino, parents.contains(&ino), &mut rows)?;
            } else if self.head.inode(ino)?.is_some() {
                gone.push(Mutation::Inode { branch: self.head.view.branch, at: Seq::MAX, ino, row: None });
            }
        }
        rows.append(&mut entries);
        rows.append(&mut gone);
        Ok(rows)
    }

    /// The rows of one inode that has a name.
    fn inode_rows(&self, ino: Ino, entries_changed: bool, rows: &mut Vec<Mutation>) -> Result<()> {
        let branch = self.head.view.branch;
        let none = Edit::default();
        let edit = self.edits.get(&ino).unwrap_or(&none);
        let head = self.head.inode(ino)?;
        let Some(start) = head.as_ref().or(edit.create.as_ref()) else { return Ok(()) };
        let mut row = InodeRow::clone(start);
        let mut extents = Vec::new();
        if let Some((from, from_ino)) = edit.attrs
            && let Some(source) = from.inode(from_ino)?
        {
            (row.perm, row.uid, row.gid) = (source.perm, source.uid, source.gid);
            row.attr_seq = Seq::MAX;
            row.process = source.process;
            let (old, new) = (self.head.xattrs(ino)?, from.xattrs(from_ino)?);
            for (name, value) in &new {
                // What an inode had before its removal may be forgotten at any time: nothing of it is built upon.
                if head.is_none() || old.get(name) != Some(value) {
                    let value = Some(value.clone());
                    extents.push(Mutation::Xattr { branch, at: Seq::MAX, ino, name: name.clone(), value });
                }
            }
            for name in old.into_keys().filter(|name| !new.contains_key(name)) {
                extents.push(Mutation::Xattr { branch, at: Seq::MAX, ino, name, value: None });
            }
        }
        if let Some(source) = &edit.content {
            self.content_rows(ino, source, head.as_deref(), &mut row, &mut extents)?;
        } else if head.is_none() && row.kind != Kind::Dir {
            row.data_from = Seq::MAX;
        }
        if row.kind == Kind::Dir {
            row.nlink = self.dir_nlink(ino, head.as_deref())?;
            if entries_changed || head.is_none() {
                let (mtime, ctime) = self.dir_times.get(&ino).copied().unwrap_or((self.now, self.now));
                (row.mtime, row.ctime) = (mtime, ctime.max(row.ctime));
            }
        } else {
            row.nlink = u32::try_from(self.names_count(ino)?).unwrap_or(u32::MAX);
        }
        row.atime = edit.atime.unwrap_or(row.atime);
        if row.kind != Kind::Dir || !entries_changed {
            row.mtime = edit.mtime.unwrap_or(row.mtime);
        }
        if let Some(head) = &head
            && (edit.content.is_some() || edit.attrs.is_some() || row.nlink != head.nlink)
        {
            row.ctime = row.ctime.max(edit.ctime.unwrap_or(self.now));
        }
        row.ctime = row.ctime.max(edit.ctime.unwrap_or(row.ctime));
        row.predecessor = edit.predecessor.or(row.predecessor);
        if edit.content.is_none() && edit.attrs.is_none() {
            row.process = ProcId::default();
        }
        let same = head.as_deref().is_some_and(|head| InodeRow { process: head.process, ..row.clone() } == *head);
        if !same || !extents.is_empty() {
            rows.push(Mutation::Inode { branch, at: Seq::MAX, ino, row: Some(Box::new(row)) });
            rows.append(&mut extents);
        }
        Ok(())
    }

    /// 2 and the number of subdirectories.
    fn dir_nlink(&self, ino: Ino, head: Option<&InodeRow>) -> Result<u32> {
        let mut links = i64::from(head.map_or(2, |head| head.nlink));
        for (place, found) in self.entries_of(ino) {
            let old = self.head.entry(place.0, &place.1)?;
            links += i64::from(found.is_some_and(|(_, kind)| kind == Kind::Dir));
            links -= i64::from(old.is_some_and(|(_, kind)| kind == Kind::Dir));
        }
        Ok(u32::try_from(links).unwrap_or(2).max(2))
    }

    /// Puts new bytes into a row, and the extents that differ from the head's.
    fn content_rows(
        &self,
        ino: Ino,
        source: &Source<'t>,
        head: Option<&InodeRow>,
        row: &mut InodeRow,
        rows: &mut Vec<Mutation>,
    ) -> Result<()> {
        let branch = self.head.view.branch;
        let extent = |index, data| Mutation::Extent { branch, at: Seq::MAX, ino, index, data };
        row.data_from = Seq::MAX;
        match source {
            Source::Bytes(bytes) => {
                row.size = bytes.len() as u64;
                row.process = ProcId::default();
                if bytes.len() <= INLINE_MAX {
                    row.content = Content::Inline(bytes.as_slice().into());
                    row.chunks = u64::from(!bytes.is_empty());
                } else {
                    row.content = Content::Extents;
                    row.chunks = row.size.div_ceil(CHUNK_SIZE as u64);
                    for (index, chunk) in (0..).zip(bytes.chunks(CHUNK_SIZE)) {
                        let data = ChunkData::Bytes { hash: [0; 32], data: Arc::new(chunk.to_vec()), changed: None };
                        rows.push(extent(index, Some(data)));
                    }
                }
            }
            Source::State(from, from_ino) => {
                let Some(source) = from.inode(*from_ino)? else { return Ok(()) };
                (row.size, row.chunks, row.rdev) = (source.size, source.chunks, source.rdev);
                row.content = source.content.clone();
                row.process = source.process;
                if source.content != Content::Extents {
                    return Ok(());
                }
                let new = from.extents(*from_ino, &source)?;
                let kept = head.filter(|head| head.content == Content::Extents && head.kind == row.kind);
                let mut old = BTreeMap::new();
                if let Some(head) = kept {
                    row.data_from = head.data_from;
                    old = self.head.extents(ino, head)?;
                    if head.size > row.size {
                        let end = row.size.div_ceil(CHUNK_SIZE as u64);
                        rows.push(Mutation::ExtentsFrom { branch, at: Seq::MAX, ino, index: end });
                        old.split_off(&end);
                    }
                }
                for index in old.keys().filter(|index| !new.contains_key(index)) {
                    rows.push(extent(*index, None));
                }
                for (index, chunk) in new {
                    if old.get(&index) != Some(&chunk) {
                        rows.push(extent(index, Some(ChunkData::Stored(chunk))));
                    }
                }
            }
        }
        Ok(())
    }
}
