//! Every endpoint of the document is called as nobody, with a session that is over, as an
//! administrator of the partner, and as one of another partner; what must come back is in
//! `authorization_table.toml`. An endpoint that is missing there fails, and so does a row without
//! its endpoint.

use crate::{
    conventions::documented,
    support::{Client, Device, EMAIL, PASSWORD, Server, send},
};
use breeze_control_plane::api::time::now_ms;
use breeze_proto::id::{OrgId, PartnerId, SiteId, UserId};
use breeze_store::model::{
    people::{self, Role, User, UserStatus},
    tenancy::{self, Organization, Partner, Site},
};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("authorization_table.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    method: String,
    path: String,
    /// Status for nobody, an ended session, the partner's administrator, another partner's. A row
    /// that is not `public` must refuse the first two.
    nobody: u16,
    expired: u16,
    admin: u16,
    other: u16,
    #[serde(default)]
    public: bool,
    #[serde(default)]
    body: BTreeMap<String, Value>,
    /// Sent as If-Match.
    if_match: Option<String>,
    /// A line about why it is as it is.
    #[serde(default)]
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    endpoint: Vec<Row>,
}

/// A second partner with its own administrator, made through the model.
async fn other_partner(server: &Server) -> Client {
    let state = &*server.handle.app().state;
    let now = now_ms();
    let (partner_id, org_id, site_id) = (PartnerId::generate(), OrgId::generate(), SiteId::generate());
    let partner = Partner { id: partner_id, name: "Other".into(), created_ms: now, updated_ms: now };
    tenancy::put_partner(state, &partner).await.expect("partner");
    let organization = Organization { id: org_id, partner_id, name: "Other".into(), created_ms: now, updated_ms: now };
    tenancy::put_organization(state, &organization).await.expect("organization");
    let site = Site {
        id: site_id,
        org_id,
        partner_id,
        name: "Other".into(),
        timezone: "UTC".into(),
        created_ms: now,
        updated_ms: now,
    };
    tenancy::put_site(state, &site).await.expect("site");
    let app = server.handle.app();
    app.deliver_now(tenancy::ORGANIZATIONS, &org_id.to_bytes()).await.expect("delivers");
    app.deliver_now(tenancy::SITES, &site_id.to_bytes()).await.expect("delivers");
    let user = User {
        id: UserId::generate(),
        partner_id,
        email: "eve@other.example".into(),
        name: "Eve".into(),
        password_hash: app.passwords.hash(PASSWORD.to_owned().into()).await.expect("hash"),
        role: Role::PartnerAdmin,
        status: UserStatus::Active,
        password_changed_ms: now,
        created_ms: now,
        updated_ms: now,
    };
    people::create(state, &user).await.expect("user");
    sign_in(server, "eve@other.example").await
}

async fn sign_in(server: &Server, email: &str) -> Client {
    let mut client = server.client();
    let answer = client.post("/api/v1/auth/login", &json!({"email": email, "password": PASSWORD})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.raw);
    client.csrf = Some(answer.text("csrf_token"));
    client
}

/// Things of the first partner that paths name.
struct Things {
    device: String,
    key: String,
    pending: String,
    organization: String,
}

async fn things(server: &Server, admin: &Client) -> Things {
    let device = Device::new().enroll(&server.client(), &server.key).await.text("device_id");
    let approval = admin.post("/api/v1/enrollment-keys", &json!({"name": "k", "requires_approval": true})).await;
    let key = approval.text("key").parse().expect("key");
    let pending = Device::new().enroll(&server.client(), &key).await.text("device_id");
    let session = admin.get("/api/v1/auth/session").await;
    let organization = session.body["organization"]["id"].as_str().expect("an id").to_owned();
    Things { device, key: approval.text("id"), pending, organization }
}

fn fill(path: &str, things: &Things) -> String {
    let id = if path.contains("/audit/") {
        &things.organization
    } else if path.contains("enrollment-keys") {
        &things.key
    } else if path.contains("pending-devices") {
        &things.pending
    } else {
        &things.device
    };
    path.replace("{id}", id).replace("{file}", "breeze-agent-linux-amd64")
}

async fn call(client: &Client, row: &Row, path: &str) -> u16 {
    let method: Method = row.method.to_uppercase().parse().expect("method");
    let mut request = client.request(method.clone(), path);
    if method != Method::GET && method != Method::DELETE {
        request = request.json(&row.body);
    }
    if let Some(version) = &row.if_match {
        request = request.header("if-match", version);
    }
    send(request).await.status.as_u16()
}

#[tokio::test]
async fn every_endpoint_refuses_whom_it_must() {
    let table: Table = toml::from_str(TABLE).expect("the table");
    let listed: BTreeSet<_> = table.endpoint.iter().map(|row| (row.method.clone(), row.path.clone())).collect();
    assert_eq!(listed.len(), table.endpoint.len(), "a row is there twice");
    assert_eq!(listed, documented(), "left: the table; right: the document");

    let server = Server::start().await;
    let admin = server.admin().await;
    let other = other_partner(&server).await;
    let expired = sign_in(&server, EMAIL).await;
    // Ended from elsewhere: its cookie is still sent.
    let id: Value = expired.get("/api/v1/auth/session").await.body;
    assert!(id["csrf_token"].is_string());
    let cookie = send(
        server
            .client()
            .request(Method::POST, "/api/v1/auth/login")
            .json(&json!({"email": EMAIL, "password": PASSWORD})),
    )
    .await;
    let cookie = cookie.header("set-cookie").split(';').next().expect("cookie").to_owned();
    let ended = server.client();
    let csrf = send(ended.request(Method::GET, "/api/v1/auth/session").header("cookie", &cookie)).await;
    let logout = ended
        .request(Method::POST, "/api/v1/auth/logout")
        .header("cookie", &cookie)
        .header("x-csrf-token", csrf.text("csrf_token"));
    assert_eq!(send(logout).await.status, StatusCode::NO_CONTENT);
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("cookie", cookie.parse().expect("header"));
    let http = reqwest::Client::builder().default_headers(headers).no_proxy().build().expect("client");
    let expired = Client { http, base: server.base.clone(), csrf: Some(csrf.text("csrf_token")), bearer: None };

    let things = things(&server, &admin).await;
    let mut wrong = Vec::new();
    // Mutations last and sign-out last of all, each first by those who must be refused.
    let mut rows: Vec<&Row> = table.endpoint.iter().collect();
    rows.sort_by_key(|row| (row.path.ends_with("/logout"), row.method == "delete", row.method != "get"));
    for row in rows {
        if !row.public {
            assert!([401, 403].contains(&row.nobody) && [401, 403].contains(&row.expired), "{row:?}");
        }
        let path = fill(&row.path, &things);
        let nobody = server.client();
        for (who, client, expected) in [
            ("nobody", &nobody, row.nobody),
            ("an ended session", &expired, row.expired),
            ("another partner", &other, row.other),
            ("the administrator", &admin, row.admin),
        ] {
            let status = call(client, row, &path).await;
            if status != expected {
                wrong.push(format!("{} {} as {who}: {status}, expected {expected} {}", row.method, row.path, row.why));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await;
}

/// What another tenant lists is its own, never ours.
#[tokio::test]
async fn lists_of_another_partner_hold_nothing_of_ours() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let things = things(&server, &admin).await;
    let other = other_partner(&server).await;
    for (method, path) in documented() {
        if method != "get" || path.contains('{') || path.starts_with("/api/v1/openapi") || path.ends_with("/ws") {
            continue;
        }
        let answer = other.get(&path).await;
        for id in [&things.device, &things.key, &things.pending] {
            assert!(!answer.raw.contains(id.as_str()), "{path} shows {id} to another partner");
        }
    }
    server.stop().await;
}
