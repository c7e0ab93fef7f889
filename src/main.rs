//! The `stone` command.

fn main() {}
