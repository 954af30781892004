//! Rules as lists of expressions, in the kernel's terms: each loads into a register, compares, or acts.

use std::net::IpAddr;

use super::message::{self, Bytes};

/// What one rule does, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule(pub(crate) Vec<Expr>);

/// What a packet or its connection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    InputName,
    OutputName,
    /// `NFPROTO_*`.
    Family,
    L4Proto,
    TcpFlags,
    Saddr4,
    Saddr6,
    Daddr4,
    Daddr6,
    CtStatus,
    CtDirection,
    /// Of the original direction.
    CtZone,
    /// Of the original direction, too.
    CtSaddr4,
    CtSaddr6,
    CtDaddr4,
    CtDaddr6,
    CtProtocol,
    CtSourcePort,
    CtDestinationPort,
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// The field is this; `not`: is not.
    Is {
        field: Field,
        value: Vec<u8>,
        not: bool,
    },
    /// No bit of the mask is set in the field (host order).
    HasNone {
        field: Field,
        mask: u32,
    },
    /// The masked field is this, both in network order.
    Masked {
        field: Field,
        mask: Vec<u8>,
        value: Vec<u8>,
    },
    /// The fields, one after the other, are an element of the set.
    In {
        fields: Vec<Field>,
        set: &'static str,
    },
    /// Sets the zone of the original direction.
    SetZone(u16),
    /// `daddr = daddr & !bits ^ xor`, in the IP header alone.
    SetDaddr {
        v6: bool,
        clear: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Source NAT to the packet's own source.
    SnatItself {
        v6: bool,
    },
    /// Source NAT to this address.
    Snat(IpAddr),
    /// Source NAT to the output device's address, with a random port, of these if there are any.
    Masquerade(Option<(u16, u16)>),
    /// A SYN's segment size becomes that of the way's MTU, if it is larger.
    ClampMss,
    /// Every other time, at random.
    Half,
    Drop,
    Jump(&'static str),
}

/// `NFT_REG_1`, where most values go.
const REG: u32 = 1;
/// `NFT_REG32_00`: the first of the registers of four bytes, which lie over the larger ones.
const REG32: u32 = 8;

impl Rule {
    /// The attribute `NFTA_RULE_EXPRESSIONS`' contents.
    pub(super) fn encode(&self, out: &mut Bytes) {
        self.0.iter().for_each(|expr| expr.encode(out));
    }
}

impl Field {
    /// Bytes of its value.
    pub(crate) const fn len(self) -> u32 {
        match self {
            Self::InputName
            | Self::OutputName
            | Self::Saddr6
            | Self::Daddr6
            | Self::CtSaddr6
            | Self::CtDaddr6 => 16,
            Self::Saddr4 | Self::Daddr4 | Self::CtSaddr4 | Self::CtDaddr4 | Self::CtStatus => 4,
            Self::CtZone | Self::CtSourcePort | Self::CtDestinationPort => 2,
            Self::Family | Self::L4Proto | Self::TcpFlags | Self::CtDirection | Self::CtProtocol => 1,
        }
    }

    fn load(self, register: u32, out: &mut Bytes) {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match self {
            Self::InputName => meta(6, register, out),
            Self::OutputName => meta(7, register, out),
            Self::Family => meta(15, register, out),
            Self::L4Proto => meta(16, register, out),
            Self::TcpFlags => payload(TRANSPORT, 13, 1, register, out),
            Self::Saddr4 => payload(NETWORK, 12, 4, register, out),
            Self::Daddr4 => payload(NETWORK, 16, 4, register, out),
            Self::Saddr6 => payload(NETWORK, 8, 16, register, out),
            Self::Daddr6 => payload(NETWORK, 24, 16, register, out),
            Self::CtDirection => ct(1, None, register, out),
            Self::CtStatus => ct(2, None, register, out),
            Self::CtZone => ct(17, ORIGINAL, register, out),
            Self::CtSaddr4 => ct(19, ORIGINAL, register, out),
            Self::CtSaddr6 => ct(21, ORIGINAL, register, out),
            Self::CtSourcePort => ct(11, ORIGINAL, register, out),
            Self::CtDaddr4 => ct(20, ORIGINAL, register, out),
            Self::CtDaddr6 => ct(22, ORIGINAL, register, out),
            Self::CtProtocol => ct(10, ORIGINAL, register, out),
            Self::CtDestinationPort => ct(12, ORIGINAL, register, out),
        }
    }
}

impl Expr {
    #[allow(clippy::too_many_lines, reason = "one arm an expression, each a few attributes")]
    fn encode(&self, out: &mut Bytes) {
        match self {
            Self::Is { field, value, not } => {
                field.load(REG, out);
                compare(*not, value, out);
            }
            Self::HasNone { field, mask } => {
                field.load(REG, out);
                bitwise(4, &mask.to_ne_bytes(), &[0; 4], out);
                compare(false, &[0; 4], out);
            }
            Self::Masked { field, mask, value } => {
                field.load(REG, out);
                bitwise(field.len(), mask, &vec![0; mask.len()], out);
                compare(false, value, out);
            }
            Self::In { fields, set } => {
                let mut register = REG32;
                for field in fields {
                    field.load(register, out);
                    register += field.len().div_ceil(4);
                }
                expression("lookup", out, |data| {
                    data.text(1, set);
                    data.be32(2, REG32);
                });
            }
            Self::SetZone(zone) => {
                immediate(&zone.to_ne_bytes(), out);
                expression("ct", out, |data| {
                    data.be32(2, 17);
                    data.bytes(3, &[0]);
                    data.be32(4, REG);
                });
            }
            Self::SetDaddr { v6, clear, xor } => {
                let field = if *v6 { Field::Daddr6 } else { Field::Daddr4 };
                field.load(REG, out);
                let keep: Vec<u8> = clear.iter().map(|bits| !bits).collect();
                bitwise(field.len(), &keep, xor, out);
                expression("payload", out, |data| {
                    data.be32(5, REG);
                    data.be32(2, 1);
                    data.be32(3, if *v6 { 24 } else { 16 });
                    data.be32(4, field.len());
                    // IPv4's header checksum follows; those of layer 4 stay, see `dataplane::packet::alias`.
                    data.be32(6, u32::from(!*v6));
                    data.be32(7, if *v6 { 0 } else { 10 });
                    data.be32(8, 0);
                });
            }
            Self::SnatItself { v6 } => {
                if *v6 { Field::Saddr6 } else { Field::Saddr4 }.load(REG, out);
                snat(*v6, out);
            }
            Self::Snat(to) => {
                let v6 = to.is_ipv6();
                immediate(&octets(*to), out);
                snat(v6, out);
            }
            Self::Masquerade(ports) => {
                if let Some((first, last)) = ports {
                    for (register, port) in [(REG32, first), (REG32 + 1, last)] {
                        immediate_to(register, &port.to_be_bytes(), out);
                    }
                }
                expression("masq", out, |data| {
                    data.be32(1, RANDOM_FULLY);
                    if ports.is_some() {
                        data.be32(2, REG32);
                        data.be32(3, REG32 + 1);
                    }
                });
            }
            Self::ClampMss => {
                expression("rt", out, |data| {
                    data.be32(1, REG);
                    data.be32(2, 3);
                });
                expression("byteorder", out, |data| {
                    data.be32(1, REG);
                    data.be32(2, REG);
                    data.be32(3, 1);
                    data.be32(4, 2);
                    data.be32(5, 2);
                });
                expression("exthdr", out, |data| {
                    data.be32(7, REG);
                    data.bytes(2, &[2]);
                    data.be32(3, 2);
                    data.be32(4, 2);
                    data.be32(6, 1);
                });
            }
            Self::Half => {
                expression("numgen", out, |data| {
                    data.be32(1, REG);
                    data.be32(2, 2);
                    data.be32(3, 1);
                    data.be32(4, 0);
                });
                compare(false, &[0; 4], out);
            }
            Self::Drop => verdict(0, None, out),
            Self::Jump(chain) => verdict(-3, Some(chain), out),
        }
    }
}

/// `IP_CT_DIR_ORIGINAL`.
const ORIGINAL: Option<u8> = Some(0);
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 16;

fn expression(name: &str, out: &mut Bytes, data: impl FnOnce(&mut Bytes)) {
    out.nested(message::LIST_ELEM, |element| {
        element.text(1, name);
        element.nested(2, data);
    });
}

fn meta(key: u32, register: u32, out: &mut Bytes) {
    expression("meta", out, |data| {
        data.be32(2, key);
        data.be32(1, register);
    });
}

fn payload(base: u32, offset: u32, len: u32, register: u32, out: &mut Bytes) {
    expression("payload", out, |data| {
        data.be32(1, register);
        data.be32(2, base);
        data.be32(3, offset);
        data.be32(4, len);
    });
}

fn ct(key: u32, direction: Option<u8>, register: u32, out: &mut Bytes) {
    expression("ct", out, |data| {
        data.be32(2, key);
        data.be32(1, register);
        if let Some(direction) = direction {
            data.bytes(3, &[direction]);
        }
    });
}

fn compare(not: bool, value: &[u8], out: &mut Bytes) {
    expression("cmp", out, |data| {
        data.be32(1, REG);
        data.be32(2, u32::from(not));
        data.nested(3, |value_of| value_of.bytes(1, value));
    });
}

fn bitwise(len: u32, mask: &[u8], xor: &[u8], out: &mut Bytes) {
    expression("bitwise", out, |data| {
        data.be32(1, REG);
        data.be32(2, REG);
        data.be32(3, len);
        data.nested(4, |value| value.bytes(1, mask));
        data.nested(5, |value| value.bytes(1, xor));
    });
}

fn immediate(value: &[u8], out: &mut Bytes) {
    immediate_to(REG, value, out);
}

fn immediate_to(register: u32, value: &[u8], out: &mut Bytes) {
    expression("immediate", out, |data| {
        data.be32(1, register);
        data.nested(2, |value_of| value_of.bytes(1, value));
    });
}

fn verdict(code: i32, chain: Option<&str>, out: &mut Bytes) {
    expression("immediate", out, |data| {
        data.be32(1, 0);
        data.nested(2, |data| {
            data.nested(2, |verdict| {
                verdict.be32(1, code.cast_unsigned());
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    });
}

fn snat(v6: bool, out: &mut Bytes) {
    expression("nat", out, |data| {
        data.be32(1, 0);
        data.be32(2, if v6 { message::IPV6 } else { message::IPV4 });
        data.be32(3, REG);
    });
}

/// An address in network order.
pub(crate) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}
