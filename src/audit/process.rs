//! Process entities: which program, started by whom, stands behind a request.

use crate::store::ProcessRow;
use crate::types::ProcId;

/// Where process entities are recorded (the engine).
pub trait ProcessSink: Send + Sync {
    /// Takes the next number of a process entity.
    fn next_process_id(&self) -> ProcId;

    /// Queues a process entity's row, new or with more known of it.
    fn record_process(&self, row: ProcessRow);
}
