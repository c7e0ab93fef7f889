//! `stone diff`: what differs between two states.

use serde::{Deserialize, Serialize};

use crate::types::{Kind, View};
use crate::version::diff::{self, Change, ChangeKind};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::screen::{Screen, Style};
use super::text::{Text, TreePath, escape_lines};
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone diff                      since the fork of the branch, the begin of the transaction shown,
                                  or else the last tag or explicit commit
  stone diff yesterday            between yesterday and now
  stone diff v1.0 experiment      between a tag and a branch
  stone diff -p T7^ T7 -- src     what transaction 7 changed in src, line by line
Lines: A added, M modified, D deleted, R old -> new renamed, T type changed, m mode, owner, ACL or
xattrs only; a tab; the path.";

/// Shows what differs between two states, one line a path
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DiffArgs {
    /// From this state
    #[arg(value_name = "REF", allow_hyphen_values = true)]
    from: Option<Text>,
    /// To this state (the live tree where it is left out)
    #[arg(value_name = "REF", allow_hyphen_values = true)]
    to: Option<Text>,
    /// Only this path and what is below it
    #[arg(last = true, value_name = "PATH")]
    path: Option<TreePath>,
    /// Shows changes of text line by line
    #[arg(short, long)]
    patch: bool,
}

/// The work of `stone diff`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Diff {
    /// From this state; the fork, the begin or the last tag where it is left out.
    pub from: Option<Text>,
    /// To this state; the live tree where it is left out.
    pub to: Option<Text>,
    /// Only here.
    pub path: Option<TreePath>,
    /// With changes of text.
    pub patch: bool,
}

/// One path that differs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiffRow {
    /// `A`, `M`, `D`, `R`, `T` or `m`.
    pub status: ChangeKind,
    /// The path (the new one of a rename).
    pub path: TreePath,
    /// The old path of a rename.
    pub old_path: Option<TreePath>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Its inode after.
    pub inode: Option<u64>,
    /// Bytes before.
    pub old_size: Option<u64>,
    /// Bytes after.
    pub size: Option<u64>,
    /// Whether the content differs.
    pub content: bool,
    /// Whether mode, owner, ACL or xattrs differ.
    pub attributes: bool,
    /// The unified diff of its text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub patch: Option<Text>,
    /// Whether its content differs and is no text.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub binary: bool,
}

impl DiffRow {
    /// A change of the version layer as a row.
    pub fn of(change: &Change) -> DiffRow {
        DiffRow {
            status: change.kind,
            path: TreePath(change.path.0.clone()),
            old_path: change.old_path.as_ref().map(|path| TreePath(path.0.clone())),
            kind: change.file_kind,
            inode: change.ino.map(|ino| ino.0),
            old_size: change.old_size,
            size: change.size,
            content: change.content,
            attributes: change.attrs,
            patch: None,
            binary: false,
        }
    }
}

/// Compares two views.
///
/// # Errors
/// Those of the store.
pub fn rows(
    context: &Context<'_>,
    before: View,
    after: View,
    path: Option<&TreePath>,
    patch: bool,
) -> Result<Vec<DiffRow>> {
    let changes = diff::diff(context.engine, before, after, path.map(TreePath::as_bytes))?;
    let mut rows = Vec::with_capacity(changes.len());
    for (done, change) in changes.iter().enumerate() {
        let mut row = DiffRow::of(change);
        let has_text = matches!(change.file_kind, Kind::File | Kind::Symlink);
        if patch && has_text && change.kind != ChangeKind::Attributes {
            context.report("comparing", done as u64, changes.len() as u64);
            let text = diff::text_diff(context.engine, before, after, change)?;
            row.binary = text.binary;
            row.patch = (!text.binary && !text.hunks.is_empty()).then(|| Text(text.render()));
        }
        rows.push(row);
    }
    Ok(rows)
}

impl Work for Diff {
    const NAME: &'static str = "diff";
    type Output = Vec<DiffRow>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<DiffRow>> {
        context.host.cut()?;
        let live = context.live_view()?;
        let before = match &self.from {
            Some(from) => context.reference(from)?,
            None => diff::default_base(context.engine, live.branch),
        };
        let after = match &self.to {
            Some(to) => context.reference(to)?,
            None => live,
        };
        rows(context, before, after, self.path.as_ref(), self.patch)
    }
}

impl DiffArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let path = self.path.as_ref().map(|path| app.tree_path(path)).transpose()?;
        let rows = app.ask(&Diff { from: self.from, to: self.to, path, patch: self.patch })?;
        app.show(&rows, true, |screen, rows| show(screen, rows, self.patch))?;
        Ok(0)
    }
}

/// Shows differences as lines.
///
/// # Errors
/// Where the output cannot be written.
pub fn show(screen: &mut Screen, rows: &[DiffRow], patch: bool) -> Result<()> {
    for row in rows {
        let style = match row.status {
            ChangeKind::Added => Style::Green,
            ChangeKind::Deleted => Style::Red,
            ChangeKind::Modified | ChangeKind::Type | ChangeKind::Attributes => Style::Yellow,
            ChangeKind::Renamed => Style::Cyan,
        };
        let path = match &row.old_path {
            Some(old) if row.status == ChangeKind::Renamed => format!("{} -> {}", old.shown(), row.path.shown()),
            Some(_) | None => row.path.shown(),
        };
        let line = format!("{}\t{path}", row.status.letter());
        screen.line(screen.paint(style, line))?;
        if patch {
            show_patch(screen, row)?;
        }
    }
    Ok(())
}

fn show_patch(screen: &mut Screen, row: &DiffRow) -> Result<()> {
    let old = row.old_path.as_ref().unwrap_or(&row.path).shown();
    let new = row.path.shown();
    if row.binary {
        return screen.line(format!("Binary files a/{old} and b/{new} differ"));
    }
    let Some(patch) = &row.patch else { return Ok(()) };
    let from = if row.status == ChangeKind::Added { "/dev/null".to_owned() } else { format!("a/{old}") };
    let to = if row.status == ChangeKind::Deleted { "/dev/null".to_owned() } else { format!("b/{new}") };
    screen.line(screen.paint(Style::Bold, format!("--- {from}")))?;
    screen.line(screen.paint(Style::Bold, format!("+++ {to}")))?;
    for line in escape_lines(patch.as_bytes()).lines() {
        let style = match line.as_bytes().first() {
            Some(b'+') => Style::Green,
            Some(b'-') => Style::Red,
            Some(b'@') => Style::Cyan,
            _ => Style::Plain,
        };
        screen.line(screen.paint(style, line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn row(status: ChangeKind, path: &str, old: Option<&str>) -> DiffRow {
        DiffRow {
            status,
            path: path.into(),
            old_path: old.map(TreePath::from),
            kind: Kind::File,
            inode: None,
            old_size: None,
            size: None,
            content: true,
            attributes: false,
            patch: None,
            binary: false,
        }
    }

    #[test]
    fn lines_are_a_letter_a_tab_and_the_path() {
        let mut screen = Screen::memory(TimeZone::UTC);
        let rows = [
            row(ChangeKind::Added, "/a", None),
            row(ChangeKind::Renamed, "/d/new", Some("/d/old\n")),
            row(ChangeKind::Attributes, "/", None),
        ];
        show(&mut screen, &rows, false).unwrap();
        assert_eq!(screen.collected(), "A\ta\nR\td/old\\n -> d/new\nm\t.\n");
    }

    #[test]
    fn text_is_shown_under_its_names_and_escaped() {
        let mut screen = Screen::memory(TimeZone::UTC);
        let changed =
            DiffRow { patch: Some("@@ -1 +1 @@\n-a\x1b\n+b\n".into()), ..row(ChangeKind::Modified, "/a", None) };
        show(&mut screen, &[changed], true).unwrap();
        assert_eq!(screen.collected(), "M\ta\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\\x1b\n+b\n");
    }
}
