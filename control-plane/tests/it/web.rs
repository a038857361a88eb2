//! The dashboard's pages, the installer, metrics, and TLS.

use crate::support::{PATIENCE, Server, config};
use breeze_bus::memory::MemoryBus;
use breeze_control_plane::Tls;
use reqwest::StatusCode;
use serde_json::json;
use std::{process::Command, sync::Arc};

#[tokio::test]
async fn pages_are_strict_and_what_is_not_there_is_not() {
    let server = Server::start().await;
    let client = server.client();
    for path in ["/", "/devices/x", "/setup"] {
        let answer = client.get(path).await;
        assert!(answer.header("content-type").starts_with("text/html"), "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let scripts = policy.split("; ").find(|part| part.starts_with("script-src")).expect("scripts");
        assert!(!scripts.contains("unsafe"), "{scripts}");
    }
    for path in ["/api", "/api/v1/x", "/assets/x.js", "/install/x"] {
        assert_eq!(client.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let document = client.get("/api/v1/openapi.json").await;
    assert_eq!(document.raw, breeze_control_plane::openapi_json());
    assert!(client.get("/api/v1/docs").await.raw.contains("/api/v1/enrollment-keys"));
    assert_eq!(client.get("/metrics").await.raw, "breeze_up 1\n");
    server.stop().await;
}

#[tokio::test]
async fn the_installers_line_pins_script_and_authority() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let created = admin.post("/api/v1/enrollment-keys", &json!({"name": "Key"})).await;
    let line = created.body["install"]["linux"].as_str().expect("line").to_owned();
    let script = server.client().get("/install/linux.sh").await;
    let hash = breeze_control_plane::keyring::sha256_hex(script.raw.as_bytes());
    assert!(line.contains(&hash), "{line}");
    assert!(line.contains(&created.text("key")) && !line.contains("curl -k"), "{line}");
    assert!(script.raw.contains(&server.base) && !script.raw.contains("@SERVER@"));
    for text in [&line, &script.raw] {
        let checked = Command::new("sh").args(["-n", "-c", text]).output().expect("sh");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    let pem = server.client().get("/install/ca.pem").await;
    assert_eq!(pem.raw, server.ca_pem);
    server.stop().await;
}

/// The line as a shell runs it, up to the point where the script would install.
#[expect(clippy::print_stderr, reason = "says why it was skipped")]
#[tokio::test]
async fn the_installers_line_fetches_over_pinned_tls_and_refuses_an_altered_script() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: there is no curl on this machine");
        return;
    }
    let data = tempfile::tempdir().expect("folder");
    let mut config = config(data.path());
    config.tls = Tls::OwnCa;
    let server = Server::start_on(config, Arc::default(), Arc::new(MemoryBus::new()), data).await;
    let line = breeze_control_plane::app::installer::linux_line(server.handle.app(), &server.key.reveal());
    let (fetch, _) = line.split_once("$(command -v sudo) sh").expect("the end of the line");
    let hash = breeze_control_plane::keyring::sha256_hex(
        breeze_control_plane::app::installer::linux_script(server.handle.app()).as_bytes(),
    );
    let run = |line: String| async move {
        let command = tokio::process::Command::new("sh").arg("-c").arg(line).output();
        let output = tokio::time::timeout(PATIENCE, command).await.expect("in time").expect("sh");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (fetched, said) = run(format!("{fetch} grep -q \"^SERVER='{}'\" \"$d/install.sh\" )", server.base)).await;
    assert!(fetched, "{said}");
    let (altered, _) = run(format!("{} true )", fetch.replace(&hash, &"0".repeat(64)))).await;
    assert!(!altered, "a script with another hash must not run");
    let (unpinned, said) = run(format!("{} true )", fetch.replace(" --cacert \"$d/ca.pem\"", ""))).await;
    assert!(!unpinned && said.contains("certificate"), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn agents_are_handed_out_from_their_folder_only() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("breeze-agent-linux-amd64"), b"binary").expect("writes");
    std::fs::write(folder.path().join("secret"), b"secret").expect("writes");
    let data = tempfile::tempdir().expect("folder");
    let mut config = config(data.path());
    config.agent_binaries = Some(folder.path().to_owned());
    let server = Server::start_on(config, Arc::default(), Arc::new(MemoryBus::new()), data).await;
    let client = server.client();
    assert_eq!(client.get("/install/breeze-agent-linux-amd64").await.raw, "binary");
    for path in ["breeze-agent-linux-arm64", "secret", "breeze-agent-linux-..%2Fsecret", "breeze-agent-linux-%2e%2e"] {
        assert_eq!(client.get(&format!("/install/{path}")).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tls_by_the_own_authority_over_http_2() {
    let data = tempfile::tempdir().expect("folder");
    let mut config = config(data.path());
    config.tls = Tls::OwnCa;
    let server = Server::start_on(config, Arc::default(), Arc::new(MemoryBus::new()), data).await;
    assert!(server.base.starts_with("https://"), "{}", server.base);
    let pinned = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(server.ca_pem.as_bytes()).expect("certificate")])
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("client");
    let response = pinned.get(format!("{}/api/v1/instance", server.base)).send().await.expect("answers");
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000");
    let setup =
        pinned.post(format!("{}/api/v1/setup", server.base)).json(&server.setup_body()).send().await.expect("answers");
    let cookie = setup.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.contains("; Secure"), "{cookie}");
    // Over HTTP/2 there is no Host header to compare the page's origin with.
    let login = json!({"email": crate::support::EMAIL, "password": crate::support::PASSWORD});
    let url = format!("{}/api/v1/auth/login", server.base);
    let own = pinned.post(&url).header("origin", &server.base).json(&login).send().await.expect("answers");
    assert_eq!((own.status(), own.version()), (StatusCode::OK, reqwest::Version::HTTP_2));
    let foreign = pinned.post(&url).header("origin", "https://evil.example").json(&login).send().await;
    assert_eq!(foreign.expect("answers").status(), StatusCode::FORBIDDEN);
    let stranger = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().expect("client");
    assert!(stranger.get(format!("{}/api/v1/instance", server.base)).send().await.is_err(), "not a public authority");
    server.stop().await;
}
