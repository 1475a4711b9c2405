"""`python -m explorer …`: puts the commands together with the page of figures that one of them writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explorer.cli import main


def write_report(results: Mapping[str, Any], path: Path, summary: Mapping[str, Any]) -> None:
    """Figures of a survey as one page; plotly is loaded here and nowhere else."""
    from viz.report import write_survey_report

    write_survey_report(results, path, summary)


if __name__ == "__main__":
    sys.exit(main(write_report=write_report))
