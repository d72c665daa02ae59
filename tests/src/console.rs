//! The command line as a person types it, one line at a time.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::image::image;
use crate::rootfs;
use crate::skip::sandbox_required;
use crate::wait::wait_for;

/// How long a container may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The engine of the sandbox that the test runs in.
#[derive(Debug)]
pub struct Engine {
    directory: PathBuf,
}

impl Engine {
    /// The engine as it is, without any image.
    ///
    /// # Panics
    ///
    /// Outside a sandbox: a test must never touch the machine's own network.
    #[must_use]
    pub fn bare() -> Self {
        sandbox_required();
        let directory = std::env::temp_dir();
        Self { directory }
    }

    /// The engine with the image `busybox`.
    #[must_use]
    pub fn with_busybox() -> Self {
        let engine = Self::bare();
        match rootfs::busybox() {
            None => {
                image("busybox");
            }
            Some(archive) => {
                let output = engine.feed("import -c 'CMD [\"sh\"]' - busybox", &archive);
                assert_eq!(output.code, 0, "import busybox: {}", output.stderr);
            }
        }
        engine
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Writes a file for the test, and gives its path.
    #[must_use]
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, bytes).expect("write a file of the test");
        path.display().to_string()
    }

    /// `linkspan` with the arguments of a line, not started.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("linkspan");
        command.args(words(line)).stdin(Stdio::null());
        command
    }

    /// Runs a line, however it ends.
    #[must_use]
    pub fn run(&self, line: &str) -> Output {
        output(&mut self.command(line))
    }

    /// Runs a line with bytes on its standard input.
    #[must_use]
    pub fn feed(&self, line: &str, bytes: &[u8]) -> Output {
        let mut command = self.command(line);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("start linkspan");
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || {
            // The reader may refuse the rest; its own words tell why.
            drop(stdin.write_all(&bytes));
        });
        let ended = child.wait_with_output().expect("wait for linkspan");
        writer.join().expect("the writer does not panic");
        Output::of(&ended)
    }

    /// Runs a line that must succeed, and gives its standard output without the last newline.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(
            output.code, 0,
            "linkspan {line}: {}{}",
            output.stdout, output.stderr
        );
        output.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs a line that must fail with a code and exactly one sentence, and gives it.
    pub fn fails(&self, code: i32, line: &str) -> String {
        self.run(line).sentence(code, line)
    }

    /// A field of a container or image, by a Go template.
    #[must_use]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.ok(&format!("inspect -f '{template}' {name}"))
    }

    /// The IPv4 address of a container.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        self.inspect(name, "{{.NetworkSettings.IPAddress}}")
    }

    /// The IPv6 address of a container.
    #[must_use]
    pub fn address6(&self, name: &str) -> String {
        self.inspect(name, "{{.NetworkSettings.GlobalIPv6Address}}")
    }

    /// A shell command within a container, however it ends.
    #[must_use]
    pub fn shell(&self, name: &str, script: &str) -> Output {
        let mut command = self.command(&format!("exec {name} sh -c"));
        output(command.arg(script))
    }

    /// Starts `name` with more flags and a shell script as its process.
    pub fn start(&self, name: &str, flags: &str, script: &str) -> String {
        let mut command = self.command(&format!("run -d --name {name} {flags} busybox sh -c"));
        let output = output(command.arg(script));
        assert_eq!(output.code, 0, "start {name}: {}", output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// Waits until something in the container listens on a port.
    pub fn await_port(&self, name: &str, port: u16) {
        let needle = format!(":{port} ");
        wait_for(
            &format!("{name} listens on {port}"),
            LISTEN_DEADLINE,
            || {
                self.shell(name, "netstat -lntu")
                    .stdout
                    .contains(&needle)
                    .then_some(())
            },
        );
    }

    /// Waits until the log of a container contains a text, and gives the log.
    pub fn await_log(&self, name: &str, text: &str) -> String {
        wait_for(
            &format!("the log of {name} has `{text}`"),
            LISTEN_DEADLINE,
            || {
                let output = self.run(&format!("logs {name}"));
                let log = output.stdout + &output.stderr;
                log.contains(text).then_some(log)
            },
        )
    }

    /// Waits until a container has a status, such as `running` or `exited`.
    pub fn await_status(&self, name: &str, status: &str) {
        wait_for(&format!("{name} is {status}"), LISTEN_DEADLINE, || {
            let output = self.run(&format!("inspect -f '{{{{.State.Status}}}}' {name}"));
            (output.stdout.trim() == status).then_some(())
        });
    }

    /// The names of all containers, in the order of `ps -a`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.ok("ps -a --format '{{.Names}}'")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Output {
    fn of(output: &std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The one sentence of a failure.
    pub fn sentence(&self, code: i32, line: &str) -> String {
        let Self { stdout, stderr, .. } = self;
        assert_eq!(self.code, code, "linkspan {line}: {stdout}{stderr}");
        assert_eq!(stderr.lines().count(), 1, "linkspan {line}: {stderr}");
        let sentence = stderr
            .strip_prefix("linkspan: ")
            .and_then(|rest| rest.strip_suffix('\n'));
        let sentence = sentence.expect("an error begins with `linkspan: `");
        sentence.to_owned()
    }
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it cannot be started.
pub fn output(command: &mut Command) -> Output {
    Output::of(&command.output().expect("start the command"))
}

/// Splits a line into words as a shell does, with quotes but nothing else.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does() {
        assert_eq!(
            words(r#"a 'b "c' -f"{{ .D }}" '' e"#),
            ["a", "b \"c", "-f{{ .D }}", "", "e"]
        );
    }
}
