//! Messages of nfnetlink: headers, attributes, batches. Pure.

/// A buffer of messages and attributes, native byte order in headers.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message's type.
const NFTABLES: u16 = 10 << 8;
/// `NFNL_MSG_BATCH_BEGIN` and `_END`.
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
/// `NFPROTO_*`.
pub(super) const IPV4: u32 = 2;
pub(super) const IPV6: u32 = 10;
/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEM: u16 = 1;

/// `NFT_MSG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    GetSet = 10,
    NewElements = 12,
    GetElements = 13,
    DelElements = 14,
}

impl Kind {
    pub(super) const fn number(self) -> u16 {
        NFTABLES | self as u16
    }
}

/// `NLM_F_*`.
pub(super) mod flag {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const ACK: u16 = 4;
    pub(in super::super) const DUMP: u16 = 0x300;
    pub(in super::super) const CREATE: u16 = 0x400;
    pub(in super::super) const APPEND: u16 = 0x800;
}

const NESTED: u16 = 0x8000;
const ALIGN: usize = 4;

impl Bytes {
    /// A message: netlink header, `nfgenmsg` of this family and resource, attributes.
    pub(super) fn message(
        &mut self,
        number: u16,
        flags: u16,
        sequence: u32,
        (family, resource): (u8, u16),
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(number.to_ne_bytes());
        self.0.extend((flags | flag::REQUEST).to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        self.0.extend([family, 0]);
        self.0.extend(resource.to_be_bytes());
        attributes(self);
        let len = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |out| out.0.extend(value));
    }

    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text and the zero that ends it.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |out| {
            out.0.extend(value.as_bytes());
            out.0.push(0);
        });
    }

    pub(super) fn nested(&mut self, kind: u16, contents: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, contents);
    }

    fn attribute(&mut self, kind: u16, value: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        value(self);
        // No attribute of ours comes near 64 KiB: elements are written in parts.
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
    }
}

/// An answer of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) number: u16,
    pub(super) sequence: u32,
    /// Behind the netlink header.
    pub(super) body: &'a [u8],
}

/// `NLMSG_ERROR`, `NLMSG_DONE`.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
const HEADER: usize = 16;
/// `nfgenmsg`.
const GENERIC: usize = 4;

impl<'a> Answer<'a> {
    /// The messages of a datagram; what is cut off is left out.
    pub(super) fn all(mut rest: &'a [u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(body) = rest.get(HEADER..len) else { break };
            let number = u16::from_ne_bytes([header[4], header[5]]);
            let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            found.push(Self { number, sequence, body });
            rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        }
        found
    }

    /// An error's number, 0 for an acknowledgement.
    pub(super) fn error(&self) -> Option<i32> {
        let code = || self.body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code));
        if matches!(self.number, ERROR | DONE) { code() } else { None }
    }

    /// The attributes of an object.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(GENERIC..).unwrap_or_default())
    }
}

/// A list of attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    pub(super) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes within an attribute.
    pub(super) fn within(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_read_back() {
        let mut bytes = Bytes::default();
        bytes.message(Kind::NewTable.number(), flag::CREATE, 7, (1, 0), |out| {
            out.text(1, "abc");
            out.nested(4, |inner| inner.be32(2, 0x0102_0304));
        });
        assert_eq!(bytes.0.len() % ALIGN, 0);
        let [answer] = Answer::all(&bytes.0).try_into().unwrap();
        assert_eq!((answer.number, answer.sequence), (10 << 8, 7));
        assert_eq!(answer.attributes().get(1), Some(&b"abc\0"[..]));
        assert_eq!(answer.attributes().within(4).get(2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(answer.attributes().get(9), None);
        assert_eq!(answer.error(), None);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let mut bytes = Bytes::default();
        bytes.message(ERROR, 0, 1, (0, 0), |_| {});
        assert_eq!(Answer::all(&bytes.0).len(), 1);
        assert!(Answer::all(&bytes.0[..19]).is_empty());
        assert!(Answer::all(&[255; 40]).is_empty());
        assert_eq!(Attributes(&[200, 0, 1, 0, 5]).next(), None);
        assert_eq!(Attributes(&[0, 0, 1, 0, 5, 5, 5, 5]).next(), None);
    }
}
