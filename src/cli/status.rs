//! `stone status`: what is mounted, shown, open, and how large it is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control;
use crate::store::{Space, TxnKind, TxnRow, TxnState};
use crate::types::Seq;

use super::app::App;
use super::context::{Context, MountState};
use super::error::Result;
use super::screen::{Style, bytes};
use super::text::{Text, When, point, transaction};
use super::users;
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone status                  in a mount
  stone status work.stone       by its database
  stone status --json | jq .branch";

/// A backward step of the clock from which on a warning is due, in nanoseconds.
const STEP_NS: i64 = 1_000_000_000;

/// Shows the database, its mounts, the live branch, open transactions, the point reached and sizes
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// The database, or a directory it is mounted at
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
}

/// The work of `stone status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {}

/// A mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountRow {
    /// Its directory.
    pub dir: Text,
    /// The branch that it shows.
    pub branch: Text,
    /// The transaction that it shows.
    pub transaction: Option<String>,
    /// The fixed point that it shows.
    pub at: Option<String>,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// Whether it is the private view of `stone run`.
    pub run: bool,
}

/// A transaction that is not finished.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenTxn {
    /// Its number, as `T7`.
    pub id: String,
    /// The branch that it will change.
    pub branch: Text,
    /// What opened it.
    pub kind: TxnKind,
    /// How far it got.
    pub state: TxnState,
    /// When it was opened.
    pub begun: When,
    /// Who opened it.
    pub uid: u32,
    /// What it is for.
    pub message: String,
}

/// The state of a database.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusOut {
    /// Its file.
    pub db: Text,
    /// The daemon's process; none where nothing has it mounted.
    pub pid: Option<u32>,
    /// Its mounts.
    pub mounts: Vec<MountRow>,
    /// The live branch.
    pub branch: Text,
    /// The transaction that the live tree shows.
    pub transaction: Option<String>,
    /// Transactions that are not finished.
    pub transactions: Vec<OpenTxn>,
    /// The last event.
    pub point: String,
    /// Its time.
    pub time: When,
    /// Sizes in bytes.
    pub space: Space,
    /// How long history is kept, where not for good (`stone prune --keep`).
    pub keep: Option<Text>,
    /// How far the clock stands behind the last event in nanoseconds, where that is more than a second.
    pub clock_behind: Option<i64>,
    /// The daemon's log.
    pub log: Option<Text>,
}

impl Work for Status {
    const NAME: &'static str = "status";
    type Output = StatusOut;

    fn execute(&self, context: &Context<'_>) -> Result<StatusOut> {
        let engine = context.engine;
        let live = context.live()?;
        let (seq, time) = engine.point();
        let open = |row: &TxnRow| matches!(row.state, TxnState::Open | TxnState::Interrupted | TxnState::Conflicted);
        let transactions = engine.transactions().into_iter().filter(open).map(|row| OpenTxn {
            id: transaction(row.id),
            branch: context.branch_name(row.target),
            kind: row.kind,
            state: row.state,
            begun: When(row.begun_time),
            uid: row.uid,
            message: row.message,
        });
        let mount = |mount: MountState| MountRow {
            dir: mount.dir,
            branch: context.branch_name(mount.live.branch),
            transaction: mount.live.txn.or(mount.run).map(transaction),
            at: mount.at.map(point),
            read_only: mount.read_only,
            run: mount.run.is_some(),
        };
        let behind = time.0.saturating_sub(context.now().0);
        let pid = context.host.pid();
        let log = pid.and_then(|_| control::log_path(context.database).ok());
        Ok(StatusOut {
            db: context.database.as_os_str().to_owned().into(),
            pid,
            mounts: context.host.mounts().into_iter().map(mount).collect(),
            branch: context.branch_name(live.branch),
            transaction: live.txn.map(transaction),
            transactions: transactions.collect(),
            point: point(seq),
            time: When(time),
            space: engine.store().space()?,
            keep: super::retention::standing(engine)?.map(|(keep, _)| keep),
            clock_behind: (seq > Seq::ZERO && behind > STEP_NS).then_some(behind),
            log: log.map(|path| path.into_os_string().into()),
        })
    }
}

impl StatusArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let status = app.access_named(self.database.as_deref())?.ask(&Status {})?;
        let verbose = app.globals.verbose > 0;
        app.show(&status, false, |screen, status| {
            let mut rows = Vec::new();
            let mut row = |name: &str, value: String| {
                rows.push(vec![(Style::Dim, name.to_owned()), (Style::Plain, value)]);
            };
            row("database", status.db.shown());
            match status.pid {
                Some(pid) => row("daemon", format!("pid {pid}")),
                None => row("daemon", "none (not mounted)".to_owned()),
            }
            for mount in &status.mounts {
                let mut shown = format!("{} ({}", mount.dir.shown(), mount.branch.shown());
                for part in [&mount.transaction, &mount.at].into_iter().flatten() {
                    shown.push_str(&format!(" {part}"));
                }
                for (flag, word) in [(mount.read_only, ", read-only"), (mount.run, ", stone run")] {
                    shown.push_str(if flag { word } else { "" });
                }
                row("mount", format!("{shown})"));
            }
            row("branch", status.branch.shown());
            if let Some(shown) = &status.transaction {
                row("showing", format!("transaction {shown}"));
            }
            row("point", format!("{}  {}", status.point, status.time.shown(&screen.zone)));
            for txn in &status.transactions {
                let state = match txn.state {
                    TxnState::Open => "open",
                    TxnState::Interrupted => "interrupted: `stone commit` or `stone rollback` it",
                    TxnState::Conflicted => "in conflict: `stone conflicts` lists what to resolve",
                    TxnState::Committed => "committed",
                    TxnState::RolledBack => "rolled back",
                };
                let who = users::name(txn.uid);
                let message = match txn.message.as_str() {
                    "" => String::new(),
                    message => format!("  {}", super::text::escape(message.as_bytes())),
                };
                let since = txn.begun.shown(&screen.zone);
                row("transaction", format!("{} on {}, {state}, by {who} {since}{message}", txn.id, txn.branch.shown()));
            }
            let space = &status.space;
            row(
                "size",
                format!(
                    "{}: live {}, history {}, reclaimable {}, log {}",
                    bytes(space.total),
                    bytes(space.live),
                    bytes(space.history),
                    bytes(space.reclaimable),
                    bytes(space.log)
                ),
            );
            row("disk", format!("{} free of {}", bytes(space.disk_free), bytes(space.disk_total)));
            if let Some(keep) = &status.keep {
                row("history", format!("kept for {}; what is older is forgotten", keep.shown()));
            }
            if let (true, Some(log)) = (verbose, &status.log) {
                row("log", log.shown());
            }
            screen.columns(&rows)
        })?;
        if let Some(behind) = status.clock_behind {
            app.note(format!(
                "the clock was set back: it stands {:.1} s behind the last event; new events keep their order, with \
                 times just after it",
                behind as f64 / 1e9
            ));
        }
        Ok(0)
    }
}
