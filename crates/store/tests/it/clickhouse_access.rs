//! Getting in: user and password, and TLS.

use crate::clickhouse_support::{Proxy, config, open, url};
use crate::metrics_support::{DAY, at, batch, token};
use crate::tls::tls_before;
use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics};
use breeze_store::metrics::{Appended, Metrics, MetricsError};
use tokio::task::JoinSet;

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
