# `make demo`: pretrain on synthetic speech, fine-tune, error rates.
# `make test`: tests, but those that take minutes each; `make test-all`: these, too.
# `make lint`: format, common faults, types, shell scripts.
# All set up what is missing first: .venv (Python packages) and tools/ (ESPnet tree).
.PHONY: setup demo lint test test-all
# As many files at once as there are cores, up to 4 (2 GB each), the longest first.
PYTEST = .venv/bin/python -m pytest -q --dist loadfile --no-loadscope-reorder \
    -n $$(n=$$(local/cores); echo $$((n < 4 ? n : 4)))
setup:
	local/setup.sh
demo: setup
	egs2/mini_synth/demo.sh
lint: setup
	.venv/bin/ruff check espnet2_birq tests bench
	.venv/bin/ruff format --check espnet2_birq tests bench
	.venv/bin/mypy
	.venv/bin/shellcheck .ci/run local/cores \
	    $$(find bench egs2 local -type f -name "*.sh" ! -path "*/exp/*")
test: setup
	$(PYTEST) -m "not slow" tests
test-all: setup
	$(PYTEST) tests
