"""benchmarks/scan.py, with a stand-in for the scan."""

import json
from pathlib import Path

import scan as benchmark
from figures import TINY, figures_of


def test_figures(capsys, monkeypatch):
    """The share counts restoring and what lies between the cells, and leaves compilation out; a miss shows."""
    entries = [
        {"seconds": 12.0, "seconds_running": 1.0, "seconds_compiling": 10.0, "seconds_restoring": 1.0, "time": 112.0},
        {"seconds": 1.0, "seconds_running": 1.0, "seconds_compiling": 0.0, "seconds_restoring": 0.0, "time": 114.0},
    ]
    compiled = {"restored": True, "compilations": 3}, {"restored": False, "compilations": 0}
    lines = [json.dumps(entry | more) + "\n" for entry, more in zip(entries, compiled, strict=True)]
    jobs = []

    def scan(job):
        jobs.append(job)
        path = Path(job.output_dir) / "ledger" / "shard-0-of-1.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(lines))

    monkeypatch.setattr(benchmark, "scan", scan)
    monkeypatch.setattr(benchmark, "write_checkpoints", lambda job: None)
    (figures,) = figures_of(benchmark.main, [*TINY, "--seeds=2", "--lengths", "256", "512"], capsys)
    assert figures["seconds"] == 14.0
    assert figures["share_in_compiled_steps"] == 2.0 / 4.0
    assert (figures["restored"], figures["compilations"], figures["cells_that_compiled"]) == (1, 3, 1)
    assert not figures["met"]
    (job,) = jobs
    assert (job.lengths, job.seeds, len(job.depths), len(job.memories)) == ((256, 512), (0, 1), 5, 2)
