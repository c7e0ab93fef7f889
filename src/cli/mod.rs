//! L7: the command line, one file per command.
//!
//! A command is parsed here, finds its database (`place`), and has its work done (`works`) by the
//! daemon that has the database mounted, or by itself where nothing has. What comes back is typed;
//! showing it, as text or JSON, is always done in the user's own process (`screen`).

mod app;
mod audit;
mod backup;
mod begin;
mod branch;
mod check;
mod commit;
mod conflicts;
mod context;
mod daemon;
mod diff;
mod error;
mod graph;
mod helper;
mod history;
mod holders;
mod init;
mod interrupt;
mod isolate;
mod log;
mod merge;
mod mount;
mod mountinfo;
mod options;
mod outcome;
mod place;
mod private;
mod prune;
mod ps;
mod retention;
mod rollback;
mod run;
mod runs;
mod screen;
mod shell;
mod show;
mod sql;
mod status;
mod switch;
mod sync;
mod tag;
mod text;
mod umount;
mod undo;
mod users;
mod verify;
mod why;
mod works;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use app::{App, Globals};
pub use error::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  stone mount work.stone ~/work     make a database where there is none, and mount it
  cd ~/work; ls .history            its past states are directories
  cat .history/5m-ago/notes.txt     a file as it was five minutes ago
  stone log; stone diff yesterday   what happened; what is different since yesterday
  stone switch -c experiment        try something on a branch of the whole tree
  stone run -- make install         keep what a command did only if it succeeds
  stone umount ~/work

A REF names a state: a branch, a tag, or a point in time ([BRANCH@]POINT) such as e123 (an event),
T7 (a transaction), T7^ (just before it), 2026-11-22T10:40, 10:40, yesterday, 5m-ago.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 conflict.";

/// A file system whose disk is a database: history, branches, transactions, and SQL over every change
#[derive(Debug, Parser)]
#[command(name = "stone", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

macro_rules! commands {
    ($($name:ident($args:ty),)*) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($name($args),)*
        }

        impl Command {
            fn run(self, app: &App) -> Result<u8> {
                match self {
                    $(Command::$name(args) => args.run(app),)*
                }
            }
        }
    };
}

commands! {
    Init(init::Init),
    Mount(mount::Mount),
    Umount(umount::Umount),
    Status(status::StatusArgs),
    Sync(sync::SyncArgs),
    Begin(begin::BeginArgs),
    Commit(commit::CommitArgs),
    Rollback(rollback::RollbackArgs),
    Run(run::RunArgs),
    Branch(branch::BranchArgs),
    Switch(switch::SwitchArgs),
    Merge(merge::MergeArgs),
    Conflicts(conflicts::ConflictsArgs),
    Resolve(conflicts::ResolveArgs),
    Diff(diff::DiffArgs),
    Tag(tag::TagArgs),
    Log(log::LogArgs),
    History(history::HistoryArgs),
    Show(show::ShowArgs),
    Restore(undo::RestoreArgs),
    Undo(undo::UndoArgs),
    Redo(undo::RedoArgs),
    Blame(history::BlameArgs),
    Audit(audit::AuditArgs),
    Ps(ps::PsArgs),
    Why(why::WhyArgs),
    Verify(verify::VerifyArgs),
    Sql(sql::SqlArgs),
    Shell(shell::ShellArgs),
    Check(check::CheckArgs),
    Prune(prune::PruneArgs),
    Gc(prune::GcArgs),
    Backup(backup::BackupArgs),
}

/// Runs the program on its arguments and returns its exit status.
pub fn main() -> ExitCode {
    let Some(words) = helper::words(std::env::args_os().collect()) else { return ExitCode::SUCCESS };
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(explain(&error)),
    };
    start_log(cli.globals.verbose, &cli.command);
    let app = App::new(cli.globals);
    let done = cli.command.run(&app);
    let closed = app.finish();
    ExitCode::from(match done.and_then(|status| closed.map(|()| status)) {
        Ok(status) => status,
        Err(error) => report(&error),
    })
}

/// Runs one command given as words, as the shell does, on a database that is open already.
///
/// # Errors
/// Those of the command; wrong usage too.
pub(crate) fn run_words(app: &App, words: impl IntoIterator<Item = OsString>) -> Result<u8> {
    let words = std::iter::once(OsString::from("stone")).chain(words);
    match Cli::try_parse_from(words) {
        Ok(cli) => {
            let globals = Globals { json: cli.globals.json || app.globals.json, ..cli.globals };
            cli.command.run(&app.with_options(globals))
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            drop(error.print());
            Ok(0)
        }
        Err(error) => Err(Error::usage(one_line(&error))),
    }
}

/// The names of all commands.
pub(crate) fn command_names() -> Vec<String> {
    use clap::CommandFactory;
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Prints an error and returns the status to exit with.
fn report(error: &Error) -> u8 {
    if error.0.message == screen::OUTPUT_CLOSED {
        return 0; // whoever read our output has seen enough
    }
    eprintln!("stone: {error}");
    error.status()
}

/// Prints help, or what is wrong with the command line.
fn explain(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            drop(error.print());
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(error.print());
            2
        }
        _ => {
            eprintln!("stone: {}", one_line(error));
            2
        }
    }
}

/// The parser's complaint in one line, with where to read on.
fn one_line(error: &clap::Error) -> String {
    let full = error.render().to_string();
    let mut what = Vec::new();
    for line in full.lines() {
        let line = line.trim();
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        match line.strip_prefix("tip: ") {
            // Hardly ever what was meant.
            Some(tip) if tip.starts_with("to pass ") => {}
            Some(tip) => what.push(format!("({tip})")),
            None if line.is_empty() => {}
            None => what.push(line.trim_start_matches("error: ").to_owned()),
        }
    }
    let what = text::escape(what.join(" ").as_bytes());
    let usage = error.context().find_map(|(kind, value)| match (kind, value) {
        (ContextKind::Usage, ContextValue::StyledStr(usage)) => Some(usage.to_string()),
        _ => None,
    });
    let command = usage
        .as_deref()
        .and_then(|usage| usage.trim().strip_prefix("Usage: stone "))
        .and_then(|rest| rest.split_whitespace().find(|word| word.chars().all(|c| c.is_ascii_lowercase())))
        .map_or_else(String::new, |word| format!("{word} "));
    format!("{what}; `stone {command}--help` shows how")
}

fn start_log(verbose: u8, command: &Command) {
    let serves = matches!(command, Command::Mount(mount) if mount.is_detached() || mount.is_foreground());
    let level = match verbose {
        0 if serves => ::log::LevelFilter::Warn,
        0 => ::log::LevelFilter::Off,
        1 => ::log::LevelFilter::Info,
        2.. => ::log::LevelFilter::Debug,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    if let Ok(spec) = std::env::var("STONE_LOG") {
        builder.parse_filters(&spec);
    }
    if builder.try_init().is_err() {
        ::log::debug!("a logger is installed already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["stone", "status", "--json", "--db", "x.stone", "-q"]).unwrap();
        assert!(cli.globals.json && cli.globals.quiet);
        assert_eq!(cli.globals.db.as_deref(), Some(std::path::Path::new("x.stone")));
    }

    #[test]
    fn wrong_usage_is_one_line_that_points_to_help() {
        for words in [&["stone", "log", "--nonsense"][..], &["stone", "backup"], &["stone", "frobnicate"]] {
            let line = one_line(&Cli::try_parse_from(words).unwrap_err());
            assert!(!line.contains('\n'), "{line}");
            assert!(line.contains("--help"), "{line}");
        }
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for command in Cli::command().get_subcommands() {
            if command.is_hide_set() {
                continue;
            }
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("stone "), "{} has no example", command.get_name());
        }
    }
}
