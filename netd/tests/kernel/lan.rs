//! A host beside the world's: another namespace at the end of a cable.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use nix::sched::CloneFlags;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::world::{World, bring_up, inside, new_runtime};

pub(crate) const HOST4: &str = "192.0.2.1";
pub(crate) const HOST6: &str = "2001:db8::1";
pub(crate) const LAN4: &str = "192.0.2.2";
pub(crate) const LAN6: &str = "2001:db8::2";

/// Connects a neighbour to the world; returns where its namespace is pinned.
pub(crate) fn connect(world: &World) -> String {
    let pin = pin_new_netns(&world.path().join("lan"));
    let netns = File::open(&pin).unwrap();
    world.netlink(async |handle| {
        handle
            .link()
            .add(LinkVeth::new("uplink", "lan0").build())
            .execute()
            .await
            .unwrap();
        let peer = index(&handle, "lan0").await;
        let moved = LinkUnspec::new_with_index(peer)
            .setns_by_fd(netns.as_raw_fd())
            .build();
        handle.link().set(moved).execute().await.unwrap();
        configure(&handle, "uplink", [HOST4, HOST6]).await;
    });
    within(&pin, async |handle| {
        bring_up(&handle, 1).await;
        configure(&handle, "lan0", [LAN4, LAN6]).await;
    });
    pin
}

/// Makes the neighbour send packets for a network by way of the world's host.
pub(crate) fn route_through_host(pin: &str, network: &'static str) {
    within(pin, async move |handle| {
        let (base, prefix) = network.split_once('/').unwrap();
        let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(base.parse().unwrap(), prefix.parse().unwrap())
            .gateway(HOST4.parse().unwrap())
            .build();
        handle.route().add(route).execute().await.unwrap();
    });
}

/// Changes the network of a namespace.
pub(crate) fn within(pin: &str, act: impl AsyncFnOnce(rtnetlink::Handle) + Send + 'static) {
    inside(pin, move || {
        new_runtime().block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::join!(act(handle), connection);
        });
    });
}

pub(crate) async fn index(handle: &rtnetlink::Handle, name: &str) -> u32 {
    use tokio_stream::StreamExt;
    let mut links = std::pin::pin!(handle.link().get().match_name(name.to_owned()).execute());
    links
        .next()
        .await
        .expect("an answer")
        .expect("the device")
        .header
        .index
}

async fn configure(handle: &rtnetlink::Handle, name: &str, ips: [&str; 2]) {
    let index = index(handle, name).await;
    for (ip, prefix) in ips.into_iter().zip([24, 64]) {
        let ip = ip.parse().unwrap();
        handle
            .address()
            .add(index, ip, prefix)
            .execute()
            .await
            .unwrap();
    }
    bring_up(handle, index).await;
}

/// Makes a namespace and pins it at a path.
pub(crate) fn pin_new_netns(path: &Path) -> String {
    File::create(path).unwrap();
    let target = path.to_owned();
    thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        rustix::mount::mount_bind("/proc/thread-self/ns/net", &target).unwrap();
    })
    .join()
    .unwrap();
    path.display().to_string()
}
