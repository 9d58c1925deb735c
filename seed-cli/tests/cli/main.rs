//! The program from outside: what it prints, what it writes, how it ends.

mod convert;
mod dataset;
mod decode;
mod device;
mod encode;
#[allow(dead_code, reason = "shared with the library's tests")]
#[path = "../../../seed-core/tests/hub/fake_hub.rs"]
mod fake_hub;
mod faults;
mod fetch;
mod minigpt;
mod model;
#[allow(dead_code, reason = "shared with the library's tests")]
#[path = "../../../seed-core/tests/hub/server.rs"]
mod server;
mod tokenize;
mod tokenize_faults;
mod train;
#[cfg(feature = "wgpu")]
mod wgpu;
mod world;
