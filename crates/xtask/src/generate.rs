//! Generated files that are checked in: handlers -> OpenAPI document -> the dashboard's types.

use crate::{
    process::{command, output, step},
    stack, web,
};
use anyhow::bail;
use std::{fs, path::Path};

/// Where the OpenAPI document and the types made from it lie.
const OPENAPI: &str = "web/openapi.json";
const TYPES: &str = "web/src/lib/api/schema.ts";

/// Writes them.
pub(crate) fn run_into(root: &Path) -> anyhow::Result<()> {
    fs::write(root.join(OPENAPI), openapi(root)?)?;
    web::install(root)?;
    web::npm_run(root, "generate")
}

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    step("Generating the OpenAPI document and the dashboard's types");
    run_into(root)
}

/// Fails when what is checked in is not what would be generated now.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    step("Generated files are fresh");
    let files = [OPENAPI, TYPES].map(|file| root.join(file));
    let before = files.each_ref().map(|file| fs::read(file).unwrap_or_default());
    run_into(root)?;
    for (file, before) in files.iter().zip(before) {
        if fs::read(file)? != before {
            bail!("{} was stale and has been written anew: commit it (cargo xtask generate)", file.display());
        }
    }
    Ok(())
}

fn openapi(root: &Path) -> anyhow::Result<String> {
    stack::build(root)?;
    output(command(stack::binaries(root).join("breeze"), &["openapi"], root))
}
