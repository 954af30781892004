//! What is wrong with objects: told once when it appears, once when it is gone, and listed in between.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::Problem;

/// The problems there are, by object.
pub type ByObject = BTreeMap<String, Vec<Problem>>;

/// What was told so far.
#[derive(Debug, Default)]
pub struct Troubles {
    told: BTreeSet<Problem>,
}

/// What is to be told now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Not there before.
    pub new: Vec<Problem>,
    /// Objects that had problems and have none any more.
    pub healed: Vec<String>,
}

impl Troubles {
    /// Takes the problems of this moment, from every part that finds some, and returns what changed.
    pub fn update<'a>(&mut self, parts: impl IntoIterator<Item = &'a ByObject>) -> Changes {
        let now: BTreeSet<_> = parts.into_iter().flat_map(BTreeMap::values).flatten().cloned().collect();
        let new = now.difference(&self.told).cloned().collect();
        let still: BTreeSet<_> = now.iter().map(|problem| problem.object.as_str()).collect();
        let before: BTreeSet<_> = self.told.iter().map(|problem| problem.object.as_str()).collect();
        let healed = before.difference(&still).map(|object| (*object).to_owned()).collect();
        self.told = now;
        Changes { new, healed }
    }

    /// All there are, by object and field.
    pub fn all(&self) -> impl Iterator<Item = &Problem> {
        self.told.iter()
    }
}

/// Objects named in one line of the log; further ones are counted.
const NAMED: usize = 3;

impl Changes {
    /// Into the log: a person should act on each new one. What one cause does to many is one line.
    pub fn log(&self) {
        for (problem, others) in by_cause(&self.new) {
            let also = match named(&others) {
                none if none.is_empty() => String::new(),
                also => format!("; the same of {also}"),
            };
            tracing::warn!(remedy = problem.remedy, "{}: {}{also}", problem.place(), problem.what);
        }
        let healed: Vec<_> = self.healed.iter().map(String::as_str).collect();
        if let Some((first, others)) = healed.split_first() {
            let also = match named(others) {
                none if none.is_empty() => String::new(),
                also => format!(", {also}"),
            };
            tracing::info!("{first}{also}: what was wrong is put right, or the object is gone");
        }
    }
}

/// Problems of one field with one remedy have one cause: the first of each, and the places of the others.
fn by_cause(problems: &[Problem]) -> Vec<(&Problem, Vec<&str>)> {
    let mut causes: Vec<(&Problem, Vec<&str>)> = Vec::new();
    let mut known: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for problem in problems {
        // `spec.ports[3].port` is the field of `spec.ports[4].port`.
        let field = problem.field.chars().filter(|c| !c.is_ascii_digit()).collect();
        match known.entry((field, &problem.remedy)) {
            Entry::Occupied(at) => causes[*at.get()].1.push(&problem.object),
            Entry::Vacant(free) => {
                free.insert(causes.len());
                causes.push((problem, Vec::new()));
            }
        }
    }
    causes
}

/// Some names and how many more.
pub(super) fn named(names: &[impl AsRef<str>]) -> String {
    let mut shown: Vec<_> = names.iter().map(|name| name.as_ref().to_owned()).collect();
    shown.dedup();
    let more = shown.len().saturating_sub(NAMED);
    shown.truncate(NAMED);
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: &str, what: &str) -> Problem {
        Problem { object: object.into(), field: "f".into(), what: what.into(), remedy: "r".into() }
    }

    fn by_object(problems: &[&Problem]) -> ByObject {
        let mut map = ByObject::new();
        for problem in problems {
            map.entry(problem.object.clone()).or_default().push((*problem).clone());
        }
        map
    }

    #[test]
    fn each_problem_is_told_once_and_its_end_once() {
        let (a, b) = (problem("Service d/a", "x"), problem("Service d/b", "y"));
        let mut troubles = Troubles::default();
        let both = troubles.update([&by_object(&[&a]), &by_object(&[&b])]);
        assert_eq!(both, Changes { new: vec![a.clone(), b.clone()], healed: vec![] });
        let same = troubles.update([&by_object(&[&a, &b])]);
        assert_eq!(same, Changes::default());
        let one = troubles.update([&by_object(&[&b])]);
        assert_eq!(one, Changes { new: vec![], healed: vec!["Service d/a".into()] });
        let other = problem("Service d/b", "z");
        let changed = troubles.update([&by_object(&[&other])]);
        assert_eq!(changed, Changes { new: vec![other.clone()], healed: vec![] });
        assert_eq!(troubles.all().collect::<Vec<_>>(), [&other]);
        assert_eq!(troubles.update([&by_object(&[&a])]).new, [a], "a problem that comes back is told again");
    }

    #[test]
    fn what_one_cause_does_to_many_is_one_line() {
        let of = |object: &str, field: &str, remedy: &str| Problem {
            object: object.into(),
            field: field.into(),
            what: "x".into(),
            remedy: remedy.into(),
        };
        let mut all: Vec<_> =
            (0..40).map(|n| of(&format!("Slice d/s{n}"), &format!("p[{n}]"), "same")).collect();
        all.push(of("Service d/a", "p[1]", "another"));
        let causes = by_cause(&all);
        assert_eq!(causes.len(), 2);
        assert_eq!((causes[0].0.object.as_str(), causes[0].1.len()), ("Slice d/s0", 39));
        assert_eq!(named(&causes[0].1), "Slice d/s1, Slice d/s2, Slice d/s3, and 36 more");
        assert_eq!(named(&causes[1].1), "");
    }
}
