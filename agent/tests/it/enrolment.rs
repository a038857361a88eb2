//! Enrolment, and what an agent does not believe.

use crate::{
    agent::{EnrollServer, command, json, output, text},
    authority::Authority,
    peer::relay,
};
use breeze_proto::{
    enroll::{EnrollResponse, EnrollmentKey},
    id::DeviceId,
    v1::SignedDocument,
};
use std::{
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

const LIFE: Duration = Duration::from_secs(3600);

async fn enroll(state: &Path, url: &str, key: &EnrollmentKey) -> Output {
    let mut agent = command(state);
    agent.args(["enroll", "--server", url]).env("BREEZE_ENROLLMENT_KEY", key.reveal());
    output(agent).await
}

fn documents(authority: &Authority) -> Vec<SignedDocument> {
    vec![authority.relays(1, relay(Some(([127, 0, 0, 1], 9).into()), None)), authority.config(1, 1000)]
}

#[tokio::test]
async fn over_https_with_the_authority_in_the_key_and_after_approval() {
    let authority = Arc::new(Authority::new());
    let device = DeviceId::generate();
    let asked = AtomicU32::new(0);
    let answers = authority.clone();
    let server = EnrollServer::start(Some(authority.web_tls()), move |request| {
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            return (202, json(&EnrollResponse::Pending { device_id: device, retry_after_s: 0 }));
        }
        (200, json(&answers.enrolled(device, &request.csr, &documents(&answers), LIFE)))
    })
    .await;
    let folder = TempDir::new().expect("a folder");
    let output = enroll(folder.path(), &server.url, &authority.enrollment_key()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("waiting for approval") && said.contains(&format!("enrolled as device {device}")), "{said}");
    {
        let requests = server.requests.lock().expect("no panic");
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0], requests[1], "the same request again, so the same device");
        assert_eq!(requests[0].os_type, "linux");
    }

    let again = enroll(folder.path(), &server.url, &authority.enrollment_key()).await;
    assert!(text(&again.stderr).contains("already enrolled"), "{}", text(&again.stderr));
    let mut unenroll = command(folder.path());
    unenroll.arg("unenroll");
    assert!(crate::agent::output(unenroll).await.status.success());
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("reads").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left, ["lock"], "nothing of the device is left");
}

#[tokio::test]
async fn refusals_are_told_in_the_servers_words() {
    let authority = Authority::new();
    let server = EnrollServer::start(None, |_| {
        (
            403,
            r#"{"type":"urn:breeze:problem:enrollment_key_expired","detail":"this enrolment key has expired"}"#.into(),
        )
    })
    .await;
    let folder = TempDir::new().expect("a folder");
    let output = enroll(folder.path(), &server.url, &authority.enrollment_key()).await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("this enrolment key has expired"), "{}", text(&output.stderr));
}

/// Each answer is a valid one with one thing wrong.
#[tokio::test]
async fn an_answer_that_does_not_hold_is_not_believed() {
    type Twist = fn(&Authority, DeviceId, &str) -> EnrollResponse;
    let twists: [(&str, Twist); 5] = [
        ("does not come from the authority", |_, device, csr| {
            let other = Authority::new();
            other.enrolled(device, csr, &documents(&other), LIFE)
        }),
        ("not endorsed", |authority, device, csr| {
            let mut response = authority.enrolled(device, csr, &documents(authority), LIFE);
            let other = Authority::new().enrolled(device, csr, &[], LIFE);
            if let (
                EnrollResponse::Enrolled { root_endorsement, .. },
                EnrollResponse::Enrolled { root_endorsement: wrong, .. },
            ) = (&mut response, other)
            {
                *root_endorsement = wrong;
            }
            response
        }),
        ("subject is not this device", |authority, device, csr| {
            let mut response = authority.enrolled(device, csr, &documents(authority), LIFE);
            if let EnrollResponse::Enrolled { device_id, .. } = &mut response {
                *device_id = DeviceId::generate();
            }
            response
        }),
        ("document was not accepted", |authority, device, csr| {
            let mut documents = documents(authority);
            documents[1].payload = documents[0].payload.clone();
            authority.enrolled(device, csr, &documents, LIFE)
        }),
        ("named no relay", |authority, device, csr| {
            authority.enrolled(device, csr, &[authority.config(1, 1000)], LIFE)
        }),
    ];
    for (words, twist) in twists {
        let authority = Arc::new(Authority::new());
        let device = DeviceId::generate();
        let answers = authority.clone();
        let server =
            EnrollServer::start(None, move |request| (200, json(&twist(&answers, device, &request.csr)))).await;
        let folder = TempDir::new().expect("a folder");
        let output = enroll(folder.path(), &server.url, &authority.enrollment_key()).await;
        assert!(!output.status.success(), "believed: {words}");
        assert!(text(&output.stderr).contains(words), "{} instead of {words}", text(&output.stderr));
        assert!(!folder.path().join("identity.json").exists());
    }
}
