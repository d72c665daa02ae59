//! Networks that users make, and the containers on them.

use std::net::{IpAddr, UdpSocket};

use e2e::console::Engine;
use e2e::network::{HOST, LAN, LOOPBACK, http, ip, on_container, on_lan, pings, reachable};
use e2e::{DEADLINE, daemon_pid, kill_daemon, wait_for};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";

/// The addresses of a container on a network, of both families.
fn addresses(engine: &Engine, name: &str, network: &str) -> [IpAddr; 2] {
    ["IPAddress", "GlobalIPv6Address"].map(|field| {
        let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
        ip(&engine.inspect(name, &template))
    })
}

fn opens(engine: &Engine, name: &str, address: IpAddr) -> bool {
    on_container(engine, name, || reachable(address, 80))
}

/// What a name server says of a name, as the container is configured to ask.
fn looked_up(engine: &Engine, name: &str, what: &str) -> String {
    engine.shell(name, &format!("nslookup {what}")).stdout
}

fn file(engine: &Engine, name: &str, path: &str) -> String {
    engine.shell(name, &format!("cat {path}")).stdout
}

fn devices(engine: &Engine, name: &str) -> Vec<String> {
    let listed = engine.shell(name, "ls /sys/class/net").stdout;
    let mut devices: Vec<String> = listed.split_whitespace().map(str::to_owned).collect();
    devices.sort();
    devices
}

fn restart(engine: &Engine, daemon: &str) {
    let before = daemon_pid(daemon);
    kill_daemon(daemon);
    wait_for("the daemon", DEADLINE, || {
        let now = daemon_pid(daemon);
        let is_back = now.is_some() && now != before && engine.run("network ls").code == 0;
        is_back.then_some(())
    });
}

/// Removes what the tests made, so that the audit finds nothing.
fn clean(engine: &Engine) {
    for name in engine.names() {
        engine.ok(&format!("rm -f {name}"));
    }
    engine.ok("network prune -f");
}

/// Members of a network that a user made have declared to belong together: open inside, by
/// every name and both families, and closed to everybody else.
#[test]
fn members_find_and_reach_each_other_and_nobody_else_does() {
    let engine = Engine::with_busybox();
    assert_eq!(
        engine.ok("network create --label tier=front front"),
        "front"
    );
    engine.start("web", "--network front --network-alias www", WEB);
    engine.start("client", "--network front", IDLE);
    engine.start("stranger", "", IDLE);
    engine.await_port("web", 80);
    let id = engine.inspect("web", "{{slice .Id 0 12}}");
    let own = addresses(&engine, "web", "front");
    for name in ["web", "www", &id] {
        let answer = looked_up(&engine, "client", name);
        for address in own {
            assert!(answer.contains(&address.to_string()), "{name}: {answer}");
        }
        let page = engine.shell("client", &format!("wget -q -O- http://{name}/"));
        assert_eq!(page.stdout, "page\n", "{name}: {}", page.stderr);
    }
    for address in own {
        assert!(opens(&engine, "client", address), "{address}");
        assert!(pings(&engine, "client", &address.to_string()), "{address}");
        assert!(!opens(&engine, "stranger", address), "{address}");
        assert!(!pings(&engine, "stranger", &address.to_string()));
    }
    assert!(!opens(&engine, "client", ip(&engine.address("stranger"))));
    assert_eq!(
        engine.ok("ps --filter network=front --format '{{.Names}}'"),
        "client\nweb"
    );
    assert_eq!(
        engine.ok("network ls -q --filter label=tier=front"),
        "front"
    );
    let members = engine.ok("network inspect -f '{{len .Containers}}' front");
    assert_eq!(members, "2");
    clean(&engine);
}

/// A container joins and leaves networks while it runs; its files follow in place, and it
/// keeps its namespace even when it is on none.
#[test]
fn a_container_joins_and_leaves_networks_while_it_runs() {
    let engine = Engine::with_busybox();
    engine.ok("network create front");
    engine.ok("network create --subnet 10.77.0.0/24 --ip-range 10.77.0.128/25 back");
    engine.start("db", "--network back", WEB);
    engine.start("web", "", IDLE);
    engine.await_port("db", 80);
    let inode = |path: &str| engine.shell("web", &format!("stat -c %i {path}")).stdout;
    let [hosts, resolv] = ["/etc/hosts", "/etc/resolv.conf"].map(inode);
    let namespace = engine.shell("web", "readlink /proc/1/ns/net").stdout;

    let events = engine
        .command("events --filter type=network --format '{{.Action}} {{.Actor.Attributes.name}}'");
    let mut events = e2e::start(&mut { events });
    engine.ok("network connect --ip 10.77.0.9 --alias app back web");
    engine.ok("network connect front web");
    assert_eq!(devices(&engine, "web"), ["eth0", "eth1", "eth2", "lo"]);
    let [address, _] = addresses(&engine, "web", "back");
    assert_eq!(address, ip("10.77.0.9"));
    let own = file(&engine, "web", "/etc/hosts");
    assert!(own.contains("10.77.0.9\t"), "{own}");
    let gateway = engine.ok("network inspect -f '{{(index .IPAM.Config 0).Gateway}}' back");
    let resolver = file(&engine, "web", "/etc/resolv.conf");
    assert!(
        resolver.contains(&format!("nameserver {gateway}\n")),
        "{resolver}"
    );
    let [db, _] = addresses(&engine, "db", "back");
    assert!(ip("10.77.0.128") <= db, "from the range: {db}");
    assert!(opens(&engine, "web", db));
    assert!(looked_up(&engine, "db", "app").contains("10.77.0.9"));
    let again = engine.fails(1, "network connect back web");
    assert!(
        again.contains("`web` is on network `back` already"),
        "{again}"
    );

    for network in ["back", "front", "bridge"] {
        engine.ok(&format!("network disconnect {network} web"));
    }
    assert_eq!(devices(&engine, "web"), ["lo"]);
    assert!(!file(&engine, "web", "/etc/hosts").contains("10.77.0.9"));
    let page = engine.run("explain web db:80");
    assert!(page.stdout.contains("is on no network"), "{}", page.stdout);
    engine.ok("network connect back web");
    assert!(opens(&engine, "web", db));
    assert_eq!(
        engine.shell("web", "readlink /proc/1/ns/net").stdout,
        namespace
    );
    assert_eq!(
        [inode("/etc/hosts"), inode("/etc/resolv.conf")],
        [hosts, resolv]
    );
    drop(events.child.kill());
    let mut told = String::new();
    let mut pipe = events.child.stdout.take().expect("a pipe");
    std::io::Read::read_to_string(&mut pipe, &mut told).expect("read the events");
    for event in ["connect back", "connect front", "disconnect bridge"] {
        assert!(told.contains(event), "{event}: {told}");
    }
    clean(&engine);
}

/// On a network of closed members a link is what it is on the default one; its alias is
/// known to the consumer only, and the environment has the address of the common network.
#[test]
fn links_work_on_a_network_of_closed_members() {
    let engine = Engine::with_busybox();
    engine.ok("network create --isolate back");
    engine.ok("network create front");
    engine.start(
        "db",
        "--network back --network front --expose 80 --expose 81",
        WEB,
    );
    engine.await_port("db", 80);
    engine.start("other", "--network back", IDLE);
    engine.start("web", "--network back --link db:store,ports=80", IDLE);
    let back = addresses(&engine, "db", "back");
    for address in back {
        assert!(opens(&engine, "web", address), "{address}");
        assert!(pings(&engine, "web", &address.to_string()));
        assert!(!opens(&engine, "other", address), "{address}");
        assert!(!pings(&engine, "other", &address.to_string()));
    }
    let environment = engine.shell("web", "env").stdout;
    let expected = format!("STORE_PORT_80_TCP_ADDR={}", back[0]);
    assert!(environment.contains(&expected), "{environment}");
    assert!(file(&engine, "web", "/etc/hosts").contains(&format!("{}\tstore ", back[0])));
    let answer = looked_up(&engine, "web", "store");
    assert!(answer.contains(&back[0].to_string()), "{answer}");
    assert!(!looked_up(&engine, "other", "store").contains(&back[0].to_string()));
    let listed = engine.ok("link ls --format '{{.Alias}} {{.State}} {{.Network}} {{.Ports}}' web");
    assert_eq!(listed, "store open back 80/tcp");

    engine.start("lone", "", IDLE);
    let apart = engine.fails(1, "link add lone db");
    assert!(apart.contains("no network in common"), "{apart}");
    engine.fails(125, "run --rm --link db busybox true");
    engine.ok("network connect back lone");
    engine.ok("link add lone db");
    assert!(opens(&engine, "lone", back[0]));
    engine.ok("network disconnect back lone");
    let state = engine.ok("link ls --format '{{.State}}' lone");
    assert_eq!(state, "no common network");
    clean(&engine);
}

/// Ports are published where a network leads outside, and follow when it is left.
#[test]
fn ports_are_published_on_a_network_that_leads_outside() {
    let engine = Engine::with_busybox();
    engine.ok("network create front");
    engine.ok("network create --internal inner");
    let told = engine.run("run --rm --network inner -p 8080:80 busybox true");
    assert_eq!(
        told.stderr.trim(),
        "warning: published ports are without effect on internal networks; connect the container to one that leads outside"
    );
    engine.start("web", "--network inner -p 8080:80", WEB);
    engine.await_port("web", 80);
    assert!(
        !on_lan(|| reachable(HOST, 8080)),
        "an internal network publishes nothing"
    );
    assert!(!on_container(&engine, "web", || reachable(LAN, 53)));
    assert_eq!(engine.ok("port web"), "");
    engine.ok("network connect front web");
    let is_served = || {
        assert_eq!(
            on_lan(|| http(HOST, 8080, "/")).expect("from the LAN"),
            "page\n"
        );
        for address in LOOPBACK {
            assert_eq!(http(address, 8080, "/").expect("from the host"), "page\n");
        }
    };
    is_served();
    engine.ok("network connect bridge web");
    engine.ok("network disconnect front web");
    is_served();
    assert!(engine.ok("port web").contains("80/tcp -> 0.0.0.0:8080"));
    engine.ok("port add web 8081:80");
    assert_eq!(
        on_lan(|| http(HOST, 8081, "/")).expect("from the LAN"),
        "page\n"
    );
    clean(&engine);
}

/// `--network host`, `none` and `container:X`, and what goes with none of them.
#[test]
fn a_container_shares_a_network_or_has_none() {
    let engine = Engine::with_busybox();
    let none = engine.ok("run --rm --network none busybox ls /sys/class/net");
    assert_eq!(none, "lo");
    let host = engine.ok("run --rm --network host busybox ls /sys/class/net");
    assert!(
        host.contains("eth-lan") && host.contains("linkspan0"),
        "{host}"
    );
    let name = engine.ok("run --rm --network host busybox hostname");
    assert_eq!(name, e2e::host(&["hostname"]).ok());
    let published = engine.run("run --rm --network host -p 80:80 busybox true");
    assert!(
        published.stderr.contains("without effect"),
        "{}",
        published.stderr
    );

    engine.start("web", "--expose 80", WEB);
    engine.await_port("web", 80);
    let shared = |script: &str| {
        let mut command = engine.command("run --rm --network container:web busybox sh -c");
        let output = command.arg(script).output().expect("run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(shared("wget -q -O- http://127.0.0.1/"), "page\n");
    assert_eq!(shared("hostname"), engine.shell("web", "hostname").stdout);
    assert_eq!(shared("cat /etc/hosts"), file(&engine, "web", "/etc/hosts"));
    engine.start("side", "--network container:web", IDLE);
    let mode = engine.inspect("side", "{{.HostConfig.NetworkMode}}");
    assert_eq!(
        mode,
        format!("container:{}", engine.inspect("web", "{{.Id}}"))
    );
    // A link to who shares a network is one to whose network it is.
    engine.start("client", "--link side:web", IDLE);
    assert_eq!(
        engine.inspect("client", "{{.HostConfig.Links}}"),
        "[/web:/client/web]"
    );
    assert!(opens(&engine, "client", ip(&engine.address("web"))));
    engine.ok("rm -f side");
    engine.ok("create --name late --network container:web busybox true");
    engine.ok("stop -t 0 web");
    let down = engine.fails(1, "start late");
    assert!(
        down.contains("shares the network of container `web`"),
        "{down}"
    );

    for (flags, what) in [
        ("--network host --link web", "--link"),
        ("--network none --link web", "--link"),
        ("--network container:web -p 80", "-p and -P"),
        ("--network container:web --hostname x", "--hostname"),
        ("--network container:web --add-host a:1.2.3.4", "--add-host"),
        ("--network container:web --dns 1.2.3.4", "--dns"),
        ("--network host --ip 10.0.0.1", "--ip"),
        ("--network host --network bridge", "host"),
        ("--network container:nobody", "nobody"),
        ("--network nowhere", "linkspan network create nowhere"),
        ("--network-alias x", "no names"),
    ] {
        let sentence = engine.fails(125, &format!("run --rm {flags} busybox true"));
        assert!(sentence.contains(what), "{flags}: {sentence}");
    }
    let fixed = engine.fails(1, "network connect bridge late");
    assert!(
        fixed.contains("the network of another container"),
        "{fixed}"
    );
    clean(&engine);
}

/// What cannot be is refused in one sentence, and leaves nothing.
#[test]
fn a_network_that_cannot_be_is_refused() {
    let engine = Engine::with_busybox();
    engine.ok("network create --subnet 10.77.0.0/24 back");
    assert_eq!(
        engine.ok("network create --subnet 10.77.0.0/24 back"),
        "back",
        "the same again"
    );
    for (line, what) in [
        ("network create --subnet 10.78.0.0/24 back", "exists"),
        ("network create --subnet 10.77.0.128/25 other", "overlaps"),
        ("network create --subnet 10.200.1.0/24 other", "overlaps"),
        ("network create --subnet 10.1.2.3/24 other", "10.1.2"),
        ("network create --subnet x other", "--subnet `x`"),
        (
            "network create --gateway 10.9.0.1 --subnet 10.8.0.0/24 other",
            "not inside",
        ),
        (
            "network create --ip-range 10.9.0.0/25 --subnet 10.8.0.0/24 other",
            "not inside",
        ),
        ("network create --ipv6=false other", "--ipv6=false"),
        ("network create -o x=y other", "--opt `x=y`"),
        ("network create host", "reserved"),
        ("network create none", "reserved"),
        ("network rm nothing", "linkspan network create nothing"),
        ("network rm bridge", "cannot be removed"),
        ("network inspect nothing", "no network `nothing`"),
        ("network ls --filter x=y", "known are"),
    ] {
        let sentence = engine.fails(1, line);
        assert!(sentence.contains(what), "{line}: {sentence}");
    }
    engine.fails(1, "network create a/b");
    for taken in ["10.77.0.1", "10.77.0.255", "10.99.0.1"] {
        engine.fails(
            125,
            &format!("run --rm --network back --ip {taken} busybox true"),
        );
    }
    engine.start("web", "--network back --ip 10.77.0.7", IDLE);
    let taken = engine.fails(125, "run --rm --network back --ip 10.77.0.7 busybox true");
    assert!(taken.contains("10.77.0.7"), "{taken}");
    let used = engine.fails(1, "network rm back");
    assert!(used.contains("in use by web"), "{used}");
    assert_eq!(engine.ok("network ls -q"), "back\nbridge");
    engine.ok("stop -t 0 web");
    engine.ok("network rm back");
    let gone = engine.fails(1, "start web");
    assert!(gone.contains("back"), "{gone}");
    engine.ok("network disconnect back web");
    engine.ok("start web");
    assert_eq!(devices(&engine, "web"), ["lo"]);
    clean(&engine);
}

/// Networks, members and addresses outlive restarts of containers and of both daemons.
#[test]
fn networks_outlive_restarts() {
    let engine = Engine::with_busybox();
    engine.ok("network create front");
    engine.ok("network create --isolate back");
    engine.start("db", "--network back --expose 80", WEB);
    engine.start(
        "web",
        "--network front --network back --link db:store -p 8080:80",
        WEB,
    );
    engine.start("lone", "--network none", IDLE);
    for name in ["db", "web"] {
        engine.await_port(name, 80);
    }
    let known = [("web", "front"), ("web", "back"), ("db", "back")];
    let before = known.map(|(name, network)| addresses(&engine, name, network));
    let holds = |what: &str| {
        let now = known.map(|(name, network)| addresses(&engine, name, network));
        assert_eq!(now, before, "{what}");
        assert_eq!(on_lan(|| http(HOST, 8080, "/")).expect(what), "page\n");
        assert!(opens(&engine, "web", before[2][0]), "{what}");
        assert!(!opens(&engine, "db", before[1][0]), "{what}: one way");
        assert_eq!(devices(&engine, "lone"), ["lo"], "{what}");
        assert!(
            looked_up(&engine, "web", "store").contains(&before[2][0].to_string()),
            "{what}"
        );
    };
    holds("at first");
    for daemon in ["linkspan-netd", "linkspan-runtimed"] {
        restart(&engine, daemon);
        holds(daemon);
    }
    engine.ok("network disconnect front web");
    engine.ok("network connect front web");
    restart(&engine, "linkspan-runtimed");
    assert_eq!(devices(&engine, "web"), ["eth0", "eth1", "lo"]);
    for name in ["web", "db", "lone"] {
        engine.ok(&format!("restart -t 0 {name}"));
    }
    for name in ["db", "web"] {
        engine.await_port(name, 80);
    }
    assert_eq!(addresses(&engine, "db", "back"), before[2]);
    assert_eq!(addresses(&engine, "web", "back"), before[1]);
    assert_eq!(
        on_lan(|| http(HOST, 8080, "/")).expect("after the restart"),
        "page\n"
    );
    assert!(opens(&engine, "web", before[2][0]));
    engine.ok("rename db store");
    assert!(looked_up(&engine, "web", "store").contains(&before[2][0].to_string()));
    clean(&engine);
}

/// Names of the outside are asked of the servers that the container names.
#[test]
fn each_container_has_its_own_servers_for_names_of_the_outside() {
    let engine = Engine::with_busybox();
    engine.ok("network create front");
    let socket = on_lan(|| UdpSocket::bind((LAN, 53))).expect("bind the port of names");
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&one_address(&buffer[..length]), peer));
        }
    });
    engine.start("web", &format!("--network front --dns {LAN}"), IDLE);
    let resolver = file(&engine, "web", "/etc/resolv.conf");
    assert!(!resolver.contains(&LAN.to_string()), "{resolver}");
    let answer = looked_up(&engine, "web", "-type=a outside.test");
    assert!(answer.contains("192.0.2.7"), "{answer}");
    assert!(
        looked_up(&engine, "web", "web")
            .contains(&addresses(&engine, "web", "front")[0].to_string())
    );
    clean(&engine);
}

/// The answer to a question for an address: 192.0.2.7.
fn one_address(question: &[u8]) -> Vec<u8> {
    // What follows the name and its four bytes of type and class may be left away.
    let name = question[12..]
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(0);
    let mut answer = question[..12 + name + 5].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 7]);
    answer
}
