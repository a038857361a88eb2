//! Settings that few change: a TOML file, every key optional, unknown keys refused.

use anyhow::{Context as _, ensure};
use breeze_runtime::config;
use serde::Deserialize;
use std::path::Path;

/// The file of `--config`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) relay: Relay,
    pub(super) retention: Retention,
    pub(super) bus: Bus,
    pub(super) audit: breeze_control_plane::audit::Config,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Relay {
    /// Bounds on connections and handshakes.
    pub(super) limits: breeze_relay::Limits,
}

/// How long metrics are kept, in days.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retention {
    /// Each report as it came.
    pub(super) raw_days: u32,
    pub(super) five_minutes_days: u32,
    pub(super) hour_days: u32,
    pub(super) day_days: u32,
    /// Events, and what inventories were.
    pub(super) history_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { raw_days: 30, five_minutes_days: 180, hour_days: 730, day_days: 3_650, history_days: 400 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Bus {
    /// A stream refuses beyond this, and agents keep what they have. In MiB.
    pub(super) max_stream_mib: u64,
}

impl Default for Bus {
    fn default() -> Self {
        Self { max_stream_mib: 1024 }
    }
}

/// Smallest stream that still holds some batches beside the one that is being read.
const MIN_STREAM_MIB: u64 = 64;

impl Settings {
    /// From the file, or the defaults without one.
    ///
    /// # Errors
    /// Names the file and the key.
    pub(super) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let settings: Self = config::load_file(file)?;
        let Retention { raw_days, five_minutes_days, hour_days, day_days, history_days } = settings.retention;
        let days = [
            ("raw_days", raw_days),
            ("five_minutes_days", five_minutes_days),
            ("hour_days", hour_days),
            ("day_days", day_days),
            ("history_days", history_days),
        ];
        for (key, days) in days {
            ensure!(days >= 1, "configuration {}, key `retention.{key}`: at least 1 day is kept", file.display());
        }
        ensure!(
            settings.bus.max_stream_mib >= MIN_STREAM_MIB,
            "configuration {}, key `bus.max_stream_mib`: at least {MIN_STREAM_MIB}",
            file.display()
        );
        settings.audit.check().with_context(|| format!("configuration {}", file.display()))?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Settings> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("breeze.toml");
        std::fs::write(&file, text)?;
        Settings::load(Some(&file))
    }

    #[test]
    fn what_is_not_said_keeps_its_default() {
        let settings = load("[relay.limits]\nmax_connections = 20\n[retention]\nraw_days = 7").expect("valid");
        assert_eq!(settings.relay.limits.max_connections, 20);
        assert_eq!((settings.retention.raw_days, settings.retention.hour_days), (7, 730));
        assert_eq!(settings.bus.max_stream_mib, 1024);
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_its_file() {
        for (text, key) in [
            ("[relay.limits]\nmax_conections = 20", "max_conections"),
            ("[retention]\nraw_days = \"a week\"", "retention.raw_days"),
            ("[retention]\nraw_days = 0", "retention.raw_days"),
            ("[bus]\nmax_stream_mib = 1", "bus.max_stream_mib"),
            ("retention = 5", "retention"),
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains("breeze.toml") && error.contains(key), "{text:?}: {error}");
        }
    }
}
