//! A directory of manifests read when somebody says so, without a watch: what [`super::Manifests`] sends, step by step.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::KINDS;
use super::directory::Directory;
use crate::source::Event;

/// A directory that is read on demand and remembers the last good state of what is in it.
#[derive(Debug)]
pub struct Scanner {
    directory: Directory,
    /// What there were problems of the last time.
    blamed: BTreeSet<String>,
}

impl Scanner {
    /// The manifests in this directory, for the Node of this name. Nothing is read yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, node_name: &str) -> Self {
        let directory = Directory::new(directory.into(), node_name.to_owned());
        Self { directory, blamed: BTreeSet::new() }
    }

    /// Reads the directory; complete lists of every kind, and every problem there is or is no longer.
    ///
    /// # Errors
    /// The directory cannot be read; everything stays as it was.
    pub fn scan(&mut self) -> io::Result<Vec<Event>> {
        self.directory.scan()?;
        let view = self.directory.view();
        let mut events: Vec<Event> = KINDS.map(Event::Restart).into();
        events.extend(view.objects(&KINDS));
        events.extend(KINDS.map(Event::Done));
        let blamed = view.problems.keys().cloned().collect();
        let before = std::mem::replace(&mut self.blamed, blamed);
        let mended = before.difference(&self.blamed).cloned();
        events.extend(mended.map(|object| Event::Problems { object, problems: Vec::new() }));
        let problems = view.problems.into_iter();
        events.extend(problems.map(|(object, problems)| Event::Problems { object, problems }));
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_gives_complete_lists_and_takes_back_what_was_mended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let service = |ip: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
            )
        };
        let mut scanner = Scanner::new(folder.path(), "n1");
        let services =
            |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Service(_))).count();
        std::fs::write(&file, service("10.96.0.10")).unwrap();
        assert_eq!(services(&scanner.scan().unwrap()), 1);
        std::fs::write(&file, service("[]")).unwrap();
        let broken = scanner.scan().unwrap();
        let told: Vec<_> = broken
            .iter()
            .filter_map(|event| {
                let Event::Problems { object, problems } = event else { return None };
                (!problems.is_empty()).then(|| object.clone())
            })
            .collect();
        assert_eq!((services(&broken), told.len()), (1, 1), "the last good state goes on: {broken:?}");
        std::fs::write(&file, service("10.96.0.10")).unwrap();
        let mended = Event::Problems { object: told[0].clone(), problems: Vec::new() };
        assert!(scanner.scan().unwrap().contains(&mended));
    }
}
