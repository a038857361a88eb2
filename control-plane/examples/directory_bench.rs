//! Measures the directory inside one process: `cargo run --release -p breeze-control-plane --example
//! directory_bench [devices …]`. Prints, for each number of devices, how long pages of typical lists
//! take, how long a full digest takes to apply, and what a device costs in memory. Times are the
//! thread's processor time, so that what else runs on the machine does not count.
#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use breeze_control_plane::{
    directory::{Change, ConfigRecord, Directory, ListQuery, Sort},
    filter::parse,
};
use breeze_proto::{
    id::{DeviceId, OrgId, PartnerId, SiteId},
    v1::{DeviceFacts, Digest, HostFacts, Scalars},
};
use breeze_store::model::{Scope, Sites, Tenant};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use uuid::Uuid;

const NOW_MS: u64 = 1_800_000_000_000;
const ORGANIZATIONS: usize = 50;
const ROUNDS: usize = 200;

/// (what, search, filter, sort)
const QUERIES: &[(&str, &str, &str, &str)] = &[
    ("all by hostname", "", "", "hostname"),
    ("all by last seen, newest first", "", "", "-last_seen_at"),
    ("all by processor use", "", "", "-cpu_percent"),
    ("search of a part", "srv-0042", "", "hostname"),
    ("search that finds nothing", "no such thing", "", "hostname"),
    ("filter of three tests", "", r#"os = "windows" and ram_gb > 8 and not tag:patched"#, "hostname"),
    ("filter by pattern", "", r#"hostname ~ "*-00?2*""#, "-ram_percent"),
    ("filter with or", "", "status = offline or cpu > 95 or health in (warning, error)", "last_seen_at"),
];

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    for size in if sizes.is_empty() { vec![10_000, 100_000] } else { sizes } {
        measure(size);
    }
}

fn measure(devices: usize) {
    let directory = Directory::new();
    let ids: Vec<DeviceId> = (0..devices).map(id).collect();
    let started = cpu();
    for (n, device) in ids.iter().enumerate() {
        directory.apply_config(&[Change { device: *device, version: 1, record: Some(config(n)) }]);
        directory.apply_facts(&[Change { device: *device, version: 1, record: Some(facts(n)) }]);
    }
    let built = cpu() - started;
    let digest = digest(&ids, 1);
    let started = cpu();
    directory.apply_digest(&digest);
    let digested = cpu() - started;
    let size = directory.size();
    println!(
        "\n{devices} devices: built in {built:.0?}, full digest in {digested:.1?}, {} bytes a device",
        size.bytes / size.devices.max(1)
    );
    println!("{:<34} {:>9} {:>9} {:>9} {:>9}", "page of 50", "found", "p50", "p99", "worst");
    let everything = partner(0..ORGANIZATIONS);
    for (name, search, filter, sort) in QUERIES {
        let query = ListQuery {
            search: (*search).to_owned(),
            filter: parse(filter).expect("a filter"),
            sort: Sort::parse(sort).expect("a sort"),
            after: None,
            limit: 50,
        };
        row(name, &directory, &everything, &query);
        let first = directory.list(&everything, &query, NOW_MS);
        if let Some(next) = first.next.filter(|_| *name == "all by hostname") {
            row("  its second page", &directory, &everything, &ListQuery { after: Some(next), ..query.clone() });
            row("  of one organization in fifty", &directory, &partner(7..8), &query);
        }
    }
    let mut seen = directory.seen_all();
    directory.apply_digest(&self::digest(&ids, 2));
    let started = cpu();
    let changes = directory.changes(&everything, &mut seen, 200);
    println!("changes for one watcher: {} in {:.2?}", changes.figures.len(), cpu() - started);
}

fn row(name: &str, directory: &Directory, scope: &Scope, query: &ListQuery) {
    let mut found = 0;
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = cpu();
            found = directory.list(scope, query, NOW_MS).total;
            cpu() - started
        })
        .collect();
    times.sort_unstable();
    let ms = |at: usize| format!("{:.2} ms", times[at.min(ROUNDS - 1)].as_secs_f64() * 1000.0);
    println!("{name:<34} {found:>9} {:>9} {:>9} {:>9}", ms(ROUNDS / 2), ms(ROUNDS * 99 / 100), ms(ROUNDS - 1));
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().expect("after its start"), time.tv_nsec.try_into().expect("below a second"))
}

/// Scattered like real ids, and the same in every run.
fn mix(n: usize) -> u64 {
    let mut x = (n as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

fn id(n: usize) -> DeviceId {
    DeviceId::from_uuid(Uuid::from_u64_pair(mix(n), mix(n + 1_000_000_007)))
}

fn organization(n: usize) -> OrgId {
    OrgId::from_uuid(Uuid::from_u128(n as u128 + 1))
}

fn partner(organizations: std::ops::Range<usize>) -> Scope {
    let organizations = organizations.map(|n| (organization(n), Sites::All)).collect();
    Scope::tenant(Tenant { partner: PartnerId::from_uuid(Uuid::nil()), organizations })
}

fn config(n: usize) -> ConfigRecord {
    let tags = ["patched", "prod", "laptop", "db", "kiosk", "vip"];
    let chosen = |(bit, tag): (usize, &&str)| (mix(n) >> bit & 3 == 0).then(|| (*tag).to_owned());
    ConfigRecord {
        organization: organization(n % ORGANIZATIONS),
        site: SiteId::from_uuid(Uuid::from_u128((n % 200) as u128 + 1)),
        display_name: n.is_multiple_of(3).then(|| format!("Reception {n}")),
        tags: tags.iter().enumerate().filter_map(chosen).collect(),
        enrolled_at_ms: NOW_MS - mix(n) % 10_000_000_000,
        enrolled: DeviceFacts::default(),
    }
}

fn facts(n: usize) -> DeviceFacts {
    let windows = n % 10 < 7;
    DeviceFacts {
        host: Some(HostFacts {
            hostname: if windows { format!("DESKTOP-{:06}", mix(n) % 1_000_000) } else { format!("srv-{n:06}") },
            os_type: if windows { "windows" } else { "linux" }.into(),
            os_version: format!("{}", 10 + n % 3),
            os_build: format!("{}", 19_000 + n % 40),
            architecture: "amd64".into(),
            ..HostFacts::default()
        }),
        agent_version: format!("0.1.{}", n % 4),
        cpu_model: format!("Intel(R) Core(TM) i{}-{}00", 3 + n % 5, 80 + n % 30),
        cpu_threads: 4 << (n % 3),
        ram_total_mib: 4096 << (n % 4),
        disk_total_gib: 256 << (n % 3),
        serial_number: format!("SN{:012X}", mix(n)).chars().take(12).collect(),
        manufacturer: ["Dell Inc.", "LENOVO", "HP"][n % 3].into(),
        model: format!("Model {}", n % 60),
        primary_ip: format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
        public_ip: format!("203.0.113.{}", n % 250),
        ..DeviceFacts::default()
    }
}

fn digest(ids: &[DeviceId], second: u64) -> Digest {
    let each = 0..ids.len();
    Digest {
        at_us: NOW_MS * 1000 + second * 1_000_000,
        device_ids: ids.iter().map(|id| id.to_bytes().to_vec().into()).collect(),
        last_seen_us: each.clone().map(|n| (NOW_MS - mix(n) % 60_000) * 1000).collect(),
        presence: each.clone().map(|n| if n % 20 == 0 { 2 } else { 1 }).collect(),
        scalars: each
            .clone()
            .map(|n| Scalars {
                cpu_permille: (mix(n) % 1000) as u32,
                ram_permille: (mix(n) >> 10 & 1023).min(1000) as u32,
                disk_permille: (mix(n) >> 20 & 1023).min(1000) as u32,
                uptime_s: mix(n) % 8_000_000,
                ..Scalars::default()
            })
            .collect(),
        status: each.clone().map(|n| if n % 50 == 0 { 2 } else { 1 }).collect(),
        last_user: each.clone().map(|n| format!("user{}", n % 5000)).collect(),
        pending_reboot: each.map(|n| n % 30 == 0).collect(),
        ..Digest::default()
    }
}
