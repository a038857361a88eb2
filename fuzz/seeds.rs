//! Writes `seeds/<target>/`: real encodings of what each target reads, from which fuzzing starts.
//! Run where this package's folder is the current one. Keys in requests differ with each run.

use breeze_agent_core::{Counters, Entry};
use breeze_control_plane::api::Cursors;
use breeze_proto::{
    frame,
    id::DeviceId,
    limits::MAX_FRAME_BYTES,
    v1::{
        Ack, AgentFrame, Close, CloseReason, ConnectionRole, Goodbye, Hardware, HealthStatus, Heartbeat,
        HeartbeatBatch, Held, HeldLane, Hello, HostFacts, InventoryDocument, InventorySection, Lane, LaneBatch,
        LaneEntry, NamedValue, Network, NetworkAddress, Ping, RelayFrame, RenewBegin, RenewProof, Scalars, SeqRange,
        Software, SoftwareDelta, SoftwareKey, StampedHeartbeat, UploadChunk, UploadKind, Welcome, agent_frame,
        inventory_document::Content, lane_entry, relay_frame,
    },
};
use breeze_store::metrics::{FrozenBatch, HeartbeatRow, NamedRow};
use bytes::{Bytes, BytesMut};
use prost::Message;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use std::{error::Error, fs, path::Path};

const WALL_US: u64 = 1_800_000_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    agent_frames()?;
    relay_frames()?;
    documents()?;
    lane()?;
    metrics()?;
    spool()?;
    texts()?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write("csr", "p256", CertificateParams::default().serialize_request(&key)?.der())?;
    write("bus_segment", "three", &breeze_bus::embedded::segment_of(7, &[b"a", b"", b"longer"]))
}

fn write(target: &str, name: &str, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let folder = Path::new("seeds").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

fn heartbeat(seq: u64) -> Heartbeat {
    let value = |name: &str| NamedValue { name: name.to_owned(), value: 12.5 };
    Heartbeat {
        lane: Lane::Live.into(),
        seq,
        wall_us: WALL_US,
        mono_us: 5_000_000,
        scalars: Some(Scalars { cpu_permille: 250, ram_used_mib: 900, net_in_bytes: 70_000, ..Scalars::default() }),
        status: HealthStatus::Ok.into(),
        last_user: "ada".to_owned(),
        details: vec![value("cpu.0.percent"), value("disk./.percent")],
        custom: vec![value("queue.length")],
        ..Heartbeat::default()
    }
}

fn hello(role: ConnectionRole) -> agent_frame::Body {
    agent_frame::Body::Hello(Hello {
        protocol: breeze_proto::PROTOCOL_VERSION,
        agent_version: "0.1.0".to_owned(),
        instance_nonce: Bytes::from_static(&[2; 16]),
        session_counter: 1,
        role: role.into(),
        incarnation: 7,
        boot_id: Bytes::from_static(&[3; 16]),
        sent_wall_us: WALL_US,
        sent_mono_us: 5_000_000,
        host: Some(HostFacts { hostname: "web-1".to_owned(), os_type: "linux".to_owned(), ..HostFacts::default() }),
        ..Hello::default()
    })
}

fn agent_frames() -> Result<(), Box<dyn Error>> {
    use agent_frame::Body;
    let beats = |first: u64| {
        let heartbeats = (first..first + 3).map(heartbeat).collect();
        Body::Heartbeats(HeartbeatBatch { sent_wall_us: WALL_US, sent_mono_us: 6_000_000, heartbeats })
    };
    let content = inventory(Content::Network(network())).encode_to_vec();
    let upload = Body::Upload(UploadChunk {
        transfer_id: Bytes::from_static(&[9; 16]),
        kind: UploadKind::Inventory.into(),
        total_len: content.len() as u64,
        sha256: Bytes::from_static(&[1; 32]),
        offset: 0,
        data: content.into(),
    });
    let proof = RenewProof {
        challenge: Bytes::from_static(&[5; 32]),
        csr_der: Bytes::from_static(&[0x30; 64]),
        signature: Bytes::from_static(&[0x30; 70]),
        ..RenewProof::default()
    };
    let bye = || Body::Goodbye(Goodbye { reason: "stopping".to_owned() });
    let renewal = || [Body::RenewBegin(RenewBegin::default()), Body::RenewProof(proof.clone())];
    let primary = hello(ConnectionRole::Primary);
    let [begin, prove] = renewal();
    let session = vec![primary.clone(), beats(1), Body::Ping(Ping { token: 4 }), upload.clone(), beats(4), bye()];
    let renewing = vec![primary.clone(), begin.clone(), prove.clone(), bye()];
    for (name, kind, bodies) in [
        ("session", 0, session),
        ("renewal", 2, renewing),
        ("expired", 1, vec![primary, begin, prove]),
        ("standby", 0, vec![hello(ConnectionRole::Standby), Body::Ping(Ping { token: 1 })]),
        ("bulk", 4, vec![upload]),
    ] {
        let mut bytes = BytesMut::from(&[kind][..]);
        for body in bodies {
            frame::encode(&AgentFrame { body: Some(body) }, MAX_FRAME_BYTES, &mut bytes)?;
        }
        write("agent_frame", name, &bytes)?;
    }
    Ok(())
}

fn relay_frames() -> Result<(), Box<dyn Error>> {
    use relay_frame::Body;
    let range = SeqRange { incarnation: 7, lane: Lane::Live.into(), first: 1, last: 3 };
    let lane = HeldLane { incarnation: 7, lane: Lane::Live.into(), next_seq: 4 };
    let welcome = Welcome { session_epoch: 9, server_wall_us: WALL_US, ..Welcome::default() };
    let close = Close { reason: CloseReason::Draining.into(), retry_after_ms: 500, ..Close::default() };
    let mut bytes = BytesMut::new();
    for body in [
        Body::Welcome(welcome),
        Body::Held(Held { lanes: vec![lane], answers_hello: true, ..Held::default() }),
        Body::Ack(Ack { stored: vec![range], ..Ack::default() }),
        Body::Close(close),
    ] {
        frame::encode(&RelayFrame { body: Some(body) }, MAX_FRAME_BYTES, &mut bytes)?;
    }
    write("relay_frame", "session", &bytes)
}

fn inventory(content: Content) -> InventoryDocument {
    let section = match content {
        Content::Hardware(_) => InventorySection::Hardware,
        Content::Network(_) => InventorySection::Network,
        Content::Software(_) => InventorySection::Software,
    };
    InventoryDocument {
        section: section.into(),
        incarnation: 7,
        revision: 3,
        wall_us: WALL_US,
        hash: Bytes::from_static(&[4; 32]),
        content: Some(content),
        ..InventoryDocument::default()
    }
}

fn network() -> Network {
    let address = NetworkAddress {
        interface_name: "eth0".to_owned(),
        ip_address: "192.0.2.7".to_owned(),
        prefix_len: 24,
        is_primary: true,
        ..NetworkAddress::default()
    };
    Network { addresses: vec![address], ..Network::default() }
}

fn documents() -> Result<(), Box<dyn Error>> {
    let key = |name: &str| SoftwareKey { source: "dpkg".to_owned(), name: name.to_owned(), ..SoftwareKey::default() };
    let entry = |name: &str| Software { key: Some(key(name)), version: "1.2".to_owned(), ..Software::default() };
    let delta = SoftwareDelta { upserts: vec![entry("bash"), entry("curl")], removals: vec![key("gone")] };
    let hardware = Hardware { cpu_model: "Xeon".to_owned(), cpu_cores: 4, ..Hardware::default() };
    for (name, content) in [
        ("hardware", Content::Hardware(hardware)),
        ("network", Content::Network(network())),
        ("software", Content::Software(delta)),
    ] {
        write("inventory", name, &inventory(content).encode_to_vec())?;
    }
    Ok(())
}

fn lane() -> Result<(), Box<dyn Error>> {
    let stamped =
        StampedHeartbeat { incarnation: 7, sample_us: WALL_US, heartbeat: Some(heartbeat(1)), ..Default::default() };
    let entry = |body| LaneEntry {
        device_id: Bytes::from_static(&[7; 16]),
        session_epoch: 9,
        received_us: WALL_US,
        body: Some(body),
    };
    let batch = LaneBatch {
        relay_id: "local-1".to_owned(),
        region: "local".to_owned(),
        entries: vec![
            entry(lane_entry::Body::Connected(Default::default())),
            entry(lane_entry::Body::Heartbeat(stamped)),
            entry(lane_entry::Body::Inventory(inventory(Content::Network(network())))),
            entry(lane_entry::Body::Disconnected(Default::default())),
        ],
    };
    write("lane_batch", "session", &batch.encode_to_vec())
}

fn metrics() -> Result<(), Box<dyn Error>> {
    let device = DeviceId::from_slice(&[7; 16]).ok_or("16 bytes")?;
    let at_ms = WALL_US / 1000;
    let heartbeats: Vec<_> = (0..3)
        .map(|minute| HeartbeatRow {
            device,
            at_ms: at_ms + minute * 60_000,
            scalars: std::array::from_fn(|n| n as u64),
        })
        .collect();
    let named =
        ["cpu.0.percent", "custom.queue"].map(|name| NamedRow { device, at_ms, name: name.to_owned(), value: 1.5 });
    write("frozen_batch", "minutes", FrozenBatch::encode(&heartbeats, &named).as_bytes())?;
    write("frozen_batch", "empty", FrozenBatch::encode(&[], &[]).as_bytes())
}

fn spool() -> Result<(), Box<dyn Error>> {
    let counters = Counters { incarnation: 7, next_live: 2, next_backlog: 1, ..Counters::default() };
    let entry = |seq| Entry { heartbeat: Some(heartbeat(seq)), server_us: WALL_US, ..Entry::default() };
    let mut bytes = Vec::new();
    for (key, value) in
        [counters.encode_to_vec(), entry(1).encode_to_vec(), entry(0).encode_to_vec()].iter().enumerate()
    {
        bytes.push(u8::try_from(key)?);
        bytes.extend_from_slice(&u16::try_from(value.len())?.to_be_bytes());
        bytes.extend_from_slice(value);
    }
    write("spool", "two", &bytes)
}

fn texts() -> Result<(), Box<dyn Error>> {
    let cursor = Cursors::new([7; 32]).seal(&["devices", "org", "-hostname"], &("web-1", 7));
    write("cursor", "sealed", cursor.as_bytes())?;
    let key = format!("brz1_{}_{}_{}", "0".repeat(32), "a".repeat(43), "ab".repeat(32));
    write("enrollment_key", "key", key.as_bytes())?;
    for (name, text) in [
        ("tests", "os = \"windows\" and ram_gb > 8 and not tag:patched"),
        ("nested", "(hostname ~ web or hostname !~ \"db 1\") and not (status in (online, offline))"),
        ("moments", "last_seen < 3d ago or tag is not empty linux"),
    ] {
        write("filter", name, text.as_bytes())?;
    }
    Ok(())
}
