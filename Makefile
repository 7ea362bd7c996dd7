# `make demo`: pretrain on synthetic speech, fine-tune, error rates. `make test`: tests.
# Both set up what is missing first: .venv (Python packages) and tools/ (ESPnet tree).
.PHONY: setup demo test
setup:
	local/setup.sh
demo: setup
	egs2/mini_synth/demo.sh
test: setup
	.venv/bin/python -m pytest -q tests
