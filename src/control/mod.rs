//! L5: how commands reach the daemon that has a database open.
//!
//! A Unix socket carries requests and replies, each a JSON document behind its length. What the
//! documents mean is the command line's business (`cli::works`); this layer owns where the socket
//! lives, who may speak on it, and that a connection's end is noticed.

mod client;
mod frame;
mod server;
mod socket;

pub use client::Client;
pub use frame::{FRAME_MAX, FrameError, read_frame, write_frame};
pub use server::{Reply, Server, Service, Session};
pub use socket::{Peer, SocketError, all_sockets, database_key, find_sockets, log_path, make_socket_path, peer_of};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The protocol's number; both ends must agree.
pub const PROTOCOL: u32 = 1;

/// What a client asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of the client.
    pub protocol: u32,
    /// The work's name.
    pub work: String,
    /// Where and in which time zone the client stands, as the command line defines it.
    pub origin: Value,
    /// The work's arguments.
    pub args: Value,
}

/// What the daemon sends back, any number of `Progress` and then one of the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Long work got this far.
    Progress(Progress),
    /// The result.
    Done(Value),
    /// The work failed.
    Failed(Failure),
}

/// How far long work got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub what: String,
    /// Units done.
    pub done: u64,
    /// Units in total, 0 where unknown.
    pub total: u64,
}

/// Why work failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The exit status of the command (1 failed, 2 wrong usage, 3 conflict).
    pub status: u8,
    /// One line that says what went wrong and what to do.
    pub message: String,
    /// Further lines (conflicts, processes), one finding each.
    pub details: Vec<String>,
}
