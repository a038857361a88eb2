//! Whole systems of real servers from the generated files: who may do what, what crosses from region to
//! region, and what three servers survive.

use crate::nats_server::{Server, config, connect, eventually, free_ports, program};
use breeze_bus::{
    Bus, BusError,
    nats::{NatsBus, NatsConfig, Streams, Topology, TopologyNode, TopologyRegion, TopologyTls, migrate, server_config},
};
use breeze_proto::subject;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(500);

fn node(dir: &Path, name: &str) -> TopologyNode {
    let [client_port, cluster_port, leaf_port] = free_ports();
    let store_dir = dir.join(name).join("js").to_str().expect("a path").to_owned();
    TopologyNode {
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        client_port,
        cluster_port,
        leaf_port,
        store_dir,
    }
}

/// A hub and two regions of one server each.
struct System {
    files: BTreeMap<String, String>,
    nodes: BTreeMap<String, u16>,
    servers: BTreeMap<String, Server>,
    ca_file: Option<PathBuf>,
    program: PathBuf,
    dir: TempDir,
}

impl System {
    fn start(tls: bool) -> Option<Self> {
        let program = program()?;
        let dir = tempfile::tempdir().expect("a folder");
        let tls = tls.then(|| certificates(dir.path()));
        let region = |name: &str| TopologyRegion {
            name: name.to_owned(),
            servers: vec![node(dir.path(), &format!("{name}-1"))],
            relays: vec![format!("{name}-1"), format!("{name}-2")],
            collectors: vec![format!("{name}-a")],
        };
        let topology = Topology {
            hub: vec![node(dir.path(), "hub-1")],
            regions: vec![region("eu"), region("us")],
            tls: tls.clone(),
            secrets: BTreeMap::new(),
        };
        let nodes = topology.hub.iter().chain(topology.regions.iter().flat_map(|region| &region.servers));
        let nodes: BTreeMap<String, u16> = nodes.map(|node| (node.name.clone(), node.client_port)).collect();
        let files: BTreeMap<_, _> = server_config(&topology).expect("files").into_iter().collect();
        let ca_file = tls.map(|tls| PathBuf::from(tls.ca_file));
        let mut system = Self { files, nodes, servers: BTreeMap::new(), ca_file, program, dir };
        for name in ["hub-1", "eu-1", "us-1"] {
            system.start_server(name);
        }
        Some(system)
    }

    fn start_server(&mut self, name: &str) {
        let text = &self.files[&format!("{name}.conf")];
        let server = Server::start(&self.program, &self.dir.path().join(name), text, self.nodes[name]);
        self.servers.insert(name.to_owned(), server);
    }

    /// The configuration of a user of a server.
    fn user(&self, user: &str, server: &str) -> NatsConfig {
        let domain = server.split('-').next().expect("a region");
        let domain = if domain == "hub" { "global" } else { domain };
        let mut config = config(&[self.nodes[server]], domain, user);
        config.nkey_seed = Some(self.files[&format!("{user}.nk")].clone().into());
        if self.ca_file.is_some() {
            config.servers = vec![format!("tls://localhost:{}", self.nodes[server])];
            config.ca_file.clone_from(&self.ca_file);
        }
        config
    }

    async fn connect(&self, user: &str, server: &str) -> NatsBus {
        connect(&self.user(user, server)).await
    }

    async fn migrate(&self) {
        let streams =
            Streams { lanes: 2, regions: vec!["eu".into(), "us".into()], replicas: 1, max_stream_bytes: 8 << 20 };
        let config = self.user("migrate", "hub-1");
        let done = eventually(|| migrate(&config, &streams)).await;
        assert_eq!(done.len(), 7, "{done:?}");
    }
}

fn certificates(dir: &Path) -> TopologyTls {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("valid");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("signs");
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::CertificateParams::new(names).expect("valid").signed_by(&key, &issuer).expect("signs");
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("writes");
        path.to_str().expect("a path").to_owned()
    };
    TopologyTls {
        ca_file: write("ca.pem", ca.pem()),
        cert_file: write("cert.pem", own.pem()),
        key_file: write("key.pem", key.serialize_pem()),
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Refused at once, with the subject in words.
fn denied<T: std::fmt::Debug>(result: Result<T, BusError>, subject: &str) {
    match result {
        Err(BusError::Unavailable(words)) if words.contains("may not publish") && words.contains(subject) => {}
        other => panic!("{subject}: {other:?}"),
    }
}

/// Answers with its own name for as long as the test runs.
async fn answer(bus: &NatsBus, subject: &str, name: &'static str) {
    let mut service = eventually(|| bus.serve(subject)).await;
    tokio::spawn(async move {
        while let Some(request) = service.next().await {
            (request.reply)(text(name));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_its_own_across_regions_and_nothing_else() {
    let Some(system) = System::start(true) else { return };
    system.migrate().await;
    let control = system.connect("control-plane", "hub-1").await;
    let relay = system.connect("relay-us-1", "us-1").await;
    let other_relay = system.connect("relay-us-2", "us-1").await;
    let eu = system.connect("collector-eu-a", "eu-1").await;
    let us = system.connect("collector-us-a", "us-1").await;

    // A relay of us stores at home in eu, whose collector is woken and reads it; and in its own region.
    let reader = tokio::spawn(async move {
        let entries = eu.read("lane.eu.1", 1, 1 << 20, SOON).await;
        (eu, entries)
    });
    eventually(|| relay.append("lane.eu.1", "a", text("guest"))).await;
    let (eu, entries) = reader.await.expect("no panic");
    assert_eq!(entries.expect("reads")[0].payload, text("guest"));
    relay.append("lane.us.0", "b", text("own")).await.expect("appends");
    relay.append("foreign.us.eu", "c", text("stored")).await.expect("appends");
    assert_eq!(us.read("foreign.us.eu", 1, 100, SOON).await.expect("reads")[0].payload, text("stored"));
    us.trim("foreign.us.eu", 2).await.expect("trims");
    us.append("directory", "", text("facts")).await.expect("appends");
    let facts = control.read("directory", 1, 100, SOON).await.expect("reads");
    assert_eq!(facts[0].payload, text("facts"));
    control.trim("directory", 2).await.expect("trims");
    assert_eq!(control.extent("lane.eu.1").await.expect("sees how full it is").last, 1);

    // Requests find who serves them, wherever that is.
    answer(&control, subject::CA_RENEW, "control").await;
    answer(&eu, "collector.eu.1.held", "eu").await;
    answer(&relay, &subject::relay_push("us-1"), "relay").await;
    for (bus, subject, expected) in [
        (&relay, "ca.renew", "control"),
        (&relay, "collector.eu.1.held", "eu"),
        (&eu, "relay.us-1.push", "relay"),
        (&control, "relay.us-1.push", "relay"),
    ] {
        let got = eventually(|| bus.request(subject, text("?"), SOON)).await;
        assert_eq!(got, text(expected), "{subject}");
    }

    // Broadcasts, too.
    let mut statuses = control.subscribe("status.>").await.expect("subscribes");
    let heard = async {
        loop {
            relay.publish("status.relay.us-1", text("well")).await.expect("publishes");
            if tokio::time::timeout(SHORT, statuses.next()).await.is_ok_and(|received| received.is_some()) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, heard).await.expect("heard");

    // And nothing else: a relay is no collector, no other relay, and no control plane.
    denied(relay.append("directory", "", text("x")).await, "directory");
    denied(relay.append("foreign.eu.us", "", text("x")).await, "foreign.eu.us");
    denied(relay.read("lane.us.0", 1, 100, Duration::ZERO).await, "DIRECT.GET.lane_us_0");
    denied(relay.trim("lane.us.0", 2).await, "STREAM.PURGE.lane_us_0");
    denied(relay.request(&subject::ca_relay("us-2"), text("?"), SOON).await, "ca.relay.us-2");
    denied(relay.request(&subject::ca_relay("eu-1"), text("?"), SOON).await, "ca.relay.eu-1");
    denied(relay.request(&subject::relay_push("us-2"), text("?"), SOON).await, "relay.us-2.push");
    denied(us.append("lane.us.0", "", text("x")).await, "lane.us.0");
    denied(us.read("lane.eu.1", 1, 100, Duration::ZERO).await, "DIRECT.GET.lane_eu_1");
    denied(control.append("lane.eu.1", "", text("x")).await, "lane.eu.1");
    // What one may not listen to is silent, what one may not serve is not asked.
    let mut spying = relay.subscribe("lane.us.0").await.expect("the server tells later");
    let mut answers = relay.subscribe("_INBOX.>").await.expect("the server tells later");
    let mut stolen = relay.serve(subject::CA_RENEW).await.expect("the server tells later");
    let mut pushes = relay.serve(&subject::relay_push("us-2")).await.expect("the server tells later");
    other_relay.append("lane.us.0", "d", text("secret")).await.expect("appends");
    for _ in 0..20 {
        assert_eq!(other_relay.request(subject::CA_RENEW, text("?"), SOON).await, Ok(text("control")));
    }
    let pushed = control.request(&subject::relay_push("us-2"), text("?"), SHORT).await;
    assert_eq!(pushed, Err(BusError::NoResponder(subject::relay_push("us-2"))));
    tokio::select! {
        biased;
        spied = spying.next() => panic!("{spied:?}"),
        heard = answers.next() => panic!("{heard:?}"),
        asked = stolen.next() => panic!("{asked:?}"),
        asked = pushes.next() => panic!("{asked:?}"),
        () = std::future::ready(()) => {}
    }
}

/// Whoever may ask or append names the subject of the answer, and the one who answers may send it there.
/// None of it is an order to JetStream.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_subject_is_no_way_to_a_stream() {
    let Some(system) = System::start(false) else { return };
    system.migrate().await;
    let control = system.connect("control-plane", "hub-1").await;
    let relay = system.connect("relay-us-1", "us-1").await;
    let us = system.connect("collector-us-a", "us-1").await;
    for (stream, id) in [("lane.us.0", "a"), ("lane.us.0", "b"), ("lane.eu.0", "c")] {
        eventually(|| relay.append(stream, id, text("kept"))).await;
    }
    us.append("directory", "", text("kept")).await.expect("appends");
    // An empty answer is the worst: it orders to delete.
    let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for (bus, subject) in [(&control, subject::REVOCATIONS_SNAPSHOT), (&us, "collector.us.0.held")] {
        let (mut service, asked) = (eventually(|| bus.serve(subject)).await, asked.clone());
        tokio::spawn(async move {
            while let Some(request) = service.next().await {
                asked.send((request.subject, request.payload)).expect("the test listens");
                (request.reply)(Bytes::new());
            }
        });
    }
    for subject in [subject::REVOCATIONS_SNAPSHOT, "collector.us.0.held"] {
        assert_eq!(eventually(|| relay.request(subject, text("?"), SOON)).await, Bytes::new(), "empty for who asks");
        assert_eq!(heard.recv().await.expect("asked"), (subject.to_owned(), text("?")));
    }

    let seed = system.files["relay-us-1.nk"].clone();
    let address = format!("nats://127.0.0.1:{}", system.nodes["us-1"]);
    let attacker = async_nats::ConnectOptions::with_nkey(seed).connect(address).await.expect("connects");
    for verb in ["DELETE", "PURGE"] {
        for (api, stream) in [
            ("$JS.us.API", "lane_us_0"),
            ("$JS.API", "lane_us_0"),
            ("$JS.eu.API", "lane_eu_0"),
            ("$JS.API", "directory"),
        ] {
            let reply = format!("{api}.STREAM.{verb}.{stream}");
            for to in [
                subject::REVOCATIONS_SNAPSHOT,
                "collector.us.0.held",
                "lane.us.1",
                "lane.eu.1",
                "$JS.API.STREAM.INFO.lane_us_0",
            ] {
                attacker.publish_with_reply(to, reply.clone(), text("order")).await.expect("sends");
                attacker.publish_with_reply(to, reply.clone(), Bytes::new()).await.expect("sends");
            }
        }
    }
    attacker.flush().await.expect("flushes");
    // The same way, behind it: all of the above has been handled.
    for subject in [subject::REVOCATIONS_SNAPSHOT, "collector.us.0.held"] {
        for _ in 0..3 {
            assert_eq!(relay.request(subject, text("last"), SOON).await, Ok(Bytes::new()));
            assert_eq!(heard.recv().await.expect("asked"), (subject.to_owned(), text("last")), "only who may ask");
        }
    }
    // What was appended is confirmed, too, wherever the confirmations went.
    for stream in ["lane.us.1", "lane.eu.1"] {
        let all = async || match control.extent(stream).await {
            Ok(extent) if extent.last == 16 => Ok(()),
            other => Err(other),
        };
        eventually(all).await;
    }
    assert_eq!(eventually(|| relay.append("lane.us.1", "", text("after"))).await, 17);
    assert_eq!(eventually(|| relay.append("lane.eu.1", "", text("after"))).await, 17);
    for (stream, last) in [("lane.us.0", 2), ("lane.eu.0", 1), ("directory", 1)] {
        let extent = eventually(|| control.extent(stream)).await;
        assert_eq!((extent.first, extent.last), (1, last), "{stream}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_wrong_authorities_are_named() {
    let Some(system) = System::start(true) else { return };
    let mut wrong = system.user("relay-eu-1", "eu-1");
    wrong.nkey_seed = Some(system.files["relay-us-1.nk"].clone().into());
    let error = NatsBus::connect(wrong.clone()).await.expect_err("a user of another region");
    assert!(matches!(&error, BusError::Unavailable(words) if words.contains("credentials")), "{error}");
    wrong.nkey_seed = Some("nonsense".to_owned().into());
    let error = NatsBus::connect(wrong).await.expect_err("no seed");
    assert!(error.to_string().contains("credentials"), "{error}");
    let mut wrong = system.user("relay-eu-1", "eu-1");
    let other = tempfile::tempdir().expect("a folder");
    wrong.ca_file = Some(certificates(other.path()).ca_file.into());
    let error = NatsBus::connect(wrong).await.expect_err("another authority");
    assert!(error.to_string().contains("ertificate"), "{error}");
    system.connect("relay-eu-1", "eu-1").await;
}

/// While the hub is gone each region goes on by itself, and learns at once that the other is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_cut_off_goes_on_and_comes_back() {
    let Some(mut system) = System::start(false) else { return };
    system.migrate().await;
    let relay = system.connect("relay-us-1", "us-1").await;
    let us = system.connect("collector-us-a", "us-1").await;
    let eu = system.connect("collector-eu-a", "eu-1").await;
    eventually(|| relay.append("lane.eu.0", "1", text("before"))).await;

    system.servers.get_mut("hub-1").expect("runs").kill();
    let deadline = Instant::now() + SOON;
    while relay.append("lane.eu.0", "2", text("during")).await.is_ok() {
        assert!(Instant::now() < deadline, "the link is cut");
    }
    let began = Instant::now();
    let error = relay.append("lane.eu.0", "2", text("during")).await.expect_err("it is cut");
    assert!(began.elapsed() < Duration::from_secs(2), "{error} after {:?}", began.elapsed());
    relay.append("foreign.us.eu", "2", text("during")).await.expect("its own region takes it");
    relay.append("lane.us.0", "3", text("own")).await.expect("its own region takes it");
    let stored = us.read("foreign.us.eu", 1, 1 << 20, SOON).await.expect("reads").remove(0);

    system.servers.get_mut("hub-1").expect("is there").restart();
    eventually(|| us.append("lane.eu.0", "forward-us-1-1", stored.payload.clone())).await;
    us.append("lane.eu.0", "forward-us-1-1", stored.payload.clone()).await.expect("again");
    let home = eu.read("lane.eu.0", 1, 1 << 20, SOON).await.expect("reads");
    let home: Vec<_> = home.iter().map(|entry| entry.payload.clone()).collect();
    assert_eq!(home, [text("before"), text("during")], "once");
}

/// Three servers, each stream on all of them: one is killed and its data wiped, in turn.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_the_loss_of_one_of_three() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let names = ["eu-1", "eu-2", "eu-3"];
    let region = TopologyRegion {
        name: "eu".to_owned(),
        servers: names.map(|name| node(dir.path(), name)).into(),
        relays: vec!["r".to_owned()],
        collectors: vec!["c".to_owned()],
    };
    let topology = Topology { hub: vec![node(dir.path(), "hub-1")], regions: vec![region], ..Topology::default() };
    let files: BTreeMap<_, _> = server_config(&topology).expect("files").into_iter().collect();
    let nodes = &topology.regions[0].servers;
    let start =
        |name: &str, port| Server::start(&program, &dir.path().join(name), &files[&format!("{name}.conf")], port);
    let mut servers: Vec<Server> = nodes.iter().map(|node| start(&node.name, node.client_port)).collect();
    let ports: Vec<u16> = nodes.iter().map(|node| node.client_port).collect();
    let user = |name: &str| NatsConfig {
        nkey_seed: Some(files[&format!("{name}.nk")].clone().into()),
        ..config(&ports, "eu", name)
    };
    let streams = Streams { lanes: 1, regions: vec!["eu".to_owned()], replicas: 3, max_stream_bytes: 64 << 20 };
    let admin = user("migrate");
    eventually(|| migrate(&admin, &streams)).await;
    let relay = connect(&user("relay-r")).await;
    let collector = connect(&user("collector-c")).await;

    let mut acknowledged = Vec::new();
    let mut last = 0;
    for (round, lost) in [0usize, 1].into_iter().enumerate() {
        for number in 0..60 {
            let payload = Bytes::from(format!("{round}-{number}").repeat(200));
            let id = format!("{round}-{number}");
            last = eventually(|| relay.append("lane.eu.0", &id, payload.clone())).await;
            acknowledged.push((last, payload));
            if number == 30 {
                servers[lost].kill();
                std::fs::remove_dir_all(&nodes[lost].store_dir).expect("wiped");
            }
        }
        servers[lost].restart();
        // The next one may go only when this one has caught up.
        eventually(|| caught_up(&collector, last)).await;
    }
    let mut held = Vec::new();
    while held.last().is_none_or(|(position, _)| *position < last) {
        let from = held.last().map_or(1, |(position, _)| position + 1);
        let read = eventually(|| collector.read("lane.eu.0", from, 1 << 20, SOON)).await;
        held.extend(read.into_iter().map(|entry| (entry.position, entry.payload)));
    }
    assert!(acknowledged.iter().all(|entry| held.contains(entry)), "acknowledged and lost");
    assert_eq!(held.iter().map(|(position, _)| *position).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>(), "dense");
}

/// Whether every replica has all of the stream, as its leader sees it.
async fn caught_up(bus: &NatsBus, last: u64) -> Result<(), String> {
    let replicas = bus.replicas("lane.eu.0").await.map_err(|error| error.to_string())?;
    let extent = bus.extent("lane.eu.0").await.map_err(|error| error.to_string())?;
    if extent.last >= last && replicas.len() == 2 && replicas.iter().all(|replica| replica.is_current) {
        Ok(())
    } else {
        Err(format!("{extent:?} {replicas:?}"))
    }
}
