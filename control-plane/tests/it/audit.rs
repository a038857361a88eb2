//! Every mutation, sign-in, denial and export is an entry; entries are found, exported and counted; and the
//! chains show any change to them.

use crate::{
    support::{Client, Device, EMAIL, Server, send},
    two_nodes::two,
};
use breeze_store::{
    model::audit::{Chain, HEADS},
    state::leases::Leases,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

fn entries(log: &crate::support::Answer) -> Vec<Value> {
    log.body["data"].as_array().unwrap_or_else(|| panic!("no data: {}", log.raw)).clone()
}

fn actions(log: &crate::support::Answer) -> Vec<String> {
    entries(log).iter().map(|entry| entry["action"].as_str().expect("action").to_owned()).collect()
}

#[tokio::test]
async fn mutations_sign_ins_and_denials_are_entries() {
    let server = Server::start().await;
    let admin = server.admin().await;
    server.client().post("/api/v1/auth/login", &json!({"email": EMAIL, "password": "wrong wrong wrong"})).await;
    let created = admin.post("/api/v1/enrollment-keys", &json!({"name": "Key"})).await;
    let without = Client { csrf: None, ..admin.clone() };
    without.delete(&format!("/api/v1/enrollment-keys/{}", created.text("id"))).await;
    Device::new().enroll(&server.client(), &server.key).await;

    let log = admin.get("/api/v1/audit/logs").await;
    let entries = entries(&log);
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or("-").to_owned();
            (text("action"), text("result"), text("actor_type"))
        })
        .collect();
    let expected = [
        ("device.enroll", "success", "agent"),
        ("enrollment_key.revoke", "denied", "user"),
        ("enrollment_key.create", "success", "user"),
        ("session.create", "denied", "anonymous"),
        ("session.create", "success", "user"),
        ("instance.setup", "success", "user"),
        ("enrollment_key.create", "success", "system"),
    ];
    let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())).collect();
    assert_eq!(seen, expected);
    assert_eq!(entries[2]["resource_id"], created.body["id"]);
    assert_eq!(entries[2]["actor_email"], EMAIL);
    assert_eq!(entries[2]["request_id"], created.header("x-request-id"));
    assert_eq!(entries[2]["changes"]["name"], json!({"after": "Key"}));
    assert_eq!(entries[2]["changes"]["secret_sha256"], json!({"after": "…"}), "that there is one is told, and no more");
    assert_eq!(entries[3]["actor_email"], EMAIL, "who was tried is named");

    // Pages are the same log.
    let mut paged = Vec::new();
    let mut path = "/api/v1/audit/logs?limit=2".to_owned();
    loop {
        let page = admin.get(&path).await;
        paged.extend(page.body["data"].as_array().expect("data").clone());
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        path = format!("/api/v1/audit/logs?limit=2&cursor={cursor}");
    }
    assert_eq!(paged, entries);
    server.stop().await;
}

#[tokio::test]
async fn a_change_is_told_with_both_sides() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let id = Device::new().enroll(&server.client(), &server.key).await.text("device_id");
    let path = format!("/api/v1/devices/{id}");
    let etag = admin.get(&path).await.header("etag").to_owned();
    let patch = admin.request(Method::PATCH, &path).header("if-match", etag);
    let changed = send(patch.json(&json!({"display_name": "Till", "tags": ["shop"]}))).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.raw);
    let log = admin.get(&format!("/api/v1/audit/logs?action=device.update&resource_id={id}")).await;
    let entries = entries(&log);
    assert_eq!(entries.len(), 1, "{}", log.raw);
    assert_eq!(
        entries[0]["changes"],
        json!({"display_name": {"after": "Till"}, "tags": {"before": [], "after": ["shop"]}})
    );
    server.stop().await;
}

#[tokio::test]
async fn entries_are_filtered_searched_counted_and_exported() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for name in ["Alpha", "Beta, \"quoted\"", "=cmd()"] {
        admin.post("/api/v1/enrollment-keys", &json!({ "name": name })).await;
    }
    let session = admin.get("/api/v1/auth/session").await;
    let organization = session.body["organization"]["id"].as_str().expect("id").to_owned();
    let get = async |query: &str| admin.get(&format!("/api/v1/audit/logs?{query}")).await;

    assert_eq!(actions(&get("q=alpha").await), ["enrollment_key.create"]);
    assert_eq!(actions(&get("action=enrollment_key.*&actor_type=user").await).len(), 3);
    assert_eq!(actions(&get("action=enrollment_key").await).len(), 0);
    assert_eq!(actions(&get("result=denied").await).len(), 0);
    assert_eq!(actions(&get(&format!("actor={EMAIL}&action=instance.setup")).await), ["instance.setup"]);
    assert_eq!(actions(&get("to=2020-01-01T00:00:00Z").await).len(), 0);
    assert_eq!(actions(&get("from=2020-01-01T00:00:00Z&to=2200-01-01T00:00:00Z").await).len(), 6);
    let own = get(&format!("organization_id={organization}")).await;
    assert_eq!((actions(&own).len(), own.body["total"].as_u64()), (4, Some(4)), "{}", own.raw);
    for (query, field) in [
        ("from=2021-01-01T00:00:00Z&to=2020-01-01T00:00:00Z", "to"),
        ("result=maybe", "result"),
        ("format=csv", "format"),
        ("colour=red", "colour"),
    ] {
        let refused = get(query).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{query}: {}", refused.raw);
        assert!(refused.raw.contains(field), "{query}: {}", refused.raw);
    }
    let foreign = get("organization_id=018f3f3e-7a1c-7000-8000-000000000001").await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    // A cursor belongs to its filter.
    let cursor = get("limit=1").await.text("next_cursor");
    assert_eq!(get(&format!("limit=1&q=alpha&cursor={cursor}")).await.status, StatusCode::BAD_REQUEST);

    let summary = admin.get("/api/v1/audit/summary").await;
    assert_eq!(summary.body["total"], json!(6), "{}", summary.raw);
    assert_eq!(summary.body["actions"][0]["action"], "enrollment_key.create");
    assert_eq!(summary.body["actions"][0]["success"], json!(4));
    assert_eq!(summary.body["actors"][0], json!({"actor": EMAIL, "entries": 5}));
    assert_eq!(summary.body["days"].as_array().expect("days").len(), 30);

    let csv = admin.get("/api/v1/audit/logs/export?format=csv&action=enrollment_key.create&actor_type=user").await;
    assert_eq!(csv.status, StatusCode::OK, "{}", csv.raw);
    assert!(csv.header("content-disposition").contains("audit.csv"));
    let lines: Vec<&str> = csv.raw.lines().collect();
    assert_eq!(lines.len(), 4, "{}", csv.raw);
    assert!(csv.raw.contains("\"Beta, \"\"quoted\"\"\"") && csv.raw.contains("\"'=cmd()\""), "{}", csv.raw);
    let jsonl = admin.get("/api/v1/audit/logs/export?format=jsonl").await;
    let ids: Vec<Value> =
        jsonl.raw.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone()).collect();
    assert_eq!(ids.len(), 7, "with the first export's own entry: {}", jsonl.raw);
    let exports = get("action=audit_log.export").await;
    assert_eq!(entries(&exports).len(), 2);
    assert_eq!(entries(&exports)[1]["details"]["format"], "csv");
    server.stop().await;
}

#[tokio::test]
async fn retention_is_set_under_its_version_and_told() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let session = admin.get("/api/v1/auth/session").await;
    let path = format!("/api/v1/audit/retention/{}", session.body["organization"]["id"].as_str().expect("id"));
    let first = admin.get(&path).await;
    assert_eq!((first.body["retention_days"].clone(), first.header("etag")), (Value::Null, "\"0\""));
    let put = async |etag: &str, body: Value| {
        send(admin.request(Method::PUT, &path).header("if-match", etag).json(&body)).await
    };
    let body = json!({"retention_days": 90, "archive": false, "legal_hold": "lawsuit"});
    let set = put("\"0\"", body.clone()).await;
    assert_eq!((set.status, set.body["retention_days"].clone()), (StatusCode::OK, json!(90)), "{}", set.raw);
    assert_eq!(put("\"0\"", body.clone()).await.status, StatusCode::PRECONDITION_FAILED);
    for (wrong, field) in [
        (json!({"retention_days": 1, "archive": false, "legal_hold": null}), "retention_days"),
        (json!({"retention_days": 90, "archive": true, "legal_hold": null}), "archive"),
        (json!({"retention_days": 90, "archive": false, "legal_hold": " "}), "legal_hold"),
    ] {
        let refused = put(set.header("etag"), wrong).await;
        assert_eq!(refused.body["errors"][0]["field"], field, "{}", refused.raw);
    }
    let log = admin.get("/api/v1/audit/logs?action=audit_log.set_retention&result=success").await;
    assert_eq!(entries(&log)[0]["changes"]["legal_hold"], json!({"after": "lawsuit"}), "{}", log.raw);
    server.stop().await;
}

#[tokio::test]
async fn two_nodes_have_one_sequencer_a_chain_and_a_dead_one_is_passed_over() {
    let (a, b) = two().await;
    let admin_a = a.admin().await;
    let admin_b = Client { base: b.base.clone(), ..admin_a.clone() };
    let names: Vec<Value> = (0..20).map(|n| json!({ "name": format!("key {n}") })).collect();
    let both = names.iter().enumerate().map(|(n, body)| {
        let client = if n % 2 == 0 { &admin_a } else { &admin_b };
        async move { client.post("/api/v1/enrollment-keys", body).await.status }
    });
    let done = futures_util::future::join_all(both).await;
    assert!(done.iter().all(|status| *status == StatusCode::CREATED), "{done:?}");
    let session = admin_a.get("/api/v1/auth/session").await;
    let organization = session.body["organization"]["id"].as_str().expect("id").parse().expect("an id");
    let chain = Chain::Organization(organization).to_string();
    let leases = Leases::new(Arc::clone(&a.handle.app().state), HEADS);
    let holder = async || {
        let (holder, _) = leases.holder(chain.as_bytes()).await.expect("reads").expect("held");
        String::from_utf8(holder.to_vec()).expect("text")
    };
    let first = holder().await;
    // Whoever holds it goes on holding it: the other sends.
    let other = if first == "b" { &admin_a } else { &admin_b };
    assert_eq!(other.post("/api/v1/enrollment-keys", &json!({"name": "sent"})).await.status, StatusCode::CREATED);
    assert_eq!(holder().await, first);

    let (dead, alive, client) = if first == "b" { (b, a, admin_a) } else { (a, b, admin_b) };
    dead.stop().await;
    assert_eq!(client.post("/api/v1/enrollment-keys", &json!({"name": "after"})).await.status, StatusCode::CREATED);
    assert_ne!(holder().await, first, "taken over at once");
    let verdicts = alive.handle.app().audit.verify_all(&[]).await.expect("verifies");
    assert!(verdicts.iter().all(|verdict| verdict.broken.is_none()), "{verdicts:?}");
    let log = client.get("/api/v1/audit/logs?action=enrollment_key.create&actor_type=user&limit=100").await;
    assert_eq!(entries(&log).len(), 22, "each once");
    alive.stop().await;
}
