//! Newtypes for every identifier, so that no two kinds of number can be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// An inode number: 1 is the root, one counter for all branches, never reused, below 2^40.
    Ino
}
id! {
    /// The number of an event, and the point in time just after it. 0 is "before everything".
    Seq
}
id! {
    /// A branch's number, never reused. 1 is `main`. Hidden branches (transactions) have one too.
    BranchId
}
id! {
    /// A transaction's number, shown as `T7`.
    TxnId
}
id! {
    /// A process entity's number (not a pid). 0 is "unknown".
    ProcId
}
id! {
    /// A content-addressed chunk's number in the store.
    ChunkId
}

impl Ino {
    /// The root directory of every branch.
    pub const ROOT: Ino = Ino(1);
}

impl BranchId {
    /// The branch that every database begins with.
    pub const MAIN: BranchId = BranchId(1);
}

impl Seq {
    /// Before every event.
    pub const ZERO: Seq = Seq(0);
    /// The end of a period that is still open; the literal that the schema uses.
    pub const MAX: Seq = Seq(i64::MAX as u64);

    /// Returns the point just after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}
