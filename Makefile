# The front door: Meson and Ninja do the work, scripts/ holds what takes more than a line.
# make demo KERNEL=linux-image-amd64 boots another kernel package.

BUILD ?= build
KERNEL ?= linux-image-cloud-amd64
PREFIX ?= /usr/local

.PHONY: all help deps demo test check-style bench compare clean install

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) doppel

$(BUILD)/build.ninja:
	@command -v meson >/dev/null && command -v ninja >/dev/null || \
	    { echo "make: meson and ninja are missing; run make deps" >&2; exit 1; }
	@meson setup --prefix=$(PREFIX) $(BUILD) || \
	    { echo "make: the build could not be set up; run make deps" >&2; exit 1; }

help:
	@echo "make            builds $(BUILD)/doppel (the tests are built by make test)"
	@echo "make deps       installs the build dependencies (apt)"
	@echo "make demo       boots a stock Debian kernel to a shell; KERNEL=PACKAGE picks another"
	@echo "make test       installs what the tests need, builds, runs them all"
	@echo "make compare    Doppel, QEMU and the bare host on the same programs, for docs/performance.md"
	@echo "make check-style, bench, install, clean"

deps:
	@scripts/deps build

demo:
	@scripts/deps build demo
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) scripts/demo $(KERNEL)

test:
	@scripts/deps build test demo
	@scripts/test

check-style:
	@scripts/check-layers
	@scripts/check-style

bench:
	@scripts/deps build demo bench
	@$(MAKE) --no-print-directory all
	@$(BUILD)/bench/bench_native_stub
	@bench/run --build $(BUILD) --json $(BUILD)/performance.json

compare:
	@scripts/deps build demo bench
	@$(MAKE) --no-print-directory all
	@ninja -C $(BUILD) bench/programs/compare_work bench/programs/compare_driver
	@bench/compare --build $(BUILD) --json $(BUILD)/compare.json --write-docs

install: all
	@meson install -C $(BUILD)

clean:
	@rm -rf $(BUILD) build-sanitize
