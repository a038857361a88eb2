//! Batches that the bus holds more than once, at once and late: each heartbeat counts once all the same.

use super::{World, figure, in_a_world};
use anyhow::Context;
use breeze_bus::{
    Bus as _,
    nats::{NatsBus, NatsConfig, Seed},
};
use breeze_proto::{shard::LaneCount, subject};
use breeze_testkit::deployment::ROLES_LANES;
use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

/// How long every batch is published again.
const LENGTH: Duration = Duration::from_secs(10);
/// How often the same batch.
const TIMES: u32 = 2;
/// Batches that are published once more when everything is long stored.
const KEPT: usize = 40;
const READ_BYTES: usize = 1 << 20;

async fn connect(world: &World, user: &str) -> anyhow::Result<NatsBus> {
    let seed = fs::read_to_string(world.deployment.folder.join("bus").join(format!("{user}.nk")))?;
    Ok(NatsBus::connect(NatsConfig {
        servers: vec![world.deployment.regions[0].nats[0].url()],
        domain: "eu".into(),
        region: "eu".into(),
        nkey_seed: Some(Seed::from(seed)),
        ca_file: None,
        client_name: user.to_owned(),
    })
    .await?)
}

/// Reads the lanes as a collector may and writes what is there again as the relay may; how much that was, and some
/// of it to be written once more.
async fn again(world: &World) -> anyhow::Result<(usize, Vec<(String, prost::bytes::Bytes)>)> {
    let (reader, writer) = (connect(world, "collector-eu-1").await?, connect(world, "relay-eu-1").await?);
    let streams: Vec<String> =
        LaneCount::new(ROLES_LANES).context("lanes")?.lanes().map(|lane| subject::lane_stream("eu", lane)).collect();
    let mut next: HashMap<&String, u64> = HashMap::new();
    let mut seen: HashMap<prost::bytes::Bytes, u32> = HashMap::new();
    let (mut written, mut kept) = (0, Vec::new());
    let until = Instant::now() + LENGTH;
    while Instant::now() < until {
        for stream in &streams {
            let from = next.entry(stream).or_insert(1);
            for entry in reader.read(stream, *from, READ_BYTES, Duration::from_millis(20)).await? {
                *from = entry.position + 1;
                let times = seen.entry(entry.payload.clone()).or_insert(0);
                if *times < TIMES {
                    *times += 1;
                    written += 1;
                    let id = format!("again-{written}");
                    writer.append(stream, &id, entry.payload.clone()).await?;
                }
                if kept.len() < KEPT {
                    kept.push((stream.clone(), entry.payload));
                }
            }
        }
    }
    Ok((written, kept))
}

#[test]
fn batches_that_are_delivered_again_count_once() -> anyhow::Result<()> {
    in_a_world(|world| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (written, kept) = runtime.block_on(again(world)).context("publishing again")?;
        figure("batches published again", written);
        anyhow::ensure!(written > 10 && kept.len() == KEPT, "too few: {written}");
        world.recover("every batch published three times")?;
        // Long after: what they hold is stored, and the owner has forgotten the batch.
        world.suffer(&[breeze_testkit::deployment::faults::Fault::KillCollector(0, 0)], Duration::from_secs(5))?;
        runtime.block_on(async {
            let writer = connect(world, "relay-eu-1").await?;
            for (number, (stream, payload)) in kept.into_iter().enumerate() {
                writer.append(&stream, &format!("late-{number}"), payload).await?;
            }
            anyhow::Ok(())
        })?;
        world.recover("old batches published once more")
    })
}
