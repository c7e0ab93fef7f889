//! `stone tag`: names for states.

use serde::{Deserialize, Serialize};

use crate::store::TagRow;
use crate::types::{At, View};
use crate::version::{branch, refs};

use super::app::App;
use super::context::Context;
use super::error::{Error, Result};
use super::screen::Style;
use super::text::{Text, When, escape, point};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone tag                            lists them
  stone tag before-upgrade             names the present state
  stone tag v1.0 'main@2026-11-22' -m 'as it was delivered'
  ls .history/v1.0; stone diff v1.0    use it
  stone tag -d v1.0                    removes the name; the state stays, as all history does";

/// Lists, creates and removes tags: names for states
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TagArgs {
    /// The tag to create
    #[arg(value_name = "NAME")]
    name: Option<Text>,
    /// The state (the present of the live branch where it is left out)
    #[arg(value_name = "REF", allow_hyphen_values = true)]
    at: Option<Text>,
    /// Why
    #[arg(short, long, value_name = "MSG", requires = "name")]
    message: Option<String>,
    /// Removes a tag
    #[arg(short, long, value_name = "NAME", conflicts_with = "name")]
    delete: Option<Text>,
}

/// The work of listing.
#[derive(Debug, Serialize, Deserialize)]
pub struct TagList {}

/// A tag.
#[derive(Debug, Serialize, Deserialize)]
pub struct TagOut {
    /// Its name.
    pub name: Text,
    /// The point of the state.
    pub point: String,
    /// The branch of the state.
    pub branch: Text,
    /// When the tag was made.
    pub time: When,
    /// Who made it.
    pub uid: u32,
    /// Why.
    pub message: String,
}

/// The work of changing tags.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TagEdit {
    /// Makes one.
    Create {
        /// Its name.
        name: Text,
        /// The state.
        at: Option<Text>,
        /// Why.
        message: String,
    },
    /// Removes one.
    Remove {
        /// Its name.
        name: Text,
    },
}

fn out(context: &Context<'_>, row: TagRow) -> TagOut {
    TagOut {
        name: Text(row.name),
        point: point(row.seq),
        branch: context.branch_name(row.branch),
        time: When(row.time),
        uid: row.uid,
        message: row.message,
    }
}

impl Work for TagList {
    const NAME: &'static str = "tags";
    type Output = Vec<TagOut>;

    fn execute(&self, context: &Context<'_>) -> Result<Vec<TagOut>> {
        Ok(context.engine.tags().into_iter().map(|row| out(context, row)).collect())
    }
}

impl Work for TagEdit {
    const NAME: &'static str = "tag";
    const CHANGES: bool = true;
    type Output = TagOut;

    fn execute(&self, context: &Context<'_>) -> Result<TagOut> {
        match self {
            TagEdit::Create { name, at, message } => {
                let view = match at {
                    Some(at) => context.reference(at)?,
                    None => View::live(context.live()?.branch),
                };
                let seq = match view.at {
                    At::AsOf(seq) => seq,
                    At::Live => {
                        context.host.cut()?;
                        context.engine.seal(Some(view.branch))?
                    }
                };
                let at = View::as_of(view.branch, seq);
                let row = branch::tag(context.engine, name.as_bytes(), at, message, context.now(), &context.caller)?;
                Ok(out(context, row))
            }
            TagEdit::Remove { name } => {
                let Some(row) = refs::tag(context.engine, name.as_bytes()) else {
                    return Err(Error::failed("there is no such tag; `stone tag` lists them").about(name.as_bytes()));
                };
                branch::remove_tag(context.engine, name.as_bytes(), &context.caller)?;
                Ok(out(context, row))
            }
        }
    }
}

impl TagArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let edit = match (self.name, self.delete) {
            (_, Some(name)) => TagEdit::Remove { name },
            (Some(name), None) => TagEdit::Create { name, at: self.at, message: self.message.unwrap_or_default() },
            (None, None) => {
                let tags = app.ask(&TagList {})?;
                let verbose = app.globals.verbose > 0;
                app.show(&tags, true, |screen, tags| {
                    let mut rows = Vec::new();
                    for row in tags {
                        let mut cells = vec![(Style::Plain, row.name.shown())];
                        if verbose {
                            cells.push((Style::Yellow, format!("{}@{}", row.branch.shown(), row.point)));
                            cells.push((Style::Dim, screen.time(row.time)));
                            cells.push((Style::Plain, users::name(row.uid)));
                            cells.push((Style::Plain, escape(row.message.as_bytes())));
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
