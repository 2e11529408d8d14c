//! The program: arguments → one command → an exit code (0 good, 1 failed, 2 wrong usage, 78 bad configuration).

use std::process::ExitCode;

/// Keeps what is freed together, also of SQLite and librdkafka, and gives it back: over an engine that is built anew at every reload and
/// copies of its state at every checkpoint, the C library's allocator holds several times what is in use. `.cargo/config.toml` says how soon.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    qadf_edge::commands::main()
}
