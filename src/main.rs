//! The `stone` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    stonefs::cli::main()
}
