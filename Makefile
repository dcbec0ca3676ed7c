# What a session of work needs.  Everything is set up in build/, from nothing, and again only
# when what it is made from has changed.  make PYTHON=python3.13 takes another interpreter;
# BATCHING_EXTENSION and BATCHING_SANITIZE (setup.py) are passed on from the environment.

PYTHON ?= python3
VENV   ?= build/venv-$(notdir $(PYTHON))
ARGS   ?=
# Of soak.
MINUTES ?= 1
SEED    ?=
# Of test-kernels; 7 is there too.
KERNELS  ?= 5.10 6.1 6.12
BACKENDS ?= native portable

RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip --quiet --disable-pip-version-check install
TOOLS  := $(VENV)/.tools
# The name tells how it was built, so that another wish builds anew.
BUILT  := $(VENV)/.built-$(BATCHING_EXTENSION)-$(BATCHING_SANITIZE)
# The core as this interpreter built it: that of another has another suffix.
SUFFIX  = $$($(RUN) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
# What test-sanitized builds in a folder of its own, so that it disturbs no other build.
COPIED := .ci LICENSE MANIFEST.in Makefile README.md CHANGELOG.md CONTRIBUTING.md pyproject.toml setup.py \
          benchmarks docs examples scripts src tests
HAS_CORE = $(RUN) -c 'import batching._mmsg' 2> /dev/null
# Both at one time, since much of it waits; what the portable one says comes after the native one.
OVER_EACH = if ! $(HAS_CORE); then \
	if test "$(BATCHING_EXTENSION)" = yes; then $(RUN) -c "import batching._mmsg"; exit 1; fi; \
	echo "The native core was not built: only the portable back end is tested."; \
	BATCHING_BACKEND=portable exec $(RUN) -m pytest $(1); fi; \
	log=$(VENV)/portable.log; status=0; \
	BATCHING_BACKEND=portable $(RUN) -m pytest $(1) > $$log 2>&1 & portable=$$!; \
	trap "kill $$portable 2> /dev/null" EXIT; \
	BATCHING_BACKEND=native $(RUN) -m pytest $(1) || status=1; \
	wait $$portable || status=1; cat $$log; exit $$status

.PHONY: help setup bench bench-check compare test test-faults test-kernels test-ecosystem test-sanitized fuzz soak lint dist clean
.DELETE_ON_ERROR:

help: ## print this
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

setup: $(BUILT) ## set up only: tools, dependencies and the core for this interpreter

bench: $(BUILT) ## measure plain sockets, asyncio and batching side by side (ARGS="--duration 0.2")
	@$(VENV)/bin/batching bench $(ARGS)

bench-check: $(BUILT) ## count instructions of the hot paths, compare with recorded ones (ARGS=--record)
	@$(RUN) benchmarks/instructions.py $(ARGS)

compare: $(BUILT) $(VENV)/.compare ## measure all peers side by side, 20 min, for docs/benchmarks.md (ARGS="--quick")
	@$(RUN) benchmarks/compare.py $(if $(findstring --only,$(ARGS)),,--report) $(ARGS)

test: $(BUILT) ## run all tests but the slow ones over each back end (ARGS="-k geneve")
	@$(call OVER_EACH,$(ARGS))

test-faults: $(BUILT) ## run the slow tests, most of faults, over each back end (ARGS="-k wire")
	@$(call OVER_EACH,-m slow $(ARGS))

test-kernels: $(BUILT) ## run the tests of what the kernel answers in others (KERNELS="5.10 6.1" BACKENDS=native)
	@$(RUN) scripts/kernels/main.py test --kernels "$(KERNELS)" --backends "$(BACKENDS)" -- $(ARGS)

test-ecosystem: $(BUILT) ## run other packages' tests on our loop, HTTP/3, DNS; 35 min (ARGS="--quick aioice http3")
	@$(RUN) scripts/ecosystem/ecosystem.py $(ARGS)

test-sanitized: $(BUILT) ## run all tests, slow ones too, over the native core under ASan and UBSan (ARGS="-k twins")
	@mkdir -p build/sanitized
	@rm -rf build/sanitized/tests
	@tar -c --exclude='*.so' --exclude=__pycache__ $(COPIED) | tar -x -C build/sanitized
	@cd build/sanitized && BATCHING_SANITIZE=1 BATCHING_EXTENSION=yes $(abspath $(RUN)) setup.py \
	build_ext --inplace > build.log 2>&1 || { cat build.log; exit 1; }
	@cd build/sanitized && BATCHING_BACKEND=native PYTHONPATH=src PYTHONMALLOC=malloc \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(abspath $(RUN)) \
	-m pytest -m "" --timeout 600 -o faulthandler_timeout=900 $(ARGS)

fuzz: $(BUILT) ## fuzz what reads control messages, 10 million times (ARGS="-max_total_time=600")
	@PYTHONPATH=tests $(RUN) tests/fuzz/fuzz_control.py build/fuzz -runs=10000000 $(ARGS)

soak: $(BUILT) ## random traffic with faults, acknowledged; from a SEED; see docs/soak.md (MINUTES=20)
	@PYTHONPATH=tests:tests/faults $(RUN) -m soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(BUILT) ## check style, format, types and the native core's stub
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@if $(HAS_CORE); then $(RUN) -m mypy.stubtest --mypy-config-file pyproject.toml \
	--allowlist scripts/stubtest.allow --ignore-unused-allowlist batching._mmsg; \
	else echo "The native core was not built: its stub is not checked."; fi

dist: $(BUILT) ## build the sdist and, from it, the wheel; check both
	@rm -rf dist
	@$(RUN) -m build --no-isolation --outdir dist . > build/dist.log 2>&1 || { cat build/dist.log; exit 1; }
	@$(RUN) scripts/check_dist.py dist

clean: ## remove all that these targets made
	rm -rf build dist src/*.egg-info src/batching/_mmsg/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +

$(TOOLS): pyproject.toml scripts/preflight.py
	@$(PYTHON) scripts/preflight.py
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the tools into $(VENV)"
	@$(PIP) --upgrade "pip>=25.1"
	@$(PIP) --upgrade --group dev
	@touch $@

$(VENV)/.compare: $(BUILT)
	@$(PIP) --group compare
	@touch $@

$(BUILT): $(TOOLS) pyproject.toml setup.py $(wildcard src/batching/_mmsg/*.pyx src/batching/_mmsg/*.pxd)
	@rm -f $(VENV)/.built-* src/batching/_mmsg/*$(SUFFIX)
	@echo "Installing the package into $(VENV), from this tree"
	@$(PIP) --no-build-isolation --editable ".[all]"
	@touch $@
