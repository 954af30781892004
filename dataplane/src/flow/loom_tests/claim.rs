//! One key, several claimants, and a slot that becomes free in front of them.

use super::*;
use crate::flow::index::Claim;
use crate::flow::record::Draft;
use crate::flow::state::State;
use crate::flow::tcp::Flags;
use crate::flow::word::Dir;
use crate::ids::FlowIx;

/// The key everybody wants, and one that is in the way.
const WANTED: u64 = 7;
const IN_THE_WAY: u64 = 8;

fn write(table: &Table<2>, ix: u32, n: u64) -> u16 {
    let (forward, reply) = (key(n, UDP), key(1000 + u64::from(ix), UDP));
    let (service, endpoint, tops) = (ServiceId(1), EndpointId(1), Tops::as_they_arrive(&forward, &reply));
    let draft = Draft { forward, reply, service, endpoint, incarnation: 1, tops };
    let live = |generation| State::new(generation, at(100).tick(), 1, Flags::NONE);
    table.record(FlowIx(ix)).write(&draft, live)
}

/// `freeing` adds a thread that empties the first slot; without it, the first contender does, before it
/// claims.
fn claimants(contenders: u32, freeing: bool) -> String {
    let table = table(2);
    let generation = (0..contenders).fold(0, |_, ix| write(&table, ix, WANTED));
    let other = write(&table, 3, IN_THE_WAY);
    let won = table.claim(&key(IN_THE_WAY, UDP), other, Dir::Forward, FlowIx(3), at(100));
    assert_eq!(won, Claim::Won);
    let free =
        move |table: &Table<2>| table.unlink_key(&key(IN_THE_WAY, UDP), FlowIx(3), other, Dir::Forward);

    let threads: Vec<_> = (0..contenders)
        .map(|ix| {
            let table = Arc::clone(&table);
            loom::thread::spawn(move || {
                if ix == 0 && !freeing {
                    free(&table);
                }
                table.claim(&key(WANTED, UDP), generation, Dir::Forward, FlowIx(ix), at(100))
            })
        })
        .collect();
    let freer = freeing.then(|| {
        let table = Arc::clone(&table);
        loom::thread::spawn(move || free(&table))
    });
    let claims: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    if let Some(freer) = freer {
        freer.join().unwrap();
    }

    let winners: Vec<_> =
        (0..).zip(&claims).filter(|(_, claim)| **claim == Claim::Won).map(|(ix, _)| ix).collect();
    assert!(winners.len() <= 1, "two winners: {claims:?}");
    assert!(contenders > 2 || winners.len() == 1, "nobody won: {claims:?}");
    let found = find(&table, key(WANTED, UDP)).map(|hit| hit.ix.0);
    assert_eq!(found, winners.first().copied(), "the winner is the one that is found");
    for claim in &claims {
        if let Claim::Existing(word) = claim {
            assert_eq!(Some(word.ix().0), found, "an existing flow is the winner");
        }
    }
    let words = table.index.words([0, 1]);
    assert!(
        words.iter().all(|word| word.is_committed()) && words.len() == winners.len(),
        "left over: {words:?}"
    );
    let name = |claim: &Claim| match claim {
        Claim::Won => "Won",
        Claim::Existing(_) => "Existing",
        Claim::Raced(Some(_)) => "Raced(by)",
        Claim::Raced(None) => "Raced",
        Claim::Full => "Full",
    };
    claims.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn loom_claim_by_two_beside_a_free() {
    explore("claim, 2 contenders and a free", 4, 4, || claimants(2, true));
    fails("claim, 2 contenders", Twin::NoFence, "two winners", 3, || claimants(2, true));
}

#[test]
fn loom_claim_by_three_beside_a_free() {
    explore("claim, 3 contenders, one of which frees", 3, 6, || claimants(3, false));
    fails("claim, 3 contenders", Twin::NoFence, "two winners", 2, || claimants(3, false));
}
