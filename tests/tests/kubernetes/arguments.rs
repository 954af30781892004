//! The command line: name filters as the standard harness has them, and which proxies.

use tests::kubernetes::Proxy;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    /// Against whom, in the order of the columns.
    pub proxies: Vec<Proxy>,
    /// Only say what there is.
    pub list: bool,
    names: Vec<String>,
    skip: Vec<String>,
    exact: bool,
}

impl Arguments {
    /// Takes the words of the command line.
    ///
    /// # Errors
    /// A proxy there is not: what may be said.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self { proxies: vec![Proxy::Tunway, Proxy::KubeProxy], ..Self::default() };
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--proxy" => arguments.proxies = proxies(&words.next().unwrap_or_default())?,
                "--exact" => arguments.exact = true,
                "--list" => arguments.list = true,
                "--skip" => arguments.skip.extend(words.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" => drop(words.next()),
                option if option.starts_with('-') => {}
                _ => arguments.names.push(word),
            }
        }
        Ok(arguments)
    }

    /// Whether a scenario is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let fits = |word: &String| if self.exact { name == word } else { name.contains(word.as_str()) };
        (self.names.is_empty() || self.names.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}

fn proxies(word: &str) -> Result<Vec<Proxy>, String> {
    match word {
        "tunway" => Ok(vec![Proxy::Tunway]),
        "kube-proxy" => Ok(vec![Proxy::KubeProxy]),
        "both" => Ok(vec![Proxy::Tunway, Proxy::KubeProxy]),
        other => Err(format!("--proxy {other:?}: tunway, kube-proxy or both")),
    }
}
