//! What every endpoint keeps to: problems, headers, paging, limits, and a document that is complete.

use crate::support::{Server, send, stable};
use breeze_control_plane::{openapi_json, routes};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn problems_name_what_is_wrong() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let missing = admin.post("/api/v1/enrollment-keys", &json!({})).await;
    insta::assert_json_snapshot!("missing_field", stable(missing.body));
    let unknown = admin.post("/api/v1/enrollment-keys", &json!({"name": "x", "colour": "red"})).await;
    insta::assert_json_snapshot!("unknown_field", stable(unknown.body));
    let parameter = admin.get("/api/v1/enrollment-keys?colour=red").await;
    insta::assert_json_snapshot!("unknown_parameter", stable(parameter.body));
    let limit = admin.get("/api/v1/enrollment-keys?limit=501").await;
    insta::assert_json_snapshot!("limit", stable(limit.body));
    let number = admin.get("/api/v1/enrollment-keys?limit=x").await;
    assert_eq!(number.body["errors"][0]["field"], "limit", "{}", number.raw);
    let cursor = admin.get("/api/v1/enrollment-keys?cursor=made-up").await;
    insta::assert_json_snapshot!("cursor", stable(cursor.body));
    let nobody = server.client().get("/api/v1/enrollment-keys").await;
    insta::assert_json_snapshot!("unauthenticated", stable(nobody.body));
    let nowhere = admin.get("/api/v1/nowhere").await;
    assert_eq!((nowhere.status, nowhere.code()), (StatusCode::NOT_FOUND, "not_found"));
    let method = send(admin.request(Method::PUT, "/api/v1/instance")).await;
    assert_eq!((method.status, method.code()), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
    assert_eq!(method.header("content-type"), "application/problem+json");
    let text = admin.request(Method::POST, "/api/v1/enrollment-keys").header("content-type", "text/plain").body("{}");
    assert_eq!(send(text).await.status, StatusCode::BAD_REQUEST, "a form of another site cannot send JSON");
    let large = json!({"name": "x".repeat(300_000)});
    assert_eq!(admin.post("/api/v1/enrollment-keys", &large).await.status, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn every_answer_carries_its_id_limits_and_strict_headers() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for answer in [
        admin.get("/api/v1/auth/session").await,
        server.client().get("/api/v1/instance").await,
        server.client().get("/api/v1/auth/session").await,
    ] {
        assert_eq!(answer.header("x-request-id").len(), 36);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("strict-transport-security"), "", "not on plain HTTP");
        let limit: u32 = answer.header("ratelimit-limit").parse().expect("number");
        assert!(answer.header("ratelimit-remaining").parse::<u32>().expect("number") < limit);
        assert!(answer.header("ratelimit-reset").parse::<u32>().is_ok());
        if !answer.status.is_success() {
            assert_eq!(answer.body["request_id"], answer.header("x-request-id"));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_follow_each_other_and_cursors_stay_in_their_list() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for n in 0..5 {
        admin.post("/api/v1/enrollment-keys", &json!({"name": format!("key {n}")})).await;
    }
    let all = admin.get("/api/v1/enrollment-keys").await;
    assert_eq!((&all.body["total"], &all.body["has_more"]), (&json!(6), &json!(false)));
    let (mut paged, mut path) = (Vec::new(), "/api/v1/enrollment-keys?limit=4".to_owned());
    let mut cursor = String::new();
    loop {
        let page = admin.get(&path).await;
        paged.extend(page.body["data"].as_array().expect("data").clone());
        assert_eq!(page.body["has_more"].as_bool(), Some(page.body["next_cursor"].is_string()));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
        path = format!("/api/v1/enrollment-keys?limit=4&cursor={next}");
    }
    assert_eq!(json!(paged), all.body["data"]);
    let elsewhere = admin.get(&format!("/api/v1/orgs/current/sites?cursor={cursor}")).await;
    assert_eq!(elsewhere.status, StatusCode::BAD_REQUEST);
    assert_eq!(admin.get("/api/v1/orgs/current").await.body["name"], "Acme");
    assert_eq!(admin.get("/api/v1/orgs/current/sites").await.body["data"][0]["name"], "HQ");
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_said_without_its_words() {
    let server = Server::start().await;
    let admin = server.admin().await;
    server.state.set_unavailable(true);
    let answer = admin.get("/api/v1/enrollment-keys").await;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
    assert!(!answer.raw.contains("switched off"), "{}", answer.raw);
    assert_eq!(server.client().get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.client().get("/healthz").await.status, StatusCode::OK);
    server.state.set_unavailable(false);
    assert_eq!(server.client().get("/readyz").await.status, StatusCode::OK);
    server.stop().await;
}

/// Operations of the document: method and path.
pub(crate) fn documented() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&openapi_json()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths").clone();
    paths
        .into_iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .expect("operations")
                .keys()
                .map(|method| (method.clone(), path.clone()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_document_has_every_endpoint_and_nothing_else() {
    let registered: BTreeSet<_> =
        routes::api().endpoints().map(|endpoint| (endpoint.method.clone(), endpoint.path.clone())).collect();
    assert_eq!(documented(), registered);
    assert_eq!(openapi_json(), openapi_json());
    let document: Value = serde_json::from_str(&openapi_json()).expect("JSON");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            assert!(operation["summary"].is_string(), "{method} {path} says nothing about itself");
            assert!(operation["x-access"].is_string(), "{method} {path} does not say who may");
            let public = operation["x-access"] == "public";
            assert_eq!(operation["security"].as_array().map(Vec::is_empty), Some(public), "{method} {path}");
            assert!(operation["responses"]["default"].is_object(), "{method} {path} has no problems");
        }
    }
    // Every reference leads somewhere.
    let text = openapi_json();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("end");
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not there");
    }
}
