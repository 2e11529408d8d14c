//! The program: arguments → one command → an exit code (0 good, 1 failed, 2 wrong usage, 78 bad configuration).

use std::process::ExitCode;

fn main() -> ExitCode {
    qadf_edge::commands::main()
}
