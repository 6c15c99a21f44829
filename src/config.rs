//! `homeostat.toml`.
