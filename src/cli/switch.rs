//! `stone switch`: makes the live tree show another branch.

use serde::{Deserialize, Serialize};

use crate::version::refs;

use super::app::App;
use super::branch;
use super::context::{Context, Live};
use super::daemon;
use super::error::{About, Error, Result};
use super::text::Text;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone switch experiment       for everybody who uses this mount
  stone switch -c experiment    creates it first
Directories follow (a shell standing in src sees the other branch's src); files that a process holds
open stay what they were opened as.";

/// Makes the live tree show another branch
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SwitchArgs {
    /// Creates the branch first, at the present of the live one
    #[arg(short, long)]
    create: bool,
    /// The branch
    #[arg(value_name = "NAME")]
    name: Text,
}

/// The work of `stone switch`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Switch {
    /// The branch.
    pub name: Text,
    /// Whether to create it.
    pub create: bool,
}

/// What was switched.
#[derive(Debug, Serialize, Deserialize)]
pub struct Switched {
    /// The branch that was live.
    pub from: Text,
    /// The branch that is live.
    pub branch: Text,
}

impl Work for Switch {
    const NAME: &'static str = "switch";
    const CHANGES: bool = true;
    type Output = Switched;

    fn execute(&self, context: &Context<'_>) -> Result<Switched> {
        let live = context.live()?;
        if let Some(id) = live.txn {
            let message = format!("transaction T{id} is shown; commit it or roll it back first");
            return Err(Error::failed(message));
        }
        let mount = context.mount();
        if mount.as_ref().is_some_and(|mount| mount.at.is_some()) {
            return Err(Error::failed("this mount shows a fixed point; mount the database again without `at`"));
        }
        if mount.as_ref().is_some_and(|mount| mount.run.is_some()) {
            return Err(Error::failed("inside of `stone run` the tree cannot be switched"));
        }
        if self.create {
            branch::create(context, &self.name, None)?;
        }
        let row = refs::branch(context.engine, self.name.as_bytes())?;
        let from = context.branch_name(live.branch);
        if row.id != live.branch {
            context.host.cut()?;
            if let Some(mount) = mount {
                context.host.show(mount.dev, Live { branch: row.id, txn: None }).about(self.name.as_bytes())?;
            }
        }
        daemon::remember_branch(context, &from, &self.name, row.id)?;
        Ok(Switched { from, branch: self.name.clone() })
    }
}

impl SwitchArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let done = app.ask(&Switch { name: self.name, create: self.create })?;
        if app.globals.json {
            app.show_json(&done)?;
        }
        Ok(0)
    }
}
