//! The configuration file says something else while it runs.

use super::*;
use crate::config::ConfigError;
use crate::config::file::{ConfigFile, ExternalIpsFile, LoadBalancingFile, SourceFile};

/// The file of [`play`] with a change.
fn file(change: impl FnOnce(&mut ConfigFile)) -> Reread {
    let mut file = ConfigFile {
        max_flows: Some(crate::config::file::MaxFlows { ipv4: Some(4096), ipv6: Some(4096) }),
        return_path: Some(crate::config::file::ReturnPathName::Masquerade),
        snat_addresses: Some(vec!["192.0.2.1".parse().unwrap()]),
        source: Some(SourceFile { manifests: Some("/etc/m".into()), kubernetes: None }),
        ..ConfigFile::default()
    };
    change(&mut file);
    Reread { asked: false, outcome: Ok(Box::new(file)) }
}

fn web() -> Service {
    Service { external_ips: vec!["203.0.113.9".parse().unwrap()], ..service("web", "10.96.0.7") }
}

#[test]
fn a_file_that_changed_is_in_force_at_once_where_it_can_be() {
    let (ended, _) = play(async |outside| {
        outside.list(vec![web()]).await;
        let first = outside.until_services(|services| services.status.ready).await;
        assert_eq!((first.services[0].frontends.len(), first.services[0].balancing.as_str()), (1, "random"));
        let changed = file(|file| {
            let allow = Some(vec!["203.0.113.0/24".to_owned()]);
            file.external_ips = Some(ExternalIpsFile { allow });
            let algorithm = Some("p2c".to_owned());
            file.load_balancing = Some(LoadBalancingFile { algorithm, ..LoadBalancingFile::default() });
            file.service_cidrs = Some(vec!["10.200.0.0/16".to_owned()]);
            file.workers = Some(1);
        });
        outside.files.send(changed).await.unwrap();
        let generation = first.status.generation;
        let second = outside.until_services(|services| services.status.generation > generation).await;
        assert_eq!((second.services[0].frontends.len(), second.services[0].balancing.as_str()), (2, "p2c"));
        assert_eq!(outside.host.0.borrow().cidrs, [("10.200.0.0".parse().unwrap(), 16)]);
        let same = second.status.generation;
        outside.files.send(file(|file| file.workers = Some(1))).await.unwrap();
        let third = outside.until_services(|services| services.status.generation > same).await;
        assert_eq!(third.services[0].balancing, "random", "what is gone from the file has its default");
    });
    ended.unwrap();
}

#[test]
fn a_bad_file_is_told_of_until_it_is_good_and_the_last_good_one_goes_on() {
    let (ended, _) = play(async |outside| {
        outside.list(vec![web()]).await;
        let first = outside.until(|status| status.ready).await;
        let bad = ConfigError::new("masquerade", "unknown field", "did you mean `masqueradeAll`?");
        outside.files.send(Reread { asked: true, outcome: Err(bad) }).await.unwrap();
        let told = |services: &Services| services.problems.iter().any(|problem| problem.object == "Config");
        let blamed = outside.until_services(told).await;
        assert_eq!(blamed.status.generation, first.generation);
        let problem = blamed.problems.iter().find(|problem| problem.object == "Config").unwrap();
        assert_eq!(problem.field, "masquerade");
        assert!(problem.what.contains("the last good one goes on"), "{problem:?}");
        outside.files.send(file(|_| {})).await.unwrap();
        outside.until_services(|services| !told(services)).await;
        assert_eq!(outside.status().await.generation, first.generation, "nothing else changed");
    });
    ended.unwrap();
}
