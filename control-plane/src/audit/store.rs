//! Object storage: S3 and what speaks like it, or a folder.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path,
};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, sync::Arc};
use url::Url;

/// Where it is, and how to get in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `s3://bucket/prefix`, or `file:///folder`.
    pub url: Url,
    /// Of a server that is not Amazon's: `https://host:port`.
    #[serde(default)]
    pub endpoint: Option<Url>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// File that holds the secret key and nothing else.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
}

impl Config {
    /// Checks what no type can.
    ///
    /// # Errors
    /// Names the key and says what to write instead.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.url.scheme() {
            "file" => Ok(()),
            "s3" => {
                anyhow::ensure!(self.url.host_str().is_some(), "audit.store.url: write s3://bucket/prefix");
                let has_key = self.access_key_id.is_some() && self.secret_access_key_file.is_some();
                anyhow::ensure!(has_key, "audit.store: give access_key_id and secret_access_key_file");
                if let Some(endpoint) = &self.endpoint {
                    let is_loopback = matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
                    let is_safe = endpoint.scheme() == "https" || (endpoint.scheme() == "http" && is_loopback);
                    anyhow::ensure!(is_safe, "audit.store.endpoint: write https://; http is for this machine alone");
                }
                Ok(())
            }
            other => bail!("audit.store.url: write s3://bucket/prefix or file:///folder; found {other}://"),
        }
    }
}

/// An opened one.
#[derive(Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Store {
    /// Opens it; nothing is asked of the server yet.
    ///
    /// # Errors
    /// When the configuration is wrong or the secret cannot be read.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        config.check()?;
        if config.url.scheme() == "file" {
            let Ok(folder) = config.url.to_file_path() else { bail!("audit.store.url: write file:///folder") };
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let inner = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
            return Ok(Self { inner: Arc::new(inner), prefix: Path::default() });
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(config.url.host_str().unwrap_or_default())
            .with_region(config.region.as_deref().unwrap_or("us-east-1"))
            .with_access_key_id(config.access_key_id.as_deref().unwrap_or_default());
        if let Some(file) = &config.secret_access_key_file {
            let secret = std::fs::read_to_string(file)
                .with_context(|| format!("audit.store.secret_access_key_file: cannot read {}", file.display()))?;
            builder = builder.with_secret_access_key(secret.trim());
        }
        if let Some(endpoint) = &config.endpoint {
            let plain = endpoint.scheme() == "http";
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/')).with_allow_http(plain);
        }
        let prefix = Path::from(config.url.path().trim_matches('/'));
        Ok(Self { inner: Arc::new(builder.build()?), prefix })
    }

    fn at(&self, name: &str) -> Path {
        let name = Path::from(name);
        self.prefix.parts().chain(name.parts()).collect()
    }

    /// Writes an object that must not be there yet; one that is there is left as it is.
    ///
    /// # Errors
    /// The server's.
    pub async fn create(&self, name: &str, content: Bytes) -> anyhow::Result<()> {
        let options = PutOptions::from(PutMode::Create);
        match self.inner.put_opts(&self.at(name), PutPayload::from(content), options).await {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot write the object {name}")),
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(&self, name: &str) -> anyhow::Result<Bytes> {
        let read = async { self.inner.get(&self.at(name)).await?.bytes().await };
        read.await.with_context(|| format!("cannot read the object {name}"))
    }
}
