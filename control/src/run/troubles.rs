//! What is wrong with objects: told once when it appears, once when it is gone, and listed in between.

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

impl Changes {
    /// Into the log: a person should act on each new one.
    pub fn log(&self) {
        for problem in &self.new {
            tracing::warn!(remedy = problem.remedy, "{}: {}", problem.place(), problem.what);
        }
        for object in &self.healed {
            tracing::info!("{object}: what was wrong is put right, or the object is gone");
        }
    }
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
}
