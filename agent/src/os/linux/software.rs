//! What is installed, by every package manager that is there: dpkg, rpm, apk, snap, flatpak.

use crate::os::files::{cut, output_of, read};
use breeze_proto::{
    limits::MAX_SOFTWARE_ENTRIES,
    v1::{Software, SoftwareKey},
};
use std::{fs, path::Path, time::SystemTime};

/// Field and record separators that no package's metadata contains.
const FIELD: char = '\u{1f}';

pub(super) fn software() -> Vec<Software> {
    let mut software = Vec::new();
    software.extend(parse_dpkg(&read("/var/lib/dpkg/status"), dpkg_install_date));
    software.extend(rpm());
    software.extend(parse_apk(&read("/lib/apk/db/installed")));
    software.extend(snap());
    software.extend(flatpak());
    software.truncate(MAX_SOFTWARE_ENTRIES);
    software
}

fn entry(source: &str, name: &str, architecture: &str) -> Software {
    Software {
        key: Some(SoftwareKey { source: source.to_owned(), name: cut(name), architecture: cut(architecture) }),
        ..Software::default()
    }
}

/// `/var/lib/dpkg/status`: paragraphs of `Field: value`, continuation lines indented.
fn parse_dpkg(status: &str, install_date: impl Fn(&str, &str) -> String) -> Vec<Software> {
    status
        .split("\n\n")
        .filter_map(|paragraph| {
            let value = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            let is_installed = value("Status")?.ends_with(" installed");
            let (name, architecture) = (value("Package")?, value("Architecture").unwrap_or_default());
            let priority = value("Priority").unwrap_or_default();
            let is_essential = value("Essential") == Some("yes");
            is_installed.then(|| Software {
                version: cut(value("Version").unwrap_or_default()),
                publisher: cut(value("Maintainer").unwrap_or_default()),
                install_date: install_date(name, architecture),
                is_system: is_essential || priority == "required" || priority == "important",
                ..entry("dpkg", name, architecture)
            })
        })
        .collect()
}

/// dpkg keeps no date; it writes a package's file list when it installs it.
fn dpkg_install_date(name: &str, architecture: &str) -> String {
    let info = Path::new("/var/lib/dpkg/info");
    let candidates = [format!("{name}.list"), format!("{name}:{architecture}.list")];
    let modified = candidates.iter().find_map(|file| fs::metadata(info.join(file)).and_then(|m| m.modified()).ok());
    modified.map(date).unwrap_or_default()
}

fn rpm() -> Vec<Software> {
    let format = ["%{NAME}", "%{ARCH}", "%{VERSION}-%{RELEASE}", "%{VENDOR}", "%{INSTALLTIME}"].join("\u{1f}") + "\n";
    output_of("rpm", &["-qa", "--queryformat", &format]).map(|text| parse_rpm(&text)).unwrap_or_default()
}

fn parse_rpm(text: &str) -> Vec<Software> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(FIELD);
            let (name, architecture, version) = (fields.next()?, fields.next()?, fields.next()?);
            let (vendor, installed) = (fields.next()?, fields.next()?);
            let installed = installed.parse().ok().and_then(from_unix);
            // Imported signing keys are rpm's own business.
            (name != "gpg-pubkey").then(|| Software {
                version: cut(version),
                publisher: if vendor == "(none)" { String::new() } else { cut(vendor) },
                install_date: installed.map(date).unwrap_or_default(),
                ..entry("rpm", name, if architecture == "(none)" { "" } else { architecture })
            })
        })
        .collect()
}

/// `/lib/apk/db/installed`: paragraphs of `P:name`, `V:version`, `A:arch`, `m:maintainer`.
fn parse_apk(database: &str) -> Vec<Software> {
    database
        .split("\n\n")
        .filter_map(|paragraph| {
            let value = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            Some(Software {
                version: cut(value("V")?),
                publisher: cut(value("m").unwrap_or_default()),
                ..entry("apk", value("P")?, value("A").unwrap_or_default())
            })
        })
        .collect()
}

fn snap() -> Vec<Software> {
    output_of("snap", &["list", "--color=never", "--unicode=never"]).map(|text| parse_snap(&text)).unwrap_or_default()
}

/// Columns: Name Version Rev Tracking Publisher Notes.
fn parse_snap(text: &str) -> Vec<Software> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (name, version) = (fields.first()?, fields.get(1)?);
            let notes = fields.get(5).copied().unwrap_or_default();
            Some(Software {
                version: cut(version),
                publisher: cut(fields.get(4).copied().unwrap_or_default().trim_end_matches(['*', '^'])),
                install_location: cut(&format!("/snap/{name}")),
                is_system: ["base", "snapd", "core"].iter().any(|system| notes.contains(system)),
                ..entry("snap", name, "")
            })
        })
        .collect()
}

fn flatpak() -> Vec<Software> {
    let columns = "--columns=application,version,arch,origin,installation";
    output_of("flatpak", &["list", "--app", columns]).map(|text| parse_flatpak(&text)).unwrap_or_default()
}

fn parse_flatpak(text: &str) -> Vec<Software> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (name, version, architecture) = (fields.next()?, fields.next()?, fields.next()?);
            let origin = fields.next().unwrap_or_default();
            let installation = fields.next().unwrap_or_default();
            (!name.is_empty()).then(|| Software {
                version: cut(version),
                publisher: cut(origin),
                install_location: cut(installation),
                ..entry("flatpak", name, architecture)
            })
        })
        .collect()
}

fn from_unix(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
}

/// "2026-11-24", in UTC. Days to a date after Howard Hinnant's `civil_from_days`.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(software: &[Software]) -> Vec<(&str, &str)> {
        software.iter().map(|s| (s.key.as_ref().map_or("", |key| key.name.as_str()), s.version.as_str())).collect()
    }

    #[test]
    fn dpkg_lists_what_is_installed_and_not_what_left_only_configuration() {
        let status = "Package: bash\nEssential: yes\nStatus: install ok installed\nPriority: required\n\
            Maintainer: Matthias <doko@example.org>\nArchitecture: amd64\nVersion: 5.2.15-2+b7\nDescription: shell\n more\n\n\
            Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
            Package: curl\nStatus: install ok installed\nPriority: optional\nArchitecture: amd64\nVersion: 7.88\n";
        let software = parse_dpkg(status, |_, _| "2026-01-02".into());
        assert_eq!(names(&software), [("bash", "5.2.15-2+b7"), ("curl", "7.88")]);
        assert!(software[0].is_system && !software[1].is_system);
        assert_eq!(software[0].publisher, "Matthias <doko@example.org>");
    }

    #[test]
    fn rpm_apk_snap_and_flatpak_parse() {
        let rpm = "bash\u{1f}x86_64\u{1f}5.2-1\u{1f}(none)\u{1f}1700000000\ngpg-pubkey\u{1f}(none)\u{1f}1-1\u{1f}(none)\u{1f}1\n";
        let software = parse_rpm(rpm);
        assert_eq!(names(&software), [("bash", "5.2-1")]);
        assert_eq!((software[0].publisher.as_str(), software[0].install_date.as_str()), ("", "2023-11-14"));

        let apk = "C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nm:Tim <t@example.org>\n\nP:broken\n\n";
        assert_eq!(names(&parse_apk(apk)), [("musl", "1.2.5-r0")]);

        let snap = "Name    Version  Rev  Tracking       Publisher    Notes\ncore22  20240101 1122 latest/stable  canonical**  base\n\
            jq      1.7      6    latest/stable  mvo*         -\n";
        let software = parse_snap(snap);
        assert_eq!(names(&software), [("core22", "20240101"), ("jq", "1.7")]);
        assert!(software[0].is_system && !software[1].is_system);
        assert_eq!(software[1].publisher, "mvo");

        let flatpak = "org.gimp.GIMP\t2.10.38\tx86_64\tflathub\tsystem\n\t\t\n";
        assert_eq!(names(&parse_flatpak(flatpak)), [("org.gimp.GIMP", "2.10.38")]);
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        let at = |seconds| date(from_unix(seconds).expect("in range"));
        assert_eq!(at(0), "1970-01-01");
        assert_eq!(at(951_782_400), "2000-02-29");
        assert_eq!(at(4_107_542_400), "2100-03-01");
    }

    #[test]
    fn garbage_gives_nothing_and_does_not_panic() {
        for text in ["", "\n\n\n", "Package", "Status: x\n\n", "\u{1f}\u{1f}\n", "P:\n\nV:\n"] {
            let _ = (parse_dpkg(text, |_, _| String::new()), parse_rpm(text), parse_apk(text));
            let _ = (parse_snap(text), parse_flatpak(text));
        }
    }
}
