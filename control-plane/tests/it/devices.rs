//! Devices over HTTP: lists, detail, changes, inventory, history, overview, status.

use crate::support::{Answer, Client, Device, Server, eventually, send};
use breeze_bus::Bus;
use breeze_proto::{
    id::{DeviceId, OrgId, PartnerId, SiteId},
    subject,
    v1::{
        self, ConnectionFacts, DeviceFacts, Digest, DirectoryChange, DirectorySource, HostFacts, InventorySection,
        RoleStatus, Scalars, StoredSection,
    },
};
use breeze_store::{
    history::{Event, EventId, EventKind, InventoryVersion},
    metrics::{FrozenBatch, HeartbeatRow, InsertToken, NamedRow},
    model::{
        audit::{Entry, Intent},
        device::{self, DeviceConfig, EnrolledFacts, Standing},
        device_state, inventory,
    },
    state::State,
};
use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn now_ms() -> u64 {
    breeze_control_plane::api::time::now_ms()
}

/// A device that is enrolled and whose collector told its facts.
pub(crate) async fn enrolled(server: &Server, hostname: &str) -> DeviceId {
    let answer = Device::new().enroll(&server.client(), &server.key).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.raw);
    let id: DeviceId = answer.text("device_id").parse().expect("an id");
    let facts = DeviceFacts {
        host: Some(HostFacts { hostname: hostname.into(), os_type: "linux".into(), ..HostFacts::default() }),
        agent_version: "0.1.0".into(),
        region: "local".into(),
        ram_total_mib: 16_384,
        public_ip: "203.0.113.7".into(),
        connection: Some(ConnectionFacts {
            relay_id: "local-1".into(),
            transport: "quic".into(),
            address: "203.0.113.7:4711".into(),
            since_us: 1_795_525_200_000_000,
            certificate_expires_s: 1_795_600_000,
            ..ConnectionFacts::default()
        }),
        ..DeviceFacts::default()
    };
    server.state.merge(vec![device_state::facts_row(id, 1, &facts)]).await.expect("merges");
    let change = DirectoryChange {
        device_id: id.to_bytes().to_vec().into(),
        source: DirectorySource::Facts.into(),
        version: 1,
        record: facts.encode_to_vec().into(),
    };
    server.bus.append(subject::DIRECTORY_STREAM, "facts", change.encode_to_vec().into()).await.expect("appends");
    let directory = &server.handle.app().directory;
    let scope = breeze_store::model::Scope::system("test");
    eventually("the device in the directory", || async {
        directory.get(&scope, id).filter(|device| device.hostname == hostname)
    })
    .await;
    id
}

/// Broadcasts what a collector says of devices: presence and processor use.
pub(crate) async fn digest(server: &Server, sequence: u64, devices: &[(DeviceId, v1::Presence, u32)]) {
    let now_us = now_ms() * 1000;
    let digest = Digest {
        region: "local".into(),
        source: "collector-1".into(),
        sequence,
        at_us: now_us,
        device_ids: devices.iter().map(|(id, ..)| id.to_bytes().to_vec().into()).collect(),
        last_seen_us: devices.iter().map(|_| now_us).collect(),
        presence: devices.iter().map(|(_, presence, _)| *presence as u32).collect(),
        scalars: devices.iter().map(|(_, _, cpu)| Scalars { cpu_permille: *cpu, ..Scalars::default() }).collect(),
        status: devices.iter().map(|_| 1).collect(),
        last_user: devices.iter().map(|_| "bob".into()).collect(),
        pending_reboot: devices.iter().map(|_| false).collect(),
        ..Digest::default()
    };
    server.bus.publish(&subject::digest("local"), digest.encode_to_vec().into()).await.expect("publishes");
}

/// A device of a tenant that the administrator does not reach.
pub(crate) async fn foreign(server: &Server) -> DeviceId {
    let device = DeviceConfig {
        id: DeviceId::generate(),
        partner_id: PartnerId::generate(),
        org_id: OrgId::generate(),
        site_id: SiteId::generate(),
        standing: Standing::Active,
        display_name: Some("secret of others".into()),
        tags: vec![],
        enrolled_by: breeze_proto::id::EnrollmentKeyId::generate(),
        enrollment_key_name: "theirs".into(),
        enrolled_ms: 1,
        created_ms: 1,
        updated_ms: 1,
        enrolled: EnrolledFacts::default(),
        enrolled_address: String::new(),
        first_key_sha256: String::new(),
        keys: vec![],
        certificate_expires_ms: 0,
        home_region: String::new(),
    };
    let entry = Entry {
        partner_id: Some(device.partner_id),
        org_id: Some(device.org_id),
        ..Entry::by_system("device.enroll", 1)
    };
    device::create(&*server.state, &device, &Intent::new(entry)).await.expect("creates");
    server.handle.app().deliver_now(device::DEVICES, &device.id.to_bytes()).await.expect("delivers");
    let (directory, scope) = (&server.handle.app().directory, breeze_store::model::Scope::system("test"));
    eventually("the foreign device in the directory", || async { directory.get(&scope, device.id) }).await;
    device.id
}

fn hostnames(answer: &Answer) -> Vec<&str> {
    let rows = answer.body["data"].as_array().unwrap_or_else(|| panic!("no list in {}", answer.raw));
    rows.iter().map(|row| row["hostname"].as_str().expect("a name")).collect()
}

async fn patch(client: &Client, id: DeviceId, etag: Option<&str>, body: &Value) -> Answer {
    let mut request = client.request(Method::PATCH, &format!("/api/v1/devices/{id}")).json(body);
    if let Some(etag) = etag {
        request = request.header("if-match", etag);
    }
    send(request).await
}

#[tokio::test]
async fn lists_are_paged_sorted_searched_and_filtered() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut ids = Vec::new();
    for name in ["web-3", "Web-1", "db-1", "web-2"] {
        ids.push(enrolled(&server, name).await);
    }
    foreign(&server).await;
    let first = admin.get("/api/v1/devices?limit=3").await;
    assert_eq!((first.status, hostnames(&first)), (StatusCode::OK, vec!["db-1", "Web-1", "web-2"]));
    assert_eq!((&first.body["total"], &first.body["has_more"]), (&json!(4), &json!(true)));
    assert_eq!(first.body["facets"]["status"], json!({ "pending": 4 }));
    assert_eq!(first.body["data"][0]["organization"]["name"], "Acme");
    assert_eq!(first.body["data"][0]["site"]["name"], "HQ");
    let cursor = first.text("next_cursor");
    let second = admin.get(&format!("/api/v1/devices?limit=3&cursor={cursor}")).await;
    assert_eq!((hostnames(&second), &second.body["next_cursor"]), (vec!["web-3"], &Value::Null));
    // A cursor belongs to its list.
    let other = admin.get(&format!("/api/v1/devices?sort=-hostname&cursor={cursor}")).await;
    assert_eq!((other.status, other.code()), (StatusCode::BAD_REQUEST, "validation"));
    assert_eq!(other.body["errors"][0]["field"], "cursor");

    assert_eq!(hostnames(&admin.get("/api/v1/devices?sort=-hostname&q=WEB").await), ["web-3", "web-2", "Web-1"]);
    digest(&server, 1, &[(ids[2], v1::Presence::Online, 900), (ids[0], v1::Presence::Online, 100)]).await;
    let online = eventually("two devices online", || async {
        let found = admin.get("/api/v1/devices?filter=status%3Donline%20and%20user%3Abob&sort=-cpu_percent").await;
        (found.body["total"] == 2).then_some(found)
    })
    .await;
    assert_eq!(hostnames(&online), ["db-1", "web-3"]);
    assert_eq!(online.body["data"][0]["cpu_percent"], 90.0);
    assert_eq!(online.body["data"][0]["status"], "online");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_list_request_names_what_is_wrong_and_where() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for (query, field, mentions) in [
        ("filter=os%20%3D%20linux%20and%20hostnmae%20%3D%20x", "filter", "at character 16"),
        ("filter=hostnmae%20%3D%20x", "filter", "did you mean \"hostname\"?"),
        ("sort=colour", "sort", "must be one of hostname"),
        ("limit=501", "limit", "between 1 and 500"),
        ("limit=0", "limit", "between 1 and 500"),
        ("cursor=made-up", "cursor", "not a cursor of this list"),
        ("colour=red", "colour", "unknown field"),
    ] {
        let answer = admin.get(&format!("/api/v1/devices?{query}")).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "validation"), "{query}: {}", answer.raw);
        assert_eq!(answer.body["errors"][0]["field"], field, "{}", answer.raw);
        let message = answer.body["errors"][0]["message"].as_str().expect("words");
        assert!(message.contains(mentions), "{query}: {message}");
    }
    let fields = admin.get("/api/v1/device-fields").await;
    assert_eq!(fields.body["data"][0]["name"], "hostname");
    server.stop().await;
}

#[tokio::test]
async fn changes_demand_the_version_and_are_read_at_once() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let id = enrolled(&server, "web-1").await;
    let path = format!("/api/v1/devices/{id}");
    let read = admin.get(&path).await;
    assert_eq!(read.status, StatusCode::OK, "{}", read.raw);
    let etag = read.header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", read.body["version"]));
    assert_eq!((&read.body["enrolled_by"], &read.body["heartbeat_interval_s"]), (&json!("This machine"), &json!(60.0)));
    assert_eq!(read.body["connection"], Value::Null, "not online");

    let body = json!({ "display_name": " Front desk ", "tags": ["prod", "prod", " vip"] });
    assert_eq!(patch(&admin, id, None, &body).await.code(), "precondition_required");
    assert_eq!(patch(&admin, id, Some("\"999\""), &body).await.code(), "precondition_failed");
    let changed = patch(&admin, id, Some(&etag), &body).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.raw);
    assert_eq!(changed.body["display_name"], "Front desk");
    assert_eq!(changed.body["tags"], json!(["prod", "vip"]));
    let listed = admin.get("/api/v1/devices?filter=tag%3Avip%20front").await;
    assert_eq!(listed.body["total"], 1, "a list sees it at once");
    assert_eq!(listed.body["facets"]["tags"], json!({ "prod": 1, "vip": 1 }));
    assert_eq!(patch(&admin, id, Some(&etag), &json!({ "tags": [] })).await.code(), "precondition_failed");

    let etag = changed.header("etag").to_owned();
    for (body, field) in [
        (json!({ "colour": "red" }), "colour"),
        (json!({ "display_name": "x".repeat(129) }), "display_name"),
        (json!({ "tags": vec!["x".repeat(65)] }), "tags"),
        (json!({ "site_id": SiteId::generate() }), "site_id"),
    ] {
        let answer = patch(&admin, id, Some(&etag), &body).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "validation"), "{}", answer.raw);
        assert_eq!(answer.body["errors"][0]["field"], field, "{}", answer.raw);
    }
    let unnamed = patch(&admin, id, Some(&etag), &json!({ "display_name": null })).await;
    assert_eq!((unnamed.status, &unnamed.body["display_name"]), (StatusCode::OK, &Value::Null));
    assert_eq!(unnamed.body["tags"], json!(["prod", "vip"]), "what is absent stays");
    let audit = admin.get("/api/v1/audit/logs").await;
    assert!(audit.raw.contains("device.update"), "{}", audit.raw);
    server.stop().await;
}

#[tokio::test]
async fn a_decommissioned_device_is_gone_everywhere() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let id = enrolled(&server, "web-1").await;
    let path = format!("/api/v1/devices/{id}");
    let etag = admin.get(&path).await.header("etag").to_owned();
    let mut revocations = server.bus.subscribe(subject::REVOCATIONS_UPDATE).await.expect("subscribes");
    assert_eq!(admin.delete(&path).await.code(), "precondition_required");
    let answer = send(admin.request(Method::DELETE, &path).header("if-match", &etag)).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.raw);
    assert!(revocations.next().await.is_some(), "relays are told");
    assert_eq!(admin.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(admin.get("/api/v1/devices").await.body["total"], 0);
    assert_eq!(send(admin.request(Method::DELETE, &path).header("if-match", &etag)).await.code(), "not_found");
    server.stop().await;
}

#[tokio::test]
async fn a_foreign_device_is_answered_exactly_like_one_that_does_not_exist() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let (theirs, nobodys) = (foreign(&server).await, DeviceId::generate());
    assert_eq!(admin.get("/api/v1/devices").await.body["total"], 0);
    assert_eq!(admin.get("/api/v1/devices?q=secret").await.body["total"], 0);
    assert_eq!(admin.get("/api/v1/overview").await.body["devices"]["total"], 0);
    for suffix in ["", "/hardware", "/network", "/software", "/metrics", "/events", "/inventory/history"] {
        let path = |id: DeviceId| format!("/api/v1/devices/{id}{suffix}");
        let (a, b) = (admin.get(&path(theirs)).await, admin.get(&path(nobodys)).await);
        assert_eq!((a.status, a.code()), (StatusCode::NOT_FOUND, "not_found"), "{suffix}");
        assert_eq!(crate::support::stable(a.body), crate::support::stable(b.body), "{suffix}");
    }
    let body = json!({ "display_name": "mine now" });
    let (a, b) =
        (patch(&admin, theirs, Some("\"1\""), &body).await, patch(&admin, nobodys, Some("\"1\""), &body).await);
    assert_eq!(a.status, StatusCode::NOT_FOUND);
    assert_eq!(crate::support::stable(a.body), crate::support::stable(b.body));
    server.stop().await;
}

#[tokio::test]
async fn inventory_is_shown_once_it_was_reported() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let id = enrolled(&server, "web-1").await;
    let path = |what: &str| format!("/api/v1/devices/{id}/{what}");
    for what in ["hardware", "network", "software"] {
        let answer = admin.get(&path(what)).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "not_reported"), "{what}");
    }
    let software = |name: &str| v1::Software {
        key: Some(v1::SoftwareKey { source: "dpkg".into(), name: name.into(), architecture: "amd64".into() }),
        version: "1.0".into(),
        ..v1::Software::default()
    };
    let section = |section| StoredSection {
        section: section as i32,
        received_us: 1_795_525_200_000_000,
        ..StoredSection::default()
    };
    let sections = [
        StoredSection {
            hardware: Some(v1::Hardware {
                cpu_model: "<b>Xeon</b>".into(),
                ram_total_mib: 2048,
                disks: vec![v1::Disk { mount: "/".into(), total_bytes: 5, ..v1::Disk::default() }],
                ..v1::Hardware::default()
            }),
            ..section(InventorySection::Hardware)
        },
        StoredSection {
            network: Some(v1::Network {
                addresses: vec![v1::NetworkAddress {
                    ip_address: "fe80::1".into(),
                    is_ipv6: true,
                    ..Default::default()
                }],
                ..v1::Network::default()
            }),
            ..section(InventorySection::Network)
        },
        StoredSection {
            software: ["bash", "curl", "zlib"].map(software).into(),
            ..section(InventorySection::Software)
        },
    ];
    let rows = sections.iter().map(|section| inventory::section_row(id, 1, section).expect("fits")).collect();
    server.state.merge(rows).await.expect("merges");
    let hardware = admin.get(&path("hardware")).await.body;
    assert_eq!((&hardware["cpu_model"], &hardware["disks"][0]["mount"]), (&json!("<b>Xeon</b>"), &json!("/")));
    assert_eq!(hardware["updated_at"], "2026-11-24T13:00:00.000Z");
    let network = admin.get(&path("network")).await.body;
    assert_eq!((&network["addresses"][0]["ip_type"], &network["public_ip"]), (&json!("ipv6"), &json!("203.0.113.7")));
    let first = admin.get(&path("software?limit=2")).await;
    assert_eq!((&first.body["total"], &first.body["data"][1]["name"]), (&json!(3), &json!("curl")));
    let cursor = first.text("next_cursor");
    let second = admin.get(&path(&format!("software?limit=2&cursor={cursor}"))).await;
    assert_eq!((&second.body["data"][0]["name"], &second.body["has_more"]), (&json!("zlib"), &json!(false)));
    assert_eq!(admin.get(&path(&format!("software?q=b&cursor={cursor}"))).await.code(), "validation");
    server.stop().await;
}

#[tokio::test]
async fn history_comes_in_units_and_rates() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let id = enrolled(&server, "web-1").await;
    let at = |minute: u64| 1_795_525_200_000 + minute * 60_000;
    let row = |minute: u64| HeartbeatRow {
        device: id,
        at_ms: at(minute),
        scalars: [100 + minute, 500, 1024, 0, 0, 0, 6000, 0, 150, 90, 3600, 0],
    };
    let named = [NamedRow { device: id, at_ms: at(0), name: "cpu.0.percent".into(), value: 12.5 }];
    let batch = FrozenBatch::encode(&[0, 1, 2, 3].map(row), &named);
    let day = u32::try_from(at(0) / 86_400_000).expect("a day");
    let token = InsertToken { stream: "lane.local.0".into(), first: 1, last: 4, day };
    server.handle.app().metrics.append(&token, &batch).await.expect("appends");
    let path = format!("/api/v1/devices/{id}/metrics?from=2026-11-24T13:00:00Z&to=2026-11-24T14:00:00Z");
    let all = admin.get(&path).await;
    assert_eq!(
        (all.status, &all.body["step_s"], &all.body["resolution"]),
        (StatusCode::OK, &json!(5), &json!("raw")),
        "{}",
        all.raw
    );
    let series = all.body["series"].as_array().expect("series");
    assert_eq!(series.len(), 11);
    assert_eq!((&series[0]["name"], &series[0]["unit"]), (&json!("cpu_percent"), &json!("percent")));
    assert_eq!(series[0]["points"][0], json!([at(0), 10.0, 10.0, 10.0, 10.0]));
    assert_eq!(series[0]["points"].as_array().expect("points").len(), 4, "no point where there was no data");
    let net = admin.get(&format!("{path}&series=net_in_bytes_per_s&step=60")).await;
    assert_eq!(net.body["series"][0]["points"][2], json!([at(2), 100.0, 100.0, 100.0, 100.0]));
    let details = admin.get(&format!("{path}&details=cpu.")).await;
    assert_eq!(details.body["series"][0]["name"], "cpu.0.percent");
    assert_eq!(details.body["series"][0]["points"][0][1], 12.5);
    for (query, field) in
        [("&step=1", "step"), ("&series=colour", "series"), ("&details=", "details"), ("&step=soon", "step")]
    {
        let answer = admin.get(&format!("{path}{query}")).await;
        assert_eq!(
            (answer.code(), &answer.body["errors"][0]["field"]),
            ("validation", &json!(field)),
            "{}",
            answer.raw
        );
    }
    let backwards = format!("/api/v1/devices/{id}/metrics?from=2026-11-24T15:00:00Z&to=2026-11-24T14:00:00Z");
    assert_eq!(admin.get(&backwards).await.body["errors"][0]["field"], "from");
    server.stop().await;
}

#[tokio::test]
async fn events_are_paged_newest_first_and_chosen_by_kind() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let (id, other) = (enrolled(&server, "web-1").await, enrolled(&server, "web-2").await);
    let path = format!("/api/v1/devices/{id}/events");
    let none = admin.get(&path).await;
    assert_eq!((&none.body["data"], &none.body["has_more"]), (&json!([]), &json!(false)), "{}", none.raw);
    let base = now_ms() - 60_000;
    let event = |device, number: u64, kind| Event {
        device,
        id: EventId::of("lane.local.0", number, 0),
        at_ms: base + number,
        kind,
        summary: format!("event {number}"),
        details: json!({ "number": number }).to_string(),
    };
    let mut events = vec![event(other, 9, EventKind::Connected)];
    events.extend([1, 3, 5].map(|number| event(id, number, EventKind::Connected)));
    events.extend([2, 4].map(|number| event(id, number, EventKind::Disconnected)));
    server.handle.app().history.record(&events).await.expect("records");

    let first = admin.get(&format!("{path}?limit=2")).await;
    let numbers = |answer: &Answer| -> Vec<u64> {
        let data = answer.body["data"].as_array().unwrap_or_else(|| panic!("{}", answer.raw));
        data.iter().map(|event| event["details"]["number"].as_u64().expect("a number")).collect()
    };
    assert_eq!((numbers(&first), &first.body["has_more"]), (vec![5, 4], &json!(true)));
    assert_eq!(
        (&first.body["data"][0]["kind"], &first.body["data"][0]["summary"]),
        (&json!("connected"), &json!("event 5"))
    );
    assert_eq!(first.body["missing_regions"], json!([]));
    let cursor = first.text("next_cursor");
    let rest = admin.get(&format!("{path}?limit=3&cursor={cursor}")).await;
    assert_eq!((numbers(&rest), &rest.body["next_cursor"]), (vec![3, 2, 1], &Value::Null));
    assert_eq!(numbers(&admin.get(&format!("{path}?kind=disconnected")).await), [4, 2]);
    assert_eq!(numbers(&admin.get(&format!("{path}?kind=disconnected,connected")).await), [5, 4, 3, 2, 1]);
    for (wrong, field) in [
        (format!("{path}?kind=Bad-Kind"), "kind"),
        (format!("{path}?kind=connected&cursor={cursor}"), "cursor"),
        (format!("/api/v1/devices/{other}/events?cursor={cursor}"), "cursor"),
        (format!("{path}?limit=0"), "limit"),
    ] {
        let answer = admin.get(&wrong).await;
        assert_eq!((answer.code(), &answer.body["errors"][0]["field"]), ("validation", &json!(field)), "{wrong}");
    }
    server.stop().await;
}

#[tokio::test]
async fn versions_of_an_inventory_are_listed_read_and_compared() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let (id, other) = (enrolled(&server, "web-1").await, enrolled(&server, "web-2").await);
    let path = format!("/api/v1/devices/{id}/inventory/history");
    let none = admin.get(&path).await;
    assert_eq!((&none.body["data"], &none.body["missing_regions"]), (&json!([]), &json!([])), "{}", none.raw);
    let base = now_ms() - 60_000;
    let package = |name: &str, version: &str| v1::Software {
        key: Some(v1::SoftwareKey { source: "dpkg".into(), name: name.into(), architecture: "amd64".into() }),
        version: version.into(),
        ..v1::Software::default()
    };
    let version = |number: u8, section: InventorySection, stored: StoredSection| InventoryVersion {
        device: id,
        section,
        at_ms: base + u64::from(number),
        hash: [number; 32],
        content: stored.encode_to_vec().into(),
    };
    let software = |number, list: &[(&str, &str)]| {
        let software = list.iter().map(|(name, version)| package(name, version)).collect();
        version(number, InventorySection::Software, StoredSection { software, ..StoredSection::default() })
    };
    let hardware = |number, ram_total_mib| {
        let hardware = Some(v1::Hardware { ram_total_mib, ..v1::Hardware::default() });
        version(number, InventorySection::Hardware, StoredSection { hardware, ..StoredSection::default() })
    };
    let versions = [
        software(1, &[("bash", "5"), ("curl", "8.1")]),
        hardware(2, 1024),
        software(3, &[("curl", "8.2"), ("nginx", "1.2")]),
        hardware(4, 2048),
    ];
    let history = &server.handle.app().history;
    history.record_versions(&versions).await.expect("records");
    let details = json!({
        "section": "software", "hash": "03".repeat(32), "first": false, "added": 1, "removed": 1, "updated": 1
    });
    let event = Event {
        device: id,
        id: EventId::of("lane.local.0", 3, 0),
        at_ms: base + 3,
        kind: EventKind::InventoryChanged,
        summary: "Software changed".into(),
        details: details.to_string(),
    };
    history.record(&[event]).await.expect("records");

    let first = admin.get(&format!("{path}?limit=3")).await;
    let told = |answer: &Answer| -> Vec<String> {
        let data = answer.body["data"].as_array().unwrap_or_else(|| panic!("{}", answer.raw));
        data.iter().map(|version| version["version"].as_str().expect("a name").to_owned()).collect()
    };
    let name = |number: u8, section: &str| format!("{section}-{}-{}", base + u64::from(number), hex(number));
    assert_eq!(told(&first), [name(4, "hardware"), name(3, "software"), name(2, "hardware")]);
    assert_eq!(first.body["data"][1]["counts"], json!({ "added": 1, "removed": 1, "updated": 1 }));
    assert_eq!((&first.body["data"][1]["first"], &first.body["data"][0]["first"]), (&json!(false), &Value::Null));
    let cursor = first.text("next_cursor");
    let rest = admin.get(&format!("{path}?limit=3&cursor={cursor}")).await;
    assert_eq!((told(&rest), &rest.body["next_cursor"]), (vec![name(1, "software")], &Value::Null));
    assert_eq!(told(&admin.get(&format!("{path}?section=hardware")).await), [name(4, "hardware"), name(2, "hardware")]);

    let newest = admin.get(&format!("{path}/{}", name(3, "software"))).await;
    assert_eq!(newest.body["software"][1]["name"], "nginx", "{}", newest.raw);
    assert_eq!((&newest.body["hardware"], &newest.body["section"]), (&Value::Null, &json!("software")));
    let changes = admin.get(&format!("{path}/{}/changes", name(3, "software"))).await;
    assert_eq!(changes.body["since"]["version"], name(1, "software"), "{}", changes.raw);
    let kinds: Vec<_> =
        changes.body["changes"].as_array().expect("a list").iter().map(|c| (&c["kind"], &c["name"])).collect();
    let (removed, changed, added) = (json!("removed"), json!("changed"), json!("added"));
    let (bash, curl, nginx) = (json!("bash"), json!("curl"), json!("nginx"));
    assert_eq!(kinds, [(&removed, &bash), (&changed, &curl), (&added, &nginx)]);
    assert_eq!(changes.body["total"], 3);
    let back = admin.get(&format!("{path}/{}/changes?since={}", name(2, "hardware"), name(4, "hardware"))).await;
    assert_eq!(
        back.body["changes"][0]["fields"],
        json!([{ "field": "ram_total_mb", "before": "2048", "after": "1024" }]),
        "{}",
        back.raw
    );
    let oldest = admin.get(&format!("{path}/{}/changes", name(1, "software"))).await;
    assert_eq!((&oldest.body["since"], &oldest.body["changes"]), (&Value::Null, &json!([])));

    for (wrong, code) in [
        (format!("{path}?section=drivers"), "validation"),
        (format!("{path}?section=network&cursor={cursor}"), "validation"),
        (format!("/api/v1/devices/{other}/inventory/history?cursor={cursor}"), "validation"),
        (format!("{path}/nonsense"), "not_found"),
        (format!("{path}/{}", name(9, "software")), "not_found"),
        (format!("/api/v1/devices/{other}/inventory/history/{}", name(3, "software")), "not_found"),
        (format!("{path}/{}/changes?since={}", name(3, "software"), name(2, "hardware")), "validation"),
        (format!("{path}/{}/changes?since=x", name(3, "software")), "validation"),
    ] {
        assert_eq!(admin.get(&wrong).await.code(), code, "{wrong}");
    }
    server.stop().await;
}

fn hex(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

#[tokio::test]
async fn overview_and_status_show_what_roles_say() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let (busy, idle) = (enrolled(&server, "busy").await, enrolled(&server, "idle").await);
    digest(&server, 1, &[(busy, v1::Presence::Online, 990), (idle, v1::Presence::Offline, 10)]).await;
    let gauge = |name: &str, value| v1::Gauge { name: name.into(), unit: "per_second".into(), value };
    let status = RoleStatus {
        role: "collector".into(),
        id: "collector-1".into(),
        region: "local".into(),
        at_us: now_ms() * 1000,
        ready: true,
        gauges: vec![gauge("collector_heartbeats", 12.5)],
        ..RoleStatus::default()
    };
    let subject = subject::status("collector", "collector-1");
    server.bus.publish(&subject, status.encode_to_vec().into()).await.expect("publishes");
    let lane = breeze_proto::shard::LaneCount::new(4).expect("four").lanes().nth(2).expect("a lane");
    for _ in 0..3 {
        server.bus.append(&subject::lane_stream("local", lane), "x", vec![0; 10].into()).await.expect("appends");
    }
    let overview = eventually("digest and role in the overview", || async {
        let overview = admin.get("/api/v1/overview").await.body;
        (overview["devices"]["online"] == 1 && overview["ingest"]["heartbeats_per_s"] == 12.5).then_some(overview)
    })
    .await;
    assert_eq!(
        overview["devices"],
        json!({"total": 2, "online": 1, "offline": 1, "pending": 0, "warning": 0, "error": 0})
    );
    assert_eq!(overview["ingest"]["samples_per_s"], 150.0);
    assert_eq!(overview["busiest"][0]["hostname"], "busy");
    assert_eq!(overview["offline_longest"][0]["hostname"], "idle");
    assert_eq!(overview["newest"].as_array().expect("a list").len(), 2);

    let status = admin.get("/api/v1/status").await;
    assert_eq!(status.status, StatusCode::OK, "{}", status.raw);
    let roles = status.body["roles"].as_array().expect("roles");
    assert!(roles.iter().any(|role| role["id"] == "collector-1" && role["ready"] == true), "{}", status.raw);
    let lanes = &status.body["lanes"][0];
    assert_eq!((&lanes["lane"], &lanes["last"], &lanes["lag_entries"]), (&json!(2), &json!(3), &json!(3)));
    assert!(status.body["storage"]["free_bytes"].as_u64().expect("bytes") > 0);

    // The connection is shown while the device is online.
    let device = admin.get(&format!("/api/v1/devices/{busy}")).await.body;
    assert_eq!(
        (&device["connection"]["relay_id"], &device["connection"]["transport"]),
        (&json!("local-1"), &json!("quic"))
    );
    assert_eq!(device["status"], "online");
    server.stop().await;
}
