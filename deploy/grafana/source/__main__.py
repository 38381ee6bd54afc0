"""``python -m deploy.grafana.source``: write every dashboard as JSON."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.source.fleet import fleet
from deploy.grafana.source.health import health
from deploy.grafana.source.panels import to_json
from deploy.grafana.source.run import run

FOLDER = Path(__file__).parents[1] / "dashboards"


def rendered() -> dict[str, str]:
    """The text of each dashboard by the name of its file."""
    made = {"fleet": fleet(), "run": run(), "health": health()}
    return {f"{name}.json": to_json(dashboard) for name, dashboard in made.items()}


if __name__ == "__main__":
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
