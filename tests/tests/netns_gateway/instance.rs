//! Starting, stopping and taking away.

use tests::netns::Namespace;

use crate::site::{SNAT, Site, WEB, output, url};

/// The device has one owner, and the refusal says who.
pub(crate) fn second() {
    let site = Site::serving(1500);
    let manifests = site.manifests();
    let second =
        output(site.tunway("run").arg("--manifests").arg(manifests).args(["--snat-address", SNAT[0]]));
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&site.device) && said.contains(".lock") && said.contains("process "), "{said}");
    site.curl(&url(WEB[0], 80)).unwrap();
}

/// SIGTERM ends it well and leaves rules, routes and device for the next one; cleanup leaves the host as it was.
pub(crate) fn stop_and_cleanup() {
    let mut site = Site::new(1500);
    let before = state(&site.gateway);
    site.start(&["--manifests", &site.manifests().to_string_lossy()]);
    site.wait_until_served();
    assert_eq!(site.end("-TERM"), Some(0), "{}", site.log());
    let routes = site.gateway.ip("route show table local proto 77").unwrap();
    assert!(routes.contains("10.96.0.0/"), "{routes}");
    assert!(site.gateway.ip("link").unwrap().contains(&site.device));
    site.start(&["--manifests", &site.manifests().to_string_lossy()]);
    site.wait_until_served();
    let busy = output(&mut site.tunway("cleanup"));
    assert_eq!(busy.status.code(), Some(1), "not while it runs: {busy:?}");
    site.end("-KILL");
    let clean = output(&mut site.tunway("cleanup"));
    assert!(clean.status.success(), "{clean:?}");
    assert_eq!(state(&site.gateway), before);
    let left: Vec<_> = ["/run/tunway", "/dev/shm/tunway"]
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&site.device))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a host shows of itself, without the link-local addresses its links are still giving themselves.
fn state(host: &Namespace) -> Vec<String> {
    let nft = host.run("nft list ruleset").unwrap();
    let ip = ["rule", "-6 rule", "-br link", "-br addr", "route show table all", "-6 route show table all"];
    let texts = ip.iter().map(|what| host.ip(what).unwrap()).chain([nft]);
    let lines: Vec<String> =
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let link_local = |word: &&str| !word.starts_with("fe80:");
    let without = |line: String| line.split_whitespace().filter(link_local).collect::<Vec<_>>().join(" ");
    let passing =
        |line: &String| ["fe80:", "local fe80:", "anycast fe80:"].iter().any(|s| line.starts_with(s));
    lines.into_iter().filter(|line| !passing(line)).map(without).collect()
}

/// Flags and values that cannot be used: exit code 64, and which one.
pub(crate) fn usage() {
    let site = Site::new(1500);
    let dir = site.manifests().to_string_lossy().into_owned();
    for (flags, word) in [
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["--manifests", &dir, "--return-path", "masquerade"], "snatAddresses"),
        (vec!["--manifests", &dir, "--snat-address", SNAT[0], "--workers", "99"], "workers"),
        (vec!["--manifests", &dir, "--snat-address", SNAT[0], "--return-path", "sideways"], "return-path"),
        (
            vec!["--manifests", &dir, "--snat-address", SNAT[0], "--service-cidr", "10.96.0.0/33"],
            "serviceCIDRs",
        ),
        (vec!["--kubeconfig", "/nonexistent", "--snat-address", SNAT[0]], "/nonexistent"),
    ] {
        let refused = output(site.tunway("run").args(&flags));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(64), "{flags:?}: {said}");
        assert!(said.contains(word), "{flags:?}: {said}");
    }
}
