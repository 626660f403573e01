"""Draw the two pictures of docs/statistics.md: a score that any data would get, and seven entries that make a curve.

python scripts/statistics_pictures.py
"""

from pathlib import Path
from typing import cast

import altair as alt
import torch
import vl_convert

import medlens
from medlens.measures.held_out import held_out_linearity

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
N, D = 687, 1024  # the study's text: 2,747 rows of 4,096 columns, four times as large each way
ROWS = (64, 96, 128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
WIDE = 256


def published_linearity(x: torch.Tensor, y: torch.Tensor) -> float:
    """As in the published study: centred, Frobenius norm 1, float32 least squares by the SVD's pseudo-inverse, in sample."""
    x, y = (z - z.mean(0) for z in (x, y))
    x, y = x / x.norm(), y / y.norm()
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    return float(1 - (x @ (vt.T @ ((u.T @ y) / s[:, None])) - y).square().sum())


def unrelated() -> alt.LayerChart:
    """Scores of unrelated Gaussians over the number of rows, for 256 columns."""
    records = []
    for n in ROWS:
        x, y, fold = torch.randn(n, WIDE), torch.randn(n, WIDE), torch.arange(n) % 5
        for name, score in (
            ("in sample, the study's code", published_linearity(x, y)),
            ("in sample, medlens", medlens.linearity(x, y)),
            ("held out, medlens", held_out_linearity(x, y, fold)),
        ):
            print(f"n = {n}: {name}: {score!r}")
            if score == score and score > -1.2:
                records.append({"rows": n, "score": float(score), "what": name})
    names = ["in sample, the study's code", "in sample, medlens", "held out, medlens"]
    x = alt.X("rows:Q", title=f"rows of unrelated noise, {WIDE} columns", scale=alt.Scale(type="log", base=2))
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=["#D55E00", "#0072B2", "#009E73"]), legend=LEGEND)
    chart = alt.Chart(alt.InlineData(values=records)).encode(x=x, y=alt.Y("score:Q", title="linearity"), color=colour)
    dash = alt.StrokeDash("what:N", legend=None, scale=alt.Scale(domain=names, range=[[6, 4], [1, 0], [1, 0]]))
    return cast(
        "alt.LayerChart",
        alt.layer(chart.mark_line(strokeWidth=2).encode(strokeDash=dash), chart.mark_point(filled=True, size=40, opacity=1)),
    )


def massive() -> alt.LayerChart:
    """Anisotropy of 4,096 isotropic rows over the size of one entry in seven of them."""
    clean, records = torch.randn(4096, 1024), []
    for size in (0, 50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 1000):
        x = clean.clone()
        x[::600, 7] += size
        records.append({"size": size, "score": float(medlens.anisotropy(x)), "what": "all 4,096 rows"})
        without = x[x[:, 7].abs() < 40] if size else x
        records.append({"size": size, "score": float(medlens.anisotropy(without)), "what": "without the seven"})
        print(size, records[-2]["score"], records[-1]["score"])
    colour = alt.Color("what:N", title=None, scale=alt.Scale(range=["#D55E00", "#0072B2"]), legend=LEGEND)
    x = alt.X("size:Q", title="added to one entry of 7 of 4,096 rows")
    chart = alt.Chart(alt.InlineData(values=records)).encode(x=x, y=alt.Y("score:Q", title="anisotropy"), color=colour)
    return cast("alt.LayerChart", alt.layer(chart.mark_line(strokeWidth=2), chart.mark_point(filled=True, size=40, opacity=1)))


def save(chart: alt.LayerChart, name: str) -> None:
    styled = chart.properties(width=520, height=260).configure_axis(labelFontSize=13, titleFontSize=13, titleFontWeight="normal")
    styled = styled.configure_view(stroke=None).configure(background="white").configure_legend(labelFontSize=13, labelLimit=300)
    (PICTURES / name).write_bytes(vl_convert.vegalite_to_png(styled.to_json(), scale=2))


LEGEND = alt.Legend(orient="top")
torch.set_num_threads(1)
torch.manual_seed(0)
x, y = torch.randn(N, D), torch.randn(N, D)
print(f"{N} x {D}: the study's code {published_linearity(x, y):.6f}; medlens {medlens.linearity(x, y)!r}")
save(unrelated(), "unrelated.png")
save(massive(), "massive.png")
