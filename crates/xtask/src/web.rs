//! The dashboard's own build, as the other commands need it.

use crate::{
    install,
    process::{command, run},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Runs `npm run <script>` in `web/`.
pub(crate) fn npm_run(root: &Path, script: &str) -> anyhow::Result<()> {
    run(command("npm", &["run", "--silent", script], &root.join("web")))
}

/// Installs the web packages if the lock file is newer than what is installed.
pub(crate) fn install(root: &Path) -> anyhow::Result<()> {
    install::require_node()?;
    let web = root.join("web");
    let installed = modified(&web.join("node_modules/.package-lock.json"));
    if installed.is_some() && installed >= modified(&web.join("package-lock.json")) {
        return Ok(());
    }
    run(command("npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error"], &web))
}

/// Builds `web/dist` if a source is newer than it.
pub(crate) fn build(root: &Path) -> anyhow::Result<()> {
    install(root)?;
    let web = root.join("web");
    let built = modified(&web.join("dist/index.html"));
    let newest = ["src", "public", "index.html", "package-lock.json", "vite.config.ts"]
        .iter()
        .filter_map(|name| newest_below(&web.join(name)))
        .max();
    if built.is_some() && built >= newest {
        return Ok(());
    }
    npm_run(root, "build")
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest_below(path: &Path) -> Option<SystemTime> {
    let own = modified(path);
    let below = children(path).iter().filter_map(|child| newest_below(child)).max();
    own.max(below)
}

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}
