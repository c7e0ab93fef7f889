//! Whether rows of contents and attributes still show: they do only through their inode.
//!
//! The removal of an inode closes its own row alone, however many extents it has, and so does its
//! truncation to nothing. What is left open by that shows nowhere, and pruning takes it. It is the
//! mirror of a look-up: a row is needed where a point that is kept decides by it, and where the
//! inode's row that decides there is no tombstone and has no later `data_from`.

use rusqlite::{Connection, params};

use super::codec;
use super::prune::Plan;
use crate::store::Result;
use crate::types::{BranchId, Ino, Seq};

/// The inode's rows on a branch under which rows of a period show, newest first.
pub(super) const UNDER: &str = "SELECT valid_from, valid_to FROM inode \
     WHERE ino=?1 AND branch=?2 AND valid_from<?4 AND valid_to>?3 AND kind IS NOT NULL AND coalesce(data_from, 0)<=?5 \
     ORDER BY valid_from DESC";

/// The inode's first row on a branch.
pub(super) const FIRST: &str = "SELECT min(valid_from) FROM inode WHERE ino=?1 AND branch=?2";

/// The inode's rows on younger branches under which older rows show.
pub(super) const YOUNGER: &str = "SELECT branch, valid_from, valid_to FROM inode \
     WHERE ino=?1 AND branch>?2 AND kind IS NOT NULL AND coalesce(data_from, 0)<=?3";

/// A row of an inode's content or attributes.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub ino: Ino,
    pub branch: BranchId,
    pub from: Seq,
    pub to: Seq,
    /// The last `data_from` under which it shows.
    pub data_from: Seq,
}

/// Looks for the rows under which others show; remembers the last inode, whose rows come together.
pub(super) struct Shown<'c> {
    conn: &'c Connection,
    plan: &'c Plan,
    /// What the present row of an inode on a branch lets show.
    present: Option<(Ino, BranchId, Option<Seq>)>,
}

impl<'c> Shown<'c> {
    pub(super) fn new(conn: &'c Connection, plan: &'c Plan) -> Shown<'c> {
        Shown { conn, plan, present: None }
    }

    /// Tells whether no state that is kept shows a row.
    pub(super) fn forgets(&mut self, part: Part) -> Result<bool> {
        if self.plan.forgets(part.branch, part.from, part.to) {
            return Ok(true);
        }
        // What begins later goes at another time: the chain of digests says what is whole from `before` on.
        if part.from >= self.plan.before || self.by_present(part)? || self.by_own(part)? {
            return Ok(false);
        }
        Ok(!self.by_parents(part)? && !self.by_children(part)?)
    }

    /// The quick way for most rows: nothing of the file was changed since.
    fn by_present(&mut self, part: Part) -> Result<bool> {
        if part.to != Seq::MAX || self.plan.is_dead(part.branch) {
            return Ok(false);
        }
        let known = self.present.filter(|(ino, branch, _)| (*ino, *branch) == (part.ino, part.branch));
        let data_from = match known {
            Some((.., data_from)) => data_from,
            None => {
                let mut statement = self.conn.prepare_cached(
                    "SELECT coalesce(data_from, 0), valid_to, kind IS NOT NULL FROM inode WHERE ino=?1 AND branch=?2 \
                     ORDER BY valid_from DESC LIMIT 1",
                )?;
                let mut rows = statement.query(params![codec::int(part.ino.0), codec::int(part.branch.0)])?;
                let data_from = match rows.next()? {
                    Some(row) if codec::seq(row, 1)? == Seq::MAX && row.get(2)? => Some(codec::seq(row, 0)?),
                    _ => None,
                };
                self.present = Some((part.ino, part.branch, data_from));
                data_from
            }
        };
        Ok(data_from.is_some_and(|data_from| data_from <= part.data_from))
    }

    /// By rows of its own branch.
    fn by_own(&self, part: Part) -> Result<bool> {
        let mut statement = self.conn.prepare_cached(UNDER)?;
        let mut rows = statement.query(params![
            codec::int(part.ino.0),
            codec::int(part.branch.0),
            codec::int(part.from.0),
            codec::int(part.to.0),
            codec::int(part.data_from.0)
        ])?;
        while let Some(row) = rows.next()? {
            let (from, to) = (codec::seq(row, 0)?.max(part.from), codec::seq(row, 1)?.min(part.to));
            if !self.plan.forgets(part.branch, from, to) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// By what its branch inherits: where the branch has no row of the inode yet, its parents decide.
    fn by_parents(&self, part: Part) -> Result<bool> {
        if self.plan.parent(part.branch).is_none() {
            return Ok(false);
        }
        let key = (codec::int(part.ino.0), codec::int(part.branch.0));
        let first: Option<i64> = self.conn.prepare_cached(FIRST)?.query_row(key, |row| row.get(0))?;
        let to = first.map_or(part.to, |first| Seq(first.unsigned_abs()).min(part.to));
        Ok(part.from < to && !self.plan.forgets(part.branch, part.from, to))
    }

    /// By rows of branches that inherit it: one may have brought back what its parent had removed.
    fn by_children(&self, part: Part) -> Result<bool> {
        let mut statement = self.conn.prepare_cached(YOUNGER)?;
        let key = (codec::int(part.ino.0), codec::int(part.branch.0), codec::int(part.data_from.0));
        let mut rows = statement.query(key)?;
        while let Some(row) = rows.next()? {
            let branch = codec::branch(row, 0)?;
            let inherits = self.plan.cut(branch, part.branch).is_some_and(|cut| part.from <= cut && cut < part.to);
            if inherits && !self.plan.forgets(branch, codec::seq(row, 1)?, codec::seq(row, 2)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
