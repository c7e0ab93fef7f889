//! L0: the words that every layer shares: identifiers, names, time, attributes, callers and views.

mod attr;
mod caller;
mod event;
mod id;
mod name;
mod time;
mod view;

pub use attr::{Attr, Kind, Permissions, SETGID, SETUID, SetAttr, SetTime};
pub use caller::Caller;
pub use event::Op;
pub use id::{BranchId, ChunkId, Ino, ProcId, Seq, TxnId};
pub use name::{Name, NameError};
pub use time::{Clock, FixedClock, SystemClock, Timestamp};
pub use view::{At, Lineage, Segment, View};
