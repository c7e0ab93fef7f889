//! The shell's commands on files, with the options that people type most.

use std::io::{Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::cli::error::{About, Error, Result};
use crate::cli::text::escape;
use crate::cli::users;
use crate::types::{Kind, SetAttr, SetTime};

use super::Shell;
use super::glob::Pattern;
use super::tree::{Meta, Tree, split_last};

/// A built-in command's name, how it is used, and what it does.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("ls", "ls [-l] [-a] [-1] [-d] [PATH...]", "lists directories"),
    ("cd", "cd [DIR]", "changes the directory; `cd -` goes back"),
    ("pwd", "pwd", "prints the directory"),
    ("cat", "cat FILE...", "prints files"),
    ("touch", "touch FILE...", "makes files, or sets their times to now"),
    ("echo", "echo [-n] WORD...", "prints words; with > FILE or >> FILE into a file"),
    ("mkdir", "mkdir [-p] DIR...", "makes directories"),
    ("rmdir", "rmdir DIR...", "removes empty directories"),
    ("rm", "rm [-r] [-f] PATH...", "removes files, with -r trees"),
    ("mv", "mv SOURCE... TARGET", "renames, or moves into a directory"),
    ("cp", "cp [-r] [-p] SOURCE... TARGET", "copies files, with -r trees"),
    ("ln", "ln [-s] TARGET NAME", "makes a hard or a symbolic link"),
    ("chmod", "chmod [-R] MODE PATH...", "changes permissions (755, u+x, go-w)"),
    ("chown", "chown [-R] USER[:GROUP] PATH...", "changes the owner"),
    ("stat", "stat PATH...", "shows attributes"),
    ("find", "find [DIR...] [-name PATTERN] [-type f|d|l]", "finds by name and type"),
    ("grep", "grep [-i] [-v] [-n] [-l] [-c] [-r] PATTERN FILE...", "finds lines"),
    ("tree", "tree [DIR]", "draws a tree"),
    ("edit", "edit FILE", "opens a file in $VISUAL or $EDITOR"),
];

/// Commands that change several things at once where they have several arguments or one of these flags.
pub const MANY: &[(&str, &str)] = &[
    ("rm", "r"),
    ("cp", "r"),
    ("mv", ""),
    ("mkdir", "p"),
    ("rmdir", ""),
    ("touch", ""),
    ("chmod", "R"),
    ("chown", "R"),
];

/// Takes the flags off the front of some arguments.
pub fn flags(command: &str, words: &[Vec<u8>], allowed: &str) -> Result<(String, Vec<Vec<u8>>)> {
    let mut found = String::new();
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        let Some(letters) = word.strip_prefix(b"-").filter(|letters| !letters.is_empty()) else { break };
        rest = after;
        if letters == b"-" {
            break;
        }
        for letter in letters {
            let letter = char::from(*letter);
            if !allowed.contains(letter) {
                let usage = COMMANDS.iter().find(|(name, ..)| *name == command).map_or("", |(_, usage, _)| *usage);
                return Err(Error::usage(format!("-{}: not known; use: {usage}", escape(&[letter as u8]))));
            }
            found.push(letter);
        }
    }
    Ok((found, rest.to_vec()))
}

fn need(words: &[Vec<u8>], count: usize, command: &str) -> Result<()> {
    if words.len() >= count {
        return Ok(());
    }
    let usage = COMMANDS.iter().find(|(name, ..)| *name == command).map_or("", |(_, usage, _)| *usage);
    Err(Error::usage(format!("use: {usage}")))
}

/// Writes to standard output, where pipes and redirections put it.
pub fn put(bytes: &[u8]) -> Result<()> {
    std::io::stdout().write_all(bytes).about("output")
}

fn line(text: &str) -> Result<()> {
    put(text.as_bytes())?;
    put(b"\n")
}

/// `drwxr-xr-x`.
fn mode_text(meta: &Meta) -> String {
    let kind = match meta.kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::Char => 'c',
        Kind::Block => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letters) in [(6, 0o4000, ['s', 'S']), (3, 0o2000, ['s', 'S']), (0, 0o1000, ['t', 'T'])] {
        let bits = meta.perm >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, meta.perm & special != 0) {
            (true, true) => letters[0],
            (false, true) => letters[1],
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A directory and a name in it.
fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

impl Shell<'_> {
    /// Runs a built-in command on files.
    ///
    /// # Errors
    /// What it could not do; the first one, after the rest was tried.
    pub fn file_command(&mut self, name: &str, words: &[Vec<u8>], tree: &dyn Tree) -> Result<u8> {
        match name {
            "ls" => self.ls(words, tree)?,
            "cat" => {
                need(words, 1, name)?;
                self.each(words, |path| tree.read(path, &mut std::io::stdout()))?;
            }
            "touch" => {
                need(words, 1, name)?;
                self.each(words, |path| match tree.stat(path, true) {
                    Ok(_) => {
                        let now = Some(SetTime::Now);
                        tree.set(path, &SetAttr { atime: now, mtime: now, ..SetAttr::default() })
                    }
                    Err(_) => tree.write(path, &mut std::io::empty(), false, 0o666),
                })?;
            }
            "mkdir" => {
                let (flags, words) = flags(name, words, "p")?;
                need(&words, 1, name)?;
                self.each(
                    &words,
                    |path| if flags.contains('p') { mkdir_all(tree, path) } else { tree.mkdir(path, 0o777) },
                )?;
            }
            "rmdir" => {
                need(words, 1, name)?;
                self.each(words, |path| tree.rmdir(path))?;
            }
            "rm" => {
                let (flags, words) = flags(name, words, "rRf")?;
                need(&words, usize::from(!flags.contains('f')), name)?;
                let deep = flags.contains(['r', 'R']);
                self.each(&words, |path| match tree.stat(path, false) {
                    Err(_) if flags.contains('f') => Ok(()),
                    Err(error) => Err(error),
                    Ok(meta) => remove(tree, path, &meta, deep),
                })?;
            }
            "mv" | "cp" => self.move_or_copy(name, words, tree)?,
            "ln" => {
                let (flags, words) = flags(name, words, "sf")?;
                let [target, link] = &words[..] else { return need(&words, usize::MAX, name).map(|()| 0) };
                let mut path = self.path(link);
                if tree.stat(&path, true).is_ok_and(|meta| meta.kind == Kind::Dir) {
                    path = join(&path, split_last(target).1);
                }
                if flags.contains('f') && tree.stat(&path, false).is_ok() {
                    tree.unlink(&path)?;
                }
                match flags.contains('s') {
                    true => tree.symlink(target, &path)?,
                    false => tree.link(&self.path(target), &path)?,
                }
            }
            "chmod" | "chown" => self.change(name, words, tree)?,
            "stat" => {
                need(words, 1, name)?;
                let zone = self.app.zone.clone();
                self.each(words, |path| {
                    let meta = tree.stat(path, false)?;
                    let time = |time| crate::cli::text::When(time).shown(&zone);
                    line(&format!("  path: {}", escape(path)))?;
                    line(&format!(
                        "  type: {}  size: {}  links: {}  inode: {}",
                        meta.kind.as_str(),
                        meta.size,
                        meta.nlink,
                        meta.ino
                    ))?;
                    line(&format!(
                        "  mode: {} ({:04o})  owner: {}  group: {}",
                        mode_text(&meta),
                        meta.perm,
                        users::name(meta.uid),
                        meta.gid
                    ))?;
                    line(&format!("  modified: {}  changed: {}", time(meta.mtime), time(meta.ctime)))
                })?;
            }
            "find" => self.find(words, tree)?,
            "grep" => return self.grep(words, tree),
            "tree" => {
                let start = words.first().map_or_else(|| self.cwd.clone(), |word| self.path(word));
                line(&escape(words.first().map_or(b".", Vec::as_slice)))?;
                let mut counts = (0, 0);
                draw(self, tree, &start, "", &mut counts)?;
                line(&format!("\n{} directories, {} files", counts.0, counts.1))?;
            }
            other => return Err(Error::usage("no such command").about(other.as_bytes())),
        }
        Ok(0)
    }

    /// Does something with each path; all are tried, the first failure is returned.
    fn each(&self, words: &[Vec<u8>], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut first = Ok(());
        for word in words {
            self.go_on()?;
            if let Err(error) = each(&self.path(word)) {
                match &first {
                    Ok(()) => first = Err(error),
                    Err(_) => eprintln!("stone: {error}"),
                }
            }
        }
        first
    }

    fn ls(&self, words: &[Vec<u8>], tree: &dyn Tree) -> Result<()> {
        let (flags, words) = flags("ls", words, "la1dhtr")?;
        let words = if words.is_empty() { vec![b".".to_vec()] } else { words };
        let mut files = Vec::new();
        let mut dirs = Vec::new();
        let mut first = Ok(());
        for word in &words {
            let path = self.path(word);
            match tree.stat(&path, !flags.contains('l')).or_else(|_| tree.stat(&path, false)) {
                Ok(meta) if meta.kind == Kind::Dir && !flags.contains('d') => dirs.push((word, path)),
                Ok(_) => files.push((word.clone(), path)),
                Err(error) => first = first.and(Err(error)),
            }
        }
        self.show(&flags, files, tree)?;
        for (place, (word, path)) in dirs.iter().enumerate() {
            if words.len() > 1 {
                line(&format!("{}{}:", if place > 0 { "\n" } else { "" }, escape(word)))?;
            }
            let entries = tree.list(path)?;
            let shown = entries.into_iter().filter(|(name, _)| flags.contains('a') || name.first() != Some(&b'.'));
            self.show(&flags, shown.map(|(name, _)| (name.clone(), join(path, &name))).collect(), tree)?;
        }
        first
    }

    /// Lists names, each with its path.
    fn show(&self, flags: &str, mut names: Vec<(Vec<u8>, Vec<u8>)>, tree: &dyn Tree) -> Result<()> {
        use std::io::IsTerminal;
        if flags.contains('t') {
            let time = |path: &[u8]| tree.stat(path, false).map_or(0, |meta| -meta.mtime.0);
            names.sort_by_cached_key(|(_, path)| time(path));
        }
        if flags.contains('r') {
            names.reverse();
        }
        if flags.contains('l') {
            let mut rows = Vec::new();
            for (name, path) in names {
                let Ok(meta) = tree.stat(&path, false) else { continue };
                let target = match meta.kind {
                    Kind::Symlink => format!(" -> {}", escape(&tree.readlink(&path)?)),
                    Kind::File | Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => String::new(),
                };
                let time = crate::cli::text::When(meta.mtime).shown(&self.app.zone);
                let time = time.get(..16).unwrap_or(&time).replace('T', " ");
                rows.push([
                    mode_text(&meta),
                    meta.nlink.to_string(),
                    users::name(meta.uid),
                    meta.gid.to_string(),
                    meta.size.to_string(),
                    time,
                    escape(&name) + &target,
                ]);
            }
            let width =
                |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or(0)).collect();
            for [mode, links, user, group, size, time, name] in &rows {
                let w = |column: usize| widths.get(column).copied().unwrap_or(0);
                line(&format!(
                    "{mode} {links:>lw$} {user:<uw$} {group:<gw$} {size:>sw$} {time} {name}",
                    lw = w(1),
                    uw = w(2),
                    gw = w(3),
                    sw = w(4)
                ))?;
            }
            return Ok(());
        }
        let names: Vec<String> = names.iter().map(|(name, _)| escape(name)).collect();
        let terminal = std::io::stdout().is_terminal() && !flags.contains('1');
        if !terminal {
            return names.iter().try_for_each(|name| line(name));
        }
        let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) + 2;
        let columns = (terminal_width() / widest).max(1);
        let rows = names.len().div_ceil(columns);
        for row in 0..rows {
            let cells = names.iter().skip(row).step_by(rows.max(1)).map(|name| format!("{name:<widest$}"));
            line(cells.collect::<String>().trim_end())?;
        }
        Ok(())
    }

    fn move_or_copy(&self, command: &str, words: &[Vec<u8>], tree: &dyn Tree) -> Result<()> {
        let (flags, words) = flags(command, words, if command == "mv" { "f" } else { "rRpaf" })?;
        need(&words, 2, command)?;
        let Some((target, sources)) = words.split_last() else { return Ok(()) };
        let target_path = self.path(target);
        let into = tree.stat(&target_path, true).is_ok_and(|meta| meta.kind == Kind::Dir);
        if sources.len() > 1 && !into {
            return Err(Error::failed("is no directory").about(target));
        }
        self.each(sources, |source| {
            let name = split_last(source).1;
            let to = if into { join(&target_path, name) } else { target_path.clone() };
            let meta = tree.stat(source, command != "mv" && !flags.contains(['r', 'R', 'a']))?;
            if to.starts_with(&join(source, b"")) || to == source {
                return Err(Error::failed("cannot go into itself").about(source));
            }
            if command == "mv" {
                return tree.rename(source, &to);
            }
            if meta.kind == Kind::Dir && !flags.contains(['r', 'R', 'a']) {
                return Err(Error::failed("is a directory; -r copies it").about(source));
            }
            self.copy(tree, source, &to, &meta, flags.contains(['p', 'a']))
        })
    }

    fn copy(&self, tree: &dyn Tree, from: &[u8], to: &[u8], meta: &Meta, keep: bool) -> Result<()> {
        self.go_on()?;
        match meta.kind {
            Kind::Dir => {
                if tree.stat(to, true).is_err() {
                    tree.mkdir(to, meta.perm | 0o700)?;
                }
                for (name, _) in tree.list(from)? {
                    let path = join(from, &name);
                    let inner = tree.stat(&path, false)?;
                    self.copy(tree, &path, &join(to, &name), &inner, keep)?;
                }
            }
            Kind::Symlink => return tree.symlink(&tree.readlink(from)?, to),
            Kind::File => {
                let mut buffer = scratch()?;
                tree.read(from, &mut buffer)?;
                buffer.rewind().about("scratch")?;
                tree.write(to, &mut buffer, false, meta.perm)?;
            }
            Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => {
                return Err(Error::failed("is a special file; only a mount can copy it").about(from));
            }
        }
        if keep {
            let times = (Some(SetTime::To(meta.mtime)), Some(SetTime::To(meta.mtime)));
            tree.set(to, &SetAttr { perm: Some(meta.perm), atime: times.0, mtime: times.1, ..SetAttr::default() })?;
        }
        Ok(())
    }

    fn change(&self, command: &str, words: &[Vec<u8>], tree: &dyn Tree) -> Result<()> {
        // `chmod -x f` is a mode and no flag.
        let deep = words.first().is_some_and(|word| word == b"-R");
        let words = words.get(usize::from(deep)..).unwrap_or_default();
        need(words, 2, command)?;
        let Some((what, paths)) = words.split_first() else { return Ok(()) };
        let text = String::from_utf8_lossy(what).into_owned();
        let change: Box<dyn Fn(&Meta) -> Result<SetAttr>> = if command == "chmod" {
            let mode = Mode::parse(&text).ok_or_else(|| Error::usage("is no mode; as 755 or u+x,go-w").about(what))?;
            Box::new(move |meta| Ok(SetAttr { perm: Some(mode.apply(meta)), ..SetAttr::default() }))
        } else {
            let (user, group) = text.split_once(':').map_or((text.as_str(), None), |(user, group)| (user, Some(group)));
            let unknown = || Error::usage("no such user; use a number").about(what);
            let uid = match user {
                "" => None,
                user => Some(users::parse(user).ok_or_else(unknown)?),
            };
            let gid = match group {
                None | Some("") => None,
                Some(group) => {
                    Some(group.parse().map_err(|_| Error::usage("groups are given as numbers").about(what))?)
                }
            };
            Box::new(move |_| Ok(SetAttr { uid, gid, ..SetAttr::default() }))
        };
        self.each(paths, |path| walk(self, tree, path, deep, &mut |path, meta| tree.set(path, &change(meta)?)))
    }

    fn find(&self, words: &[Vec<u8>], tree: &dyn Tree) -> Result<()> {
        let split = words.iter().position(|word| word.starts_with(b"-")).unwrap_or(words.len());
        let (starts, tests) = words.split_at_checked(split).unwrap_or((words, &[]));
        let mut name: Option<Pattern> = None;
        let mut kind = None;
        let mut tests = tests.iter();
        while let Some(test) = tests.next() {
            let value = tests.next();
            match (test.as_slice(), value) {
                (b"-name", Some(pattern)) => name = Some(Pattern::bare(pattern)),
                (b"-type", Some(letter)) => {
                    kind = Some(match letter.as_slice() {
                        b"f" => Kind::File,
                        b"d" => Kind::Dir,
                        b"l" => Kind::Symlink,
                        b"p" => Kind::Fifo,
                        b"s" => Kind::Socket,
                        _ => return Err(Error::usage("types are f d l p s").about(letter)),
                    });
                }
                (other, _) => return Err(Error::usage("there are -name PATTERN and -type f|d|l").about(other)),
            }
        }
        let starts = if starts.is_empty() { vec![b".".to_vec()] } else { starts.to_vec() };
        for start in &starts {
            let root = self.path(start);
            let mut show = |path: &[u8], meta: &Meta| {
                let below = path.strip_prefix(root.as_slice()).unwrap_or_default();
                let below = below.strip_prefix(b"/").unwrap_or(below);
                let shown = if below.is_empty() { start.clone() } else { join(start, below) };
                let last = split_last(if below.is_empty() { path } else { &shown }).1.to_vec();
                if name.as_ref().is_some_and(|name| !name.matches(&last, true))
                    || kind.is_some_and(|kind| kind != meta.kind)
                {
                    return Ok(());
                }
                line(&escape(&shown))
            };
            walk(self, tree, &root, true, &mut show)?;
        }
        Ok(())
    }

    fn grep(&self, words: &[Vec<u8>], tree: &dyn Tree) -> Result<u8> {
        let (flags, words) = flags("grep", words, "ivnlcrRE")?;
        need(&words, 2, "grep")?;
        let Some((pattern, files)) = words.split_first() else { return Ok(1) };
        let source = std::str::from_utf8(pattern).map_err(|_| Error::usage("the pattern is not UTF-8"))?;
        let regex = regex::bytes::RegexBuilder::new(source)
            .case_insensitive(flags.contains('i'))
            .unicode(true)
            .build()
            .map_err(|error| Error::usage(error.to_string().replace('\n', " ")))?;
        let deep = flags.contains(['r', 'R']);
        let many = deep || files.len() > 1;
        let mut found = false;
        for file in files {
            let root = self.path(file);
            let mut search = |path: &[u8], meta: &Meta| {
                if meta.kind != Kind::File {
                    return Ok(());
                }
                let mut content = Vec::new();
                tree.read(path, &mut content)?;
                let below = path.strip_prefix(root.as_slice()).unwrap_or_default();
                let shown = [file.as_slice(), below].concat();
                found |= matches(&flags, &regex, &content, many.then_some(shown.as_slice()))?;
                Ok(())
            };
            let meta = tree.stat(&root, true)?;
            if meta.kind == Kind::Dir && !deep {
                return Err(Error::failed("is a directory; -r searches it").about(file));
            }
            match deep {
                true => walk(self, tree, &root, true, &mut search)?,
                false => search(&root, &meta)?,
            }
        }
        Ok(u8::from(!found))
    }
}

/// Prints the lines of one file that match; tells whether there are any.
fn matches(flags: &str, regex: &regex::bytes::Regex, content: &[u8], name: Option<&[u8]>) -> Result<bool> {
    let prefix = name.map_or_else(String::new, |name| format!("{}:", escape(name)));
    let mut count = 0;
    let body = content.strip_suffix(b"\n").unwrap_or(content);
    if content.is_empty() {
        return Ok(false);
    }
    for (number, text) in body.split(|byte| *byte == b'\n').enumerate() {
        if regex.is_match(text) == flags.contains('v') {
            continue;
        }
        count += 1;
        if flags.contains(['l', 'c']) {
            continue;
        }
        let number = if flags.contains('n') { format!("{}:", number + 1) } else { String::new() };
        line(&format!("{prefix}{number}{}", escape(text)))?;
    }
    if flags.contains('l') && count > 0 {
        line(prefix.trim_end_matches(':'))?;
    } else if flags.contains('c') {
        line(&format!("{prefix}{count}"))?;
    }
    Ok(count > 0)
}

/// A file in memory.
pub fn scratch() -> Result<std::fs::File> {
    let fd = memfd_create("stone-shell", MemfdFlags::CLOEXEC).map_err(std::io::Error::from).about("scratch")?;
    Ok(fd.into())
}

/// The terminal's width in columns.
pub fn terminal_width() -> usize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        Ok(_) | Err(_) => 80,
    }
}

fn mkdir_all(tree: &dyn Tree, path: &[u8]) -> Result<()> {
    if let Ok(meta) = tree.stat(path, true) {
        return match meta.kind {
            Kind::Dir => Ok(()),
            Kind::File | Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => {
                Err(Error::from(crate::engine::FsError::Exists).about(path))
            }
        };
    }
    let (dir, _) = split_last(path);
    if !dir.is_empty() {
        mkdir_all(tree, dir)?;
    }
    tree.mkdir(path, 0o777)
}

fn remove(tree: &dyn Tree, path: &[u8], meta: &Meta, deep: bool) -> Result<()> {
    if meta.kind != Kind::Dir {
        return tree.unlink(path);
    }
    if !deep {
        return Err(Error::failed("is a directory; -r removes it with all that is in it").about(path));
    }
    for (name, _) in tree.list(path)? {
        let inner = join(path, &name);
        let meta = tree.stat(&inner, false)?;
        remove(tree, &inner, &meta, true)?;
    }
    tree.rmdir(path)
}

/// Visits a path and, where `deep`, everything below it, directories first.
fn walk(
    shell: &Shell<'_>,
    tree: &dyn Tree,
    path: &[u8],
    deep: bool,
    visit: &mut dyn FnMut(&[u8], &Meta) -> Result<()>,
) -> Result<()> {
    shell.go_on()?;
    let meta = tree.stat(path, false)?;
    visit(path, &meta)?;
    if deep && meta.kind == Kind::Dir {
        for (name, _) in tree.list(path)? {
            walk(shell, tree, &join(path, &name), true, visit)?;
        }
    }
    Ok(())
}

fn draw(shell: &Shell<'_>, tree: &dyn Tree, dir: &[u8], indent: &str, counts: &mut (u64, u64)) -> Result<()> {
    shell.go_on()?;
    let entries: Vec<_> = tree.list(dir)?.into_iter().filter(|(name, _)| name.first() != Some(&b'.')).collect();
    for (place, (name, kind)) in entries.iter().enumerate() {
        let last = place + 1 == entries.len();
        line(&format!("{indent}{}{}", if last { "└── " } else { "├── " }, escape(name)))?;
        if *kind == Kind::Dir {
            counts.0 += 1;
            draw(shell, tree, &join(dir, name), &format!("{indent}{}", if last { "    " } else { "│   " }), counts)?;
        } else {
            counts.1 += 1;
        }
    }
    Ok(())
}

/// A change of permissions as chmod(1) takes it.
enum Mode {
    Octal(u16),
    /// Whose bits, the operator, and which.
    Symbolic(Vec<(u16, char, String)>),
}

impl Mode {
    fn parse(text: &str) -> Option<Mode> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(Mode::Octal);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '='])?;
            let (who, rest) = clause.split_at_checked(at)?;
            let mut mask = 0;
            for letter in who.chars() {
                mask |= match letter {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return None,
                };
            }
            let operator = rest.chars().next()?;
            let letters = rest.get(1..)?;
            if !letters.chars().all(|letter| "rwxXst".contains(letter)) {
                return None;
            }
            changes.push((if who.is_empty() { 0o7777 } else { mask }, operator, letters.to_owned()));
        }
        Some(Mode::Symbolic(changes))
    }

    fn apply(&self, meta: &Meta) -> u16 {
        let changes = match self {
            Mode::Octal(mode) => return *mode,
            Mode::Symbolic(changes) => changes,
        };
        let mut perm = meta.perm;
        for (mask, operator, letters) in changes {
            let mut bits = 0;
            for letter in letters.chars() {
                bits |= match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if meta.kind == Kind::Dir || perm & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => 0,
                };
            }
            bits &= mask;
            perm = match operator {
                '+' => perm | bits,
                '-' => perm & !bits,
                _ => (perm & !(mask & 0o777)) | bits,
            };
        }
        perm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    fn meta(kind: Kind, perm: u16) -> Meta {
        let time = Timestamp(0);
        Meta { kind, perm, uid: 0, gid: 0, nlink: 1, size: 0, mtime: time, ctime: time, ino: 2 }
    }

    #[test]
    fn modes_are_chmods() {
        let apply = |text: &str, perm| Mode::parse(text).unwrap().apply(&meta(Kind::File, perm));
        assert_eq!(apply("755", 0o600), 0o755);
        assert_eq!(apply("u+x", 0o644), 0o744);
        assert_eq!(apply("go-rw", 0o666), 0o600);
        assert_eq!(apply("a=r,u+w", 0o777), 0o644);
        assert_eq!(apply("+X", 0o644), 0o644);
        assert_eq!(apply("u+s", 0o755), 0o4755);
        assert!(Mode::parse("9").is_none() && Mode::parse("u").is_none() && Mode::parse("u+q").is_none());
    }

    #[test]
    fn modes_are_shown_as_ls_shows_them() {
        assert_eq!(mode_text(&meta(Kind::Dir, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode_text(&meta(Kind::File, 0o4750)), "-rwsr-x---");
        assert_eq!(mode_text(&meta(Kind::Symlink, 0o777)), "lrwxrwxrwx");
    }
}
