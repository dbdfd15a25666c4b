# The commands of this project; CMake does the work underneath. `make help` lists them.
BUILD ?= build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PREFIX ?= /usr/local
BUILD_TYPE ?= Release
# Further arguments for CMake, e.g. CMAKE_ARGS=-DRESBM_PORTABLE=ON
CMAKE_ARGS ?=
# A text file for `make demo`; empty: the dictionary text of Debian's dict-gcide.
TEXT ?=
# Names of examples/study for `make study`; empty: all.
STUDY ?=
FUZZ_SECONDS ?= 60
# Compute capabilities of `make cuda`; `make test` compiles every kernel for the two that their sources tell apart.
CUDA_ARCHITECTURES ?= 75,80,86,89,90,120
# What a card of this machine needs goes along, so that the tests run on it.
TEST_ARGS ?= -DRESBM_CUDA_ARCHITECTURES=$(shell { echo 75; echo 80; \
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | grep -x '[0-9]*'; } | sort -nu | paste -sd,)
GENERATOR := $(if $(shell command -v ninja 2>/dev/null),Ninja,Unix Makefiles)

.PHONY: all configure demo study test test-internet soak bench bench-offload bench-middle bench-schedules bench-mpi plans install sanitize format clean help
.DEFAULT_GOAL := all

all: ## build build/resbm and the library
	@scripts/install-deps.sh --check build
	@$(MAKE) --no-print-directory configure
	cmake --build $(BUILD) -j $(JOBS) --target resbm resbm_shared

# An existing folder keeps the generator it was made with.
configure:
	@if [ -f $(BUILD)/CMakeCache.txt ]; then set --; else set -- -G "$(GENERATOR)"; fi; \
	    cmake -S . -B $(BUILD) "$$@" -DCMAKE_BUILD_TYPE=$(BUILD_TYPE) -DCMAKE_INSTALL_PREFIX=$(PREFIX) \
	    -DRESBM_TESTS=ON $(CMAKE_ARGS)

.PHONY: cuda cuda-test
# The toolkit that has nvcc may come without cuBLAS; then the Python wheel's is taken. CUDNN=1 fetches cuDNN's too (0.5 GB);
# one that is there already is built in without.
cuda: ## build the program and its CUDA device, build/resbm-cuda.so (needs nvcc; CUDNN=1 fetches cuDNN; docs/cuda.md)
	@scripts/install-deps.sh --check build
	@[ -f "$${CUDA_HOME:-/usr/local/cuda}/include/cublasLt.h" ] || scripts/venv.sh cuda
	@[ -z "$(CUDNN)" ] || scripts/venv.sh cudnn
	@$(MAKE) --no-print-directory configure CMAKE_ARGS="-DRESBM_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES) $(CMAKE_ARGS) -DRESBM_CUDA=ON"
	cmake --build $(BUILD) -j $(JOBS) --target resbm resbm_shared cuda

cuda-test: cuda ## run the conformance suite on this machine's GPU, and nowhere else (docs/cuda.md)
	cmake --build $(BUILD) -j $(JOBS) --target conformance_test
	RESBM_TEST_DEVICES=ref,cuda RESBM_TEST_NEED=cuda $(BUILD)/conformance_test

demo: ## install what is missing, build, train over slow links and alone, compare (TEXT=file for your own text)
	@scripts/install-deps.sh build demo
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) scripts/demo.sh $(TEXT)

study: ## train everything that docs/quality.md states (many hours; STUDY=NAME for one part, STUDY_BUDGET=2h to stop)
	@scripts/install-deps.sh build study
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) scripts/study.sh $(STUDY)

test: ## install what testing needs, build everything, run every test
	@scripts/install-deps.sh build demo test
	@scripts/venv.sh && scripts/venv.sh python
	@! command -v nvcc >/dev/null || [ -f "$${CUDA_HOME:-/usr/local/cuda}/include/cublasLt.h" ] || scripts/venv.sh cuda
	@$(MAKE) --no-print-directory configure CMAKE_ARGS="$(TEST_ARGS) $(CMAKE_ARGS)"
	cmake --build $(BUILD) -j $(JOBS) --target all cuda
	@BUILD=$(BUILD) scripts/run-tests.sh

# Two hours as root; tests/internet/internet.py explains seed, seconds and together.
SEED ?= 1
SECONDS ?= $(if $(filter soak,$(MAKECMDGOALS)),1800,7200)
TOGETHER ?= 3
test-internet: configure ## faults of every kind on a run across network namespaces, SECONDS long (docs/internet-measured.md)
	@scripts/install-deps.sh build test
	cmake --build $(BUILD) -j $(JOBS)
	python3 tests/internet/internet.py --resbm $(BUILD)/resbm --out $(BUILD)/internet --seed $(SEED) --seconds $(SECONDS) \
	    --together $(TOGETHER) --attack 1000 --report $(BUILD)/internet.md

soak: configure ## half an hour of churn on such a run, in which nothing may grow (SECONDS=1800)
	@scripts/install-deps.sh build test
	cmake --build $(BUILD) -j $(JOBS)
	python3 tests/internet/internet.py --resbm $(BUILD)/resbm --out $(BUILD)/soak --seed $(SEED) --seconds $(SECONDS) --soak \
	    --report $(BUILD)/soak.md

bench: ## measure kernels, codecs, links and training against PyTorch, print the table of docs/benchmarks.md
	@scripts/install-deps.sh build demo test
	@scripts/venv.sh torch
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) scripts/bench.sh

bench-offload: all ## measure memory and time of a step with optimizer states and gradients on disk (docs/offload.md)
	python3 bench/offload.py $(BUILD)/resbm

# Two blocks of Llama-3-8B's width as a middle stage: about 8 GB of memory, minutes a step on two cores.
bench-middle: configure ## train two blocks of Llama-3-8B's width between two scripted neighbours (docs/offload.md)
	cmake --build $(BUILD) -j $(JOBS) --target resbm middle_stage
	$(BUILD)/middle_stage $(BUILD)/resbm 10 model.d=4096 model.heads=32 model.kv_heads=8 model.ffn=14336 \
	    model.context=1024 boundary.ratio=128 optim.kind=adamw optim.lr=0.00003 optim.warmup=0 train.batch=1 \
	    train.microbatches=1 train.recompute=true link.up=80mbit link.down=80mbit link.latency=20ms \
	    pipeline.startup_deadline=600s pipeline.deadline=3000s

bench-schedules: all ## throughput of every schedule, predicted beside measured, at three link rates (docs/schedules.md)
	python3 bench/schedules.py $(BUILD)/resbm

bench-mpi: all ## seconds a step under engine mpi beside local TCP (docs/cluster.md)
	python3 bench/mpi.py $(BUILD)/resbm

plans: all ## write the tables of docs/plans.md again
	$(CURDIR)/scripts/plans.sh

install: all ## install program, library, header, pkg-config file and man page (PREFIX, DESTDIR)
	DESTDIR=$(DESTDIR) cmake --install $(BUILD) --prefix $(PREFIX)

sanitize: ## the suite under address, undefined and thread sanitizers, every fuzzer FUZZ_SECONDS long
	@scripts/install-deps.sh build demo test sanitize
	@scripts/venv.sh
	@FUZZ_SECONDS=$(FUZZ_SECONDS) JOBS=$(JOBS) scripts/sanitize.sh

format: ## rewrite the sources by .clang-format
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cc' '*.cu')

clean: ## remove the build folder
	rm -rf $(BUILD)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{printf "make %-13s %s\n", $$1, $$2}'
