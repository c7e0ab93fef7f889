//! `stone init`: makes a database.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::store::sqlite::SqliteStore;
use crate::store::{InitOptions, Store};
use crate::types::{Clock, Name, SystemClock};

use super::app::App;
use super::error::{About, Error, Result};

const EXAMPLES: &str = "\
Examples:
  stone init work.stone
  stone init work.stone --history-dir .past    for a tree that has a `.history` of its own";

/// Makes a database; refuses to overwrite
///
/// The root directory of its tree belongs to you. `stone mount DB DIR` makes the database too, where
/// it is missing; `init` is for choosing the names of the virtual directories.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    /// The file to make
    #[arg(value_name = "DB")]
    database: PathBuf,
    /// The name under which past states are found
    #[arg(long, value_name = "NAME", default_value = ".history")]
    history_dir: OsString,
    /// The name under which branches are found
    #[arg(long, value_name = "NAME", default_value = ".branches")]
    branches_dir: OsString,
    /// The name under which open transactions are found
    #[arg(long, value_name = "NAME", default_value = ".tx")]
    tx_dir: OsString,
}

impl Init {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let names = [
            ("history_dir", self.history_dir.as_bytes()),
            ("branches_dir", self.branches_dir.as_bytes()),
            ("tx_dir", self.tx_dir.as_bytes()),
        ];
        for (index, (_, name)) in names.iter().enumerate() {
            if Name::new(name).is_err() {
                return Err(Error::usage("is not a file name").about(name));
            }
            if names.iter().skip(index + 1).any(|(_, other)| other == name) {
                return Err(Error::usage("is given to two virtual directories").about(name));
            }
        }
        create(&self.database, names.iter().map(|(key, name)| ((*key).to_owned(), name.to_vec())).collect())?;
        if app.globals.json {
            app.show_json(&serde_json::json!({ "db": self.database.to_string_lossy() }))?;
        }
        Ok(0)
    }
}

/// Makes a database of the caller's.
///
/// # Errors
/// Where something is there already, or it cannot be written.
pub fn create(database: &Path, settings: Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = database.as_os_str().as_bytes();
    if fs::symlink_metadata(database).is_ok() {
        return Err(Error::failed("exists already; nothing was changed").about(name));
    }
    let options = InitOptions {
        now: SystemClock.now(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        settings,
    };
    let store = SqliteStore::create(database, &options).about(name)?;
    store.close().about(name)
}
