"""`endofm bench`: what a pretraining step and its data cost on this machine."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from endofm.bench.plan import BenchConfig
from endofm.bench.report import tell
from endofm.bench.run import measure
from endofm.cli.talk import say


@dataclass(frozen=True)
class Bench:
    """Time a pretraining step and its data here, beside a plain reference, and say what limits."""

    config: OmitArgPrefixes[BenchConfig] = BenchConfig()
    json: Path | None = None
    """Also write all figures to this file."""
    markdown: Path | None = None
    """Also write the report to this file."""

    def run(self) -> None:
        """Measure and print; minutes for ViT-B/16 on a CPU."""
        result = measure(self.config, say)
        report = tell(result)
        if self.json is not None:
            text = json.dumps(result.as_tree(), indent=2, default=str)
            self.json.write_text(text + "\n", encoding="utf-8")
        if self.markdown is not None:
            self.markdown.write_text(report, encoding="utf-8")
        say("\n" + report)
