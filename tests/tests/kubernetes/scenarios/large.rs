//! Requests and answers much larger than a packet, over links of 1500 bytes.

use std::time::Duration;

use tests::kubernetes::Site;

use crate::client::{Connection, Failure, Udp, http_post};
use crate::kit::{From, Outcome, all_reach, ensure, eventually};
use crate::objects::{Family, Service, all_ready, pod};

const MEGABYTE: usize = 1 << 20;
/// With its word, as large as a datagram that every path takes may be.
const DATAGRAM: usize = 60_000;
const LIMIT: Duration = Duration::from_secs(20);

/// One Service with an endpoint on the clients' node, and one on the other node.
fn stage(site: &Site<'_>) -> Outcome<[Service; 2]> {
    all_ready(
        site,
        vec![
            pod("client-1", 0, "none"),
            pod("client-2", 1, "none"),
            pod("pod1", 0, "one"),
            pod("pod2", 1, "two"),
        ],
    )?;
    let services = [Service::simple(site, "one", "one")?, Service::simple(site, "two", "two")?];
    for (service, name) in services.iter().zip(["pod1", "pod2"]) {
        all_reach(site, From::Pod("client-1"), &service.fronts(), &[name])?;
    }
    Ok(services)
}

/// Every client with every Service, in each family.
fn everywhere(services: &[Service; 2], mut f: impl FnMut(From<'_>, &Service, Family) -> Outcome) -> Outcome {
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0)] {
        for service in services {
            for family in Family::BOTH {
                f(from, service, family)
                    .map_err(|why| format!("{from}, Service {}, {}: {why}", service.name, family.name()))?;
            }
        }
    }
    Ok(())
}

/// A megabyte each way over HTTP.
pub(crate) fn http(site: &Site<'_>) -> Outcome {
    let services = stage(site)?;
    let body = pattern(MEGABYTE);
    let told = format!("{MEGABYTE} {:016x}", checksum(&body));
    let sent: Vec<u8> = (b'a'..=b'z').cycle().take(MEGABYTE).collect();
    everywhere(&services, |from, service, family| {
        let at = service.tcp(family, 80).at;
        let (stored, fetched) = from.run(site, || {
            let stored = http_post(at, "/upload", &body, LIMIT);
            let fetched = Connection::open(at, LIMIT)
                .and_then(|mut connection| connection.get(&format!("/bytes?n={MEGABYTE}"), LIMIT));
            (stored, fetched)
        })?;
        let (stored, fetched) = (stored?, fetched?);
        ensure(stored == told, || format!("what came is {stored}, not {told}"))?;
        ensure(fetched == sent, || {
            let same = fetched.iter().zip(&sent).take_while(|(got, wanted)| got == wanted).count();
            format!("{} bytes came back, the first {same} as they were sent", fetched.len())
        })
    })
}

/// Sixty thousand bytes each way in one datagram: more than forty fragments.
pub(crate) fn udp(site: &Site<'_>) -> Outcome {
    let services = stage(site)?;
    let payload = pattern(DATAGRAM);
    let question = [b"echo ".as_slice(), &payload].concat();
    everywhere(&services, |from, service, family| {
        let at = service.udp(family, 80).at;
        // A datagram may be lost like any other; not always.
        eventually("an echo", LIMIT, || {
            let answer = from
                .run(site, || Udp::open(0, at)?.exchange(&question, Duration::from_secs(2)))
                .map_err(Failure::from)??;
            if answer == payload { Ok(()) } else { Err(Failure::Other(format!("{} bytes", answer.len()))) }
        })
    })
}

/// Sizes around the one at which a datagram begins to need fragments: none is a hole.
pub(crate) fn udp_around_the_mtu(site: &Site<'_>) -> Outcome {
    let services = stage(site)?;
    everywhere(&services, |from, service, family| {
        let at = service.udp(family, 80).at;
        for size in [1_420, 1_467, 1_468, 1_472, 1_480, 1_500, 2_900, 4_500, 9_000] {
            let payload = pattern(size);
            let question = [b"echo ".as_slice(), &payload].concat();
            eventually(&format!("an echo of {size} bytes"), LIMIT, || {
                let answer = from
                    .run(site, || Udp::open(0, at)?.exchange(&question, Duration::from_secs(1)))
                    .map_err(Failure::from)??;
                if answer == payload {
                    Ok(())
                } else {
                    Err(Failure::Other(format!("{} bytes", answer.len())))
                }
            })?;
        }
        Ok(())
    })
}

/// FNV-1a, as the server reckons it over what it got.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Bytes that are not the same after any shift; printable, so that an answer in text keeps them.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 24).to_le_bytes()[0] % 26
    })
    .take(length)
    .collect()
}
