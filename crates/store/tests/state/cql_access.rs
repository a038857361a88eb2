//! Getting in: TLS, and servers that do not know us.

use crate::{USERS, cql, tls::tls_before};
use breeze_store::state::{
    State, StateError,
    cql::{CqlConfig, CqlState},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

#[tokio::test]
async fn tls_is_checked_against_the_authorities() {
    let Some(config) = cql::config() else { return };
    cql::connect().await.expect("the schema is there");
    let mut running = JoinSet::new();
    let (address, certificate) = tls_before(config.contact_points[0].clone(), &mut running).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, certificate).expect("written");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(&wrong, other.cert.pem()).expect("written");

    let config = CqlConfig { contact_points: vec![address.clone()], ca_file: Some(right), ..config };
    let state = CqlState::connect(config.clone()).await.expect("under TLS");
    assert_eq!(state.partition_version(USERS, b"under tls").await.expect("readable"), 0);
    let config = CqlConfig { ca_file: Some(wrong), ..config };
    let error = CqlState::connect(config).await.expect_err("it is signed by another");
    let said = error.to_string();
    assert!(matches!(error, StateError::Unavailable(_)) && said.contains(&address), "{said}");
    assert!(said.contains("certificate"), "it says why: {said}");
}

/// A server that knows nobody (CQL binary protocol v4, section 4.2).
async fn knows_nobody(running: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut header = [0; 9];
                while client.read_exact(&mut header).await.is_ok() {
                    let length = u32::from_be_bytes(header[5..].try_into().expect("four bytes"));
                    let mut body = vec![0; length as usize];
                    if client.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    let text = |text: &str| {
                        [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat()
                    };
                    let (opcode, answer) = match header[4] {
                        // OPTIONS: SUPPORTED; STARTUP: AUTHENTICATE; AUTH_RESPONSE: ERROR, bad credentials.
                        0x05 => (0x06, vec![0, 0]),
                        0x01 => (0x03, text("org.apache.cassandra.auth.PasswordAuthenticator")),
                        _ => (
                            0x00,
                            [&0x0100u32.to_be_bytes()[..], &text("Provided username and/or password are incorrect")]
                                .concat(),
                        ),
                    };
                    let length = u32::try_from(answer.len()).expect("short").to_be_bytes();
                    let frame = [&[0x84, 0, header[2], header[3], opcode], &length[..], &answer].concat();
                    if client.write_all(&frame).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn wrong_credentials_are_named_and_not_printed() {
    let mut running = JoinSet::new();
    let address = knows_nobody(&mut running).await;
    let config = CqlConfig {
        contact_points: vec![address.clone()],
        datacenter: "dc1".into(),
        config_datacenter: "dc1".into(),
        username: Some("breeze".into()),
        password: Some("hunter2".into()),
        ..CqlConfig::default()
    };
    let error = CqlState::connect(config.clone()).await.expect_err("it knows nobody");
    let said = error.to_string();
    assert!(matches!(error, StateError::Refused(_)), "{said}");
    assert!(said.contains("breeze") && said.contains(&address) && !said.contains("hunter2"), "{said}");
    let error = CqlState::connect(CqlConfig { username: None, password: None, ..config }).await.expect_err("nobody");
    assert!(matches!(&error, StateError::Refused(said) if said.contains("wants a user name")), "{error}");
}
