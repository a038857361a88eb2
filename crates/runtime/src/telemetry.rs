//! Logs: to standard error, as text for people or as JSON for machines.

use std::{borrow::Cow, io::IsTerminal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt, prelude::*};

/// Where the database's driver says, as warnings and errors of its own at each attempt, that the cluster
/// cannot be reached. Whoever asked for the connection says what is missing and where, in one line.
const SAID_BY_US: &str = "scylla::cluster";

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Installs the process's logging. `filter` is a `tracing` filter such as `info,breeze_relay=debug`. What
/// the database's driver says of connections is left out unless the filter names `scylla`, or its general
/// level is `debug` or `trace`.
///
/// # Errors
/// If the filter does not parse, or logging is installed already.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(without_repetitions(filter))
        .map_err(|error| anyhow::anyhow!("log filter {filter:?} is not valid: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?,
    }
    Ok(())
}

fn without_repetitions(filter: &str) -> Cow<'_, str> {
    let mut parts = filter.split(',').map(str::trim);
    let asked = |part: &str| {
        part.starts_with("scylla") || part.parse::<LevelFilter>().is_ok_and(|level| level >= LevelFilter::DEBUG)
    };
    if filter.trim().is_empty() || parts.any(asked) {
        return Cow::Borrowed(filter);
    }
    Cow::Owned(format!("{filter},{SAID_BY_US}=off"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of a connection that fails and of a line of ours.
    fn logged(filter: &str) -> String {
        let (lines, filter) = (Lines::default(), EnvFilter::try_new(without_repetitions(filter)).expect("it parses"));
        let writer = lines.clone();
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(layer), || {
            tracing::error!(target: "scylla::cluster::metadata::cc_establisher", "attempt");
            tracing::warn!(target: "scylla::network::connection", "keepalive");
            tracing::info!("ours");
        });
        let written = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(written).expect("text")
    }

    #[test]
    fn the_drivers_attempts_are_seen_at_debug_only() {
        for filter in ["info", "info,breeze_relay=debug", "breeze_bus=warn,info"] {
            let logged = logged(filter);
            assert!(!logged.contains("attempt"), "{filter}: {logged}");
            assert!(logged.contains("keepalive") && logged.contains("ours"), "{filter}: {logged}");
        }
        for filter in ["debug", "breeze_bus=warn,trace", "info,scylla=warn", "info,scylla::cluster=error"] {
            let logged = logged(filter);
            assert!(logged.contains("attempt"), "{filter}: {logged}");
        }
        assert_eq!(without_repetitions(""), "");
    }
}
