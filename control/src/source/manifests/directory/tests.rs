use super::*;
use std::fs;

struct World {
    root: tempfile::TempDir,
    directory: Directory,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path().to_owned(), "n1".to_owned());
        Self { root, directory }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.root.path().join(name), content).unwrap();
    }

    /// Services and their addresses after a scan, and the objects complained about.
    fn scan(&mut self) -> (Vec<String>, Vec<String>) {
        self.directory.scan().unwrap();
        let view = self.directory.view();
        let services =
            view.services.values().map(|service| format!("{} {}", service.key, service.cluster_ips[0]));
        (services.collect(), view.problems.into_keys().collect())
    }
}

fn service(name: &str, last: u8) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.96.0.{last}, ports: [{{port: 80}}]}}\n"
    )
}

fn broken(name: &str) -> String {
    service(name, 1).replace("port: 80", "port: 0")
}

#[test]
fn the_first_of_two_equal_objects_wins_and_the_other_is_told() {
    let mut world = World::new();
    world.write("b.yaml", service("web", 2) + &service("web", 3));
    world.write("a.yaml", service("web", 1) + &service("db", 9));
    let (services, problems) = world.scan();
    assert_eq!(services, ["default/db 10.96.0.9", "default/web 10.96.0.1"]);
    assert_eq!(
        problems,
        ["b.yaml, document 1: Service default/web", "b.yaml, document 2: Service default/web"]
    );
    let view = world.directory.view();
    let problem = &view.problems["b.yaml, document 1: Service default/web"][0];
    assert!(problem.what.contains("a.yaml, document 1"), "{problem}");

    fs::remove_file(world.root.path().join("a.yaml")).unwrap();
    assert_eq!(world.scan().0, ["default/web 10.96.0.2"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_state() {
    let mut world = World::new();
    world.write("a.yaml", service("web", 1) + &service("db", 2));
    assert_eq!(world.scan().0, ["default/db 10.96.0.2", "default/web 10.96.0.1"]);
    // Broken and moved to another place in the file; the other object changes all the same.
    world.write("a.yaml", service("db", 3) + &broken("web"));
    let (services, problems) = world.scan();
    assert_eq!(services, ["default/db 10.96.0.3", "default/web 10.96.0.1"]);
    assert_eq!(problems, ["a.yaml, document 2: Service default/web"]);
    let view = world.directory.view();
    assert!(view.problems[&problems[0]][0].what.ends_with("what it last said still serves"));
    // Broken in another way, and moved to another file: still the last good one.
    fs::remove_file(world.root.path().join("a.yaml")).unwrap();
    world.write("b.yaml", broken("web").replace("port: 0", "port: http"));
    assert_eq!(world.scan().0, ["default/web 10.96.0.1"]);
    world.write("b.yaml", service("web", 4));
    assert_eq!(world.scan(), (vec!["default/web 10.96.0.4".to_owned()], vec![]));
    world.write("b.yaml", "");
    assert_eq!(world.scan().0, [] as [&str; 0], "what is really gone is gone");
}

#[test]
fn a_broken_object_that_never_was_good_is_not_served_at_all() {
    let mut world = World::new();
    world.write("a.yaml", broken("web") + &service("db", 2));
    let (services, problems) = world.scan();
    assert_eq!((services.len(), problems.len()), (1, 1));
    assert!(!world.directory.view().problems[&problems[0]][0].what.contains("still serves"));
}

#[test]
fn an_unreadable_document_keeps_what_its_file_had_and_no_more() {
    let mut world = World::new();
    world.write("a.yaml", service("web", 1) + &service("db", 2) + &service("old", 3));
    world.write("b.yaml", service("other", 4));
    world.scan();
    world.write("a.yaml", service("db", 5) + "---\nkind: [Service\n" + &service("new", 6));
    fs::remove_file(world.root.path().join("b.yaml")).unwrap();
    let (services, problems) = world.scan();
    assert_eq!(
        services,
        ["default/db 10.96.0.5", "default/new 10.96.0.6", "default/old 10.96.0.3", "default/web 10.96.0.1"]
    );
    assert_eq!(problems, ["a.yaml, document 2"]);
    assert!(world.directory.view().problems["a.yaml, document 2"][0].what.ends_with("still serves"));
    // The document repaired by taking it out.
    world.write("a.yaml", service("db", 5));
    assert_eq!(world.scan(), (vec!["default/db 10.96.0.5".to_owned()], vec![]));
}

#[test]
fn a_file_that_cannot_be_read_keeps_all_it_had() {
    let mut world = World::new();
    world.write("a.yaml", service("web", 1));
    world.scan();
    world.write("a.yaml", b"\xff\xfe");
    let (services, problems) = world.scan();
    assert_eq!((services, problems), (vec!["default/web 10.96.0.1".to_owned()], vec!["a.yaml".to_owned()]));
    fs::File::create(world.root.path().join("a.yaml")).unwrap().set_len(17 << 20).unwrap();
    let (services, _) = world.scan();
    assert_eq!(services, ["default/web 10.96.0.1"]);
    assert!(world.directory.view().problems["a.yaml"][0].what.contains("larger than 16 MiB"));
}

#[test]
fn a_directory_that_is_gone_leaves_everything_as_it_was() {
    let mut world = World::new();
    world.write("a.yaml", service("web", 1));
    world.scan();
    let before = (world.directory.view(), world.directory.fingerprint());
    fs::remove_dir_all(world.root.path()).unwrap();
    assert!(world.directory.scan().is_err());
    assert_eq!((world.directory.view(), world.directory.fingerprint()), before);
    fs::create_dir(world.root.path()).unwrap();
    assert_eq!(world.scan().0, [] as [&str; 0]);
}

#[test]
fn the_fingerprint_is_the_one_of_the_files() {
    let mut world = World::new();
    assert_eq!(world.directory.fingerprint(), None);
    for (name, content) in [("a.yaml", "a"), ("b.json", "{}"), ("a.yaml", "b"), ("note.txt", "c")] {
        world.write(name, content);
        world.scan();
        assert_eq!(world.directory.fingerprint(), Some(files::fingerprint(world.root.path()).unwrap()));
    }
}

#[test]
fn endpoints_and_slices_of_one_name_are_two_objects() {
    let mut world = World::new();
    world.write(
        "a.yaml",
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: [{addresses: [{ip: 10.1.0.1}, {ip: 'fd00::1'}], ports: [{port: 1}]}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: web, labels: {kubernetes.io/service-name: web}}\n",
    );
    assert_eq!(world.scan().1, [] as [&str; 0]);
    let names: Vec<String> = world.directory.view().slices.into_keys().map(|key| key.name).collect();
    assert_eq!(names, ["endpoints:web:0:IPv4", "endpoints:web:0:IPv6", "web"]);
}
