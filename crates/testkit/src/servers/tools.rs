//! Where the servers' programs are: `cargo xtask test` installs them.

use std::{
    env,
    path::{Path, PathBuf},
};

/// A folder of tools: `bin/nats-server`, `bin/weed`, `bin/python` with the package `chdb`, `cassandra/*.jar`.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The folder named by `BREEZE_TEST_TOOLS`, else `target/tools` of the workspace; none if nothing is there.
    #[must_use]
    pub fn find() -> Option<Self> {
        let root = env::var_os("BREEZE_TEST_TOOLS")
            .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools")), PathBuf::from);
        let tools = Self::at(&root);
        (tools.nats_server().is_some()
            || tools.s3().is_some()
            || tools.clickhouse().is_some()
            || tools.cassandra().is_some())
        .then_some(tools)
    }

    /// The given folder, whatever is in it.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.canonicalize().unwrap_or_else(|_| root.to_path_buf()) }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program `nats-server`.
    #[must_use]
    pub fn nats_server(&self) -> Option<PathBuf> {
        Some(self.root.join("bin/nats-server")).filter(|program| program.exists())
    }

    /// The program `weed`: SeaweedFS, which speaks S3.
    #[must_use]
    pub fn s3(&self) -> Option<PathBuf> {
        Some(self.root.join("bin/weed")).filter(|program| program.exists())
    }

    /// The Python that has `chdb`.
    #[must_use]
    pub fn clickhouse(&self) -> Option<PathBuf> {
        let python = self.root.join("bin/python");
        let versions = self.root.join("lib").read_dir().ok()?;
        let mut packages = versions.filter_map(|entry| Some(entry.ok()?.path().join("site-packages/chdb")));
        packages.any(|package| package.is_dir()).then_some(python)
    }

    /// The folder with Cassandra's jars, if there is a Java to run them too.
    #[must_use]
    pub fn cassandra(&self) -> Option<PathBuf> {
        let lib = self.root.join("cassandra");
        let has_java =
            || env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join("java").exists());
        (lib.join(".complete").exists() && has_java()).then_some(lib)
    }

    /// A script that lies beside this crate.
    pub(super) fn script(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(name)
    }
}
