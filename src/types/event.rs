//! The operations that the record knows.

use serde::{Deserialize, Serialize};

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $word:literal,)*) => {
        /// What an event did. Codes are stored and never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Op {
            $($(#[$doc])* $variant,)*
        }

        impl Op {
            /// All of them, in the order of their codes.
            pub const ALL: &[Op] = &[$(Op::$variant,)*];

            /// The number that the schema stores.
            pub fn code(self) -> u8 {
                match self { $(Op::$variant => $code,)* }
            }

            /// The word of the contract.
            pub fn as_str(self) -> &'static str {
                match self { $(Op::$variant => $word,)* }
            }
        }
    };
}

ops! {
    /// A regular file was created.
    Create = 1 "create",
    /// A directory was created.
    Mkdir = 2 "mkdir",
    /// A special file was created.
    Mknod = 3 "mknod",
    /// A symbolic link was created.
    Symlink = 4 "symlink",
    /// A further name was given to an inode.
    Link = 5 "link",
    /// A name was removed.
    Unlink = 6 "unlink",
    /// A directory was removed.
    Rmdir = 7 "rmdir",
    /// An entry was moved, over another where one stood there.
    Rename = 8 "rename",
    /// Two entries changed places.
    Exchange = 9 "exchange",
    /// Content was written (successive writes of one opener count as one).
    Write = 10 "write",
    /// The size was set.
    Truncate = 11 "truncate",
    /// Space was allocated, punched out or zeroed.
    Fallocate = 12 "fallocate",
    /// A range was copied from another file.
    Copy = 13 "copy",
    /// Permission bits were set.
    Chmod = 14 "chmod",
    /// Owner or group were set.
    Chown = 15 "chown",
    /// Times were set.
    Utimens = 16 "utimens",
    /// An extended attribute was set.
    Setxattr = 17 "setxattr",
    /// An extended attribute was removed.
    Removexattr = 18 "removexattr",
    /// A file was opened for reading (`audit=all`).
    Open = 19 "open",
    /// A branch was created, renamed or dropped.
    Branch = 32 "branch",
    /// A tag was created or removed.
    Tag = 33 "tag",
    /// A mount's live branch changed.
    Switch = 34 "switch",
    /// A transaction was opened.
    Begin = 35 "begin",
    /// A transaction became visible.
    Commit = 36 "commit",
    /// A transaction was given up.
    Rollback = 37 "rollback",
    /// A branch was merged into another.
    Merge = 38 "merge",
    /// History was forgotten.
    Prune = 39 "prune",
}

impl Op {
    /// Reads the number that [`Op::code`] wrote.
    pub fn from_code(code: u8) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.code() == code)
    }

    /// Reads the word that [`Op::as_str`] wrote.
    pub fn from_word(word: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.as_str() == word)
    }
}
