# `make check` is the gate, and what CI runs. Every target does its own set-up: Rust and a C compiler are enough.

.PHONY: check fmt fmt-check clippy clippy-gpu doc test test-peers test-python test-engines test-llm wheel stubs test-wgpu test-arm demo bench

check: fmt-check clippy doc test

fmt:
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

# The code behind the features for GPUs; neither drivers nor toolkits are needed.
clippy-gpu:
	cargo clippy -p seed-core -p seed-cli --features seed-cli/cuda,seed-cli/wgpu --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Unit tests, golden parity, the command line, the import law and the examples in the documentation; golden parity once
# more without the CPU's own kernels.
test:
	cargo test --workspace
	SEED_KERNELS=plain cargo test --workspace --lib

# Datasets, written and read by the Python libraries that people use for them, in a virtual environment of its own.
test-peers: target/peers/ready
	cargo build --release
	SEED=target/release/seed target/peers/bin/python -B -m pytest -q -p no:cacheprovider tests/peers

target/peers/ready: tests/peers/requirements.txt
	python3 -m venv target/peers
	target/peers/bin/pip install -q --disable-pip-version-check -r tests/peers/requirements.txt
	touch target/peers/ready

# The Python package: its wheel, installed into a virtual environment of its own, and its tests there.
test-python: wheel
	target/python/bin/pip install -q --disable-pip-version-check --force-reinstall --no-deps target/python/wheels/*.whl
	cd seed-py && ../target/python/bin/python -B -m pytest

wheel: target/python/ready
	rm -rf target/python/wheels
	target/python/bin/maturin build --release --quiet --manifest-path seed-py/Cargo.toml --out target/python/wheels

# The same wheel beside Ray, datasets, Spark and Daft, in a virtual environment of their own. Spark needs Java, 17 or later.
test-engines: wheel target/engines/ready
	target/engines/bin/pip install -q --disable-pip-version-check --force-reinstall --no-deps target/python/wheels/*.whl
	cd seed-py && ../target/engines/bin/python -B -m pytest tests/engines

target/engines/ready: seed-py/tests/engines/requirements.txt
	python3 -m venv --clear target/engines
	target/engines/bin/pip install -q --disable-pip-version-check -r seed-py/tests/engines/requirements.txt
	touch target/engines/ready

# The example that teaches a language model of transformers to see and to draw, with a LLaMA of random weights; PyTorch for the
# CPU, transformers and peft in a virtual environment of their own. Not part of CI.
test-llm: target/llm/ready
	target/llm/bin/python -B -m pytest -q -p no:cacheprovider examples

target/llm/ready: examples/requirements-llm.txt
	python3 -m venv --clear target/llm
	target/llm/bin/pip install -q --disable-pip-version-check -r examples/requirements-llm.txt
	touch target/llm/ready

# The package's type stub, of the wheel that test-python installed. (A new one is part of the wheel: test again.)
stubs:
	target/python/bin/python -B seed-py/stubs.py

target/python/ready: seed-py/tests/requirements.txt
	python3 -m venv --clear target/python
	target/python/bin/pip install -q --disable-pip-version-check -r seed-py/tests/requirements.txt
	touch target/python/ready

# Golden parity and the command line on wgpu. A Vulkan driver is needed; one that computes in software will do.
test-wgpu:
	cargo test -p seed-core -p seed-cli --features seed-cli/wgpu --lib --test cli -- wgpu:: device::

# The kernels and golden parity for 64-bit Arm, emulated: with the instructions for bfloat16 and 8 bits, and on a processor without them.
# Needs `rustup target add aarch64-unknown-linux-gnu` and, on Debian, qemu-user and g++-aarch64-linux-gnu. Not part of CI.
ARM = aarch64-unknown-linux-gnu
ARM_TEST = CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
	CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++ cargo test --target $(ARM) -p seed-core --no-default-features --lib
test-arm:
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max" $(ARM_TEST) -- nn:: flex::
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu cortex-a72" $(ARM_TEST) -- nn::

# The README's first command: the example images to tokens and back.
demo:
	cargo run --release -- reconstruct examples/*.png --out out

# Speed on this machine, as tables; see benches/README.md.
bench:
	@cargo run --release -p seed-benches
