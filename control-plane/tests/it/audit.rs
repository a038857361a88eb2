//! Every mutation, sign-in and denial is an entry, and the chain shows any change to it.

use crate::support::{Client, Device, EMAIL, Server};
use breeze_store::model::Scope;
use serde_json::json;

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
    let entries = log.body["data"].as_array().expect("data").clone();
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
        ("instance.setup", "success", "user"),
        ("enrollment_key.create", "success", "system"),
    ];
    let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())).collect();
    assert_eq!(seen, expected);
    assert_eq!(entries[2]["resource_id"], created.body["id"]);
    assert_eq!(entries[2]["actor_email"], EMAIL);
    assert_eq!(entries[2]["request_id"], created.header("x-request-id"));
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
async fn the_chain_shows_what_was_altered_or_left_out() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for name in ["a", "b", "c"] {
        admin.post("/api/v1/enrollment-keys", &json!({ "name": name })).await;
    }
    let app = server.handle.app();
    let partner = admin.get("/api/v1/auth/session").await.body["partner"]["id"].as_str().expect("id").to_owned();
    let partner = Some(partner.parse().expect("id"));
    let (mut run, total) = app.audit.page(&Scope::system("test"), partner, None, 100).await.expect("reads");
    run.reverse();
    assert_eq!((run.len() as u64, run[0].sequence), (total, 1));
    assert!(app.audit.verify("", &run));
    let mut altered = run.clone();
    altered[1].entry.action = "nothing.happened".into();
    assert!(!app.audit.verify("", &altered));
    let mut shorter = run;
    shorter.remove(1);
    assert!(!app.audit.verify("", &shorter));
    server.stop().await;
}
