"""pandas: groups, joins, rolling windows, dates, texts."""

import hashlib

import numpy as np
import pandas as pd

rng = np.random.default_rng(3)
for turn in range(6):
    frame = pd.DataFrame(
        {
            "key": rng.integers(0, 50, 4000),
            "when": pd.date_range("2020-01-01", periods=4000, freq="h"),
            "value": rng.random(4000),
            "text": [f"t{i % 13}" for i in range(4000)],
        }
    )
    grouped = frame.groupby(["key", "text"]).agg({"value": ["mean", "std", "count"]})
    print(turn, hashlib.sha256(grouped.to_csv().encode()).hexdigest()[:16], flush=True)
    joined = frame.merge(frame.groupby("key").value.sum().rename("total"), on="key")
    print(joined.sort_values(["total", "when"]).tail(2).to_string())
    monthly = frame.set_index("when").value.resample("MS").mean()
    print(monthly.rolling(2).sum().round(9).to_dict())
    print(frame.pivot_table(index="key", columns="text", values="value").iloc[:2, :3].to_csv())
    print(frame.text.str.replace("t", "x").value_counts().sort_index().to_dict())
