//! The real program under what happens to real programs.

mod faults;
mod healing;
mod kill;
mod process;
mod reading;
