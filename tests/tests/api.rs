//! The contract on the wire, as a client that was written elsewhere finds it.

use std::process::Command;

use e2e::console::{Engine, Output, output};
use e2e::skip;

const RUNTIMED: &str = "/run/linkspan/runtimed.sock";
const NETD: &str = "/run/linkspan/netd.sock";

/// Asks a daemon with grpcurl, which knows no contract but by reflection.
fn grpcurl(socket: &str, words: &[&str]) -> Output {
    let mut command = Command::new("grpcurl");
    command.args(["-plaintext", "-unix", "-authority", "localhost"]);
    let (flags, rest) = words.split_at(words.len() - 1);
    output(command.args(flags).arg(socket).args(rest))
}

fn has_grpcurl(test: &str) -> bool {
    let found = output(Command::new("sh").args(["-c", "command -v grpcurl"])).code == 0;
    if !found {
        skip(test, "grpcurl is not installed");
    }
    found
}

#[test]
fn each_daemon_lists_its_services() {
    let _engine = Engine::bare();
    if !has_grpcurl("each_daemon_lists_its_services") {
        return;
    }
    for (socket, services) in [
        (
            RUNTIMED,
            &["ContainerService", "ImageService", "SystemService"][..],
        ),
        (NETD, &["NetworkService"][..]),
    ] {
        let listed = grpcurl(socket, &["list"]);
        assert_eq!(listed.code, 0, "{}", listed.stderr);
        for service in services.iter().chain(&[
            "grpc.health.v1.Health",
            // A client lists the version of reflection that it speaks, and not always both.
            "grpc.reflection.v1",
        ]) {
            assert!(
                listed.stdout.contains(service),
                "{service}: {}",
                listed.stdout
            );
        }
    }
}

#[test]
fn each_daemon_answers_a_call_that_reflection_described() {
    let engine = Engine::with_busybox();
    if !has_grpcurl("each_daemon_answers_a_call_that_reflection_described") {
        return;
    }
    engine.ok("run -d --name web busybox sleep 1000");
    for (socket, method, part) in [
        (
            RUNTIMED,
            "linkspan.runtime.v1.SystemService/GetVersion",
            "version",
        ),
        (
            RUNTIMED,
            "linkspan.runtime.v1.ContainerService/ListContainers",
            "\"web\"",
        ),
        (
            RUNTIMED,
            "linkspan.runtime.v1.ImageService/ListImages",
            "busybox:latest",
        ),
        (
            NETD,
            "linkspan.net.v1.NetworkService/ListNetworks",
            "bridge",
        ),
        (
            NETD,
            "linkspan.net.v1.NetworkService/ListEndpoints",
            "\"web\"",
        ),
        (RUNTIMED, "grpc.health.v1.Health/Check", "SERVING"),
        (NETD, "grpc.health.v1.Health/Check", "SERVING"),
    ] {
        let answer = grpcurl(socket, &[method]);
        assert_eq!(answer.code, 0, "{method}: {}", answer.stderr);
        assert!(answer.stdout.contains(part), "{method}: {}", answer.stdout);
    }
}

#[test]
fn an_error_on_the_wire_has_a_code_and_a_reason() {
    let _engine = Engine::bare();
    if !has_grpcurl("an_error_on_the_wire_has_a_code_and_a_reason") {
        return;
    }
    let method = "linkspan.runtime.v1.ContainerService/GetContainer";
    let answer = grpcurl(RUNTIMED, &["-d", r#"{"container": "nosuch"}"#, method]);
    assert_ne!(answer.code, 0);
    for part in ["NotFound", "nosuch"] {
        assert!(answer.stderr.contains(part), "{part}: {}", answer.stderr);
    }
    // A client that does not know ErrorInfo shows its bytes: the reason, then the domain.
    let raw = "ChNDT05UQUlORVJfTk9UX0ZPVU5EEgxsaW5rc3Bhbi5kZXY=";
    let known = answer.stderr.contains("CONTAINER_NOT_FOUND");
    assert!(known || answer.stderr.contains(raw), "{}", answer.stderr);
}
