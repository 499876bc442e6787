# The shortest ways to the usual things; CMake with the presets of CMakePresets.json does the work.
# `make JOBS=1 …` compiles with one job (a compiler takes up to 1 GB).

JOBS ?= $(shell nproc)
MODEL ?=
FUZZ_SECONDS ?= 60

.PHONY: help setup setup-lint build chat serve test train-tiny page lint format asan tsan fuzz bench clean

help:
	@echo 'make chat     build Fathom and talk with a model (MODEL=DIR for a checkpoint of yours)'
	@echo 'make serve    the same model over HTTP: the OpenAI API, and a chat page at http://127.0.0.1:8080'
	@echo 'make test     build everything and run the tests'
	@echo 'make build    build/fathom, nothing else'
	@echo 'make setup    install the Debian packages that are missing (the targets above do it themselves)'
	@echo 'make train-tiny   train the bundled model again, from nothing: an hour or two; goes on where it was stopped'
	@echo 'make page     build the chat page, web/dist, from its sources (needs node)'
	@echo 'make lint     clang-format and clang-tidy;  make format  reformats'
	@echo 'make asan     the tests with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tsan     the tests with ThreadSanitizer'
	@echo 'make fuzz     every fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS) seconds'
	@echo 'make bench    the micro benchmarks'
	@echo 'make clean    remove the build directories'

setup:
	@scripts/setup-debian.sh build

setup-lint:
	@scripts/setup-debian.sh build lint

# Configured for the program and the tests at once, so that `make build` and `make test` share one directory.
build: setup
	@scripts/build.sh release fathom $(JOBS)

chat: build
	@scripts/chat.sh $(MODEL)

serve: build
	@build/fathom serve --model $(or $(MODEL),models/fathom-tiny --temperature 0.3)

test: setup
	@scripts/build.sh release all $(JOBS)
	@ctest --preset release -j2

page:
	@scripts/setup-debian.sh web
	@scripts/build-page.sh

train-tiny: build
	@scripts/train-fathom-tiny.sh --install

lint: setup-lint
	@scripts/lint.sh

format: setup-lint
	@scripts/lint.sh --fix

asan tsan: setup
	@scripts/build.sh $@ all $(JOBS)
	@ctest --preset $@ -j2

fuzz: setup-lint
	@scripts/build.sh fuzz all $(JOBS)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

bench: setup
	@scripts/build.sh release all $(JOBS)
	build/fathom_bench

clean:
	rm -rf build build-debug build-asan build-tsan build-fuzz
