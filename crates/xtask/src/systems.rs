//! The agent checked for the systems that this machine cannot run: `cargo check` with Debian's
//! compiler, which brings the standard library's source and so needs no target of its own; C for
//! Windows by mingw, C for macOS by zig.

use crate::{
    install,
    process::{self, command, say, step},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Debian's own, beside whatever rustup brought.
const CARGO: &str = "/usr/bin/cargo";
const RUSTC: &str = "/usr/bin/rustc";
const STANDARD_LIBRARY: &str = "build-std=std,panic_abort,panic_unwind";

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    install::cross_packages()?;
    if !Path::new(CARGO).exists() || !Path::new(RUSTC).exists() {
        say("skipped: the agent for Windows and macOS (on Debian: apt install rustc-web cargo-web rust-web-src)");
        return Ok(());
    }
    check(root, "x86_64-pc-windows-gnu", &[])?;
    let zig = install::long_tools(root)?.join("python-zig");
    let folder = root.join("target/tools/zig");
    let compiler = write_script(&folder, "cc-aarch64-macos", &compiler_script(&zig))?;
    let archiver = write_script(&folder, "ar", &format!("#!/bin/sh\nexec '{}' ar \"$@\"\n", zig.display()))?;
    check(root, "aarch64-apple-darwin", &[("CC", &compiler), ("AR", &archiver)])
}

/// With `tools` for the C code of the target: ("CC", program).
fn check(root: &Path, target: &str, tools: &[(&str, &Path)]) -> anyhow::Result<()> {
    step(&format!("Agent for {target}"));
    let arguments = ["check", "--locked", "-Z", STANDARD_LIBRARY, "-p", "breeze-agent", "--target", target];
    let mut check = command(CARGO, &arguments, root);
    check
        .env("RUSTC", RUSTC)
        // Building the standard library is for nightly compilers alone, and this one is as able.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", root.join("target/other"))
        // A rustup that runs us points these at its own compiler.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    for (name, program) in tools {
        check.env(format!("{name}_{}", target.replace('-', "_")), program);
    }
    process::run(check)
}

/// zig as Apple's compiler: it knows its own targets, not the two flags that build scripts give that one.
fn compiler_script(zig: &Path) -> String {
    format!(
        "#!/bin/sh\n\
         first=yes\n\
         for word do\n\
         \x20 if [ $first ]; then set --; first=; fi\n\
         \x20 case $word in --target=*|-mmacosx-version-min=*) ;; *) set -- \"$@\" \"$word\" ;; esac\n\
         done\n\
         exec '{}' cc -target aarch64-macos \"$@\"\n",
        zig.display()
    )
}

fn write_script(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    // Rewritten only when it differs: build scripts run again when their compiler changes.
    if fs::read_to_string(&path).ok().as_deref() != Some(text) {
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_compiler_gets_everything_but_the_flags_of_apples() {
        let folder = std::env::temp_dir().join(format!("xtask-zig-{}", std::process::id()));
        // echo in zig's place shows what it would be given.
        let script = write_script(&folder, "cc", &compiler_script(Path::new("/bin/echo"))).expect("written");
        let given = ["-O1", "--target=arm64-apple-macosx", "-mmacosx-version-min=11.0", "-c", "a b.c"];
        let output = Command::new(&script).args(given).output().expect("runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "cc -target aarch64-macos -O1 -c a b.c\n");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
