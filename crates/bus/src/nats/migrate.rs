//! Makes the streams and brings them up to date: forward only, any number of times, from any number of
//! nodes. A stream never becomes smaller or less replicated by it.

use super::{
    HEADER_ROOM_BYTES, NatsConfig,
    connection::Connection,
    place::{GLOBAL_DOMAIN, Place, STORED_PREFIX},
    streams::{api, encode},
    wire::{self, Republish, StreamConfig, StreamInfo},
};
use crate::{BusError, MAX_PAYLOAD_BYTES, name};
use breeze_proto::{shard::LaneCount, subject};
use std::{collections::HashMap, time::Duration};

/// Version of what this module sets, kept in each stream's metadata.
pub const VERSION: u32 = 1;
const VERSION_KEY: &str = "breeze.version";
/// Beside it: how many lanes the stream's region has; of a foreign stream, its home.
const LANES_KEY: &str = "breeze.lanes";
/// How long a repeated id is recognised. The trait promises nothing beyond it.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What streams there are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    /// Lanes of every region, 1 to 16.
    pub lanes: u16,
    /// All regions, the one that is connected to included.
    pub regions: Vec<String>,
    /// Copies of each stream: 3 where there are three servers, else 1.
    pub replicas: u32,
    /// Most bytes of one stream; full, it refuses.
    pub max_stream_bytes: u64,
}

impl Streams {
    /// Those that can be made from servers of the domain `connected`: from [`GLOBAL_DOMAIN`], or where
    /// there are no domains, all; else those of the region of that name.
    ///
    /// # Errors
    /// [`BusError::Invalid`] if the number of lanes is not possible.
    pub fn names(&self, connected: &str) -> Result<Vec<String>, BusError> {
        let lanes = LaneCount::new(self.lanes)
            .ok_or_else(|| BusError::Invalid(format!("lanes is {}: it must be 1 to 16", self.lanes)))?;
        let everything = connected.is_empty() || connected == GLOBAL_DOMAIN;
        let mut names = Vec::new();
        if everything {
            names.push(subject::DIRECTORY_STREAM.to_owned());
        }
        for region in self.regions.iter().filter(|region| everything || *region == connected) {
            names.extend(lanes.lanes().map(|lane| subject::lane_stream(region, lane)));
            let homes = self.regions.iter().filter(|home| *home != region);
            names.extend(homes.map(|home| subject::foreign_stream(region, home)));
        }
        Ok(names)
    }
}

/// Makes or updates the streams that can be reached, as [`Streams::names`] says; tells what was done.
///
/// # Errors
/// As [`ensure`].
pub async fn migrate(config: &NatsConfig, streams: &Streams) -> Result<Vec<String>, BusError> {
    let names = streams.names(&config.domain)?;
    ensure(config, &names, streams.replicas, streams.max_stream_bytes).await
}

/// Makes or updates streams of these names. Nothing is changed unless all of it can be.
///
/// # Errors
/// [`BusError::Invalid`] when a stream would become smaller or be copied less, [`BusError::Corrupt`]
/// when one is of a later version, [`BusError::Full`] when the servers have not that much room, and as
/// [`super::NatsBus::connect`].
pub async fn ensure(
    config: &NatsConfig,
    streams: &[String],
    replicas: u32,
    max_bytes: u64,
) -> Result<Vec<String>, BusError> {
    if !(1..=5).contains(&replicas) {
        return Err(BusError::Invalid(format!("replicas is {replicas}: it must be 1 to 5")));
    }
    let connection = Connection::open(config).await?;
    let mut plan = Vec::new();
    for stream in streams {
        name::check(stream)?;
        let place = Place::of(stream, &config.domain)?;
        let wanted = wanted(&place, replicas, max_bytes, lanes_of(stream, streams));
        let step = match info(&connection, &place).await? {
            None => Some(("STREAM.CREATE", wanted)),
            Some(held) => updated(&place, held, wanted)?.map(|config| ("STREAM.UPDATE", config)),
        };
        plan.push((place, step));
    }
    let mut done = Vec::new();
    for (place, step) in plan {
        let Some((verb, wanted)) = step else {
            done.push(format!("{}: unchanged", place.shown()));
            continue;
        };
        let answer: StreamInfo = api(&connection, &place, verb, encode(&wanted)?).await?;
        if let Some(error) = answer.error {
            return Err(error.into_bus_error(&place));
        }
        let did = if verb == "STREAM.CREATE" { "made" } else { "updated" };
        done.push(format!("{}: {did}, {} bytes, {} replica(s)", place.shown(), wanted.max_bytes, wanted.num_replicas));
    }
    Ok(done)
}

async fn info(connection: &Connection, place: &Place) -> Result<Option<StreamConfig>, BusError> {
    let info: StreamInfo = api(connection, place, "STREAM.INFO", bytes::Bytes::new()).await?;
    match info.error {
        None => Ok(Some(info.config)),
        Some(error) => {
            let error = error.into_bus_error(place);
            if error == wire::missing(place) { Ok(None) } else { Err(error) }
        }
    }
}

/// How many lanes the region of `stream` has if `streams` are all of its; as many as the others' for the home of
/// a foreign stream that is not among them. `None` for a stream that rides on no lane.
pub(crate) fn lanes_of(stream: &str, streams: &[String]) -> Option<usize> {
    let lanes = |region: &str| {
        let is_its =
            |name: &&String| name.strip_prefix("lane.").and_then(|name| name.split('.').next()) == Some(region);
        Some(streams.iter().filter(is_its).count()).filter(|count| *count > 0)
    };
    let mut tokens = stream.split('.');
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some("lane"), Some(region), Some(_)) => lanes(region),
        (Some("foreign"), Some(region), Some(home)) => lanes(home).or_else(|| lanes(region)),
        (_, _, _) => None,
    }
}

/// What rides on a number of lanes must be read by that number.
fn check_lanes(place: &Place, held: &StreamConfig, lanes: Option<usize>) -> Result<(), BusError> {
    let (Some(held), Some(lanes)) = (held.metadata.get(LANES_KEY), lanes) else { return Ok(()) };
    if *held == lanes.to_string() {
        return Ok(());
    }
    Err(BusError::Invalid(format!(
        "{}: its region has {held} lanes, and lanes = {lanes} is configured here; set it to {held} for every role (and \
         `breeze migrate --lanes {held}`): another number would need a migration",
        place.shown()
    )))
}

fn wanted(place: &Place, replicas: u32, max_bytes: u64, lanes: Option<usize>) -> StreamConfig {
    let mut metadata = HashMap::from([(VERSION_KEY.to_owned(), VERSION.to_string())]);
    metadata.extend(lanes.map(|lanes| (LANES_KEY.to_owned(), lanes.to_string())));
    StreamConfig {
        name: place.name.clone(),
        subjects: vec![place.subject.clone()],
        storage: "file".to_owned(),
        retention: "limits".to_owned(),
        // Full, it refuses: what was not trimmed is never discarded.
        discard: "new".to_owned(),
        max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        max_msg_size: (MAX_PAYLOAD_BYTES + HEADER_ROOM_BYTES) as i64,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW.as_nanos() as u64,
        allow_direct: true,
        // Single entries are never taken out: positions stay dense.
        deny_delete: true,
        republish: Some(Republish {
            src: place.subject.clone(),
            dest: format!("{STORED_PREFIX}.{}", place.subject),
            headers_only: true,
        }),
        metadata,
        others: serde_json::Map::new(),
    }
}

/// What an existing stream becomes; `None`: it is as it should be.
fn updated(place: &Place, held: StreamConfig, wanted: StreamConfig) -> Result<Option<StreamConfig>, BusError> {
    if held.metadata.contains_key(VERSION_KEY) {
        check_config(place, &held)?;
    }
    check_lanes(place, &held, wanted.metadata.get(LANES_KEY).and_then(|lanes| lanes.parse().ok()))?;
    let invalid = |text: String| Err(BusError::Invalid(format!("{}: {text}", place.shown())));
    if held.max_bytes > 0 && wanted.max_bytes < held.max_bytes {
        return invalid(format!(
            "it may hold {} bytes, and {} are configured; it is not made smaller",
            held.max_bytes, wanted.max_bytes
        ));
    }
    if wanted.num_replicas < held.num_replicas {
        return invalid(format!(
            "it has {} replicas, and {} are configured; none is taken away",
            held.num_replicas, wanted.num_replicas
        ));
    }
    if held.storage != wanted.storage || held.retention != wanted.retention {
        return invalid(format!("it is a stream of {} with retention {}", held.storage, held.retention));
    }
    let mut metadata = held.metadata.clone();
    metadata.extend(wanted.metadata.clone());
    let updated = StreamConfig { metadata, others: held.others.clone(), ..wanted };
    Ok((updated != held).then_some(updated))
}

/// Whether this program knows the stream's version, and it has `lanes`.
pub(crate) fn check(place: &Place, info: &StreamInfo, lanes: Option<usize>) -> Result<(), BusError> {
    check_config(place, &info.config)?;
    check_lanes(place, &info.config, lanes)
}

fn check_config(place: &Place, config: &StreamConfig) -> Result<(), BusError> {
    let Some(version) = config.metadata.get(VERSION_KEY) else {
        return Err(BusError::Unavailable(format!("{} was not made by `breeze migrate`", place.shown())));
    };
    match version.parse::<u32>() {
        Ok(version) if version < VERSION => Err(BusError::Unavailable(format!(
            "{} is of version {version}: `breeze migrate` updates it",
            place.shown()
        ))),
        Ok(VERSION) => Ok(()),
        Ok(_) | Err(_) => Err(BusError::Corrupt(format!(
            "{} is of version {version}; this program knows {VERSION} and must be updated",
            place.shown()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Streams {
        Streams { lanes: 2, regions: vec!["eu".to_owned(), "us".to_owned()], replicas: 1, max_stream_bytes: 1 << 20 }
    }

    #[test]
    fn each_domain_makes_its_own() {
        let names = |domain| streams().names(domain).expect("names").join(" ");
        assert_eq!(names("us"), "lane.us.0 lane.us.1 foreign.us.eu");
        let all = "directory lane.eu.0 lane.eu.1 foreign.eu.us lane.us.0 lane.us.1 foreign.us.eu";
        assert_eq!(names("global"), all);
        assert_eq!(names(""), all);
    }

    #[test]
    fn a_stream_only_grows() {
        let place = Place::of("lane.eu.0", "eu").expect("a place");
        let held = wanted(&place, 1, 1000, Some(2));
        assert_eq!(updated(&place, held.clone(), wanted(&place, 1, 1000, Some(2))), Ok(None));
        let grown = updated(&place, held.clone(), wanted(&place, 3, 2000, Some(2))).expect("grows").expect("changes");
        assert_eq!((grown.max_bytes, grown.num_replicas), (2000, 3));
        assert!(updated(&place, grown.clone(), wanted(&place, 3, 1000, Some(2))).is_err());
        assert!(updated(&place, grown, wanted(&place, 1, 2000, Some(2))).is_err());
        assert!(matches!(updated(&place, held.clone(), wanted(&place, 1, 1000, Some(4))), Err(BusError::Invalid(_))));
        let before = wanted(&place, 1, 1000, None);
        let told = updated(&place, before, wanted(&place, 1, 1000, Some(2))).expect("is told").expect("changes");
        assert_eq!(told, held);
        let mut later = held;
        later.metadata.insert(VERSION_KEY.to_owned(), "2".to_owned());
        assert!(matches!(updated(&place, later, wanted(&place, 1, 1000, Some(2))), Err(BusError::Corrupt(_))));
    }
}
