//! Ways from one container to another that no link opened.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Duration;

use super::stage::{Stage, play, play_with};
use super::wire::{
    ALL_NODES, IPV4, IPV6, Mac, UDP, checksum, ethernet, group_mac, has, ipv4, ipv6, link_local,
    summed6, udp, udp6,
};
use crate::heal::{has as has_tool, shell};
use crate::world::{World, any_like, inside, reaches_tcp, serve_tcp};

/// How long a connection may take that may not come at all.
const TRY: Duration = Duration::from_secs(1);

/// Packets to the sibling of every protocol, each with a text of its own.
fn packets(stage: &Stage) -> Vec<(u16, Vec<u8>, String)> {
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let Stage {
        attacker, victim, ..
    } = stage;
    let (from4, to4) = (attacker.ipv4, victim.ipv4);
    let (from6, to6) = (attacker.ipv6, victim.ipv6);
    let mut packets = Vec::new();
    let mut push = |kind, make: &dyn Fn(&[u8]) -> Vec<u8>| {
        let text = format!("packet {};", packets.len());
        packets.push((kind, make(text.as_bytes()), text));
    };
    for protocol in 0..=u8::MAX {
        push(IPV4, &|text| {
            ipv4(protocol, from4, to4, &[&[0; 24], text].concat())
        });
    }
    // TCP, UDP, 6in6, GRE, ICMP, 4in6, SCTP, and numbers of nobody.
    for protocol in [6, 17, 41, 47, 58, 4, 132, 200, 253] {
        push(IPV6, &|text| {
            ipv6(protocol, from6, to6, &[&[0; 24], text].concat())
        });
    }
    let datagram =
        |text: &[u8]| summed6(UDP, from6, to6, udp(1, 53, &[text, &[0; 16]].concat()), 6);
    let nothing = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    push(IPV6, &|text| {
        let payload = [&nothing(UDP)[..], &datagram(text)].concat();
        ipv6(OPTIONS, from6, to6, &payload)
    });
    // A fragment that is all, and two whose first does not say what the packet is.
    push(IPV6, &|text| {
        let payload = [&[UDP, 0, 0, 0, 0, 0, 0, 1][..], &datagram(text)].concat();
        ipv6(FRAGMENT, from6, to6, &payload)
    });
    push(IPV6, &|text| {
        // Options of 72 bytes, 24 of which are in this fragment.
        let mut payload = vec![OPTIONS, 0, 0, 1, 0, 0, 0, 2, UDP, 8, 1, 68];
        payload.extend(text);
        payload.resize(32, 0);
        ipv6(FRAGMENT, from6, to6, &payload)
    });
    push(IPV6, &|text| {
        let header = [OPTIONS, 0, 0, 16, 0, 0, 0, 2];
        let payload = [&header[..], &datagram(text)].concat();
        ipv6(FRAGMENT, from6, to6, &payload)
    });
    for offset in [0x20, 0x00] {
        push(IPV4, &|text| {
            let mut packet = ipv4(UDP, from4, to4, &udp(1, 53, &[text, &[0; 16]].concat()));
            // More fragments follow, or one was before.
            packet[6] = offset;
            packet[7] = u8::from(offset == 0) * 4;
            packet[10..12].fill(0);
            let sum = checksum(&packet[..20]).to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
            packet
        });
    }
    packets
}

/// Which of the packets arrive, sent to a hardware address.
fn arrived(stage: &Stage, to: Mac) -> Vec<bool> {
    let packets = packets(stage);
    let mut heard = Vec::new();
    for (number, (kind, packet, _)) in packets.iter().enumerate() {
        let frame = ethernet(to, stage.attacker.mac, *kind, packet);
        stage.attacker.wire.send(&frame);
        if number % 16 == 0 {
            stage.settle(number);
            heard.extend(stage.victim.wire.take());
        }
    }
    stage.settle(packets.len());
    heard.extend(stage.victim.wire.take());
    let is_heard = |text: &str| heard.iter().any(|frame| has(frame, text.as_bytes()));
    packets.iter().map(|(_, _, text)| is_heard(text)).collect()
}

/// N-04, N-16: no protocol and no fragment crosses without a link, neither by wire nor by way
/// of the host.
#[test]
fn no_protocol_and_no_fragment_crosses_without_a_link() {
    const TEST: &str = "no_protocol_and_no_fragment_crosses_without_a_link";
    let set_up = |_: &World| {
        shell(
            "echo 1 > /proc/sys/net/ipv4/ip_forward && \
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
    };
    play_with(TEST, set_up, |_, stage, ()| {
        let mut results = arrived(stage, stage.victim.mac);
        results.extend(arrived(stage, stage.host.mac));
        results
    });
}

/// Whether a namespace reaches a place by TCP.
fn connects(netns: &str, place: SocketAddr) -> bool {
    inside(netns, move || {
        TcpStream::connect_timeout(&place, TRY).is_ok()
    })
}

/// N-04: IPv6 is no side door: neither the addresses that devices give themselves, nor
/// groups, nor IPv4 written as IPv6.
#[test]
fn no_kind_of_address_is_a_side_door() {
    play("no_kind_of_address_is_a_side_door", |_, stage| {
        let Stage {
            attacker, victim, ..
        } = stage;
        serve_tcp(&victim.netns, "::", 80);
        let own = link_local(victim.mac);
        let index = attacker.wire.index();
        let mapped = victim.ipv4.to_ipv6_mapped();
        let places: [SocketAddr; 4] = [
            SocketAddrV6::new(own, 80, 0, index).into(),
            SocketAddr::new(mapped.into(), 80),
            SocketAddr::new(victim.ipv4.into(), 80),
            SocketAddr::new(victim.ipv6.into(), 80),
        ];
        let mut results: Vec<_> = places
            .into_iter()
            .map(|place| connects(&attacker.netns, place))
            .collect();
        let groups = [ALL_NODES, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)];
        for (number, group) in groups.into_iter().enumerate() {
            let packet = udp6((link_local(attacker.mac), 1), (group, 5353), b"to a group");
            let frame = ethernet(group_mac(group), attacker.mac, IPV6, &packet);
            attacker.wire.send(&frame);
            stage.settle(number);
            results.push(victim.wire.has_heard(b"to a group"));
        }
        results
    });
}

/// N-05: what keeps siblings apart does not depend on bridged packets meeting the firewall.
/// A rule that does is passed by.
#[test]
fn siblings_stay_apart_when_bridged_packets_pass_the_firewall_by() {
    const TEST: &str = "siblings_stay_apart_when_bridged_packets_pass_the_firewall_by";
    if !has_tool(TEST, "nft") {
        return;
    }
    let call = |value: u8| {
        shell(&format!(
            "for tables in ip ip6 arp; do \
             echo {value} > /proc/sys/net/bridge/bridge-nf-call-${{tables}}tables; done"
        ));
    };
    let set_up = move |_: &World| {
        call(1);
        shell(
            "nft 'table inet naive { chain forward { type filter hook forward priority 0; \
             iifname plain0 oifname plain0 drop; }; }'",
        );
    };
    play_with(TEST, set_up, move |_, stage, ()| {
        let Stage {
            attacker, victim, ..
        } = stage;
        serve_tcp(&victim.netns, "::", 80);
        let ips = [IpAddr::from(victim.ipv4), victim.ipv6.into()];
        let reached = || {
            let reached = ips.map(|ip| reaches_tcp(&attacker.netns, &ip.to_string(), 80, TRY));
            reached.to_vec()
        };
        assert_eq!(reached(), [false, false], "as long as they meet it");
        call(0);
        reached()
    });
}

/// N-04, N-16: a datagram that comes in pieces is as closed as one that does not.
#[test]
fn a_datagram_in_pieces_does_not_cross_without_a_link() {
    play(
        "a_datagram_in_pieces_does_not_cross_without_a_link",
        |_, stage| {
            let Stage {
                attacker, victim, ..
            } = stage;
            let ips = [IpAddr::from(victim.ipv4), victim.ipv6.into()];
            ips.iter()
                .map(|ip| {
                    let any = any_like(*ip);
                    let server = inside(&victim.netns, move || UdpSocket::bind(any).unwrap());
                    let port = server.local_addr().unwrap().port();
                    let place = SocketAddr::new(*ip, port);
                    inside(&attacker.netns, move || {
                        let socket = UdpSocket::bind(any).unwrap();
                        socket.send_to(&[b'x'; 8000], place).unwrap();
                    });
                    server.set_read_timeout(Some(TRY)).unwrap();
                    server
                        .recv(&mut [0; 9000])
                        .is_ok_and(|length| length == 8000)
                })
                .collect()
        },
    );
}
