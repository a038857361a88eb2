//! What only macOS knows: its own programs and property lists are asked.

use super::texts::{Routing, newest_version, parse_route};
use crate::os::{
    addresses::parse_resolv_conf,
    files::{cut, list, output_of, read},
};
use breeze_proto::v1::{NetworkAddress, Software, SoftwareKey};
use plist::Dictionary;
use std::{
    fs::{self, File},
    io::{Cursor, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

pub(super) const OS_TYPE: &str = "macos";

/// Folders of applications: (folder, whether it is the system's own).
const APPLICATIONS: &[(&str, bool)] = &[("/Applications", false), ("/System/Applications", true)];
/// Where Homebrew keeps formulae, on Apple's processors and on Intel's.
const CELLARS: &[&str] = &["/opt/homebrew/Cellar", "/usr/local/Cellar"];
/// Largest property list that is read.
const MAX_PLIST_BYTES: u64 = 1024 * 1024;

fn sysctl(name: &str) -> String {
    output_of("sysctl", &["-n", name]).map(|text| cut(text.trim())).unwrap_or_default()
}

pub(super) fn os_build() -> String {
    sysctl("kern.osversion")
}

/// Darwin's monotonic clock goes on while the machine sleeps (clock_gettime(3)).
pub(super) fn boottime_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

pub(super) fn boot_id() -> Option<[u8; 16]> {
    uuid::Uuid::try_parse(&sysctl("kern.bootsessionuuid")).ok().map(uuid::Uuid::into_bytes)
}

/// The hardware's own identifier tells machines apart; an installation has none.
pub(super) fn installation_id() -> String {
    String::new()
}

/// The owner of the console; while nobody is signed in there, who last was.
pub(super) fn last_user() -> String {
    let owner = fs::metadata("/dev/console").map_or(0, |console| console.uid());
    if owner == 0 {
        let login = property_list(Path::new("/Library/Preferences/com.apple.loginwindow.plist")).unwrap_or_default();
        return text(&login, "lastUserName");
    }
    user_name(owner)
}

/// The directory of users may be a server's, so each is asked for once.
fn user_name(id: u32) -> String {
    static LAST: Mutex<Option<(u32, String)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &*last {
        Some((known, name)) if *known == id => name.clone(),
        Some(_) | None => {
            let name = output_of("id", &["-un", &id.to_string()]).map(|text| cut(text.trim())).unwrap_or_default();
            *last = Some((id, name.clone()));
            name
        }
    }
}

/// Nothing on disk says so; an update that waits is the updater's to tell.
pub(super) fn pending_reboot() -> bool {
    false
}

/// On Apple's processors part of these, which the processor's model names.
pub(super) fn gpu() -> String {
    String::new()
}

pub(super) fn bios_version() -> String {
    sysinfo::Product::version().unwrap_or_default()
}

pub(super) fn has_hypervisor() -> bool {
    sysctl("kern.hv_vmm_present") == "1"
}

pub(super) fn routing(_addresses: &[NetworkAddress]) -> Routing {
    let route = output_of("route", &["-n", "get", "default"]).unwrap_or_default();
    parse_route(&route).with_dns(parse_resolv_conf(&read("/etc/resolv.conf")))
}

pub(super) fn software() -> Vec<Software> {
    let mut software = Vec::new();
    for (folder, is_system) in APPLICATIONS {
        for bundle in bundles(Path::new(folder)) {
            software.extend(application(&bundle, *is_system));
        }
    }
    for cellar in CELLARS {
        software.extend(list(cellar).iter().filter_map(|formula| homebrew(&Path::new(cellar).join(formula))));
    }
    software
}

/// Applications of a folder, and of the folders in it that are none ("Utilities").
fn bundles(folder: &Path) -> Vec<PathBuf> {
    let is_bundle = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "app");
    let paths = |folder: &Path| list(folder).into_iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let (mut bundles, others): (Vec<_>, Vec<_>) = paths(folder).into_iter().partition(is_bundle);
    for other in others {
        bundles.extend(paths(&other).into_iter().filter(is_bundle));
    }
    bundles
}

fn application(bundle: &Path, is_system: bool) -> Option<Software> {
    let info = property_list(&bundle.join("Contents/Info.plist"))?;
    let version = text(&info, "CFBundleShortVersionString");
    Some(Software {
        version: if version.is_empty() { text(&info, "CFBundleVersion") } else { version },
        install_location: cut(&bundle.to_string_lossy()),
        is_system,
        ..entry("macos", &bundle.file_stem()?.to_string_lossy())
    })
}

fn homebrew(formula: &Path) -> Option<Software> {
    let versions = list(formula);
    Some(Software {
        version: cut(newest_version(&versions)?),
        install_location: cut(&formula.to_string_lossy()),
        ..entry("homebrew", &formula.file_name()?.to_string_lossy())
    })
}

fn entry(source: &str, name: &str) -> Software {
    let key = SoftwareKey { source: source.to_owned(), name: cut(name), architecture: String::new() };
    Software { key: Some(key), ..Software::default() }
}

/// Of either form, text or binary; `None` if it is not there, too large or damaged.
fn property_list(path: &Path) -> Option<Dictionary> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_PLIST_BYTES).read_to_end(&mut bytes).ok()?;
    plist::Value::from_reader(Cursor::new(bytes)).ok()?.into_dictionary()
}

fn text(list: &Dictionary, key: &str) -> String {
    cut(list.get(key).and_then(plist::Value::as_string).unwrap_or_default())
}
