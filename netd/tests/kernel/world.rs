//! A world of its own for each test: network and mount namespaces with nothing but `lo`
//! in them, the real daemon, and threads that act as containers and as a LAN host.
//!
//! A world never touches the machine's network. It needs root; without it, or without a
//! tool that it needs, a test is skipped by name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use linkspan_proto::net_v1::network_service_client::NetworkServiceClient;
use linkspan_proto::net_v1::{AttachEndpointRequest, Endpoint, Link, Port, PortMapping, Protocol};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use rustix::mount::MountPropagationFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tonic::transport::Channel;

/// How long anything that must happen may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// How long something that must not happen is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);

pub(crate) type Client = NetworkServiceClient<Channel>;

/// Says that a test was skipped, and why.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("LINKSPAN_SKIPS") {
        let file = File::options().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("record the skip");
    }
}

/// Namespaces, directories and the daemon in them.
pub(crate) struct World {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
    flags: Vec<String>,
}

impl World {
    /// Runs a test in a world of its own, with a daemon that is ready.
    pub(crate) fn run(test: &str, scenario: impl FnOnce(&mut World) + Send + 'static) {
        Self::with_flags(test, &[], scenario);
    }

    /// Like [`Self::run`], with flags for the daemon.
    pub(crate) fn with_flags(
        test: &str,
        flags: &[&str],
        scenario: impl FnOnce(&mut World) + Send + 'static,
    ) {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::bare(test, move |world| {
            world.flags = flags;
            world.start();
            scenario(world);
            world.stop();
        });
    }

    /// Runs a test in a world without a daemon.
    pub(crate) fn bare(test: &str, scenario: impl FnOnce(&mut World) + Send + 'static) {
        if !rustix::process::geteuid().is_root() {
            return skip(test, "it needs root");
        }
        let outcome = thread::Builder::new()
            .name(test.to_owned())
            .spawn(move || {
                enter_new_namespaces();
                let mut world = World {
                    directory: new_directory(),
                    daemon: None,
                    flags: Vec::new(),
                };
                world.netlink(async |handle| bring_up(&handle, 1).await);
                scenario(&mut world);
            })
            .unwrap()
            .join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Gives the daemon flags from its next start on.
    pub(crate) fn add_flags(&mut self, flags: &[&str]) {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// The daemon's command line, not yet run.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linkspan-netd"));
        command
            .arg("--root")
            .arg(self.path().join("root"))
            .arg("--run")
            .arg(self.path().join("run"))
            .args(&self.flags);
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(crate) fn start(&mut self) {
        let path = self.path().join("notify");
        drop(fs::remove_file(&path));
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        self.daemon = Some(self.command().env("NOTIFY_SOCKET", &path).spawn().unwrap());
        let mut buffer = [0; 256];
        let length = notify.recv(&mut buffer).expect("the daemon becomes ready");
        assert!(String::from_utf8_lossy(&buffer[..length]).contains("READY=1"));
    }

    /// Kills the daemon the hard way.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let daemon = self.daemon.as_ref().unwrap();
        let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Asks the daemon to stop, and wants it to say that all is well.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let mut daemon = self.daemon.take().unwrap();
        assert!(daemon.wait().unwrap().success(), "the daemon stops cleanly");
    }

    /// Talks to the daemon.
    pub(crate) fn ask<T>(&self, conversation: impl AsyncFnOnce(Client) -> T) -> T {
        ask_at(self.path(), conversation)
    }

    pub(crate) fn attach(&self, request: AttachEndpointRequest) -> Endpoint {
        self.try_attach(request).expect("attach")
    }

    pub(crate) fn try_attach(
        &self,
        request: AttachEndpointRequest,
    ) -> Result<Endpoint, tonic::Status> {
        self.ask(async |mut client| {
            let response = client.attach_endpoint(request).await?;
            Ok(response.into_inner().endpoint.expect("an endpoint"))
        })
    }

    pub(crate) fn detach(&self, endpoint: &Endpoint) {
        let request = linkspan_proto::net_v1::DetachEndpointRequest {
            endpoint_id: endpoint.id.clone(),
            release_lease: false,
        };
        self.ask(async |mut client| client.detach_endpoint(request).await.expect("detach"));
    }

    /// Changes the network of the calling thread.
    pub(crate) fn netlink<T>(&self, act: impl AsyncFnOnce(rtnetlink::Handle) -> T) -> T {
        new_runtime().block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            // The connection ends when the act does and drops its handle.
            tokio::join!(act(handle), connection).0
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.kill());
            drop(daemon.wait());
        }
        let run = self.path().join("run");
        rustix::mount::unmount(&run, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

/// Talks to the daemon of the world in a directory.
pub(crate) fn ask_at<T>(world: &Path, conversation: impl AsyncFnOnce(Client) -> T) -> T {
    let path = world.join("run/netd.sock");
    // A runtime of its own: when it goes, so does the connection.
    let runtime = new_runtime();
    runtime.block_on(async move {
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                Ok::<_, io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?))
            }
        });
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .expect("connect to the daemon");
        conversation(Client::new(channel)).await
    })
}

pub(crate) fn new_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) async fn bring_up(handle: &rtnetlink::Handle, index: u32) {
    let message = rtnetlink::LinkUnspec::new_with_index(index).up().build();
    handle.link().set(message).execute().await.unwrap();
}

/// A directory of which `run` is in memory, as `/run` is.
fn new_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    let options = Some(c"mode=0755");
    rustix::mount::mount(
        "none",
        &run,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        options,
    )
    .unwrap();
    directory
}

fn enter_new_namespaces() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    assert_eq!(devices(), ["lo"], "the namespace is new");
    fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
    // A new namespace has this from the machine.
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
}

/// Any address and port of this host, of the family of another.
pub(crate) fn any_like(ip: IpAddr) -> SocketAddr {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(any, 0)
}

/// The names of the devices that the calling thread sees.
pub(crate) fn devices() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

/// Runs something in a network namespace.
pub(crate) fn inside<T: Send + 'static>(
    netns: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    spawn_inside(netns, act)
        .join()
        .expect("the container's thread")
}

/// Runs something in a network namespace, and goes on.
pub(crate) fn spawn_inside<T: Send + 'static>(
    netns: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let netns = File::open(netns).expect("the pin is there");
    thread::spawn(move || {
        nix::sched::setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        act()
    })
}

/// An id whose digits all are one.
pub(crate) fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A request for an endpoint with nothing but a name.
pub(crate) fn plain(digit: char, name: &str) -> AttachEndpointRequest {
    AttachEndpointRequest {
        endpoint_id: id(digit),
        name: name.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn tcp(number: u16) -> Port {
    Port::of(Protocol::Tcp, number)
}

pub(crate) fn udp(number: u16) -> Port {
    Port::of(Protocol::Udp, number)
}

pub(crate) fn link_to(source: &str, alias: &str) -> Link {
    Link {
        alias: alias.to_owned(),
        source_name: source.to_owned(),
        ports: Vec::new(),
    }
}

pub(crate) fn publish(host_ip: &str, host_port: u32, container_port: u32) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port,
        host_port,
        host_port_end: 0,
        host_ip: host_ip.to_owned(),
    }
}

/// A server in a namespace that tells each client the address that it sees, and then
/// echoes.
pub(crate) fn serve_tcp(netns: &str, ip: &str, port: u16) {
    let place = SocketAddr::new(ip.parse().unwrap(), port);
    let (ready, is_ready) = mpsc::channel();
    spawn_inside(netns, move || {
        let listener = TcpListener::bind(place).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming().flatten() {
            thread::spawn(move || tell_and_echo(stream));
        }
    });
    is_ready.recv_timeout(DEADLINE).expect("the server listens");
}

fn tell_and_echo(mut stream: TcpStream) {
    let peer = stream.peer_addr().unwrap().ip().to_canonical();
    let mut buffer = [0; 64];
    if stream.write_all(format!("{peer}\n").as_bytes()).is_err() {
        return;
    }
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// A server in a namespace that echoes datagrams.
pub(crate) fn serve_udp(netns: &str, ip: &str, port: u16) {
    let place = SocketAddr::new(ip.parse().unwrap(), port);
    let (ready, is_ready) = mpsc::channel();
    spawn_inside(netns, move || {
        let socket = UdpSocket::bind(place).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 64];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], peer));
        }
    });
    is_ready.recv_timeout(DEADLINE).expect("the server listens");
}

/// Connects, and returns the address that the server sees.
pub(crate) fn dial(ip: &str, port: u16, patience: Duration) -> io::Result<(TcpStream, IpAddr)> {
    let place = SocketAddr::new(ip.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&place, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
        text.push(byte[0].into());
    }
    let seen = text.parse().map_err(io::Error::other)?;
    Ok((stream, seen))
}

/// Whether a namespace reaches a TCP server. What must not be reached is given less time.
pub(crate) fn reaches_tcp(netns: &str, ip: &str, port: u16, patience: Duration) -> bool {
    let ip = ip.to_owned();
    inside(netns, move || dial(&ip, port, patience).is_ok())
}

/// Whether a namespace reaches a UDP server.
pub(crate) fn reaches_udp(netns: &str, ip: &str, port: u16, patience: Duration) -> bool {
    let place = SocketAddr::new(ip.parse().unwrap(), port);
    inside(netns, move || {
        let any = any_like(place.ip());
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 8];
        socket.send_to(b"ping", place).is_ok() && socket.recv(&mut buffer).is_ok()
    })
}

/// Whether a namespace gets an echo reply, by a socket that needs no privilege.
pub(crate) fn pings(netns: &str, ip: &str, patience: Duration) -> bool {
    let place = SocketAddr::new(ip.parse().unwrap(), 0);
    inside(netns, move || {
        let (family, protocol, kind) = if place.is_ipv4() {
            (AddressFamily::INET, ipproto::ICMP, 8)
        } else {
            (AddressFamily::INET6, ipproto::ICMPV6, 128)
        };
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol)).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience)).unwrap();
        let socket = UdpSocket::from(socket);
        let mut buffer = [0; 64];
        socket.connect(place).is_ok()
            && socket.send(&[kind, 0, 0, 0, 0, 0, 0, 1]).is_ok()
            && socket.recv(&mut buffer).is_ok()
    })
}
