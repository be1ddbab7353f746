"""A comparison as one HTML page: no other file, no script, nothing fetched; it reads on a phone and on paper.

    result = probseq.compare(models, y)
    result.report("report.html")

The page answers, in this order: who is best and can that be chance; the table; what was forecast; are the probabilities
calibrated; when was the score won or lost; what does each model believe; how was all of it made.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probseq._version import __version__
from probseq.evaluation import report_figures as figures
from probseq.evaluation.report_figures import Picture
from probseq.evaluation.significance import diebold_mariano, model_confidence_set
from probseq.evaluation.text_table import number

if TYPE_CHECKING:
    from probseq.evaluation.comparison import Comparison

STYLE = """
:root { --ink: #1f2328; --soft: #5b636d; --line: #d9dde2; --best: #e8f1fa; --link: #0058a3; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.2rem 1rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 70ch; }
.soft, figcaption, .note { color: var(--soft); }
.note { font-size: .9rem; }
.verdict { background: var(--best); border-left: 4px solid #0072B2; padding: .7rem 1rem; margin: 1rem 0;
  font-size: 1.05rem; max-width: none; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .95rem; }
a { color: var(--link); }
.scroll { overflow-x: auto; margin: .6rem 0; -webkit-overflow-scrolling: touch; }
table { border-collapse: separate; border-spacing: 0; font-size: .92rem; font-variant-numeric: tabular-nums;
  min-width: 100%; }
summary { cursor: pointer; color: var(--link); margin: .6rem 0; }
th, td { padding: .34rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.best td, tr.best th { background: var(--best); }
tr.group td, tr.group th { border-top: 2px solid var(--line); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
figure { margin: 0; }
figcaption { font-size: .95rem; font-weight: 600; color: var(--ink); margin-bottom: .15rem; }
img { width: 100%; height: auto; display: block; }
.one { max-width: 760px; }
ul { padding-left: 1.2rem; margin: .4rem 0; }
@media (max-width: 480px) { body { padding: .8rem .7rem 3rem; } h1 { font-size: 1.35rem; } }
@media print { h2 { break-after: avoid; } figure { break-inside: avoid; } nav { display: none; } }
"""


def write_report(comparison: Comparison, path: str | Path, *, title: str | None = None) -> None:
    """Write the page to a file."""
    Path(path).write_text(html_report(comparison, title=title), encoding="utf-8")


def html_report(comparison: Comparison, *, title: str | None = None) -> str:
    """The page as one string of HTML."""
    names = comparison.data.names
    heading = f"Comparison on {names[0] if names else 'y'}" if title is None else title
    sections = [
        ("table", "Scores", _tables(comparison)),
        ("forecasts", "Forecasts", _forecasts(comparison)),
        ("calibration", "Calibration", _calibration(comparison)),
        ("difference", "Score difference over time", _difference(comparison)),
        ("beliefs", "Beliefs side by side", _beliefs(comparison)),
        ("made", "How this was made", _made(comparison)),
    ]
    links = "".join(f'<a href="#{key}">{_text(name)}</a>' for key, name, _ in sections)
    body = "\n".join(
        f'<section id="{key}">\n<h2>{_text(name)}</h2>\n{content}\n</section>' for key, name, content in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(heading)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{_text(heading)}</h1>
<p class="soft">{_text(comparison.title)}</p>
<p class="verdict">{_text(verdict(comparison))}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def verdict(comparison: Comparison) -> str:
    """Who is best and whether that can be chance, in two sentences per kind of likelihood."""
    said: list[str] = []
    groups = list(comparison.table.groupby("likelihood", sort=False))
    for kind, rows in groups:
        best = str(rows.index[0])
        among = f" among the {kind} likelihoods" if len(groups) > 1 else ""
        said.append(f"{best} scores best{among}: {rows['log_score'].iloc[0]:.3f} nats per test step.")
        if len(rows) > 1:
            said.append(_against_second(comparison, best, str(rows.index[1])))
    return " ".join(said)


def _against_second(comparison: Comparison, best: str, second: str) -> str:
    a, b = (comparison.score_rows(name) for name in (best, second))
    gap = (
        float(np.nanmean(a - b)) if np.isfinite(a[~np.isnan(a)]).all() and np.isfinite(b[~np.isnan(b)]).all() else None
    )
    if gap is None:
        return f"{second} called something impossible that happened."
    test = diebold_mariano(a, b)
    if test.n < 8 or np.isnan(test.p_value):
        return f"{second} is {gap:.3f} behind; {test.n} steps are too few for a test."
    clear = "hardly chance" if test.p_value < 0.05 else "which may be chance"
    return f"{second} is {gap:.3f} behind (standard error {test.standard_error:.3f}, p = {test.p_value:.2g}), {clear}."


# ------------------------------------------------------------------------------------------------- sections


def _tables(comparison: Comparison) -> str:
    rows = comparison.to_rows()
    members = _sets(comparison)
    head = [*rows[0][:5], "90 % set", *rows[0][5:]]
    body: list[str] = []
    fresh = True
    for row in rows[1:]:
        if not row:
            fresh = True
            continue
        kind = "best" if row[3] == "best" else ""
        kind += " group" if fresh and body else ""
        body.append(_row([*row[:5], members.get(row[0], "-"), *row[5:]], kind.strip()))
        fresh = False
    caption = "One row per model, the best first; log scores in nats per observed test step, higher is better."
    notes = "".join(f"<li>{_text(line)}</li>" for line in comparison.legend())
    notes += "<li>90 % set: yes where the model cannot be told from the best (model confidence set)</li>"
    return f'{_table(caption, head, body)}<ul class="note">{notes}</ul>{_horizons(comparison)}{_sequences(comparison)}'


def _sets(comparison: Comparison) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, rows in comparison.table.groupby("likelihood", sort=False):
        scores = {str(name): comparison.score_rows(str(name)) for name in rows.index}
        finite = {name: row for name, row in scores.items() if np.isfinite(row[~np.isnan(row)]).all()}
        found |= dict.fromkeys(scores, "no")
        if finite and min(int((~np.isnan(row)).sum()) for row in finite.values()) >= 8:
            kept = model_confidence_set(finite, seed=comparison.seed).members
            found |= dict.fromkeys(kept, "yes")
    return found


def _horizons(comparison: Comparison) -> str:
    """CRPS and its error, coverage and targets by horizon, where there is a CRPS."""
    frame = comparison.forecast_scores
    frame = frame[frame["crps"].notna()]
    if not len(frame):
        return ""
    body = [
        _row([str(name), str(h), number(r["crps"], "#.4g"), number(r["crps_se"], "(.2g)"),
              number(r["coverage"], ".0%"), str(int(r["n_targets"]))])
        for (name, h), r in frame.iterrows()
    ]  # fmt: skip
    caption = f"Forecasts from rolling origins; cover is the share inside the central {comparison.level:.0%} interval."
    table = _table(caption, ["", "steps ahead", "CRPS", "(se)", "cover", "targets"], body)
    return f"<details><summary>Forecasts by number of steps ahead</summary>{table}</details>"


def _sequences(comparison: Comparison) -> str:
    frame = comparison.per_sequence()
    if len(frame) < 2:
        return ""
    shown = frame.head(30)
    body = [_row([f"sequence {key}", *(number(value, ".3f") for value in row)]) for key, row in shown.iterrows()]
    more = "" if len(frame) <= 30 else f", the first 30 of {len(frame)}"
    return _table(f"Mean log score of every sequence{more}.", ["", *map(str, frame.columns)], body)


def _forecasts(comparison: Comparison) -> str:
    origin = "the end of the training part" if int(comparison.train_lengths[0]) else "half of the sequence"
    which = "" if comparison.train_lengths.numel() == 1 else " of the first sequence"
    words = f"Made at {origin}{which}, with everything up to there known. Dots are the data."
    return f"<p>{_text(words)}</p>{_grid(figures.forecasts(comparison))}"


def _calibration(comparison: Comparison) -> str:
    pictures = figures.pit_histograms(comparison)
    if not pictures:
        return "<p>These predictions have no distribution function in closed form, so no transforms.</p>"
    words = (
        "What happened, as the probability that each model gave to something at most as large, one step ahead. If the "
        "probabilities are right the bars are level: nine of ten end inside the grey band. A U means intervals that "
        "are too narrow, a hump too wide, a slope a bias."
    )
    return f"<p>{_text(words)}</p>{_grid(pictures)}{_calibration_table(comparison)}"


def _calibration_table(comparison: Comparison) -> str:
    body: list[str] = []
    for name, row in comparison.calibration().iterrows():
        values = [number(row[key], ".0%") for key in ("inside_50", "inside_90")]
        values += [
            number(row[key], ".2g") for key in ("uniform_p", "berkowitz_p", "coverage_90_p", "independence_90_p")
        ]
        body.append(_row([str(name), *values]))
    head = ["", "in 50 %", "in 90 %", "p uniform", "p Berkowitz", "p cover 90 %", "p independent"]
    return _table("Calibration tests: small p-values speak against the model.", head, body)


def _difference(comparison: Comparison) -> str:
    shown = figures.differences(comparison)
    words = "The sum of log-score differences to the best model so far. Where a line falls, that model lost."
    return f'<p>{words}</p><div class="one">{_figure(shown, caption=False)}</div>'


def _beliefs(comparison: Comparison) -> str:
    words = (
        "What each model knows before every step: a band for a Gaussian belief, probabilities for a chain, "
        "activities for a network. All are functions of the same data."
    )
    return f"<p>{_text(words)}</p>{_grid(figures.beliefs(comparison))}"


def _made(comparison: Comparison) -> str:
    import platform

    import torch

    facts = [
        comparison.title,
        f"seed {comparison.seed}, horizons {', '.join(map(str, comparison.horizons))}",
        f"probseq {__version__}, torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}",
        "p-values of score differences: Diebold and Mariano's test with cosine transforms (Lazarus et al. 2018)",
    ]
    facts += [f"{name}: {text}" for name, messages in comparison.warnings.items() for text in messages]
    return '<ul class="note">' + "".join(f"<li>{_text(fact)}</li>" for fact in facts) + "</ul>"


# ------------------------------------------------------------------------------------------------- pieces of HTML


def _text(value: Any) -> str:
    return html.escape(str(value))


def _row(cells: list[str], kind: str = "") -> str:
    first, *rest = cells
    mark = f' class="{kind}"' if kind else ""
    return (
        f'<tr{mark}><th scope="row">{_text(first)}</th>' + "".join(f"<td>{_text(cell)}</td>" for cell in rest) + "</tr>"
    )


def _table(caption: str, head: list[str], body: list[str]) -> str:
    first, *rest = head
    cells = f'<th scope="col">{_text(first) or "<span>model</span>"}</th>'
    cells += "".join(f'<th scope="col">{_text(cell)}</th>' for cell in rest)
    label = html.escape(caption, quote=True)
    table = f'<table aria-label="{label}"><thead><tr>{cells}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<p class="note">{_text(caption)}</p><div class="scroll" tabindex="0">{table}</div>'


def _grid(pictures: list[Picture]) -> str:
    return '<div class="grid">' + "".join(_figure(one) for one in pictures) + "</div>"


def _figure(shown: Picture, *, caption: bool = True) -> str:
    said = f"<figcaption>{_text(shown.title)}</figcaption>" if caption else ""
    source = f"data:image/png;base64,{shown.data}"
    return (
        f'<figure>{said}<img src="{source}" width="{shown.width}" height="{shown.height}" '
        f'alt="{html.escape(shown.alt, quote=True)}"></figure>'
    )
