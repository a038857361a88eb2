//! The directory against a naive model: the same records in any order, the same answers.

use breeze_control_plane::{
    directory::{Change, ConfigRecord, DeviceSummary, Directory, ListQuery, Position, Seen, Sort, SortField},
    filter::parse,
};
use breeze_proto::{
    id::{DeviceId, OrgId, PartnerId, SiteId},
    v1::{DeviceFacts, DeviceLatest, Digest, HostFacts, Presence, Scalars},
};
use breeze_store::model::{Scope, Sites, Tenant};
use proptest::{collection::vec, option, prelude::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

const NOW_MS: u64 = 1_800_000_000_000;

fn device(n: u8) -> DeviceId {
    DeviceId::from_uuid(Uuid::from_bytes([n; 16]))
}

fn org(n: u8) -> OrgId {
    OrgId::from_uuid(Uuid::from_bytes([100 + n; 16]))
}

fn site(n: u8) -> SiteId {
    SiteId::from_uuid(Uuid::from_bytes([200 + n; 16]))
}

fn scope(organizations: &[(u8, Option<&[u8]>)]) -> Scope {
    let organizations = organizations.iter().map(|(n, sites)| {
        let sites = sites.map_or(Sites::All, |sites| Sites::Only(sites.iter().map(|n| site(*n)).collect()));
        (org(*n), sites)
    });
    Scope::tenant(Tenant { partner: PartnerId::from_uuid(Uuid::nil()), organizations: organizations.collect() })
}

fn query(filter: &str, sort: &str, limit: usize) -> ListQuery {
    ListQuery {
        search: String::new(),
        filter: parse(filter).expect("a filter"),
        sort: Sort::parse(sort).expect("a sort"),
        after: None,
        limit,
    }
}

/// What is told of one device.
#[derive(Debug, Clone)]
enum Told {
    Config { device: u8, version: u64, record: Option<Config> },
    Facts { device: u8, version: u64, hostname: String, os: &'static str, ram_mib: u64 },
    Digest { device: u8, at_us: u64, presence: u32, cpu: u32, health: u32, user: &'static str },
}

#[derive(Debug, Clone)]
struct Config {
    org: u8,
    site: u8,
    tags: Vec<&'static str>,
    name: Option<String>,
}

fn told() -> impl Strategy<Value = Told> {
    let config = (
        0u8..3,
        0u8..3,
        proptest::sample::subsequence(vec!["prod", "db", "Patched"], 0..=3),
        option::of("[A-Ca-c]{0,3}"),
    )
        .prop_map(|(org, site, tags, name)| Config { org, site, tags, name });
    prop_oneof![
        (0u8..12, 1u64..8, option::weighted(0.9, config)).prop_map(|(device, version, record)| Told::Config {
            device,
            version,
            record
        }),
        (
            0u8..12,
            1u64..8,
            "(a-name-of-many-letters-)?[a-cA-C-]{1,4}",
            proptest::sample::select(vec!["linux", "windows"]),
            0u64..20_000
        )
            .prop_map(|(device, version, hostname, os, ram_mib)| Told::Facts {
                device,
                version,
                hostname,
                os,
                ram_mib
            }),
        (0u8..12, 1u64..8, 0u32..3, 0u32..1000, 0u32..4, proptest::sample::select(vec!["", "bob", "Eve"])).prop_map(
            |(device, at_us, presence, cpu, health, user)| Told::Digest {
                device,
                at_us: at_us * 1_000_000,
                presence,
                cpu,
                health,
                user
            }
        ),
    ]
}

fn tell(directory: &Directory, told: &Told) {
    match told.clone() {
        Told::Config { device: n, version, record } => {
            let record = record.map(|config| ConfigRecord {
                organization: org(config.org),
                site: site(config.site),
                display_name: config.name,
                tags: config.tags.iter().map(|tag| (*tag).to_owned()).collect(),
                enrolled_at_ms: 1000 + u64::from(n),
                enrolled: DeviceFacts::default(),
            });
            directory.apply_config(&[Change { device: device(n), version, record }]);
        }
        Told::Facts { device: n, version, hostname, os, ram_mib } => {
            let host = HostFacts { hostname, os_type: os.to_owned(), ..HostFacts::default() };
            let record = Some(DeviceFacts { host: Some(host), ram_total_mib: ram_mib, ..DeviceFacts::default() });
            directory.apply_facts(&[Change { device: device(n), version, record }]);
        }
        Told::Digest { device: n, at_us, presence, cpu, health, user } => directory.apply_digest(&Digest {
            at_us,
            device_ids: vec![device(n).to_bytes().to_vec().into()],
            last_seen_us: vec![at_us],
            presence: vec![presence],
            scalars: vec![Scalars { cpu_permille: cpu, ..Scalars::default() }],
            status: vec![health],
            last_user: vec![user.to_owned()],
            pending_reboot: vec![false],
            ..Digest::default()
        }),
    }
}

/// The naive one: the newest of each source by device, everything recomputed for each question.
#[derive(Debug, Default)]
struct Model {
    config: BTreeMap<u8, (u64, Option<Config>)>,
    facts: BTreeMap<u8, (u64, String, &'static str, u64)>,
    latest: BTreeMap<u8, (u64, u32, u32, u32)>,
    seen: BTreeMap<u8, u64>,
    user: BTreeMap<u8, &'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    n: u8,
    org: u8,
    site: u8,
    hostname: String,
    status: &'static str,
    os: &'static str,
    cpu: Option<f64>,
    ram_gb: Option<f64>,
    tags: Vec<&'static str>,
    text: String,
}

impl Model {
    fn tell(&mut self, told: &Told) {
        let dead = |model: &Self, n: &u8| matches!(model.config.get(n), Some((_, None)));
        match told.clone() {
            Told::Config { device, version, record } => {
                let held = self.config.get(&device);
                let older = match (held, &record) {
                    (None, _) => false,
                    (Some((held, Some(_))), Some(_)) => version <= *held,
                    (Some((held, None)), Some(_)) => version <= *held,
                    (Some((held, Some(_))), None) => version < *held,
                    (Some(_), None) => false,
                };
                if older {
                    return;
                }
                if record.is_none() {
                    self.facts.remove(&device);
                    self.latest.remove(&device);
                    self.seen.remove(&device);
                    self.user.remove(&device);
                    let version = version.max(held.filter(|held| held.1.is_none()).map_or(0, |held| held.0));
                    self.config.insert(device, (version, None));
                } else {
                    self.config.insert(device, (version, record));
                }
            }
            Told::Facts { device, version, hostname, os, ram_mib } => {
                if !dead(self, &device) && self.facts.get(&device).is_none_or(|held| held.0 < version) {
                    self.facts.insert(device, (version, hostname, os, ram_mib));
                }
            }
            Told::Digest { device, at_us, presence, cpu, health, user } => {
                if !dead(self, &device) && self.latest.get(&device).is_none_or(|held| held.0 <= at_us) {
                    self.latest.insert(device, (at_us, presence, cpu, health));
                    let seen = self.seen.entry(device).or_default();
                    *seen = at_us.max(*seen);
                    if !user.is_empty() {
                        self.user.insert(device, user);
                    }
                }
            }
        }
    }

    fn rows(&self) -> Vec<Row> {
        let visible = self.config.iter().filter_map(|(n, (_, config))| config.as_ref().map(|config| (*n, config)));
        visible
            .map(|(n, config)| {
                let facts = self.facts.get(&n);
                let latest = self.latest.get(&n);
                let status = match (latest.map_or(0, |latest| latest.1), self.seen.contains_key(&n)) {
                    (1, _) => "online",
                    (0, false) => "pending",
                    _ => "offline",
                };
                let hostname = facts.map_or(String::new(), |facts| facts.1.clone());
                let text = [
                    hostname.as_str(),
                    config.name.as_deref().unwrap_or_default(),
                    self.user.get(&n).copied().unwrap_or_default(),
                    &config.tags.join(" "),
                ]
                .join("\n")
                .to_lowercase();
                Row {
                    n,
                    org: config.org,
                    site: config.site,
                    status,
                    os: facts.map_or("", |facts| facts.2),
                    cpu: latest.map(|latest| f64::from(latest.2) / 10.0),
                    ram_gb: facts.filter(|facts| facts.3 > 0).map(|facts| (facts.3 as f64 / 102.4).round() / 10.0),
                    tags: config.tags.clone(),
                    hostname,
                    text,
                }
            })
            .collect()
    }
}

type Predicate = fn(&Row) -> bool;

const FILTERS: &[(&str, Predicate)] = &[
    ("", |_| true),
    ("os = windows", |row| row.os == "windows"),
    ("os != WINDOWS", |row| row.os != "windows"),
    ("status in (online, pending)", |row| row.status != "offline"),
    ("status not in (online)", |row| row.status != "online"),
    ("cpu > 50 or ram_gb >= 8", |row| {
        row.cpu.is_some_and(|cpu| cpu > 50.0) || row.ram_gb.is_some_and(|ram| ram >= 8.0)
    }),
    ("ram_gb is empty", |row| row.ram_gb.is_none()),
    ("tag:patched", |row| row.tags.contains(&"Patched")),
    ("not tag:db and tag is not empty", |row| !row.tags.contains(&"db") && !row.tags.is_empty()),
    ("tag ~ p*", |row| row.tags.contains(&"prod") || row.tags.contains(&"Patched")),
    ("hostname ~ a*", |row| row.hostname.to_lowercase().starts_with('a')),
    ("hostname:b", |row| row.hostname.to_lowercase().contains('b')),
    ("hostname = \"\"", |row| row.hostname.is_empty()),
    ("bob", |row| row.text.contains("bob")),
    ("not (a or c)", |row| !row.text.contains('a') && !row.text.contains('c')),
    ("last_seen < 1h ago", |row| row.status != "pending"),
    ("site = c8c8c8c8-c8c8-c8c8-c8c8-c8c8c8c8c8c8", |row| row.site == 0),
    ("org = Second", |row| row.org == 1),
];

fn ids(devices: &[DeviceSummary]) -> Vec<DeviceId> {
    devices.iter().map(|device| device.id).collect()
}

/// Every page of a query.
fn all_pages(directory: &Directory, scope: &Scope, mut query: ListQuery) -> (Vec<DeviceSummary>, u64) {
    let mut devices = Vec::new();
    loop {
        let page = directory.list(scope, &query, NOW_MS);
        let full = page.devices.len() == query.limit;
        devices.extend(page.devices);
        assert!(devices.len() as u64 <= page.total, "no device comes twice");
        query.after = page.next;
        if query.after.is_none() {
            return (devices, page.total);
        }
        assert!(full, "only the last page is short");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn answers_as_the_naive_model_does(
        told in vec(told(), 0..80),
        limit in 1usize..6,
        sort in proptest::sample::select(SortField::ALL.to_vec()),
        descending in any::<bool>(),
    ) {
        let (directory, mut model) = (Directory::new(), Model::default());
        directory.name_organization(org(1), "Second");
        for told in &told {
            tell(&directory, told);
            model.tell(told);
        }
        let scopes: [(Scope, Predicate); 4] = [
            (Scope::system("test"), |_| true),
            (scope(&[(0, None)]), |row| row.org == 0),
            (scope(&[(0, Some(&[1, 2])), (2, None)]), |row| (row.org == 0 && row.site != 0) || row.org == 2),
            (scope(&[]), |_| false),
        ];
        for (scope, reached) in &scopes {
            for (text, wanted) in FILTERS {
                let query = query(text, &Sort { field: sort, descending }.to_string(), limit);
                let (devices, total) = all_pages(&directory, scope, query.clone());
                let expected: BTreeSet<DeviceId> =
                    model.rows().iter().filter(|row| reached(row) && wanted(row)).map(|row| device(row.n)).collect();
                let got = ids(&devices);
                prop_assert_eq!(total, expected.len() as u64, "{}", text);
                prop_assert_eq!(got.len(), expected.len(), "each once: {}", text);
                prop_assert_eq!(got.iter().copied().collect::<BTreeSet<_>>(), expected, "{}", text);
                let facets = directory.list(scope, &query, NOW_MS).facets;
                prop_assert_eq!(facets.status.values().sum::<u64>(), total);
            }
            for n in 0..12 {
                let expected = model.rows().iter().any(|row| row.n == n && reached(row));
                prop_assert_eq!(directory.get(scope, device(n)).is_some(), expected);
                prop_assert_eq!(directory.contains(scope, device(n)), expected);
            }
            let totals = directory.overview(scope).totals;
            let count = |status| model.rows().iter().filter(|row| reached(row) && row.status == status).count() as u64;
            prop_assert_eq!((totals.online, totals.offline, totals.pending), (count("online"), count("offline"), count("pending")));
        }
    }

    #[test]
    fn lists_are_in_the_order_asked(told in vec(told(), 20..80), descending in any::<bool>()) {
        let directory = Directory::new();
        told.iter().for_each(|told| tell(&directory, told));
        let all = Scope::system("test");
        let sort = |field| Sort { field, descending }.to_string();
        let (devices, _) = all_pages(&directory, &all, query("", &sort(SortField::CpuPercent), 3));
        let figures: Vec<Option<f64>> = devices.iter().map(|device| device.cpu_percent).collect();
        for pair in figures.windows(2) {
            match (pair[0], pair[1]) {
                (Some(a), Some(b)) => prop_assert!(a == b || (a > b) == descending, "{} {}", a, b),
                (None, Some(_)) => prop_assert!(false, "what has no value comes last"),
                (_, None) => {}
            }
        }
        let (devices, _) = all_pages(&directory, &all, query("hostname is not empty", &sort(SortField::Hostname), 3));
        let names: Vec<String> = devices.iter().map(|device| device.hostname.to_lowercase()).collect();
        let in_order = names.windows(2).all(|pair| pair[0] == pair[1] || (pair[0] > pair[1]) == descending);
        prop_assert!(in_order, "{:?}", names);
    }

    #[test]
    fn a_watcher_is_told_every_change_however_seldom_it_asks(
        told in vec(told(), 1..60),
        every in 1usize..20,
        limit in 1usize..5,
    ) {
        let directory = Directory::new();
        let all = Scope::system("test");
        let (mut seen, mut known) = (directory.seen_all(), BTreeMap::new());
        let mut ask = |seen: &mut Seen| {
            let changes = directory.changes(&all, seen, limit);
            let some = !changes.is_empty();
            for device in changes.devices {
                known.insert(device.id, (device.status, device.cpu_percent));
            }
            for device in changes.figures {
                known.get_mut(&device.id).expect("told whole before").1 = device.cpu_percent;
            }
            for device in changes.removed {
                if !directory.contains(&all, device) {
                    known.remove(&device);
                }
            }
            some
        };
        for (index, told) in told.iter().enumerate() {
            tell(&directory, told);
            if index % every == 0 {
                ask(&mut seen);
            }
        }
        while ask(&mut seen) {}
        let (devices, _) = all_pages(&directory, &all, query("", "hostname", 100));
        let expected: BTreeMap<_, _> =
            devices.iter().map(|device| (device.id, (device.status, device.cpu_percent))).collect();
        prop_assert_eq!(known, expected);
    }
}

fn enrolled(directory: &Directory, n: u8, hostname: &str) {
    let config = Config { org: 0, site: 0, tags: vec![], name: None };
    tell(directory, &Told::Config { device: n, version: 1, record: Some(config) });
    let hostname = hostname.to_owned();
    tell(directory, &Told::Facts { device: n, version: 1, hostname, os: "linux", ram_mib: 8192 });
}

#[test]
fn pages_stay_consistent_while_devices_come_and_go() {
    let directory = Directory::new();
    for (n, name) in ["b", "d", "f", "h"].iter().enumerate() {
        enrolled(&directory, n as u8, name);
    }
    let all = Scope::system("test");
    let mut query = query("", "hostname", 2);
    let first = directory.list(&all, &query, NOW_MS);
    assert_eq!(first.devices.iter().map(|device| device.hostname.as_str()).collect::<Vec<_>>(), ["b", "d"]);
    // One before the page, one behind, and the device that the cursor names is gone.
    enrolled(&directory, 10, "a");
    enrolled(&directory, 11, "g");
    tell(&directory, &Told::Config { device: 1, version: 2, record: None });
    query.after = first.next;
    query.limit = 10;
    let second = directory.list(&all, &query, NOW_MS);
    assert_eq!(second.devices.iter().map(|device| device.hostname.as_str()).collect::<Vec<_>>(), ["f", "g", "h"]);
    assert_eq!((second.total, second.next), (5, None::<Position>));
}

#[test]
fn a_device_that_is_gone_stays_gone() {
    let directory = Directory::new();
    enrolled(&directory, 1, "web");
    tell(&directory, &Told::Config { device: 1, version: 5, record: None });
    let all = Scope::system("test");
    // What was on its way comes late.
    let config = Config { org: 0, site: 0, tags: vec![], name: None };
    tell(&directory, &Told::Config { device: 1, version: 4, record: Some(config) });
    tell(&directory, &Told::Digest { device: 1, at_us: 9, presence: 1, cpu: 1, health: 1, user: "" });
    assert!(directory.get(&all, device(1)).is_none());
    assert_eq!(directory.list(&all, &query("", "hostname", 10), NOW_MS).total, 0);
}

#[test]
fn hostile_text_is_text_and_columns_of_unequal_length_do_no_harm() {
    let directory = Directory::new();
    enrolled(&directory, 1, "<script>\nalert(1)</script>");
    directory.apply_digest(&Digest {
        at_us: 1,
        device_ids: vec![
            device(1).to_bytes().to_vec().into(),
            vec![1, 2, 3].into(),
            device(2).to_bytes().to_vec().into(),
        ],
        presence: vec![1],
        scalars: vec![Scalars { cpu_permille: u32::MAX, uptime_s: u64::MAX, ..Scalars::default() }],
        status: vec![77],
        ..Digest::default()
    });
    let found = directory.get(&Scope::system("test"), device(1)).expect("there");
    assert_eq!((found.hostname.as_str(), found.status, found.health), ("<script> alert(1)</script>", "online", None));
    assert_eq!(found.cpu_percent, Some(100.0));
}

#[test]
fn a_restart_forgets_neither_the_status_nor_since_when_it_holds() {
    let latest = DeviceLatest {
        presence: Presence::Online.into(),
        presence_since_us: 5_000_000,
        last_seen_us: 9_000_000,
        last_user: "eve".into(),
        ..DeviceLatest::default()
    };
    for digest_first in [true, false] {
        let directory = Directory::new();
        enrolled(&directory, 1, "web");
        let digest = Told::Digest { device: 1, at_us: 10_000_000, presence: 1, cpu: 1, health: 1, user: "bob" };
        if digest_first {
            tell(&directory, &digest);
        }
        directory.apply_latest(&[(device(1), latest.clone())]);
        if !digest_first {
            tell(&directory, &digest);
        }
        let found = directory.get(&Scope::system("test"), device(1)).expect("there");
        assert_eq!((found.status, found.status_since.map(|since| since.0)), ("online", Some(5000)), "{digest_first}");
        assert_eq!((found.last_user.as_deref(), found.cpu_percent), (Some("bob"), Some(0.1)));
    }
}

#[tokio::test]
async fn a_reader_can_wait_for_its_write() {
    let directory = Arc::new(Directory::new());
    let writer = Arc::clone(&directory);
    let waiting = tokio::spawn(async move { writer.wait_for(device(1), 1, Duration::from_secs(20)).await });
    enrolled(&directory, 1, "web");
    assert!(waiting.await.expect("no panic"));
    assert!(!directory.wait_for(device(1), 2, Duration::from_millis(10)).await);
    tell(&directory, &Told::Config { device: 1, version: 2, record: None });
    assert!(directory.wait_for(device(1), 2, Duration::from_secs(20)).await, "its end is a version too");
}
