//! What the control plane is told at its start.

use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use url::Url;

/// How the API is served.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Tls {
    /// Plain HTTP; only on a loopback address.
    None,
    /// With a certificate of the instance's own certification authority.
    #[default]
    OwnCa,
    /// With a given certificate (PEM, chain leaf first) and key (PEM).
    Files { cert: PathBuf, key: PathBuf },
}

/// Regions of one installation.
pub const MAX_REGIONS: usize = 64;

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Of this node, unique among the control plane's.
    pub id: String,
    /// Where this node runs.
    pub region: String,
    /// Regions that devices may belong to; `region` alone unless given. The same on every node.
    pub regions: Vec<String>,
    /// Region of devices whose enrolment key names none; the first of `regions` unless given. The same
    /// on every node.
    pub default_region: Option<String>,
    pub listen: SocketAddr,
    /// What people type; the dashboard's origin. Without it: `public_host` and the port that is listened
    /// on, or else `listen`.
    pub public_url: Option<Url>,
    /// Name or address by which people and agents reach this machine; IPv6 without brackets.
    pub public_host: Option<String>,
    pub tls: Tls,
    /// Addresses of reverse proxies. Only their `X-Forwarded-For` and `X-Forwarded-Proto` are believed;
    /// each must append to the former and set the latter.
    pub trusted_proxies: Vec<IpAddr>,
    /// Holds the folder `keys`.
    pub data: PathBuf,
    /// Folder with `breeze-agent-linux-<arch>`, handed out by the installer.
    pub agent_binaries: Option<PathBuf>,
    /// How long a set-up link works, in seconds.
    pub setup_link_s: u64,
    /// Heartbeat period that every agent is told, in seconds; 1 to 3600.
    pub heartbeat_interval_s: u32,
    /// How long a device's certificate is good, in seconds.
    pub device_certificate_s: u64,
    /// Where the audit log's checkpoints and archives go.
    pub audit: crate::audit::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: "control-plane-1".into(),
            region: "local".into(),
            regions: Vec::new(),
            default_region: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            public_url: None,
            public_host: None,
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            data: PathBuf::from("data"),
            agent_binaries: None,
            setup_link_s: 24 * 3600,
            heartbeat_interval_s: 60,
            device_certificate_s: 7 * 24 * 3600,
            audit: crate::audit::Config::default(),
        }
    }
}

impl Config {
    /// Checks what no type can.
    ///
    /// # Errors
    /// Names the key and says what to write instead.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.tls == Tls::None && !self.listen.ip().is_loopback() {
            anyhow::bail!(
                "tls = \"none\" is for loopback addresses only, and listen is {}; use tls = \"own_ca\" or give files",
                self.listen
            );
        }
        if !(1..=3600).contains(&self.heartbeat_interval_s) {
            anyhow::bail!("heartbeat_interval_s must be between 1 and 3600, and is {}", self.heartbeat_interval_s);
        }
        if self.device_certificate_s < 60 {
            anyhow::bail!("device_certificate_s must be at least 60, and is {}", self.device_certificate_s);
        }
        self.audit.check()?;
        if self.regions.len() > MAX_REGIONS {
            anyhow::bail!("regions names {}, and may name {MAX_REGIONS}", self.regions.len());
        }
        if self.default_region.is_some() && !self.has_region(self.default_region()) {
            anyhow::bail!(
                "default_region is {:?}, which is none of regions: {}",
                self.default_region(),
                self.regions().join(", ")
            );
        }
        Ok(())
    }

    /// Regions that devices may belong to; never empty.
    #[must_use]
    pub fn regions(&self) -> Vec<String> {
        if self.regions.is_empty() { vec![self.region.clone()] } else { self.regions.clone() }
    }

    #[must_use]
    pub fn has_region(&self, region: &str) -> bool {
        if self.regions.is_empty() { self.region == region } else { self.regions.iter().any(|known| known == region) }
    }

    /// Where devices go that nothing else was said of.
    #[must_use]
    pub fn default_region(&self) -> &str {
        self.default_region.as_deref().or_else(|| self.regions.first().map(String::as_str)).unwrap_or(&self.region)
    }

    /// The region of a device or key: as it was recorded, or the default where nothing was.
    #[must_use]
    pub fn home_of<'a>(&'a self, recorded: &'a str) -> &'a str {
        if recorded.is_empty() { self.default_region() } else { recorded }
    }

    /// Whether it is a proxy whose word on who its clients are is taken.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|proxy| proxy.to_canonical() == address.to_canonical())
    }

    #[must_use]
    pub const fn setup_link(&self) -> Duration {
        Duration::from_secs(self.setup_link_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_refused_off_loopback() {
        let mut config = Config { tls: Tls::None, ..Config::default() };
        assert!(config.check().is_ok());
        config.listen = SocketAddr::from(([0, 0, 0, 0], 80));
        let error = config.check().expect_err("refused").to_string();
        assert!(error.contains("loopback") && error.contains("0.0.0.0:80"), "{error}");
    }

    #[test]
    fn the_default_region_is_one_of_the_regions() {
        let mut config = Config::default();
        assert_eq!((config.default_region(), config.regions()), ("local", vec!["local".to_owned()]));
        config.regions = vec!["eu".into(), "us".into()];
        assert_eq!((config.default_region(), config.home_of(""), config.home_of("us")), ("eu", "eu", "us"));
        config.default_region = Some("us".into());
        assert!(config.check().is_ok());
        config.default_region = Some("asia".into());
        assert!(config.check().expect_err("unknown").to_string().contains("asia"));
    }
}
