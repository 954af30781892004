//! Text as a configuration: what is read is printed, and what was printed reads as the same; and as kube-proxy's
//! configuration, whose translation must be one that can be read.

use control::config::file::{API_VERSION, ConfigFile, KIND};
use control::config::kube_proxy::{self, KUBE_PROXY_API, KUBE_PROXY_KIND};
use control::config::read::parse;
use control::config::write::to_yaml;
use control::config::{Config, Machine};

/// Runs the target.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    ours(text);
    ours(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}"));
    kube_proxys(text);
    kube_proxys(&format!("apiVersion: {KUBE_PROXY_API}\nkind: {KUBE_PROXY_KIND}\n{text}"));
}

fn ours(text: &str) {
    let given = match parse(text) {
        Ok(given) => given,
        Err(error) => {
            assert!(
                !error.field.is_empty() && !error.what.is_empty() && !error.remedy.is_empty(),
                "{error:?}"
            );
            return;
        }
    };
    prints_as_itself(&given);
    let machine = |name: &str, cores| Machine { node_name: None, host_name: name.into(), cores };
    let Ok(config) = Config::resolve(given.clone(), &machine("here", 4)) else { return };
    let effective = config.effective(given);
    prints_as_itself(&effective);
    // What is printed means the same on any machine.
    let again = Config::resolve(effective.clone(), &machine("elsewhere", 1));
    let mut again = again.unwrap_or_else(|error| panic!("{error}\n{}", printed(&effective)));
    again.node.name.clone_from(&config.node.name);
    assert_eq!(again, config, "{}", printed(&effective));
    assert_eq!(printed(&again.effective(effective.clone())), printed(&effective));
}

fn prints_as_itself(file: &ConfigFile) {
    let yaml = printed(file);
    let read = parse(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(printed(&read), yaml);
    assert_eq!(&read, file, "{yaml}");
}

fn printed(file: &ConfigFile) -> String {
    to_yaml(file).unwrap_or_else(|error| panic!("{error}"))
}

fn kube_proxys(text: &str) {
    let Ok(translation) = kube_proxy::translate(text) else { return };
    let rendered = translation.render().unwrap_or_else(|error| panic!("{error}"));
    let read = parse(&rendered).unwrap_or_else(|error| panic!("{error}\n{rendered}"));
    assert_eq!(read, translation.file, "{rendered}");
}
