//! What the control socket shows of what a run was told.

use super::*;
use crate::model::Problem;

#[test]
fn health_and_problems_are_shown() {
    let (ended, _) = play(async |outside| {
        for (connected, detail) in
            [(false, "not yet"), (true, "here"), (false, "reset"), (false, "connection refused")]
        {
            outside.send(Event::Health { connected, detail: detail.into() }).await;
        }
        let problem = Problem {
            object: "Service default/x".into(),
            field: "spec".into(),
            what: "odd".into(),
            remedy: "even it".into(),
        };
        let object = problem.object.clone();
        outside.send(Event::Problems { object: object.clone(), problems: vec![problem] }).await;
        let shown = outside.until_services(|services| !services.problems.is_empty()).await;
        assert_eq!((shown.problems.len(), shown.problems[0].what.as_str()), (1, "odd"));
        assert_eq!((shown.status.connected, shown.status.source.as_str()), (false, "connection refused"));
        let Answer::Counters(counted) = outside.ask(Query::Counters).await else { panic!("no counters") };
        assert_eq!((counted.counters["source_lost"], counted.counters["received"]), (1, 0));
        outside.send(Event::Problems { object, problems: vec![] }).await;
        outside.until_services(|services| services.problems.is_empty()).await;
    });
    ended.unwrap();
}
