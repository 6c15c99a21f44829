//! Plan and Knowledge as one stage over `plan-inbox`.
