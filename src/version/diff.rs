//! What differs between two views, one line a path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bytes::PathBytes;
use super::delta::Delta;
use super::error::Result;
use super::state::{Found, State, is_below, same_attrs, same_content, snapshot};
use super::text::{self, TextDiff};
use crate::engine::Engine;
use crate::store::TxnState;
use crate::types::{At, BranchId, Ino, Kind, Seq, View};

/// The letter of a line of `stone diff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is new.
    #[serde(rename = "A")]
    Added,
    /// Its content differs.
    #[serde(rename = "M")]
    Modified,
    /// It is gone.
    #[serde(rename = "D")]
    Deleted,
    /// It has another name.
    #[serde(rename = "R")]
    Renamed,
    /// Something of another type stands there.
    #[serde(rename = "T")]
    Type,
    /// Mode, owner, ACL or xattrs differ, the content does not.
    #[serde(rename = "m")]
    Attributes,
}

impl ChangeKind {
    /// The letter that is printed.
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'M',
            ChangeKind::Deleted => 'D',
            ChangeKind::Renamed => 'R',
            ChangeKind::Type => 'T',
            ChangeKind::Attributes => 'm',
        }
    }
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// The path (the new one of a rename), beginning with `/`.
    pub path: PathBytes,
    /// The old path of a rename.
    pub old_path: Option<PathBytes>,
    /// The inode before.
    pub old_ino: Option<Ino>,
    /// The inode after.
    pub ino: Option<Ino>,
    /// Its type (before, where it is gone).
    pub file_kind: Kind,
    /// Size in bytes before.
    pub old_size: Option<u64>,
    /// Size in bytes after.
    pub size: Option<u64>,
    /// Whether the content differs (of what is on both sides).
    pub content: bool,
    /// Whether mode, owner, ACL or xattrs differ (of what is on both sides).
    pub attrs: bool,
}

/// How many of each there are, for `Transaction T7 committed: 2 added, 1 modified, 1 removed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Paths that are new.
    pub added: u64,
    /// Paths whose content, type or attributes differ.
    pub modified: u64,
    /// Paths that are gone.
    pub removed: u64,
    /// Paths that have another name.
    pub renamed: u64,
}

impl Summary {
    /// Counts changes.
    pub fn of(changes: &[Change]) -> Summary {
        let mut summary = Summary::default();
        changes.iter().for_each(|change| summary.count(change.kind));
        summary
    }

    /// Counts what differs between two states, without keeping it.
    pub(crate) fn between(before: &State<'_>, after: &State<'_>, delta: &Delta) -> Result<Summary> {
        let mut summary = Summary::default();
        compare(before, after, delta, &mut |change| summary.count(change.kind))?;
        Ok(summary)
    }

    fn count(&mut self, kind: ChangeKind) {
        match kind {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Deleted => self.removed += 1,
            ChangeKind::Renamed => self.renamed += 1,
            ChangeKind::Modified | ChangeKind::Type | ChangeKind::Attributes => self.modified += 1,
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts =
            [(self.added, "added"), (self.modified, "modified"), (self.renamed, "renamed"), (self.removed, "removed")];
        let words: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        if words.is_empty() { f.write_str("nothing changed") } else { f.write_str(&words.join(", ")) }
    }
}

/// Compares two views. `path` restricts the result to a path and what is below it, on either side.
///
/// Costs what changed between the two and their common ancestor. Sorted by path.
///
/// # Errors
/// Those of the store.
pub fn diff(engine: &Engine, before: View, after: View, path: Option<&[u8]>) -> Result<Vec<Change>> {
    seal(engine, &[before, after])?;
    let txn = snapshot(engine)?;
    let (before, after) = (State::new(engine, &*txn, before)?, State::new(engine, &*txn, after)?);
    let mut changes = between(&before, &after)?;
    if let Some(root) = path {
        let below = |path: &PathBytes| is_below(path.as_bytes(), root);
        changes.retain(|change| below(&change.path) || change.old_path.as_ref().is_some_and(below));
    }
    Ok(changes)
}

/// Gives files that are being written a version, where a view shows the present.
pub(crate) fn seal(engine: &Engine, views: &[View]) -> Result<()> {
    for view in views.iter().filter(|view| view.at == At::Live) {
        engine.seal(Some(view.branch))?;
    }
    Ok(())
}

/// The largest file in bytes that is compared line by line.
pub const TEXT_MAX: usize = 16 << 20;

/// Compares the contents behind a change as text.
///
/// # Errors
/// Those of the store.
pub fn text_diff(engine: &Engine, before: View, after: View, change: &Change) -> Result<TextDiff> {
    let txn = snapshot(engine)?;
    let read = |view: View, ino: Option<Ino>| -> Result<Option<Vec<u8>>> {
        let Some(ino) = ino else { return Ok(Some(Vec::new())) };
        let state = State::new(engine, &*txn, view)?;
        let Some(row) = state.inode(ino)? else { return Ok(Some(Vec::new())) };
        match row.kind {
            Kind::File | Kind::Symlink => state.read(ino, &row, TEXT_MAX),
            Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Ok(Some(Vec::new())),
        }
    };
    match (read(before, change.old_ino)?, read(after, change.ino)?) {
        (Some(old), Some(new)) => Ok(text::unified(&old, &new, 3)),
        _ => Ok(TextDiff { binary: true, hunks: Vec::new() }),
    }
}

/// The view that `stone diff` compares with where none is named: the begin of the transaction or
/// the fork of the branch, else the last tag or explicit commit of it, else its beginning.
pub fn default_base(engine: &Engine, branch: BranchId) -> View {
    if let Some(row) = engine.branch(branch)
        && let Some(parent) = row.parent
    {
        return View::as_of(parent, row.base);
    }
    let tags = engine.tags().into_iter().filter(|tag| tag.branch == branch).map(|tag| tag.seq);
    let commits = engine
        .transactions()
        .into_iter()
        .filter(|txn| txn.target == branch && txn.state == TxnState::Committed)
        .filter_map(|txn| txn.ended);
    View::as_of(branch, tags.chain(commits).max().unwrap_or(Seq(1)))
}

/// Compares two states of one snapshot; sorted by path.
pub(crate) fn between(before: &State<'_>, after: &State<'_>) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    compare(before, after, &Delta::between(before, after)?, &mut |change| changes.push(change))?;
    changes.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
    Ok(changes)
}

type ByPath = BTreeMap<Arc<[u8]>, Found>;

/// Turns a difference by identity into lines by path, in any order.
fn compare(before: &State<'_>, after: &State<'_>, delta: &Delta, found: &mut dyn FnMut(Change)) -> Result<()> {
    let (mut removed, mut added) = (ByPath::new(), ByPath::new());
    for (place, (old, new)) in &delta.entries {
        if let Some(found) = old
            && let Some(path) = before.path_at(place)?
        {
            removed.insert(path, *found);
        }
        if let Some(found) = new
            && let Some(path) = after.path_at(place)?
        {
            added.insert(path, *found);
        }
    }
    let mut lines = Lines { before, after, found, told: BTreeSet::new() };
    lines.same_places(&mut removed, &mut added)?;
    lines.moves(&mut removed, &mut added)?;
    for (path, found) in removed {
        lines.tell(ChangeKind::Deleted, path, None, Some(found), None)?;
    }
    for (path, found) in added {
        lines.tell(ChangeKind::Added, path, None, None, Some(found))?;
    }
    lines.modified(delta)
}

struct Lines<'a, 't> {
    before: &'a State<'t>,
    after: &'a State<'t>,
    found: &'a mut dyn FnMut(Change),
    told: BTreeSet<Arc<[u8]>>,
}

impl Lines<'_, '_> {
    /// Pairs what stands at one path on both sides: the same inode by another way, or a successor.
    fn same_places(&mut self, removed: &mut ByPath, added: &mut ByPath) -> Result<()> {
        let mut arrivals: BTreeMap<Ino, usize> = BTreeMap::new();
        for (ino, _) in added.values() {
            *arrivals.entry(*ino).or_default() += 1;
        }
        let paths: Vec<Arc<[u8]>> = removed.keys().filter(|path| added.contains_key(*path)).cloned().collect();
        for path in paths {
            let (Some(old), Some(new)) = (removed.get(&path), added.get(&path)) else { continue };
            let (old, new) = (*old, *new);
            if old.0 != new.0 {
                if arrivals.get(&old.0).is_some_and(|count| *count > 0) {
                    continue; // it went elsewhere: a rename
                }
                self.replaced(&path, old, new)?;
            }
            removed.remove(&path);
            added.remove(&path);
            if let Some(count) = arrivals.get_mut(&new.0) {
                *count -= 1;
            }
        }
        Ok(())
    }

    /// Tells of a successor.
    fn replaced(&mut self, path: &Arc<[u8]>, old: Found, new: Found) -> Result<()> {
        if old.1 != new.1 {
            return self.tell(ChangeKind::Type, path.clone(), None, Some(old), Some(new));
        }
        let (Some(x), Some(y)) = (self.before.inode(old.0)?, self.after.inode(new.0)?) else { return Ok(()) };
        let content = old.1 != Kind::Dir && !same_content((self.before, old.0, &x), (self.after, new.0, &y))?;
        let attrs = !same_attrs((self.before, old.0, &x), (self.after, new.0, &y))?;
        if content || attrs {
            let kind = if content { ChangeKind::Modified } else { ChangeKind::Attributes };
            self.tell(kind, path.clone(), None, Some(old), Some(new))?;
        }
        Ok(())
    }

    /// Pairs names that went with names that came of the same inode.
    fn moves(&mut self, removed: &mut ByPath, added: &mut ByPath) -> Result<()> {
        let mut came: BTreeMap<Ino, Vec<Arc<[u8]>>> = BTreeMap::new();
        for (path, (ino, _)) in added.iter().rev() {
            came.entry(*ino).or_default().push(path.clone());
        }
        let paths: Vec<Arc<[u8]>> = removed.keys().cloned().collect();
        for old_path in paths {
            let Some(found) = removed.get(&old_path) else { continue };
            let Some(path) = came.get_mut(&found.0).and_then(Vec::pop) else { continue };
            let Some(new) = added.remove(&path) else { continue };
            let old = removed.remove(&old_path);
            self.tell(ChangeKind::Renamed, path, Some(old_path), old, Some(new))?;
        }
        Ok(())
    }

    /// Tells of inodes on both sides that changed where they are.
    fn modified(&mut self, delta: &Delta) -> Result<()> {
        for (ino, change) in &delta.inodes {
            let (Some(row), true) = (&change.after, change.content || change.attrs) else { continue };
            if change.before.is_none() {
                continue;
            }
            let kind = if change.content { ChangeKind::Modified } else { ChangeKind::Attributes };
            let found = (*ino, row.kind);
            if *ino == Ino::ROOT {
                self.tell(kind, Arc::from(&b"/"[..]), None, Some(found), Some(found))?;
            }
            for place in self.after.names(*ino)? {
                if let Some(path) = self.after.path_at(&place)?
                    && !self.told.contains(&path)
                {
                    self.tell(kind, path, None, Some(found), Some(found))?;
                }
            }
        }
        Ok(())
    }

    fn tell(
        &mut self,
        kind: ChangeKind,
        path: Arc<[u8]>,
        old_path: Option<Arc<[u8]>>,
        old: Option<Found>,
        new: Option<Found>,
    ) -> Result<()> {
        let x = old.map(|(ino, _)| self.before.inode(ino)).transpose()?.flatten();
        let y = new.map(|(ino, _)| self.after.inode(ino)).transpose()?.flatten();
        let (mut content, mut attrs) = (false, false);
        if let (Some((old_ino, _)), Some((ino, _)), Some(x), Some(y)) = (old, new, &x, &y) {
            content = x.kind != Kind::Dir && !same_content((self.before, old_ino, x), (self.after, ino, y))?;
            attrs = !same_attrs((self.before, old_ino, x), (self.after, ino, y))?;
        }
        self.told.insert(path.clone());
        let Some((_, file_kind)) = new.or(old) else { return Ok(()) };
        (self.found)(Change {
            kind,
            path: path.into(),
            old_path: old_path.map(PathBytes::from),
            old_ino: old.map(|(ino, _)| ino),
            ino: new.map(|(ino, _)| ino),
            file_kind,
            old_size: x.map(|row| row.size),
            size: y.map(|row| row.size),
            content,
            attrs,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_only_what_happened() {
        assert_eq!(
            Summary { added: 2, modified: 1, removed: 1, renamed: 0 }.to_string(),
            "2 added, 1 modified, 1 removed"
        );
        assert_eq!(Summary::default().to_string(), "nothing changed");
    }
}
