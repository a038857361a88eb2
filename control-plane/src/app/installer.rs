//! The installer: a script that anybody may read, and the line that runs it. The line carries the
//! hash of the script and, where this server has a certificate of its own authority, that
//! authority's certificate; so nothing is run that did not come from here. The enrolment key goes
//! into a file, never on a command line that other users could see.

use crate::{config::Tls, context::App, error::ApiError, keyring::sha256_hex};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::path::PathBuf;

const TEMPLATE: &str = include_str!("installer/linux.sh");
/// Architectures that there may be an agent for, as agents name them.
pub const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// The script for this server.
#[must_use]
pub fn linux_script(app: &App) -> String {
    TEMPLATE.replace("@SERVER@", &app.origin())
}

/// The line that installs an agent with this enrolment key.
#[must_use]
pub fn linux_line(app: &App, enrollment_key: &str) -> String {
    let origin = app.origin();
    let hash = sha256_hex(linux_script(app).as_bytes());
    let (ca, pin) = match app.config.tls {
        Tls::OwnCa => {
            let pem = STANDARD.encode(app.authority.ca().certificate_pem());
            (format!("printf %s {pem} | base64 -d >\"$d/ca.pem\"; "), " --cacert \"$d/ca.pem\"")
        }
        Tls::Files { .. } | Tls::None => (String::new(), ""),
    };
    let pass_ca = if ca.is_empty() { "" } else { " --ca \"$d/ca.pem\"" };
    format!(
        "( set -e; umask 077; d=$(mktemp -d); trap 'rm -rf \"$d\"' EXIT; {ca}printf %s '{enrollment_key}' >\"$d/key\"; \
         curl -fsS{pin} -o \"$d/install.sh\" {origin}/install/linux.sh; \
         echo \"{hash}  $d/install.sh\" | sha256sum -c --quiet -; \
         $(command -v sudo) sh \"$d/install.sh\" --key-file \"$d/key\"{pass_ca} )"
    )
}

/// Where the agent for an architecture lies.
///
/// # Errors
/// `not_found` when this server has none.
pub fn agent_binary(app: &App, architecture: &str) -> Result<PathBuf, ApiError> {
    let known = ARCHITECTURES.contains(&architecture);
    app.config
        .agent_binaries
        .as_ref()
        .filter(|_| known)
        .map(|folder| folder.join(format!("breeze-agent-linux-{architecture}")))
        .filter(|path| path.is_file())
        .ok_or_else(|| ApiError::not_found("agent on this server"))
}
