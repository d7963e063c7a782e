"""Tables of many columns of a crystal, in as many digits as mean something."""

import numpy as np
import polars as pl

#: Of the 52 of a float64's fraction: values good to a part in 10^8, on half of the disk.
KEPT_BITS = 26


def rounded(frame: pl.DataFrame) -> pl.DataFrame:
    """A table whose numbers keep `KEPT_BITS` of their fractions; what is empty, infinite or no number stays so."""
    half, kept = np.int64(1 << (51 - KEPT_BITS)), np.int64(-1 << (52 - KEPT_BITS))
    for name in (name for name, dtype in frame.schema.items() if dtype == pl.Float64):
        bits = frame[name].fill_null(0.0).to_numpy().view(np.int64)
        values = pl.Series(name, ((bits + half) & kept).view(np.float64))
        frame = frame.with_columns(pl.when(pl.col(name).is_not_null()).then(values).alias(name))
    return frame
