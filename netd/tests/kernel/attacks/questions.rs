//! Clients of the server for names, and a server as somebody writes it in an hour.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, Endpoint, NetworkPolicy,
};

use super::stage::assert_has;
use crate::names;
use crate::world::{DEADLINE, World, any_like, inside, plain, spawn_inside};

/// An open network with two containers that ask and one that has a server of its own.
pub(super) struct Cast {
    pub(super) attacker: Endpoint,
    pub(super) victim: Endpoint,
    pub(super) naive: Endpoint,
}

impl Cast {
    pub(super) fn enter(world: &World) -> Self {
        let request = CreateNetworkRequest {
            name: "front".to_owned(),
            policy: NetworkPolicy::Open.into(),
            internal: true,
            ..Default::default()
        };
        world.ask(async |mut client| client.create_network(request).await.unwrap());
        let attach = |digit, name: &str| {
            world.attach(AttachEndpointRequest {
                network: "front".to_owned(),
                ..plain(digit, name)
            })
        };
        let cast = Self {
            attacker: attach('a', "attacker"),
            victim: attach('b', "victim"),
            naive: attach('c', "naive"),
        };
        for one in [&cast.attacker, &cast.victim, &cast.naive] {
            assert_has(&one.netns_path, &one.ipv4_gateway);
        }
        cast
    }

    /// The server of netd.
    pub(super) fn server(&self) -> IpAddr {
        self.victim.ipv4_gateway.parse().unwrap()
    }

    /// A server that somebody wrote in an hour.
    pub(super) fn naive_server(&self) -> IpAddr {
        self.naive.ipv4_address.parse().unwrap()
    }
}

/// A question for the address of a name.
pub(super) fn question(name: &str) -> Vec<u8> {
    names::question(name, names::A)
}

/// The header of a question, and how many records it announces.
pub(super) fn header(counts: [u8; 8]) -> Vec<u8> {
    [&[0xab, 0xcd, 1, 0][..], &counts].concat()
}

/// What a server says to a datagram; none if it says nothing in time.
pub(super) fn ask(
    netns: &str,
    server: IpAddr,
    message: &[u8],
    patience: Duration,
) -> Option<Vec<u8>> {
    let message = message.to_vec();
    inside(netns, move || {
        let any = any_like(server);
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(&message, (server, 53)).unwrap();
        let mut buffer = vec![0; 65_536];
        let length = socket.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    })
}

/// Likewise by a connection.
pub(super) fn ask_by_stream(
    netns: &str,
    server: IpAddr,
    message: &[u8],
    patience: Duration,
) -> Option<Vec<u8>> {
    let message = message.to_vec();
    inside(netns, move || {
        let place = SocketAddr::new(server, 53);
        let mut stream = TcpStream::connect_timeout(&place, patience).ok()?;
        stream.set_read_timeout(Some(patience)).unwrap();
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length, &message[..]].concat()).ok()?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).ok()?;
        Some(reply)
    })
}

/// Whether the name of the victim is told.
pub(super) fn is_answered(reply: Option<&Vec<u8>>, victim: &Endpoint) -> bool {
    let ip: Ipv4Addr = victim.ipv4_address.parse().unwrap();
    reply.is_some_and(|reply| reply.ends_with(&ip.octets()))
}

/// A server that serves one connection after another, and answers a datagram with twice as
/// much.
pub(super) fn serve_naively(endpoint: &Endpoint) {
    let (ready, is_ready) = mpsc::channel();
    let also_ready = ready.clone();
    spawn_inside(&endpoint.netns_path, move || {
        let listener = TcpListener::bind("0.0.0.0:53").unwrap();
        ready.send(()).unwrap();
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                drop(stream.read_exact(&mut question));
                drop(stream.write_all(&[&length, &question[..]].concat()));
            }
        }
    });
    spawn_inside(&endpoint.netns_path, move || {
        let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
        also_ready.send(()).unwrap();
        let mut buffer = vec![0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length].repeat(2), peer));
        }
    });
    for _both in 0..2 {
        is_ready.recv_timeout(DEADLINE).unwrap();
    }
}
