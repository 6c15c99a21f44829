//! Rows of Plan.
