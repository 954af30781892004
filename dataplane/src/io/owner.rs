//! Whose a TUN device is, as rtnetlink tells it. The driver's own requests need an attached queue, and sysfs shows the
//! network namespace it was mounted in; so the link is asked for by name.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The user and the group that own our devices: ids nobody has, so that CAP_NET_ADMIN is the only way to a queue. With
/// user 0 a process of root without capabilities could attach, too.
///
/// Between the ranges others give ids from: above those of directories (SSSD ends at 2,000,200,000) and of containers'
/// user namespaces (systemd ends at 1,878,982,656), below systemd's foreign ids (from 2,147,352,576), and positive in
/// 32 bits. It is the same in every version: it is also how a device of ours is told from another program's.
pub(super) const NOBODY: u32 = 2_104_847_991;

const NLMSG: usize = 16;
const IFINFO: usize = 16;
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// What is known of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// It is a TUN or TAP device.
    pub is_tun: bool,
    /// Who may attach, if anybody in particular.
    pub owner: Option<u32>,
    /// The group that may attach, if any in particular.
    pub group: Option<u32>,
    /// Queues attached, those switched off included; only a multi-queue device tells.
    pub queues: Option<u32>,
}

impl Link {
    /// It is one of ours. `left` says that our lock file for it lay there before: devices of versions that gave them no
    /// owner are told by that. `euid` is who owns our devices where [`NOBODY`] has no meaning.
    pub(super) fn is_ours(&self, left: bool, euid: u32) -> bool {
        self.is_tun
            && match (self.owner, self.group) {
                (Some(NOBODY), Some(NOBODY)) => true,
                // A user namespace shows ids it does not know as 65534: the mark of a device made outside of it.
                (None, None) => left,
                (Some(owner), None) => left && owner == euid,
                _ => false,
            }
    }
}

/// The interface of this name in the calling thread's network namespace; `None` if there is none.
pub(super) fn link(name: &str) -> io::Result<Option<Link>> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    send(fd.as_raw_fd(), &question(name), MsgFlags::empty())?;
    answer(&received(&fd)?)
}

fn received(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 32 * 1024];
    let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(len);
    Ok(buffer)
}

/// `RTM_GETLINK` for one name.
fn question(name: &str) -> Vec<u8> {
    let value = name.len() + 1;
    let len = NLMSG + IFINFO + 4 + value.next_multiple_of(4);
    let mut message = Vec::with_capacity(len);
    message.extend(u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(libc::RTM_GETLINK.to_ne_bytes());
    message.extend(u16::try_from(libc::NLM_F_REQUEST).unwrap_or_default().to_ne_bytes());
    message.resize(NLMSG + IFINFO, 0);
    message.extend(u16::try_from(4 + value).unwrap_or(u16::MAX).to_ne_bytes());
    message.extend(libc::IFLA_IFNAME.to_ne_bytes());
    message.extend(name.as_bytes());
    message.resize(len, 0);
    message
}

fn answer(message: &[u8]) -> io::Result<Option<Link>> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink gave no link");
    match u16_at(message, 4).map(i32::from) {
        Some(libc::NLMSG_ERROR) => {
            let code = message.get(NLMSG..NLMSG + 4).and_then(|bytes| bytes.try_into().ok());
            let error = io::Error::from_raw_os_error(-i32::from_ne_bytes(code.ok_or_else(strange)?));
            match error.raw_os_error() {
                Some(libc::ENODEV) => Ok(None),
                _ => Err(error),
            }
        }
        Some(kind) if kind == i32::from(libc::RTM_NEWLINK) => {
            Ok(Some(described(message.get(NLMSG + IFINFO..).ok_or_else(strange)?)))
        }
        _ => Err(strange()),
    }
}

fn described(attributes: &[u8]) -> Link {
    let info = find(attributes, libc::IFLA_LINKINFO).unwrap_or_default();
    let kind = find(info, libc::IFLA_INFO_KIND).unwrap_or_default();
    let data = find(info, libc::IFLA_INFO_DATA).unwrap_or_default();
    let number = |kind| {
        find(data, kind).and_then(|bytes| bytes.try_into().ok()).map(|b: [u8; 4]| u32::from_ne_bytes(b))
    };
    let queues = number(IFLA_TUN_NUM_QUEUES);
    Link {
        is_tun: kind.strip_suffix(&[0]).unwrap_or(kind) == b"tun",
        owner: number(IFLA_TUN_OWNER),
        group: number(IFLA_TUN_GROUP),
        queues: queues.map(|on| on.saturating_add(number(IFLA_TUN_NUM_DISABLED_QUEUES).unwrap_or(0))),
    }
}

/// The value of the first attribute of this kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..len)?;
        // The two upper bits say how the value is to be read.
        if u16_at(attributes, 2)? & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_no_tun_and_nothing_is_nothing() {
        assert_eq!(link("lo").unwrap(), Some(Link::default()));
        assert_eq!(link("tw-nobody-0").unwrap(), None);
    }

    #[test]
    fn an_answer_cut_anywhere_is_no_panic() {
        let mut message = vec![0; NLMSG + IFINFO];
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let data = [(IFLA_TUN_OWNER, NOBODY), (IFLA_TUN_GROUP, 7), (IFLA_TUN_NUM_QUEUES, 2)];
        let data: Vec<u8> =
            data.iter().flat_map(|(kind, value)| attribute(*kind, &value.to_ne_bytes())).collect();
        let info =
            [attribute(libc::IFLA_INFO_KIND, b"tun\0"), attribute(libc::IFLA_INFO_DATA, &data)].concat();
        message.extend(attribute(libc::IFLA_LINKINFO, &info));
        let wanted = Link { is_tun: true, owner: Some(NOBODY), group: Some(7), queues: Some(2) };
        assert_eq!(answer(&message).unwrap(), Some(wanted));
        for len in 0..message.len() {
            assert_ne!(answer(&message[..len]).ok(), Some(Some(wanted)), "{len}");
        }
        message[NLMSG + IFINFO..NLMSG + IFINFO + 2].fill(0);
        assert_eq!(
            answer(&message).unwrap(),
            Some(Link::default()),
            "an attribute of no length ends the search"
        );
    }

    #[test]
    fn ours_is_told_by_its_owner_or_by_the_lock_it_left() {
        let tun = |owner, group| Link { is_tun: true, owner, group, queues: None };
        for (link, left, ours) in [
            (tun(Some(NOBODY), Some(NOBODY)), false, true),
            (tun(None, None), true, true),
            (tun(None, None), false, false),
            (tun(Some(1000), None), true, true),
            (tun(Some(1000), None), false, false),
            (tun(Some(1001), None), true, false),
            (tun(Some(NOBODY), None), true, false),
            (tun(Some(1000), Some(1000)), true, false),
            (Link::default(), true, false),
        ] {
            assert_eq!(link.is_ours(left, 1000), ours, "{link:?}, left {left}");
        }
    }
}
