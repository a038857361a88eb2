//! What was measured: shown as it comes, and at the end the medians of all rounds.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::{fs, path::Path, time::Duration};

/// One figure of one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Agents that were held; zero for what is of all loads.
    pub(crate) agents: usize,
    /// From 1.
    pub(crate) round: usize,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// All figures so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    agents: usize,
    round: usize,
}

impl Report {
    /// What comes now is of this load.
    pub(crate) fn begin(&mut self, agents: usize, round: usize) {
        (self.agents, self.round) = (agents, round);
        line(&format!("\n-- {}, round {round}", load(agents)));
    }

    /// Notes and prints a figure.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        line(&format!("{name:<48} {:>12} {unit}", shown(value)));
        let name = name.to_owned();
        self.figures.push(Figure { agents: self.agents, round: self.round, name, value, unit });
    }

    /// Quantiles of latencies in microseconds, as milliseconds.
    pub(crate) fn quantiles(&mut self, name: &str, histogram: &Histogram<u64>, quantiles: &[f64]) {
        for quantile in quantiles {
            let latency = Duration::from_micros(histogram.value_at_quantile(*quantile));
            self.figure(&format!("{name}, p{}", quantile * 100.0), latency.as_secs_f64() * 1e3, "ms");
        }
    }

    /// Each figure's median over the rounds, with the least and the greatest, by size of the load.
    pub(crate) fn print_medians(&self) {
        let mut done: Vec<(usize, &str)> = Vec::new();
        for figure in &self.figures {
            let key = (figure.agents, figure.name.as_str());
            if done.contains(&key) {
                continue;
            }
            if done.last().is_none_or(|last| last.0 != key.0) {
                line(&format!("\n== {}: median (least to greatest)", load(figure.agents)));
            }
            done.push(key);
            let (low, middle, high) = self.spread(key);
            let range = format!("({} to {})", shown(low), shown(high));
            line(&format!("{:<48} {:>12} {:<12} {range}", figure.name, shown(middle), figure.unit));
        }
    }

    fn spread(&self, (agents, name): (usize, &str)) -> (f64, f64, f64) {
        let of_it = self.figures.iter().filter(|figure| figure.agents == agents && figure.name == name);
        let mut values: Vec<f64> = of_it.map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        (values[0], median, values[values.len() - 1])
    }

    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        Ok(fs::write(path, serde_json::to_vec_pretty(&self.figures)?)?)
    }
}

fn load(agents: usize) -> String {
    if agents == 0 { "of all loads".to_owned() } else { format!("{agents} agents") }
}

/// Whole numbers as they are, others with two decimals.
fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
fn line(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_one_figure_of_one_load() {
        let mut report = Report::default();
        for (agents, round, value) in [(10, 1, 5.0), (20, 1, 50.0), (10, 2, 1.0), (20, 2, 70.0), (10, 3, 9.0)] {
            report.begin(agents, round);
            report.figure("cost", value, "us");
            report.figure("other", 1000.0, "us");
        }
        assert_eq!(report.spread((10, "cost")), (1.0, 5.0, 9.0));
        assert_eq!(report.spread((20, "cost")), (50.0, 60.0, 70.0));
    }

    #[test]
    fn whole_numbers_have_no_decimals() {
        assert_eq!((shown(12.0).as_str(), shown(0.126).as_str()), ("12", "0.13"));
    }
}
