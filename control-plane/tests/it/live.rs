//! Live updates: tickets, topics, what each may tell, and what a slow client costs.

use crate::{
    devices::{digest, enrolled, foreign},
    support::{Client, PATIENCE, Server},
};
use breeze_bus::{Bus, Received};
use breeze_proto::{
    id::DeviceId,
    subject,
    v1::{AgentConfig, LiveSample, Presence, PushReply, PushRequest, Scalars, StampedSample, Watch, relay_frame},
};
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

struct Socket(WebSocketStream<TcpStream>);

async fn ticket(client: &Client) -> String {
    let answer = client.post("/api/v1/ws-tickets", &json!({})).await;
    assert_eq!((answer.status, &answer.body["expires_in"]), (StatusCode::CREATED, &json!(30)), "{}", answer.raw);
    answer.text("ticket")
}

/// Opens a socket, or the status of the refusal.
async fn open(server: &Server, ticket: &str, origin: Option<&str>) -> Result<Socket, u16> {
    let host = server.base.strip_prefix("http://").expect("plain");
    let mut request = format!("ws://{host}/api/v1/ws?ticket={ticket}").into_client_request().expect("a request");
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().expect("a header"));
    }
    let stream = TcpStream::connect(host).await.expect("connects");
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(Socket(socket)),
        Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn connected(server: &Server, client: &Client) -> Socket {
    let ticket = ticket(client).await;
    open(server, &ticket, Some(&server.base)).await.unwrap_or_else(|status| panic!("refused with {status}"))
}

impl Socket {
    async fn send(&mut self, value: Value) {
        self.0.send(Message::text(value.to_string())).await.expect("sends");
    }

    /// The next text message; `Err` with the code of a close.
    async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = timeout(PATIENCE, self.0.next()).await.expect("a message in time").expect("not ended");
            match message.expect("a sound message") {
                Message::Text(text) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Message::Close(frame) => return Err(frame.map_or(0, |frame| frame.code.into())),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn until(&mut self, what: impl Fn(&Value) -> bool) -> Value {
        loop {
            let value = self.next().await.expect("open");
            if what(&value) {
                return value;
            }
        }
    }

    async fn subscribe(&mut self, topics: &[&str]) -> Value {
        self.send(json!({ "subscribe": topics })).await;
        self.until(|value| value["type"] == "subscribed").await
    }
}

#[tokio::test]
async fn a_ticket_opens_one_socket_from_our_own_pages_only() {
    let server = Server::start().await;
    let admin = server.admin().await;
    assert_eq!(server.client().post("/api/v1/ws-tickets", &json!({})).await.status, StatusCode::UNAUTHORIZED);
    let one = ticket(&admin).await;
    assert_eq!(open(&server, &one, Some("https://evil.example")).await.err(), Some(403));
    assert_eq!(open(&server, "guess", Some(&server.base)).await.err(), Some(401));
    let mut socket =
        open(&server, &one, Some(&server.base)).await.unwrap_or_else(|_| panic!("the foreign page did not use it up"));
    assert_eq!(open(&server, &one, Some(&server.base)).await.err(), Some(401), "once");
    socket.send(json!({ "ping": 7 })).await;
    assert_eq!(socket.next().await, Ok(json!({ "pong": 7 })));
    socket.send(json!({ "subscribe": ["devices"], "colour": 1 })).await;
    assert_eq!(socket.next().await.expect("open")["type"], "error");
    socket.send(json!({ "subscribe": ["weather"] })).await;
    assert!(socket.next().await.expect("open")["detail"].as_str().expect("words").contains("no such topic"));
    // Not a WebSocket.
    let plain = admin.get(&format!("/api/v1/ws?ticket={}", ticket(&admin).await)).await;
    assert_eq!((plain.status, plain.code()), (StatusCode::BAD_REQUEST, "validation"));
    server.stop().await;
}

#[tokio::test]
async fn the_list_is_told_what_changes_and_a_burst_comes_as_its_end() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let (ours, theirs) = (enrolled(&server, "web-1").await, foreign(&server).await);
    let mut socket = connected(&server, &admin).await;
    assert_eq!(socket.subscribe(&["devices"]).await["topics"], json!(["devices"]));
    for n in 0..500 {
        digest(&server, n + 1, &[(ours, Presence::Online, n as u32), (theirs, Presence::Online, 1)]).await;
    }
    let (mut messages, mut known) = (0, json!({}));
    while known["cpu_percent"] != 49.9 {
        let changed = socket.until(|value| value["type"] == "changed").await;
        messages += 1;
        for device in changed["data"]["devices"].as_array().expect("devices") {
            assert_eq!(device["id"], json!(ours), "nothing of another tenant");
            for (field, value) in device.as_object().expect("an object") {
                known[field] = value.clone();
            }
        }
    }
    assert!(messages < 100, "500 digests came as {messages} messages");
    assert_eq!((&known["status"], &known["hostname"]), (&json!("online"), &json!("web-1")));
    // Its end is told too.
    let path = format!("/api/v1/devices/{ours}");
    let etag = admin.get(&path).await.header("etag").to_owned();
    let request = admin.request(reqwest::Method::DELETE, &path).header("if-match", etag);
    assert_eq!(crate::support::send(request).await.status, StatusCode::NO_CONTENT);
    let gone = socket.until(|value| value["data"]["devices"][0]["status"] == "decommissioned").await;
    assert_eq!(gone["data"]["devices"][0]["id"], json!(ours));
    server.stop().await;
}

async fn sample(server: &Server, device: DeviceId, at_us: u64, cpu_permille: u32) {
    let scalars = Scalars { cpu_permille, net_in_bytes: 500, ..Scalars::default() };
    let live = LiveSample {
        device_id: device.to_bytes().to_vec().into(),
        sample: Some(StampedSample { sample_us: at_us, scalars: Some(scalars), ..StampedSample::default() }),
    };
    server.bus.publish(&subject::live(device), live.encode_to_vec().into()).await.expect("publishes");
}

#[tokio::test]
async fn who_looks_at_a_device_sees_each_second_of_it() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let device = enrolled(&server, "web-1").await;
    let mut watches = server.bus.subscribe(subject::WATCH).await.expect("subscribes");
    let mut pushes = server.bus.serve(&subject::relay_push("local-1")).await.expect("serves");
    let mut socket = connected(&server, &admin).await;
    let topic = format!("device:{device}");
    socket.subscribe(&[&topic]).await;
    let told = socket.until(|value| value["type"] == "device").await;
    assert_eq!((&told["topic"], &told["data"]["hostname"]), (&json!(topic), &json!("web-1")));

    // Collectors are told, and the relay is handed a signed, expiring configuration.
    let Some(Received::Message { payload, .. }) = timeout(PATIENCE, watches.next()).await.expect("in time") else {
        panic!("no watch");
    };
    let watch = Watch::decode(payload).expect("a watch");
    assert_eq!(watch.device_ids, [device.to_bytes().to_vec()]);
    let now_us = breeze_control_plane::api::time::now_ms() * 1000;
    assert!(watch.until_us > now_us && watch.until_us <= now_us + 30_000_000);
    let request = timeout(PATIENCE, pushes.next()).await.expect("in time").expect("a push");
    let push = PushRequest::decode(request.payload).expect("a push");
    (request.reply)(PushReply { delivered: true }.encode_to_vec().into());
    let Some(relay_frame::Body::Document(document)) = push.frame.and_then(|frame| frame.body) else {
        panic!("no document");
    };
    let config = AgentConfig::decode(document.payload).expect("a configuration");
    assert_eq!((document.role.as_str(), config.heartbeat_interval_ms), ("config", 1000));
    assert!(config.expires_unix_s > 0 && config.expires_unix_s <= now_us / 1_000_000 + 31);

    let start = 1_795_525_200_000_000;
    for n in 0..3u32 {
        sample(&server, device, start + u64::from(n) * 1_000_000, 100 + n).await;
    }
    let first = socket.until(|value| value["type"] == "sample").await;
    assert_eq!((&first["data"]["t"], &first["data"]["values"]["cpu_percent"]), (&json!(start / 1000), &json!(10.0)));
    let second = socket.until(|value| value["type"] == "sample").await;
    assert_eq!(second["data"]["values"]["net_in_bytes_per_s"], 500.0);
    // A change of the device itself comes as the whole device.
    digest(&server, 1, &[(device, Presence::Online, 5)]).await;
    let told = socket.until(|value| value["type"] == "device").await;
    assert_eq!(
        (&told["data"]["status"], &told["data"]["connection"]["relay_id"]),
        (&json!("online"), &json!("local-1"))
    );

    socket.send(json!({ "unsubscribe": [topic] })).await;
    socket.until(|value| value["topics"] == json!([])).await;
    server.stop().await;
}

#[tokio::test]
async fn a_foreign_device_is_no_topic_and_says_no_more_than_an_unknown_one() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let theirs = foreign(&server).await;
    let mut socket = connected(&server, &admin).await;
    let mut details = Vec::new();
    for id in [theirs, DeviceId::generate()] {
        let topic = format!("device:{id}");
        socket.send(json!({ "subscribe": [topic] })).await;
        let mut error = socket.until(|value| value["type"] == "error").await;
        assert_eq!(error["topic"], json!(topic));
        error["topic"] = Value::Null;
        details.push(error);
    }
    assert_eq!(details[0], details[1]);
    assert!(server.handle.app().directory.size().devices > 0);
    server.stop().await;
}

#[tokio::test]
async fn overview_and_status_come_by_themselves() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut socket = connected(&server, &admin).await;
    socket.subscribe(&["overview", "status"]).await;
    let overview = socket.until(|value| value["type"] == "overview").await;
    assert_eq!(overview["data"]["devices"]["total"], 0);
    let status = socket.until(|value| value["type"] == "status").await;
    assert_eq!(status["data"]["version"], env!("CARGO_PKG_VERSION"));
    socket.until(|value| value["topic"] == "overview").await;
    server.stop().await;
}

#[tokio::test]
async fn signing_out_closes_the_socket_within_seconds() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut socket = connected(&server, &admin).await;
    socket.subscribe(&["devices"]).await;
    let unused = ticket(&admin).await;
    assert_eq!(admin.post("/api/v1/auth/logout", &json!({})).await.status, StatusCode::NO_CONTENT);
    let code = loop {
        if let Err(code) = socket.next().await {
            break code;
        }
    };
    assert_eq!(code, 4401);
    assert_eq!(open(&server, &unused, Some(&server.base)).await.err(), Some(401), "its tickets are worth nothing");
    server.stop().await;
}

#[tokio::test]
async fn shutting_down_says_goodbye() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut socket = connected(&server, &admin).await;
    socket.subscribe(&["devices"]).await;
    let stopping = tokio::spawn(server.stop());
    let code = loop {
        if let Err(code) = socket.next().await {
            break code;
        }
    };
    assert_eq!(code, 1001);
    drop(socket);
    stopping.await.expect("stops");
}
