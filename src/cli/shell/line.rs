//! The line editor: history, completion of commands and paths.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Helper, Highlighter, Hinter, Validator};

use crate::cli::command_names;
use crate::cli::error::{Error, Result};
use crate::types::Kind;

use super::Shell;
use super::files::COMMANDS;
use super::parse::quote;
use super::tree::{Tree, split_last};

/// What was typed.
pub enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// Lines kept from one session to the next.
const HISTORY_MAX: usize = 1000;

/// Reads lines from the terminal.
pub struct Editor {
    inner: rustyline::Editor<Completion, DefaultHistory>,
    place: Rc<RefCell<Place>>,
    history: Option<PathBuf>,
}

/// What completion looks at: the tree and the directory as of the last prompt.
#[derive(Default)]
struct Place {
    tree: Option<Box<dyn Tree>>,
    cwd: Vec<u8>,
}

#[derive(Helper, Highlighter, Hinter, Validator)]
struct Completion {
    place: Rc<RefCell<Place>>,
    commands: Vec<String>,
}

fn broken(error: ReadlineError) -> Error {
    Error::failed(error.to_string())
}

impl Editor {
    /// Opens the terminal.
    pub fn new(_shell: &Shell<'_>) -> Result<Editor> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_MAX)
            .and_then(|builder| builder.history_ignore_dups(true))
            .map_err(broken)?
            .build();
        let mut inner = rustyline::Editor::with_config(config).map_err(broken)?;
        let place = Rc::new(RefCell::new(Place::default()));
        let mut commands: Vec<String> = COMMANDS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        commands.extend(command_names());
        commands.extend(["exit".to_owned(), "help".to_owned()]);
        commands.sort();
        commands.dedup();
        inner.set_helper(Some(Completion { place: Rc::clone(&place), commands }));
        let history = history_file();
        if let Some(path) = &history {
            let _ = inner.load_history(path); // there is none the first time
        }
        Ok(Editor { inner, place, history })
    }

    /// Reads a line.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub fn read(&mut self, shell: &Shell<'_>, prompt: &str) -> Result<Typed> {
        *self.place.borrow_mut() = Place { tree: shell.tree().ok(), cwd: shell.cwd.clone() };
        match self.inner.readline(prompt) {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(broken(error)),
        }
    }

    /// Keeps a line.
    ///
    /// # Errors
    /// Where it cannot be kept.
    pub fn remember(&mut self, line: &[u8]) -> Result<()> {
        if !line.is_empty() {
            self.inner.add_history_entry(String::from_utf8_lossy(line)).map_err(broken)?;
        }
        Ok(())
    }

    /// Writes the history.
    pub fn finish(mut self) {
        if let Some(path) = &self.history {
            let _ = self.inner.save_history(path); // a history that cannot be kept is no failure
        }
    }
}

/// Where lines are remembered.
fn history_file() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".local/state"),
    };
    let dir = base.join("stonefs");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("shell_history"))
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..at).unwrap_or(line);
        let word = last_word(typed);
        if word.first {
            let known = self.commands.iter().filter(|name| name.as_bytes().starts_with(&word.text));
            return Ok((word.start, known.map(|name| pair(name.clone(), format!("{name} "))).collect()));
        }
        Ok((word.start, self.place.borrow().complete(&word.text)))
    }
}

fn pair(display: String, replacement: String) -> Pair {
    Pair { display, replacement }
}

impl Place {
    fn complete(&self, text: &[u8]) -> Vec<Pair> {
        let Some(tree) = &self.tree else { return Vec::new() };
        let (dir, prefix) = split_last(text);
        let absolute = text.first() == Some(&b'/');
        let place = match (absolute, dir) {
            (true, b"") => b"/".to_vec(),
            (true, dir) => dir.to_vec(),
            (false, dir) => [self.cwd.as_slice(), b"/", dir].concat(),
        };
        let place = crate::cli::mountinfo::normalize(&place);
        let mut pairs = Vec::new();
        for (name, kind) in tree.list(&place).unwrap_or_default() {
            if !name.starts_with(prefix) || (prefix.is_empty() && name.first() == Some(&b'.')) {
                continue;
            }
            // A line is text: names that are none cannot be typed.
            let Ok(shown) = String::from_utf8(name.clone()) else { continue };
            let path = match (dir, absolute) {
                (b"", false) => name,
                (dir, _) => [dir, b"/", &name].concat(),
            };
            let Ok(mut quoted) = String::from_utf8(quote(&path)) else { continue };
            let slash = if kind == Kind::Dir { "/" } else { "" };
            match kind {
                Kind::Dir => quoted.push('/'),
                Kind::File | Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => quoted.push(' '),
            }
            pairs.push(pair(format!("{}{slash}", crate::cli::text::escape(shown.as_bytes())), quoted));
        }
        pairs
    }
}

/// The word that is being typed.
struct Last {
    start: usize,
    text: Vec<u8>,
    /// Whether it is a command's name.
    first: bool,
}

fn last_word(typed: &str) -> Last {
    let mut last = Last { start: 0, text: Vec::new(), first: true };
    let mut quote = None;
    let mut inside = false;
    let mut escaped = false;
    for (at, c) in typed.char_indices() {
        let mut push = |last: &mut Last| {
            if !inside {
                last.start = at;
                inside = true;
            }
        };
        if escaped {
            escaped = false;
            last.text.extend(c.to_string().bytes());
            continue;
        }
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                push(&mut last);
                escaped = true;
            }
            (None, '\'' | '"') => {
                push(&mut last);
                quote = Some(c);
            }
            (None, ' ' | '\t') => {
                if inside {
                    last.first = false;
                }
                inside = false;
                last.text.clear();
                last.start = at + c.len_utf8();
            }
            (None, ';' | '|' | '&') => {
                inside = false;
                last = Last { start: at + c.len_utf8(), text: Vec::new(), first: true };
            }
            (None, '>' | '<') => {
                inside = false;
                last = Last { start: at + c.len_utf8(), text: Vec::new(), first: false };
            }
            (_, c) => {
                push(&mut last);
                last.text.extend(c.to_string().bytes());
            }
        }
    }
    if !inside {
        last.text.clear();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_being_typed_is_found() {
        let word = |typed: &str| {
            let last = last_word(typed);
            (last.start, String::from_utf8(last.text).unwrap(), last.first)
        };
        assert_eq!(word("l"), (0, "l".into(), true));
        assert_eq!(word("ls "), (3, String::new(), false));
        assert_eq!(word("ls a/b"), (3, "a/b".into(), false));
        assert_eq!(word("cat 'a b"), (4, "a b".into(), false));
        assert_eq!(word("cat a\\ b"), (4, "a b".into(), false));
        assert_eq!(word("ls; r"), (4, "r".into(), true));
        assert_eq!(word("echo x > f"), (9, "f".into(), false));
        assert_eq!(word(""), (0, String::new(), true));
    }
}
