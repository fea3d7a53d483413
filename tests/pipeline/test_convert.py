"""`deme convert`, and the pipeline from checkpoints as people have them."""

import hashlib
import json
import shutil

import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from deme.models.layout import UNET
from deme.models.loading import load_pretrained
from deme.system.paths import locate
from tests.models import tiny
from tests.original_ddpm import CIFAR, network
from tests.pipeline.program import TINY_EXPERTS, done, run, start
from tests.single_files import write_single_file


@pytest.fixture
def checkpoint(tmp_path):
    """DDIM's list: model behind DataParallel, optimizer, epoch, step, moving average."""
    model, average = network(0, **CIFAR), network(1, **CIFAR)
    optimizer = torch.optim.Adam(model.parameters())
    raw = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save([raw, optimizer.state_dict(), 7, 1234, average.state_dict()], tmp_path / "ckpt.pth")
    return tmp_path / "ckpt.pth", model, average


def answers(original, folder):
    x_t, t = (
        torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)),
        torch.tensor([10, 600]),
    )
    with torch.no_grad():
        return (
            original(x_t, t),
            load_pretrained(str(folder))(x_t, t),
            DDPMPipeline.from_pretrained(folder).unet(x_t, t).sample,
        )


def test_a_checkpoint_becomes_a_folder_that_we_and_diffusers_load(checkpoint, tmp_path):
    file, model, average = checkpoint
    code, text = run(["convert", "ckpt.pth", "out=ema"], tmp_path)
    assert code == 0, text
    assert (
        "converted ckpt.pth (a moving average) to ema\nuse it with: model=diffusers model.path=ema"
        in text
    )
    original, ours, stock = answers(average, tmp_path / "ema")
    torch.testing.assert_close(ours, original, rtol=0, atol=5e-6)
    assert torch.equal(ours, stock)
    about = json.loads((tmp_path / "ema/deme.json").read_text())
    assert about["ema"] is True
    assert about["converted"]["file"] == "ckpt.pth"
    assert about["converted"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    before = (tmp_path / "ema" / UNET).stat().st_mtime_ns
    code, text = run(["convert", "ckpt.pth", "out=ema"], tmp_path)
    assert (code, "ema is ckpt.pth, converted before" in text) == (0, True)
    assert (tmp_path / "ema" / UNET).stat().st_mtime_ns == before

    code, text = run(
        ["convert", "ckpt.pth", "out=ema", "ema=false"], tmp_path
    )  # the other half is something else
    assert (code, "ema exists and is not a conversion of this checkpoint\ndelete it" in text) == (
        2,
        True,
    )
    code, text = run(
        ["convert", "ckpt.pth", "out=raw", "ema=false", "beta_schedule=scaled_linear", "size=16"],
        tmp_path,
    )
    assert code == 0, text
    assert "raw weights, no moving average" in text
    original, ours, _ = answers(model, tmp_path / "raw")
    torch.testing.assert_close(ours, original, rtol=0, atol=5e-6)
    raw = load_pretrained(str(tmp_path / "raw"))
    assert raw.image_shape == (3, 16, 16)
    assert raw.scheduler_config["beta_schedule"] == "scaled_linear"


def test_four_conversions_at_once_convert_once(tmp_path):
    torch.save(network(**CIFAR).state_dict(), tmp_path / "model.ckpt")
    programs = [start(["convert", "model.ckpt", "out=x"], tmp_path) for _ in range(4)]
    assert [program.wait() for program in programs] == [0] * 4, [p.text for p in programs]
    texts = [program.text for program in programs]
    assert sum("converted model.ckpt (" in text for text in texts) == 1
    assert sum("converted before" in text for text in texts) == 3
    assert {path.name for path in tmp_path.iterdir() if ".out-" not in path.name} == {
        "model.ckpt",
        "x",
    }
    load_pretrained(str(tmp_path / "x"))
    programs = [
        start(["convert", "model.ckpt", "out=y", f"ema={ema}"], tmp_path)
        for ema in ("true", "false")
    ]
    assert sorted(program.wait() for program in programs) == [0, 2]  # nobody's result is replaced


def test_a_bare_state_dict_is_what_it_is_told_to_be(tmp_path):
    torch.save(network(**CIFAR).state_dict(), tmp_path / "model-790000.ckpt")
    for words, said in ((["out=a"], None), (["out=b", "ema=true"], True)):
        code, text = run(["convert", "model-790000.ckpt", *words], tmp_path)
        assert code == 0, text
        assert json.loads((tmp_path / words[0][-1] / "deme.json").read_text())["ema"] is said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--help"], 0, "usage: deme convert <checkpoint> out=<folder> [beta_schedule=linear]"),
        ([], 2, "type: deme convert <checkpoint> out=<folder>"),
        (["good.pth"], 2, "out must be given"),
        (["good.pth", "out=x", "sise=3"], 2, "unknown key sise; did you mean 'size'?"),
        (
            ["good.pth", "out=x", "size=big"],
            2,
            "size must be a whole number",
        ),
        (["good.pth", "out=x", "ema=perhaps"], 2, "ema must be true or false"),
        (
            ["good.pth", "out=x", "beta_schedule=quad"],
            2,
            "beta_schedule must be one of linear, scaled_linear",
        ),
        (["good.pth", "out=."], 2, ". exists and is not a conversion of this checkpoint"),
        (["gone.pth", "out=x"], 3, "gone.pth does not exist"),
        ([".", "out=x"], 3, "is a folder; deme convert takes the file of a checkpoint"),
        (["good.pth", "out=x"], 4, "good.pth: no weights of the original DDPM layout in it"),
        (["cut.pth", "out=x"], 4, "cut.pth is damaged, or no file that torch.save wrote"),
        (
            ["part.pth", "out=x"],
            4,
            "part.pth does not fit the network that its shapes are of: 1 tensors differ",
        ),
    ],
)
def test_what_cannot_be_converted(tmp_path, words, code, message):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:2000])
    if "part.pth" in words:
        state = network(**CIFAR).state_dict()
        del state["up.2.block.1.norm1.bias"]
        torch.save(state, tmp_path / "part.pth")
    found, text = run(["convert", *words], tmp_path)
    assert found == code, text
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "x").exists()


def test_experts_of_a_base_in_an_old_layout_are_trained_and_merged(tmp_path):
    """Pickled, half precision, attention's older names, everything at the top of the folder."""
    model = tiny(
        attention_head_dim=4,
        add_attention=True,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    )
    base = tmp_path / "base"
    model.save(base, model.state_dict(), {})
    state = {name: value.half() for name, value in load_file(base / UNET).items()}
    for new, old in (
        (".to_q.", ".query."),
        (".to_k.", ".key."),
        (".to_v.", ".value."),
        (".to_out.0.", ".proj_attn."),
    ):
        state = {name.replace(new, old): value for name, value in state.items()}
    shutil.move(base / "unet/config.json", base / "config.json")
    shutil.move(base / "scheduler/scheduler_config.json", base / "scheduler_config.json")
    shutil.rmtree(base / "unet")
    shutil.rmtree(base / "scheduler")
    (base / "deme.json").unlink()
    torch.save(state, base / "diffusion_pytorch_model.bin")

    given = ["model=diffusers", "model.path=base"]
    for index in (0, 1):
        done(["train", f"expert={index}", *given, *TINY_EXPERTS, "num_steps=2"], tmp_path)
    experts = sorted(tmp_path.glob("runs/scratch/train/*"))
    assert len(experts) == 2
    done(
        ["merge", *given, f"inputs.experts=[{experts[0]},{experts[1]}]", "merge.weights=[0.5,2.0]"],
        tmp_path,
    )
    (merged,) = tmp_path.glob("runs/scratch/merge/*/weights/merged")
    start = load_pretrained(str(base)).state_dict()
    one, two, found = (
        load_pretrained(str(f)).state_dict()
        for f in (*(e / "weights/ema" for e in experts), merged)
    )
    for name, value in found.items():
        expected = start[name] + 0.5 * (one[name] - start[name]) + 2.0 * (two[name] - start[name])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


FILLED_MEANWHILE = """
import os, MODULE as m
real = m.FUNCTION
def filled(*args, **more):
    os.mkdir("out")
    open("out/theirs", "w").write("precious")
    return real(*args, **more)
m.FUNCTION = filled
"""


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["convert", "model.ckpt", "out=out"], "deme.models.checkpoint.read_pickle"),
        (["export", "run=asset:digits_base", "out=out"], "deme.models.loading.load_folder"),
    ],
)
def test_what_appears_at_out_during_the_work_is_kept(words, place, tmp_path):
    torch.save(network(**CIFAR).state_dict(), tmp_path / "model.ckpt")
    module, _, function = place.rpartition(".")
    patch = FILLED_MEANWHILE.replace("MODULE", module).replace("FUNCTION", function)
    code, text = run(words, tmp_path, patch)
    assert code == 2, text
    assert "Traceback" not in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]
    assert not list(tmp_path.glob(".out.*.tmp"))


@pytest.mark.slow
def test_different_commands_to_one_out_leave_one_whole_result(tmp_path):
    torch.save(network(**CIFAR).state_dict(), tmp_path / "model.ckpt")
    commands = [
        ["convert", "model.ckpt", "out=out"],
        ["export", "run=asset:digits_base", "out=out"],
    ]
    programs = [start(words, tmp_path) for words in 2 * commands]
    codes = [program.wait() for program in programs]
    assert set(codes) == {0, 2}, [program.text for program in programs]
    assert not list(tmp_path.glob(".out.*.tmp"))
    load_pretrained(str(tmp_path / "out"))
    assert codes[0::2] == [0, 0] or codes[1::2] == [0, 0]


def test_stable_diffusion_in_one_file_becomes_a_pipelines_folder(tmp_path):
    base = locate("asset:captioned_digits")
    pipeline = write_single_file(base, tmp_path / "sd.safetensors")
    words = ["convert", "sd.safetensors", "out=sd", f"config={base}"]
    code, text = run(words, tmp_path)
    assert code == 0, text
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", safety_checker=None)
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(pipeline, part).state_dict()
        found = getattr(again, part).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    model = load_pretrained(str(tmp_path / "sd"))
    assert model.condition(["seven"])["encoder_hidden_states"].shape[0] == 1
    code, text = run(words, tmp_path)
    assert (code, "converted before" in text) == (0, True), text
    about = json.loads((tmp_path / "sd/deme.json").read_text())
    assert about["converted"]["from"] == "Stable Diffusion in one file"


def test_slips_with_one_file_are_one_message(tmp_path):
    base = locate("asset:captioned_digits")
    write_single_file(base, tmp_path / "sd.safetensors")
    torch.save({}, tmp_path / "ckpt.pth")
    for words, message in [
        (["train", "model=sd.safetensors", "data=captioned_digits"], "type: deme convert sd.safe"),
        (["train", "model=ckpt.pth", "data=captioned_digits"], "save_file"),
        (["convert", "sd.safetensors", "out=x", "size=64"], "size= does not apply"),
        (["convert", "sd.safetensors", "out=x", "config=nowhere"], "nowhere"),
    ]:
        code, text = run(words, tmp_path)
        assert code != 0
        assert message in text, text
        assert not (tmp_path / "x").exists()
