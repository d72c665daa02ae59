//! Any sequence of edits against the real kernel: after each, the elements that are there
//! are those that the model renders from scratch, and at the end nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use clap::Parser;
use nix::sched::CloneFlags;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rustix::mount::MountPropagationFlags;

use super::*;
use crate::config::{Arguments, Config};
use crate::firewall::{Difference, Elements, read};
use crate::netlink::{NetlinkSocket, link};

const CASES: u32 = 12;
const LONGEST: usize = 40;
const LOOPBACK_INDEX: u32 = 1;
/// The digits of a seed, to play a failure again.
const SEED: &str = "LINKSPAN_SEED";

/// Link-local addresses and what belongs to them.
const OF_THE_KERNEL: [&str; 3] = [" fe80::", " ff00::/8", " 33:33:ff:"];

/// One edit. Numbers stand for ids, names and networks, so that edits meet.
#[derive(Debug, Clone)]
enum Edit {
    Attach(u8, u8, u8, Option<u8>, Wish),
    Detach(u8, bool),
    Update(u8, Wish),
    Rename(u8, u8),
    Release(u8),
    Move(u16, u8),
    Create(u8),
    Delete(u8),
    CreateSandbox(u8),
    DeleteSandbox(u8),
    Restart,
}

/// What an endpoint is to have.
#[derive(Debug, Clone)]
struct Wish {
    exposed: Vec<u16>,
    links: Vec<(u8, Vec<u16>)>,
    mappings: Vec<(u16, Option<u16>)>,
    host_access: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let ports = || prop::collection::btree_set(80_u16..84, 0..3);
    let links = prop::collection::vec((0_u8..5, ports()), 0..3);
    let mappings = prop::collection::vec((80_u16..84, prop::option::of(8080_u16..8088)), 0..4);
    (ports(), links, mappings, any::<bool>()).prop_map(|(exposed, links, mappings, host_access)| {
        Wish {
            exposed: exposed.into_iter().collect(),
            links: links
                .into_iter()
                .map(|(source, ports)| (source, ports.into_iter().collect()))
                .collect(),
            mappings,
            host_access,
        }
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let attach = (
        0_u8..7,
        0_u8..5,
        0_u8..4,
        prop::option::weighted(0.3, 0_u8..7),
        wish(),
    );
    prop_oneof![
        8 => attach.prop_map(|(id, name, network, sandbox, wish)| {
            Edit::Attach(id, name, network, sandbox, wish)
        }),
        3 => (0_u8..7, any::<bool>()).prop_map(|(id, release)| Edit::Detach(id, release)),
        4 => (0_u8..7, wish()).prop_map(|(id, wish)| Edit::Update(id, wish)),
        2 => (0_u8..5, 0_u8..5).prop_map(|(name, other)| Edit::Rename(name, other)),
        1 => (0_u8..5).prop_map(Edit::Release),
        2 => (8080_u16..8088, 0_u8..7).prop_map(|(port, to)| Edit::Move(port, to)),
        3 => (1_u8..4).prop_map(Edit::Create),
        1 => (1_u8..4).prop_map(Edit::Delete),
        1 => (0_u8..7).prop_map(Edit::CreateSandbox),
        1 => (0_u8..7).prop_map(Edit::DeleteSandbox),
        1 => Just(Edit::Restart),
    ]
}

fn id(number: u8) -> EndpointId {
    format!("{number:010x}{:054}", 0).parse().unwrap()
}

fn name(number: u8) -> Name {
    format!("n{number}").parse().unwrap()
}

fn network(number: u8) -> Name {
    let names = [DEFAULT_NETWORK, "front", "back", "vault"];
    names[usize::from(number)].parse().unwrap()
}

fn ports(numbers: &[u16]) -> Vec<Port> {
    let port = |number: &u16| Port {
        protocol: Protocol::Tcp,
        number: *number,
    };
    numbers.iter().map(port).collect()
}

impl Wish {
    fn links(&self) -> Vec<Link> {
        let links = self.links.iter().zip(0..);
        links
            .map(|((source, ports_of), number)| Link {
                alias: format!("alias{number}"),
                source_name: name(*source),
                ports: ports(ports_of),
            })
            .collect()
    }

    fn mappings(&self) -> Vec<PortMapping> {
        let mappings = self.mappings.iter();
        mappings
            .map(|(number, host_port)| PortMapping {
                port: ports(&[*number])[0],
                host_port: host_port.map_or(HostPort::Any, |port| HostPort::OneOf(port..=port)),
                host_ip: host_port
                    .filter(|port| port % 2 == 1)
                    .map(|_odd| "127.0.0.1".parse().unwrap()),
            })
            .collect()
    }
}

/// A network of its own, in the namespaces of the thread.
struct World {
    config: Config,
    runtime: tokio::runtime::Runtime,
    running: Option<(Handle, Threads)>,
}

impl World {
    fn new(directory: &Path) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        let (root, run) = (path("root"), path("run"));
        let flags = ["linkspan-netd", "--root", &root, "--run", &run];
        let config = Config::try_from(Arguments::try_parse_from(flags).unwrap()).unwrap();
        config.prepare_directories().unwrap();
        let mut world = Self {
            config,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            running: None,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let monitor = Monitor::open(self.config.run_directory()).unwrap();
        let owner = Owner::start(&self.config, &monitor).unwrap();
        let (handle, _served, threads) = spawn(owner, monitor).unwrap();
        self.running = Some((handle, threads));
    }

    fn stop(&mut self) {
        let (handle, threads) = self.running.take().unwrap();
        drop(handle);
        threads.join().unwrap();
    }

    fn handle(&self) -> &Handle {
        &self.running.as_ref().unwrap().0
    }

    fn play(&mut self, edit: &Edit) -> Result<(), NetworkError> {
        if let Edit::Restart = edit {
            self.stop();
            self.start();
            return Ok(());
        }
        let handle = self.handle();
        self.runtime.block_on(async {
            match edit {
                Edit::Attach(number, called, on, sandbox, wish) => {
                    let request = attach_request(*number, *called, *on, *sandbox, wish);
                    handle.attach(request).await.map(drop)
                }
                Edit::Detach(number, release) => {
                    let fate = if *release {
                        LeaseFate::Released
                    } else {
                        LeaseFate::Kept
                    };
                    handle.detach(id(*number), fate).await
                }
                Edit::Update(number, wish) => {
                    let request = UpdateRequest {
                        id: id(*number),
                        mappings: wish.mappings(),
                        links: wish.links(),
                        exposed: ports(&wish.exposed),
                        aliases: Vec::new(),
                    };
                    handle.update(request).await.map(drop)
                }
                Edit::Rename(one, other) => handle.rename(name(*one), name(*other)).await,
                Edit::Release(number) => handle.release(name(*number), None).await,
                Edit::Move(host_port, to) => {
                    let request = MoveRequest {
                        protocol: Protocol::Tcp,
                        host_port: *host_port,
                        to: id(*to),
                        container_port: 80,
                    };
                    handle.move_port(request).await.map(drop)
                }
                Edit::Create(number) => handle
                    .create_network(network_request(*number))
                    .await
                    .map(drop),
                Edit::Delete(number) => handle.delete_network(network(*number)).await,
                Edit::CreateSandbox(number) => handle.create_sandbox(id(*number)).await.map(drop),
                Edit::DeleteSandbox(number) => handle.delete_sandbox(id(*number)).await,
                Edit::Restart => Ok(()),
            }
        })
    }

    /// Holds the kernel against a model that is built anew.
    fn check(&self) -> Result<(), TestCaseError> {
        let published = self.handle().registry();
        let mut registry = Registry::default();
        for network in published.networks() {
            registry.insert_network(network);
        }
        for endpoint in published.by_name() {
            registry.insert(endpoint);
        }
        let kernel: Elements = read::elements(&mut read::open().unwrap()).unwrap();
        let difference = Difference::between(&kernel, &registry.elements());
        prop_assert!(difference.is_empty(), "{difference:?}");

        let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE).unwrap();
        let devices = link::list(&mut socket).unwrap();
        let mut found: Vec<_> = devices
            .into_iter()
            .filter(|device| device.kind == "veth")
            .map(|device| device.alias)
            .collect();
        found.sort_unstable();
        let mut expected: Vec<_> = registry.by_name().map(|one| one.id.alias()).collect();
        expected.sort_unstable();
        prop_assert_eq!(found, expected, "bridge ports");
        Ok(())
    }

    /// Removes everything.
    fn clear(&mut self) {
        let all =
            (0..7).flat_map(|number| [Edit::Detach(number, true), Edit::DeleteSandbox(number)]);
        let edits = all
            .chain((0..5).map(Edit::Release))
            .chain((1..4).map(Edit::Delete));
        for edit in edits {
            self.play(&edit).unwrap();
        }
    }
}

fn attach_request(
    number: u8,
    called: u8,
    on: u8,
    sandbox: Option<u8>,
    wish: &Wish,
) -> AttachRequest {
    AttachRequest {
        id: id(number),
        network: network(on),
        sandbox: sandbox.map(id),
        name: name(called),
        wanted: WantedAddresses::default(),
        hostname: String::new(),
        aliases: Vec::new(),
        exposed: ports(&wish.exposed),
        mappings: wish.mappings(),
        links: wish.links(),
        host_access: wish.host_access,
        dns_servers: Vec::new(),
    }
}

fn network_request(number: u8) -> NetworkRequest {
    NetworkRequest {
        name: network(number),
        ipv4: None,
        ipv6: None,
        gateway: None,
        range: None,
        policy: if number == 2 {
            Policy::Isolated
        } else {
            Policy::Open
        },
        egress: if number == 3 {
            Egress::Internal
        } else {
            Egress::Open
        },
        labels: std::collections::BTreeMap::new(),
    }
}

/// What the tools of others see, as far as they are there. What was counted is left out, and
/// so is what the kernel adds for itself, some time after a bridge got its first port.
fn seen(directory: &Path) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for command in [
        "nft list ruleset",
        "ip -o link",
        "ip -o addr",
        "ip neigh",
        "ip route show table all",
        "ip -6 route show table all",
        "bridge fdb",
    ] {
        let mut words = command.split(' ');
        let program = words.next().unwrap();
        let Ok(output) = Command::new(program).args(words).output() else {
            continue;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        seen.extend(
            text.lines()
                .filter(|line| !OF_THE_KERNEL.iter().any(|own| line.contains(own)))
                .map(|line| format!("{command}: {}", uncounted(line))),
        );
    }
    let pins = fs::read_dir(directory.join("run/netns")).unwrap();
    seen.extend(pins.map(|pin| pin.unwrap().path().display().to_string()));
    seen
}

/// A line without the numbers behind `packets` and `bytes`, without when it was asked, and
/// without the carrier, which a bridge loses some time after its last port.
fn uncounted(line: &str) -> String {
    let mut words: Vec<_> = line
        .split(" # ")
        .next()
        .unwrap_or(line)
        .split(' ')
        .collect();
    for at in 1..words.len() {
        if matches!(words[at - 1], "packets" | "bytes" | "state") {
            words[at] = "N";
        }
    }
    words.retain(|word| *word != "linkdown" && !word.starts_with('<'));
    words.join(" ")
}

/// An attach of an endpoint with nothing.
fn first() -> Edit {
    let wish = Wish {
        exposed: Vec::new(),
        links: Vec::new(),
        mappings: Vec::new(),
        host_access: false,
    };
    Edit::Attach(0, 0, 0, None, wish)
}

fn enter_new_namespaces() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE).unwrap();
    socket.execute(vec![link::start(LOOPBACK_INDEX)]).unwrap();
}

/// Plays edits, and wants no failure that is not the caller's fault.
fn play(edits: &[Edit]) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path());
    // The first port of a bridge brings settings that stay.
    world.play(&first()).unwrap();
    world.clear();
    let before = seen(directory.path());
    for edit in edits {
        match world.play(edit) {
            Ok(()) => {}
            Err(error) => prop_assert!(is_answer(&error), "{edit:?}: {error:?}"),
        }
        world.check()?;
    }
    world.clear();
    let after = seen(directory.path());
    let gone: Vec<_> = before.difference(&after).collect();
    let left: Vec<_> = after.difference(&before).collect();
    prop_assert!(
        gone.is_empty() && left.is_empty(),
        "gone: {gone:?}, left: {left:?}"
    );
    world.stop();
    Ok(())
}

/// Whether an error is an answer to what was asked, and no failure.
fn is_answer(error: &NetworkError) -> bool {
    !matches!(
        error,
        NetworkError::ShuttingDown
            | NetworkError::Store(_)
            | NetworkError::Netns(_)
            | NetworkError::Sysctl(_)
            | NetworkError::Device { .. }
            | NetworkError::ForeignBridge { .. }
            | NetworkError::Firewall(_)
            | NetworkError::Reserve(_)
            | NetworkError::Thread(_)
    )
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    match std::env::var(SEED) {
        Ok(digits) => {
            for (byte, at) in seed.iter_mut().zip((0..).step_by(2)) {
                *byte = u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            }
        }
        Err(_unset) => rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map(drop)
            .unwrap(),
    }
    seed
}

/// Decision 5: what the owner applies is what the model renders from scratch.
#[test]
fn prop_any_edits_leave_the_kernel_as_it_would_be_written_anew() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIP prop_any_edits_leave_the_kernel_as_it_would_be_written_anew: it needs root"
        );
        return;
    }
    let seed = seed();
    let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("to play it again: {SEED}={digits}");
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let edits = prop::collection::vec(edit(), 1..LONGEST);
    let outcome = runner.run(&edits, |edits| {
        let played = thread::spawn(move || {
            enter_new_namespaces();
            play(&edits)
        });
        played
            .join()
            .unwrap_or_else(|_panic| Err(TestCaseError::fail("it panicked")))
    });
    outcome.unwrap();
}
