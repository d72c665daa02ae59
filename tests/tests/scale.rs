//! Many containers, one after the other and at once; the sandbox audits what is left.

use e2e::{DEADLINE, image, linkspan, wait_for};

/// How many lives are led in [`a_thousand_lives_leave_nothing`], by how many threads.
const LIVES: usize = 1000;
const THREADS: usize = 2;
/// How many containers run at once in [`two_hundred_containers_run_at_once`].
const CROWD: usize = 200;

#[test]
fn a_thousand_lives_leave_nothing() {
    image("busybox");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for life in 0..LIVES / THREADS {
                    let name = format!("c{thread}-{life}");
                    let id =
                        linkspan(&["create", "--name", &name, "busybox", "sleep", "1000"]).ok();
                    assert_eq!(id.len(), 64);
                    assert_eq!(linkspan(&["start", &name]).ok(), name);
                    assert_eq!(linkspan(&["stop", "-t", "0", &name]).ok(), name);
                    assert_eq!(linkspan(&["rm", &name]).ok(), name);
                }
            });
        }
    });
    assert_eq!(linkspan(&["ps", "-aq"]).ok(), "");
}

#[test]
fn two_hundred_containers_run_at_once() {
    image("busybox");
    let name = |number: usize| format!("c{number}");
    let server = "echo $0 > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    for number in 0..CROWD {
        let own = name(number);
        let mut arguments = vec!["run", "-d", "--name", &own, "--expose", "80"];
        let link = format!("{}:before", name(number.saturating_sub(1)));
        if number > 0 {
            arguments.extend(["--link", &link]);
        }
        arguments.extend(["busybox", "sh", "-c", server, &own]);
        let _id = linkspan(&arguments).ok();
    }
    assert_eq!(linkspan(&["ps", "-q"]).ok().lines().count(), CROWD);
    for number in (1..CROWD).step_by(33) {
        let before = name(number - 1);
        wait_for("the page of the source", DEADLINE, || {
            let page = linkspan(&["exec", &name(number), "wget", "-qO-", "http://before/"]);
            (page.status == 0 && page.stdout.trim() == before).then_some(())
        });
    }
    // No link, no way in: two that are not neighbours.
    let address = linkspan(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "c0"]).ok();
    let url = format!("http://{address}/");
    let _refused = linkspan(&["exec", "c100", "wget", "-T", "1", "-qO-", &url]).fails();
    let names: Vec<String> = (0..CROWD).map(name).collect();
    let mut arguments = vec!["rm", "-f"];
    arguments.extend(names.iter().map(String::as_str));
    assert_eq!(linkspan(&arguments).ok().lines().count(), CROWD);
}
