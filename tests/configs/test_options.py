"""Every option file and every experiment file is found by listing conf/, composed, and built on the CPU."""

import inspect
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from deme.analysis import Expert, NamedModel, Study
from deme.builders.compute import Compute
from deme.builders.data import load_data
from deme.data import (
    CaptionedImages,
    ImageData,
    InMemoryImages,
    SomeImages,
    fashion_mnist,
)
from deme.data.digits import load_digits
from deme.diffusion import (
    NoiseSchedule,
    RangeSampler,
    ShardedRandom,
    StratifiedSampler,
    TimestepRange,
    check_partition,
    generator,
    uniform,
)
from deme.diffusion.conditioning import bind_condition as told_with
from deme.merging.averages import Candidates
from deme.merging.power_profiles import TRACKED, Profile
from deme.merging.search.evaluations import Evaluations
from deme.methods.balancing import Balancing
from deme.methods.balancing.equal import Equal
from deme.metrics import own_features
from deme.metrics.digit_classifier import DigitFeatures
from deme.metrics.inception import trunk
from deme.models.denoiser import DenoisingModel
from deme.models.families.dit import DiTModel
from deme.models.families.unconditional import build_unconditional
from deme.models.loading import load_pretrained
from deme.runs import accepted_arguments, compose_stage, instantiate, instantiate_with, partial
from deme.runs.config_errors import groups, options
from deme.runs.settings import SETTINGS, ComputeSettings, MetricsSettings, PathsSettings, build
from deme.system import official_files, tensors
from deme.system.errors import BadConfig
from deme.system.official_files import BINARY
from deme.system.paths import conf_dir, locate
from deme.tracking import Mirror
from deme.training.fit import Loop, make_trainer
from deme.training.module import DiffusionModule
from tests import fashion
from tests.captioned import captioned_folder
from tests.cifar10 import MADE, unpack
from tests.clips import hugging_face_clip, open_clip_file
from tests.objectives import Quadratic

STAGES = sorted(p.stem for p in conf_dir().glob("*.yaml"))
EXPERIMENT_STAGES = {name: name for name in STAGES}  # any other experiment is one of `deme train`
OPTIONS = [
    (group, option)
    for group in groups()
    if group not in ("experiment", "debug")
    for option in options(group)
]
EXPERIMENTS = options("experiment")

EVERYTHING = TimestepRange(0, 1000)
OPEN_CLIP = Path("open_clip_vit_g_14", "open_clip_model.safetensors")  # below models/


def build_data(spec):
    assert not spec or isinstance(instantiate(spec), ImageData)


def build_model(spec):
    model = instantiate(spec)
    assert isinstance(model, DenoisingModel)
    with torch.no_grad():
        channels, height, width = model.noise_shape
        x_t = torch.zeros(
            2, channels, min(height, 32), min(width, 32)
        )  # any size will do: 256 x 256 takes a minute
        told = model.condition(["1" if isinstance(model, DiTModel) else "the digit one", ""])
        assert told_with(model, told)(x_t, torch.tensor([0, 999])).shape == x_t.shape


def method_of(spec):
    ranges = uniform(4, 1000)
    timesteps = (
        StratifiedSampler(EVERYTHING, ranges)
        if "balancing" in accepted_arguments(spec)
        else RangeSampler(EVERYTHING, 1000)
    )
    experts = [locate("asset:digits_base")] * 4
    offered = {"timesteps": timesteps, "ranges": ranges, "balancing": Equal(4), "experts": experts}
    return instantiate_with(spec, weights=torch.ones(1000), batch_size=8, **offered)


def build_method(spec):
    method = method_of(spec)
    model = build_unconditional({"sample_size": 4, "in_channels": 1, "out_channels": 1, "block_out_channels": [4],
                   "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "norm_num_groups": 2,
                   "layers_per_block": 1, "add_attention": False}, {}, 0)  # fmt: skip
    method.prepare(lambda: model, "cpu")
    terms = method.losses(
        model, torch.zeros(8, 1, 4, 4), ShardedRandom(generator("build"), 8, 0, 8)
    )
    assert all(term.shape == () and bool(torch.isfinite(term)) for term in terms.values())


def build_balancing(spec):
    if not spec:
        return
    balancing = instantiate(spec, num_tasks=3)
    assert isinstance(balancing, Balancing)
    if balancing.wants_gradients():
        balancing.observe(
            torch.tensor([[1.0, -0.5, 0], [-0.5, 4.0, 1], [0, 1, 1]]).double(), generator("build")
        )
    assert balancing.weights().shape == (3,)
    assert bool((balancing.weights() > 0).all())
    losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    balancing.objective(losses).backward()
    torch.testing.assert_close(losses.grad, balancing.weights().detach().float())


def build_weighting(spec):
    snr = NoiseSchedule.linear().snr
    weight = instantiate(spec)(snr)
    assert weight.shape == snr.shape
    assert bool(torch.isfinite(weight).all())
    assert bool((weight >= 0).all())


def build_timesteps(spec):
    sampler = instantiate_with(
        spec, timestep_range=EVERYTHING, num_timesteps=1000, ranges=uniform(4, 1000)
    )
    t = sampler(64, torch.Generator().manual_seed(0))
    assert t.shape == (64,)


def build_ranges(spec):
    def affinity(num_bins, num_images, seed):
        return torch.eye(num_bins, dtype=torch.float64)

    ranges = instantiate_with(
        spec,
        num_timesteps=1000,
        schedule=NoiseSchedule.linear(),
        affinity=affinity,
        scheduler_config={"_class_name": "FlowMatchEulerDiscreteScheduler"},
    )
    check_partition(ranges, 1000)


def build_ema(spec):
    if spec:
        assert partial(spec)([torch.nn.Parameter(torch.zeros(2))]).shadow_params


def build_optimizer(spec):
    assert isinstance(partial(spec)([torch.nn.Parameter(torch.zeros(2))]), torch.optim.Optimizer)


def build_learning_rate(spec):
    factors = [instantiate(spec, num_steps=100)(step) for step in range(100)]
    assert all(0 <= f <= 1 for f in factors)


def build_merge(spec):
    experts, base = [torch.ones(3), -2 * torch.ones(3)], torch.zeros(3)
    words = {"uniform": [0.5, 0.5], "ones": [1.0, 1.0]}
    if "weights" in spec:
        spec = {
            **spec,
            "weights": words[spec["weights"]] if isinstance(spec["weights"], str) else [0.5, 0.5],
        }
    assert spec.get("sum") is None  # of the weights, not of the method
    combine = partial({key: value for key, value in spec.items() if key != "sum"})
    method = combine.func
    given = (
        method.prepare(lambda: iter([("tensor", experts, base)]), **combine.keywords)
        if method.prepare
        else {}
    )
    if method.named:
        given["name"] = "tensor"
    merged = combine(experts, base, **given)
    assert merged.shape == (3,)
    assert bool(torch.isfinite(merged).all())


def build_average(spec):
    steps, folders = [10, 20, 30], [Path("10"), Path("20"), Path("30")]
    profiles = {Profile(length, step): Path(f"{step}-{length}") for step in steps for length in TRACKED}  # fmt: skip
    found = instantiate(spec).weigh(Candidates(folders, steps, profiles, [0.5, -0.5, 1.0]))
    assert sum(found.weights) == pytest.approx(1)
    assert len(found.folders) == len(found.weights)
    assert {*found.folders} <= {*folders, *profiles.values()}


def build_search(spec):
    search, evaluations = (
        instantiate(spec),
        Evaluations(Quadratic((0.4, 0.6)), Path("evaluations.jsonl")),
    )
    search.run(evaluations, [0.5, 0.5])
    assert 0 < len(evaluations.history) <= search.count(2)
    assert evaluations.best.score < 1.05


def build_sampler(spec):
    again = spec["_target_"].endswith("PNDM")  # its second step is taken twice
    flow, heun = "Flow" in spec["_target_"], spec["_target_"].endswith("Heun")
    kind = "FlowMatchEulerDiscreteScheduler" if flow else "DDPMScheduler"
    timesteps = instantiate(spec).scheduler({"_class_name": kind}).timesteps
    again += heun * (spec["num_inference_steps"] - 1)
    assert len(timesteps) == spec["num_inference_steps"] + again


def build_adapter(spec):
    if spec:
        model = instantiate(compose_stage("train", ["model=digits_dit"])["model"])
        model.add_adapter(instantiate(spec))
        assert len(model.trained_parameters()) == 2 * 6 * 3  # six layers of each of three blocks


def build_timestep_density(spec):
    shares = instantiate(spec).cdf(torch.linspace(0, 1, 11)).diff()
    assert float(shares.sum()) == pytest.approx(1)
    assert bool((shares > 0).all())


def build_metrics(spec):
    images = SomeImages(load_digits().train, range(100))  # what an extractor may learn from
    for one in build(MetricsSettings, spec).features.values():
        extractor = instantiate_with(one, images=images, cache=Path("cache")).to("cpu")
        shape = getattr(extractor, "shape", (1, 8, 8))
        features = extractor(torch.zeros(2, *shape, dtype=torch.uint8))
        assert features.shape == (2, extractor.dimension)
        assert features.dtype == torch.float32
        assert extractor.name
        assert extractor.frechet_name.startswith(("fd_", "fid_"))
        assert extractor.frechet_name.endswith(extractor.suffix)
    for one in (spec["scores"] or {}).values():
        score = instantiate(one).to("cpu")
        clip = score.score_name.startswith("clip_score")
        assert clip or score.score_name.startswith("digit_")  # nobody takes it for CLIP
        features = score(torch.zeros(2, *((1, 8, 8) if clip else (3, 16, 16)), dtype=torch.uint8))
        assert (features.shape, features.dtype) == ((2, score.dimension), torch.float32)
        assert torch.isfinite(
            score.score(features, ["a cat", ""] if clip else ["the digit two", "a handwritten one"])
        ).all()
    assert spec["reference"] in ("held_out", "train")
    if spec["loss"]:
        uniform(spec["loss"]["num_ranges"], 1000)


def build_compute(spec):
    if spec["accelerator"] == "cpu" or torch.cuda.is_available():
        compute = Compute.of(build(ComputeSettings, spec))
        make_trainer(
            Loop(1, 1, 0, accelerator=compute.accelerator, precision=compute.precision), [], []
        )


SMALL = {  # figures at their least, by the keys that they have
    "set_size": 100, "counts": [50, 100], "altered": 50, "replicates": 5, "num_bins": 4, "num_groups": 2,
    "points": 3, "num_iterations": 1, "num_directions": 1, "draws": 1,
}  # fmt: skip
FIGURE_NEEDS = {"run": "type: run=", "table": "type: figure.table="}


def build_figure(spec):
    wanted = inspect.signature(partial(spec)).parameters
    digits = instantiate({"_target_": "deme.data.digits.load_digits"})
    extractor = DigitFeatures("asset:digits_classifier.safetensors")
    some = SomeImages(digits.held_out, range(8))
    experts = [
        Expert(item, lambda: load_pretrained("asset:digits_base")) for item in uniform(2, 1000)
    ]
    offered = {"model": lambda: load_pretrained("asset:digits_base"), "run": None, "data": lambda: digits,
               "extractors": lambda: [extractor], "cache": Path("cache"), "runs": Path("runs"), "device": "cpu",
               "images": lambda *_: some, "experts": lambda: experts,
               "models": lambda: [NamedModel("same", (), lambda base: base)]}  # fmt: skip
    sizes = SMALL | ({"num_images": 16} if "images" in wanted else {})
    spec = spec | {name: value for name, value in sizes.items() if name in wanted}
    for name in FIGURE_NEEDS.keys() & wanted:
        with pytest.raises(BadConfig, match=FIGURE_NEEDS[name]):
            instantiate_with(spec, **offered)
        return
    made = instantiate_with(spec, **offered)
    if isinstance(made, Study):
        made = made.draw(made.measure(lambda _, measure: measure()))
    assert len(made.table) > 1


def build_prompts(spec):
    if spec:
        images = CaptionedImages(
            InMemoryImages(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)), ["a", "b", "c"]
        )
        prompts = instantiate_with(spec, images=images)
        assert len(prompts) >= spec.get("per_prompt", 1)
        assert all(prompt.text for prompt in prompts)


def build_logger(spec):
    module = {"Mlflow": "mlflow"}.get(spec.get("_target_", "").rpartition(".")[2])
    if module is None or find_spec(module):
        assert (Mirror.of(spec or None).tracker is None) == (not spec)


def build_launcher(spec):
    assert callable(instantiate(spec).run)


def build_plain(spec):
    assert isinstance(spec, dict)


BUILD = {
    name.removeprefix("build_"): function
    for name, function in globals().items()
    if name.startswith("build_")
}
PLAIN = {"paths", "progress", "projection"}


def random_inception(place):
    network = trunk(2048)
    tensors.save(place, {n: v for n, v in network.state_dict().items() if "num_batches" not in n})


def random_inception_pth(place):
    torch.save(trunk(2048).state_dict(), place)


def random_clip(place):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, projection_dim=8, num_hidden_layers=1,
                              num_attention_heads=2, image_size=32, patch_size=8)  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(place)


def random_dinov2(place):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(place)


WRITERS = {"inception.safetensors": random_inception, "inception.pth": random_inception_pth, "clip": random_clip,
           "dinov2": random_dinov2, "clip_score": hugging_face_clip, "tiny.safetensors": open_clip_file}  # fmt: skip


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """``network(name, place)`` puts a random network there, by a link: each is written once, and Inception has 90 MB."""
    root = tmp_path_factory.mktemp("networks")

    def put(name, place):
        made = root / name
        if not made.exists():
            WRITERS[name](made)
        if made.is_dir():
            shutil.copytree(made, place, copy_function=os.link)
        else:
            os.link(made, place)

    return put


@pytest.fixture
def given(in_tmp, request, monkeypatch, network):
    """Values for options that must be told where something is."""
    monkeypatch.setattr(own_features, "NUM_STEPS", 2)
    inception, clip, open_clip = "inception.safetensors", "clip_score", "tiny.safetensors"
    needed = {"inception768": [inception], "fid": [inception], "fid_pytorch": [inception], "clip": ["clip"],
              "dinov2": ["dinov2"], "clip_score": [clip], "clip_score_open_clip": [open_clip],
              "text_to_image_open_clip": [inception, open_clip],
              "text_to_image": [inception, clip, open_clip]}  # fmt: skip
    for option, places in needed.items():
        if f"metrics-{option}]" in request.node.name:
            for place in places:
                network(place, place)
    rows = captioned_folder(in_tmp / "images", 20, (9, 12), "picture {}")
    (in_tmp / "captions.json").write_text(json.dumps(rows))
    (in_tmp / "prompts.csv").write_text("prompt,evaluation_seed\na cat,3\n")
    (in_tmp / "prompts.tsv").write_text("Prompt\tCategory\na cat\tanimals\n")
    (in_tmp / "classes.txt").write_text("cat\ndog\n")
    monkeypatch.setattr(official_files, "LAYOUTS", tuple(files for files, _, _ in MADE.values()))
    (in_tmp / "data").mkdir()
    unpack(BINARY, in_tmp / "data")
    monkeypatch.setattr(fashion_mnist, "FASHION_FILES", fashion.SUMS)
    fashion.write(in_tmp / "data", packed=True)
    return {
        ("data", "image_folder"): ["data.path=images", "data.size=8", "data.channels=3"],
        ("data", "lsun_church"): ["data.path=images", "data.held_out_fraction=0.2"],
        ("data", "lsun_bedroom"): ["data.path=images", "data.held_out_fraction=0.2"],
        ("data", "captioned_images"): [
            "data.path=images",
            "data.size=8",
            "data.held_out_fraction=0.2",
        ],
        ("data", "coco"): [
            "data.path=images",
            "data.captions=captions.json",
            "data.held_out_fraction=0.2",
        ],
        ("data", "laion_aesthetics"): ["data.path=images", "data.held_out_fraction=0.2"],
        ("prompts", "coco"): ["prompts.path=prompts.csv"],
        ("prompts", "partiprompts"): ["prompts.path=prompts.tsv"],
        ("prompts", "imagenet"): ["prompts.path=classes.txt"],
        ("model", "diffusers"): ["model.path=asset:digits_base"],
        ("model", "text_to_image"): ["model.path=asset:captioned_digits"],
        ("metrics", "inception768"): ["metrics.path=inception.safetensors"],
        ("metrics", "fid"): ["metrics.path=inception.safetensors"],
        ("metrics", "fid_pytorch"): ["metrics.path=inception.safetensors"],
        ("metrics", "clip"): ["metrics.path=clip"],
        ("metrics", "dinov2"): ["metrics.path=dinov2"],
        ("metrics", "clip_score"): [f"metrics.path={clip}"],
        ("metrics", "clip_score_open_clip"): [
            f"metrics.path={open_clip}",
            "metrics.architecture=tiny",
        ],
        ("metrics", "text_to_image_open_clip"): [
            f"metrics.inception.path={inception}",
            f"metrics.open_clip.path={open_clip}",
            "metrics.open_clip.architecture=tiny",
        ],
        ("metrics", "text_to_image"): [
            f"metrics.inception.path={inception}",
            f"metrics.clip.path={clip}",
            f"metrics.open_clip.path={open_clip}",
            "metrics.open_clip.architecture=tiny",
        ],
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_is_composed_and_built(group, option, given):
    stages = [
        s for s in ["train", *STAGES] if f"- {group}:" in (conf_dir() / f"{s}.yaml").read_text()
    ]
    stage, added = (stages[0], "") if stages else ("train", "+")
    extra = {"merge": ["inputs.experts=[]"], "search": ["inputs.experts=[]"], "average": ["inputs.run=[]"]}.get(stage, [])  # fmt: skip
    config = compose_stage(
        stage, [f"{added}{group}={option}", *given.get((group, option), []), *extra]
    )
    assert group in BUILD or group in PLAIN, f"tell this test how to build the new group {group}"
    BUILD.get(group, build_plain)(config.get(group) or {})


@pytest.mark.parametrize(("stage", "option"), [("train", "default"), ("evaluate", "evaluate")])
@pytest.mark.parametrize("experiment", ["digits", "cifar10"])
def test_debug_options_are_small_and_on_a_cpu(stage, option, experiment):
    name = {"train": "finetune", "evaluate": "evaluate"}[stage]
    words = [f"experiment={experiment}/{name}", f"debug={option}"]
    settings = build(SETTINGS[stage], compose_stage(stage, words))
    assert settings.compute.accelerator == "cpu"
    assert not settings.compute.compile
    assert settings.paths.runs == "runs/debug"
    assert settings.progress.num_workers == 0
    assert (settings.num_steps if stage == "train" else settings.num_images) <= 32
    assert build(SETTINGS[stage], compose_stage(stage, [*words, "batch_size=3"])).batch_size == 3


def test_a_local_file_changes_paths_of_every_command(in_tmp):
    shutil.copytree(conf_dir(), in_tmp / "conf", ignore=shutil.ignore_patterns("local"))
    (in_tmp / "conf" / "local").mkdir()
    (in_tmp / "conf" / "local" / "default.yaml").write_text(
        "# @package _global_\npaths:\n  data: /big/disk\n"
    )
    for stage in STAGES:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(in_tmp / "conf"), version_base="1.3"):
            assert compose(stage).paths.data == "/big/disk"


def test_every_group_belongs_to_a_stage():
    texts = "".join((conf_dir() / f"{stage}.yaml").read_text() for stage in STAGES)
    assert all(f"- {group}:" in texts for group in set(groups()))


@pytest.fixture
def places(given, in_tmp, network):
    """What experiments look for below data/ and models/: made-up images, a small base and a random Inception network."""
    for name in ("church_outdoor_train_lmdb", "bedroom_train_lmdb"):
        shutil.copytree(in_tmp / "images", in_tmp / "data" / name)
    for name in ("ddpm_ema_cifar10", "ddpm-ema-church-256", "ddpm-ema-bedroom-256"):
        shutil.copytree(locate("asset:digits_base"), in_tmp / "models" / name)
    shutil.copytree(in_tmp / "images", in_tmp / "data" / "laion_aes" / "preprocessed_212k")
    shutil.copytree(locate("asset:captioned_digits"), in_tmp / "models" / "stable-diffusion-v1-4")
    for name in ("prompts", "mscoco_val2014_30k"):
        (in_tmp / "data" / name).mkdir()
    (in_tmp / "data" / "mscoco_val2014_30k" / "metadata.csv").write_text(
        "file_name,text\n1.jpg,a cat\n"
    )
    (in_tmp / "prompts.tsv").rename(in_tmp / "data" / "prompts" / "PartiPrompts.tsv")
    (in_tmp / "classes.txt").rename(in_tmp / "data" / "prompts" / "imagenet_classes.txt")
    (in_tmp / "models" / OPEN_CLIP.parent).mkdir()
    open_clip_file(in_tmp / "models" / OPEN_CLIP)
    network("inception.safetensors", in_tmp / "models" / "inception.safetensors")
    network("inception.pth", in_tmp / "models" / "pt_inception-2015-12-05-6726825d.pth")


def made_small(group, spec):
    """As an experiment has it, but for the made-up places: few images, a small CLIP."""
    if group == "data" and "held_out_fraction" in spec:
        return {**spec, "held_out_fraction": 0.2}
    if group == "metrics" and spec["scores"]:
        return {**spec, "scores": {name: {**one, **({"architecture": OPEN_CLIP.stem} if "architecture" in one else {})}
                                   for name, one in spec["scores"].items() if one}}  # fmt: skip
    return spec


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_composed_and_built(experiment, places):
    stage = EXPERIMENT_STAGES.get(experiment.rpartition("/")[2], "train")
    config = compose_stage(stage, [f"experiment={experiment}"])
    assert config["stage"] == stage
    assert (conf_dir().parent / "experiments" / config["suite"]).is_dir()
    first = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert first[0] == "# @package _global_"
    assert first[1].startswith("# ")
    for group, build_option in BUILD.items():
        if config.get(group):
            build_option(made_small(group, config[group]))
    if stage == "train":
        model = instantiate(config["model"])
        method = method_of(config["method"])
        rate = instantiate(config["learning_rate"], num_steps=config["num_steps"])
        module = DiffusionModule(
            model, method, partial(config["optimizer"]), rate, partial(config["ema"]), 0, 1
        )
        assert module.weights().keys() == model.state_dict().keys()


def test_a_method_brings_its_own_timesteps_and_balancing_unless_told_otherwise():
    def chosen(*overrides):
        config = compose_stage("train", list(overrides))
        return tuple(
            (config[group] or {}).get("_target_", "none").rpartition(".")[2]
            for group in ("timesteps", "balancing")
        )

    assert chosen() == ("RangeSampler", "none")
    assert chosen("method=deme") == ("ProbabilisticSampler", "none")
    assert chosen("method=ant") == ("StratifiedSampler", "Uncertainty")
    assert chosen("method=ant", "balancing=nash_mtl") == ("StratifiedSampler", "NashMTL")
    assert chosen("method=deme", "timesteps=uniform") == ("RangeSampler", "none")
    assert chosen("experiment=digits/ant", "balancing=pcgrad") == ("StratifiedSampler", "PCGrad")


def test_an_evaluation_can_do_without_a_data_set():
    config = compose_stage("evaluate", ["data=none"])
    assert load_data(config["data"], build(PathsSettings, config["paths"])) is None


def test_an_expert_job_per_range_is_what_the_deme_experiment_sweeps():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["experiment=digits/deme"], return_hydra_config=True)
    assert cfg.hydra.sweeper.params.expert == f"range({cfg.ranges.num_ranges})"


def test_a_run_id_depends_on_what_changes_results_and_on_nothing_else(in_tmp):
    from deme.runs import Run

    def run_id(*overrides):
        return Run.planned(compose_stage("train", list(overrides))).path.name

    base = run_id()
    assert (
        run_id(
            "optimizer.lr=5e-5",
            "paths.runs=elsewhere",
            "logger=wandb",
            "progress.log_every=7",
            "suite=other",
        )
        == base
    )
    assert run_id("method=deme", "expert=0") != base
    assert run_id("batch_size=64") != base
    assert run_id("compute.threads=2") != base
    assert run_id("seed=1") != base


def test_where_data_lies_and_how_it_is_read_changes_no_run_id(in_tmp):
    from deme.runs import Run

    def run_id(*overrides):
        return Run.planned(compose_stage("train", ["data=cifar10", *overrides])).path.name

    assert run_id("data.root=elsewhere", "data.download=true") == run_id()
    assert run_id("data.held_out=0.1") != run_id()
    (in_tmp / "images").mkdir()
    folder = ["data=image_folder", "data.path=images"]
    assert run_id(*folder, "data.in_memory=false") == run_id(*folder)
    assert run_id(*folder, "data.resize=box") != run_id(*folder)


def test_a_run_is_itself_from_another_directory(in_tmp, monkeypatch):
    import shutil

    from deme.runs import Run
    from deme.system.paths import locate

    shutil.copytree(locate("asset:digits_base"), in_tmp / "model")

    def planned(path):
        overrides = ["model=diffusers", f"model.path={path}", f"paths.runs={in_tmp}/runs"]
        return Run.planned(compose_stage("train", overrides))

    first = planned("model")
    assert first.execute(lambda run: None) == first.path
    (in_tmp / "elsewhere").mkdir()
    monkeypatch.chdir(in_tmp / "elsewhere")
    again = planned("../model")
    assert again.path == first.path
    assert again.done


def test_a_run_id_follows_the_bytes_of_a_data_folder(in_tmp):
    from deme.runs import Run

    def run_id(path):
        words = ["data=image_folder", f"data.path={path}", "data.size=8", "data.channels=1"]
        return Run.planned(compose_stage("train", words)).path.name

    for name, grey in (("one", 10), ("two", 20), ("three", 10)):
        (in_tmp / name).mkdir()
        Image.new("L", (8, 8), grey).save(in_tmp / name / "0.bmp")  # the same name and size
    assert run_id("one") == run_id("three") != run_id("two")
    Image.new("L", (8, 8), 30).save(in_tmp / "one" / "0.bmp")
    assert run_id("one") not in (run_id("two"), run_id("three"))


def test_a_run_id_follows_the_content_of_its_inputs_not_their_place(in_tmp):
    import shutil

    from deme.runs import Run
    from deme.system.paths import locate

    def run_id(path):
        return Run.planned(
            compose_stage("train", ["model=diffusers", f"model.path={path}"])
        ).path.name

    for name in ("one", "two"):
        shutil.copytree(locate("asset:digits_base"), in_tmp / name)
    assert run_id("one") == run_id("two") == run_id("asset:digits_base")
    (in_tmp / "two" / "deme.json").write_text("{}")
    assert run_id("one") != run_id("two")
