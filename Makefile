# The two commands of the README, and what people run by hand.

.PHONY: demo test lint doc ci

# A mesh falls ill, is healed, and proves it.
demo:
	cargo run --locked --no-default-features -- demo

# All tests, with and without the vendors.
test:
	cargo test --locked --no-default-features
	cargo test --locked

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

doc:
	cargo doc --locked --no-deps --open

ci:
	.ci/run
