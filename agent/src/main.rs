//! `breeze-agent`: see `breeze-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    breeze_agent::cli::main()
}
