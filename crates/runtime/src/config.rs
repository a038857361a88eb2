//! Configuration files: TOML, parsed once into one type a role, with an error that names the file,
//! the key and what was expected.

use serde::de::DeserializeOwned;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Largest configuration file that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration {} is larger than {MAX_CONFIG_BYTES} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("configuration {}, key `{key}`: {message}", path.display())]
    Key { path: PathBuf, key: String, message: String },
    #[error("configuration {} is not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
}

/// Reads a TOML file.
///
/// # Errors
/// [`ConfigError`] names the file, and the key where there is one.
pub fn load_file<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if path.metadata().map_err(read)?.len() > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    parse(path, &std::fs::read_to_string(path).map_err(read)?)
}

/// As [`load_file`], over text that was read from `path`.
///
/// # Errors
/// As [`load_file`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let document = toml::de::Deserializer::parse(text)
        .map_err(|error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string().trim().to_owned() })?;
    serde_path_to_error::deserialize(document).map_err(|error| ConfigError::Key {
        path: path.to_owned(),
        key: error.path().to_string(),
        message: error.inner().message().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its parsing is tested")]
        relay: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its parsing is tested")]
        lanes: u16,
    }

    fn error(text: &str) -> String {
        parse::<Outer>(Path::new("breeze.toml"), text).expect_err("must be refused").to_string()
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let wrong_type = error("[relay]\nlanes = \"many\"");
        assert!(wrong_type.contains("breeze.toml") && wrong_type.contains("relay.lanes"), "{wrong_type}");
        let unknown = error("[relay]\nlanes = 4\nlnaes = 5");
        assert!(unknown.contains("lnaes"), "{unknown}");
        assert!(error("[relay").contains("not valid TOML"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_file::<Outer>(Path::new("/nonexistent/breeze.toml")).expect_err("missing");
        assert!(error.to_string().contains("/nonexistent/breeze.toml"));
    }
}
