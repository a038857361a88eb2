//! Set-up happens once.

use crate::support::{EMAIL, PASSWORD, Server, config, eventually};
use breeze_bus::memory::MemoryBus;
use breeze_control_plane::{ControlPlane, Deps};
use breeze_store::{
    metrics::{EmbeddedMetrics, EmbeddedMetricsConfig},
    state::memory::MemoryState,
};
use reqwest::StatusCode;
use serde_json::json;
use std::sync::Arc;

#[tokio::test]
async fn set_up_makes_real_records_signs_in_and_is_gone_afterwards() {
    let server = Server::start().await;
    let stranger = server.client();
    assert_eq!(stranger.get("/api/v1/instance").await.body["setup_required"], json!(true));

    let mut admin = server.client();
    let answer = admin.post("/api/v1/setup", &server.setup_body()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.raw);
    admin.csrf = Some(answer.text("csrf_token"));
    assert_eq!(answer.body["organization"]["name"], "Acme");
    assert_eq!(answer.body["partner"]["name"], "Acme");
    assert_eq!(answer.body["site"]["name"], "HQ");
    assert_eq!(answer.body["role"], "partner_admin");
    let cookie = answer.header("set-cookie");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );
    assert_eq!(admin.get("/api/v1/auth/session").await.text("csrf_token"), answer.text("csrf_token"));

    let again = stranger.post("/api/v1/setup", &server.setup_body()).await;
    assert_eq!((again.status, again.code()), (StatusCode::NOT_FOUND, "not_found"));
    assert_eq!(stranger.get("/api/v1/instance").await.body["setup_required"], json!(false));
    server.stop().await;
}

#[tokio::test]
async fn of_many_who_set_up_at_once_one_does() {
    let server = Server::start().await;
    let body = server.setup_body();
    let tries = (0..8).map(|n| {
        let (client, mut body) = (server.client(), body.clone());
        body["email"] = json!(format!("user{n}@example.com"));
        tokio::spawn(async move { client.post("/api/v1/setup", &body).await.status })
    });
    let mut created = 0;
    for done in tries.collect::<Vec<_>>() {
        let status = done.await.expect("no panic");
        created += u32::from(status == StatusCode::CREATED);
        let refused = [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN].contains(&status);
        assert!(status == StatusCode::CREATED || refused, "{status}");
    }
    assert_eq!(created, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_token_or_weak_password_does_not_set_up() {
    let server = Server::start().await;
    let client = server.client();
    let mut body = server.setup_body();
    body["token"] = json!("x".repeat(43));
    let answer = client.post("/api/v1/setup", &body).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "forbidden"));

    let mut body = server.setup_body();
    body["password"] = json!("short");
    body["email"] = json!("nobody");
    let answer = client.post("/api/v1/setup", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let fields: Vec<_> = answer.body["errors"].as_array().expect("errors").iter().map(|e| e["field"].clone()).collect();
    assert_eq!(fields, ["email", "password"]);
    assert_eq!(client.get("/api/v1/instance").await.body["setup_required"], json!(true));
    server.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_what_was_set_up_and_an_expired_link_does_not_work() {
    let data = tempfile::tempdir().expect("folder");
    let (state, bus) = (Arc::<MemoryState>::default(), Arc::new(MemoryBus::new()));
    let mut expired = config(data.path());
    expired.setup_link_s = 0;
    let server =
        Server::start_on(expired, Arc::clone(&state), Arc::clone(&bus), tempfile::tempdir().expect("folder")).await;
    let answer = server.client().post("/api/v1/setup", &server.setup_body()).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "forbidden"));
    let (first_ca, first_key) = (server.ca_pem.clone(), server.key.clone());
    server.stop().await;

    let server = Server::start_on(
        config(data.path()),
        Arc::clone(&state),
        Arc::clone(&bus),
        tempfile::tempdir().expect("folder"),
    )
    .await;
    assert_eq!((&server.ca_pem, &server.key), (&first_ca, &first_key));
    server.admin().await;
    server.stop().await;

    let server = Server::start_on(config(data.path()), state, bus, tempfile::tempdir().expect("folder")).await;
    assert!(server.handle.setup_url.is_none());
    let answer = server.client().post("/api/v1/auth/login", &json!({"email": EMAIL, "password": PASSWORD})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.raw);
    server.stop().await;
}

#[tokio::test]
async fn what_a_crash_left_in_the_outbox_is_made_at_the_next_start() {
    // The instance's record is committed and the process dies before anything is delivered.
    let state = Arc::<MemoryState>::default();
    let names = &breeze_control_plane::app::setup::FIRST_NAMES;
    let record = breeze_store::model::instance::open(&*state, names, 1).await.expect("committed");
    let data = tempfile::tempdir().expect("folder");
    let deps = Deps {
        bus: Arc::new(MemoryBus::new()),
        state: Arc::<MemoryState>::clone(&state),
        metrics: EmbeddedMetrics::open(EmbeddedMetricsConfig::new(data.path().join("metrics"))).expect("metrics"),
        regional_metrics: std::collections::BTreeMap::default(),
        history: Arc::new(breeze_store::history::EmbeddedHistory::new(Arc::<MemoryState>::clone(&state))),
        render_metrics: None,
    };
    let opened = ControlPlane::open(config(data.path()), deps).await.expect("opens");
    eventually("the first tenant", || async {
        let scope = breeze_store::model::Scope::system("test");
        breeze_store::model::tenancy::site(&*opened.app().state, &scope, record.site_id).await.ok()
    })
    .await;
}
