//! Counts what random runs came to, so that a test can tell that it tried what it is there for.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Tally {
            $($(#[$doc])* $name,)*
        }

        impl Tally {
            pub const ALL: &[Tally] = &[$(Tally::$name,)*];
        }
    };
}

tallies! {
    /// Merges without conflicts.
    Clean,
    /// Merges that had nothing to do.
    UpToDate,
    /// Merges with conflicts that wait.
    Conflicted,
    /// Merges whose conflicts a strategy decided.
    Decided,
    /// Of these, merges of which the reference says only that they are a tree.
    Loose,
    /// Merges of states with two best common states.
    CrissCross,
    /// Of these, merges whose base the reference does not know.
    Virtual,
    /// Merges into a branch of one that was merged into it before.
    Again,
    /// Merges in which something was moved, linked or partly removed on both sides.
    RenamedTwice,
    /// Merges in which a file with several names gained or lost one.
    Linked,
    /// Merges in which a file was replaced by a new one of its name.
    Saved,
    /// Merges in which the same file was replaced so on both sides.
    SavedTwice,
    /// Merges in which a directory was removed on one side and got something new on the other.
    FilledAndRemoved,
    /// Merges in which both sides have one file that the base lacks, with different contents or names.
    BroughtTwice,
    /// Merges in which a side has a file beside what had replaced it.
    BroughtBack,
    /// Conflicts that were resolved by hand.
    Resolved,
    /// Changes that were taken back.
    Undone,
    /// Changes that could not be, because of what came later.
    Refused,
    /// Undone changes that were brought back.
    Redone,
    /// Paths that were restored.
    Restored,
    /// Branches that were rolled back to a state.
    RolledBack,
    /// Commits of transactions.
    Committed,
    /// Commits that conflicted.
    Lost,
    /// Commits of serializable transactions that had read what has changed.
    Stale,
}

static COUNTS: [AtomicU64; Tally::ALL.len()] = [const { AtomicU64::new(0) }; Tally::ALL.len()];

pub fn count(what: Tally) {
    COUNTS[what as usize].fetch_add(1, Ordering::Relaxed);
}

pub fn counted() -> Vec<(Tally, u64)> {
    Tally::ALL.iter().map(|&what| (what, COUNTS[what as usize].load(Ordering::Relaxed))).collect()
}
