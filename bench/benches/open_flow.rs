//! Opening one flow, ns: when the client's own source port is free (`first_port`), when 50, 90 or 99 % of the
//! ports towards the endpoint are taken and the ladder of candidates has to be climbed (`occupancy`), and
//! when another worker is at the same flow (`raced`). Ending the flows and freeing their records is not
//! timed.

use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::Criterion;
use dataplane::clock::{Clock, Tick, Time};
use dataplane::flow::{Chunks, Key, Met, NewFlow, Opened, Region, RegionConfig, Table, Ttls};
use dataplane::ids::{EndpointId, ServiceId, WorkerId};
use dataplane::packet::layout::L4Flags;
use dataplane::packet::tuple::{Proto, Tuple};

/// Ports a masqueraded flow may have: 1024 and above.
const PORTS: u32 = 65_536 - 1024;
/// Flows opened between two clean-ups.
const ROUND: u64 = 1024;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut bench = Bench::new();
    bench.measure(&mut criterion, "open_flow/first_port");
    for percent in [50, 90, 99] {
        bench.occupy(PORTS * percent / 100);
        bench.measure(&mut criterion, &format!("open_flow/occupancy/{percent}"));
    }
    Bench::new().measure_raced(&mut criterion);
    criterion.final_summary();
}

struct Bench {
    table: Table<2>,
    own: Chunks<2>,
    /// Ports towards the endpoint that are taken.
    taken: u32,
    /// Clients so far: every flow is a new one's.
    clients: u32,
    random: u64,
    seconds: u64,
}

impl Bench {
    fn new() -> Self {
        let config = RegionConfig { dir: None, name: "bench".into(), max_flows_v4: 1 << 18, max_flows_v6: 1 };
        let region = Region::open(&config, Time::from_secs(1)).expect("memory for the table");
        // What is taken stays taken, however often the hand goes round.
        let table = Table::new(&region, Ttls { tcp_syn_sent: Tick::MAX_TTL, ..Ttls::default() });
        let own = table.chunks(WorkerId(0));
        Self { table, own, taken: 0, clients: 0, random: 0x9e37_79b9_7f4a_7c15, seconds: 1_000 }
    }

    /// Takes ports for good, scattered over the range, until so many are taken.
    fn occupy(&mut self, wanted: u32) {
        while self.taken < wanted {
            let port = 1024 + u64::from(self.taken) * 40_501 % u64::from(PORTS);
            let new = self.next_client();
            let reply = reply(u16::try_from(port).expect("a port"));
            let opened = self.table.open(&mut self.own, &new, std::iter::once(reply), &mut Met::default());
            assert!(matches!(opened, Opened::New(_)), "{opened:?}");
            self.taken += 1;
        }
    }

    fn measure(&mut self, criterion: &mut Criterion, name: &str) {
        let (mut tries, mut opens) = (0_u64, 0_u64);
        criterion.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut elapsed = 0;
                let mut left = times;
                while left > 0 {
                    let round = left.min(ROUND);
                    let flows: Vec<_> =
                        (0..round).map(|_| (self.next_client(), self.draw(), self.draw())).collect();
                    let mut opened = Vec::with_capacity(flows.len());
                    let mut met = Met::default();
                    let start = Clock.now();
                    for (new, first, random) in &flows {
                        let replies = ladder(*first, *random).map(reply);
                        opened.push(self.table.open(&mut self.own, new, replies, &mut met));
                    }
                    elapsed += Clock.now().since(start);
                    tries += u64::from(met.clashes) + round;
                    opens += round;
                    self.clean_up(&opened);
                    left -= round;
                }
                Duration::from_nanos(elapsed)
            });
        });
        if opens > 0 {
            eprintln!("{name}: {:.2} candidates a flow", tries as f64 / opens as f64);
        }
    }

    /// Another worker has the flow's reply tuple already.
    fn measure_raced(&mut self, criterion: &mut Criterion) {
        let new = self.next_client();
        let opened = self.table.open(&mut self.own, &new, std::iter::once(reply(5000)), &mut Met::default());
        assert!(matches!(opened, Opened::New(_)), "{opened:?}");
        let mut other = self.table.chunks(WorkerId(1));
        criterion.bench_function("open_flow/raced", |b| {
            b.iter(|| {
                let opened =
                    self.table.open(&mut other, &new, std::iter::once(reply(5000)), &mut Met::default());
                assert!(matches!(opened, Opened::Raced), "{opened:?}");
            });
        });
    }

    fn clean_up(&mut self, opened: &[Opened<2>]) {
        for opened in opened {
            // At 99 % a flow may find no port: that is the ladder's answer, and was timed as such.
            if let Opened::New(hit) = opened {
                assert!(self.table.kill(hit));
            }
        }
        self.seconds += 8;
        let mut swept = self.table.sweep(&mut self.own, Time::from_secs(self.seconds), false, |_| false);
        while swept.behind {
            swept = self.table.sweep(&mut self.own, Time::from_secs(self.seconds), false, |_| false);
        }
    }

    /// A client nobody has heard of.
    fn next_client(&mut self) -> NewFlow<2> {
        self.clients += 1;
        let src = Ipv4Addr::from_bits(0x0a00_0000 + (self.clients & 0xff_ffff));
        let (dst, sport) = (Ipv4Addr::new(10, 96, 0, 10), 40_000 + u16::from(self.clients.to_le_bytes()[3]));
        let forward = Tuple { src, dst, sport, dport: 80, proto: Proto::Tcp }.into();
        let (service, endpoint, now) = (ServiceId(1), EndpointId(1), Time::from_secs(self.seconds));
        NewFlow {
            tops: None,
            forward,
            service,
            endpoint,
            epoch: 1,
            masquerade: true,
            pickup: false,
            seen: L4Flags::SYN,
            now,
        }
    }

    /// A random port of the range.
    fn draw(&mut self) -> u16 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u16::try_from(1024 + (self.random >> 20) % u64::from(PORTS)).expect("a port")
    }
}

/// The client's own port, then 128 consecutive ones from a random start, then 64, 32, 16 and 8 from others.
fn ladder(own: u16, random: u16) -> impl Iterator<Item = u16> {
    let start = move |round: u32| u32::from(random).wrapping_mul(2 * round + 1).wrapping_add(round * 7919);
    let port = |n: u32| u16::try_from(1024 + n % PORTS).unwrap_or(u16::MAX);
    let steps = [128, 64, 32, 16, 8].into_iter().zip(0..);
    let walk = steps.flat_map(move |(steps, round)| (0..steps).map(move |n| port(start(round) + n)));
    std::iter::once(own).chain(walk)
}

fn reply(dport: u16) -> Key<2> {
    let (src, dst) = (Ipv4Addr::new(10, 244, 1, 5), Ipv4Addr::new(192, 168, 0, 9));
    Tuple { src, dst, sport: 8080, dport, proto: Proto::Tcp }.into()
}
