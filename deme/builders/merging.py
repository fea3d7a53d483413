"""A merge from the `merge` group, with weights that are given or that a search found."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deme.merging.combine import Merge
from deme.merging.methods import MergeMethod
from deme.runs import content_hash, found_weights, partial
from deme.system import BadConfig


def load_merge_method(option: Mapping[str, object]) -> MergeMethod:
    """Return the function that a `merge` option names."""
    return partial({"_target_": option["_target_"]}).func  # type: ignore[attr-defined]


def build_merge(
    option: Mapping[str, object],
    weights_by_name: Mapping[str, object] | None,
    num_experts: int,
    search: Path | None = None,
) -> Merge:
    """Return the merge of a `merge` option, with the weights that `search` found, if it is given.

    Raises BadConfig for settings that the method does not take, and for a search with another
    merge.
    """
    settings, by_name = dict(option), dict(weights_by_name or {})
    if search is not None:
        found = found_weights(search)
        searched = found.get("merge", option)
        if _without_weights(searched) != _without_weights(option):
            raise BadConfig(
                f"{search} searched weights of {_summary(searched)}, "
                f"and this merge is {_summary(option)}\n"
                "type: the merge=... of the search, with its settings"
            )
        settings["weights"] = found["weights"]
        by_name = {**found["weights_by_name"], **by_name}
    del settings["_target_"]
    return Merge(load_merge_method(option), num_experts, by_name=by_name, **settings)


def check_searched_models(search: Path, folders: Sequence[Path]) -> None:
    """Raise BadConfig unless a search was run on these models in this order."""
    searched = found_weights(search).get("models")
    if searched is not None and searched != [content_hash(folder) for folder in folders]:
        raise BadConfig(
            f"{search} searched weights of other models or in another order than "
            f"{', '.join(map(str, folders))}\n"
            "type: the inputs.experts=[...] of the search"
        )


def _without_weights(option: Mapping[str, object]) -> dict[str, object]:
    left_out = ("weights", "sum") if option.get("sum") is None else ("weights",)
    return {key: value for key, value in option.items() if key not in left_out}


def _summary(option: Mapping[str, object]) -> str:
    settings = _without_weights(option)
    name = str(settings.pop("_target_")).rpartition(".")[2]
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
