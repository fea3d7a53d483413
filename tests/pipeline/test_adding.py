"""docs/extending.md: its examples are written to files as they stand, and work."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from deme.diffusion import NoiseSchedule
from deme.models.layout import UNET
from deme.system.tensors import TensorFile
from tests.pipeline.program import TINY_EXPERTS, TINY_TRAIN, run

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
# What lies in the folders below is found as if it lay in the package, and in its conf/.
INSTALLED_HERE = """
import importlib
from pathlib import Path
from deme.runs import trusted
named = trusted.option_targets() | trusted.targets_in(Path("conf"))
trusted.option_targets = lambda: named
for folder in Path("deme").rglob("*/"):
    importlib.import_module(".".join(folder.parts)).__path__.append(str(folder.resolve()))
"""


@pytest.fixture
def examples(tmp_path):
    blocks = re.findall(r"```(?:python|yaml)\n *# ((?:deme|conf)/\S+)\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 8
    for place, text in blocks:
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        indent = len(text) - len(text.lstrip(" ")) if text.startswith(" ") else 0
        file.write_text("\n".join(line[indent:] for line in text.splitlines()) + "\n")
    return tmp_path


def train(folder, *words):
    command = ["train", *words, *TINY_TRAIN, f"--config-dir={folder / 'conf'}"]
    code, text = run(command, folder, INSTALLED_HERE)
    assert code == 0, text
    (run_dir,) = folder.glob("runs/scratch/train/*")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    return run_dir, lines


def test_a_weighting(examples):
    run_dir, _ = train(
        examples, "weighting=soft_min_snr", "weighting.gamma=2", "loss_weight.normalize=true"
    )
    eps_weight = 2 / (NoiseSchedule.linear().snr + 2)
    shares = (eps_weight.view(4, 250).sum(1) / eps_weight.sum()).tolist()
    found = json.loads((run_dir / "weighting.json").read_text())
    assert found["mass"] == pytest.approx(shares)
    assert found["mean"] == pytest.approx(1)


def test_a_balancing(examples):
    _, lines = train(examples, "method=ant", "balancing=unit_length", "ranges.num_ranges=2")
    weights = [(line["task_weight/0"], line["task_weight/1"]) for line in lines]
    assert len(set(weights)) == len(lines)
    assert all(line["loss"] == pytest.approx(sum(line[f"task_weight/{j}"] * line[f"task_loss/{j}"] for j in (0, 1)))
               for line in lines)  # fmt: skip


def test_a_method(examples):
    _, lines = train(examples, "method=absolute")
    assert all(
        math.isfinite(line["loss/absolute"]) and line["loss"] == line["loss/absolute"]
        for line in lines
    )


def test_a_merge_method(examples):
    for i in (0, 1):
        code, text = run(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=2"], examples)
        assert code == 0, text
    experts = sorted(examples.glob("runs/scratch/train/deme-*"))
    given = f"inputs.experts=[{experts[0]},{experts[1]}]"
    code, text = run(
        ["merge", "merge=median", given, f"--config-dir={examples / 'conf'}"],
        examples,
        INSTALLED_HERE,
    )
    assert code == 0, text
    (merged,) = examples.glob("runs/scratch/merge/*/weights/merged")
    one, two, found = (
        TensorFile(f / UNET).read_all() for f in (*(e / "weights/ema" for e in experts), merged)
    )
    assert all(torch.equal(found[name], torch.minimum(one[name], two[name])) for name in found)
    assert any(not torch.equal(found[name], one[name]) for name in found)


def test_a_class_in_a_package_of_ones_own(tmp_path):
    """It lies beside --config-dir, and its user trusts it in each of two ways."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("")
    weighting = re.search(
        r"```python\n# deme/diffusion/weighting/soft\S+\n(.*?)```", PAGE, re.DOTALL
    )
    (tmp_path / "my_package/weightings.py").write_text(weighting[1])
    (tmp_path / "my_conf/weighting").mkdir(parents=True)
    option = "_target_: my_package.weightings.SoftMinSNR\ngamma: 5.0\n"
    (tmp_path / "my_conf/weighting/mine.yaml").write_text(option)
    words = ["train", "weighting=mine", "--config-dir=my_conf", *TINY_TRAIN, "num_steps=2"]
    code, text = run(words, tmp_path)
    assert code == 2
    assert "my_package.weightings.SoftMinSNR" in text
    assert "trust=my_package.weightings" in text
    for trusted, patch in (("trust=my_package", ""), ("seed=1", "import os; os.environ['DEME_TRUST'] = 'my_package'")):  # fmt: skip
        code, text = run([*words, trusted], tmp_path, patch)
        assert code == 0, text
    configs = [file.read_text() for file in tmp_path.glob("runs/*/*/*/config.yaml")]
    assert len(configs) == 2
    assert not any("trust" in config for config in configs)
