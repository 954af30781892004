//! The run: a packet to both sites, what leaves compared; an answer to both, what leaves compared.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use dataplane::clock::Clock;
use tests::packets::{head, udp};

use crate::except::EXCEPTIONS;
use crate::generate::{Case, Random, answer, case, mend_ipv4};
use crate::site::{By, SERVER, Site, Style, VIP};

/// Packets of a client in one run.
const CASES: u16 = 1_500;

pub(crate) fn kept() {
    run(Style::Kept);
}

pub(crate) fn masqueraded() {
    run(Style::Masqueraded);
}

/// Both sites, and a flow in each whose packets tell that everything before them has come through.
struct Pair {
    sites: [Site; 2],
    marks: u32,
}

/// What left one gateway: to the server, to the client.
type Left = [Vec<Vec<u8>>; 2];

fn run(style: Style) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("TUNWAY_SEED").unwrap_or_else(|| Clock.now().nanos());
    let cases = number("TUNWAY_CASES").map_or(CASES, |cases| u16::try_from(cases).unwrap());
    let mut random = Random::new(seed);
    let sites = [By::Kernel, By::Tunway].map(|by| Site::new(by, style));
    let mut pair = Pair { sites, marks: 0 };
    let mut counts = BTreeMap::<&str, u32>::new();
    let mut count = |what| *counts.entry(what).or_default() += 1;
    for n in 0..cases {
        let one = case(&mut random, n);
        let what = || format!("TUNWAY_SEED={seed} {style:?}, packet {n}, {:?}", one.odd);
        let [kernel, tunway] = pair.forward(&one.sent).map(|left| left.map(sorted));
        count("packets");
        if let Err(difference) = equal(&kernel, &tunway, &mut count) {
            excepted(&one, &difference, &what, &mut count);
            continue;
        }
        let ([got], []) = (&kernel[0][..], &kernel[1][..]) else {
            count(if kernel[0].is_empty() { "of both nothing left" } else { "in fragments" });
            continue;
        };
        if one.odd.bad_checksum {
            continue;
        }
        let reply = answer(&mut random, got, &one.odd);
        let [kernel, tunway] = pair.back(&reply).map(|left| left.map(sorted));
        count("answers");
        if let Err(difference) = equal(&kernel, &tunway, &mut count) {
            let reply = shown(&[got.clone(), reply]);
            let difference = format!("{difference}\nof a packet and its answer: {reply}");
            excepted(&one, &difference, &what, &mut count);
        }
    }
    println!("measured: kernel NAT, {style:?}, seed {seed}: {counts:?}");
    assert!(counts["answers"] >= u32::from(cases) / 4, "{counts:?}");
}

/// Fails, unless the packet is one that may end otherwise.
fn excepted(one: &Case, difference: &str, what: &dyn Fn() -> String, count: &mut dyn FnMut(&'static str)) {
    match EXCEPTIONS.iter().find(|exception| (exception.of)(&one.odd)) {
        Some(exception) => {
            assert!(!exception.reason.is_empty());
            count(exception.name);
        }
        None => panic!("{}\nsent {}\n{difference}", what(), shown(&one.sent)),
    }
}

fn sorted(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.sort();
    packets
}

/// Whether the same left both gateways. Two things are no difference: one hop more, since tunway is a router between two
/// passes through the kernel; and the identification of IPv6 fragments, which connection tracking draws anew when it
/// cuts again what it had put together.
fn equal(kernel: &Left, tunway: &Left, count: &mut dyn FnMut(&'static str)) -> Result<(), String> {
    let (mut kernel, mut mended) = (kernel.clone(), tunway.clone());
    for packet in [&mut kernel, &mut mended].into_iter().flatten().flatten() {
        if let Some(at) = fragment_header(packet) {
            packet[at + 4..at + 8].fill(0);
        }
    }
    for (want, is) in kernel.iter().flatten().zip(mended.iter_mut().flatten()) {
        let at = if want[0] >> 4 == 4 { 8 } else { 7 };
        if want.get(at).is_some_and(|want| is.get(at).is_some_and(|is| is + 1 == *want)) {
            count("one hop more");
            is[at] += 1;
            if at == 8 {
                mend_ipv4(is);
            }
        }
    }
    if kernel == mended {
        return Ok(());
    }
    let show =
        |left: &Left| left.iter().map(|side| shown(side)).collect::<Vec<_>>().join("\n  to the client ");
    Err(format!("kernel NAT\n  to the server {}\ntunway\n  to the server {}", show(&kernel), show(&mended)))
}

/// Where an IPv6 packet's fragment header is.
fn fragment_header(packet: &[u8]) -> Option<usize> {
    let (mut number, mut at) = (*packet.get(6)?, 40);
    while packet[0] >> 4 == 6 && matches!(number, 0 | 43 | 60) {
        number = *packet.get(at)?;
        at += 8 * (usize::from(*packet.get(at + 1)?) + 1);
    }
    (packet[0] >> 4 == 6 && number == 44 && packet.len() >= at + 8).then_some(at)
}

/// Packets as a person compares them: hexadecimal, of long ones the beginning and how long they are.
fn shown(packets: &[Vec<u8>]) -> String {
    let one = |packet: &Vec<u8>| {
        let text: String = packet.iter().take(120).map(|byte| format!("{byte:02x}")).collect();
        format!("{} bytes {text}", packet.len())
    };
    packets.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Pair {
    /// The client sends this through both; what left either.
    fn forward(&mut self, packets: &[Vec<u8>]) -> [Left; 2] {
        self.each(|site| packets.iter().for_each(|packet| site.client.send(packet)))
    }

    /// The server sends this through both; what left either.
    fn back(&mut self, packet: &[u8]) -> [Left; 2] {
        self.each(|site| site.server.send(packet))
    }

    fn each(&mut self, send: impl Fn(&mut Site)) -> [Left; 2] {
        self.marks += 1;
        self.sites.each_mut().map(|site| {
            send(site);
            through(site, self.marks)
        })
    }
}

/// Sends a mark through and back, and gives what left before it.
fn through(site: &mut Site, mark: u32) -> Left {
    let client: SocketAddr = "10.1.0.2:9999".parse().unwrap();
    let vip = SocketAddr::new(VIP[0].parse().unwrap(), 53);
    let text = [&b"mark"[..], &mark.to_be_bytes()].concat();
    let is_mark = |packet: &[u8]| packet.ends_with(&text);
    site.client.send(&udp(client, vip).payload(text.clone()).bytes());
    let source = Cell::new(client);
    let to_server = site.server.until(|packet| {
        if is_mark(packet) {
            let at = head(packet);
            let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
            source.set(SocketAddr::new(<[u8; 4]>::try_from(&packet[12..16]).unwrap().into(), port));
        }
        is_mark(packet)
    });
    let lost = |way: &str| -> ! { panic!("mark {mark} did not come {way}: {:?}\n{}", site.by, site.log()) };
    let Some(to_server) = to_server else { lost("through") };
    // Whom the server takes for the client.
    let server = SocketAddr::new(SERVER[0].parse().unwrap(), 5_353);
    site.server.send(&udp(server, source.get()).payload(text.clone()).bytes());
    let to_client = site.client.until(is_mark);
    let Some(to_client) = to_client else {
        panic!("mark {mark} did not come back: {:?}\n{}", site.by, site.log())
    };
    [to_server, to_client]
}
