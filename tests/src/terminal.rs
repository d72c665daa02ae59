//! A terminal with a program in it, for tests of what a person at a keyboard sees.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use rustix::termios::{LocalModes, Winsize as Size, tcgetattr, tcsetwinsize};

use crate::wait::wait_for;

const DEADLINE: Duration = Duration::from_secs(10);

/// A terminal and the program that it controls.
#[derive(Debug)]
pub struct Terminal {
    controller: File,
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program in a terminal of 24 rows and 80 columns.
    ///
    /// # Panics
    ///
    /// When there are no more terminals, or no such program.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).expect("open a terminal");
        let end = || -> OwnedFd { pair.slave.try_clone().expect("share the terminal") };
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("start the program");
        // The command keeps copies of the terminal's end; without them a hang-up is seen.
        command.stdin(std::process::Stdio::null());
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        drop(pair.slave);
        let controller = File::from(pair.master);
        let mut reader = controller.try_clone().expect("share the terminal");
        let seen = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose last program has ended gives an error.
            while let Ok(length) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        Self {
            controller,
            child,
            seen,
        }
    }

    /// Types a text.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.controller
            .write_all(text.as_bytes())
            .expect("type into the terminal");
    }

    /// Everything that was shown so far.
    #[must_use]
    pub fn seen(&self) -> String {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until a text is shown.
    pub fn await_text(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        wait_for("a text on the terminal", DEADLINE * 2, || {
            assert!(
                Instant::now() < end,
                "no `{text}` on the terminal: {:?}",
                self.seen()
            );
            self.seen().contains(text).then_some(())
        });
    }

    /// Waits until the program has taken over the keyboard.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn await_raw(&self) {
        wait_for("a raw terminal", DEADLINE, || {
            let state = tcgetattr(&self.controller).expect("ask the terminal");
            (!state.local_modes.contains(LocalModes::ICANON)).then_some(())
        });
    }

    /// Gives the terminal another size, and tells the program as a terminal does.
    ///
    /// # Panics
    ///
    /// When the terminal or the program is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Size {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.controller, size).expect("resize the terminal");
        // The terminal does not control the program's session, so the kernel does not tell.
        let process = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGWINCH).expect("tell of it");
    }

    /// Waits for the program, and gives its exit code.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn wait(mut self) -> Option<i32> {
        let ended = || self.child.try_wait().expect("wait for the program");
        let status = wait_for("the program in the terminal ends", DEADLINE, ended);
        status.code()
    }
}
