//! Configuration of the roles as processes of their own: one TOML file a role, over which the
//! environment may set single keys (`BREEZE__SECTION__KEY`).
//!
//! Which role a file is for, its section says: `[relay]`, `[collector]` or `[control_plane]`. Paths are
//! relative to the file's folder. Secrets are never in the file: it names files of mode 0600.

mod check;
mod engines;
mod files;
mod roles;

use check::Problems;
pub(crate) use engines::{BusEngine, MetricsEngine, Retention, StateEngine};
pub(crate) use files::private;
pub(crate) use roles::{CollectorFile, ControlPlaneFile, RelayFile, host_of};

use anyhow::{Context as _, bail};
use breeze_runtime::config::{self, Document};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A role's file, read.
#[derive(Debug)]
pub(crate) enum RoleFile {
    Relay(Box<RelayFile>),
    Collector(Box<CollectorFile>),
    ControlPlane(Box<ControlPlaneFile>),
}

/// Sections that say whose file it is.
const ROLES: [&str; 3] = ["relay", "collector", "control_plane"];

impl RoleFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Names the file, every key that is wrong, and what to write.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let file = Self::parse(path)?;
        file.problems().into_result(path)?;
        Ok(file)
    }

    /// Reads a file and checks no more than its form.
    ///
    /// # Errors
    /// Names the file and the key.
    pub(crate) fn parse(path: &Path) -> anyhow::Result<Self> {
        let document = Document::load(path, config::environment())?;
        let said: Vec<String> =
            document.sections().filter(|name| ROLES.contains(name)).map(ToOwned::to_owned).collect();
        let [role] = said.as_slice() else {
            bail!(
                "configuration {}: {}; a role's file has one of the sections [relay], [collector] and [control_plane]",
                path.display(),
                if said.is_empty() { "it is for no role".to_owned() } else { format!("it has {}", said.join(" and ")) }
            );
        };
        let folder = folder_of(path)?;
        Ok(match role.as_str() {
            "relay" => Self::Relay(Box::new(document.into::<RelayFile>()?.below(&folder))),
            "collector" => Self::Collector(Box::new(document.into::<CollectorFile>()?.below(&folder))),
            _ => Self::ControlPlane(Box::new(document.into::<ControlPlaneFile>()?.below(&folder))),
        })
    }

    /// What is wrong beyond the form; secrets and certificates are looked at.
    pub(crate) fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        match self {
            Self::Relay(file) => file.check(&mut problems),
            Self::Collector(file) => file.check(&mut problems),
            Self::ControlPlane(file) => file.check(&mut problems),
        }
        problems
    }

    /// What is allowed and may not be meant: a sentence each, with the key.
    pub(crate) fn warnings(&self) -> Vec<String> {
        match self {
            Self::Collector(file) => file.warnings(),
            Self::Relay(_) | Self::ControlPlane(_) => Vec::new(),
        }
    }

    /// "collector eu-c1 of region eu".
    pub(crate) fn describe(&self) -> String {
        let (role, id, region) = match self {
            Self::Relay(file) => ("relay", &file.relay.id, &file.region),
            Self::Collector(file) => ("collector", &file.collector.id, &file.region),
            Self::ControlPlane(file) => ("control plane", &file.control_plane.id, &file.region),
        };
        format!("{role} {id} of region {region}")
    }

    /// The effective values as TOML. There is no secret in them: only the names of files that hold one.
    ///
    /// # Errors
    /// When a value has no form in TOML, which none has not.
    pub(crate) fn show(&self) -> anyhow::Result<String> {
        fn text(file: &impl Serialize) -> anyhow::Result<String> {
            toml::to_string_pretty(file).context("cannot be written as TOML")
        }
        match self {
            Self::Relay(file) => text(file),
            Self::Collector(file) => text(file),
            Self::ControlPlane(file) => text(file),
        }
    }
}

/// Reads a file that must be a relay's; the two below for theirs.
///
/// # Errors
/// As [`RoleFile::load`], and when it is another role's.
pub(crate) fn relay(path: &Path) -> anyhow::Result<RelayFile> {
    match RoleFile::load(path)? {
        RoleFile::Relay(file) => Ok(*file),
        other @ (RoleFile::Collector(_) | RoleFile::ControlPlane(_)) => bail!(another(path, &other, "relay")),
    }
}

/// See [`relay`].
///
/// # Errors
/// As there.
pub(crate) fn collector(path: &Path) -> anyhow::Result<CollectorFile> {
    match RoleFile::load(path)? {
        RoleFile::Collector(file) => Ok(*file),
        other @ (RoleFile::Relay(_) | RoleFile::ControlPlane(_)) => bail!(another(path, &other, "collector")),
    }
}

/// See [`relay`].
///
/// # Errors
/// As there.
pub(crate) fn control_plane(path: &Path) -> anyhow::Result<ControlPlaneFile> {
    match RoleFile::load(path)? {
        RoleFile::ControlPlane(file) => Ok(*file),
        other @ (RoleFile::Relay(_) | RoleFile::Collector(_)) => bail!(another(path, &other, "control plane")),
    }
}

fn another(path: &Path, found: &RoleFile, wanted: &str) -> String {
    format!("configuration {} is of {}, not of a {wanted}", path.display(), found.describe())
}

fn folder_of(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("{} has no folder", path.display()))?;
    Ok(path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}

#[cfg(test)]
mod tests;
