//! Hears of every change of the kernel's network state, and tells the owner where to look.
//!
//! ```text
//!  rtnetlink groups ──┐
//!  nf_tables group ───┼─ a thread ── what was touched ── "look" ──> the owner's queue
//!  inotify ───────────┘
//! ```
//!
//! It also hears when a keeper of the firewall's socket begins to listen, and hands the socket
//! over. Settings below `/proc/sys` tell by inotify; the watches are on directories that are held
//! open, since the kernel may forget the rest. The monitor decides nothing and changes nothing.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::Request;
use super::error::{NetworkError, device};
use super::owner::chain;
use super::touched::{self, Devices, Touched};
use crate::keeper::{Keeper, SOCKET_NAME};
use crate::netlink::socket::Hearing;
use crate::netlink::{NetlinkError, NetlinkSocket, link};
use crate::sysctl;

/// Links, neighbours, addresses, routes and settings of both families.
const ROUTING_GROUPS: [u32; 9] = [1, 3, 5, 7, 9, 11, 12, 24, 25];
const NFTABLES_GROUP: u32 = 7;

/// What was touched since the owner looked last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Touched>>);

impl Inbox {
    /// Takes everything out.
    pub(crate) fn take(&self) -> Touched {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds something; says whether there was nothing before.
    pub(crate) fn add(&self, touched: Touched) -> bool {
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = inbox.is_empty();
        inbox.merge(touched);
        was_empty
    }
}

/// Which directories of settings are watched; the owner's side of the monitor.
#[derive(Debug)]
pub(crate) struct SettingsWatch {
    inotify: Arc<OwnedFd>,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    directory: String,
    watch: i32,
    /// Keeps what is watched in the kernel's memory.
    _held: File,
}

impl SettingsWatch {
    /// Watches directories below `/proc/sys/net`, instead of what had their names before.
    /// One that the kernel does not have is passed by.
    pub(crate) fn watch<T: AsRef<str>>(
        &mut self,
        directories: impl IntoIterator<Item = T>,
    ) -> Result<(), NetworkError> {
        for directory in directories {
            let directory = directory.as_ref();
            self.forget([directory]);
            let path = sysctl::path(directory);
            let Ok(held) = File::open(&path) else {
                continue;
            };
            let watch = inotify::add_watch(&*self.inotify, &path, WatchFlags::MODIFY)
                .map_err(|errno| NetworkError::Watch(errno.into()))?;
            self.watched.push(Watched {
                directory: directory.to_owned(),
                watch,
                _held: held,
            });
        }
        Ok(())
    }

    /// Stops watching directories.
    pub(crate) fn forget<T: AsRef<str>>(&mut self, directories: impl IntoIterator<Item = T>) {
        for directory in directories {
            let gone = self
                .watched
                .extract_if(.., |watched| watched.directory == directory.as_ref());
            for watched in gone {
                // It ends by itself with what it was on.
                inotify::remove_watch(&*self.inotify, watched.watch).ok();
            }
        }
    }
}

/// The monitor before it runs. It hears from its making on.
#[derive(Debug)]
pub(crate) struct Monitor {
    routing: NetlinkSocket,
    firewall: NetlinkSocket,
    inotify: Arc<OwnedFd>,
    /// The watch on the directory of sockets.
    sockets: i32,
    keeper: Keeper,
    devices: Devices,
    inbox: Inbox,
}

/// What a monitor knows of the socket that owns the firewall.
#[derive(Debug)]
pub(crate) struct Ownership {
    /// By what the kernel knows it: what came through it is no news.
    pub(crate) port: u32,
    /// A duplicate, to hand over.
    pub(crate) socket: OwnedFd,
}

/// Ends the monitor when it is dropped.
#[derive(Debug)]
pub(crate) struct Stop(#[expect(dead_code, reason = "closing it is its use")] PipeWriter);

impl Monitor {
    /// Begins to listen. The keeper's socket is in the given directory.
    pub(crate) fn open(run: &Path) -> Result<Self, NetworkError> {
        let act = "listen to changes of the network";
        let failed = |errno: Errno| NetworkError::Watch(errno.into());
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(failed)?;
        let arrival = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        Ok(Self {
            sockets: inotify::add_watch(&inotify, run, arrival).map_err(failed)?,
            keeper: Keeper::new(run),
            routing: NetlinkSocket::open_in(libc::NETLINK_ROUTE, &ROUTING_GROUPS)
                .map_err(device(act))?,
            firewall: NetlinkSocket::open_in(libc::NETLINK_NETFILTER, &[NFTABLES_GROUP])
                .map_err(device(act))?,
            inotify: Arc::new(inotify),
            devices: Devices::default(),
            inbox: Inbox::default(),
        })
    }

    /// The owner's side.
    pub(crate) fn settings_watch(&self) -> SettingsWatch {
        SettingsWatch {
            inotify: Arc::clone(&self.inotify),
            watched: Vec::new(),
        }
    }

    /// Where the owner finds what was touched.
    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// The keeper of the firewall's socket.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Runs on a thread of its own.
    pub(crate) fn spawn(
        self,
        ownership: Ownership,
        owner: mpsc::WeakSender<Request>,
    ) -> io::Result<(Stop, thread::JoinHandle<()>)> {
        let (stopped, stop) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || {
                if let Err(error) = self.run(&ownership, &stopped, &owner) {
                    tracing::error!(error = %chain(&error), "changes of the network are not heard any more");
                }
            })?;
        Ok((Stop(stop), thread))
    }

    fn run(
        mut self,
        ownership: &Ownership,
        stopped: &PipeReader,
        owner: &mpsc::WeakSender<Request>,
    ) -> Result<(), NetworkError> {
        let act = "hear changes of the network";
        self.learn().map_err(device(act))?;
        self.hand_over(ownership);
        loop {
            let touched = self.hear(ownership).map_err(device(act))?;
            if !touched.is_empty() && self.inbox.add(touched) {
                let Some(owner) = owner.upgrade() else {
                    return Ok(());
                };
                // A full queue means that the owner is at work, and gets here later.
                if owner.blocking_send(Request::Look).is_err() {
                    return Ok(());
                }
            }
            if self.wait(stopped)? {
                return Ok(());
            }
        }
    }

    fn learn(&mut self) -> Result<(), NetlinkError> {
        let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE)?;
        let devices = link::list(&mut socket)?;
        self.devices.learn(&devices);
        Ok(())
    }

    /// Takes in what has come.
    fn hear(&mut self, ownership: &Ownership) -> Result<Touched, NetlinkError> {
        let mut touched = Touched::default();
        let Self {
            routing, devices, ..
        } = self;
        let routing = routing.hear(|kind, _, payload| devices.hear(kind, payload, &mut touched))?;
        let firewall = self.firewall.hear(|kind, port, payload| {
            if port != ownership.port {
                touched::hear_firewall(kind, payload, &mut touched);
            }
        })?;
        if routing == Hearing::Lost || firewall == Hearing::Lost {
            tracing::warn!("changes of the network came too fast, looking at everything");
            self.learn()?;
            touched.everything = true;
        }
        touched.settings |= self.hear_files(ownership);
        Ok(touched)
    }

    /// Takes in what inotify tells; says whether settings were written.
    fn hear_files(&self, ownership: &Ownership) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&*self.inotify, &mut buffer);
        let (mut settings, mut keeper) = (false, false);
        // It ends with EAGAIN.
        while let Ok(event) = reader.next() {
            if event.wd() == self.sockets {
                keeper |= event.file_name().map(CStr::to_bytes) == Some(SOCKET_NAME.as_bytes());
            } else {
                settings = true;
            }
        }
        if keeper {
            self.hand_over(ownership);
        }
        settings
    }

    /// Lets the keeper keep the socket, if there is a keeper.
    fn hand_over(&self, ownership: &Ownership) {
        match self.keeper.keep(&ownership.socket) {
            Ok(true) => tracing::info!("firewall kept by runtimed as well"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "firewall not kept by runtimed, ignoring");
            }
        }
    }

    /// Waits for more; says whether it is time to end.
    fn wait(&self, stopped: &PipeReader) -> Result<bool, NetworkError> {
        let mut sources = [
            PollFd::new(stopped, PollFlags::IN),
            PollFd::from_borrowed_fd(self.routing.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.firewall.as_fd(), PollFlags::IN),
            PollFd::new(&*self.inotify, PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => Ok(!sources[0].revents().is_empty()),
            Err(errno) => Err(NetworkError::Watch(errno.into())),
        }
    }
}
