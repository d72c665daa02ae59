//! A container that changes its own network, as `NET_ADMIN` lets it (N-17).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use super::lies::steals;
use super::stage::{HERE, Party, Stage, play, shell_in};
use super::wire::mac_text;
use crate::heal::shell;
use crate::lan::pin_new_netns;
use crate::world::{World, inside, pings};

/// How long an echo may take that may not come at all.
const TRY: Duration = Duration::from_secs(1);

/// Whether an echo request from an address of choice is answered.
fn pings_from(netns: &str, from: IpAddr, to: IpAddr) -> bool {
    inside(netns, move || {
        let (family, protocol, kind) = if to.is_ipv4() {
            (AddressFamily::INET, ipproto::ICMP, 8)
        } else {
            (AddressFamily::INET6, ipproto::ICMPV6, 128)
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol)).unwrap();
        bind(&socket, &SocketAddr::new(from, 0)).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TRY)).unwrap();
        let socket = UdpSocket::from(socket);
        socket.connect(SocketAddr::new(to, 0)).unwrap();
        socket.send(&[kind, 0, 0, 0, 0, 0, 0, 1]).is_ok() && socket.recv(&mut [0; 64]).is_ok()
    })
}

/// Another address of a party's network.
fn neighbours_of(party: &Party, last: u8) -> [IpAddr; 2] {
    let [a, b, c, _] = party.ipv4.octets();
    let mut ipv6 = party.ipv6.octets();
    ipv6[15] = last;
    [IpAddr::from([a, b, c, last]), IpAddr::from(ipv6)]
}

/// Makes a namespace behind a container, and gives its device addresses of the network.
fn guest_behind(world: &World, stage: &Stage, last: u8, connect: impl FnOnce(&str)) -> Vec<bool> {
    let pin = world.path().join(format!("guest-{}-{last}", stage.bridge));
    let guest = pin_new_netns(&pin);
    connect(&guest);
    let [ipv4, ipv6] = neighbours_of(&stage.attacker, last);
    shell_in(
        &guest,
        &format!(
            "echo 0 0 > /proc/sys/net/ipv4/ping_group_range && ip addr add {ipv4}/24 dev guest0 && \
             ip -6 addr add {ipv6}/64 dev guest0 nodad && ip link set guest0 up"
        ),
    );
    let hosts = [stage.host.ipv4.to_string(), stage.host.ipv6.to_string()];
    hosts.iter().map(|host| pings(&guest, host, TRY)).collect()
}

/// N-17: a container that changes its hardware address is not heard until it takes it back.
#[test]
fn a_container_with_another_hardware_address_is_not_heard() {
    const TEST: &str = "a_container_with_another_hardware_address_is_not_heard";
    play(TEST, |_, stage| {
        let Stage { attacker, host, .. } = stage;
        let own = mac_text(attacker.mac);
        let change = |mac: &str| {
            let line = format!("ip link set eth0 address {mac}");
            shell_in(&attacker.netns, &line);
            shell(&format!("ip neigh flush dev {}", stage.bridge));
        };
        change("02:de:ad:00:00:01");
        let hosts = [host.ipv4.to_string(), host.ipv6.to_string()];
        let heard = hosts.iter().map(|host| pings(&attacker.netns, host, TRY));
        let heard = heard.collect();
        change(&own);
        heard
    });
}

/// N-17: a second address is nobody's.
#[test]
fn a_second_address_of_a_container_is_not_heard() {
    const TEST: &str = "a_second_address_of_a_container_is_not_heard";
    play(TEST, |_, stage| {
        let Stage { attacker, host, .. } = stage;
        let [ipv4, ipv6] = neighbours_of(attacker, 0x99);
        let edit = |act: &str| {
            format!(
                "ip addr {act} {ipv4}/32 dev eth0 && ip -6 addr {act} {ipv6}/128 dev eth0 nodad"
            )
        };
        shell_in(&attacker.netns, &edit("add"));
        let heard = vec![
            pings_from(&attacker.netns, ipv4, host.ipv4.into()),
            pings_from(&attacker.netns, ipv6, host.ipv6.into()),
        ];
        shell_in(&attacker.netns, &edit("del").replace(" nodad", ""));
        heard
    });
}

/// N-17: who takes both addresses of a sibling does not get what is sent to it.
#[test]
fn a_container_that_makes_itself_its_sibling_gets_nothing() {
    const TEST: &str = "a_container_that_makes_itself_its_sibling_gets_nothing";
    play(TEST, |_, stage| {
        let Stage {
            attacker,
            victim,
            host,
            ..
        } = stage;
        let [own, other] = [attacker.mac, victim.mac].map(mac_text);
        let (taken, netns) = (victim.ipv4, &attacker.netns);
        shell_in(netns, &format!("ip addr add {taken}/32 dev eth0"));
        let to = SocketAddr::new(taken.into(), 9);
        let stolen = steals(stage, HERE, to, || {
            shell_in(netns, &format!("ip link set eth0 address {other}"));
            let _answered = pings_from(netns, taken.into(), host.ipv4.into());
            shell_in(netns, &format!("ip link set eth0 address {own}"));
        });
        shell_in(netns, &format!("ip addr del {taken}/32 dev eth0"));
        vec![stolen]
    });
}

/// N-17: a virtual device of a container is no neighbour of the host.
#[test]
fn a_macvlan_of_a_container_is_not_heard() {
    play("a_macvlan_of_a_container_is_not_heard", |world, stage| {
        guest_behind(world, stage, 0x98, |guest| {
            let line =
                format!("ip link add guest0 link eth0 netns {guest} type macvlan mode bridge");
            shell_in(&stage.attacker.netns, &line);
        })
    });
}

/// N-17: nor is what it connects by a bridge of its own.
#[test]
fn a_bridge_of_a_container_leads_nobody_out() {
    play(
        "a_bridge_of_a_container_leads_nobody_out",
        |world, stage| {
            let heard = guest_behind(world, stage, 0x97, |guest| {
                let line = format!(
                    "ip link add inner0 type bridge && ip link set eth0 master inner0 && \
                 ip link add inner1 master inner0 type veth peer name guest0 netns {guest} && \
                 ip link set inner1 up && ip link set inner0 up"
                );
                shell_in(&stage.attacker.netns, &line);
            });
            let line = "ip link set eth0 nomaster && ip link del inner1 && ip link del inner0";
            shell_in(&stage.attacker.netns, line);
            heard
        },
    );
}
