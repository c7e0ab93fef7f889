//! One state of the tree, read from one snapshot of the store.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::error::{ErrorKind, Result, VersionError};
use crate::engine::Engine;
use crate::store::{CHUNK_SIZE, Content, EntryRow, InodeRow, ReadTxn};
use crate::types::{ChunkId, Ino, Kind, Lineage, Name, Seq, View};

/// A directory and a name in it.
pub type Place = (Ino, Name);

/// A name with its inode, in a listing.
pub type Found = (Ino, Kind);

/// Opens a snapshot of the store that has everything up to now.
pub(crate) fn snapshot(engine: &Engine) -> Result<Box<dyn ReadTxn + '_>> {
    engine.flush(engine.point().0)?;
    Ok(engine.store().read()?)
}

/// A view of the tree in a snapshot.
pub(crate) struct State<'t> {
    /// The snapshot.
    pub txn: &'t dyn ReadTxn,
    /// Which view it is.
    pub view: View,
    /// The view's lineage.
    pub lineage: Lineage,
    rows: RefCell<FxHashMap<Ino, Option<Arc<InodeRow>>>>,
    paths: RefCell<FxHashMap<Ino, Option<Arc<[u8]>>>>,
}

impl<'t> State<'t> {
    /// Looks at a view through a snapshot.
    pub fn new(engine: &Engine, txn: &'t dyn ReadTxn, view: View) -> Result<State<'t>> {
        let lineage = engine.lineage(view)?;
        Ok(State { txn, view, lineage, rows: RefCell::default(), paths: RefCell::default() })
    }

    /// Finds an inode of the tree; `None` for one that has no name.
    pub fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRow>>> {
        if let Some(row) = self.rows.borrow().get(&ino) {
            return Ok(row.clone());
        }
        // An unlinked file that is still open has a row, but no place in the tree.
        let row = self.txn.inode(&self.lineage, ino)?.filter(|row| row.nlink > 0).map(Arc::new);
        self.rows.borrow_mut().insert(ino, row.clone());
        Ok(row)
    }

    /// Finds what a name stands for.
    pub fn entry(&self, parent: Ino, name: &Name) -> Result<Option<Found>> {
        Ok(self.txn.entry(&self.lineage, parent, name.as_bytes())?.map(|row| (row.ino, row.kind)))
    }

    /// Lists a directory.
    pub fn entries(&self, parent: Ino) -> Result<Vec<EntryRow>> {
        Ok(self.txn.entries(&self.lineage, parent)?)
    }

    /// Lists the names of an inode.
    pub fn names(&self, ino: Ino) -> Result<Vec<Place>> {
        Ok(self.txn.names_of(&self.lineage, ino)?.into_iter().map(|row| (row.parent, row.name)).collect())
    }

    /// Whether an inode exists and has a name (the root has).
    pub fn alive(&self, ino: Ino) -> Result<bool> {
        Ok(ino == Ino::ROOT || self.inode(ino)?.is_some() && !self.names(ino)?.is_empty())
    }

    /// Lists an inode's extended attributes.
    pub fn xattrs(&self, ino: Ino) -> Result<BTreeMap<Vec<u8>, Arc<[u8]>>> {
        Ok(self.txn.xattrs(&self.lineage, ino)?.into_iter().collect())
    }

    /// The chunks of a file by index; empty for one whose content is in its row.
    pub fn extents(&self, ino: Ino, row: &InodeRow) -> Result<BTreeMap<u64, ChunkId>> {
        match row.content {
            Content::Inline(_) => Ok(BTreeMap::new()),
            Content::Extents => {
                let end = row.size.div_ceil(CHUNK_SIZE as u64);
                let rows = self.txn.extents(&self.lineage, ino, row.data_from, 0..end)?;
                Ok(rows.into_iter().map(|extent| (extent.index, extent.chunk)).collect())
            }
        }
    }

    /// A path of an inode, beginning with `/`; `None` when it has no name.
    pub fn path(&self, ino: Ino) -> Result<Option<Arc<[u8]>>> {
        self.path_within(ino, 0)
    }

    fn path_within(&self, ino: Ino, depth: usize) -> Result<Option<Arc<[u8]>>> {
        if ino == Ino::ROOT {
            return Ok(Some(Arc::from(&b"/"[..])));
        }
        if let Some(path) = self.paths.borrow().get(&ino) {
            return Ok(path.clone());
        }
        if depth > 4096 {
            return Ok(None);
        }
        let path = match self.names(ino)?.into_iter().next() {
            Some((parent, name)) => self.path_within(parent, depth + 1)?.map(|dir| join(&dir, &name)),
            None => None,
        };
        self.paths.borrow_mut().insert(ino, path.clone());
        Ok(path)
    }

    /// The path of a name, whether something stands there or not; `None` where the directory has none.
    pub fn path_at(&self, (parent, name): &Place) -> Result<Option<Arc<[u8]>>> {
        Ok(self.path(*parent)?.map(|dir| join(&dir, name)))
    }

    /// Resolves a path without following symlinks; `None` where nothing is.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Found>> {
        let mut at = (Ino::ROOT, Kind::Dir);
        for name in components(path)? {
            match self.entry(at.0, &name)? {
                Some(found) => at = found,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Reads a whole file or link; `None` where it is larger than `limit` bytes.
    pub fn read(&self, ino: Ino, row: &InodeRow, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some(size) = usize::try_from(row.size).ok().filter(|size| *size <= limit) else { return Ok(None) };
        let mut bytes = Vec::with_capacity(size);
        match &row.content {
            Content::Inline(inline) => bytes.extend_from_slice(inline.get(..size).unwrap_or(inline)),
            Content::Extents => {
                for (index, chunk) in self.extents(ino, row)? {
                    let start = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(CHUNK_SIZE);
                    bytes.resize(start.min(size), 0);
                    let chunk = self.txn.chunk(chunk)?;
                    bytes.extend_from_slice(chunk.get(..size - bytes.len()).unwrap_or(&chunk));
                }
            }
        }
        bytes.resize(size, 0);
        Ok(Some(bytes))
    }

    /// Reads one chunk's worth of a file, without the zeros at its end.
    fn block(&self, row: &InodeRow, extents: &BTreeMap<u64, ChunkId>, index: u64) -> Result<Vec<u8>> {
        let left = row.size.saturating_sub(index.saturating_mul(CHUNK_SIZE as u64));
        let left = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_SIZE);
        let mut bytes = match (&row.content, extents.get(&index)) {
            (Content::Inline(inline), _) if index == 0 => inline.to_vec(),
            (Content::Extents, Some(chunk)) => self.txn.chunk(*chunk)?.to_vec(),
            (Content::Inline(_) | Content::Extents, _) => Vec::new(),
        };
        bytes.truncate(left);
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        Ok(bytes)
    }
}

/// Appends a name to a directory's path.
pub(crate) fn join(dir: &[u8], name: &Name) -> Arc<[u8]> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path.into()
}

/// Splits a path into names; leading, doubled and trailing slashes and `.` do not count.
pub(crate) fn components(path: &[u8]) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            _ => {
                names.push(Name::new(part).map_err(|_| {
                    VersionError::new(ErrorKind::NotFound, format!("{:?} is no path", super::show(path)))
                })?)
            }
        }
    }
    Ok(names)
}

/// Whether a path is another one or below it.
pub(crate) fn is_below(path: &[u8], root: &[u8]) -> bool {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Whether two inodes hold the same bytes; costs what differs, chunks of one number are not read.
pub(crate) fn same_content(a: (&State<'_>, Ino, &InodeRow), b: (&State<'_>, Ino, &InodeRow)) -> Result<bool> {
    let ((left, left_ino, x), (right, right_ino, y)) = (a, b);
    if x.kind != y.kind || x.size != y.size || x.rdev != y.rdev {
        return Ok(false);
    }
    if x.kind != Kind::File && x.kind != Kind::Symlink {
        return Ok(true);
    }
    if left_ino == right_ino && x.content_seq == y.content_seq && x.content_seq != Seq::ZERO {
        return Ok(true);
    }
    if let (Content::Inline(x), Content::Inline(y)) = (&x.content, &y.content)
        && x == y
    {
        return Ok(true);
    }
    let (xs, ys) = (left.extents(left_ino, x)?, right.extents(right_ino, y)?);
    let mut indexes: Vec<u64> = xs.keys().chain(ys.keys()).copied().chain([0]).collect();
    indexes.sort_unstable();
    indexes.dedup();
    for index in indexes {
        let same = xs.get(&index).is_some_and(|chunk| ys.get(&index) == Some(chunk));
        if !same && left.block(x, &xs, index)? != right.block(y, &ys, index)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether two inodes have the same mode, owner, ACL and extended attributes.
pub(crate) fn same_attrs(a: (&State<'_>, Ino, &InodeRow), b: (&State<'_>, Ino, &InodeRow)) -> Result<bool> {
    let ((left, left_ino, x), (right, right_ino, y)) = (a, b);
    if (x.perm, x.uid, x.gid) != (y.perm, y.uid, y.gid) {
        return Ok(false);
    }
    // A row may be shared with a later moment, which an xattr that was set in between does not do.
    let settled = |state: &State<'_>| state.lineage.0.iter().all(|segment| x.attr_seq <= segment.cut);
    // A write takes capabilities away, too.
    let written = (x.attr_seq, x.content_seq) != (y.attr_seq, y.content_seq);
    if left_ino == right_ino && !written && x.attr_seq != Seq::ZERO && settled(left) && settled(right) {
        return Ok(true);
    }
    Ok(left.xattrs(left_ino)? == right.xattrs(right_ino)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_and_compare() {
        let names = components(b"//a/./b/../c/").unwrap();
        assert_eq!(names, [Name::new(b"a").unwrap(), Name::new(b"c").unwrap()]);
        assert!(components(&[b'x'; 300]).is_err());
        assert!(
            is_below(b"/a/b", b"/a") && is_below(b"/a", b"/a") && is_below(b"/a", b"/") && is_below(b"/a/b", b"/a/")
        );
        assert!(!is_below(b"/ab", b"/a") && !is_below(b"/", b"/a"));
        assert_eq!(&*join(b"/", &Name::new(b"x").unwrap()), b"/x");
        assert_eq!(&*join(b"/a", &Name::new(b"x").unwrap()), b"/a/x");
    }
}
