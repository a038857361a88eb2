//! What `cargo xtask test --long` adds: the tests marked as long, the big load, fuzzing of every
//! parser, and the agent checked for the systems that this machine cannot run.

use crate::{
    bench, install,
    process::{self, command, step},
    systems, test,
};
use std::{fs, path::Path};

/// Seconds of fuzzing for each target.
const FUZZ_SECONDS: u32 = 60;

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    step("Long tests: soaks and crash loops");
    test::run_rust_profile(root, "long")?;
    bench::run(root, &bench::Arguments::marks())?;
    fuzz(root)?;
    systems::run(root)
}

/// Each target starts from its seeds and keeps what it found in `fuzz/corpus`.
fn fuzz(root: &Path) -> anyhow::Result<()> {
    let tools = install::long_tools(root)?;
    let mut targets: Vec<String> = fs::read_dir(root.join("fuzz/fuzz_targets"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort_unstable();
    for target in &targets {
        step(&format!("Fuzzing {target} for {FUZZ_SECONDS} s"));
        let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
        fs::create_dir_all(root.join(&corpus))?;
        let limit = format!("-max_total_time={FUZZ_SECONDS}");
        let arguments = ["run", target, &corpus, &seeds, "--", &limit, "-max_len=65536"];
        let mut fuzz = command(tools.join("cargo-fuzz"), &arguments, root);
        // libFuzzer's instrumentation needs flags that the stable compiler has but hides.
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        process::run(fuzz)?;
    }
    Ok(())
}
