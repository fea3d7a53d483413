"""`deme merge` as a tool: planned, killed, reported; its result is a stock checkpoint where it can be one."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

from deme.models.layout import PROJECTIONS, UNET
from deme.models.loading import load_pretrained
from deme.system import read_json, tensors
from tests.pipeline.program import TINY_EXPERTS, done, run, start

SLOW = """
import time
import deme.merging.stream as s
read = s._Reader.read
def slow(*args, **more):
    time.sleep(0.05)
    return read(*args, **more)
s._Reader.read = slow
"""


def trained(folder, *words):
    return [
        done(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=2", *words], folder) for i in (0, 1)
    ]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("experts"))


def given(paths):
    return f"inputs.experts=[{','.join(map(str, paths))}]"


def test_a_plan_says_what_it_takes_and_writes_nothing(experts, tmp_path):
    code, text = run(["merge", given(experts), "plan=true"], tmp_path)
    assert code == 0, text
    size = (experts[0] / "weights/ema" / UNET).stat().st_size / 1e6
    assert (
        f"weighted_sum, weights [0.5, 0.5]: 104 tensors, {3 * size:.1f} MB to read, {size:.1f} MB to write"
        in text
    )
    assert "t in [0, 500)" in text
    assert not (tmp_path / "runs").exists()
    merged = done(["merge", given(experts)], tmp_path)
    code, text = run(["merge", given(experts), "plan=true"], tmp_path)
    assert str(merged.relative_to(tmp_path)) in text
    assert "done already" in text


def test_a_killed_merge_leaves_no_half_file_and_is_made_whole_by_the_same_command(
    experts, tmp_path
):
    words = ["merge", given(experts), "merge=ties"]
    program = start(words, tmp_path, SLOW)
    program.wait_for(
        lambda: any(p.stat().st_size for p in tmp_path.glob("runs/*/*/*/weights/.*/unet/.*"))
    )
    program.kill()
    (run_dir,) = tmp_path.glob("runs/scratch/merge/*")
    assert not (run_dir / "weights/merged").exists()
    assert read_json(run_dir / "status.json")["state"] == "running"
    done(words, tmp_path)
    (tmp_path / "other").mkdir()
    undisturbed = done(words, tmp_path / "other")
    assert (run_dir / "weights/merged" / UNET).read_bytes() == (
        undisturbed / "weights/merged" / UNET
    ).read_bytes()
    assert [p.name for p in (run_dir / "weights").iterdir()] == ["merged"]


def test_the_report_tells_how_the_task_vectors_lie(experts, tmp_path):
    merged = done(["merge", given(experts)], tmp_path)
    found = read_json(merged / "task_vectors.json")
    assert found["models"] == ["[0, 500)", "[500, 1000)"]
    base = load_pretrained("asset:digits_base").unet.state_dict()
    one, two = (tensors.TensorFile(e / "weights/ema" / UNET).read_all() for e in experts)
    assert [row["name"] for row in found["tensors"]] == sorted(one)
    for row in found["tensors"]:
        vectors = np.stack(
            [(e[row["name"]] - base[row["name"]]).double().flatten().numpy() for e in (one, two)]
        )
        np.testing.assert_allclose(row["products"], vectors @ vectors.T, rtol=1e-5, atol=1e-12)
        agree = (np.sign(vectors[0]) == np.sign(vectors[1])).mean()
        assert row["agreement"][0][1] == pytest.approx(agree)
        quantiles = [np.quantile(v, found["quantiles"]) for v in vectors]
        np.testing.assert_allclose(row["quantiles"], quantiles, rtol=1e-5, atol=1e-9)
    whole = [torch.cat([(e[n] - base[n]).flatten() for n in one]) for e in (one, two)]
    cosine = float(torch.nn.functional.cosine_similarity(*whole, dim=0))
    assert (
        f"cosines between them: {cosine:.3f}; entries of equal sign: "
        in (merged / "log.txt").read_text()
    )
    assert (merged / "task_vectors.png").stat().st_size > 10_000


def test_foldable_projections_are_folded_and_stock_diffusers_draws_the_same(tmp_path):
    merged = done(["merge", given(trained(tmp_path, "projection=foldable"))], tmp_path)
    folder = merged / "weights/merged"
    assert not (folder / PROJECTIONS).exists()
    assert not (folder / PROJECTIONS).with_suffix(".json").exists()
    assert "stock diffusers loads the result" in (merged / "log.txt").read_text()
    stock, ours = DDPMPipeline.from_pretrained(folder).unet, load_pretrained(str(folder))
    x, t = (
        torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 900]),
    )
    with torch.no_grad():
        assert torch.equal(stock(x, t).sample, ours(x, t))


def test_projections_of_the_papers_placement_stay_and_the_log_says_what_they_need(tmp_path):
    merged = done(["merge", given(trained(tmp_path, "projection=blocks"))], tmp_path)
    assert (merged / "weights/merged" / PROJECTIONS).exists()
    assert read_json(merged / "weights/merged/unet/projections.json") == {"placement": "blocks"}
    assert "only deme's loader applies them" in (merged / "log.txt").read_text()
    names = [
        row["name"] for row in json.loads((merged / "task_vectors.json").read_text())["tensors"]
    ]
    assert "projections.down_0.weight" in names


def test_a_precision_is_chosen_by_what_survives_in_it(experts, tmp_path):
    halves = []
    for number, (size, expected) in enumerate([(1.0, "bfloat16"), (1e-3, "float32")]):
        for expert in experts:
            source, place = expert / "weights/ema", tmp_path / f"{number}" / expert.name
            shutil.copytree(source, place)
            base = load_pretrained("asset:digits_base").unet.state_dict()
            draw = torch.Generator().manual_seed(len(halves))
            changed = {
                n: (
                    v + size * v.std(correction=0) * torch.randn(v.shape, generator=draw)
                ).bfloat16()
                for n, v in base.items()
            }
            tensors.save(place / UNET, changed)
            halves.append(place)
        pair = halves[-2:]
        merged = done(["merge", given(pair), "dtype=auto"], tmp_path)
        kinds = {
            str(t.dtype)
            for t in tensors.TensorFile(merged / "weights/merged" / UNET).read_all().values()
        }
        assert kinds == {f"torch.{expected}"}
        assert "rounding to bfloat16 keeps" in (merged / "log.txt").read_text()


def test_slips_are_told(experts, tmp_path):
    for words, message in [
        (["compute_dtype=float16"], "compute_dtype must be one of float32, float64"),
        (["dtype=int8"], "dtype must be one of float32, float16, bfloat16"),
        (["plan=1"], "plan must be true or false"),
        (["merge=model_stock", "+merge.weights=[1,1]"], "merge=model_stock"),
        (["merge=ties", "merge.density=2"], "merge.density must be a number, at most 1; got 2"),
        (
            ["weights_by_name={donw_blocks.*: 0.3}"],
            "donw_blocks.*",
        ),
        (["weights_by_name={mid_block.*: [1]}"], "mid_block.*"),
        (["merge=linear", "merge.weights=[0.5,0.6]"], "sum"),
        (["merge=linear", "merge.weights=[0.5,0.6]", "plan=true"], "sum"),
        (
            ["merge=ties", "merge.weights=[-1,1]", "plan=true"],
            "[-1.0, 1.0]",
        ),
        (["merge=ties", "merge.density=abc"], "merge.density must be a number; got 'abc'"),
        (["merge=dare", "merge.drop=null"], "merge.drop must be a number; got None"),
        (["merge=slerp", "merge.scale=nan"], "merge.scale must be a finite number; got nan"),
    ]:
        code, text = run(["merge", given(experts), *words], tmp_path)
        assert (code, message in text, "Traceback" in text) == (2, True, False), text
    code, text = run(["merge", "inputs.experts=[]"], tmp_path)
    assert (code, "inputs.experts" in text) == (2, True), text
    assert not list(tmp_path.glob("runs/*/merge/*/weights/merged"))
