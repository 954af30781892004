//! Small numbers with names: an id is never mistaken for another, nor for a count.

/// One service port (a Service's name, port and protocol in one family). Stable while any flow names it; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// One endpoint address and port as a backend of a service port. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// A worker, which is also its queue's number. Below [`WorkerId::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// Workers a process may have: the owner byte of a chunk keeps 0 for "nobody".
    pub const MAX: usize = 64;
}

/// The position of a flow's record in its arena. 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowIx(pub u32);

impl FlowIx {
    /// Bits an index may use inside an index word.
    pub const BITS: u32 = 24;
}
