//! What a directory of manifests says, remembering the last good state of everything in it.
//!
//! A broken object keeps what it last was. A document that cannot even be read keeps every object its file had and
//! does not name any more: it may have been any of them. Only what is really gone, from a file that can be read or
//! with its whole file, stops being served.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;

use super::documents;
use super::files::{self, Content};
use super::objects::{self, Identity, Item, Object, Outcome, Reader};
use crate::model::{Node, ObjectKey, Problem, Service, ServiceCidr, Slice};
use crate::source::{Event, Kind};

/// A directory as last seen.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    reader: Reader,
    files: BTreeMap<String, File>,
    fingerprint: Option<u64>,
}

/// Everything a directory says at once, the first of every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) services: BTreeMap<ObjectKey, Service>,
    pub(super) slices: BTreeMap<ObjectKey, Slice>,
    pub(super) cidrs: BTreeMap<String, ServiceCidr>,
    pub(super) node: Option<Node>,
    /// By what they are about.
    pub(super) problems: BTreeMap<String, Vec<Problem>>,
}

#[derive(Debug, Default)]
struct File {
    hash: u64,
    held: Vec<Held>,
    problems: Vec<Problem>,
}

/// An object that is served, and where it was read.
#[derive(Clone, Debug)]
struct Held {
    identity: Identity,
    place: String,
    object: Object,
}

impl View {
    /// What it says of these kinds.
    pub(super) fn objects(&self, kinds: &[Kind]) -> impl Iterator<Item = Event> {
        let of = |kind| kinds.contains(&kind);
        let nodes = self.node.iter().filter(move |_| of(Kind::Node));
        let cidrs = self.cidrs.values().filter(move |_| of(Kind::ServiceCidr));
        let slices = self.slices.values().filter(move |_| of(Kind::Slice));
        let services = self.services.values().filter(move |_| of(Kind::Service));
        let nodes = nodes.map(|node| Event::Node(Box::new(node.clone())));
        let cidrs = cidrs.map(|cidr| Event::ServiceCidr(cidr.clone()));
        let slices = slices.map(|slice| Event::Slice(Box::new(slice.clone())));
        let services = services.map(|service| Event::Service(Box::new(service.clone())));
        nodes.chain(cidrs).chain(slices).chain(services)
    }

    /// The other says something else of this kind.
    pub(super) fn differs(&self, other: &Self, kind: Kind) -> bool {
        match kind {
            Kind::Service => self.services != other.services,
            Kind::Slice => self.slices != other.slices,
            Kind::Node => self.node != other.node,
            Kind::ServiceCidr => self.cidrs != other.cidrs,
        }
    }
}

impl Directory {
    /// Nothing seen yet.
    pub(super) fn new(path: PathBuf, node_name: String) -> Self {
        let reader = Reader { node_name };
        Self { path, reader, files: BTreeMap::new(), fingerprint: None }
    }

    /// What [`files::fingerprint`] said of the state last read.
    pub(super) const fn fingerprint(&self) -> Option<u64> {
        self.fingerprint
    }

    /// Reads what has changed. On an error everything stays as it was.
    pub(super) fn scan(&mut self) -> io::Result<()> {
        let mut contents = BTreeMap::new();
        let mut fingerprint = DefaultHasher::new();
        let known = &self.files;
        files::visit(&self.path, |name, content| {
            let hash = files::hash(&content);
            (name.as_str(), hash).hash(&mut fingerprint);
            let changed = known.get(&name).is_none_or(|file| file.hash != hash);
            contents.insert(name, (hash, changed.then_some(content)));
        })?;
        let mut before = std::mem::take(&mut self.files);
        let mut after = BTreeMap::new();
        for (name, (hash, content)) in contents {
            let file = match content {
                None => before.remove(&name).unwrap_or_default(),
                Some(content) => {
                    let items = self.items(&name, content);
                    File::new(hash, items, before.get(&name), &before)
                }
            };
            after.insert(name, file);
        }
        self.files = after;
        self.fingerprint = Some(fingerprint.finish());
        Ok(())
    }

    /// All of it, with objects that are there twice told.
    pub(super) fn view(&self) -> View {
        let mut view = View::default();
        let mut places: BTreeMap<&Identity, &str> = BTreeMap::new();
        for problem in self.files.values().flat_map(|file| &file.problems) {
            view.problems.entry(problem.object.clone()).or_default().push(problem.clone());
        }
        for held in self.files.values().flat_map(|file| &file.held) {
            if let Some(first) = places.get(&held.identity) {
                let problem = Problem {
                    object: held.place.clone(),
                    field: "metadata.name".to_owned(),
                    what: format!("it is there already ({first}); this one is not used"),
                    remedy: "rename or remove one of the two".to_owned(),
                };
                view.problems.entry(held.place.clone()).or_default().push(problem);
                continue;
            }
            places.insert(&held.identity, &held.place);
            match &held.object {
                Object::Service(service) => {
                    _ = view.services.insert(service.key.clone(), Service::clone(service))
                }
                Object::Slices(slices) => {
                    view.slices.extend(slices.iter().map(|slice| (slice.key.clone(), slice.clone())))
                }
                Object::Node(node) => view.node = Some(node.clone()),
                Object::ServiceCidr(cidr) => _ = view.cidrs.insert(cidr.name.clone(), cidr.clone()),
                Object::Nothing => {}
            }
        }
        view
    }

    /// The objects of a file. One that cannot be read at all is one broken document.
    fn items(&self, name: &str, content: Content) -> Vec<Item> {
        let documents = content.and_then(|bytes| documents::read(name, &bytes));
        match documents {
            Ok(documents) => documents
                .into_iter()
                .flat_map(|document| objects::items(name, document, &self.reader))
                .collect(),
            Err(why) => {
                let problem = Problem {
                    object: name.to_owned(),
                    field: String::new(),
                    what: format!("{why}; the file is not applied"),
                    remedy: "make it a readable YAML or JSON file, or move it away".to_owned(),
                };
                vec![Item { place: name.to_owned(), outcome: Outcome::Bad(None), problems: vec![problem] }]
            }
        }
    }
}

impl File {
    fn new(
        hash: u64,
        items: Vec<Item>,
        same_before: Option<&Self>,
        all_before: &BTreeMap<String, Self>,
    ) -> Self {
        let mut file = Self { hash, ..Self::default() };
        let mut named = BTreeSet::new();
        let mut unreadable = Vec::new();
        for mut item in items {
            match item.outcome {
                Outcome::Good(identity, object) => {
                    named.insert(identity.clone());
                    file.held.push(Held { identity, place: item.place, object });
                }
                Outcome::Bad(Some(identity)) => {
                    named.insert(identity.clone());
                    let all = same_before.into_iter().chain(all_before.values());
                    let last_good = all.flat_map(|file| &file.held).find(|held| held.identity == identity);
                    tell_what_serves(&mut item.problems, last_good.is_some());
                    file.held.extend(last_good.map(|held| Held { place: item.place, ..held.clone() }));
                }
                Outcome::Bad(None) => {
                    unreadable.push(file.problems.len()..file.problems.len() + item.problems.len())
                }
                Outcome::Skipped(note) => tracing::info!("{note}"),
            }
            file.problems.append(&mut item.problems);
        }
        if !unreadable.is_empty() {
            let lost = same_before
                .into_iter()
                .flat_map(|file| &file.held)
                .filter(|held| !named.contains(&held.identity));
            let kept: Vec<Held> = lost.cloned().collect();
            for range in unreadable {
                tell_what_serves(&mut file.problems[range], !kept.is_empty());
            }
            file.held.extend(kept);
        }
        file
    }
}

fn tell_what_serves(problems: &mut [Problem], last_good: bool) {
    if let (Some(problem), true) = (problems.first_mut(), last_good) {
        problem.what.push_str("; what it last said still serves");
    }
}

#[cfg(test)]
mod tests;
