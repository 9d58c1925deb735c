# `make check` is the gate, and what CI runs. Every target does its own set-up: Rust and a C compiler are enough.

.PHONY: check fmt fmt-check clippy doc test demo bench

check: fmt-check clippy doc test

fmt:
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Unit tests, golden parity, the command line, the import law and the examples in the documentation.
test:
	cargo test --workspace

# The README's first command: the example images to tokens and back.
demo:
	cargo run --release -- reconstruct examples/*.png --out out

# Speed on this machine, as tables; see benches/README.md.
bench:
	@cargo run --release -p seed-benches
