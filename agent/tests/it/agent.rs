//! The agent's binary, and an enrolment server for it.

use crate::authority::Authority;
use breeze_agent::status::StatusFile;
use breeze_proto::{
    enroll::{EnrollRequest, EnrollResponse},
    id::DeviceId,
    v1::SignedDocument,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) fn command(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_breeze-agent"));
    command.arg("--state").arg(state).env_remove("BREEZE_ENROLLMENT_KEY");
    for variable in ["HTTPS_PROXY", "https_proxy", "BREEZE_PROXY"] {
        command.env_remove(variable);
    }
    command
}

/// Runs to its end, which must come soon.
pub(crate) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().expect("runs")).await.expect("no panic")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A state directory with, perhaps, an agent that runs on it.
pub(crate) struct Agent {
    pub(crate) state: TempDir,
    child: Option<Child>,
}

impl Agent {
    /// Enrols against a server of `peer`'s authority that hands out `documents`.
    pub(crate) async fn enrolled(
        authority: &Arc<Authority>,
        device: DeviceId,
        documents: Vec<SignedDocument>,
        life: Duration,
    ) -> Self {
        let state = TempDir::new().expect("a folder");
        let answers = authority.clone();
        let server = EnrollServer::start(None, move |request| {
            (200, json(&answers.enrolled(device, &request.csr, &documents, life)))
        })
        .await;
        let mut enroll = command(state.path());
        enroll.args(["enroll", "--server", &server.url]);
        enroll.env("BREEZE_ENROLLMENT_KEY", authority.enrollment_key().reveal());
        let output = output(enroll).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        Self { state, child: None }
    }

    pub(crate) fn start(&mut self, arguments: &[&str]) {
        let mut run = command(self.state.path());
        run.args(arguments).arg("run").stdin(Stdio::null());
        self.child = Some(run.spawn().expect("starts"));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
    }

    /// SIGTERM, and its orderly end.
    pub(crate) async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(status) = child.try_wait().expect("waits") {
                assert!(status.success(), "it ended with {status}");
                return;
            }
            assert!(Instant::now() < deadline, "it does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn status(&self) -> StatusFile {
        StatusFile::read(self.state.path()).expect("readable")
    }

    pub(crate) async fn until(&self, words: &str, what: impl Fn(&StatusFile) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !what(&self.status()) {
            assert!(Instant::now() < deadline, "in vain: {words}: {:?}", self.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _ended = child.wait();
        }
    }
}

pub(crate) fn json(response: &EnrollResponse) -> String {
    serde_json::to_string(response).expect("encodes")
}

/// Answers enrolments.
pub(crate) struct EnrollServer {
    pub(crate) url: String,
    pub(crate) requests: Arc<Mutex<Vec<EnrollRequest>>>,
}

impl EnrollServer {
    /// `answer` gives status and body; with `tls` it serves https.
    pub(crate) async fn start(
        tls: Option<rustls::ServerConfig>,
        answer: impl Fn(&EnrollRequest) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (requests.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer, acceptor) = (seen.clone(), answer.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (seen, answer) = (seen.clone(), answer.clone());
                        async move {
                            assert_eq!(request.uri().path(), "/api/v1/agents/enroll");
                            let body = request.into_body().collect().await?.to_bytes();
                            let request: EnrollRequest = serde_json::from_slice(&body).expect("a request");
                            let (status, body) = answer(&request);
                            seen.lock().expect("no panic before").push(request);
                            let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                            Ok::<_, hyper::Error>(response.expect("a response"))
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ended = match acceptor {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => Ok(()),
                        },
                    };
                });
            }
        });
        Self { url: format!("{scheme}://{address}"), requests }
    }
}
