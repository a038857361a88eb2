//! What relays, directories and people see of the collector.

use crate::world::*;
use breeze_bus::{Bus, Received};
use breeze_collector::Config;
use breeze_proto::{
    id::DeviceId,
    inventory::{SoftwareList, hardware_hash},
    subject, v1,
};
use breeze_store::{
    history::{EmbeddedHistory, EventKind, EventQuery, History as _},
    model::{device_state, inventory},
};
use bytes::Bytes;
use prost::Message as _;

async fn latest(world: &World, device: DeviceId) -> Option<v1::DeviceLatest> {
    device_state::latest(&*world.state, device).await.expect("reads").map(|(_, latest)| latest)
}

async fn presence_becomes(world: &World, device: DeviceId, presence: v1::Presence) -> v1::DeviceLatest {
    until("a change of presence", || async {
        latest(world, device).await.filter(|latest| latest.presence() == presence)
    })
    .await
}

fn held_request(device: DeviceId, nonce: u8, counter: u64, relay: &str, epoch: u64) -> v1::HeldRequest {
    v1::HeldRequest {
        device_id: Bytes::copy_from_slice(&device.to_bytes()),
        instance_nonce: Bytes::from(vec![nonce; 16]),
        session_counter: counter,
        session_epoch: epoch,
        relay_id: relay.into(),
        role: v1::ConnectionRole::Primary.into(),
    }
}

#[tokio::test]
async fn relays_are_told_what_is_held_also_of_what_was_not_read_yet() {
    let world = World::default();
    let now = now_us();
    world.append(vec![connected(device(1), 1, 5, now), heartbeat(device(1), 41, now)]).await;
    let collector = world.start(config()).await;
    let reply = ask_held(&world, &held_request(device(1), 1, 6, "local-2", 1)).await;
    assert_eq!(reply.close(), v1::CloseReason::Unspecified);
    assert_eq!(reply.lanes, u32::from(config().lanes), "how many the region has");
    let lanes = reply.held.expect("held").lanes;
    assert_eq!((lanes.len(), lanes[0].incarnation, lanes[0].lane(), lanes[0].next_seq), (1, 7, v1::Lane::Live, 42));
    // Appended and asked at once: the answer counts it.
    world.append(vec![heartbeat(device(1), 42, now)]).await;
    let reply = ask_held(&world, &held_request(device(1), 1, 6, "local-2", 1)).await;
    assert_eq!(reply.held.expect("held").lanes[0].next_seq, 43);

    let stale = ask_held(&world, &held_request(device(1), 1, 5, "local-2", 1)).await;
    assert_eq!(stale.close(), v1::CloseReason::StaleSession);
    let itself = ask_held(&world, &held_request(device(1), 1, 5, "local-1", 5)).await;
    assert_eq!(itself.close(), v1::CloseReason::Unspecified);
    let unknown = ask_held(&world, &held_request(device(9), 1, 5, "local-1", 5)).await;
    assert!(unknown.held.expect("held").lanes.is_empty());

    collector.stop().await;
    let successor = world.start(config()).await;
    let reply = ask_held(&world, &held_request(device(1), 1, 6, "local-2", 1)).await;
    assert_eq!(reply.held.expect("held").lanes[0].next_seq, 43, "also after a restart");
    successor.stop().await;
}

#[tokio::test]
async fn presence_follows_connections_and_is_held_after_a_restart() {
    let world = World::default();
    let config = Config { offline_floor_ms: 1_500, ..config() };
    let collector = world.start(config.clone()).await;
    let now = now_us();
    world.append(vec![connected(device(1), 1, 1, now), heartbeat(device(1), 1, now)]).await;
    world.append(vec![connected(device(2), 1, 1, now), heartbeat(device(2), 1, now)]).await;
    presence_becomes(&world, device(1), v1::Presence::Online).await;
    // A new connection, then the end of the old one: still there. Silence ends the other.
    world.append(vec![connected(device(1), 1, 2, now_us()), disconnected(device(1), 1, now_us())]).await;
    let went = presence_becomes(&world, device(2), v1::Presence::Offline).await;
    assert!(went.presence_since_us - now >= 1_500_000, "not before its period");
    let now = now_us();
    world.append(vec![v1::LaneEntry { session_epoch: 2, ..heartbeat(device(1), 2, now) }]).await;
    presence_becomes(&world, device(1), v1::Presence::Online).await;
    collector.kill();

    // Its last sign of life is long ago when the successor starts, which has to wait for a period of its own.
    until("its period to be over", || async { (now_us() > now + 2_000_000).then_some(()) }).await;
    let restarted = now_us();
    let successor = world.start(config).await;
    let went = presence_becomes(&world, device(1), v1::Presence::Offline).await;
    assert!(went.presence_since_us - restarted >= 1_500_000, "held after a restart");
    successor.stop().await;
}

#[tokio::test]
async fn an_ended_connection_counts_after_a_grace() {
    let world = World::default();
    let collector = world.start(config()).await;
    let now = now_us();
    world.append(vec![connected(device(1), 1, 1, now)]).await;
    presence_becomes(&world, device(1), v1::Presence::Online).await;
    let ended = now_us();
    world.append(vec![disconnected(device(1), 1, ended)]).await;
    let went = presence_becomes(&world, device(1), v1::Presence::Offline).await;
    let grace = went.presence_since_us - ended;
    assert!((5_000_000..15_000_000).contains(&grace), "{grace}");
    collector.stop().await;
}

fn inventory_entry(device: DeviceId, document: v1::InventoryDocument) -> v1::LaneEntry {
    entry(device, now_us(), v1::lane_entry::Body::Inventory(document))
}

fn software(names: &[&str]) -> SoftwareList {
    SoftwareList::new(names.iter().map(|name| v1::Software {
        key: Some(v1::SoftwareKey { source: "dpkg".into(), name: (*name).into(), architecture: "amd64".into() }),
        version: "1".into(),
        ..v1::Software::default()
    }))
}

fn software_document(base: &SoftwareList, new: &SoftwareList, revision: u64) -> v1::InventoryDocument {
    v1::InventoryDocument {
        section: v1::InventorySection::Software.into(),
        incarnation: 7,
        revision,
        base_hash: if base.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(&base.hash()) },
        hash: Bytes::copy_from_slice(&new.hash()),
        content: Some(v1::inventory_document::Content::Software(new.delta_from(base))),
        ..v1::InventoryDocument::default()
    }
}

/// What the relay is asked to push next: the hash that is held of a section.
async fn next_held(relay: &mut dyn breeze_bus::Service) -> (v1::InventorySection, Bytes) {
    let request = tokio::time::timeout(DEADLINE, relay.next()).await.expect("in time").expect("open");
    let push = v1::PushRequest::decode(request.payload).expect("a push");
    (request.reply)(v1::PushReply { delivered: true }.encode_to_vec().into());
    match push.frame.and_then(|frame| frame.body) {
        Some(v1::relay_frame::Body::Held(held)) => (held.inventory[0].section(), held.inventory[0].hash.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn inventory_is_applied_confirmed_and_asked_for_whole_where_the_base_is_another() {
    let world = World::default();
    let collector = world.start(config()).await;
    let mut relay = world.bus.serve(&subject::relay_push("local-1")).await.expect("serves");
    let (none, one, two) = (software(&[]), software(&["a", "b"]), software(&["a", "c"]));
    let hash = |list: &SoftwareList| Bytes::copy_from_slice(&list.hash());
    let section = v1::InventorySection::Software;

    world.append(vec![inventory_entry(device(1), software_document(&one, &two, 1))]).await;
    assert_eq!(next_held(&mut *relay).await, (section, Bytes::new()), "nothing is held: send it whole");
    world.append(vec![inventory_entry(device(1), software_document(&none, &one, 2))]).await;
    assert_eq!(next_held(&mut *relay).await, (section, hash(&one)));
    world.append(vec![inventory_entry(device(1), software_document(&one, &two, 3))]).await;
    assert_eq!(next_held(&mut *relay).await, (section, hash(&two)));

    let hardware = v1::Hardware { cpu_model: "<script>".into(), ram_total_mib: 4096, ..v1::Hardware::default() };
    let document = v1::InventoryDocument {
        section: v1::InventorySection::Hardware.into(),
        incarnation: 7,
        revision: 1,
        hash: Bytes::copy_from_slice(&hardware_hash(&hardware)),
        content: Some(v1::inventory_document::Content::Hardware(hardware)),
        ..v1::InventoryDocument::default()
    };
    world.append(vec![inventory_entry(device(1), document)]).await;
    assert_eq!(next_held(&mut *relay).await.0, v1::InventorySection::Hardware);
    let stored = inventory::section(&*world.state, device(1), section).await.expect("reads").expect("stored").1;
    assert_eq!((stored.software.len(), &stored.hash), (2, &hash(&two)));
    let (_, facts) = device_state::facts(&*world.state, device(1)).await.expect("reads").expect("stored");
    assert_eq!((facts.software_count, facts.ram_total_mib, facts.cpu_model.as_str()), (2, 4096, "<script>"));
    assert_eq!(facts.inventory.len(), 2);
    collector.stop().await;
    let history = EmbeddedHistory::new(world.state.clone());
    let kinds = vec![EventKind::InventoryChanged];
    let query = EventQuery { device: device(1), from_ms: 0, to_ms: u64::MAX, kinds, after: None, limit: 0 };
    let events = history.events(&query).await.expect("reads").events;
    let said: Vec<&str> = events.iter().rev().map(|event| event.summary.as_str()).collect();
    assert_eq!(
        said,
        [
            "Software reported for the first time",
            "Software changed: 1 added, 1 removed, 0 updated",
            "Hardware reported for the first time"
        ]
    );
    let versions = history.versions(device(1), section, u64::MAX, 0).await.expect("reads").versions;
    assert_eq!(versions.iter().map(|version| version.hash).collect::<Vec<_>>(), [two.hash(), one.hash()]);
    let newest = history.version(device(1), section, versions[0].at_ms, two.hash()).await.expect("reads");
    let content = v1::StoredSection::decode(newest.expect("kept").content).expect("a section");
    assert_eq!(content.software, stored.software);
}

async fn next_message(subscription: &mut dyn breeze_bus::Subscription) -> Bytes {
    match tokio::time::timeout(DEADLINE, subscription.next()).await.expect("in time").expect("open") {
        Received::Message { payload, .. } => payload,
        Received::Lagged(lost) => panic!("lost {lost}"),
    }
}

/// Rows as a collector writes them, of a device that was online a moment ago.
async fn store_device(world: &World, device: DeviceId, region: &str) -> v1::DeviceLatest {
    let facts = v1::DeviceFacts { region: region.into(), ..v1::DeviceFacts::default() };
    let latest = v1::DeviceLatest {
        last_seen_us: now_us(),
        presence: v1::Presence::Online.into(),
        ..v1::DeviceLatest::default()
    };
    let rows = vec![device_state::facts_row(device, 1, &facts), device_state::latest_row(device, 1, &latest)];
    breeze_store::state::State::merge(&*world.state, rows).await.expect("merges");
    latest
}

async fn presence_events(world: &World, device: DeviceId) -> Vec<(EventKind, String)> {
    let history = EmbeddedHistory::new(world.state.clone());
    let kinds = vec![EventKind::Online, EventKind::Offline];
    let query = EventQuery { device, from_ms: 0, to_ms: u64::MAX, kinds, after: None, limit: 0 };
    let events = history.events(&query).await.expect("reads").events;
    events.into_iter().rev().map(|event| (event.kind, event.summary)).collect()
}

#[tokio::test]
async fn coming_and_going_is_in_the_history_once_whoever_owns_the_lane() {
    let world = World::default();
    let config = Config { offline_floor_ms: 1_500, ..config() };
    let collector = world.start(config.clone()).await;
    world.append(vec![connected(device(1), 1, 1, now_us()), heartbeat(device(1), 1, now_us())]).await;
    presence_becomes(&world, device(1), v1::Presence::Offline).await;
    let wanted = [
        (EventKind::Online, "Online for the first time".to_owned()),
        (EventKind::Offline, "Offline: nothing was heard of it any more".to_owned()),
    ];
    // Killed: whether it was told by then or not, it is afterwards.
    collector.kill();
    let collector = world.start(config.clone()).await;
    until("both to be told", || async { (presence_events(&world, device(1)).await == wanted).then_some(()) }).await;
    until("the row to know it", || async { latest(&world, device(1)).await.filter(|latest| latest.untold.is_empty()) })
        .await;
    collector.stop().await;
    let successor = world.start(config).await;
    world.append(vec![connected(device(1), 1, 2, now_us())]).await;
    until("its return", || async { (presence_events(&world, device(1)).await.len() == 3).then_some(()) }).await;
    successor.stop().await;
    let told = presence_events(&world, device(1)).await;
    assert_eq!(told[..2], wanted);
    assert!(told[2].1.starts_with("Online again after "), "{told:?}");
}

#[tokio::test]
async fn devices_of_other_regions_are_not_touched() {
    let world = World::default();
    let theirs = store_device(&world, device(1), "away").await;
    store_device(&world, device(2), "local").await;
    store_device(&world, device(3), "").await;
    let collector = world.start(Config { offline_floor_ms: 1000, ..config() }).await;
    // Those of this region are judged.
    presence_becomes(&world, device(2), v1::Presence::Offline).await;
    presence_becomes(&world, device(3), v1::Presence::Offline).await;
    let full = world.bus.request(&subject::digest_full("local"), Bytes::new(), DEADLINE).await.expect("answers");
    let mut told = v1::Digest::decode(full).expect("a digest").device_ids;
    told.sort();
    assert_eq!(told, [device(2), device(3)].map(|device| Bytes::copy_from_slice(&device.to_bytes())));
    collector.stop().await;
    let row = device_state::latest(&*world.state, device(1)).await.expect("reads").expect("is there");
    assert_eq!(row, (1, theirs), "nothing was merged");
    let (version, _) = device_state::facts(&*world.state, device(1)).await.expect("reads").expect("is there");
    assert_eq!(version, 1);
}

#[tokio::test]
async fn watched_devices_are_shown_live_and_digests_tell_what_changed() {
    let world = World::default();
    let mut digests = world.bus.subscribe(&subject::digest("local")).await.expect("subscribes");
    let mut live = world.bus.subscribe("live.>").await.expect("subscribes");
    let collector = world.start(config()).await;
    let now = now_us();
    let all: Vec<_> = (1..=30).map(|number| heartbeat(device(number), 1, now)).collect();
    world.append(all).await;
    let mut told = std::collections::BTreeSet::new();
    let mut sequence = 0;
    while told.len() < 30 {
        let digest = v1::Digest::decode(next_message(&mut *digests).await).expect("a digest");
        assert_eq!((digest.sequence, digest.full), (sequence + 1, false), "dense");
        sequence = digest.sequence;
        assert!(digest.presence.iter().all(|presence| *presence == v1::Presence::Online as u32));
        assert!(digest.scalars.iter().all(|scalars| scalars.cpu_permille == 250));
        told.extend(digest.device_ids);
    }
    let full = world.bus.request(&subject::digest_full("local"), Bytes::new(), DEADLINE).await.expect("answers");
    let full = v1::Digest::decode(full).expect("a digest");
    assert_eq!((full.device_ids.len(), full.full, full.next.is_empty()), (30, true, true));
    let after = v1::DigestRequest { after: full.device_ids[9].clone() };
    let page = world.bus.request(&subject::digest_full("local"), after.encode_to_vec().into(), DEADLINE).await;
    assert_eq!(v1::Digest::decode(page.expect("answers")).expect("a digest").device_ids, full.device_ids[10..]);

    let watch =
        v1::Watch { device_ids: vec![Bytes::copy_from_slice(&device(3).to_bytes())], until_us: now_us() + 60_000_000 };
    world.bus.publish(subject::WATCH, watch.encode_to_vec().into()).await.expect("publishes");
    let mut status = world.bus.subscribe(&subject::status("collector", "collector-1")).await.expect("subscribes");
    loop {
        let status = v1::RoleStatus::decode(next_message(&mut *status).await).expect("a status");
        if status.gauges.iter().any(|gauge| gauge.name == "collector_devices_watched" && gauge.value == 1.0) {
            break;
        }
    }
    world.append(vec![heartbeat(device(2), 2, now + 1), heartbeat(device(3), 2, now + 1)]).await;
    let sample = v1::LiveSample::decode(next_message(&mut *live).await).expect("a sample");
    assert_eq!(sample.device_id.as_ref(), device(3).to_bytes());
    assert_eq!(sample.sample.expect("a sample").scalars.expect("scalars").load1_centi, 2);
    collector.stop().await;
}

#[tokio::test]
async fn hostile_entries_are_counted_and_hurt_nobody_else() {
    let world = World::default();
    let mut statuses = world.bus.subscribe("status.collector.>").await.expect("subscribes");
    let collector = world.start(config()).await;
    let now = now_us();
    world.bus.append(&stream(), "", Bytes::from_static(b"\xff\xff\xff no batch")).await.expect("appends");
    let mut values = heartbeat(device(1), 1, now);
    if let Some(v1::lane_entry::Body::Heartbeat(stamped)) = &mut values.body
        && let Some(heartbeat) = &mut stamped.heartbeat
    {
        let value = |name: &str, value| v1::NamedValue { name: name.into(), value };
        heartbeat.details = vec![value("cpu.0.percent", 5.0), value("bad name", 1.0), value("nan", f64::NAN)];
        heartbeat.custom = vec![value("queue", 3.0), value("<b>", 1.0)];
    }
    let bad = [
        v1::LaneEntry { device_id: Bytes::from_static(b"short"), ..heartbeat(device(2), 1, now) },
        v1::LaneEntry { body: None, ..heartbeat(device(2), 1, now) },
        heartbeat(device(2), 0, now),
        heartbeat_in(device(2), 0, v1::Lane::Live, 1, now, now),
        heartbeat_in(device(2), 1, v1::Lane::Unspecified, 1, now, now),
        heartbeat_in(device(2), 1, v1::Lane::Live, 1, now + 3_600_000_000, now),
        heartbeat(device(2), 1, u64::MAX),
    ];
    world.append(bad.into_iter().chain([values, heartbeat(device(1), 1, now)]).collect()).await;
    until("the good one to be stored", || async { (!world.metrics.rows().is_empty()).then_some(()) }).await;
    assert_eq!(world.metrics.rows().len(), 1);
    let named = world.metrics.named();
    let names: Vec<_> = named.keys().map(|(_, _, name)| name.as_str()).collect();
    assert_eq!(names, ["cpu.0.percent", "custom.queue"]);
    let gauges = loop {
        let status = v1::RoleStatus::decode(next_message(&mut *statuses).await).expect("a status");
        let value =
            |name: &str| status.gauges.iter().find(|gauge| gauge.name == name).map_or(-1.0, |gauge| gauge.value);
        if value("collector_heartbeats_total") >= 1.0 {
            assert!(status.ready);
            break (
                value("collector_refused_total"),
                value("collector_duplicates_total"),
                value("collector_values_dropped_total"),
            );
        }
    };
    assert_eq!(gauges, (8.0, 1.0, 3.0));
    collector.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_is_tried_again_and_nothing_is_lost() {
    let world = World::default();
    let collector = world.start(config()).await;
    let now = now_us();
    world.append(vec![heartbeat(device(1), 1, now)]).await;
    until("the first to be stored", || async { (!world.metrics.rows().is_empty()).then_some(()) }).await;
    world.state.set_unavailable(true);
    for seq in 2..20 {
        world.append(vec![heartbeat(device(1), seq, now + seq * 1000)]).await;
    }
    let mut statuses = world.bus.subscribe("status.collector.>").await.expect("subscribes");
    loop {
        let status = v1::RoleStatus::decode(next_message(&mut *statuses).await).expect("a status");
        if status.message.contains("unavailable") {
            break;
        }
    }
    world.state.set_unavailable(false);
    until("the rest to be stored", || async { (world.metrics.rows().len() == 19).then_some(()) }).await;
    assert!(world.metrics.rows().values().all(|count| *count == 1));
    collector.stop().await;
}

#[tokio::test]
async fn a_stream_that_was_lost_starts_over_under_another_token() {
    let mut world = World::default();
    let now = now_us();
    let collector = world.start(config()).await;
    for seq in 1..=5 {
        world.append(vec![heartbeat(device(1), seq, now + seq * 1000)]).await;
    }
    until("all to be stored", || async { (world.metrics.rows().len() == 5).then_some(()) }).await;
    collector.stop().await;

    world.bus = World::default().bus;
    world.append(vec![heartbeat(device(1), 5, now + 5000), heartbeat(device(1), 6, now + 6000)]).await;
    let successor = world.start(config()).await;
    until("the new one to be stored", || async { (world.metrics.rows().len() == 6).then_some(()) }).await;
    assert!(world.metrics.rows().values().all(|count| *count == 1), "what was received before is not stored again");
    assert!(world.metrics.tokens().iter().any(|token| token.stream == format!("{}~1", stream()) && token.first == 1));
    successor.stop().await;
}

/// It has more entries than had been read of the one before.
#[tokio::test]
async fn a_stream_that_was_made_anew_and_has_outgrown_the_record_is_read_from_its_beginning() {
    let world = World::default();
    let now = now_us();
    let send = async |seqs: std::ops::RangeInclusive<u64>| {
        for seq in seqs {
            world.append(vec![heartbeat(device(1), seq, now + seq * 1000)]).await;
        }
    };
    let stored = async |count: usize| {
        until("all to be stored", || async { (world.metrics.rows().len() == count).then_some(()) }).await;
        assert!(world.metrics.rows().values().all(|count| *count == 1), "once each");
    };
    let collector = world.start(config()).await;
    send(1..=5).await;
    stored(5).await;
    collector.stop().await;

    // While nobody looks. Two of them were received before.
    world.bus.lose_stream(&stream());
    send(4..=12).await;
    let successor = world.start(config()).await;
    stored(12).await;
    assert!(world.metrics.tokens().iter().any(|token| token.stream == format!("{}~1", stream()) && token.first == 1));

    // Under the owner's eyes, but between two looks.
    world.bus.lose_stream(&stream());
    send(12..=40).await;
    stored(40).await;
    assert!(world.metrics.tokens().iter().any(|token| token.stream == format!("{}~2", stream()) && token.first == 1));
    send(41..=50).await;
    stored(50).await;
    successor.stop().await;
}

#[tokio::test]
async fn another_number_of_lanes_is_refused_and_named() {
    let world = World::default();
    let first = world.start(config()).await;
    let now = now_us();
    world.append(vec![heartbeat(device(1), 1, now)]).await;
    until("it to be stored", || async { (world.metrics.rows().len() == 1).then_some(()) }).await;
    first.stop().await;
    let (bus, state, metrics) = (world.bus.clone(), world.state.clone(), world.metrics.clone());
    let history = std::sync::Arc::new(EmbeddedHistory::new(state.clone()));
    let other = Config { lanes: 2, ..config() };
    let shutdown = breeze_runtime::shutdown::Shutdown::new();
    let started = breeze_collector::start(other, bus, state, metrics, history, shutdown).await.expect("starts");
    let error = format!("{:#}", started.join().await.expect_err("refused"));
    assert!(error.contains("lanes is 2") && error.contains("begun with 1"), "{error}");
}

#[tokio::test]
async fn two_collectors_share_lanes_by_lease() {
    let world = World::default();
    let named = |id: &str| Config { id: id.into(), lease_ms: 1000, ..config() };
    let first = world.start(named("a")).await;
    let now = now_us();
    world.append(vec![heartbeat(device(1), 1, now)]).await;
    until("the first to own the lane", || async { (world.metrics.rows().len() == 1).then_some(()) }).await;
    let second = world.start(named("b")).await;
    first.kill();
    world.append(vec![heartbeat(device(1), 2, now + 1000)]).await;
    until("the second to take over", || async { (world.metrics.rows().len() == 2).then_some(()) }).await;
    assert!(world.metrics.rows().values().all(|count| *count == 1));
    second.stop().await;
}

#[tokio::test]
async fn a_bad_configuration_names_the_key() {
    let world = World::default();
    for (config, key) in [
        (Config { lanes: 17, ..config() }, "lanes"),
        (Config { lease_ms: 1, ..config() }, "lease_ms"),
        (Config { flush_interval_ms: 0, ..config() }, "flush_interval_ms"),
    ] {
        let (bus, state, metrics) = (world.bus.clone(), world.state.clone(), world.metrics.clone());
        let history = std::sync::Arc::new(EmbeddedHistory::new(state.clone()));
        let shutdown = breeze_runtime::shutdown::Shutdown::new();
        let started = breeze_collector::start(config, bus, state, metrics, history, shutdown);
        let error = started.await.expect_err("refused");
        assert!(format!("{error:#}").contains(key), "{error:#}");
    }
}
