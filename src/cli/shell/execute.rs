//! Running what was parsed: built-ins, commands of stone, programs; pipes and redirections.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command as Program, Stdio};

use crate::cli::error::{About, Error, Result};
use crate::cli::{command_names, run_words};

use super::files::{COMMANDS, MANY, put, scratch};
use super::glob::{self, Pattern};
use super::parse::{Command, Redirect, Word};
use super::tree::{Tree, split_last};
use super::{Ground, Shell, below};

/// Commands of stone that make no sense on an open database.
const ELSEWHERE: &[&str] = &["init", "mount", "umount", "shell", "help"];

/// Standard output while it goes elsewhere; comes back when dropped.
struct Diverted(OwnedFd);

impl Diverted {
    fn to(file: &File) -> Result<Diverted> {
        io::stdout().flush().about("output")?;
        let saved = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map_err(io::Error::from)?;
        rustix::stdio::dup2_stdout(file.as_fd()).map_err(io::Error::from)?;
        Ok(Diverted(saved))
    }
}

impl Drop for Diverted {
    fn drop(&mut self) {
        let _ = io::stdout().flush();
        if let Err(error) = rustix::stdio::dup2_stdout(&self.0) {
            log::error!("standard output is lost: {error}");
        }
    }
}

impl Shell<'_> {
    /// Runs commands joined by pipes; the last one's status counts.
    pub(super) fn pipeline(&mut self, commands: &[Command]) -> Result<u8> {
        let Some((first, rest)) = commands.split_first() else { return Ok(0) };
        let tree = self.tree()?;
        let words = self.expand(&first.words, tree.as_ref())?;
        let input = self.input(first, tree.as_ref())?;
        let external = words.first().is_some_and(|name| name.first() == Some(&b'!'));
        let capture = match (rest.is_empty(), output(first)) {
            (true, None) => None,
            _ => Some(scratch()?),
        };
        let mut status = if external {
            let mut words = words;
            if let Some(name) = words.first_mut() {
                name.remove(0);
            }
            if words.first().is_some_and(Vec::is_empty) {
                words.remove(0);
            }
            self.programs(&[words], input, capture.as_ref())?
        } else {
            if input.is_some() {
                return Err(Error::usage("`<` feeds programs (!sort < f); name the file instead"));
            }
            let diverted = capture.as_ref().map(Diverted::to).transpose()?;
            let done = self.builtin(&words);
            drop(diverted);
            io::stdout().flush().about("output")?;
            done?
        };
        let mut result = capture;
        let mut last = first;
        if let Some(next) = commands.last().filter(|_| !rest.is_empty()) {
            last = next;
            if let Some(captured) = &mut result {
                captured.rewind().about("pipe")?;
            }
            let mut programs = Vec::new();
            for command in rest {
                programs.push(self.expand(&command.words, tree.as_ref())?);
            }
            let out = output(last).map(|_| scratch()).transpose()?;
            status = self.programs(&programs, result.take(), out.as_ref())?;
            result = out;
        }
        if let (Some(redirect), Some(mut captured)) = (output(last), result) {
            captured.rewind().about("output")?;
            let (word, append) = match redirect {
                Redirect::To(word) => (word, false),
                Redirect::Append(word) => (word, true),
                Redirect::From(_) => return Ok(status),
            };
            let path = self.path(&self.one(word, tree.as_ref())?);
            // The command itself may have changed what is live.
            self.tree()?.write(&path, &mut captured, append, 0o666)?;
        }
        Ok(status)
    }

    /// What `<` gives a program.
    fn input(&self, command: &Command, tree: &dyn Tree) -> Result<Option<File>> {
        let mut input = None;
        for redirect in &command.redirects {
            if let Redirect::From(word) = redirect {
                let path = self.path(&self.one(word, tree)?);
                let mut file = scratch()?;
                tree.read(&path, &mut file)?;
                file.rewind().about("input")?;
                input = Some(file);
            }
        }
        Ok(input)
    }

    /// Runs programs joined by pipes.
    fn programs(&mut self, programs: &[Vec<Vec<u8>>], input: Option<File>, out: Option<&File>) -> Result<u8> {
        let mut children: Vec<Child> = Vec::new();
        let mut input: Option<Stdio> = input.map(Stdio::from);
        for (place, words) in programs.iter().enumerate() {
            let Some((name, words)) = words.split_first() else {
                return Err(Error::usage("a program's name is missing"));
            };
            let mut program = Program::new(OsString::from_vec(name.clone()));
            program.args(words.iter().map(|word| OsString::from_vec(word.clone())));
            if let Some(input) = input.take() {
                program.stdin(input);
            }
            let last = place + 1 == programs.len();
            match out {
                _ if !last => drop(program.stdout(Stdio::piped())),
                Some(out) => drop(program.stdout(out.try_clone().about("output")?)),
                None => {}
            }
            let mut child = program.spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::failed("no such program").about(name),
                _ => Error::from(error).about(name),
            })?;
            input = child.stdout.take().map(Stdio::from);
            children.push(child);
        }
        let mut status = 0;
        for mut child in children {
            let ended = loop {
                match child.wait() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other.about("program")?,
                }
            };
            let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(1);
            status = u8::try_from(code).unwrap_or(1);
        }
        Ok(status)
    }

    /// Runs one command of the shell or of stone.
    fn builtin(&mut self, words: &[Vec<u8>]) -> Result<u8> {
        let Some((name, words)) = words.split_first() else { return Ok(0) };
        let name = String::from_utf8_lossy(name).into_owned();
        match name.as_str() {
            "exit" | "quit" => {
                self.done = true;
                return match words.first() {
                    None => Ok(self.status),
                    Some(status) => String::from_utf8_lossy(status)
                        .parse()
                        .map_err(|_| Error::usage("is no status (0 to 255)").about(status)),
                };
            }
            "help" if words.is_empty() => return help(),
            "pwd" => {
                put(crate::cli::text::escape(&self.cwd).as_bytes())?;
                put(b"\n")?;
            }
            "cd" => {
                let dir = match words.first().map(Vec::as_slice) {
                    None => b"/".to_vec(),
                    Some(b"-") => self.before.clone(),
                    Some(word) => self.path(word),
                };
                let meta = self.tree()?.stat(&dir, true)?;
                if meta.kind != crate::types::Kind::Dir {
                    return Err(Error::from(crate::engine::FsError::NotDir).about(&dir));
                }
                self.stand(dir);
            }
            "echo" => {
                let bare = words.first().is_some_and(|word| word == b"-n");
                let mut text = words.get(usize::from(bare)..).unwrap_or_default().join(&b' ');
                if !bare {
                    text.push(b'\n');
                }
                put(&text)?;
            }
            "edit" => self.edit(words)?,
            "true" => {}
            "false" => return Ok(1),
            _ if COMMANDS.iter().any(|(known, ..)| *known == name) => return self.change_or_look(&name, words),
            _ if ELSEWHERE.contains(&name.as_str()) && name != "help" => {
                return Err(
                    Error::usage("is for the command line; a shell has its database already").about(name.as_bytes())
                );
            }
            _ => return self.stone(&name, words),
        }
        Ok(0)
    }

    /// Commands that change several things do so in one step.
    fn change_or_look(&mut self, name: &str, words: &[Vec<u8>]) -> Result<u8> {
        let arguments = words.iter().filter(|word| !word.starts_with(b"-")).count();
        let usual = if matches!(name, "mv" | "cp" | "chmod" | "chown") { 2 } else { 1 };
        let many = MANY.iter().find(|(command, _)| *command == name).is_some_and(|(_, flag)| {
            let deep = |word: &Vec<u8>| {
                let letters = word.strip_prefix(b"-").unwrap_or_default();
                letters.iter().any(|letter| flag.as_bytes().contains(letter) || *letter == b'R')
            };
            arguments > usual || words.iter().any(deep)
        });
        let special = words.iter().any(|word| self.path(word).starts_with(b"/."));
        if many && !special {
            return self.in_one_step(name, words);
        }
        let tree = self.tree()?;
        self.file_command(name, words, tree.as_ref())
    }

    /// A command of stone.
    fn stone(&mut self, name: &str, words: &[Vec<u8>]) -> Result<u8> {
        if !command_names().iter().any(|known| known == name) {
            return Err(
                Error::usage("no such command; `help` lists them, `!PROGRAM` runs a program").about(name.as_bytes())
            );
        }
        let mut line: Vec<OsString> = vec![OsString::from(name)];
        if name == "run" {
            if let Ground::Here(_) = self.ground {
                return Err(Error::failed("programs see the tree only where it is mounted; `stone mount DB DIR`"));
            }
            if words.first().is_some_and(|word| !word.starts_with(b"-")) {
                line.push(OsString::from("--"));
            }
        }
        line.extend(words.iter().map(|word| OsString::from_vec(word.clone())));
        io::stdout().flush().about("output")?;
        let status = run_words(self.app, line)?;
        // A directory that the tree no longer has is left.
        if matches!(name, "switch" | "commit" | "rollback" | "undo" | "redo" | "restore" | "merge")
            && self.tree()?.stat(&self.cwd, true).is_err()
        {
            self.stand(b"/".to_vec());
        }
        Ok(status)
    }

    fn edit(&mut self, words: &[Vec<u8>]) -> Result<()> {
        let [word] = words else { return Err(Error::usage("use: edit FILE")) };
        let path = self.path(word);
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let editor = variable("VISUAL").or_else(|| variable("EDITOR")).unwrap_or_else(|| OsString::from("vi"));
        // The variable may hold arguments too.
        let mut line = shlex::bytes::split(editor.as_bytes()).unwrap_or_else(|| vec![editor.as_bytes().to_vec()]);
        if let Ground::Mount(root) = &self.ground {
            line.push(below(root, &path).into_os_string().into_vec());
            return self.edited(&line);
        }
        let tree = self.tree()?;
        let mut before = Vec::new();
        if tree.stat(&path, true).is_ok() {
            tree.read(&path, &mut before)?;
        }
        let name =
            [b"stone-".as_slice(), std::process::id().to_string().as_bytes(), b"-", split_last(&path).1].concat();
        let copy = std::env::temp_dir().join(OsString::from_vec(name));
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        options.open(&copy).and_then(|mut file| file.write_all(&before)).about(copy.as_os_str().as_bytes())?;
        line.push(copy.as_os_str().as_bytes().to_vec());
        let done = self.edited(&line);
        let after = std::fs::read(&copy).about(copy.as_os_str().as_bytes());
        let _ = std::fs::remove_file(&copy);
        done?;
        let after = after?;
        if after != before {
            tree.write(&path, &mut after.as_slice(), false, 0o666)?;
        }
        Ok(())
    }

    fn edited(&mut self, line: &[Vec<u8>]) -> Result<()> {
        match self.programs(&[line.to_vec()], None, None)? {
            0 => Ok(()),
            status => Err(Error::failed(format!("the editor ended with status {status}; nothing was changed"))),
        }
    }

    // ---- words -------------------------------------------------------------------------------

    /// A word that must be one.
    fn one(&self, word: &Word, tree: &dyn Tree) -> Result<Vec<u8>> {
        match &self.expand(std::slice::from_ref(word), tree)?[..] {
            [one] => Ok(one.clone()),
            _ => Err(Error::usage("matches several files").about(&word.text())),
        }
    }

    /// Words with their patterns expanded; one that matches nothing stays as it is.
    fn expand(&self, words: &[Word], tree: &dyn Tree) -> Result<Vec<Vec<u8>>> {
        let mut expanded = Vec::new();
        for word in words {
            let found = if word.is_pattern() { self.matching(word, tree) } else { Vec::new() };
            match found.is_empty() {
                true => expanded.push(word.text()),
                false => expanded.extend(found),
            }
        }
        Ok(expanded)
    }

    fn matching(&self, word: &Word, tree: &dyn Tree) -> Vec<Vec<u8>> {
        let components = glob::components(word);
        let mut found: Vec<Vec<u8>> = vec![Vec::new()];
        for (place, pattern) in components.iter().enumerate() {
            let mut next = Vec::new();
            for prefix in found {
                let joined = |name: &[u8]| match place {
                    0 => name.to_vec(),
                    _ => [prefix.as_slice(), b"/", name].concat(),
                };
                match pattern.literal() {
                    Some(name) => next.push(joined(&name)),
                    None => {
                        let dir = if place == 0 { self.cwd.clone() } else { self.path(&joined(b"")) };
                        next.extend(names(tree, &dir, pattern).iter().map(|name| joined(name)));
                    }
                }
            }
            found = next;
        }
        found.retain(|path| tree.stat(&self.path(path), false).is_ok());
        found
    }
}

fn names(tree: &dyn Tree, dir: &[u8], pattern: &Pattern) -> Vec<Vec<u8>> {
    let entries = tree.list(dir).unwrap_or_default();
    entries.into_iter().map(|(name, _)| name).filter(|name| pattern.matches(name, false)).collect()
}

/// The redirection of a command's output that counts: the last one.
fn output(command: &Command) -> Option<&Redirect> {
    command.redirects.iter().rev().find(|redirect| !matches!(redirect, Redirect::From(_)))
}

fn help() -> Result<u8> {
    let mut text = String::from("On files:\n");
    for (_, usage, what) in COMMANDS {
        text.push_str(&format!("  {usage:<50} {what}\n"));
    }
    text.push_str("Of stone (COMMAND --help says more):\n");
    let names: Vec<String> = command_names().into_iter().filter(|name| !ELSEWHERE.contains(&name.as_str())).collect();
    for names in names.chunks(10) {
        text.push_str(&format!("  {}\n", names.join(" ")));
    }
    text.push_str(
        "Also: exit; !PROGRAM runs a program; cat f | grep x; echo text > f, >> f; 'quotes', \"quotes\" and \\;\n\
         * ? [a-z] match names; ; && || join commands; # begins a comment; Tab completes; Ctrl-C stops, Ctrl-D leaves.\n",
    );
    put(text.as_bytes())?;
    Ok(0)
}
