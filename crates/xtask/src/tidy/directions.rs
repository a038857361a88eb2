//! Who may depend on whom. The roles meet in `proto` and on the bus, never in each other; the cores
//! and the wire know no runtime.

use anyhow::{Context, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};
use std::{collections::BTreeSet, path::Path};

/// (crate, crates of ours that it may depend on).
const ALLOWED: &[(&str, &[&str])] = &[
    ("breeze-proto", &[]),
    ("breeze-runtime", &[]),
    ("breeze-testkit", &[]),
    ("breeze-store", &["breeze-proto"]),
    ("breeze-bus", &["breeze-proto"]),
    ("breeze-relay-core", &["breeze-proto"]),
    ("breeze-agent-core", &["breeze-proto"]),
    ("breeze-relay", &["breeze-proto", "breeze-runtime", "breeze-bus", "breeze-relay-core"]),
    ("breeze-collector", &["breeze-proto", "breeze-runtime", "breeze-bus", "breeze-store"]),
    ("breeze-control-plane", &["breeze-proto", "breeze-runtime", "breeze-bus", "breeze-store"]),
    ("breeze-agent", &["breeze-proto", "breeze-agent-core"]),
    (
        "breeze",
        &[
            "breeze-proto",
            "breeze-runtime",
            "breeze-bus",
            "breeze-store",
            "breeze-relay",
            "breeze-collector",
            "breeze-control-plane",
        ],
    ),
    ("breeze-loadtest", &["breeze-proto", "breeze-agent-core", "breeze-agent", "breeze-testkit"]),
    ("xtask", &["breeze-testkit"]),
];

/// Crates that do no I/O, and what they therefore never see.
const PURE: &[&str] = &["breeze-proto", "breeze-relay-core", "breeze-agent-core"];
const IMPURE: &[&str] = &["tokio", "quinn", "axum", "hyper", "rustls", "fjall", "reqwest"];

pub(super) fn check(root: &Path) -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().current_dir(root).exec().context("cargo metadata")?;
    let ours: BTreeSet<&str> = metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let mut broken = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            broken.push(format!("{name} has no row in crates/xtask/src/tidy/directions.rs"));
            continue;
        };
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        for dependency in normal {
            let on = dependency.name.as_str();
            if ours.contains(on) && !allowed.contains(&on) {
                broken.push(format!("{name} may not depend on {on}"));
            }
            if PURE.contains(&name) && IMPURE.contains(&on) {
                broken.push(format!("{name} does no I/O and may not depend on {on}"));
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { bail!("crate directions:\n  {}", broken.join("\n  ")) }
}
