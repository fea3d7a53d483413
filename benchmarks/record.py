"""Where a benchmark's numbers go."""

import json
from pathlib import Path
from typing import Any


def record(name: str, result: dict[str, Any], of: str | None = None) -> None:
    """Print a result and write it to results/<name>.json.

    With `of` (a model), only that entry of the file is replaced.
    """
    print(json.dumps(result, indent=1), flush=True)
    place = Path(__file__).parent / "results" / f"{name}.json"
    place.parent.mkdir(exist_ok=True)
    if of is not None:
        result = {**(json.loads(place.read_text()) if place.exists() else {}), of: result}
    place.write_text(json.dumps(result, indent=2) + "\n")
