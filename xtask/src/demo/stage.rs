//! Shows each command and what it printed, and holds it to what was told.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// How long something that becomes true by itself may take.
const DEADLINE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(50);

/// The sandbox, as its user sees it.
pub(super) struct Stage;

/// Says a line of the story.
#[expect(clippy::print_stdout, reason = "the story is the output")]
pub(super) fn tell(sentence: &str) {
    println!("\n# {sentence}");
}

#[expect(clippy::print_stdout, reason = "the story is the output")]
fn show(words: &[&str], output: &Output) {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    println!("$ {}", quoted.join(" "));
    for bytes in [&output.stdout, &output.stderr] {
        print!("{}", String::from_utf8_lossy(bytes));
    }
}

impl Stage {
    /// Refuses to tell the story anywhere but in a sandbox.
    pub(super) fn open() -> anyhow::Result<Self> {
        ensure!(
            std::env::var_os("LINKSPAN_SANDBOX").is_some(),
            "--inside is for a process in the sandbox; run: cargo xtask demo"
        );
        Ok(Self)
    }

    /// Shows a command that succeeds.
    pub(super) fn linkspan(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let words = [&["linkspan"], arguments].concat();
        let output = run(&words)?;
        show(&words, &output);
        text(&output)
    }

    /// Shows a command that must fail.
    pub(super) fn fails(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let words = [&["linkspan"], arguments].concat();
        let output = run(&words)?;
        show(&words, &output);
        ensure!(!output.status.success(), "this must not succeed");
        Ok(())
    }

    /// Runs a command that is no part of the story.
    pub(super) fn quietly(&self, arguments: &[&str]) -> anyhow::Result<String> {
        text(&run(&[&["linkspan"], arguments].concat())?)
    }

    /// What a container has written to either stream.
    pub(super) fn logs(&self, container: &str) -> anyhow::Result<String> {
        let output = run(&["linkspan", "logs", container])?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(text(&output)? + &stderr)
    }

    /// Shows a command as it succeeds, however often it had to be asked.
    pub(super) fn until_succeeds(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let words = [&["linkspan"], arguments].concat();
        self.asked_again(&words, || run(&words))
    }

    /// The same, on the LAN host.
    pub(super) fn lan_until_succeeds(&self, words: &[&str]) -> anyhow::Result<String> {
        self.asked_again(words, || execute(&mut super::on_the_lan(words)?))
    }

    /// Waits until there is something.
    pub(super) fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            ensure!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
            pause();
        }
    }

    fn asked_again(
        &self,
        words: &[&str],
        mut ask: impl FnMut() -> anyhow::Result<Output>,
    ) -> anyhow::Result<String> {
        let mut last = None;
        let succeeded = self.until("the command succeeds", || {
            let output = ask();
            let ended_well = output.as_ref().is_ok_and(|output| output.status.success());
            last = Some(output);
            ended_well.then_some(())
        });
        let output = last.context("nothing was run")??;
        show(words, &output);
        succeeded?;
        text(&output)
    }
}

fn run(words: &[&str]) -> anyhow::Result<Output> {
    execute(Command::new(words[0]).args(&words[1..]))
}

fn execute(command: &mut Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))
}

fn text(output: &Output) -> anyhow::Result<String> {
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lets others run for a moment, since nothing tells an outsider when to look again.
fn pause() {
    std::thread::park_timeout(INTERVAL);
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
