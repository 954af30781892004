//! `tunway config`: what a configuration file is worth, what it means with every default, and one made of kube-proxy's.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::Failure;
use crate::config::{Config, ConfigError, Machine, kube_proxy, read, rules, write};

/// The commands about files.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether `run` would take the file, and what is wrong with it
    Check {
        /// The configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the configuration with every default filled in
    Print {
        /// The configuration file [default: none, which is all defaults]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print a configuration that does what kube-proxy's does, with comments on what was taken over and what was not
    FromKubeProxy {
        /// A KubeProxyConfiguration, also within kubeadm's ConfigMap; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Does it. `machine` is what defaults hang on.
///
/// # Errors
/// The first thing that is wrong with the file, or the output cannot be written.
pub fn run(command: &ConfigCommand, machine: &Machine, out: &mut dyn Write) -> Result<(), Failure> {
    let text = match command {
        ConfigCommand::Check { file } => {
            let given = read::read(file)?;
            let config = Config::resolve(given.clone(), machine)?;
            rules::needs_snat(config.return_path, &config.snat)?;
            let notes = given.obsolete().into_iter().map(|said| format!("note: {said}\n"));
            notes.chain([format!("{}: good\n", file.display())]).collect()
        }
        ConfigCommand::Print { file } => {
            let given = file.as_deref().map(read::read).transpose()?.unwrap_or_default();
            let config = Config::resolve(given.clone(), machine)?;
            write::to_yaml(&config.effective(given)).map_err(anyhow::Error::from)?
        }
        ConfigCommand::FromKubeProxy { file } => {
            let translation = kube_proxy::translate(&whole(file)?)?;
            // What it gives must be good: kube-proxy may have taken what cannot be used here.
            Config::resolve(translation.file.clone(), machine)?;
            translation.render().map_err(anyhow::Error::from)?
        }
    };
    super::print(out, text.as_bytes())
}

fn whole(path: &Path) -> Result<String, ConfigError> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| {
        let what = format_args!("{}: {error}", path.display()).to_string();
        ConfigError::new("FILE", what, "name a file that can be read")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(command: &ConfigCommand) -> Result<String, Failure> {
        let machine = Machine { node_name: None, host_name: "n1".into(), cores: 2 };
        let mut out = Vec::new();
        run(command, &machine, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_file_is_checked_as_a_run_would() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tunway.yaml");
        let check = ConfigCommand::Check { file: file.clone() };
        let head = "apiVersion: tunway.dev/v1alpha1\nkind: Config\n";
        std::fs::write(&file, format!("{head}workers: 2\n")).unwrap();
        assert!(ran(&check).unwrap().ends_with("tunway.yaml: good\n"));
        std::fs::write(&file, format!("{head}returnPath: connmark\nmarks: {{packet: 7}}\n")).unwrap();
        let said = ran(&check).unwrap();
        assert!(said.contains("old name of conntrack") && said.contains("marks means nothing"), "{said}");
        assert!(said.ends_with("tunway.yaml: good\n"), "{said}");
        std::fs::write(&file, format!("{head}workers: 99\n")).unwrap();
        let failure = ran(&check).unwrap_err();
        assert!(failure.to_string().contains("workers") && failure.exit_code() == super::super::EX_USAGE);
        std::fs::write(&file, format!("{head}returnPath: masquerade\n")).unwrap();
        assert!(ran(&check).unwrap_err().to_string().contains("snatAddresses"));
        std::fs::remove_file(&file).unwrap();
        assert!(ran(&check).unwrap_err().to_string().contains("tunway.yaml"));
    }

    #[test]
    fn what_is_printed_or_translated_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["kube-proxy.yaml", "tunway.yaml"].map(|name| folder.path().join(name));
        let kube_proxy = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        std::fs::write(&from, format!("{kube_proxy}clusterCIDR: 10.244.0.0/16\n")).unwrap();
        for command in
            [ConfigCommand::Print { file: None }, ConfigCommand::FromKubeProxy { file: from.clone() }]
        {
            std::fs::write(&to, ran(&command).unwrap()).unwrap();
            ran(&ConfigCommand::Check { file: to.clone() }).unwrap();
            assert!(ran(&ConfigCommand::Print { file: Some(to.clone()) }).unwrap().contains("nodeName: n1"));
        }
        std::fs::write(&from, format!("{kube_proxy}clusterCIDR: 10.0.0.0/8,11.0.0.0/8\n")).unwrap();
        let failure = ran(&ConfigCommand::FromKubeProxy { file: from }).unwrap_err();
        assert!(failure.to_string().contains("second IPv4"), "{failure}");
    }
}
