//! What one address may do, what a whole fleet behind one may, and whose address it is.

use crate::support::{Client, Device, EMAIL, Server, config, send};
use breeze_control_plane::Config;
use breeze_proto::enroll::EnrollmentKey;
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Statuses of `count` new devices that enrol, 64 at a time.
async fn fleet(client: &Client, key: &EnrollmentKey, count: usize) -> BTreeMap<StatusCode, usize> {
    let tries = stream::iter(0..count).map(|_| async { Device::new().enroll(client, key).await.status });
    let statuses: Vec<_> = tries.buffer_unordered(64).collect().await;
    statuses.into_iter().fold(BTreeMap::new(), |mut counts, status| {
        *counts.entry(status).or_default() += 1;
        counts
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_behind_one_address_enrols_at_once_also_beside_somebody_who_guesses() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let created = admin.post("/api/v1/enrollment-keys", &json!({"name": "fleet"})).await;
    let key: EnrollmentKey = created.text("key").parse().expect("a key");
    let client = server.client();
    assert_eq!(fleet(&client, &key, 500).await, BTreeMap::from([(StatusCode::OK, 500)]), "each at its first try");

    let mut wrong = key.clone();
    wrong.secret = "x".repeat(43);
    let guesses = fleet(&client, &wrong, 1_200).await;
    assert!(guesses.contains_key(&StatusCode::FORBIDDEN), "{guesses:?}");
    assert!(guesses.contains_key(&StatusCode::TOO_MANY_REQUESTS), "{guesses:?}");
    assert_eq!(guesses.len(), 2, "{guesses:?}");
    assert_eq!(fleet(&client, &key, 64).await, BTreeMap::from([(StatusCode::OK, 64)]));

    let keys = admin.get("/api/v1/enrollment-keys").await;
    let uses: Vec<_> = keys.body["data"].as_array().expect("data").iter().map(|key| key["uses"].clone()).collect();
    assert!(uses.contains(&json!(564)), "{uses:?}");
    server.stop().await;
}

async fn behind(trusted: &[&str]) -> Server {
    let data = tempfile::tempdir().expect("folder");
    let trusted_proxies = trusted.iter().map(|text| text.parse().expect("address")).collect();
    let config = Config { trusted_proxies, ..config(data.path()) };
    Server::start_on(config, Arc::default(), Arc::new(breeze_bus::memory::MemoryBus::new()), data).await
}

/// A sign-in as a proxy that ends TLS passes it on.
async fn sign_in(server: &Server, password: &str) -> crate::support::Answer {
    let host = server.base.trim_start_matches("http://");
    let request = server.client().request(Method::POST, "/api/v1/auth/login");
    let request = request.header("x-forwarded-for", "198.51.100.1, 203.0.113.5").header("x-forwarded-proto", "https");
    let request = request.header("origin", format!("https://{host}"));
    send(request.json(&json!({"email": EMAIL, "password": password}))).await
}

async fn denied_address(admin: &Client) -> Value {
    let log = admin.get("/api/v1/audit/logs").await;
    let entries = log.body["data"].as_array().expect("data").clone();
    entries.into_iter().find(|entry| entry["result"] == "denied").expect("an entry")["ip_address"].clone()
}

#[tokio::test]
async fn a_trusted_proxy_says_whom_it_speaks_for() {
    let server = behind(&["127.0.0.1"]).await;
    let admin = server.admin().await;
    let answer = sign_in(&server, crate::support::PASSWORD).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.raw);
    assert!(answer.header("set-cookie").ends_with("; Secure"), "{}", answer.header("set-cookie"));
    assert!(!answer.header("strict-transport-security").is_empty());
    assert_eq!(sign_in(&server, "wrong horse battery staple").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(denied_address(&admin).await, "203.0.113.5");
    server.stop().await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let server = behind(&["192.0.2.1"]).await;
    let admin = server.admin().await;
    let answer = sign_in(&server, crate::support::PASSWORD).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "csrf"), "its origin is plain HTTP");
    let request = server.client().request(Method::POST, "/api/v1/auth/login").header("x-forwarded-for", "203.0.113.5");
    send(request.json(&json!({"email": EMAIL, "password": "wrong horse battery staple"}))).await;
    assert_eq!(denied_address(&admin).await, "127.0.0.1");
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_for_this_machine_and_for_no_proxy_on_it() {
    for trusted in [&[][..], &["127.0.0.1"]] {
        let server = behind(trusted).await;
        let client = server.client();
        assert_eq!(client.get("/metrics").await.status, StatusCode::OK);
        for (name, value) in [("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1"), ("via", "1.1 proxy")] {
            let answer = send(client.request(Method::GET, "/metrics").header(name, value)).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}");
        }
        server.stop().await;
    }
}
