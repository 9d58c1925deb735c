//! Fetching from a hub that misbehaves, on this machine.

mod client;
mod fake_hub;
mod layout;
mod refusals;
mod resume;
mod server;
