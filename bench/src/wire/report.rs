//! What was measured, as a table for people and as records for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::sample::{Estimate, RESOLVED, estimate, ratio};

/// What is measured of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// One TCP stream, bits per second.
    Bulk1,
    /// Four TCP streams, bits per second.
    Bulk4,
    /// Connect, request, response, close: transactions per second.
    Crr,
    /// Connections of a million that were reset.
    CrrReset,
    /// Request and response on one connection: median latency, microseconds.
    RrP50,
    /// The same: 99th percentile.
    RrP99,
    /// Small datagrams delivered per second.
    Udp,
    /// CPU seconds the machine used per second of one-stream bulk.
    Bulk1Cpu,
    /// CPU seconds the machine used per second of connect-request-response.
    CrrCpu,
}

impl Metric {
    /// Its line in the table.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bulk1 => "TCP bulk, 1 stream, Gbit/s",
            Self::Bulk4 => "TCP bulk, 4 streams, Gbit/s",
            Self::Crr => "connect-request-response, k/s",
            Self::CrrReset => "connections reset, per million",
            Self::RrP50 => "request-response p50, us",
            Self::RrP99 => "request-response p99, us",
            Self::Udp => "64 B datagrams delivered, k/s",
            Self::Bulk1Cpu => "CPU s per s, bulk 1 stream",
            Self::CrrCpu => "CPU s per s, CRR",
        }
    }

    /// What a value is divided by in the table.
    const fn unit(self) -> f64 {
        match self {
            Self::Bulk1 | Self::Bulk4 => 1e9,
            Self::Crr | Self::Udp => 1e3,
            Self::CrrReset | Self::RrP50 | Self::RrP99 | Self::Bulk1Cpu | Self::CrrCpu => 1.0,
        }
    }
}

/// A way from client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The kernel forwards; no translation.
    Routing,
    /// The kernel forwards and nftables translates.
    NftDnat,
    /// A TUN and a constant rewrite.
    Null,
    /// tunway.
    Tunway,
}

impl Path {
    /// All of them, in the order of a round.
    pub const ALL: [Self; 4] = [Self::Routing, Self::NftDnat, Self::Null, Self::Tunway];
}

/// All samples: one value a round, in the order of the rounds.
#[derive(Clone, Debug, Default)]
pub struct Samples(BTreeMap<(Metric, Path), Vec<f64>>);

/// One line of the machine-readable report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// What.
    pub metric: Metric,
    /// Through what.
    pub path: Path,
    /// Median over the rounds.
    pub median: f64,
    /// Its 95 % interval.
    pub ci: [f64; 2],
    /// This path's values divided by another's, pair by pair.
    pub ratio_to: BTreeMap<&'static str, Estimate>,
    /// Those of [`Self::ratio_to`] whose interval is narrow enough to say something.
    pub resolved: Vec<&'static str>,
}

impl Samples {
    /// Takes down one value.
    pub fn push(&mut self, metric: Metric, path: Path, value: f64) {
        self.0.entry((metric, path)).or_default().push(value);
    }

    /// A record per metric and path.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let record = |(&(metric, path), values): (&(Metric, Path), &Vec<f64>)| {
            let Estimate { median, ci, .. } = estimate(values)?;
            let against = [("routing", Path::Routing), ("nft_dnat", Path::NftDnat), ("null", Path::Null)];
            let ratio_to: BTreeMap<_, _> = against
                .into_iter()
                .filter(|(_, other)| *other != path)
                .filter_map(|(name, other)| Some((name, ratio(values, self.0.get(&(metric, other))?)?)))
                .collect();
            let resolved = ratio_to
                .iter()
                .filter(|(_, ratio): &(_, &Estimate)| ratio.is_resolved())
                .map(|(name, _)| *name)
                .collect();
            Some(Record { metric, path, median, ci, ratio_to, resolved })
        };
        self.0.iter().filter_map(record).collect()
    }

    /// The table: medians with intervals, and tunway's ratios to nftables and to the null forwarder.
    #[must_use]
    pub fn table(&self) -> String {
        let records = self.records();
        let find = |metric, path| records.iter().find(|r: &&Record| r.metric == metric && r.path == path);
        let mut metrics: Vec<Metric> = records.iter().map(|r| r.metric).collect();
        metrics.dedup();
        let mut out = format!(
            "{:<30} {:>20} {:>20} {:>20} {:>20} {:>18} {:>18}\n",
            "", "routing", "nftables DNAT", "null forwarder", "tunway", "tunway/nft", "tunway/null"
        );
        for metric in metrics {
            let _ = write!(out, "{:<30}", metric.title());
            for path in Path::ALL {
                let cell = find(metric, path).map_or_else(
                    || "-".to_owned(),
                    |r| {
                        let unit = metric.unit();
                        format!("{:.2} [{:.2} {:.2}]", r.median / unit, r.ci[0] / unit, r.ci[1] / unit)
                    },
                );
                let _ = write!(out, " {cell:>20}");
            }
            for against in ["nft_dnat", "null"] {
                let cell = find(metric, Path::Tunway).and_then(|r| r.ratio_to.get(against)).map_or_else(
                    || "-".to_owned(),
                    |r| {
                        let unresolved = if r.is_resolved() { "" } else { "?" };
                        format!("{:.2}{unresolved} [{:.2} {:.2}]", r.median, r.ci[0], r.ci[1])
                    },
                );
                let _ = write!(out, " {cell:>18}");
            }
            out.push('\n');
        }
        let _ = writeln!(
            out,
            "?: not resolved, the interval reaches further than {:.0} % from the median",
            RESOLVED * 100.0
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_ratios_and_the_table_its_line() {
        let mut samples = Samples::default();
        for _ in 0..6 {
            samples.push(Metric::Crr, Path::Tunway, 5_000.0);
            samples.push(Metric::Crr, Path::NftDnat, 10_000.0);
        }
        let records = samples.records();
        let ours = records.iter().find(|r| r.path == Path::Tunway).unwrap();
        assert!((ours.ratio_to["nft_dnat"].median - 0.5).abs() < 1e-9);
        assert!(!ours.ratio_to.contains_key("null"));
        let table = samples.table();
        assert!(table.contains("connect-request-response, k/s"), "{table}");
        assert!(table.contains("0.50 [0.50 0.50]"), "{table}");
        for n in 0..3 {
            samples.push(Metric::Udp, Path::Tunway, 100.0 + 20.0 * f64::from(n));
            samples.push(Metric::Udp, Path::NftDnat, 200.0);
        }
        assert!(samples.table().contains("0.60? [0.50 0.70]"), "{}", samples.table());
    }
}
