//! Stories for the gateway, judged by the model: as `tests/tests/model.rs`, with the fuzzer as the author.

use super::Draw;
use crate::packets::flags::{ACK, FIN, PSH, RST, SYN};
use crate::script::{self, Change, Converse, Cutting, Histogram, Script, Segment, Step};

/// Steps of one input.
const STEPS: usize = 160;

/// Runs the target.
///
/// # Panics
/// On a finding: the property that was broken, and the story.
pub fn run(data: &[u8]) {
    let story = read(data);
    if let Err(what) = script::run(&story, &mut Histogram::new()) {
        panic!("{what}\n{story}");
    }
}

/// The story that some bytes are. A small table is left to the random stories: it costs 4,000 flows to fill.
#[must_use]
pub fn read(data: &[u8]) -> Script {
    let mut draw = Draw::new(data);
    let (workers, sources, seed) = (1 + draw.below(3), draw.below(4), u64::from(draw.word()));
    let mut steps = vec![Step::Ready(true)];
    while !draw.is_empty() && steps.len() < STEPS {
        steps.push(step(&mut draw));
    }
    Script { workers, small: false, sources, seed, steps }
}

fn step(draw: &mut Draw<'_>) -> Step {
    let which = draw.below(16);
    let worker = draw.below(3);
    match which {
        0..=3 => Step::Client {
            worker,
            client: draw.below(6),
            port: draw.below(5),
            service: draw.byte(),
            segment: segment(draw, &[SYN, SYN, SYN, ACK, RST, FIN | ACK]),
        },
        4..=6 => Step::Known {
            worker,
            flow: draw.byte().into(),
            reply: draw.flip(),
            segment: segment(draw, &[SYN | ACK, ACK, PSH | ACK, FIN | ACK, FIN, RST, RST | ACK, SYN, 0]),
        },
        7 | 8 => Step::Converse {
            worker,
            flow: draw.byte().into(),
            how: draw.one_of(&[
                Converse::Open,
                Converse::CloseByClient,
                Converse::CloseByServer,
                Converse::Reopen,
                Converse::Refuse,
            ]),
        },
        9 => Step::Pieces {
            worker,
            client: draw.below(3),
            port: draw.below(5),
            service: draw.byte(),
            known: draw.flip().then(|| (draw.byte().into(), draw.flip())),
            segment: Segment {
                flags: draw.one_of(&[ACK, ACK, SYN, SYN | ACK]),
                payload: 60 + draw.word() % 2_942,
                offload: draw.byte(),
            },
            cutting: Cutting {
                // At least 64 bytes: every header is in the first fragment.
                size: 8 + draw.word() % 178,
                disorder: draw.flip(),
                spread: draw.flip(),
                order: draw.word().into(),
            },
        },
        10 => Step::Error {
            worker,
            flow: draw.byte().into(),
            reply: draw.flip(),
            kind: draw.below(6),
            forged: draw.below(8) == 7,
            quoted: draw.byte().into(),
        },
        11 => Step::Stranger { worker, which: draw.byte() },
        12 => Step::Malformed { worker, which: draw.byte() },
        13 | 14 => Step::Change {
            service: draw.byte(),
            endpoint: draw.below(3),
            change: draw.one_of(&[
                Change::Withdraw,
                Change::Restore,
                Change::Terminate,
                Change::Remove,
                Change::Serve,
                Change::TakeOver,
                Change::Affinity(None),
                Change::Affinity(Some(1)),
                Change::Affinity(Some(30)),
                Change::Affinity(Some(3_600)),
            ]),
        },
        _ => match draw.byte() {
            255 => Step::Ready(false),
            254 => Step::Ready(true),
            253 => Step::Advance(86_500),
            252 => Step::Advance(3_700),
            seconds => Step::Advance(seconds.into()),
        },
    }
}

fn segment(draw: &mut Draw<'_>, flags: &[u8]) -> Segment {
    let (flags, payload) = (draw.one_of(flags), draw.byte());
    Segment { flags, payload: if payload == 255 { 3_001 } else { payload.into() }, offload: draw.byte() }
}
