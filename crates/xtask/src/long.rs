//! What `cargo xtask test --long` adds: the tests marked as long, the big load, fuzzing of every
//! parser, and the agent checked for the systems that this machine cannot run.

use crate::{
    bench, install,
    process::{self, command, say, step},
    systems, test,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Seconds of fuzzing for each target.
const FUZZ_SECONDS: u32 = 60;

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    step("Long tests: soaks and crash loops");
    let previous = previous(root)?;
    let previous = previous.as_deref().map(|program| ("BREEZE_PREVIOUS_PROGRAM", program));
    test::run_rust_profile(root, "long", previous)?;
    bench::run(root, &bench::Arguments::marks())?;
    fuzz(root)?;
    systems::run(root)
}

/// The `breeze` of the commit before, or of the one that `BREEZE_PREVIOUS` names, for the rolling upgrade; `None`
/// where the history does not go back so far.
fn previous(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let revision = std::env::var("BREEZE_PREVIOUS").unwrap_or_else(|_| "HEAD~1".to_owned());
    step(&format!("breeze of {revision}"));
    let (source, target) = (root.join("target/previous/source"), root.join("target/previous/build"));
    let name = format!("{revision}^{{commit}}");
    let Ok(commit) = process::output(command("git", &["rev-parse", "--verify", "--quiet", &name], root)) else {
        say(&format!("skipped: the rolling upgrade, since {revision} is not here"));
        return Ok(None);
    };
    // Anew each time: a checkout of another commit may be left from before.
    let place = source.display().to_string();
    let _absent = process::output(command("git", &["worktree", "remove", "--force", &place], root));
    process::run(command("git", &["worktree", "add", "--detach", &place, commit.trim()], root))?;
    let mut build = process::cargo(&["build", "-p", "breeze", "--bin", "breeze"], &source);
    build.env("CARGO_TARGET_DIR", &target);
    let built = process::run(build);
    process::run(command("git", &["worktree", "remove", "--force", &place], root))?;
    built?;
    Ok(Some(target.join("debug/breeze")))
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
