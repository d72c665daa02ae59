//! Frames as an attacker makes them, and an ear at a device.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::world::{DEADLINE, inside};

pub(crate) type Mac = [u8; 6];

/// A hardware address as ip(8) takes it.
pub(crate) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// Every node of a link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const LONGEST: usize = 65_536;

/// A device of a namespace, below everything that checks addresses.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: OwnedFd,
    address: LinkAddr,
}

impl Wire {
    pub(crate) fn open(netns: &str, ifname: &str) -> Self {
        let ifname = ifname.to_owned();
        inside(netns, move || {
            let kind = SockType::Raw;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, all).unwrap();
            let address = getifaddrs()
                .unwrap()
                .filter(|found| found.interface_name == ifname)
                .find_map(|found| found.address?.as_link_addr().copied())
                .expect("the device has an address");
            bind(socket.as_raw_fd(), &address).unwrap();
            Self { socket, address }
        })
    }

    pub(crate) fn mac(&self) -> Mac {
        self.address.addr().expect("a hardware address")
    }

    pub(crate) fn index(&self) -> u32 {
        u32::try_from(self.address.ifindex()).unwrap()
    }

    /// Sends a frame, padded as hardware does.
    pub(crate) fn send(&self, frame: &[u8]) {
        const SHORTEST: usize = 60;
        let mut padded = frame.to_vec();
        padded.resize(frame.len().max(SHORTEST), 0);
        let socket = self.socket.as_raw_fd();
        // A queue that is full for a moment is what a flood meets.
        while sendto(socket, &padded, &self.address, MsgFlags::empty()).is_err() {}
    }

    /// The next frame, if one comes in time.
    fn next(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut polled, Some(&limit.try_into().unwrap())).unwrap() == 0 {
            return None;
        }
        let mut buffer = vec![0; LONGEST];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    /// Whether a frame with a text comes in time.
    pub(crate) fn hears(&self, text: &[u8], patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let rest = || deadline.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| self.next(rest())).any(|frame| has(&frame, text))
    }

    /// Everything that has come so far.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).collect()
    }

    /// Whether a frame with a text has come so far.
    pub(crate) fn has_heard(&self, text: &[u8]) -> bool {
        self.take().iter().any(|frame| has(frame, text))
    }

    /// Waits for a frame with a text that must come; everything that came before it.
    pub(crate) fn take_until(&self, text: &[u8]) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        let mut before = Vec::new();
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let frame = self.next(rest).expect("the frame comes");
            if has(&frame, text) {
                return before;
            }
            before.push(frame);
        }
    }
}

/// Which of the devices hears a text first; none if none does in time.
pub(crate) fn first_to_hear(wires: &[&Wire], text: &[u8], patience: Duration) -> Option<usize> {
    let deadline = Instant::now() + patience;
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        let mut polled: Vec<_> = wires
            .iter()
            .map(|wire| PollFd::new(&wire.socket, PollFlags::IN))
            .collect();
        if poll(&mut polled, Some(&rest.try_into().unwrap())).unwrap() == 0 {
            return None;
        }
        if let Some(found) = wires.iter().position(|wire| wire.has_heard(text)) {
            return Some(found);
        }
    }
}

/// Whether bytes are found in a frame.
pub(crate) fn has(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|window| window == text)
}

pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An ARP message: who says that he has which address, to whom.
pub(crate) fn arp(is_reply: bool, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let operation = [0, 1 + u8::from(is_reply)];
    let fixed = [0, 1, 8, 0, 6, 4];
    let (sender_mac, sender_ip) = sender;
    let (target_mac, target_ip) = target;
    [
        &fixed[..],
        &operation,
        &sender_mac,
        &sender_ip.octets(),
        &target_mac,
        &target_ip.octets(),
    ]
    .concat()
}

pub(crate) fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![
        0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0,
    ];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

/// A packet as neighbours send it, with the highest hop limit.
pub(crate) fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&header[..], &from.octets(), &to.octets(), payload].concat()
}

/// A datagram without a checksum, as IPv4 allows it.
pub(crate) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let header = [from, to, length, 0].map(u16::to_be_bytes);
    [&header.concat(), payload].concat()
}

/// What is above IPv6, with the checksum that it must have at a place.
pub(crate) fn summed6(
    protocol: u8,
    from: Ipv6Addr,
    to: Ipv6Addr,
    mut message: Vec<u8>,
    at: usize,
) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, protocol],
        &message,
    ];
    let sum = checksum(&pseudo.concat()).to_be_bytes();
    message[at..at + 2].copy_from_slice(&sum);
    message
}

/// An ICMPv6 packet.
pub(crate) fn icmp6(kind: u8, from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0], body].concat();
    ipv6(ICMPV6, from, to, &summed6(ICMPV6, from, to, message, 2))
}

/// A datagram over IPv6.
pub(crate) fn udp6(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
    let message = summed6(UDP, from.0, to.0, udp(from.1, to.1, payload), 6);
    ipv6(UDP, from.0, to.0, &message)
}

/// The checksum of the internet protocols.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Where a group's frames go.
pub(crate) fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The address that a device gives itself.
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}
