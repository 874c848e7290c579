"""`posttrain data curate`: which rows to train on, and an account of every row that is left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.options import JsonOption, show_example

if TYPE_CHECKING:
    from posttrain.pipeline.curation import Curated

EXAMPLE = show_example(
    "posttrain data curate chats.jsonl --out curated.jsonl --page curated.html",
    "posttrain data curate a.jsonl b.jsonl.gz --out curated.jsonl --against test.jsonl --language en --keep 1000",
)
_EXCERPT = 90


SourceArgument = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Rows: files, folders, Hub ids, lab:<set>.", show_default=False)
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="The rows that are kept, as JSON Lines.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="YAML", help="Every filter with its bounds.")]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option("--against", metavar="EVAL", help="Drop rows that hold items of these rows; again for more."),
]
ColumnOption = Annotated[
    list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Map a column of SOURCE; again for more.")
]
AgainstColumnOption = Annotated[
    list[str] | None, typer.Option("--against-column", metavar="OURS=THEIRS", help="Map a column of EVAL.")
]
LanguageOption = Annotated[
    list[str] | None, typer.Option("--language", metavar="CODE", help="Keep this language; again for more.")
]
NearOption = Annotated[
    float | None, typer.Option("--near", help="Jaccard index from which rows are near duplicates; 0.7 by default.")
]
QualityOption = Annotated[float | None, typer.Option("--min-quality", help="Least quality by rules, 0 to 1.")]
KeepOption = Annotated[
    int | None, typer.Option("--keep", metavar="N", help="Choose so many rows, for quality and diversity.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Weigh answers by a model's nats a token.")]
ScorerOption = Annotated[
    str | None, typer.Option("--scorer", help="Judge answers by a scorer: a name, file.py:name, or a mapping.")
]
LowOption = Annotated[
    float | None, typer.Option("--low", help="Drop a model's or scorer's values below this quantile.")
]
HighOption = Annotated[float | None, typer.Option("--high", help="Drop values above this quantile.")]
BadOption = Annotated[
    float, typer.Option("--max-bad-fraction", min=0, max=1, help="Share of rows that may be unreadable.")
]
ReportOption = Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write the account as JSON.")]
PageOption = Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Write the account as a page.")]


# many parameters: each is an option of the verb
def curate(
    sources: SourceArgument,
    out: OutOption,
    config: ConfigOption = None,
    against: AgainstOption = None,
    split: Annotated[str, typer.Option("--split", help="The split of SOURCE.")] = "train",
    against_split: Annotated[str, typer.Option("--against-split", help="The split of EVAL.")] = "train",
    column: ColumnOption = None,
    against_column: AgainstColumnOption = None,
    language: LanguageOption = None,
    near: NearOption = None,
    min_quality: QualityOption = None,
    keep: KeepOption = None,
    model: ModelOption = None,
    scorer: ScorerOption = None,
    low: LowOption = None,
    high: HighOption = None,
    max_bad_fraction: BadOption = 1.0,
    annotate: Annotated[bool, typer.Option("--annotate", help="Add a column 'curation' to each row.")] = False,
    report: ReportOption = None,
    page: PageOption = None,
    json: JsonOption = False,
) -> None:
    """Keep the rows that are worth training on: no copies, no faults of form, no evaluation items.

    Every filter has defaults, which --config changes; every row that is left out is counted under one reason.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json
    from posttrain.pipeline.contamination import RowsChoice
    from posttrain.pipeline.curation import curate as curate_rows
    from posttrain.pipeline.curation_request import CurationRequest, read_settings
    from posttrain.pipeline.data_check import read_columns

    bounds = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
    flags: dict[str, Any] = {
        "languages": language, "near": near, "min_quality": min_quality, "keep": keep, "band": bounds or None
    }  # fmt: skip
    settings = read_settings(config, {name: value for name, value in flags.items() if value is not None})
    request = CurationRequest(
        RowsChoice(sources, split, read_columns(column or ()), max_bad_fraction),
        settings,
        RowsChoice(against, against_split, read_columns(against_column or ())) if against else None,
        model,
        scorer,
        config,
    )
    accounts = {"--report": report, "--page": page}
    found = curate_rows(request, out, build_progress(json), annotate=annotate, accounts=accounts)
    write_account(found, report, page)
    if json:
        print_json(found.to_json())
    else:
        show_account(found, out)


def write_account(found: Curated, report: Path | None, page: Path | None) -> None:
    """Write the account of a curation where it is asked for."""
    from posttrain.core.durable import write_json
    from posttrain.reports.curation import write_curation_page

    if report is not None:
        write_json(report, found.to_json())
    if page is not None:
        write_curation_page(page, found.to_json(), found.lengths_in, found.lengths_kept)


def show_account(found: Curated, out: Path) -> None:
    """Print the balance, the reasons with their counts, and two rows of each."""
    from posttrain.cli.output import print_lines, print_table

    print_lines(found.describe(), *(f"note: {note}" for note in found.notes))
    table = found.tabulate()
    if table:
        print_table(("dropped", "rows", "of all"), table)
    for reason, _, _ in table:
        for row in found.examples.get(reason, []):
            excerpt = " ".join((row.answer or row.prompt).split())[:_EXCERPT]
            print_lines(f"  {reason}: {row.row_id}: {row.detail}" + (f" | {excerpt}" if excerpt else ""))
    print_lines(f"{found.ledger.rows_trained:,} rows are in {out}")
