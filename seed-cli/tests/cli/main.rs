//! The program from outside: what it prints, what it writes, how it ends.

mod decode;
mod encode;
mod faults;
mod model;
mod train;
mod world;
