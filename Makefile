# Two commands for a person in a hurry:
#   make demo   watch pi0 drive a simulated robot (tiny random stand-in, CPU)
#   make test   everything that CI runs
# Both bring uv in from the package index where it is missing, and uv brings in the rest.

UV := $(or $(shell command -v uv),.uv/bin/uv)
RUN := $(UV) run --locked

.PHONY: demo test lint
demo: | $(UV)
	$(RUN) lerobot-pi0-ttnn demo

# Two processes, of which each has a board of its own and runs whole files.
test: lint
	$(RUN) pytest -n 2 --dist loadfile

lint: | $(UV)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

.uv/bin/uv:
	python3 -m venv .uv || { echo "python3 has no venv module: install it (Debian: apt-get install python3-venv) or uv"; exit 1; }
	.uv/bin/python -m pip install --quiet uv
