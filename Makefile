# The verbs a user types. Everything else is `builder --help`.

.DEFAULT_GOAL := help
.PHONY: help setup build media demo test bench soak fuzz lint man transcripts bake up down clean

VERSION ?= alma9-k3-node-amd64-v1.28.5-v1
CLUSTER ?= examples/demo.toml
COUNT ?= 20
ROUNDS ?= 20
SECONDS ?= 300
BUILDER := target/release/builder

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup:  ## install what is missing on a Debian 12 machine (root or sudo)
	./tests/setup

build:  ## build builder and coordinator, and the agent for the image
	cargo build --release --locked -p kiln-builder -p kiln-coordinator
	cargo build --profile node --locked -p kiln-agent
# Where builder looks for it, unless --agent names another.
	install -m 755 target/node/agent target/release/agent

media: setup  ## make the stand-in install media and the stand-in k3s
	./tests/media/build
	cargo build --release --locked -p kiln-tests --bin standin-k3s

demo: setup build media  ## bake an image, bring two nodes up, reboot one, take them down
	./tests/demo/run

test: setup  ## everything: lints, unit tests, tests with real VMs
	./tests/run

bake: build  ## bake VERSION from ISO= and K3S= (paths)
	$(BUILDER) bake --version $(VERSION) --iso $(ISO) --k3s $(K3S)

up: build  ## bring CLUSTER up
	$(BUILDER) up $(CLUSTER)

down: build  ## take CLUSTER down
	$(BUILDER) down $(CLUSTER)

bench: setup  ## how fast, how small; the result goes to docs/benchmarks.md
	./tests/bench/run

soak: setup  ## bakes with faults injected, COUNT of them (docs/soak.md); crashes in a history of ROUNDS
	./tests/soak/run --count $(COUNT)
	KILN_CRASH_ROUNDS=$(ROUNDS) cargo test --locked -p kiln-coordinator --test crash -- --nocapture

fuzz: setup  ## every decoder under libFuzzer, SECONDS each (docs/fuzz.md)
	for target in fuzz/corpus/*; do fuzz/run $${target##*/} -max_total_time=$(SECONDS) || exit 1; done

transcripts: setup  ## docs/transcripts.md, from what the coordinator says
	KILN_WRITE_TRANSCRIPTS=1 cargo test -p kiln-coordinator --locked --test cli transcripts

man: build  ## man pages of builder and coordinator, into target/man
	$(BUILDER) man target/man
	target/release/coordinator man target/man

lint:  ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

clean:  ## remove what was built; the caches too
	rm -rf target .cache
