//! What operators are given fits what the roles count: the list of metrics, the dashboard, the rules
//! and their runbooks.

use crate::support::{Options, System, load::Load, process::eventually};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Folders whose programs count.
const SOURCES: [&str; 5] = ["agent", "collector", "control-plane", "crates", "relay"];
/// Units in which a histogram may be measured.
const UNITS: [&str; 4] = ["_seconds", "_bytes", "_entries", "_calls"];
/// What a running `breeze up` with agents must show: the dashboard stands on these.
const SEEN: [&str; 18] = [
    "breeze_api_request_seconds",
    "breeze_api_requests_total",
    "breeze_bus_appends_total",
    "breeze_bus_sync_seconds",
    "breeze_collector_devices",
    "breeze_collector_devices_online",
    "breeze_collector_heartbeats_total",
    "breeze_collector_lane_lag_seconds",
    "breeze_collector_rows_total",
    "breeze_metrics_batches_total",
    "breeze_metrics_memory_bytes",
    "breeze_process_cpu_seconds_total",
    "breeze_process_resident_bytes",
    "breeze_relay_connections_quic",
    "breeze_relay_devices",
    "breeze_relay_entries_stored_total",
    "breeze_state_commits_total",
    "breeze_state_free_bytes",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names of the table in docs/metrics.md, with their kinds.
fn documented() -> anyhow::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(root().join("docs/metrics.md"))?;
    let rows = text.lines().filter(|line| line.starts_with("| `breeze_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        ensure!(cells.len() == 6 && !cells[4].is_empty(), "not four filled cells: {row}");
        Ok((cells[1].trim_matches('`').to_owned(), cells[2].to_owned()))
    })
    .collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        // Tests count into nothing; the tools of development are no roles.
        if path.is_dir() && name != "tests" && name != "target" && name != "xtask" && name != "testkit" {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Names that the source counts with the three macros, and their kinds.
fn counted() -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = Vec::new();
    for source in SOURCES {
        rust_files(&root().join(source), &mut files)?;
    }
    let mut found = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        for kind in ["counter", "gauge", "histogram"] {
            for (_, rest) in text.match_indices(&format!("{kind}!(")).map(|(at, what)| text[at..].split_at(what.len()))
            {
                let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
                let Some((name, _)) = rest.split_once('"') else { continue };
                if name.starts_with("breeze_") {
                    found.insert(name.to_owned(), kind.to_owned());
                }
            }
        }
    }
    Ok(found)
}

/// Every `breeze_…` in a query, without what a summary adds.
fn names_in(query: &str, known: &BTreeMap<String, String>) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_word(c)).filter(|word| word.starts_with("breeze_"));
    words.map(|word| base(word, known)).collect()
}

fn base(name: &str, known: &BTreeMap<String, String>) -> String {
    let summary = name.strip_suffix("_sum").or_else(|| name.strip_suffix("_count"));
    summary.filter(|summary| known.contains_key(*summary)).unwrap_or(name).to_owned()
}

#[test]
fn every_metric_is_named_by_the_convention_and_documented() -> anyhow::Result<()> {
    let (documented, counted) = (documented()?, counted()?);
    assert!(counted.len() > 100, "the source is read: {}", counted.len());
    let undocumented: Vec<_> = counted.keys().filter(|name| !documented.contains_key(*name)).collect();
    assert!(undocumented.is_empty(), "not in docs/metrics.md: {undocumented:?}");
    for (name, kind) in &documented {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(plain && !name.contains("__"), "{name}: lower case, words joined by one _");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}: counters end in _total");
        assert!(kind != "histogram" || UNITS.iter().any(|unit| name.ends_with(unit)), "{name} ends in its unit");
        assert!(!name.ends_with("_ms"), "{name}: times are in seconds");
        if let Some(found) = counted.get(name) {
            assert_eq!(found, kind, "{name}");
        }
    }
    // Those that are not written as one literal beside the macro: relay gauges, the outbox, the process.
    let built = |name: &str| ["breeze_relay_", "breeze_outbox_", "breeze_process_"].iter().any(|p| name.starts_with(p));
    let stale: Vec<_> = documented.keys().filter(|name| !counted.contains_key(*name) && !built(name)).collect();
    assert!(stale.is_empty(), "nothing counts {stale:?} any more: take them out of docs/metrics.md");
    Ok(())
}

fn dashboard_queries() -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(root().join("deploy/grafana/breeze.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut queries: Vec<String> = targets
        .map(|target| Ok(target["expr"].as_str().context("an expression")?.to_owned()))
        .collect::<anyhow::Result<_>>()?;
    let variables = dashboard["templating"]["list"].as_array().context("variables")?;
    queries.extend(variables.iter().filter_map(|variable| variable["query"]["query"].as_str().map(ToOwned::to_owned)));
    Ok(queries)
}

/// Name and expression of each alert.
fn alerts() -> anyhow::Result<Vec<(String, String)>> {
    let text = fs::read_to_string(root().join("deploy/prometheus/breeze-rules.yml"))?;
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            found.push((name.to_owned(), String::new()));
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            let alert = found.last_mut().context("an expression without an alert")?;
            ensure!(alert.1.is_empty() && !expression.starts_with(['|', '>']), "one line each: {line}");
            expression.clone_into(&mut alert.1);
        } else if let Some(url) = line.strip_prefix("runbook_url: ") {
            let (name, _) = found.last().context("a runbook without an alert")?;
            ensure!(url.ends_with(&format!("docs/runbooks.md#{}", name.to_lowercase())), "{name}: {url}");
        }
    }
    ensure!(found.iter().all(|(_, expression)| !expression.is_empty()), "an alert has no expression");
    Ok(found)
}

#[test]
fn dashboard_and_rules_ask_for_metrics_that_there_are() -> anyhow::Result<()> {
    let documented = documented()?;
    let alerts = alerts()?;
    let queries = dashboard_queries()?;
    assert!(queries.len() > 40 && alerts.len() > 15, "{} queries, {} alerts", queries.len(), alerts.len());
    for query in queries.iter().chain(alerts.iter().map(|(_, expression)| expression)) {
        let unknown: Vec<_> =
            names_in(query, &documented).into_iter().filter(|n| !documented.contains_key(n)).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {query}");
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(query.matches(open).count(), query.matches(close).count(), "{query}");
        }
        // A rate is of what only rises.
        for function in ["rate(", "increase("] {
            for rest in query.split(function).skip(1) {
                let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                assert!(name.ends_with("_total"), "{function}{name} in {query}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() -> anyhow::Result<()> {
    let text = fs::read_to_string(root().join("docs/runbooks.md"))?;
    let mut sections: BTreeMap<&str, &str> = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        let (title, body) = section.split_once('\n').context("a section")?;
        sections.insert(title.trim(), body);
    }
    for (alert, _) in alerts()? {
        let body = sections.remove(alert.as_str()).with_context(|| format!("docs/runbooks.md has no {alert}"))?;
        for part in ["**Means**", "**Users notice**", "**Look**", "**Mend**"] {
            ensure!(body.contains(part), "the runbook of {alert} lacks {part}");
        }
    }
    ensure!(sections.is_empty(), "no alert leads to {:?}", sections.keys());
    Ok(())
}

#[tokio::test]
async fn a_running_system_shows_what_the_dashboard_stands_on() -> anyhow::Result<()> {
    let documented = documented()?;
    let system = System::start_with(Options::quick()).await?;
    let mut load = Load::start(&system, 5)?;
    load.everybody_is_acknowledged(3).await?;
    eventually("all are shown", async || {
        let (_, text) = system.probe("/metrics").await?;
        let shown: BTreeSet<String> = text
            .lines()
            .filter(|line| line.starts_with("breeze_"))
            .map(|line| base(line.split([' ', '{']).next().unwrap_or_default(), &documented))
            .collect();
        let unknown: Vec<_> = shown.iter().filter(|name| !documented.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "shown but not in docs/metrics.md: {unknown:?}");
        let missing: Vec<_> = SEEN.iter().filter(|name| !shown.contains(**name)).collect();
        ensure!(missing.is_empty(), "{missing:?} are not shown");
        Ok(Some(()))
    })
    .await
}
