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
    #[error("environment variable {variable}, in place of key `{key}` of {}: {message}", path.display())]
    Environment { path: PathBuf, variable: String, key: String, message: String },
}

/// Environment variables with this prefix stand for keys: `BREEZE__BUS__DOMAIN=eu` is `bus.domain`.
pub const ENVIRONMENT_PREFIX: &str = "BREEZE__";

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

/// A file whose keys the environment may override.
#[derive(Debug, Clone)]
pub struct Document {
    path: PathBuf,
    table: toml::Table,
    /// Key and variable of what the environment set.
    overridden: Vec<(String, String)>,
}

impl Document {
    /// Reads a file, and `environment` (name and value) over it.
    ///
    /// # Errors
    /// As [`load_file`], and when a variable names a key below one that is no table.
    pub fn load(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if path.metadata().map_err(read)?.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read)?, environment)
    }

    /// As [`Document::load`], over text that was read from `path`.
    ///
    /// # Errors
    /// As [`Document::load`].
    pub fn parse(
        path: &Path,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let table = text.parse::<toml::Table>().map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim().to_owned(),
        })?;
        let mut document = Self { path: path.to_owned(), table, overridden: Vec::new() };
        let mut variables: Vec<(String, String)> =
            environment.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        variables.sort();
        for (variable, value) in variables {
            document.set(&variable, &value)?;
        }
        Ok(document)
    }

    /// Names of the tables at the top.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.table.iter().filter(|(_, value)| value.is_table()).map(|(name, _)| name.as_str())
    }

    /// As a type.
    ///
    /// # Errors
    /// Names file (or variable), key, and what is wrong.
    pub fn into<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        let Self { path, table, overridden } = self;
        serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
            let (key, message) = (error.path().to_string(), error.inner().message().to_owned());
            match overridden.into_iter().find(|(set, _)| *set == key) {
                Some((key, variable)) => ConfigError::Environment { path, variable, key, message },
                None => ConfigError::Key { path, key, message },
            }
        })
    }

    fn set(&mut self, variable: &str, text: &str) -> Result<(), ConfigError> {
        let names: Vec<&str> = variable.trim_start_matches(ENVIRONMENT_PREFIX).split("__").collect();
        let mut key = Vec::new();
        let mut table = &mut self.table;
        let refuse = |key: &[String], message: &str| ConfigError::Environment {
            path: self.path.clone(),
            variable: variable.to_owned(),
            key: key.join("."),
            message: message.to_owned(),
        };
        for (at, name) in names.iter().enumerate() {
            let name = name_in(table, name);
            key.push(name.clone());
            if name.is_empty() {
                return Err(refuse(&key, "a part of its name is empty; write BREEZE__SECTION__KEY"));
            }
            if at + 1 == names.len() {
                let is_text = table.get(&name).is_some_and(toml::Value::is_str);
                table.insert(name, if is_text { toml::Value::String(text.to_owned()) } else { value_of(text) });
                break;
            }
            let below = table.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = below.as_table_mut().ok_or_else(|| refuse(&key, "is a value and has no keys of its own"))?;
        }
        self.overridden.push((key.join("."), variable.to_owned()));
        Ok(())
    }
}

/// The key of `table` that a part of a variable's name means: variables have neither small letters nor `-`.
fn name_in(table: &toml::Table, part: &str) -> String {
    let wanted = part.to_ascii_lowercase();
    let same = |key: &&String| key.to_ascii_lowercase().replace('-', "_") == wanted;
    table.keys().find(same).cloned().unwrap_or(wanted)
}

/// A TOML value where the text is one, else the text itself.
fn value_of(text: &str) -> toml::Value {
    let parsed = format!("value = {text}").parse::<toml::Table>().ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// Variables of this process; those that are not text are left out.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        region: String,
        #[serde(default)]
        bus: Bus,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Bus {
        servers: Vec<String>,
        replicas: u32,
        regions: std::collections::BTreeMap<String, u32>,
    }

    fn settings(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Document::parse(Path::new("relay.toml"), text, variables)?.into()
    }

    #[test]
    fn the_environment_wins_and_is_named_where_it_is_wrong() {
        let text = "region = \"7\"\n[bus]\nreplicas = 1\n[bus.regions]\neu-west = 1";
        let read = settings(
            text,
            &[
                ("BREEZE__REGION", "8"),
                ("BREEZE__BUS__REPLICAS", "3"),
                ("BREEZE__BUS__SERVERS", "[\"nats://127.0.0.1:4222\"]"),
                ("BREEZE__BUS__REGIONS__EU_WEST", "5"),
                ("BREEZE_LOG", "debug"),
            ],
        )
        .expect("valid");
        assert_eq!((read.region.as_str(), read.bus.replicas), ("8", 3));
        assert_eq!(read.bus.servers, ["nats://127.0.0.1:4222"]);
        assert_eq!(read.bus.regions["eu-west"], 5);
        for (variable, value) in [
            ("BREEZE__BUS__REPLICAS", "many"),
            ("BREEZE__BUS__REPLICSA", "3"),
            ("BREEZE__REGION__X", "3"),
            ("BREEZE____X", "3"),
        ] {
            let error = settings(text, &[(variable, value)]).expect_err(variable).to_string();
            assert!(error.contains(variable) && error.contains("relay.toml"), "{error}");
        }
        let error = settings("region = \"a\"\n[bus]\nreplicas = \"x\"", &[]).expect_err("no number").to_string();
        assert!(error.contains("bus.replicas") && error.contains("relay.toml"), "{error}");
    }

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
