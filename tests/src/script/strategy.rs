//! How stories are drawn. Steps that carry a flow on are the most frequent, else nothing would ever establish.

use proptest::collection::vec;
use proptest::prelude::*;

use super::make::STRANGERS;
use super::{Change, Converse, Cutting, FRONTENDS, Script, Segment, Step};
use crate::packets::flags::{ACK, FIN, PSH, RST, SYN};

#[allow(clippy::cast_possible_truncation, reason = "there are a few")]
const SERVICES: u8 = FRONTENDS.len() as u8;

/// Stories of up to `length` steps.
pub fn script(length: usize) -> impl Strategy<Value = Script> {
    (1_u8..=3, any::<u64>(), vec(step(), 1..=length)).prop_map(|(workers, seed, mut steps)| {
        // Most stories begin with a world.
        if seed % 8 != 0 {
            steps.insert(0, Step::Ready(true));
        }
        // Half of them keep clients' addresses, by one rule or another.
        let sources = [0, 1, 0, 2, 0, 1, 0, 3][usize::from((seed >> 8).to_le_bytes()[0] % 8)];
        // Many of these have one port of a pod meet one endpoint through two Services.
        if sources != 0 && seed % 16 > 4 {
            for service in [1, 0] {
                let segment = Segment { flags: SYN, payload: 0, offload: 7 };
                let step = Step::Client { worker: 0, client: 2, port: 0, service, segment };
                steps.insert(steps.len().min(1), step);
            }
        }
        Script { workers, small: seed % 16 == 1, sources, seed, steps }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0_u8..3;
    // Few ports of each client, so that they clash.
    let port = prop_oneof![2 => Just(0_u8), 1 => 0_u8..5];
    let service = prop_oneof![2 => 0..SERVICES, 1 => 0_u8..2];
    let client = (worker.clone(), 0_u8..6, port, service, segment(opening())).prop_map(
        |(worker, client, port, service, segment)| Step::Client { worker, client, port, service, segment },
    );
    let known = (worker.clone(), any::<u16>(), any::<bool>(), segment(any_flags()))
        .prop_map(|(worker, flow, reply, segment)| Step::Known { worker, flow, reply, segment });
    let pieces = (
        worker.clone(),
        (0_u8..3, 0_u8..5, 0..SERVICES),
        prop::option::weighted(0.7, (any::<u16>(), any::<bool>())),
        (prop_oneof![3 => Just(ACK), 1 => Just(SYN), 1 => Just(SYN | ACK)], 60_u16..3_002, any::<u8>()),
        cutting(),
    )
        .prop_map(|(worker, (client, port, service), known, (flags, payload, offload), cutting)| {
            let segment = Segment { flags, payload, offload };
            Step::Pieces { worker, client, port, service, known, segment, cutting }
        });
    let how = prop_oneof![
        4 => Just(Converse::Open),
        2 => Just(Converse::CloseByClient),
        2 => Just(Converse::CloseByServer),
        1 => Just(Converse::Reopen),
        1 => Just(Converse::Refuse),
    ];
    let converse = (worker.clone(), any::<u16>(), how).prop_map(|(worker, flow, how)| Step::Converse {
        worker,
        flow,
        how,
    });
    let error =
        (worker.clone(), any::<u16>(), any::<bool>(), 0_u8..6, prop::bool::weighted(0.15), 0_u16..200)
            .prop_map(|(worker, flow, reply, kind, forged, quoted)| Step::Error {
                worker,
                flow,
                reply,
                kind,
                forged,
                quoted,
            });
    let stranger =
        (worker.clone(), 0..STRANGERS).prop_map(|(worker, which)| Step::Stranger { worker, which });
    let malformed = (worker, any::<u8>()).prop_map(|(worker, which)| Step::Malformed { worker, which });
    let change = (0..SERVICES, 0_u8..3, change()).prop_map(|(service, endpoint, change)| Step::Change {
        service,
        endpoint,
        change,
    });
    let advance =
        prop_oneof![3 => 0_u32..4, 3 => 9_u32..70, 1 => 70_u32..200, 1 => Just(3_700), 1 => Just(86_500)];
    prop_oneof![
        24 => client,
        30 => known,
        12 => converse,
        10 => pieces,
        6 => error,
        4 => stranger,
        2 => malformed,
        14 => change,
        1 => prop::bool::weighted(0.8).prop_map(Step::Ready),
        5 => advance.prop_map(Step::Advance),
    ]
}

fn cutting() -> impl Strategy<Value = Cutting> {
    // At least 64 bytes: every header is in the first fragment.
    (prop_oneof![8_u16..64, Just(185)], prop::bool::weighted(0.6), any::<bool>(), any::<u64>())
        .prop_map(|(size, disorder, spread, order)| Cutting { size, disorder, spread, order })
}

fn segment(flags: impl Strategy<Value = u8>) -> impl Strategy<Value = Segment> {
    (flags, prop_oneof![Just(0_u16), 1_u16..300, Just(3_001)], any::<u8>())
        .prop_map(|(flags, payload, offload)| Segment { flags, payload, offload })
}

fn opening() -> impl Strategy<Value = u8> {
    prop_oneof![8 => Just(SYN), 1 => Just(ACK), 1 => Just(RST), 1 => Just(FIN | ACK)]
}

fn any_flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => Just(SYN | ACK),
        8 => Just(ACK),
        3 => Just(PSH | ACK),
        3 => Just(FIN | ACK),
        1 => Just(FIN),
        1 => Just(RST),
        1 => Just(RST | ACK),
        2 => Just(SYN),
        1 => Just(0),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => Just(Change::Withdraw),
        5 => Just(Change::Restore),
        2 => Just(Change::Terminate),
        1 => Just(Change::Remove),
        2 => Just(Change::Serve),
        1 => Just(Change::TakeOver),
        2 => prop_oneof![Just(None), Just(Some(1)), Just(Some(30)), Just(Some(3_600))].prop_map(Change::Affinity),
    ]
}
