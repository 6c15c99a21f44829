//! Monitor and Analyze as one stage over `metrics`.
