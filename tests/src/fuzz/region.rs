//! Foreign bytes where the region lies: what a start does with a file it finds, and what the table does when words
//! of its header, index, records and ledgers change under it.
//!
//! Nothing of it may end the process or loop, and no look-up may give a packet a flow whose tuple is another one.
//!
//! ```text
//! input: length of the file found (2 bytes) | its bytes | stroke* | step*     0xff ends the strokes
//! ```

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use dataplane::clock::Time;
use dataplane::flow::{
    Chunks, Dir, Hit, Key, Met, NewFlow, Placement, Region, RegionConfig, Table, Ttls, file_name,
};
use dataplane::ids::{EndpointId, ServiceId, WorkerId};
use dataplane::packet::layout::L4Flags;
use dataplane::packet::tuple::{Proto, Tuple};

use super::Draw;

/// Where the seeds of the hash lie in the header; with known ones an input does the same every time.
const SEEDS: u64 = 16 * 8;
/// Their words, of both families.
const SEED_WORDS: u64 = 32;
/// Flows opened before anything is changed, a family.
const FLOWS: u16 = 6;
/// Steps of one input.
const STEPS: usize = 64;
const NAME: &str = "fuzz";
const PAGE: usize = 4_096;

/// Runs the target.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let private = std::fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().permissions(private).tempdir_in("/dev/shm").expect("a tmpfs");
    let path = dir.path().join(file_name(NAME));
    let length = usize::from(draw.word());
    let found = draw.take(length);
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(&path).and_then(|file| file.write_all_at(found, 0)).expect("a file on a tmpfs");

    let now = Time::from_secs(1_000);
    let region = open(dir.path(), now);
    assert_eq!(*region.placement(), Placement::File { path: path.clone(), found: true });
    assert_eq!(region.purge_epoch(), 1, "something of what was found was taken over");
    let file = options.open(&path).expect("the region's file");
    for n in 0..SEED_WORDS {
        file.write_all_at(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes(), SEEDS + 8 * n)
            .expect("a seed");
    }
    let mut four = Family::<2>::new(&region, |n, reply| v4(n, reply).into());
    let mut six = Family::<5>::new(&region, |n, reply| v6(n, reply).into());
    assert_eq!((four.table.live(), six.table.live()), (0, 0), "flows in a region made anew");
    four.open_all(now);
    six.open_all(now);
    paint(&file, &mut draw);
    // A successor on the same memory.
    let mut later = Family::new(&region, four.key);
    let mut now = now;
    for _ in 0..STEPS {
        if draw.is_empty() {
            break;
        }
        now = now.plus_nanos(1_000_000 << (draw.byte() % 20));
        match draw.below(4) {
            0 => six.step(&mut draw, now),
            1 => later.step(&mut draw, now),
            _ => four.step(&mut draw, now),
        }
    }
    drop(later);
    let _ = region.advance_purge_epoch();
}

fn open(dir: &Path, now: Time) -> Arc<Region> {
    let (dir, name) = (Some(dir.to_path_buf()), NAME.to_owned());
    let config = RegionConfig { dir, name, max_flows_v4: 8_192, max_flows_v6: 4_096 };
    Region::open(&config, now).expect("a region where another file was")
}

/// Changes words of the file: those that are not 0, or any.
fn paint(file: &File, draw: &mut Draw<'_>) {
    let length = file.metadata().expect("a file").len();
    let mut bytes = vec![0; usize::try_from(length).expect("a small region")];
    file.read_exact_at(&mut bytes, 0).expect("a region");
    let used = used_words(&bytes);
    while !draw.is_empty() {
        let how = draw.byte();
        if how == 0xff {
            return;
        }
        let at = match how & 1 {
            0 => used[usize::from(draw.word()) % used.len()],
            _ => ((u64::from(draw.word()) << 5 | u64::from(draw.word()) << 16) % length) & !7,
        };
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at).expect("a word");
        let old = u64::from_le_bytes(word);
        let new = match how >> 1 & 3 {
            0 => old ^ (1 << draw.below(64)),
            1 => draw.long(),
            2 => old.wrapping_add(u64::from(draw.word())),
            // As another word: tuples, generations and places in the index meet where they never would.
            _ => {
                let from = used[usize::from(draw.word()) % used.len()];
                file.read_exact_at(&mut word, from).expect("a word");
                u64::from_le_bytes(word)
            }
        };
        file.write_all_at(&new.to_le_bytes(), at).expect("a word");
    }
}

/// Where words are that are not 0. Most pages are all zero, and comparing a page is one call.
fn used_words(bytes: &[u8]) -> Vec<u64> {
    let zero = [0; PAGE];
    let mut used = Vec::new();
    for (page, content) in bytes.chunks_exact(PAGE).enumerate().filter(|(_, content)| **content != zero) {
        let words = content.chunks_exact(8).enumerate().filter(|(_, word)| **word != [0; 8]);
        used.extend(words.map(|(word, _)| (page * PAGE + word * 8) as u64));
    }
    used
}

/// One family's table and a worker of it.
struct Family<const N: usize> {
    table: Table<N>,
    own: Chunks<N>,
    key: fn(u16, bool) -> Key<N>,
    hits: Vec<Hit<N>>,
}

impl<const N: usize> Family<N> {
    fn new(region: &Arc<Region>, key: fn(u16, bool) -> Key<N>) -> Self {
        let table = Table::new(region, Ttls::default());
        Self { own: table.chunks(WorkerId(1)), table, key, hits: Vec::new() }
    }

    fn open_all(&mut self, now: Time) {
        for n in 0..FLOWS {
            self.open(n, now);
        }
    }

    fn open(&mut self, n: u16, now: Time) {
        let new = NewFlow {
            tops: None,
            forward: (self.key)(n, false),
            service: ServiceId(u32::from(n)),
            endpoint: EndpointId(u32::from(n % 3)),
            epoch: 1,
            masquerade: n.is_multiple_of(2),
            pickup: false,
            seen: L4Flags::SYN,
            now,
        };
        let replies = [(self.key)(n, true), (self.key)(n + 1_000, true)];
        let _ = self.table.open(&mut self.own, &new, replies.into_iter(), &mut Met::default());
    }

    fn step(&mut self, draw: &mut Draw<'_>, now: Time) {
        let (what, n) = (draw.below(8), u16::from(draw.byte() % 16));
        match what {
            0..=2 => self.look_up((self.key)(n, draw.flip()), L4Flags(draw.byte()), now),
            3 => self.open(n, now),
            4 => {
                let stale = draw.flip();
                self.table.sweep(&mut self.own, now, draw.flip(), |_| stale);
            }
            5 => {
                if let Some(hit) = self.hits.get(usize::from(n)) {
                    self.table.kill(hit);
                }
            }
            6 => self.table.for_each(now.tick(), |flow| {
                std::hint::black_box((flow.state, flow.forward.proto(), flow.expires));
            }),
            _ => {
                let mut words = [0; N];
                words.iter_mut().for_each(|word| *word = draw.long());
                self.look_up(Key(words), L4Flags(draw.byte()), now);
            }
        }
        assert!(self.table.live() <= self.table.capacity());
    }

    fn look_up(&mut self, key: Key<N>, seen: L4Flags, now: Time) {
        let hash = self.table.hash(&key);
        self.table.prefetch_bucket(hash);
        self.table.prefetch_record(hash);
        let Some(hit) = self.table.lookup(hash, &key) else { return };
        let tuples = self.table.tuples(&hit).expect("nobody moved it on meanwhile");
        assert_eq!(tuples[usize::from(hit.dir == Dir::Reply)], key, "a flow of another tuple");
        self.table.touch(&hit, now.tick(), seen);
        self.table.account(&hit, 1, 100);
        self.table.keep(&hit, 3);
        let _ = (hit.reopenable(), hit.epoch(), hit.masquerade());
        self.hits.push(hit);
    }
}

fn v4(n: u16, reply: bool) -> Tuple<std::net::Ipv4Addr> {
    let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp][usize::from(n % 3)];
    let [_, low] = n.to_be_bytes();
    let forward =
        Tuple { src: [10, 1, 0, low].into(), dst: [10, 96, 0, 10].into(), sport: 40_000, dport: 80, proto };
    let back = Tuple {
        src: [10, 244, 1, 1].into(),
        dst: [10, 255, 0, 1].into(),
        sport: 8_080,
        dport: 40_000 + n,
        proto,
    };
    if reply { back } else { forward }
}

fn v6(n: u16, reply: bool) -> Tuple<std::net::Ipv6Addr> {
    let Tuple { src, dst, sport, dport, proto } = v4(n, reply);
    Tuple { src: src.to_ipv6_mapped(), dst: dst.to_ipv6_mapped(), sport, dport, proto }
}
