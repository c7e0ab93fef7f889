//! `files`: the tree at one point, a row a name.

use std::collections::VecDeque;
use std::sync::Arc;

use super::content;
use super::scope::{Batches, Paths, Result, Row, Scope, Source, State, join, line, resolve};
use super::times;
use crate::store::query::{Cell, Rows, Scan, Table, Test};
use crate::store::{EntryRow, InodeRow, ReadTxn};
use crate::types::{Ino, Kind};

pub(super) const NAME: &str = "files";
pub(super) const COLUMNS: &[(&str, &str)] = &[
    ("path", "TEXT"),
    ("name", "TEXT"),
    ("parent", "INTEGER"),
    ("inode", "INTEGER"),
    ("type", "TEXT"),
    ("mode", "INTEGER"),
    ("uid", "INTEGER"),
    ("gid", "INTEGER"),
    ("size", "INTEGER"),
    ("nlink", "INTEGER"),
    ("mtime", "TEXT"),
    ("ctime", "TEXT"),
    ("target", "TEXT"),
    ("content_hash", "TEXT"),
    ("btime", "TEXT"),
    ("rdev", "INTEGER"),
    ("process", "INTEGER"),
];

const PATH: usize = 0;
const PARENT: usize = 2;
const INODE: usize = 3;
const TARGET: usize = 12;
const HASH: usize = 13;
/// Columns that the entry alone tells: path, name, parent, inode, type.
const OF_ENTRY: u64 = 0b1_1111;

pub(super) struct Files(pub Arc<Scope>);

impl Table for Files {
    fn name(&self) -> &'static str {
        NAME
    }

    fn columns(&self) -> &'static [(&'static str, &'static str)] {
        COLUMNS
    }

    fn rows(&self, conditions: &[(usize, Test)]) -> f64 {
        let cost = |&(column, test): &(usize, Test)| match (column, test) {
            (PATH | INODE, Test::Eq) => 1.0,
            (PARENT, Test::Eq) => 100.0,
            (PATH, Test::Glob | Test::Like) => 10_000.0,
            (PATH, Test::Ge | Test::Gt | Test::Le | Test::Lt) => 50_000.0,
            _ => 1_000_000.0,
        };
        conditions.iter().map(cost).fold(1_000_000.0, f64::min)
    }

    fn open(&self, scan: Scan) -> Result<Box<dyn Rows>> {
        let state = self.0.state(scan.as_of.as_ref())?;
        let start = if let Some(path) = scan.equal(PATH) {
            path.as_bytes().map_or(Start::Nothing, |path| Start::Path(path.to_vec()))
        } else if let Some(ino) = scan.equal(INODE) {
            ino.as_number().map_or(Start::Nothing, |ino| Start::Inode(Ino(ino)))
        } else if let Some(parent) = scan.equal(PARENT) {
            parent.as_number().map_or(Start::Nothing, |ino| Start::Directory(Ino(ino)))
        } else {
            Start::Walk
        };
        let walk = Walk { state, prefix: Prefix::of(&scan), scan, start, stack: Vec::new(), paths: Paths::default() };
        Ok(Box::new(Batches::new(&self.0, walk)))
    }
}

/// What paths can begin with, by the conditions on them.
#[derive(Default)]
struct Prefix {
    bytes: Vec<u8>,
    /// `LIKE` takes ASCII letters as equal whatever their case.
    any_case: bool,
}

impl Prefix {
    fn of(scan: &Scan) -> Prefix {
        let mut best = Prefix::default();
        let mut low: Option<&[u8]> = None;
        let mut high: Option<&[u8]> = None;
        for condition in scan.conditions.iter().filter(|condition| condition.column == PATH) {
            let Some(value) = condition.value.as_bytes() else { continue };
            let wild: &[u8] = match condition.test {
                Test::Glob => b"*?[",
                Test::Like => b"%_",
                Test::Ge | Test::Gt => {
                    low = low.max(Some(value));
                    continue;
                }
                Test::Le | Test::Lt => {
                    high = Some(high.map_or(value, |other| other.min(value)));
                    continue;
                }
                Test::Eq => continue,
            };
            let length = value.iter().position(|byte| wild.contains(byte)).unwrap_or(value.len());
            if length > best.bytes.len() {
                let bytes = value.get(..length).unwrap_or_default().to_vec();
                best = Prefix { bytes, any_case: condition.test == Test::Like };
            }
        }
        if let (Some(low), Some(high)) = (low, high) {
            // All between two texts begin with what the two have in common.
            let common: Vec<u8> = low.iter().zip(high).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect();
            if common.len() > best.bytes.len() {
                best = Prefix { bytes: common, any_case: false };
            }
        }
        best
    }

    fn matches(&self, text: &[u8], whole: bool) -> bool {
        let length = if whole { self.bytes.len() } else { self.bytes.len().min(text.len()) };
        match (text.get(..length), self.bytes.get(..length)) {
            (Some(text), Some(prefix)) if self.any_case => text.eq_ignore_ascii_case(prefix),
            (Some(text), Some(prefix)) => text == prefix,
            _ => false,
        }
    }

    /// Whether a path may be one of those asked for.
    fn accepts(&self, path: &[u8]) -> bool {
        self.matches(path, true)
    }

    /// Whether something below a directory may be.
    fn reaches(&self, dir: &[u8]) -> bool {
        let mut inside = dir.to_vec();
        inside.push(b'/');
        self.matches(&inside, false)
    }
}

enum Start {
    Nothing,
    Path(Vec<u8>),
    Inode(Ino),
    Directory(Ino),
    Walk,
    Begun,
}

struct Walk {
    state: State,
    scan: Scan,
    prefix: Prefix,
    start: Start,
    /// Directories still to list, with their paths (without a final slash).
    stack: Vec<(Ino, Vec<u8>)>,
    paths: Paths,
}

impl Source for Walk {
    fn fill(&mut self, _scope: &Scope, read: &dyn ReadTxn, out: &mut VecDeque<Row>) -> Result<bool> {
        let lineage = self.state.lineage.clone();
        match std::mem::replace(&mut self.start, Start::Begun) {
            Start::Nothing => {}
            Start::Path(path) => {
                if let Some((ino, entry)) = resolve(read, &lineage, &path)? {
                    let row = match entry {
                        Some(entry) => self.row(read, &path, &entry)?,
                        None => self.root(read, ino)?,
                    };
                    out.extend(row);
                }
            }
            Start::Inode(Ino::ROOT) => out.extend(self.root(read, Ino::ROOT)?),
            Start::Inode(ino) => {
                for entry in read.names_of(&lineage, ino).map_err(line)? {
                    if let Some(path) = self.paths.entry(read, &lineage, &entry)? {
                        out.extend(self.row(read, &path, &entry)?);
                    }
                }
            }
            Start::Directory(dir) => {
                if let Some(path) = self.paths.dir(read, &lineage, dir)? {
                    self.list(read, dir, &path, false, out)?;
                }
            }
            Start::Walk => {
                if self.prefix.accepts(b"/") {
                    out.extend(self.root(read, Ino::ROOT)?);
                }
                self.stack.push((Ino::ROOT, Vec::new()));
                return Ok(true);
            }
            Start::Begun => {
                if let Some((dir, path)) = self.stack.pop() {
                    self.list(read, dir, &path, true, out)?;
                }
            }
        }
        Ok(!self.stack.is_empty())
    }
}

impl Walk {
    fn list(
        &mut self,
        read: &dyn ReadTxn,
        dir: Ino,
        dir_path: &[u8],
        deep: bool,
        out: &mut VecDeque<Row>,
    ) -> Result<()> {
        for entry in self.entries(read, dir, dir_path)? {
            let path = join(dir_path, &entry.name);
            if deep && entry.kind == Kind::Dir && self.prefix.reaches(&path) {
                self.stack.push((entry.ino, path.clone()));
            }
            if self.prefix.accepts(&path) {
                out.extend(self.row(read, &path, &entry)?);
            }
        }
        Ok(())
    }

    /// The entries that can lead to a match: one, where the prefix names it whole.
    fn entries(&self, read: &dyn ReadTxn, dir: Ino, dir_path: &[u8]) -> Result<Vec<EntryRow>> {
        let rest = self.prefix.bytes.get(dir_path.len() + 1..).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'/').and_then(|end| rest.get(..end)) {
            Some(name) if !self.prefix.any_case => {
                Ok(read.entry(&self.state.lineage, dir, name).map_err(line)?.into_iter().collect())
            }
            Some(_) | None => read.entries(&self.state.lineage, dir).map_err(line),
        }
    }

    fn root(&self, read: &dyn ReadTxn, ino: Ino) -> Result<Option<Row>> {
        let head =
            vec![Cell::from("/"), Cell::from(""), Cell::Null, Cell::number(ino.0), Cell::from(Kind::Dir.as_str())];
        self.complete(read, ino, head)
    }

    fn row(&self, read: &dyn ReadTxn, path: &[u8], entry: &EntryRow) -> Result<Option<Row>> {
        let head = vec![
            Cell::bytes(path),
            Cell::bytes(entry.name.as_bytes()),
            Cell::number(entry.parent.0),
            Cell::number(entry.ino.0),
            Cell::from(entry.kind.as_str()),
        ];
        self.complete(read, entry.ino, head)
    }

    fn complete(&self, read: &dyn ReadTxn, ino: Ino, mut head: Row) -> Result<Option<Row>> {
        if self.scan.used & !OF_ENTRY == 0 {
            return Ok(Some(head));
        }
        let Some(row) = read.inode(&self.state.lineage, ino).map_err(line)? else { return Ok(None) };
        head.extend(attributes(&row));
        head.push(if self.scan.uses(TARGET) { content::target(&row) } else { Cell::Null });
        head.push(if self.scan.uses(HASH) { content::hash(read, &self.state.lineage, ino, &row)? } else { Cell::Null });
        head.push(times::print(row.btime).into());
        head.push(row.rdev.into());
        head.push(Cell::number(row.process.0));
        Ok(Some(head))
    }
}

/// mode, uid, gid, size, nlink, mtime, ctime.
fn attributes(row: &InodeRow) -> [Cell; 7] {
    [
        Cell::Int(i64::from(row.perm)),
        row.uid.into(),
        row.gid.into(),
        Cell::number(row.size),
        row.nlink.into(),
        times::print(row.mtime).into(),
        times::print(row.ctime).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::Condition;

    fn prefix(conditions: &[(Test, &str)]) -> Prefix {
        let conditions =
            conditions.iter().map(|(test, value)| Condition { column: PATH, test: *test, value: (*value).into() });
        Prefix::of(&Scan { conditions: conditions.collect(), ..Scan::default() })
    }

    #[test]
    fn a_prefix_comes_from_patterns_and_ranges() {
        assert_eq!(prefix(&[(Test::Glob, "/src/*.rs")]).bytes, b"/src/");
        assert_eq!(prefix(&[(Test::Like, "/src/a_c")]).bytes, b"/src/a");
        assert_eq!(prefix(&[(Test::Ge, "/src/"), (Test::Lt, "/src0")]).bytes, b"/src");
        assert_eq!(prefix(&[(Test::Ge, "/src/")]).bytes, b"");
    }

    #[test]
    fn a_prefix_reaches_its_own_parents_and_children_only() {
        let prefix = prefix(&[(Test::Glob, "/src/cli/*")]);
        assert!(prefix.reaches(b"/src") && prefix.reaches(b"/src/cli") && prefix.reaches(b"/src/cli/a"));
        assert!(!prefix.reaches(b"/sr") && !prefix.reaches(b"/src/clip") && !prefix.reaches(b"/lib"));
        assert!(prefix.accepts(b"/src/cli/a") && !prefix.accepts(b"/src/cli"));
    }

    #[test]
    fn like_ignores_case() {
        let prefix = prefix(&[(Test::Like, "/SRC/%")]);
        assert!(prefix.reaches(b"/src") && prefix.accepts(b"/src/x"));
    }
}
