# The commands of the README, and what people run by hand.

.PHONY: run demo test lint doc ci

# A loop over this machine's real metrics; what the build needs is installed where there is apt. The
# profile is that of the tests: RocksDB is compiled once for both.
run:
	.ci/need
	cargo run --locked -- run

# A mesh falls ill, is healed, and proves it: no installing, no RocksDB.
demo:
	cargo run --locked --no-default-features -- demo

# All tests, with and without the vendors.
test:
	.ci/need
	cargo test --locked --no-default-features
	cargo test --locked

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

doc:
	cargo doc --locked --no-deps --open

ci:
	.ci/run
