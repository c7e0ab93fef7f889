//! `stone backup`: a consistent copy, verified.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::Store;
use crate::store::sqlite::SqliteStore;

use super::app::App;
use super::context::Context;
use super::error::{About, Error, Result};
use super::mountinfo::{self, FSTYPE};
use super::text::{TreePath, point};
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone backup /backups/work-$(date +%F).stone
  stone backup --db work.stone copy.stone
The copy is a database of its own, with the whole history: `stone mount copy.stone DIR` shows it.";

/// Writes a consistent copy of the database, while it is in use too, and verifies it
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BackupArgs {
    /// The file to write; must not exist
    #[arg(value_name = "FILE")]
    file: TreePath,
}

/// The work of `stone backup`: `to` is an absolute path outside of the tree.
#[derive(Debug, Serialize, Deserialize)]
pub struct Backup {
    to: TreePath,
}

/// What was written.
#[derive(Debug, Serialize, Deserialize)]
pub struct Copied {
    /// The copy.
    pub file: TreePath,
    /// The point that it holds.
    pub point: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Work for Backup {
    const NAME: &'static str = "backup";
    type Output = Copied;

    fn execute(&self, context: &Context<'_>) -> Result<Copied> {
        let to = Path::new(self.to.as_os_str());
        if depends_on_us(context, to) {
            let what = "lies in a mount of the database itself; name a file outside of it";
            return Err(Error::failed(what).about(self.to.as_bytes()));
        }
        if fs::symlink_metadata(to).is_ok() {
            return Err(Error::failed("exists already; nothing was changed").about(self.to.as_bytes()));
        }
        let seq = context.settle()?;
        context.report("copying", 0, 0);
        let copied = context.engine.store().backup(to).about(self.to.as_bytes()).and_then(|()| verify(to));
        match copied {
            Ok(size) => Ok(Copied { file: self.to.clone(), point: point(seq), size }),
            Err(error) => {
                drop(fs::remove_file(to)); // half a backup is none
                Err(error)
            }
        }
    }
}

/// Whether a file would be written through a mount that is served here, or through one whose own database is: what
/// writes the copy holds locks of SQLite that the thread which serves the mount needs, and would wait for itself.
fn depends_on_us(context: &Context<'_>, file: &Path) -> bool {
    let ours = context.host.mounts();
    let others = mountinfo::list().unwrap_or_default();
    let mut file = file.to_owned();
    // Each step goes to the database behind a mount; a circle of more is none that could have been mounted.
    for _ in 0..others.len() {
        let Some(Ok(dir)) = file.parent().map(fs::metadata) else { return false };
        if ours.iter().any(|mount| mount.dev == dir.dev()) {
            return true;
        }
        let Some(mount) = others.iter().find(|mount| mount.dev == dir.dev() && mount.fstype == FSTYPE) else {
            return false;
        };
        file = mount.source.clone().into();
    }
    false
}

fn verify(copy: &Path) -> Result<u64> {
    let name = copy.as_os_str().as_bytes();
    let store = SqliteStore::open(copy).about(name)?;
    let findings = store.check().about(name)?;
    store.close().about(name)?;
    if !findings.is_empty() {
        return Err(Error::failed("the copy is damaged").about(name).with_details(findings));
    }
    fs::File::open(copy).and_then(|file| file.sync_all()).about(name)?;
    Ok(fs::metadata(copy).about(name)?.len())
}

impl BackupArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let absolute = std::path::absolute(self.file.as_os_str()).about(self.file.as_bytes())?;
        let copied = app.ask(&Backup { to: TreePath::from(absolute.into_os_string()) })?;
        if app.globals.json {
            app.show_json(&copied)?;
        }
        Ok(0)
    }
}
