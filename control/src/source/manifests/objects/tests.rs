use super::super::documents;
use super::*;

fn read(yaml: &str) -> Vec<Item> {
    let documents = documents::read("web.yaml", yaml.as_bytes()).unwrap();
    documents.into_iter().flat_map(|document| items("web.yaml", document, &reader())).collect()
}

fn one(yaml: &str) -> Item {
    let mut items = read(yaml);
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0)
}

fn object(item: &Item) -> &Object {
    match &item.outcome {
        Outcome::Good(_, object) => object,
        Outcome::Bad(_) | Outcome::Skipped(_) => panic!("{item:?}"),
    }
}

/// The problem of a document that is not applied.
fn refused(yaml: &str) -> (String, String) {
    let item = one(yaml);
    assert!(matches!(item.outcome, Outcome::Bad(_)), "{item:?}");
    let problem = item.problems.first().unwrap();
    assert!(!problem.remedy.is_empty() && problem.object == item.place);
    (problem.object.clone(), problem.field.clone())
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
    metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n";

fn service(spec: &str) -> String {
    format!("{SERVICE}spec: {spec}\n")
}

fn reader() -> Reader {
    Reader { node_name: "n1".into() }
}

#[test]
fn what_an_api_server_would_fill_in_is_filled_in() {
    for (spec, addresses) in [
        ("{clusterIP: 10.96.0.10, ports: [{port: 80}]}", &["10.96.0.10"][..]),
        ("{clusterIP: 10.96.0.10, ipFamilies: [IPv4], ports: [{port: 80}]}", &["10.96.0.10"]),
        ("{clusterIPs: [10.96.0.10, 'fd00::a'], ports: [{port: 80}]}", &["10.96.0.10", "fd00::a"]),
        (
            "{clusterIP: 'fd00::a', clusterIPs: ['fd00::a', 010.96.0.10], ports: [{port: 80}]}",
            &["fd00::a", "10.96.0.10"],
        ),
    ] {
        let item = one(&service(spec));
        let Object::Service(service) = object(&item) else { panic!("{item:?}") };
        assert_eq!(
            service.cluster_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            addresses,
            "{spec}"
        );
        assert_eq!(item.problems, []);
    }
    let item = one(&format!("{SLICE}ports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.1.0.1]}}]\n"));
    let Object::Slices(slices) = object(&item) else { panic!("{item:?}") };
    assert_eq!(
        (slices[0].ports[0].name.as_str(), slices[0].ports[0].port),
        ("", 8080),
        "a port's name defaults to empty"
    );
}

#[test]
fn a_service_without_an_address_is_reported_and_not_served() {
    for spec in ["{ports: [{port: 80}]}", "{clusterIP: '', type: NodePort, ports: [{port: 80}]}"] {
        let item = one(&service(spec));
        assert_eq!(object(&item), &Object::Nothing);
        assert_eq!(item.problems.len(), 1);
        assert_eq!(item.problems[0].object, "web.yaml, document 1: Service default/web");
        assert_eq!(item.problems[0].field, "spec.clusterIP");
    }
    for spec in ["{clusterIP: None, ports: [{port: 80}]}", "{type: ExternalName, externalName: example.com}"]
    {
        let item = one(&service(spec));
        assert_eq!((object(&item), item.problems.len()), (&Object::Nothing, 0), "meant to have none: {spec}");
    }
}

#[test]
fn broken_objects_are_named_by_document_and_field() {
    let place = "web.yaml, document 1: Service default/web".to_owned();
    for (spec, field) in [
        ("{clusterIP: 10.96.0.10, ports: [{port: 80}, {name: a, port: 70000}]}", "spec.ports[1].port"),
        ("{clusterIP: 10.96.0.10, ports: [{port: http}]}", "spec.ports[0].port"),
        ("{clusterIP: 10.96.0.10, ports: [{port: 80, protocol: HTTP}]}", "spec.ports[0].protocol"),
        ("{clusterIP: 10.96.0.10}", "spec.ports"),
        ("{clusterIP: 10.96.0.300, ports: [{port: 80}]}", "spec.clusterIPs[0]"),
        ("{clusterIP: 10.96.0.10, clusterIPs: [10.96.0.11], ports: [{port: 80}]}", "spec.clusterIPs[0]"),
        ("{clusterIP: 1.5, ports: [{port: 80}]}", "spec.clusterIP"),
        ("[]", "spec"),
    ] {
        assert_eq!(refused(&service(spec)), (place.clone(), field.to_owned()), "{spec}");
    }
    let place = "web.yaml, document 1: EndpointSlice default/web-1".to_owned();
    let slice = format!("{SLICE}ports: [{{port: 0x1ffff}}]\n");
    assert_eq!(refused(&slice), (place.clone(), "ports[0].port".to_owned()));
    assert_eq!(refused(&SLICE.replace("IPv4", "FQDN")), (place.clone(), "addressType".to_owned()));
    assert_eq!(
        refused(&SLICE.replace("service-name", "other")).1,
        "metadata.labels[kubernetes.io/service-name]"
    );
    // A bad address is one endpoint less, not one slice less.
    let item = one(&format!("{SLICE}endpoints: [{{addresses: [10.1.0.1]}}, {{addresses: [x]}}]\n"));
    let Object::Slices(slices) = object(&item) else { panic!("{item:?}") };
    assert_eq!((slices[0].endpoints.len(), item.problems[0].object.as_str()), (1, place.as_str()));
}

#[test]
fn documents_that_are_no_objects_are_refused() {
    for (yaml, field) in [
        ("just text", "kind"),
        ("[1, 2]", "kind"),
        ("{}", "kind"),
        ("kind: 7", "kind"),
        ("kind: Service\nmetadata: {name: web}", "apiVersion"),
        ("apiVersion: v2\nkind: Service\nmetadata: {name: web}", "apiVersion"),
        ("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: web}", "apiVersion"),
        ("apiVersion: v1\nkind: Service", "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: Web_1}", "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: \"a/b\"}", "metadata.namespace"),
        ("apiVersion: v1\nkind: Service\nmetadata: [name]", "metadata.name"),
        ("a: [", ""),
    ] {
        assert_eq!(refused(yaml).1, field, "{yaml}");
    }
}

#[test]
fn other_kinds_are_skipped_with_a_note() {
    for (yaml, kind) in [
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2}\n", "Deployment"),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n",
            "serving.knative.dev/v1",
        ),
        ("apiVersion: example.com/v1\nkind: Playlist\nmetadata: {name: web}\n", "Playlist"),
        ("kind: Pod", "no apiVersion"),
    ] {
        let item = one(yaml);
        let Outcome::Skipped(note) = &item.outcome else { panic!("{item:?}") };
        assert!(note.starts_with("web.yaml, document 1") && note.contains(kind), "{note}");
        assert_eq!(item.problems, []);
    }
}

#[test]
fn objects_of_another_proxy_or_another_node_are_nothing() {
    let labelled = |yaml: &str, label: &str| {
        yaml.replace("metadata: {name: web", &format!("metadata: {{labels: {{{label}: ''}}, name: web"))
    };
    let yaml =
        labelled(&service("{clusterIP: 10.96.0.10, ports: [{port: 80}]}"), model::service::PROXY_NAME_LABEL);
    assert_eq!(object(&one(&yaml)), &Object::Nothing);
    let slice = SLICE.replace("labels: {", "labels: {service.kubernetes.io/headless: '', ");
    assert_eq!(object(&one(&slice)), &Object::Nothing);
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n2, labels: {topology.kubernetes.io/zone: a}}\n";
    assert_eq!(object(&one(node)), &Object::Nothing);
    let item = one(&node.replace("n2", "n1"));
    let Object::Node(node) = object(&item) else { panic!("{item:?}") };
    assert_eq!((node.name.as_str(), node.zone.as_deref()), ("n1", Some("a")));
}

#[test]
fn lists_hold_objects_of_any_kind_or_of_one() {
    let items = read(
        "apiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}\n\
         - {apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{addresses: [{ip: 10.1.0.1}], ports: [{port: 1}]}]}\n\
         - {apiVersion: v1, kind: Pod, metadata: {name: a}}\n\
         - {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: x}}\n\
         ---\napiVersion: v1\nkind: ServiceList\nitems:\n\
         - {metadata: {name: c}, spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}}\n\
         - 5\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems:\n\
         - {metadata: {name: c-1, labels: {kubernetes.io/service-name: c}}, addressType: IPv6}\n\
         ---\n{apiVersion: v1, kind: List, items: []}\n",
    );
    let kinds: Vec<_> = items
        .iter()
        .map(|item| match &item.outcome {
            Outcome::Good(identity, _) => format!("{:?} {}", identity.kind, identity.key),
            Outcome::Bad(_) => format!("bad {}", item.place),
            Outcome::Skipped(_) => "skipped".to_owned(),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "Service default/a",
            "Endpoints default/a",
            "skipped",
            "bad web.yaml, document 1, item 4: Service default/b",
            "Service default/c",
            "bad web.yaml, document 2, item 2: Service",
            "EndpointSlice default/c-1",
        ]
    );
    let deep = (0..6).fold("{apiVersion: v1, kind: Service}".to_owned(), |inner, _| {
        format!("{{kind: List, items: [{inner}]}}")
    });
    assert_eq!(refused(&deep).1, "items");
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(parts in proptest::collection::vec(piece(), 0..12), json in proptest::bool::ANY) {
        let name = if json { "a.json" } else { "a.yaml" };
        let documents = documents::read(name, parts.concat().as_bytes()).unwrap();
        for document in documents {
            for item in items(name, document, &reader()) {
                let told = item.problems.iter().all(|problem| problem.object == item.place && !problem.remedy.is_empty());
                proptest::prop_assert!(told, "{item:?}");
                let silent = item.problems.is_empty();
                proptest::prop_assert!(!(silent && matches!(item.outcome, Outcome::Bad(_))), "refused without a word: {item:?}");
            }
        }
    }
}

/// Text that is often nearly a manifest.
fn piece() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let known = [
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "# c\n",
        "\n",
        "  ",
        "apiVersion: v1\n",
        "kind: Service\n",
        "kind: List\n",
        "items:\n",
        "- ",
        "metadata:\n",
        "  name: web\n",
        "spec:\n",
        "  clusterIP: 10.96.0.1\n",
        "  ports: [{port: 80}]\n",
        "&a ",
        "*a",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "|\n",
        "!!binary ",
        "<<: *a\n",
        "{\"kind\": \"Service\"}",
        "apiVersion: discovery.k8s.io/v1\n",
        "? ",
        ": ",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

#[test]
fn a_field_that_is_not_used_never_matters_in_a_manifest() {
    use crate::model::mutations::{Mutation, SERVICE, SLICE, USED_OF_SERVICE, USED_OF_SLICE, mutations};
    for (recorded, used) in [(SERVICE, USED_OF_SERVICE), (SLICE, USED_OF_SLICE)] {
        let known = object(&one(recorded)).clone();
        for Mutation { pointer, used, object: mutated } in mutations(recorded, used) {
            // They say what it is.
            if ["/kind", "/apiVersion"].contains(&pointer.as_str()) {
                continue;
            }
            let item = one(&mutated.to_string());
            if !used {
                assert_eq!(object(&item), &known, "{pointer}: {mutated}");
            }
            for problem in &item.problems {
                assert!(!problem.field.is_empty() && !problem.remedy.is_empty(), "{problem}");
            }
        }
    }
}

#[test]
fn another_node_may_be_anything() {
    let item = one("apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: 5}\nstatus: []\n");
    assert_eq!((object(&item), item.problems.len()), (&Object::Nothing, 0));
    assert_eq!(
        refused("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: 5}\n").1,
        "spec.podCIDRs"
    );
}

#[test]
fn a_misspelled_kind_and_an_unknown_field_are_told_with_what_is_meant() {
    let item = one("apiVersion: v1\nkind: Servce\nmetadata: {name: web}\n");
    assert!(matches!(item.outcome, Outcome::Skipped(_)), "{item:?}");
    assert_eq!(
        (item.problems[0].field.as_str(), item.problems[0].remedy.as_str()),
        ("kind", "did you mean `Service`?")
    );
    for other in ["Deployment", "ConfigMap", "ServiceAccount", "Ingress", "Namespace", "Pod"] {
        assert_eq!(one(&format!("apiVersion: v1\nkind: {other}\nmetadata: {{name: web}}\n")).problems, []);
    }
    let item = one(&service("{clusterIP: 10.96.0.10, sessionAfinity: ClientIP, ports: [{port: 80}]}"));
    assert!(matches!(object(&item), Object::Service(_)), "it is served all the same");
    assert_eq!(item.problems.len(), 1);
    let problem = &item.problems[0];
    assert_eq!(problem.object, "web.yaml, document 1: Service default/web");
    assert_eq!(problem.field, "spec.sessionAfinity");
    assert_eq!(problem.remedy, "did you mean `sessionAffinity`?");
}
