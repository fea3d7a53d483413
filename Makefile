# make demo | demo-text | demo-flow | test | smoke | digits: each makes or reuses .venv from the versions in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
WORKERS ?= $(shell expr $(JOBS) + 1)  # of tests, which wait for disks and other processes at times
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE  # a module is compiled once, not by every process

CHECKSUMS = cd deme/assets && sha256sum *.safetensors */*.safetensors */*/*.safetensors */*/*/*.safetensors paper_figure.json > SHA256SUMS

.PHONY: docs demo demo-text demo-flow digits captioned-digits digits-flow smoke test lint test-slow test-mlflow test-slurm benchmarks pretrain-digits pretrain-captioned-digits pretrain-digits-flow fashion-classifier training-memory clean

demo: .venv/installed
	$(BIN)/deme reproduce experiments/digits/demo.yaml jobs=$(JOBS)
	$(BIN)/deme report experiments/digits/demo.yaml

digits: .venv/installed
	$(BIN)/deme reproduce experiments/digits jobs=$(JOBS)

demo-text: .venv/installed
	$(BIN)/deme reproduce experiments/captioned_digits/demo.yaml jobs=$(JOBS)
	$(BIN)/deme sample "run={before: asset:captioned_digits, merged: $$(ls -dt runs/captioned_digits_demo/merge/deme_consistency-* | head -1)}" \
		prompts=digits sampler=ddim_latent guidance_scale=3 out=runs/captioned_digits_demo/results/prompts.png

captioned-digits: .venv/installed
	$(BIN)/deme reproduce experiments/captioned_digits jobs=$(JOBS)

demo-flow: .venv/installed
	$(BIN)/deme reproduce experiments/digits_flow/demo.yaml jobs=$(JOBS)
	$(BIN)/deme sample "run={before: asset:digits_flow, merged: $$(ls -dt runs/digits_flow_demo/merge/lora_svd-* | head -1)}" \
		prompts=digit_classes prompts.per_prompt=6 sampler=flow_euler guidance_scale=1 out=runs/digits_flow_demo/results/classes.png

digits-flow: .venv/installed
	$(BIN)/deme reproduce experiments/digits_flow jobs=$(JOBS)

smoke: .venv/installed
	rm -rf runs/digits_smoke
	$(BIN)/deme reproduce experiments/digits/smoke.yaml

test: lint docs
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: .venv/installed
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

# Tests logger=mlflow with its libraries in build/mlflow: they need another importlib_metadata than constraints.txt has.
test-mlflow: .venv/installed
	mkdir -p build
	grep -v "^importlib_metadata==" constraints.txt > build/mlflow-constraints.txt
	rm -rf build/mlflow
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target build/mlflow -c build/mlflow-constraints.txt mlflow-skinny sqlalchemy alembic
	PYTHONPATH=build/mlflow $(BIN)/pytest tests/unit/test_tracking.py -k mlflow

# Tests launcher=slurm and srun with a SLURM on this machine; needs root, and Debian's packages slurm-wlm and munge.
test-slurm: .venv/installed
	@command -v slurmctld munged > /dev/null || { echo "type: apt-get install slurm-wlm munge"; exit 2; }
	$(BIN)/pytest -m slow tests/pipeline/test_slurm.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/python docs/build.py

benchmarks: .venv/installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/train_step.py --model cifar10 --precision bf16-mixed --repeats 9
	$(BIN)/python benchmarks/distill_step.py
	$(BIN)/python benchmarks/distill_step.py --model compact
	$(BIN)/python benchmarks/train_memory.py
	$(BIN)/python benchmarks/distributed_step.py
	$(BIN)/python benchmarks/launchers.py
	$(BIN)/python benchmarks/latent_train_step.py
	$(BIN)/python benchmarks/balancing.py
	$(BIN)/python benchmarks/balancing.py --model cifar10
	$(BIN)/python benchmarks/feeding.py
	$(BIN)/python benchmarks/frechet.py
	$(BIN)/python benchmarks/moments.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/projection.py
	$(BIN)/python benchmarks/merge_disk.py
	$(BIN)/python benchmarks/remerge.py
	$(BIN)/python benchmarks/average_disk.py
	$(BIN)/python benchmarks/gradient_similarity.py
	$(BIN)/python benchmarks/flow_sampling.py
	$(BIN)/python benchmarks/lora_step.py
	$(BIN)/python benchmarks/lora_merge.py
	$(BIN)/python benchmarks/recipe_memory.py

# Makes the shipped bases and classifier again (about 15 minutes); `git diff --stat` shows whether they changed.
pretrain-digits: .venv/installed
	$(BIN)/python experiments/digits/make_classifier.py deme/assets/digits_classifier.safetensors
	$(BIN)/deme train experiment=digits/pretrain
	rm -rf deme/assets/digits_base
	cp -r runs/digits/train/pretrain-s0-*/weights/ema deme/assets/digits_base
	$(BIN)/deme train experiment=digits/pretrain learning_rate=constant num_steps=8000 suite=digits_short
	rm -rf deme/assets/digits_short && mkdir deme/assets/digits_short
	cp -r runs/digits_short/train/pretrain-s0-*/weights/raw runs/digits_short/train/pretrain-s0-*/weights/ema deme/assets/digits_short/
	$(CHECKSUMS)

# Makes the shipped classifier of Fashion-MNIST again (5 minutes): make fashion-classifier DATA=<folder of its files>
fashion-classifier: .venv/installed
	$(BIN)/python experiments/fashion/make_classifier.py $(DATA) deme/assets/fashion_classifier.safetensors
	$(CHECKSUMS)

# Makes the UNet of the shipped text-to-image pipeline again (about 15 minutes); its frozen parts: experiments/captioned_digits/make_parts.py.
pretrain-captioned-digits: .venv/installed
	$(BIN)/deme train experiment=captioned_digits/pretrain
	cp runs/captioned_digits/train/pretrain-s0-*/weights/ema/unet/*.safetensors deme/assets/captioned_digits/unet/
	$(CHECKSUMS)

# Makes the base of experiments/digits_flow again (about 3 minutes).
pretrain-digits-flow: .venv/installed
	$(BIN)/deme train experiment=digits_flow/pretrain
	rm -rf deme/assets/digits_flow
	cp -r runs/digits_flow/train/pretrain-s0-*/weights/ema deme/assets/digits_flow
	$(CHECKSUMS)

# Estimates the training memory that `deme plan` shows for the shipped suites again.
training-memory: .venv/installed
	$(BIN)/python experiments/shared/training_memory.py deme/assets/training_memory.json

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/deme doctor  # tests the installation, and Python compiles what deme imports
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
