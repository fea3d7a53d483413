"""Settings of commands and option groups: dataclasses that check a configuration once."""

from deme.runs.settings.base import (
    STRICT,
    Config,
    Count,
    Name,
    Option,
    Switch,
    build,
    explanation,
)
from deme.runs.settings.commands import (
    RUNS,
    SETTINGS,
    AnalyzeSettings,
    DoctorSettings,
    PublishSettings,
    ReproduceSettings,
    SampleSettings,
    StatsSettings,
    TrainSettings,
    VerifySettings,
    run_settings,
)
from deme.runs.settings.evaluating import EvaluateSettings
from deme.runs.settings.exporting import ExportSettings
from deme.runs.settings.groups import (
    BACKWARD,
    CELL_LETTERS,
    BatchSettings,
    ComputeSettings,
    FromModelSettings,
    LossMetricSettings,
    LossPlaneSettings,
    MetricsSettings,
    PathsSettings,
    RunSettings,
)
from deme.runs.settings.improving import (
    IMPROVE_JUDGE_SEED,
    IMPROVE_SEARCH_SEED,
    ImproveSettings,
)
from deme.runs.settings.marks import ChangesNoResult, LeftOutAt
from deme.runs.settings.merging import (
    AverageSettings,
    MergeSettings,
    SearchSettings,
)
from deme.runs.settings.needed_files import (
    HASHED_PATH_KEYS,
    NeededFile,
    missing_official,
    needed_files,
)
from deme.runs.settings.placed import placed
from deme.runs.settings.sources import SourceSettings
from deme.runs.settings.suite import (
    DashboardOptions,
    PairedSpread,
    PrepareOptions,
    PublishedNumbers,
    SuiteOptions,
    SuiteSettings,
    row_and_base,
    row_at_base,
)
from deme.runs.settings.suite_rows import CHAIN, RowSettings, StartSettings

__all__ = [
    "BACKWARD",
    "CELL_LETTERS",
    "CHAIN",
    "HASHED_PATH_KEYS",
    "IMPROVE_JUDGE_SEED",
    "IMPROVE_SEARCH_SEED",
    "RUNS",
    "SETTINGS",
    "STRICT",
    "AnalyzeSettings",
    "AverageSettings",
    "BatchSettings",
    "ChangesNoResult",
    "ComputeSettings",
    "Config",
    "Count",
    "DashboardOptions",
    "DoctorSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FromModelSettings",
    "ImproveSettings",
    "LeftOutAt",
    "LossMetricSettings",
    "LossPlaneSettings",
    "MergeSettings",
    "MetricsSettings",
    "Name",
    "NeededFile",
    "Option",
    "PairedSpread",
    "PathsSettings",
    "PrepareOptions",
    "PublishSettings",
    "PublishedNumbers",
    "ReproduceSettings",
    "RowSettings",
    "RunSettings",
    "SampleSettings",
    "SearchSettings",
    "SourceSettings",
    "StartSettings",
    "StatsSettings",
    "SuiteOptions",
    "SuiteSettings",
    "Switch",
    "TrainSettings",
    "VerifySettings",
    "build",
    "explanation",
    "missing_official",
    "needed_files",
    "placed",
    "row_and_base",
    "row_at_base",
    "run_settings",
]
