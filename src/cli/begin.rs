//! `stone begin`: opens a transaction.

use serde::{Deserialize, Serialize};

use crate::store::TxnKind;
use crate::version::txn::{self, BeginOptions};

use super::app::App;
use super::context::Context;
use super::error::{About, Error, Result};
use super::text::{Text, transaction};
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone begin -m 'new layout'    everybody who uses this mount now sees the transaction's private view
  stone diff                     what changed in it
  stone commit                   makes all of it visible in one step
  stone rollback                 leaves no trace but the record
`stone run -- CMD` is the isolated form: nobody else sees anything before the commit.";

/// Opens a transaction on the live branch and shows its private view as the live tree
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BeginArgs {
    /// What it is for
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
}

/// The work of `stone begin`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begin {
    /// What it is for.
    pub message: String,
    /// The branch; the live one where it is left out.
    pub branch: Option<Text>,
}

/// What was opened.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begun {
    /// The transaction, as `T7`.
    pub transaction: String,
    /// The branch that it will change.
    pub branch: Text,
}

impl Work for Begin {
    const NAME: &'static str = "begin";
    const CHANGES: bool = true;
    type Output = Begun;

    fn execute(&self, context: &Context<'_>) -> Result<Begun> {
        let live = context.live()?;
        if let Some(id) = live.txn {
            return Err(Error::failed(format!("transaction T{id} is shown already; commit it or roll it back first")));
        }
        let mount = context.mount();
        if mount.as_ref().is_some_and(|mount| mount.read_only) {
            return Err(Error::failed("this mount is read-only"));
        }
        if mount.as_ref().is_some_and(|mount| mount.run.is_some()) {
            return Err(Error::failed("inside of `stone run` everything is a transaction; `stone run` nests"));
        }
        let target = match &self.branch {
            Some(name) => context.named_branch(name)?.branch,
            None => live.branch,
        };
        context.host.cut()?;
        let options = BeginOptions {
            target,
            kind: TxnKind::Begin,
            serializable: false,
            message: self.message.clone(),
            label: String::new(),
        };
        let mut begun = None;
        let mut begin = || {
            let row = txn::begin(context.engine, &options, &context.caller)?;
            begun = Some(row.id);
            Ok(row)
        };
        let done = match &mount {
            Some(mount) => context.host.begin(mount.dev, live.branch, &mut begin).about(mount.dir.as_bytes()),
            None => begin().map(|_| ()),
        };
        let id = begun.ok_or_else(|| Error::failed("the transaction was not begun"));
        if let Err(error) = done {
            if let Ok(id) = id {
                txn::rollback(context.engine, id, &context.caller)?;
            }
            return Err(error);
        }
        Ok(Begun { transaction: transaction(id?), branch: context.branch_name(target) })
    }
}

impl BeginArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let begun = app.ask(&Begin { message: self.message.unwrap_or_default(), branch: None })?;
        app.show(&begun, false, |screen, begun| screen.line(format!("Transaction {} started", begun.transaction)))?;
        Ok(0)
    }
}
