# `make demo`: pretrain on synthetic speech, fine-tune, error rates. `make test`: tests.
# `make lint`: format, common faults, types.
# Both set up what is missing first: .venv (Python packages) and tools/ (ESPnet tree).
.PHONY: setup demo lint test
setup:
	local/setup.sh
demo: setup
	egs2/mini_synth/demo.sh
lint: setup
	.venv/bin/ruff check espnet2_birq tests bench
	.venv/bin/ruff format --check espnet2_birq tests bench
	.venv/bin/mypy
test: setup  # as many files at once as there are cores, up to 4 (2 GB each)
	.venv/bin/python -m pytest -q -n $$(n=$$(local/cores); echo $$((n < 4 ? n : 4))) \
	    --dist loadfile tests
