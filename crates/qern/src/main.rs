//! The `qern` program. Everything it does lives in the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    qern::main()
}
