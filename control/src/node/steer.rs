//! Our nftables tables in the kernel: looked at, written whole in one transaction when they differ, taken away.
//!
//! All of it goes through the `nft` program, in JSON: the rules are few and rarely change. What follows Services is
//! elements of sets, and these only for addresses of this host; they are changed alone.

use std::path::PathBuf;

use serde_json::Value;

use super::LocalFrontends;
use super::firewall::{self, FirewallError};
use super::table::{self, Inputs, NAME, Table};

/// The `nft` program and what it said last.
#[derive(Clone, Debug)]
pub(crate) struct Steer {
    nft: PathBuf,
    /// What a table was told to hold besides elements, and how this version of nft lists that, where the two differ.
    dialect: Vec<(Table, Vec<Value>, Vec<Value>)>,
    /// What was in place after the last look.
    inputs: Option<Inputs>,
}

/// Takes our tables away, if this host has any; says which.
pub(crate) fn remove(device: &str) -> Result<Vec<String>, FirewallError> {
    let Some(steer) = Steer::find() else { return Ok(Vec::new()) };
    let there = steer.there(device).unwrap_or_else(|error| {
        // A kernel or an nft that cannot even be asked holds nothing of ours in most cases.
        tracing::warn!(%error, "could not look for nftables rules of ours");
        Vec::new()
    });
    if !there.is_empty() {
        steer.write(&[], &there.iter().map(|table| table.delete()).collect::<Vec<_>>())?;
    }
    Ok(there.into_iter().map(Table::text).collect())
}

impl Steer {
    /// `None` where there is no `nft`.
    pub(crate) fn find() -> Option<Self> {
        firewall::find("nft").map(|nft| Self { nft, dialect: Vec::new(), inputs: None })
    }

    /// Whether the last look left everything as these inputs want it.
    pub(crate) fn is_for(&self, inputs: &Inputs) -> bool {
        self.inputs.as_ref() == Some(inputs)
    }

    /// Makes the tables again what they were told to be.
    pub(crate) fn look(&mut self) -> Result<Vec<String>, FirewallError> {
        match self.inputs.clone() {
            Some(inputs) => self.ensure(&inputs),
            None => Ok(Vec::new()),
        }
    }

    /// The elements that are there, which an earlier process may have left.
    pub(crate) fn found(&self) -> Result<LocalFrontends, FirewallError> {
        let listed = self.list(Table::Inet)?.unwrap_or_default();
        Ok(table::elements(&table::apart(&listed).1))
    }

    /// Changes the elements alone, in one transaction. Where the tables are not as they were left, the next look writes
    /// them whole.
    pub(crate) fn serve(&mut self, local: &LocalFrontends) -> Result<(), FirewallError> {
        let Some(inputs) = &mut self.inputs else { return Ok(()) };
        let commands = table::changed_elements(&inputs.local, local);
        if commands.is_empty() {
            return Ok(());
        }
        let refused = inputs.clone();
        inputs.local.clone_from(local);
        let inputs = inputs.clone();
        if self.write(&[], &commands).is_err() {
            // Somebody took a set or an element away.
            return self.ensure(&inputs).map(drop).inspect_err(|_| self.inputs = Some(refused));
        }
        Ok(())
    }

    /// Makes the tables what `inputs` want, if they are not, and says which it wrote or removed.
    pub(crate) fn ensure(&mut self, inputs: &Inputs) -> Result<Vec<String>, FirewallError> {
        self.inputs = None;
        let mut commands = Vec::new();
        let (mut written, mut done) = (Vec::new(), Vec::new());
        for table in Table::ALL {
            let listed = self.list(table)?;
            match (table.contents(inputs), listed) {
                (Some(contents), listed) => {
                    let wanted = table::canonical_contents(contents.clone());
                    if !listed.is_some_and(|listed| self.means(table, &wanted, &listed)) {
                        commands.extend(table.replace(&contents));
                        written.push((table, wanted));
                        done.push(table.text());
                    }
                }
                (None, Some(_)) => {
                    commands.push(table.delete());
                    done.push(format!("no {}", table.text()));
                }
                (None, None) => {}
            }
        }
        if !commands.is_empty() {
            self.write(&[], &commands)?;
        }
        for (table, wanted) in written {
            self.dialect.retain(|(of, ..)| *of != table);
            let listed = self.list(table)?.unwrap_or_default();
            let (told, said) = (table::apart(&wanted).0, table::apart(&listed).0);
            if told != said {
                self.dialect.push((table, told, said));
            }
        }
        self.inputs = Some(inputs.clone());
        Ok(done)
    }

    /// Whether the kernel would take the tables; changes nothing.
    pub(crate) fn check(&self, inputs: &Inputs) -> Result<(), FirewallError> {
        let contents = Table::ALL.into_iter().filter_map(|table| Some((table, table.contents(inputs)?)));
        let commands: Vec<Value> = contents.flat_map(|(table, contents)| table.replace(&contents)).collect();
        self.write(&["-c"], &commands).map(drop)
    }

    /// Our tables that are in place, unless they belong to a tunway on another device.
    fn there(&self, device: &str) -> Result<Vec<Table>, FirewallError> {
        if self.owner()?.is_some_and(|owner| owner != device) {
            return Ok(Vec::new());
        }
        let mut there = Vec::new();
        for table in Table::ALL {
            if self.list(table)?.is_some() {
                there.push(table);
            }
        }
        Ok(there)
    }

    /// The device the tables in place are for.
    pub(crate) fn owner(&self) -> Result<Option<String>, FirewallError> {
        let listed = self.list(Table::Inet)?.unwrap_or_default();
        Ok(listed.iter().find_map(|object| {
            let first = object.pointer("/rule/expr/0/match")?;
            let interface = first.pointer("/left/meta/key")?.as_str()?;
            let named = matches!(interface, "iifname" | "oifname").then(|| first.get("right"))??;
            named.as_str().map(str::to_owned)
        }))
    }

    /// A listing stands for these contents: by itself, or because this version of nft lists them so.
    fn means(&self, table: Table, wanted: &[Value], listed: &[Value]) -> bool {
        let ((wanted, members), (listed, there)) = (table::apart(wanted), table::apart(listed));
        let same = |(of, told, said): &(Table, Vec<Value>, Vec<Value>)| {
            *of == table && *told == wanted && *said == listed
        };
        members == there && (listed == wanted || self.dialect.iter().any(same))
    }

    /// The contents of a table, canonical; `None` when there is no such table.
    fn list(&self, table: Table) -> Result<Option<Vec<Value>>, FirewallError> {
        match firewall::run(&self.nft, &["-j", "list", "table", table.family(), NAME], None) {
            Ok(listing) => match table::canonical(&listing) {
                Some(contents) => Ok(Some(contents)),
                None => Err(FirewallError {
                    command: format!("{} -j list table {} {NAME}", self.nft.display(), table.family()),
                    why: "did not answer in JSON".to_owned(),
                }),
            },
            Err(error) if error.why.contains(ABSENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, options: &[&str], commands: &[Value]) -> Result<String, FirewallError> {
        let mut arguments = options.to_vec();
        arguments.extend(["-j", "-f", "-"]);
        firewall::run(&self.nft, &arguments, Some(&table::document(commands)))
    }
}

/// `strerror(ENOENT)` in the C locale, which [`firewall::run`] asks for. A family the kernel does not have at all
/// answers the same.
const ABSENT: &str = "No such file or directory";
