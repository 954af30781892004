//! By which rule a Service's flows are spread: what it asks for, else the configuration's, as far as there is room.

use dataplane::service::{Balancing, HashBy, Selector};

use super::draft::{Draft, Ground};
use crate::model::service::balance::{Algorithm, BALANCING};
use crate::model::{Problem, Service};

/// What a Service is to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    algorithm: Algorithm,
    by: HashBy,
    /// There is room for its Maglev tables.
    granted: bool,
}

impl Wish {
    pub(super) fn of(service: &Service, ground: &Ground<'_>) -> Self {
        Self {
            algorithm: service.balance.algorithm.unwrap_or(ground.rules.algorithm),
            by: service.balance.hash_by.unwrap_or(ground.rules.hash_by),
            granted: ground.tables.grants(&service.key),
        }
    }

    /// The rule it gets: without room for tables rendezvous hashing, which needs none.
    pub(super) const fn selector(self) -> Selector {
        let refused = matches!(self.algorithm, Algorithm::Maglev) && !self.granted;
        if refused { Selector::Hrw(self.by) } else { self.algorithm.selector(self.by) }
    }

    /// Takes down what tables the compiled Service asks for, and tells its owner if it does not get them.
    pub(super) fn account(self, service: &Service, draft: &mut Draft) {
        if self.algorithm != Algorithm::Maglev {
            return;
        }
        let sets = draft.ports.iter().map(|(_, port)| [port.cluster.len(), port.local.len()]);
        if sets.clone().flatten().any(|members| !Balancing::fits_maglev(members)) {
            let what = "more endpoints than a Maglev table has slots for; rendezvous hashing is used";
            draft.problems.push(problem(service, what, "use another algorithm"));
            return;
        }
        draft.table_bytes = sets.map(Balancing::maglev_bytes).sum();
        if draft.table_bytes > 0 && !self.granted {
            let what =
                "no room for its Maglev tables beside those of older Services; rendezvous hashing is used";
            draft.problems.push(problem(service, what, "raise loadBalancing.maglevMemory"));
        }
    }
}

fn problem(service: &Service, what: &str, remedy: &str) -> Problem {
    let field = match service.balance.algorithm {
        Some(_) => format!("metadata.annotations[{BALANCING}]"),
        None => String::new(),
    };
    Problem { object: format!("Service {}", service.key), field, what: what.into(), remedy: remedy.into() }
}
