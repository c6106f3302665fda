"""Half a century of carbon dioxide at Mauna Loa: trend, season, and when the growth speeds up.

An ordinary Python program; nothing in it knows of Sojourn. Run it with nothing but its data granted:

    sojourn run --grant dir:examples/data=/data examples/co2.py /data/mauna-loa-co2.csv
"""

import sys

import numpy as np
import pandas as pd


def main(path: str) -> None:
    weekly = pd.read_csv(path, parse_dates=["date"]).dropna().set_index("date")["co2"]
    print(f"{len(weekly):,} weekly measurements, {weekly.index[0]:%Y-%m-%d} to {weekly.index[-1]:%Y-%m-%d}")

    monthly = weekly.resample("MS").mean().interpolate()
    years = monthly.index.year + (monthly.index.month - 0.5) / 12
    centred = years - years.to_numpy().mean()
    curve = np.polyfit(centred, monthly, 2)
    trend = pd.Series(np.polyval(curve, centred), monthly.index)

    season = (monthly - trend).groupby(monthly.index.month).mean()
    print(
        f"season: highest in month {season.idxmax()}, lowest in month {season.idxmin()}, "
        f"{season.max() - season.min():.1f} ppm between them"
    )

    slope = np.polyval(np.polyder(curve), centred)
    growth = pd.DataFrame({"co2_ppm": monthly, "growth_ppm_a_year": slope}, monthly.index)
    print(growth.groupby(growth.index.year // 10 * 10).mean().round(2).rename_axis("decade").to_string())

    residual = float((monthly - trend - season.reindex(monthly.index.month).to_numpy()).std())
    print(f"trend and season explain the series to within {residual:.2f} ppm")


if __name__ == "__main__":
    main(sys.argv[1])
