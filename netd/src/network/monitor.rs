//! Hears of every change of the kernel's network state, and tells the owner where to look.
//!
//! ```text
//!  rtnetlink groups ──┐
//!  nf_tables group ───┼─ a thread ── what was touched ── "look" ──> the owner's queue
//!  inotify ───────────┘
//! ```
//!
//! Settings below `/proc/sys` tell by inotify; the watches are on directories that are held
//! open, since the kernel may forget the rest. The monitor decides nothing and changes nothing.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;

use super::Request;
use super::error::{NetworkError, device};
use super::owner::chain;
use super::touched::{self, Devices, Touched};
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
    devices: Devices,
    inbox: Inbox,
}

/// Ends the monitor when it is dropped.
#[derive(Debug)]
pub(crate) struct Stop(#[expect(dead_code, reason = "closing it is its use")] PipeWriter);

impl Monitor {
    /// Begins to listen.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let act = "listen to changes of the network";
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| NetworkError::Watch(errno.into()))?;
        Ok(Self {
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

    /// Runs on a thread of its own. `own_port` is by what the kernel knows the owner's
    /// socket of the firewall: what came through it is no news.
    pub(crate) fn spawn(
        self,
        own_port: u32,
        owner: mpsc::WeakSender<Request>,
    ) -> io::Result<(Stop, thread::JoinHandle<()>)> {
        let (stopped, stop) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || {
                if let Err(error) = self.run(own_port, &stopped, &owner) {
                    tracing::error!(error = %chain(&error), "changes of the network are not heard any more");
                }
            })?;
        Ok((Stop(stop), thread))
    }

    fn run(
        mut self,
        own_port: u32,
        stopped: &PipeReader,
        owner: &mpsc::WeakSender<Request>,
    ) -> Result<(), NetworkError> {
        let act = "hear changes of the network";
        self.learn().map_err(device(act))?;
        loop {
            let touched = self.hear(own_port).map_err(device(act))?;
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
    fn hear(&mut self, own_port: u32) -> Result<Touched, NetlinkError> {
        let mut touched = Touched::default();
        let Self {
            routing, devices, ..
        } = self;
        let routing = routing.hear(|kind, _, payload| devices.hear(kind, payload, &mut touched))?;
        let firewall = self.firewall.hear(|kind, port, payload| {
            if port != own_port {
                touched::hear_firewall(kind, payload, &mut touched);
            }
        })?;
        if routing == Hearing::Lost || firewall == Hearing::Lost {
            tracing::warn!("changes of the network came too fast, looking at everything");
            self.learn()?;
            touched.everything = true;
        }
        touched.settings |= self.hear_settings();
        Ok(touched)
    }

    fn hear_settings(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut heard = false;
        while rustix::io::read(&*self.inotify, &mut buffer).is_ok_and(|length| length > 0) {
            heard = true;
        }
        heard
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
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!sources[0].revents().is_empty()),
            Err(errno) => Err(NetworkError::Watch(errno.into())),
        }
    }
}
