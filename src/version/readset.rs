//! What a serializable transaction has read, and whether it still holds.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::conflict::{Conflict, ConflictKind};
use super::error::Result;
use super::state::{Place, State};
use super::txn::side_of;
use crate::store::Touched;
use crate::types::{BranchId, Ino, Name};

/// The keys that a transaction has read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSet {
    /// Names that were looked up, found or not.
    #[serde(with = "places")]
    pub entries: BTreeSet<Place>,
    /// Directories that were listed.
    pub listings: BTreeSet<Ino>,
    /// Files and links whose content was read.
    pub contents: BTreeSet<Ino>,
    /// Files whose attributes were read (directories' are derived from their names).
    pub attrs: BTreeSet<Ino>,
}

/// Names are bytes, which JSON cannot hold as they are.
mod places {
    use std::collections::BTreeSet;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::types::{Ino, Name};
    use crate::version::PathBytes;

    pub fn serialize<S: Serializer>(places: &BTreeSet<(Ino, Name)>, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs: Vec<_> = places.iter().map(|(ino, name)| (*ino, PathBytes::from(name.as_bytes()))).collect();
        pairs.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<(Ino, Name)>, D::Error> {
        let pairs = Vec::<(Ino, PathBytes)>::deserialize(deserializer)?;
        let place = |(ino, name): (Ino, PathBytes)| {
            let name = Name::new(name.as_bytes()).map_err(|_| D::Error::custom("a name that is none"))?;
            Ok((ino, name))
        };
        pairs.into_iter().map(place).collect()
    }
}

impl ReadSet {
    /// Adds what another has.
    pub fn extend(&mut self, other: &ReadSet) {
        self.entries.extend(other.entries.iter().cloned());
        self.listings.extend(&other.listings);
        self.contents.extend(&other.contents);
        self.attrs.extend(&other.attrs);
    }

    /// Whether something that was touched is among it.
    pub(crate) fn is_touched(&self, touched: &Touched) -> bool {
        let xattrs = touched.xattrs.iter().map(|(ino, _)| ino);
        let extents = touched.extents.iter().map(|(ino, _)| ino);
        let mut inodes = touched.inodes.iter().chain(xattrs).chain(extents);
        inodes.any(|ino| self.contents.contains(ino) || self.attrs.contains(ino))
            || touched.entries.iter().any(|place| self.listings.contains(&place.0) || self.entries.contains(place))
    }

    /// Lists what differs between the snapshot that was read and the present head.
    pub(crate) fn validate(&self, base: &State<'_>, head: &State<'_>) -> Result<Vec<Conflict>> {
        let mut conflicts = Vec::new();
        let mut inos = BTreeSet::new();
        for (parent, name) in &self.entries {
            if base.entry(*parent, name)? != head.entry(*parent, name)?
                && let Some(path) = base.path_at(&(*parent, name.clone()))?
            {
                conflicts.push(conflict(path.to_vec(), None, None));
            }
        }
        for dir in &self.listings {
            let names = |state: &State<'_>| -> Result<Vec<_>> {
                Ok(state.entries(*dir)?.into_iter().map(|row| (row.name, row.ino)).collect())
            };
            if names(base)? != names(head)? {
                inos.insert(*dir);
            }
        }
        for ino in &self.contents {
            let seq = |state: &State<'_>| -> Result<_> { Ok(state.inode(*ino)?.map(|row| row.content_seq)) };
            if base.inode(*ino)?.is_some() && seq(base)? != seq(head)? {
                inos.insert(*ino);
            }
        }
        for ino in &self.attrs {
            let seqs = |state: &State<'_>| -> Result<_> {
                Ok(state.inode(*ino)?.map(|row| (row.attr_seq, row.content_seq, row.nlink)))
            };
            let is_dir = |state: &State<'_>| -> Result<_> {
                Ok(state.inode(*ino)?.map(|row| (row.kind == crate::types::Kind::Dir, row.attr_seq)))
            };
            let differs = match is_dir(base)? {
                Some((true, seq)) => is_dir(head)?.is_none_or(|(_, now)| now != seq),
                Some((false, _)) => seqs(base)? != seqs(head)?,
                None => false,
            };
            if differs {
                inos.insert(*ino);
            }
        }
        for ino in inos {
            let (ours, theirs) = (side_of(base, Some(ino))?, side_of(head, Some(ino))?);
            let path = ours.as_ref().or(theirs.as_ref()).map(|side| side.path.as_bytes().to_vec());
            conflicts.push(conflict(path.unwrap_or_default(), ours, theirs));
        }
        Ok(conflicts)
    }
}

fn conflict(
    path: Vec<u8>,
    base: Option<super::conflict::ConflictSide>,
    ours: Option<super::conflict::ConflictSide>,
) -> Conflict {
    let path = super::PathBytes(path);
    Conflict { kind: ConflictKind::Read, path, base, ours, theirs: None, ids: Vec::new(), resolved: None }
}

/// Gathers read sets of the serializable transactions that are running, by hidden branch.
#[derive(Debug, Default)]
pub struct ReadLog {
    sets: Mutex<FxHashMap<BranchId, ReadSet>>,
}

impl ReadLog {
    /// Begins to record what is read through a hidden branch.
    pub fn start(&self, branch: BranchId) {
        self.sets.lock().entry(branch).or_default();
    }

    /// Ends recording and returns what was read.
    pub fn take(&self, branch: BranchId) -> Option<ReadSet> {
        self.sets.lock().remove(&branch)
    }

    /// Returns what was read so far.
    pub fn get(&self, branch: BranchId) -> Option<ReadSet> {
        self.sets.lock().get(&branch).cloned()
    }

    /// Whether reads through a branch are recorded.
    pub fn is_recorded(&self, branch: BranchId) -> bool {
        self.sets.lock().contains_key(&branch)
    }

    /// Notes that a name was looked up.
    pub fn lookup(&self, branch: BranchId, parent: Ino, name: &[u8]) {
        if let Some(set) = self.sets.lock().get_mut(&branch)
            && let Ok(name) = Name::new(name)
        {
            set.entries.insert((parent, name));
        }
    }

    /// Notes that a directory was listed.
    pub fn listing(&self, branch: BranchId, dir: Ino) {
        if let Some(set) = self.sets.lock().get_mut(&branch) {
            set.listings.insert(dir);
        }
    }

    /// Notes that content was read.
    pub fn content(&self, branch: BranchId, ino: Ino) {
        if let Some(set) = self.sets.lock().get_mut(&branch) {
            set.contents.insert(ino);
        }
    }

    /// Notes that attributes were read.
    pub fn attrs(&self, branch: BranchId, ino: Ino) {
        if let Some(set) = self.sets.lock().get_mut(&branch) {
            set.attrs.insert(ino);
        }
    }
}
