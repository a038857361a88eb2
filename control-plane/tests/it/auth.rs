//! Signing in and out, tokens, CSRF.

use crate::support::{Client, EMAIL, PASSWORD, Server, send};
use breeze_store::model::audit::{Entry, Intent};
use reqwest::{Method, StatusCode};
use serde_json::json;

async fn login(client: &Client, email: &str, password: &str) -> crate::support::Answer {
    client.post("/api/v1/auth/login", &json!({"email": email, "password": password})).await
}

#[tokio::test]
async fn signing_in_and_out() {
    let server = Server::start().await;
    server.admin().await;
    let mut client = server.client();
    assert_eq!(client.get("/api/v1/auth/session").await.status, StatusCode::UNAUTHORIZED);
    let answer = login(&client, " JANE@example.com ", PASSWORD).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.raw);
    client.csrf = Some(answer.text("csrf_token"));
    assert_eq!(client.get("/api/v1/auth/session").await.body["user"]["email"], EMAIL);

    // The cookie of a session that was ended opens nothing, also for who kept a copy.
    let cookie = answer.header("set-cookie").split(';').next().expect("cookie").to_owned();
    assert_eq!(client.post("/api/v1/auth/logout", &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(client.get("/api/v1/auth/session").await.status, StatusCode::UNAUTHORIZED);
    let copy = server.client();
    let answer = send(copy.request(Method::GET, "/api/v1/auth/session").header("cookie", cookie)).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    server.stop().await;
}

#[tokio::test]
async fn wrong_passwords_and_unknown_addresses_are_one_answer_and_are_throttled() {
    let server = Server::start().await;
    server.admin().await;
    let client = server.client();
    let wrong = login(&client, EMAIL, "wrong horse battery staple").await;
    let unknown = login(&client, "nobody@example.com", "wrong horse battery staple").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(crate::support::stable(wrong.body), crate::support::stable(unknown.body));
    let mut last = StatusCode::UNAUTHORIZED;
    for _ in 0..12 {
        let answer = login(&client, EMAIL, "wrong horse battery staple").await;
        last = answer.status;
        if last == StatusCode::TOO_MANY_REQUESTS {
            assert!(answer.header("retry-after").parse::<u64>().expect("seconds") >= 1);
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    server.stop().await;
}

#[tokio::test]
async fn a_mutation_by_cookie_needs_the_csrf_token_and_our_origin() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let body = json!({"name": "Key"});
    let without = Client { csrf: None, ..admin.clone() };
    let answer = without.post("/api/v1/enrollment-keys", &body).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "csrf"));
    let foreign =
        admin.request(Method::POST, "/api/v1/enrollment-keys").header("origin", "https://evil.example").json(&body);
    let answer = send(foreign).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "csrf"));
    let own = admin.request(Method::POST, "/api/v1/enrollment-keys").header("origin", &server.base).json(&body);
    assert_eq!(send(own).await.status, StatusCode::CREATED);
    // Another site's page cannot sign anybody in either.
    let login = server
        .client()
        .request(Method::POST, "/api/v1/auth/login")
        .header("origin", "https://evil.example")
        .json(&json!({"email": EMAIL, "password": PASSWORD}));
    assert_eq!(send(login).await.code(), "csrf");
    server.stop().await;
}

#[tokio::test]
async fn refresh_tokens_rotate_and_reuse_ends_the_session() {
    let server = Server::start().await;
    server.admin().await;
    let client = server.client();
    let first = client.post("/api/v1/auth/token", &json!({"email": EMAIL, "password": PASSWORD})).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.raw);
    assert_eq!(first.body["token_type"], "Bearer");
    let with = |token: &str| Client { bearer: Some(token.to_owned()), ..client.clone() };
    assert_eq!(with(&first.text("access_token")).get("/api/v1/auth/session").await.status, StatusCode::OK);
    // No cookie, no CSRF.
    let created = with(&first.text("access_token")).post("/api/v1/enrollment-keys", &json!({"name": "Key"})).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.raw);

    let refresh = |token: String| {
        let client = client.clone();
        async move { client.post("/api/v1/auth/refresh", &json!({"refresh_token": token})).await }
    };
    let second = refresh(first.text("refresh_token")).await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.raw);
    let old = with(&first.text("access_token")).get("/api/v1/auth/session").await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED, "a new access token replaces the old one");
    assert_eq!(with(&second.text("access_token")).get("/api/v1/auth/session").await.status, StatusCode::OK);

    assert_eq!(refresh(first.text("refresh_token")).await.status, StatusCode::UNAUTHORIZED);
    let after = with(&second.text("access_token")).get("/api/v1/auth/session").await;
    assert_eq!(after.status, StatusCode::UNAUTHORIZED, "the whole session is ended");
    assert_eq!(refresh(second.text("refresh_token")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refresh("brzr_made.up".to_owned()).await.status, StatusCode::UNAUTHORIZED);
    server.stop().await;
}

#[tokio::test]
async fn a_session_ends_unused_and_in_any_case() {
    use breeze_proto::id::{SessionId, UserId};
    use breeze_store::model::session::{self, Kind, Session};
    let state = breeze_store::state::memory::MemoryState::new();
    let minute = 60_000;
    let session = Session {
        id: SessionId::generate(),
        user_id: UserId::generate(),
        kind: Kind::Browser,
        secret: "hash".into(),
        secret_expires_ms: 100 * minute,
        refresh: None,
        used_refresh: vec![],
        created_ms: 0,
        seen_ms: 0,
        idle_ms: 10 * minute,
        expires_ms: 30 * minute,
        revoked_ms: None,
        ip_address: String::new(),
        user_agent: String::new(),
    };
    let intent = Intent::new(Entry::by_system("session.create", 0));
    session::create(&state, &session, &intent).await.expect("creates");
    let open = async |secret: &str, at: u64| {
        session::authenticate(&state, session.id, secret, at * minute).await.expect("reads").is_some()
    };
    assert!(!open("other", 1).await);
    for at in [9, 18, 27] {
        assert!(open("hash", at).await, "in use at minute {at}");
    }
    assert!(!open("hash", 30).await, "it ends in any case");

    let idle = Session { id: SessionId::generate(), ..session.clone() };
    session::create(&state, &idle, &intent).await.expect("creates");
    assert!(session::authenticate(&state, idle.id, "hash", 10 * minute).await.expect("reads").is_none());
}
