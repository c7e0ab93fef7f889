//! `stone branch`: lists, creates, drops and renames branches.

use serde::{Deserialize, Serialize};

use crate::store::{BranchRow, TxnState};
use crate::types::{Seq, View};
use crate::version::refs;

use super::app::App;
use super::context::Context;
use super::error::{About, Error, Result};
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
                let mut row = refs::branch(context.engine, old.as_bytes())?;
                refs::check_name(new.as_bytes())?;
                refuse_taken(context, new)?;
                row.name = Some(new.0.clone());
                context.engine.update_branch(row.clone(), &context.caller).about(new.as_bytes())?;
                out(context, row)
            }
        }
    }
}

/// Refuses a name that a branch or a tag has.
///
/// # Errors
/// Where it is taken.
pub fn refuse_taken(context: &Context<'_>, name: &Text) -> Result<()> {
    if context.engine.branch_named(name.as_bytes()).is_some_and(|row| row.dropped.is_none()) {
        return Err(Error::failed("there is a branch of that name already").about(name.as_bytes()));
    }
    if refs::tag(context.engine, name.as_bytes()).is_some() {
        return Err(Error::failed("there is a tag of that name already").about(name.as_bytes()));
    }
    Ok(())
}

/// Begins a branch.
///
/// # Errors
/// A name that is taken or none; a reference to nothing.
pub fn create(context: &Context<'_>, name: &Text, at: Option<&Text>) -> Result<BranchOut> {
    refs::check_name(name.as_bytes())?;
    refuse_taken(context, name)?;
    context.host.cut()?;
    let from = match at {
        Some(at) => context.reference(at)?,
        None => match context.live()?.txn {
            Some(_) => View::live(context.live()?.branch), // the branch, not the open transaction
            None => context.live_view()?,
        },
    };
    let row = context.engine.fork(Some(name.as_bytes()), from, &context.caller).about(name.as_bytes())?;
    out(context, row)
}

fn drop_branch(context: &Context<'_>, name: &Text, force: bool) -> Result<BranchOut> {
    let refuse = |why: String| Err(Error::failed(why).about(name.as_bytes()));
    let mut row = refs::branch(context.engine, name.as_bytes())?;
    if let Some(mount) = context.host.mounts().into_iter().find(|mount| mount.live.branch == row.id) {
        return refuse(format!("is the live branch of {}; switch to another first", mount.dir.shown()));
    }
    if context.host.pid().is_none() && context.live()?.branch == row.id {
        return refuse("is the live branch; switch to another first".to_owned());
    }
    let children = context.engine.branches().into_iter().filter(|child| child.parent == Some(row.id));
    if let Some(child) = children.filter(|child| child.name.is_some() && child.dropped.is_none()).last() {
        let child = Text(child.name.unwrap_or_default()).shown();
        return refuse(format!("{child} was forked from it; drop that first"));
    }
    let open = |state| matches!(state, TxnState::Open | TxnState::Interrupted | TxnState::Conflicted);
    if let Some(txn) = context.engine.transactions().into_iter().find(|txn| txn.target == row.id && open(txn.state)) {
        return refuse(format!("transaction T{} is open on it; commit it or roll it back first", txn.id));
    }
    if !force && !is_merged(context, &row)? {
        return refuse("has changes that are merged nowhere; -D drops it all the same".to_owned());
    }
    let shown = out(context, row.clone())?;
    row.dropped = Some(context.engine.point().0.next());
    context.engine.update_branch(row, &context.caller).about(name.as_bytes())?;
    Ok(shown)
}

/// Whether everything that a branch changed since its fork was merged into some other.
fn is_merged(context: &Context<'_>, row: &BranchRow) -> Result<bool> {
    context.engine.seal(Some(row.id))?;
    let reader = context.reader()?;
    let mut merged = row.created;
    for target in context.engine.branches() {
        let merges = reader.merges(target.id)?;
        merged = merges.iter().filter(|merge| merge.source == row.id).fold(merged, |m, merge| m.max(merge.source_seq));
    }
    let touched = reader.touched(row.id, merged, Seq(Seq::MAX.0 - 1))?;
    Ok(touched.inodes.is_empty()
        && touched.entries.is_empty()
        && touched.xattrs.is_empty()
        && touched.extents.is_empty())
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
