//! What a Service's `tunway.dev/*` annotations ask of load balancing. What cannot be understood is told and counts as not
//! written.

use std::collections::BTreeMap;

use dataplane::service::{HashBy, MAX_WEIGHT, Selector};

use crate::model::object::Metadata;
use crate::model::{Endpoint, Report};

/// The annotation that names the algorithm.
pub const BALANCING: &str = "tunway.dev/balancing";
/// The annotation that says what is hashed.
pub const HASH_BY: &str = "tunway.dev/hash-by";
/// The annotation that weighs endpoints.
pub const WEIGHTS: &str = "tunway.dev/weights";

/// Rules of one Service's weights at most.
const MAX_RULES: usize = 64;

/// A load balancing algorithm by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// `random`.
    #[default]
    Random,
    /// `round-robin`.
    RoundRobin,
    /// `least-connections`.
    LeastConnections,
    /// `p2c`.
    P2c,
    /// `maglev`.
    Maglev,
    /// `rendezvous`.
    Rendezvous,
}

impl Algorithm {
    /// All, by name.
    pub const NAMES: [(&str, Self); 6] = [
        ("random", Self::Random),
        ("round-robin", Self::RoundRobin),
        ("least-connections", Self::LeastConnections),
        ("p2c", Self::P2c),
        ("maglev", Self::Maglev),
        ("rendezvous", Self::Rendezvous),
    ];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// As the packet path has it.
    #[must_use]
    pub const fn selector(self, by: HashBy) -> Selector {
        match self {
            Self::Random => Selector::Random,
            Self::RoundRobin => Selector::RoundRobin,
            Self::LeastConnections => Selector::LeastConn,
            Self::P2c => Selector::P2c,
            Self::Maglev => Selector::Maglev(by),
            Self::Rendezvous => Selector::Hrw(by),
        }
    }
}

/// `tuple` or `client`.
#[must_use]
pub fn hash_by(name: &str) -> Option<HashBy> {
    match name {
        "tuple" => Some(HashBy::Tuple),
        "client" => Some(HashBy::Client),
        _ => None,
    }
}

/// What a Service asks for; what it leaves out is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The algorithm.
    pub algorithm: Option<Algorithm>,
    /// What is hashed.
    pub hash_by: Option<HashBy>,
    /// Weights; the first rule that is about an endpoint counts, without one it weighs 1.
    pub weights: Vec<WeightRule>,
}

/// A weight for endpoints of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightRule {
    field: Field,
    pattern: String,
    weight: u16,
}

/// What of an endpoint, or its slice, a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    NodeName,
    Zone,
    TargetName,
    Label(String),
}

impl Balance {
    /// Reads the annotations of a Service.
    pub(super) fn read(metadata: &Metadata, report: &mut Report) -> Self {
        let mut balance = Self::default();
        for (name, value) in &metadata.annotations {
            let field = format!("metadata.annotations[{name}]");
            let value = value.trim();
            match name.as_str() {
                BALANCING => {
                    balance.algorithm = Algorithm::named(value);
                    if balance.algorithm.is_none() {
                        let what =
                            format!("{value:?} is no load balancing algorithm; the default one is used");
                        let names = Algorithm::NAMES.map(|(name, _)| name).join(", ");
                        report.note(field, what, format!("write one of {names}"));
                    }
                }
                HASH_BY => {
                    balance.hash_by = hash_by(value);
                    if balance.hash_by.is_none() {
                        let what = format!("{value:?} cannot be hashed by; the default is used");
                        report.note(field, what, "write tuple or client");
                    }
                }
                WEIGHTS => balance.weights = weights(&field, value, report),
                _ => {
                    let what = "an annotation of this name means nothing; it is ignored";
                    report.note(
                        field,
                        what,
                        format!("the ones there are: {BALANCING}, {HASH_BY}, {WEIGHTS}"),
                    );
                }
            }
        }
        balance
    }

    /// What an endpoint of a slice with these labels weighs.
    #[must_use]
    pub fn weight(&self, endpoint: &Endpoint, labels: &BTreeMap<String, String>) -> u16 {
        self.weights.iter().find(|rule| rule.is_about(endpoint, labels)).map_or(1, |rule| rule.weight)
    }
}

impl WeightRule {
    fn is_about(&self, endpoint: &Endpoint, labels: &BTreeMap<String, String>) -> bool {
        let value = match &self.field {
            Field::NodeName => endpoint.node.as_deref(),
            Field::Zone => endpoint.zone.as_deref(),
            Field::TargetName => endpoint.target.as_deref(),
            Field::Label(name) => labels.get(name).map(String::as_str),
        };
        value.is_some_and(|value| matches(&self.pattern, value))
    }

    /// `FIELD=PATTERN:WEIGHT`, or what is wrong with it.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FIELDS: &str = "begins with none of nodeName=, zone=, targetRef.name=, labels.NAME=";
        let (subject, weight) = text.rsplit_once(':').ok_or("has no weight behind a colon")?;
        let (field, pattern) = subject.split_once('=').ok_or(FIELDS)?;
        let field = match field.trim() {
            "nodeName" => Field::NodeName,
            "zone" => Field::Zone,
            "targetRef.name" => Field::TargetName,
            other => match other.strip_prefix("labels.").filter(|name| !name.is_empty()) {
                Some(name) => Field::Label(name.to_owned()),
                None => return Err(FIELDS),
            },
        };
        let weight = weight.trim().parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
        let weight = weight.ok_or("has a weight that is no number from 0 to 1000")?;
        Ok(Self { field, pattern: pattern.trim().to_owned(), weight })
    }
}

/// Rules with a comma, or a line's end, between two. One that is wrong spoils all: the others alone might be the opposite
/// of what was meant.
fn weights(field: &str, text: &str, report: &mut Report) -> Vec<WeightRule> {
    let rules = text.split([',', '\n']).map(str::trim).filter(|rule| !rule.is_empty());
    let mut read = Vec::new();
    for rule in rules {
        let rule = WeightRule::parse(rule).map_err(|what| format!("{rule:?} {what}"));
        let rule = rule.and_then(|rule| {
            (read.len() < MAX_RULES).then_some(rule).ok_or_else(|| format!("more than {MAX_RULES} rules"))
        });
        match rule {
            Ok(rule) => read.push(rule),
            Err(what) => {
                let what = format!("{what}; all endpoints weigh the same");
                report.note(field, what, "write rules as zone=a:3, targetRef.name=web-*:1");
                return Vec::new();
            }
        }
    }
    read
}

/// Whether the text is one of the pattern, in which `*` stands for anything, also nothing.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // What stands between two stars is best found as early as it can be.
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::endpoint;

    fn read(annotations: &[(&str, &str)]) -> (Balance, Vec<String>) {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let metadata = Metadata { annotations: annotations.collect(), ..Metadata::default() };
        let mut report = Report::new("Service default/web".into());
        let balance = Balance::read(&metadata, &mut report);
        let reading = report.reading(Some(()));
        assert!(!reading.invalid, "an annotation is nobody's rule");
        (balance, reading.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn algorithms_and_hashes_are_read_by_name() {
        for (name, algorithm) in Algorithm::NAMES {
            let (balance, problems) = read(&[(BALANCING, name), (HASH_BY, "client")]);
            assert_eq!((balance.algorithm, balance.hash_by), (Some(algorithm), Some(HashBy::Client)));
            assert_eq!(problems, Vec::<String>::new());
            assert!(algorithm.selector(HashBy::Tuple).to_string().starts_with(name));
        }
    }

    #[test]
    fn bad_values_are_told_and_count_as_not_written() {
        for (name, value, said) in [
            (BALANCING, "least-conn", "write one of random, round-robin, least-connections, p2c, maglev"),
            (HASH_BY, "port", "tuple or client"),
            ("tunway.dev/balance", "p2c", "tunway.dev/balancing"),
            (WEIGHTS, "zone=a", "no weight"),
            (WEIGHTS, "zone=a:1001", "0 to 1000"),
            (WEIGHTS, "zone=a:-1", "0 to 1000"),
            (WEIGHTS, "pod=a:1", "begins with none of"),
            (WEIGHTS, "labels.=a:1", "begins with none of"),
            (WEIGHTS, "zone=a:1,zone=b:x", "all endpoints weigh the same"),
        ] {
            let (balance, problems) = read(&[(name, value)]);
            assert_eq!(balance, Balance::default(), "{name}: {value}");
            assert_eq!(problems.len(), 1);
            assert!(problems[0].contains(said) && problems[0].contains(name), "{problems:?}");
        }
        let many = "zone=a:1,".repeat(MAX_RULES + 1);
        assert!(read(&[(WEIGHTS, &many)]).1[0].contains("more than 64"));
    }

    #[test]
    fn the_first_rule_that_is_about_an_endpoint_weighs_it() {
        let rules =
            "targetRef.name=web-canary-*:0, zone=a:3,\n nodeName=n1:5, labels.example.com/track=new:7";
        let (balance, problems) = read(&[(WEIGHTS, rules)]);
        assert_eq!(problems, Vec::<String>::new());
        let weight = |target: Option<&str>, zone: Option<&str>, node: &str, track: &str| {
            let endpoint = Endpoint {
                target: target.map(Into::into),
                zone: zone.map(Into::into),
                node: Some(node.into()),
                ..endpoint("10.1.0.1")
            };
            let labels = BTreeMap::from([("example.com/track".to_owned(), track.to_owned())]);
            balance.weight(&endpoint, &labels)
        };
        assert_eq!(weight(Some("web-canary-1"), Some("a"), "n1", "new"), 0);
        assert_eq!(weight(Some("web-1"), Some("a"), "n1", "new"), 3);
        assert_eq!(weight(Some("web-1"), Some("b"), "n1", "new"), 5);
        assert_eq!(weight(None, None, "n2", "new"), 7);
        assert_eq!(weight(None, None, "n2", "old"), 1);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, is) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("*", "", true),
            ("web-*", "web-", true),
            ("web-*", "we", false),
            ("*-1", "web-1", true),
            ("*-1", "web-12", false),
            ("w*b*1", "web-b-1", true),
            ("w*b*1", "wxyz1", false),
            ("a*a", "a", false),
            ("**", "x", true),
            ("a*bc*c", "abcbc", true),
            ("a*bc*c", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), is, "{pattern} {text}");
        }
    }
}
