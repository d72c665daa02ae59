//! The contracts between the processes, and nothing else that they share.
//!
//! `generated` is written by `cargo xtask codegen` from `proto/linkspan`. The other
//! modules convert wire values to and from std types and error reasons; there is no
//! domain logic here.

#![forbid(unsafe_code)]

pub mod net;
pub mod reason;
pub mod time;

/// The compiled descriptors of every contract, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

macro_rules! contract {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub mod $name {
            #![allow(clippy::all, missing_debug_implementations, unreachable_pub, unused_qualifications,
                clippy::too_many_lines, clippy::allow_attributes, clippy::needless_pass_by_value,
                clippy::semicolon_if_nothing_returned, clippy::allow_attributes_without_reason,
                rustdoc::all)]
            /// Version 1 of the contract.
            pub mod v1 {
                include!(concat!("generated/", $file));
            }
        }
    };
}

/// Everything named `linkspan.*`.
pub mod linkspan {
    contract! {
        /// netd's contract.
        net, "linkspan.net.v1.rs"
    }
    contract! {
        /// runtimed's contract.
        runtime, "linkspan.runtime.v1.rs"
    }
    contract! {
        /// The shim's contract.
        shim, "linkspan.shim.v1.rs"
    }
}

pub use linkspan::net::v1 as net_v1;
pub use linkspan::runtime::v1 as runtime_v1;
pub use linkspan::shim::v1 as shim_v1;
