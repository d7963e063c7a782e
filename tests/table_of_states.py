"""Print a table of every file of a run: its state, crystal, defects and reason; such as of the real files.

snakemake --snakefile Snakefile --directory WORK --cores 2 --config archive=$PWD/../shared/real
python tests/table_of_states.py WORK
"""

import sys
from pathlib import Path

import polars as pl

from oddlattice.storage.products import INVENTORY, read_tsv


def lines(work: Path) -> list[str]:
    """A row for each file of the inventory in Markdown; of several images what they have in common, and how many."""
    images = pl.read_parquet(work / "results/4_defects/images.parquet")
    made = [
        "| file | state | images analysed | crystal or model | defects of columns | reason |",
        "|---|---|---|---|---|---|",
    ]
    for file in read_tsv(work / "results/0_archive/inventory.tsv", INVENTORY).iter_rows(named=True):
        of_file = images.filter(pl.col("file_id") == file["file_id"])
        good = of_file.filter(pl.col("state") == "analysed")
        states = ", ".join(sorted(set(of_file["state"]))) or file["state"]
        crystals = ", ".join(sorted({str(c or m or "") for c, m in good.select("crystal", "model").iter_rows()}))
        counts = f"{good['defects'].sum()} of {good['columns_tested'].sum()}" if good.height else ""
        reasons = sorted({reason for reason in of_file["reason"] if reason}) or [file["reason"]]
        reason = " ".join(reasons).replace("|", "/")[:160]
        made.append(
            f"| {file['path']} | {states} | {good.height} of {of_file.height} | {crystals} | {counts} | {reason} |"
        )
    return made


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1]))))
