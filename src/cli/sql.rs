//! `stone sql`: questions about the whole record.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor, Helper, Highlighter, Hinter, Validator};
use serde::{Deserialize, Serialize};

use crate::sql::{self, Asker, Format, Limits, Printer};

use super::app::App;
use super::context::Context;
use super::error::{About, Error, Result};
use super::interrupt::Interrupts;
use super::screen::Screen;
use super::text::Text;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone sql \"SELECT path, size FROM files ORDER BY size DESC LIMIT 10\"
  stone sql \"SELECT time, uid, path FROM events WHERE op = 'unlink'\"
  stone sql --at yesterday \"SELECT count(*) FROM files\"
  stone sql \"SELECT a.path FROM files a LEFT JOIN files FOR SYSTEM_TIME AS OF 'v1.0' b
             ON a.inode = b.inode WHERE b.inode IS NULL\"
  echo 'SELECT * FROM branches' | stone sql --format csv
  stone sql                       asks line by line; .tables lists the tables
Tables: files versions events transactions branches tags conflicts processes. Functions:
content(path), content_at(path, ref), path(inode), glob, regexp. Nothing can be changed.";

/// The largest result that is carried in one piece, in bytes.
const RESULT_MAX: usize = 128 << 20;

/// Asks in SQL about files, versions, events, transactions and processes; read-only
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SqlArgs {
    /// The question; read from standard input where it is left out
    #[arg(value_name = "QUERY")]
    query: Option<Text>,
    /// Answers as of this state
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    at: Option<Text>,
    /// table, json, csv or tsv
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Gives up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u32,
}

/// The work of `stone sql`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sql {
    /// The statements.
    pub query: String,
    /// As of this state.
    pub at: Option<Text>,
    /// The form of the answer.
    pub format: String,
    /// The longest it may run, in seconds.
    pub timeout_s: u32,
}

/// The answer, printed in its form.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// As text.
    pub text: Text,
}

impl Work for Sql {
    const NAME: &'static str = "sql";
    type Output = Answer;

    fn execute(&self, context: &Context<'_>) -> Result<Answer> {
        let format = Format::from_word(&self.format)
            .ok_or_else(|| Error::usage("there are table, json, csv and tsv").about(self.format.as_bytes()))?;
        context.settle()?;
        let asker = Asker {
            branch: context.live_view()?.branch,
            zone: context.zone.clone(),
            now: context.now(),
            at: self.at.as_ref().map(|at| at.0.clone()),
        };
        let mut buffer = Bounded(Vec::new());
        let mut printer = Printer::new(&mut buffer, format);
        let limits = Limits { time_ms: u64::from(self.timeout_s) * 1000, ..Limits::default() };
        let stop = Arc::clone(&context.stopped);
        sql::query_until(context.engine, &asker, &self.query, limits, stop, &mut printer).map_err(Error::failed)?;
        printer.finish().map_err(Error::failed)?;
        Ok(Answer { text: Text(buffer.0) })
    }
}

/// Refuses to grow without bound.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RESULT_MAX {
            return Err(io::Error::other("the result is too large; narrow it with WHERE or LIMIT"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SqlArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let format = if app.globals.json { "json".to_owned() } else { self.format.clone() };
        if Format::from_word(&format).is_none() {
            return Err(Error::usage("there are table, json, csv and tsv").about(format.as_bytes()));
        }
        let work = |query: String| Sql { query, at: self.at.clone(), format: format.clone(), timeout_s: self.timeout };
        let show = |answer: &Answer, paged: bool| {
            let mut screen = Screen::open(app.zone.clone(), paged);
            screen.document(answer.text.as_bytes())?;
            screen.finish()
        };
        let ask = |query: String| show(&app.ask(&work(query))?, true);
        match &self.query {
            Some(query) => {
                let query = String::from_utf8(query.0.clone()).map_err(|_| Error::usage("the query is not UTF-8"))?;
                ask(query)?;
            }
            None if io::stdin().is_terminal() => {
                let interrupts = Interrupts::watch().map_err(Error::from)?;
                converse(&|query: String| match app.access(&[])?.ask_until(&work(query), &interrupts)? {
                    Some(answer) => show(&answer, false),
                    None => Err(Error::failed("interrupted")),
                })?;
            }
            None => {
                let mut query = String::new();
                io::stdin().read_to_string(&mut query).about("standard input")?;
                ask(query)?;
            }
        }
        Ok(0)
    }
}

/// Completes what a query consists of.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words(Vec<String>);

impl Words {
    fn new() -> Words {
        const KEYWORDS: &str = "SELECT FROM WHERE AND OR NOT NULL IS IN LIKE GLOB REGEXP BETWEEN ORDER BY DESC GROUP \
            HAVING LIMIT OFFSET JOIN LEFT ON AS DISTINCT UNION ALL EXCEPT INTERSECT WITH RECURSIVE CASE WHEN THEN ELSE \
            END FOR SYSTEM_TIME OF count( min( max( sum( avg( group_concat( length( substr( printf( content( \
            content_at( path( instant(";
        let mut words: Vec<String> = KEYWORDS.split_whitespace().map(str::to_owned).collect();
        for (table, columns) in sql::schema() {
            words.push(table.to_owned());
            words.extend(columns.iter().map(|(name, _)| (*name).to_owned()));
        }
        words.sort();
        words.dedup();
        Words(words)
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..pos).unwrap_or(line);
        let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = before.char_indices().rev().take_while(|(_, c)| part_of_word(*c)).last().map_or(pos, |(at, _)| at);
        let typed = before.get(start..).unwrap_or_default();
        let matching = self.0.iter().filter(|word| {
            !typed.is_empty() && word.get(..typed.len()).is_some_and(|head| head.eq_ignore_ascii_case(typed))
        });
        let pairs = matching.map(|word| Pair { display: word.clone(), replacement: word.clone() }).collect();
        Ok((start, pairs))
    }
}

/// Asks line by line, until the end of input.
fn converse(ask: &dyn Fn(String) -> Result<()>) -> Result<()> {
    let broken = |error: ReadlineError| Error::failed(error.to_string());
    let config = Config::builder().completion_type(CompletionType::List).build();
    let mut editor: Editor<Words, DefaultHistory> = Editor::with_config(config).map_err(broken)?;
    editor.set_helper(Some(Words::new()));
    let history = history_file();
    if let Some(path) = &history {
        let _ = editor.load_history(path); // there is none the first time
    }
    let mut pending = String::new();
    loop {
        let line = match editor.readline(if pending.is_empty() { "sql> " } else { "...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        };
        match line.trim() {
            "" if pending.is_empty() => continue,
            ".quit" | ".exit" | "exit" | "quit" if pending.is_empty() => break,
            ".tables" | ".schema" | ".help" if pending.is_empty() => {
                for (table, columns) in sql::schema() {
                    let columns: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
                    println!("{table}({})", columns.join(", "));
                }
                continue;
            }
            _ => {}
        }
        pending.push_str(&line);
        pending.push('\n');
        if !sql::complete(&pending) && !line.trim().is_empty() {
            continue;
        }
        let query = std::mem::take(&mut pending);
        let _ = editor.add_history_entry(query.trim());
        if let Err(error) = ask(query) {
            eprintln!("stone: {error}");
        }
    }
    if let Some(path) = &history {
        let _ = editor.save_history(path);
    }
    Ok(())
}

/// Where the lines typed at `sql>` are remembered.
fn history_file() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".local/state"),
    };
    let dir = base.join("stonefs");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("sql_history"))
}
