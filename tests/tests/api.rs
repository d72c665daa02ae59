//! The gRPC interface, as a stranger with grpcurl finds it.

use std::process::Command;

use e2e::{host, skip};

const SOCKETS: [(&str, &str, &str); 2] = [
    (
        "/run/linkspan/runtimed.sock",
        "linkspan.runtime.v1.ContainerService",
        "linkspan.runtime.v1.SystemService/GetVersion",
    ),
    (
        "/run/linkspan/netd.sock",
        "linkspan.net.v1.NetworkService",
        "linkspan.net.v1.NetworkService/ListNetworks",
    ),
];

fn has_grpcurl() -> bool {
    Command::new("grpcurl")
        .arg("-version")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn both_daemons_list_their_services_and_answer_a_call() {
    if !has_grpcurl() {
        return skip(
            "both_daemons_list_their_services_and_answer_a_call",
            "grpcurl is not on the path",
        );
    }
    for (socket, service, method) in SOCKETS {
        let call = |words: &[&str]| {
            let mut command = vec![
                "grpcurl",
                "-plaintext",
                "-unix",
                "-authority",
                "localhost",
                socket,
            ];
            command.extend(words);
            host(&command).ok()
        };
        let listed = call(&["list"]);
        for expected in [
            service,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        ] {
            assert!(listed.lines().any(|line| line == expected), "{listed}");
        }
        assert!(call(&[method]).starts_with('{'));
        assert!(call(&["grpc.health.v1.Health/Check"]).contains("SERVING"));
    }
}
