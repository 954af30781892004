//! Which RSTs and FINs change a flow: those whose endpoint would believe them (RFC 5961).
//!
//! Anybody who can send from a client's address can send a RST, but hardly one with the right sequence number. The
//! endpoint drops the others, and so the flow must not change for them either. A record has room for 16 bits a direction,
//! the upper half of the sequence number that is expected next: what the other side last acknowledged. They lie beside
//! `ver`, in the line a look-up reads anyway, and are written once per 64 KiB of a direction's data.
//!
//! - They begin with the SYN/ACK, whose two numbers are both known to be right: no client can send one to itself. So a
//!   connection that begins anew on a flow whose end was not seen is followed, too.
//! - An ACK moves them forward within [`ACK_REACH`]. A forged one may move them too far; then the other side's RST is not
//!   believed, which keeps a flow too long, and nothing else.
//! - A RST counts from 64 KiB before what is expected to [`RST_REACH`] behind it: one forged blindly has a chance of 18 in
//!   65,536. A genuine one is exactly there, but for what is under way; and what is under way is acknowledged, which the
//!   dead end answers with another RST. A FIN follows whatever is under way, and can do no more than shorten the time a
//!   flow may be idle: [`FIN_REACH`].
//!
//! What is not believed is translated all the same: the endpoint judges exactly.

use super::record::Record;
use super::state::State;
use super::table::{Hit, Table};
use super::tcp::Flags;
use super::word::Dir;
use crate::packet::layout::L4Flags;
use crate::packet::segment::Numbers;

/// How far behind the expected sequence number a RST is believed, in units of 64 KiB: 1 MiB.
const RST_REACH: i16 = 16;
/// The same for a FIN, which has a whole window before it: 64 MiB.
const FIN_REACH: i16 = 1_024;
/// Segments with these are looked at closely.
const ENDS_OR_BEGINS: [L4Flags; 3] = [L4Flags::SYN, L4Flags::FIN, L4Flags::RST];
/// How far an acknowledgment may be ahead of the one before it: 256 MiB.
const ACK_REACH: u16 = 4_096;

impl<const N: usize> Table<N> {
    /// The flags of a TCP segment as far as its flow may believe them; none if it is a RST or FIN from out of the window.
    /// Call it before the segment's [`Table::touch`].
    #[inline]
    #[must_use]
    pub fn believed(&self, hit: &Hit<N>, seen: L4Flags, numbers: Numbers) -> L4Flags {
        // Nearly every segment: an acknowledgment of the same 64 KiB.
        let (acked, other) = (upper(numbers.ack), hit.dir.opposite());
        let moved = acked.wrapping_sub(hit.expected.of(other));
        if moved == 0 && !ENDS_OR_BEGINS.iter().any(|flag| seen.has(*flag)) {
            return seen;
        }
        self.judge_numbers(hit, seen, numbers)
    }

    #[cold]
    fn judge_numbers(&self, hit: &Hit<N>, seen: L4Flags, numbers: Numbers) -> L4Flags {
        let (record, other) = (self.record(hit.ix), hit.dir.opposite());
        if seen.has(L4Flags::SYN) {
            if seen.has(L4Flags::ACK) && hit.dir == Dir::Reply {
                expect(record, Dir::Reply, numbers);
            }
            return seen;
        }
        // Before the SYN/ACK nothing is known.
        if !State(hit.state).flags().any(Flags::SYN_ACK.with(Flags::PICKUP)) {
            return seen;
        }
        let reset = seen.has(L4Flags::RST);
        if reset || seen.has(L4Flags::FIN) {
            let reach = if reset { RST_REACH } else { FIN_REACH };
            let ahead = upper(numbers.seq).wrapping_sub(hit.expected.of(hit.dir)).cast_signed();
            if !(-1..=reach).contains(&ahead) {
                return L4Flags::default();
            }
        }
        let moved = upper(numbers.ack).wrapping_sub(hit.expected.of(other));
        if seen.has(L4Flags::ACK) && !reset && (1..=ACK_REACH).contains(&moved) {
            record.expect(other, upper(numbers.ack));
        }
        seen
    }

    /// Begins with the numbers of the client's first segment of a flow picked up in its middle. Nobody else has it yet.
    pub fn pick_up(&self, hit: &mut Hit<N>, numbers: Numbers) {
        expect(self.record(hit.ix), hit.dir, numbers);
        hit.expected = self.record(hit.ix).expected();
    }
}

/// What a segment of this direction says of both.
fn expect<const N: usize>(record: &Record<N>, dir: Dir, numbers: Numbers) {
    record.expect(dir, upper(numbers.seq));
    record.expect(dir.opposite(), upper(numbers.ack));
}

#[allow(clippy::cast_possible_truncation, reason = "the upper half of 32 bits")]
const fn upper(number: u32) -> u16 {
    (number >> 16) as u16
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::super::NewFlow;
    use super::super::kit::*;
    use super::*;
    use crate::packet::tuple::Proto::Tcp;
    use Dir::{Forward as C, Reply as S};

    /// First sequence numbers of client and server; the server's wraps soon.
    const CLIENT: u32 = 0x7000_0000;
    const SERVER: u32 = 0xffff_f000;
    const MIB: u32 = 1 << 20;

    struct Peer<'a>(&'a Table<2>);

    impl Peer<'_> {
        /// A segment as a worker handles it; whether it was believed.
        fn send(&self, dir: Dir, seen: L4Flags, seq: u32, ack: u32) -> bool {
            let key = if dir == C { forward(Tcp, 1) } else { reply(Tcp, 1) };
            let hit = find(self.0, key).unwrap();
            let believed = self.0.believed(&hit, seen, Numbers { seq, ack });
            self.0.touch(&hit, tick(100), believed);
            believed == seen
        }

        fn state(&self) -> &'static str {
            find(self.0, forward(Tcp, 1)).unwrap().state_name()
        }

        fn open(&self) {
            assert!(self.send(S, SYN_ACK, SERVER, CLIENT + 1));
            assert!(self.send(C, ACK, CLIENT + 1, SERVER + 1));
        }
    }

    fn with_flow(test: impl Fn(Peer<'_>)) {
        let table = table(1);
        let mut worker = Worker::new(&table, 0);
        worker.open(&new(forward(Tcp, 1), at(100)), 1);
        test(Peer(&table));
    }

    #[test]
    fn only_a_rst_the_endpoint_may_believe_resets_a_flow() {
        for (dir, next, ack) in [(C, CLIENT + 1, SERVER + 1), (S, SERVER + 1, CLIENT + 1)] {
            for far in [1 << 31, 2 * MIB, 0_u32.wrapping_sub(2 * MIB), 0x4000_0000, 0x9000_0000] {
                with_flow(|peer| {
                    peer.open();
                    assert!(!peer.send(dir, RST, next.wrapping_add(far), ack), "{dir:?} {far:x}");
                    assert!(!peer.send(dir, L4Flags(0x14), next.wrapping_add(far), ack), "{dir:?} {far:x}");
                    assert_eq!(peer.state(), "ESTABLISHED");
                });
            }
            for near in [0, 1, 65_000, MIB - 65_536, 0_u32.wrapping_sub(65_000)] {
                with_flow(|peer| {
                    peer.open();
                    assert!(peer.send(dir, RST, next.wrapping_add(near), 0), "{dir:?} {near:x}");
                    assert_eq!(peer.state(), "RESET");
                });
            }
        }
    }

    #[test]
    fn a_stray_fin_closes_nothing_and_one_behind_a_window_does() {
        with_flow(|peer| {
            peer.open();
            assert!(!peer.send(C, FIN_ACK, CLIENT + (1 << 31), SERVER + 1));
            assert!(!peer.send(C, FIN_ACK, CLIENT + 80 * MIB, SERVER + 1));
            assert_eq!(peer.state(), "ESTABLISHED");
            assert!(peer.send(C, FIN_ACK, CLIENT + 30 * MIB, SERVER + 1));
            assert_eq!(peer.state(), "HALF_CLOSED");
        });
    }

    #[test]
    fn what_is_expected_follows_the_acknowledgments_across_the_wrap() {
        with_flow(|peer| {
            peer.open();
            for step in 1..=2_000_u32 {
                assert!(peer.send(C, ACK, CLIENT + 1, SERVER.wrapping_add(step.wrapping_mul(3 * MIB))));
            }
            let next = SERVER.wrapping_add(2_000_u32.wrapping_mul(3 * MIB));
            assert!(!peer.send(S, RST, SERVER + 1, 0), "what was right at the beginning");
            assert!(peer.send(S, RST, next, 0));
            assert_eq!(peer.state(), "RESET");
        });
    }

    #[test]
    fn a_forged_acknowledgment_makes_no_forged_rst_of_the_client_believed() {
        with_flow(|peer| {
            peer.open();
            peer.send(C, ACK, CLIENT + 0x800_0000, SERVER.wrapping_add(0x800_0000));
            assert!(!peer.send(C, RST, CLIENT + 0x800_0000, 0));
            assert_eq!(peer.state(), "ESTABLISHED");
        });
    }

    #[test]
    fn a_connection_that_begins_anew_on_the_flow_is_followed() {
        with_flow(|peer| {
            peer.open();
            let (client, server) = (CLIENT ^ 1 << 31, 0x1234_5678);
            assert!(peer.send(C, SYN, client, 0));
            assert!(peer.send(S, SYN_ACK, server, client + 1));
            assert!(peer.send(C, ACK, client + 1, server + 1));
            assert!(!peer.send(C, RST, CLIENT + 1, 0));
            assert!(peer.send(C, RST, client + 1, 0));
            assert_eq!(peer.state(), "RESET");
        });
    }

    #[test]
    fn before_the_handshake_and_picked_up_flows_are_judged_by_what_is_known() {
        with_flow(|peer| {
            assert!(peer.send(C, RST, 77, 0), "nobody has answered yet");
        });
        let table = table(1);
        let mut worker = Worker::new(&table, 0);
        let picked = NewFlow { pickup: true, seen: ACK, ..new(forward(Tcp, 1), at(100)) };
        let mut hit = worker.open(&picked, 1);
        table.pick_up(&mut hit, Numbers { seq: CLIENT, ack: SERVER });
        let peer = Peer(&table);
        assert!(peer.send(S, ACK, SERVER, CLIENT));
        assert!(!peer.send(C, RST, CLIENT + (1 << 31), 0) && !peer.send(S, RST, SERVER - (1 << 31), 0));
        assert_eq!(peer.state(), "ESTABLISHED");
        assert!(peer.send(S, RST, SERVER, 0));
    }
}
