"""A part of an application: it analyses a CSV file in a session of the pool that the environment names."""

from __future__ import annotations

import greenroom

CODE = """
import pandas as pd

table = pd.read_csv("/mnt/data/sales.csv")
table.groupby("region").amount.sum().to_dict()
"""


def totals(pool: greenroom.SessionPool, csv: bytes) -> str:
    """Return the sum of each region.

    Raises:
        ValueError: the CSV does not have the expected columns.
    """
    with pool.session() as session:
        session.upload(csv, "sales.csv")
        execution = session.execute(CODE, timeout=30)
    if execution.error is not None:
        raise ValueError(f"The table was not understood: {execution.error.value}")
    return execution.result or ""
