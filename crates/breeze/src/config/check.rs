//! All that is wrong with a file at once, each with its key and with what to write instead.

use std::{fmt, net::IpAddr, path::Path};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<(String, String)>);

impl Problems {
    /// Notes a problem of `key`.
    pub(super) fn add(&mut self, key: impl Into<String>, message: impl fmt::Display) {
        self.0.push((key.into(), message.to_string()));
    }

    pub(super) fn must(&mut self, holds: bool, key: &str, message: impl fmt::Display) {
        if !holds {
            self.add(key, message);
        }
    }

    pub(super) fn take<T>(&mut self, key: &str, result: anyhow::Result<T>) {
        if let Err(error) = result {
            self.add(key, format!("{error:#}"));
        }
    }

    /// Names of regions, domains, roles: what a subject of the bus can carry.
    pub(super) fn token(&mut self, key: &str, text: &str) {
        let holds = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        self.must(holds, key, format_args!("write 1 to 64 letters, digits and '-'; found {text:?}"));
    }

    /// A certificate authority in PEM.
    pub(super) fn authority(&mut self, key: &str, path: Option<&Path>) {
        let Some(path) = path else { return };
        match std::fs::read_to_string(path) {
            Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => {}
            Ok(_) => self.add(key, format_args!("{} holds no certificate in PEM", path.display())),
            Err(error) => self.add(key, format_args!("cannot read {}: {error}", path.display())),
        }
    }

    /// Nothing, or everything that was found.
    ///
    /// # Errors
    /// One line a problem, with file and key.
    pub(crate) fn into_result(self, path: &Path) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let line =
            |(key, message): &(String, String)| format!("configuration {}, key `{key}`: {message}", path.display());
        anyhow::bail!(self.0.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

/// Whether `host` is this machine: where nothing on the way can listen.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Host and port of `host:port` or `[address]:port`.
pub(super) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let valid = !host.is_empty() && (bracketed || !host.contains([':', '/', ' ']));
    Some((host, port.parse().ok().filter(|port| *port != 0)?)).filter(|_| valid)
}
