# `make demo`: pretrain on synthetic speech, fine-tune, error rates.
# `make test`: all tests but the slow ones (minutes each); `make test-all`: all tests.
# `make lint`: check formatting, common faults, types and shell scripts.
# `make docs`: build the documentation as a site in site/; broken links are errors.
# All of them first set up what is missing: .venv (Python packages) and tools/ (ESPnet tree).
.PHONY: setup demo docs lint test test-all
# Run test files in parallel on all cores, at most 4 (2 GB each), the longest first.
PYTEST = .venv/bin/python -m pytest -q --dist loadfile --no-loadscope-reorder \
    -n $$(n=$$(local/cores); echo $$((n < 4 ? n : 4)))
setup:
	local/setup.sh
demo: setup
	egs2/mini_synth/demo.sh
docs: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
lint: setup
	.venv/bin/ruff check espnet2_birq tests bench
	.venv/bin/ruff format --check espnet2_birq tests bench
	.venv/bin/mypy
	.venv/bin/shellcheck .ci/run local/cores \
	    $$(find bench egs2 local -type f -name "*.sh" ! -path "*/exp/*" ! -path "*/dump/*")
test: setup
	$(PYTEST) -m "not slow" tests
test-all: setup
	$(PYTEST) tests
