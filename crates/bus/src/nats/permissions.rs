//! What each role's user may do on NATS, from [`breeze_proto::subject`] alone. Whatever is not named is
//! refused. Each user listens to answers on an inbox of its own, and may answer what it was asked.

use super::{
    TopologyRegion,
    place::{STORED_PREFIX, jetstream_name},
};
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, LaneId, MAX_LANES},
    subject,
};

/// Permissions of one user: subjects and patterns of NATS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    /// Whether it may answer what reaches it, once each.
    pub answers: bool,
}

/// Name of a relay's user; also its `client_name`.
#[must_use]
pub fn relay_user(id: &str) -> String {
    format!("relay-{id}")
}

/// Name of a collector's user; also its `client_name`.
#[must_use]
pub fn collector_user(id: &str) -> String {
    format!("collector-{id}")
}

/// Name of the user of all control-plane nodes; also their `client_name`.
pub const CONTROL_PLANE_USER: &str = "control-plane";
/// Name of the user that `breeze migrate` acts as; also its `client_name`.
pub const MIGRATE_USER: &str = "migrate";

/// Name of the user as which a region's servers join the hub.
#[must_use]
pub fn leaf_user(region: &str) -> String {
    format!("leaf-{region}")
}

/// A relay: writes to the lanes of its region and of the homes of its guests, asks the owners of those
/// lanes and the control plane, and is pushed to under its own id alone. It reads no stream, and sees of its
/// region's that they are there.
#[must_use]
pub fn relay(id: &str, region: &str, regions: &[String]) -> Permissions {
    let mut publish = Vec::new();
    let mut all: Vec<&str> = regions.iter().map(String::as_str).filter(|other| *other != region).collect();
    publish.extend(all.iter().map(|home| subject::foreign_stream(region, home)));
    all.insert(0, region);
    for region in all {
        publish.extend(lanes().map(|lane| subject::lane_stream(region, lane)));
        publish.extend(lanes().map(|lane| subject::lane_held(region, lane)));
    }
    publish.extend(
        [subject::CA_CHALLENGE, subject::CA_RENEW, subject::AGENT_DOCUMENTS, subject::REVOCATIONS_SNAPSHOT]
            .map(str::to_owned),
    );
    publish.push(subject::ca_relay(id));
    publish.push(subject::status("relay", id));
    // Whether the streams that it writes are there, and of a version that it knows.
    let own = lanes().map(|lane| subject::lane_stream(region, lane));
    let foreign = regions.iter().filter(|home| *home != region).map(|home| subject::foreign_stream(region, home));
    publish.extend(own.chain(foreign).map(|stream| format!("$JS.API.STREAM.INFO.{}", jetstream_name(&stream))));
    let mut subscribe = vec![subject::relay_push(id), subject::REVOCATIONS_UPDATE.to_owned()];
    let user = relay_user(id);
    with_inbox(&user, &mut publish, &mut subscribe);
    Permissions { publish, subscribe, answers: true }
}

/// A collector: reads and trims its region's streams alone, writes to other regions' lanes what was
/// taken for them, and to the directory.
#[must_use]
pub fn collector(id: &str, region: &str, regions: &[String]) -> Permissions {
    let homes: Vec<&str> = regions.iter().map(String::as_str).filter(|other| *other != region).collect();
    let own: Vec<String> = lanes()
        .map(|lane| subject::lane_stream(region, lane))
        .chain(homes.iter().map(|home| subject::foreign_stream(region, home)))
        .collect();
    let mut publish: Vec<String> = own.iter().flat_map(|stream| reading(stream)).collect();
    for home in &homes {
        publish.extend(lanes().map(|lane| subject::lane_stream(home, lane)));
    }
    publish.extend([
        subject::DIRECTORY_STREAM.to_owned(),
        subject::relay_push("*"),
        subject::digest(region),
        any_device(),
        subject::collectors(region),
        subject::status("collector", id),
    ]);
    publish.push(subject::digest_of(region, "*"));
    for lane in lanes() {
        publish.extend([subject::lane_yield(region, lane), subject::lane_follow(region, lane)]);
    }
    let mut subscribe: Vec<String> = own.iter().map(|stream| format!("{STORED_PREFIX}.{stream}")).collect();
    for lane in lanes() {
        subscribe.extend([
            subject::lane_held(region, lane),
            subject::lane_yield(region, lane),
            subject::lane_follow(region, lane),
        ]);
    }
    subscribe.push(subject::digest_of(region, id));
    subscribe.extend([subject::digest_full(region), subject::collectors(region), subject::WATCH.to_owned()]);
    // Who falls silent with its relay is told apart from who falls silent alone.
    subscribe.push(subject::status("relay", "*"));
    with_inbox(&collector_user(id), &mut publish, &mut subscribe);
    Permissions { publish, subscribe, answers: true }
}

/// A control-plane node: answers for the certification authority, pushes, keeps the directory, and sees
/// how full every stream is.
#[must_use]
pub fn control_plane() -> Permissions {
    let mut publish = vec![
        subject::relay_push("*"),
        subject::WATCH.to_owned(),
        subject::REVOCATIONS_UPDATE.to_owned(),
        subject::DIRECTORY_STREAM.to_owned(),
        subject::digest_full("*"),
        subject::audit_append("*"),
        subject::status("control-plane", "*"),
        "$JS.API.STREAM.INFO.*".to_owned(),
        "$JS.*.API.STREAM.INFO.*".to_owned(),
    ];
    publish.extend(reading(subject::DIRECTORY_STREAM));
    let mut subscribe = vec![
        subject::CA_CHALLENGE.to_owned(),
        subject::CA_RENEW.to_owned(),
        subject::ca_relay("*"),
        subject::AGENT_DOCUMENTS.to_owned(),
        subject::REVOCATIONS_SNAPSHOT.to_owned(),
        subject::REVOCATIONS_UPDATE.to_owned(),
        subject::audit_append("*"),
        // As the directory and the live views subscribe: everything below.
        below(&subject::digest("*")),
        below(&any_device()),
        below(&below(&subject::status("*", "*"))),
        format!("{STORED_PREFIX}.{}", subject::DIRECTORY_STREAM),
    ];
    with_inbox(CONTROL_PLANE_USER, &mut publish, &mut subscribe);
    Permissions { publish, subscribe, answers: true }
}

/// Who makes streams: JetStream's interface of every domain, and no subject of Breeze.
#[must_use]
pub fn migrate() -> Permissions {
    let mut publish = ["INFO", "CREATE", "UPDATE"]
        .into_iter()
        .flat_map(|verb| [format!("$JS.API.STREAM.{verb}.*"), format!("$JS.*.API.STREAM.{verb}.*")])
        .collect();
    let mut subscribe = Vec::new();
    with_inbox(MIGRATE_USER, &mut publish, &mut subscribe);
    Permissions { publish, subscribe, answers: false }
}

/// The link of a region's servers to the hub, as the hub sees it: `publish` is what comes out of the
/// region, `subscribe` what goes into it. What a region keeps to itself (its collectors' talk, reading
/// of its streams) is in neither. It speaks as its own relays and collectors alone, and hears no answer
/// but theirs; `regions` are all, whose users it answers.
#[must_use]
pub fn leaf(own: &TopologyRegion, regions: &[TopologyRegion]) -> Permissions {
    let region = own.name.as_str();
    let mut publish = vec![
        subject::DIRECTORY_STREAM.to_owned(),
        subject::CA_CHALLENGE.to_owned(),
        subject::CA_RENEW.to_owned(),
        subject::AGENT_DOCUMENTS.to_owned(),
        subject::REVOCATIONS_SNAPSHOT.to_owned(),
        subject::digest(region),
        any_device(),
        inbox(CONTROL_PLANE_USER),
        inbox(MIGRATE_USER),
    ];
    publish.extend(own.relays.iter().flat_map(|id| [subject::ca_relay(id), subject::status("relay", id)]));
    publish.extend(own.collectors.iter().map(|id| subject::status("collector", id)));
    for other in regions.iter().filter(|other| other.name != region) {
        publish.extend(other.relays.iter().map(|id| subject::relay_push(id)));
        publish.extend(inboxes(other));
    }
    for lane in lanes() {
        publish.extend([subject::lane_stream("*", lane), subject::lane_held("*", lane)]);
    }
    let mut subscribe = vec![
        subject::digest_full(region),
        subject::WATCH.to_owned(),
        subject::REVOCATIONS_UPDATE.to_owned(),
        format!("$JS.{region}.API.>"),
    ];
    subscribe.extend(own.relays.iter().map(|id| subject::relay_push(id)));
    subscribe.extend(inboxes(own));
    for lane in lanes() {
        subscribe.extend([subject::lane_stream(region, lane), subject::lane_held(region, lane)]);
    }
    Permissions { publish, subscribe, answers: false }
}

/// Every lane that a region may have.
fn lanes() -> impl Iterator<Item = LaneId> {
    LaneCount::new(MAX_LANES).into_iter().flat_map(LaneCount::lanes)
}

/// What reading and trimming a stream of the connected domain takes.
fn reading(stream: &str) -> Vec<String> {
    let name = jetstream_name(stream);
    ["DIRECT.GET", "STREAM.INFO", "STREAM.PURGE"].map(|verb| format!("$JS.API.{verb}.{name}")).into()
}

fn any_device() -> String {
    let one = subject::live(DeviceId::derive(&[], "", ""));
    one.rsplit_once('.').map_or_else(|| one.clone(), |(prefix, _)| format!("{prefix}.*"))
}

/// `a.*` -> `a.>`; `a.*.>` -> `a.>`.
fn below(pattern: &str) -> String {
    let prefix = pattern.trim_end_matches(['*', '>', '.']);
    format!("{prefix}.>")
}

/// Where the answers to a user go.
fn inbox(user: &str) -> String {
    format!("_INBOX.{user}.>")
}

/// Of a region's relays and collectors.
fn inboxes(region: &TopologyRegion) -> impl Iterator<Item = String> {
    let relays = region.relays.iter().map(|id| inbox(&relay_user(id)));
    relays.chain(region.collectors.iter().map(|id| inbox(&collector_user(id))))
}

/// Its answers, and the echo by which a connection knows that its subscriptions stand.
fn with_inbox(user: &str, publish: &mut Vec<String>, subscribe: &mut Vec<String>) {
    let inbox = inbox(user);
    publish.push(inbox.clone());
    subscribe.push(inbox);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a pattern of NATS covers a subject.
    fn covers(pattern: &str, subject: &str) -> bool {
        let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
        loop {
            match (pattern.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(one), Some(other)) if one == other => {}
                (_, _) => return false,
            }
        }
    }

    /// user, `>` publishes or `<` listens, subject, whether it may
    #[test]
    fn who_may_do_what() {
        let regions = ["eu".to_owned(), "us".to_owned()];
        let topology = ["eu", "us"].map(|name| TopologyRegion {
            name: name.to_owned(),
            servers: Vec::new(),
            relays: vec![format!("{name}-1"), format!("{name}-2")],
            collectors: vec![format!("{name}-a")],
        });
        let users = [
            ("relay", relay("eu-1", "eu", &regions)),
            ("collector", collector("eu-a", "eu", &regions)),
            ("control-plane", control_plane()),
            ("migrate", migrate()),
            ("leaf", leaf(&topology[0], &topology)),
        ];
        for line in [
            "relay > lane.eu.3 yes",
            "relay > lane.us.3 yes",
            "relay > lane.ap.3 no",
            "relay > foreign.eu.us yes",
            "relay > foreign.us.eu no",
            "relay > directory no",
            "relay > digest.eu no",
            "relay > revocations.update no",
            "relay > ca.relay.eu-1 yes",
            "relay > ca.relay.eu-2 no",
            "relay < ca.challenge no",
            "relay < collector.eu.1.held no",
            "relay < relay.eu-1.push yes",
            "relay < relay.eu-2.push no",
            "relay < lane.eu.1 no",
            "relay < stored.lane.eu.1 no",
            "relay < _INBOX.relay-eu-2.x no",
            "relay > $JS.API.DIRECT.GET.lane_eu_0 no",
            "relay > $JS.API.STREAM.PURGE.lane_eu_0 no",
            "relay > $JS.API.STREAM.INFO.lane_eu_0 yes",
            "relay > $JS.API.STREAM.INFO.foreign_eu_us yes",
            "relay > $JS.API.STREAM.INFO.lane_us_0 no",
            "collector > collector.eu.1.follow yes",
            "collector < collector.eu.1.follow yes",
            "collector > collector.us.1.follow no",
            "collector > collector.eu.eu-b.digest yes",
            "collector < collector.eu.eu-a.digest yes",
            "collector < collector.eu.eu-b.digest no",
            "collector > $JS.API.DIRECT.GET.lane_eu_0 yes",
            "collector > $JS.API.DIRECT.GET.lane_us_0 no",
            "collector > $JS.us.API.DIRECT.GET.lane_us_0 no",
            "collector > $JS.API.STREAM.PURGE.foreign_eu_us yes",
            "collector > $JS.API.STREAM.DELETE.lane_eu_0 no",
            "collector > lane.eu.0 no",
            "collector > lane.us.0 yes",
            "collector > relay.us-1.push yes",
            "collector > digest.us no",
            "collector < collector.us.0.held no",
            "collector < ca.renew no",
            "collector < status.relay.eu-1 yes",
            "collector < status.control-plane.x no",
            "control-plane < ca.renew yes",
            "control-plane < status.relay.eu-1 yes",
            "control-plane < lane.eu.0 no",
            "control-plane > $JS.eu.API.STREAM.INFO.lane_eu_0 yes",
            "control-plane > $JS.eu.API.STREAM.PURGE.lane_eu_0 no",
            "control-plane > $JS.API.STREAM.PURGE.directory yes",
            "control-plane > lane.eu.0 no",
            "migrate > $JS.eu.API.STREAM.CREATE.lane_eu_0 yes",
            "migrate > $JS.eu.API.STREAM.DELETE.lane_eu_0 no",
            "migrate > directory no",
            "leaf < lane.us.0 no",
            "leaf < lane.eu.0 yes",
            "leaf > stored.lane.eu.0 no",
            "leaf > digest.us no",
            "leaf > watch no",
            "leaf > revocations.update no",
            "leaf > ca.relay.eu-1 yes",
            "leaf > ca.relay.us-1 no",
            "leaf > status.relay.eu-2 yes",
            "leaf > status.relay.us-1 no",
            "leaf > status.collector.us-a no",
            "leaf > status.control-plane.x no",
            "leaf > relay.us-1.push yes",
            "leaf < relay.eu-1.push yes",
            "leaf < relay.us-1.push no",
            "leaf < _INBOX.relay-eu-2.x.y yes",
            "leaf < _INBOX.collector-eu-a.x.y yes",
            "leaf < _INBOX.relay-us-1.x.y no",
            "leaf < _INBOX.collector-us-a.x.y no",
            "leaf < _INBOX.control-plane.x.y no",
            "leaf < _INBOX.migrate.x.y no",
            "leaf > _INBOX.control-plane.x.y yes",
            "leaf > _INBOX.migrate.x.y yes",
            "leaf > _INBOX.relay-us-1.x.y yes",
            "leaf > _INBOX.collector-us-a.x.y yes",
            "leaf > _INBOX.relay-eu-1.x.y no",
            "leaf > $JS.us.API.STREAM.INFO.lane_us_0 no",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let [user, direction, subject, may] = words[..] else { panic!("{line}") };
            let permissions = &users.iter().find(|(name, _)| *name == user).expect("a user").1;
            let list = if direction == ">" { &permissions.publish } else { &permissions.subscribe };
            assert_eq!(list.iter().any(|pattern| covers(pattern, subject)), may == "yes", "{line}");
        }
        assert_eq!(users[2].1.subscribe[6..10], ["audit.*.append", "digest.>", "live.>", "status.>"]);
    }
}
