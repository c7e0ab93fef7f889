//! Reads a whole tree through the engine and compares it with the reference.

use std::collections::{BTreeMap, BTreeSet};

use stonefs::engine::Engine;
use stonefs::types::{Attr, Ino, Kind, View};

use crate::content::{Content, PAGE};
use crate::oracle::Exactness;
use crate::tree::{Body, Node, Tree};

/// Files up to this size are read whole; of longer ones, the ends and the pages that matter.
const WHOLE_MAX: u64 = 1 << 20;

/// A tree as the engine shows it.
pub struct Seen {
    pub tree: Tree,
    pub attrs: BTreeMap<Ino, Attr>,
}

/// Says what went wrong.
pub type Check<T> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($message:tt)*) => {
        if !$holds {
            return Err(format!($($message)*));
        }
    };
}
pub(crate) use ensure;

/// Reads everything that can be reached from the root of a view.
pub fn observe(engine: &Engine, view: View, pages: &dyn Fn(Ino) -> BTreeSet<u64>) -> Check<Seen> {
    let mut seen = Seen { tree: Tree::default(), attrs: BTreeMap::new() };
    let root = engine.getattr(view, Ino::ROOT).map_err(|error| format!("getattr of the root: {error}"))?;
    let mut waiting = vec![(root, Ino::ROOT)];
    while let Some((attr, parent)) = waiting.pop() {
        let ino = attr.ino;
        if let Some(known) = seen.attrs.get(&ino) {
            ensure!(*known == attr, "two names of {ino} show different attributes: {known:?}, {attr:?}");
            ensure!(attr.kind != Kind::Dir, "directory {ino} has two names");
            continue;
        }
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} of {ino} in {view:?}: {error}");
        let body = match attr.kind {
            Kind::File => Body::File(read_content(engine, view, &attr, pages(ino)).map_err(|e| failed("read", &e))?),
            Kind::Dir => {
                let found = engine.parent(view, ino).map_err(|e| failed("parent", &e))?;
                ensure!(found == parent, "the parent of {ino} is {found}, not {parent}");
                let mut entries = BTreeMap::new();
                for entry in engine.list(view, ino).map_err(|e| failed("list", &e))?.iter() {
                    let name = entry.name.as_bytes();
                    let child = engine
                        .lookup(view, ino, name)
                        .map_err(|e| failed(&format!("lookup of {:?}", entry.name), &e))?;
                    ensure!(
                        child.ino == entry.ino,
                        "{:?} in {ino} is {} listed, {} looked up",
                        entry.name,
                        entry.ino,
                        child.ino
                    );
                    ensure!(
                        child.kind == entry.kind,
                        "{:?} in {ino} is listed as {:?}, is {:?}",
                        entry.name,
                        entry.kind,
                        child.kind
                    );
                    let again = engine.getattr(view, child.ino).map_err(|e| failed("getattr", &e))?;
                    ensure!(again == child, "lookup and getattr of {} differ: {child:?}, {again:?}", child.ino);
                    ensure!(
                        entries.insert(name.to_vec(), child.ino).is_none(),
                        "{:?} is listed twice in {ino}",
                        entry.name
                    );
                    waiting.push((child, ino));
                }
                Body::Dir { parent, entries }
            }
            Kind::Symlink => Body::Symlink(engine.readlink(view, ino).map_err(|e| failed("readlink", &e))?.to_vec()),
            Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Body::Special,
        };
        let mut xattrs = BTreeMap::new();
        for name in engine.listxattr(view, ino).map_err(|e| failed("listxattr", &e))? {
            let value = engine.getxattr(view, ino, &name).map_err(|e| failed("getxattr", &e))?;
            ensure!(xattrs.insert(name, value.to_vec()).is_none(), "an attribute of {ino} is listed twice");
        }
        let node = Node {
            kind: attr.kind,
            perm: attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
            xattrs,
            body,
            version: 0,
            attrs: 0,
            replaced: Vec::new(),
            earlier: Vec::new(),
        };
        seen.tree.nodes.insert(ino, node);
        seen.attrs.insert(ino, attr);
    }
    Ok(seen)
}

fn read_content(engine: &Engine, view: View, attr: &Attr, mut pages: BTreeSet<u64>) -> Check<Content> {
    let mut content = Content::default();
    content.resize(attr.size);
    let mut read = |offset: u64, length: u64| -> Check<()> {
        let want = length.min(attr.size.saturating_sub(offset));
        let bytes = engine.read_at(view, attr.ino, offset, length as usize).map_err(|error| error.to_string())?;
        ensure!(bytes.len() as u64 == want, "{} bytes at {offset} where {want} are", bytes.len());
        if !bytes.is_empty() {
            content.write(offset, &bytes);
        }
        Ok(())
    };
    if attr.size <= WHOLE_MAX {
        read(0, attr.size + 100)?;
    } else {
        let last = (attr.size - 1) / PAGE;
        pages.extend([0, 1, 31, 32, 33, last - 1, last]);
        for page in pages {
            read(page * PAGE, PAGE)?;
        }
    }
    Ok(content)
}

/// What may differ because it follows from how a change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derived {
    Nothing,
    /// Access and change times.
    Times,
    /// All times, and what a write takes away beside: capabilities, setuid and setgid.
    Writes,
}

/// How a tree is compared.
pub struct Rules<'a> {
    /// Whether directories' times must agree.
    pub dir_times: bool,
    /// What may differ because it follows from how a change was made.
    pub derived: Derived,
    /// How exactly a file's content must agree.
    pub exactness: &'a dyn for<'n> Fn(&'n Node) -> Exactness<'n>,
    /// Other states of an inode whose attributes it may show.
    pub sharing: &'a dyn Fn(Ino) -> Vec<Node>,
}

/// Compares what was seen with what must be; returns what is, with every doubt settled.
pub fn settle(expected: &Tree, seen: &Seen, rules: &Rules<'_>) -> Check<Tree> {
    let named = |ino: &Ino| *ino == Ino::ROOT || expected.is_dir(*ino) || expected.nlink(*ino) > 0;
    let want: BTreeSet<Ino> = expected.nodes.keys().copied().filter(named).collect();
    let have: BTreeSet<Ino> = seen.tree.nodes.keys().copied().collect();
    if want != have {
        let lost: Vec<_> = want.difference(&have).map(|&ino| (ino.0, show_paths(expected, ino))).collect();
        let extra: Vec<_> = have.difference(&want).map(|&ino| (ino.0, show_paths(&seen.tree, ino))).collect();
        return Err(format!("missing: {lost:?}, unexpected: {extra:?}"));
    }
    let mut settled = expected.clone();
    for ino in want {
        let mut node = settle_node(expected, ino, seen, rules)
            .map_err(|error| format!("inode {ino} ({}): {error}", show_paths(expected, ino)))?;
        node.version = expected.nodes[&ino].version;
        node.attrs = expected.nodes[&ino].attrs;
        node.replaced = expected.nodes[&ino].replaced.clone();
        settled.nodes.insert(ino, node);
    }
    Ok(settled)
}

fn show_paths(tree: &Tree, ino: Ino) -> String {
    let paths = tree.paths(ino);
    let shown: Vec<_> = paths.iter().map(|path| path.escape_ascii().to_string()).collect();
    shown.join(", ")
}

fn settle_node(expected: &Tree, ino: Ino, seen: &Seen, rules: &Rules<'_>) -> Check<Node> {
    let want = &expected.nodes[&ino];
    let have = &seen.tree.nodes[&ino];
    let attr = &seen.attrs[&ino];
    let mut result = have.clone();
    let exact = match (&want.body, &have.body, (rules.exactness)(want)) {
        (Body::File(a), Body::File(b), Exactness::Exact) => {
            ensure!(a == b, "content is {b:?}, must be {a:?}");
            result.body = want.body.clone();
            true
        }
        (Body::File(a), Body::File(b), Exactness::Within(earlier)) => {
            let found = std::iter::once(a).chain(earlier).find(|content| *content == b);
            ensure!(found.is_some(), "content is {b:?}, must be one of {a:?}, {earlier:?}");
            result.body = Body::File(found.expect("checked").clone());
            false
        }
        (a, b, _) => {
            ensure!(a == b, "is {b:?}, must be {a:?}");
            true
        }
    };
    let nlink = expected.nlink(ino);
    ensure!(attr.nlink == nlink, "nlink is {}, must be {nlink}", attr.nlink);
    let size = match &have.body {
        Body::File(content) => content.size(),
        Body::Symlink(target) => target.len() as u64,
        Body::Dir { .. } | Body::Special => 0,
    };
    ensure!(attr.size == size, "size is {}, must be {size}", attr.size);
    let holes = attr.size.div_ceil(512);
    ensure!(attr.blocks <= holes.next_multiple_of(256), "{} blocks for {} bytes", attr.blocks, attr.size);
    let times = want.kind != Kind::Dir || rules.dir_times;
    let derived = if exact { rules.derived } else { Derived::Writes };
    if let Err(error) = same_attributes(want, have, derived, times) {
        let others = (rules.sharing)(ino);
        if !others.iter().any(|other| same_attributes(other, have, derived, times).is_ok()) {
            return Err(error);
        }
    }
    let capability = &b"security.capability"[..];
    ensure!(
        have.xattrs == want.xattrs
            || (rules.derived == Derived::Writes
                && have
                    .xattrs
                    .iter()
                    .filter(|x| x.0 != capability)
                    .eq(want.xattrs.iter().filter(|x| x.0 != capability)))
            || (rules.sharing)(ino).iter().any(|other| other.xattrs == have.xattrs),
        "xattrs are {}, must be {}",
        show_xattrs(have),
        show_xattrs(want)
    );
    Ok(result)
}

fn show_xattrs(node: &Node) -> String {
    let shown = node.xattrs.iter().map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii()));
    shown.collect::<Vec<_>>().join(" ")
}

fn same_attributes(want: &Node, have: &Node, derived: Derived, times: bool) -> Check<()> {
    ensure!(have.kind == want.kind, "kind is {:?}, must be {:?}", have.kind, want.kind);
    // Writes that are not sealed yet may have cleared these two or not.
    let mask = if derived == Derived::Writes { 0o1777 } else { 0o7777 };
    ensure!(have.perm & mask == want.perm & mask, "mode is {:o}, must be {:o}", have.perm, want.perm);
    ensure!(
        (have.uid, have.gid) == (want.uid, want.gid),
        "owner is {}:{}, must be {}:{}",
        have.uid,
        have.gid,
        want.uid,
        want.gid
    );
    ensure!(have.rdev == want.rdev, "rdev is {}, must be {}", have.rdev, want.rdev);
    ensure!(have.btime == want.btime, "btime is {:?}, must be {:?}", have.btime, want.btime);
    if derived == Derived::Nothing {
        ensure!(have.atime == want.atime, "atime is {:?}, must be {:?}", have.atime, want.atime);
    }
    if derived != Derived::Writes && times {
        ensure!(have.mtime == want.mtime, "mtime is {:?}, must be {:?}", have.mtime, want.mtime);
    }
    if derived == Derived::Nothing && times {
        ensure!(have.ctime == want.ctime, "ctime is {:?}, must be {:?}", have.ctime, want.ctime);
    }
    Ok(())
}

/// Compares returned attributes with the reference's.
pub fn same_attr(have: &Attr, want: &Attr) -> Check<()> {
    let want = Attr { blocks: have.blocks, ..want.clone() };
    ensure!(*have == want, "attributes are {have:?}, must be {want:?}");
    Ok(())
}

/// Checks what only the present can be asked: that paths and names lead to each other.
pub fn check_paths(engine: &Engine, view: View, tree: &Tree) -> Check<()> {
    for &ino in tree.nodes.keys() {
        let paths = tree.paths(ino);
        let path = engine.path(view, ino);
        if paths.is_empty() {
            ensure!(path.as_ref().is_err_and(|e| e.errno() == libc::ENOENT), "{ino} has no name, its path is {path:?}");
            continue;
        }
        let path = path.map_err(|error| format!("path of {ino}: {error}"))?;
        ensure!(paths.contains(&path), "path of {ino} is {}, must be {}", path.escape_ascii(), show_paths(tree, ino));
        let attr = engine.resolve(view, &path).map_err(|error| format!("resolve {}: {error}", path.escape_ascii()))?;
        ensure!(attr.ino == ino, "{} resolves to {}, not to {ino}", path.escape_ascii(), attr.ino);
    }
    Ok(())
}
