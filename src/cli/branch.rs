//! `stone branch`: lists, creates, drops and renames branches.

use serde::{Deserialize, Serialize};

use crate::store::BranchRow;
use crate::types::{BranchId, View};
use crate::version::{branch, refs};

use super::app::App;
use super::context::Context;
use super::error::Result;
use super::screen::Style;
use super::text::{Text, When, point};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone branch                       lists them, * at the live one
  stone branch experiment            begins one at the present of the live branch
  stone branch rescue 10:40          begins one in the past
  stone branch -m experiment done    renames
  stone branch -d done               drops one that is merged; -D one that is not
A branch costs the same for ten files as for ten million, and no space. Its files are at
.branches/NAME in every mount; `stone switch NAME` shows them as the live tree.";

/// Lists, creates, renames and drops branches
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "stone branch [NAME [REF]]\n       stone branch -d NAME | -D NAME | -m OLD NEW")]
pub struct BranchArgs {
    /// The branch to create
    #[arg(value_name = "NAME")]
    name: Option<Text>,
    /// The state that it begins with (the present of the live branch where it is left out)
    #[arg(value_name = "REF", allow_hyphen_values = true)]
    at: Option<Text>,
    /// Drops a branch
    #[arg(short = 'd', long = "delete", value_name = "NAME", conflicts_with_all = ["name", "force_delete", "rename"])]
    delete: Option<Text>,
    /// Drops a branch even if its changes are merged nowhere
    #[arg(short = 'D', value_name = "NAME", conflicts_with_all = ["name", "rename"])]
    force_delete: Option<Text>,
    /// Renames a branch
    #[arg(short = 'm', long = "move", num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "name")]
    rename: Vec<Text>,
}

/// The work of listing.
#[derive(Debug, Serialize, Deserialize)]
pub struct BranchList {}

/// A branch.
#[derive(Debug, Serialize, Deserialize)]
pub struct BranchOut {
    /// Its name.
    pub name: Text,
    /// Whether the live tree shows it.
    pub live: bool,
    /// The branch that it was forked from.
    pub parent: Option<Text>,
    /// The point at which it was forked.
    pub base: Option<String>,
    /// When it was made.
    pub created: When,
    /// Who made it.
    pub uid: u32,
}

/// The work of changing branches.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchEdit {
    /// Begins one.
    Create {
        /// Its name.
        name: Text,
        /// The state that it begins with.
        at: Option<Text>,
    },
    /// Ends one.
    Drop {
        /// Its name.
        name: Text,
        /// Though it is not merged.
        force: bool,
    },
    /// Gives one another name.
    Rename {
        /// What it is called.
        old: Text,
        /// What it will be called.
        new: Text,
    },
}

fn out(context: &Context<'_>, row: BranchRow) -> Result<BranchOut> {
    Ok(BranchOut {
        live: context.live()?.branch == row.id,
        parent: row.parent.map(|id| context.branch_name(id)),
        base: row.parent.map(|_| point(row.base)),
        created: When(row.created_time),
        uid: row.uid,
        name: Text(row.name.unwrap_or_default()),
    })
}

impl Work for BranchList {
    const NAME: &'static str = "branches";
    type Output = Vec<BranchOut>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<BranchOut>> {
        let named = |row: &BranchRow| row.name.is_some() && row.dropped.is_none();
        let rows = context.engine.branches().into_iter().filter(named);
        let mut rows = rows.map(|row| out(context, row)).collect::<Result<Vec<_>>>()?;
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }
}

impl Work for BranchEdit {
    const NAME: &'static str = "branch";
    const CHANGES: bool = true;
    type Output = BranchOut;

    fn execute(&self, context: &Context<'_>) -> Result<BranchOut> {
        match self {
            BranchEdit::Create { name, at } => create(context, name, at.as_ref()),
            BranchEdit::Drop { name, force } => drop_branch(context, name, *force),
            BranchEdit::Rename { old, new } => {
                branch::rename(context.engine, old.as_bytes(), new.as_bytes(), &context.caller)?;
                out(context, refs::branch(context.engine, new.as_bytes())?)
            }
        }
    }
}

/// Begins a branch.
///
/// # Errors
/// A name that is taken or none; a reference to nothing.
pub fn create(context: &Context<'_>, name: &Text, at: Option<&Text>) -> Result<BranchOut> {
    refs::check_name(name.as_bytes())?;
    context.host.cut()?;
    let from = match at {
        Some(at) => context.reference(at)?,
        None => match context.live()?.txn {
            Some(_) => View::live(context.live()?.branch), // the branch, not the open transaction
            None => context.live_view()?,
        },
    };
    let row = branch::create(context.engine, name.as_bytes(), from, &context.caller)?;
    out(context, row)
}

fn drop_branch(context: &Context<'_>, name: &Text, force: bool) -> Result<BranchOut> {
    let row = refs::branch(context.engine, name.as_bytes())?;
    let shown = out(context, row)?;
    let mut live: Vec<BranchId> = context.host.mounts().iter().map(|mount| mount.live.branch).collect();
    live.push(context.live()?.branch);
    branch::drop(context.engine, name.as_bytes(), force, &live, &context.caller)?;
    Ok(shown)
}

impl BranchArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let edit = match (self.name, self.delete, self.force_delete, <[Text; 2]>::try_from(self.rename)) {
            (_, _, _, Ok([old, new])) => BranchEdit::Rename { old, new },
            (_, Some(name), _, _) => BranchEdit::Drop { name, force: false },
            (_, _, Some(name), _) => BranchEdit::Drop { name, force: true },
            (Some(name), ..) => BranchEdit::Create { name, at: self.at },
            (None, ..) => {
                let branches = app.ask(&BranchList {})?;
                let verbose = app.globals.verbose > 0;
                app.show(&branches, true, |screen, branches| {
                    let mut rows = Vec::new();
                    for row in branches {
                        let style = if row.live { Style::Green } else { Style::Plain };
                        let mut cells =
                            vec![(style, format!("{} {}", if row.live { '*' } else { ' ' }, row.name.shown()))];
                        if verbose {
                            let from = match (&row.parent, &row.base) {
                                (Some(parent), Some(base)) => format!("{}@{base}", parent.shown()),
                                _ => String::new(),
                            };
                            cells.push((Style::Yellow, from));
                            cells.push((Style::Dim, screen.time(row.created)));
                            cells.push((Style::Plain, users::name(row.uid)));
                        }
                        rows.push(cells);
                    }
                    screen.columns(&rows)
                })?;
                return Ok(0);
            }
        };
        let done = app.ask(&edit)?;
        if app.globals.json {
            app.show_json(&done)?;
        }
        Ok(0)
    }
}
