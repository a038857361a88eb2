//! The rules of the house as checks.

mod directions;
mod lengths;

use crate::{
    generate, install,
    process::{self, cargo, command, step},
    web,
};
use std::path::Path;

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let tools = install::tools(root)?;
    step("Format");
    process::run(cargo(&["fmt", "--all", "--check"], root))?;
    step("Crate directions");
    directions::check(root)?;
    step("Lints");
    process::run(cargo(
        &["clippy", "--quiet", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
        root,
    ))?;
    step("Licences, bans and sources of dependencies");
    process::run(command(
        tools.join("cargo-deny"),
        &["--log-level", "error", "check", "licenses", "bans", "sources"],
        root,
    ))?;
    step("Unused dependencies");
    process::run(command(tools.join("cargo-shear"), &[], root))?;
    generate::check(root)?;
    step("Dashboard: format, lints, types");
    web::install(root)?;
    for script in ["lint", "typecheck"] {
        web::npm_run(root, script)?;
    }
    step("Lengths");
    lengths::report(root)
}
