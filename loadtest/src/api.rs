//! The API as a person's client uses it: sign-in, an enrolment key of the right size, figures.

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// The account of a Breeze that a load test has set up.
const EMAIL: &str = "load@example.com";
const PASSWORD: &str = "a long enough load test password";

/// What `breeze up --ready-file` wrote.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ready {
    pub(crate) api: String,
    pub(crate) setup_url: Option<String>,
}

impl Ready {
    /// # Errors
    /// If the file is missing or not what `breeze up` writes.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{}", path.display()))
    }
}

/// A signed-in client.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    base: String,
    csrf: String,
}

impl Api {
    /// Goes through the set-up link of a fresh Breeze, else signs in.
    ///
    /// # Errors
    /// If neither works.
    pub(crate) async fn sign_in(ready: &Ready) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().cookie_store(true).timeout(Duration::from_secs(60)).build()?;
        let mut api = Self { client, base: ready.api.trim_end_matches('/').to_owned(), csrf: String::new() };
        // The file is of the start: somebody may have used the link since.
        let instance = api.get("/instance").await?;
        let url = ready.setup_url.as_deref().filter(|_| instance["setup_required"] == true);
        let token = url.and_then(|url| url.split_once("#token=")).map(|(_, token)| token);
        let (path, body) = match token {
            Some(token) => ("/setup", json!({ "token": token, "name": "Load", "email": EMAIL, "password": PASSWORD })),
            None => ("/auth/login", json!({ "email": EMAIL, "password": PASSWORD })),
        };
        let session = api.send(Method::POST, path, Some(body)).await?;
        api.csrf = session["csrf_token"].as_str().context("no CSRF token in the session")?.to_owned();
        Ok(api)
    }

    /// # Errors
    /// If the answer is not a success, with what it says.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method, url).header("x-csrf-token", &self.csrf);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        anyhow::ensure!(status.is_success(), "{path}: {status} {text}");
        if status == StatusCode::NO_CONTENT { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }

    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// A key that admits that many devices, at home in `region` or in the default one.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn enrollment_key(&self, uses: usize, region: Option<&str>) -> anyhow::Result<String> {
        let mut body = json!({ "name": "Load test", "max_uses": uses, "expires_in_s": 86_400 });
        if let Some(region) = region {
            body["region"] = region.into();
        }
        let key = self.send(Method::POST, "/enrollment-keys", Some(body)).await?;
        Ok(key["key"].as_str().context("no key in the answer")?.to_owned())
    }
}
