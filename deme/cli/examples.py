"""Example commands of the help pages, each with a short explanation; a test composes every one."""

Example = tuple[str, str]  # a command, and what it does

EXAMPLES: dict[str, list[Example]] = {
    "train": [
        ("deme train experiment=digits/finetune seed=1", "one finetuning of the shipped digits"),
        ("deme train -m experiment=digits/deme", "four experts, one job each"),
        (
            "deme train -m experiment=digits/finetune optimizer.lr=1e-4,5e-4 seed=0,1 suite=sweep",
            "a sweep of four jobs",
        ),
        ("deme train model=my_model/ data=my_images/ num_steps=2000", "your own model"),
        ("deme train experiment=digits/finetune debug=default", "a test of a few steps"),
    ],
    "merge": [
        ("deme merge experiment=digits/merge", "the experts of digits/deme"),
        (
            "deme merge model=base/ 'inputs.experts=[one/,two/]' merge=ties merge.density=0.3",
            "two models",
        ),
        ("deme merge model=base/ 'inputs.experts=[one/,two/]' plan=true", "only print its cost"),
    ],
    "search": [
        ("deme search experiment=digits/search search.step=0.5", "a coarser grid"),
        ("deme search 'inputs.experts=[one/,two/]' search=cma_es objective=loss", ""),
        (
            "deme search inputs.snapshots_of=<run> merge=linear search=gradient objective=loss",
            "a mixture of snapshots",
        ),
    ],
    "average": [
        ("deme average inputs.run=<run>", "the mean of a training's snapshots"),
        ("deme average inputs.run=<run> average=power average.ema_length=0.15", "EDM2's average"),
        ("deme average 'inputs.run=[<run>,<run>]' run_weights=raw", "a soup of raw weights"),
    ],
    "improve": [
        ("deme improve model=my_model/ data=my_images/ out=better hours=8", ""),
        (
            "deme improve model=my_model/ data=my_images/ out=better metrics=own",
            "also measure generated images",
        ),
        (
            "deme improve model=my_model/ data=my_images/ out=better ideas=[finetune,merge]",
            "two ideas only",
        ),
    ],
    "evaluate": [
        ("deme evaluate experiment=digits/evaluate", "the shipped base"),
        ("deme evaluate experiment=digits/evaluate inputs.weights=<run> num_images=2000", ""),
        (
            "deme evaluate -m experiment=digits/evaluate inputs.weights=<run> sample_seed=100,101",
            "two sampling seeds",
        ),
        ("deme evaluate experiment=digits/evaluate source=real", "the score of real images"),
    ],
    "sample": [
        ("deme sample 'run={before: my_model, after: better}' out=grid.png", ""),
        ("deme sample run=<run> num_images=16 sampler.num_inference_steps=50", ""),
        ("deme sample run=<run> prompts=captions guidance_scale=3", "from prompts"),
    ],
    "export": [
        ("deme export run=<run> out=better_bf16 dtype=bfloat16", ""),
        (
            "deme export run=<run> out=better license=cc-by-4.0 push=me/better",
            "only list the upload",
        ),
        ("deme export run=<run> out=better push=me/better dry_run=false", "upload it"),
    ],
    "stats": [
        ("deme stats data=my_images/ data.size=32 data.channels=3 metrics=own", ""),
        ("deme stats data=digits metrics=digits out=digits.npz", "as a file"),
        ("deme stats data=my_images/ data.size=32 metrics=inception768", ""),
    ],
    "verify": [
        ("deme verify run=<run>", "64 images picked at random"),
        ("deme verify run=<run> num_images=256 pick_seed=1", ""),
        ("deme verify run=<run> compute=gpu", ""),
    ],
    "analyze": [
        ("deme analyze figure=weightings", ""),
        ("deme analyze figure=task_weights run=<run>", ""),
        ("deme analyze figure=forgetting 'inputs.experts=[<run>,<run>]' plan=true", "its cost"),
    ],
    "doctor": [
        ("deme doctor", "is everything installed?"),
        ("deme doctor model=my_model/ data=my_images/", "do they fit together?"),
        ("deme doctor data=my_images/ data.size=32", "show the images of training"),
    ],
    "new-suite": [
        ("deme new-suite data=my_images/ model=my_model/", "writes suite.yaml"),
        ("deme new-suite data=my_images/ model=<run> out=mine.yaml", "from a run's weights"),
        ("deme new-suite data=cifar10 model=hub:google/ddpm-cifar10-32", "from the Hub"),
    ],
    "prepare": [
        ("deme prepare experiments/cifar10", "list existing and missing files"),
        ("deme prepare experiments/cifar10 fetch=true", "download, check, unpack, convert"),
        ("deme prepare experiments/cifar10 list=true > fetch.sh", "to download elsewhere"),
        ("deme prepare experiments/cifar10 from=carried/", "use the downloaded files"),
    ],
    "plan": [
        ("deme plan experiments/digits jobs=2", ""),
        ("deme plan experiments/cifar10 tflops=100", "hours at 100 TFLOP/s"),
        ("deme plan experiments/digits all=true", "every run"),
    ],
    "reproduce": [
        ("deme reproduce experiments/digits/demo.yaml jobs=2", "some minutes"),
        ("deme reproduce experiments/digits minutes=50", "stop after 50 minutes"),
        ("deme reproduce experiments/digits launcher=slurm jobs=8", "an array of SLURM jobs"),
        ("deme reproduce experiments/digits retry=failed", "try failed runs again"),
        ("deme reproduce experiments/cifar10 paths.data=/data paths.models=/models", ""),
    ],
    "table": [
        ("deme table experiments/digits", ""),
        ("deme table experiments/digits runs=/scratch/runs results=out", ""),
        ("deme table suite.yaml", "a suite of your own"),
    ],
    "report": [
        ("deme report experiments/digits", "writes it next to its table"),
        ("deme report suite.yaml out=page.html", ""),
        ("deme report runs/digits/train/<name>", "of one run"),
    ],
    "publish": [
        ("deme publish experiments/digits logger=wandb", "all runs and the table"),
        ("deme publish <run> logger=tensorboard", "one run"),
        ("deme publish runs/sweep logger=mlflow files=true", "with the weights"),
        ("deme publish runs/sweep logger=csv logger.folder=logs", ""),
    ],
    "dashboard": [
        ("deme dashboard experiments/digits", "without an API key: a JSON file"),
        ("deme dashboard experiments/digits entity=my-team", ""),
        ("deme dashboard suite.yaml project=mine out=dashboard.json", ""),
    ],
    "compare": [
        ("deme compare <run> <run>", ""),
        ("deme compare <run>,<run> <run>,<run>", "two seeds each"),
        ("deme compare runs/digits/evaluate/<name> runs/digits/evaluate/<name>", ""),
    ],
    "ls": [
        ("deme ls", "all runs"),
        ("deme ls digits stage=evaluate sort=fd_digits", "the best first"),
        ("deme ls sweep state=failed,stopped", ""),
        ("deme ls lr=1e-4,5e-4 seed=0 json=true", "for programs"),
    ],
    "show": [
        ("deme show runs/digits/train/<name>", ""),
        ("deme show 4b6f15b5ef", "by its id"),
        ("deme show 4b6f json=true", "for programs"),
    ],
    "clean": [
        ("deme clean", "list what could be deleted"),
        ("deme clean sweep yes=true", "delete it"),
        ("deme clean runs=/scratch/runs", ""),
    ],
    "convert": [
        ("deme convert ema_diffusion_cifar10.ckpt out=models/ddpm_ema_cifar10", ""),
        ("deme convert lsun_church.ckpt out=models/church size=256", ""),
        ("deme convert model.ckpt out=models/mine ema=false", ""),
    ],
}
