//! Networks that users make, as the kernel gets them.

use std::sync::mpsc::RecvTimeoutError;

use linkspan_proto::net_v1::{AttachEndpointRequest, CreateNetworkRequest};

use crate::heal::{ECHO, listen};
use crate::world::{World, plain};

/// What the kernel brings later, on a queue of its own, is not damage.
#[test]
fn a_new_network_is_not_taken_for_a_damaged_one() {
    World::run("a_new_network_is_not_taken_for_a_damaged_one", |world| {
        let repairs = listen(world);
        for number in 0..20 {
            let name = format!("net{number}");
            let request = CreateNetworkRequest {
                name: name.clone(),
                ..Default::default()
            };
            world.ask(async |mut client| client.create_network(request).await.unwrap());
            if number % 2 == 0 {
                let member = world.attach(AttachEndpointRequest {
                    network: name,
                    ..plain('a', "member")
                });
                world.detach(&member);
            }
        }
        assert_eq!(repairs.recv_timeout(ECHO), Err(RecvTimeoutError::Timeout));
    });
}
