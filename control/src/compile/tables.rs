//! Who may have Maglev tables: all of them together take at most so many bytes, and the oldest Services come first, so
//! that who has a table does not hang on the order of events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::ObjectKey;

/// A Service's place in line: when it was made, then its name.
type Rank = (i64, Arc<ObjectKey>);

/// What Services want, and who gets it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    wanted: BTreeMap<Rank, usize>,
    ranks: HashMap<Arc<ObjectKey>, i64>,
    granted: BTreeSet<Arc<ObjectKey>>,
    /// For what it was last decided.
    decided: Option<usize>,
}

impl Tables {
    /// The Service has its tables, as far as was decided.
    pub(super) fn grants(&self, key: &ObjectKey) -> bool {
        self.granted.contains(key)
    }

    /// The Service, made then, wants so many bytes for its tables; 0: none.
    pub(super) fn want(&mut self, key: &Arc<ObjectKey>, created: i64, bytes: usize) {
        let before = self.ranks.remove(key);
        let wanted = before.and_then(|before| self.wanted.remove(&(before, Arc::clone(key))));
        if (before, wanted.unwrap_or_default()) != ((bytes > 0).then_some(created), bytes) {
            self.decided = None;
        }
        if bytes > 0 {
            self.ranks.insert(Arc::clone(key), created);
            self.wanted.insert((created, Arc::clone(key)), bytes);
        }
    }

    /// Decides anew who gets tables within so many bytes: those for whom that changed.
    pub(super) fn decide(&mut self, budget: usize) -> Vec<Arc<ObjectKey>> {
        if self.decided.replace(budget) == Some(budget) {
            return Vec::new();
        }
        let mut left = budget;
        let mut granted = BTreeSet::new();
        for ((_, key), bytes) in &self.wanted {
            if let Some(rest) = left.checked_sub(*bytes) {
                left = rest;
                granted.insert(Arc::clone(key));
            }
        }
        let moved = granted.symmetric_difference(&self.granted).cloned().collect();
        self.granted = granted;
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::key;

    #[test]
    fn the_oldest_come_first_and_what_is_left_goes_to_who_fits() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Arc::new(key(name)));
        let mut tables = Tables::default();
        tables.want(&a, 3, 40);
        tables.want(&b, 2, 80);
        tables.want(&c, 1, 50);
        assert_eq!(tables.decide(100), [Arc::clone(&a), Arc::clone(&c)], "80 do not fit beside 50");
        assert_eq!([&a, &b, &c].map(|key| tables.grants(key)), [true, false, true]);
        assert_eq!(tables.decide(100), []);
        tables.want(&c, 1, 0);
        assert_eq!(tables.decide(100), [Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)]);
        assert_eq!([&a, &b, &c].map(|key| tables.grants(key)), [false, true, false]);
        tables.want(&b, 9, 80);
        assert_eq!(tables.decide(100), [a, b], "younger now");
    }
}
