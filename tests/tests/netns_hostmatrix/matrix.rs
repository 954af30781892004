//! The table: every row with every kind of traffic in both families, by kernel NAT and then by tunway on the same site.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tests::http;
use tests::netns::wait_for;

use crate::rows::{Row, Source, rows};
use crate::services;
use crate::site::{PATIENCE, Party, Site, Style};
use crate::state::{assert_same, state};
use crate::traffic::{connect_from, datagram_from, exchange};
use crate::{reference, writes};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Traffic {
    Stream,
    Datagram,
    Fragments,
}

const TRAFFIC: [(Traffic, &str); 3] =
    [(Traffic::Stream, "TCP"), (Traffic::Datagram, "UDP"), (Traffic::Fragments, "fragments")];

/// Pods routed one by one.
pub(crate) fn routed() {
    measure(Style::Routed);
}

/// Pods on a bridge.
pub(crate) fn bridged() {
    measure(Style::Bridge);
}

/// The same on a host that makes it hard.
pub(crate) fn hostile() {
    measure(Style::Hostile);
}

/// A row in one family with one kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    /// The row's number.
    pub(crate) row: usize,
    pub(crate) v6: bool,
    pub(crate) traffic: Traffic,
}

/// Whom the servers saw; none where nothing came back.
pub(crate) type Seen = BTreeMap<Cell, Result<Option<IpAddr>, String>>;

fn measure(style: Style) {
    let mut site = Site::new(style);
    if style == Style::Hostile {
        site.harden();
    }
    site.offer(&services::manifests());
    let rows = rows(style);
    let cells: Vec<Cell> = (0..rows.len())
        .flat_map(|row| [false, true].map(|v6| (row, v6)))
        .flat_map(|(row, v6)| TRAFFIC.map(|(traffic, _)| Cell { row, v6, traffic }))
        .collect();

    reference::install(&site);
    let kernel = together(&site, &rows, &cells);
    reference::remove(&site);

    let before: Vec<_> = site.nodes.iter().map(state).collect();
    for node in [1, 2] {
        let more = if style == Style::Hostile { "forwardAccept: true\n" } else { "" };
        site.start(node, &format!("{}{more}", services::configuration(node)));
    }
    for node in [1, 2] {
        site.wait_until_ready(node);
        wait_until_all_is_served(&site, node);
    }
    let (alone, crowd): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.traffic == Traffic::Datagram);
    let (mut tunway, loops) = writes::one_by_one(&site, &rows, &alone);
    tunway.extend(together(&site, &rows, &crowd));

    let wrong = tell(&site, &rows, &kernel, &tunway);
    println!(
        "measured: {:?}, {} cells by kernel NAT and by tunway, {} wrong; {loops}",
        style,
        cells.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_drops(&site, &rows);
    site.assert_nothing_uncounted();
    for (node, before) in [1, 2].into_iter().zip(before) {
        site.kill(node);
        let left = state(&site.nodes[usize::from(node) - 1]);
        assert!(left.contains("table inet tunway_alias") && left.contains("240.0.0.0/4"), "{left}");
        assert!(!left.contains("lookup 7701") && !left.contains("lookup 7702"), "no rule is made: {left}");
        site.cleanup(node);
        assert_same(&site.nodes[usize::from(node) - 1], &before);
    }
}

/// The last things a start makes: elements of sets and routes.
fn wait_until_all_is_served(site: &Site, node: u8) {
    let space = site.space(Party::Node(node));
    let all = services::all();
    wait_for("every node port is marked", PATIENCE, || {
        let set = space.run("nft list set inet tunway_alias nodeports").unwrap();
        all.iter().all(|service| set.contains(&format!("tcp . {}", service.node_port())))
    });
    wait_for("every address of the outside is steered", PATIENCE, || {
        let sets = ["front4", "front6"]
            .map(|set| space.run(&format!("nft list set inet tunway_alias {set}")).unwrap());
        let addresses = all.iter().flat_map(|service| service.outer());
        addresses.into_iter().all(|ip| sets.concat().contains(&format!("{ip} . tcp")))
    });
}

/// Cells whose packets nobody counts, several at a time.
fn together(site: &Site, rows: &[Row], cells: &[Cell]) -> Seen {
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(Seen::new()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = ask(site, rows, *cell);
                    seen.lock().unwrap().insert(*cell, outcome);
                }
            });
        }
    });
    seen.into_inner().unwrap()
}

/// Sends, and tells whom the server saw.
pub(crate) fn ask(site: &Site, rows: &[Row], cell: Cell) -> Result<Option<IpAddr>, String> {
    let Row { client, way, service } = rows[cell.row];
    let (space, to) = (site.space(client), service.at(way, cell.v6));
    let from = match client {
        Party::Bridge(_) => (client.address(cell.v6), 0).into(),
        Party::Pod(..) | Party::Node(_) | Party::Outside => http::anywhere(to, 0),
    };
    let limit = match rows[cell.row].wanted(site.style).kernel {
        Source::Dropped | Source::Astray => SILENCE,
        Source::Client | Source::Node(_) => LIMIT,
    };
    let outcome = match cell.traffic {
        Traffic::Stream => connect_from(space, from, to, limit).and_then(exchange),
        Traffic::Datagram => datagram_from(space, from, to, 100, limit),
        Traffic::Fragments => datagram_from(space, from, to, 5_000, limit),
    };
    match outcome {
        Ok(seen) => Ok(Some(seen)),
        Err(error) if is_silence(&error) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The time ran out: connect(2) with a send timeout has a word of its own for that.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        || error.raw_os_error() == Some(nix::libc::EINPROGRESS)
}

/// Prints the table: what is the same for several kinds of traffic is said once. Returns what is wrong.
fn tell(site: &Site, rows: &[Row], kernel: &Seen, tunway: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    println!("{:?}: whom the server saw, \"-\" is no answer", site.style);
    println!("{:<45} {:<26} {:<9} {:<9} why", "client > way > server", "traffic", "kernel", "tunway");
    for (number, row) in rows.iter().enumerate() {
        let wanted = row.wanted(site.style);
        // By what was seen, all traffic of which that is true.
        let mut lines: Vec<([String; 2], [Vec<&str>; 2])> = Vec::new();
        for (v6, (traffic, word)) in [false, true].into_iter().flat_map(|v6| TRAFFIC.map(|kind| (v6, kind))) {
            let cell = Cell { row: number, v6, traffic };
            let mut words = [String::new(), String::new()];
            let by_hand = |source| Ok(row.address(source, site.style, v6));
            // tunway is compared with what was measured, where it does not mean to differ.
            let same = wanted.kernel == wanted.tunway;
            let must = if same { kernel[&cell].clone() } else { by_hand(wanted.tunway) };
            let both = [("kernel NAT", kernel, by_hand(wanted.kernel)), ("tunway", tunway, must)];
            for (text, (who, seen, must)) in words.iter_mut().zip(both) {
                *text = name(*row, &seen[&cell], v6);
                if seen[&cell] != must {
                    let (must, family) = (name(*row, &must, v6), if v6 { "IPv6" } else { "IPv4" });
                    wrong.push(format!("{row}, {family} {word}, {who}: {text}, not {must} ({})", wanted.why));
                }
            }
            let at = lines.iter().position(|(known, _)| *known == words).unwrap_or_else(|| {
                lines.push((words, [Vec::new(), Vec::new()]));
                lines.len() - 1
            });
            lines[at].1[usize::from(v6)].push(word);
        }
        for ([kernel, tunway], traffic) in lines {
            println!(
                "{:<45} {:<26} {kernel:<9} {tunway:<9} {}",
                row.to_string(),
                kinds(&traffic),
                wanted.why
            );
        }
    }
    wrong
}

/// Families and the kinds of traffic in them.
fn kinds([v4, v6]: &[Vec<&str>; 2]) -> String {
    if v4 == v6 {
        return format!("v4+v6 {}", v4.join(" "));
    }
    let mut text = String::new();
    for (family, kinds) in [("v4", v4), ("v6", v6)] {
        if !kinds.is_empty() {
            let _ = write!(text, "{family} {} ", kinds.join(" "));
        }
    }
    text
}

/// Whose address was seen.
fn name(row: Row, seen: &Result<Option<IpAddr>, String>, v6: bool) -> String {
    let nodes = [1, 2].into_iter().flat_map(|node| [Party::Node(node), Party::Bridge(node)]);
    match seen {
        Err(error) => error.clone(),
        Ok(None) => "-".to_owned(),
        Ok(Some(ip)) => match nodes.into_iter().find(|party| party.address(v6) == *ip) {
            Some(party) => party.to_string(),
            None if *ip == row.client.address(v6) => "client".to_owned(),
            None => ip.to_string(),
        },
    }
}

/// Multicast of the kernel's own, and what the table says is dropped, is all that gets lost.
fn assert_drops(site: &Site, rows: &[Row]) {
    for node in [1, 2] {
        let mut drops = site.counters(node).drops;
        drops.retain(|why, count| *count > 0 && why != "not_unicast");
        let gaps = drops.remove("no_local_endpoint").unwrap_or(0);
        assert!(drops.is_empty(), "node {node} dropped {drops:?}");
        let dropped = |row: &&Row| row.decides() == node && row.wanted(site.style).tunway == Source::Dropped;
        let cells = rows.iter().filter(dropped).count() * 2 * TRAFFIC.len();
        assert!(gaps >= cells as u64, "node {node} dropped {gaps} packets of {cells} cells");
    }
}

/// A cell takes some ten milliseconds; this is one that gets nothing.
const LIMIT: Duration = Duration::from_secs(2);
/// One that must get nothing is given so long to get something.
const SILENCE: Duration = Duration::from_millis(250);
const AT_A_TIME: usize = 6;
