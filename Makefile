# SPDX-License-Identifier: GPL-2.0
# nbdroot - boot diskless Linux from a network block device. "make help".

MAKEFLAGS += --no-print-directory
PYTHON ?= /usr/bin/python3
export PATH := $(PATH):/usr/sbin:/sbin

# The kernels that the boot tests use, as tools/kernel knows them.
TEST_KERNELS ?= 6.1 6.12
TEST_KERNEL ?= 6.1
OTHER_KERNEL ?= 6.12
PYTEST ?= $(PYTHON) -m pytest
PYTEST_ARGS ?=
# How long each fuzzer runs in "make check"; what it learned stays in build/fuzz.
FUZZ_SECONDS ?= 60

# Set KVER, VMLINUZ, MODROOT and KDIR in a recipe's shell.
kernel = vars=$$(tools/kernel $(1)) && eval "$$vars"

# A part's Makefile says what it does; that there is nothing to do, it need not.
quiet := $(if $(filter 1,$(V)),,-s)

# Make targets $(2) in each of the folders $(1), one after the other.
each = for dir in $(1); do $(MAKE) -C $$dir $(2) || exit; done

.PHONY: all kmod kmod-tree client server initramfs root demo demo-deps demo-server-restart check check-deps \
	bench bench-client bench-driver bench-server check-unit check-fuzz check-server check-server-threads check-client check-boot check-kmod check-long check-debug check-build lint sparse \
	test-images install clean distclean help deps
# Asked for by name, so that "make -j2" may build the parts side by side.
all: client server initramfs

deps:
	@tools/deps build

ifdef KDIR
# Somebody's own kernel tree: the driver only; no initramfs can know its modules.
# (Debian's headers answer "make kernelrelease" with another version.)
initramfs: kmod
kmod: deps
	@[ -f $(KDIR)/include/generated/utsrelease.h ] || { echo "make: KDIR=$(KDIR): no kernel tree that modules can be built against (it has no include/generated/utsrelease.h); \"make modules_prepare\" there makes one" >&2; exit 1; }
	@KVER=$$(sed -n 's/^#define UTS_RELEASE "\(.*\)"/\1/p' \
		$(KDIR)/include/generated/utsrelease.h) && \
	$(MAKE) -C kmod KDIR=$(KDIR) KVER=$$KVER
else
kmod: deps
	@$(call kernel,$(KVER)) && $(MAKE) -C kmod KVER=$$KVER KDIR=$$KDIR

initramfs: kmod client
	@$(call kernel,$(KVER)) && \
	$(MAKE) $(quiet) -C initramfs KVER=$$KVER MODROOT=$$MODROOT
endif

# The driver as a folder of a kernel's own tree.
kmod-tree:
	@$(MAKE) -C kmod tree DEST=$(if $(DEST),$(abspath $(DEST)))

client: deps
	@$(MAKE) $(quiet) -C nbd-client-static

server: deps
	@$(MAKE) $(quiet) -C server

root: deps
	@$(MAKE) $(quiet) -C initramfs root

# --- the demo -----------------------------------------------------------
# make demo [KVER=6.1] [ROOT=debian]

ROOT ?= busybox

demo-deps:
	@$(if $(filter-out busybox debian,$(ROOT)),$(error ROOT=$(ROOT): write ROOT=busybox or ROOT=debian)):
	@tools/deps build demo $(filter debian,$(ROOT))

demo: demo-deps
	@$(MAKE) all
	@$(if $(filter debian,$(ROOT)),tools/mkdebian,$(MAKE) root)
	@$(PYTHON) tools/demo.py --root $(ROOT) $(if $(KVER),--kver $(KVER))

demo-server-restart:
	@$(PYTHON) tools/demo.py --restart-server

# --- the tests ----------------------------------------------------------

check: check-deps
	@$(MAKE) check-unit
	@$(MAKE) check-build test-images root
	@echo "  PYTEST  two suites side by side, and a fuzzer in the time they leave; each prints when it is done"
	@$(MAKE) -j3 -Otarget check-fuzz check-server check-client \
		check-server-threads check-kmod check-boot
	@echo "make check: everything passed"

check-deps:
	@tools/deps build demo debian check

# What the suites share, with warnings as errors; the server with sanitizers.
check-build: check-deps
	@$(MAKE) $(quiet) -C nbd-client-static WERROR=1
	@$(MAKE) $(quiet) -C server WERROR=1
	@$(MAKE) $(quiet) -C server WERROR=1 SAN=1
	@$(MAKE) $(quiet) -C server WERROR=1 SAN=1 ENGINE=threads

check-unit: check-deps lint sparse
	+@$(call each,tests/unit tests/unit/server,check WERROR=1 SAN=1)

# The suites wait most of the time. One by one, after everything else.
check-fuzz: check-deps
	@nice -n 19 $(MAKE) -C tests/fuzz check WERROR=1 ONE_BY_ONE=1 \
		FUZZ_SECONDS=$(FUZZ_SECONDS)

# A suite has temporary files of its own: pytest, as it starts, shuts the folder that
# another one is at work in.
apart = dir=/tmp/nb$$(id -u)-$(@:check-%=%) && mkdir -p $$dir && \
	export PYTEST_DEBUG_TEMPROOT=$$dir &&

check-server: check-build
	@$(apart) $(PYTEST) $(PYTEST_ARGS) tests/server

# The portable engine passes the same tests.
check-server-threads: check-build
	@$(apart) NBD_SERVER=$(CURDIR)/build/san/server-threads/nbd-server \
	$(PYTEST) $(PYTEST_ARGS) tests/server

check-client: check-build
	@$(apart) $(PYTEST) $(PYTEST_ARGS) tests/client

check-boot: check-build test-images root
	@$(apart) KVER=$(TEST_KERNEL) $(PYTEST) $(PYTEST_ARGS) tests/boot

# The driver: all of it under the newer kernel, where pages are lent to TCP and taken
# back (6.5 and later); what differs between kernels under the older one too.
check-kmod: check-build test-images
	@$(apart) KVER=$(OTHER_KERNEL) $(PYTEST) $(PYTEST_ARGS) tests/kmod
	@$(apart) KVER=$(TEST_KERNEL) $(PYTEST) $(PYTEST_ARGS) tests/kmod/test_io.py \
		tests/kmod/test_detach.py tests/kmod/test_connections.py

check-long: check-build test-images root
	@$(MAKE) -C tests/fuzz check -j2 WERROR=1 FUZZ_SECONDS=300
	@for suite in server client boot; do \
		KVER=$(TEST_KERNEL) $(PYTEST) $(PYTEST_ARGS) -m long tests/$$suite || exit; \
	done
	@KVER=$(OTHER_KERNEL) $(PYTEST) $(PYTEST_ARGS) -m long tests/kmod
	@NBD_SERVER=$(CURDIR)/build/san/server-threads/nbd-server \
	$(PYTEST) $(PYTEST_ARGS) -m long tests/server
	@$(MAKE) check-debug

# The whole of the driver's suite on a kernel that watches it (KASAN, lockdep,
# kmemleak, failing allocations). Builds that kernel the first time.
check-debug: check-build test-images
	@NB_DEBUG_KERNEL=1 $(PYTEST) $(PYTEST_ARGS) -m "long or not long" \
		--ignore=tests/kmod/test_build.py tests/kmod

# The driver and the initramfs for every kernel that the tests boot.
test-images: check-build
	@for series in $(TEST_KERNELS); do \
		$(call kernel,$$series) && \
		$(MAKE) -C kmod WERROR=1 KVER=$$KVER KDIR=$$KDIR && \
		$(MAKE) $(quiet) -C initramfs KVER=$$KVER MODROOT=$$MODROOT || exit; \
	done

lint: check-deps
	@tools/lint

sparse: check-deps
	@$(call kernel,$(TEST_KERNEL)) && \
	$(MAKE) -C kmod sparse KVER=$$KVER KDIR=$$KDIR

# --- measurements; they fail only when they cannot measure ---------------

BENCH_KERNEL ?= 6.12
BENCH_ARGS ?=

bench: bench-client bench-driver bench-server

# From the client's exec to a usable device.
bench-client: check-deps
	@$(MAKE) $(quiet) -C server
	@$(MAKE) $(quiet) -C nbd-client-static
	@$(call kernel,$(BENCH_KERNEL)) && \
	$(MAKE) -C kmod KVER=$$KVER KDIR=$$KDIR && \
	$(PYTHON) tests/bench/client/attach.py --kver $$KVER

# Instructions and time per request of nb.ko, in-tree nbd and nvme-tcp.
bench-driver: check-deps
	@$(MAKE) $(quiet) -C server
	@$(call kernel,$(BENCH_KERNEL)) && \
	$(MAKE) -C kmod KVER=$$KVER KDIR=$$KDIR && \
	$(PYTHON) tests/bench/driver/bench.py --kver $$KVER $(BENCH_ARGS)

# Our server beside others, in one run; a floor for them all.
bench-server: check-deps
	@$(PYTHON) tests/bench/server/bench.py $(BENCH_ARGS)

# --- the rest -----------------------------------------------------------

# Each folder's Makefile would take a relative one from where it stands.
override DESTDIR := $(if $(DESTDIR),$(abspath $(DESTDIR)))
FOLDERS := kmod nbd-client-static server initramfs dracut-module pxe

# A file that a package put there would come back at the package's next upgrade.
install:
	@[ -n "$(DESTDIR)" ] || ! command -v dpkg >/dev/null || \
	for package in nbd-server nbd-client; do \
		if dpkg -s $$package >/dev/null 2>&1; then \
			echo "make install: Debian's package $$package is installed and owns a program of the same name; \"apt remove $$package\" first" >&2; exit 1; \
		fi; \
	done
	+@$(call kernel,$(KVER)) && $(call each,$(FOLDERS),install KVER=$$KVER MODROOT=$$MODROOT KDIR=$$KDIR DESTDIR=$(DESTDIR))

# What took long to fetch or to build stays: kernels, the Debian root.
clean:
	+@$(call each,$(FOLDERS) tests/unit tests/unit/server tests/fuzz,clean)
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 \
		$(addprefix ! -name ,kernels debs debian debugkernel builtinkernel linux-6.12 kvm-probe) -exec rm -rf {} +

distclean: clean
	@rm -rf build

help:
	@echo "make                 driver, client, server and initramfs for one kernel"
	@echo "make demo            a station that boots by PXE, its console on your terminal"
	@echo "                     ROOT=debian: a Debian instead of the small BusyBox root"
	@echo "make check           every test: check-unit, -fuzz, -server, -client, -boot, -kmod"
	@echo "make check-long      the slower suites, among them"
	@echo "make check-debug     the driver's suite on a debug kernel of our own"
	@echo "make bench           what a request costs, beside in-tree nbd and nvme-tcp; bench-client: an attach"
	@echo "make install         DESTDIR= prefix="
	@echo "make kmod-tree       DEST=linux/drivers/block/nb: the driver into a kernel tree"
	@echo "make clean           keeps fetched kernels and the Debian root; distclean does not"
	@echo
	@echo "KVER=6.12            the kernel to build for: a series, or a release as uname -r says it"
	@echo "KDIR=/path           a kernel tree to build the driver against"
	@echo "V=1                  show commands;  WERROR=1  warnings are errors"
	@echo "NO_INSTALL=1         only list the packages that are missing"
