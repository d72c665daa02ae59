//! What a container runs where there is no shell: one static binary, many programs.
//!
//! Called `linkspan-guest PROGRAM …`, or by a link that has the program's name. The
//! database speaks lines: `SET key value` and `ALL`; the web application shows its rows.

#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
/// Both versions of IP.
const ANYWHERE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The rows of the database.
static ROWS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let mut words: Vec<String> = env::args().collect();
    let own = Path::new(&words[0])
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    if own
        .as_deref()
        .is_some_and(|name| name.starts_with("linkspan-guest"))
    {
        words.remove(0);
    } else {
        words[0] = own.unwrap_or_default();
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "linkspan-guest: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    match words {
        ["true"] => Ok(()),
        ["sleep", ..] => loop {
            thread::park();
        },
        ["env"] => env::vars().try_for_each(|(name, value)| say(&format!("{name}={value}\n"))),
        ["env", command, rest @ ..] | ["sh", "-c", command, rest @ ..] => {
            Err(Command::new(command).args(rest).exec())
        }
        ["cat", files @ ..] => files
            .iter()
            .try_for_each(|file| io::stdout().write_all(&fs::read(file)?)),
        ["connect", host, port] | ["connect", host, port, "tcp"] => connect_tcp(host, port),
        ["connect", host, port, "udp"] => connect_udp(host, port),
        ["db"] => database(),
        ["set", host, key, value] => {
            query(host, &format!("SET {key} {value}")).and_then(|text| say(&text))
        }
        ["web", ..] => web(),
        _ => Err(io::Error::other(format!(
            "unknown program: {}",
            words.join(" ")
        ))),
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The first address of a name; a link's name is in /etc/hosts.
fn resolve(host: &str, port: &str) -> io::Result<SocketAddr> {
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no address for {host}"));
    (host, port).to_socket_addrs()?.next().ok_or_else(missing)
}

fn connect_tcp(host: &str, port: &str) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&resolve(host, port)?, PATIENCE)?;
    say(&format!("connected to {}\n", stream.peer_addr()?))
}

/// A datagram is answered, or the port is not reachable.
fn connect_udp(host: &str, port: &str) -> io::Result<()> {
    let address = resolve(host, port)?;
    let unspecified = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(unspecified)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    socket.send(b"ping")?;
    let length = socket.recv(&mut [0; 64])?;
    say(&format!("{length} bytes from {address}\n"))
}

/// A server of rows on 5432, and of echoes on UDP 5433.
fn database() -> io::Result<()> {
    let echo = UdpSocket::bind((ANYWHERE, 5433))?;
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = echo.recv_from(&mut buffer)?;
            echo.send_to(&buffer[..length], from)?;
        }
    });
    let listener = TcpListener::bind((ANYWHERE, 5432))?;
    say("database system is ready to accept connections\n")?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve_rows(stream));
    }
    Ok(())
}

fn serve_rows(mut stream: TcpStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    // A thread that died while it held the rows left them whole.
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(row) = line.trim().strip_prefix("SET ") {
        rows.push(row.to_owned());
    }
    stream.write_all((rows.join("\n") + "\n").as_bytes())
}

fn query(host: &str, line: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&resolve(host, "5432")?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{line}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The page of the manual's web application, on 5000.
fn web() -> io::Result<()> {
    let listener = TcpListener::bind((ANYWHERE, 5000))?;
    say("listening on port 5000\n")?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve_page(stream));
    }
    Ok(())
}

fn serve_page(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    say(&format!(
        "{} {}\n",
        stream.peer_addr()?.ip().to_canonical(),
        line.trim()
    ))?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut body = "Hello world!\n".to_owned();
    for (variable, address) in env::vars() {
        let Some(alias) = variable.strip_suffix("_PORT_5432_TCP_ADDR") else {
            continue;
        };
        for (way, host) in [(variable.as_str(), address), ("name", alias.to_lowercase())] {
            match query(&host, "ALL") {
                Ok(rows) => rows
                    .lines()
                    .for_each(|row| body.push_str(&format!("{way} {host}: visit {row}\n"))),
                Err(error) => body.push_str(&format!("{way} {host}: {error}\n")),
            }
        }
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
