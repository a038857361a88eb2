//! Getting in: user and password, and TLS.

use crate::clickhouse_support::{Proxy, config, open, url};
use crate::metrics_support::{DAY, at, batch, token};
use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics};
use breeze_store::metrics::{Appended, Metrics, MetricsError};
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

#[tokio::test]
async fn a_user_is_let_in_with_the_right_password_only() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    proxy.demand("breeze", "hunter2");
    let right = ClickHouseConfig { user: "breeze".into(), password: "hunter2".into(), ..config(&proxy.url) };
    let engine = open(&right).await;
    let rows = batch(at(DAY, 0), 1);
    assert_eq!(engine.append(&token(1, 1, DAY), &rows).await.expect("append"), Appended::New);
    let wrong = [("breeze", "hunter3"), ("breeze", ""), ("default", "hunter2")];
    for (user, password) in wrong {
        let config = ClickHouseConfig { user: user.into(), password: password.into(), ..right.clone() };
        let error = ClickHouseMetrics::connect(config).await.expect_err("refused");
        let said = error.to_string();
        // It may be mended at the server, so it is worth trying again.
        assert!(matches!(error, MetricsError::Unavailable(_)), "{said}");
        assert!(said.contains(&proxy.url) && said.contains(&format!("refuses user {user:?}")), "{said}");
        assert!(!said.contains("hunter"), "{said}");
    }
}

/// Opens TLS before the server of the tests: its address, and the certificate that it shows.
async fn tls_before(server: String, running: &mut JoinSet<()>) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            connections.spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                let _closed = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test]
async fn tls_is_checked_against_the_authorities() {
    let Some(url) = url() else { return };
    let mut running = JoinSet::new();
    let server = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (address, certificate) = tls_before(server, &mut running).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, certificate).expect("written");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(&wrong, other.cert.pem()).expect("written");

    let config = ClickHouseConfig { ca_file: Some(right), ..config(&format!("https://{address}")) };
    let engine = open(&config).await;
    assert_eq!(engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await.expect("append"), Appended::New);
    let error = ClickHouseMetrics::connect(ClickHouseConfig { ca_file: Some(wrong), ..config }).await;
    let said = error.expect_err("it is signed by another").to_string();
    assert!(said.contains(&address) && said.contains("certificate"), "it says why: {said}");
}
