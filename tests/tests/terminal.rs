//! `-it`: a terminal in a container is a terminal.

use e2e::console::Engine;
use e2e::terminal::Terminal;

/// Runs until it is told to stop.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";

/// Rows S51 to S53: the interactive run of the manual.
#[test]
fn an_interactive_run_has_a_prompt_a_size_and_an_exit_code() {
    let engine = Engine::with_busybox();
    engine.start("db", "", IDLE);
    let line = "run -t -i --rm --name web --link db:webdb busybox sh";
    let mut terminal = Terminal::start(engine.command(line).env("TERM", "xterm"));
    terminal.await_text("# ");
    let id = engine.inspect("web", "{{.Id}}");
    terminal.type_in("echo host=$(hostname) term=$TERM\n");
    terminal.await_text(&format!("host={} term=xterm", &id[..12]));
    terminal.type_in("stty size\n");
    terminal.await_text("24 80");
    terminal.resize(40, 100);
    terminal.type_in("sleep 0.2; stty size\n");
    terminal.await_text("40 100");
    terminal.type_in("cat /etc/hosts\n");
    terminal.await_text("\twebdb ");
    terminal.type_in("exit 9\n");
    assert_eq!(terminal.wait(), Some(9));
    assert_eq!(engine.names(), ["db"]);
}

#[test]
fn the_detach_keys_leave_the_container_running() {
    let engine = Engine::with_busybox();
    let mut terminal = Terminal::start(&mut engine.command("run -it --name web busybox sh"));
    terminal.await_text("# ");
    terminal.type_in("\u{10}\u{11}");
    assert_eq!(terminal.wait(), Some(0));
    assert_eq!(engine.inspect("web", "{{.State.Running}}"), "true");
    let mut again = Terminal::start(&mut engine.command("attach web"));
    again.await_raw();
    again.type_in("echo ba''ck\n");
    again.await_text("back");
    again.type_in("exit 3\n");
    assert_eq!(again.wait(), Some(3));
}

#[test]
fn an_interrupt_reaches_the_program_in_the_container() {
    let engine = Engine::with_busybox();
    let script =
        "trap \"echo caught; exit 8\" INT; echo ready; while :; do sleep 1000 & wait; done";
    let line = format!("run -it --rm busybox sh -c '{script}'");
    let mut terminal = Terminal::start(&mut engine.command(&line));
    terminal.await_text("ready");
    terminal.type_in("\u{3}");
    terminal.await_text("caught");
    assert_eq!(terminal.wait(), Some(8));
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let engine = Engine::with_busybox();
    engine.start("web", "", IDLE);
    let mut terminal = Terminal::start(&mut engine.command("exec -it web sh"));
    terminal.await_text("# ");
    terminal.type_in("tty; stty size; exit 6\n");
    terminal.await_text("24 80");
    assert_eq!(terminal.wait(), Some(6));
}

#[test]
fn a_terminal_is_asked_for_only_where_there_is_one() {
    let engine = Engine::with_busybox();
    let sentence = engine.fails(125, "run -it --rm busybox sh");
    assert!(sentence.contains("terminal"), "{sentence}");
    assert!(engine.names().is_empty());
}
