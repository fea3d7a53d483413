"""Build the site of docs/ in build/site: `make docs`. Broken links and bad formulas are errors."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def mathml(page: str) -> str:
    """Replace the TeX of a page by MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3]).strip(), display=display)

    return FORMULA.sub(formula, page)


def main() -> int:
    """Check the generated pages, build the site, and draw its formulas; return the exit code."""
    for step in (
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
    ):
        if code := subprocess.run(step, cwd=ROOT, check=False).returncode:
            return code
    site = ROOT / "build" / "site"
    for page in site.rglob("*.html"):
        # the site holds the code that its pages link to
        page.write_text(mathml(page.read_text()).replace('href="../../deme/', 'href="../deme/'))
    for file in (ROOT / "deme").rglob("*.py"):
        copy = site / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
