//! The real program under what happens to real programs.

mod clock;
mod faults;
mod flood;
mod healing;
mod kill;
mod mount;
mod process;
mod reading;
mod say;
