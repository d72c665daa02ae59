//! netd against the real kernel, with real packets. Each test has namespaces of its own.

mod adoption;
mod lan;
mod links;
mod ports;
mod world;
