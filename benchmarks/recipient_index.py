"""``python -m benchmarks.recipient_index``: what the index for the list of a recipient costs.

Alternates between the service and the same service without the index.
"""

import sys
from contextlib import ExitStack

from sqlalchemy import MetaData, create_engine

from benchmarks.conditions import describe_conditions
from benchmarks.report import Line, Results, figures_table, ratios_table
from benchmarks.revisions import PRESENT, Revision
from benchmarks.service import serving
from benchmarks.settings import Settings, make_parser, prepare
from benchmarks.wrk import BATCH, Load

SEND = Load("send", 64)
SEND_BATCH = Load("batch", 4)
LINES = {
    Line("send", SEND): SEND,
    Line(f"packages, in batches of {BATCH}", SEND_BATCH, BATCH): SEND_BATCH,
}


class WithoutIndex(Revision):
    """This revision, with tables that lack the index."""

    def create_tables(self, database_url: str) -> None:
        """Create the tables, and drop the index."""
        super().create_tables(database_url)
        engine = create_engine(database_url)
        metadata = MetaData()
        metadata.reflect(engine)
        indexes = metadata.tables["packages"].indexes
        (of_recipients,) = [index for index in indexes if "recipient_id" in index.columns]
        of_recipients.drop(engine)
        engine.dispose()


def main() -> None:
    """Measure, and print the tables."""
    settings = make_parser("Measure what the index of recipients costs.").parse_args(
        namespace=Settings()
    )
    prepare(settings)
    conditions = describe_conditions(settings)
    results, others = Results(), Results()
    without = WithoutIndex("without the index", PRESENT.root, PRESENT.python)
    with ExitStack() as stack:
        measured = [
            (stack.enter_context(serving(settings, revision)), to)
            for revision, to in ((PRESENT, results), (without, others))
        ]
        for number in range(settings.rounds):
            print(f"Round {number + 1} of {settings.rounds}", file=sys.stderr)
            for line, load in LINES.items():
                for service, to in measured[:: -1 if number % 2 else 1]:
                    to.add(line, service.run(load, settings.seconds))
    print(conditions)
    print()
    print(figures_table(results, LINES))
    print("With the index / without it:\n")
    print(ratios_table(results, others, LINES))


if __name__ == "__main__":
    main()
