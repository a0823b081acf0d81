# Set up, test and show the project; needs Python 3.11 or later and nothing else.
PYTHON ?= python3
PIP = bin/pip --disable-pip-version-check --quiet install
BIN = .venv/bin
OLD = .venv-transformers4

.PHONY: demo test lint types tests test-transformers4 clean

demo: .venv/installed
	@mkdir -p demo/out
	$(BIN)/sslfeat extract demo/emodb --corpus emodb -o demo/out/emodb.h5
	$(BIN)/sslfeat fit demo/out/emodb.h5 -o demo/out/results --pooling mean+std --report-optimism --overwrite
	$(BIN)/sslfeat predict demo/out/results/bundle demo/emodb/11a01Aa.flac demo/emodb/16a01Fc.flac
	@echo "The report: demo/out/results/report.html"

test: lint types tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(BIN)/pytest -q -n auto -m "not slow"

# What talks to transformers, on the oldest version supported.
test-transformers4: $(OLD)/installed
	$(OLD)/bin/pytest -q -n auto tests/sslfeat/test_forward.py tests/sslfeat/test_encoder.py tests/sslfeat/test_extract.py

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python 3.11 or later is needed, this is %s; name another as in: make PYTHON=python3.12 demo' % sys.version.split()[0])"
	$(PYTHON) -m venv .venv
	.venv/$(PIP) -c constraints.txt -e ".[dev,audformat,datasets]"
	@touch $@

$(OLD)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLD)
	grep -vE "^(transformers|huggingface_hub|tokenizers)==" constraints.txt > $(OLD)/constraints.txt
	$(OLD)/$(PIP) -c $(OLD)/constraints.txt -e ".[dev]" "transformers==4.57.*"
	@touch $@

clean:
	rm -rf .venv $(OLD) demo/out
