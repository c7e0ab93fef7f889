//! Shrunk failures, each under the name of what was wrong.
