//! The works that commands consist of, by name, so that one runs alike in the daemon and here.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::context::Context;
use super::error::{Error, Result};

/// One piece of work on an open database.
pub trait Work: Serialize + DeserializeOwned {
    /// Its name on the wire.
    const NAME: &'static str;

    /// Whether it changes anything, so that the process that asked for it belongs in the record.
    const CHANGES: bool = false;

    /// What it yields; `--json` prints it.
    type Output: Serialize + DeserializeOwned;

    /// Does it.
    ///
    /// # Errors
    /// What the user is told.
    fn execute(&self, context: &Context<'_>) -> Result<Self::Output>;
}

macro_rules! registry {
    ($($work:ty,)*) => {
        /// Does the work of a name.
        ///
        /// # Errors
        /// Those of the work; an unknown name; arguments or results that do not fit.
        pub fn perform(name: &str, args: Value, context: &Context<'_>) -> Result<Value> {
            $(if name == <$work as Work>::NAME {
                return perform_as::<$work>(args, context);
            })*
            Err(Error::failed(format!("the daemon knows no `{name}`; unmount and mount again with this version of stone")))
        }

        /// Whether the work of a name changes anything.
        pub fn changes(name: &str) -> bool {
            $(if name == <$work as Work>::NAME {
                return <$work as Work>::CHANGES;
            })*
            false
        }

        /// The names of all works.
        #[cfg(test)]
        fn names() -> Vec<&'static str> {
            vec![$(<$work as Work>::NAME,)*]
        }
    };
}

registry! {
    super::audit::Audit,
    super::backup::Backup,
    super::begin::Begin,
    super::branch::BranchEdit,
    super::branch::BranchList,
    super::check::Check,
    super::commit::Commit,
    super::conflicts::Conflicts,
    super::conflicts::ResolveWork,
    super::diff::Diff,
    super::history::BlameWork,
    super::graph::GraphPage,
    super::history::History,
    super::log::LogPage,
    super::merge::Merge,
    super::prune::Gc,
    super::prune::Keep,
    super::prune::PruneWork,
    super::rollback::Rollback,
    super::ps::Ps,
    super::shell::Standing,
    super::shell::Step,
    super::show::Show,
    super::sql::Sql,
    super::status::Status,
    super::switch::Switch,
    super::sync::Sync,
    super::tag::TagEdit,
    super::tag::TagList,
    super::undo::Redo,
    super::undo::Restore,
    super::undo::RollbackTo,
    super::undo::Undo,
    super::verify::Verify,
    super::why::Why,
}

fn perform_as<W: Work>(args: Value, context: &Context<'_>) -> Result<Value> {
    let misfit = |error: serde_json::Error| Error::failed(format!("{}: {error}", W::NAME));
    let work: W = serde_json::from_value(args).map_err(misfit)?;
    serde_json::to_value(work.execute(context)?).map_err(misfit)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_works_share_a_name() {
        let mut names = super::names();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
