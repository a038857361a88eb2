//! An S3 server with one bucket: SeaweedFS in one process.

use super::{START_PATIENCE, Tools, http, port::free_port, process::Process};
use anyhow::Context;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::Path,
};

const ACCESS_KEY: &str = "breeze";
const SECRET_KEY: &str = "a secret of the tests";

/// A server with its own data.
#[derive(Debug)]
pub struct S3 {
    /// To be stopped, killed and paused.
    pub process: Process,
    port: u16,
}

impl S3 {
    /// A server whose data are in `folder`, with a bucket.
    ///
    /// # Errors
    /// If the tool is missing or the server does not come up.
    pub fn start(tools: &Tools, folder: &Path, bucket: &str) -> anyhow::Result<Self> {
        let program = tools.s3().context("weed is not installed: cargo xtask test installs it")?;
        fs::create_dir_all(folder.join("data"))?;
        let file = folder.join("s3.json");
        fs::write(
            &file,
            format!(
                r#"{{"identities":[{{"name":"tests","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
            ),
        )?;
        let port = || free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (filer, s3) = (port()?, port()?);
        let mut words = vec![program.into_os_string(), "server".into()];
        let mut word = |text: String| words.push(text.into());
        word(format!("-dir={}", folder.join("data").display()));
        word(format!("-s3.config={}", file.display()));
        for text in [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-volume.max=20",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ] {
            word(text.to_owned());
        }
        word("-master.volumeSizeLimitMB=16".to_owned());
        word(format!("-filer.localSocket={}", folder.join("filer.sock").display()));
        word(format!("-s3.localSocket={}", folder.join("s3.sock").display()));
        word(format!("-filer.port={filer}"));
        word(format!("-s3.port={s3}"));
        for name in
            ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"]
        {
            word(format!("-{name}={}", port()?));
        }
        let mut process = Process::new("s3", words, &folder.join("s3.log"));
        process.start()?;
        let filer = format!("127.0.0.1:{filer}");
        let path = format!("/buckets/{bucket}/");
        process.wait_until(START_PATIENCE, || {
            let made = http::request(&filer, "POST", &path, b"");
            // 409: an earlier turn has made it.
            made.is_ok_and(|(status, _)| (200..300).contains(&status) || status == 409)
                && TcpStream::connect(("127.0.0.1", s3)).is_ok()
        })?;
        Ok(Self { process, port: s3 })
    }

    /// Where it is asked.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Who may do everything.
    #[must_use]
    pub const fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// What that one knows.
    #[must_use]
    pub const fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }
}
