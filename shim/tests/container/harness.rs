//! Starts a real shim with a real root filesystem, and talks to it as runtimed does.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use linkspan_proto::shim_v1 as wire;
use linkspan_sys::{memfd, scm};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use wire::shim_message::Content;
use wire::shim_request::Operation;

/// Longer than anything takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const BUSYBOX: &str = "/bin/busybox";
const CAPABILITIES: [&str; 8] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "KILL",
    "NET_BIND_SERVICE",
];

/// Says why a test does nothing, and where that is collected.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}");
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("LINKSPAN_SKIPS") {
        use std::io::Write;
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Whether containers can be tested here; says why not otherwise.
pub(crate) fn available(test: &str) -> bool {
    if !Path::new(BUSYBOX).exists() {
        skip(test, "no /bin/busybox (package busybox-static)");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        skip(test, "not root");
        return false;
    }
    true
}

/// Makes a root filesystem of busybox.
fn make_layer(root: &Path) {
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let list = Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nwww:x:34:\nlog:x:4:web\n",
    )
    .unwrap();
    fs::write(root.join("etc/plain"), "not a program\n").unwrap();
}

/// A shim, and everything that a container of it needs.
pub(crate) struct Shim {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) spec: wire::ContainerSpec,
    pub(crate) cgroup: String,
    pub(crate) process: Child,
    network: OwnedFd,
}

impl Shim {
    /// Starts a shim for a container with this command, and connects.
    pub(crate) fn new(args: &[&str]) -> (Self, Client) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "extra"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        make_layer(&directory.path().join("layer"));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/linkspan-test-{}/{number}", std::process::id());
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let spec = wire::ContainerSpec {
            id: "a".repeat(64),
            rootfs: Some(wire::RootFilesystem {
                lower_dirs: vec![path("extra"), path("layer")],
                upper_dir: path("upper"),
                work_dir: path("work"),
                read_only: false,
            }),
            process: Some(process(args)),
            hostname: "box".into(),
            cgroup_path: cgroup.clone(),
            log: Some(wire::LogSpec {
                path: path("log"),
                ..Default::default()
            }),
            exit_record_path: path("exit"),
            security: Some(wire::SecurityProfile {
                capabilities: CAPABILITIES.map(Into::into).to_vec(),
                no_new_privileges: true,
                seccomp: true,
                masked_paths: [
                    "/proc/interrupts",
                    "/proc/acpi",
                    "/sys/firmware",
                    "/proc/nosuch",
                ]
                .map(Into::into)
                .to_vec(),
                readonly_paths: ["/proc/sys", "/proc/bus"].map(Into::into).to_vec(),
            }),
            ..Default::default()
        };
        let socket = directory.path().join("shim.sock");
        let process = spawn(&socket, &cgroup);
        let shim = Self {
            directory,
            spec,
            cgroup,
            process,
            network: network_namespace(),
        };
        let client = shim.connect();
        (shim, client)
    }

    /// One more connection.
    pub(crate) fn connect(&self) -> Client {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let address = SocketAddrUnix::new(self.directory.path().join("shim.sock")).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        Client {
            socket,
            last: 0,
            events: Vec::new(),
        }
    }

    pub(crate) fn process(&mut self) -> &mut wire::ProcessSpec {
        self.spec.process.as_mut().unwrap()
    }

    /// A directory above the image's, to put what a hostile image has.
    pub(crate) fn extra(&self) -> PathBuf {
        self.directory.path().join("extra")
    }

    pub(crate) fn start_with(
        &self,
        client: &mut Client,
        streams: wire::Streams,
        fds: &[BorrowedFd<'_>],
    ) -> Content {
        let spec = memfd::sealed("spec", &self.spec.encode_to_vec()).unwrap();
        let mut all = vec![spec.as_fd(), self.network.as_fd()];
        all.extend_from_slice(fds);
        client.request(
            Operation::Start(wire::StartRequest {
                streams: Some(streams),
            }),
            &all,
        )
    }

    pub(crate) fn start(&self, client: &mut Client) -> Content {
        self.start_with(client, wire::Streams::default(), &[])
    }

    /// Starts, waits for the end, and gives the exit and what was logged.
    pub(crate) fn run(&self, client: &mut Client) -> (wire::Exit, String) {
        let started = self.start(client);
        assert!(matches!(started, Content::Started(_)), "{started:?}");
        (client.exit(), self.output())
    }

    /// What the log holds, put together again.
    pub(crate) fn output(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        log.lines()
            .map(|line| {
                let mut fields = line.splitn(4, ' ').skip(2);
                let end = if fields.next() == Some("F") { "\n" } else { "" };
                format!("{}{end}", fields.next().unwrap())
            })
            .collect()
    }

    pub(crate) fn record(&self) -> wire::Exit {
        let bytes = fs::read(self.directory.path().join("exit")).unwrap();
        wire::Exit::decode(bytes.as_slice()).unwrap()
    }

    /// Where the container's cgroup is in this hierarchy.
    pub(crate) fn cgroup(&self, hierarchy: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup/{hierarchy}{}", self.cgroup))
    }

    /// Ends the shim, and checks that nothing is left of it.
    pub(crate) fn shut_down(mut self, client: &mut Client) {
        let answer = client.request(Operation::Shutdown(wire::ShutdownRequest {}), &[]);
        assert!(matches!(answer, Content::Done(_)), "{answer:?}");
        self.assert_gone();
    }

    /// Waits for the shim to end, and checks that nothing is left of it.
    pub(crate) fn assert_gone(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        if let Ok(pidfd) = linkspan_sys::pidfd::open(pid) {
            assert!(ready(&pidfd, PollFlags::IN), "the shim does not end");
        }
        assert!(self.process.wait().unwrap().success());
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let left = hierarchy
                .unwrap()
                .path()
                .join(self.cgroup.trim_start_matches('/'));
            assert!(!left.exists(), "{} is left", left.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.directory.path().to_str().unwrap()),
            "{mounts}"
        );
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Only after a failed check: the shim goes, and its container with it.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let _none = fs::write(self.cgroup("unified").join("cgroup.kill"), "1");
            let _gone = self.process.kill();
            let _reaped = self.process.wait();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let own = hierarchy.path().join(self.cgroup.trim_start_matches('/'));
            let _removed = fs::remove_dir(&own);
            let _shared = own.parent().map(fs::remove_dir);
        }
    }
}

/// A connection.
pub(crate) struct Client {
    socket: OwnedFd,
    last: u64,
    events: Vec<Content>,
}

impl Client {
    /// Asks, and waits for the answer. Events on the way are kept.
    pub(crate) fn request(&mut self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Content {
        self.last += 1;
        let request = wire::ShimRequest {
            id: self.last,
            operation: Some(operation),
        };
        scm::send(&self.socket, &request.encode_to_vec(), fds).unwrap();
        loop {
            let (id, content) = self.next();
            if id == self.last {
                return content;
            }
            assert_eq!(id, 0, "an answer that nobody asked for");
            self.events.push(content);
        }
    }

    /// Waits for the container's end.
    pub(crate) fn exit(&mut self) -> wire::Exit {
        self.event(|event| match event {
            Content::Exited(exit) => Some(*exit),
            _ => None,
        })
    }

    /// Waits for the end of an exec process.
    pub(crate) fn exec_exit(&mut self, exec_id: &str) -> i32 {
        self.event(|event| match event {
            Content::ExecExited(exit) if exit.exec_id == exec_id => Some(exit.exit_code),
            _ => None,
        })
    }

    pub(crate) fn exec(
        &mut self,
        exec_id: &str,
        spec: &wire::ProcessSpec,
        output: Option<&OwnedFd>,
    ) -> Content {
        let spec = memfd::sealed("process", &spec.encode_to_vec()).unwrap();
        let mut fds = vec![spec.as_fd()];
        fds.extend(output.map(AsFd::as_fd));
        let streams = wire::Streams {
            stdin: false,
            stdout: output.is_some(),
            stderr: false,
        };
        let exec = wire::ExecRequest {
            exec_id: exec_id.into(),
            streams: Some(streams),
        };
        self.request(Operation::Exec(exec), &fds)
    }

    pub(crate) fn signal(&mut self, signal: i32, all: bool) -> Content {
        let signal = wire::SignalRequest {
            signal,
            exec_id: String::new(),
            all,
        };
        self.request(Operation::Signal(signal), &[])
    }

    pub(crate) fn state(&mut self) -> wire::State {
        match self.request(Operation::State(wire::StateRequest {}), &[]) {
            Content::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn event<T>(&mut self, wanted: impl Fn(&Content) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.events.iter().find_map(&wanted) {
                return found;
            }
            let (id, content) = self.next();
            assert_eq!(id, 0, "an answer that nobody asked for");
            self.events.push(content);
        }
    }

    fn next(&mut self) -> (u64, Content) {
        assert!(
            ready(&self.socket, PollFlags::IN),
            "the shim does not answer"
        );
        let mut buffer = vec![0; 64 << 10];
        let received = scm::receive(&self.socket, &mut buffer).unwrap();
        assert_ne!(received.length, 0, "the shim has closed the connection");
        let message = wire::ShimMessage::decode(&buffer[..received.length]).unwrap();
        (message.id, message.content.unwrap())
    }
}

/// A process of the container: its first word is the program.
pub(crate) fn process(args: &[&str]) -> wire::ProcessSpec {
    wire::ProcessSpec {
        args: args.iter().map(|&arg| arg.into()).collect(),
        ..Default::default()
    }
}

/// Waits until something is ready. `false` when the deadline has passed.
pub(crate) fn ready(fd: impl AsFd, events: PollFlags) -> bool {
    let end = Instant::now() + DEADLINE;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap();
        let fd = fd.as_fd();
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.unwrap() > 0,
        }
    }
}

/// Reads until the text is there, or to the end when there is none to wait for.
pub(crate) fn read_until(fd: &OwnedFd, text: Option<&str>) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        assert!(
            ready(fd, PollFlags::IN),
            "nothing after {:?}",
            String::from_utf8_lossy(&all)
        );
        let length = rustix::io::read(fd, &mut buffer).unwrap();
        all.extend_from_slice(&buffer[..length]);
        let so_far = String::from_utf8_lossy(&all).into_owned();
        if length == 0 || text.is_some_and(|text| so_far.contains(text)) {
            return so_far;
        }
    }
}

fn spawn(socket: &Path, cgroup: &str) -> Child {
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    Command::new(env!("CARGO_BIN_EXE_linkspan-shim"))
        .args(["--id", "test", "--cgroup", cgroup])
        .stdin(Stdio::null())
        .fd_mappings(vec![FdMapping {
            parent_fd: listener,
            child_fd: 3,
        }])
        .unwrap()
        .spawn()
        .unwrap()
}

/// A network namespace of nobody's, made on a thread that is then thrown away.
fn network_namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    });
    thread.join().unwrap()
}
