//! What `cargo xtask test --long` adds: the tests marked as long, fuzzing of every parser, and the
//! agent checked for the systems that this machine cannot run.

use crate::{
    install,
    process::{self, command, say, step},
    test,
};
use std::{fs, path::Path};

/// Seconds of fuzzing for each target.
const FUZZ_SECONDS: u32 = 60;

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    step("Long tests: soaks, big loads, crash loops");
    test::run_rust_profile(root, "long")?;
    fuzz(root)?;
    other_systems(root)
}

fn fuzz(root: &Path) -> anyhow::Result<()> {
    let targets = root.join("fuzz/fuzz_targets");
    let tools = install::tools(root)?;
    for entry in fs::read_dir(&targets)? {
        let path = entry?.path();
        let Some(target) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        step(&format!("Fuzzing {target} for {FUZZ_SECONDS} s"));
        let limit = format!("-max_total_time={FUZZ_SECONDS}");
        let mut fuzz = command(tools.join("cargo-fuzz"), &["run", target, "--", &limit, "-max_len=65536"], root);
        // libFuzzer's instrumentation needs flags that the stable compiler has but hides.
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        process::run(fuzz)?;
    }
    Ok(())
}

/// `cargo check` of the agent with Debian's compiler, which brings the standard library's source.
fn other_systems(root: &Path) -> anyhow::Result<()> {
    if !Path::new("/usr/lib/rustlib/src/rust/library").exists() && !Path::new("/usr/share/rust-web-src").exists() {
        say("skipped: the agent for Windows and macOS (on Debian: apt install rustc-web cargo-web rust-web-src)");
        return Ok(());
    }
    for target in ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"] {
        step(&format!("Agent for {target}"));
        let arguments =
            ["check", "-Z", "build-std=std,panic_abort,panic_unwind", "-p", "breeze-agent", "--target", target];
        let mut check = command("/usr/bin/cargo", &arguments, root);
        check
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", root.join("target/other"));
        process::run(check)?;
    }
    Ok(())
}
