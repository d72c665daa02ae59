//! netd against the real kernel, with real packets. Each test has namespaces of its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "helpers of tests fail by panic, and say what they skip and measure"
)]

mod adoption;
mod answers;
mod attacks;
mod golden;
mod heal;
mod lan;
mod limit;
mod links;
mod live;
mod matrix;
mod metrics;
mod names;
mod networks;
mod ports;
mod scale;
mod siege;
mod world;
