"""Write the HTML pages of the benchmarks, and the rows of the untrained benchmark as CSV, into docs/pages.

    make pages

The pages are not committed, because they can be made from the committed records at any time.
"""

from pathlib import Path

import tyro

from benchmarks import DOCS, RESULTS
from benchmarks.records import recorded_runs
from benchmarks.report.protocol import EXPERIMENTS, experiment_records
from benchmarks.report.tables import FORWARD, headline_records
from scionet.bench.records.record_files import make_folder, write_text
from scionet.bench.report.page import write_html
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import to_csv


def main(out: Path = DOCS / "pages") -> None:
    """Write all pages.

    Args:
        out: Folder of the pages, which is made if it does not exist.
    """
    make_folder(out)
    untrained = recorded_runs(RESULTS / "untrained")
    write_text(out / "untrained.csv", to_csv(summarise(untrained)))
    write_html(headline_records(untrained), out / "benchmarks.html", "scionet: accuracy without training", FORWARD)
    for name, headline in EXPERIMENTS.items():
        records = experiment_records(RESULTS, name)
        write_html(records, out / f"bench-{name}.html", f"scionet bench: {name}", headline)
    print("\n".join(str(path) for path in sorted(out.iterdir())))


if __name__ == "__main__":
    tyro.cli(main)
